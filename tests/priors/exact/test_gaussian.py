"""The Gaussian prior against dense formulas, autograd and scipy; the contract that it shares with every prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.gaussian.law import DenseModes, GaussianLaw
from invsolve.gaussian.posterior import GaussianPosterior
from invsolve.operators.mask import Mask
from invsolve.operators.matrix import Matrix
from invsolve.priors.base import Prior
from invsolve.priors.exact.gaussian import GaussianPrior
from invsolve.problem import Problem

F64, C128 = torch.float64, torch.complex128
SHAPE, N, ROWS = (2, 3), 6, 4


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


ROOT = random(N, N)
COVARIANCE = ROOT @ ROOT.T + 0.1 * torch.eye(N, dtype=F64)
SINGULAR = ROOT[:, :4] @ ROOT[:, :4].T
UNITS = torch.tensor([[1.0, 10.0, 0.1], [2.0, 0.5, 1.0]], dtype=F64)  # their product is 1: log det S = 0


def make(kind="real", units=None, covariance=COVARIANCE):
    mean = random(*SHAPE, dtype=F64 if kind == "real" else C128, seed=1)
    return GaussianPrior(mean=mean, covariance=covariance, noise_scale=units)


def points(prior, rows=ROWS, seed=2):
    return 3 * random(rows, *SHAPE, dtype=prior.mean.dtype, seed=seed)


def noise_matrix(prior, sigma, row=0):
    """The covariance of diffusion noise of level sigma (a number, or anything broadcastable to the signals)."""
    level = torch.as_tensor(sigma, dtype=F64)
    if level.ndim == 1:
        level = level.view(-1, 1, 1)
    level = level.expand(ROWS, *SHAPE)[row]
    units = torch.ones(SHAPE, dtype=F64) if prior.noise_scale is None else prior.noise_scale
    return torch.diag((level * units).flatten() ** 2)


PRIORS = {
    "real": make(),
    "complex": make("complex"),
    "real, units": make(units=UNITS),
    "complex, units": make("complex", UNITS),
    "singular": make(covariance=SINGULAR),
}
LEVELS = {
    "number": 0.7,
    "0-d": torch.tensor(0.7, dtype=F64),
    "integer": 2,
    "per row": torch.tensor([0.01, 0.5, 1.0, 30.0], dtype=F64),
    "all axes, one": torch.full((1, 1, 1), 0.7, dtype=F64),
    "all axes, per row": torch.tensor([0.01, 0.5, 1.0, 30.0], dtype=F64).view(4, 1, 1),
    "a map": random(1, *SHAPE, seed=3).exp(),
    "a map per row": random(ROWS, *SHAPE, seed=4).exp(),
    "per column": random(1, 1, 3, seed=5).exp(),
}
EVERY = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())


# --- denoiser --------------------------------------------------------------------------------------------------------
@EVERY
@pytest.mark.parametrize("sigma", LEVELS.values(), ids=LEVELS.keys())
def test_denoiser_is_the_dense_formula(prior, sigma):
    x = points(prior)
    got = prior.denoise(x, sigma)
    assert got.shape == x.shape
    assert got.dtype == x.dtype
    for row in range(ROWS):
        K = prior.covariance
        gain = torch.linalg.solve(K + noise_matrix(prior, sigma, row), K).mT.to(x.dtype)  # K (K + N)^-1
        want = prior.mean + (gain @ (x - prior.mean)[row].flatten()).view(SHAPE)
        assert torch.allclose(got[row], want, rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("sigma", LEVELS.values(), ids=LEVELS.keys())
def test_pullback_is_the_adjoint_of_the_jacobian(prior, sigma):
    x, v = points(prior), points(prior, seed=6)
    value, pull = prior.pullback(x, sigma)
    assert torch.allclose(value, prior.denoise(x, sigma), rtol=1e-12, atol=1e-12)
    assert not value.requires_grad
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        (want,) = torch.autograd.grad(prior._denoise(leaf, prior._check(leaf, sigma)), leaf, v)
    assert torch.allclose(pull(v), want, rtol=1e-9, atol=1e-9)
    assert torch.allclose(pull(2 * v), 2 * pull(v), rtol=1e-9, atol=1e-9)
    assert prior.cheap_pullback


@EVERY
def test_tweedie_covariance(prior):
    """``t^2 C J^H`` is the covariance of x0 given x: ``K - K (K + N)^-1 K``, also from the law's modes."""
    t, x = 0.7, points(prior)
    _, pull = prior.pullback(x, t)
    K, noise = prior.covariance, noise_matrix(prior, t)
    want = (K - K @ torch.linalg.solve(K + noise, K)).to(x.dtype)
    v = points(prior, seed=7)
    got = t**2 * prior.noise_covariance(pull(v))
    assert torch.allclose(got.flatten(1), v.flatten(1) @ want, rtol=1e-9, atol=1e-9)
    modes, law = prior.law.modes, prior.law
    got = modes.synthesis(law.posterior_variances(t) * modes.adjoint(v))
    assert torch.allclose(got.flatten(1), v.flatten(1) @ want, rtol=1e-9, atol=1e-9)


