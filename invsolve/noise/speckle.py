"""Speckle of coherent imaging: radar, ultrasound, laser light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import numbers
from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide

_FLOOR = 1e-12  # of the datum: a clean measurement below has the gradient there


@final
@dataclass(frozen=True, eq=False)
class Speckle(Entrywise):
    """Speckle of coherent imaging: intensities ``y = clean * Gamma(looks, 1 / looks)``.

    The mean over ``looks`` independent speckle patterns. Data and clean measurement are positive intensities (not
    amplitudes), in any unit; ``clean`` is the mean of y, and ``looks^-1/2`` its relative std.

    Parameters
    ----------
    looks : float or Tensor, shape (*out_shape) or (items, *out_shape)
        > 0; it need not be whole (the equivalent number of looks).

    Raises
    ------
    InputError, InputTypeError
        If ``looks`` is not positive; by `solve`, for data that are not positive.

    Notes
    -----
    A clean measurement <= 0 has probability zero (`log_prob` is minus infinity), the gradient at 1e-12 of the datum,
    and no information. Draws invert the distribution function, by scipy on the CPU.

    References
    ----------
    Goodman 2007, Speckle phenomena in optics: theory and applications, Roberts & Company.
    """

    looks: Parameter

    def lower_limits(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        looks = wide(self.looks, m)
        constant = looks * looks.log() - torch.special.gammaln(looks)
        log = constant + (looks - 1) * y.log() - looks * (m.log() + y / m)
        return torch.where(m <= 0, -math.inf, log)

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        m = torch.maximum(m, _FLOOR * y)
        return self.looks * (1 - y / m) / m

    def _information(self, m: Tensor) -> Tensor:
        return torch.where(m <= 0, 0.0, self.looks / m**2)

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        looks = wide(self.looks, m)
        point = torch.maximum(m, y / (1 + 10 * looks.rsqrt() + 20 / looks))  # y is never that many times its mean
        return point, self._information(point)

    def _residual(self, y: Tensor, m: Tensor) -> Tensor:
        return torch.where(m > 0, (y / m - 1) * wide(self.looks, m).sqrt(), super()._residual(y, m))

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        from scipy.special import gammainccinv, gammaincinv

        z = normal(torch.float64)
        looks = wide(self.looks, z).expand(z.shape).cpu().numpy()
        tail = torch.special.ndtr(-z.abs()).cpu().numpy()  # of the smaller side, where nothing is lost to 1
        below, above = (numbers(f(looks, tail) / looks).to(z) for f in (gammaincinv, gammainccinv))
        return m * torch.where(z > 0, above, below)

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str]:
        return y <= 0, "positive", "Leave out data that are 0 with iv.operators.Mask or Subsample."
