"""Where the rays of a scan in a plane run: sources, detector bins, pixels. Lengths in mm, angles in radians.

The x axis points to the right, along the columns of an image, the y axis upwards, against its rows; pixel centres are
``((j - (W - 1) / 2) width, ((H - 1) / 2 - i) height)``. At angle a the detector lies along ``e = (cos a, sin a)``, and
rays run along ``(-sin a, cos a)``, from the source, which is at ``-source_to_center`` along it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.validation import Shape

Weights = Literal["joseph", "siddon"]
EDGE = 2**-23  # of a pixel: edges are that wide for rays along them, which count half for both neighbours
_ON = 1e-9  # of a pixel: a ray that runs so near along an edge runs on it


def radius(in_shape: Shape, pixel_size: tuple[float, float], center: tuple[float, float]) -> float:
    """Of the circle about the axis of rotation that holds an image, mm."""
    height, width = (n * size / 2 for n, size in zip(in_shape, pixel_size, strict=True))
    return math.hypot(width + abs(center[0]), height + abs(center[1]))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """One scan in a plane: views of a row of detector bins, rays that are parallel or come from a point.

    Attributes
    ----------
    angles : Tensor, shape (views,)
        In radians, counterclockwise, float64.
    in_shape : tuple of int
        ``(H, W)``, pixels.
    pixel_size : tuple of float
        ``(height, width)`` of a pixel, mm.
    center : tuple of float
        ``(x, y)`` of the axis of rotation, mm right of and above the middle of the image.
    bins : int
        Of the detector.
    bin_size : float
        mm on the detector; on a curved one along the arc.
    detector_offset : float
        Where the middle of the detector is along it, mm from the foot of the ray through the axis of rotation.
    source_to_center, source_to_detector : float or None
        mm; None for parallel rays.
    curved : bool
        Whether the detector is an arc about the source.
    weights : {'joseph', 'siddon'}
        What a ray counts of pixels.
    detector_tilt : float
        Of a flat detector of a fan, radians: counterclockwise about the foot of the ray through the axis of rotation.
    """

    angles: Tensor
    in_shape: Shape
    pixel_size: tuple[float, float]
    center: tuple[float, float]
    bins: int
    bin_size: float
    detector_offset: float
    source_to_center: float | None = None
    source_to_detector: float | None = None
    curved: bool = False
    weights: Weights = "joseph"
    detector_tilt: float = 0.0

    def to(self, device: torch.device | str) -> Geometry:
        """The same scan with its angles elsewhere."""
        return replace(self, angles=self.angles.to(device))

    @property
    def positions(self) -> Tensor:
        """Where the middles of the bins are along the detector, ``(bins,)``, mm."""
        index = torch.arange(self.bins, dtype=torch.float64, device=self.angles.device)
        return (index - (self.bins - 1) / 2) * self.bin_size + self.detector_offset

    @property
    def slants(self) -> Tensor:
        """Of a fan: the angles of the rays with that through the axis of rotation, ``(bins,)``."""
        u, tilt = self.positions, torch.as_tensor(self.detector_tilt, dtype=torch.float64, device=self.angles.device)
        assert self.source_to_detector is not None
        if self.curved:
            return u / self.source_to_detector
        return torch.atan2(u * tilt.cos(), self.source_to_detector + u * tilt.sin())

    def rays(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """A point and the unit direction ``(views, bins, 2)``, x and y from the middle of the image, of some views."""
        a = self.angles[first:last, None]
        along, ahead = torch.stack([a.cos(), a.sin()], -1), torch.stack([-a.sin(), a.cos()], -1)
        u = self.positions[:, None]
        axis = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=a.device) for v in self.center])
        if self.source_to_center is None or self.source_to_detector is None:
            return axis + u * along, ahead.expand(-1, self.bins, -1)
        slant = self.slants[:, None]
        direction = slant.sin() * along + slant.cos() * ahead
        return (axis - self.source_to_center * ahead).expand_as(direction), direction

    @property
    def lines(self) -> Lines:
        """All rays as lines through the grid of pixels."""
        return Lines.of(self, 0, len(self.angles))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Lines:
    """Rays in units of the grid, ``(rays,)`` each: grid line k across the steeper axis is met at ``start + k slope``.

    Joseph's weights (1982): on every grid line across the steeper axis (of rows where ``rows`` is True) the image is
    interpolated linearly between two pixels, and counts for ``length``, the mm between two grid lines. Ties go to rows.
    Siddon's (1985): about every grid line, half a pixel before and behind, the ray is in two pixels at most, and each
    counts for the length in it.
    """

    start: Tensor
    slope: Tensor
    length: Tensor
    rows: Tensor
    in_shape: Shape
    weights: Weights = "joseph"

    @staticmethod
    def of(geometry: Geometry, first: int, last: int) -> Lines:
        (height, width), (H, W) = geometry.pixel_size, geometry.in_shape
        point, direction = (v.flatten(0, 1) for v in geometry.rays(first, last))
        # Columns and rows, as fractions of a pixel, at a point of the ray and per mm along it.
        column, row = point[:, 0] / width + (W - 1) / 2, (H - 1) / 2 - point[:, 1] / height
        right, down = direction[:, 0] / width, -direction[:, 1] / height
        rows = down.abs() >= right.abs() * (1 - 1e-12)
        at, across = torch.where(rows, row, column), torch.where(rows, column, row)
        main, other = torch.where(rows, down, right), torch.where(rows, right, down)
        slope = other / main
        start = across - at * slope
        if geometry.weights == "siddon":
            start, slope = on_edges(start, slope)
        return Lines(
            start=start,
            slope=slope,
            length=1 / main.abs(),
            rows=rows,
            in_shape=geometry.in_shape,
            weights=geometry.weights,
        )

    def take(self, order: Tensor) -> Lines:
        """Some of the rays, or all of them in another order."""
        start, slope, length, rows = (v[order] for v in (self.start, self.slope, self.length, self.rows))
        return replace(self, start=start, slope=slope, length=length, rows=rows)

    @cached_property
    def steps(self) -> tuple[Tensor, Tensor]:
        """The first grid line that each ray meets in the image or less than a pixel beside it, and how many; int64."""
        H, W = self.in_shape
        count, limit = torch.where(self.rows, H, W), torch.where(self.rows, W, H)
        slope = torch.where(self.slope.abs() < 1e-12, 1e-12, self.slope)
        ends = torch.stack([(-1 - self.start) / slope, (limit - self.start) / slope])  # -1 < start + k slope < limit
        first, last = (
            (v.clamp_min(0).minimum(count.double())).long() for v in (ends.amin(0).floor() + 1, ends.amax(0).ceil())
        )
        return first, (last - first).clamp_min(0)

    @property
    def taps_per_ray(self) -> Tensor:
        """How many pixels count for each ray, ``(rays,)`` int64: two on every grid line."""
        return 2 * self.steps[1]

    def taps(self, first: int, last: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Pixels (int32, in the flattened image) and weights of some rays, one ray after another, flat.

        What lies outside of the image has weight 0, and stands for the pixel at the border.
        """
        W = self.in_shape[1]
        some = slice(first, last)
        begin, steps = (v[some] for v in self.steps)
        total = int(steps.sum())

        def each(value: Tensor) -> Tensor:
            return value.repeat_interleave(steps, output_size=total)

        rows, start, slope = self.rows[some], self.start[some], self.slope[some]
        k = torch.arange(total, dtype=torch.int32, device=start.device)
        k += each((begin - steps.cumsum(0) + steps).to(torch.int32))
        at = torch.addcmul(each(start), each(slope), k.to(start.dtype))
        siddon = self.weights == "siddon"
        if (
            siddon
        ):  # where the ray leaves the first of two pixels: its first point of all half a pixel before and behind
            wide = slope.abs().clamp_min(EDGE)
            at -= each(wide / 2 - 0.5)
        edge = each(torch.where(rows, W - 1, self.in_shape[0] - 1).to(torch.int32))
        # Clamped: rounding may lead a hair beyond.
        lower = torch.minimum(at.floor().to(torch.int32).clamp_min_(-1), edge)
        at -= lower
        share = ((at - 1) / each(wide) + 1).clamp_(0, 1).to(dtype) if siddon else at.to(dtype)
        upper = lower + 1
        weight = torch.empty(total, 2, dtype=dtype, device=start.device)
        length = each(self.length[some].to(dtype))
        share *= length
        torch.mul(length - share, lower >= 0, out=weight[:, 0])
        torch.mul(share, upper <= edge, out=weight[:, 1])
        # A step along the grid lines, and across them, in the flattened image.
        across = each(torch.where(rows, 1, W).to(torch.int32))
        k *= each(torch.where(rows, W, 1).to(torch.int32))
        pixel = torch.empty(total, 2, dtype=torch.int32, device=start.device)
        torch.addcmul(k, lower.clamp_min_(0), across, out=pixel[:, 0])
        torch.addcmul(k, torch.minimum(upper, edge, out=upper), across, out=pixel[:, 1])
        return pixel.view(-1), weight.view(-1)


def on_edges(start: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Rays that run along an edge, halfway between centres, to rounding: exactly."""
    edge = (start - 0.5).round() + 0.5
    on = ((start - edge).abs() < _ON) & (slope.abs() < _ON)
    return torch.where(on, edge, start), torch.where(on, 0.0, slope)
