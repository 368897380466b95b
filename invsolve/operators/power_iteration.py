"""The largest singular value of a map that is known by its products only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import direction, inner


def largest_singular_value(normal: Callable[[Tensor], Tensor], x: Tensor, *, rtol: float, max_iter: int) -> Tensor:
    """Of A, ``(rows,)``, from the products ``normal(x) = A^H A x`` and a start ``(rows, ...)``.

    A row that is done keeps its value: it does not depend on the others.
    """
    value = x.real.new_zeros(len(x))
    done = torch.zeros(len(x), device=x.device, dtype=torch.bool)
    for _ in range(max_iter):
        x = direction(x)
        y = normal(x)
        previous, value = value, torch.where(done, value, inner(x, y).clamp_min(0).sqrt())
        x = y
        done = done | ((value - previous).abs() <= rtol * value)
        if bool(done.all()):
            break
    return value
