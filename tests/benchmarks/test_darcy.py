"""benchmarks/darcy.py: its problem, the chains of its reference, and that a method is scored as it should be."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import invsolve as iv

FOLDER = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def problem():
    sys.path.insert(0, FOLDER)
    yield importlib.import_module("_darcy_problem")
    sys.path.remove(FOLDER)


@pytest.fixture(scope="module")
def chains(problem):
    return importlib.import_module("darcy_posterior_reference")


@pytest.fixture(scope="module")
def darcy(problem):
    return importlib.import_module("darcy")


def test_two_programs_solve_the_same_equation(problem, chains):
    case = problem.DarcyCase(n=16)
    forward = chains.Forward(case)
    y = forward.fine((case.truth > problem.MIDDLE).numpy())
    expected = case.operator(case.truth[None])[0].numpy()
    assert np.abs(y - expected).max() < 1e-10 * np.abs(expected).max()
    z = np.random.default_rng(0).standard_normal((16, 16))
    law = problem.level_set(16, dtype=torch.float64).base.law
    ratio = law.variances.sqrt().numpy().ravel()[1:] / forward.amplitude.ravel()[1:]
    assert np.ptp(ratio) < 1e-9 * ratio[0]  # the same field, but for a factor
    assert 0.2 < forward.inside(z).mean() < 0.8


def test_slopes_are_those_of_the_operator(problem, chains):
    case = problem.DarcyCase(n=20)
    forward = chains.Forward(case)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 20)))
    u = torch.from_numpy(chains.idctn(z.numpy() * forward.amplitude, norm="ortho"))
    width = 0.1 * float(u.std(correction=0))
    _, pull = case.operator.vjp(torch.where(u >= 0, 12.0, 3.0).double().expand(64, 20, 20))
    share = torch.sigmoid(u / width)
    of_u = pull(torch.eye(64, dtype=torch.float64)) * 9 / width * share * (1 - share)
    of_z = chains.dctn(of_u.numpy(), axes=(1, 2), norm="ortho") * forward.amplitude
    expected = torch.from_numpy(of_z).flatten(1)
    found = torch.from_numpy(forward.slopes(z.numpy()))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-9


@pytest.mark.slow
def test_the_two_stage_chains_have_the_posterior(problem, chains, tmp_path):
    """Against importance sampling from the prior, where noise is large."""
    out = tmp_path / "small.npz"
    sizes = {"n": 12, "noise": 0.6, "chains": 6, "anneal": 20, "settle": 150, "moves": 600, "every": 600}
    more = {"members": 40, "rounds": 2, "out": out}
    chains.main([word for key, value in {**sizes, **more}.items() for word in (f"--{key}", str(value))])
    case = problem.DarcyCase(n=12, noise=0.6)
    found = problem.read(out, case.data)
    x = problem.level_set(12, dtype=torch.float64).sample(4000, seed=1)
    log = -((case.operator(x) - case.data) / case.std).square().sum(1) / 2
    w = torch.softmax(log, 0)
    size = 1 / float(w.square().sum())
    assert size > 50
    mean = (w[:, None, None] * x).sum(0)
    prior = float((7.5 - mean).norm() / mean.norm())
    spread = float((w[:, None, None] * (x - mean).square()).sum(0).sum().sqrt() / mean.norm()) / size**0.5
    bound = 3 * math.hypot(spread, found.mean_error)
    assert bound < prior  # the data matter by more than what is tested
    assert float((found.mean - mean).norm() / mean.norm()) < bound


def test_the_file_is_the_posterior_of_this_problem(problem):
    case = problem.DarcyCase()
    reference = problem.read(data=case.data)
    assert problem.FILE.stat().st_size < 2 * 2**20
    assert math.isfinite(reference.rhat) and reference.mean_error < 0.05
    gap = (reference.samples.mean(0) - reference.mean).norm() / reference.std.norm()
    assert float(gap) < 0.2  # thinned ones
    one, other = reference.halves()
    assert len(one) + len(other) == len(reference.samples)
    residual = (case.operator(reference.samples[::40]) - case.data) / case.std
    assert abs(float(residual.square().mean()) - 1) < 4 * math.sqrt(2 / 64)
    with pytest.raises(SystemExit, match="other data"):
        problem.read(data=2 * case.data)


def test_scores_of_the_posterior_are_small_and_of_the_prior_are_not(problem, darcy):
    case = problem.DarcyCase(n=16)
    prior = problem.level_set(16).sample(60, seed=0).double()
    reference = problem.Reference(
        mean=prior.mean(0),
        std=prior.std(0, correction=0),
        samples=prior,
        chains=2,
        rhat=1.0,
        mean_error=0.0,
        std_error=0.0,
    )
    same = darcy.scores(case, prior, reference)
    for key in ("mean_error", "std_error", "sliced", "spectral", "raw_std_error"):
        assert same[key] < 1e-9
    assert same["mmd"] < 1e-6 and same["misfit"] > 100
    truth = darcy.scores(case, case.truth[None].expand(3, 16, 16), reference)
    assert truth["error_rate"] == 0 == truth["single_rate"] and truth["std_error"] == pytest.approx(1.0)
    assert truth["misfit"] == pytest.approx(
        float(((case.operator(case.truth[None]) - case.data) / case.std).square().mean())
    )


def test_a_positive_coefficient_has_a_derivative(darcy):
    a = torch.tensor([-3.0, 0.999999, 1.000001, 3.0, 12.0], dtype=torch.float64, requires_grad=True)
    value = darcy.positive(a)
    assert float(value.detach().min()) > 0.5 and torch.equal(value[3:].detach(), a[3:].detach())
    (slope,) = torch.autograd.grad(value.sum(), a)
    assert float((slope[1] - slope[2]).abs()) < 1e-5


def test_the_quick_size_runs(darcy, monkeypatch, capsys):
    for only in ("ES-MDA", "law"):
        monkeypatch.setattr(sys, "argv", ["darcy.py", "--quick", "--only", only])
        darcy.main()
    text = capsys.readouterr().out
    assert "| ES-MDA | level set | 200 |" in text and "16 x 16 | law, 200" in text


def test_a_method_is_answered(problem, darcy):
    case = problem.DarcyCase(n=16)
    prior = problem.level_set(16).sample(40, seed=0).double()
    reference = problem.Reference(
        mean=prior.mean(0), std=prior.std(0), samples=prior, chains=2, rhat=1.0, mean_error=0.0, std_error=0.0
    )
    chains = iv.strategies.NoiseMCMC(kernel="pcn", chains=8, islands=2, rounds=4, num_steps=6)
    row = darcy.answer(case, "pCN", darcy.Method(strategy=lambda: chains, samples=8), None, reference)
    assert row.samples == 8 and row.prior == "level set" and "R-hat" in row.note and row.std_error == row.raw_std_error
