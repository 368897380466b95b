"""Steps in time, and how many of them are taken together: the pieces of every evolution equation.

A step maps ``(state, t)`` to the state at ``t + h``. States are tensors ``(rows, ...)``. What torch needs to go back
through n steps is kept of every sqrt(n)-th only, from ``PLAIN`` steps on: the others are computed once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invsolve.core.validation import check_positive
from invsolve.errors import invalid, invalid_type

Rate = Callable[[Tensor, float], Tensor]
Step = Callable[[Tensor, float], Tensor]
PLAIN = 40
STABLE = 2.8  # of classical Runge-Kutta of order 4: h times the largest frequency, and the largest rate of decay


def rk4(rate: Rate, h: float) -> Step:
    """Runge's and Kutta's classical step of ``u' = rate(u, t)``, of order 4."""

    def step(u: Tensor, t: float) -> Tensor:
        a = rate(u, t)
        b = rate(u + (h / 2) * a, t + h / 2)
        c = rate(u + (h / 2) * b, t + h / 2)
        d = rate(u + h * c, t + h)
        return u + (h / 6) * (a + 2 * (b + c) + d)

    return step


def integrating_factor_rk4(rate: Rate, linear: Tensor, h: float) -> Step:
    """The same of ``u' = linear u + rate(u, t)`` with a diagonal ``linear``, which is integrated exactly."""
    half = torch.exp(linear * (h / 2))
    full = half * half

    def step(u: Tensor, t: float) -> Tensor:
        at_half, at_end = half * u, full * u
        a = rate(u, t)
        b = rate(at_half + (h / 2) * (half * a), t + h / 2)
        c = rate(at_half + (h / 2) * b, t + h / 2)
        d = rate(at_end + h * (half * c), t + h)
        return at_end + (h / 6) * (full * a + 2 * half * (b + c) + d)

    return step


def march(step: Step, state: Tensor, *, start: float, h: float, steps: int) -> Tensor:
    """The state after so many steps."""

    def some(value: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            value = step(value, start + i * h)
        return value

    if steps <= PLAIN or not (torch.is_grad_enabled() and state.requires_grad):
        return some(state, 0, steps)
    width = math.isqrt(steps - 1) + 1
    for first in range(0, steps, width):
        last = min(first + width, steps)
        state = checkpoint(some, state, first, last, use_reentrant=False, preserve_rng_state=False)
    return state


def check_times(owner: str, value: Any) -> tuple[tuple[float, ...], bool]:
    """Times > 0 that grow, and whether there is an axis of them: not for a single number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (check_positive(owner, "times", value),), False
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise invalid_type(owner, "times", "a time > 0 or several", value)
    times = tuple(check_positive(owner, "times", float(t)) for t in value)
    if not times or any(b <= a for a, b in zip(times, times[1:], strict=False)):
        raise invalid(owner, "times", "one or more times that grow", times)
    return times, True


def intervals(times: Sequence[float]) -> list[tuple[float, float]]:
    """(start, length) of what lies between 0 and the times."""
    before = (0.0, *times[:-1])
    return [(a, b - a) for a, b in zip(before, times, strict=True)]


def doublings(needed: Tensor, most: int) -> list[int]:
    """A multiplier 1, 2, 4, ... for each row, at least what it needs; 0 beyond ``most``, and for NaN."""
    values = needed.detach().double().cpu().tolist()
    return [1 << max(0, math.ceil(math.log2(max(v, 1.0)) - 1e-9)) if v <= most else 0 for v in values]


def in_groups(x: Tensor, keys: Sequence[int], run: Callable[[Tensor, int, Tensor | None], Tensor]) -> Tensor:
    """``run(rows, key, index)`` of rows with the same key (None: all), in the order of ``x``."""
    kinds = sorted(set(keys))
    if len(kinds) <= 1:
        return run(x, kinds[0] if kinds else 1, None)
    places = [[i for i, key in enumerate(keys) if key == kind] for kind in kinds]
    index = [torch.tensor(some, dtype=torch.int64, device=x.device) for some in places]
    parts = torch.cat([run(x.index_select(0, i), kind, i) for i, kind in zip(index, kinds, strict=True)])
    order = torch.argsort(torch.cat(index))
    return parts.index_select(0, order)
