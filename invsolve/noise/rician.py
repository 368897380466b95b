"""Magnitudes of complex numbers with Gaussian noise: MR images without their phase."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide

_DEGREE = 40
_NEAR = 1e-4  # std from 0: below, the residual is that there
_LARGEST = 1e300
_FAR = 4.0  # std from the datum: beyond, the distribution is the Gaussian one


@final
@dataclass(frozen=True, eq=False)
class Rician(Entrywise):
    """The magnitude of a complex number with noise: ``y = |clean + std (N(0, 1) + i N(0, 1))|``.

    ``y`` > 0; ``clean`` is the magnitude without noise, and counts by its absolute value.

    Parameters
    ----------
    std : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Of one real component, > 0, in the units of the data.

    Raises
    ------
    InputError, InputTypeError
        If ``std`` is not positive; by `solve`, for data that are not positive.

    Notes
    -----
    At ``clean = 0`` the distribution is Rayleigh's, and says nothing of small changes: the information vanishes there
    as ``clean^2 / std^4``.

    References
    ----------
    Rice 1944, Mathematical analysis of random noise, doi:10.1002/j.1538-7305.1944.tb00874.x.
    Gudbjartsson & Patz 1995, The Rician distribution of noisy MRI data, MRM 34, 910-914, doi:10.1002/mrm.1910340618.
    """

    std: Parameter

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        variance, m = wide(self.std, m) ** 2, m.abs()
        bessel: Tensor = torch.special.i0e(y * m / variance).log()
        return y.log() - variance.log() - (y - m) ** 2 / (2 * variance) + bessel

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        variance = self.std * self.std
        x = (y * m / variance).clamp(-_LARGEST, _LARGEST)  # where the ratio is +-1
        ratio: Tensor = torch.special.i1e(x) / torch.special.i0e(x)
        return (m - y * ratio) / variance

    def _information(self, m: Tensor) -> Tensor:
        return _information(m / self.std) / (self.std * self.std)

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        point = torch.copysign(torch.maximum(m.abs(), y - _FAR * self.std), m)
        return point, self._information(point)

    def _residual(self, y: Tensor, m: Tensor) -> Tensor:
        # At 0 score and information vanish, and their ratio does not: y^2 / (2 std^2) - 1.
        m = torch.maximum(m.abs(), wide(_NEAR * self.std, m))
        return -self._grad(y, m) / self._information(m).sqrt()

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        return (m + self.std * normal(torch.complex128)).abs()

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str]:
        return y <= 0, "positive magnitudes", "Leave out data that are 0 with iv.operators.Mask or Subsample."


def _information(theta: Tensor) -> Tensor:
    """Fisher information of ``theta = clean / std`` at std 1: 0 at 0, where it is theta^2, to 1 at infinity."""
    square = theta**2
    s = torch.where(square < 1e300, square / (2 + square), 1.0)
    b1 = b2 = torch.zeros_like(s)
    x = 2 * s - 1
    first, *others = _chebyshev()
    for c in reversed(others):  # Clenshaw
        b1, b2 = 2 * x * b1 - b2 + c, b1
    return s * (x * b1 - b2 + first)


@cache
def _chebyshev() -> list[float]:
    """Coefficients in ``2 s - 1`` of the information over ``s = theta^2 / (2 + theta^2)``, which is smooth on [0, 1].

    The information is ``E[(y r(y theta) - theta)^2]``, r = I1 / I0, by Gauss-Legendre quadrature over 20 std.
    """
    from scipy.special import i0e, i1e

    nodes, weights = np.polynomial.legendre.leggauss(200)

    def over_s(x: Any) -> Any:
        theta = np.sqrt(2 * (1 + x) / (1 - x))[:, None]  # s = (1 + x) / 2
        low, high = np.maximum(theta - 10, 0), theta + 10
        y = (low + high) / 2 + (high - low) / 2 * nodes
        density = y * np.exp(-((y - theta) ** 2) / 2) * i0e(y * theta) * (high - low) / 2
        score = y * i1e(y * theta) / i0e(y * theta) - theta
        return (density * score**2 * weights).sum(1) / ((1 + x) / 2)

    found = np.polynomial.chebyshev.chebinterpolate(over_s, _DEGREE)
    return [float(c) for c in found]
