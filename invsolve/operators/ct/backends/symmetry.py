"""Views that see flipped and turned images: of a full scan a quarter or an eighth of the weights is enough.

A view along ``e = g e'``, with g a flip or a swap of the axes that maps the grid of pixels onto itself, sees of an image f
what the view along ``e'`` sees of ``f(g .)``. With e' between 0 and 45 degrees there are eight such g. A fan that is
mirrored runs through its bins the other way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.operators.ct.geometry import Geometry, Lines

_SAME = 1e-11  # radians: angles that are one


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Symmetry:
    """``geometry`` holds the views that are needed; view i is its view ``view[i]`` of the image ``kinds[kind[i]]``.

    A kind is ``(swap, flip x, flip y)``; ``mirrored`` are the views whose bins run backwards.
    """

    geometry: Geometry
    kinds: tuple[tuple[bool, bool, bool], ...]
    view: Tensor
    kind: Tensor
    mirrored: Tensor

    def images(self, x: Tensor) -> Tensor:
        """``(batch, H, W)`` -> ``(H W, kinds batch)``."""
        return torch.stack([_moved(x, *kind) for kind in self.kinds], -1).permute(1, 2, 3, 0).flatten(2).flatten(0, 1)

    def image(self, columns: Tensor) -> Tensor:
        """``(H W, kinds batch)`` -> ``(batch, H, W)``: the transpose of `images`."""
        H, W = self.geometry.in_shape
        parts = columns.view(H, W, len(self.kinds), -1).permute(2, 3, 0, 1)
        total = _moved_back(parts[0], *self.kinds[0])
        for part, kind in zip(parts[1:], self.kinds[1:], strict=True):
            total = total + _moved_back(part, *kind)
        return total.contiguous()

    def data(self, columns: Tensor) -> Tensor:
        """``(needed views x bins, kinds batch)`` -> ``(batch, views, bins)``."""
        bins = self.geometry.bins
        seen = columns.view(-1, bins, len(self.kinds), columns.shape[1] // len(self.kinds))
        out = seen[self.view, :, self.kind].permute(2, 0, 1).contiguous()
        return self._mirror(out)

    def columns(self, y: Tensor) -> Tensor:
        """``(batch, views, bins)`` -> ``(needed views x bins, kinds batch)``: the transpose of `data`."""
        needed, bins, kinds = len(self.geometry.angles), self.geometry.bins, len(self.kinds)
        if kinds == 1:
            return y.flatten(1).mT.contiguous()
        out = y.new_zeros(needed * kinds, bins, len(y))
        out.index_add_(0, self.view * kinds + self.kind, self._mirror(y).permute(1, 2, 0))
        return out.view(needed, kinds, bins, len(y)).transpose(1, 2).reshape(needed * bins, kinds * len(y))

    def _mirror(self, y: Tensor) -> Tensor:
        return torch.where(self.mirrored[:, None], y.flip(-1), y) if bool(self.mirrored.any()) else y


def symmetry(geometry: Geometry) -> Symmetry:
    """The symmetry of a scan that saves the most; none if there is none that does."""
    angles = geometry.angles
    fan = geometry.source_to_center is not None
    none = Symmetry(
        geometry=geometry,
        kinds=((False, False, False),),
        view=torch.arange(len(angles), device=angles.device),
        kind=torch.zeros(len(angles), dtype=torch.int64, device=angles.device),
        mirrored=torch.zeros(len(angles), dtype=torch.bool, device=angles.device),
    )
    if any(geometry.center) or (fan and geometry.detector_offset):
        return none
    (height, width), (H, W) = geometry.pixel_size, geometry.in_shape
    c, s = angles.cos(), angles.sin()
    tiny = torch.finfo(torch.float64).eps * 8
    flip_x, flip_y = c < -tiny, s < -tiny
    swap = (s.abs() > c.abs() * (1 + 1e-12)) & (H == W and height == width)
    mirrored = (flip_x ^ flip_y ^ swap) & fan
    flip_x, flip_y = flip_x ^ mirrored, flip_y ^ mirrored
    needed = torch.atan2(torch.where(swap, c, s).abs(), torch.where(swap, s, c).abs())
    order = needed.argsort(stable=True)
    new = torch.cat([torch.ones(1, dtype=torch.bool, device=angles.device), needed[order].diff() > _SAME])
    view = torch.empty_like(order)
    view[order] = new.cumsum(0) - 1
    code, kind = torch.unique(4 * swap.long() + 2 * flip_x.long() + flip_y.long(), return_inverse=True)
    found = replace(geometry, angles=needed[order][new])
    if len(found.angles) * len(code) > 1.5 * len(angles):
        return none
    if fan and bool(swap.any()) and bool(_tied(Lines.of(found, 0, len(found.angles))).any()):
        return none
    kinds = tuple((bool(n & 4), bool(n & 2), bool(n & 1)) for n in code.tolist())
    return Symmetry(geometry=found, kinds=kinds, view=view, kind=kind, mirrored=mirrored)


def _tied(lines: Lines) -> Tensor:
    """Rays at 45 degrees, which swapped axes would see along the other one."""
    return (lines.slope.abs() - 1).abs() < 1e-9


def _moved(x: Tensor, swap: bool, flip_x: bool, flip_y: bool) -> Tensor:
    """The image ``f(g .)``: first flipped, then swapped about the diagonal that x = y is."""
    axes = [-1] * flip_x + [-2] * flip_y
    x = x.flip(axes) if axes else x
    return x.flip(-1, -2).mT if swap else x


def _moved_back(x: Tensor, swap: bool, flip_x: bool, flip_y: bool) -> Tensor:
    axes = [-1] * flip_x + [-2] * flip_y
    x = x.mT.flip(-1, -2) if swap else x
    return x.flip(axes) if axes else x
