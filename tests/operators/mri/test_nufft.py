"""Non-uniform transforms against the exact sum: errors at every level, adjoints, both ways of interpolating."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invsolve.operators.mri.kaiser_bessel import LEVELS, Axis, level
from invsolve.operators.mri.nufft import Nufft, adjoint_of_ones, apodization, grid_of

F64 = torch.float64
SHAPES = [(24, 25), (7, 30), (1, 9), (8, 1), (1, 1), (2, 3), (6, 7, 8), (1, 5, 4)]


def points(shape: tuple[int, ...], count: int = 120) -> Tensor:
    """Anywhere, and on the edges of k-space."""
    omega = math.pi * (2 * torch.rand(count, len(shape), dtype=F64, generator=torch.Generator().manual_seed(0)) - 1)
    omega[0], omega[1], omega[2] = math.pi, -math.pi, 0
    return omega


def exact(omega: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The matrix of the transform, ``(samples, pixels)``."""
    out = torch.ones(len(omega), 1, dtype=torch.complex128)
    for a, n in enumerate(shape):
        wave = torch.exp(-1j * omega[:, a, None] * (torch.arange(n) - n // 2))
        out = (out[:, :, None] * wave[:, None, :]).flatten(1)
    return out


def made(shape, tol, dtype=F64, stored=True):
    grid = grid_of(shape, tol, torch.device("cpu"))
    omega = points(shape)
    maps = grid.rolled(apodization(grid)).to(dtype.to_complex())[None, None]
    return grid, omega, maps, Nufft.of(grid, omega, dtype, stored=stored)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tol", [*[e for e, *_ in LEVELS], 1e-7, 1e-10])
def test_errors_against_the_exact_sum(shape, tol):
    """White images as promised; one pixel in a corner, where the kernel's transform is smallest, within four times."""
    grid, omega, maps, plan = made(shape, tol)
    x = torch.randn(20, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    corner = torch.zeros(1, *shape, dtype=torch.complex128)
    corner.view(-1)[0] = 1
    for value, allowed in ((x, tol), (corner, 4 * tol)):
        want = value.flatten(1) @ exact(omega, shape).mT
        found = plan.forward(grid.rolled(value), maps)[:, 0]
        assert float((found - want).norm() / want.norm()) < allowed


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("stored", [True, False])
def test_the_adjoint_is_the_conjugate_transpose(shape, stored):
    """Entry by entry: the matrices of both, to rounding."""
    for tol in (5e-4, 1e-5):
        grid, omega, maps, plan = made(shape, tol, stored=stored)
        every = torch.eye(math.prod(shape), dtype=torch.complex128).view(-1, *shape)
        forward = plan.forward(grid.rolled(every), maps)[:, 0].mT
        data = torch.eye(len(omega), dtype=torch.complex128)[:, None]
        back = grid.unrolled(plan.adjoint(data, maps.conj())).flatten(1).mT
        assert torch.allclose(back, forward.mH, atol=1e-14 * float(forward.abs().max()) * 100)


def test_single_precision_and_weights_on_the_fly_are_the_same_transform():
    shape = (16, 15)
    grid, omega, maps, plan = made(shape, 1e-5)
    x = torch.randn(3, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    y = torch.randn(3, 1, len(omega), dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    for dtype, atol in ((F64, 1e-12), (torch.float32, 1e-4)):
        kind = dtype.to_complex()
        for stored in (True, False):
            other = Nufft.of(grid, omega, dtype, stored=stored)
            found = other.forward(grid.rolled(x.to(kind)), maps.to(kind))
            assert found.dtype == kind and torch.allclose(
                found.to(y.dtype), plan.forward(grid.rolled(x), maps), atol=atol
            )
            back = other.adjoint(y.to(kind), maps.to(kind).conj())
            assert torch.allclose(back.to(y.dtype), plan.adjoint(y, maps.conj()), atol=atol)


def test_the_kernel_of_the_normal_operator():
    omega = points((5, 4))
    found = adjoint_of_ones(omega, (9, 7), 1e-8)
    want = exact(omega, (9, 7)).conj().sum(0).view(9, 7)
    assert float((found - want).norm() / want.norm()) < 1e-8


def test_levels():
    assert level(1.0) == level(5e-4) == (1.5, 5) and level(1e-4) == level(6e-5) == (1.5, 6)
    assert level(5e-5) == level(1e-5) == (2.0, 6) and level(9e-6) == (2.0, 7)
    assert level(1e-9) == (2.0, 11) and level(1e-20) == level(1e-12) == (2.0, 14)
    assert Axis.of(256, 1.5, 6).fine == 384 and Axis.of(255, 2.0, 6).fine == 512 and Axis.of(1, 2.0, 6).fine == 1
