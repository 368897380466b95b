"""Increasing functions of a real number, applied to every entry: what makes a positive signal of a Gaussian one."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.distributions import Distribution
from invsolve.core.validation import Shape
from invsolve.operators.base import Operator, Pullback

_FAR = 40.0  # standard deviations: no float64 draw of a standard normal number is there
_HALVINGS = 64  # of an interval of 2 * _FAR, to the last bit


class EntryMap(Operator):
    """``x_i = f(u_i)`` for an increasing f with a derivative; real. Behind it lie the values of ``support``."""

    entrywise = True

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    @property
    @abc.abstractmethod
    def support(self) -> tuple[float, float]:
        """The interval that holds the values."""

    @abc.abstractmethod
    def slope(self, u: Tensor, x: Tensor) -> Tensor:
        """``f'(u)``, of the shape of ``u``, with ``x = f(u)``."""

    @abc.abstractmethod
    def log_slope(self, u: Tensor) -> Tensor:
        """``log f'(u)``."""

    @abc.abstractmethod
    def invert(self, x: Tensor) -> Tensor:
        """The u with ``f(u) = x``; infinite or NaN outside of the support."""

    @abc.abstractmethod
    def words(self, inner: str) -> str:
        """How the map of something that prints as ``inner`` prints."""

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        value = self._apply(x)
        slope = self.slope(x, value)
        return value, lambda v: slope * v

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        value = self._apply(x)
        return value, self.slope(x, value) * dx


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Exponential(EntryMap):
    """``x = exp(u)``."""

    in_shape: Shape

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, math.inf

    def _apply(self, x: Tensor) -> Tensor:
        return x.exp()

    def slope(self, u: Tensor, x: Tensor) -> Tensor:
        return x

    def log_slope(self, u: Tensor) -> Tensor:
        return u

    def invert(self, x: Tensor) -> Tensor:
        return x.log()

    def words(self, inner: str) -> str:
        return f"exp({inner})"


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SoftPlus(EntryMap):
    """``x = w log(1 + exp(u / w))``: u where that is well above 0, and an exponential tail below."""

    in_shape: Shape
    width: float

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, math.inf

    def _apply(self, x: Tensor) -> Tensor:
        return self.width * torch.logaddexp(x / self.width, torch.zeros_like(x))

    def slope(self, u: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(u / self.width)

    def log_slope(self, u: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(u / self.width)

    def invert(self, x: Tensor) -> Tensor:
        share = x / self.width
        return x + self.width * torch.log(-torch.expm1(-share))

    def words(self, inner: str) -> str:
        return f"softplus({inner}, width={self.width:g})"


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Logistic(EntryMap):
    """``x = low + (high - low) / (1 + exp(-u))``."""

    in_shape: Shape
    low: float
    high: float

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high

    def _apply(self, x: Tensor) -> Tensor:
        return (self.low + (self.high - self.low) * torch.sigmoid(x)).clamp(self.low, self.high)  # rounding

    def slope(self, u: Tensor, x: Tensor) -> Tensor:
        share = torch.sigmoid(u)
        return (self.high - self.low) * share * torch.sigmoid(-u)

    def log_slope(self, u: Tensor) -> Tensor:
        both = torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
        return math.log(self.high - self.low) + both

    def invert(self, x: Tensor) -> Tensor:
        return (x - self.low).log() - (self.high - x).log()

    def words(self, inner: str) -> str:
        if (self.low, self.high) == (0.0, 1.0):
            return f"sigmoid({inner})"
        return f"bounded({inner}, low={self.low:g}, high={self.high:g})"


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ByDistribution(EntryMap):
    """A vector of standard normal numbers to one of numbers with a distribution each, in the order of ``laws``."""

    laws: tuple[Distribution, ...]

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (len(self.laws),)

    @property
    def support(self) -> tuple[float, float]:
        """The least interval that holds all of them."""
        ends = [law.support for law in self.laws]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _apply(self, x: Tensor) -> Tensor:
        return torch.stack([law.transport(x[..., i]) for i, law in enumerate(self.laws)], -1).to(x.dtype)

    def slope(self, u: Tensor, x: Tensor) -> Tensor:
        return self.log_slope(u).exp()

    def log_slope(self, u: Tensor) -> Tensor:
        return torch.stack([law.log_slope(u[..., i]) for i, law in enumerate(self.laws)], -1).to(u.dtype)

    def invert(self, x: Tensor) -> Tensor:
        """By bisection: a distribution need not know its inverse."""
        wide = x.double()
        low, high = torch.full_like(wide, -_FAR), torch.full_like(wide, _FAR)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self._apply(middle) < wide
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        ends = torch.tensor([law.support for law in self.laws], dtype=torch.float64, device=x.device)
        middle = torch.where(wide > ends[:, 1], math.inf, (low + high) / 2)
        return torch.where(wide < ends[:, 0], -math.inf, middle).to(x.dtype)

    def words(self, inner: str) -> str:
        return ", ".join(map(repr, self.laws))
