"""Line integrals by a stored sparse matrix and its stored transpose, many images at once.

Rows and columns are ordered in tiles (of neighbouring bins and views, of neighbouring pixels), so that what a tile
needs of all images stays in the cache: half the time of the natural order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from invsolve.core.arrays import from_array
from invsolve.operators.ct.backends.symmetry import symmetry
from invsolve.operators.ct.geometry import Geometry, Lines
from invsolve.operators.sparse import csr_tensor

_RAYS = 512  # weights of so many are made at once: they stay in the cache
_COLUMNS = 32  # of images at once: measured, of 16, 32 and 64
_VIEWS, _BINS, _PIXELS = 12, 16, 16  # a tile's


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMatrix:
    """The weights of the rays that no symmetry gives, and their transpose.

    ``pixel`` ``(pixels kinds,)`` takes from an image those of all kinds, ``unmade`` ``(pixels, kinds)`` are the places
    that a pixel was brought to; ``ray`` is the row, kinds innermost, where each ray of the scan is found, ``once``
    whether no row serves two of them.
    """

    weights: Tensor  # sparse CSR, (rays, pixels)
    transposed: Tensor  # sparse CSR, (pixels, rays)
    pixel: Tensor
    unmade: Tensor
    ray: Tensor
    once: bool
    kinds: int
    geometry: Geometry

    @staticmethod
    def of(geometry: Geometry, dtype: torch.dtype) -> StoredMatrix:
        found = symmetry(geometry)
        rays, pixels = _tiles_of_rays(found.geometry, found.needed), _tiles_of_pixels(geometry)
        weights, transposed = _matrices(found.geometry.lines.take(rays), pixels.argsort(), dtype)
        pixel, kinds = found.pixels()[:, pixels], len(found.kinds)
        small = _index(pixel.numel())
        row = torch.zeros(int(rays.max()) + 1, dtype=torch.int64, device=rays.device)
        row[rays] = torch.arange(len(rays), device=rays.device)
        ray = row[found.ray] * kinds + found.kind
        return StoredMatrix(
            weights=weights,
            transposed=transposed,
            pixel=pixel.mT.flatten().to(small),
            unmade=(pixel.argsort(-1) * kinds + torch.arange(kinds, device=pixel.device)[:, None])
            .mT.contiguous()
            .to(small),
            ray=ray,
            once=len(torch.unique(ray)) == len(ray),
            kinds=kinds,
            geometry=geometry,
        )

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, len(self.geometry.angles), self.geometry.bins)
        return torch.cat([self._forward(v).mT.reshape(shape) for v in self._pieces(x)])

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([self._adjoint(v).mT.reshape(-1, *self.geometry.in_shape) for v in self._pieces(y)])

    def _forward(self, x: Tensor) -> Tensor:
        """``(batch, pixels)`` -> ``(views bins, batch)``."""
        columns = x.mT.contiguous().index_select(0, self.pixel).view(self.weights.shape[1], -1)
        data: Tensor = torch.sparse.mm(self.weights, columns).view(-1, len(x)).index_select(0, self.ray)
        return data

    def _adjoint(self, y: Tensor) -> Tensor:
        """``(batch, views bins)`` -> ``(pixels, batch)``."""
        data = y.mT.contiguous()
        rows = data.new_zeros(self.weights.shape[0] * self.kinds, len(y))
        rows = rows.index_copy_(0, self.ray, data) if self.once else rows.index_add_(0, self.ray, data)
        columns = torch.sparse.mm(self.transposed, rows.view(self.weights.shape[0], -1)).view(-1, len(y))
        image: Tensor = functional.embedding_bag(self.unmade, columns, mode="sum")
        return image

    def _pieces(self, value: Tensor) -> Iterator[Tensor]:
        yield from torch.split(value.flatten(1), max(1, _COLUMNS // self.kinds))


def _matrices(lines: Lines, place: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weights of rays, with pixel i in the column ``place[i]``, and their transpose, as sparse CSR."""
    from scipy.sparse import csr_matrix

    device, shape = place.device, (len(lines.start), len(place))
    place = place.to(torch.int32)
    crow = torch.zeros(shape[0] + 1, dtype=torch.int64, device=device)
    crow[1:] = lines.taps_per_ray.cumsum(0)
    total = int(crow[-1])
    index = _index(total)
    column = torch.empty(total, dtype=index, device=device)
    values = torch.empty(total, dtype=dtype, device=device)
    for first in range(0, shape[0], _RAYS):
        last = min(first + _RAYS, shape[0])
        some = slice(int(crow[first]), int(crow[last]))
        pixel, values[some] = lines.taps(first, last, dtype)
        column[some] = place[pixel]
    crow = crow.to(index)
    turned = csr_matrix(tuple(v.cpu().numpy() for v in (values, column, crow)), shape=shape).tocsc()
    back = [from_array(v).to(device) for v in (turned.indptr, turned.indices, turned.data)]
    return csr_tensor(crow, column, values, shape), csr_tensor(back[0], back[1], back[2], shape[::-1])


def _index(count: int) -> torch.dtype:
    """The smallest integers that count so far: indices are much of what is read."""
    return torch.int32 if count < np.iinfo(np.int32).max else torch.int64


def _tiles_of_rays(geometry: Geometry, rays: Tensor) -> Tensor:
    """These rays in the order of tiles of neighbouring views and bins."""
    turn = torch.pi if geometry.source_to_center is None else 2 * torch.pi
    view = geometry.angles.remainder(turn).argsort().argsort()[rays // geometry.bins]
    bin_ = rays % geometry.bins
    tiles = (geometry.bins // _BINS + 1) * (view // _VIEWS) + bin_ // _BINS
    key = (tiles * _VIEWS + view % _VIEWS) * _BINS + bin_ % _BINS
    return rays[key.argsort()]


def _tiles_of_pixels(geometry: Geometry) -> Tensor:
    """The pixels, in the flattened image, in the order of square tiles."""
    H, W = geometry.in_shape
    row = torch.arange(H, device=geometry.angles.device)[:, None]
    column = torch.arange(W, device=row.device)
    tiles = (W // _PIXELS + 1) * (row // _PIXELS) + column // _PIXELS
    key = (tiles * _PIXELS + row % _PIXELS) * _PIXELS + column % _PIXELS
    return key.flatten().argsort()
