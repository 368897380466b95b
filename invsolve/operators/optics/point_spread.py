"""Kernels for `Blur`: diffraction at a circular pupil, with defocus and aberrations, and motion along a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_dims, check_int, check_number, check_positive
from invsolve.errors import invalid, invalid_type

_ENTRIES = 2**20  # of the waves that are summed at once


@in_defined_state
def diffraction_kernel(
    shape: Sequence[int],
    *,
    pixel_size: float,
    wavelength: float,
    numerical_aperture: float,
    defocus: float = 0.0,
    refractive_index: float = 1.0,
    aberrations: Mapping[int, float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The intensity of a point behind a circular pupil; in focus and without aberrations the Airy pattern.

    ``|integral over the pupil of exp(i phase + 2 pi i NA rho . r / wavelength)|^2`` at the centres of the pixels, of
    sum 1 over the kernel. Scalar and incoherent: the pupil is evenly lit.

    Parameters
    ----------
    shape : sequence of int
        (h, w) in pixels; the centre is at ``n // 2``, as that of kernels of `Blur`. Odd lengths are symmetric.
    pixel_size, wavelength : float
        Lengths in the object, > 0, in one unit (micrometres, say); the wavelength is that in vacuum.
    numerical_aperture : float
        NA, > 0, less than the refractive index.
    defocus : float
        How far the point is from the plane in focus, in the same unit: the phase ``2 pi z ((n^2 - NA^2 rho^2)^(1/2) -
        n) / wavelength`` over the pupil, rho from 0 to 1. 0 by default.
    refractive_index : float
        n of the medium, > 0; 1 by default.
    aberrations : mapping from int to float, optional
        Zernike coefficients by their index in Noll's order (4 defocus, 5 and 6 astigmatism, 7 and 8 coma, 11
        spherical), in wavelengths root mean square. Angles are counted from the columns' axis to that of the rows.
    dtype : torch.dtype
        float32 (the default) or float64; computed in float64.

    Returns
    -------
    Tensor, shape (h, w)
        Real, >= 0, of sum 1.

    Raises
    ------
    InputTypeError
        If ``dtype`` is another, or an argument is no number.
    InputError
        If a number is out of its range.

    Notes
    -----
    A quadrature over the pupil, Gauss-Legendre in ``rho^2`` and the trapezoidal rule in the angle, with nodes by the
    number of turns of the phase. A pixel that is not small against ``wavelength / (4 NA)`` undersamples the pattern; a
    detector's pixel that averages is ``SuperResolution(..., method="mean")`` of a finer grid.

    References
    ----------
    Born & Wolf 1999, Principles of Optics, sections 8.5 and 8.8; Noll 1976, Zernike polynomials and atmospheric
    turbulence, J. Opt. Soc. Am. 66, 207; Goodman 2005, Introduction to Fourier Optics, chapter 6.

    Examples
    --------
    >>> diffraction_kernel((3, 3), pixel_size=0.1, wavelength=0.5, numerical_aperture=0.9)
    tensor([[0.0859, 0.1218, 0.0859],
            [0.1218, 0.1692, 0.1218],
            [0.0859, 0.1218, 0.0859]])
    """
    owner = "diffraction_kernel"
    dims = check_dims(owner, "shape", shape)
    if len(dims) != 2:
        raise invalid(owner, "shape", "of two axes (h, w)", dims)
    _check_real(owner, dtype)
    pixel_size, wavelength = (
        check_positive(owner, "pixel_size", pixel_size),
        check_positive(owner, "wavelength", wavelength),
    )
    index = check_positive(owner, "refractive_index", refractive_index)
    aperture = check_positive(owner, "numerical_aperture", numerical_aperture)
    if aperture >= index:
        raise invalid(owner, "numerical_aperture", f"less than the refractive index, {index}", aperture)
    defocus = check_number(owner, "defocus", defocus)
    terms = {
        check_int(owner, "aberrations", j, minimum=1): check_number(owner, f"aberrations[{j}]", value)
        for j, value in (aberrations or {}).items()
    }
    down, right = ((torch.arange(n, dtype=torch.float64, device="cpu") - n // 2) * pixel_size for n in dims)
    reach = aperture / wavelength * math.hypot(float(down.abs().max()), float(right.abs().max()))  # turns to the edge
    bend = abs(defocus) * (index - math.sqrt(index**2 - aperture**2)) / wavelength
    bend += sum(abs(value) * (_noll(j)[0] + 1) ** 1.5 for j, value in terms.items())
    rho, angle, weight = _pupil(reach, bend, max((_noll(j)[0] for j in terms), default=0))
    phase = defocus / wavelength * ((index**2 - (aperture * rho) ** 2).sqrt() - index)
    for j, value in terms.items():
        phase = phase + value * zernike(j, rho, angle)
    amplitude = torch.polar(weight, 2 * math.pi * phase)
    field = torch.zeros(dims, dtype=torch.complex128, device="cpu")
    step = max(1, _ENTRIES // max(dims))
    for first in range(0, len(rho), step):
        part = slice(first, first + step)
        rows = _waves(down * aperture / wavelength, rho[part] * angle[part].sin())
        columns = _waves(right * aperture / wavelength, rho[part] * angle[part].cos())
        field += (rows * amplitude[part]) @ columns.mT
    intensity = field.abs().square()
    return (intensity / intensity.sum()).to(dtype)


def _waves(place: Tensor, frequency: Tensor) -> Tensor:
    """``exp(2 pi i place frequency)``, (places, nodes)."""
    turns = 2 * math.pi * place[:, None] * frequency
    return torch.polar(torch.ones_like(turns), turns)


def _pupil(reach: float, bend: float, order: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (radius, angle) of a unit disc and their weights, of sum 1, for phases of so many turns."""
    # Gauss-Legendre is exact to rounding from about pi nodes a turn and a score on; the trapezoidal rule in the angle
    # converges like a Bessel function whose order exceeds its argument 2 pi reach.
    radial = 24 + math.ceil(4 * (reach + bend)) + order
    turns = 32 + math.ceil(2 * math.pi * (1.1 * reach + 2 * bend)) + 4 * order
    from numpy.polynomial.legendre import leggauss  # here, not above: a tenth of `import invsolve` otherwise

    node, weight = (torch.from_numpy(v) for v in leggauss(radial))
    rho = ((node + 1) / 2).sqrt()[:, None].expand(radial, turns)
    angle = (2 * math.pi / turns * torch.arange(turns, dtype=torch.float64, device="cpu")).expand(radial, turns)
    return rho.flatten(), angle.flatten(), (weight / (2 * turns))[:, None].expand(radial, turns).flatten()


def zernike(j: int, rho: Tensor, angle: Tensor) -> Tensor:
    """Noll's Zernike polynomial j at points of the unit disc, of root mean square 1 over it (j = 1 is the constant)."""
    n, m = _noll(j)
    k = abs(m)
    radial = torch.zeros_like(rho)
    for s in range((n - k) // 2 + 1):
        above, below = (n + k) // 2 - s, (n - k) // 2 - s
        factor = math.factorial(n - s) / (math.factorial(s) * math.factorial(above) * math.factorial(below))
        radial = radial + (-1) ** s * factor * rho ** (n - 2 * s)
    if m == 0:
        return math.sqrt(n + 1) * radial
    return math.sqrt(2 * (n + 1)) * radial * (torch.cos(k * angle) if m > 0 else torch.sin(k * angle))


def _noll(j: int) -> tuple[int, int]:
    """Noll's (n, m), m > 0 for cosines and < 0 for sines: within an order |m| grows, even j are cosines."""
    n = (math.isqrt(8 * j - 7) - 1) // 2
    place = j - n * (n + 1) // 2 - 1  # within the order, from 0
    k = (n % 2) + 2 * ((place + (n + 1) % 2) // 2)
    return n, 0 if k == 0 else k if j % 2 == 0 else -k


@in_defined_state
def motion_kernel(length: float, angle: float, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """A point that moves along a straight line at constant speed while the shutter is open.

    Parameters
    ----------
    length : float
        Of the way, in pixels, >= 0.
    angle : float
        Its direction in radians, counterclockwise from the columns' axis, rows pointing down: 0 is horizontal.
    dtype : torch.dtype
        float32 (the default) or float64; computed in float64.

    Returns
    -------
    Tensor, shape (h, w)
        Real, of sum 1 and odd lengths: the share of the way that lies in each pixel, the middle of the way in the
        middle of the central one.

    Raises
    ------
    InputTypeError
        If ``dtype`` is another, or an argument is no number.
    InputError
        If ``length`` is negative or a number not finite.

    Examples
    --------
    >>> motion_kernel(3.0, 0.0)
    tensor([[0.3333, 0.3333, 0.3333]])
    """
    owner = "motion_kernel"
    _check_real(owner, dtype)
    length = check_positive(owner, "length", length, zero=True)
    angle = check_number(owner, "angle", angle)
    step = length / 2 * np.array([-math.sin(angle), math.cos(angle)])  # (down, right), from the middle to the end
    step = np.where(np.abs(step) < 1e-12 * max(1.0, length), 0.0, step)
    reach = [max(0, math.ceil(abs(s) - 0.5 - 1e-9)) for s in step]
    # Where the way, t from -1 to 1, crosses the edges of pixels, at half-integers.
    crossings = [np.array([-1.0, 1.0])]
    for s, r in zip(step, reach, strict=True):
        if s:
            crossings.append((np.arange(-r, r) + 0.5) / s)
    t = np.unique(np.clip(np.concatenate(crossings), -1, 1))
    middle, share = (t[1:] + t[:-1]) / 2, np.diff(t) / 2
    rows, columns = (np.clip(np.rint(middle * s), -r, r).astype(int) + r for s, r in zip(step, reach, strict=True))
    kernel = np.zeros((2 * reach[0] + 1, 2 * reach[1] + 1))
    np.add.at(kernel, (rows, columns), share)
    return torch.from_numpy(kernel).to(dtype)


def _check_real(owner: str, dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise invalid_type(owner, "dtype", "torch.float32 or torch.float64", str(dtype))


__all__ = ["diffraction_kernel", "motion_kernel", "zernike"]
