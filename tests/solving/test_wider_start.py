"""A mode in the tail of the prior: chains from a wider start meet it, and `auto` looks for it."""

import math
from collections import Counter

import pytest
import torch

import invsolve as iv
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.wider_start import Look
from invsolve.strategies import NoiseMCMC
from invsolve.strategies.diagnostics import Diagnostics

D = torch.float64
N, WIDTH = 4, 0.3


def two_bumps(far, share=0.75):
    """N(0, I) and a likelihood of two Gaussian bumps, at 0.5 and -far on the first axis, the second with ``share``.

    As an operator: y = 0 and noise 1 give the log likelihood ``-A(x)^2 / 2``. Also the posterior mean and std of the
    first component, and the log-evidence.
    """
    total = 1 + WIDTH**2
    places = torch.zeros(2, N, dtype=D)
    places[0, 0], places[1, 0] = 0.5, -far
    inside = -0.5 * places.square().sum(1) / total  # log of a bump's mass, up to what both share
    height = inside[0] - inside[1] + math.log(share / (1 - share))
    top = max(float(height), 0.0) + 1

    def root(x):
        near, away = (-0.5 * (x - p).square().sum(-1) / WIDTH**2 for p in places)
        return (2 * (top - torch.logaddexp(near, away + height))).sqrt()[..., None]

    log_evidence = float(inside[0]) - math.log(1 - share) + N * math.log(WIDTH / total**0.5) - top
    mean = ((1 - share) * 0.5 - share * far) / total
    std = math.sqrt(WIDTH**2 / total + share * (1 - share) * ((far + 0.5) / total) ** 2)
    A = iv.operators.from_callable(root, in_shape=(N,), out_shape=(1,))
    return A, mean, std, log_evidence - 0.5 * math.log(2 * math.pi)


PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=D), covariance=torch.eye(N, dtype=D))
Y = torch.zeros(1, dtype=D)


@pytest.mark.parametrize("kernel", ["hmc", "pcn"])
def test_chains_from_a_wider_start_have_the_same_posterior(kernel):
    """A Gaussian one, with its evidence: the wide start is a way, not another target."""
    A = iv.operators.Matrix(matrix=torch.tensor([[1.0, 0.5, 0, 0], [0, 1, -1, 2]], dtype=D))
    y = torch.tensor([[1.0, -2.0]], dtype=D)
    exact = PRIOR.posterior(A, y, noise=0.5)
    result = iv.solve(A, y, PRIOR, noise=0.5, strategy=NoiseMCMC(spread=3.0, kernel=kernel), num_samples=2048)
    bound = 5 * (float(result.info["mean_error"].max()) + 2048**-0.5)
    assert float(((result.mean - exact.mean) / exact.std).abs().max()) < bound
    assert float((result.std / exact.std - 1).abs().max()) < 5 * float(result.info["std_error"].max()) + 5 * 4096**-0.5
    assert abs(float(result.log_evidence - exact.log_evidence)) < 4 * float(result.log_evidence_se)


def test_a_mode_that_prior_draws_do_not_meet_is_found():
    """The heavier mode is six prior stds out: without a look the mean was off by 2 posterior stds, certified."""
    A, mean, std, log_evidence = two_bumps(6.0)
    result = iv.solve(A, Y, PRIOR, noise=1.0, num_samples=512, seed=1, budget=iv.Budget(evaluations=4 * 10**6))
    assert abs(float(result.mean[0]) - mean) / std < 0.1 + 4 * 512**-0.5
    assert abs(float(result.log_evidence) - log_evidence) < 3 * float(result.log_evidence_se)
    certificate = result.certificate
    assert certificate.reached and "found mass that the first chains had missed" in certificate.looked
    assert certificate.looked in str(certificate) and "spread=3.0" in certificate.attempts[-1].strategy
    assert certificate.attempts[0].reached == 1  # it would have been believed


def test_a_look_that_finds_nothing_says_what_it_took(tmp_path):
    A = iv.operators.from_callable(lambda x: x + 0.1 * x**3 + 1e-6 * x.roll(1, -1), (N,), (N,))
    result = iv.solve(A, torch.zeros(N, dtype=D), PRIOR, noise=0.3, num_samples=8)
    assert result.certificate.reached and "finds the same (NoiseMCMC(" in result.certificate.looked
    assert sum(result.operator_calls.values()) > result.certificate.attempts[0].evaluations
    result.save(tmp_path / "r.nc")
    assert iv.load_result(tmp_path / "r.nc").certificate.looked == result.certificate.looked


def test_where_no_time_is_left_for_a_look_the_certificate_says_so(monkeypatch):
    monkeypatch.setattr("invsolve.solving.solve.Budget", lambda: iv.Budget(seconds=1e-6))
    A = iv.operators.from_callable(lambda x: x + 0.1 * x**3 + 1e-6 * x.roll(1, -1), (N,), (N,))
    certificate = iv.solve(A, torch.zeros(N, dtype=D), PRIOR, noise=0.3, num_samples=8).certificate
    assert certificate.reached and "none was looked for: a look from a wider start would take" in str(certificate)


def found(samples, log_evidence, se, error=0.01):
    rows = len(samples)
    info = {"log_evidence": log_evidence, "log_evidence_se": se, "mean_error": error, "std_error": error}
    return StrategyOutput(
        samples=samples,
        chi2=torch.ones(rows, dtype=D),
        info=Diagnostics.from_mapping({k: torch.full((rows,), v, dtype=D) for k, v in info.items()}),
        calls=Counter(),
        processed=rows,
        seconds=1.0,
        chunk=rows,
    )


def test_a_look_counts_a_gain_of_evidence_and_means_that_differ():
    x = torch.randn(256, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    one = torch.zeros(1, dtype=torch.int64)
    same = Look.at(found(x, -3.0, 0.1), found(x.flip(0), -3.1, 0.1), one, 1)
    assert not bool(same.missed)
    richer = Look.at(found(x, -3.0, 0.1), found(x.flip(0), -2.0, 0.2), one, 1)
    poorer = Look.at(found(x, -2.0, 0.1), found(x.flip(0), -3.0, 0.2), one, 1)
    assert bool(richer.missed) and not bool(poorer.missed)
    moved = Look.at(found(x, -3.0, 0.1), found(x + torch.tensor([0.0, 0.0, 1.0], dtype=D), -3.0, 0.1), one, 1)
    assert bool(moved.missed)


def test_a_spread_below_one_or_with_a_start_is_refused():
    with pytest.raises(iv.errors.InputError, match="`spread` must be at least 1"):
        NoiseMCMC(spread=0.5)
    with pytest.raises(iv.errors.InputError, match="which says where chains start"):
        NoiseMCMC(spread=2.0, start=iv.strategies.MMPS())
