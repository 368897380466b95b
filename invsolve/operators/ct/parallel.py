"""Scans by parallel beams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from invsolve.operators.ct.beam import Beam


@final
@dataclass(frozen=True, eq=False, repr=False)
class ParallelBeam(Beam):
    """Line integrals of an image along parallel rays: the Radon transform of a scan, ``(views, bins)``.

    Computed tomography (CT), its X-ray projections: an image ``(H, W)`` gives a sinogram ``(views, bins)``, a row for
    every angle and a column for every bin of the detector. Angles are in radians: 180 views of half a turn are
    ``np.deg2rad(np.arange(180))``.

    The datum at angle a and detector position u is the integral along ``x cos a + y sin a = u``, in units of the image
    times mm; x points to the right, y upwards, both from the axis of rotation. With ``pixel_size=1``, the default, mm
    are pixels. The slices of a volume are a batch.

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
        The distance of two bins, mm, > 0; by default the smaller side of a pixel.
    detector_offset : float
        Where the middle of the detector is on it, mm from the ray through the axis of rotation, towards larger u; 0 by
        default. This is what a scan with a wrong centre of rotation has.
    center : tuple of float
        ``(x, y)`` of the axis of rotation in the image, mm right of and above its middle; (0, 0) by default.
    kind : {'real', 'complex'}
        The kind of image and data; real by default.
    backend : {'auto', 'matrix', 'on the fly'}
        A sparse matrix and its transpose that are stored, or weights that are made anew in every call. By default
        stored on a CPU, where they take at most 1 GiB; ``repr`` says which.

    Raises
    ------
    InputTypeError
        If ``angles`` are no real numbers.
    InputError
        If a number is out of its range, or a shape does not fit.

    Notes
    -----
    Joseph's weights [1]_; the adjoint is the transpose. Weights have the precision of what they act on. Where views see
    flipped or turned copies of the grid (angles that are spread evenly over half a turn or a whole one), a quarter or
    an eighth of the weights is stored.

    References
    ----------
    .. [1] Joseph 1982, An improved algorithm for reprojecting rays through pixel images, IEEE Transactions on Medical
       Imaging 1, 192.

    Examples
    --------
    >>> import numpy as np
    >>> ParallelBeam(np.arange(60) * np.pi / 60, (64, 64), bins=95)
    ParallelBeam((64, 64) -> (60, 95), real, stored matrix, 7 MiB)
    """
