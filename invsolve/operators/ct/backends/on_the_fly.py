"""Line integrals by weights that are made as they are needed, and never stored: for scans whose matrix is too large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self, final

import torch
from torch import Tensor
from torch.nn import functional

from invsolve.core.arrays import from_array
from invsolve.operators.ct.geometry import Geometry

_RAYS = {"cpu": 512}  # at once; on an accelerator more
_MANY = 65536


class Tapped(Protocol):
    """Rays that know their weights, as `Lines` do."""

    @property
    def taps_per_ray(self) -> Tensor:
        """How many pixels count for each ray, ``(rays,)`` int64."""
        ...

    def taps(self, first: int, last: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Pixels (int32) and weights of some rays, one ray after another, flat."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class OnTheFly:
    """The weights of the rays, block by block."""

    geometry: Geometry
    lines: Tapped

    @classmethod
    def of(cls, geometry: Geometry) -> Self:
        return cls(geometry=geometry, lines=geometry.lines)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.flatten(1).mT.contiguous()
        parts = []
        for first, last, pixel, weight in self._blocks(x.dtype):
            ends = self.lines.taps_per_ray[first:last].cumsum(0)
            starts = torch.cat([ends.new_zeros(1), ends[:-1]]).to(torch.int32)
            parts.append(functional.embedding_bag(pixel, columns, starts, mode="sum", per_sample_weights=weight))
        return torch.cat(parts).mT.reshape(len(x), -1, self.geometry.bins)

    def adjoint(self, y: Tensor) -> Tensor:
        from scipy.sparse import csr_matrix

        H, W = self.geometry.in_shape
        columns = y.flatten(1).mT.contiguous()
        out = columns.new_zeros(H * W, len(y))
        for first, last, pixel, weight in self._blocks(y.dtype):
            count = self.lines.taps_per_ray[first:last]
            if out.device.type == "cpu":
                starts = torch.cat([count.new_zeros(1), count.cumsum(0)]).to(torch.int32)
                parts = (weight.numpy(), pixel.numpy(), starts.numpy())
                block = csr_matrix(parts, shape=(last - first, H * W))
                out += from_array(block.T @ columns[first:last].numpy())
            else:
                out.index_add_(0, pixel, columns[first:last].repeat_interleave(count, 0) * weight[:, None])
        return out.mT.reshape(len(y), H, W)

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        rays = len(self.lines.taps_per_ray)
        step = _RAYS.get(self.geometry.angles.device.type, _MANY)
        for first in range(0, rays, step):
            last = min(first + step, rays)
            yield first, last, *self.lines.taps(first, last, dtype)
