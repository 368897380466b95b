"""Counts of photons that are left behind an absorber: computed tomography, radiography."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.noise.counts import log_poisson, over_std, poisson_quantile
from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide
from invsolve.noise.poisson import not_counts


@final
@dataclass(frozen=True, eq=False)
class PoissonTransmission(Entrywise):
    """Counts behind an absorber: ``y ~ Poisson(i0 exp(-clean) + background)``.

    ``clean`` is a line integral of attenuation (Beer and Lambert). ``y`` is in counts, whole numbers >= 0; ``clean``
    has no unit.

    Parameters
    ----------
    i0 : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Expected counts without an absorber, > 0.
    background : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Expected counts that did not pass the absorber (scatter, dark current), >= 0; 0 by default.

    Raises
    ------
    InputError, InputTypeError
        If a parameter is not positive (background: negative); by `solve`, for data that are negative or no whole
        numbers.

    Notes
    -----
    With background, -log p is not convex everywhere in ``clean``: its curvature is ``i0 e^-clean (1 - y background /
    mu^2)``, mu the expected counts. A Gaussian stands in for it at most ``1/2 + 3 (y + 1)^-1/2`` away from ``log(i0 /
    (y - background))``: from further a parabola of exp would lead far beyond the data.
    """

    i0: Parameter
    _: KW_ONLY
    background: Parameter = 0.0

    def __post_init__(self) -> None:
        self._checked("i0")
        self._checked("background", "non-negative")

    def expected(self, m: Tensor) -> Tensor:
        """The mean number of counts of a clean measurement."""
        return self.i0 * torch.exp(-m) + self.background

    def exposed(self, factor: float) -> PoissonTransmission:
        """The noise of counts from ``factor`` times the exposure: of a thinned measurement, or of several added up."""
        return self._with(i0=self.i0 * factor, background=self.background * factor)

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        passed, background = wide(self.i0, m).log() - m, wide(self.background, m).log()
        return log_poisson(y, self.expected(m), torch.logaddexp(passed, background))

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        return self._share(m) * y - self.i0 * torch.exp(-m)

    def _information(self, m: Tensor) -> Tensor:
        return self._share(m) * self.i0 * torch.exp(-m)

    def _share(self, m: Tensor) -> Tensor:
        """Of the expected counts those that passed the absorber, ``1 / (1 + background exp(m) / i0)``."""
        # Clamped: nothing times infinity is no share.
        return 1 / (1 + self.background / self.i0 * torch.exp(m).clamp_max(torch.finfo(m.dtype).max))

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        likely = -torch.log((y - self.background).clamp_min(0.5) / self.i0)
        reach = 0.5 + 3 * (y + 1).rsqrt()
        point = torch.minimum(torch.maximum(m, likely - reach), likely + reach)
        return point, self._information(point)

    def _residual(self, y: Tensor, m: Tensor) -> Tensor:
        return over_std(y, self.expected(m), torch.finfo(m.dtype).tiny)

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        return poisson_quantile(normal(torch.float64), self.expected(m))

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str]:
        return not_counts(y)
