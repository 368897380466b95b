"""Scans by a cone of rays from a point that circles about a volume, or runs along a helix."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.validation import (
    Shape,
    check_choice,
    check_dims,
    check_finite,
    check_int,
    check_number,
    check_positive,
)
from invsolve.errors import invalid
from invsolve.operators.ct.geometry import Geometry, radius
from invsolve.operators.ct.spatial import SpatialBeam, numbers, several
from invsolve.operators.ct.views import Views


@final
@dataclass(frozen=True, eq=False, repr=False)
class ConeBeam(SpatialBeam):
    """Line integrals of a volume along rays from a source that turns about it, ``(views, rows, bins)``.

    Every slice of the volume has the axes of an image of `FanBeam`: x to the right, y upwards; z runs along the slices.
    At angle a the source is at ``source_to_center (sin a, -cos a, 0)`` from the axis of rotation, and the detector lies
    opposite, its rows along ``(cos a, sin a, 0)``, one above the other along z. Data are in units of the volume times
    mm.

    Parameters
    ----------
    angles : Tensor or array, shape (views,) or (items, views)
        In radians, counterclockwise; for a helix over as many turns as it has.
    in_shape : tuple of int
        The shape of the volume, ``(D, H, W)``.
    rows, bins : int, optional
        Of the detector; by default as many as see the whole volume, on a circle without ``tilt`` and ``roll``.
    bin_size : float or tuple of float, optional
        The distance of two bins on the detector, mm, > 0, on a curved one along the arc, or ``(height, width)``, where
        height is the distance of two rows; by default the smallest side of a voxel as it is seen on the detector.
    detector_offset : tuple of float
        ``(u, v)``: where the middle of the detector is along its rows and across them, mm from the ray through the axis
        of rotation; (0, 0) by default.
    center : tuple of float
        ``(x, y, z)``: a point of the axis of rotation in the volume, mm from its middle, at whose height the source is
        at angle 0; (0, 0, 0) by default.
    pitch : float
        How far the source moves along z in a turn, mm, together with the detector; 0 by default, a circle.
    tilt : float
        How far the detector and its rays are tilted against the axis of rotation, radians: the source is at
        ``source_to_center sin(tilt)`` above the circle's centre, the rays run downwards (laminography); 0 by default.
    roll : float
        How far the detector is turned in its plane about the ray through the axis of rotation, radians, from its rows
        towards z; 0 by default.
    voxel_size : float or tuple of float
        mm, > 0, or ``(depth, height, width)`` of a voxel; 1 by default.
    kind : {'real', 'complex'}
        The kind of volume and data; real by default.
    weights : {'joseph', 'siddon'}
        Interpolation between the voxels at every plane that a ray crosses, by default, or the lengths of the rays in
        the voxels.
    backend : {'auto', 'matrix', 'on the fly'}
        A sparse matrix and its transpose that are stored, or weights that are made anew in every call. By default
        stored on a CPU, where they take at most 1 GiB; ``repr`` says which.
    memory : int
        Bytes, about: what a call with weights on the fly may take beside volume and data. Larger volumes are done slab
        by slab; 1 GiB by default.
    source_to_center : float
        The distance of the source from the axis of rotation, mm; the volume must lie inside of it.
    source_to_detector : float
        The distance of the source from the detector along the ray through the axis of rotation, mm, > 0.
    detector : {'flat', 'curved'}
        A plane, or a cylinder about the line through the source across the rows; flat by default.

    Raises
    ------
    InputTypeError
        If ``angles`` are no real numbers.
    InputError
        If a number is out of its range, or a shape does not fit.

    See Also
    --------
    VectorBeam : sources and detectors anywhere.
    invsolve.baselines.fdk : reconstructs a circular scan.

    Notes
    -----
    The weights of Joseph [1]_ in space are bilinear, on the planes across the axis along which a ray passes most of
    them; those of Siddon [2]_ are exact for volumes that are constant in every voxel. The adjoint is the transpose.
    Weights have the precision of what they act on, positions on a plane are rounded to it.

    References
    ----------
    .. [1] Joseph 1982, An improved algorithm for reprojecting rays through pixel images, IEEE Transactions on Medical
       Imaging 1, 192.
    .. [2] Siddon 1985, Fast calculation of the exact radiological path for a three-dimensional CT array, Medical
       Physics 12, 252.

    Examples
    --------
    >>> import numpy as np
    >>> turn = 2 * np.pi * np.arange(90) / 90
    >>> ConeBeam(turn, (64, 64, 64), rows=96, bins=96, source_to_center=300.0, source_to_detector=450.0)
    ConeBeam((64, 64, 64) -> (90, 96, 96), real, weights on the fly)
    """

    angles: Tensor
    in_shape: Shape
    _: KW_ONLY
    rows: int | None = None
    bins: int | None = None
    bin_size: float | tuple[float, float] | None = None
    detector_offset: tuple[float, float] = (0.0, 0.0)
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pitch: float = 0.0
    tilt: float = 0.0
    roll: float = 0.0
    source_to_center: float
    source_to_detector: float
    detector: Literal["flat", "curved"] = "flat"

    def __post_init__(self) -> None:
        owner = "ConeBeam"
        angles = real_parameter(owner, "angles", self.angles, dtype=torch.float64).detach().double()
        if angles.ndim not in (1, 2) or not angles.numel():
            raise invalid(owner, "angles", "of shape (views,) or (items, views), in radians", tuple(angles.shape))
        check_choice(owner, "detector", self.detector, ("flat", "curved"))
        shape = check_dims(owner, "in_shape", self.in_shape)
        if len(shape) != 3:
            raise invalid(owner, "in_shape", "(D, H, W)", shape, "A plane is seen by FanBeam.")
        self._check_common(shape)
        far = check_positive(owner, "source_to_center", self.source_to_center)
        near = check_positive(owner, "source_to_detector", self.source_to_detector)
        voxel = tuple(several(owner, "voxel_size", self.voxel_size, 3))
        given = min(voxel) * near / far if self.bin_size is None else self.bin_size
        size = tuple(check_positive(owner, "bin_size", v) for v in several(owner, "bin_size", given, 2))
        self._set(
            angles=check_finite(owner, "angles", angles),
            source_to_center=far,
            source_to_detector=near,
            bin_size=size,
            detector_offset=numbers(owner, "detector_offset", self.detector_offset, "u, v"),
            center=numbers(owner, "center", self.center, "x, y, z"),
            **{name: check_number(owner, name, getattr(self, name)) for name in ("pitch", "tilt", "roll")},
        )
        seen = radius(shape[1:], (voxel[1], voxel[2]), self.center[:2])
        if far * math.cos(self.tilt) <= seen:
            expected = f"larger than {seen:.6g}, the radius of the volume about the axis of rotation"
            raise invalid(owner, "source_to_center", expected, far, "Lengths are in mm: is voxel_size?")
        self._set(bins=self._count("bins", self.bins, seen), rows=self._count("rows", self.rows, seen))
        half = abs(self._slant(self.bins or 1))
        if self.detector == "curved" and half >= math.pi / 2:
            given_arc = f"{math.degrees(half):.1f} degrees on one side"
            raise invalid(owner, "bins", "less than a quarter of a turn on an arc, on either side", given_arc)
        self._check_places("Lengths are in mm: is voxel_size?")

    def _slant(self, bins: int) -> float:
        """The angle of the outermost bin of an arc, radians."""
        return ((bins - 1) / 2 * self.detector_sizes[1] + abs(self.detector_offset[0])) / self.source_to_detector

    def _count(self, name: str, given: int | None, seen: float) -> int:
        """Of rows or bins, by default so many that a cylinder about the axis is seen that holds the volume."""
        if given is not None:
            return check_int("ConeBeam", name, given, minimum=1)
        if self.pitch or self.tilt or self.roll:
            raise invalid("ConeBeam", name, "given where there is a pitch, a tilt or a roll", None)
        if name == "bins":
            half = math.asin(seen / self.source_to_center)
            reach = self.source_to_detector * (half if self.detector == "curved" else math.tan(half))
        else:
            height = self.in_shape[0] * self._voxel[0] / 2 + abs(self.center[2])
            reach = self.source_to_detector * height / (self.source_to_center - seen)
        return max(1, math.ceil(2 * reach / self.detector_sizes[name == "bins"]))

    @property
    def detector_sizes(self) -> tuple[float, float]:
        """``(height, width)``: the distances of two rows and of two bins, mm."""
        height, width = several("", "", self.bin_size, 2)
        return height, width

    @property
    def _voxel(self) -> tuple[float, float, float]:
        depth, height, width = several("", "", self.voxel_size, 3)
        return depth, height, width

    def _item_axes(self) -> dict[str, int]:
        return {"angles": 1}

    @cached_property
    def _all_views(self) -> tuple[Views, ...]:
        return tuple(self._views(angles) for angles in self.angles.view(-1, self.angles.shape[-1]))

    def _views(self, angles: Tensor) -> Views:
        c, s, one, none = angles.cos(), angles.sin(), torch.ones_like(angles), torch.zeros_like(angles)
        up = torch.stack([none, none, one], -1)
        along, level = torch.stack([c, s, none], -1), torch.stack([-s, c, none], -1)
        tilt, roll = (torch.tensor(v, dtype=torch.float64, device=angles.device) for v in (self.tilt, self.roll))
        ahead, above = tilt.cos() * level - tilt.sin() * up, tilt.cos() * up + tilt.sin() * level
        row, column = roll.cos() * along + roll.sin() * above, roll.cos() * above - roll.sin() * along
        middle = torch.tensor(self.center, dtype=torch.float64, device=angles.device)
        source = middle + up * (self.pitch * angles / (2 * math.pi))[:, None] - self.source_to_center * ahead
        (u, v), far = self.detector_offset, self.source_to_detector
        if self.detector == "curved":
            turned = torch.tensor(u / far, dtype=torch.float64, device=angles.device)
            detector = source + far * (turned.sin() * row + turned.cos() * ahead) + v * column
            row = turned.cos() * row - turned.sin() * ahead
        else:
            detector = source + far * ahead + u * row + v * column
        height, width = self.detector_sizes
        return Views(
            source=source,
            detector_center=detector,
            u=width * row,
            v=height * column,
            in_shape=self.in_shape,
            voxel_size=self._voxel,
            rows=self.rows or 1,
            bins=self.bins or 1,
            curved=self.detector == "curved",
        )

    @property
    def middle_fan(self) -> Geometry:
        """The scan of the plane in which the source turns, of one set of angles on a circle."""
        return Geometry(
            angles=self.angles if self.angles.ndim == 1 else self.angles[0],
            in_shape=self.in_shape[1:],
            pixel_size=self._voxel[1:],
            center=self.center[:2],
            bins=self.bins or 1,
            bin_size=self.detector_sizes[1],
            detector_offset=self.detector_offset[0],
            source_to_center=self.source_to_center,
            source_to_detector=self.source_to_detector,
            curved=self.detector == "curved",
        )
