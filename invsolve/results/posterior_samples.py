"""The content of a result: samples of a posterior, how they were obtained, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.coordinates import fitting
from invsolve.core.rows import reduced, rows_of
from invsolve.core.validation import check_number, real_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.marginals import Marginals
from invsolve.results.consistency import finite_rows, part_of
from invsolve.results.fields import ResultFields
from invsolve.results.order_statistics import Interval, OrderStatistics
from invsolve.results.solver import Source
from invsolve.results.status import Status


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PosteriorSamples(ResultFields):
    """What a `Result` holds, and what can be said of it in numbers."""

    # --- statistics ---------------------------------------------------------------------------------------------------
    @cached_property
    def mean(self) -> Tensor:
        """Posterior mean ``([batch,] *shape)``: what it is of `statistics` says; of samples ``m = sum_k w_k x_k``."""
        return self._sample_mean if self.marginals is None else self.marginals.mean

    @cached_property
    def _sample_mean(self) -> Tensor:
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
        """Posterior standard deviation (root of the variance) ``([batch,] *shape)``, real; of what, `statistics` says.

        Of samples ``s^2 = sum_k w_k |x_k - m|^2 / (1 - sum_k w_k^2)`` about their own mean. The divisor is the
        correction for reliability weights: with equal weights this is the usual n - 1 (ddof 1). For complex samples |.|
        is the modulus, so s^2 is the sum of the variances of the two components. NaN for one sample.
        """
        if self.marginals is not None and self.marginals.std is not None:
            return self.marginals.std
        if self._plain and self.num_samples > 1:
            return self.samples.std(0)
        weights = self.weights
        spread = torch.where(
            self._over_signal(self.failed, cast=False), 0, (self.samples - self._sample_mean).abs().square()
        )
        divisor = (weights * (1 - weights)).sum(0)  # = 1 - sum_k w_k^2, and never negative by rounding
        total = (spread * self._over_signal(weights)).sum(0)
        return (total / self._over_signal(divisor, lead=self.failed.ndim - 1)).sqrt()

    @property
    def median(self) -> Tensor:
        """Posterior median ``([batch,] *shape)``, entry by entry: ``quantile(0.5)``, of real signals."""
        return self._quantiles("median", [0.5])[0]

    def quantile(self, q: float | Sequence[float] | Tensor | NDArray[Any]) -> Tensor:
        """Quantiles (percentiles), entry by entry.

        At any level where the distribution is known (`statistics`), else of the samples.
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
            For a level outside of [1/(n+1), n/(n+1)] (n_e for weights): of samples nothing is extrapolated. Where the
            chains of every item were stopped before the data counted in full; of some items the answer is NaN.
        InputTypeError
            For complex samples.

        References
        ----------
        Hyndman & Fan 1996, Am. Stat. 50, 361-365, type 6.
        """
        single = isinstance(q, (int, float, Tensor, np.generic, np.ndarray)) and getattr(q, "ndim", 0) == 0
        levels = [check_number("quantile", "q", v) for v in ([q] if single else _levels(q))]
        for level in levels:
            if not 0 < level < 1:
                raise invalid("quantile", "q", "between 0 and 1", level, _per_cent(level))
        out = self._quantiles("quantile", levels)
        return out[0] if single else out

    def _quantiles(self, owner: str, levels: Sequence[float]) -> Tensor:
        self._check_real(owner)
        of = self._ranked(owner).quantile if self._closed is None else self._closed.quantile
        return torch.stack([of(level) for level in levels])

    def interval(self, level: float = 0.9) -> Interval:
        """The central (credible) interval: between quantiles where the distribution is known, else between samples.

        `statistics` says which. Of samples it is that of the order statistics k and n + 1 - k, k = floor((n + 1)(1 -
        level) / 2). For n exact draws they cover with probability 1 - 2k / (n + 1), whatever the distribution: that is
        the third value, at least ``level`` (min to max of 19 samples is exactly 0.9). Where failed rows make n differ
        between items, the smallest of their levels is given.

        Parameters
        ----------
        level : float
            In (0, 1); 0.9 by default.

        Returns
        -------
        Interval
            ``low`` and ``high`` ``([batch,] *shape)``, and the exact ``level``.

        Raises
        ------
        InputError
            Of samples: when (n + 1)(1 - level) / 2 < 1, for weighted ones, and as `quantile` of chains that were
            stopped.
        InputTypeError
            For complex samples.
        """
        self._check_real("interval")
        level = check_number("interval", "level", level)
        if not 0 < level < 1:
            raise invalid("interval", "level", "between 0 and 1", level, _per_cent(level))
        if (of := self._closed) is not None:
            return Interval(of.quantile((1 - level) / 2), of.quantile((1 + level) / 2), level)
        return self._ranked("interval").interval(level)

    # --- derived results ---------------------------------------------------------------------------------------------
    def map(self, function: Callable[[Tensor], Any], *, batched: bool = True) -> Self:
        """The posterior of a derived quantity: a magnitude, a flow rate, a probability, a product for a covariance.

        Weights and chi2 are kept; problem, prior, layout, dims and units are not. What it gives
        has statistics of its samples only.

        Parameters
        ----------
        function : callable
            Takes rows ``(rows, *shape)`` to ``(rows, *new_shape)``; called once, on the rows that did not fail, with a
            tensor or, if it raises TypeError or AttributeError for that, with an array of numpy. A bool or integer
            answer becomes numbers, so that the mean of ``lambda x: x.flatten(1).amax(1) > 2`` is a probability.
        batched : bool
            False for a function of one sample ``(*shape)``, such as ``np.sum``, which is called for one after another.
            True by default.

        Returns
        -------
        Result
            Rows whose answer is not finite count as failed, with a warning in ``warnings``.

        Raises
        ------
        InputError, InputTypeError
            If every row failed, or ``function`` does not give a tensor with one row for each of its argument.

        Examples
        --------
        >>> import invsolve as iv
        >>> prior = iv.priors.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3))
        >>> result = iv.solve(iv.operators.Identity(), [1.0, 2.0, 3.0], prior, noise=0.5, num_samples=9)
        >>> result.map(lambda x: x.sum(1)).samples.shape, result.map(np.sum, batched=False).samples.shape
        (torch.Size([9]), torch.Size([9]))
        """
        good = ~self.failed
        if not bool(good.any()):
            raise invalid("map", "result", "one with a sample that did not fail", "none")
        x = self.samples[good]
        value = rows_of("map", "function(x)", function, x, batched=batched)
        if value.ndim == 0 or len(value) != len(x):
            raise invalid("map", "function(x)", f"of {len(x)} rows, one for each of x", *reduced(x, value))
        if not (value.is_floating_point() or value.is_complex()):
            value = value.to(real_dtype(self.samples.dtype))
        samples = value.new_full((*self.failed.shape, *value.shape[1:]), math.nan)
        samples[good] = value.detach()
        return self._derive(samples, "the derived quantity")

    def __getitem__(self, name: str) -> Self:
        """The posterior of one named scalar, or of a named part of a packed signal.

        As a result of its own: ``result["noise.std"].mean``, ``result["noise.std"].interval(0.9)``.
        """
        if name in self.parameters:
            value = self.parameters[name].masked_fill(self.failed, math.nan)
            own = self._derive(value, f"parameter {name!r}")
            known = self.parameter_marginals.get(name)
            return replace(own, parameters={}, parameter_marginals={}, marginals=known)
        names = (*self.parameters, *(() if self.layout is None else self.layout.names))
        if not names:
            expected = "used on a packed signal, or on one with unknown scalars"
            place = "Of item 0 or sample 0: result.mean[0], result.samples[0]." if not isinstance(name, str) else ""
            raise invalid("Result", "result[...]", expected, repr(name), place)
        if self.layout is None or name not in self.layout.names:
            raise invalid("Result", "result[...]", "one of " + ", ".join(map(repr, names)), repr(name))
        layout, part = self.layout, self.layout[name]
        derived = self._derive(layout.split(self.samples)[name], f"part {name!r}")
        marginals = None if self.marginals is None else part_of(self.marginals, layout, part)
        return replace(derived, units=part.unit, marginals=marginals)

    def _derive(self, samples: Tensor, what: str) -> Self:
        lead = self.failed.ndim
        lost = ~finite_rows(samples, lead) & ~self.failed
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
            status=Status.from_failures(failed, self.info.get("beta")),
            layout=None,
            problem=None,
            prior=None,
            solver=None,
            source=self.source or Source(self),
            marginals=None,
            dims=None,
            units="",
            coords=fitting(self.coords, {n: k for n, k in self._sizes.items() if n == self.batch_dim}),
            warnings=warnings,
        )

    # --- plumbing ----------------------------------------------------------------------------------------------------
    @cached_property
    def _plain(self) -> bool:
        return self.log_weights is None and not bool(self.failed.any())

    @property
    def _closed(self) -> Marginals | None:
        """What knows quantiles without the samples."""
        return self.marginals if self.marginals is not None and self.marginals.has_quantiles else None

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
                f"Ask for a real quantity: result.map(torch.abs).{owner}{'' if owner == 'median' else '(...)'}.",
            )

    @cached_property
    def _order_statistics(self) -> OrderStatistics:
        weights = None if self.log_weights is None else self.weights
        failed = self.failed | self.unfinished  # samples of another distribution
        return OrderStatistics(samples=self.samples, failed=failed, weights=weights, ess=self.ess)

    def _ranked(self, owner: str) -> OrderStatistics:
        if bool(self.unfinished.all()):
            power = self._of_item("beta")
            assert power is not None  # what says that they are unfinished
            said = f"of chains that reached the power {float(power.max()):.2g} of the likelihood"
            repair = "Give a larger budget, or raise num_steps."
            raise invalid(owner, "samples", "of the posterior", said, repair)
        return self._order_statistics


def _per_cent(level: float) -> str:
    return f"Per cent are hundredths: {level / 100:.4g}." if 1 < level < 100 else ""


def _levels(q: object) -> list[Any]:
    if isinstance(q, (Tensor, np.ndarray)) and q.ndim == 1:
        return list(q.tolist())
    if isinstance(q, (str, bytes, Mapping, Tensor)) or not isinstance(q, Sequence) or not q:
        raise invalid_type("quantile", "q", "a number or a sequence of numbers", q)
    return list(q)
