"""Coil sensitivities from the centre of k-space: ESPIRiT, and low-resolution images."""

from __future__ import annotations

import math
import warnings
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Shape, check_choice, check_finite, check_int, check_positive, kind_dtype
from invsolve.errors import invalid

_SIDE = 24  # of the calibration region, where its size is not given
_LOST = 0.1  # of the energy of the smoothed image; a support that is right leaves out 3 % at most
_ENTRIES = 2**22  # of the matrices of pixels that are decomposed at once: 64 MB in complex128


@in_defined_state
def estimate_maps(
    kspace: Tensor,
    *,
    method: Literal["espirit", "low resolution"] = "espirit",
    calibration: int | None = None,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    sets: int = 1,
    coil_axis: int = -3,
) -> Tensor:
    """Coil sensitivities from fully sampled data around the origin of k-space, for `MRI` and `SoftSense`.

    Parameters
    ----------
    kspace : Tensor or array, shape (..., coils, *in_shape)
        Centred k-space (origin at index n // 2), 0 where not measured. Leading axes are items, each by itself.
    method : {'espirit', 'low resolution'}
        ESPIRiT (`espirit`), or the images of the calibration region, smoothed by a Hann window and divided by their
        root sum of squares: fast, and without a support.
    calibration : int, optional
        The side of the calibration region around the origin. By default the largest measured block of up to 24 a side.
    kernel, threshold, crop, sets : int, float, float, int
        Of ESPIRiT: see `espirit`.
    coil_axis : int
        The axis of the coils; the axes behind it are those of the image: -3 in two dimensions (the default), -4 in
        three.

    Returns
    -------
    Tensor, shape (..., coils, *in_shape), or (..., sets, coils, *in_shape) of several sets
        With unit sum of squares over coils, or 0 where there is no map: with few lines around the origin, or much
        noise, also inside the object, of which a warning tells; a smaller ``crop`` keeps more, 0 all. The
        phase, which no data determine, is the one that makes the dominant combination of the coils in the calibration
        region real and positive.

    Raises
    ------
    InputTypeError
        If ``kspace`` does not hold numbers.
    InputError
        If it has too few axes, its calibration region is not fully measured or too small, or a number is out of its
        range.

    Examples
    --------
    >>> import invsolve as iv
    >>> head = iv.datasets.heads.slices(1, (96, 96))[0]
    >>> scan = iv.datasets.simulate_mri(head, grid=(64, 64), num_coils=4, acceleration=1.0)
    >>> estimate_maps(scan.kspace).shape
    torch.Size([4, 64, 64])
    """
    owner = "estimate_maps"
    check_choice(owner, "method", method, ("espirit", "low resolution"))
    flat, grid, leading = _rows(owner, kspace, coil_axis)
    if method == "espirit":
        maps = _espirit(owner, kspace, calibration, kernel, threshold, crop, sets, coil_axis)[0]
        region = _calibration(owner, flat, grid, calibration, kernel)
        _warn_of_loss(maps.reshape(len(flat), -1, *flat.shape[1:]), _smoothed(flat, grid, region))
        return maps
    if sets != 1:
        raise invalid(owner, "sets", "1 for method='low resolution'", sets)
    region = _calibration(owner, flat, grid, calibration, 1)
    images = _smoothed(flat, grid, region)
    size = images.abs().square().sum(1, keepdim=True).sqrt()
    maps = torch.where(size > 0, images / size, 0.0)
    return _turned(maps, _dominant(flat[region].flatten(2))).reshape(*leading, *flat.shape[1:])


