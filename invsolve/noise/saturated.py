"""Detectors that end: readings beyond their range are its limits."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.validation import Shape, kind_dtype
from invsolve.errors import invalid
from invsolve.noise.base import spoken
from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide

_FAR = 1e8  # std: beyond, a limit is as good as none
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@final
@dataclass(frozen=True, eq=False)
class Saturated(Entrywise):
    """Censored data: ``y = clip(clean + std * N(0, 1), low, high)``.

    A datum at a limit says only that the reading was there or beyond; its `log_prob` is that of a probability, of the
    others that of a density.

    Parameters
    ----------
    std : float or Tensor, shape (*out_shape) or (items, *out_shape)
        > 0, in the units of the data. Large beside ``high - low`` it leaves little but which side was hit.
    low, high : float or Tensor, shape (*out_shape) or (items, *out_shape), optional
        The limits of the detector, ``low`` < ``high``, in the units of the data; None for a side without a limit.

    Raises
    ------
    InputError, InputTypeError
        If ``std`` is not positive, or there are no limits, or they do not leave an interval; by `solve`, for data
        outside of the limits.

    Notes
    -----
    A Gaussian stands in for it with the curvature of -log p at the datum itself, which is 1 / std^2 between the limits
    and never below 0 (log p is concave). Where ``clean`` is far beyond a limit there is no information.

    References
    ----------
    Tobin 1958, Estimation of relationships for limited dependent variables, Econometrica 26, 24-36,
    doi:10.2307/1907382.
    """

    std: Parameter
    _: KW_ONLY
    low: Parameter | None = None
    high: Parameter | None = None

    def __post_init__(self) -> None:
        self._checked("std")
        if self.low is None and self.high is None:
            raise invalid("Saturated", "low", "given, or `high`, or both", "neither", "Use Gaussian without limits.")
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                self._checked(name, "any")
        if isinstance(self.low, float) and isinstance(self.high, float) and self.low >= self.high:
            raise invalid("Saturated", "low", f"below `high` ({self.high:g})", self.low)

    def check(
        self, out_shape: Shape, batch: int, dtype: torch.dtype, device: torch.device, *, owner: str | None = None
    ) -> Self:
        out, real = super().check(out_shape, batch, dtype, device, owner=owner), kind_dtype(dtype, "real")
        low, high = (torch.as_tensor(limit, dtype=torch.float64, device=device) for limit in out._limits)
        if bool((low >= high).any()):
            (speaker, name), (_, upper) = spoken(self, "low", owner), spoken(self, "high", owner)
            raise invalid(speaker, name, f"below `{upper}` everywhere", "some that are not")
        # As the data have them: 0.7 in single precision is less than 0.7.
        return out._with(
            **{
                name: value.to(real).double()
                if isinstance(value, Tensor)
                else float(torch.tensor(value, dtype=real, device="cpu"))
                for name, value in (("low", out.low), ("high", out.high))
                if value is not None
            }
        )

    @property
    def _limits(self) -> tuple[Parameter, Parameter]:
        return -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high

    def _scaled(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """The limits as seen from m, in std."""
        low, high = (wide(v, m) for v in self._limits)
        return (low - m) / self.std, (high - m) / self.std

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        (a, b), (low, high) = self._scaled(m), self._limits
        std = wide(self.std, m)
        log: Tensor = -0.5 * ((y - m) / std) ** 2 - std.log() - _LOG_SQRT_2PI
        log = torch.where(y <= low, torch.special.log_ndtr(a), log)
        return torch.where(y >= high, torch.special.log_ndtr(-b), log)

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        (a, b), (low, high) = self._scaled(m), self._limits
        slope = (m - y) / self.std
        slope = torch.where(y <= low, hazard(a), slope)
        return torch.where(y >= high, -hazard(-b), slope) / self.std

    def _information(self, m: Tensor) -> Tensor:
        a, b = (v.clamp(-_FAR, _FAR) for v in self._scaled(m))  # infinity times a density of 0 is NaN
        # int_a^b z^2 phi dz = Phi(b) - Phi(a) + a phi(a) - b phi(b), and phi^2 / Phi of either limit.
        side = torch.where(a + b > 0, -1.0, torch.ones_like(a))  # of the tails that do not cancel
        between = side * (torch.special.ndtr(side * b) - torch.special.ndtr(side * a))
        ends = a * _density(a) - b * _density(b)
        beyond = _density(a) * hazard(a) + _density(b) * hazard(-b)
        total: Tensor = between + ends + beyond
        return total.clamp_min(0) / (self.std * self.std)

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        (a, b), (low, high) = self._scaled(m), self._limits
        weight = torch.ones_like(m)
        weight = torch.where(y <= low, _bend(a), weight)
        return m, torch.where(y >= high, _bend(-b), weight) / (self.std * self.std)

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        low, high = (wide(v, m) for v in self._limits)
        return torch.minimum(torch.maximum(m + self.std * normal(torch.float64), low), high)

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str]:
        low, high = self._limits
        words = " and ".join(
            f"{side} `{name}`{f' ({value:g})' if isinstance(value, float) else ''}"
            for side, name, value in (("at least", "low", self.low), ("at most", "high", self.high))
            if value is not None
        )
        return (y < low) | (y > high), words, "Clip the data to the range of the detector."


def hazard(a: Tensor) -> Tensor:
    """``phi(a) / Phi(a)``, without cancellation or overflow: ``sqrt(2 / pi) / erfcx(-a / sqrt 2)``; 0 at infinity."""
    mills: Tensor = torch.special.erfcx(-a / math.sqrt(2))
    return math.sqrt(2 / math.pi) / mills


def _bend(a: Tensor) -> Tensor:
    """The second derivative of ``-log Phi``, ``h (a + h)``, between 0 and 1; in the far tail ``1 - 1 / a^2``."""
    a = a.clamp(-_FAR, _FAR)
    h = hazard(a)
    return torch.where(a < -1e3, 1.0, h * (a + h)).clamp(0, 1)


def _density(a: Tensor) -> Tensor:
    return torch.exp(-0.5 * a**2 - _LOG_SQRT_2PI)
