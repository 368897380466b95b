"""Where the mass of a density of one to three variables is: cells that are halved until no peak can hide in them.

On a cell of widths w whose corners are known, a function whose second derivatives along the axes are at most k_j in
size exceeds its highest corner by at most ``sum_j k_j w_j^2 / 8`` (linear interpolation, axis by axis). Cells which a
peak worth counting may hide in by that bound, with curvatures measured on the way, are halved: branch and bound in the
manner of Piyavskii 1972 and Shubert 1972, with a curvature in the place of a slope. Of a Gaussian peak of std s a cell
at a distance r must be no wider than about r, so the number of cells grows with log(1 / s) only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import final

Node = tuple[float, ...]
Asking = Generator[list[Node], list[float], None]  # asks for nodes, is sent their log densities

BOUND = 8.0  # standard deviations of the prior that nodes may reach
_REACH = 4.0  # the part of it that is always scanned
_LAYER = 2.0  # what is added to it where the density does not end
WIDEST = {1: 0.25, 2: 0.5, 3: 1.0}  # of cells, by dimension: what is scanned however flat it looks
WIDEST_SAMPLED = {1: 0.5, 2: 1.0, 3: 2.0}  # the same where every node takes an ensemble
# How much more curved than the peaks that were found another one may be: half (0.7) of their width in one dimension
# (two). In three dimensions it may be as narrow as they are: half of that would cost eight times the cells.
_SHARPER = {1: 4.0, 2: 2.0, 3: 1.0}
_NEAR = 2.0  # nats below the highest node: where the curvature is that of a peak
_FINE = 1.0  # nats by which the density may exceed the corners of a cell that needs no halving
_MOST = {1: 6_000, 2: 6_000, 3: 8_000}  # nodes of a scan, beyond those of its widest cells


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """``seeds``: all nodes within the drop of the highest; ``steps``: the spacing of a lattice that holds them.

    ``hidden``: log of a bound of the mass in cells that were not halved any more, for curvatures as they were seen.
    """

    seeds: list[Node]
    steps: Node
    hidden: float


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Cell:
    low: Node
    widths: Node
    bend: Node  # nats, by axis: what the density may rise above the corners, by second differences nearby

    def edges(self, axis: int) -> list[tuple[Node, Node, Node]]:
        """The edges along an axis: start, middle and end of each."""
        at = [(x, x + w) for x, w in zip(self.low, self.widths, strict=True)]
        a, b = at[axis]
        rest = itertools.product(*(ends for i, ends in enumerate(at) if i != axis))
        return [tuple(r[:axis] + (v,) + r[axis:] for v in (a, (a + b) / 2, b)) for r in rest]  # type: ignore[misc]

    @property
    def corners(self) -> list[Node]:
        return [*itertools.product(*((x, x + w) for x, w in zip(self.low, self.widths, strict=True)))]


def scan(
    values: dict[Node, float], dims: int, drop: float, widest: float
) -> Generator[list[Node], list[float], Scan | None]:
    """Find all nodes within ``drop`` nats of the highest. ``values`` is filled; None if no value is finite.

    Cells are at most ``widest`` prior standard deviations wide. Another peak is seen if it is at least half as wide
    along every axis (0.7 in two dimensions, as wide in three) as the narrowest that was found, and if its flanks show
    where cells meet: a cell is halved while it may hide a third of the rise that the middle of its parent showed. What
    is not seen is a narrower peak on a flat floor: of 12 nats, one narrower than a tenth of ``widest``.
    """
    return (yield from _Search(values, dims, drop, widest).run())


class _Search:
    def __init__(self, values: dict[Node, float], dims: int, drop: float, widest: float) -> None:
        self.values, self.dims, self.drop, self.widest = values, dims, drop, widest
        self.cells = [_Cell(low=(-_REACH,) * dims, widths=(2 * _REACH,) * dims, bend=(0.0,) * dims)]
        self.ends = [[-_REACH, _REACH] for _ in range(dims)]  # of what is scanned, by axis
        # By axis and middle node, from the narrowest edge that it halved: curvature, lowest value of the three nodes.
        self.curvatures: list[dict[Node, tuple[float, float]]] = [{} for _ in range(dims)]

    def run(self) -> Generator[list[Node], list[float], Scan | None]:
        yield from self._know([(0.0,) * self.dims, *self.cells[0].corners])
        while self.cells[0].widths[-1] > self.widest:  # the axes are halved in turn, the last one last
            for axis in range(self.dims):
                yield from self._halve([(cell, axis) for cell in self.cells])
        most = len(self.values) + _MOST[self.dims]
        while (best := max(self.values.values())) > -math.inf:
            sharpest = self._sharpest(best)
            split = [(cell, i) for cell in self.cells if (i := self._axis(cell, best, sharpest)) is not None]
            if len(self.values) >= most:
                return self._found(best, sharpest)
            if split:
                yield from self._halve(split)
            elif layer := self._layer(best):
                yield from self._know([n for cell in layer for n in cell.corners])
                self.cells += layer
            else:
                return self._found(best, sharpest)
        return None

    def _know(self, nodes: list[Node]) -> Asking:
        fresh = [n for n in sorted(set(nodes)) if n not in self.values]
        if fresh:
            sent = yield fresh
            self.values.update((n, v if math.isfinite(v) else -math.inf) for n, v in zip(fresh, sent, strict=True))

    def _halve(self, split: list[tuple[_Cell, int]]) -> Asking:
        yield from self._know([middle for cell, axis in split for _, middle, _ in cell.edges(axis)])
        gone = {id(cell) for cell, _ in split}
        self.cells = [cell for cell in self.cells if id(cell) not in gone]
        for cell, axis in split:
            self.cells += self._halves(cell, axis)

    def _top(self, cell: _Cell) -> float:
        return max(self.values[n] for n in cell.corners)

    def _sharpest(self, best: float) -> Node:
        """The largest curvature of a peak along every axis, of those that count."""
        return tuple(
            max(
                (k for n, (k, low) in of.items() if self.values[n] >= best - _NEAR and low >= best - self.drop),
                default=0.0,
            )
            for of in self.curvatures
        )

    def _rise(self, cell: _Cell, sharpest: Node) -> Node:
        """By axis: the nats by which the density may exceed the corners of a cell."""
        much = _SHARPER[self.dims] / 8
        return tuple(max(b, much * k * w * w) for b, k, w in zip(cell.bend, sharpest, cell.widths, strict=True))

    def _axis(self, cell: _Cell, best: float, sharpest: Node) -> int | None:
        """The axis along which a cell must be halved, so that no peak hides in it; None if it need not be."""
        rise = self._rise(cell, sharpest)
        if sum(rise) <= _FINE or not self._top(cell) + sum(rise) >= best - self.drop:
            return None
        return max(range(self.dims), key=lambda i: rise[i])

    def _halves(self, cell: _Cell, axis: int) -> tuple[_Cell, _Cell]:
        bend, half = 0.0, cell.widths[axis] / 2
        for edge in cell.edges(axis):
            a, b, c = (self.values[n] for n in edge)
            if min(a, b, c) > -math.inf:
                second = a - 2 * b + c
                bend = max(bend, abs(second) / 2)
                self.curvatures[axis][edge[1]] = max(0.0, -second / half**2), min(a, b, c)
        # Smooth functions rise a quarter of that in either half; a third more is allowed for. That a middle happens to
        # lie on the line between the ends does not straighten what was seen to be bent.
        bend = max(bend / 3, cell.bend[axis] / 8)
        widths = cell.widths[:axis] + (half,) + cell.widths[axis + 1 :]
        bends = cell.bend[:axis] + (bend,) + cell.bend[axis + 1 :]
        right = cell.low[:axis] + (cell.low[axis] + half,) + cell.low[axis + 1 :]
        return _Cell(low=cell.low, widths=widths, bend=bends), _Cell(low=right, widths=widths, bend=bends)

    def _layer(self, best: float) -> list[_Cell]:
        """Cells beyond one end of what is scanned, where the density is not low there or rises towards it."""
        for axis, ends in enumerate(self.ends):
            for side, end in enumerate(ends):
                if abs(end) >= BOUND or not self._leaves(axis, side, best):
                    continue
                # Of one width, so that all nodes stay dyadic.
                starts = [[low + _LAYER * k for k in range(round((high - low) / _LAYER))] for low, high in self.ends]
                starts[axis] = [end - _LAYER * (side == 0)]
                ends[side] = end + math.copysign(_LAYER, end)
                return [
                    _Cell(low=low, widths=(_LAYER,) * self.dims, bend=(0.0,) * self.dims)
                    for low in itertools.product(*starts)
                ]
        return []

    def _leaves(self, axis: int, side: int, best: float) -> bool:
        end = self.ends[axis][side]
        for cell in self.cells:
            if cell.low[axis] + cell.widths[axis] * side != end:
                continue
            for start, _, stop in cell.edges(axis):
                inner, outer = (self.values[n] for n in ((start, stop) if side else (stop, start)))
                rise = max(0.0, outer - inner) / cell.widths[axis] * _LAYER if inner > -math.inf else 0.0
                if outer + rise >= best - self.drop:
                    return True
        return False

    def _found(self, best: float, sharpest: Node) -> Scan | None:
        if best == -math.inf:
            return None
        steps = [_LAYER] * self.dims
        hidden: list[float] = []
        for cell in self.cells:
            top, rise = self._top(cell), self._rise(cell, sharpest)
            if top >= best - self.drop:
                steps = [min(pair) for pair in zip(steps, cell.widths, strict=True)]
            if sum(rise) > _FINE and top > -math.inf:
                # Under a parabola as high and curved as the cell allows: sqrt(2 pi / k) with k = 8 rise / w^2.
                sizes = (
                    w * min(1.0, math.sqrt(math.pi / (4 * r))) if r > 0 else w
                    for w, r in zip(cell.widths, rise, strict=True)
                )
                hidden.append(top + sum(rise) + math.log(math.prod(sizes)))
        most = max(hidden, default=-math.inf)
        total = most + math.log(sum(math.exp(h - most) for h in hidden)) if most > -math.inf else -math.inf
        seeds = [n for n, v in self.values.items() if v >= best - self.drop]
        return Scan(seeds=seeds, steps=tuple(steps), hidden=total)
