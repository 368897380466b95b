"""Conjugate gradients: row by row, real and complex, with the rows that make trouble."""

from __future__ import annotations

import math

import pytest
import torch

from invsolve.core.conjugate_gradients import CGInfo, conjugate_gradients, default_rtol, expand, inner

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
SINGLE = [torch.float32, torch.complex64]
N = 12


def random(*shape, dtype, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def systems(rows, dtype, n=N, condition=30.0):
    """Hermitian matrices ``(rows, n, n)`` with eigenvalues log-spaced over the condition number, and right sides."""
    q, _ = torch.linalg.qr(random(rows, n, n, dtype=dtype))
    values = torch.logspace(0, math.log10(condition), n, dtype=q.real.dtype).to(dtype)
    return (q * values) @ q.mH, random(rows, n, dtype=dtype, seed=1)


def product(matrices):
    return lambda x: torch.einsum("bij,bj->bi", matrices, x)


def relative(x, reference):
    return float(((x - reference).norm(dim=1) / reference.norm(dim=1)).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_converges_in_n_steps_to_the_direct_solution(dtype):
    """A complex system of n unknowns has at most n different eigenvalues, so n steps are enough in exact arithmetic."""
    # Single precision loses the conjugacy of ill-conditioned systems: there Chebyshev's bound 2 * 3^-12 helps.
    M, b = systems(5, dtype, condition=4.0 if dtype in SINGLE else 30.0)
    x, info = conjugate_gradients(product(M), b, rtol=0.0, max_iter=N)
    exact = torch.linalg.solve(M, b)
    assert relative(x, exact) < (1e-5 if dtype in SINGLE else 1e-10)
    assert info.iterations <= N
    assert x.dtype == dtype
    assert info.residual.dtype == b.real.dtype
    assert not info.residual.requires_grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stops_at_the_residual_and_reports_it(dtype):
    M, b = systems(5, dtype, condition=4.0)
    x, info = conjugate_gradients(product(M), b, rtol=1e-3)
    residual = (b - product(M)(x)).norm(dim=1) / b.norm(dim=1)
    assert bool((residual <= 1.01e-3).all())  # the residual of the recursion differs by rounding
    assert torch.allclose(info.residual, residual, atol=1e-5)
    assert isinstance(info, CGInfo)
    assert 0 < info.iterations < N


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_see_the_others(dtype):
    M, b = systems(4, dtype)
    b = b * torch.tensor([1.0, 1e3, 1e-3, 1.0]).to(dtype)[:, None]
    M = M + torch.tensor([0.0, 50.0, 0.0, 5.0]).to(dtype).view(-1, 1, 1) * torch.eye(N, dtype=dtype)  # other speeds
    x, info = conjugate_gradients(product(M), b, rtol=1e-4)
    for row in range(4):
        one, its = conjugate_gradients(product(M[row : row + 1]), b[row : row + 1], rtol=1e-4)
        # einsum may add in another order for another batch, so a row may stop one step apart: rtol times condition.
        assert relative(one, x[row : row + 1]) < 30 * 1e-4
        assert float(its.residual) <= 1e-4 >= float(info.residual[row])
        assert its.iterations <= info.iterations


def test_other_rows_of_the_batch_do_not_change_a_bit():
    """Bitwise, with a product that is elementwise: nothing but the method could mix rows."""
    d = torch.linspace(1, 20, N)
    b = random(4, N, dtype=torch.float32)
    other = b.clone()
    other[0], other[1], other[3] = math.nan, 0.0, 1e20 * b[3]
    x, _ = conjugate_gradients(lambda x: d * x, b, rtol=1e-6)
    y, info = conjugate_gradients(lambda x: d * x, other, rtol=1e-6)
    assert torch.equal(x[2], y[2])
    assert bool(y[0].isnan().all())
    assert bool(info.residual[0].isnan())
    assert torch.equal(y[1], torch.zeros(N))
    assert relative(y[3:], other[3:] / d) < 1e-5


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_that_is_not_finite_is_nan_even_alone(dtype, value):
    b = random(1, N, dtype=dtype)
    b[0, 3] = value
    x, info = conjugate_gradients(lambda x: 2 * x, b)
    assert bool(torch.isnan(x).all())
    assert bool(info.residual.isnan().all())
    assert info.iterations == 0


def test_a_row_that_becomes_nan_is_nan_and_holds_nobody_up():
    b = random(2, N, dtype=torch.float64)
    d = torch.linspace(1, 20, N, dtype=torch.float64)
    calls = 0

    def apply(x):
        nonlocal calls
        calls += 1
        y = d * x
        return torch.cat([y[:1], y[1:] * (math.nan if calls > 2 else 1.0)])

    x, info = conjugate_gradients(apply, b, rtol=1e-8)
    assert relative(x[:1], b[:1] / d) < 1e-7
    assert bool(x[1].isnan().all())
    assert bool(info.residual[1].isnan())
    assert info.iterations <= N + 2


@pytest.mark.parametrize("start", [False, True], ids=["from zero", "warm"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_zero_right_side_gives_exactly_zero(dtype, start):
    M, b = systems(3, dtype)
    b[1] = 0
    x, info = conjugate_gradients(product(M), b, start=random(3, N, dtype=dtype, seed=4) if start else None)
    assert torch.equal(x[1], torch.zeros(N, dtype=dtype))
    assert float(info.residual[1]) == 0.0
    assert relative(x[::2], torch.linalg.solve(M, b)[::2]) < 1e-3
    zero, info = conjugate_gradients(product(M), torch.zeros_like(b))
    assert torch.equal(zero, torch.zeros_like(b))
    assert info.iterations == 0


def test_an_exact_start_is_returned_unchanged():
    d = torch.tensor([1.0, 2.0, 4.0, 8.0])  # products that are exact
    start = random(3, 4, dtype=torch.float32)
    kept = start.clone()
    x, info = conjugate_gradients(lambda x: d * x, d * start, start=start)
    assert torch.equal(x, start)
    assert info.iterations == 0
    assert torch.equal(start, kept)
    assert x is not start


def test_a_warm_start_saves_iterations():
    M, b = systems(3, torch.float64)
    exact = torch.linalg.solve(M, b)
    near = exact + 1e-6 * random(3, N, dtype=torch.float64, seed=5)
    x, warm = conjugate_gradients(product(M), b, start=near, rtol=1e-8)
    _, cold = conjugate_gradients(product(M), b, rtol=1e-8)
    assert warm.iterations < cold.iterations
    assert relative(x, exact) < 1e-6  # rtol times the condition number 30


def test_inputs_are_not_changed():
    M, b = systems(3, torch.complex64)
    start = random(3, N, dtype=torch.complex64, seed=7)
    before = b.clone(), start.clone()
    conjugate_gradients(product(M), b, start=start)
    assert torch.equal(b, before[0])
    assert torch.equal(start, before[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_right_preconditioner_is_done_in_a_step(dtype):
    M, b = systems(3, dtype, condition=1e3)
    inverse = torch.linalg.inv(M)
    x, info = conjugate_gradients(product(M), b, rtol=1e-3, precondition=product(inverse))
    assert info.iterations == 1
    assert float(((b - product(M)(x)).norm(dim=1) / b.norm(dim=1)).max()) < 2e-3


def test_a_preconditioner_saves_iterations_and_does_not_change_the_answer():
    d = torch.logspace(0, 4, 40, dtype=torch.float64)
    M = torch.diag(d) + 0.1 * torch.ones(40, 40, dtype=torch.float64)
    b = random(2, 40, dtype=torch.float64)
    plain, slow = conjugate_gradients(lambda x: x @ M, b, rtol=1e-10, max_iter=1000)
    x, fast = conjugate_gradients(lambda x: x @ M, b, rtol=1e-10, precondition=lambda r: r / d)
    assert fast.iterations < slow.iterations / 3
    assert relative(x, plain) < 1e-5  # condition number 1e4, and 1e-10
    assert bool((fast.residual <= 1e-10).all())


def test_check_every_reads_less_often_and_finishes_later():
    M, b = systems(3, torch.float64)
    x, one = conjugate_gradients(product(M), b, rtol=1e-6)
    y, seven = conjugate_gradients(product(M), b, rtol=1e-6, check_every=7)
    assert seven.iterations % 7 == 0
    assert seven.iterations - one.iterations in range(7)
    assert torch.equal(x, y)  # rows that are done are left untouched


def test_max_iter_is_a_limit():
    M, b = systems(3, torch.float64, condition=1e4)
    _, info = conjugate_gradients(product(M), b, rtol=1e-12, max_iter=4)
    assert info.iterations == 4
    assert bool((info.residual > 1e-12).all())


@pytest.mark.parametrize("exponent", [-120, -60, 60, 120])
def test_units_do_not_matter(exponent):
    """Bitwise for powers of two, where squares would leave the range of float32."""
    M, b = systems(3, torch.float32)
    unit = 2.0**exponent
    x, _ = conjugate_gradients(product(M), b)
    y, _ = conjugate_gradients(product(M), b * unit)
    assert torch.equal(x * unit, y)


def test_trusted_steps_of_what_is_not_symmetric():
    """A symmetric row goes on to the end, one with a rotation stops after the trusted steps; each as if alone."""
    M, b = systems(2, torch.float64, condition=100.0)
    M[1] += 20 * torch.triu(torch.ones(N, N, dtype=torch.float64), 1)
    M[1] -= M[1].triu(1).mT - M[1].tril(-1)
    x, info = conjugate_gradients(product(M), b, rtol=1e-6, max_iter=3 * N, trusted=3)
    assert relative(x[:1], torch.linalg.solve(M[:1], b[:1])) < 1e-4 and float(info.residual[0]) <= 1e-6
    three, _ = conjugate_gradients(product(M[1:]), b[1:], rtol=1e-6, max_iter=3)
    assert torch.allclose(x[1:], three, rtol=1e-12) and float(info.residual[1]) > 1e-2
    free, _ = conjugate_gradients(product(M[:1]), b[:1], rtol=1e-6, max_iter=3 * N)
    assert torch.allclose(x[:1], free, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trusted_steps_of_what_is_symmetric_and_preconditioned(dtype):
    d = torch.logspace(0, 2, 200, dtype=dtype)
    b = random(1, 200, dtype=dtype)
    for precondition in (None, lambda r: r / d.sqrt()):
        x, info = conjugate_gradients(
            lambda x: d * x, b, rtol=1e-2, max_iter=1000, trusted=3, precondition=precondition
        )
        plain, free = conjugate_gradients(lambda x: d * x, b, rtol=1e-2, max_iter=1000, precondition=precondition)
        assert torch.equal(x, plain) and info.iterations == free.iterations > 5


def test_no_entries():
    x, info = conjugate_gradients(lambda x: x, torch.zeros(3, 0, 2, dtype=torch.complex64))
    assert x.shape == (3, 0, 2)
    assert torch.equal(info.residual, torch.zeros(3))


def test_signals_with_axes():
    d = 1 + torch.rand(4, 5, generator=torch.Generator().manual_seed(0))
    b = random(2, 4, 5, dtype=torch.complex64)
    x, _ = conjugate_gradients(lambda x: d * x, b, rtol=1e-6)
    assert torch.allclose(x, b / d, atol=1e-5)


def test_inner_and_expand():
    u, v = random(3, 4, 2, dtype=torch.complex128), random(3, 4, 2, dtype=torch.complex128, seed=1)
    assert torch.allclose(inner(u, v), (u.conj() * v).sum((1, 2)).real)
    assert torch.allclose(inner(u.real, v.real), (u.real * v.real).sum((1, 2)))
    assert expand(torch.ones(3), u).shape == (3, 1, 1)


def test_default_rtol():
    assert [default_rtol(d) for d in DTYPES] == [1e-5, 1e-12, 1e-5, 1e-12]


@pytest.mark.parametrize("trusted", [None, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_image_of_the_solution_costs_no_product(dtype, trusted):
    M, b = systems(4, dtype)
    b[1] = 0
    b[2] = math.nan
    b[3] *= 1e-30  # units: the solve is scaled inside
    L = random(N, 5, dtype=dtype, seed=9)
    calls = 0

    def apply(x):
        nonlocal calls
        calls += 1
        return product(M)(x), x @ L

    x, info = conjugate_gradients(apply, b, rtol=1e-3, trusted=trusted)
    plain, same = conjugate_gradients(product(M), b, rtol=1e-3, trusted=trusted)
    assert calls == info.iterations == same.iterations
    assert torch.equal(x.nan_to_num(), plain.nan_to_num())
    assert same.image is None
    assert bool(info.image[2].isnan().all())
    assert not bool(info.image[1].any())
    # Each is a sum of as many rounded terms as there were steps, of N products each.
    found, expected = (v[::3] / b[::3].abs().amax(1)[:, None] for v in (info.image, x @ L))
    assert relative(found, expected) < 4 * N * info.iterations * torch.finfo(dtype).eps


def test_the_image_of_a_solution_that_starts_elsewhere():
    M, b = systems(4, torch.float64)
    L, start = random(N, 5, dtype=torch.float64, seed=9), random(4, N, dtype=torch.float64, seed=8)
    for steps in (0, 2, 100):
        x, info = conjugate_gradients(lambda v: (product(M)(v), v @ L), b, start=start, max_iter=steps)
        expected = x @ L
        assert relative(info.image, expected) < 4 * N * (steps + 1) * torch.finfo(torch.float64).eps


def test_a_row_ends_before_a_direction_that_cannot_be():
    """Rows with an eigenvalue below `least` stop; the others, and all that lies above, go on as before."""
    good, bad = torch.linspace(1, 4, N, dtype=torch.float64), torch.linspace(1, 4, N, dtype=torch.float64)
    bad[0] = 1e-9  # its component would be multiplied by a thousand million
    M = torch.stack([good.diag(), bad.diag()])
    b = torch.ones(2, N, dtype=torch.float64)
    free, _ = conjugate_gradients(product(M), b, rtol=1e-12)
    held, info = conjugate_gradients(product(M), b, rtol=1e-12, least=1.0)
    assert torch.equal(held[0], free[0]) and info.residual[0] < 1e-12
    assert free[1].abs().max() > 1e8 and held[1].abs().max() < 10
    alone, _ = conjugate_gradients(product(M[1:]), b[1:], rtol=1e-12, least=1.0)
    assert torch.equal(alone[0], held[1])  # a row does not see the others
    none, info = conjugate_gradients(lambda x: 0.5 * x, b, least=1.0)
    assert not none.any() and bool((info.residual == 1).all())


def test_a_solve_without_a_step_has_no_image():
    _, info = conjugate_gradients(lambda x: (x, x), torch.zeros(2, N))
    assert info.image is None
