"""The quadratures of benchmarks/_nonlinear.py against importance sampling and Hamiltonian Monte Carlo."""

from __future__ import annotations

import functools

import nonlinear
import pytest
import torch
from _gold_curved import Curved, hmc
from _nonlinear import PROBLEMS, Bimodal, D, Fold, around_modes, reference
from torch import Tensor

import invsolve as iv

SIX = 6  # standard errors: some fifty comparisons, with errors that are estimates themselves
PLANE = ["phase, 2 numbers", "phase, mixture", "fold"]


@functools.cache
def made(name: str) -> Bimodal:
    return PROBLEMS[name]()


def groups_of(problem: Bimodal, x: Tensor, weights: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """What a weighted sample says of (weight, means, stds), and its standard error, from groups of it: ``(k,)`` each."""
    of = []
    for part, w in zip(x.chunk(groups), weights.chunk(groups), strict=True):
        r = reference(part, w, problem.mode(part))
        of.append(torch.cat([r.weights[:1], r.mean, r.means.flatten(), r.stds.flatten()]))
    values = torch.stack(of)
    return values.mean(0), values.std(0) / groups**0.5


def stated(problem: Bimodal) -> Tensor:
    r = problem.exact
    return torch.cat([r.weights[:1], r.mean, r.means.flatten(), r.stds.flatten()])


@pytest.mark.parametrize("name", PLANE)
def test_quadrature_in_the_plane_against_importance_sampling(name):
    """Draws of the prior, weighted with the likelihood; ratios are biased by 1 / n, within the error."""
    problem = made(name)
    x = problem.prior.sample(1_000_000, seed=1)
    log = -(problem.operator(x) - problem.data).square().sum(1) / (2 * problem.noise**2)
    weights = torch.softmax(log, 0)
    assert float(1 / weights.square().sum()) > 10_000
    found, error = groups_of(problem, x, weights, 20)
    assert bool(((found - stated(problem)).abs() <= SIX * error).all())
    assert float(error[0]) < 0.01  # else the test says nothing


@pytest.mark.slow
def test_quadrature_around_modes_against_hamiltonian_monte_carlo():
    """With x -> -x as a move; 64 chains, two runs from different starts."""
    problem = made("phase, 5 numbers")
    root = torch.linalg.cholesky(problem.prior.covariance)
    curved = Curved(
        f=problem.operator, y=problem.data, noise=problem.noise, mean=problem.prior.mean, root=root, even=True
    )
    gold = hmc(curved, seed=1, chains=64, sweeps=300)
    exact = problem.exact
    assert float(((gold.mean - exact.mean) / exact.std).abs().max()) < SIX * gold.mean_error
    assert float((gold.std / exact.std - 1).abs().max()) < SIX * gold.std_error
    assert gold.mean_error < 0.02 and gold.std_error < 0.03  # else the test says nothing
    share = (problem.mode(gold.samples) == 0).double().mean()
    assert abs(float(share - exact.weights[0])) < SIX * 0.5 / len(gold.samples) ** 0.5 + SIX * gold.mean_error


def test_both_quadratures_agree_in_the_plane():
    """The fold's sheets are not Gaussian: more nodes come closer to the trapezoidal rule."""
    problem = made("fold")
    gaps = []
    for nodes in (6, 30):
        grid = around_modes(problem.log_target, problem.exact.means, nodes)
        found = reference(grid.points, grid.weights, problem.mode(grid.points))
        gaps.append(
            max(
                float((found.weights - problem.exact.weights).abs().max()),
                float((found.stds / problem.exact.stds - 1).abs().max()),
            )
        )
    assert gaps[1] < 1e-3 and gaps[1] < gaps[0] / 10


def test_a_reference_of_two_gaussians_is_theirs():
    means, stds, p = torch.tensor([[-3.0, 0.5], [3.0, 0.0]], dtype=D), torch.tensor([0.2, 0.4], dtype=D), 0.3

    def target(x: Tensor) -> Tensor:
        parts = [-(x - m).square().sum(1) / (2 * s**2) - 2 * s.log() for m, s in zip(means, stds, strict=True)]
        return torch.logaddexp(parts[0] + torch.tensor(p).log(), parts[1] + torch.tensor(1 - p).log())

    grid = around_modes(target, means + 0.1, 8)
    found = reference(grid.points, grid.weights, (grid.points[:, 0] > 0).long())
    assert torch.allclose(found.weights, torch.tensor([p, 1 - p], dtype=D), atol=1e-8)
    assert torch.allclose(found.means, means, atol=1e-8)
    assert torch.allclose(found.stds, stds[:, None].expand(2, 2), atol=1e-8)
    centre = p * means[0] + (1 - p) * means[1]
    assert torch.allclose(found.mean, centre, atol=1e-8)
    second = p * (means[0] ** 2 + stds[0] ** 2) + (1 - p) * (means[1] ** 2 + stds[1] ** 2)
    assert torch.allclose(found.std, (second - centre**2).sqrt(), atol=1e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_modes_are_two_apart_and_of_unequal_weight(name):
    problem = made(name)
    exact = problem.exact
    assert abs(float(exact.weights.sum()) - 1) < 1e-12 and 0.25 < float(exact.weights.min()) < 0.45
    gap = (exact.means[0] - exact.means[1]) @ problem.side / problem.side.norm()
    spread = (exact.stds.square() @ problem.side.square()).sqrt() / problem.side.norm()
    assert float(gap) > 6 * float(spread.sum())
    assert problem.mode(exact.means).tolist() == [0, 1]
    # the two statements of the prior are of one law
    x = problem.prior.sample(5, seed=3)
    ours, theirs = problem.log_prior(x), problem.prior.log_prob(x, torch.tensor(0.0, dtype=D))
    assert torch.allclose(ours - ours[0], theirs - theirs[0], atol=1e-9)


def test_the_fold_keeps_the_contract():
    assert iv.testing.check_operator(Fold()).passed


@pytest.mark.parametrize("name", ["NoiseMCMC", "SMC(tempering=0.5)"])
def test_weights_and_modes_are_found_by_what_corrects_itself(name):
    """Within 0.1, and not by luck of what is measured: moment matching alone fails the same test."""
    problem = made("fold")
    row = nonlinear.score(problem, name, seed=0)
    assert row.finite == 1 and abs(row.weight - row.exact_weight) < 0.1
    assert row.mode_std_min > 0.85 and row.mode_std_max < 1.15 and row.mode_e_mean < 0.2
    assert abs(nonlinear.score(problem, "MMPS", seed=0).weight - row.exact_weight) > 0.1


def test_scores_of_the_exact_law_and_of_one_mode():
    problem = made("phase, mixture")
    x = problem.prior.sample(200_000, seed=4)
    log = problem.log_target(x) - problem.log_prior(x)
    good = nonlinear.errors(problem, x, torch.softmax(log, 0))
    assert abs(good["weight"] - float(problem.exact.weights[0])) < 0.03 and good["e_mean"] < 0.06
    one = x[problem.mode(x) == 0]
    bad = nonlinear.errors(problem, one, torch.ones(len(one), dtype=D))
    assert abs(bad["weight"] - 1) < 1e-12 and bad["e_mean"] > 0.5


def test_tables_keep_what_fails_and_what_does_not_run(monkeypatch):
    row = nonlinear.score(made("fold"), "PiGDM", seed=0)
    monkeypatch.setitem(nonlinear.STRATEGIES, "closed form", iv.strategies.Exact)
    refused = nonlinear.score(made("fold"), "closed form", seed=0)
    assert refused.note and refused.weight != refused.weight
    text = nonlinear.table([row, refused])
    assert "does not run" in text and len({line.count("|") for line in text.splitlines()}) == 1
    summary = nonlinear.summary([row, refused]).splitlines()
    assert summary[2].startswith("| PiGDM") and summary[2].endswith("| no |") and summary[3].endswith("| no |")
