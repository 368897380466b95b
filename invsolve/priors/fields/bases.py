"""Laplace eigenfunctions on a box, and the grids on which they are orthogonal.

The box is ``[0, extent]`` along every axis. The eigenfunctions phi_k are products of one-dimensional ones, scaled to a
mean square of 1 over the box:

=========  ==========================  =======================  ==========  =======================
basis      phi_k, x in [0, L]          nodes, i = 0..n-1        transform   scale of the coefficients
=========  ==========================  =======================  ==========  =======================
neumann    1, sqrt2 cos(pi k x / L)    cells, (i + 1/2) L / n   cosine      sqrt(n)
dirichlet  sqrt2 sin(pi k x / L)       (i + 1) L / (n + 1)      sine        sqrt(n + 1)
periodic   1, sqrt2 cos and sin of     i L / n                  fourier     sqrt(n)
           2 pi k x / L
=========  ==========================  =======================  ==========  =======================

A coefficient of phi_k times the scale (per axis) is the coefficient in the orthonormal transform of the grid: this is
what makes a distribution in the phi_k the same on every grid. On an even periodic grid the mode (-1)^i stands for the
pair of the Nyquist frequency, of which the grid sees one combination.
"""

from __future__ import annotations

import math
from math import prod
from typing import Literal

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import Points, points_along
from invsolve.core.transforms import TransformName
from invsolve.core.validation import Shape

Basis = Literal["neumann", "dirichlet", "periodic"]
BASES: dict[str, TransformName] = {"neumann": "cosine", "dirichlet": "sine", "periodic": "fourier"}
POINTS: dict[str, Points] = {"neumann": "centers", "dirichlet": "interior", "periodic": "periodic"}


def frequencies(basis: Basis, n: int) -> Tensor:
    """The integer k of every mode of an axis of n nodes, ``(n,)`` float64."""
    j = torch.arange(n, dtype=torch.float64, device="cpu")
    if basis == "periodic":
        return torch.div(j + 1, 2, rounding_mode="floor")
    return j + 1 if basis == "dirichlet" else j


def laplace_eigenvalues(basis: Basis, shape: Shape, extent: tuple[float, ...]) -> Tensor:
    """``lambda_k`` of -Laplace, ``(*shape)`` float64, in 1 / length^2: the squared angular wavenumber of every mode."""
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for axis, (n, length) in enumerate(zip(shape, extent, strict=True)):
        root = frequencies(basis, n) * ((2 if basis == "periodic" else 1) * math.pi / length)
        total = total + (root**2).view(-1, *([1] * (len(shape) - axis - 1)))
    return total


def grid_factor(basis: Basis, shape: Shape) -> int:
    """The squared norm of every phi_k over the nodes: what variances of coefficients are multiplied with."""
    return prod(n + 1 if basis == "dirichlet" else n for n in shape)


def nodes(basis: Basis, n: int, length: float = 1.0) -> Tensor:
    """Where the n nodes of an axis lie, ``(n,)`` float64, in the unit of ``length``."""
    return points_along(POINTS[basis], n, length)


def resize_modes(values: Tensor, basis: Basis, shape: Shape, *, power: int) -> Tensor:
    """Coefficients of the phi_k, one per mode, carried to the modes of another grid: cut, or filled with zeros.

    ``power`` is 1 for coefficients and 2 for their variances. The Nyquist mode of an even periodic grid has mean square
    1 at the nodes, where its cosine on another grid has it in the mean: the factor sqrt 2 between them is put right.
    """
    for axis, n in enumerate(shape):
        old = values.shape[axis]
        if old == n:
            continue
        values = values.movedim(axis, -1)
        if basis == "periodic" and (edge := min(old, n)) % 2 == 0:
            values = values.clone()
            values[..., edge - 1] *= (0.5 if n > old else 2.0) ** (power / 2)
        pad = values.new_zeros(*values.shape[:-1], max(n - old, 0))
        values = torch.cat([values[..., :n], pad], -1).movedim(-1, axis)
    return values.contiguous()
