"""The Laplacian on a grid is diagonal in the modes of its box."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid, Points
from invsolve.core.transforms import Transform, TransformName
from invsolve.errors import invalid_type

Accuracy = Literal["second order", "spectral"]
_NAMES: dict[Points, TransformName] = {"centers": "cosine", "interior": "sine", "periodic": "fourier"}


def check_grid(owner: str, grid: object) -> CartesianGrid:
    """A `CartesianGrid`, or one of unit lengths and zero walls where a shape is given."""
    if not isinstance(grid, CartesianGrid):
        raise invalid_type(owner, "grid", "an iv.CartesianGrid, which says the lengths and where the points lie", grid)
    return grid


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
