"""Where rays cross the planes of a grid of voxels, and what the voxels about a crossing count.

A ray marches along the axis along which it passes most planes of voxel centres; ties go to rows, then to columns. On
every plane across it the weights are those of Joseph (1982), bilinear in the other two axes, or the lengths of the ray
in the voxels that it runs through half a plane before and behind (Siddon 1985): at most two along each other axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.operators.ct.geometry import EDGE, Weights, on_edges
from invsolve.operators.ct.views import Views

OTHERS = ((1, 2), (0, 2), (0, 1))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Crossings:
    """Rays that march along one ``axis`` of a volume: plane k is met at ``start + k slope``, ``(rays, 2)``.

    ``ray`` counts them among all of a block; ``length`` are the mm between two planes. Of the planes only those from
    ``low`` to ``high`` are looked at; the others do not change where these are met, not even in rounding.
    """

    axis: int
    ray: Tensor
    start: Tensor
    slope: Tensor
    length: Tensor
    shape: tuple[int, int, int]
    low: int
    high: int

    @property
    def planes(self) -> int:
        """How many planes are looked at."""
        return self.high - self.low

    @property
    def sides(self) -> tuple[int, int]:
        """The voxels of a plane."""
        first, second = OTHERS[self.axis]
        return self.shape[first], self.shape[second]

    def within(self, low: int, high: int) -> Crossings:
        """The rays that meet the planes ``low`` to ``high``, and only these planes."""
        ends = torch.stack([self.start + low * self.slope, self.start + (high - 1) * self.slope])
        sides = torch.tensor(self.sides, device=ends.device)
        meets = ((ends.amin(0) < sides) & (ends.amax(0) > -1)).all(-1)
        some = replace(self, low=low, high=high)
        return some if bool(meets.all()) else some.take(meets.nonzero()[:, 0])

    def take(self, index: Tensor) -> Crossings:
        """Some of the rays."""
        return replace(
            self, ray=self.ray[index], start=self.start[index], slope=self.slope[index], length=self.length[index]
        )

    def places(self, dtype: torch.dtype, *, scale: tuple[float, float] = (1, 1), shift: float = 0) -> Tensor:
        """Where planes are met, times ``scale``, plus ``shift``, ``(planes, rays, 2)``.

        Reckoned from the middle plane of the volume on in this precision, which is as good as rounding what float64
        would give.
        """
        middle = (self.shape[self.axis] - 1) / 2
        factor = torch.tensor(scale, dtype=torch.float64, device=self.start.device)
        at = factor * torch.add(self.start, self.slope, alpha=middle) + shift
        k = torch.arange(self.low, self.high, dtype=dtype, device=at.device) - middle
        return torch.addcmul(at.to(dtype), k[:, None, None], (factor * self.slope).to(dtype))

    def corners(self, weights: Weights, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The first of the two voxels along each other axis, ``(2, planes, rays)``, and what all four count.

        Those are ``(4, planes, rays)``, in fractions of ``length``: first and first, first and second, ...
        """
        if weights == "joseph":
            at = self.places(torch.float64).movedim(-1, 0)
            lower = at.floor()
            a, b = (1 + lower - at).to(dtype)
            both = a * b
        else:
            start, slope = on_edges(self.start, self.slope)
            at = replace(self, start=start, slope=slope).places(torch.float64).movedim(-1, 0)
            wide = slope.mT.abs().clamp_min(EDGE)[:, None]  # of what is met half a plane before and behind
            at = at - (wide / 2 - 0.5)
            lower = at.floor()
            a, b = ((1 + lower - at) / wide).clamp_(0, 1).to(dtype)
            # How much of both firsts at once: one after the other where the ray turns its back on one of them.
            both = torch.where(slope.prod(-1) > 0, torch.minimum(a, b), (a + b - 1).clamp_min(0))
            both = torch.where(slope.abs().amin(-1) < EDGE, a * b, both)
        return lower, torch.stack([both, a - both, b - both, 1 - a - b + both]).clamp_min_(0)


def crossings(views: Views, first: int, last: int) -> Iterator[Crossings]:
    """Those of the rows ``first`` to ``last`` of all views, by the axis along which they march."""
    (D, H, W), (depth, height, width) = views.in_shape, views.voxel_size
    point, direction = (v.flatten(0, 1).flip(-1) for v in views.rays(first, last))  # z, y, x
    size = torch.tensor([depth, -height, width], dtype=torch.float64, device=point.device)
    middle = torch.tensor([(n - 1) / 2 for n in (D, H, W)], dtype=torch.float64, device=point.device)
    point, direction = point / size + middle, direction / size
    steep = direction.abs() * torch.tensor([1 - 2e-12, 1.0, 1 - 1e-12], dtype=torch.float64, device=point.device)
    along = steep.argmax(-1)
    for axis, others in enumerate(OTHERS):
        ray = (along == axis).nonzero()[:, 0]
        if not len(ray):
            continue
        at, ahead = point[ray], direction[ray]
        main, other = ahead[:, axis, None], list(others)
        slope = ahead[:, other] / main
        yield Crossings(
            axis=axis,
            ray=ray,
            start=at[:, other] - at[:, axis, None] * slope,
            slope=slope,
            length=1 / main[:, 0].abs(),
            shape=(D, H, W),
            low=0,
            high=(D, H, W)[axis],
        )
