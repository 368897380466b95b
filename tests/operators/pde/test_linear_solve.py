"""Linear systems as functions of their coefficients, symmetric or not, against torch's own solve."""

import pytest
import torch

import invsolve as iv
from invsolve.errors import OperatorError

solve_linear = iv.operators.solve_linear


def matrix(p):
    return torch.diag_embed(p.exp()) + 0.3 * torch.diag_embed(p[:, 1:].sin(), 1) + 0.2j * torch.diag_embed(p[:, 1:], -1)


def solve(p, f):
    return torch.linalg.solve(matrix(p), f)


def solve_adjoint(p, f):
    return torch.linalg.solve(matrix(p).mH, f)


def ours(p, f):
    return solve_linear(p, f, solve, lambda p, u: (matrix(p) @ u[..., None])[..., 0], solve_adjoint=solve_adjoint)


@pytest.fixture
def given():
    rng = torch.Generator().manual_seed(0)
    p = torch.randn(3, 4, dtype=torch.float64, generator=rng, requires_grad=True)
    return p, torch.randn(3, 4, dtype=torch.complex128, generator=rng, requires_grad=True)


def test_derivatives_of_all_orders_are_those_of_torch(given):
    assert torch.autograd.gradcheck(ours, given)
    assert torch.autograd.gradcheck(ours, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, given)


def test_it_works_under_the_transforms_of_torch_func(given):
    p, f = (v.detach() for v in given)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        found, expected = (transform(lambda q, g=g: torch.view_as_real(g(q, f)))(p) for g in (ours, solve))
        assert torch.allclose(found, expected)
    many = torch.stack([p, 2 * p])
    assert torch.allclose(torch.vmap(ours, (0, None))(many, f), torch.stack([solve(q, f) for q in many]))


def test_a_source_alone_needs_no_derivative_of_the_matrix(given):
    p, f = given
    u = solve_linear(p.detach(), f, solve, lambda p, u: 1 / 0, solve_adjoint=solve_adjoint)
    (found,) = torch.autograd.grad(u, f, torch.ones_like(u))
    assert torch.allclose(found, solve_adjoint(p.detach(), torch.ones_like(u)))


def test_reading_order():
    A = iv.operators.Darcy(iv.CartesianGrid((4, 3)), log=True)
    H = iv.operators.PointValues(A.grid, [[0.3, 0.4], [0.8, 0.2]])
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal((A >> H)(x), (H @ A)(x))
    with pytest.raises(TypeError):
        A >> 3


def test_functions_of_another_shape_are_named():
    p = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    f = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(OperatorError, match=r"solve must return a tensor of shape \(2, 3\), got \(2,\)"):
        solve_linear(p, f, lambda p, f: (f / p)[:, 0], lambda p, u: p * u)
    with pytest.raises(OperatorError, match="solve must return .* got ndarray"):
        solve_linear(p, f, lambda p, f: (f / p).numpy(), lambda p, u: p * u)
    u = solve_linear(p, f, lambda p, f: f / p, lambda p, u: (p * u).sum(1), solve_adjoint=lambda p, f: f / p)
    with pytest.raises(OperatorError, match="product must return"):
        u.sum().backward()
    u = solve_linear(p, f, lambda p, f: f / p, lambda p, u: p * u, solve_adjoint=lambda p, f: f[:1])
    with pytest.raises(OperatorError, match="solve_adjoint must return"):
        u.sum().backward()


def test_no_rows_of_many():
    def own(p):
        return iv.operators.solve_linear(p, torch.ones_like(p), lambda p, f: f / p, lambda p, u: p * u)

    assert torch.func.vmap(own)(torch.ones(4, 0, 3)).shape == (4, 0, 3)
