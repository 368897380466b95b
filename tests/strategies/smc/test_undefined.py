"""Operators that are no number for some signals of the prior: no particle is killed for its neighbour, and it is said."""

from __future__ import annotations

import math

import pytest
import torch

import invsolve as iv
from invsolve.errors import OperatorError, SolveError
from invsolve.strategies import DPS, LGD, MMPS, SMC, TMPD, NoiseMCMC

D = torch.float64


def normal(mean: float, std: float = 1.0) -> iv.priors.GaussianPrior:
    return iv.priors.GaussianPrior(torch.tensor([mean], dtype=D), torch.tensor([[std**2]], dtype=D))


def operator(f):
    return iv.operators.from_callable(f, (1,), (1,), dtype=D)


def data(y: float) -> torch.Tensor:
    return torch.tensor([y], dtype=D)


def test_a_likelihood_that_is_nan_is_a_weight_of_zero():
    """N(0, 1) seen with noise 0.3 at 0.5, undefined below -1, 5 posterior stds away: mean, std and evidence exact."""
    A = operator(lambda x: torch.where(x < -1, math.nan, x))
    result = iv.solve(A, data(0.5), normal(0.0), noise=0.3, strategy=SMC(), num_samples=512)
    v = 1 / (1 + 1 / 0.09)
    se = math.sqrt(v / float(result.info["ess"][0]))
    assert abs(float(result.mean) - v * 0.5 / 0.09) < 5 * se
    assert abs(float(result.std) - math.sqrt(v)) < 5 * se / math.sqrt(2)
    evidence = -0.5 * 0.25 / 1.09 - 0.5 * math.log(2 * math.pi * 1.09)
    assert abs(float(result.info["log_evidence"][0]) - evidence) < 5 * float(result.info["log_evidence_se"][0])


def test_a_root_of_what_is_negative_kills_nobody_else():
    """The curvature of a root is felt at points where there is none; moments and evidence by quadrature."""
    result = iv.solve(operator(torch.sqrt), data(1.2), normal(1.0), noise=0.1, strategy=SMC(), num_samples=512)
    x = torch.linspace(0, 8, 400001, dtype=D)
    density = torch.exp(-((x.sqrt() - 1.2) ** 2) / 0.02 - (x - 1) ** 2 / 2)
    mean = (density * x).sum() / density.sum()
    std = (density * (x - mean) ** 2).sum().div(density.sum()).sqrt()
    evidence = math.log(float(density.sum() * (x[1] - x[0])) / (2 * math.pi * 0.1))
    se = float(std) / math.sqrt(float(result.info["ess"][0]))
    assert abs(float(result.mean) - float(mean)) < 5 * se
    assert abs(float(result.std) - float(std)) < 5 * se
    assert abs(float(result.info["log_evidence"][0]) - evidence) < 5 * float(result.info["log_evidence_se"][0])


def test_an_estimate_outside_of_the_domain_does_not_rule_its_particle_out():
    """Half of a mixture lies where A is no number, and with it every E[x0 | x_t] at high levels; by quadrature.

    Of 512 particles some 60 founders have descendants: the standard error is at most that of so many.
    """
    means, variances = torch.tensor([[1.0], [2.0]], dtype=D), torch.full((2, 1, 1), 0.3, dtype=D)
    prior = iv.priors.GaussianMixturePrior(torch.tensor([0.5, 0.5], dtype=D), means, variances)
    A = operator(lambda x: torch.where(x > 1.2, math.nan, x))
    result = iv.solve(A, data(1.0), prior, noise=0.1, strategy=SMC(), num_samples=512)
    x = torch.linspace(-2, 1.2, 400001, dtype=D)
    density = torch.exp(-((x - 1) ** 2) / 0.02) * torch.exp(-((x - means) ** 2) / 0.6).sum(0)
    mean = (density * x).sum() / density.sum()
    std = (density * (x - mean) ** 2).sum().div(density.sum()).sqrt()
    evidence = math.log(float(density.sum() * (x[1] - x[0])) * 0.5 / (2 * math.pi * 0.1 * math.sqrt(0.3)))
    assert abs(float(result.mean - mean)) < 5 * float(std) / math.sqrt(float(result.info["founders"][0]))
    assert abs(float(result.info["log_evidence"][0]) - evidence) < 5 * float(result.info["log_evidence_se"][0])


