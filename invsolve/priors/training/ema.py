"""Averages of weights over training, with the length of the average chosen afterwards.

Power-function averages (Karras et al. 2024, arXiv 2312.02696, section 3): at time t the average weighs the weights of
time s by ``(g + 1) s^g / t^(g + 1)``. Its relative width is ``r = sqrt((g + 1) / ((g + 2)^2 (g + 3)))``. Snapshots of
two such averages, taken during training, combine to nearly any other one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import check_number
from invsolve.errors import invalid

WIDTHS = (0.05, 0.10)  # relative widths of the averages that are kept

Weights = dict[str, Tensor]


def check_width(owner: str, name: str, width: object) -> float:
    """A relative width that an average can have."""
    r = check_number(owner, name, width)
    if not 0 < r < 0.28:
        raise invalid(owner, name, "between 0 and 0.28", r)
    return r


@cache
def exponent(width: float) -> float:
    """The exponent g of a relative width r in (0, 0.28), by bisection: r falls with g."""
    r = check_width("exponent", "width", width)
    low, high = 0.0, 1e8
    for _ in range(200):
        g = (low + high) / 2
        low, high = (g, high) if math.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3))) > r else (low, g)
    return (low + high) / 2


def update(average: Weights, now: Mapping[str, Tensor], step: int, width: float) -> None:
    """Take in the weights after step ``step`` (1, 2, ...), in place."""
    beta = (1 - 1 / step) ** (exponent(width) + 1)
    for name, value in average.items():
        if value.is_floating_point() or value.is_complex():
            value.lerp_(now[name].to(value.dtype), 1 - beta)
        else:  # counters of a norm
            value.copy_(now[name])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """An average of a relative width at a step."""

    step: int
    width: float
    weights: Weights


def combine(snapshots: Sequence[Snapshot], step: int, width: float) -> Weights:
    """The average of ``width`` at ``step`` that lies nearest to a linear combination of the snapshots.

    Least squares in the space of profiles over training time; the coefficients add up to 1.
    """
    if not snapshots:
        raise invalid("combine", "snapshots", "at least one Snapshot", "none")
    profiles = [(s.step, exponent(s.width)) for s in snapshots]
    target = (step, exponent(width))
    A = torch.tensor([[_inner(p, q) for q in profiles] for p in profiles], dtype=torch.float64, device="cpu")
    b = torch.tensor([_inner(p, target) for p in profiles], dtype=torch.float64, device="cpu")
    x = torch.linalg.lstsq(A, b[:, None], driver="gelsd").solution[:, 0]
    x = x / x.sum()
    names = snapshots[0].weights
    return {
        name: sum(
            (float(c) * s.weights[name].double() for c, s in zip(x, snapshots, strict=True)),
            torch.zeros((), dtype=torch.float64, device="cpu"),
        ).to(names[name].dtype)
        for name in names
    }


def _inner(p: tuple[float, float], q: tuple[float, float]) -> float:
    """The inner product over time of two profiles (time, exponent)."""
    (ta, ga), (tb, gb) = p, q
    power = gb if ta < tb else -ga
    return float((ga + 1) * (gb + 1) * (ta / tb) ** power / ((ga + gb + 1) * max(ta, tb)))