def _smoothed(flat: Tensor, grid: Shape, region: tuple[slice, ...]) -> Tensor:
    """The images of the calibration region under a Hann window, (items, coils, *grid)."""
    centre = torch.zeros_like(flat)
    centre[region] = flat[region]
    for axis, (n, part) in enumerate(zip(grid, region[2:], strict=True), start=-len(grid)):
        half = max(n // 2 - part.start, part.stop - 1 - n // 2) + 1
        k = torch.arange(n, dtype=torch.float64, device="cpu") - n // 2
        window = torch.where(k.abs() < half, 0.5 + 0.5 * torch.cos(math.pi * k / half), 0.0)
        centre = centre * window.to(flat.device, flat.real.dtype).view(-1, *[1] * (-axis - 1))
    dims = tuple(range(-len(grid), 0))
    images: Tensor = torch.fft.fftshift(
        torch.fft.ifftn(torch.fft.ifftshift(centre, dims), dim=dims, norm="ortho"), dims
    )
    return images


def _warn_of_loss(maps: Tensor, images: Tensor) -> None:
    """Warn where maps (items, sets, coils, *grid) are 0 although there is an image (items, coils, *grid)."""
    energy = images.abs().square().sum(1)
    lost = torch.where((maps == 0).flatten(1, 2).all(1), energy, 0.0).flatten(1).sum(1) / energy.flatten(1).sum(1)
    worst = float(lost.max())
    if worst > _LOST:
        warnings.warn(
            f"estimate_maps: maps are 0 where {worst:.0%} of the energy of the image lies: the calibration region is "
            "too small or too noisy for this crop. A smaller crop= keeps more (0 keeps all).",
            stacklevel=4,
        )


@in_defined_state
def espirit(
    kspace: Tensor,
    *,
    calibration: int | None = None,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    sets: int = 1,
    coil_axis: int = -3,
) -> tuple[Tensor, Tensor]:
    """Coil sensitivities by ESPIRiT, and the eigenvalues that say where they are consistent with the data.

    Patches of k-space of all coils lie in a subspace, whose projection acts in every pixel p as a matrix G(p) of the
    coils. Sensitivities are its eigenvectors with eigenvalue 1: ``G(p) S(p) = S(p)`` wherever there is signal.

    Parameters
    ----------
    kspace : Tensor or array, shape (..., coils, *in_shape)
        Centred k-space (origin at index n // 2), 0 where not measured. Leading axes are items, each by itself.
    calibration : int, optional
        The side of the calibration region around the origin. By default the largest measured block of up to 24 a side.
    kernel : int
        The side of the patches, >= 1; 6 by default.
    threshold : float
        Singular values of the patches below this, relative to the largest, are noise, in [0, 1); 0.02 by default.
    crop : float
        Maps are 0 where their eigenvalue is less, in [0, 1]; 0.95 by default.
    sets : int
        How many eigenvectors, from 1 (the default) to the number of coils. Two where images overlap themselves, as
        with a field of view that is too small: see `SoftSense`.
    coil_axis : int
        The axis of the coils; the axes behind it are those of the image: -3 in two dimensions (the default), -4 in
        three.

    Returns
    -------
    maps : Tensor, shape (..., coils, *in_shape), or (..., sets, coils, *in_shape) of several sets
        See `estimate_maps`.
    eigenvalues : Tensor, shape (..., *in_shape), or (..., sets, *in_shape)
        Real, from 0 to 1, before the crop.

    Raises
    ------
    InputTypeError
        If ``kspace`` does not hold numbers.
    InputError
        If it has too few axes, its calibration region is not fully measured or too small, or a number is out of its
        range.

    Notes
    -----
    G(p) is formed from the correlations of the projection over lags, one small transform for every pair of coils; no
    image of a kernel is made. Computed in complex128 but for the eigenvectors.

    References
    ----------
    Uecker et al. 2014, "ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI", Magn. Reson. Med. 71, 990.
    """
    return _espirit("espirit", kspace, calibration, kernel, threshold, crop, sets, coil_axis)


def _espirit(
    owner: str,
    kspace: Tensor,
    calibration: int | None,
    kernel: int,
    threshold: float,
    crop: float,
    sets: int,
    coil_axis: int,
) -> tuple[Tensor, Tensor]:
    flat, grid, leading = _rows(owner, kspace, coil_axis)
    coils = flat.shape[1]
    kernel = check_int(owner, "kernel", kernel, minimum=1)
    sets = check_int(owner, "sets", sets, minimum=1)
    if sets > coils:
        raise invalid(owner, "sets", f"at most the number of coils, {coils}", sets)
    threshold, crop = (check_positive(owner, n, v, zero=True) for n, v in (("threshold", threshold), ("crop", crop)))
    if threshold >= 1:
        raise invalid(owner, "threshold", "less than 1", threshold)
    if crop > 1:
        raise invalid(owner, "crop", "at most 1", crop)
    region = _calibration(owner, flat, grid, calibration, kernel)
    found = [_of_item(block, grid, kernel, threshold, sets) for block in flat[region]]
    values, maps = (torch.stack(list(part)).to(flat.device) for part in zip(*found, strict=True))
    values, maps = values.to(flat.real.dtype), maps.to(flat.dtype)
    maps = torch.where((values >= crop).unsqueeze(2), maps, 0.0)
    if sets == 1:
        maps, values = maps[:, 0], values[:, 0]
    return maps.reshape(*leading, *maps.shape[1:]), values.reshape(*leading, *values.shape[1:])


def _of_item(block: Tensor, grid: Shape, kernel: int, threshold: float, sets: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (sets, *grid) and maps (sets, coils, *grid) of one calibration region (coils, ...)."""
    coils, wide = len(block), block.to(torch.complex128)
    R = _lags(_projection(wide, kernel, threshold), coils, kernel, len(grid))
    step = max(1, _ENTRIES // (coils**2 * math.prod(grid[1:])))
    values, vectors = [], []
    for first in range(0, grid[0], step):  # some rows of pixels at a time: the matrices of all may be a gigabyte
        G = _at_pixels(R, grid, slice(first, first + step)).to(block.dtype)
        found = torch.linalg.eigh(G.movedim((0, 1), (-2, -1)))  # ascending
        values.append(found[0][..., -sets:].flip(-1))
        vectors.append(found[1][..., -sets:].flip(-1))
    maps = _turned(torch.cat(vectors).movedim((-1, -2), (0, 1)), _dominant(wide.flatten(1)[None]))
    return torch.cat(values).movedim(-1, 0).clamp(0, 1), maps


def _projection(block: Tensor, kernel: int, threshold: float) -> Tensor:
    """The projection onto the patches of a block (coils, ...), (C k^dim, C k^dim)."""
    patches = block
    for axis in range(1, block.ndim):
        patches = patches.unfold(axis, kernel, 1)
    dim = block.ndim - 1
    patches = patches.movedim(0, dim).flatten(dim).flatten(0, dim - 1)  # (positions, C k^dim)
    values, vectors = torch.linalg.eigh(patches.mT @ patches.conj())  # sum of a a^H, ascending
    kept = vectors[:, values > max(threshold**2, 1e-15 * len(values)) * values[-1]]
    projection: Tensor = kept @ kept.mH
    return projection


def _lags(projection: Tensor, coils: int, kernel: int, dim: int) -> Tensor:
    """``R_cd(l) = sum over m - m' = l of P_{cm,dm'}``: (C, C, 2k - 1, ...), lag 0 in the middle."""
    width, size = 2 * kernel - 1, kernel**dim
    index = torch.zeros(1, 1, dtype=torch.int64, device=projection.device)
    position = torch.arange(kernel, device=projection.device)
    lag = position[:, None] - position + kernel - 1
    for _ in range(dim):  # of the pairs (m, m'), axis by axis
        index = (width * index[:, None, :, None] + lag[None, :, None, :]).reshape(len(index) * kernel, -1)
    pairs = projection.view(coils, size, coils, size).transpose(1, 2).reshape(coils, coils, size**2)
    R: Tensor = projection.new_zeros(coils, coils, width**dim).index_add(-1, index.flatten(), pairs)
    return R.view(coils, coils, *[width] * dim)


def _at_pixels(R: Tensor, grid: Shape, rows: slice) -> Tensor:
    """``G(p) = k^-dim sum_l R(l) exp(2 pi i l p / N)``: (C, C, *grid), some ``rows`` of the first axis of the grid."""
    kernel = (R.shape[-1] + 1) // 2
    lag = torch.arange(1 - kernel, kernel, dtype=torch.float64, device=R.device)
    for axis, n in reversed(list(enumerate(grid))):
        p = torch.arange(n, dtype=torch.float64, device=R.device) - n // 2
        turns = lag[:, None] * (p if axis else p[rows]) / n
        wave = torch.polar(torch.full_like(turns, 1 / kernel), 2 * math.pi * turns)
        R = torch.tensordot(R.movedim(axis + 2, -1), wave, dims=1).movedim(-1, axis + 2)
    return R


def _rows(owner: str, kspace: Tensor, coil_axis: int) -> tuple[Tensor, Shape, Shape]:
    """k-space (items, coils, *grid), the grid and the leading axes."""
    kspace = parameter(owner, "kspace", kspace)
    if not kspace.is_complex():
        kspace = kspace.to(kind_dtype(kspace.dtype, "complex"))
    check_coil_axis(owner, "kspace", kspace, coil_axis)
    check_finite(owner, "kspace", kspace)
    grid = tuple(kspace.shape[coil_axis + 1 :])
    return kspace.reshape(-1, *kspace.shape[coil_axis:]), grid, tuple(kspace.shape[:coil_axis])


def check_coil_axis(owner: str, name: str, value: Tensor, coil_axis: int) -> None:
    """Refuse a tensor without this axis of coils, counted from the end, and one, two or three axes behind it."""
    check_choice(owner, "coil_axis", coil_axis, (-2, -3, -4))
    if value.ndim < -coil_axis or 0 in value.shape:
        axes = ", ".join(["...", "coils", *["depth", "height", "width"][coil_axis + 1 :]])
        raise invalid(owner, name, f"non-empty, of shape ({axes}) for coil_axis={coil_axis}", tuple(value.shape))


def _calibration(owner: str, kspace: Tensor, grid: Shape, side: int | None, kernel: int) -> tuple[slice, ...]:
    """Where in (items, coils, *grid) the block around the origin is: measured in all items, larger than the kernel."""
    measured = (kspace != 0).any(1).all(0)
    origin = [n // 2 for n in grid]
    if not bool(measured[tuple(origin)]):
        raise invalid(owner, "kspace", "measured at its origin, index n // 2 of each axis", "zeros there")
    ranges = [[c, c + 1] for c in origin]
    if side is None:
        growing = True
        while growing:
            growing = False
            for axis, end in product(range(len(grid)), (1, 0)):
                wider = [list(r) for r in ranges]
                wider[axis][end] += 1 if end else -1
                if wider[axis][0] < 0 or wider[axis][1] > grid[axis] or wider[axis][1] - wider[axis][0] > _SIDE:
                    continue
                if bool(measured[tuple(slice(*r) for r in wider)].all()):
                    ranges, growing = wider, True
    else:
        side = check_int(owner, "calibration", side, minimum=1)
        ranges = [[max(0, n // 2 - side // 2), min(n, n // 2 - side // 2 + side)] for n in grid]
    region = tuple(slice(*r) for r in ranges)
    found = tuple(stop - start for start, stop in ranges)
    missing = int((~measured[region]).sum())
    if missing:
        repair = "Leave calibration out: the largest measured block is taken."
        raise invalid(owner, "calibration", "a block that is fully measured", f"{found}, {missing} missing", repair)
    if min(found) < kernel:
        raise invalid(owner, "kernel", f"at most the calibration region, {found}", kernel)
    return (slice(None), slice(None), *region)


def _dominant(block: Tensor) -> Tensor:
    """The combination of coils with the most energy in (items, coils, samples), largest part > 0: (items, coils)."""
    block = block.to(torch.complex128)
    vector = torch.linalg.eigh(block @ block.mH)[1][..., -1]
    largest = vector.gather(1, vector.abs().argmax(1, keepdim=True))
    turned: Tensor = vector * torch.sgn(largest).conj()
    return turned


def _turned(maps: Tensor, dominant: Tensor) -> Tensor:
    """(items, coils, *grid) maps with the phase that makes ``dominant^H S(p)`` positive."""
    shape = dominant.shape if dominant.ndim == 2 else (1, *dominant.shape)
    weight = dominant.conj().to(maps.dtype).reshape(*shape, *[1] * (maps.ndim - 2))
    phase = torch.sgn((weight * maps).sum(1, keepdim=True))
    return maps * torch.where(phase == 0, torch.ones_like(phase), phase.conj())


__all__ = ["check_coil_axis", "espirit", "estimate_maps"]
