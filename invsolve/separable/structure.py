"""Which entry of the signal a datum depends on, where it is one alone."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from invsolve.operators.base import LinearOperator, Operator

_ROUNDING = 1e-11  # of the largest datum: what sums of other entries times 0 leave in float64


def datum_entries(A: Operator, signals: Tensor) -> Tensor | None:
    """Of every datum the entry of the flattened signal that moves it, ``(items or 1, m)`` int64; -1: none does.

    None where a datum depends on several. ``signals`` ``(pairs, 2, *in_shape)``, float64, are independent draws. In
    each pair the entries of the first whose number has its bit k set are replaced by those of the second, for all k.
    A datum that depends on one entry is then one of the two it had, and the bits at which it is the other one spell
    that entry's number. One that depends on two entries is neither, at a bit in which their numbers differ.

    A linear operator is known by this, up to what the rounding hides. Of another one it is known at these signals only,
    as two parts of the signal may meet elsewhere: who builds on it looks again at the signals that count.
    """
    n, m = prod(A.in_shape), prod(A.out_shape)
    number = torch.arange(n, device=signals.device)
    found = torch.full((A.batch or 1, m), -1, device=signals.device)
    for first, second in signals.flatten(2):
        a, b = _data(A, torch.stack((first, second)))
        size = _ROUNDING * torch.maximum(_largest(a), _largest(b))
        moved = ~_near(a, b, size)
        code = torch.zeros_like(found)
        for k in range((n - 1).bit_length()):
            (mixed,) = _data(A, torch.where((number >> k & 1).bool(), second, first)[None])
            is_a, is_b = _near(mixed, a, size), _near(mixed, b, size)
            if not bool((is_a | is_b).all()):
                return None
            code += (is_b & ~is_a).long() << k
        if bool((moved & ((code >= n) | (found >= 0) & (found != code))).any()):
            return None
        found = torch.where(moved, code, found)
    if isinstance(A, LinearOperator) or bool((found >= 0).all()):
        return found
    # What these signals did not move, such as a pixel beyond the range of its detector, may move elsewhere.
    return torch.where(found < 0, number, found) if m == n else None


def _data(A: Operator, signals: Tensor) -> Tensor:
    """``(k, n)`` -> ``(k, items or 1, m)``."""
    count, items = len(signals), A.batch or 1
    rows = signals.view(-1, *A.in_shape).repeat_interleave(items, 0)
    if A.batch is not None:
        A = A.take(torch.arange(items, device=signals.device).repeat(count))
    return A(rows).double().view(count, items, -1)


def _largest(v: Tensor) -> Tensor:
    return v.abs().nan_to_num(0.0, posinf=0.0).amax(-1, keepdim=True)


def _near(u: Tensor, v: Tensor, size: Tensor) -> Tensor:
    return (u == v) | ((u - v).abs() <= size) | (u.isnan() & v.isnan())
