"""How many samples there are by default: 19 at least, 199 or 999 where they are cheap, whatever the clock."""

from __future__ import annotations

import pytest
import torch

import invsolve as iv
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.choice.sample_size import FEWEST, MANY, PICKED, default_samples

D = torch.float64
N = 4
PRIOR = iv.priors.GaussianPrior(torch.zeros(N), torch.eye(N) + 0.5)
A = iv.operators.Matrix(torch.eye(N)[:2])
BENT = iv.operators.from_callable(lambda x: x[:, :2] + 0.1 * x[:, 1:3] ** 2, (N,), (2,))
Y = torch.zeros(2)
LEVEL = iv.noise.Gaussian(std=iv.LogNormal(median=0.5, factor=2))


def solved(**options):
    return iv.solve(**{"A": A, "y": Y, "prior": PRIOR, "noise": 0.5} | options).num_samples


def test_cheap_ones_are_many():
    assert (FEWEST, MANY, PICKED) == (19, 199, 999)
    assert solved() == solved(strategy=iv.strategies.Exact()) == solved(y=torch.zeros(8, 2)) == 199
    chains = iv.strategies.NoiseMCMC(chains=16, islands=2, rounds=4)
    assert solved(A=BENT, budget=iv.Budget(evaluations=20_000)) == solved(A=BENT, strategy=chains) == 199  # of 64
    more = iv.strategies.NoiseMCMC(chains=256, islands=2, rounds=4)
    assert solved(A=BENT, budget=iv.Budget(evaluations=100_000)) == solved(A=BENT, strategy=more) == 999
    hidden = iv.priors.from_denoiser(PRIOR._denoise, shape=(N,), mean=PRIOR.mean, scale=PRIOR.scale)
    assert solved(prior=hidden, noise=2.0, budget=iv.Budget(evaluations=20_000)) == 199  # of particles
    assert solved(noise=LEVEL) == 199


@pytest.mark.parametrize(
    "strategy", [iv.strategies.MMPS(num_steps=3), iv.strategies.DPS(num_steps=3), iv.strategies.SMC(num_steps=3)]
)
def test_runs_of_their_own_are_few(strategy):
    assert solved(strategy=strategy) == 19


def test_few_where_each_is_a_chain_or_the_signals_are_large():
    assert solved(noise=LEVEL, hierarchy=iv.Hierarchy(method="gibbs", num_sweeps=1)) == 19
    masks = iv.operators.Mask(torch.eye(N)[:2].bool(), in_shape=(N,))
    assert solved(A=masks, y=torch.zeros(2, N), noise=LEVEL, hierarchy=iv.Hierarchy(num_sweeps=1)) == 19
    exact = [Candidate(strategy=iv.strategies.Exact(), why="")]
    for n, batch, kind, expected in (
        (1317, 1, "real", 199),
        (1318, 1, "real", 19),
        (659, 2, "real", 19),
        (659, 1, "complex", 19),
    ):
        operator = iv.operators.Mask(torch.ones(n, dtype=torch.bool), kind=kind)
        y = torch.zeros(batch, n, dtype=torch.complex64 if kind == "complex" else torch.float32)
        assert default_samples(iv.Problem(operator, y, noise=1.0), PRIOR, exact) == expected


def test_few_with_a_network_that_may_be_guided():
    problem = iv.Problem(A, Y, noise=0.5)
    chains = Candidate(strategy=iv.strategies.NoiseMCMC(), why="")
    guided = Candidate(strategy=iv.strategies.MMPS(), why="", tested=False, is_fallback=True)
    network = iv.priors.NetworkPrior.__new__(iv.priors.NetworkPrior) if hasattr(iv.priors, "NetworkPrior") else PRIOR
    assert default_samples(problem, PRIOR, [chains, guided]) == 999
    assert default_samples(problem, network, [chains]) == 999
    assert default_samples(problem, network, [chains, guided]) == 19


def test_what_is_said_counts():
    assert solved(num_samples=3) == solved(A=BENT, budget=iv.Budget(evaluations=2000), num_samples=3) == 3
    assert solved(noise=LEVEL, num_samples=3) == 3


def test_a_90_percent_interval_of_the_fewest():
    result = iv.solve(A, Y, PRIOR, noise=0.5, strategy=iv.strategies.MMPS(num_steps=3))
    low, high, level = result.interval(0.9)
    assert (
        level == pytest.approx(0.9)
        and torch.equal(low, result.samples.amin(0))
        and torch.equal(high, result.samples.amax(0))
    )


def test_the_first_samples_of_a_closed_form_are_what_they_were():
    few, many = (iv.solve(A, Y, PRIOR, noise=0.5, seed=3, num_samples=k) for k in (16, None))
    assert torch.allclose(many.samples[:16], few.samples, atol=1e-6)
