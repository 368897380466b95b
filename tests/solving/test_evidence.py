"""The evidence that a solve hands out: right within its stated error, or not promised."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.errors import UnsupportedError

D = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


# --- priors known by their denoiser ---------------------------------------------------------------------------------
def two_modes(share: float, std: float) -> tuple[iv.priors.Prior, iv.priors.GaussianMixturePrior]:
    """``(1 - share) N(0, std^2) + share N(4, std^2)`` by its denoiser only, and whole."""
    whole = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([1 - share, share], dtype=D),
        means=torch.tensor([[0.0], [4.0]], dtype=D),
        covariances=torch.full((2, 1, 1), std**2, dtype=D),
    )
    hidden = iv.priors.from_denoiser(
        whole._denoise, shape=(1,), mean=whole.mean, scale=whole.scale, detail=std, dtype=D
    )
    return hidden, whole


IDENTITY = iv.operators.Matrix(matrix=torch.eye(1, dtype=D))


@pytest.mark.parametrize(("share", "std"), [(0.01, 0.1), (0.01, 0.3), (0.5, 0.3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rare_mode_has_its_evidence(share: float, std: float, seed: int) -> None:
    """Data on the second mode. Particles reach it by steps whose chain ends there too seldom, on all islands alike."""
    hidden, whole = two_modes(share, std)
    y = torch.tensor([4.1], dtype=D)
    truth = float(whole.posterior(IDENTITY, y[None], noise=0.3).log_evidence[0])
    result = iv.solve(IDENTITY, y, hidden, noise=0.3, num_samples=64, seed=seed)
    assert result.strategy == "SMC" and result.certificate.reached
    off, se = abs(float(result.log_evidence) - truth), float(result.log_evidence_se)
    assert off < 3 * se < 1.5
    if share == 0.5:  # nothing is lost where it is easy
        assert se < 0.03


@pytest.mark.parametrize("share", [0.01, 1e-4])
def test_particles_that_know_the_density_have_it_too(share: float) -> None:
    _, whole = two_modes(share, 0.1)
    y = torch.tensor([4.1], dtype=D)
    truth = float(whole.posterior(IDENTITY, y[None], noise=0.3).log_evidence[0])
    result = iv.solve(IDENTITY, y, whole, noise=0.3, strategy=iv.strategies.SMC(), num_samples=256)
    assert abs(float(result.log_evidence) - truth) < 3 * float(result.log_evidence_se) < 0.3


def test_without_a_density_large_signals_are_not_promised_one() -> None:
    """Steps without covariances, from a prior of 150 numbers: the chain ends near the prior, by how much nobody says."""
    n = 150
    hidden = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(n,), scale=1.0, dtype=D)
    A = iv.operators.Subsample(index=torch.arange(0, n, 15), in_shape=(n,))
    y = normal(2, 10)
    result = iv.solve(A, y, hidden, noise=0.5, strategy=iv.strategies.SMC(num_steps=10), num_samples=16)
    assert bool(result.log_evidence.isnan().all()) and bool(result.log_evidence_se.isnan().all())
    assert "log evidence: not known" in result.summary() and not bool(result.failed.any())
    with pytest.raises(UnsupportedError, match=r"evidence of items 0, 1 in the result 'hidden' is not known: what SMC"):
        iv.compare({"hidden": result, "again": result})


# --- chains ---------------------------------------------------------------------------------------------------------
def linear(n: int, m: int, std: float, seed: int) -> tuple[Tensor, Tensor, iv.priors.GaussianPrior, float]:
    """Matrix, data, prior N(0, I), and the log density of the data."""
    matrix = normal(m, n, seed=seed) / math.sqrt(n)
    prior = iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=torch.eye(n, dtype=D))
    y = matrix @ prior.sample(1, seed=seed)[0] + std * normal(m, seed=seed + 1)
    covariance = matrix @ matrix.mT + std**2 * torch.eye(m, dtype=D)
    law = torch.distributions.MultivariateNormal(torch.zeros(m, dtype=D), covariance)
    return matrix, y, prior, float(law.log_prob(y))


@pytest.mark.parametrize("seed", range(3))
def test_moves_without_a_gradient_that_lag_behind(seed: int) -> None:
    """By the rises alone it is too low by 0.1 to 3 nats: all islands are late together."""
    matrix, y, prior, truth = linear(16, 16, 0.1, seed)
    strategy = iv.strategies.NoiseMCMC(kernel="pcn")
    result = iv.solve(iv.operators.Matrix(matrix=matrix), y, prior, noise=0.1, strategy=strategy, num_samples=16)
    assert abs(float(result.log_evidence) - truth) < 3 * float(result.log_evidence_se) < 0.6


def test_where_no_density_can_be_fitted_lag_is_part_of_the_error() -> None:
    """132 unknowns; islands agree within 1.5 nats on a value that is off by more than that."""
    matrix, y, prior, truth = linear(132, 30, 0.1, 0)
    strategy = iv.strategies.NoiseMCMC(kernel="pcn", chains=256, rounds=4, patience=3)
    result = iv.solve(iv.operators.Matrix(matrix=matrix), y, prior, noise=0.1, strategy=strategy, num_samples=16)
    off, se = abs(float(result.log_evidence) - truth), float(result.log_evidence_se)
    assert off < 3 * se
    assert off > 3 * float(result.info["island_error"][0])


# --- chains that were stopped ---------------------------------------------------------------------------------------
def stopped(*shape: int) -> iv.Result:
    """y = x^3 - 2 x with little noise, after one move."""
    n = shape[-1]
    prior = iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=torch.eye(n, dtype=D))
    A = iv.operators.from_callable(lambda x: x**3 - 2 * x + 1e-6 * x.roll(1, -1), (n,), (n,))
    x = normal(*shape)
    return iv.solve(A, x**3 - 2 * x, prior, noise=1e-4, num_samples=8, budget=1e-6)


def finished() -> iv.Result:
    n = 4
    prior = iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=torch.eye(n, dtype=D))
    x = normal(n)
    return iv.solve(iv.operators.Matrix(matrix=torch.eye(n, dtype=D)), x**3 - 2 * x, prior, noise=1.0, num_samples=8)


def test_below_the_full_likelihood_there_is_no_figure() -> None:
    result = stopped(4)
    assert float(result.info["beta"][0]) < 1e-4
    assert bool(result.log_evidence.isnan()) and bool(result.log_evidence_se.isnan())
    assert not result.certificate.reached and bool(result.certificate.mean_error.isnan())
    assert "the log-evidence is not known" in str(result.certificate)
    assert float(result.ess) == 0 and bool(result.unfinished)
    assert "log evidence: not known" in result.summary() and "effective samples: 0" in result.summary()
    assert any("the budget ended when the chains had reached the power" in text for text in result.warnings)
    for name in ("mean_error", "std_error", "island_error", "rhat", "nested_rhat", "ess", "drift"):
        assert bool(result.info[name].isnan().all()), name
    whole = finished()
    assert float(whole.ess) == 8 and not bool(whole.unfinished)


def test_compare_refuses_what_was_not_finished_by_name() -> None:
    fine, coarse = stopped(4), finished()
    words = r"evidence in the result 'fine' is not known: its chains were stopped.*Raise num_steps, or the budget"
    with pytest.raises(UnsupportedError, match=words):
        iv.compare({"coarse": coarse, "fine": fine})
    both = stopped(2, 4)
    with pytest.raises(UnsupportedError, match="of items 0, 1 in the result 'model 0'"):
        iv.compare([both, both])


def test_check_says_so_and_blames_nothing_else() -> None:
    """Samples of next to no likelihood do not fit, which is not the noise level's fault."""
    report = stopped(4).check()
    assert not report.passed and not report["finished"].passed
    assert [check.name for check in report.checks] == ["rows", "finished"]
    assert "of the power" in report["finished"].text and "the budget" in report["finished"].text
    assert "of 2 of 2 items" in stopped(2, 4).check()["finished"].text
