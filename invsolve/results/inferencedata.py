"""Samples for ArviZ: numbers and signals by name, with the dims chain and draw that its diagnostics expect."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from invsolve.errors import UnsupportedError
from invsolve.results.names import axis_names
from invsolve.results.posterior_samples import PosteriorSamples


def to_inferencedata(result: PosteriorSamples) -> Any:
    """See `Result.to_inferencedata`."""
    try:
        import arviz
    except ImportError as error:
        raise UnsupportedError(
            "Result.to_inferencedata: it takes ArviZ, which is not installed: pip install 'invsolve[diagnostics]'."
        ) from error
    if result.log_weights is not None:
        raise UnsupportedError(
            "Result.to_inferencedata: ArviZ knows no weights. Solve without weighted=True, whose samples are draws."
        )
    variables, dims, coords = variables_of(result)
    return arviz.from_dict(posterior=variables, dims=dims, coords=coords, attrs={"strategy": result.strategy})


def variables_of(result: PosteriorSamples) -> tuple[dict[str, Any], dict[str, list[str]], dict[str, Any]]:
    """Arrays ``(chain, draw, [item,] ...)`` by name, the names of what follows chain and draw, coordinates along these.

    Samples that failed for any item are left out.
    """
    good = ~(result.failed.any(1) if result.batched else result.failed)
    batch = [result.batch_dim or "item"] if result.batched else []
    called = dict(zip(batch, axis_names(batch, {"chain", "draw"}), strict=True))
    lead = list(called.values())

    def array(value: Tensor) -> Any:
        return np.asarray(value[good].detach().cpu().resolve_conj().numpy())[None]

    parts = [] if result.layout is None else [part.name for part in result.layout.parts]
    signals = {name: result[name].samples for name in parts} or {"x": result.samples}
    variables = {name: array(value) for name, value in signals.items()}
    dims = {n: [*lead, *(f"{n}_{i}" for i in range(v.ndim - 1 - len(lead)))] for n, v in signals.items()}
    if not parts:
        own = result.dims or [f"axis_{i}" for i in range(len(result.shape))]
        called |= dict(zip(own, axis_names(own, {"chain", "draw", "item", "x", *lead}), strict=True))
        dims["x"] = [*lead, *(called[name] for name in own)]
    for name, value in result.parameters.items():
        variables[name], dims[name] = array(value), list(lead)
    return variables, dims, {called[k]: c.values for k, c in result.coords.items() if c.dims == (k,) and k in called}