def test_they_are_counted_and_the_reader_is_told():
    A = operator(lambda x: torch.where(x > 1.2, math.nan, x))
    result = iv.solve(A, data(1.2), normal(1.0), noise=0.1, strategy=SMC(), num_samples=64)
    lost = int(result.info["undefined"][0])
    assert lost > 0 and bool((result.info["undefined"] == lost).all())
    assert [w for w in result.warnings if f"the likelihood of {lost} particles of an item" in w]
    assert float(result.samples.max()) <= 1.2
    clean = iv.solve(operator(torch.sin), data(0.2), normal(0.0), noise=0.1, strategy=SMC(), num_samples=16)
    assert not clean.info["undefined"].any() and not any("NaN" in w for w in clean.warnings)


@pytest.mark.parametrize("strategy", [SMC(), NoiseMCMC(num_steps=50)], ids=["SMC", "chains"])
def test_a_likelihood_that_is_always_nan_is_an_error(strategy):
    A = operator(lambda x: torch.where(x > -9, math.nan, x))
    with pytest.raises((SolveError, OperatorError), match="32 of 32 samples failed|must be finite, got NaN"):
        iv.solve(A, data(0.0), normal(0.0), noise=0.1, strategy=strategy, num_samples=32)


def test_one_item_without_a_likelihood_is_lost_alone_and_the_error_says_why():
    """Item 1 is undefined on the left of 9, where all of its prior lies; item 0 is not."""

    class Sided(iv.operators.Operator):
        in_shape = out_shape = (1,)

        def __init__(self, edge):
            self.edge = edge

        @property
        def batch(self):
            return len(self.edge)

        def take(self, index):
            return Sided(self.edge[index])

        def _apply(self, x):
            return torch.where(x.detach() == 0, x, torch.where(x < self.edge, math.nan, x))  # fine at the mean

    A = Sided(torch.tensor([[-99.0], [99.0]], dtype=D))
    with pytest.raises(
        SolveError, match="32 of 64 samples failed.*the likelihood of .* particles of an item"
    ) as caught:
        iv.solve(A, data(0.5).expand(2, 1), normal(0.0), noise=0.3, strategy=SMC(), num_samples=32)
    result = caught.value.result
    assert result.failed[:, 1].all() and not result.failed[:, 0].any()


STRATEGIES = {"SMC": SMC(), "MMPS": MMPS(), "DPS": DPS(), "TMPD": TMPD(), "LGD": LGD()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_derivative_that_is_infinite_at_the_prior_mean_is_named(name):
    words = "solve: the derivative of CallableOperator at the prior's mean must be finite, .* NoiseMCMC"
    with pytest.raises(OperatorError, match=words):
        iv.solve(operator(torch.sqrt), data(1.0), normal(0.0), noise=0.1, strategy=STRATEGIES[name])


@pytest.mark.parametrize("f", [torch.log, torch.reciprocal], ids=["log", "1/x"])
def test_a_value_that_is_infinite_at_the_prior_mean_is_named(f):
    with pytest.raises(OperatorError, match="solve: the value of CallableOperator at the prior's mean must be finite"):
        iv.solve(operator(f), data(1.0), normal(0.0), noise=0.1, strategy=MMPS())


def test_auto_finds_a_way_without_derivatives():
    """By quadrature: the posterior of a root at a prior mean of 0."""
    result = iv.solve(operator(torch.sqrt), data(1.0), normal(0.0), noise=0.1, num_samples=256, budget=4.0)
    x = torch.linspace(0, 8, 400001, dtype=D)
    density = torch.exp(-((x.sqrt() - 1) ** 2) / 0.02 - x**2 / 2)
    mean = (density * x).sum() / density.sum()
    std = (density * (x - mean) ** 2).sum().div(density.sum()).sqrt()
    assert abs(float(result.mean - mean)) < 5 * float(std) / 16
