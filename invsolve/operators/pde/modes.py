"""The modes of a box, in which derivatives are diagonal.

Real ones for every kind of grid: cosines, sines, or harmonics. And of a torus the complex ones in the layout of
``rfftn``, the last axis with the frequencies >= 0 only.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid, Points
from invsolve.core.transforms import Transform, TransformName
from invsolve.errors import invalid, invalid_type
from invsolve.operators.fourier import of_rows

Accuracy = Literal["second order", "spectral"]
_NAMES: dict[Points, TransformName] = {"centers": "cosine", "interior": "sine", "periodic": "fourier"}


def check_grid(
    owner: str, grid: object, *, points: tuple[Points, ...] = tuple(_NAMES), axes: tuple[int, ...] = (1, 2, 3)
) -> CartesianGrid:
    """A `CartesianGrid` of one of these kinds, with one of these numbers of axes."""
    if not isinstance(grid, CartesianGrid):
        raise invalid_type(owner, "grid", "an iv.CartesianGrid, which says the lengths and where the points lie", grid)
    if grid.points not in points:
        wanted = " or ".join(f"points={p!r}" for p in points)
        raise invalid(owner, "grid", f"one with {wanted}", f"points={grid.points!r}")
    if len(grid.shape) not in axes:
        raise invalid(owner, "grid", f"of {' or '.join(map(str, axes))} axes", grid.shape)
    return grid


def line_of(grid: CartesianGrid, axis: int) -> CartesianGrid:
    """One axis of a grid, from 0."""
    return CartesianGrid((grid.shape[axis],), extent=(grid.extent[axis],), points=grid.points)


def transform_of(grid: CartesianGrid, dtype: torch.dtype, device: torch.device | str = "cpu") -> Transform:
    """To the modes of the box: cosines of cells, sines between zero walls, harmonics of a torus."""
    return Transform(name=_NAMES[grid.points], shape=grid.shape, dtype=dtype, device=torch.device(device))


def laplacian_values(grid: CartesianGrid, accuracy: Accuracy) -> Tensor:
    """Eigenvalues >= 0 of minus the Laplacian, one for every mode ``(*shape)``, float64, in 1 / length^2.

    ``"second order"``: of the stencil of nearest neighbours; ``"spectral"``: of the modes themselves.
    """
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for axis, (n, length, h) in enumerate(zip(grid.shape, grid.extent, grid.spacing, strict=True)):
        j = torch.arange(n, dtype=torch.float64, device="cpu")
        if grid.points == "periodic":
            root = torch.div(j + 1, 2, rounding_mode="floor") * (2 * math.pi / length)
        else:
            root = (j + (grid.points == "interior")) * (math.pi / length)
        value = root if accuracy == "spectral" else 2 / h * torch.sin(root * h / 2)
        total = total + (value**2).view(-1, *([1] * (len(grid.shape) - axis - 1)))
    return total


def _indices(grid: CartesianGrid) -> list[Tensor]:
    """Frequencies in cycles per box in the layout of ``rfftn``, one tensor an axis that broadcasts to it; float64."""
    last, found = len(grid.shape) - 1, []
    for axis, n in enumerate(grid.shape):
        make = torch.fft.rfftfreq if axis == last else torch.fft.fftfreq
        turns = make(n, d=1 / n, dtype=torch.float64, device="cpu")
        found.append(turns.view(-1, *([1] * (last - axis))))
    return found


def squared(grid: CartesianGrid) -> Tensor:
    """``|k|^2`` in 1 / length^2: the symbol of minus the Laplacian."""
    parts = [(2 * math.pi / length * k) ** 2 for k, length in zip(_indices(grid), grid.extent, strict=True)]
    return sum(parts[1:], parts[0])


def derivative(grid: CartesianGrid, axis: int) -> Tensor:
    """``i k`` along an axis, complex128; 0 at the Nyquist frequency, whose sine no grid sees."""
    n, k = grid.shape[axis], _indices(grid)[axis]
    k = torch.where(2 * k.abs() == n, 0.0, k) * (2 * math.pi / grid.extent[axis])
    return torch.complex(torch.zeros_like(k), k)


def dealiased(grid: CartesianGrid) -> Tensor:
    """1 where ``|k| < n / 3`` along every axis, else 0: products of two such fields have no aliases among them."""
    keep = torch.ones((), dtype=torch.float64, device="cpu")
    for k, n in zip(_indices(grid), grid.shape, strict=True):
        keep = keep * ((3 * k.abs() < n) | (k == 0))
    return keep


def highest(grid: CartesianGrid) -> tuple[float, ...]:
    """The largest wavenumber along each axis that is kept by `dealiased`."""
    return tuple(2 * math.pi / length * ((n - 1) // 3) for n, length in zip(grid.shape, grid.extent, strict=True))


def to_spectrum(x: Tensor, axes: int) -> Tensor:
    """The spectrum of real fields over the last axes."""
    return of_rows(torch.fft.rfftn, x, dim=tuple(range(-axes, 0)))


def to_field(spectrum: Tensor, grid: CartesianGrid) -> Tensor:
    """The real fields of a spectrum."""
    axes = tuple(range(-len(grid.shape), 0))
    some = spectrum if spectrum.numel() else spectrum.new_zeros(1, *spectrum.shape[1:])
    x: Tensor = torch.fft.irfftn(some, s=grid.shape, dim=axes)
    return x if spectrum.numel() else x[:0]
