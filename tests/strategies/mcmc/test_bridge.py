"""The evidence from samples: right where they are right, and an error that says so where they are not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.strategies.mcmc.bridge import LARGEST, Coordinates, bridge, bridged, thinned

D = torch.float64
COUNT = 1024


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def even(items: int, count: int = COUNT) -> Tensor:
    return torch.full((items, count), 1 / count, dtype=D)


def mixture(share: float = 0.3, std: float = 0.3) -> iv.priors.GaussianMixturePrior:
    return iv.priors.GaussianMixturePrior(
        weights=torch.tensor([1 - share, share], dtype=D),
        means=torch.tensor([[0.0], [4.0]], dtype=D),
        covariances=torch.full((2, 1, 1), std**2, dtype=D),
    )


def hidden(exact: iv.priors.GaussianMixturePrior, detail: float) -> iv.priors.Prior:
    return iv.priors.from_denoiser(
        exact._denoise, shape=exact.shape, mean=exact.mean, scale=exact.scale, detail=detail, dtype=D
    )


def found(
    problem: iv.Problem, prior: iv.priors.Prior, x: Tensor, seed: int = 0, evaluations: int = 25
) -> tuple[Tensor, Tensor]:
    """Log-evidence and its error from samples ``(items, count, n)``."""
    coordinates = Coordinates.of(problem, prior, evaluations)
    v = coordinates.values(x.flatten(0, 1)).view(x.shape)
    draws = Draws.for_rows(seed, range(len(x)), [0] * len(x), torch.device("cpu"))
    return bridged(coordinates, v, even(len(x)), draws, groups=8)


IDENTITY = iv.operators.Matrix(matrix=torch.eye(1, dtype=D))


def posterior_samples(exact: iv.priors.GaussianMixturePrior, y: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Of every item, and the closed form of its evidence."""
    posterior = exact.posterior(IDENTITY, y, noise=noise)
    return posterior.sample(COUNT, seed=1).view(COUNT, len(y), 1).transpose(0, 1), posterior.log_evidence


@pytest.mark.parametrize("how", ["density", "flow"])
def test_right_samples_give_the_evidence_of_mixtures(how: str) -> None:
    """Ten items from in, between and beyond the modes; all within 4 stated errors, which are small.

    Of the flow in 25 evaluations they are larger: it is told by what twice as many change.
    """
    exact = mixture()
    y = torch.linspace(-1, 5, 10, dtype=D)[:, None]
    x, truth = posterior_samples(exact, y, 0.7)
    problem = iv.Problem(IDENTITY, y, noise=0.7)
    log, se = found(problem, exact if how == "density" else hidden(exact, 0.3), x)
    assert ((log - truth).abs() < 4 * se).all() and float(se.max()) < (0.05 if how == "density" else 0.15)


def test_what_a_coarse_flow_gets_wrong_is_in_the_error() -> None:
    """Twelve evaluations make another prior; twice as many, from a higher level, correct most of it and say the rest."""
    y = torch.tensor([[3.5], [4.1], [4.5]], dtype=D)
    exact = mixture(share=0.1)
    x, truth = posterior_samples(exact, y, 0.5)
    problem = iv.Problem(IDENTITY, y, noise=0.5)
    off, se = [], []
    for seed in range(3):
        log, error = found(problem, hidden(exact, 0.3), x, seed, evaluations=12)
        off.append(log - truth)
        se.append(error)
    assert (torch.stack(off).abs() < 3 * torch.stack(se)).all()


def test_a_transport_is_used_in_its_noise() -> None:
    prior = iv.priors.GaussianPrior(mean=torch.ones(3, dtype=D), covariance=2 * torch.eye(3, dtype=D))
    A = iv.operators.Matrix(matrix=normal(2, 3))
    y = normal(4, 2, seed=1)
    posterior = prior.posterior(A, y, noise=0.2)
    x = posterior.sample(COUNT, seed=1).view(COUNT, 4, 3).transpose(0, 1)
    log, se = found(iv.Problem(A, y, noise=0.2), prior, x)
    assert ((log - posterior.log_evidence).abs() < 4 * se).all() and float(se.max()) < 0.05


def test_a_law_that_fills_a_part_of_the_space_is_seen_in_its_noise() -> None:
    """It has no density without noise: chains in the noise give the evidence all the same."""
    line = torch.ones(2, 2, 2, dtype=D)
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.5, 0.5], dtype=D),
        means=torch.tensor([[0.0, 0.0], [2.0, 1.0]], dtype=D),
        covariances=line,
    )
    A, y = iv.operators.Matrix(matrix=torch.eye(2, dtype=D)), torch.ones(2, dtype=D)
    truth = float(prior.posterior(A, y[None], noise=0.3).log_evidence[0])
    strategy = iv.strategies.NoiseMCMC(chains=256, evaluations=12)
    result = iv.solve(A, y, prior, noise=0.3, strategy=strategy, num_samples=8)
    assert abs(float(result.log_evidence) - truth) < 3 * float(result.log_evidence_se) < 0.6


