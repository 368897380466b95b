"""Emission tomography as it is written here: a projector, and Poisson noise with attenuation and background per ray."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from operator_cases import F64, Numbers
from scipy import stats

import invsolve as iv


def test_the_likelihood_of_counts_with_attenuation_and_background():
    """Counts of mean ``t exp(-int mu) int activity + randoms``: the density of scipy, and its gradient in the image."""
    draw = Numbers(1)
    A = iv.operators.ParallelBeam(math.pi * torch.arange(6, dtype=F64) / 6, (5, 5))
    activity, absorber = draw.rand(1, 5, 5) + 0.1, 0.1 * draw.rand(1, 5, 5)
    gain = 20.0 * torch.exp(-A(absorber))[0]  # seconds, efficiency, and what the body lets through, ray by ray
    background = 0.5 + draw.rand(*A.out_shape)
    noise = iv.noise.Poisson(counts_per_unit=gain, background=background)
    mean = gain * A(activity) + background
    y = torch.poisson(mean, generator=torch.Generator().manual_seed(0))
    problem = iv.Problem(A, y, noise=noise)
    assert float(problem.log_likelihood(activity)) == pytest.approx(
        float(stats.poisson.logpmf(y.numpy(), mean.numpy()).sum()), rel=1e-12
    )
    grad = A.adjoint(problem.noise.grad(y, A(activity)))
    assert torch.allclose(grad, A.adjoint(gain * (1 - y / mean)), atol=1e-10)
    leaf = activity.clone().requires_grad_()
    mu = gain * A(leaf) + background
    (expected,) = torch.autograd.grad((mu - y * mu.log()).sum(), leaf)
    assert torch.allclose(grad, expected, atol=1e-10)


def test_one_pixel_and_one_ray_against_quadrature():
    """The posterior of an activity with an exponential-like positive prior, counts behind half of the light."""
    A = iv.operators.Matrix(torch.tensor([[2.0]], dtype=F64))
    noise = iv.noise.Poisson(counts_per_unit=torch.tensor([5.0]), background=torch.tensor([3.0]))
    prior = iv.priors.exp(iv.priors.GaussianPrior(torch.zeros(1, dtype=F64), 0.25 * torch.eye(1, dtype=F64)))
    y = torch.tensor([[17.0]], dtype=F64)
    z = np.linspace(-4, 4, 4001)
    w = np.exp(-(z**2) / 0.5) * stats.poisson.pmf(17, 10 * np.exp(z) + 3)
    mean = (w * np.exp(z)).sum() / w.sum()
    std = math.sqrt((w * (np.exp(z) - mean) ** 2).sum() / w.sum())
    result = iv.solve(A, y, prior, noise=noise, num_samples=2000, seed=1)
    assert float(result.mean) == pytest.approx(mean, abs=5 * std / math.sqrt(float(result.ess.min())))
