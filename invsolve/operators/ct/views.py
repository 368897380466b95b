"""Where the rays of a scan in space run: for every view a source, and a detector anywhere. Lengths in mm.

Vectors are ``(x, y, z)`` from the middle of a volume ``(D, H, W)``: x points to the right, along W, y upwards, against
H, z along D; so every slice has the axes of an image of `ParallelBeam`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import Shape

_FLAT = 1e-9  # of a length: what is in the plane of the detector


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """One scan in space: views of a detector of rows and bins, rays that are parallel or come from a point.

    Attributes
    ----------
    source : Tensor, shape (views, 3)
        Where the source is, mm; of parallel rays their direction.
    detector_center : Tensor, shape (views, 3)
        The middle of the detector, mm.
    u, v : Tensor, shape (views, 3)
        From a bin to the next one of its row, and from a row to the next one, mm.
    in_shape : tuple of int
        ``(D, H, W)``, voxels.
    voxel_size : tuple of float
        ``(depth, height, width)`` of a voxel, mm.
    rows, bins : int
        Of the detector.
    parallel : bool
        Whether the rays are parallel.
    curved : bool
        Whether rows are arcs about the line through the source along ``v``; bins are ``|u|`` apart on them.
    """

    source: Tensor
    detector_center: Tensor
    u: Tensor
    v: Tensor
    in_shape: Shape
    voxel_size: tuple[float, float, float]
    rows: int
    bins: int
    parallel: bool = False
    curved: bool = False

    @property
    def lines(self) -> int:
        """How many rows of bins there are in all views."""
        return len(self.source) * self.rows

    @cached_property
    def key(self) -> bytes:
        """Equal for scans whose vectors are."""
        vectors = torch.stack([self.source, self.detector_center, self.u, self.v])
        found: bytes = vectors.cpu().numpy().tobytes()
        return found

    @property
    def ahead(self) -> Tensor:
        """The unit normals of the detectors, away from the source, ``(views, 3)``; 0 where the source is in one."""
        normal = torch.nn.functional.normalize(torch.linalg.cross(self.u, self.v), dim=-1)
        out = self.source if self.parallel else self.detector_center - self.source
        far = (normal * out).sum(-1, keepdim=True)
        ahead: Tensor = normal * far.sign() * (far.abs() > _FLAT * out.norm(dim=-1, keepdim=True))
        return ahead

    @property
    def nearest(self) -> Tensor:
        """How far the nearest corner of the volume is ahead of the source, mm, ``(views,)``; parallel: infinite."""
        if self.parallel:
            return torch.full_like(self.source[:, 0], math.inf)
        sides = [n * size / 2 for n, size in zip(self.in_shape, self.voxel_size, strict=True)][::-1]
        ahead = self.ahead
        half = torch.tensor(sides, dtype=torch.float64, device=ahead.device)
        return -(ahead * self.source).sum(-1) - (ahead.abs() * half).sum(-1)

    def rays(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """A point and the unit direction, ``(lines, bins, 3)`` each, of the rows ``first`` to ``last`` of all views."""
        line = torch.arange(first, last, device=self.source.device)
        view, row = line // self.rows, line % self.rows
        bin_ = torch.arange(self.bins, dtype=torch.float64, device=line.device)
        along = (bin_ - (self.bins - 1) / 2)[:, None]
        across = (row - (self.rows - 1) / 2)[:, None] * self.v[view]
        source, u = self.source[view][:, None], self.u[view][:, None]
        middle = (self.detector_center[view] + across)[:, None]
        if self.parallel:
            point = middle + along * u
            return point, torch.nn.functional.normalize(source, dim=-1).expand_as(point)
        out = middle - source
        if self.curved:
            axis = torch.nn.functional.normalize(self.v[view], dim=-1)[:, None]
            height = (out * axis).sum(-1, keepdim=True) * axis
            level = out - height
            radius, step = level.norm(dim=-1, keepdim=True), u.norm(dim=-1, keepdim=True)
            angle = along * step / radius
            direction = angle.cos() * level + angle.sin() * radius / step * u + height
        else:
            direction = out + along * u
        direction = torch.nn.functional.normalize(direction, dim=-1)
        return source.expand_as(direction), direction
