"""What `solve` returns: the samples of the posterior, their statistics, and an account of how they were obtained."""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor

from invsolve.core.validation import Shape, check_number, real_dtype
from invsolve.errors import invalid, invalid_type

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

    from invsolve.core.packing import Layout
    from invsolve.results.certificate import Certificate

_ROUND = 1e-9  # ranks are integers: 20 * (1 - 0.9) / 2 must count as 1, not as 0.99999999


class Status(enum.Enum):
    """Why a solve ended: a sentence for a person, with what to try next."""

    SUCCESS = "Every sample is finite."
    SOME_FAILED = (
        "Some samples became NaN or infinite; they are kept as NaN, excluded from every statistic and counted. "
        "Look at result.failed; try smaller steps, float64, or check the scale of the prior against the data."
    )
    ALL_FAILED = (
        "Every sample became NaN or infinite, so there is no posterior to look at. "
        "Check the noise level and the scale of the prior against the data, whether the likelihood is positive for any "
        "signal of the prior, or try float64 and smaller steps."
    )

    @classmethod
    def of(cls, failed: Tensor) -> Status:
        """The status that a bool tensor of failed rows stands for."""
        number = int(failed.sum())
        return cls.SUCCESS if number == 0 else cls.ALL_FAILED if number == failed.numel() else cls.SOME_FAILED


def blanked(samples: Tensor, failed: Tensor) -> Tensor:
    """Samples ``(rows, ...)`` with every entry NaN in the rows that ``failed``; of complex ones, both parts."""
    nothing = complex(math.nan, math.nan) if samples.is_complex() else math.nan
    return torch.where(failed.view(-1, *([1] * (samples.ndim - 1))), nothing, samples)


