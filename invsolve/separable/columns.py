"""Functions of tables ``(rows, entries)`` at points that belong to single entries."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_AT_ONCE = 2**22  # entries that are evaluated at once


def ranks(column: Tensor) -> Tensor:
    """How many places before have the same number, ``(k,)``."""
    order = torch.argsort(column, stable=True)
    ordered = column[order]
    rank = torch.empty_like(column)
    rank[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return rank


def of_columns(f: Callable[[Tensor], Tensor], column: Tensor, z: Tensor, count: int) -> Tensor:
    """``f`` of ``z`` ``(k, q)``; f takes and gives tables ``(rows, count)``, and row i of z is in ``column[i]``."""
    rank = ranks(column)
    out, width = torch.empty_like(z), z.shape[1]
    step = max(1, _AT_ONCE // (count * width))
    for first in range(0, int(rank.max()) + 1, step):
        chosen = ((rank >= first) & (rank < first + step)).nonzero()[:, 0]
        row, own = rank[chosen] - first, column[chosen]
        table = z.new_zeros(int(row.max()) + 1, width, count)
        table[row, :, own] = z[chosen]
        out[chosen] = f(table.flatten(0, 1)).view(table.shape)[row, :, own]
    return out
