"""Rays that see flipped and turned images: of a full scan a quarter or an eighth of the weights is enough.

With g a flip, a swap of the axes or both, which map the grid of pixels onto itself, a ray sees of an image f what the
ray that g carries to it sees of ``f(g .)``. Eight such g bring all directions between 0 and 45 degrees; half a turn
carries the rays on one side of the axis of rotation to the other side. A fan that is mirrored runs through its bins
backwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.operators.ct.geometry import Geometry, Lines

_SAME = 1e-11  # radians: angles that are one
_WASTE = 1.5  # columns of images that no ray needs are computed too: so many more at most


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Symmetry:
    """Ray i of a scan is ray ``ray[i]`` of ``geometry``, of the image of the kind ``kinds[kind[i]]``.

    A kind is ``(swap, flip x, flip y)``.
    """

    geometry: Geometry
    kinds: tuple[tuple[bool, bool, bool], ...]
    ray: Tensor
    kind: Tensor

    @property
    def needed(self) -> Tensor:
        """The rays of ``geometry`` that are used, sorted."""
        rays: Tensor = torch.unique(self.ray)
        return rays

    def pixels(self) -> Tensor:
        """Which pixel of an image each pixel of the image of every kind shows, ``(kinds, H W)``."""
        H, W = self.geometry.in_shape
        index = torch.arange(H * W, device=self.ray.device).view(H, W)
        return torch.stack([_moved(index, *kind).flatten() for kind in self.kinds])


def symmetry(geometry: Geometry) -> Symmetry:
    """The symmetry of a scan that needs the fewest rays."""
    rays = len(geometry.angles) * geometry.bins
    best = _plain(geometry)
    for found in _candidates(geometry):
        needed = len(found.needed)
        if needed < len(best.needed) and needed * len(found.kinds) <= _WASTE * rays:
            best = found
    return best


def _candidates(geometry: Geometry) -> Iterator[Symmetry]:
    fan, centred = geometry.source_to_center is not None, geometry.detector_offset == geometry.detector_tilt == 0
    if any(geometry.center):
        return
    c, s = geometry.angles.cos(), geometry.angles.sin()
    tiny = torch.finfo(torch.float64).eps * 8
    flip_x, flip_y = c < -tiny, s < -tiny
    (height, width), (H, W) = geometry.pixel_size, geometry.in_shape
    swap = (s.abs() > c.abs() * (1 + 1e-12)) & (H == W and height == width)
    order, view = _grouped(torch.atan2(torch.where(swap, c, s).abs(), torch.where(swap, s, c).abs()))
    if not fan:
        yield _found(geometry, order, view, (swap, flip_x, flip_y), both_sides=centred)
        if centred:
            none = torch.zeros_like(swap)
            every = torch.arange(len(view), device=view.device)
            yield _found(geometry, geometry.angles, every, (none, none, none), both_sides=True)
    elif centred:
        # The detector's direction and that of its rays turn with it: a mirror image has one of them reversed.
        mirrored = flip_x ^ flip_y ^ swap
        kind = (swap, flip_x ^ mirrored, flip_y ^ mirrored)
        found = _found(geometry, order, view, kind, mirrored=mirrored)
        # Not where the axes are swapped for rays at 45 degrees, which march along the rows by decree.
        tied = (Lines.of(found.geometry, 0, len(order)).slope.abs() - 1).abs() < 1e-9
        if not bool(tied[found.ray[swap.repeat_interleave(geometry.bins)]].any()):
            yield found


def _grouped(angles: Tensor) -> tuple[Tensor, Tensor]:
    """The different angles, sorted, and which of them each is."""
    order = angles.argsort(stable=True)
    new = torch.cat([torch.ones_like(order[:1], dtype=torch.bool), angles[order].diff() > _SAME])
    view = torch.empty_like(order)
    view[order] = new.cumsum(0) - 1
    return angles[order][new], view


def _found(
    geometry: Geometry,
    angles: Tensor,
    view: Tensor,
    kind: tuple[Tensor, Tensor, Tensor],
    *,
    mirrored: Tensor | None = None,
    both_sides: bool = False,
) -> Symmetry:
    """View i as view ``view[i]`` of ``angles``; with ``both_sides`` rays of u < 0 as those of -u, half a turn away."""
    bin_ = torch.arange(geometry.bins, device=view.device).expand(len(view), -1)
    back = (2 * bin_ < geometry.bins - 1) & both_sides
    away = back if mirrored is None else mirrored[:, None]
    bin_ = torch.where(away, geometry.bins - 1 - bin_, bin_)
    swap, flip_x, flip_y = (v[:, None] for v in kind)
    code = 4 * swap.long() + 2 * (flip_x ^ back).long() + (flip_y ^ back).long()
    codes, which = torch.unique(code, return_inverse=True)
    return Symmetry(
        geometry=replace(geometry, angles=angles),
        kinds=tuple((bool(n & 4), bool(n & 2), bool(n & 1)) for n in codes.tolist()),
        ray=(view[:, None] * geometry.bins + bin_).flatten(),
        kind=which.flatten(),
    )


def _plain(geometry: Geometry) -> Symmetry:
    ray = torch.arange(len(geometry.angles) * geometry.bins, device=geometry.angles.device)
    return Symmetry(geometry=geometry, kinds=((False, False, False),), ray=ray, kind=torch.zeros_like(ray))


def _moved(x: Tensor, swap: bool, flip_x: bool, flip_y: bool) -> Tensor:
    """The image ``f(g .)``: first flipped, then swapped about the diagonal that x = y is."""
    if flip_x:
        x = x.flip(-1)
    if flip_y:
        x = x.flip(-2)
    return x.flip(-1, -2).mT if swap else x
