"""Every noise model but the Gaussian: normalisation, gradient, information, draws, masks, items, refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from noise_cases import MODELS
from scipy import stats

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.errors import InputError, InputTypeError
from invsolve.noise import (
    Gaussian,
    Laplace,
    Multiplicative,
    Noise,
    Poisson,
    PoissonTransmission,
    Quantised,
    Rician,
    Saturated,
    SinglePhoton,
    Speckle,
)
from invsolve.noise.counts import log_poisson, poisson_quantile
from invsolve.noise.entrywise import Entrywise, Parameter, wide
from invsolve.operators import Mask
from invsolve.problem import Problem

CPU, F64 = torch.device("cpu"), torch.float64
DRAWS = 20_000
CLEAN = torch.tensor([0.03, 0.4, 0.95, 2.5], dtype=F64)  # small and large; within and beyond the limits
EVERY = pytest.mark.parametrize("name", MODELS)
DISCRETE = ("Poisson", "Quantised")
SHAPE = tuple(CLEAN.shape)


def checked(name, rows=1, dtype=F64):
    return MODELS[name].check(SHAPE, rows, dtype, CPU)


def drawn(name, rows, dtype=F64, seed=0):
    """Rows of data of the same clean measurement, and that."""
    clean = CLEAN.to(dtype).expand(rows, -1)
    return checked(name, rows, dtype).sample(clean, Draws.for_rows(seed, [0] * rows, range(rows), CPU)), clean


def support(name, noise):
    """Nodes and weights of an integral over y, ``(nodes, 4)``, for each clean measurement; atoms have weight 1."""
    if name.startswith("Poisson"):
        y = torch.arange(0.0, 200.0, dtype=F64)
        return y[:, None].expand(-1, 4), torch.ones(len(y), 4, dtype=F64)
    if name.startswith("SinglePhoton"):
        y = torch.arange(0.0, noise.frames + 1, dtype=F64)
        return y[:, None].expand(-1, 4), torch.ones(len(y), 4, dtype=F64)
    if name.startswith("Quantised"):
        step = noise.step
        y = torch.round((CLEAN - 6) / step) * step + step * torch.arange(0, int(12 / step) + 1, dtype=F64)[:, None]
        return y, torch.ones_like(y)
    x, w = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(400))
    if name.startswith("Saturated"):
        low = CLEAN - 6 if noise.low is None else torch.full_like(CLEAN, noise.low)
        high = CLEAN + 6 if noise.high is None else torch.full_like(CLEAN, noise.high)
        y = (low + high) / 2 + (high - low) / 2 * x[:, None]
        weights = (high - low) / 2 * w[:, None]
        for limit, given in ((low, noise.low), (high, noise.high)):
            y = torch.cat([y, limit[None]])
            weights = torch.cat([weights, torch.full_like(limit, float(given is not None))[None]])
        return y, weights
    if name == "Laplace":  # the kink is an end of either piece
        half = (x[:, None] + 1) / 2 * 20
        return torch.cat([CLEAN - half, CLEAN + half]), torch.cat([w, w])[:, None] * 10 * torch.ones(1, 4, dtype=F64)
    if name == "Rician":
        low, high = (CLEAN - 6).clamp_min(0), CLEAN + 6
        return (low + high) / 2 + (high - low) / 2 * x[:, None], (high - low) / 2 * w[:, None]
    # Positive data: over their logarithm.
    t = CLEAN.log() + 15 * x[:, None] - 10
    return t.exp(), 15 * w[:, None] * t.exp()


def density(noise, y):
    """``(nodes, 4)``: each entry by itself."""
    rows, eye = len(y), torch.eye(4, dtype=torch.bool)
    clean = CLEAN.expand(rows, -1)
    return torch.stack([noise.log_prob(y, clean, eye[k]) for k in range(4)], 1).exp()


# --- the law ---------------------------------------------------------------------------------------------------------
@EVERY
def test_normalisation_mean_score_and_information_by_quadrature(name):
    noise = checked(name)
    y, weights = support(name, noise)
    p = density(noise, y) * weights
    assert torch.allclose(p.sum(0), torch.ones(4, dtype=F64), rtol=0, atol=1e-6)
    # The score has mean 0 and its square the Fisher information as mean; the residual has mean 0 and variance 1.
    grad = noise.grad(y, CLEAN.expand_as(y))
    information = noise.curvature(torch.ones(1, 4, dtype=F64), CLEAN[None])[0]
    assert torch.allclose((p * grad).sum(0) / information.sqrt(), torch.zeros(4, dtype=F64), atol=1e-6)
    assert torch.allclose((p * grad**2).sum(0), information, rtol=2e-5 if "finely" in name else 1e-6)
    residual = noise.residual(y, CLEAN.expand_as(y))
    assert torch.allclose((p * residual).sum(0), torch.zeros(4, dtype=F64), atol=1e-6)
    assert torch.allclose((p * residual**2).sum(0), torch.ones(4, dtype=F64), rtol=2e-5)


@EVERY
def test_grad_is_the_gradient_of_minus_log_prob(name):
    y, clean = drawn(name, 30)
    noise, step = checked(name), 1e-5 * CLEAN
    for k in range(4):
        move = step * torch.eye(4, dtype=F64)[k]
        # Richardson's extrapolation of central differences: the error is of fourth order.
        wide, narrow = (
            (noise.log_prob(y, clean - f * move) - noise.log_prob(y, clean + f * move)) / (2 * f * step[k])
            for f in (20, 10)
        )
        want = (4 * narrow - wide) / 3
        got = noise.grad(y, clean)[:, k]
        if name == "Laplace":  # not across the kink
            far = (y[:, k] - CLEAN[k]).abs() > 30 * step[k]
            want, got = want[far], got[far]
        scale = noise.curvature(torch.ones(1, 4, dtype=F64), CLEAN[None])[0, k].sqrt()
        assert torch.allclose(got, want, rtol=1e-6, atol=1e-6 * float(scale))


@EVERY
def test_draws_have_the_law(name):
    """Mean and variance within 5 standard errors of those by quadrature."""
    noise = checked(name)
    y, weights = support(name, noise)
    p = density(noise, y) * weights
    mean = (p * y).sum(0)
    central = [(p * (y - mean) ** k).sum(0) for k in (2, 4)]
    sample, _ = drawn(name, DRAWS)
    assert ((sample.mean(0) - mean).abs() < 5 * (central[0] / DRAWS).sqrt()).all()
    error = ((central[1] - central[0] ** 2).clamp_min(0) / DRAWS).sqrt()
    assert ((sample.var(0) - central[0]).abs() < 5 * error + 1e-12).all()
    noise.check_data(sample)  # what is drawn is possible


MEANS = {
    "Poisson": lambda m: (7 * m + 0.5, 7 * m + 0.5),
    "PoissonTransmission": lambda m: (30 * np.exp(-m) + 0.5,) * 2,
    "Rician": lambda m: tuple(map(np.asarray, stats.rice.stats(m / 0.5, scale=0.5))),
    "Laplace": lambda m: (m, 2 * 0.4**2),
    "Multiplicative": lambda m: (m * np.exp(0.045), m**2 * np.exp(0.09) * np.expm1(0.09)),
    "Speckle": lambda m: (m, m**2 / 3),
    "SinglePhoton": lambda m: tuple(map(np.asarray, stats.bernoulli(1 - np.exp(-1.5 * m - 0.1)).stats())),
    "SinglePhoton of 20 frames": lambda m: tuple(map(np.asarray, stats.binom(20, 1 - np.exp(-0.7 * m - 0.05)).stats())),
}


@pytest.mark.parametrize("name", MEANS)
def test_the_law_has_the_moments_that_are_known(name):
    y, weights = support(name, checked(name))
    p = density(checked(name), y) * weights
    mean = (p * y).sum(0)
    for got, want in zip((mean, (p * (y - mean) ** 2).sum(0)), MEANS[name](CLEAN.numpy()), strict=True):
        assert np.allclose(got.numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("mu", [1e-3, 0.7, 9.0, 49.9, 50.1, 3e3, 1e7, 1e12])
def test_counts_are_exact_quantiles(mu):
    z = torch.tensor([-8.0, -4.0, -1.3, -0.2, 0.0, 0.6, 1.9, 4.4, 8.0], dtype=F64)
    z = z[1:-1] if mu > 1e6 else z  # where the incomplete gamma functions are right to 1e-5
    k = poisson_quantile(z, torch.full_like(z, mu))
    law = stats.poisson(mu)
    tail = stats.norm.cdf(-z.abs().numpy())
    # The count's own step of the distribution function holds the rank: by the tail that is not lost to 1.
    upper = z.numpy() > 0
    here = np.where(upper, law.sf(k.numpy()), law.cdf(k.numpy()))
    before = np.where(upper, law.sf(k.numpy() - 1), law.cdf(k.numpy() - 1))
    room = (1e-5 if mu > 1e6 else 1e-8) * tail  # of the distribution functions, theirs or ours
    assert (np.where(upper, here <= tail + room, here >= tail - room)).all()
    assert (np.where(upper, before > tail - room, before < tail + room) | (k.numpy() == 0)).all()


@pytest.mark.parametrize("frames", [1, 7, 300])
@pytest.mark.parametrize("photons", [1e-4, 0.1, 2.0, 9.0])
def test_frames_with_a_photon_are_exact_quantiles(frames, photons):
    """The least y whose distribution function reaches that of the normal number, by the smaller tail."""
    z = torch.tensor([-6.0, -2.3, -0.7, 0.0, 0.4, 1.6, 6.0], dtype=F64)

    class Given:
        def normal(self, shape, dtype, *, step, index=0):
            return z[:, None]

    k = SinglePhoton(1.0, frames=frames).sample(torch.full((7, 1), photons, dtype=F64), Given())[:, 0].numpy()
    law, tail = stats.binom(frames, -np.expm1(-photons)), stats.norm.cdf(-z.abs().numpy())
    upper, room = z.numpy() > 0, 1e-8 * tail
    here = np.where(upper, law.sf(k), law.cdf(k))
    before = np.where(upper, law.sf(k - 1), law.cdf(k - 1))
    assert (np.where(upper, here <= tail + room, here >= tail - room)).all()
    assert (np.where(upper, before > tail - room, before < tail + room) | (k == 0)).all()


def test_densities_of_counts_do_not_cancel():
    y = torch.tensor([0.0, 1.0, 15.0, 16.0, 1e3, 1e6, 1e12], dtype=F64)
    for factor in (1.0, 0.9, 1.2):
        mu = factor * y + 0.3
        want = stats.poisson.logpmf(y[:5].numpy(), mu[:5].numpy())
        assert np.allclose(log_poisson(y, mu)[:5].numpy(), want, rtol=1e-11, atol=1e-11)
    # At the mean of a large count: Stirling's log density, -log(2 pi y) / 2.
    assert float(log_poisson(y[6], y[6])) == pytest.approx(-0.5 * math.log(2 * math.pi * 1e12), abs=1e-9)


# --- where a law ends ------------------------------------------------------------------------------------------------
def test_impossible_clean_data_have_no_likelihood_and_a_finite_gradient():
    y = torch.tensor([[3.0]], dtype=F64)
    photons = SinglePhoton(counts_per_unit=2.0, background=1.0, frames=5)
    for noise in (Poisson(counts_per_unit=2.0, background=1.0), photons, Multiplicative(std=0.3), Speckle(looks=2.0)):
        for clean in (-0.5 - 1e-9, -3.0):  # at -0.5 no count is expected
            m = torch.tensor([[clean]], dtype=F64)
            assert float(noise.log_prob(y, m)) == -math.inf
            assert float(noise.grad(y, m)) < 0  # back to where data are possible
            assert torch.isfinite(noise.grad(y, m)).all()
            assert float(noise.curvature(torch.ones_like(m), m)) >= 0
            assert float(noise.residual(y, m)) > 1e2  # no fit at all
            data, std, peak = noise.gaussian_at(y, m)
            assert torch.isfinite(data).all() and torch.isfinite(peak).all()
            assert float(std) > 0
    nothing = Poisson(counts_per_unit=2.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1))
    assert float(nothing) == 0.0  # none expected, none seen


def test_rician_counts_the_absolute_value_and_at_zero_the_intensity():
    y, m = torch.tensor([[0.3, 2.0]], dtype=F64), torch.tensor([[0.4, 0.7]], dtype=F64)
    noise = MODELS["Rician"]
    assert torch.equal(noise.log_prob(y, m), noise.log_prob(y, -m))
    assert torch.equal(noise.grad(y, m), -noise.grad(y, -m))
    assert torch.allclose(noise.residual(y, 0 * m), y**2 / (2 * 0.5**2) - 1, rtol=1e-6)
    want = stats.rice.logpdf(y.numpy(), m.numpy() / 0.5, scale=0.5).sum()
    assert float(noise.log_prob(y, m)) == pytest.approx(want, rel=1e-12)
    far = noise.curvature(torch.ones(1, 1, dtype=F64), torch.tensor([[1e9]], dtype=F64))
    assert float(far) == pytest.approx(1 / 0.5**2, rel=1e-9)


@pytest.mark.parametrize("noise", [Saturated(std=1.0, low=-1.0, high=1.0), Quantised(std=1.0, step=1.0)], ids=repr)
def test_far_from_the_data_nothing_overflows(noise):
    y = torch.tensor([[-1.0, 1.0, 0.0]], dtype=F64)
    for far in (-1e4, -40.0, 40.0, 1e4):
        m = torch.full_like(y, far)
        for value in (noise.log_prob(y, m), noise.grad(y, m), *noise.gaussian_at(y, m)):
            assert torch.isfinite(value).all()
        back = noise.grad(y, m) * far  # towards the data, or nowhere where a saturated datum agrees
        assert (back > -1e-12).all()


# --- the Gaussian that stands for it ---------------------------------------------------------------------------------
@EVERY
def test_the_gaussian_has_gradient_information_and_height(name):
    noise = checked(name, 5)
    y, clean = drawn(name, 5)
    point, weight = noise.expansion(y, clean)
    if not name.startswith(("Saturated", "Quantised")):  # those take the curvature at the datum
        inside = ((point - clean).abs() < 1e-12) & (clean > 0)
        information = noise.curvature(torch.ones_like(clean), clean)
        assert inside.double().mean() > 0.8  # the data are those of this clean measurement
        assert torch.allclose(weight[inside], information[inside], rtol=1e-12)
    data, std, peak = noise.gaussian_at(y, clean)
    assert torch.allclose((point - data) / std**2, noise.grad(y, point), rtol=1e-9, atol=1e-9)
    assert torch.allclose(std, weight.rsqrt(), rtol=1e-12)
    height = peak - 0.5 * ((data - point) / std).square().sum(1)
    assert torch.allclose(height, noise.log_prob(y, point), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["Saturated", "Saturated above", "Saturated below", "Quantised", "Quantised coarsely"])
def test_the_curvature_at_the_datum_is_the_second_derivative(name):
    y, clean = drawn(name, 20)
    noise, h = checked(name), 1e-4
    want = (noise.grad(y, clean + h) - noise.grad(y, clean - h)) / (2 * h)
    assert torch.allclose(noise.expansion(y, clean)[1], want, rtol=1e-5, atol=1e-6)


def test_a_datum_without_information_gets_a_wide_gaussian():
    noise = Rician(std=1.0)
    y, zero = torch.tensor([[0.5]], dtype=F64), torch.zeros(1, 1, dtype=F64)
    data, std, peak = noise.gaussian_at(y, zero)
    assert torch.equal(data, zero)
    assert float(std) == pytest.approx(1e15)
    assert torch.equal(peak, noise.log_prob(y, zero))


def test_a_noise_of_your_own_needs_its_abstract_methods_only():
    class Cauchy(Noise):
        def log_prob(self, y, clean, observed=None):
            return -(math.pi * (1 + (y - clean) ** 2)).log().flatten(1).sum(1)

        def grad(self, y, clean, observed=None):
            return 2 * (clean - y) / (1 + (y - clean) ** 2)

        def curvature(self, v, clean, observed=None):
            return v / 2

        def sample(self, clean, draw, *, step=0, index=0):
            return clean + torch.tan(math.pi * (torch.special.ndtr(draw.normal((1,), F64, step=step)) - 0.5))

        def check(self, out_shape, batch, dtype, device):
            return self

        def take(self, index):
            return self

    prior = iv.priors.GaussianPrior(mean=torch.zeros(1, dtype=F64), covariance=torch.eye(1, dtype=F64))
    A, y = iv.operators.Matrix(matrix=torch.eye(1, dtype=F64)), torch.tensor([[3.0]], dtype=F64)
    x = np.linspace(-8, 8, 4001)
    w = np.exp(-0.5 * x**2) / (1 + (3 - x) ** 2)
    mean = (w * x).sum() / w.sum()
    std = math.sqrt((w * (x - mean) ** 2).sum() / w.sum())
    for strategy in ("auto", iv.strategies.SMC(num_steps=10)):
        result = iv.solve(A, y, prior, noise=Cauchy(), strategy=strategy, num_samples=4000, seed=1)
        assert float(result.mean) == pytest.approx(mean, abs=5 * std / math.sqrt(float(result.ess.min())))
        assert torch.isfinite(result.chi2).all()
    assert Cauchy().check_data(y) is None


@dataclass(frozen=True, eq=False)
class Logistic(Entrywise):
    """A model of the three methods that every model must give; of std pi scale / sqrt(3)."""

    scale: Parameter

    def _log_prob(self, y, m):
        z = (y - m) / self.scale
        return -z - 2 * torch.nn.functional.softplus(-z) - wide(self.scale, m).log()

    def _information(self, m):
        return torch.ones_like(m) / (3 * self.scale * self.scale)

    def _sample(self, m, normal):
        return m + self.scale * torch.logit(torch.special.ndtr(normal(F64)))


def test_a_noise_of_three_methods_is_solved_by_chains_and_guidance():
    """One datum against quadrature."""
    scale = 0.5
    prior = iv.priors.GaussianPrior(mean=torch.zeros(1, dtype=F64), covariance=torch.eye(1, dtype=F64))
    y = torch.tensor([[1.0]], dtype=F64)
    x = np.linspace(-8, 8, 8001)
    w = np.exp(-0.5 * x**2) * stats.logistic(loc=x, scale=scale).pdf(1.0)
    mean = (w * x).sum() / w.sum()
    std = math.sqrt((w * (x - mean) ** 2).sum() / w.sum())
    # NoiseMCMC is exact; MMPS puts a Gaussian of the same slope and information in the place of the noise.
    for strategy, bias in ((iv.strategies.NoiseMCMC(chains=512), 0.0), (iv.strategies.MMPS(), 0.2)):
        result = iv.solve(diagonal([1.0]), y, prior, noise=Logistic(scale), strategy=strategy, num_samples=1024, seed=0)
        assert abs(float(result.mean) - mean) < (bias + 5 / math.sqrt(512)) * std, strategy
        assert float(result.std) == pytest.approx(std, rel=bias + 5 / math.sqrt(2 * 512)), strategy
        assert torch.isfinite(result.chi2).all()


def test_a_noise_of_three_methods_has_the_rest_of_a_noise():
    noise = Logistic(torch.tensor([0.5, 1.0, 2.0])).check((3,), 4, F64, CPU)
    clean = torch.tensor([0.0, 1.0, -2.0], dtype=F64).expand(4, 3)
    y = noise.sample(clean, Draws.for_rows(0, [0] * 4, list(range(4)), CPU))
    scale, z = noise.scale, (y - clean) / noise.scale
    torch.testing.assert_close(noise.grad(y, clean), -torch.tanh(z / 2) / scale)  # by autograd; the formula by hand
    observed = torch.tensor([True, False, True])
    assert torch.equal(noise.grad(y, clean, observed) == 0, ~observed.expand(4, 3))
    torch.testing.assert_close(noise.residual(y, clean), math.sqrt(3) * torch.tanh(z / 2))
    reference = stats.logistic(loc=clean.numpy(), scale=scale.numpy()).logpdf(y.numpy()).sum(1)
    np.testing.assert_allclose(noise.log_prob(y, clean).numpy(), reference, rtol=1e-13)
    wanted = clean.clone().requires_grad_()
    assert not noise.grad(y, wanted).requires_grad
    with pytest.raises(InputError, match=r"Logistic: `scale` must be positive, got 0"):
        Logistic(0.0)


# --- masks, rows, precision ------------------------------------------------------------------------------------------
@EVERY
def test_only_what_was_observed_counts(name):
    noise, mask = checked(name, 6), torch.tensor([True, False, True, False])
    y, clean = drawn(name, 6)
    broken = torch.where(mask, y, -1.0)  # impossible for most
    ones = torch.ones_like(clean)
    alone = sum(noise.log_prob(y, clean, torch.eye(4, dtype=torch.bool)[k]) for k in (0, 2))
    assert torch.allclose(noise.log_prob(broken, clean, mask), alone, rtol=1e-12)
    for masked, full in (
        (noise.grad(broken, clean, mask), noise.grad(y, clean)),
        (noise.curvature(ones, clean, mask), noise.curvature(ones, clean)),
        (noise.residual(broken, clean, mask), noise.residual(y, clean)),
    ):
        assert torch.equal(masked, full * mask)
    noise.check_data(broken, mask)
    data, std, peak = noise.gaussian_at(broken, clean, mask)
    assert torch.equal(data[:, mask], noise.gaussian_at(y, clean)[0][:, mask])
    assert torch.equal(data[:, ~mask], clean[:, ~mask])
    assert bool((std[:, ~mask] > 1e14).all())
    assert torch.isfinite(peak).all()


def items(name):
    """The model with its first parameter twice as large for the second of two items."""
    noise = MODELS[name]
    first = {"Poisson": "counts_per_unit", "PoissonTransmission": "i0", "Laplace": "scale"}.get(name)
    first = "counts_per_unit" if name.startswith("SinglePhoton") else first
    first = first or ("looks" if name.startswith("Speckle") else "std")
    value = getattr(noise, first)
    parameters = {k: v for k, v in vars(noise).items() if k != "per_item"}
    one, two = (type(noise)(**(parameters | {first: f * value})) for f in (1.0, 2.0))
    both = type(noise)(**(parameters | {first: torch.tensor([[value], [2 * value]], dtype=F64)}))
    return both.check(SHAPE, 2, F64, CPU), one, two


@EVERY
def test_rows_are_independent_and_items_have_their_own_parameters(name):
    both, one, two = items(name)
    assert both.per_item
    assert not checked(name).per_item
    y, clean = drawn(name, 2)
    for method in ("log_prob", "grad", "residual"):
        got = getattr(both, method)(y, clean)
        for row, single in enumerate((one, two)):
            alone = getattr(single, method)(y[row : row + 1], clean[row : row + 1])[0]
            assert torch.allclose(got[row], alone, rtol=1e-12, atol=1e-12)
    index = torch.tensor([1, 1, 0])
    assert torch.equal(both.take(index).log_prob(y[index], clean[index]), both.log_prob(y, clean)[index])
    draw = Draws.for_rows(0, [0, 1], [0, 0], CPU)
    sample = both.sample(clean, draw)
    assert torch.allclose(sample[1], two.sample(clean[1:], draw.take(torch.tensor([1])))[0], rtol=1e-12)
    assert not torch.equal(sample, both.sample(clean, draw, step=1))
    assert not torch.equal(both.sample(clean, draw, index=1), both.sample(clean, draw, step=1))


@EVERY
def test_float32_follows_float64(name):
    y, clean = drawn(name, 8)
    narrow, wide = checked(name, 8, torch.float32), checked(name, 8)
    single = y.float(), clean.float()
    noisy = narrow.sample(single[1], Draws.for_rows(0, [0] * 8, range(8), CPU))
    assert noisy.dtype == torch.float32
    narrow.check_data(noisy)
    got = narrow.log_prob(*single)
    assert got.dtype == F64
    assert torch.allclose(got, wide.log_prob(y, clean), rtol=1e-4, atol=1e-4)
    assert narrow.grad(*single).dtype == torch.float32
    scale = wide.curvature(torch.ones_like(clean), clean).sqrt().clamp_min(1)
    assert ((narrow.grad(*single).double() - wide.grad(y, clean)).abs() < 1e-4 * scale).all() or name == "Laplace"
    data, std, _ = narrow.gaussian_at(*single)
    assert torch.isfinite(data).all() and torch.isfinite(std).all()


def test_limits_are_those_of_the_data():
    """0.7 in single precision is below 0.7: such a datum is at the limit all the same."""
    noise = Saturated(std=0.1, low=torch.tensor([0.1]), high=0.7).check((1,), 1, torch.float32, CPU)
    y = torch.tensor([[0.7]])
    noise.check_data(y)
    far = torch.tensor([[5.0]])
    assert float(noise.log_prob(y, far)) == pytest.approx(0.0, abs=1e-9)  # certain
    assert float(noise.log_prob(torch.tensor([[0.1]]), -far)) == pytest.approx(0.0, abs=1e-9)


# --- in a problem ----------------------------------------------------------------------------------------------------
def diagonal(values):
    return iv.operators.Matrix(matrix=torch.diag(torch.tensor(values, dtype=F64)))


def test_a_problem_made_gaussian():
    A, y = diagonal([1.0, 2.0]), torch.tensor([[3.0, 5.0], [2.0, 0.0]], dtype=F64)
    problem = Problem(A, y, noise=Poisson(counts_per_unit=2.0, background=1.0))
    clean = torch.tensor([[1.0, 2.0], [0.5, 0.1]], dtype=F64)
    local, peak = problem.surrogate(clean)
    mu = 2 * clean + 1
    assert isinstance(local.noise, Gaussian)
    assert torch.allclose(local.data, (y - 1) / 2, rtol=1e-12)  # by hand: clean - W^-1 grad
    assert torch.allclose(local.noise.std, mu.sqrt() / 2, rtol=1e-12)
    assert not local.shared
    assert problem.shared
    white = local.whiten(local.data - clean).square().sum(1)
    assert torch.allclose(peak - 0.5 * white, problem.noise.log_prob(y, clean), rtol=1e-12)
    assert torch.allclose(
        problem.chi2(clean),
        (y - 2 * clean.mul(torch.tensor([1.0, 2.0])) - 1)
        .square()
        .div(2 * clean.mul(torch.tensor([1.0, 2.0])) + 1)
        .mean(1),
        rtol=1e-12,
    )
    gaussian = Problem(A, y, noise=0.5)
    assert gaussian.gaussianised(clean) is gaussian
    assert torch.equal(gaussian.surrogate(clean)[1], gaussian.noise.log_prob(y, y))
    assert "Poisson(counts_per_unit=2.0" in str(problem)
    with pytest.raises(InputTypeError, match=r"iv.noise.Gaussian for a whitened residual.*problem.gaussianised"):
        problem.whiten(y)


def test_items_of_a_problem_may_differ_in_any_parameter():
    y = torch.ones(2, 2, dtype=F64)
    noise = Poisson(counts_per_unit=torch.tensor([[1.0], [2.0]]))
    assert not Problem(diagonal([1.0, 1.0]), y, noise=noise).shared
    assert Problem(diagonal([1.0, 1.0]), y, noise=Poisson(counts_per_unit=torch.tensor([1.0, 2.0]))).shared


@EVERY
def test_chi2_is_one_and_every_strategy_takes_the_noise(name):
    """One Gaussian signal at 1.5 std: chains, particles and guidance agree with quadrature in one dimension."""
    noise = MODELS[name]
    A = diagonal([1.0])
    prior = iv.priors.GaussianPrior(mean=torch.full((1,), 1.2, dtype=F64), covariance=0.04 * torch.eye(1, dtype=F64))
    truth = torch.full((1, 1), 1.0, dtype=F64)
    y = noise.check((1,), 1, F64, CPU).sample(truth, Draws.for_rows(1, [0], [0], CPU))
    problem = Problem(A, y, noise=noise)
    x = torch.linspace(0.1, 2.3, 4001, dtype=F64)[:, None]
    log = problem.take(torch.zeros(len(x), dtype=torch.int64)).log_likelihood(x) - 0.5 * ((x[:, 0] - 1.2) / 0.2) ** 2
    w = torch.softmax(log, 0)
    mean = float((w * x[:, 0]).sum())
    std = math.sqrt(float((w * (x[:, 0] - mean) ** 2).sum()))
    chains = iv.strategies.NoiseMCMC(chains=512)
    for strategy, bias in (
        (chains, 0.0),
        (iv.strategies.SMC(num_steps=8), 0.0),
        (iv.strategies.MMPS(), 0.2),
        (iv.strategies.TMPD(num_steps=20), 0.3),
        (iv.strategies.PiGDM(num_steps=20), 0.3),
    ):
        result = iv.solve(problem, prior, strategy=strategy, num_samples=1024, seed=0)
        n = 1024 if result.log_weights is None else float(result.ess.min())
        assert abs(float(result.mean) - mean) < (bias + 5 / math.sqrt(min(n, 512))) * std, strategy
        assert float(result.std) == pytest.approx(std, rel=bias + 5 / math.sqrt(2 * min(n, 512))), strategy
        assert torch.isfinite(result.chi2).all()


# --- refusals --------------------------------------------------------------------------------------------------------
def problem(noise, y, A=None):
    y = torch.tensor(y, dtype=F64)
    return Problem(A or diagonal([1.0] * y.shape[-1]), y, noise=noise)


REFUSED = {
    "no frames": (lambda: SinglePhoton(1.0, frames=0), InputError, "SinglePhoton: `frames` must be at least 1, got 0"),
    "too many frames": (lambda: SinglePhoton(1.0, frames=10**5), InputError, "`frames` must be at most 10000"),
    "photons": (lambda: SinglePhoton(counts_per_unit=0.0), InputError, "SinglePhoton: `counts_per_unit` must be posi"),
    "more than frames": (
        lambda: problem(SinglePhoton(1.0, frames=3), [[0.0, 4.0]]),
        InputError,
        "whole numbers from 0 to 3 for SinglePhoton noise, got 1 others, the first 4",
    ),
    "gain of 0": (lambda: Poisson(counts_per_unit=0.0), InputError, r"Poisson: `counts_per_unit` must be positive"),
    "gain of text": (lambda: Poisson(counts_per_unit="1"), InputTypeError, r"must be a real number, got '1'"),
    "background below 0": (
        lambda: Poisson(counts_per_unit=1.0, background=-1.0),
        InputError,
        r"Poisson: `background` must be non-negative, got -1.0",
    ),
    "background tensor below 0": (
        lambda: PoissonTransmission(i0=1.0, background=torch.tensor([0.0, -2.0])),
        InputError,
        r"PoissonTransmission: `background` must be non-negative, got -2.0",
    ),
    "complex": (
        lambda: Rician(std=torch.ones(2) + 0j),
        InputTypeError,
        r"Rician: `std` must be real, got torch.complex64",
    ),
    "nan": (lambda: Laplace(scale=torch.tensor([1.0, math.nan])), InputError, r"Laplace: `scale` must be finite"),
    "zero in a tensor": (
        lambda: Speckle(looks=torch.tensor([1.0, 0.0])),
        InputError,
        r"Speckle: `looks` must be positive, got 0.0",
    ),
    "no limits": (lambda: Saturated(std=1.0), InputError, r"Saturated: `low` must be given, or `high`, or both"),
    "limits crossed": (
        lambda: Saturated(std=1.0, low=2.0, high=1.0),
        InputError,
        r"Saturated: `low` must be below `high` \(1\), got 2.0",
    ),
    "tensor limits crossed": (
        lambda: problem(Saturated(std=1.0, low=torch.tensor([0.0, 3.0]), high=1.0), [[0.5, 0.5]]),
        InputError,
        r"`noise.low` must be below `noise.high` everywhere",
    ),
    "limit of nan": (lambda: Saturated(std=1.0, low=math.nan), InputError, r"Saturated: `low` must be finite"),
    "step of 0": (lambda: Quantised(std=1.0, step=0.0), InputError, r"Quantised: `step` must be positive"),
    "std of 0": (lambda: Multiplicative(std=0.0), InputError, r"Multiplicative: `std` must be positive"),
    "complex data": (
        lambda: Problem(
            Mask(mask=torch.tensor([True, True]), kind="complex"),
            torch.ones(1, 2) + 0j,
            noise=Poisson(counts_per_unit=1.0),
        ),
        InputTypeError,
        r"`noise` must be Gaussian for complex data, got Poisson. Its distribution is that of real data",
    ),
    "shape": (
        lambda: problem(Poisson(counts_per_unit=torch.ones(3)), [[1.0, 2.0]]),
        InputError,
        r"Problem: `noise.counts_per_unit` must be a number, or a tensor of shape \(2,\) or \(1, 2\), got \(3,\)",
    ),
    "items": (lambda: problem(Laplace(scale=torch.ones(3, 1)), [[1.0, 2.0]]), InputError, r"`noise.scale` .* \(3, 1\)"),
    "negative counts": (
        lambda: problem(Poisson(counts_per_unit=1.0), [[1.0, -2.0]]),
        InputError,
        r"Problem: `data` must be whole numbers of counts, at least 0 for Poisson noise, got 1 others, the "
        r"first -2 at index \(0, 1\). Give raw counts",
    ),
    "broken counts": (
        lambda: problem(PoissonTransmission(i0=9.0), [[1.0, 2.5]]),
        InputError,
        r"for PoissonTransmission noise, got 1 others, the first 2.5 at index \(0, 1\)",
    ),
    "magnitude of 0": (
        lambda: problem(Rician(std=1.0), [[0.0, 1.0]]),
        InputError,
        r"`data` must be positive magnitudes for Rician noise, got 1 others, the first 0 .* Leave out",
    ),
    "intensity of 0": (lambda: problem(Speckle(looks=1.0), [[0.0, 1.0]]), InputError, r"positive for Speckle noise"),
    "relative to 0": (lambda: problem(Multiplicative(std=1.0), [[-1.0, 1.0]]), InputError, r"positive for Multiplic"),
    "beyond the limits": (
        lambda: problem(Saturated(std=1.0, low=0.0, high=1.0), [[0.5, 1.5]]),
        InputError,
        r"`data` must be at least `low` \(0\) and at most `high` \(1\) for Saturated noise, got 1 other",
    ),
    "below one limit": (
        lambda: problem(Saturated(std=1.0, low=torch.tensor([0.0, 1.0])), [[0.5, 0.5]]),
        InputError,
        r"`data` must be at least `low` for Saturated noise, got 1 others, the first 0.5",
    ),
    "between steps": (
        lambda: problem(Quantised(std=1.0, step=0.5), [[0.5, 0.7]]),
        InputError,
        r"`data` must be multiples of `step` for Quantised noise, got 1 others, the first 0.7",
    ),
    "closed form": (
        lambda: iv.solve(problem(Laplace(scale=1.0), [[0.5, 0.5]]), JOINT, strategy=iv.strategies.Exact()),
        iv.errors.UnsupportedError,
        r"the noise is Laplace, not Gaussian.*MMPS\(\)",
    ),
}
PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(1, dtype=F64), covariance=torch.eye(1, dtype=F64))
JOINT = iv.priors.GaussianPrior(mean=torch.zeros(2, dtype=F64), covariance=torch.eye(2, dtype=F64) + 0.5)


@pytest.mark.parametrize(("call", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_what_is_not_observed_may_be_anything():
    y = torch.tensor([[3.0, -0.5]], dtype=F64)
    assert Problem(Mask(mask=torch.tensor([True, False])), y, noise=Poisson(counts_per_unit=1.0)).num_data.tolist() == [
        1
    ]


def test_transmission_far_behind_an_absorber_has_finite_slopes():
    """No background: whatever was counted passed the absorber, however unlikely."""
    noise = iv.noise.PoissonTransmission(i0=100.0).check((1,), 1, torch.float64, torch.device("cpu"))
    y, m = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 720.0, dtype=torch.float64)
    assert torch.allclose(noise.grad(y, m), torch.ones(1, 1, dtype=torch.float64))
    assert bool(noise.curvature(y, m).isfinite().all())


POSITIONAL = {
    "Gaussian": (Gaussian(0.1), Gaussian(std=0.1)),
    "Laplace": (Laplace(0.1), Laplace(scale=0.1)),
    "Multiplicative": (Multiplicative(0.1), Multiplicative(std=0.1)),
    "Poisson": (Poisson(50.0, background=2.0), Poisson(counts_per_unit=50.0, background=2.0)),
    "PoissonTransmission": (PoissonTransmission(1e4, background=2.0), PoissonTransmission(i0=1e4, background=2.0)),
    "Quantised": (Quantised(0.1, step=0.5), Quantised(std=0.1, step=0.5)),
    "Rician": (Rician(0.1), Rician(std=0.1)),
    "Saturated": (Saturated(0.1, high=1.0), Saturated(std=0.1, high=1.0)),
    "Speckle": (Speckle(3.0), Speckle(looks=3.0)),
}


@pytest.mark.parametrize(("short", "long"), POSITIONAL.values(), ids=POSITIONAL.keys())
def test_the_obvious_argument_may_be_given_by_position(short, long):
    assert repr(short) == repr(long)
    with pytest.raises(TypeError, match="positional"):
        type(short)(0.1, 0.2)


def test_a_model_with_checks_of_its_own_is_asked_as_the_base_says():
    @dataclass(frozen=True, eq=False)
    class Own(iv.noise.Laplace):
        def check(self, out_shape, batch, dtype, device):
            return super().check(out_shape, batch, dtype, device)

        def check_data(self, y, observed=None):
            if bool((y < 0).any()):
                raise ValueError("no negative data here")

    A = iv.operators.Mask(torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="no negative data here"):
        iv.Problem(A, -torch.ones(2), noise=Own(0.5))
    assert iv.Problem(A, torch.ones(2), noise=Own(0.5)).noise.scale == 0.5
