"""The loop that a careful person would write by hand: what `overhead.py` compares every package with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from invsolve.priors import Prior

Normal = Callable[[int], Tensor]  # number of the step -> standard normal numbers like the state
PRIOR_STD = 1.0  # s in PiGDM's r^2 = t^2 s^2 / (s^2 + t^2)


class Pullback(Protocol):
    """``x``, level -> the stub ``D = x / (1 + level^2)`` and the map ``v -> dD/dx v``."""

    def __call__(self, x: Tensor, level: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]: ...


def autograd(x: Tensor, level: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """As through a network."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = leaf / (1 + level * level)
    return value.detach(), lambda v: torch.autograd.grad(value, leaf, v)[0]


def closed(x: Tensor, level: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """As through a formula: the least work that is possible."""
    factor = 1 + level * level
    return x / factor, lambda v: v / factor


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Stub(Prior):
    """The stub as a prior; its pullback is the base class's, by autograd."""

    mean: Tensor
    scale: float = PRIOR_STD

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.mean.shape)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma * sigma)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClosedStub(Stub):
    """The stub with its pullback in closed form."""

    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        factor = 1 + sigma * sigma
        return x / factor, lambda v: v / factor


def by_hand(
    x: Tensor, y: Tensor, mask: Tensor, levels: Sequence[float], noise_std: float, pullback: Pullback, normal: Normal
) -> Tensor:
    """PiGDM with ancestral steps in expressions as they stand in the paper; ``levels`` end in 0."""
    with torch.no_grad():
        for i, (a, b) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            value, pull = pullback(x, a)
            r2 = a * a * PRIOR_STD**2 / (PRIOR_STD**2 + a * a)
            guided = mask * ((y - mask * value) / (r2 * mask + noise_std**2))
            target = value + a * a * pull(guided)
            tau = 1 - (b / a) ** 2
            keep = b / a * math.sqrt(1 - tau)
            x = target if b == 0 else keep * x + (1 - keep) * target + b * math.sqrt(tau) * normal(i)
    return x


def in_place(
    x: Tensor, y: Tensor, mask: Tensor, levels: Sequence[float], noise_std: float, pullback: Pullback, normal: Normal
) -> Tensor:
    """The same, tuned: every temporary of its own is written over, and sums are fused with products."""
    with torch.no_grad():
        for i, (a, b) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            value, pull = pullback(x, a)
            r2 = a * a * PRIOR_STD**2 / (PRIOR_STD**2 + a * a)
            guided = torch.addcmul(y, mask, value, value=-1).div_(r2 * mask + noise_std**2).mul_(mask)
            target = value.add_(pull(guided), alpha=a * a)
            tau = 1 - (b / a) ** 2
            keep = b / a * math.sqrt(1 - tau)
            x = (
                target
                if b == 0
                else target.mul_(1 - keep).add_(x, alpha=keep).add_(normal(i), alpha=b * math.sqrt(tau))
            )
    return x


def network_and_operator(
    x: Tensor, y: Tensor, mask: Tensor, levels: Sequence[float], noise_std: float, pullback: Pullback, normal: Normal
) -> Tensor:
    """Only what a step asks of the network and the operator: D, its pullback, A and A^H. What is beyond it is
    overhead.
    """
    with torch.no_grad():
        for a in levels[:-1]:
            value, pull = pullback(x, a)
            pull(mask * (mask * value))
    return x