def test_posterior_variances_do_not_underflow():
    law = GaussianLaw(
        mean=torch.zeros(2), modes=DenseModes(shape=(2,), matrix=torch.eye(2)), variances=torch.tensor([1e-24, 1.0])
    )
    t = 1e-12
    want = torch.tensor([5e-25, 1e-24])
    assert torch.allclose(law.posterior_variances(t) / want, torch.ones(2), rtol=1e-5)


@EVERY
def test_denoise_leaves_no_graph_and_does_not_change_its_input(prior):
    x = points(prior).requires_grad_()
    before = x.detach().clone()
    assert not prior.denoise(x, 0.5).requires_grad
    assert torch.equal(x.detach(), before)


@EVERY
def test_limits_of_the_level(prior):
    x = points(prior)
    far = prior.denoise(x, 1e9)
    assert torch.allclose(far, prior.mean.expand_as(x), atol=1e-6)
    if prior is not PRIORS["singular"]:
        assert torch.allclose(prior.denoise(x, 1e-7), x, atol=1e-6)


# --- noise, samples, law ---------------------------------------------------------------------------------------------
@EVERY
def test_diffusion_noise_has_its_covariance(prior):
    basis = torch.eye(N, dtype=prior.mean.dtype).view(N, *SHAPE)
    root = prior.noise(basis).flatten(1)  # row i: C^1/2 e_i
    C = noise_matrix(prior, 1.0).to(root.dtype)
    assert torch.allclose(root.mT @ root.conj(), C, atol=1e-10)
    assert torch.allclose(prior.noise_covariance(basis).flatten(1), C, atol=1e-10)


@EVERY
def test_samples_have_the_moments_of_the_law(prior):
    n = 20_000
    x = prior.sample(n, seed=3)
    assert x.shape == (n, *SHAPE)
    x = (x - prior.mean).flatten(1)
    K, sd = prior.covariance, prior.covariance.diagonal().sqrt()
    parts = [x.real, x.imag] if x.is_complex() else [x]
    error = ((K**2 + torch.outer(sd, sd) ** 2) / n).sqrt()
    for part in parts:
        assert bool((part.mean(0).abs() < 5 * sd / math.sqrt(n)).all())
        assert bool(((part.mT @ part / n - K).abs() < 5 * error).all())
    if x.is_complex():
        assert bool(((parts[0].mT @ parts[1] / n).abs() < 5 * torch.outer(sd, sd) / math.sqrt(n)).all())


@EVERY
def test_sample_k_depends_on_the_seed_and_k_only(prior):
    assert torch.allclose(prior.sample(5, seed=1)[:2], prior.sample(2, seed=1), rtol=1e-12, atol=1e-12)
    assert not torch.equal(prior.sample(2, seed=0), prior.sample(2, seed=1))
    state = torch.get_rng_state()
    prior.sample(2)
    assert torch.equal(torch.get_rng_state(), state)


