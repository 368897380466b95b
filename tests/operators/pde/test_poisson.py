"""Poisson's and Helmholtz's equation in a homogeneous medium: the dense stencil, exact solutions, their order."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.operators.pde import modes
from invsolve.testing import check_operator

Grid = iv.CartesianGrid


def stencil(grid):
    """Laplace on the grid, dense, by its definition at every point."""
    n = math.prod(grid.shape)
    L = torch.zeros(n, n, dtype=torch.float64)
    place = torch.arange(n).view(grid.shape)
    for axis, (m, h) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        rows = place.movedim(axis, 0)
        for i in range(m):
            for j in (i - 1, i + 1):
                if grid.points == "periodic":
                    j %= m
                if 0 <= j < m:
                    L[rows[i].flatten(), rows[j].flatten()] += 1 / h**2
                if 0 <= j < m or grid.points == "interior":  # a wall holds u, or lets nothing through
                    L[rows[i].flatten(), rows[i].flatten()] -= 1 / h**2
    return L


@pytest.mark.parametrize("shape", [(1,), (6,), (4, 5), (1, 3), (2, 3, 4)])
@pytest.mark.parametrize(("points", "k"), [("interior", 0.0), ("interior", 3.3), ("centers", 1.3), ("periodic", 2.1)])
def test_it_inverts_the_stencil_of_nearest_neighbours(points, k, shape):
    grid = Grid(shape, extent=(1.0, 0.7, 1.6)[: len(shape)], points=points)
    A = iv.operators.Helmholtz(grid, wavenumber=k)
    f = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = stencil(grid) + k**2 * torch.eye(math.prod(shape), dtype=torch.float64)
    back = (A(f).flatten(1) @ matrix.mT).view(f.shape)
    assert float((back - f).abs().max()) < 1e-12 * float(torch.linalg.cond(matrix))
    check_operator(A)


def test_a_mode_is_divided_by_its_eigenvalue():
    # the stencil's eigenvalue is (sin(q) / q)^2 of the mode's own, q = pi h / 2: u is too large by 1 + pi^2 h^2 / 12
    for n in (15, 31):
        grid = Grid((n, n), points="interior")
        x, y = grid.mesh()
        u = torch.sin(math.pi * x) * torch.sin(math.pi * y)
        f = (-2 * math.pi**2 * u)[None]
        q = math.pi / (n + 1) / 2
        assert torch.allclose(iv.operators.Poisson(grid)(f)[0], u * (q / math.sin(q)) ** 2, rtol=1e-11)
        assert torch.allclose(iv.operators.Poisson(grid, accuracy="spectral")(f)[0], u, rtol=1e-11)
    assert (q / math.sin(q)) ** 2 == pytest.approx(1 + (math.pi / 32) ** 2 / 12, abs=1e-5)


def test_a_constant_source_has_the_value_in_the_middle_of_a_membrane():
    # -Laplace u = 1 on the unit square: 0.0736713532815 in the middle, to second order
    gaps = []
    for n in (7, 15, 31, 63):
        u = iv.operators.Poisson(Grid((n, n), points="interior"))(-torch.ones(1, n, n, dtype=torch.float64))
        gaps.append(abs(float(u[0, n // 2, n // 2]) - 0.0736713532815))
    orders = [math.log2(a / b) for a, b in zip(gaps, gaps[1:], strict=False)]
    assert all(abs(order - 2) < 0.1 for order in orders)


def test_a_wave_that_travels():
    # on a torus of length 1: u'' + k^2 u = f with f = sin(2 pi x), exactly
    grid = Grid((12,), points="periodic")
    (x,) = grid.mesh()
    u = iv.operators.Helmholtz(grid, wavenumber=10.0, accuracy="spectral")(torch.sin(2 * math.pi * x)[None])
    assert torch.allclose(u[0], torch.sin(2 * math.pi * x) / (100 - 4 * math.pi**2), atol=1e-14)


def test_both_precisions_and_no_source():
    A = iv.operators.Poisson(Grid((9, 8), points="interior"))
    f = torch.randn(2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert A(f.float()).dtype == torch.float32
    assert torch.allclose(A(f.float()).double(), A(f), rtol=1e-4, atol=1e-6)
    assert bool((A(torch.zeros(1, 9, 8)) == 0).all())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: iv.operators.Poisson((4, 4)), InputTypeError, "an iv.CartesianGrid"),
        (lambda: iv.operators.Poisson(Grid((4, 4))), InputError, "walls that hold u"),
        (lambda: iv.operators.Helmholtz(Grid((4,)), wavenumber=-1.0), InputError, ">= 0"),
        (
            lambda: iv.operators.Helmholtz(Grid((4,), points="interior"), wavenumber=math.pi, accuracy="spectral"),
            InputError,
            "away from resonances",
        ),
        (lambda: iv.operators.Poisson(Grid((4,), points="interior"), accuracy="exact"), InputError, "accuracy"),
    ],
)
def test_what_has_no_solution_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("shape", [(4, 5), (1, 6), (2, 3)])
def test_real_and_complex_modes_of_a_torus_are_the_same(shape):
    torus = iv.CartesianGrid(shape, extent=(1.0, 3.0), points="periodic")
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    real = modes.transform_of(torus, torch.float64)
    one = real.inverse(modes.laplacian_values(torus, "spectral") * real.forward(x))
    torch.testing.assert_close(modes.to_field(modes.squared(torus) * modes.to_spectrum(x, 2), torus), one)
