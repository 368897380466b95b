"""Readings of few digits: the value was somewhere in an interval."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_FINE = 0.5  # steps in std below which the information is that of a series
_BINS = 18  # to either side: 9 std of the coarsest step that is summed


@final
@dataclass(frozen=True, eq=False)
class Quantised(Entrywise):
    """Gaussian noise, then rounded to multiples of a step: ``y = step * round((clean + std * N(0, 1)) / step)``.

    The likelihood is the probability of the interval ``y - step / 2 ... y + step / 2``.

    Parameters
    ----------
    std : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Of the noise before rounding, > 0, in the units of the data.
    step : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Between neighbouring readings, > 0, in the units of the data.

    Raises
    ------
    InputError, InputTypeError
        If a parameter is not positive; by `solve`, for data that are no multiples of the step (to a thousandth of it,
        or to their rounding).

    Notes
    -----
    The information is summed over the intervals; below half a std it is ``1 / (std^2 + step^2 / 12)``, right to 1e-5.
    With a std far below the step there is none in the middle of an interval. A Gaussian stands in for it with the
    curvature of -log p at the datum itself, never below 0.

    References
    ----------
    Sheppard 1898, On the calculation of the most probable values of frequency-constants, for data arranged according to
    equidistant division of a scale, doi:10.1112/plms/s1-29.1.353 (its moments).
    """

    std: Parameter
    _: KW_ONLY
    step: Parameter

    def _ends(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The interval of y as seen from m, in std, its nearer end first; and the side, -1 or 1, on which it lies."""
        centre, half = (y - m) / self.std, wide(self.step / (2 * self.std), m)
        side = torch.where(centre < 0, -1.0, torch.ones_like(centre))
        return centre.abs() - half, centre.abs() + half, side

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        near, far, _ = self._ends(y, m)
        return _log_between(near, far)

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        near, far, side = self._ends(y, m)
        return -side * _mean_between(near, far) / self.std

    def _information(self, m: Tensor) -> Tensor:
        std, step = (wide(v, m) for v in (self.std, self.step))
        fine = 1 / (std**2 + step**2 / 12)  # to the fifth order of step / std
        middle = step * torch.round(m / step)
        total = torch.zeros_like(m)
        for k in range(-_BINS, _BINS + 1):
            near, far, _ = self._ends(middle + k * step, m)
            total = total + _log_between(near, far).exp() * _mean_between(near, far) ** 2
        return torch.where(step < _FINE * std, fine, total / std**2)

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        near, far, _ = self._ends(y, m)
        log = _log_between(near, far)
        a, b = _over(near, log), _over(far, log)
        bend = (a - b) ** 2 + far * b - near * a  # 1 - Var[z | interval]
        return m, bend.clamp(0, 1) / (self.std * self.std)

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        return self.step * torch.round((m + self.std * normal(torch.float64)) / self.step)

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str]:
        number = y / self.step
        allowed = (1e-6 * number.abs()).clamp_min(1e-3)
        return (
            (number - number.round()).abs() > allowed,
            "multiples of `step`",
            "Subtract the offset of the scale first, or give its true step.",
        )


def _log_between(near: Tensor, far: Tensor) -> Tensor:
    """Log of the probability of a standard normal number between ``near`` and ``far`` >= |near|."""
    top: Tensor = torch.special.log_ndtr(-near)
    less: Tensor = torch.special.log_ndtr(-far)
    return top + torch.log(-torch.expm1(less - top))


def _over(end: Tensor, log: Tensor) -> Tensor:
    """The density at the end of an interval over the probability of it."""
    return torch.exp(-0.5 * end**2 - _LOG_SQRT_2PI - log)


def _mean_between(near: Tensor, far: Tensor) -> Tensor:
    """The mean of a standard normal number given that it is between ``near`` and ``far``."""
    log = _log_between(near, far)
    return _over(near, log) - _over(far, log)
