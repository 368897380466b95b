"""Unknown scalars inside a budget: what is known when it is spent is returned, and said to be coarse."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.hyperparameters.lattice import Spent, explore, run

D = torch.float64
N = 4
PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=D), covariance=torch.eye(N, dtype=D))
BENT = iv.operators.from_callable(lambda x: x + 0.1 * x**3, (N,), (N,))
Y = torch.tensor([1.2, -0.7, 0.4, 2.0], dtype=D)
LEVEL = iv.noise.Gaussian(std=iv.LogNormal(median=0.2, factor=2))


def gaussian(node, numbers):
    return [-0.5 * sum((x - 0.3) ** 2 / 0.2**2 for x in node)] * len(numbers)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_lattice_that_is_stopped_is_the_one_before(dims):
    """Moments of the last full lattice, whose spacing is at most that of the scan."""
    whole = run([explore(dims, 0.15)], gaussian)[0]
    calls = 0

    def stops(after):
        def count(node, numbers):
            nonlocal calls
            calls += 1
            return gaussian(node, numbers)

        return run([explore(dims, 0.15)], count, lambda: calls >= after)[0]

    for after in (20, len(whole.nodes) // 2):
        calls = 0
        found = stops(after)
        assert found.hidden == math.inf and len(found.nodes) < len(whole.nodes) and found.steps[0] >= whole.steps[0]
        mean = (found.weights[:, None] * found.points).sum(0)
        assert float((mean - 0.3).abs().max()) < found.steps[0]  # of the next node, where the peak is narrower


def test_a_budget_that_ends_before_anything_is_known_leaves_the_medians():
    explorer = explore(1, 0.15)
    next(explorer)
    with pytest.raises(StopIteration) as end:
        explorer.throw(Spent())
    assert end.value.value.nodes == ((0.0,),) and end.value.value.hidden == math.inf


def test_an_inference_ends_with_its_budget():
    """The smallest ensembles, 24 chains, at the values that there is time for."""
    small = iv.solve(BENT, Y, PRIOR, noise=LEVEL, num_samples=16, budget=iv.Budget(evaluations=20_000))
    assert sum(small.operator_calls.values()) < 1.1 * 20_000
    assert any("the budget was spent after" in text and "noise.std" in text for text in small.warnings)
    assert small.samples.isfinite().all() and small.log_evidence.isnan()
    with pytest.raises(iv.errors.UnsupportedError, match="the evidence in the result 'one' is not known"):
        iv.compare({"one": small, "two": small})


@pytest.mark.slow
def test_an_inference_that_fits_is_the_whole_one():
    """The ensembles are smaller; the posterior of the level is that of the usual ones, within their errors."""
    within = iv.solve(BENT, Y, PRIOR, noise=LEVEL, num_samples=256, budget=iv.Budget(evaluations=6_000_000))
    assert not any("budget" in text for text in within.warnings)
    usual = iv.solve(BENT, Y, PRIOR, noise=LEVEL, num_samples=256)
    a, b = within["noise.std"], usual["noise.std"]
    assert abs(float(a.mean - b.mean)) < 5 * float(b.std) * (2 / 256) ** 0.5 + 0.1 * float(b.std)


def test_gibbs_sweeps_end_with_the_budget():
    how = iv.Hierarchy(method="gibbs", num_sweeps=50)
    options = {"noise": LEVEL, "num_samples": 8, "hierarchy": how}
    short = iv.solve(BENT, Y, PRIOR, budget=iv.Budget(evaluations=20_000), **options)
    assert any("of 50 Gibbs sweeps" in text for text in short.warnings) and "by 50 Gibbs" not in short.why
    assert short.samples.isfinite().all()


def test_closed_forms_need_no_smaller_ensembles():
    A = iv.operators.Matrix(matrix=torch.eye(N, dtype=D))
    result = iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=16, budget=60)
    same = iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=16)
    assert torch.equal(result.samples, same.samples) and result.warnings == same.warnings
