"""Finite elements of an elliptic equation: against the dense matrix, and at their order."""

import math

import pytest
import torch

from invsolve.operators.pde.bilinear_elements import energies, solve_elements


def random(n, rows=2):
    rng = torch.Generator().manual_seed(n)
    a = torch.rand(rows, n, n, dtype=torch.float64, generator=rng) * 10 + 0.1
    return a, torch.randn(rows, n - 1, n - 1, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_solution_is_that_of_the_dense_matrix(n):
    a, load = random(n)

    def energy(u):
        return 0.5 * (a * energies(u, u)).sum()

    matrix = torch.autograd.functional.hessian(energy, torch.zeros_like(load)).reshape(load.numel(), -1)
    want = torch.linalg.solve(matrix, load.flatten()).view(load.shape)
    assert float((solve_elements(a, load) - want).abs().max()) < 1e-13 * float(want.abs().max()) * 100


def test_the_energy_of_an_element_is_its_integral():
    # u = x y on one element in the middle of three: |grad u|^2 = x^2 + y^2, whose integral over [1, 2]^2 is 14/3
    x = torch.arange(0, 4, dtype=torch.float64)
    u = (x[:, None] * x)[None, 1:3, 1:3]
    assert float(energies(u, u)[0, 1, 1]) == pytest.approx(14 / 3, rel=1e-14)


def test_derivatives_are_those_of_differences():
    a, load = (v.requires_grad_() for v in random(3, 1))
    assert torch.autograd.gradcheck(solve_elements, (a, load))
    assert torch.autograd.gradgradcheck(solve_elements, (a, load))


def test_manufactured_solution_at_second_order():
    errors = []
    for n in (8, 16, 32, 64):
        x = torch.arange(1, n, dtype=torch.float64) / n
        u = torch.sin(math.pi * x)[:, None] * torch.sin(math.pi * x)
        made = solve_elements(torch.full((1, n, n), 3.0, dtype=torch.float64), (6 * math.pi**2 * u / n**2)[None])
        errors.append(float((made[0] - u).abs().max()))
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(order - 2) < 0.1 for order in orders)


def test_rows_are_solved_by_themselves_and_nothing_comes_of_nothing():
    a, load = random(5, 130)  # more than are factorised at once
    u = solve_elements(a, load)
    assert torch.equal(solve_elements(a[129:], load[129:]), u[129:])
    assert float((solve_elements(a[3:4], load[3:4]) - u[3:4]).abs().max()) < 1e-14
    assert bool((solve_elements(a, torch.zeros_like(load)) == 0).all())
