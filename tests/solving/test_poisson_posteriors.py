"""Posteriors of counts against quadrature, and `result.check()` of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.noise import Gaussian, Poisson, PoissonTransmission

CPU, F64 = torch.device("cpu"), torch.float64


def exponential(gains):
    """``x -> gains exp(x)``: with a Gaussian prior of x, log-normal intensities under a diagonal operator."""

    def f(x):
        return gains * torch.exp(x)

    n = len(gains)
    return iv.operators.from_callable(f, (n,), (n,), dtype=F64)


def gaussian(n, mean, std):
    return iv.priors.GaussianPrior(mean=torch.full((n,), mean, dtype=F64), covariance=std**2 * torch.eye(n, dtype=F64))


def counted(A, prior, noise, seed):
    x = prior.sample(1, seed=seed)
    return noise.check(A.out_shape, 1, F64, CPU).sample(A(x), Draws.for_rows(seed, [0], [0], CPU))


def by_quadrature(log_likelihood, mean, std, of):
    """Mean and std of ``of(x)`` for every entry, x normal before the data: 20,001 nodes over 18 std."""
    t = mean + std * np.linspace(-9, 9, 20001)[:, None]
    log = log_likelihood(t) - 0.5 * ((t - mean) / std) ** 2
    w = np.exp(log - log.max(0))
    w /= w.sum(0)
    first = (w * of(t)).sum(0)
    return first, np.sqrt((w * (of(t) - first) ** 2).sum(0))


def poisson_log(y, expected):
    return np.where(expected > 0, y * np.log(np.maximum(expected, 1e-300)) - expected, -np.inf)


def errors(found, truth):
    """Relative errors of means, and ratios of stds."""
    (mean, std), (true_mean, true_std) = found, truth
    return np.abs(mean / true_mean - 1), std / true_std


def moments(result, f=lambda x: x):
    derived = result.map(f)
    return derived.mean[0].numpy(), derived.std[0].numpy()


CHAINS = iv.strategies.NoiseMCMC(chains=4096)
SCALAR = {"auto": "auto", "SMC": iv.strategies.SMC(num_steps=25)}


@pytest.mark.parametrize("counts", [0.5, 5.0, 200.0])
@pytest.mark.parametrize("name", SCALAR)
def test_one_log_normal_intensity(name, counts):
    noise = Poisson(counts_per_unit=counts, background=0.3)
    A, prior = exponential(torch.ones(1, dtype=F64)), gaussian(1, 0.0, 0.7)
    y = counted(A, prior, noise, 2)
    truth = by_quadrature(lambda t: poisson_log(y[0].numpy(), counts * np.exp(t) + 0.3), 0.0, 0.7, np.exp)
    result = iv.solve(A, y, prior, noise=noise, strategy=SCALAR[name], num_samples=8192, seed=0)
    mean, ratio = errors(moments(result, torch.exp), truth)
    assert mean.max() < 0.03
    assert 0.95 < ratio.min() <= ratio.max() < 1.05
    assert 0 < float(result.chi2.mean()) < 10


GAINS = torch.exp(torch.linspace(-0.7, 0.7, 64, dtype=F64))
MANY = {"SMC": iv.strategies.SMC(num_steps=15), "MMPS": iv.strategies.MMPS(covariance="jacobian")}


@pytest.mark.slow
@pytest.mark.parametrize("counts", [0.5, 20.0])
def test_64_log_normal_intensities_by_chains(counts):
    """4,096 chains: the std of a log-normal entry is known to 2 %, so 64 of them to 5 %."""
    noise = Poisson(counts_per_unit=counts, background=1.0)
    A, prior = exponential(GAINS), gaussian(64, 0.0, 0.5)
    y = counted(A, prior, noise, 3)
    expected = lambda t: counts * GAINS.numpy() * np.exp(t) + 1.0  # noqa: E731
    truth = by_quadrature(lambda t: poisson_log(y[0].numpy(), expected(t)), 0.0, 0.5, np.exp)
    result = iv.solve(A, y, prior, noise=noise, strategy=CHAINS, num_samples=8 * 4096, seed=0)
    mean, ratio = errors(moments(result, torch.exp), truth)
    assert mean.max() < 0.03
    assert 0.95 < ratio.min() <= ratio.max() < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("counts", [0.5, 20.0])
@pytest.mark.parametrize("name", ["SMC", "MMPS"])
def test_64_intensities_by_particles_and_by_guidance(name, counts):
    """Intensities 3 +- 0.5 under a diagonal matrix. Ratios of stds: over the entries, each known to 2 to 3 %."""
    noise = Poisson(counts_per_unit=counts, background=1.0)
    A, prior = iv.operators.Matrix(matrix=torch.diag(GAINS)), gaussian(64, 3.0, 0.5)
    y = counted(A, prior, noise, 3)
    expected = lambda t: counts * GAINS.numpy() * t + 1.0  # noqa: E731
    truth = by_quadrature(lambda t: poisson_log(y[0].numpy(), expected(t)), 3.0, 0.5, lambda t: t)
    result = iv.solve(A, y, prior, noise=noise, strategy=MANY[name], num_samples=512, seed=0)
    mean, ratio = errors(moments(result), truth)
    assert mean.max() < 0.03
    n = 512 if result.log_weights is None else float(result.ess.min())
    assert abs(ratio.mean() - 1) < 5 / np.sqrt(2 * n * 64) + (0.02 if name == "MMPS" else 0.0)
    assert np.abs(ratio - 1).max() < 0.05 + 5 / np.sqrt(2 * n)


def test_a_transmission_measurement():
    """Line integrals 1 +- 0.5, 20 counts in air, scatter: chains and particles against quadrature."""
    n = 8
    noise = PoissonTransmission(i0=20.0, background=2.0)
    A, prior = iv.operators.Matrix(matrix=torch.eye(n, dtype=F64)), gaussian(n, 1.0, 0.5)
    y = counted(A, prior, noise, 5)
    truth = by_quadrature(lambda t: poisson_log(y[0].numpy(), 20 * np.exp(-t) + 2), 1.0, 0.5, lambda t: t)
    for strategy in (iv.strategies.NoiseMCMC(chains=2048), iv.strategies.SMC(num_steps=15)):
        result = iv.solve(A, y, prior, noise=noise, strategy=strategy, num_samples=4096, seed=0)
        mean, ratio = errors(moments(result), truth)
        assert mean.max() < 0.03
        assert 0.93 < ratio.min() <= ratio.max() < 1.07


def test_many_counts_are_gaussian():
    """10,000 counts: the posterior is that of Gaussian noise of std sqrt(y), in closed form."""
    n = 4
    noise = Poisson(counts_per_unit=1e4)
    A, prior = iv.operators.Matrix(matrix=torch.eye(n, dtype=F64)), gaussian(n, 1.0, 0.2)
    y = counted(A, prior, noise, 7)
    exact = prior.posterior(A, y / 1e4, Gaussian(std=y.sqrt() / 1e4))
    result = iv.solve(A, y, prior, noise=noise, strategy=iv.strategies.NoiseMCMC(chains=1024), num_samples=2048, seed=0)
    std = y[0].sqrt() / 1e4
    assert ((result.mean[0] - exact.mean[0]).abs() < (0.02 + 5 / 1024**0.5) * std).all()
    assert ((result.std[0] / std - 1).abs() < 0.02 + 5 / 2048**0.5).all()


@pytest.mark.parametrize("form", ["dense", "bare"])
def test_two_modes_by_particles(form):
    """A mixture prior, whose V is a matrix: at most 128 numbers it is formed, of larger signals it is not."""
    weights, means, stds = (0.7, 0.3), (2.0, 5.0), (0.4, 0.6)
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor(weights, dtype=F64),
        means=torch.tensor(means, dtype=F64)[:, None],
        covariances=torch.tensor(stds, dtype=F64).square()[:, None, None],
    )
    A, noise = iv.operators.Matrix(matrix=torch.ones(2, 1, dtype=F64)), Poisson(counts_per_unit=1.0, background=0.5)
    y = torch.tensor([[3.0, 5.0]], dtype=F64)
    x = np.linspace(0.01, 9, 6001)
    law = sum(w / s * np.exp(-0.5 * ((x - m) / s) ** 2) for w, m, s in zip(weights, means, stds, strict=True))
    p = law * np.exp(8 * np.log(x + 0.5) - 2 * x)
    p /= p.sum()
    mean, high = (p * x).sum(), p[x > 3.6].sum()
    std = np.sqrt((p * (x - mean) ** 2).sum())
    strategy = iv.strategies.SMC() if form == "dense" else iv.strategies.SMC(num_steps=200, dense_size=0)
    result = iv.solve(A, y, prior, noise=noise, strategy=strategy, num_samples=4096, seed=0)
    n = float(result.ess.min())
    weight = (result.weights[:, 0] * (result.samples[:, 0, 0] > 3.6)).sum()
    assert n > 500
    assert abs(float(weight) - high) < 5 * np.sqrt(high * (1 - high) / n) + 0.01
    assert abs(float(result.mean) - mean) < (5 / np.sqrt(n) + 0.02) * std
    assert abs(float(result.std) / std - 1) < 5 / np.sqrt(2 * n) + 0.02


@pytest.mark.parametrize("name", ["SMC", "MMPS", "TMPD", "PiGDM"])
def test_items_do_not_see_each_other(name):
    """Levels depend on the noise, which is made Gaussian item by item: an item alone is as in any batch."""
    n = 4
    A, prior = exponential(GAINS[:n]), gaussian(n, 0.0, 0.5)
    noise = Poisson(counts_per_unit=torch.tensor([[4.0], [50.0]], dtype=F64))
    y = torch.tensor([[3.0, 0.0, 5.0, 9.0], [40.0, 21.0, 70.0, 90.0]], dtype=F64)
    strategy = getattr(iv.strategies, name)(num_steps=8)
    both = iv.solve(A, y, prior, noise=noise, strategy=strategy, num_samples=16, seed=0)
    for item, gain in ((0, 4.0), (1, 50.0)):
        alone = iv.solve(
            A,
            y[item : item + 1],
            prior,
            noise=Poisson(counts_per_unit=gain),
            strategy=strategy,
            num_samples=16,
            seed=0,
            item_ids=[item],
        )
        assert torch.allclose(alone.samples[:, 0], both.samples[:, item], rtol=0, atol=1e-8)


def test_calibrate_takes_counts():
    A, prior = iv.operators.Matrix(matrix=torch.eye(2, dtype=F64)), gaussian(2, 3.0, 0.5)
    found = iv.calibrate(A, prior, noise=Poisson(counts_per_unit=2.0), strategy=WALK, runs=20, num_samples=31, seed=0)
    assert found.passed, str(found)


def test_samples_that_do_not_fit_counts_are_said_to():
    A, prior = iv.operators.Matrix(matrix=torch.eye(4, dtype=F64)), gaussian(4, 3.0, 0.5)
    y = torch.full((1, 4), 15.0, dtype=F64)
    for noise, fits in ((Poisson(counts_per_unit=5.0), True), (Poisson(counts_per_unit=0.5), False)):
        for strategy in (WALK, iv.strategies.MMPS()):
            result = iv.solve(A, y, prior, noise=noise, strategy=strategy, num_samples=64, seed=0)
            assert any("do not fit the data" in text for text in result.warnings) is not fits


# --- is this posterior right? ----------------------------------------------------------------------------------------
WALK = iv.strategies.NoiseMCMC(chains=256, islands=4)
TRUE = Poisson(counts_per_unit=10.0, background=3.0)


def report(noise, seed):
    A, prior = exponential(GAINS), gaussian(64, 0.0, 0.3)
    y = counted(A, prior, TRUE, seed)
    return iv.solve(A, y, prior, noise=noise, strategy=WALK, num_samples=64, seed=seed).check(solves=True)


@pytest.mark.slow
def test_a_right_model_of_counts_passes():
    """At most 2 % false alarms: of 3 reports one fails with a probability of 0.06 at most; the seeds are fixed."""
    for seed in range(3):
        found = report(TRUE, seed)
        assert found.passed, str(found)
        names = {check.name for check in found.checks}
        assert names == {"rows", "prior", "prior predictive", "split data", "replicated data"}
        assert "left out for Poisson noise: noise level" in found.notes[0]
        assert "each count given to one of two" in found["split data"].text


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "noise",
    [
        Poisson(counts_per_unit=15.0, background=3.0),
        Poisson(counts_per_unit=10 / 1.5, background=3.0),
        Poisson(counts_per_unit=10.0, background=12.0),
    ],
    ids=["gain 1.5 times too large", "gain 1.5 times too small", "background 4 times too large"],
)
def test_a_wrong_gain_or_background_fails(noise, seed):
    assert not report(noise, seed).passed


def test_counts_that_are_none_fail():
    """Digital units, 6 to a photon: 8 readings of each of 8 intensities spread more than counts do."""
    A = iv.operators.Matrix(matrix=torch.eye(8, dtype=F64).repeat_interleave(8, 0))
    prior = gaussian(8, 3.0, 0.5)
    photons = counted(A, prior, Poisson(counts_per_unit=5.0), 0)
    for factor, passed in ((1, True), (6, False)):
        noise = Poisson(counts_per_unit=factor * 5.0)
        result = iv.solve(A, factor * photons, prior, noise=noise, strategy=WALK, num_samples=64, seed=0)
        assert result.check(solves=True)["split data"].passed is passed


def test_halves_of_counts_are_independent_poisson_numbers():
    from invsolve.diagnostics.data_fission import halves, joined
    from invsolve.diagnostics.resolve import SolveAgain
    from invsolve.problem import Problem

    n, rows = 3, 4000
    A = iv.operators.Matrix(matrix=torch.eye(n, dtype=F64))
    x = torch.tensor([0.1, 1.0, 20.0], dtype=F64).expand(rows, n)
    noise = Poisson(counts_per_unit=2.0, background=0.4)
    y = noise.check((n,), rows, F64, CPU).sample(x, Draws.for_rows(0, [0] * rows, range(rows), CPU))
    again = SolveAgain(problem=Problem(A, y, noise=noise), prior=gaussian(n, 0.0, 1.0), solver=None, seed=0)
    first, second = halves(again, "split data")
    assert torch.equal(first.data + second.data, y)
    assert first.noise.counts_per_unit == 1.0
    assert first.noise.background == second.noise.background == 0.2
    mu = x[0] + 0.2
    for half in (first.data, second.data):
        assert ((half.mean(0) - mu).abs() < 5 * (mu / rows).sqrt()).all()
        assert ((half.var(0) - mu).abs() < 5 * ((mu + 2 * mu**2) / rows).sqrt()).all()
    centred = [h - h.mean(0) for h in (first.data, second.data)]
    assert ((centred[0] * centred[1]).mean(0).abs() < 5 * mu / rows**0.5).all()
    both = joined(first, second.data)
    assert torch.equal(both.data, y)
    assert both.noise.counts_per_unit == 2.0


def test_other_noise_is_checked_by_simulation_only():
    A, prior = iv.operators.Matrix(matrix=torch.eye(16, dtype=F64)), gaussian(16, 3.0, 0.5)
    noise = iv.noise.Speckle(looks=4.0)
    x = prior.sample(1, seed=0)
    y = noise.check((16,), 1, F64, CPU).sample(x, Draws.for_rows(0, [0], [0], CPU))
    found = iv.solve(A, y, prior, noise=noise, strategy=WALK, num_samples=64, seed=0).check()
    assert {check.name for check in found.checks} == {"rows", "prior", "prior predictive"}
    assert found.passed
    assert found.notes[1:] == ("no split and no replicated data: this noise has no known split into two measurements",)
    wrong = iv.solve(A, 3 * y, prior, noise=noise, strategy=WALK, num_samples=64, seed=0).check()
    assert not wrong["prior predictive"].passed
