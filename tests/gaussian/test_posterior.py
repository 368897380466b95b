"""Closed-form posteriors against dense formulas over real numbers, and their draws exactly and by Monte Carlo."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from invsolve.core.arrays import from_real
from invsolve.core.random import Draws
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.gaussian import systems as linear_gaussian
from invsolve.gaussian.posterior import GaussianPosterior, closed_form_problem, not_linear_gaussian
from invsolve.gaussian.systems import DenseSystem, IterativeSystem
from invsolve.noise import Gaussian, Noise
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.mask import Mask, Subsample
from invsolve.operators.matrix import Matrix
from invsolve.priors.exact.gaussian import GaussianPrior
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.spectra import Matern
from invsolve.problem import Problem

F64, C128 = torch.float64, torch.complex128
N, ITEMS = 6, 3


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def spd(n, seed):
    root = random(n, n, seed=seed)
    return root @ root.mT / n + 0.2 * torch.eye(n, dtype=F64)


# --- cases and their dense reference ---------------------------------------------------------------------------------
def pairs(values):
    """Complex vectors ``(..., n)`` as ``(..., 2n)`` pairs (re, im); real ones as they are."""
    return torch.view_as_real(values.resolve_conj()).flatten(-2) if values.is_complex() else values


def real_matrix(matrix, in_complex):
    """A complex matrix on pairs: every entry becomes [[re, -im], [im, re]], or a column [re, im] for real signals."""
    if not matrix.is_complex():
        return matrix
    re, im = matrix.real, matrix.imag
    blocks = torch.stack([torch.stack([re, -im], -1), torch.stack([im, re], -1)], -2)  # (m, n, 2, 2)
    full = blocks.permute(0, 2, 1, 3).reshape(2 * len(matrix), -1)
    return full if in_complex else full[:, ::2]


def doubled(covariance, complex_):
    return torch.kron(covariance, torch.eye(2, dtype=F64)) if complex_ else covariance


@dataclass
class Case:
    operator: LinearOperator
    noise: object
    matrices: list  # per item: the dense matrix of the observed data
    noises: list  # per item: their noise covariance, of one real component
    kind: str = "real"
    shape: tuple = (N,)
    seen: torch.Tensor | None = None  # (ITEMS, m) bool

    @property
    def prior(self):
        mean = random(*self.shape, dtype=C128 if self.kind == "complex" else F64, seed=1)
        return GaussianPrior(mean=mean, covariance=spd(N, 2))

    @property
    def y(self):
        dtype = C128 if self.operator.out_kind == "complex" else F64
        return 2 * random(ITEMS, *self.operator.out_shape, dtype=dtype, seed=3)

    @property
    def problem(self):
        return Problem(self.operator, self.y, noise=self.noise)

    def posterior(self, **options):
        return GaussianPosterior.from_problem(self.prior.law, self.problem, **options)

    def reference(self, item):
        """Mean and covariance over (pairs of) real numbers, and log p(y), by the textbook formulas."""
        in_complex, prior = self.kind == "complex", self.prior
        M = real_matrix(self.matrices[item], in_complex)
        y = self.y[item].flatten()
        y = pairs(y if self.seen is None else y[self.seen[item]])
        K, m = doubled(prior.covariance, in_complex), pairs(prior.mean.flatten())
        S = M @ K @ M.mT + doubled(self.noises[item], self.y.is_complex())
        gain = torch.linalg.solve(S, M @ K).mT
        evidence = multivariate_normal(cov=S.numpy()).logpdf((y - M @ m).numpy())
        return m + gain @ (y - M @ m), K - gain @ M @ K, float(evidence)


def same(matrix, covariance):
    return {"matrices": [matrix] * ITEMS, "noises": [covariance] * ITEMS}


def std_matrix(std, m):
    return torch.as_tensor(std, dtype=F64).expand(m).square().diag()


WIDE, TALL = random(4, N, seed=4), random(9, N, seed=5)
CWIDE, CTALL = random(4, N, dtype=C128, seed=6), random(9, N, dtype=C128, seed=7)
MATRICES = random(ITEMS, 4, N, seed=8)
STD = random(4, seed=9).exp()
ITEM_STD = random(ITEMS, 1, seed=10).exp()
MASK = torch.tensor([[True, False, True], [True, True, False]])
MASKS = torch.tensor([[1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]]).bool().view(ITEMS, 2, 3)
EYE = torch.eye(N, dtype=F64)

SHARED = {
    "fewer data": Case(Matrix(matrix=WIDE), 0.3, **same(WIDE, std_matrix(0.3, 4))),
    "more data": Case(Matrix(matrix=TALL), 0.3, **same(TALL, std_matrix(0.3, 9))),
    "complex, fewer data": Case(Matrix(matrix=CWIDE), 0.3, **same(CWIDE, std_matrix(0.3, 4)), kind="complex"),
    "complex, more data": Case(Matrix(matrix=CTALL), 0.3, **same(CTALL, std_matrix(0.3, 9)), kind="complex"),
    "real signal, complex data": Case(Matrix(matrix=CWIDE, in_kind="real"), 0.3, **same(CWIDE, std_matrix(0.3, 4))),
    "real signal, more data": Case(Matrix(matrix=CTALL, in_kind="real"), 0.3, **same(CTALL, std_matrix(0.3, 9))),
    "std per entry": Case(Matrix(matrix=WIDE), STD, **same(WIDE, std_matrix(STD, 4))),
    "noise covariance": Case(Matrix(matrix=WIDE), Gaussian(covariance=spd(4, 11)), **same(WIDE, spd(4, 11))),
    "complex, noise covariance": Case(
        Matrix(matrix=CTALL), Gaussian(covariance=spd(9, 12)), **same(CTALL, spd(9, 12)), kind="complex"
    ),
    "mask": Case(
        Mask(mask=MASK),
        0.3,
        **same(EYE[MASK.flatten()], std_matrix(0.3, 4)),
        shape=(2, 3),
        seen=MASK.flatten().expand(ITEMS, N),
    ),
    "complex mask": Case(
        Mask(mask=MASK, kind="complex"),
        0.3,
        **same(EYE[MASK.flatten()] + 0j, std_matrix(0.3, 4)),
        shape=(2, 3),
        seen=MASK.flatten().expand(ITEMS, N),
        kind="complex",
    ),
}
ITEMWISE = {
    "operators": Case(Matrix(matrix=MATRICES), 0.3, list(MATRICES), [std_matrix(0.3, 4)] * ITEMS),
    "noise": Case(Matrix(matrix=WIDE), ITEM_STD, [WIDE] * ITEMS, [std_matrix(s, 4) for s in ITEM_STD]),
    "operators, noise": Case(Matrix(matrix=MATRICES), ITEM_STD, list(MATRICES), [std_matrix(s, 4) for s in ITEM_STD]),
    "masks": Case(
        Mask(mask=MASKS, in_shape=(2, 3)),
        0.3,
        [EYE[m.flatten()] for m in MASKS],
        [std_matrix(0.3, int(m.sum())) for m in MASKS],
        shape=(2, 3),
        seen=MASKS.flatten(1),
    ),
}
ALL = SHARED | ITEMWISE
EVERY = pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
DENSE = pytest.mark.parametrize("case", SHARED.values(), ids=SHARED.keys())


@pytest.fixture(params=["as chosen", "iterative"])
def form(request, monkeypatch):
    """Both forms of the solve: with no side small enough for a factorisation every problem is solved iteratively."""
    if request.param == "iterative":
        monkeypatch.setattr(linear_gaussian, "DENSE_SIDE", 0)
    return request.param


class Units:
    """Draws that are zero but for one normal number a row: an affine draw shows its mean and its linear map."""

    def __init__(self, modes, data, rows):
        self.counts, self.rows = (modes, data), rows

    def normal(self, shape, dtype, *, step, index=0):
        assert step == 0
        real = torch.zeros(1 + sum(self.counts), self.counts[index], dtype=F64)
        real[1 + index * self.counts[0] :][: self.counts[index]] = torch.eye(self.counts[index], dtype=F64)
        z = real[self.rows]
        return from_real(z, shape, dtype if dtype.is_complex else None)

    def take(self, rows):
        return Units(*self.counts, self.rows[rows])


def draw_law(posterior, item):
    """Exact mean and covariance of the draws of an item, over (pairs of) real numbers."""
    problem = posterior.problem
    modes = math.prod(posterior.law.modes.mode_shape) * (2 if problem.signal_dtype.is_complex else 1)
    data = math.prod(problem.operator.out_shape) * (2 if problem.data.is_complex() else 1)
    rows = torch.arange(1 + modes + data)
    x = posterior.take(torch.full((len(rows),), item)).draw(Units(modes, data, rows))
    x = pairs(x.flatten(1))
    F = (x[1:] - x[0]).mT
    return x[0], F @ F.mT


# --- moments ---------------------------------------------------------------------------------------------------------
@EVERY
def test_mean_is_the_dense_formula(case, form):
    posterior = case.posterior(tol=1e-12)
    assert isinstance(posterior.system, DenseSystem) == (form == "as chosen" and case in SHARED.values())
    assert posterior.mean.shape == (ITEMS, *case.shape)
    assert posterior.mean.dtype == case.prior.mean.dtype
    for item in range(ITEMS):
        assert torch.allclose(pairs(posterior.mean[item].flatten()), case.reference(item)[0], rtol=1e-9, atol=1e-9)


@EVERY
def test_draws_have_exactly_this_mean_and_covariance(case, form):
    posterior = case.posterior(tol=1e-12)
    for item in range(ITEMS):
        mean, covariance = draw_law(posterior, item)
        want = case.reference(item)
        assert torch.allclose(mean, want[0], rtol=1e-9, atol=1e-9)
        assert torch.allclose(covariance, want[1], rtol=1e-8, atol=1e-9)


@DENSE
def test_covariance_std_and_evidence_are_the_dense_formulas(case):
    posterior = case.posterior()
    assert posterior.log_evidence.shape == (ITEMS,)
    assert posterior.log_evidence.dtype == F64
    for item in range(ITEMS):
        _, covariance, evidence = case.reference(item)
        assert torch.allclose(posterior.covariance, covariance, rtol=1e-9, atol=1e-10)
        variance = covariance.diagonal()
        if case.kind == "complex":
            variance = variance.view(-1, 2).sum(1)
        assert posterior.std.shape == (len(posterior.mean), *case.shape)
        assert torch.allclose(posterior.std[0].flatten(), variance.sqrt(), rtol=1e-9)
        assert float(posterior.log_evidence[item]) == pytest.approx(evidence, rel=1e-9)


SAMPLED = ["fewer data", "complex, more data", "real signal, complex data", "mask", "operators", "noise"]


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_have_the_moments(name):
    case, n = ALL[name], 4000
    x = case.posterior().sample(n, seed=5)
    assert x.shape == (n, ITEMS, *case.shape)
    assert x.dtype == case.prior.mean.dtype
    for item in range(ITEMS):
        mean, C, _ = case.reference(item)
        r, sd = pairs(x[:, item].flatten(1)) - mean, C.diagonal().sqrt()
        assert bool((r.mean(0).abs() < 5 * sd / math.sqrt(n)).all())
        error = ((C**2 + torch.outer(sd, sd) ** 2) / n).sqrt()  # of a sample covariance
        assert bool(((r.mT @ r / n - C).abs() < 5 * error).all())


def test_singular_priors_and_units(form):
    """A prior of rank 2 whose diffusion noise has its own units: the posterior does not depend on those."""
    root = random(N, 2, seed=13)
    mean = random(N, seed=14)
    for units in (None, random(N, seed=15).exp()):
        prior = GaussianPrior(mean=mean, covariance=root @ root.mT, noise_scale=units)
        problem = Problem(Matrix(matrix=WIDE), random(1, 4, seed=16), noise=0.3)
        posterior = GaussianPosterior.from_problem(prior.law, problem, tol=1e-12)
        M = WIDE @ root  # coefficients z ~ N(0, 1): x = mean + root z
        precision = torch.eye(2, dtype=F64) + M.mT @ M / 0.09
        z = torch.linalg.solve(precision, M.mT @ (problem.data[0] - WIDE @ mean) / 0.09)
        assert torch.allclose(posterior.mean[0], mean + root @ z, rtol=1e-9, atol=1e-9)
        covariance = root @ torch.linalg.inv(precision) @ root.mT
        assert torch.allclose(draw_law(posterior, 0)[1], covariance, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("std", [1e-9, 1e-3, 1e9])
def test_from_the_constraint_to_the_prior(std):
    """Nearly exact data leave the covariance of the constraint, and none at all that of the prior."""
    K, y = spd(N, 2), random(1, 4, seed=3)
    prior = GaussianPrior(mean=torch.zeros(N, dtype=F64), covariance=K)
    posterior = prior.posterior(Matrix(matrix=WIDE), y, std)
    S = WIDE @ K @ WIDE.mT + std**2 * torch.eye(4, dtype=F64)
    gain = torch.linalg.solve(S, WIDE @ K).mT
    C = K - gain @ WIDE @ K
    assert torch.allclose(posterior.covariance, C, atol=1e-9)
    assert torch.allclose(posterior.mean[0], gain @ y[0], atol=1e-7)
    want = multivariate_normal(cov=S.numpy()).logpdf(y[0].numpy())
    assert float(posterior.log_evidence[0]) == pytest.approx(want, rel=1e-6)


def test_without_data_the_posterior_is_the_prior():
    prior = GaussianPrior(mean=random(N, seed=1), covariance=spd(N, 2))
    A = Subsample(index=torch.zeros(0, dtype=torch.int64), in_shape=(N,))
    posterior = prior.posterior(A, torch.zeros(2, 0, dtype=F64), 1.0)
    assert torch.equal(posterior.mean, prior.mean.expand(2, N))
    assert torch.allclose(posterior.covariance, prior.covariance)
    assert torch.equal(posterior.log_evidence, torch.zeros(2, dtype=F64))
    assert posterior.sample(3).shape == (3, 2, N)


def test_many_data_cost_only_the_smaller_side():
    """2^17 data of 2 numbers: nothing of the size of data squared (137 GB) is formed."""
    A = random(2**17, 2, seed=17)
    prior = GaussianPrior(mean=torch.zeros(2, dtype=F64), covariance=torch.eye(2, dtype=F64))
    y = A @ torch.tensor([1.0, -1.0], dtype=F64) + 0.5 * random(2**17, seed=18)
    posterior = prior.posterior(Matrix(matrix=A), y, 0.5)
    precision = torch.eye(2, dtype=F64) + 4 * A.mT @ A
    mean = torch.linalg.solve(precision, 4 * A.mT @ y)
    assert torch.allclose(posterior.mean[0], mean, rtol=1e-10)
    log_det = float(torch.logdet(precision)) + len(A) * math.log(0.25)
    size = float(4 * (y - A @ mean).square().sum() + mean.square().sum())
    want = -0.5 * (size + log_det + len(A) * math.log(2 * math.pi))
    assert float(posterior.log_evidence[0]) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", ["fewer data", "complex, more data", "mask", "operators"])
def test_float32_follows_float64(name):
    case = ALL[name]
    narrow = GaussianPosterior.from_problem(
        case.prior.to(dtype=torch.float32).law, case.problem.to(dtype=torch.float32)
    )
    wide = case.posterior()
    sd = case.reference(0)[1].diagonal().sqrt().min()
    assert narrow.mean.dtype == case.prior.to(dtype=torch.float32).mean.dtype
    assert float((narrow.mean - wide.mean).abs().max()) < 1e-3 * sd
    if isinstance(wide.system, DenseSystem):
        assert torch.allclose(narrow.std.double(), wide.std, rtol=1e-4)
        assert torch.allclose(narrow.log_evidence, wide.log_evidence, rtol=1e-4)


# --- dense and iterative agree to the tolerance of the solve ---------------------------------------------------------
@DENSE
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_the_error_of_an_iterative_mean_is_bounded_by_rtol(case, rtol, monkeypatch):
    """The system is ``I + K^H K >= I``: the modes are off by at most rtol |K^H w|, in units of their prior std."""
    exact = case.posterior()
    monkeypatch.setattr(linear_gaussian, "DENSE_SIDE", 0)
    rough = case.posterior(tol=rtol)
    assert isinstance(rough.system, IterativeSystem)
    white = exact.problem.whiten(case.y - case.operator(case.prior.mean.expand(ITEMS, *case.shape)))
    root = exact.law.variances.sqrt().repeat_interleave(2 if case.kind == "complex" else 1)
    side = (pairs(white.flatten(1)) @ exact.system.matrix * root).norm(dim=1)
    error = pairs((exact.mean - rough.mean).flatten(1)).norm(dim=1)
    assert bool((error <= rtol * float(root.max()) * side + 1e-12).all())


# --- keys and rows ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["fewer data", "complex, more data", "operators, noise"])
def test_sample_k_depends_on_seed_item_and_k_only(name):
    case = ALL[name]
    posterior = case.posterior(tol=1e-12)
    many, few = posterior.sample(5, seed=2), posterior.sample(2, seed=2)
    assert torch.allclose(many[:2], few, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(posterior.sample(1, seed=3), few[:1])
    assert not torch.allclose(few[0], few[1])
    alone = GaussianPosterior.from_problem(case.prior.law, case.problem.take(torch.tensor([0])), tol=1e-12)
    assert torch.allclose(alone.sample(2, seed=2), few[:, :1], rtol=1e-10, atol=1e-10)
    state = torch.get_rng_state()
    posterior.sample(1)
    assert torch.equal(torch.get_rng_state(), state)


@EVERY
def test_taken_rows_are_those_items(case, form):
    posterior = case.posterior(tol=1e-12)
    index = torch.tensor([2, 0, 2, 1])
    taken = posterior.take(index)
    assert torch.allclose(taken.mean, posterior.mean[index], rtol=1e-9, atol=1e-9)
    draws = Draws.for_rows(0, [7, 8, 9, 10], [0] * 4, torch.device("cpu"))
    want = torch.cat([posterior.take(index[r : r + 1]).draw(draws.take(torch.tensor([r]))) for r in range(4)])
    assert torch.allclose(taken.draw(draws), want, rtol=1e-10, atol=1e-10)
    again = taken.take(torch.tensor([3, 3]))
    assert torch.allclose(again.mean, posterior.mean[[1, 1]], rtol=1e-9, atol=1e-9)
    if isinstance(posterior.system, DenseSystem):
        assert torch.allclose(taken.log_evidence, posterior.log_evidence[index], rtol=1e-12)


def test_one_measurement_without_a_batch_axis():
    case = SHARED["fewer data"]
    posterior = case.prior.posterior(case.operator, case.y[0].numpy(), 0.3)
    assert posterior.mean.shape == (1, N)
    assert torch.allclose(posterior.mean[0], case.posterior().mean[0])
    assert posterior.sample(2).shape == (2, 1, N)


# --- refusals --------------------------------------------------------------------------------------------------------
class Square(Operator):
    in_shape = (N,)
    out_shape = (N,)

    def _apply(self, x):
        return x**2


class Flat(Noise):
    """A law that is not Gaussian."""

    def log_prob(self, y, clean, observed=None):
        return clean.flatten(1).sum(1)

    def grad(self, y, clean, observed=None):
        return clean

    def curvature(self, v, clean, observed=None):
        return v

    def sample(self, clean, draw, *, step=0, index=0):
        return clean

    def check(self, out_shape, batch, dtype, device):
        return self

    def take(self, index):
        return self


one = SHARED["fewer data"]
REFUSED = {
    "not linear": (
        lambda: one.prior.posterior(Square(), torch.ones(N, dtype=F64), 0.1),
        UnsupportedError,
        r"GaussianPrior.posterior: no closed-form posterior, because the operator Square is not a "
        r"LinearOperator. Use strategy='auto' or MMPS\(\)",
    ),
    "not Gaussian": (
        lambda: one.prior.posterior(one.operator, one.y, Flat()),
        UnsupportedError,
        r"no closed-form posterior, because the noise is Flat, not Gaussian",
    ),
    "data twice": (
        lambda: one.prior.posterior(one.problem, one.y),
        InputError,
        r"GaussianPrior.posterior: `y` must be left out when the first argument is a Problem, got Tensor",
    ),
    "noise twice": (
        lambda: one.prior.posterior(one.problem, noise=0.3),
        InputError,
        r"`noise` must be left out when the first argument is a Problem, got float",
    ),
    "covariance of iterative": (
        lambda: ITEMWISE["noise"].posterior().covariance,
        UnsupportedError,
        r"the covariance is too large to form, or differs from item to item. .* from draws",
    ),
    "evidence of iterative": (lambda: ITEMWISE["masks"].posterior().log_evidence, UnsupportedError, r"differs from it"),
    "n": (lambda: one.posterior().sample(0), InputError, r"GaussianPosterior: `n` must be at least 1, got 0"),
    "n float": (lambda: one.posterior().sample(1.5), InputTypeError, r"Posterior: `n` must be an integer, got float"),
    "seed": (lambda: one.posterior().sample(1, seed="a"), InputTypeError, r"`seed` must be an integer, got 'a'"),
    "big seed": (lambda: one.posterior().sample(1, seed=2**64), InputError, r"`seed` must be an integer of 64 bits"),
}


@pytest.mark.parametrize(("call", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_a_covariance_too_large_to_form_is_refused():
    prior = GaussianFieldPrior(shape=(8200,), spectrum=Matern(std=1.0, length=0.1, smoothness=1.5))
    A = Subsample(index=torch.tensor([10, 4000]), in_shape=(8200,))
    posterior = prior.posterior(A, np.zeros((1, 2)), 0.1)
    assert isinstance(posterior.system, DenseSystem)
    assert torch.isfinite(posterior.log_evidence).all()
    with pytest.raises(UnsupportedError, match=r"the covariance of 8200 values is too large to form. Use draws."):
        _ = posterior.covariance


def test_reasons():
    assert not_linear_gaussian(one.problem) == ""
    assert closed_form_problem("f", one.problem, None, None) is not None
    assert "LinearOperator" in not_linear_gaussian(Problem(Square(), torch.ones(N), noise=1.0))
