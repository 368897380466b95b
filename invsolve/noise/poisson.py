"""Counts whose expectation is proportional to the clean measurement."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.noise.counts import log_poisson, over_std, poisson_quantile
from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide

_FLOOR = 1e-6  # expected counts below which gradient and information are those there: finite
_INSIDE = 1e-2  # the least expected count around which a Gaussian is put


@final
@dataclass(frozen=True, eq=False)
class Poisson(Entrywise):
    """Counts of photons, decays or events: ``y ~ Poisson(counts_per_unit * clean + background)``.

    ``y`` is in *counts*: whole numbers >= 0 (as floating point).

    Parameters
    ----------
    counts_per_unit : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Expected counts for one unit of the clean measurement (exposure times efficiency), > 0.
    background : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Expected counts without signal (dark counts, scatter, randoms), >= 0; 0 by default.

    Raises
    ------
    InputError, InputTypeError
        If a parameter is not positive (background: negative); by `solve`, for data that are negative or no whole
        numbers.

    Notes
    -----
    A clean measurement below ``-background / counts_per_unit`` has probability zero (`log_prob` is minus infinity).
    Gradient and information stay finite there: those at an expectation of 1e-6 counts. A Gaussian stands in for it at
    an expectation of 0.01 counts or more. Draws invert the distribution function exactly at any mean (`counts`).
    """

    counts_per_unit: Parameter
    _: KW_ONLY
    background: Parameter = 0.0

    def __post_init__(self) -> None:
        self._checked("counts_per_unit")
        self._checked("background", "non-negative")

    def expected(self, m: Tensor) -> Tensor:
        """The mean number of counts of a clean measurement."""
        return self.counts_per_unit * m + self.background

    def exposed(self, factor: float) -> Poisson:
        """The noise of counts from ``factor`` times the exposure: of a thinned measurement, or of several added up."""
        return self._with(counts_per_unit=self.counts_per_unit * factor, background=self.background * factor)

    def lower_limits(self, y: Tensor) -> Tensor:
        return wide(-self.background / self.counts_per_unit, y)

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        return log_poisson(y, self.expected(m))

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        return self.counts_per_unit * (1 - y / self.expected(m).clamp_min(_FLOOR))

    def _information(self, m: Tensor) -> Tensor:
        return self.counts_per_unit * self.counts_per_unit / self.expected(m).clamp_min(_FLOOR)

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        point = torch.maximum(m, wide((_INSIDE - self.background) / self.counts_per_unit, m))
        return point, self._information(point)

    def _residual(self, y: Tensor, m: Tensor) -> Tensor:
        return over_std(y, self.expected(m), _FLOOR)

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        return poisson_quantile(normal(torch.float64), self.expected(m))

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str]:
        return not_counts(y)


def not_counts(y: Tensor) -> tuple[Tensor, str, str]:
    """Where data are no counts, and what to say."""
    return (
        (y < 0) | (y != y.round()),
        "whole numbers of counts, at least 0",
        "Give raw counts: data in other units are counts times a gain, which belongs into the noise.",
    )
