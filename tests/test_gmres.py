"""Generalised minimal residuals: maps that are not symmetric, row by row."""

from __future__ import annotations

import pytest
import torch

from invsolve.cg import conjugate_gradients
from invsolve.gmres import gmres

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
N = 12


def random(*shape, dtype, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def systems(rows, dtype, n=N):
    """Matrices far from symmetric, with field of values away from zero, and right sides."""
    noise = random(rows, n, n, dtype=dtype)
    return 2 * torch.eye(n, dtype=dtype) + 0.3 * noise, random(rows, n, dtype=dtype, seed=1)


def product(matrices):
    return lambda x: torch.einsum("bij,bj->bi", matrices, x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_solves_what_is_not_symmetric(dtype):
    """Inner products are real: a complex system of n unknowns is a real one of 2 n."""
    M, b = systems(5, dtype)
    x, info = gmres(product(M), b, rtol=0.0, max_iter=2 * N)
    exact = torch.linalg.solve(M, b)
    assert float((x - exact).norm() / exact.norm()) < (2e-5 if dtype in (torch.float32, torch.complex64) else 1e-11)
    assert x.dtype == dtype and info.residual.dtype == b.real.dtype and info.iterations <= 2 * N


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_residual_is_the_least_of_the_krylov_space(steps):
    M, b = systems(4, torch.float64)
    x, info = gmres(product(M), b, rtol=0.0, max_iter=steps)
    found = (b - product(M)(x)).norm(dim=1) / b.norm(dim=1)
    assert torch.allclose(info.residual, found, rtol=1e-9)
    for row in range(4):
        powers = [b[row]]
        for _ in range(steps):
            powers.append(M[row] @ powers[-1])
        space = torch.stack(powers[1:], 1)  # M times the Krylov space
        best = torch.linalg.lstsq(space, b[row][:, None]).solution[:, 0]
        assert float(found[row]) == pytest.approx(float((b[row] - space @ best).norm() / b[row].norm()), rel=1e-6)


def test_where_conjugate_gradients_diverge():
    """Identity plus a rotation scaled up: positive real part, no symmetry. Residuals of GMRES never grow."""
    half = N // 2
    turn = torch.zeros(N, N, dtype=torch.float64)
    turn[:half, half:], turn[half:, :half] = torch.diag(torch.linspace(1, 9, half, dtype=torch.float64)), 0
    M = torch.eye(N, dtype=torch.float64) + turn - turn.mT
    b = random(1, N, dtype=torch.float64)
    worse = conjugate_gradients(product(M[None]), b, rtol=0.0, max_iter=3)[0]
    assert float((b - product(M[None])(worse)).norm() / b.norm()) > 1
    residuals = [float(gmres(product(M[None]), b, rtol=0.0, max_iter=k)[1].residual) for k in range(1, 13)]
    assert all(b <= a + 1e-12 for a, b in zip([1.0, *residuals], residuals, strict=False)) and residuals[-1] < 1e-10


def test_rows_are_alone_and_bad_ones_end_as_nan():
    M, b = systems(6, torch.float64)
    M[3], b[1], b[4, 0] = torch.eye(N, dtype=torch.float64), 0.0, float("nan")
    M[5, 0, 0] = float("inf")
    x, info = gmres(product(M), b, rtol=1e-8, max_iter=N)
    assert torch.allclose(x[3], b[3]) and float(info.residual[3]) < 1e-12  # its space has one direction
    assert torch.equal(x[1], torch.zeros(N, dtype=torch.float64)) and float(info.residual[1]) == 0
    assert x[4].isnan().all() and x[5].isnan().all() and info.residual[4:].isnan().all()
    for row in (0, 2):
        alone = gmres(product(M[row : row + 1]), b[row : row + 1], rtol=1e-8, max_iter=N)[0]
        assert torch.allclose(x[row], alone[0], rtol=1e-9)
        assert float((M[row] @ x[row] - b[row]).norm() / b[row].norm()) <= 1e-8


def test_units_and_nothing_to_do():
    M, b = systems(3, torch.float32)
    x, _ = gmres(product(M), b, rtol=1e-5)
    for unit in (1e-30, 1e30):
        assert torch.allclose(gmres(product(M), unit * b, rtol=1e-5)[0] / unit, x, rtol=1e-5)
    y, info = gmres(product(M), b[:0], rtol=1e-5)
    assert y.shape == (0, N) and info.iterations == 0
    assert gmres(product(M), 0 * b)[1].iterations == 0
