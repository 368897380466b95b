"""What `solve` returns: samples of the posterior, an account of how they were obtained, and what to do with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from torch import Tensor

from invsolve.core.public_names import MissingAttribute
from invsolve.core.validation import check_positive
from invsolve.errors import UnsupportedError, invalid, on_interrupt
from invsolve.progress import Progress, as_progress
from invsolve.results.posterior_samples import PosteriorSamples
from invsolve.strategies.base import Strategy

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_WRITTEN = {  # what other packages' results have, and how it is written here
    "keys": "result.parameters",
    "cite": "iv.cite(result)",
    "load": "iv.load_result(path)",
    **dict.fromkeys(("html", "to_html", "report"), "result._repr_html_()"),
}


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result(PosteriorSamples):
    """Samples of a posterior and how they were obtained. ``[batch]`` is absent when the data had no batch axis.

    A row is one sample of one item. Failed rows hold NaN; every statistic leaves them out, item by item. An item
    without any good row has NaN statistics. Statistics use the normalised weights where ``log_weights`` are given.

    Parameters
    ----------
    samples : Tensor, shape (num_samples, [batch,] *shape)
        Real or complex, in the units of the prior.
    status : Status
        What ``failed`` stands for.
    failed : Tensor of bool, shape (num_samples, [batch])
        Rows that became NaN or infinite, or have no weight.
    batched : bool
        Whether the data had a batch axis.
    shape : tuple of int
        Of one signal.
    chi2 : Tensor, shape (num_samples, [batch])
        chi^2 per datum of each sample, about 1 for a right model.
    log_weights : Tensor, shape (num_samples, [batch]), optional
        Up to a constant per item; None: samples of equal weight.
    strategy, why : str
        The strategy that was run, and why it was, in a sentence.
    nfe, vjps : float
        Evaluations and differentiations of the denoiser per sample.
    operator_calls : mapping of str to int
        Calls of the operator by kind, in rows.
    seconds : float
        Wall-clock time.
    seed : int
        What every random number was made from.
    settings, versions : mapping
        Options of the solve, as JSON holds them, and versions of the programs.
    info : mapping of str to Tensor, shape (num_samples, [batch])
        What the strategy says of itself: "log_evidence", "residual", ...
    parameters : mapping of str to Tensor, shape (num_samples, [batch])
        Scalars inferred with the signal ("noise.std", "prior.length"), a value a sample. ``result[name]`` is the
        posterior of one, with ``result[name].mean``, ``.std`` and ``.interval(0.9)`` as for the signal.
    layout : Layout, optional
        The parts of a packed signal; ``result[name]`` is the posterior of one.
    problem, prior, solver, source : optional
        What was solved, what solved it, and the result that it was derived from, for `check`; not saved.
    warnings : tuple of str
        What a reader of the samples must know although every number is finite.
    certificate : Certificate, optional
        Of ``strategy="auto"``, and of `Exact`: what was tested.
    marginals : Marginals, optional
        Mean, std and quantiles of every entry, as far as they are known without the samples: in closed form or of the
        ensemble behind them. The result's statistics are then these (`statistics`).
    parameter_marginals : mapping of str to Marginals
        The same of ``parameters``: of ``result[name]``.
    dims : tuple of str, optional
        Names of the signal's axes; taken from the problem when it has them.
    units : str
        Of the signal; taken from the problem when it has them.
    coords : mapping of str to Coordinate
        Along axes of the signal and of the batch, by name; with those of the problem. For datasets and files.
    batch_dim : str
        The name of the batch axis in datasets; taken from the problem when it has one, else "item".

    Raises
    ------
    InputError, InputTypeError
        If shapes, status or failed rows contradict each other.
    """

    @property
    def strategy_object(self) -> Strategy | None:
        """The strategy itself, of which ``strategy`` is the name; None for a result that was loaded or derived."""
        return None if self.solver is None else self.solver.strategy

    @property
    def latent(self) -> Result:
        """The same result about u, where the prior is one of ``x = f(u)``: the field behind a level set, a logarithm.

        Raises
        ------
        UnsupportedError
            Of another prior, and of a result that was loaded or derived.
        """
        found: Result | None = getattr(self.solver, "found", None)
        if found is None:
            raise UnsupportedError(
                "Result.latent: there is no field behind this signal. It is there where solve was given a prior of a "
                "function of another field (iv.priors.LevelSet, exp, bounded, ...), not in what was loaded or derived."
            )
        return found

    def __repr__(self) -> str:
        number = int(self.failed.sum())
        failed = f", {self.status.name}, failed={number} of {self.failed.numel()}" if number else ""
        failed += f", {self.tempered}" if self.tempered else ""
        name = str(self.samples.dtype).removeprefix("torch.")
        exact = [statistic for statistic in self.exact_statistics if statistic in ("mean", "std")]
        closed = f", exact {' and '.join(exact)}" if exact else ""
        closed = ", mean and std of the ensemble" if self.statistics["mean"] == "ensemble" else closed
        said = f", {len(self.warnings)} in `warnings`" if self.warnings else ""
        return (
            f"Result({self.certified_word}, samples={tuple(self.samples.shape)} {name}{closed}{failed}, "
            f"strategy={' '.join(self.strategy.split())}, nfe={self.nfe:g}, {self.seconds:.3g} s{said})"
        )

    if not TYPE_CHECKING:  # what a class has not is not there for type checkers

        def __getattr__(self, name: str) -> Any:
            """Only asked for what is not there: what may be meant, in the error."""
            if not name.startswith("_") and hasattr(type(self), name):
                return object.__getattribute__(self, name)  # one that is there and failed: its own error
            layout, scalars = vars(self).get("layout"), vars(self).get("parameters", {})
            known = [*scalars, *(layout.names if layout is not None else ())]
            full = next((key for key in known if name in (key, key.rpartition(".")[2])), None)
            raise MissingAttribute(type(self), name, _WRITTEN.get(name, "") if full is None else f"result[{full!r}]")

    def __str__(self) -> str:
        """The one line of the ``repr``; unless it is certified why, and what certified ones warn of."""
        if self.certified_word != "certified":
            return f"{self!r}\n  {self.certified}"
        return "\n  warning: ".join((repr(self), *self.warnings))

    def summary(self) -> str:
        """What was assumed and what it cost, in several lines of text."""
        from invsolve.results.summary import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from invsolve.results.summary import html

        return html(self)

    def plot(self, *, item: int = 0, truth: Tensor | None = None, axes: Any = None, part: str = "magnitude") -> Figure:
        """A matplotlib Figure of one item; the arguments are those of `iv.plotting.plot_result`.

        Mean, std and samples of a signal; of a few parameters histograms, pairs as in a corner plot, and intervals. A
        notebook shows it; ``figure.savefig("result.png")`` writes it.
        """
        from invsolve.plotting import plot_result

        return plot_result(self, item=item, truth=truth, axes=axes, part=part)

    def to_xarray(self) -> xarray.Dataset:
        """Samples, statistics and account as an xarray.Dataset with dims 'sample', 'item' and the signal's.

        Names and coordinates are those of the data, if they were a DataArray, or of the `iv.Problem`: the batch axis
        has its name in place of 'item'. The entries of a signal with named parts are along 'parameter':
        ``dataset["mean"].sel(parameter="rate")``. For pandas ``dataset["samples"].to_dataframe()``, for numpy
        ``result.samples.numpy()``.

        ``mean`` and ``std`` are those of the result: of what `statistics` says (an attribute "statistics" of the
        variables, too), which ``dataset.samples.mean("sample")`` need not be.

        Returns
        -------
        xarray.Dataset
            Variables ``samples``, ``mean``, ``std``, ``chi2``, ``failed``, ``log_weights`` if any, ``info_*``, and
            ``parameter_*`` for the scalars inferred with the signal. ``attrs['settings']`` is the settings as JSON,
            ``attrs['run']`` the account of the run. Half precision becomes float32; complex stays complex. Copies: the
            result does not change with it.
        """
        from invsolve.results.writing import to_xarray

        return to_xarray(self).copy(deep=True)

    def to_inferencedata(self) -> Any:
        """The samples as an ``arviz.InferenceData``; ArviZ comes with ``invsolve[diagnostics]``.

        The group "posterior" has the named parts of the signal (or "x", its axes by name) and the inferred scalars,
        with dims "chain" and "draw": one chain, because samples are draws that do not follow from each other, whatever
        made them. What is said of convergence is in `info` and `certificate`, not in R-hat of this chain.

        Raises
        ------
        UnsupportedError
            Without ArviZ, or for samples with weights.
        """
        from invsolve.results.inferencedata import to_inferencedata

        return to_inferencedata(self)

    def save(self, path: str | os.PathLike[str], *, statistic: Literal["mean", "std", "samples"] | None = None) -> Path:
        """Write a NetCDF file, which `iv.load_result` reads back bit for bit; or an image, NIfTI or DICOM. Atomically.

        Parameters
        ----------
        path : str or path
            Named .nc, or .h5, for the whole result (not problem and prior); a name without extension gets
            .nc. Named .nii, .nii.gz or .dcm for one
            ``statistic`` as an image with the voxels and the place in the patient of the problem's `Grid`, as `iv.open`
            makes them; complex signals by the magnitude of their samples. In DICOM every slice is a file: several get
            "-0001.dcm", ... at the end of their names. A file that exists is replaced when the new one is complete.
        statistic : {"mean", "std", "samples"}, optional
            Of an image: the posterior mean unless given; "samples", a fourth axis, in NIfTI only.

        Returns
        -------
        pathlib.Path
            The file that was written; ``path`` where DICOM made several of it.

        Raises
        ------
        InputError
            If the name promises another format, such as .npz, or the items are no slices at equal distances.
        InputTypeError
            If ``settings`` or another entry holds what JSON cannot.
        UnsupportedError
            An image of a problem without a grid, or without the package for it: ``pip install 'invsolve[io]'``.
        """
        from invsolve.results.images import is_image, save_image
        from invsolve.results.writing import save_result

        if is_image(path):
            save_image(self, path, "mean" if statistic is None else statistic)
            return Path(path)
        if statistic is not None:
            raise invalid(
                "Result.save", "statistic", "left out unless the file is .nii, .nii.gz or .dcm", repr(statistic)
            )
        return save_result(self, path)

    def check(
        self, *, solves: bool | None = None, budget: float | None = None, progress: Progress | bool | None = None
    ) -> Any:
        """Is *this* posterior right for *this* data? Tests of samples, data and solver, each with its power.

        Each test states what it measured and what it can detect, and fails at its share of 2 % false alarms over the
        whole report. Deterministic in ``seed``, but for what there is no time for. With noise that is not Gaussian,
        tests that need its exact distribution are left out and named in ``notes``; counts are split by thinning. Where
        scalars were inferred, samples are tested with the model of their own scalars. Of a derived result (``map``, a
        part) the one is tested that it was made from.

        Parameters
        ----------
        solves : bool, optional
            Whether to simulate data and to solve again with the result's strategy: some 700 posterior samples an item
            for Gaussian priors, 1,800 for others. None: only where that is cheap, that is for priors whose denoiser is
            a closed form and up to 4,096 values of signal and data; what would take more than a minute is then left out
            and named.
        budget : float, optional
            Seconds for simulations and solves: the tests that fit are run, on fewer items of a batch if need be, and
            the report names the others and what they would take. Without it, and with ``solves=True``, all are run.
        progress : Progress or bool, optional
            A meter of `iv.progress` over the samples that are drawn again, which says before about how long that
            will take; True for a bar.

        Returns
        -------
        CheckReport
            ``print(report)`` for people, ``report.passed`` for programs, ``report[name]`` for one test.

        Raises
        ------
        InputError, InputTypeError
            If an argument is not what it should be.
        UnsupportedError
            Without problem and prior: of a result that was loaded without them, or derived from one that is gone.
        """
        if self.source is not None:
            found = self.source()
            if found is None:
                raise UnsupportedError(
                    "Result.check: the result that this one was derived from is gone, and with it what was solved. "
                    "Keep it, or call check() on it."
                )
            return found.check(solves=solves, budget=budget, progress=progress)
        if self.solver is None or self.problem is None or self.prior is None:
            raise UnsupportedError(
                "Result.check: a loaded result does not hold problem and prior. Say what was solved: "
                "iv.load_result(path, problem=iv.Problem(A, y, noise), prior=prior)."
            )
        meter = as_progress("Result.check", progress)
        if budget is not None:
            budget = check_positive("Result.check", "budget", budget)
        with on_interrupt(lambda: "Result.check: interrupted; the result is as it was. budget=60 takes a minute."):
            return self.solver.check(self, solves=solves, budget=budget, progress=meter)
