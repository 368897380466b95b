"""The content of a result: samples of a posterior, how they were obtained, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.arrays import as_tensor, several
from invsolve.core.packing import Layout
from invsolve.core.torch_state import Defined
from invsolve.core.validation import Shape, check_number, real_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.results.certificate import Certificate
from invsolve.results.order_statistics import Interval, OrderStatistics
from invsolve.results.solver import Solver
from invsolve.results.status import Status


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PosteriorSamples(Defined):
    """What a `Result` holds, and what can be said of it in numbers. The fields are described there."""

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
    solver: Solver | None = None  # not saved
    warnings: tuple[str, ...] = ()
    certificate: Certificate | None = None  # of strategy="auto"
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
        if self.status is not Status.from_failures(self.failed):
            raise invalid("Result", "status", f"{Status.from_failures(self.failed)}, as `failed` says", self.status)
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
        """Effective sample size ``([batch])``: 1 / sum w^2; without weights the number of good samples.

        Where the strategy says less of the ensemble that they were taken from (``info["ess"]``), that; and 0 where
        chains did not reach the full power of the likelihood: samples there are none of the posterior.
        """
        if self.log_weights is None:
            count, told = (~self.failed).sum(0).double(), self._of_item("ess")
            if told is not None:
                count = torch.minimum(count, told.to(count.device).nan_to_num(nan=torch.inf))
        else:
            count = torch.nan_to_num(1 / self.weights.square().sum(0), nan=0.0)
        return torch.where(self.unfinished, 0.0, count)

    @property
    def unfinished(self) -> Tensor:
        """Which items ``([batch])`` have samples of a power of the likelihood only: their chains were stopped early."""
        power = self._of_item("beta")
        return torch.zeros_like(self.failed[0]) if power is None else (power < 1).to(self.failed.device)

    @property
    def log_evidence(self) -> Tensor | None:
        """Log p(y) in nats, ``([batch])`` float64, where the strategy estimates it; else None.

        `Exact`, `SMC` and `NoiseMCMC` do; NaN where it could not be told, and of chains that were stopped below the
        full power of the likelihood. The log density of the data under prior, operator and noise: `iv.compare` weighs
        models by it.
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

    def quantile(self, q: float | Sequence[float] | Tensor | NDArray[Any]) -> Tensor:
        """Quantiles, entry by entry.

        The k-th smallest of n good samples sits at level k / (n + 1), its expectation for exact draws of any continuous
        distribution; between them linear interpolation. Weighted samples sit at
        ``(n_e (C_k - w_k / 2) + 1/2) / (n_e + 1)`` with C_k the sum of the weights up to the k-th smallest and n_e the
        ESS: the same for equal weights, consistent as the ESS grows, not exact for a small one; entries whose smallest
        (largest) sample sits above (below) the level give that sample.

        Parameters
        ----------
        q : float, array or sequence of float
            Levels in (0, 1).

        Returns
        -------
        Tensor, shape ([batch,] *shape) or (len(q), [batch,] *shape)

        Raises
        ------
        InputError
            For a level outside of [1/(n+1), n/(n+1)] (n_e for weights): nothing is extrapolated.
        InputTypeError
            For complex samples.

        References
        ----------
        Hyndman & Fan 1996, Am. Stat. 50, 361-365, type 6.
        """
        self._check_real("quantile")
        single = isinstance(q, (int, float, Tensor, np.generic, np.ndarray)) and getattr(q, "ndim", 0) == 0
        levels = [check_number("quantile", "q", v) for v in ([q] if single else _levels(q))]
        out = torch.stack([self._order_statistics.quantile(level) for level in levels])
        return out[0] if single else out

    def interval(self, level: float) -> Interval:
        """The central interval between order statistics k and n + 1 - k, k = floor((n + 1)(1 - level) / 2).

        For n exact draws it covers with probability 1 - 2k / (n + 1), whatever the distribution: that is its third
        value, at least ``level`` (min to max of 19 samples is exactly 0.9). Where failed rows make n differ between
        items, the smallest of their levels is given.

        Parameters
        ----------
        level : float
            In (0, 1).

        Returns
        -------
        Interval
            ``low`` and ``high`` ``([batch,] *shape)``, and the exact ``level``.

        Raises
        ------
        InputError
            When (n + 1)(1 - level) / 2 < 1, and for weighted samples.
        InputTypeError
            For complex samples.
        """
        self._check_real("interval")
        return self._order_statistics.interval(check_number("interval", "level", level))

    # --- derived results ---------------------------------------------------------------------------------------------
    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The posterior of a derived quantity: a magnitude, an intensity in other units, a flow rate.

        Weights and chi2 are kept; problem, prior, layout, dims and units are not.

        Parameters
        ----------
        function : callable
            Takes rows ``(rows, *shape)`` to ``(rows, *new_shape)``; called once, on the rows that did not fail. A bool
            or integer answer becomes numbers, so that the mean of ``lambda x: x.flatten(1).amax(1) > 2`` is a
            probability.

        Returns
        -------
        Result
            Rows whose answer is not finite count as failed, with a warning in ``warnings``.

        Raises
        ------
        InputError, InputTypeError
            If every row failed, or ``function`` does not give a tensor with one row for each of its argument.
        """
        good = ~self.failed
        if not bool(good.any()):
            raise invalid("map", "result", "one with a sample that did not fail", "none")
        value = function(self.samples[good])
        if several(value) and not isinstance(value, Tensor):  # of code in numpy
            value = as_tensor("map", "function(x)", value, dtype=self.samples.dtype, device=self.samples.device)
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

    def __getitem__(self, name: str) -> Self:
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

    def _derive(self, samples: Tensor, what: str) -> Self:
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
            status=Status.from_failures(failed),
            layout=None,
            problem=None,
            prior=None,
            solver=None,
            dims=None,
            units="",
            warnings=warnings,
        )

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
        value = value.reshape((*value.shape[:lead], *([1] * len(self.shape))))
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

    @cached_property
    def _order_statistics(self) -> OrderStatistics:
        weights = None if self.log_weights is None else self.weights
        return OrderStatistics(samples=self.samples, failed=self.failed, weights=weights, ess=self.ess)


def _finite_rows(value: Tensor, lead: int) -> Tensor:
    return torch.isfinite(value).reshape(*value.shape[:lead], math.prod(value.shape[lead:])).all(-1)


def _type_of(value: object) -> object:
    return str(value.dtype) if isinstance(value, Tensor) else value


def _levels(q: object) -> list[Any]:
    if isinstance(q, (Tensor, np.ndarray)) and q.ndim == 1:
        return list(q.tolist())
    if isinstance(q, (str, bytes, Mapping, Tensor)) or not isinstance(q, Sequence) or not q:
        raise invalid_type("quantile", "q", "a number or a sequence of numbers", q)
    return list(q)


def _dims_of(problem: object) -> tuple[str, ...] | None:
    dims = getattr(problem, "dims", None) or getattr(getattr(problem, "grid", None), "dims", None)
    return tuple(map(str, dims)) if dims else None
