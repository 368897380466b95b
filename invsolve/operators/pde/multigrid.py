"""Geometric multigrid for diffusion on a grid: the preconditioner of conjugate gradients, all rows at once.

A problem is its face coefficients: for every axis k a tensor ``(rows, ..., n_k + 1, ...)``, the conductances between
neighbours along that axis and, first and last, between a point and the wall. ``(K u)_i`` is the sum of ``g (u_i -
u_neighbour)``, with u = 0 behind the walls: what flows out of the cell of a point. A face of 0 lets nothing through.

Coarser cells are pairs of cells along an axis. Their conductances are those of paths in series and side by side, and
between their centres u is interpolated so that the flux along such a path is constant: coefficients may jump. A last
cell of an odd number stays alone. Axes whose cells are longer are not coarsened until others catch up.

Alcouffe, Brandt, Dendy & Painter 1981, The multi-grid method for the diffusion equation with strongly discontinuous
coefficients, doi 10.1137/0902035.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

_DIRECT = 64  # cells that are solved by a dense inverse
_LONG = 1.5  # times the shortest cell, from which on an axis waits


@final
@dataclass(frozen=True, eq=False)
class Faces:
    """Conductances >= 0 of the faces, one tensor for each axis."""

    along: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return tuple(g.shape[k + 1] - 1 for k, g in enumerate(self.along))

    def apply(self, u: Tensor) -> Tensor:
        """``K u`` for ``u`` ``(rows, *shape)``; torch differentiates it in the conductances, too."""
        total = torch.zeros_like(u)
        for k, g in enumerate(self.along):
            wall = torch.zeros_like(u.narrow(k + 1, 0, 1))
            wide = torch.cat([wall, u, wall], k + 1)
            total = total - (g * wide.diff(dim=k + 1)).diff(dim=k + 1)
        return total

    def diagonal(self) -> Tensor:
        """The diagonal of K, ``(rows, *shape)``."""
        parts = [
            g.narrow(k + 1, 0, n) + g.narrow(k + 1, 1, n)
            for k, (g, n) in enumerate(zip(self.along, self.shape, strict=True))
        ]
        return torch.stack(parts).sum(0)

    def add_neighbours(self, u: Tensor, out: Tensor) -> Tensor:
        """``out`` plus the sum of g u over the neighbours of every point, in place."""
        for k, (g, n) in enumerate(zip(self.along, self.shape, strict=True), 1):
            if n > 1:
                inner = g.narrow(k, 1, n - 1)
                out.narrow(k, 1, n - 1).addcmul_(inner, u.narrow(k, 0, n - 1))
                out.narrow(k, 0, n - 1).addcmul_(inner, u.narrow(k, 1, n - 1))
        return out

    def dense(self) -> Tensor:
        """``K`` ``(rows, cells, cells)``."""
        like = self.along[0]
        cells = prod(self.shape)
        units = torch.eye(cells, dtype=like.dtype, device=like.device).view(1, cells, *self.shape)
        units = units.expand(len(like), -1, *self.shape).flatten(0, 1)
        wide = Faces(tuple(g.repeat_interleave(cells, 0) for g in self.along))
        return wide.apply(units).view(len(like), cells, cells)


@final
class Paired:
    """Cells in pairs along one axis: the interpolation from the coarser grid, and its transpose."""

    def __init__(self, faces: Faces, axis: int) -> None:
        self.axis = axis + 1
        g, self.n = faces.along[axis].movedim(self.axis, 1), faces.shape[axis]
        pairs, self.whole = -(-self.n // 2), self.n // 2
        resistance = 1 / g
        half = torch.zeros_like(g[:, :pairs])  # from the centre of a pair to those of its cells
        half[:, : self.whole] = resistance[:, 1::2][:, : self.whole] / 2
        last = resistance[:, self.n : self.n + 1]
        path = torch.cat([resistance[:, : self.n : 2], last], 1)
        path[:, 1:] += half
        path[:, :-1] += half
        coarse = 1 / path
        self.left = half * coarse[:, :-1]  # the share of the neighbour
        self.right = (half * coarse[:, 1:])[:, : self.whole]
        along = [self._summed(other.movedim(self.axis, 1)).movedim(1, self.axis) for other in faces.along]
        along[axis] = coarse.movedim(1, self.axis)
        self.coarse = Faces(tuple(value.contiguous() for value in along))

    def _summed(self, v: Tensor) -> Tensor:
        out = v[:, ::2].clone()
        out[:, : self.whole] += v[:, 1::2][:, : self.whole]
        return out

    def spread(self, v: Tensor) -> Tensor:
        """From the coarser grid to the finer."""
        v = v.movedim(self.axis, 1)
        step = v[:, 1:] - v[:, :-1]
        fine = v.new_empty(len(v), self.n, *v.shape[2:])
        even, odd = fine[:, ::2], fine[:, 1::2]
        even.copy_(v)
        even[:, :1] -= self.left[:, :1] * v[:, :1]  # towards the wall, where it is 0
        even[:, 1:] -= self.left[:, 1:] * step
        odd.copy_(v[:, : self.whole])
        odd[:, : len(step[0])] += self.right[:, : len(step[0])] * step[:, : self.whole]
        if self.whole == v.shape[1]:
            odd[:, -1:] -= self.right[:, -1:] * v[:, -1:]
        return fine.movedim(1, self.axis)

    def gather(self, f: Tensor) -> Tensor:
        """The transpose of `spread`."""
        f = f.movedim(self.axis, 1)
        even, odd = f[:, ::2], f[:, 1::2]
        out = even.clone()
        out[:, : self.whole] += odd
        moved = self.left * even  # to the neighbour before
        out -= moved
        out[:, :-1] += moved[:, 1:]
        moved = self.right * odd  # to the neighbour behind
        out[:, : self.whole] -= moved
        behind = min(self.whole, out.shape[1] - 1)
        out[:, 1 : behind + 1] += moved[:, :behind]
        return out.movedim(1, self.axis)


@final
class Multigrid:
    """One V cycle for ``K u = f``, symmetric and positive: two sweeps in two colours before, two in reverse behind.

    Parameters
    ----------
    faces : Faces
        The problem.
    spacing : tuple of float
        The lengths of a cell, which say along which axes neighbours are close.
    """

    def __init__(self, faces: Faces, spacing: tuple[float, ...]) -> None:
        self.levels: list[tuple[Faces, Tensor, Tensor, list[Paired]]] = []
        lengths = list(spacing)
        while prod(faces.shape) > _DIRECT:
            shortest = min(h for h, n in zip(lengths, faces.shape, strict=True) if n > 1)
            steps, finest = [], faces
            for axis, n in enumerate(faces.shape):
                if n > 1 and lengths[axis] <= _LONG * shortest:
                    steps.append(Paired(faces, axis))
                    faces, lengths[axis] = steps[-1].coarse, 2 * lengths[axis]
            diagonal = finest.diagonal()
            self.levels.append((finest, diagonal, _chequered(diagonal), steps))
        wide = Faces(tuple(g.double() for g in faces.along)).dense()
        factor, _ = torch.linalg.cholesky_ex(wide)
        self.inverse = torch.cholesky_inverse(factor).to(faces.along[0].dtype)

    def __call__(self, f: Tensor) -> Tensor:
        """About ``K^-1 f``."""
        return self._cycle(f, 0)

    def _cycle(self, f: Tensor, level: int) -> Tensor:
        if level == len(self.levels):
            return torch.bmm(self.inverse, f.reshape(len(f), -1, 1)).view(f.shape)
        faces, diagonal, red, steps = self.levels[level]

        def relaxed(u: Tensor, colours: tuple[Tensor, ...]) -> Tensor:  # Gauss-Seidel in two colours
            for colour in colours:
                u = torch.where(colour, faces.add_neighbours(u, f.clone()) / diagonal, u)
            return u

        u = relaxed(torch.where(red, f / diagonal, 0.0), (~red, red, ~red))  # from 0
        left = faces.add_neighbours(u, f.clone()) - diagonal * u
        for step in steps:
            left = step.gather(left)
        left = self._cycle(left, level + 1)
        for step in reversed(steps):
            left = step.spread(left)
        return relaxed(u + left, (~red, red, ~red, red))


def _chequered(like: Tensor) -> Tensor:
    """Which points are red: those of even sums of indices."""
    total = torch.zeros((), dtype=torch.int64, device=like.device)
    for k, n in enumerate(like.shape[1:], 1):
        total = total + torch.arange(n, device=like.device).view(-1, *([1] * (like.ndim - 1 - k)))
    return total % 2 == 0
