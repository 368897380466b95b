"""Darcy flow as the published data have it: the coefficient moved from cells to nodes by a bicubic spline."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.operators.pde.diffusion import Darcy
from invsolve.operators.pde.sparse_factors import DirectSolve


def legacy_solution(a: Tensor) -> Tensor:
    """The solution in the n x n cells of ``a`` ``(rows, n, n)``, float64.

    A spline through the centres of cells, continued to the walls, gives a on n x n nodes, walls included. There
    ``-div(a grad u) = 1`` is solved by five points with arithmetic means, and u is splined back. The spline overshoots
    at jumps: a <= 0 is kept, as in the published data, and u may be negative.
    """
    n = a.shape[-1]
    centres, nodes = (np.arange(n) + 0.5) / n, np.linspace(0.0, 1.0, n)
    there, back = _moved(centres, nodes), _moved(nodes, centres)
    grid = CartesianGrid((n - 2, n - 2), points="interior")
    faces = Darcy(grid, mean="arithmetic", coefficient="points and walls").faces(there @ a.double() @ there.mT)
    load = torch.full((len(a), *grid.shape), grid.cell, dtype=torch.float64, device="cpu")
    u = torch.nn.functional.pad(DirectSolve(faces)(load), (1, 1, 1, 1))
    return back @ u @ back.mT


def nodal(a: Tensor) -> Tensor:
    """The coefficient on the nodes."""
    n = a.shape[-1]
    there = _moved((np.arange(n) + 0.5) / n, np.linspace(0.0, 1.0, n))
    return there @ a.double() @ there.mT


def _moved(points: NDArray[np.float64], others: NDArray[np.float64]) -> Tensor:
    """Values at points to those of their cubic spline at others: not-a-knot, continued beyond the ends."""
    return torch.from_numpy(make_interp_spline(points, np.eye(len(points)))(others))