def test_modes_in_wrong_proportion_are_seen() -> None:
    """A quarter of the samples on a mode of a half: the average over them is off, that over draws is not."""
    y = torch.full((1, 1), 2.0, dtype=D)
    exact = mixture(share=0.5)
    posterior = exact.posterior(IDENTITY, y, noise=1.0)
    assert abs(float(posterior.weights[0, 1]) - 0.5) < 1e-12
    part = (torch.arange(COUNT) % 8 < 2).long()
    x = posterior.means[0, part] + 0.3 / math.sqrt(1.09) * normal(COUNT, 1)
    log, se = found(iv.Problem(IDENTITY, y, noise=1.0), exact, x[None])
    off = abs(float(log[0] - posterior.log_evidence[0]))
    # Off by log(0.75^2 / 0.5 + 0.25^2 / 0.5) = 0.22 over the samples alone, of which half is said.
    assert off < 3 * float(se[0]) and float(se[0]) > 0.1


def test_samples_that_lag_behind_are_seen() -> None:
    """Chains that are still a fifth too wide in each of 8 dimensions; and three times: nothing is known then."""
    prior = iv.priors.GaussianPrior(mean=torch.zeros(8, dtype=D), covariance=torch.eye(8, dtype=D))
    A, y = iv.operators.Matrix(matrix=torch.eye(8, dtype=D)), normal(1, 8)
    posterior = prior.posterior(A, y, noise=0.1)
    problem, away = iv.Problem(A, y, noise=0.1), posterior.std[:, None] * normal(1, COUNT, 8, seed=3)
    right, late, lost = (found(problem, prior, posterior.mean[:, None] + k * away) for k in (1, 1.2, 3))
    for log, se in (right, late):
        assert abs(float(log[0] - posterior.log_evidence[0])) < 3 * float(se[0])
    assert float(late[1][0]) > 3 * float(right[1][0]) and math.isinf(float(lost[1][0]))


def test_samples_of_something_else_give_no_evidence() -> None:
    y = torch.full((1, 1), 4.0, dtype=D)
    log, se = found(iv.Problem(IDENTITY, y, noise=0.05), mixture(), -3 + 0.01 * normal(1, COUNT, 1))
    assert bool(log.isnan().all()) and bool(se.isinf().all())


def test_the_error_is_that_of_two_averages() -> None:
    """log f / q constant: no error at all; a spread of it: the standard error of the bridge over repetitions."""
    flat = torch.full((200,), 3.0, dtype=D)
    value, se = bridge(flat, flat, even(1, 200)[0], 8)
    assert abs(float(value) - 3) < 1e-12 and float(se) < 1e-12
    # q standard normal, f normal of std 0.8: log f / q at draws of both, f normalised to e^2.
    values, errors = [], []
    for seed in range(100):
        u, v = normal(400, seed=2 * seed), 0.8 * normal(400, seed=2 * seed + 1)
        up, down = (2 - 0.5 * w.square() * (1 / 0.64 - 1) - math.log(0.8) for w in (u, v))
        value, se = bridge(up, down, even(1, 400)[0], 8)
        values.append(float(value))
        errors.append(float(se))
    values_, stated = torch.tensor(values), torch.tensor(errors)
    assert abs(float(values_.mean()) - 2) < 5 * float(values_.std()) / 10
    assert 0.8 < float(stated.square().mean().sqrt() / values_.std()) < 2.5


def test_samples_are_thinned_alike_on_every_island() -> None:
    index = thinned(8 * 1000, 2, 8, torch.device("cpu")).view(8, -1)
    assert torch.equal(index // 1000, torch.arange(8)[:, None].expand(index.shape))
    assert torch.equal(index % 1000, (index % 1000)[:1].expand(index.shape)) and index.shape[1] == 1000 // 7
    assert len(thinned(100, 2, 8, torch.device("cpu"))) == 96


def test_large_signals_and_few_samples_have_none() -> None:
    n = LARGEST + 1
    prior = iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=torch.eye(n, dtype=D))
    problem = iv.Problem(iv.operators.Matrix(matrix=torch.ones(1, n, dtype=D)), torch.zeros(1, 1, dtype=D), noise=1.0)
    draws = Draws.for_rows(0, [0], [0], torch.device("cpu"))
    assert bool(bridged(Coordinates.of(problem, prior), normal(1, 64, n), even(1, 64), draws, groups=8).se.isinf())
    small = iv.Problem(IDENTITY, torch.zeros(1, 1, dtype=D), noise=1.0)
    assert bool(bridged(Coordinates.of(small, mixture()), normal(1, 16, 1), even(1, 16), draws, groups=8).se.isinf())
