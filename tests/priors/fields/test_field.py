"""Gaussian fields against eigenfunctions written out here, dense formulas, closed-form spectra and known numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import gamma, kv
from scipy.stats import multivariate_normal
from torch import Tensor

import invsolve as iv
from invsolve.core.validation import Shape
from invsolve.errors import InputError, InputTypeError
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.operators.base import LinearOperator
from invsolve.priors.exact.gaussian import GaussianPrior
from invsolve.priors.fields.bases import grid_factor, laplace_eigenvalues, nodes
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.spectra import Matern, Spectrum
from invsolve.samplers import Heun, karras_grid
from invsolve.samplers.plan import Plan, SamplerState

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128
BASES = ("neumann", "dirichlet", "periodic")
EVERY_BASIS = pytest.mark.parametrize("basis", BASES)
ROWS = 3


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# --- a second program: eigenfunctions of -Laplace on a box, from their formulas ---------------------------------------
def axis_nodes(basis, n, L):
    i = np.arange(n)
    return {"neumann": (i + 0.5) * L / n, "dirichlet": (i + 1) * L / (n + 1), "periodic": i * L / n}[basis]


def axis_modes(basis, n, L, x):
    """Values ``(n, len(x))`` at ``x`` of the modes of an axis of n nodes, and their Laplace eigenvalues ``(n,)``."""
    rows, roots = [], []
    for j in range(n):
        if basis == "neumann":
            root = math.pi * j / L
            row = np.sqrt(2) * np.cos(root * x) if j else np.ones_like(x)
        elif basis == "dirichlet":
            root = math.pi * (j + 1) / L
            row = np.sqrt(2) * np.sin(root * x)
        else:
            k = (j + 1) // 2
            root = 2 * math.pi * k / L
            wave = np.cos(root * x) if j % 2 else np.sin(root * x)
            row = np.ones_like(x) if j == 0 else wave * (1 if 2 * k == n else np.sqrt(2))
        rows.append(row)
        roots.append(root)
    return np.array(rows), np.array(roots) ** 2


def modes_at(basis, shape, extent, points=None):
    """Modes ``(modes, points)`` and eigenvalues ``(modes,)``; points: a list of coordinates an axis, or the nodes."""
    each = [axis_modes(basis, n, L, axis_nodes(basis, n, L)) for n, L in zip(shape, extent, strict=True)]
    if points is not None:
        each = [axis_modes(basis, n, L, x) for n, L, x in zip(shape, extent, points, strict=True)]
    values, eigenvalues = np.ones((1, 1)), np.zeros(1)
    for rows, root in each:
        # Nodes of several axes form a grid; points given together belong together.
        values = np.kron(values, rows) if points is None else (values[:, None] * rows[None]).reshape(-1, rows.shape[1])
        eigenvalues = (eigenvalues[:, None] + root).reshape(-1)
    return torch.as_tensor(values), torch.as_tensor(eigenvalues)


def covariance_of(prior, spectrum):
    """``sum_k s_k phi_k phi_k^T`` at the nodes, over the flattened grid."""
    values, eigenvalues = modes_at(prior.basis, prior.shape, prior.extent)
    s = spectrum.double().flatten() if isinstance(spectrum, Tensor) else spectrum(eigenvalues)
    return values.mT @ (s[:, None] * values)


def power(eigenvalues):
    return 3.0 / (1 + 0.02 * eigenvalues) ** 1.5


def colour(eigenvalues):
    return 0.4 / (1 + 0.01 * eigenvalues)


def without_constant(eigenvalues):
    return torch.where(eigenvalues > 0, power(eigenvalues), 0.0)


GRIDS = {
    "odd": ((7,), (1.0,)),
    "even": ((6,), (2.5,)),
    "one entry": ((1,), (1.0,)),
    "two axes": ((3, 4), (0.5, 3.0)),
    "three axes": ((2, 1, 3), (1.0, 2.0, 0.7)),
    "long": ((300,), (9.0,)),
}
SMALL = {name: grid for name, grid in GRIDS.items() if name != "long"}


def make(basis="neumann", grid="two axes", *, kind="real", coloured=False, function=power, dtype=F64):
    shape, extent = GRIDS[grid]
    mean = random(*shape, dtype=dtype if kind == "real" else dtype.to_complex(), seed=1)
    return GaussianFieldPrior(
        shape=shape,
        extent=extent,
        basis=basis,
        spectrum=Spectrum(function),
        mean=mean,
        kind=kind,
        noise_spectrum=Spectrum(colour) if coloured else None,
    )


def points_of(prior, seed=2, rows=ROWS):
    return prior.mean + 3 * random(rows, *prior.shape, dtype=prior.mean.dtype, seed=seed)


def noise_of(prior):
    """The covariance of the diffusion noise of unit level."""
    n = math.prod(prior.shape)
    return torch.eye(n, dtype=F64) if prior.noise_spectrum is None else covariance_of(prior, colour)


PRIORS = {f"{basis}, {grid}": make(basis, grid) for basis, grid in product(BASES, SMALL)}
PRIORS |= {f"{basis}, {grid}, coloured": make(basis, grid, coloured=True) for basis, grid in product(BASES, SMALL)}
PRIORS |= {
    "complex": make(kind="complex"),
    "complex, coloured": make("periodic", kind="complex", coloured=True),
    "singular": make(function=without_constant),
    "singular, coloured": make("periodic", coloured=True, function=without_constant),
}
EVERY = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
FEW = {name: prior for name, prior in PRIORS.items() if "two axes" in name}
FEW |= {name: prior for name, prior in PRIORS.items() if name.startswith(("complex", "singular"))}
SOME = pytest.mark.parametrize("prior", FEW.values(), ids=FEW)


def dense(prior):
    return covariance_of(prior, prior.spectrum.function)


# --- the law ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("grid", GRIDS)
@EVERY_BASIS
def test_covariance_is_the_sum_over_eigenfunctions(basis, grid):
    prior = make(basis, grid)
    n = math.prod(prior.shape)
    eye = torch.eye(n, dtype=F64).view(n, *prior.shape)
    assert torch.allclose(prior._covariance(eye).flatten(1), dense(prior), atol=1e-11)
    marginal = prior.law.modes.marginal_variances(prior.law.variances)
    assert torch.allclose(marginal.flatten(), dense(prior).diagonal(), rtol=1e-11)
    if grid in SMALL:
        root = math.sqrt(float(torch.linalg.eigvalsh(dense(prior))[-1]))
        assert prior.scale == pytest.approx(root)
        assert prior.detail == pytest.approx(math.sqrt(float(dense(prior).diagonal().min())))


@pytest.mark.parametrize("grid", SMALL)
@EVERY_BASIS
def test_nodes_eigenvalues_and_norms(basis, grid):
    shape, extent = GRIDS[grid]
    values, eigenvalues = modes_at(basis, shape, extent)
    assert torch.allclose(laplace_eigenvalues(basis, shape, extent).flatten(), eigenvalues, rtol=1e-14)
    gram = values @ values.mT
    assert torch.allclose(gram, grid_factor(basis, shape) * torch.eye(len(values), dtype=F64), atol=1e-11)
    for n, L in zip(shape, extent, strict=True):
        assert np.allclose(nodes(basis, n, L).numpy(), axis_nodes(basis, n, L), rtol=1e-15)


@EVERY
def test_diffusion_noise_has_its_covariance(prior):
    n = math.prod(prior.shape)
    eye = torch.eye(n, dtype=prior.mean.dtype).view(n, *prior.shape)
    C = noise_of(prior).to(eye.dtype)
    root = prior.noise(eye).flatten(1)
    assert torch.allclose(root.mT @ root.conj(), C, atol=1e-12)
    assert torch.allclose(prior.noise_covariance(eye).flatten(1), C, atol=1e-12)


@EVERY
def test_modes_keep_their_contract(prior):
    modes, law = prior.law.modes, prior.law
    n = math.prod(prior.shape)
    eye = torch.eye(n, dtype=F64).view(n, *prior.shape)
    S = modes.synthesis(eye).flatten(1).mT
    assert torch.allclose(S @ S.mT, noise_of(prior), atol=1e-12)
    assert torch.allclose(S * law.variances.flatten() @ S.mT, dense(prior), atol=1e-11)
    x = points_of(prior)
    flat = x.flatten(1)
    inverse = torch.linalg.inv(S).to(x.dtype)
    assert torch.allclose(modes.analysis(x).flatten(1), flat @ inverse.mT, atol=1e-9)
    assert torch.allclose(modes.analysis_adjoint(x).flatten(1), flat @ inverse, atol=1e-9)
    assert torch.allclose(modes.adjoint(x).flatten(1), flat @ S.to(x.dtype), atol=1e-10)
    assert modes.log_det == pytest.approx(float(torch.linalg.slogdet(S).logabsdet), abs=1e-9)
    assert modes.orthonormal == (prior.noise_spectrum is None)
    variances = modes.marginal_variances(law.variances).flatten()
    assert torch.allclose(variances, dense(prior).diagonal() / noise_of(prior).diagonal(), rtol=1e-10)
    assert prior.detail == pytest.approx(math.sqrt(float(variances.min())))
    narrow = modes.to(dtype=F32)
    assert narrow.synthesis(eye.float()).dtype == F32
    assert torch.allclose(narrow.synthesis(eye.float()).flatten(1).mT.double(), S, atol=1e-5)


# --- denoiser --------------------------------------------------------------------------------------------------------
def levels(prior):
    shape = prior.shape
    one = [1] * len(shape)
    return {
        "number": 0.7,
        "0-d": torch.tensor(0.7, dtype=F64),
        "per row": torch.tensor([0.05, 0.7, 20.0], dtype=F64),
        "all axes, per row": torch.tensor([0.05, 0.7, 20.0], dtype=F64).view(-1, *one),
        "a map": random(1, *shape, seed=3).exp(),
        "a map per row": random(ROWS, *shape, seed=4).exp(),
        "along the last axis": random(1, *one[:-1], shape[-1], seed=5).exp(),
    }


def noise_at(prior, sigma, row):
    level = torch.as_tensor(sigma, dtype=F64)
    level = level.view(-1, *([1] * len(prior.shape))) if level.ndim == 1 else level
    level = level.expand(ROWS, *prior.shape)[row].flatten()
    return level[:, None] * noise_of(prior) * level


LEVELS = tuple(levels(PRIORS["complex"]))


@EVERY
@pytest.mark.parametrize("level", LEVELS)
def test_denoiser_is_the_dense_formula(prior, level):
    sigma, x, K = levels(prior)[level], points_of(prior), dense(prior)
    got = prior.denoise(x, sigma)
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    for row in range(ROWS):
        gain = torch.linalg.solve(K + noise_at(prior, sigma, row), K).mT.to(x.dtype)
        want = prior.mean.flatten() + gain @ (x[row] - prior.mean).flatten()
        assert torch.allclose(got[row].flatten(), want, rtol=1e-8, atol=1e-8)


@EVERY
@pytest.mark.parametrize("level", LEVELS)
def test_pullback_is_the_transposed_jacobian(prior, level):
    sigma, x, v = levels(prior)[level], points_of(prior), points_of(prior, seed=6)
    value, pull = prior.pullback(x, sigma)
    assert torch.allclose(value, prior.denoise(x, sigma), rtol=1e-10, atol=1e-10)
    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(prior._denoise(leaf, prior._check(leaf, sigma)), leaf, v)
    assert torch.allclose(pull(v), want, rtol=1e-8, atol=1e-8)
    assert not pull(v).requires_grad
    assert prior.cheap_pullback


@SOME
def test_tweedie_covariance(prior):
    """``t^2 C J^H = K - K (K + t^2 C)^-1 K``."""
    t, v, K = 0.7, points_of(prior, seed=7), dense(prior)
    _, pull = prior.pullback(points_of(prior), t)
    want = (K - K @ torch.linalg.solve(K + t**2 * noise_of(prior), K)).to(v.dtype)
    assert torch.allclose(t**2 * prior.noise_covariance(pull(v)).flatten(1), v.flatten(1) @ want, atol=1e-9)


@pytest.mark.parametrize("name", ["two axes", "even"])
@pytest.mark.parametrize("kind", ["real", "complex"])
@EVERY_BASIS
def test_the_same_as_a_dense_gaussian_prior(basis, kind, name):
    """Every public answer, for white noise; samples in law below."""
    prior = make(basis, name, kind=kind)
    other = GaussianPrior(mean=prior.mean, covariance=dense(prior))
    x = points_of(prior)
    assert torch.allclose(prior.denoise(x, 0.3), other.denoise(x, 0.3), atol=1e-10)
    assert torch.allclose(prior.log_prob(x), other.log_prob(x), rtol=1e-9)
    assert torch.allclose(prior.log_prob(x, 0.3), other.log_prob(x, 0.3), rtol=1e-9)
    assert (prior.scale, prior.detail) == (pytest.approx(other.scale), pytest.approx(other.detail))
    assert (prior.kind, prior.dtype, prior.shape) == (other.kind, other.dtype, other.shape)
    assert prior.exact_law
    A = iv.operators.Mask(mask=torch.arange(math.prod(prior.shape)).view(prior.shape) % 2 == 0)
    if kind == "complex":
        A = replace(A, kind="complex")
    y = A(x)
    mine, theirs = prior.posterior(A, y, 0.1), other.posterior(A, y, 0.1)
    assert torch.allclose(mine.mean, theirs.mean, atol=1e-9)
    assert torch.allclose(mine.std, theirs.std, atol=1e-9)
    assert torch.allclose(mine.log_evidence, theirs.log_evidence, rtol=1e-9)


# --- density and samples ---------------------------------------------------------------------------------------------
@EVERY
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_log_prob_is_that_of_scipy(prior, sigma):
    x = prior.sample(ROWS, seed=9)
    law = multivariate_normal(cov=(dense(prior) + sigma**2 * noise_of(prior)).numpy(), allow_singular=True)
    r = (x - prior.mean).flatten(1)
    parts = [r.real, r.imag] if r.is_complex() else [r]
    want = np.sum([np.atleast_1d(law.logpdf(part.numpy())) for part in parts], 0)
    got = prior.log_prob(x, sigma)
    assert got.dtype == F64
    assert np.allclose(got.numpy(), want, rtol=1e-8)


@SOME
def test_samples_have_the_moments_of_the_law(prior):
    n, K = 20_000, dense(prior)
    x = prior.sample(n, seed=3)
    assert (x.shape, x.dtype) == ((n, *prior.shape), prior.mean.dtype)
    x = (x - prior.mean).flatten(1)
    parts = [x.real, x.imag] if x.is_complex() else [x]
    sd = K.diagonal().sqrt()
    error = ((K**2 + torch.outer(sd, sd) ** 2) / n).sqrt()
    for part in parts:
        assert bool((part.mean(0).abs() < 5 * sd / math.sqrt(n)).all())
        assert bool(((part.mT @ part / n - K).abs() < 5 * error).all())
    if x.is_complex():
        assert bool(((parts[0].mT @ parts[1] / n).abs() < 5 * torch.outer(sd, sd) / math.sqrt(n)).all())


def test_sample_k_depends_on_the_seed_and_k_only():
    prior = make(coloured=True)
    assert torch.allclose(prior.sample(5, seed=1)[:2], prior.sample(2, seed=1), rtol=1e-12, atol=1e-12)
    assert not torch.equal(prior.sample(2, seed=0), prior.sample(2, seed=1))


# --- solving with coloured noise: exact for every covariance ----------------------------------------------------------
@dataclass(frozen=True)
class Impulses:
    """Row 0 draws zeros; every other row one 1, in one entry of one step: an affine method shows mean and noise."""

    which: Tensor  # (rows, 2): step and entry

    def normal(self, shape: Shape, dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        parts = 2 if dtype.is_complex else 1
        z = torch.zeros(len(self.which), parts * math.prod(shape), dtype=torch.empty(0, dtype=dtype).real.dtype)
        here = (self.which[:, 0] == step).nonzero()[:, 0]
        assert index == 0  # one draw a step, or the impulse would come twice
        z[here, self.which[here, 1]] = 1.0
        z = torch.complex(*z.tensor_split(2, 1)) if dtype.is_complex else z
        return z.view(-1, *shape)

    def take(self, rows: Tensor) -> Impulses:
        return Impulses(self.which[rows])


@pytest.mark.parametrize("covariance", ["law", "jacobian"])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_solve_samples_the_dense_posterior(kind, covariance):
    """Mean and covariance of the strategy by exact propagation: within its own error of 1 % of a standard deviation."""
    prior = make("neumann", "two axes" if kind == "real" else "even", kind=kind, coloured=True)
    n = math.prod(prior.shape)
    matrix = random(3, n, dtype=prior.mean.dtype, seed=11)
    A = iv.operators.Matrix(matrix=matrix)
    if len(prior.shape) > 1:
        A = iv.operators.from_callable(
            lambda x: x.flatten(1) @ matrix.mT,
            prior.shape,
            (3,),
            kind="linear",
            dtype=F64,
            adjoint=lambda y: (y @ matrix).view(-1, *prior.shape),
        )
    y, std = random(3, dtype=prior.mean.dtype, seed=12), 0.3
    strategy = iv.strategies.MMPS(covariance=covariance, rtol=1e-10)
    parts = 2 if kind == "complex" else 1
    which = [(-5, 0), *product(range(strategy.num_steps + 1), range(parts * n))]
    result = iv.solve(
        A,
        y,
        prior,
        noise=std,
        strategy=strategy,
        num_samples=len(which),
        draws=lambda items, samples: Impulses(torch.tensor([which[k] for k in samples])),
    )
    x = result.samples.flatten(1)
    apart = x[1:] - x[0]
    if kind == "complex":
        apart = torch.cat([apart.real, apart.imag], 1)
    K = dense(prior).to(matrix.dtype)
    gain = K @ matrix.mH @ torch.linalg.inv(matrix @ K @ matrix.mH + std**2 * torch.eye(3, dtype=matrix.dtype))
    mean = prior.mean.flatten() + gain @ (y - matrix @ prior.mean.flatten())
    P = K - gain @ matrix @ K
    if kind == "complex":
        P = torch.cat([torch.cat([P.real, -P.imag], 1), torch.cat([P.imag, P.real], 1)])
    sd = P.diagonal().sqrt()
    assert float(((x[0] - mean).abs() / sd[:n]).max()) < 0.01
    got = apart.mT @ apart
    assert float(((got - P).abs() / torch.outer(sd, sd)).max()) < 0.02  # twice that of a standard deviation


@pytest.mark.parametrize(("steps", "low", "high"), [(20, 0.08, 0.20), (50, 0.01, 0.024), (200, 0.0, 0.002)])
def test_heun_loses_the_variance_of_separate_code(steps, low, high):
    """16 x 16 modes, grid 80 -> 0.002 of EDM (arXiv 2206.00364, eq. 5); the flow is linear, mode by mode."""
    total = float((math.pi**2 * _index_square(16) + 100).pow(-1.5).sum())
    prior = GaussianFieldPrior(
        shape=(16, 16),
        spectrum=Spectrum(_decaying),
        dtype=F64,
        noise_spectrum=Spectrum(lambda k2: (k2 + 100) ** -1.5 / total),
    )
    modes, law = prior.law.modes, prior.law
    plan = Plan.make(Heun(), karras_grid(80.0, 0.002, steps).double())
    state = SamplerState(x=modes.synthesis((law.variances + 80.0**2).sqrt()[None]))
    for i in range(plan.num_steps):
        state = plan.step(prior.denoise, state, i, prior.noise)
    on = law.variances > 0
    error = (modes.analysis(state.x)[0][on].square() / law.variances[on] - 1).abs()
    assert low <= float(error.max()) <= high


# --- figures that separate code gave, in coefficients and without a grid ----------------------------------------------
def _index_square(n):
    k = torch.arange(n, dtype=F64) ** 2
    return k[:, None] + k


def _decaying(k2):
    return torch.where(k2 > 0, 9 * (k2 + 9) ** -2, 0.0)


def mean_variance(prior):
    """Averaged over the box, by the quadrature in which the eigenfunctions are orthogonal."""
    marginal = prior.law.modes.marginal_variances(prior.law.variances)
    return float(marginal.sum() / grid_factor(prior.basis, prior.shape))


@pytest.mark.parametrize(("n", "std"), [(128, 0.292078), (64, 0.292058)])
def test_neumann_std_of_separate_code(n, std):
    prior = GaussianFieldPrior(shape=(n, n), spectrum=Spectrum(_decaying), dtype=F64)
    assert math.sqrt(mean_variance(prior)) == pytest.approx(std, abs=5e-7)
    # The pointwise variance is another thing: from 0.026 to 0.218, in the corners, by the sum written out.
    marginal = prior.law.modes.marginal_variances(prior.law.variances)
    k = torch.arange(n, dtype=F64)
    square = torch.where(k == 0, 1.0, 2 * torch.cos(math.pi * k * 0.5 / n) ** 2)
    corner = float((_decaying(math.pi**2 * _index_square(n)) * square * square[:, None]).sum())
    assert float(marginal[0, 0]) == pytest.approx(corner, rel=1e-12)
    assert float(marginal.max()) == pytest.approx(corner, rel=1e-12)
    assert round(float(marginal.min()), 3) == 0.026


def test_periodic_std_of_separate_code():
    prior = GaussianFieldPrior(
        shape=(128, 128),
        basis="periodic",
        dtype=F64,
        spectrum=Spectrum(lambda k2: 2 * 7**3 * (k2 + 49) ** -2.5 * (k2 > 0)),
    )
    marginal = prior.law.modes.marginal_variances(prior.law.variances)
    assert math.sqrt(float(marginal.mean())) == pytest.approx(0.261959, abs=5e-7)
    assert float(marginal.max() / marginal.min()) == pytest.approx(1, abs=1e-12)  # stationary


def low_modes(modes, n):
    """The modes x modes first cosines of the unit square at the cells of an n x n grid, ``(modes^2, n^2)``."""
    rows, _ = axis_modes("neumann", modes, 1.0, axis_nodes("neumann", n, 1.0))
    return torch.as_tensor(np.kron(rows, rows))


class Sensors(LinearOperator):
    """Point values of a Neumann field by its own cosines, on the grid that it is given on."""

    def __init__(self, shape, points, modes=16):
        values, _ = modes_at("neumann", (modes, modes), (1.0, 1.0), points)
        self.matrix = values.mT @ low_modes(modes, shape[0]) / math.prod(shape)
        self.in_shape, self.out_shape = shape, (values.shape[1],)

    def _apply(self, x):
        return x.flatten(1) @ self.matrix.mT

    def _adjoint(self, y):
        return (y @ self.matrix).view(-1, *self.in_shape)


def test_posterior_does_not_depend_on_the_grid():
    """16 x 16 modes, 20 points, noise 0.02; mean and spread on 32^2, 64^2 and 128^2 to 1e-5."""
    points = torch.rand(2, 20, dtype=F64, generator=torch.Generator().manual_seed(5)).numpy()
    k2 = math.pi**2 * _index_square(16)
    coarse = GaussianFieldPrior(shape=(16, 16), spectrum=_decaying(k2), dtype=F64)
    truth = coarse.sample(1, seed=1)
    y = Sensors((16, 16), points)(truth) + 0.02 * random(1, 20, seed=2)
    values, _ = modes_at("neumann", (16, 16), (1.0, 1.0), points)
    H, s = values.mT, _decaying(k2).flatten()
    gain = (s[:, None] * H.mT) @ torch.linalg.inv(H * s @ H.mT + 0.02**2 * torch.eye(20, dtype=F64))
    want_mean = float((gain @ y[0]).norm())  # Parseval: the L2 norm over the square
    want_variance = float(s.sum() - (gain * (s[:, None] * H.mT)).sum())
    spreads = []
    for n in (32, 64, 128):
        prior = coarse.on((n, n))
        A = Sensors((n, n), points)
        cross = prior._covariance(A.adjoint(torch.eye(20, dtype=F64)))  # (20, n, n): K H^T
        columns = torch.linalg.solve(A(cross) + 0.02**2 * torch.eye(20, dtype=F64), cross.flatten(1)).view_as(cross)
        mean = torch.tensordot(y[0], columns, 1)
        if n < 128:  # whose dense system takes ten seconds
            assert torch.allclose(prior.posterior(A, y, 0.02).mean[0], mean, atol=1e-9)
        assert float(mean.square().mean().sqrt()) == pytest.approx(want_mean, rel=1e-9)
        variances = prior.law.modes.marginal_variances(prior.law.variances)
        variances = variances - (columns * cross).sum(0)
        assert float(variances.mean()) == pytest.approx(want_variance, rel=1e-9)
        spreads.append(float(variances.sqrt().mean()))
    assert max(spreads) - min(spreads) < 1e-5
    P = torch.diag(s) - gain @ (s[:, None] * H.mT).mT
    cosines = low_modes(16, 64)
    want_spread = float(((P @ cosines) * cosines).sum(0).sqrt().mean())
    assert spreads[1] == pytest.approx(want_spread, rel=1e-9)


# --- other grids -----------------------------------------------------------------------------------------------------
@EVERY_BASIS
def test_a_field_on_a_coarse_grid_is_the_truncation_of_that_on_a_fine_one(basis):
    """Modes that both grids have keep their variance; the field of the same numbers is the same at common points."""
    fine_n, coarse_n, stride = {"neumann": (96, 32, 3), "dirichlet": (65, 32, 2), "periodic": (99, 33, 3)}[basis]
    fine = GaussianFieldPrior(shape=(fine_n, fine_n), basis=basis, dtype=F64, spectrum=Matern(std=2.0, length=0.3))
    coarse = fine.on((coarse_n, coarse_n))
    assert (coarse.shape, coarse.spectrum, coarse.extent) == ((coarse_n, coarse_n), fine.spectrum, fine.extent)
    ratio = grid_factor(basis, fine.shape) / grid_factor(basis, coarse.shape)
    kept = fine.law.variances[:coarse_n, :coarse_n]
    assert torch.allclose(kept, coarse.law.variances * ratio, rtol=1e-12)
    xi = torch.zeros(1, fine_n, fine_n, dtype=F64)
    xi[:, :coarse_n, :coarse_n] = random(1, coarse_n, coarse_n)
    first = 1 if basis != "periodic" else 0  # nodes of the fine grid that are nodes of the coarse one
    common = fine.law.sample(xi)[:, first::stride, first::stride]
    assert common.shape == (1, coarse_n, coarse_n)
    assert torch.allclose(common, coarse.law.sample(xi[:, :coarse_n, :coarse_n]), atol=1e-12)
    back = coarse.on(fine.shape)
    assert torch.equal(back.law.variances, fine.law.variances)


@EVERY_BASIS
@pytest.mark.parametrize(("here", "there"), [((5, 4), (8, 9)), ((8, 8), (4, 3)), ((4, 6), (8, 3)), ((3, 1), (6, 2))])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_tensors_are_cut_or_padded_in_mode_space(basis, here, there, kind):
    """The mean on another grid is its own interpolant there, and the covariance that of the interpolated field."""
    extent = (1.0, 2.0)
    dtype = F64 if kind == "real" else C128
    prior = GaussianFieldPrior(
        shape=here,
        extent=extent,
        basis=basis,
        spectrum=random(*here).exp(),
        kind=kind,
        mean=random(*here, dtype=dtype, seed=1),
        noise_spectrum=Spectrum(colour),
    )
    other = prior.on(there)
    values, _ = modes_at(basis, here, extent)
    points = [axis_nodes(basis, n, L) for n, L in zip(there, extent, strict=True)]
    each = [axis_modes(basis, n, L, x)[0] for n, L, x in zip(here, extent, points, strict=True)]
    # A grid cannot hold modes beyond its own, nor the sine of its Nyquist frequency.
    kept = [np.where(np.arange(len(rows))[:, None] < m, rows, 0.0) for rows, m in zip(each, there, strict=True)]
    at = torch.as_tensor(np.kron(kept[0], kept[1]))
    u = values.to(dtype) @ prior.mean.flatten() / grid_factor(basis, here)
    assert torch.allclose(other.mean.flatten(), u @ at.to(dtype), atol=1e-12)
    eye = torch.eye(math.prod(there), dtype=F64).to(dtype).view(-1, *there)
    want = at.mT @ (prior.spectrum.flatten()[:, None] * at)
    assert torch.allclose(other._covariance(eye).flatten(1), want.to(dtype), atol=1e-11)
    assert isinstance(other.spectrum, Tensor)
    if all(a <= b for a, b in zip(here, there, strict=True)):
        again = other.on(here)
        assert torch.allclose(again.mean, prior.mean, atol=1e-12)
        assert torch.allclose(again.law.variances, prior.law.variances, rtol=1e-12)


def test_constant_means_stay_constant():
    for mean in (15.0, torch.full((4,), 15.0)):
        other = GaussianFieldPrior(shape=(4,), basis="dirichlet", spectrum=Spectrum(power), mean=mean).on((7,))
        assert torch.equal(other.mean, torch.full((7,), 15.0))


def test_noise_given_as_a_tensor_is_resized():
    prior = GaussianFieldPrior(shape=(8,), spectrum=Spectrum(power), noise_spectrum=random(8).exp(), dtype=F64)
    assert torch.equal(prior.on((5,)).noise_spectrum, prior.noise_spectrum[:5])
    with pytest.raises(InputError, match="`noise_spectrum` must be positive for every mode, got 0.0. Give a function"):
        prior.on((9,))


# --- spectra ---------------------------------------------------------------------------------------------------------
def matern(nu, r):
    r = np.where(r == 0, 1e-12, r)
    return 2 ** (1 - nu) / gamma(nu) * r**nu * kv(nu, r)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
@EVERY_BASIS
def test_matern_correlation_on_a_long_line(basis, nu):
    """Away from the walls it is the closed form, up to the modes beyond the grid: what they lack bounds the error."""
    n, length, L = 4095, 1.0, 30.0
    prior = GaussianFieldPrior(
        shape=(n,), extent=(L,), basis=basis, dtype=F64, spectrum=Matern(std=1.0, length=length, smoothness=nu)
    )
    kappa = math.sqrt(8 * nu) / length
    unit = torch.zeros(1, n, dtype=F64)
    middle = n // 2
    unit[0, middle] = 1.0
    row = prior._covariance(unit)[0, middle : middle + 300].numpy()
    x = axis_nodes(basis, n, L)
    want = matern(nu, kappa * (x[middle : middle + 300] - x[middle]))
    missing = 1 - row[0]
    assert -1e-10 <= missing < 0.02
    assert np.abs(row - want).max() < 2 * missing + 1e-10


def test_matern_correlation_on_a_wide_square():
    nu, length, L, n = 2.5, 1.0, 8.0, 192
    prior = GaussianFieldPrior(
        shape=(n, n), extent=(L, L), basis="periodic", dtype=F64, spectrum=Matern(std=3.0, length=length, smoothness=nu)
    )
    unit = torch.zeros(1, n, n, dtype=F64)
    unit[0, 0, 0] = 1.0
    half = n // 4
    C = prior._covariance(unit)[0, :half, :half].numpy() / 9.0
    h = np.arange(half) * L / n
    want = matern(nu, math.sqrt(8 * nu) / length * np.hypot(h[:, None], h))
    missing = 1 - mean_variance(prior) / 9.0
    images = 4 * matern(nu, np.array(math.sqrt(8 * nu) / length * 0.75 * L))  # the next copies of the periodic field
    assert missing < 1e-4
    assert np.abs(C - want).max() < missing + images
    # The length is where the correlation has fallen to about 0.14.
    assert C[round(length / (L / n)), 0] == pytest.approx(0.14, abs=0.01)


@pytest.mark.parametrize("extent", [(1.0,), (0.01,), (40.0,)])
def test_matern_sum_over_modes_is_the_closed_form(extent):
    """alpha = 1 on a line: hyperbolic cotangents."""
    (L,), nu, length, std = extent, 0.5, 0.7, 1.3
    a = math.sqrt(8 * nu) / length * L
    # At the centre of the box: sum over all integers of 1 / (1 + (2 pi k / a)^2), and over the odd ones of
    # 1 / (1 + (pi k / a)^2).
    every, odd = a / 2 / math.tanh(a / 2), a / 2 * math.tanh(a / 2)
    sums = {"neumann": every, "dirichlet": odd, "periodic": every}
    for basis, total in sums.items():
        eigenvalues = laplace_eigenvalues(basis, (5,), extent)
        want = std**2 / total / (1 + eigenvalues * (L / a) ** 2)
        got = Matern(std=std, length=length, smoothness=nu).variances(eigenvalues, basis, extent)
        assert torch.allclose(got, want, rtol=1e-10 if basis == "dirichlet" and L < 1 else 1e-12)


@pytest.mark.parametrize("nu", [0.02, 0.1, 0.5, 3.0, 60.0])
def test_matern_sum_of_rough_and_smooth_fields(nu):
    """A line of many lengths: at its centre sums are integrals, up to exp(-kappa L)."""
    L, length = 200.0, 1.0
    a = math.sqrt(8 * nu) / length * L
    integral = a / math.pi * math.sqrt(math.pi) / 2 * math.exp(math.lgamma(nu) - math.lgamma(nu + 0.5))
    zero = torch.zeros(1, dtype=F64)
    for basis in BASES:
        got = Matern(std=1.0, length=length, smoothness=nu).variances(zero, basis, (L,))
        assert float(got) == pytest.approx(1 / integral, rel=1e-10)


def std_of(prior):
    return prior.law.modes.marginal_variances(prior.law.variances).sqrt()


@pytest.mark.parametrize("extent", [(1.0, 0.4), (0.3, 2.0, 1.0), (0.02, 1.0)])
@EVERY_BASIS
def test_std_at_the_centre_is_that_of_the_matern(basis, extent):
    """On a grid with a node there, smooth enough that the modes beyond it do not count; on a torus it is so anywhere."""
    shape = tuple(2 * round(15 * L / min(extent)) + 1 for L in extent)  # nodes of one spacing, about
    spectrum = Matern(std=1.5, length=0.9, smoothness=5.0)
    std = std_of(GaussianFieldPrior(shape=shape, spectrum=spectrum, basis=basis, extent=extent, dtype=F64))
    assert float(std[tuple(n // 2 for n in shape)]) == pytest.approx(1.5, rel=1e-8)
    if basis == "periodic":
        assert torch.allclose(std, torch.full_like(std, 1.5), rtol=1e-8, atol=0)


@pytest.mark.parametrize("nu", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("dim", [1, 2])
@EVERY_BASIS
def test_std_in_the_interior_and_at_the_walls(basis, dim, nu):
    """The reflected field of a wall at distance r has the correlation at 2 r: 1 % from one length on, all of it there.

    Between them the modes that the grid lacks are allowed for: what is missing at the centre.
    """
    n, length = (1001, 0.1) if dim == 1 else (129, 0.3)
    prior = GaussianFieldPrior((n,) * dim, Matern(std=1.5, length=length, smoothness=nu), basis=basis, dtype=F64)
    std = std_of(prior)
    missing = 1 - float(std[(n // 2,) * dim]) / 1.5
    assert -1e-6 <= missing < 0.03
    inner = std[(slice(math.ceil(length * n), -math.ceil(length * n)),) * dim]
    assert float((inner / (1.5 * (1 - missing)) - 1).abs().max()) < 0.01 * dim
    corner = {"neumann": 2 ** (dim / 2), "dirichlet": 0.0, "periodic": 1.0}[basis]
    # The first node is half a cell from the wall (a whole one for Dirichlet), where rough fields fall off already.
    kappa = math.sqrt(8 * nu) / length
    reach = 1 if basis == "dirichlet" else 0.5
    away = 1 - float(matern(nu, np.array(2 * reach * kappa / n)))
    assert float(std[(0,) * dim]) / 1.5 == pytest.approx(corner, abs=0.05 + 2 * math.sqrt(away))


def test_std_of_a_square_is_stated_at_its_centre():
    """And not averaged over it, which is less in the middle."""
    std = std_of(GaussianFieldPrior((65, 65), Matern(std=1.5, length=0.2), dtype=F64))
    assert float(std[32, 32]) == pytest.approx(1.5, rel=1e-3)
    assert float(std[32, 0]) == pytest.approx(1.5 * math.sqrt(2), rel=0.02)


def test_units_of_length_do_not_matter():
    """Kilometres or metres: the law on the nodes is the same."""
    near = GaussianFieldPrior(shape=(6, 9), extent=(1.0, 1.5), spectrum=Matern(std=2.0, length=0.3), dtype=F64)
    far = GaussianFieldPrior(shape=(6, 9), extent=(1000, 1500), spectrum=Matern(std=2.0, length=300.0), dtype=F64)
    assert torch.allclose(near.law.variances, far.law.variances, rtol=1e-12)
    assert far.extent == (1000.0, 1500.0)
    square = GaussianFieldPrior(shape=(6, 9), spectrum=Matern(std=2.0, length=0.3), dtype=F64)
    assert square.extent == (1.0, 1.0)
    assert not torch.allclose(square.law.variances, near.law.variances)


def test_smoother_fields_have_less_in_their_last_modes():
    last = [
        float(
            GaussianFieldPrior(
                shape=(64,), spectrum=Matern(std=1.0, length=0.2, smoothness=nu), dtype=F64
            ).law.variances[-1]
        )
        for nu in (0.5, 1.5, 2.5)
    ]
    assert last[0] > 10 * last[1] > 100 * last[2]


@EVERY_BASIS
def test_free_spectra_function_and_tensor_agree(basis):
    function = make(basis)
    k2 = laplace_eigenvalues(basis, function.shape, function.extent)
    tensor = replace(function, spectrum=power(k2))
    assert torch.equal(tensor.law.variances, function.law.variances)
    whole = replace(function, spectrum=torch.ones(function.shape, dtype=torch.int64))
    assert torch.allclose(
        whole.law.variances, torch.full(function.shape, float(grid_factor(basis, function.shape)), dtype=F64)
    )


# --- precision, kinds, fingerprints ------------------------------------------------------------------------------------
@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_cast(kind, coloured):
    """float32 follows float64, and a cast evaluates the spectra anew: nothing rounded comes back."""
    wide = make(kind=kind, coloured=coloured)
    narrow = wide.to(dtype=F32)
    assert (narrow.dtype, narrow.mean.dtype) == (F32, F32 if kind == "real" else C64)
    x = points_of(wide).to(narrow.mean.dtype)
    for sigma in (0.5, random(1, *wide.shape).exp()):
        want = wide.denoise(x.to(wide.mean.dtype), sigma)
        got = narrow.denoise(x, sigma if isinstance(sigma, float) else sigma.float())
        assert got.dtype == x.dtype
        assert torch.allclose(got.to(want.dtype), want, atol=2e-5)  # signals of size 10
    back = narrow.to(dtype=F64)
    assert torch.equal(back.law.variances, wide.law.variances)
    assert narrow.sample(2).dtype == narrow.mean.dtype
    assert wide.to("cpu").dtype == F64
    assert torch.allclose(narrow.log_prob(x).double(), wide.log_prob(x.to(wide.mean.dtype)), rtol=1e-4)


def test_defaults():
    prior = GaussianFieldPrior(shape=[4, 3], spectrum=Matern(std=1.0, length=0.5))
    assert (prior.shape, prior.extent, prior.dtype, prior.kind, prior.basis) == (
        (4, 3),
        (1.0, 1.0),
        F32,
        "real",
        "neumann",
    )
    assert torch.equal(prior.mean, torch.zeros(4, 3))
    assert isinstance(prior.law.modes, SpectralModes)
    assert repr(prior).startswith("GaussianFieldPrior(shape=(4, 3), real, scale=")
    x = random(2, 4, 3, dtype=F32)
    assert prior.noise(x) is x


def test_means():
    spectrum = Matern(std=1.0, length=0.5)
    assert torch.equal(GaussianFieldPrior(shape=(3,), spectrum=spectrum, mean=2).mean, torch.full((3,), 2.0))
    assert GaussianFieldPrior(shape=(3,), spectrum=spectrum, mean=torch.ones(3, dtype=F64)).dtype == F64
    mixed = GaussianFieldPrior(shape=(3,), spectrum=spectrum, mean=1 + 2j, kind="complex")
    assert torch.equal(mixed.mean, torch.full((3,), 1 + 2j))
    widened = GaussianFieldPrior(shape=(3,), spectrum=spectrum, mean=torch.ones(3), kind="complex")
    assert (widened.mean.dtype, widened.kind, widened.dtype) == (C64, "complex", F32)


def test_fingerprint():
    def prior(**changes):
        given = {"shape": (4, 4), "spectrum": Matern(std=1.0, length=0.5), **changes}
        return GaussianFieldPrior(**given).fingerprint()

    prints = [
        prior(),
        prior(shape=(4, 5)),
        prior(spectrum=Matern(std=1.0, length=0.6)),
        prior(basis="periodic"),
        prior(spectrum=Spectrum(power)),
        prior(spectrum=Spectrum(colour)),
        prior(spectrum=torch.ones(4, 4)),
        prior(spectrum=2 * torch.ones(4, 4)),
        prior(mean=1.0),
        prior(kind="complex"),
        prior(extent=(1.0, 2.0)),
        prior(noise_spectrum=Spectrum(colour)),
        prior(dtype=F64),
    ]
    assert len(set(prints)) == len(prints)
    assert prior() == prints[0]
    assert prior(extent=(1, 1)) == prints[0]


# --- refusals --------------------------------------------------------------------------------------------------------
def build(**changes):
    return GaussianFieldPrior(**{"shape": (4,), "spectrum": Matern(std=1.0, length=0.5), **changes})


ONES = torch.ones(4)
REFUSED = {
    "no axes": (lambda: build(shape=()), InputError, r"`shape` must be of 1 to 3 axes, got \(\)"),
    "four axes": (lambda: build(shape=(2, 2, 2, 2)), InputError, "`shape` must be of 1 to 3 axes"),
    "empty axis": (lambda: build(shape=(0,)), InputError, r"`shape\[0\]` must be at least 1"),
    "shape a number": (lambda: build(shape=4), InputTypeError, "`shape` must be a tuple of integers"),
    "basis": (lambda: build(basis="cosine"), InputError, "`basis` must be one of 'neumann', 'dirichlet', 'periodic'"),
    "kind": (lambda: build(kind="imaginary"), InputError, "`kind` must be one of 'real', 'complex'"),
    "extent a number": (
        lambda: build(extent=2.0),
        InputTypeError,
        r"`extent` must be a tuple.*One for each axis: \(2.0",
    ),
    "extent 0-d": (lambda: build(extent=torch.tensor(2.0)), InputTypeError, "`extent` must be a tuple of lengths"),
    "extent a string": (lambda: build(extent="1"), InputTypeError, "`extent` must be a tuple of lengths"),
    "extent zero": (lambda: build(extent=(0.0,)), InputError, r"`extent\[0\]` must be positive, got 0.0"),
    "extent too long": (
        lambda: build(extent=(1.0, 2.0)),
        InputError,
        "`extent` must be of 1 lengths, one for each axis",
    ),
    "dtype": (lambda: build(dtype=torch.float16), InputTypeError, "`dtype` must be torch.float32 or torch.float64"),
    "dtype a string": (
        lambda: build(dtype="float32"),
        InputTypeError,
        "`dtype` must be torch.float32 or torch.float64",
    ),
    "mean half": (lambda: build(mean=ONES.half()), InputTypeError, "`mean` must be of single or double precision"),
    "mean complex": (lambda: build(mean=1j * ONES), InputTypeError, "`mean` must be real for kind='real'"),
    "mean a complex number": (lambda: build(mean=1j), InputTypeError, "`mean` must be a real number"),
    "mean shape": (
        lambda: build(mean=torch.ones(3)),
        InputError,
        r"`mean` must be a number, or of shape \(4,\), got \(3,\)",
    ),
    "mean NaN": (lambda: build(mean=float("nan")), InputError, "`mean` must be finite"),
    "mean NaN inside": (lambda: build(mean=ONES * float("nan")), InputError, "`mean` must be finite, got 4 NaN"),
    "mean complex infinite": (lambda: build(mean=complex("inf"), kind="complex"), InputError, "`mean` must be finite"),
    "spectrum a name": (
        lambda: build(spectrum="matern"),
        InputTypeError,
        "`spectrum` must be a Matern, a Spectrum or a",
    ),
    "spectrum shape": (
        lambda: build(spectrum=torch.ones(3)),
        InputError,
        r"`spectrum` must be of shape \(4,\), a variance",
    ),
    "spectrum complex": (
        lambda: build(spectrum=1j * ONES),
        InputTypeError,
        "`spectrum` must be real, got torch.complex64",
    ),
    "spectrum NaN": (lambda: build(spectrum=ONES * float("nan")), InputError, "`spectrum` must be finite"),
    "spectrum infinite": (lambda: build(spectrum=Spectrum(lambda k2: 1 / k2)), InputError, "`spectrum` must be finite"),
    "spectrum negative": (lambda: build(spectrum=-ONES), InputError, "`spectrum` must be non-negative, got -1.0"),
    "spectrum zero": (lambda: build(spectrum=0 * ONES), InputError, "`spectrum` must be positive for some mode"),
    "spectrum underflows": (
        lambda: build(spectrum=Matern(std=1e-25, length=1.0)),
        InputError,
        "`spectrum` must be positive for some mode, got zero.*underflow torch.float32",
    ),
    "spectrum overflows": (
        lambda: build(spectrum=Matern(std=1e25, length=1.0)),
        InputError,
        "`spectrum` must be within the range of torch.float32 for every mode",
    ),
    "noise negative": (lambda: build(noise_spectrum=-ONES), InputError, "`noise_spectrum` must be non-negative"),
    "noise zero": (
        lambda: build(noise_spectrum=Spectrum(lambda k2: (k2 > 0).double())),
        InputError,
        "`noise_spectrum` must be positive for every mode",
    ),
    "noise shape": (
        lambda: build(noise_spectrum=torch.ones(5)),
        InputError,
        r"`noise_spectrum` must be of shape \(4,\)",
    ),
    "noise too smooth": (
        lambda: build(noise_spectrum=Spectrum(lambda k2: torch.exp(-3 * k2))),
        InputError,
        "`noise_spectrum` must be within the range of torch.float32.*no smoother than the spectrum",
    ),
    "noise far below": (
        lambda: build(spectrum=1e10 * ONES, noise_spectrum=1e-30 * ONES),
        InputError,
        "`spectrum` must be within the range of torch.float32, divided by the noise_spectrum,",
    ),
    "function no function": (lambda: Spectrum(3), InputTypeError, "`function` must be a function of the Laplace eigen"),
    "function a number": (
        lambda: build(spectrum=Spectrum(lambda k2: 1.0)),
        InputError,
        r"`function` must be a map to a tensor of the same shape, \(4,\), got 1.0",
    ),
    "function shape": (
        lambda: build(spectrum=Spectrum(lambda k2: k2.sum())),
        InputError,
        r"same shape, \(4,\), got \(\)",
    ),
    "function complex": (
        lambda: build(spectrum=Spectrum(lambda k2: 1j * k2)),
        InputTypeError,
        "`function` must be a map to real values, got torch.complex128",
    ),
    "std": (lambda: Matern(std=0.0, length=1.0), InputError, "Matern: `std` must be positive, got 0.0"),
    "length": (lambda: Matern(std=1.0, length=-1.0), InputError, "Matern: `length` must be positive"),
    "smoothness": (
        lambda: Matern(std=1.0, length=1.0, smoothness=0),
        InputError,
        "Matern: `smoothness` must be positive",
    ),
    "on axes": (
        lambda: build().on((4, 4)),
        InputError,
        r"GaussianFieldPrior.on: `shape` must be of 1 axes, got \(4, 4\)",
    ),
    "on a number": (
        lambda: build().on(4),
        InputTypeError,
        "GaussianFieldPrior.on: `shape` must be a tuple of integers",
    ),
    "to half": (lambda: build().to(dtype=torch.float16), InputTypeError, "must be of single or double precision"),
    "level": (lambda: build().denoise(torch.ones(1, 4), -1.0), InputError, "`sigma` must be positive"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
