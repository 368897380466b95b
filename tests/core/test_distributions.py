"""Laws of scalars against scipy.stats, and noise of an unknown level."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import invsolve as iv
from invsolve.core.distributions import check_distribution
from invsolve.errors import InputError, InputTypeError, UnsupportedError

F64 = torch.float64
CASES = {
    "normal": (iv.Normal(mean=-1.0, std=0.3), stats.norm(-1.0, 0.3)),
    "log-normal": (iv.LogNormal(median=0.2, factor=2.5), stats.lognorm(s=math.log(2.5), scale=0.2)),
    "uniform": (iv.Uniform(low=-2.0, high=3.0), stats.uniform(-2.0, 5.0)),
    "log-uniform": (iv.LogUniform(low=0.01, high=4.0), stats.loguniform(0.01, 4.0)),
}
every = pytest.mark.parametrize(("law", "reference"), CASES.values(), ids=CASES.keys())


@every
def test_transport_is_the_quantile_function_of_a_normal_number(law, reference):
    z = torch.linspace(-6, 6, 121, dtype=F64)
    want = torch.from_numpy(reference.ppf(stats.norm.cdf(z.numpy())))
    # The reference inverts a cumulative probability near 1, where it has lost digits: 1e-9 of a tail at six std.
    assert torch.allclose(law.transport(z), want, rtol=1e-7, atol=1e-10)
    assert bool((law.transport(z).diff() > 0).all())
    u = torch.tensor([0.001, 0.2, 0.5, 0.9], dtype=F64)
    assert torch.allclose(law.quantile(u), torch.from_numpy(reference.ppf(u.numpy())), rtol=1e-12)


@every
def test_density_and_slope(law, reference):
    z = torch.linspace(-4, 4, 41, dtype=F64, requires_grad=True)
    x = law.transport(z)
    assert torch.allclose(law.log_prob(x.detach()), torch.from_numpy(reference.logpdf(x.detach().numpy())), rtol=1e-12)
    (slope,) = torch.autograd.grad(x.sum(), z)
    z = z.detach()
    assert torch.allclose(law.log_slope(z), slope.log(), rtol=1e-9)
    # Change of variables: phi(z) = p(T(z)) T'(z).
    log_phi = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(law.log_prob(law.transport(z)) + law.log_slope(z), log_phi, rtol=1e-10)


@every
def test_median_and_support(law, reference):
    assert law.median == pytest.approx(reference.median(), rel=1e-12)
    assert law.support == pytest.approx(reference.support())
    low, high = law.support
    inside = law.transport(torch.tensor([-30.0, -8.0, 8.0, 30.0]))
    assert bool(((inside >= low) & (inside <= high)).all())
    for outside in [v for v in (low - 0.1, high + 0.1) if math.isfinite(v)]:
        assert float(law.log_prob(outside)) == -math.inf
    assert law.log_prob(0.05).dtype == F64


def test_a_log_normal_is_a_factor():
    law = iv.LogNormal(median=3.0, factor=2.0)
    assert float(law.transport(torch.ones(()))) == pytest.approx(6.0)
    assert float(law.transport(-torch.ones(()))) == pytest.approx(1.5)
    assert float(law.log_prob(0.0)) == -math.inf


@every
def test_samples_follow_the_law_and_their_key(law, reference):
    x = law.sample(2000, seed=3)
    assert stats.kstest(x.numpy(), reference.cdf).pvalue > 1e-3
    assert torch.equal(x[:10], law.sample(10, seed=3))
    assert not torch.equal(x[:10], law.sample(10, seed=4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: iv.Normal(mean=math.inf, std=1.0), "mean.*finite"),
        (lambda: iv.Normal(mean=0.0, std=0.0), "std.*positive"),
        (lambda: iv.LogNormal(median=-1.0, factor=2.0), "median.*positive"),
        (lambda: iv.LogNormal(median=1.0, factor=1.0), "factor.*above 1"),
        (lambda: iv.Uniform(low=1.0, high=1.0), "high.*above low = 1"),
        (lambda: iv.LogUniform(low=0.0, high=1.0), "low.*positive"),
        (lambda: iv.LogUniform(low=2.0, high=1.0), "high.*above low = 2"),
        (lambda: iv.Uniform(low=0.0, high=1.0).quantile(1.0), "u.*between 0 and 1"),
        (lambda: iv.Uniform(low=0.0, high=1.0).sample(0), "n.*at least 1"),
        (lambda: iv.Uniform(0.0, 1.0).sample(1, seed=2**64), "^Uniform: `seed` must be an integer of 64 bits"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_what_is_no_distribution():
    with pytest.raises(InputTypeError, match="length.*distribution"):
        check_distribution("Family", "length", 0.1)


# --- noise of an unknown level --------------------------------------------------------------------------------------
def test_unknown_noise_has_no_density_until_it_has_a_level():
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=3.0))
    y, clean = torch.ones(2, 3), torch.zeros(2, 3)
    assert noise.unknown and not noise.at(0.2).unknown
    for call in (lambda: noise.whiten(y), lambda: noise.log_prob(y, clean), lambda: noise.apply_covariance(y)):
        with pytest.raises(UnsupportedError, match=r"std is not known \(LogNormal.*noise.at"):
            call()
    assert torch.equal(noise.at(0.2).log_prob(y, clean), iv.noise.Gaussian(std=0.2).log_prob(y, clean))


def test_a_noise_level_must_be_positive():
    with pytest.raises(InputError, match="std.*positive numbers.*LogNormal"):
        iv.noise.Gaussian(std=iv.Normal(mean=1.0, std=0.1))


def test_the_problem_prints_what_is_unknown():
    A = iv.operators.Matrix(matrix=torch.eye(3))
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=3.0))
    text = str(iv.Problem(A, torch.ones(3), noise=noise))
    assert "unknown std, LogNormal(median=0.1, factor=3.0)" in text
    blur = iv.operators.Family(
        lambda gain: iv.operators.Matrix(matrix=gain * torch.eye(3)), gain=iv.Uniform(low=1, high=2)
    )
    assert "unknown in the operator: gain Uniform(low=1.0, high=2.0)" in str(iv.Problem(blur, torch.ones(3), noise=1.0))


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (iv.Normal(0.0, 2.0), iv.Normal(mean=0.0, std=2.0)),
        (iv.LogNormal(0.1, 2.0), iv.LogNormal(median=0.1, factor=2.0)),
        (iv.Uniform(1.0, 2.0), iv.Uniform(low=1.0, high=2.0)),
        (iv.LogUniform(1.0, 2.0), iv.LogUniform(low=1.0, high=2.0)),
    ],
    ids=lambda d: type(d).__name__,
)
def test_both_arguments_may_be_given_by_position(short, long):
    assert short == long
