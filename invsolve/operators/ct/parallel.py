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
    weights : {'joseph', 'siddon'}
        Interpolation between two pixels at every row or column that a ray crosses, by default, or the lengths of the
        rays in the pixels: exact for images that are constant in every pixel.
    backend : {'auto', 'matrix', 'on the fly', 'triton', 'astra'}
        A sparse matrix and its transpose that are stored, or weights that are made anew in every call: by torch, by
        kernels in Triton on a GPU (Joseph's only), or by astra-toolbox (GPLv3) on a CPU, in single precision. By
        default stored on a CPU and on a CUDA device, where they take at most 1 GiB; above that by Triton on CUDA, else
        by torch. ``repr`` says which.

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
    The weights of Joseph [1]_ or Siddon [2]_; a ray along the edge of two pixels counts half for each. The adjoint is
    the transpose (of astra to about 1e-7, because it rounds). Weights have the precision of what they act on. Where
    views see flipped or turned copies of the grid (angles that are spread evenly over half a turn or a whole one), a
    quarter or an eighth of the weights is stored. Large matrices are kept on the disk, in the platform's folder for
    such files: the environment variable ``INVSOLVE_CACHE`` names another one, or "off". `ct.GeometryDerivative` is how
    line integrals change with the geometry.

    References
    ----------
    .. [1] Joseph 1982, An improved algorithm for reprojecting rays through pixel images, IEEE Transactions on Medical
       Imaging 1, 192.
    .. [2] Siddon 1985, Fast calculation of the exact radiological path for a three-dimensional CT array, Medical
       Physics 12, 252.

    Examples
    --------
    >>> import numpy as np
    >>> ParallelBeam(np.arange(60) * np.pi / 60, (64, 64), bins=95)
    ParallelBeam((64, 64) -> (60, 95), real, stored matrix, 7 MiB)
    """
