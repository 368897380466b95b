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
from invsolve.core.cache import Kept
from invsolve.core.fingerprint import fingerprint
from invsolve.operators.ct.backends.symmetry import symmetry
from invsolve.operators.ct.geometry import Geometry, Lines
from invsolve.operators.sparse import csr_tensor

_RAYS = 512  # weights of so many are made at once: they stay in the cache
_COLUMNS = 32  # of images at once: measured, of 16, 32 and 64
_VIEWS, _BINS, _PIXELS = 12, 16, 16  # a tile's
_KEPT = 2**22  # weights: fewer are made as fast as they are read
_LOOKED_AT = 64  # rays whose weights are made anew where a file is read
_VERSION = 1  # of the files


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMatrix:
    """The weights of the rays that no symmetry gives, and their transpose.

    Pixels have an order of their own, ``natural`` takes them back to that of the image. ``pixel`` ``(pixels kinds,)``
    takes from an image those of all kinds, ``unmade`` ``(pixels, kinds)`` are the places that a pixel was brought to;
    ``ray`` is the row, kinds innermost, of each ray of the scan, ``once`` whether no row serves two of them.
    """

    weights: Tensor  # sparse CSR, (rays, pixels)
    transposed: Tensor  # sparse CSR, (pixels, rays)
    pixel: Tensor
    unmade: Tensor
    natural: Tensor
    ray: Tensor
    once: bool
    kinds: int
    geometry: Geometry

    @staticmethod
    def of(geometry: Geometry, dtype: torch.dtype) -> StoredMatrix:
        found = symmetry(geometry)
        images = found.pixels()
        rays, pixels = _tiles_of_rays(found.geometry, found.needed), _tiles_of_pixels(geometry, images)
        natural = pixels.argsort()
        weights, transposed = _matrices(found.geometry, rays, natural, dtype)
        pixel, kinds = images[:, pixels], len(found.kinds)
        small = _index(pixel.numel())
        row = torch.zeros(int(rays.max()) + 1, dtype=torch.int64, device=rays.device)
        row[rays] = torch.arange(len(rays), device=rays.device)
        ray = row[found.ray] * kinds + found.kind
        places = torch.arange(len(pixels), device=pixel.device).expand_as(pixel)
        unmade = torch.empty_like(pixel).scatter_(1, pixel, places) * kinds
        unmade += torch.arange(kinds, device=pixel.device)[:, None]
        return StoredMatrix(
            weights=weights,
            transposed=transposed,
            pixel=pixel.mT.flatten().to(small),
            unmade=unmade[:, pixels].mT.contiguous().to(small),
            natural=natural,
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
        image: Tensor = functional.embedding_bag(self.unmade, columns, mode="sum").index_select(0, self.natural)
        return image

    def _pieces(self, value: Tensor) -> Iterator[Tensor]:
        yield from torch.split(value.flatten(1), max(1, _COLUMNS // self.kinds))


def _matrices(geometry: Geometry, rays: Tensor, place: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weights of rays, with pixel i in the column ``place[i]``, and their transpose, as sparse CSR.

    Large ones are kept on the disk.
    """
    device, shape = place.device, (len(rays), len(place))
    lines = geometry.lines.take(rays)
    row = torch.zeros(shape[0] + 1, dtype=torch.int64, device=device)
    row[1:] = lines.taps_per_ray.cumsum(0)
    total = int(row[-1])
    index = _index(total)
    kept = Kept(kind="ct", key=fingerprint((_VERSION, geometry.to("cpu"), rays.cpu(), place.cpu(), str(dtype))))
    layout = {
        "column": (index, total),
        "values": (dtype, total),
        "back_row": (index, shape[1] + 1),
        "back_column": (index, total),
        "back_values": (dtype, total),
    }
    worth = total >= _KEPT
    made = kept.read(layout) if worth else None
    if made is None or not _sound(made, row, lines, place.cpu()):
        made = _made(lines, row, place, dtype)
        if worth:
            kept.write(made)
    made = {name: value.to(device) for name, value in made.items()}
    return (
        csr_tensor(row.to(index), made["column"], made["values"], shape),
        csr_tensor(made["back_row"], made["back_column"], made["back_values"], shape[::-1]),
    )


def _made(lines: Lines, row: Tensor, place: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    from scipy.sparse import csr_matrix

    place, total = place.to(torch.int32), int(row[-1])
    column = torch.empty(total, dtype=_index(total), device=place.device)
    values = torch.empty(total, dtype=dtype, device=place.device)
    for first in range(0, len(row) - 1, _RAYS):
        last = min(first + _RAYS, len(row) - 1)
        some = slice(int(row[first]), int(row[last]))
        pixel, values[some] = lines.taps(first, last, dtype)
        column[some] = place[pixel]
    parts = tuple(v.cpu().numpy() for v in (values, column, row.to(column.dtype)))
    turned = csr_matrix(parts, shape=(len(row) - 1, len(place))).tocsc()
    back = {"back_row": turned.indptr, "back_column": turned.indices, "back_values": turned.data}
    return {"column": column, "values": values} | {name: from_array(value) for name, value in back.items()}


def _sound(found: dict[str, Tensor], row: Tensor, lines: Lines, place: Tensor) -> bool:
    """Whether what was read are matrices, each the transpose of the other, with the weights of these rays.

    All indices are looked at, since products do not; the weights of some rays are made anew.
    """
    rays, pixels = len(row) - 1, len(place)
    begin = found["back_row"]
    inside = [(found["column"], pixels), (found["back_column"], rays), (begin, len(found["values"]) + 1)]
    if not all(0 <= int(v.min()) and int(v.max()) < limit for v, limit in inside):
        return False
    if int(begin[0]) or int(begin[-1]) != len(found["values"]) or bool((begin.diff() < 0).any()):
        return False
    some = torch.arange(0, rays, max(1, rays // _LOOKED_AT), device="cpu")
    looked = lines.take(some.to(lines.start.device))
    pixel, weight = (v.cpu() for v in looked.taps(0, len(some), found["values"].dtype))
    pixel, count = place[pixel], looked.taps_per_ray.cpu()
    where = torch.arange(len(pixel), device="cpu") + (row.cpu()[some] - count.cumsum(0) + count).repeat_interleave(
        count
    )
    if not (torch.equal(found["column"][where], pixel.to(begin.dtype)) and torch.equal(found["values"][where], weight)):
        return False
    data = torch.zeros(rays, dtype=weight.dtype, device="cpu")
    data[some] = 1 + torch.arange(len(some), dtype=weight.dtype, device="cpu")
    expected = torch.zeros(pixels, dtype=weight.dtype, device="cpu")
    expected.index_add_(0, pixel, weight * data[some].repeat_interleave(count))
    turned = csr_tensor(begin, found["back_column"], found["back_values"], (pixels, rays))
    return torch.allclose(torch.mv(turned, data), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


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


def _tiles_of_pixels(geometry: Geometry, images: Tensor) -> Tensor:
    """The pixels, in the flattened image, in the order of square tiles; tiles that symmetries exchange are neighbours.

    ``images``: which pixels each pixel stands for, `Symmetry.pixels`.
    """
    H, W = geometry.in_shape
    row = torch.arange(H, device=geometry.angles.device)[:, None]
    column = torch.arange(W, device=row.device)
    across = W // _PIXELS + 1
    tile = (across * (row // _PIXELS) + column // _PIXELS).flatten()
    key = tile[images].amin(0) * across * (H // _PIXELS + 1) + tile
    key = (key.view(H, W) * _PIXELS + row % _PIXELS) * _PIXELS + column % _PIXELS
    return key.flatten().argsort()
