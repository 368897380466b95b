"""Line integrals in space by sampling planes of the volume where rays cross them; nothing is stored.

The volume is cut along its main axis into planes, which torch samples: bilinearly for Joseph's weights, four times
at voxel centres for Siddon's. The adjoint is the derivative of the same sampling, with the same positions, so that it
is the transpose. What does not fit into ``memory`` is done slab by slab and row by row of the detector. Rays of each
main axis have slabs of planes across it: planes are whole, and are met where they are met without slabs, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from invsolve.operators.ct.backends.crossings import Crossings, crossings
from invsolve.operators.ct.geometry import Weights
from invsolve.operators.ct.views import Views

_VALUES = {"joseph": 12, "siddon": 40}  # what a voxel of a slab and a crossing need, counted in values of the volume
_LINE = 60  # planes: what making a ray needs
_BLOCK = 2**18  # crossings at once: they stay in the cache
_BILINEAR, _NEAREST, _ZEROS = 0, 1, 0  # torch's numbers of what `grid_sample` names
_AXES = ((1, 0, 2, 3), (2, 0, 1, 3), (3, 0, 1, 2))  # a batch of volumes as planes across each axis, and back:
_BACK = ((1, 0, 2, 3), (1, 2, 0, 3), (1, 2, 3, 0))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """Of the ``views`` with these ``weights``, in at most about ``memory`` bytes beside what is given and returned."""

    views: Views
    weights: Weights
    memory: int

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), self.views.lines * self.views.bins)
        for some, slab, slabs in self._pieces(x):
            planes: dict[int, Tensor] = {}
            for first, found in self._blocks(x[some], slab, slabs):
                if found.axis not in planes:
                    part = x[some].narrow(1 + found.axis, found.low, found.planes)
                    planes[found.axis] = _planes(part, found.axis)
                values = self._sample(planes[found.axis], found) * found.length.to(x.dtype)
                out[some].index_add_(1, first * self.views.bins + found.ray, values)
        return out.view(len(x), len(self.views.source), self.views.rows, self.views.bins)

    def adjoint(self, y: Tensor) -> Tensor:
        out = y.new_zeros(len(y), *self.views.in_shape)
        data = y.flatten(1)
        for some, slab, slabs in self._pieces(out):
            for first, found in self._blocks(out[some], slab, slabs):
                values = data[some].index_select(1, first * self.views.bins + found.ray) * found.length.to(y.dtype)
                part = out[some].narrow(1 + found.axis, found.low, found.planes)
                part += self._spread(values, found).permute(_BACK[found.axis])
        return out

    # --- one block ------------------------------------------------------------------------------------------------
    def _sample(self, planes: Tensor, found: Crossings) -> Tensor:
        """What rays see of all planes, ``(rows, rays)``."""
        total = planes.new_zeros(planes.shape[1], len(found.ray))
        for grid, weight, mode in self._taps(found, planes.dtype):
            seen = functional.grid_sample(planes, grid, mode, "zeros", align_corners=False)[:, :, 0]
            total += seen.sum(0) if weight is None else (seen * weight[:, None]).sum(0)
        return total

    def _spread(self, values: Tensor, found: Crossings) -> Tensor:
        """The transpose of `_sample`: planes ``(planes, rows, ...)``."""
        shape = (found.planes, len(values), *found.sides)
        total, like = values.new_zeros(shape), values.new_zeros(()).expand(shape)  # of which only the shape is used
        for grid, weight, mode in self._taps(found, values.dtype):
            seen = values[None].expand(found.planes, -1, -1) if weight is None else values * weight[:, None]
            kind = _BILINEAR if mode == "bilinear" else _NEAREST
            total += torch.ops.aten.grid_sampler_2d_backward(
                seen[:, :, None], like, grid, kind, _ZEROS, False, (True, False)
            )[0]
        return total

    def _taps(self, found: Crossings, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor | None, str]]:
        """Where to sample, what that counts ``(planes, rays)``, and how."""
        if self.weights == "joseph":
            yield _grid(found, dtype), None, "bilinear"
            return
        lower, weight = found.corners(self.weights, dtype)
        side = torch.tensor(found.sides, dtype=dtype, device=lower.device).flip(-1)
        centers = (2 * lower.flip(0).movedim(0, -1).to(dtype) + 1) / side - 1
        for i, share in enumerate(weight):
            step = torch.tensor([i % 2, i // 2], dtype=dtype, device=side.device)
            yield (centers + 2 * step / side)[:, None], share, "nearest"

    # --- pieces ---------------------------------------------------------------------------------------------------
    def _pieces(self, x: Tensor) -> Iterator[tuple[slice, int, int]]:
        """Rows that are done at once, and which of how many slabs."""
        shape = self.views.in_shape
        values = self._values(x.dtype)
        sizes = [prod(shape) // n for n in shape]  # of a plane across each axis
        rows = min(len(x), max(1, values // max(sizes)))
        slabs = max(-(-n // max(1, values // (rows * size))) for n, size in zip(shape, sizes, strict=True))
        for r in range(0, len(x), rows):
            for slab in range(slabs):
                yield slice(r, r + rows), slab, slabs

    def _blocks(self, x: Tensor, slab: int, slabs: int) -> Iterator[tuple[int, Crossings]]:
        """The crossings of rows of the detector with one of the slabs, and the first of these rows."""
        views = self.views
        # As many as the slab has voxels, so that the adjoint need not add up slabs more often than it makes them.
        wanted = max(_BLOCK, 2 * (x[0].numel() // slabs))
        planes, most = -(-max(views.in_shape) // slabs), self._values(x.dtype) // (1 + len(x) // 4)
        step = max(1, min(wanted // planes, most // (planes + _LINE)) // views.bins)
        for first in range(0, views.lines, step):
            for found in crossings(views, first, min(first + step, views.lines)):
                thick = -(-found.planes // slabs)
                low, high = slab * thick, min((slab + 1) * thick, found.planes)
                if low < high and len((inside := found.within(low, high)).ray):
                    yield first, inside

    def _values(self, dtype: torch.dtype) -> int:
        return self.memory // (_VALUES[self.weights] * dtype.itemsize)


def _planes(slab: Tensor, axis: int) -> Tensor:
    """A batch of volumes as planes across an axis, ``(planes, batch, ...)``; neighbours in a plane are in memory."""
    planes = slab.permute(_AXES[axis])
    return planes.contiguous() if axis == 2 else planes


def _grid(found: Crossings, dtype: torch.dtype) -> Tensor:
    """Where planes are met as torch says it: -1 and 1 at the outer edges, the last axis first.

    ``(planes, 1, rays, 2)``.
    """
    turned = replace(found, start=(found.start + 0.5).flip(-1), slope=found.slope.flip(-1))
    second, first = found.sides
    return turned.places(dtype, scale=(2 / first, 2 / second), shift=-1)[:, None]