@EVERY
def test_law_states_the_prior(prior):
    law, modes = prior.law, prior.law.modes
    eye = torch.eye(N, dtype=F64)
    S = modes.synthesis(eye).flatten(1).mT  # columns: modes
    assert torch.allclose(S * law.variances @ S.mT, prior.covariance, atol=1e-9)
    assert torch.equal(law.mean, prior.mean)
    x = points(prior)
    assert torch.allclose(modes.synthesis(modes.analysis(x)), x, rtol=1e-9, atol=1e-9)
    assert torch.allclose(modes.analysis(x), x.flatten(1) @ torch.linalg.inv(S).mT.to(x.dtype), rtol=1e-9, atol=1e-9)
    assert torch.allclose(modes.adjoint(x), x.flatten(1) @ S.to(x.dtype), rtol=1e-9, atol=1e-9)
    assert modes.log_det == pytest.approx(float(torch.linalg.slogdet(S).logabsdet), abs=1e-9)
    assert modes.orthonormal == (prior.noise_scale is None)
    assert prior.exact_law
    z = random(ROWS, N, seed=8)
    noisy = law.sample(z, 0.5)
    want = (law.variances + 0.25).sqrt() * z
    assert torch.allclose(noisy, law.mean + modes.synthesis(want))


def test_scale_and_detail():
    prior = GaussianPrior(mean=torch.zeros(3), covariance=torch.diag(torch.tensor([9.0, 0.0, 0.25])))
    assert prior.scale == pytest.approx(3.0)
    assert prior.detail == pytest.approx(0.5)  # the entry of variance 0 does not vary
    assert (prior.shape, prior.kind, prior.dtype, prior.device) == ((3,), "real", torch.float32, torch.device("cpu"))
    units = GaussianPrior(
        mean=torch.zeros(2), covariance=torch.diag(torch.tensor([9.0, 1e-4])), noise_scale=torch.tensor([1.0, 0.01])
    )
    assert units.scale == pytest.approx(3.0)
    assert units.detail == pytest.approx(1.0)  # 0.01 in its own unit
    correlated = GaussianPrior(mean=torch.zeros(2), covariance=torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    assert correlated.scale == pytest.approx(math.sqrt(1.9))
    assert correlated.detail == pytest.approx(1.0)
    assert repr(prior) == "GaussianPrior(shape=(3,), real, scale=3)"


# --- density ---------------------------------------------------------------------------------------------------------
def scipy_log_prob(prior, x, sigma):
    C = (prior.covariance + (noise_matrix(prior, sigma) if sigma else 0)).numpy()
    law = multivariate_normal(cov=C, allow_singular=True)
    r = (x - prior.mean).flatten(1)
    parts = [r.real, r.imag] if r.is_complex() else [r]
    return torch.tensor(np.sum([np.atleast_1d(law.logpdf(part.numpy())) for part in parts], 0))


@EVERY
@pytest.mark.parametrize("sigma", [0.0, 0.3, 2])
def test_log_prob_is_that_of_scipy(prior, sigma):
    x = prior.sample(ROWS, seed=9)
    if sigma:
        x = x + points(prior)
    got = prior.log_prob(x, sigma)
    assert got.dtype == F64
    assert torch.allclose(got, scipy_log_prob(prior, x, sigma), rtol=1e-8)


@pytest.mark.parametrize("units", [None, UNITS], ids=["white", "units"])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_a_singular_law_has_a_density_on_its_support_and_none_off_it(units, dtype):
    prior = make(units=units, covariance=SINGULAR).to(dtype=dtype)
    assert int((prior.law.variances > 0).sum()) == 4
    on = prior.sample(ROWS)
    off = on + 0.1 * points(prior)
    wide = make(units=units, covariance=SINGULAR)
    assert bool((prior.log_prob(off) == -math.inf).all())
    assert bool(prior.log_prob(on).isfinite().all())
    assert bool(prior.log_prob(off, 0.1).isfinite().all())
    rtol = 1e-8 if dtype == F64 else 1e-3
    assert torch.allclose(prior.log_prob(on), scipy_log_prob(wide, on.double(), 0.0), rtol=rtol)


def test_a_constant_entry():
    prior = GaussianPrior(mean=torch.tensor([1e3, 0.0]), covariance=torch.diag(torch.tensor([0.0, 1.0])))
    x = torch.tensor([[1e3, 0.0], [1e3 + 1, 0.0], [1e3 * (1 + 1e-7), 0.0]])
    got = prior.log_prob(x)
    assert float(got[0]) == pytest.approx(-0.5 * math.log(2 * math.pi))
    assert float(got[1]) == -math.inf
    assert bool(got[2].isfinite())  # as far off as float32 rounds 1000


def test_entries_in_units_that_differ_by_orders_keep_their_variances():
    """Rounding of the covariance is judged entry by entry: 1e-24 beside 1 is a variance, not a rounding error."""
    sd = torch.tensor([1.0, 1e-12, 1e6], dtype=F64)
    C = torch.outer(sd, sd) * torch.tensor([[1, 0.5, 0.2], [0.5, 1, 0.1], [0.2, 0.1, 1]], dtype=F64)
    prior = GaussianPrior(mean=torch.zeros(3, dtype=F64), covariance=C, noise_scale=sd)
    x = sd * random(3, 3)
    want = multivariate_normal(cov=(C / torch.outer(sd, sd)).numpy()).logpdf((x / sd).numpy()) - float(sd.log().sum())
    assert torch.allclose(prior.log_prob(x), torch.tensor(want), rtol=1e-9)
    diagonal = GaussianPrior(mean=torch.zeros(3, dtype=F64), covariance=torch.diag(sd**2))
    assert torch.allclose(diagonal.law.variances.sort().values.sqrt(), sd.sort().values, rtol=1e-9)


# --- precision and moving --------------------------------------------------------------------------------------------
@EVERY
@pytest.mark.parametrize("sigma", [0.05, 0.7, LEVELS["a map"]], ids=["0.05", "0.7", "map"])
def test_float32_is_within_1e_3_of_float64(prior, sigma):
    narrow = prior.to(dtype=torch.float32)
    assert narrow.dtype == torch.float32
    assert narrow.law.variances.dtype == torch.float32
    x = points(prior)
    low = sigma.float() if isinstance(sigma, torch.Tensor) else sigma
    got = narrow.denoise(x.to(narrow.mean.dtype), low)
    assert got.dtype == narrow.mean.dtype
    assert float((got - prior.denoise(x, sigma)).abs().max()) < 1e-3 * prior.scale


@EVERY
def test_to_keeps_the_prior(prior):
    there = prior.to("cpu", torch.float32).to(dtype=F64)
    assert there.kind == prior.kind
    assert torch.allclose(there.covariance, prior.covariance, rtol=1e-6, atol=1e-6)
    assert torch.allclose(there.mean, prior.mean, rtol=1e-6)
    assert (there.noise_scale is None) == (prior.noise_scale is None)
    assert prior.to("cpu").fingerprint() == prior.fingerprint()
    assert there.fingerprint() != prior.fingerprint()
    law = prior.law.to(dtype=torch.complex64)
    assert law.variances.dtype == law.modes.matrix.dtype == torch.float32
    assert law.mean.is_complex() == prior.law.mean.is_complex()


# --- posterior, from the prior ---------------------------------------------------------------------------------------
def test_posterior_is_offered():
    prior = GaussianPrior(mean=torch.zeros(3, dtype=F64), covariance=torch.eye(3, dtype=F64))
    assert prior.has_posterior
    y = np.array([1.0, 2.0, 0.0])  # taken in the precision of the prior, because a mask has none
    posterior = prior.posterior(Mask(mask=torch.tensor([True, True, False])), y, 1.0)
    assert isinstance(posterior, GaussianPosterior)
    assert torch.allclose(posterior.mean, torch.tensor([[0.5, 1.0, 0.0]], dtype=F64))


# --- refusals --------------------------------------------------------------------------------------------------------
m3, C3 = torch.zeros(3), torch.eye(3)
prior3 = GaussianPrior(mean=m3, covariance=C3)
x3 = torch.zeros(2, 3)


class NotData(Prior):
    """A prior that is no dataclass."""

    shape, mean, scale = (3,), m3, 1.0

    def _denoise(self, x, sigma):
        return torch.ones_like(x)


def gaussian(mean=m3, covariance=C3, **options):
    return GaussianPrior(mean=mean, covariance=covariance, **options)


REFUSED = {
    "mean a word": (lambda: gaussian("zero"), InputTypeError, r"GaussianPrior: `mean` must be numbers: .*, got 'zero'"),
    "mean nan": (lambda: gaussian(m3 / 0), InputError, r"`mean` must be finite, got 3 NaN"),
    "mean a number": (lambda: gaussian(torch.tensor(0.0)), InputError, r"must be of at least one axis, got \(\)"),
    "mean empty": (lambda: gaussian(m3[:0], C3[:0, :0]), InputError, r"must be of at least one entry, got \(0,\)"),
    "covariance left out": (
        lambda: gaussian(covariance=None),
        InputTypeError,
        r"`covariance` must be numbers: a tensor, an array, a list, or the path of a .npy file, got NoneType",
    ),
    "covariance complex": (
        lambda: gaussian(covariance=C3 + 0j),
        InputTypeError,
        r"`covariance` must be real, got torch.complex64",
    ),
    "covariance device": (
        lambda: gaussian(covariance=C3.to("meta")),
        InputError,
        r"`covariance` must be on the device of the mean, cpu, got meta",
    ),
    "covariance nan": (lambda: gaussian(covariance=C3 * math.nan), InputError, r"`covariance` must be finite"),
    "covariance shape": (lambda: gaussian(covariance=C3[:2]), InputError, r"must be of shape \(3, 3\), got \(2, 3\)"),
    "covariance of an image": (lambda: gaussian(torch.zeros(3, 2)), InputError, r"of shape \(6, 6\), got \(3, 3\)"),
    "covariance asymmetric": (
        lambda: gaussian(covariance=C3 + torch.ones(3, 3).triu(1)),
        InputError,
        r"`covariance` must be symmetric, got an asymmetry of 1. Pass \(C \+ C.T\) / 2",
    ),
    "covariance indefinite": (
        lambda: gaussian(covariance=C3 - 0.5),
        InputError,
        r"be positive semidefinite and not zero, got a matrix with eigenvalues from -0.5 to 1",
    ),
    "covariance zero": (lambda: gaussian(covariance=0 * C3), InputError, r"positive semidefinite and not zero"),
    "units a word": (lambda: gaussian(noise_scale="1"), InputTypeError, r"`noise_scale` must be numbers: .*, got '1'"),
    "units shape": (
        lambda: gaussian(noise_scale=torch.ones(2)),
        InputError,
        r"`noise_scale` must be of shape \(3,\), got \(2,\)",
    ),
    "units zero": (
        lambda: gaussian(noise_scale=torch.tensor([1.0, 0.0, 1.0])),
        InputError,
        r"`noise_scale` must be positive, got 0.0",
    ),
    "units nan": (lambda: gaussian(noise_scale=m3 / 0), InputError, r"`noise_scale` must be finite"),
    "x a word": (lambda: prior3.denoise("x", 1.0), InputTypeError, r"Prior: `x` must be a torch.Tensor, got x"),
    "x unbatched": (lambda: prior3.denoise(m3, 1.0), InputError, r"of shape \(batch, 3\), got \(3,\). Add a batch"),
    "x complex": (lambda: prior3.denoise(x3 + 0j, 1.0), InputTypeError, r"`x` must be real floating point, got torch"),
    "x device": (lambda: prior3.denoise(x3.to("meta"), 1.0), InputError, r"`x` must be on device cpu, got meta. Move"),
    "x in pullback": (lambda: prior3.pullback(m3, 1.0), InputError, r"of shape \(batch, 3\), got \(3,\)"),
    "x in log_prob": (lambda: prior3.log_prob(m3), InputError, r"of shape \(batch, 3\), got \(3,\)"),
    "sigma zero": (lambda: prior3.denoise(x3, 0), InputError, r"`sigma` must be positive and finite, got 0.0"),
    "sigma negative": (lambda: prior3.denoise(x3, -1.0), InputError, r"`sigma` must be positive and finite, got -1.0"),
    "sigma nan": (lambda: prior3.denoise(x3, math.nan), InputError, r"`sigma` must be finite, got nan"),
    "sigma infinite": (lambda: prior3.denoise(x3, math.inf), InputError, r"`sigma` must be finite, got inf"),
    "sigma text": (lambda: prior3.denoise(x3, "1"), InputTypeError, r"`sigma` must be a real number, got '1'"),
    "sigma none": (lambda: prior3.denoise(x3, None), InputTypeError, r"`sigma` must be a real number, got NoneType"),
    "sigma bool": (lambda: prior3.denoise(x3, True), InputTypeError, r"`sigma` must be a real number, got bool"),
    "sigma array": (lambda: prior3.denoise(x3, np.ones(3)), InputError, r"`sigma` must be 0-d, of shape \(2,\)"),
    "sigma of other rows": (
        lambda: prior3.denoise(x3, torch.ones(3)),
        InputError,
        r"`sigma` must be 0-d, of shape \(2,\) or with 2 axes, got \(3,\)",
    ),
    "sigma that broadcasts x": (
        lambda: prior3.denoise(x3[:1], torch.ones(5, 1)),
        InputError,
        r"`sigma` must be broadcastable against \(1, 3\), got \(5, 1\)",
    ),
    "log_prob negative": (lambda: prior3.log_prob(x3, -1.0), InputError, r"`sigma` must be non-negative, got -1.0"),
    "log_prob none": (lambda: prior3.log_prob(x3, None), InputTypeError, r"`sigma` must be a real number, got None"),
    "log_prob rows": (lambda: prior3.log_prob(x3, torch.ones(2)), InputTypeError, r"`sigma` must be a real number"),
    "sample n": (lambda: prior3.sample(0), InputError, r"GaussianPrior: `n` must be at least 1, got 0"),
    "sample n float": (lambda: prior3.sample(2.0), InputTypeError, r"GaussianPrior: `n` must be an integer, got float"),
    "sample seed": (lambda: prior3.sample(2, seed=0.5), InputTypeError, r"`seed` must be an integer, got float"),
    "sample big seed": (lambda: prior3.sample(2, seed=2**64), InputError, r"`seed` must be an integer of 64 bits"),
    "to": (
        lambda: NotData().to("cpu"),
        InputTypeError,
        r"NotData: `to` must be overridden, or the prior a frozen dataclass, got NotData",
    ),
    "no closed form": (
        lambda: NotData().posterior(Mask(mask=m3 == 0), m3, 1.0),
        UnsupportedError,
        r"NotData.posterior: this prior has no closed-form posterior. Use iv.solve\(...",
    ),
    "posterior shape": (
        lambda: prior3.posterior(Mask(mask=torch.ones(4) > 0), torch.zeros(4), 1.0),
        InputError,
        r"GaussianPrior.posterior: `A` must be an operator on signals of shape \(3,\), got \(4,\)",
    ),
    "posterior kind": (
        lambda: prior3.posterior(Mask(mask=m3 == 0, kind="complex"), m3 + 0j, 1.0),
        InputError,
        r"`A` must be an operator on real signals, got one on complex signals",
    ),
    "posterior precision": (
        lambda: prior3.posterior(Mask(mask=m3 == 0), m3.double(), 1.0),
        InputTypeError,
        r"`y` must be of precision torch.float32, got torch.float64. Convert it, or the prior",
    ),
    "posterior operator": (lambda: prior3.posterior(C3, m3, 1.0), InputTypeError, r"`A` must be an iv.operators.Op"),
    "posterior data": (
        lambda: prior3.posterior(Matrix(matrix=C3), {0.0}, 1.0),
        InputTypeError,
        r"GaussianPrior.posterior: `y` must be a torch.Tensor, a numpy array, .*, got set",
    ),
    "posterior noise": (lambda: prior3.posterior(Matrix(matrix=C3), m3), InputTypeError, r"`noise` must be a positive"),
}


@pytest.mark.parametrize(("call", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


# --- what every prior gets from the base class -----------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Shrink(Prior):
    """A denoiser that only knows how to denoise: sign-dependent, so that its Jacobian is not constant."""

    mean: torch.Tensor
    law: GaussianLaw | None = None
    scale = 1.0

    @property
    def shape(self):
        return tuple(self.mean.shape)

    @property
    def kind(self):
        return "complex" if self.mean.is_complex() else "real"

    def _denoise(self, x, sigma):
        return self.mean + (x - self.mean) * torch.exp(-sigma * x.abs())


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_the_pullback_of_any_denoiser_is_by_autograd(dtype):
    prior = Shrink(mean=torch.zeros(3, dtype=dtype))
    x, v, w = (random(2, 3, dtype=dtype, seed=s) for s in (1, 2, 3))
    value, pull = prior.pullback(x, torch.tensor([0.5, 1.0], dtype=F64))
    assert torch.equal(value, prior.denoise(x, torch.tensor([0.5, 1.0], dtype=F64)))
    assert not prior.cheap_pullback
    assert not value.requires_grad
    h = 1e-6  # <J w, v> = <w, J^H v> in Re<., .>, J w by differences
    sigma = torch.tensor([0.5, 1.0])
    jw = (prior.denoise(x + h * w, sigma) - prior.denoise(x - h * w, sigma)) / (2 * h)
    left, right = (jw.conj() * v).real.sum(1), (w.conj() * pull(v)).real.sum(1)
    assert torch.allclose(left, right, rtol=1e-7)
    assert torch.equal(pull(v), pull(v))  # the graph is kept


def test_a_denoiser_that_ignores_its_input_must_say_so():
    with pytest.raises(
        UnsupportedError, match=r"NotData: its denoiser must be differentiable.*if it truly is constant"
    ):
        NotData().pullback(x3, 1.0)

    class Constant(NotData):
        def _denoise(self, x, sigma):
            return torch.ones_like(x) + 0 * x

    _, pull = Constant().pullback(x3, 1.0)
    assert torch.equal(pull(torch.ones(2, 3)), torch.zeros(2, 3))


def test_a_prior_without_a_sampler_of_its_own_is_sampled_by_its_denoiser():
    assert torch.equal(NotData().sample(2), torch.ones(2, 3))  # the last step returns the denoiser's answer


def test_data_on_another_device_are_refused():
    problem = Problem(Mask(mask=m3 == 0), m3, noise=1.0)
    object.__setattr__(problem, "data", problem.data.to("meta"))  # there is no second real device here
    with pytest.raises(InputError, match=r"GaussianPrior.posterior: `y` must be on device cpu, got meta. Move it, or"):
        prior3.posterior(problem)


def test_to_moves_fields_and_the_law():
    law = prior3.law
    moved = Shrink(mean=m3, law=law).to(dtype=F64)
    assert moved.mean.dtype == moved.law.variances.dtype == moved.law.mean.dtype == F64
    assert Shrink(mean=m3 + 0j).to(dtype=F64).mean.dtype == C128
    assert Shrink(mean=m3 + 0j).dtype == torch.float32
    assert not Shrink(mean=m3).has_posterior
    assert NotData().noise(x3) is x3
    assert NotData().noise_covariance(x3) is x3
