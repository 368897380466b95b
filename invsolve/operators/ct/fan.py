"""Scans by a fan of rays from a point, on a flat or a curved detector."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, final

from torch import Tensor

from invsolve.core.validation import check_choice, check_number, check_positive
from invsolve.errors import invalid
from invsolve.operators.ct.beam import Beam
from invsolve.operators.ct.geometry import Geometry


@final
@dataclass(frozen=True, eq=False, repr=False)
class FanBeam(Beam):
    """Line integrals of an image along a fan of rays from a source that turns about it, ``(views, bins)``.

    Computed tomography (CT): an image ``(H, W)`` gives a sinogram ``(views, bins)``. At angle a, in radians, the source
    is at ``source_to_center (sin a, -cos a)`` from the axis of rotation, x to the right and y upwards, and the detector
    lies opposite, along ``(cos a, sin a)``: far away sources see what `ParallelBeam` sees. Data are in units of the
    image times mm; the slices of a volume are a batch.

    Parameters
    ----------
    angles : Tensor or array, shape (views,) or (items, views)
        In radians, counterclockwise.
    in_shape : tuple of int
        The shape of the image, ``(H, W)``.
    bins : int, optional
        Detector bins; by default as many as see the whole image.
    pixel_size : float or tuple of float
        mm, > 0, or ``(height, width)`` of a pixel; 1 by default.
    bin_size : float, optional
        The distance of two bins on the detector, mm, > 0, on a curved one along the arc; by default the smaller side of
        a pixel as it is seen on the detector.
    detector_offset : float
        Where the middle of the detector is on it, mm from the ray through the axis of rotation; 0 by default.
    center : tuple of float
        ``(x, y)`` of the axis of rotation in the image, mm right of and above its middle; (0, 0) by default.
    kind : {'real', 'complex'}
        The kind of image and data; real by default.
    weights, backend
        As for `ParallelBeam`; astra has only weights="siddon" for fans, Triton only Joseph's.
    source_to_center : float
        The distance of the source from the axis of rotation, mm; the image must lie inside of it.
    source_to_detector : float
        The distance of the source from the detector along the ray through the axis of rotation, mm, > 0.
    detector : {'flat', 'curved'}
        A line, or an arc about the source; flat by default.
    detector_tilt : float
        The angle, in radians, that a flat detector is turned by from the perpendicular to the ray through the axis of
        rotation, counterclockwise about where that ray meets it, less than a right angle; 0 by default.

    Raises
    ------
    InputTypeError
        If ``angles`` are no real numbers.
    InputError
        If a number is out of its range, or a shape does not fit; if the back end does not know such a scan.
    UnsupportedError
        If the back end is not installed, or needs another device.

    Notes
    -----
    The adjoint is the transpose. What is said of `ParallelBeam` holds.

    Examples
    --------
    >>> import numpy as np
    >>> turn = 2 * np.pi * np.arange(80) / 80
    >>> FanBeam(turn, (64, 64), bins=128, source_to_center=300.0, source_to_detector=500.0, detector="curved")
    FanBeam((64, 64) -> (80, 128), real, stored matrix, 9 MiB)
    """

    _: KW_ONLY
    source_to_center: float
    source_to_detector: float
    detector: Literal["flat", "curved"] = "flat"
    detector_tilt: float = 0.0

    def _check_distances(self) -> None:
        check_choice("FanBeam", "detector", self.detector, ("flat", "curved"))
        far = check_positive("FanBeam", "source_to_center", self.source_to_center)
        self._set(
            source_to_center=far,
            source_to_detector=check_positive("FanBeam", "source_to_detector", self.source_to_detector),
            detector_tilt=check_number("FanBeam", "detector_tilt", self.detector_tilt),
        )
        if self.source_to_detector < far:
            repair = "It is measured from the source: from the axis of rotation, as in astra, add source_to_center."
            want = f"at least source_to_center, {far:.6g}"
            raise invalid("FanBeam", "source_to_detector", want, self.source_to_detector, repair)
        if self.detector_tilt and self.detector == "curved":
            raise invalid("FanBeam", "detector_tilt", "0 of a curved detector", self.detector_tilt)
        if far <= self._radius:
            expected = f"larger than {self._radius:.6g}, the radius of the image about the axis of rotation"
            raise invalid("FanBeam", "source_to_center", expected, far, "Lengths are in mm: is pixel_size?")
        steepest = math.pi / 2 - math.asin(self._radius / far)
        if abs(self.detector_tilt) >= steepest:
            expected = f"between -{steepest:.4g} and {steepest:.4g} radians, where every ray meets the detector"
            raise invalid("FanBeam", "detector_tilt", expected, self.detector_tilt, "Is it in degrees?")

    @property
    def _magnification(self) -> float:
        return self.source_to_detector / self.source_to_center

    def _reach(self, radius: float) -> float:
        half = math.asin(radius / self.source_to_center)
        if self.detector == "curved":
            return self.source_to_detector * half
        # By the law of sines; on a tilted one the side that is further away is the longer one.
        return self.source_to_detector * math.sin(half) / math.cos(half + abs(self.detector_tilt))

    def _geometry(self, angles: Tensor) -> Geometry:
        return replace(
            super()._geometry(angles),
            source_to_center=self.source_to_center,
            source_to_detector=self.source_to_detector,
            curved=self.detector == "curved",
            detector_tilt=self.detector_tilt,
        )
