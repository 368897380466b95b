"""Which rows run together, in which order, and what is bound for them.

A row is sample k of item b, number ``k * items + b``. Usually rows run as they are numbered, ``chunk`` at a time, and
everything is bound once. For rows that are the same to the bit in any batch (`tiled`) more must be constant than the
number of rows that run together: the kernels of matrix products add a row in another order where it stands at another
place of the block (widths of 9 or 25 on CPUs with 256-bit registers), and so does what is bound for all items at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

TILE = 8  # rows of a chunk, and items that are bound together, in `tiled`


@final
@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Rows whose items are bound together.

    Parameters
    ----------
    items : sequence of int
        The items to bind, which may repeat.
    rows : sequence of int or None
        The rows in the order in which they run; at a place that is None any other row of its chunk is run once more.
    """

    items: Sequence[int]
    rows: Sequence[int | None]


def in_order(items: int, samples: int) -> tuple[RowGroup, ...]:
    """All rows as they are numbered, with one binding for all items."""
    return (RowGroup(items=range(items), rows=range(items * samples)),)


def tiled(keys: Sequence[int], samples: int) -> tuple[RowGroup, ...]:
    """Rows for tiles of eight: item b is bound, and its sample k is run, at a place that keys[b] and k decide.

    These places are ``keys[b]`` and ``keys[b] + k`` modulo 8, so that the tiles of consecutive items with one sample
    and of one item with many samples are full. Where nothing belongs at a place, something else is run twice.
    """
    waiting: list[deque[int]] = [deque() for _ in range(TILE)]
    for item, key in enumerate(keys):
        waiting[key % TILE].append(item)
    groups = []
    while any(waiting):
        items = [queue.popleft() if queue else None for queue in waiting]
        there = [item for item in items if item is not None]
        rows: list[list[int]] = [[] for _ in range(TILE)]
        for k in range(samples):
            for b in there:
                rows[(keys[b] + k) % TILE].append(k * len(keys) + b)
        tiles = range(max(map(len, rows)))
        groups.append(
            RowGroup(
                items=[there[0] if item is None else item for item in items],
                rows=[at_place[t] if t < len(at_place) else None for t in tiles for at_place in rows],
            )
        )
    return tuple(groups)
