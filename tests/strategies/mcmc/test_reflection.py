"""Signals known up to their sign: half of the chains in either mode."""

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.strategies.mcmc.noise_map import noise_map
from invsolve.strategies.mcmc.reflection import symmetric

D = torch.float64
BLUR = torch.tensor([[0.6, 0.4, 0.0], [0.2, 0.6, 0.2], [0.0, 0.4, 0.6]], dtype=D)


def prior(mean=0.0):
    return iv.priors.GaussianPrior(mean=torch.full((3,), mean, dtype=D), covariance=torch.eye(3, dtype=D))


def test_both_signs_count_the_same():
    """Magnitudes of blurred pixels at a signal-to-noise ratio of 8: means 0, and stds of a grid in three dimensions."""
    y, std, chains = torch.tensor([0.9, 1.3, 1.1], dtype=D), 0.15, 256
    draws = 8 * chains  # every chain in every round
    result = iv.solve(
        iv.operators.Matrix(matrix=BLUR),
        y,
        prior(),
        noise=iv.noise.Rician(std),
        num_samples=draws,
        strategy=iv.strategies.NoiseMCMC(chains=chains),
    )
    axis = torch.linspace(-4.5, 4.5, 121, dtype=D)
    x = torch.cartesian_prod(axis, axis, axis)
    log = iv.noise.Rician(std).log_prob(y.expand(len(x), 3), x @ BLUR.mT) - x.square().sum(1) / 2
    weight = torch.softmax(log, 0)
    right = (weight[:, None] * x.square()).sum(0).sqrt()
    # Signs are drawn anew in every round, by themselves: islands agree as independent draws do (without: 0.2 and more).
    assert ((result.mean / right).abs() < 5 / draws**0.5).all()
    assert ((result.std / right - 1).abs() < 5 / chains**0.5).all()
    assert float(result.info["mean_error"].max()) < 4 / draws**0.5


@pytest.mark.parametrize(
    ("operator", "noise", "mean", "found"),
    [
        (iv.operators.Matrix(matrix=BLUR), iv.noise.Rician(0.3), 0.0, True),
        (iv.operators.from_callable(lambda x: (x @ BLUR) ** 2, (3,), (3,)), iv.noise.Gaussian(0.1), 0.0, True),
        (iv.operators.Matrix(matrix=BLUR), iv.noise.Rician(0.3), 0.1, False),
        (iv.operators.Matrix(matrix=BLUR), iv.noise.Gaussian(0.3), 0.0, False),
        (iv.operators.Matrix(matrix=0 * BLUR), iv.noise.Gaussian(0.3), 0.0, False),  # nothing is known: no modes
    ],
)
def test_symmetry_is_seen(operator, noise, mean, found):
    law = prior(mean)
    problem = iv.Problem(operator, torch.ones(2, 3, dtype=D), noise=noise)
    assert symmetric(problem, noise_map(law, 2)).tolist() == [found, found]


def test_an_item_that_sees_nothing_keeps_no_other_from_turning():
    """Of the second item no entry is measured: its likelihood says nothing of signs."""
    A = iv.operators.from_callable(lambda x: x.abs(), (3,), (3,)) @ iv.operators.Mask(
        mask=torch.tensor([[True] * 3, [False] * 3]), in_shape=(3,)
    )
    problem = iv.Problem(A, torch.ones(2, 3, dtype=D), noise=0.1)
    assert symmetric(problem, noise_map(prior(0.0), 2)).tolist() == [True, False]


def test_a_flow_that_is_odd_is_symmetric():
    """A mixture known by its denoiser only, with modes at 1 and -1: its probability flow takes -u to -x."""
    exact = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.5, 0.5], dtype=D),
        means=torch.tensor([[1.0, 0.5], [-1.0, -0.5]], dtype=D),
        covariances=0.1 * torch.eye(2, dtype=D),
    )
    hidden = iv.priors.from_denoiser(exact._denoise, shape=(2,), mean=exact.mean, scale=exact.scale)
    square = iv.operators.from_callable(lambda x: x[:, :1] * x[:, 1:], (2,), (1,))
    problem = iv.Problem(square, torch.ones(1, dtype=D), noise=0.1)
    assert symmetric(problem, noise_map(hidden, 6)).all()
    result = iv.solve(
        problem, hidden, num_samples=512, strategy=iv.strategies.NoiseMCMC(chains=512, kernel="pcn", evaluations=6)
    )
    share = float((result.samples[:, 0] > 0).double().mean())
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(512)