class Interval(NamedTuple):
    """A rank interval: ``low`` and ``high`` ``([batch,] *shape)``, and the ``level`` that its ranks carry exactly."""

    low: Tensor
    high: Tensor
    level: float


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Samples of a posterior and how they were obtained. ``[batch]`` is absent when the data had no batch axis.

    A row is one sample of one item. Failed rows hold NaN; every statistic leaves them out, item by item. An item
    without any good row has NaN statistics. Statistics use the normalised weights where ``log_weights`` are given.
    """

    samples: Tensor  # (num_samples, [batch,] *shape), real or complex
    status: Status
    failed: Tensor  # (num_samples, [batch]) bool
    batched: bool
    shape: Shape  # of the signal
    chi2: Tensor  # (num_samples, [batch]): chi^2 per datum of each sample, about 1 for a right model
    log_weights: Tensor | None = None  # (num_samples, [batch]), up to a constant per item; None: equal weights
    strategy: str
    why: str  # one sentence: why this strategy
    nfe: float  # network (denoiser) evaluations per sample
    vjps: float  # differentiations of the denoiser per sample
    operator_calls: Mapping[str, int]  # by kind, in rows
    seconds: float
    seed: int
    settings: Mapping[str, Any]  # what JSON can hold
    versions: Mapping[str, str]
    info: Mapping[str, Tensor] = field(default_factory=dict)  # by name, (num_samples, [batch])
    # Scalars inferred with the signal ("noise.std", "prior.length"), by name, (num_samples, [batch]); `result[name]`.
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    layout: Layout | None = None  # the parts of a packed signal
    problem: Any = None  # not saved
    prior: Any = None  # not saved
    strategy_object: Any = None  # not saved: the strategy itself, for solves that `check` makes
    warnings: tuple[str, ...] = ()
    certificate: Certificate | None = None  # of strategy="auto"; not saved
    dims: tuple[str, ...] | None = None  # names of the signal's axes; taken from the problem when it has them
    units: str = ""  # of the signal; taken from the problem when it has them

    def __post_init__(self) -> None:
        x = self.samples
        if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
            raise invalid_type("Result", "samples", "a floating or complex tensor", _type_of(x))
        object.__setattr__(self, "shape", tuple(self.shape))
        lead = 2 if self.batched else 1
        if x.ndim != lead + len(self.shape) or tuple(x.shape[lead:]) != self.shape or 0 in x.shape[:lead]:
            want = ", ".join(("num_samples", *(("batch",) if self.batched else ()), *map(str, self.shape)))
            raise invalid("Result", "samples", f"of shape ({want})", tuple(x.shape))
        rows = {"failed": self.failed, "chi2": self.chi2, **{f"info[{k!r}]": v for k, v in self.info.items()}}
        rows |= {f"parameters[{k!r}]": v for k, v in self.parameters.items()}
        if self.log_weights is not None:
            rows["log_weights"] = self.log_weights
        for name, value in rows.items():
            if not isinstance(value, Tensor) or value.is_complex() or (name == "failed" and value.dtype != torch.bool):
                kind = "a bool tensor" if name == "failed" else "a real tensor"
                raise invalid_type("Result", name, kind, _type_of(value))
            if value.shape != x.shape[:lead]:
                raise invalid("Result", name, f"of shape {tuple(x.shape[:lead])}", tuple(value.shape))
        if self.status is not Status.of(self.failed):
            raise invalid("Result", "status", f"{Status.of(self.failed)}, as `failed` says", self.status)
        if bool((~_finite_rows(x, lead) & ~self.failed).any()):
            raise invalid("Result", "failed", "True for every sample with NaN or infinite values", "False for one")
        if self.log_weights is not None:  # -inf is a weight of zero; NaN and +inf are no weights
            bad = (torch.isnan(self.log_weights) | (self.log_weights == math.inf)) & ~self.failed
            if bool(bad.any()):
                raise invalid(
                    "Result",
                    "log_weights",
                    "below infinity and not NaN where `failed` is False",
                    self.log_weights[bad][0].item(),
                )
        if self.dims is None and (dims := _dims_of(self.problem)) is not None and len(dims) == len(self.shape):
            object.__setattr__(self, "dims", dims)
        if not self.units and isinstance(units := getattr(self.problem, "units", ""), str):
            object.__setattr__(self, "units", units)
        if self.dims is not None and (len(self.dims) != len(self.shape) or len(set(self.dims)) != len(self.dims)):
            raise invalid("Result", "dims", f"{len(self.shape)} different names, one for each axis", self.dims)

    # --- statistics ---------------------------------------------------------------------------------------------------
    @property
    def num_samples(self) -> int:
        """How many samples were asked for, failed ones included."""
        return len(self.samples)

    @cached_property
    def weights(self) -> Tensor:
        """Normalised weights ``(num_samples, [batch])``, float64: they sum to 1 per item, failed rows have 0.

        An item without a good row, or whose weights are all zero, has NaN.
        """
        if self.log_weights is None:
            weight = (~self.failed).double()
        else:
            logs = self.log_weights.double().masked_fill(self.failed, -math.inf)
            weight = (logs - logs.max(0).values).exp()
        return weight / weight.sum(0)

    @property
    def ess(self) -> Tensor:
        """Effective sample size ``([batch])``: 1 / sum w^2; without weights the number of good samples."""
        if self.log_weights is None:
            return (~self.failed).sum(0).double()
        return torch.nan_to_num(1 / self.weights.square().sum(0), nan=0.0)

    @property
    def log_evidence(self) -> Tensor | None:
        """Log p(y) in nats, ``([batch])`` float64, where the strategy estimates it (`Exact`, `SMC`); else None.

        The log density of the data under prior, operator and noise: `iv.compare` weighs models by it.
        """
        return self._of_item("log_evidence")

    @property
    def log_evidence_se(self) -> Tensor | None:
        """The standard error of `log_evidence`, ``([batch])``: of the Monte Carlo, or a bound of the rounding."""
        return self._of_item("log_evidence_se")

    def _of_item(self, name: str) -> Tensor | None:
        return self.info[name][0].double() if name in self.info else None  # the same for all samples of an item

    @cached_property
    def mean(self) -> Tensor:
        """Posterior mean ``([batch,] *shape)``: ``m = sum_k w_k x_k``."""
        if self._plain:
            return self.samples.mean(0)
        # Weighted values of rows that failed would be 0 * NaN; an item without good rows is NaN through its weights.
        weights = self.weights if self.log_weights is not None else (~self.failed).double()
        total = (self._good_samples * self._over_signal(weights)).sum(0)
        if self.log_weights is None:
            total = total / self._over_signal((~self.failed).sum(0).double(), lead=self.failed.ndim - 1)
        return total

    @cached_property
    def std(self) -> Tensor:
        """Posterior standard deviation ``([batch,] *shape)``, real.

        ``s^2 = sum_k w_k |x_k - m|^2 / (1 - sum_k w_k^2)``. The divisor is the correction for reliability weights: with
        equal weights this is the usual n - 1 (ddof 1). For complex samples |.| is the modulus, so s^2 is the sum of the
        variances of the two components. NaN for one sample.
        """
        if self._plain and self.num_samples > 1:
            return self.samples.std(0)
        weights = self.weights
        spread = torch.where(self._over_signal(self.failed, cast=False), 0, (self.samples - self.mean).abs().square())
        divisor = (weights * (1 - weights)).sum(0)  # = 1 - sum_k w_k^2, and never negative by rounding
        total = (spread * self._over_signal(weights)).sum(0)
        return (total / self._over_signal(divisor, lead=self.failed.ndim - 1)).sqrt()

    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """Quantiles at level ``q`` in (0, 1), ``([batch,] *shape)``; for several levels ``(len(q), [batch,] *shape)``.

        The k-th smallest of n good samples sits at level k / (n + 1), its expectation for exact draws of any continuous
        law (Hyndman & Fan 1996, Am. Stat. 50, 361-365, type 6); between them linear interpolation. Weighted samples sit
        at ``(n_e (C_k - w_k / 2) + 1/2) / (n_e + 1)`` with C_k the sum of the weights up to the k-th smallest and n_e
        the ESS: the same for equal weights, consistent as the ESS grows, not exact for a small one; entries whose
        smallest (largest) sample sits above (below) the level give that sample. Nothing is extrapolated: levels outside
        [1/(n+1), n/(n+1)] (n_e for weights) raise, as do complex samples.
        """
        self._check_real("quantile")
        levels = [check_number("quantile", "q", v) for v in ([q] if isinstance(q, (int, float)) else _levels(q))]
        count = self._smallest_count()
        for level in levels:
            if not 0 < level < 1:
                raise invalid("quantile", "q", "between 0 and 1", level)
            tail = min(level, 1 - level)
            if count is not None and tail * (count + 1) < 1 - _ROUND:
                need = math.ceil(1 / tail - 1 - _ROUND)
                what = "samples" if self.log_weights is None else "effective samples"
                raise invalid(
                    "quantile",
                    "q",
                    f"between {1 / (count + 1):.4g} and {count / (count + 1):.4g} with {count:.4g} {what}",
                    level,
                    f"This level needs at least {need} {what}.",
                )
        ordered = self._ordered if self.log_weights is None else self._weighted_ordered
        out = torch.stack([ordered(level) for level in levels])
        return out[0] if isinstance(q, (int, float)) else out

    def interval(self, level: float) -> Interval:
        """The central interval between order statistics k and n + 1 - k, k = floor((n + 1)(1 - level) / 2).

        For n exact draws it covers with probability 1 - 2k / (n + 1), whatever the law: that is the third value, at
        least ``level`` (min to max of 19 samples is exactly 0.9). Where failed rows make n differ between items, the
        smallest of their levels is given. Raises for complex or weighted samples, and when (n + 1)(1 - level) / 2 < 1.
        """
        self._check_real("interval")
        level = check_number("interval", "level", level)
        if not 0 < level < 1:
            raise invalid("interval", "level", "between 0 and 1", level)
        if self.log_weights is not None:
            raise invalid(
                "interval",
                "samples",
                "of equal weight (ranks of others have no exact level)",
                "weights",
                f"Use quantile([{(1 - level) / 2:.4g}, {(1 + level) / 2:.4g}]), which is approximate.",
            )
        good = (~self.failed).sum(0)
        if (count := self._smallest_count()) is None:
            count = 0.0
        elif (count + 1) * (1 - level) / 2 < 1 - _ROUND:
            need = math.ceil(2 / (1 - level) - 1 - _ROUND)
            most = f"at most {max(0.0, (count - 1) / (count + 1)):.4g} with {count:.0f} samples"
            raise invalid("interval", "level", most, level, f"This level needs at least {need} samples.")
        rank = ((good + 1) * ((1 - level) / 2) + _ROUND).floor().clamp(min=1)
        exact = (1 - 2 * rank.double() / (good + 1))[good > 0]
        return Interval(self._rank(rank), self._rank(good + 1 - rank), float(exact.min()) if len(exact) else math.nan)

    # --- derived results ---------------------------------------------------------------------------------------------
    def map(self, function: Callable[[Tensor], Tensor]) -> Result:
        """The posterior of a derived quantity: ``function`` takes rows ``(rows, *shape)`` to ``(rows, *new_shape)``.

        It is called once, on the rows that did not fail. A bool or integer answer becomes numbers, so the mean of
        ``lambda x: x.flatten(1).amax(1) > 2`` is a probability. Rows whose answer is not finite count as failed, with a
        warning in ``warnings``. Weights and chi2 are kept; problem, prior, layout, dims and units are not.
        """
        good = ~self.failed
        if not bool(good.any()):
            raise invalid("map", "result", "one with a sample that did not fail", "none")
        value = function(self.samples[good])
        rows = int(good.sum())
        if not isinstance(value, Tensor):
            raise invalid_type("map", "function(x)", "a torch.Tensor", value)
        if value.ndim == 0 or len(value) != rows:
            raise invalid(
                "map",
                "function(x)",
                f"of {rows} rows, one for each of x",
                tuple(value.shape),
                "Reduce over the signal's axes only, e.g. x.flatten(1).amax(1).",
            )
        if not (value.is_floating_point() or value.is_complex()):
            value = value.to(real_dtype(self.samples.dtype))
        samples = value.new_full((*self.failed.shape, *value.shape[1:]), math.nan)
        samples[good] = value.detach()
        return self._derive(samples, "the derived quantity")

    def __getitem__(self, name: str) -> Result:
        """The posterior of one named scalar (``result["noise.std"]``), or of a named part of a packed signal."""
        if name in self.parameters:
            value = self.parameters[name].masked_fill(self.failed, math.nan)
            return replace(self._derive(value, f"parameter {name!r}"), parameters={})
        names = (*self.parameters, *(() if self.layout is None else self.layout.names))
        if not names:
            expected = "used on a packed signal, or on one with unknown scalars"
            raise invalid("Result", "result[...]", expected, repr(name))
        if self.layout is None or name not in self.layout.names:
            raise invalid("Result", "result[...]", "one of " + ", ".join(map(repr, names)), repr(name))
        units = {part.name: part.unit for part in self.layout.parts}
        return replace(self._derive(self.layout.split(self.samples)[name], f"part {name!r}"), units=units[name])

    def _derive(self, samples: Tensor, what: str) -> Result:
        lead = self.failed.ndim
        lost = ~_finite_rows(samples, lead) & ~self.failed
        warnings, failed = self.warnings, self.failed | lost
        if bool(lost.any()):
            samples = samples.clone()
            samples[lost] = math.nan
            warnings = (*warnings, f"{what} was NaN or infinite for {int(lost.sum())} samples, which count as failed")
        return replace(
            self,
            samples=samples,
            shape=tuple(samples.shape[lead:]),
            failed=failed,
            status=Status.of(failed),
            layout=None,
            problem=None,
            prior=None,
            strategy_object=None,
            dims=None,
            units="",
            warnings=warnings,
        )

    # --- looking, keeping, checking ---------------------------------------------------------------------------------
    def __repr__(self) -> str:
        number = int(self.failed.sum())
        failed = f", failed={number} of {self.failed.numel()}" if number else ""
        name = str(self.samples.dtype).removeprefix("torch.")
        said = f", {len(self.warnings)} in `warnings`" if self.warnings else ""
        return (
            f"Result(samples={tuple(self.samples.shape)} {name}, {self.status.name}{failed}, "
            f"strategy={' '.join(self.strategy.split())}, nfe={self.nfe:g}, {self.seconds:.3g} s{said})"
        )

    def summary(self) -> str:
        """What was assumed and what it cost, in several lines of text."""
        from invsolve.results.summary import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from invsolve.results.summary import html

        return html(self)

    def plot(self, *, item: int = 0, truth: Tensor | None = None, axes: Any = None, part: str = "magnitude") -> Figure:
        """A matplotlib Figure of one item; see `invsolve.plotting.plot_result`."""
        from invsolve.plotting import plot_result

        return plot_result(self, item=item, truth=truth, axes=axes, part=part)

    def to_xarray(self) -> xarray.Dataset:
        """Samples, mean, std, chi2, failed and weights as an xarray.Dataset; see `results.result_io`."""
        from invsolve.results.result_io import to_xarray

        return to_xarray(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a NetCDF file, atomically; `invsolve.load_result` reads it back bit for bit (not problem and prior)."""
        from invsolve.results.result_io import save_result

        save_result(self, path)

    def check(self, *, solves: bool | None = None) -> Any:
        """Is this posterior right for this data? See `invsolve.diagnostics.check_result.check_result`."""
        from invsolve.diagnostics.check_result import check_result

        return check_result(self, solves=solves)

    # --- plumbing ----------------------------------------------------------------------------------------------------
    @cached_property
    def _plain(self) -> bool:
        return self.log_weights is None and not bool(self.failed.any())

    @property
    def _good_samples(self) -> Tensor:
        """The samples with zeros in the failed rows."""
        return torch.where(self._over_signal(self.failed, cast=False), 0, self.samples)

    def _over_signal(self, value: Tensor, *, lead: int | None = None, cast: bool = True) -> Tensor:
        """A tensor over rows (or items, ``lead`` axes) made to broadcast against the signal's axes."""
        lead = self.failed.ndim if lead is None else lead
        value = value.reshape(*value.shape[:lead], *([1] * len(self.shape)))
        return value.to(real_dtype(self.samples.dtype)) if cast else value

    def _check_real(self, owner: str) -> None:
        if self.samples.is_complex():
            raise invalid_type(
                owner,
                "samples",
                "real: complex numbers have no order",
                str(self.samples.dtype),
                f"Ask for a real quantity: result.map(torch.abs).{owner}(...).",
            )

    def _smallest_count(self) -> float | None:
        """The smallest (effective) number of good samples over the items that have any; None if none has."""
        ess = self.ess.reshape(-1)
        ess = ess[ess > 0]
        return float(ess.min()) if len(ess) else None

    @cached_property
    def _sorted(self) -> Tensor:
        """The samples in order, failed rows last."""
        return torch.where(self._over_signal(self.failed, cast=False), math.nan, self.samples).sort(0).values

    def _rank(self, rank: Tensor) -> Tensor:
        """The order statistic of 1-based ``rank`` ``([batch])``; NaN (a failed row) for an item without good rows."""
        index = (rank.long() - 1).clamp(0, self.num_samples - 1)
        index = self._over_signal(index, lead=self.failed.ndim - 1, cast=False).expand(self._sorted.shape[1:])
        return self._sorted.gather(0, index[None])[0]

    def _ordered(self, level: float) -> Tensor:
        good = (~self.failed).sum(0)
        position = level * (good + 1).double()
        position = torch.where((position - position.round()).abs() < _ROUND, position.round(), position)
        position = torch.minimum(position.clamp(min=1), good.double())
        low = self._rank(position.floor())
        fraction = self._over_signal(position - position.floor(), lead=self.failed.ndim - 1)
        return low + fraction * (self._rank(position.ceil()) - low)

    def _weighted_ordered(self, level: float) -> Tensor:
        lead = self.failed.ndim
        ess = self._over_signal(self.ess, lead=lead - 1, cast=False)
        values, order = self._good_samples.sort(0)
        weights = self._over_signal(self.weights, cast=False).expand(values.shape).gather(0, order)
        position = (ess * (weights.cumsum(0) - weights / 2) + 0.5) / (ess + 1)
        # Samples of weight zero (failed ones too) must not be interpolated to: move them off the axis.
        position = torch.where(weights > 0, position, math.nan)
        below = position.masked_fill(~(position <= level + _ROUND), -math.inf)
        above = position.masked_fill(~(position >= level - _ROUND), math.inf)
        p_low, i_low = below.max(0)
        p_high, i_high = above.min(0)
        low, high = values.gather(0, i_low[None])[0], values.gather(0, i_high[None])[0]
        fraction = ((level - p_low) / (p_high - p_low)).clamp(0, 1).nan_to_num(nan=0.0).to(values.dtype)
        out = torch.where(p_low == -math.inf, high, torch.where(p_high == math.inf, low, low + fraction * (high - low)))
        return torch.where(ess > 0, out, math.nan)


def _finite_rows(value: Tensor, lead: int) -> Tensor:
    return torch.isfinite(value).reshape(*value.shape[:lead], math.prod(value.shape[lead:])).all(-1)


def _type_of(value: object) -> object:
    return str(value.dtype) if isinstance(value, Tensor) else value


def _levels(q: object) -> list[Any]:
    if isinstance(q, Tensor) and q.ndim == 1:
        return list(q.tolist())
    if isinstance(q, (str, bytes, Mapping, Tensor)) or not isinstance(q, Sequence) or not q:
        raise invalid_type("quantile", "q", "a number or a sequence of numbers", q)
    return list(q)


def _dims_of(problem: object) -> tuple[str, ...] | None:
    dims = getattr(problem, "dims", None) or getattr(getattr(problem, "grid", None), "dims", None)
    return tuple(map(str, dims)) if dims else None
