"""The non-uniform Fourier transform, of many images at once, and its exact adjoint.

``y_m = sum_n x_n exp(-i omega_m . (n - N // 2))``: images are divided by the transform of a kernel, transformed to a
finer grid of frequencies, and interpolated there. The adjoint is the transpose of each of these steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.validation import Shape
from invsolve.operators.mri.grid import Grid
from invsolve.operators.mri.interpolation import Interpolation, OnTheFly, Stored, stored_bytes
from invsolve.operators.mri.kaiser_bessel import Axis, level

Backend = Literal["auto", "matrix", "on the fly"]
LARGEST = 2**30  # bytes: a matrix and its transpose that are stored, by default


def grid_of(shape: Shape, tol: float, device: torch.device) -> Grid:
    """The grid for images of a shape and a relative error."""
    return Grid(axes=tuple(Axis.of(n, *level(tol)) for n in shape), device=device)


def is_stored(backend: Backend, grid: Grid, samples: int, dtype: torch.dtype) -> bool:
    """Whether the weights of a transform are stored."""
    if backend == "auto":
        return stored_bytes(grid, samples, dtype) <= LARGEST
    return backend == "matrix"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Nufft:
    """One set of samples on a grid; images have the maps of coils, divided by the kernel's transform, on them."""

    grid: Grid
    interpolation: Interpolation
    samples: int

    @staticmethod
    def of(grid: Grid, omega: Tensor, dtype: torch.dtype, *, stored: bool) -> Nufft:
        """Of samples at ``omega`` ``(m, axes)``, radians a pixel, float64, in the real precision ``dtype``."""
        way: Interpolation = Stored.of(grid, omega, dtype) if stored else OnTheFly(grid=grid, omega=omega)
        return Nufft(grid=grid, interpolation=way, samples=len(omega))

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        """``(rows, *base)`` and ``(rows or 1, coils, *base)`` -> ``(rows, coils, samples)``, complex."""
        cells = self.grid.to_cells(x.unsqueeze(1), maps)
        found = self.interpolation.forward(torch.view_as_real(cells).flatten(1))
        return _complex(found).mT.reshape(len(x), -1, self.samples)

    def adjoint(self, y: Tensor, conjugate: Tensor) -> Tensor:
        """``(rows, coils, samples)`` and the conjugate maps -> ``(rows, *base)``."""
        columns = torch.view_as_real(y.flatten(0, 1).mT.contiguous()).flatten(1)
        return self.grid.from_cells(_complex(self.interpolation.adjoint(columns)), conjugate, len(y))


def apodization(grid: Grid) -> Tensor:
    """One over the kernel's transform, ``(*shape)`` float64."""
    parts = (1 / axis.transform(grid.device) for axis in grid.axes)
    return reduce(lambda out, part: out[..., None] * part, parts)


def adjoint_of_ones(omega: Tensor, shape: Shape, tol: float) -> Tensor:
    """``sum_m exp(i omega_m . (n - shape // 2))`` in double precision, ``(*shape)`` complex."""
    grid = grid_of(shape, tol, omega.device)
    ones = grid.rolled(apodization(grid)).to(torch.complex128)[None, None]
    y = torch.ones(1, 1, len(omega), dtype=torch.complex128, device=omega.device)
    plan = Nufft.of(grid, omega, torch.float64, stored=False)
    return grid.unrolled(plan.adjoint(y, ones))[0]


def _complex(columns: Tensor) -> Tensor:
    """Pairs of real columns as complex ones."""
    return torch.view_as_complex(columns.view(len(columns), -1, 2))
