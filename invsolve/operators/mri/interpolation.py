"""Samples of a spectrum between the frequencies of a grid: by a stored sparse matrix, or by weights that are made anew.

Both take and give ``(cells, columns)`` and ``(samples, columns)``, real: complex numbers are two columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invsolve.core.arrays import from_array
from invsolve.operators.mri.grid import Grid
from invsolve.operators.sparse import csr_tensor

_SAMPLES = 8192  # weights of so many are made at once on a CPU
_TILE = 16  # cells: neighbouring samples are worked on one after another, so that what they need stays in the cache


class Interpolation(Protocol):
    """A sparse real matrix, samples times cells."""

    def forward(self, cells: Tensor) -> Tensor:
        """``(cells, columns)`` -> ``(samples, columns)``."""
        ...

    def adjoint(self, samples: Tensor) -> Tensor:
        """``(samples, columns)`` -> ``(cells, columns)``."""
        ...


def taps(grid: Grid, omega: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (int32) and weights (float64) of samples at ``omega`` ``(m, axes)``, each ``(m, neighbours)``."""
    dim = len(grid.axes)
    weight, cell = omega.new_ones(len(omega), *[1] * dim), torch.zeros(1, dtype=torch.int32, device=omega.device)
    for i, axis in enumerate(grid.axes):
        near, share = (v.view(-1, *[1] * i, axis.width, *[1] * (dim - 1 - i)) for v in axis.taps(omega[:, i]))
        # The cell of a frequency is a sum over the axes.
        weight, cell = weight * share, cell + grid.share(i, near)
    return cell.flatten(1), weight.flatten(1)


def stored_bytes(grid: Grid, samples: int, dtype: torch.dtype) -> int:
    """What a stored matrix and its transpose take."""
    return 2 * samples * prod(a.width for a in grid.axes) * (4 + dtype.itemsize)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """The matrix, its rows in tiles of neighbouring samples, and its transpose, whose columns are as they come."""

    weights: Tensor  # sparse CSR, (samples, cells)
    transposed: Tensor  # sparse CSR, (cells, samples)
    place: Tensor  # the row of each sample

    @staticmethod
    def of(grid: Grid, omega: Tensor, dtype: torch.dtype) -> Stored:
        from scipy.sparse import csr_matrix

        samples, width = len(omega), prod(a.width for a in grid.axes)
        shape, total = (samples, grid.cells), samples * width
        counts = torch.int32 if max(total, grid.cells) < np.iinfo(np.int32).max else torch.int64
        column = torch.empty(samples, width, dtype=counts, device=omega.device)
        values = torch.empty(samples, width, dtype=dtype, device=omega.device)
        for first in range(0, samples, _SAMPLES):
            some = slice(first, first + _SAMPLES)
            column[some], values[some] = taps(grid, omega[some])
        start = torch.arange(samples + 1, device=omega.device).mul_(width).to(counts)
        parts = (values.view(-1), column.view(-1), start)
        turned = csr_matrix(tuple(v.cpu().numpy() for v in parts), shape=shape).tocsc()
        back = [from_array(v).to(omega.device) for v in (turned.indptr, turned.indices, turned.data)]
        order = _tiles(grid, omega)
        return Stored(
            weights=csr_tensor(start, column[order].view(-1), values[order].view(-1), shape),
            transposed=csr_tensor(back[0], back[1], back[2], shape[::-1]),
            place=order.argsort(),
        )

    def forward(self, cells: Tensor) -> Tensor:
        found: Tensor = torch.sparse.mm(self.weights, cells).index_select(0, self.place)
        return found

    def adjoint(self, samples: Tensor) -> Tensor:
        found: Tensor = torch.sparse.mm(self.transposed, samples)
        return found


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class OnTheFly:
    """Weights made anew in every call, some samples at a time."""

    grid: Grid
    omega: Tensor

    def forward(self, cells: Tensor) -> Tensor:
        parts = [
            functional.embedding_bag(index, cells, per_sample_weights=weight, mode="sum")
            for index, weight in self._blocks(cells.dtype)
        ]
        return torch.cat(parts)

    def adjoint(self, samples: Tensor) -> Tensor:
        from scipy.sparse import csr_matrix

        out = samples.new_zeros(self.grid.cells, samples.shape[1])
        blocks = zip(self._blocks(samples.dtype), torch.split(samples, self._step), strict=True)
        for (index, weight), rows in blocks:
            if out.device.type == "cpu":
                start = np.arange(len(index) + 1) * index.shape[1]
                block = csr_matrix((weight.flatten().numpy(), index.flatten().numpy(), start), (len(index), len(out)))
                some, turned = np.unique(block.indices, return_inverse=True)
                block = csr_matrix((block.data, turned.astype(np.int32), block.indptr), (len(index), len(some)))
                out.index_add_(0, from_array(some), from_array(block.T @ rows.numpy()))
            else:
                out.index_add_(0, index.flatten(), (rows[:, None] * weight[..., None]).flatten(0, 1))
        return out

    @property
    def _step(self) -> int:
        return _SAMPLES if self.omega.device.type == "cpu" else 16 * _SAMPLES

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        for omega in torch.split(self.omega, self._step):
            index, weight = taps(self.grid, omega)
            yield index, weight.to(dtype)


def _tiles(grid: Grid, omega: Tensor) -> Tensor:
    """The samples in the order of tiles of the grid."""
    key = torch.zeros(len(omega), dtype=torch.int64, device=omega.device)
    for axis, at in zip(grid.axes, omega.unbind(-1), strict=True):
        tile = (at * (axis.fine / (2 * torch.pi))).remainder(axis.fine).long() // _TILE
        key = key * (axis.fine // _TILE + 1) + tile
    return key.argsort(stable=True)
