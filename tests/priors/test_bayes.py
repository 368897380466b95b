"""Every exact prior keeps Bayes' rule on its own draws, and differentiates its denoiser."""

from __future__ import annotations

import pytest
import torch
from prior_cases import CASES

DRAWS = 100_000
EVERY = pytest.mark.parametrize("prior", CASES.values(), ids=CASES)


def points(prior):
    """The mean and two others."""
    rng = torch.Generator().manual_seed(1)
    away = torch.randn(2, *prior.shape, dtype=prior.dtype, generator=rng)
    return torch.cat([prior.mean.expand(1, *prior.shape), prior.mean + away])


@EVERY
@pytest.mark.parametrize("sigma", [0.4, 1.5])
def test_the_denoiser_is_the_mean_of_the_draws_weighed_by_the_noise(prior, sigma):
    x, x0 = points(prior), prior.sample(DRAWS, seed=3)
    w = torch.softmax(-(x[:, None] - x0).square().flatten(2).sum(2) / (2 * sigma**2), 1)  # (points, draws)
    mean = w @ x0
    se = (
        w.square() @ x0.square() - 2 * mean * (w.square() @ x0) + mean.square() * w.square().sum(1, keepdim=True)
    ).sqrt()
    assert ((prior.denoise(x, sigma) - mean).abs() <= 5 * se + 1e-12).all()


@EVERY
def test_the_pullback_is_the_slope_of_the_denoiser(prior):
    """Central differences of step h err by h^2 of the third derivative, and by rounding over h."""
    x, sigma, h = points(prior), 0.6, 1e-4
    rng = torch.Generator().manual_seed(2)
    u, v = (torch.randn(x.shape, dtype=x.dtype, generator=rng) for _ in range(2))
    _, pull = prior.pullback(x, sigma)
    slope = (prior.denoise(x + h * u, sigma) - prior.denoise(x - h * u, sigma)) / (2 * h)
    assert torch.allclose((pull(v) * u).sum(1), (slope * v).sum(1), rtol=0, atol=1e-6)
