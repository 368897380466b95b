"""Wavenumbers of a periodic grid, in the layout of ``rfftn``: the last axis has the frequencies >= 0 only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.operators.fourier import of_rows


def _indices(grid: CartesianGrid) -> list[Tensor]:
    """Frequencies in cycles per box, one tensor an axis that broadcasts to the layout; float64."""
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
