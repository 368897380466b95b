"""`result.check()`: passes right posteriors at its stated rate, and notices what it says it notices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.diagnostics.prior_data_conflict import evidence_tests
from invsolve.diagnostics.repeated_values import repeats_test
from invsolve.diagnostics.report import SHARES
from invsolve.diagnostics.residuals import sample_tests

N, STD = 20, 0.1


def prior(std: float = 1.0, length: float = 3.0) -> iv.priors.GaussianPrior:
    i = torch.arange(N * N)
    d2 = (i[:, None] // N - i // N) ** 2 + (i[:, None] % N - i % N) ** 2
    covariance = std**2 * (torch.exp(-d2.double() / (2 * length**2)) + 1e-4 * torch.eye(N * N)).float()
    return iv.priors.GaussianPrior(mean=torch.zeros(N, N), covariance=covariance)


PRIOR = prior()
A = iv.operators.Mask(mask=torch.rand(N, N, generator=torch.Generator().manual_seed(0)) < 0.7)


def measured(seed: int, std: float = STD, batch: int = 1) -> Tensor:
    x = PRIOR.sample(batch, seed=seed)
    return A(x + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))


def test_false_alarms_stay_below_the_level():
    """100 right posteriors, level 2 %: more than 6 alarms would have probability 0.004. The tests without replicates,
    which give a p-value for each item.
    """
    y = torch.cat([measured(seed) for seed in range(100)])
    result = iv.solve(A, y, PRIOR, noise=STD, num_samples=8)
    found = [*sample_tests(result.problem, PRIOR, result.samples), *repeats_test(result.problem)]
    found += evidence_tests(result.problem, PRIOR, seed=0)
    assert {f.name for f in found} == {
        "noise level",
        "outliers",
        "structure",
        "prior",
        "repeated values",
        "evidence",
        "operator",
        "sensors",
        "innovations",
    }
    alarms = np.stack([f.p < SHARES[f.name] for f in found]).any(0)
    assert alarms.sum() <= 6


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.5, 2.0])
def test_a_wrong_noise_level_is_noticed(factor):
    report = iv.solve(A, measured(1), PRIOR, noise=STD * factor, num_samples=8).check()
    assert not report["noise level"].passed
    assert "FAIL  noise level" in str(report) and str(report).startswith("Conflict")


def test_the_stated_power_is_kept():
    """A noise level wrong by what the report says it can detect is noticed nine times in ten: 40 draws, 5 s.e.
    below 0.9.
    """
    stated = float(
        str(iv.solve(A, measured(0), PRIOR, noise=STD, num_samples=8).check()["noise level"].text)
        .split("noise std ")[1]
        .split(" ")[0]
    )
    y = torch.cat([measured(seed, std=STD * stated) for seed in range(40)])
    result = iv.solve(A, y, PRIOR, noise=STD, num_samples=8)
    noise = next(f for f in sample_tests(result.problem, PRIOR, result.samples) if f.name == "noise level")
    found = (noise.p < SHARES["noise level"]).sum()
    assert 1 < stated < 2
    assert found >= 40 * (0.9 - 5 * (0.9 * 0.1 / 40) ** 0.5)


def test_dead_sensors_are_noticed():
    y = measured(2)
    y[0, 3, :4] = 5.0
    assert not iv.solve(A, y, PRIOR, noise=STD, num_samples=8).check()["outliers"].passed


def test_a_wrong_operator_is_noticed():
    shifted = iv.operators.Mask(mask=A.mask)
    y = shifted(torch.roll(PRIOR.sample(1, seed=5), 4, dims=1)) + 0.5 * torch.linspace(-1, 1, N) ** 3
    y = A(y + STD * torch.randn(1, N, N, generator=torch.Generator().manual_seed(0)))
    damped = iv.operators.GaussianBlur(std=1.5, in_shape=(N, N), boundary="zero")
    assert not iv.solve(A @ damped, y, PRIOR, noise=STD, num_samples=8).check().passed


@pytest.mark.parametrize(
    "foreign", [prior(std=0.4), prior(std=2.5), prior(length=8.0)], ids=["small", "large", "smooth"]
)
def test_a_foreign_prior_is_noticed(foreign):
    report = iv.solve(A, measured(3), foreign, noise=STD, num_samples=8).check()
    assert not report.passed


def test_a_right_posterior_of_several_items_passes_and_prints():
    report = iv.solve(A, measured(4, batch=3), PRIOR, noise=STD, num_samples=8).check()
    assert report.passed
    text = str(report)
    assert text.startswith("No conflict found (at most 2% false alarms") and "can detect a noise std" in text
    assert repr(report) == f"CheckReport({len(report.checks)} of {len(report.checks)} passed)"
    with pytest.raises(KeyError, match="there are rows, noise level"):
        report["power"]


def test_weights_count():
    """Prior draws with likelihood weights are a posterior; without the weights they are not."""
    eye = iv.priors.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3))
    A3 = iv.operators.Mask(mask=torch.ones(3, dtype=torch.bool))
    draws = eye.sample(20_000, seed=1)
    y = torch.tensor([[1.5, -1.5, 1.5]])
    problem = iv.Problem(A3, y, noise=0.3)
    result = iv.solve(problem, eye, num_samples=20_000)
    logs = problem.noise.log_prob(y.expand(20_000, 3), draws)[:, None]
    weighted = dataclasses.replace(
        result, samples=draws[:, None], log_weights=logs, chi2=torch.ones(20_000, 1), info={}
    )
    assert weighted.check().passed and weighted.check()["ess"].value < 20_000
    assert not dataclasses.replace(weighted, log_weights=None).check().passed


def test_failed_rows_are_reported():
    result = iv.solve(A, measured(4), PRIOR, noise=STD, num_samples=8)
    samples, failed = result.samples.clone(), result.failed.clone()
    samples[0], failed[0] = torch.nan, True
    broken = dataclasses.replace(result, samples=samples, failed=failed, status=iv.Status.SOME_FAILED)
    assert not broken.check()["rows"].passed


def test_what_cannot_be_checked_is_refused():
    result = iv.solve(A, measured(4), PRIOR, noise=STD, num_samples=2)
    with pytest.raises(iv.errors.UnsupportedError, match="does not hold problem and prior"):
        dataclasses.replace(result, problem=None).check()


def test_the_first_line_tells_a_rough_prior_from_a_misfit():
    rough = iv.solve(A, measured(3), prior(std=0.4), noise=STD, num_samples=8).check()
    assert "which the samples fit: a rough prior" in rough.headline and "misfit" not in rough.headline
    wrong = iv.solve(A, measured(1), PRIOR, noise=STD / 2, num_samples=8).check()
    assert "misfit, the samples do not reproduce the data within the noise (noise level" in wrong.headline
