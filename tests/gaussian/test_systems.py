"""The linear-Gaussian update: dense and iterative forms of one map, and which is taken when."""

from __future__ import annotations

import math

import pytest
import torch

from invsolve.core.arrays import to_real
from invsolve.core.counting import tally
from invsolve.gaussian import systems as linear_gaussian
from invsolve.gaussian.law import DenseModes, GaussianLaw
from invsolve.gaussian.systems import DenseSystem, IterativeSystem, dense_matrix, make_system, probe
from invsolve.noise import Gaussian
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.mask import Mask
from invsolve.operators.matrix import Matrix
from invsolve.priors.exact.gaussian import GaussianPrior
from invsolve.problem import Problem

F64, C128 = torch.float64, torch.complex128
N, ROWS = 6, 3


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def law(kind="real"):
    root = random(N, N, seed=1)
    mean = random(N, dtype=C128 if kind == "complex" else F64, seed=2)
    return GaussianPrior(mean=mean, covariance=root @ root.mT).law


def problem(m=4, kind="real", in_kind=None, noise=0.3, operator=None):
    dtype = C128 if kind == "complex" else F64
    A = operator or Matrix(matrix=random(m, N, dtype=dtype, seed=3), in_kind=in_kind or kind)
    return Problem(A, random(ROWS, *A.out_shape, dtype=dtype, seed=4), noise=noise)


def systems(problem, law, monkeypatch, rtol=1e-12):
    """The dense and the iterative form of one problem."""
    dense = make_system(problem, law, tol=rtol, max_iter=500)
    monkeypatch.setattr(linear_gaussian, "DENSE_SIDE", 0)
    return dense, make_system(problem, law, tol=rtol, max_iter=500)


CASES = {
    "m < n": ((4,), "real"),
    "n < m": ((9,), "real"),
    "complex, m < n": ((4, "complex"), "complex"),
    "complex, n < m": ((9, "complex"), "complex"),
    "real modes, complex data": ((4, "complex", "real"), "real"),
    "noise per entry": ((4, "real", None, random(4, seed=5).exp()), "real"),
    "noise covariance": ((4, "real", None, Gaussian(covariance=torch.eye(4, dtype=F64) + 0.5)), "real"),
}
EVERY = pytest.mark.parametrize(("options", "kind"), CASES.values(), ids=CASES.keys())


@EVERY
def test_both_forms_are_the_dense_formula(options, kind, monkeypatch):
    """``diag(v) B^H (I + B diag(v) B^H)^-1 w`` and ``B u``, over real numbers."""
    p, prior = problem(*options), law(kind)
    dense, iterative = systems(p, prior, monkeypatch)
    assert isinstance(dense, DenseSystem)
    assert isinstance(iterative, IterativeSystem)
    assert (dense.gram is not None) == (dense.matrix.shape[0] > dense.matrix.shape[1])
    B = dense_matrix(p, p.operator, prior.modes)
    w = random(ROWS, *p.operator.out_shape, dtype=p.data.dtype, seed=6)
    u = random(ROWS, N, dtype=prior.mean.dtype, seed=7)
    for variances in (prior.variances, prior.posterior_variances(0.5), torch.zeros(N, dtype=F64)):
        v = variances.repeat_interleave(2 if kind == "complex" else 1)
        inner = torch.eye(len(B), dtype=F64) + B * v @ B.mT
        want = torch.linalg.solve(inner, to_real(w).mT).mT @ B * v
        for system in (dense, iterative):
            got = system.factor(variances)(w)
            assert got.shape == u.shape
            assert got.dtype == u.dtype
            assert torch.allclose(to_real(got), want, rtol=1e-9, atol=1e-9)
    for system in (dense, iterative):
        assert torch.allclose(to_real(system.forward(u)), to_real(u) @ B.mT, rtol=1e-10, atol=1e-10)


@EVERY
def test_the_matrix_is_the_whitened_operator_on_the_modes(options, kind):
    p, modes = problem(*options), law(kind).modes
    B = dense_matrix(p, p.operator, modes)
    u = random(ROWS, N, dtype=p.signal_dtype, seed=8)
    assert B.dtype == F64
    assert torch.allclose(to_real(p.whiten(p.operator(modes.synthesis(u)))), to_real(u) @ B.mT, rtol=1e-10, atol=1e-10)
    assert torch.equal(dense_matrix(p, p.operator, modes, rows=256), B)
    # In parts, the last one shorter: a product over fewer rows rounds differently.
    assert torch.allclose(dense_matrix(p, p.operator, modes, rows=5), B, rtol=1e-13, atol=1e-13)


