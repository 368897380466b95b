"""What every room uses, and what itself uses nothing but `invsolve.errors`. One subject a file.

At the border, where arguments come in: `validation` (numbers, shapes, dtypes, choices), `arrays` (numpy and xarray to
tensors), `metric_arguments` (samples and truths), `packing` (`Layout`: several unknowns in one vector), `distributions`
(of one scalar: hyperparameters).

In a run: `random` (keyed normal draws: a row is the same alone and in any batch), `conjugate_gradients` (batched, per
row), `resampling` (weights, systematic resampling), `counting` (what a solve costs), `fingerprint` and `checkpoint`
(which run is this, and its state on disk), `files` (written whole or not at all), `figures` (pieces of plots),
`torch_state` (inference mode and autocast of the caller), `derivatives` (of the code of users), `torch_workarounds`.

Two habits hold everywhere. Shapes are ``(rows, *shape)``, and no row's result depends on another row. A check takes
``owner`` and ``name``, the public function that was called and its argument, so that errors say where and what.
"""

__all__: list[str] = []
