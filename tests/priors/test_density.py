"""The log density by the probability flow against closed forms (Song et al. 2021, arXiv 2011.13456)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.errors import UnsupportedError
from invsolve.gaussian.law import DenseModes, GaussianLaw
from invsolve.priors import GaussianPrior
from invsolve.priors.base import Prior
from invsolve.priors.density import log_density

F64 = torch.float64
WEIGHTS = torch.tensor([0.3, 0.7], dtype=F64)
CENTRES = torch.tensor([-1.0, 1.0], dtype=F64)
WIDTHS = torch.tensor([0.3, 0.5], dtype=F64)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Mixture(Prior):
    """.3 N(-1, .3^2) + .7 N(1, .5^2) as a prior of shape (1,), with or without the Gaussian of its two moments."""

    fitted: str = "yes"
    sigma_range: tuple[float, float] = (0.0, math.inf)

    shape = (1,)
    mean = torch.tensor([0.4], dtype=F64)
    scale = math.sqrt(0.3 * (0.09 + 1.4**2) + 0.7 * (0.25 + 0.6**2))

    @property
    def law(self):
        one = torch.ones(1, dtype=F64)
        modes = DenseModes(shape=(1,), matrix=one[None])
        return GaussianLaw(mean=self.mean, modes=modes, variances=self.scale**2 * one) if self.fitted == "yes" else None

    def _denoise(self, x, sigma):
        v = WIDTHS**2 + (sigma**2 * torch.ones_like(x))[..., None]
        part = (WEIGHTS.log() - 0.5 * v.log() - 0.5 * (x[..., None] - CENTRES) ** 2 / v).softmax(-1)
        return (part * (CENTRES + WIDTHS**2 / v * (x[..., None] - CENTRES))).sum(-1)


def mixture_log_prob(x, level):
    v = WIDTHS**2 + level**2
    part = WEIGHTS.log() - 0.5 * (2 * math.pi * v).log() - 0.5 * (x - CENTRES) ** 2 / v
    return part.logsumexp(-1)


def quantiles(level):
    q = torch.tensor([0.02, 0.2, 0.4, 0.6, 0.8, 0.98], dtype=F64)
    low, high = torch.full_like(q, -100.0), torch.full_like(q, 100.0)
    for _ in range(100):
        middle = (low + high) / 2
        below = (WEIGHTS * torch.special.ndtr((middle[:, None] - CENTRES) / (WIDTHS**2 + level**2).sqrt())).sum(-1) < q
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle[:, None]


def gaussian(dtype=F64, complex_mean=False):
    values = torch.logspace(-3, math.log10(4.0), 16, dtype=F64)
    mean = torch.linspace(-1, 1, 16, dtype=F64)
    return GaussianPrior(mean=(mean + 2j * mean if complex_mean else mean), covariance=torch.diag(values)).to(
        dtype=dtype
    )


def test_error_table_on_a_gaussian():
    """Nats per dimension at a typical point (one standard deviation in every mode), computed by separate code."""
    prior = gaussian()
    x = prior.mean[None] + (torch.diag(prior.covariance) + 0.02**2).sqrt()
    for steps, expected, half_digit in ((64, 1.4e-2, 5e-4), (128, 3.7e-3, 5e-5), (256, 9e-4, 5e-5), (512, 2e-4, 5e-5)):
        value = log_density(prior, x, sigma_min=0.02, sigma_max=100.0, num_steps=steps)
        error = float((value - prior.log_prob(x, 0.02)).abs()) / 16
        assert error == pytest.approx(expected, abs=half_digit)  # of one or two digits


def test_a_full_covariance_and_every_row_to_1e_3_per_number():
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 16, dtype=F64, generator=rng)).Q
    values = torch.logspace(-3, math.log10(4.0), 16, dtype=F64)
    prior = GaussianPrior(mean=torch.arange(16.0, dtype=F64), covariance=(basis * values) @ basis.mT)
    x = prior.sample(6) + 0.02 * torch.randn(6, 16, dtype=F64, generator=rng)
    value, exact = log_density(prior, x, sigma_min=0.02, num_steps=512), prior.log_prob(x, 0.02)
    # The error is a sum over modes of (trace part) + u^2 (path part): up to about 3 times the typical one at 512 steps.
    assert float((value - exact).abs().max()) / 16 < 1e-3
    alone = log_density(prior, x[2:3], sigma_min=0.02, num_steps=512)
    torch.testing.assert_close(alone, value[2:3], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("steps", "expected"), [(64, 0.021), (128, 0.0054), (256, 0.0014), (512, 0.0004)])
def test_error_table_on_a_mixture(steps, expected):
    """Nats, worst of six quantiles of p_0.02, with the fitted end Gaussian; computed by separate code."""
    x = quantiles(0.02)
    value = log_density(Mixture(), x, sigma_min=0.02, sigma_max=20.0, num_steps=steps)
    worst = float((value - mixture_log_prob(x, 0.02)).abs().max())
    assert worst == pytest.approx(expected, rel=0.15)


def test_default_levels_on_a_mixture_with_and_without_a_law():
    """At 100 scales the end law N(mean, s^2 + scale^2/2) is off by scale^2/2 of s^2: below 1e-4 nats."""
    x = quantiles(0.02)
    for fitted in ("yes", "no"):
        value = log_density(Mixture(fitted=fitted), x, sigma_min=0.02)
        assert float((value - mixture_log_prob(x, 0.02)).abs().max()) < 4e-3


def test_complex_counts_both_components():
    prior = gaussian(complex_mean=True)
    x = prior.sample(3)
    error = log_density(prior, x, sigma_min=0.02, num_steps=512) - prior.log_prob(x, 0.02)
    assert float(error.abs().max()) / 32 < 1e-3


def test_a_noise_covariance_with_a_law():
    scale = torch.tensor([1.0, 1e-3, 50.0], dtype=F64)
    prior = GaussianPrior(
        mean=torch.zeros(3, dtype=F64),
        covariance=torch.diag(scale**2 * torch.tensor([1.0, 0.3, 2.0], dtype=F64)),
        noise_scale=scale,
    )
    x = prior.sample(4)
    error = log_density(prior, x, sigma_min=0.02, num_steps=512) - prior.log_prob(x, 0.02)
    assert float(error.abs().max()) / 3 < 1e-3


def test_float32_follows_float64():
    x = gaussian().sample(4)
    single = log_density(gaussian(torch.float32), x.float(), sigma_min=0.02)
    assert single.dtype == F64
    # x carries about 2 * 256 roundings of 6e-8, seen through 1/sqrt(l + sigma^2) of up to 27 in each of 16 modes.
    assert float((single - log_density(gaussian(), x, sigma_min=0.02)).abs().max()) < 512 * 6e-8 * 27 * 16


def test_probes_are_unbiased_keyed_and_exact_on_a_diagonal():
    """v^T J v = tr J for any signs v when J is diagonal; otherwise the mean over probes tends to it."""
    prior = gaussian()
    x = prior.sample(3)
    exact = log_density(prior, x, sigma_min=0.02, num_steps=64)
    torch.testing.assert_close(log_density(prior, x, sigma_min=0.02, num_steps=64, probes=1), exact)
    rng = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, dtype=F64, generator=rng)
    mixed = GaussianPrior(mean=torch.zeros(6, dtype=F64), covariance=root @ root.mT)
    x = mixed.sample(2)
    exact = log_density(mixed, x, sigma_min=0.1, num_steps=32)
    runs = torch.stack([log_density(mixed, x, sigma_min=0.1, num_steps=32, probes=16, seed=k) for k in range(24)])
    error = runs.std(0) / math.sqrt(len(runs))
    assert bool((error > 0).all()) and bool(((runs.mean(0) - exact).abs() < 5 * error).all())
    again = log_density(mixed, x, sigma_min=0.1, num_steps=32, probes=16, seed=3)
    assert torch.equal(again, runs[3])
    first = log_density(mixed, x[:1], sigma_min=0.1, num_steps=32, probes=16, seed=3)
    torch.testing.assert_close(first, again[:1], rtol=1e-10, atol=1e-10)


def test_large_signals_use_probes_by_default():
    prior = GaussianPrior(mean=torch.zeros(5, 13, dtype=F64), covariance=torch.eye(65, dtype=F64))
    x = prior.sample(2)
    with tally() as calls:
        value = log_density(prior, x, sigma_min=0.05, num_steps=64)
    assert calls == {"denoise": 2 * 2 * 64, "vjp": 2 * 2 * 64 * 8}
    # J is a multiple of I, so the probes are exact; at 64 steps of h = 0.094 Heun's error per number is below h^2 / 2.
    assert float((value - prior.log_prob(x, 0.05)).abs().max()) / 65 < 0.094**2 / 2


class Coloured(Mixture):
    def noise(self, z):
        return 2 * z


X = torch.zeros(1, 1, dtype=F64)
BAD = {
    "sigma_min zero": (
        lambda: log_density(Mixture(), X, sigma_min=0.0),
        ValueError,
        r"`sigma_min` must be positive",
    ),
    "sigma_min missing": (lambda: log_density(Mixture(), X), TypeError, r"sigma_min"),
    "order": (
        lambda: log_density(Mixture(), X, sigma_min=2.0, sigma_max=1.0),
        ValueError,
        r"below sigma_max = 1, got 2",
    ),
    "floor": (
        lambda: log_density(Mixture(sigma_range=(0.1, 9.0)), X, sigma_min=0.01),
        ValueError,
        r"`sigma_min` must be at least 0.1 and below sigma_max = 9, got 0.01",
    ),
    "ceiling": (
        lambda: log_density(Mixture(sigma_range=(0.1, 9.0)), X, sigma_min=0.2, sigma_max=10.0),
        ValueError,
        r"`sigma_max` must be at most 9, the largest level of the prior, got 10.0",
    ),
    "sigma_max": (
        lambda: log_density(Mixture(), X, sigma_min=0.1, sigma_max=-1.0),
        ValueError,
        r"`sigma_max` must be positive",
    ),
    "steps": (
        lambda: log_density(Mixture(), X, sigma_min=0.1, num_steps=0),
        ValueError,
        r"`num_steps` must be at least 1",
    ),
    "probes": (
        lambda: log_density(Mixture(), X, sigma_min=0.1, probes=0),
        ValueError,
        r"`probes` must be at least 1",
    ),
    "seed": (lambda: log_density(Mixture(), X, sigma_min=0.1, seed=0.5), TypeError, r"`seed` must be an integer"),
    "shape": (lambda: log_density(Mixture(), X[0], sigma_min=0.1), ValueError, r"`x` must be of shape \(batch, 1\)"),
    "dtype": (lambda: log_density(Mixture(), X + 0j, sigma_min=0.1), TypeError, r"`x` must be real floating"),
    "nan": (lambda: log_density(Mixture(), X * math.nan, sigma_min=0.1), ValueError, r"`x` must be finite"),
    "coloured": (
        lambda: log_density(Coloured(fitted="no"), X, sigma_min=0.1),
        UnsupportedError,
        r"not white, .* give the prior a `law`",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_the_old_name_is_the_same_function():
    assert iv.log_density is log_density and iv.log_likelihood is log_density
