"""DAPS with preconditioned Crank-Nicolson steps: the draws of its closed form, on any grid, for any likelihood."""

from __future__ import annotations

import math

import torch

import invsolve as iv
from invsolve import strategies as ivs

D = torch.float64


def test_it_draws_what_the_closed_form_draws():
    """Mean and variance of two numbers, within five standard errors of both."""
    C = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=D)
    prior, A = (
        iv.priors.GaussianPrior(torch.zeros(2, dtype=D), C),
        iv.operators.Matrix(torch.tensor([[1.0, 0.3]]).double()),
    )
    n, found = 3000, []
    for inner in ("exact", "pcn"):
        strategy = ivs.DAPS(num_steps=12, inner=inner, langevin_steps=40)
        x = iv.solve(
            A, torch.tensor([1.2], dtype=D), prior, noise=0.3, strategy=strategy, num_samples=n, seed=2
        ).samples
        found.append(x)
    exact, pcn = found
    spread = exact.var(0)
    assert ((pcn.mean(0) - exact.mean(0)).abs() < 5 * (2 * spread / n).sqrt()).all()
    assert ((pcn.var(0) / spread - 1).abs() < 5 * 2 / math.sqrt(n)).all()


def test_it_takes_likelihoods_that_have_no_closed_form_and_never_a_step_to_nan():
    """A root, which is no number for half of the proposals."""
    prior = iv.priors.GaussianPrior(torch.ones(1, dtype=D), 0.5 * torch.eye(1, dtype=D))
    root = iv.operators.from_callable(torch.sqrt, (1,), (1,), dtype=D)
    x = iv.solve(
        root,
        torch.tensor([0.5], dtype=D),
        prior,
        noise=0.1,
        strategy=ivs.DAPS(num_steps=10, inner="pcn", langevin_steps=30),
        num_samples=500,
        throw=False,
    )
    kept = x.samples[~x.failed]
    positive = kept[kept >= 0]  # a flow that ends below 0 has no likelihood around it
    assert len(kept) == 500 and len(positive) > 450
    assert abs(float(positive.sqrt().mean()) - 0.5) < 0.05


def test_a_field_is_drawn_alike_on_a_finer_grid():
    """The same places seen, the same length of steps: the spread between grids is that of the draws."""
    means = []
    for n in (24, 48):
        prior = iv.priors.GaussianFieldPrior(
            (n,), iv.priors.Matern(1.0, 0.5), noise_spectrum=iv.priors.Matern(1.0, 0.2, smoothness=1.0), dtype=D
        )
        weights = torch.zeros(2, n, dtype=D)
        weights[0, : n // 3], weights[1, 2 * n // 3 :] = 3 / n, 3 / n  # the means over both thirds at the ends
        A = iv.operators.Matrix(weights)
        strategy = ivs.DAPS(num_steps=12, inner="pcn", langevin_steps=30)
        x = iv.solve(
            A, torch.tensor([1.0, -1.0], dtype=D), prior, noise=0.2, strategy=strategy, num_samples=600
        ).samples
        means.append(A(x))
    se = (means[0].var(0) / 600 + means[1].var(0) / 600).sqrt()
    assert ((means[0].mean(0) - means[1].mean(0)).abs() < 5 * se + 0.02).all()
