"""The problems of benchmarks/pde.py: their closed form, and that a method is scored as it should be."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

import invsolve as iv

FOLDER = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def linear():
    sys.path.insert(0, FOLDER)
    yield importlib.import_module("_pde_linear")
    sys.path.remove(FOLDER)


@pytest.fixture(scope="module")
def pde(linear):
    return importlib.import_module("pde")


@pytest.mark.parametrize("equation", ["poisson", "helmholtz"])
@pytest.mark.parametrize("direction", ["inverse", "forward"])
def test_the_operator_is_matched_and_the_closed_form_is_the_posterior(linear, equation, direction):
    """Two programs: plain linear algebra, and the prior's posterior in its modes."""
    case = linear.LinearCase(equation=equation, direction=direction, noise=1e-2, n=24, items=2)
    iv.testing.check_operator(case.operator)
    mean, std = case.exact()
    posterior = case.prior.posterior(case.operator, case.data, case.std)
    assert torch.allclose(case.asked(posterior.mean), mean, atol=1e-6 * float(mean.abs().max()))
    if direction == "inverse":
        expected = case.source(posterior.std[:1])[0]
        assert torch.allclose(std, expected, atol=1e-6 * float(std.max()))
    x = case.asked(posterior.sample(400, seed=0)[:, 0])
    assert float((x.std(0) - std).norm() / std.norm()) < 0.1  # 1 / sqrt(800), of nodes that go together


def test_the_five_point_formula_is_solved(linear):
    case = linear.LinearCase(equation="helmholtz", direction="inverse", noise=1e-2, n=17, items=1)
    u = case.solve(case.truth)
    padded, h = torch.nn.functional.pad(u, (0, 0, 0, 0)), 1 / 16
    laplace = (
        padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] - 4 * u[:, 1:-1, 1:-1]
    ) / h**2
    assert torch.allclose(laplace + u[:, 1:-1, 1:-1], case.truth[:, 1:-1, 1:-1], atol=1e-10)
    assert float(u[:, 0].abs().max()) == 0 == float(u[..., -1].abs().max())


@pytest.mark.parametrize("equation", ["poisson", "helmholtz"])
def test_the_package_solves_the_same_equation(linear, equation):
    """Its operator on the nodes inside."""
    case = linear.LinearCase(equation=equation, direction="inverse", noise=1e-2, n=17, items=2)
    A = iv.operators.Helmholtz(iv.CartesianGrid((15, 15), points="interior"), wavenumber=linear.WAVENUMBER[equation])
    expected = case.solve(case.truth)[:, 1:-1, 1:-1]
    assert torch.allclose(A(case.truth[:, 1:-1, 1:-1].contiguous()), expected, atol=1e-12)


def test_what_500_exact_values_leave_open(linear):
    """The root of the variance that is left, over that of the field: 4.98 +- 0.08 % at 64 x 64 nodes, over sensors."""
    case = linear.LinearCase(equation="poisson", direction="inverse", noise=1e-6, n=64, items=1)
    _, std = case.exact()
    total = linear.field_prior(64, 3.0).law.variances * linear.field_prior(64, 3.0).law.modes.colour ** 2
    share = float((std.square().sum() / total.sum()).sqrt())
    assert abs(100 * share - 4.98) < 3 * 0.08


def test_moment_matching_reaches_it_and_is_scored(linear, pde):
    case = linear.LinearCase(equation="poisson", direction="inverse", noise=1e-4, n=24, items=6)
    exact = case.exact()
    row = pde.answer(case, "MMPS()", pde.Method(strategy=lambda c: iv.strategies.MMPS(), samples=39, items=6), exact)
    assert abs(row.mean / row.best - 1) < 0.05 and abs(row.single / row.best - math.sqrt(2)) < 0.1
    assert row.std_error < 0.08 and 0.8 < row.coverage < 0.97 and row.nfe == 50
    other = pde.Method(strategy=pde.fundps(1e6), samples=1, items=6)
    lost = pde.answer(case, "FunDPS", other, exact)
    assert "diverged" in lost.note and math.isnan(lost.mean)
    rows = pde.gaussian_processes(case, exact)
    assert rows[0].mean == rows[0].best and all(r.mean > 0 for r in rows)
    assert rows[-1].std_error > 1
    text = pde.text_of([row, lost, *rows])
    assert "FunDPS 20.47 %" in text and "## Poisson inverse, noise 0.0001" in text
