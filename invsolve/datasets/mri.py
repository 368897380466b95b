"""A simulated Cartesian MRI scan, without the inverse crime: the object lives on a finer grid than the unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.torch_state import Defined, in_defined_state
from invsolve.core.validation import check_choice, check_finite, check_int, check_number, check_positive
from invsolve.datasets.coils import coil_maps, smooth_phase
from invsolve.datasets.continuum import check_plane, check_real_dtype, check_seed, normals, uniforms
from invsolve.errors import invalid
from invsolve.operators.mri.cartesian import MRI

_PLANE = (-2, -1)


@in_defined_state
def cartesian_mask(
    shape: tuple[int, int],
    acceleration: float,
    *,
    center_fraction: float = 0.08,
    density: Literal["variable", "uniform"] = "variable",
    axis: int = -1,
    seed: int = 0,
) -> Tensor:
    """Which lines of centred k-space are measured; whole lines, chosen along ``axis``.

    ``round(n / acceleration)`` of the n lines, exactly: ``round(center_fraction * n)`` around the centre n // 2, the
    others at random without repeats. So the true acceleration is ``n / round(n / acceleration)``.

    Parameters
    ----------
    shape : tuple of int
        (H, W).
    acceleration : float
        All lines over measured lines, from 1 to n.
    center_fraction : float
        The share of all lines that is measured around the centre; at most that of the measured lines.
    density : {"variable", "uniform"}
        Probabilities of the others: falling as ``(1 - |k| / k_max)^2``, or equal.
    axis : {-1, -2, 0, 1}
        Along which lines are chosen.
    seed : int
        Of the choice.

    Returns
    -------
    Tensor, shape (H, W)
        bool.

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir" (doi 10.1016/j.ipl.2005.11.003).
    """
    shape = check_plane("cartesian_mask", "shape", shape)
    check_choice("cartesian_mask", "density", density, ("variable", "uniform"))
    check_choice("cartesian_mask", "axis", axis, (-2, -1, 0, 1))
    acceleration = check_number("cartesian_mask", "acceleration", acceleration)
    center_fraction = check_number("cartesian_mask", "center_fraction", center_fraction)
    n = shape[axis]
    if not 1 <= acceleration <= n:
        raise invalid("cartesian_mask", "acceleration", f"between 1 and the number of lines, {n}", acceleration)
    lines, centre = round(n / acceleration), round(center_fraction * n)
    if not 0 <= centre <= lines:
        raise invalid(
            "cartesian_mask",
            "center_fraction",
            f"between 0 and {lines / n:.4g}, the fraction of lines kept",
            center_fraction,
        )
    offset = torch.arange(n, dtype=torch.float64, device="cpu") - n // 2
    distance = offset.abs() / (n // 2 + 1)
    weight = (1 - distance) ** 2 if density == "variable" else torch.ones_like(distance)
    # Keys log(w) + Gumbel: the largest are a weighted draw without repeats (Efraimidis & Spirakis 2006).
    u = uniforms("cartesian mask", check_seed("cartesian_mask", seed), 0, (n,))
    keys = weight.log() - torch.log(-torch.log(u))
    keys[n // 2 - centre // 2 : n // 2 - centre // 2 + centre] = math.inf
    chosen = torch.zeros(n, dtype=torch.bool, device="cpu")
    chosen[keys.topk(lines).indices] = True
    return (chosen if axis in (-1, 1) else chosen[:, None]).expand(shape).contiguous()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MRIScan(Defined):
    """A simulated scan with everything that its reconstruction needs; no batch axis.

    The model is ``kspace_c = mask F (maps_c x) + noise`` with F the centred orthonormal transform: `operator`.

    Parameters
    ----------
    kspace : Tensor, shape (C, H, W)
        Complex, 0 where nothing was measured.
    mask : Tensor, shape (H, W)
        bool: what was measured.
    maps : Tensor, shape (C, H, W)
        Complex sensitivities on the reconstruction grid, with unit sum of squares.
    noise_std : float
        Of the real and of the imaginary part each, in units of k-space and of the image alike.
    truth : Tensor, shape (H, W)
        Complex: the band-limited object, what full noise-free data would show.
    """

    kspace: Tensor  # (C, H, W) complex, 0 where nothing was measured
    mask: Tensor  # (H, W) bool
    maps: Tensor  # (C, H, W) complex, on the reconstruction grid, unit sum of squares
    noise_std: float  # of the real and of the imaginary part each, in units of k-space and of the image alike
    truth: Tensor  # (H, W) complex: the band-limited object, what full noise-free data would show

    @property
    def operator(self) -> MRI:
        """The forward model on the reconstruction grid, ``(H, W)`` complex to ``(C, H, W)``."""
        return MRI(in_shape=(self.mask.shape[0], self.mask.shape[1]), mask=self.mask, maps=self.maps)

    @property
    def acceleration(self) -> float:
        """All lines over measured lines."""
        return self.mask.numel() / int(self.mask.sum())

    def __repr__(self) -> str:
        coils, *grid = self.kspace.shape
        numbers = f"acceleration {self.acceleration:.3g}, noise_std {self.noise_std:.3g}"
        return f"MRIScan({coils} coils, {tuple(grid)}, {numbers})"


@in_defined_state
def simulate_mri(
    image: Tensor,
    *,
    grid: tuple[int, int],
    snr: float = 30.0,
    num_coils: int = 8,
    acceleration: float = 4.0,
    center_fraction: float = 0.08,
    phase_strength: float = 1.0,
    seed: int = 0,
) -> MRIScan:
    """Scan an image as a finer object than the reconstruction grid can hold, without the inverse crime.

    Parameters
    ----------
    image : Tensor, shape (H, W)
        Real, non-negative, not zero.
    grid : tuple of int
        (h, w) of the reconstruction, h < H and w < W.
    snr : float
        Signal to noise ratio of the combined image with full sampling, > 0. Noise is white, of ``noise_std = mean
        |truth| over the object / snr`` per real component ("the object": above a tenth of the maximum).
    num_coils : int
        Receive coils, >= 1 (`coil_maps`).
    acceleration, center_fraction : float
        Of the mask (`cartesian_mask`, last axis).
    phase_strength : float
        Largest size of the object's phase in radians, >= 0 (`smooth_phase`).
    seed : int
        Keys maps, phase, mask and noise.

    Returns
    -------
    MRIScan
        Computed in float64, in the precision and on the device of ``image``.

    Raises
    ------
    InputError, InputTypeError
        If a value is out of its range or of another type.

    Notes
    -----
    The object is piecewise constant on the cells of ``image``, times `smooth_phase` and `coil_maps` (both at the fine
    cell centres). Its Fourier integral is taken exactly at the frequencies of ``grid`` over the same field of view: the
    fine transform, times the transform of a cell (a sinc) and the shift between the centres of the two grids. What is
    seen on ``grid`` is therefore not the model of the reconstruction: maps are multiplied before, not after, the band
    limit, and detail beyond it leaks in through them.
    """
    image = parameter("simulate_mri", "image", image)
    dtype = check_real_dtype("simulate_mri", "image.dtype", image.dtype)
    if image.ndim != 2:
        raise invalid("simulate_mri", "image", "of shape (H, W)", tuple(image.shape))
    check_finite("simulate_mri", "image", image)
    if bool((image < 0).any()) or not bool((image > 0).any()):
        raise invalid(
            "simulate_mri",
            "image",
            "non-negative and not zero",
            f"values from {float(image.min())} to {float(image.max())}",
        )
    fine = (image.shape[0], image.shape[1])
    grid = check_plane("simulate_mri", "grid", grid)
    if not (grid[0] < fine[0] and grid[1] < fine[1]):
        raise invalid(
            "simulate_mri",
            "grid",
            f"coarser than the image {fine} on both axes",
            grid,
            "The same grid for object and reconstruction is the inverse crime.",
        )
    snr = check_positive("simulate_mri", "snr", snr)
    num_coils = check_int("simulate_mri", "num_coils", num_coils, minimum=1)
    seed = check_seed("simulate_mri", seed)

    phase = smooth_phase(fine, strength=phase_strength, seed=seed, dtype=torch.float64)
    rho = torch.polar(image.double().cpu(), phase)
    maps = coil_maps(num_coils, fine, seed=seed, dtype=torch.float64)
    truth = _inverse(_sample_kspace(rho, grid))
    mask = cartesian_mask(grid, acceleration=acceleration, center_fraction=center_fraction, seed=seed)
    size = truth.abs()
    noise_std = float(size[size > 0.1 * size.max()].mean()) / snr
    noise = noise_std * normals("mri noise", seed, 0, (num_coils, *grid), torch.complex128)
    kspace = mask * (_sample_kspace(maps * rho, grid) + noise)
    return MRIScan(
        kspace=kspace.to(image.device, dtype.to_complex()),
        mask=mask.to(image.device),
        maps=coil_maps(num_coils, grid, seed=seed, dtype=dtype).to(image.device),
        noise_std=noise_std,
        truth=truth.to(image.device, dtype.to_complex()),
    )


@in_defined_state
def band_limited(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """What noise-free and complete data on a grid show of piecewise constant images.

    Edges ring as they do in scans, and the corner of k-space beyond ``grid`` is gone.

    Parameters
    ----------
    image : Tensor, shape (..., H, W)
        Real or complex.
    grid : tuple of int
        (h, w), not finer than the image.

    Returns
    -------
    Tensor, shape (..., h, w)
        Complex, in the precision of ``image``.
    """
    return _inverse(_sample_kspace(image.to(image.dtype.to_complex()), check_plane("band_limited", "grid", grid)))


def _sample_kspace(rho: Tensor, grid: tuple[int, int]) -> Tensor:
    """The Fourier integral of a piecewise constant object ``(..., H, W)`` at the centred frequencies of a coarser grid.

    With the field of view as unit of length, the operator's transform on n cells is
    ``y(k) = n^-1/2 sum_j x_j exp(-2 pi i k (r_j - c_n))``, with cell centres r_j = (j + 1/2) / n and origin
    ``c_n = (n // 2 + 1/2) / n``; for a band-limited x the sum is n times the integral. The integral over the cells of
    the fine grid is ``sinc(k / N) / N`` times the sum over its centres. Hence, per axis,
    ``y(k) = sqrt(n / N) sinc(k / N) exp(2 pi i k (c_n - c_N)) X_N(k)`` with X_N the orthonormal fine transform.
    """
    spectrum = _forward(rho)
    for axis, n in ((-2, grid[0]), (-1, grid[1])):
        fine = rho.shape[axis]
        spectrum = spectrum.narrow(axis, fine // 2 - n // 2, n)
        k = torch.arange(n, dtype=torch.float64, device="cpu") - n // 2
        shift = (n // 2 + 0.5) / n - (fine // 2 + 0.5) / fine
        factor = torch.polar(math.sqrt(n / fine) * torch.sinc(k / fine), 2 * math.pi * k * shift)
        spectrum = spectrum * (factor if axis == -1 else factor[:, None]).to(spectrum.dtype)
    return spectrum


def _forward(x: Tensor) -> Tensor:
    """The centred orthonormal transform over the last two axes."""
    spectrum = torch.fft.fft2(torch.fft.ifftshift(x, dim=_PLANE), norm="ortho")
    return torch.fft.fftshift(spectrum, dim=_PLANE)  # type: ignore[no-any-return]


def _inverse(y: Tensor) -> Tensor:
    image = torch.fft.ifft2(torch.fft.ifftshift(y, dim=_PLANE), norm="ortho")
    return torch.fft.fftshift(image, dim=_PLANE)  # type: ignore[no-any-return]