@EVERY
def test_the_iterative_form_is_its_own_adjoint_pair(options, kind, monkeypatch):
    p, prior = problem(*options), law(kind)
    _, system = systems(p, prior, monkeypatch)
    u = random(ROWS, N, dtype=prior.mean.dtype, seed=7)
    w = random(ROWS, *p.operator.out_shape, dtype=p.data.dtype, seed=6)
    left = (system.forward(u).conj() * w).real.flatten(1).sum(1)
    right = (u.conj() * system.adjoint(w)).real.flatten(1).sum(1)
    assert torch.allclose(left, right, rtol=1e-11)
    assert torch.allclose(system.normal(u), system.adjoint(system.forward(u)), rtol=1e-10, atol=1e-10)


def test_a_set_of_variances_for_every_row(monkeypatch):
    p, prior = problem(), law()
    dense, iterative = systems(p, prior, monkeypatch)
    w = random(ROWS, 4, seed=6)
    each = torch.stack([prior.posterior_variances(t) for t in (0.1, 1.0, 10.0)])
    got = iterative.factor(each)(w)
    for row in range(ROWS):
        assert torch.allclose(got[row], dense.factor(each[row])(w)[row], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", ["batched", "a factor for each set"])
@EVERY
def test_a_dense_system_with_a_set_of_variances_for_every_row(options, kind, size, monkeypatch):
    """Sets in any order, repeated: each row is what its own set gives alone."""
    p, prior = problem(*options), law(kind)
    dense = make_system(p, prior, tol=1e-12, max_iter=10)
    assert isinstance(dense, DenseSystem)
    sets = [prior.posterior_variances(t) for t in (3.0, 0.1, 3.0, 10.0, 0.1)]
    w = random(5, *p.operator.out_shape, dtype=p.data.dtype, seed=6)
    if size != "batched":
        monkeypatch.setattr(linear_gaussian, "DENSE_SIZE", 0)
    got = dense.factor(torch.stack(sets))(w)
    for row, one in enumerate(sets):
        torch.testing.assert_close(got[row], dense.factor(one)(w)[row], rtol=1e-11, atol=1e-11)


def test_results_keep_the_precision_of_the_data():
    p, prior = problem().to(dtype=torch.float32), law().to(dtype=torch.float32)
    system = make_system(p, prior, tol=1e-6, max_iter=100)
    assert isinstance(system, DenseSystem)
    assert system.matrix.dtype == F64
    assert system.factor(prior.variances)(p.data).dtype == torch.float32
    assert system.forward(torch.zeros(2, N)).dtype == torch.float32


def test_a_factorisation_that_fails_gives_nan():
    system = make_system(problem(), law(), tol=1e-6, max_iter=100)
    assert bool(system.factor(torch.full((N,), math.nan, dtype=F64))(random(ROWS, 4)).isnan().all())


# --- which form ------------------------------------------------------------------------------------------------------
def test_dense_where_one_side_is_small_and_all_rows_share_it(monkeypatch):
    make = {"tol": 1e-6, "max_iter": 10}
    shared = problem()
    assert isinstance(make_system(shared, law(), **make), DenseSystem)
    items = problem(operator=Matrix(matrix=random(ROWS, 4, N)))
    assert isinstance(make_system(items, law(), **make), IterativeSystem)
    noisy = problem(noise=random(ROWS, 1).exp())
    assert isinstance(make_system(noisy, law(), **make), IterativeSystem)
    for name, limit, dense in (
        ("DENSE_SIDE", 4, True),
        ("DENSE_SIDE", 3, False),
        ("DENSE_SIZE", 24, True),
        ("DENSE_SIZE", 23, False),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(linear_gaussian, name, limit)
            assert isinstance(make_system(shared, law(), **make), DenseSystem) == dense


def test_complex_numbers_count_twice(monkeypatch):
    monkeypatch.setattr(linear_gaussian, "DENSE_SIDE", 7)
    assert isinstance(make_system(problem(), law(), tol=1e-6, max_iter=10), DenseSystem)
    complex_ = make_system(problem(kind="complex"), law("complex"), tol=1e-6, max_iter=10)
    assert isinstance(complex_, IterativeSystem)


def test_the_operator_given_is_the_one_that_is_solved():
    """A linearisation instead of the problem's operator, with a row of its own for every row of the data."""

    class Cube(Operator):
        in_shape = out_shape = (N,)

        def _apply(self, x):
            return x**3

    p = Problem(Cube(), random(ROWS, N, seed=4), noise=0.3)
    at = random(ROWS, N, seed=9)
    system = IterativeSystem(
        problem=p,
        operator=p.operator.linearize(at),
        modes=law().modes,
        tol=1e-12,
        max_iter=200,
        level=torch.zeros((), dtype=F64),
    )
    w, prior = random(ROWS, N, seed=6), law()
    got = system.factor(prior.variances)(w)
    for row in range(ROWS):
        A = Matrix(matrix=torch.diag(3 * at[row] ** 2))
        dense = make_system(Problem(A, p.data, noise=0.3), prior, tol=1e-6, max_iter=10)
        assert torch.allclose(got[row], dense.factor(prior.variances)(w)[row], rtol=1e-8, atol=1e-9)


# --- the probe -------------------------------------------------------------------------------------------------------
WHITE = GaussianLaw(
    mean=torch.zeros(N, dtype=F64),
    modes=DenseModes(shape=(N,), matrix=torch.eye(N, dtype=F64)),
    variances=torch.ones(N, dtype=F64),
)


class Leaky(LinearOperator):
    """Says that nothing but the first entry is observed, and is not zero at the others."""

    in_shape = out_shape = (N,)

    @property
    def observed(self):
        return torch.arange(N) == 0

    def _apply(self, x):
        return 2 * x

    def _adjoint(self, y):
        return 2 * y


def test_level_is_the_mean_diagonal():
    """By one random signal: exact for a multiple of the identity, else within the error of Hutchinson's estimate."""
    eye = Matrix(matrix=2 * torch.eye(N, dtype=F64))
    assert probe(problem(operator=eye, noise=0.5), WHITE.modes)[0] == pytest.approx(16.0)
    n = 400
    d = torch.linspace(1, 3, n, dtype=F64)
    A = Matrix(matrix=torch.diag(d))
    modes = DenseModes(shape=(n,), matrix=torch.eye(n, dtype=F64))
    level, _ = probe(Problem(A, torch.zeros(1, n, dtype=F64), noise=1.0), modes)
    mean = float((d**2).mean())
    # The ratio of sums of d^2 z^2 and z^2 has variance 2 sum (d^2 - mean)^2 / n^2.
    assert abs(level - mean) < 5 * math.sqrt(2 * float(((d**2 - mean) ** 2).mean()) / n)


@pytest.mark.parametrize("noise", [torch.tensor([[1.0], [2.0], [4.0]]), 0.5], ids=["items", "shared"])
@pytest.mark.parametrize("items", [True, False])
def test_level_belongs_to_each_item(noise, items):
    """Rows must not see each other: an item's preconditioner knows its own operator and noise only."""
    eye = torch.eye(N, dtype=F64)
    A = Matrix(matrix=torch.stack([eye, 2 * eye, 4 * eye]) if items else eye)
    level, _ = probe(problem(operator=A, noise=noise), WHITE.modes)
    gains = torch.tensor([1.0, 2.0, 4.0]) if items else torch.ones(3)
    each = (gains / torch.as_tensor(noise).flatten()) ** 2
    assert torch.allclose(level.expand(3), each.double())
    assert level.ndim == int(items or isinstance(noise, torch.Tensor))


def test_the_operators_own_normal_is_used_only_where_that_is_right():
    mask = Mask(mask=torch.tensor([True, False, True, True, False, True]))
    assert probe(problem(operator=mask, noise=0.5), WHITE.modes)[1] == 4.0
    assert probe(problem(noise=0.5), WHITE.modes)[1] == 4.0
    std = random(ROWS, 1).exp()
    assert torch.equal(probe(problem(noise=std), WHITE.modes)[1], std[:, 0] ** -2)
    for noise in (random(4, seed=5).exp(), random(ROWS, 4).exp(), Gaussian(covariance=torch.eye(4, dtype=F64))):
        assert probe(problem(noise=noise), WHITE.modes)[1] is None
    # As many data as rows: (ROWS,) is of data.
    assert probe(problem(m=ROWS, noise=random(ROWS).exp()), WHITE.modes)[1] is None
    assert probe(problem(operator=Leaky()), WHITE.modes)[1] is None


def test_every_row_has_the_precision_of_its_noise():
    """The normal map is adjoint and forward, for all rows and for those that are taken."""
    p = problem(noise=random(ROWS, 1).exp())
    level, precision = probe(p, WHITE.modes)
    system = IterativeSystem(
        problem=p, operator=p.operator, modes=WHITE.modes, tol=1e-12, max_iter=100, level=level, precision=precision
    )
    taken = system.take(torch.tensor([2, 0]))
    for one in (system, taken):
        u = random(len(one.problem.data), N, seed=3)
        assert torch.allclose(one.normal(u), one.adjoint(one.forward(u)), rtol=1e-12, atol=1e-12)
    assert torch.equal(taken.precision, precision[[2, 0]])


def test_an_operator_that_leaks_where_nothing_is_observed(monkeypatch):
    p = problem(operator=Leaky())
    dense, iterative = systems(p, law(), monkeypatch)
    w = p.whiten(p.data)
    assert torch.allclose(dense.factor(law().variances)(w), iterative.factor(law().variances)(w), rtol=1e-9, atol=1e-9)


def test_solves_with_the_normal_map_cost_one_operator_and_one_adjoint_an_iteration(monkeypatch):
    p, prior = problem(), law()
    _, system = systems(p, prior, monkeypatch)
    with tally() as calls:
        system.factor(prior.variances)(random(ROWS, 4, seed=6))
    # Each iteration applies A^H A to all rows; the right side costs one adjoint more.
    assert calls["adjoint"] - calls["operator"] == ROWS
    assert calls["operator"] <= ROWS * (N + 4)


def test_a_solve_that_does_not_converge_is_nan_where_it_must_be_exact(monkeypatch):
    """An exact draw that is not one is a failed row, not a plausible picture."""
    import invsolve as iv
    import invsolve.gaussian.systems as module
    from invsolve.gaussian.posterior import GaussianPosterior

    monkeypatch.setattr(module, "DENSE_SIDE", 0)
    rng = torch.Generator().manual_seed(0)
    covariance = torch.diag(torch.logspace(-3, 3, 40, dtype=F64))
    prior = iv.priors.GaussianPrior(mean=torch.zeros(40, dtype=F64), covariance=covariance)
    A = iv.operators.Matrix(matrix=torch.randn(30, 40, generator=rng, dtype=F64))
    problem = iv.Problem(A, torch.ones(1, 30, dtype=F64), noise=1e-4)
    short = GaussianPosterior.from_problem(prior.law, problem, max_iter=3)
    assert short.sample(2).isnan().all()
    assert GaussianPosterior.from_problem(prior.law, problem, max_iter=3000).sample(2).isfinite().all()


@pytest.mark.parametrize("sigma", [1e-1, 1e-3, 1e-5])
def test_iterative_solves_are_right_at_any_signal_to_noise_ratio(monkeypatch, sigma):
    """A tolerance relative to the right side, of size 1 / sigma^2, once hid errors of several posterior sd."""
    rng = torch.Generator().manual_seed(0)
    A = Matrix(matrix=torch.randn(12, 24, generator=rng, dtype=F64))
    factor = torch.randn(24, 24, generator=rng, dtype=F64)
    prior = GaussianPrior(mean=torch.zeros(24, dtype=F64), covariance=factor @ factor.mT / 24)
    y = A(prior.sample(2, seed=1)) + sigma * torch.randn(2, 12, generator=rng, dtype=F64)
    shared = prior.posterior(A, y, sigma)
    items = prior.posterior(A, y, Gaussian(std=torch.full((2, 1), sigma, dtype=F64)))
    assert isinstance(shared.system, DenseSystem) and isinstance(items.system, IterativeSystem)
    assert ((items.mean - shared.mean) / shared.std).abs().max() < 1e-4
    assert ((items.sample(4, seed=0) - shared.sample(4, seed=0)) / shared.std).abs().max() < 1e-3
    narrow = prior.to(dtype=torch.float32)
    std = torch.full((2, 1), sigma)
    single = narrow.posterior(A.to(dtype=torch.float32), y.float(), Gaussian(std=std))
    # Data in float32 are rounded by 6e-8 of themselves: that many noise standard deviations, times a few.
    assert ((single.mean.double() - shared.mean) / shared.std).abs().max() < 1e-3 + 20 * 6e-8 * float(
        y.abs().max()
    ) / sigma
