"""Level sets: probabilities against normal integrals, posteriors against sums over all patterns and a quadrature."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.priors.level_set import Bands, LevelSet, SmoothBands
from invsolve.testing import check_operator

F64 = torch.float64
COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 1.2, 0.5], [0.2, 0.5, 0.8]], dtype=F64)
MEAN = torch.tensor([0.1, -0.2, 0.3], dtype=F64)


def latent(n=3):
    return iv.priors.GaussianPrior(MEAN[:n], COVARIANCE[:n, :n].contiguous())


# --- the maps -------------------------------------------------------------------------------------------------------
def test_bands_have_their_values_and_the_upper_one_on_a_threshold():
    prior = LevelSet(latent(), (5.0, 1.0, 3.0), thresholds=(-0.5, 0.5))
    u = torch.tensor([[-2.0, -0.5, 0.0], [0.49, 0.5, torch.nan]], dtype=F64)
    x = prior.function(u)
    assert x[0].tolist() == [5.0, 1.0, 1.0]
    assert x[1, :2].tolist() == [1.0, 3.0]
    assert bool(torch.isnan(x[1, 2]))


def test_smooth_bands_tend_to_sharp_ones_and_have_their_derivative():
    f = SmoothBands(in_shape=(7,), values=(5.0, 1.0, 3.0), thresholds=(-0.5, 0.5), width=0.2)
    assert check_operator(f).passed
    u = torch.linspace(-2, 2, 7, dtype=F64)[None]
    h = 1e-5
    near = (f(u + h) - f(u - h)) / (2 * h)
    assert torch.allclose(f.vjp(u)[1](torch.ones_like(u)), near, rtol=1e-7, atol=1e-9)
    sharp = Bands(in_shape=(7,), values=f.values, thresholds=f.thresholds)
    # The nearest of these u is 1/6 from a threshold.
    thin = SmoothBands(in_shape=(7,), values=f.values, thresholds=f.thresholds, width=1e-3)
    assert torch.allclose(thin(u), sharp(u), atol=1e-12)


def test_fractions_and_mean_are_normal_integrals():
    levels = (-0.5, 0.5)
    prior = LevelSet(latent(), (5.0, 1.0, 3.0), thresholds=levels)
    std = COVARIANCE.diagonal().sqrt()
    cdf = np.stack([stats.norm.cdf(level, MEAN, std) for level in (-np.inf, *levels, np.inf)])
    np.testing.assert_allclose(prior.fractions, np.diff(cdf, axis=0), rtol=1e-12)
    np.testing.assert_allclose(prior.mean, np.array([5.0, 1.0, 3.0]) @ np.diff(cdf, axis=0), rtol=1e-12)
    n = 20_000
    counts = (prior.sample(n)[..., None] == torch.tensor(prior.values, dtype=F64)).double().mean(0).mT
    se = (prior.fractions * (1 - prior.fractions) / n).sqrt()
    assert bool(((counts - prior.fractions).abs() < 5 * se).all())
    smooth = LevelSet(latent(), (5.0, 1.0, 3.0), thresholds=levels, width=0.1)
    assert torch.equal(smooth.fractions, prior.fractions)
    far = LevelSet(latent(), (0.0, 1.0), thresholds=12.0).fractions  # a share of 1e-30 keeps its digits
    np.testing.assert_allclose(far[1], stats.norm.sf((12.0 - MEAN) / std), rtol=1e-10)

    law = iv.priors.Matern(1.0, 0.3)
    coloured = iv.priors.GaussianFieldPrior((6, 5), law, noise_spectrum=iv.priors.Matern(1.0, 0.4, smoothness=0.5))
    white = iv.priors.GaussianFieldPrior((6, 5), law)  # of one distribution, whatever noise is added to it
    two = [LevelSet(field, (0.0, 1.0), thresholds=0.7) for field in (coloured, white)]
    np.testing.assert_allclose(two[0].fractions, two[1].fractions, rtol=1e-5)  # float32
    np.testing.assert_allclose(two[0].mean, two[1].mean, rtol=1e-5)


# --- posteriors -----------------------------------------------------------------------------------------------------
MATRIX = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5]], dtype=F64)
VALUES, LEVELS, NOISE = (0.0, 1.0, 2.5), (-0.4, 0.6), 0.7
Y = torch.tensor([1.2, 0.4], dtype=F64)


def exact():
    """Mean and std of a, and P(a_i = values[k]), by a sum over all patterns."""
    ends = np.array([-40.0, *LEVELS, 40.0])
    total, patterns = [], list(product(range(3), repeat=3))
    for pattern in patterns:
        a = np.array(VALUES)[list(pattern)]
        low, high = ends[list(pattern)], ends[np.array(pattern) + 1]
        mass = stats.multivariate_normal.cdf(
            high, MEAN.numpy(), COVARIANCE.numpy(), lower_limit=low, abseps=1e-6, releps=1e-6
        )
        misfit = (Y.numpy() - MATRIX.numpy() @ a) / NOISE
        total.append(mass * np.exp(-0.5 * misfit @ misfit))
    weight = np.array(total) / sum(total)
    index = np.array(patterns)
    shares = np.stack([weight @ (index == k) for k in range(3)])
    mean = np.array(VALUES) @ shares
    return mean, np.sqrt(np.array(VALUES) ** 2 @ shares - mean**2), shares


def test_the_posterior_of_a_sharp_level_set_by_pcn_is_the_sum_over_all_patterns():
    prior = LevelSet(latent(), VALUES, thresholds=LEVELS)
    strategy = iv.strategies.NoiseMCMC(kernel="pcn", num_steps=300)
    result = iv.solve(iv.operators.Matrix(MATRIX), Y, prior, noise=NOISE, strategy=strategy, num_samples=1000, seed=0)
    mean, std, shares = exact()
    assert set(result.samples.unique().tolist()) == set(VALUES)
    # Chains that share nothing but their ensemble's steps: five standard errors of independent draws, doubled.
    np.testing.assert_allclose(result.mean, mean, atol=10 * std.max() / 1000**0.5)
    found = np.stack([(result.samples == value).double().mean(0) for value in VALUES])
    np.testing.assert_allclose(found, shares, atol=10 * 0.5 / 1000**0.5)
    u = result.latent
    assert torch.equal(prior.function(u.samples), result.samples)
    assert torch.equal(u.chi2, result.chi2)
    assert float(u.mean[0]) != float(result.mean[0])


def test_the_posterior_of_a_smooth_level_set_by_gradients_is_that_of_a_quadrature():
    prior = LevelSet(latent(2), (0.0, 2.0), width=0.3)
    A = iv.operators.Matrix(MATRIX[:, :2].contiguous())
    strategy = iv.strategies.NoiseMCMC(kernel="hmc", num_steps=60)
    result = iv.solve(A, Y, prior, noise=NOISE, strategy=strategy, num_samples=800, seed=0)
    axis = torch.linspace(-7, 7, 401, dtype=F64)
    u = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    a = prior.function(u)
    inner = latent(2).log_prob(u, 0.0) - 0.5 * ((Y - A(a)) / NOISE).square().sum(1)
    weight = torch.softmax(inner, 0)
    mean = weight @ a
    std = (weight @ (a - mean).square()).sqrt()
    assert bool(((result.mean - mean).abs() < 10 * std / 800**0.5).all())
    assert bool(((result.std / std - 1).abs() < 10 / 1600**0.5).all())


def test_a_gradient_is_refused_where_there_is_none():
    prior = LevelSet(latent(), VALUES, thresholds=LEVELS)
    with pytest.raises(UnsupportedError, match="black box"):
        iv.solve(iv.operators.Matrix(MATRIX), Y, prior, noise=NOISE, strategy=iv.strategies.NoiseMCMC(kernel="hmc"))


def test_on_another_grid_in_another_precision_and_of_an_unknown_length():
    field = iv.priors.GaussianFieldPrior((4, 6), iv.priors.Matern(1.0, 0.3))
    prior = LevelSet(field, (3.0, 12.0), thresholds=0.2, width=0.1)
    other = prior.on((8, 5)).to(dtype=F64)
    assert isinstance(other, LevelSet)
    assert (other.shape, other.dtype, other.width, other.thresholds) == ((8, 5), F64, 0.1, (0.2,))
    family = LevelSet(iv.priors.GaussianFieldPrior((6,), iv.priors.Matern(1.0, iv.LogUniform(0.1, 1.0))), (3.0, 12.0))
    assert set(family.sample(3).unique().tolist()) <= {3.0, 12.0}
    assert family.on((9,)).shape == (9,)
    with pytest.raises(UnsupportedError, match=r"LevelSet.on: GaussianPrior has no `on`"):
        LevelSet(latent(), (0.0, 1.0)).on((4,))


def test_refusals():
    with pytest.raises(InputError, match="`values` must be one more than thresholds, 2"):
        LevelSet(latent(), (1.0, 2.0, 3.0))
    with pytest.raises(InputError, match="`thresholds` must be one or more increasing numbers"):
        LevelSet(latent(), (1.0, 2.0, 3.0), thresholds=(0.5, 0.5))
    with pytest.raises(InputError, match="`thresholds`"):
        LevelSet(latent(), (1.0,), thresholds=())
    with pytest.raises(InputTypeError, match="`values` must be a sequence of numbers"):
        LevelSet(latent(), 3.0)
    with pytest.raises(InputError, match="`width` must be positive"):
        LevelSet(latent(), (1.0, 2.0), width=0.0)
    with pytest.raises(InputTypeError, match="real"):
        LevelSet(iv.priors.GaussianFieldPrior((4,), iv.priors.Matern(1.0, 0.3), kind="complex"), (1.0, 2.0))
    prior = LevelSet(latent(), (1.0, 2.0))
    with pytest.raises(UnsupportedError, match="each value has a probability"):
        prior.log_density(torch.ones(1, 3, dtype=F64))
    with pytest.raises(UnsupportedError, match="has no formula"):
        assert LevelSet(LevelSet(latent(), (1.0, 2.0)), (1.0, 2.0)).fractions is None
    result = iv.solve(iv.operators.Identity(), [0.1, 0.2, 0.3], latent(), noise=1.0, num_samples=2)
    with pytest.raises(UnsupportedError, match=r"Result.latent"):
        assert result.latent is None
