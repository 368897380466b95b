"""Uniform ranks: bands against enumeration and simulation, quadratic tests against chi-squared laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from invsolve.calibration.uniformity import (
    UniformBand,
    location_scores,
    noticed_shift,
    null_normals,
    quadratic_test,
    scale_scores,
    two_sided,
)
from invsolve.errors import InputError, InputTypeError


def uniform_ranks(runs: int, n: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randint(0, n + 1, (runs, columns), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [2, 3, 15, 16, 255])
def test_scores_are_standardised_and_ordered(n):
    for scores in (location_scores(n), scale_scores(n)):
        assert abs(float(scores.mean())) < 1e-12
        assert float(scores.square().mean()) == pytest.approx(1, abs=1e-12)
    assert (location_scores(n).diff() > 0).all()
    assert torch.allclose(location_scores(n), -location_scores(n).flip(0))
    assert torch.allclose(scale_scores(n), scale_scores(n).flip(0))  # far on either side is the same
    if n > 2:
        assert int(scale_scores(n).argmax()) in (0, n) and int(scale_scores(n).argmin()) in (n // 2, (n + 1) // 2)


@pytest.mark.parametrize(("runs", "n"), [(3, 2), (2, 4), (4, 3), (1, 5), (5, 1)])
def test_p_values_are_those_of_all_outcomes(runs, n):
    """Every outcome of a few ranks has probability (n + 1)^-runs: the p-values must be exact, ties in gamma included."""
    every = torch.tensor(list(itertools.product(range(n + 1), repeat=runs))).T
    band = UniformBand(runs=runs, num_samples=n)
    gammas = band.gammas(every)
    for gamma in np.unique(gammas):
        assert band.p_value(gamma) == pytest.approx(np.mean(gammas <= gamma + 1e-12), abs=1e-12)


@pytest.mark.parametrize(("runs", "n", "level"), [(200, 255, 0.05), (200, 255, 0.5), (30, 1000, 0.1), (500, 19, 0.02)])
def test_simultaneous_level_of_the_band(runs, n, level):
    """How often uniform ranks leave the band, within 4 binomial standard errors of its exact probability."""
    band, count = UniformBand(runs=runs, num_samples=n), 8000
    low, high = band.limits(level)
    counts = band.counts(uniform_ranks(runs, n, count, 1))
    left = ((counts < low) | (counts > high)).any(1).mean()
    exact = band.p_value(band.gamma(level))
    assert level * 0.8 < exact <= level + 1e-9
    assert abs(left - exact) < 4 * math.sqrt(exact * (1 - exact) / count)


def test_pointwise_tails_are_binomial_and_the_band_is_symmetric():
    band = UniformBand(runs=50, num_samples=9)
    low, high = band.limits(0.05)
    assert (low == 50 - high[::-1]).all()  # counting from above
    ranks = torch.full((50, 1), 4)
    tail = min(stats.binom.sf(49, 50, 0.5), stats.binom.cdf(0, 50, 0.4))
    assert band.gammas(ranks)[0] == pytest.approx(2 * tail, rel=1e-9)


@pytest.mark.parametrize(
    "fault",
    [lambda u: u**1.5, lambda u: 0.5 + 0.7 * (u - 0.5), lambda u: np.where(u < 0.5, u * 0.6, 1 - (1 - u) * 0.6)],
)
def test_ranks_that_are_not_uniform_leave_the_band(fault):
    u = fault(np.random.default_rng(0).random((400, 1)))
    band = UniformBand(runs=400, num_samples=99)
    assert band.p_value(band.gammas(torch.from_numpy(np.floor(u * 100)).long())[0]) < 1e-4


def test_two_sided_is_the_normal_law_of_uniform_ranks():
    totals = location_scores(63)[uniform_ranks(20, 63, 20000, 3)].sum(0)
    p = np.array([two_sided(float(t), 20) for t in totals[:4000]])
    assert stats.kstest(p, "uniform").pvalue > 1e-4
    assert two_sided(1.96 * math.sqrt(20), 20) == pytest.approx(0.05, abs=1e-4)


def test_quadratic_test_is_chi_squared_where_that_is_known():
    eye = torch.eye(5, dtype=torch.float64)
    normals = null_normals(0, 5)
    for total in (1.0, 1.5, 2.0):
        p = stats.chi2.sf(5 * total**2, 5)
        found = quadratic_test(torch.full((5,), total, dtype=torch.float64), eye, normals)
        assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / len(normals))
    one = torch.ones(5, 5, dtype=torch.float64)  # five times the same number
    p = stats.chi2.sf(4.0, 1)
    found = quadratic_test(torch.full((5,), 2.0, dtype=torch.float64), one, normals)
    assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / len(normals))


def test_noticed_shift_is_that_of_the_non_central_law():
    """100 runs of 3 independent scores: the power of chi^2_3 at non-centrality 100 * 3 * shift^2."""
    runs, level = 100, 0.01
    shift = noticed_shift(
        torch.ones(3, dtype=torch.float64), runs * torch.eye(3, dtype=torch.float64), runs, level, null_normals(0, 3)
    )
    power = stats.ncx2.sf(stats.chi2.isf(level, 3), 3, 3 * runs * shift**2)
    assert abs(power - 0.9) < 5 * math.sqrt(0.09 / 4096) + 0.01
    nothing = torch.zeros(3, dtype=torch.float64)
    assert noticed_shift(nothing, runs * torch.eye(3, dtype=torch.float64), runs, level, null_normals(0, 3)) == math.inf


def test_bad_ranks_are_refused():
    band = UniformBand(runs=3, num_samples=4)
    with pytest.raises(InputError, match=r"`ranks` must be of shape \(3, k\), got \(2, 1\)"):
        band.gammas(torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(InputError, match="between 0 and 4, got 0 to 5"):
        band.gammas(torch.tensor([[0], [1], [5]]))
    with pytest.raises(InputError, match="`runs` must be at least 1"):
        UniformBand(runs=0, num_samples=4)
    with pytest.raises(InputTypeError, match="`num_samples` must be an integer"):
        UniformBand(runs=3, num_samples=4.0)
