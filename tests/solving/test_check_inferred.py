"""`check()` where scalars were inferred with the signal: at joint draws, each with the model of its own scalars."""

import pytest
import torch

import invsolve as iv

N, STD = 12, 0.2
PRIOR = iv.priors.GaussianFieldPrior(shape=(N, N), spectrum=iv.priors.Matern(std=1.0, length=3.0, smoothness=1.5))
A = iv.operators.GaussianBlur(std=0.7, in_shape=(N, N))
NOISE = iv.noise.Gaussian(std=iv.LogNormal(median=0.2, factor=3))


def measured(items, seed=0):
    x = PRIOR.sample(items, seed=seed)
    return A(x) + STD * torch.randn(items, N, N, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_right_models_pass():
    """Five data sets of one item each: false alarms have a probability of 2 % each, two of them of 0.4 %."""
    y = measured(5)
    reports = [iv.solve(A, y[k], PRIOR, noise=NOISE, num_samples=8, seed=k).check() for k in range(5)]
    assert sum(not report.passed for report in reports) <= 1
    assert {c.name for c in reports[0].checks} >= {"noise level", "structure", "evidence", "sensors", "operator"}
    assert "noise.std vary from sample to sample" in str(reports[0])


def test_what_an_inferred_level_cannot_explain_is_noticed():
    """One datum off by 25 noise stds makes the inferred level twice as large, and is still 12 of these off."""
    y = measured(3)
    y[1, 5, 5] += 25 * STD
    report = iv.solve(A, y, PRIOR, noise=NOISE, num_samples=8).check()
    assert not report["outliers"].passed and report.headline.startswith(
        "Conflict: misfit, the samples do not reproduce"
    )


def test_scalars_of_the_prior_are_those_of_the_draw():
    """With the length at its median, 1/4 of the right one, the prior's tests would fail."""
    unknown = iv.priors.Family(
        lambda length: iv.priors.GaussianFieldPrior(
            shape=(N, N), spectrum=iv.priors.Matern(std=1.0, length=length, smoothness=1.5)
        ),
        length=iv.LogNormal(median=0.8, factor=4),
    )
    report = iv.solve(A, measured(1, seed=3)[0], unknown, noise=STD, num_samples=8).check()
    assert report.passed, str(report)


def test_many_items_are_sampled():
    report = iv.solve(A, measured(10), PRIOR, noise=NOISE, num_samples=4).check()
    assert "for 8 of 10 items" in str(report)
