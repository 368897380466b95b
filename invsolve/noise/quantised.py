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
_FAR = 1e4  # std from which an interval is in the tail
_LARGE = 700.0  # exponents for which the part that is cut off is nothing
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

    def _interval(self, y: Tensor, m: Tensor) -> tuple[_Interval, Tensor]:
        """The interval of y as seen from m, and the side, -1 or 1, on which it lies."""
        centre, half = (y - m) / self.std, wide(self.step / (2 * self.std), m)
        side = torch.where(centre < 0, -1.0, torch.ones_like(centre))
        return _Interval(near=centre.abs() - half, far=centre.abs() + half, width=2 * half), side

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        return self._interval(y, m)[0].log_prob()

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        interval, side = self._interval(y, m)
        return -side * interval.mean() / self.std

    def _information(self, m: Tensor) -> Tensor:
        std, step = (wide(v, m) for v in (self.std, self.step))
        fine = 1 / (std**2 + step**2 / 12)  # to the fifth order of step / std
        m = torch.where((m / step).isfinite(), m, 0.0)  # it is periodic, and such m have no place in a period
        middle = step * torch.round(m / step)
        total = torch.zeros_like(m)
        for k in range(-_BINS, _BINS + 1):
            interval = self._interval(middle + k * step, m)[0]
            total = total + interval.log_prob().exp() * interval.mean() ** 2
        return torch.where(step < _FINE * std, fine, total / std**2)

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        return m, self._interval(y, m)[0].bend() / (self.std * self.std)

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


@dataclass(frozen=True, kw_only=True)
class _Interval:
    """Of a standard normal number: from ``near`` to ``far`` >= |near|, of the ``width`` that rounding may take away.

    Far out (``near`` above 1e4) by ``P(z > near + d) / P(z > near) = exp(-d (near + d / 2)) / (1 + d / near)`` and the
    mean and variance of an exponential distribution that is cut off, all to the order of ``near^-2``.
    """

    near: Tensor
    far: Tensor
    width: Tensor

    @property
    def _tail(self) -> Tensor:
        return self.near > _FAR

    def log_prob(self) -> Tensor:
        """Log of its probability."""
        top: Tensor = torch.special.log_ndtr(-self.near)
        less: Tensor = torch.special.log_ndtr(-self.far)
        less = torch.where(self._tail, -self.width * (self.near + self.width / 2) - self._share.log1p(), less - top)
        # Where the probability itself has no logarithm in floating point.
        return torch.where(top == -math.inf, -math.inf, top + torch.log(-torch.expm1(less)))

    def mean(self) -> Tensor:
        """The mean of a number given that it is inside."""
        log = self.log_prob()
        slope = self.width * self.near
        beyond = self.near + (1 - slope.clamp_max(_LARGE) / torch.expm1(slope.clamp(1e-300, _LARGE))) / self.near
        return torch.where(self._tail, beyond, _over(self.near, log) - _over(self.far, log))

    def bend(self) -> Tensor:
        """The second derivative of -log of its probability in a shift of it: 1 less the variance inside, 0 to 1."""
        log = self.log_prob()
        a, b = _over(self.near, log), _over(self.far, log)
        bend = (a - b) ** 2 + self.far * b - self.near * a
        return torch.where(self._tail, 1.0, bend.clamp(0, 1))

    @property
    def _share(self) -> Tensor:
        return self.width / self.near.clamp_min(_FAR)


def _over(end: Tensor, log: Tensor) -> Tensor:
    """The density at the end of an interval over the probability of it."""
    return torch.exp(-0.5 * end**2 - _LOG_SQRT_2PI - log)
