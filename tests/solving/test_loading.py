"""Checks of results that were loaded or derived, and the meter of a check."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch

import invsolve as iv

N = 8
PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(N), covariance=torch.eye(N))
A = iv.operators.Mask(mask=torch.arange(N) < 5)
Y = A(PRIOR.sample(2, seed=1)) + 0.1 * torch.randn(2, N, generator=torch.Generator().manual_seed(0)) * A.mask
PROBLEM = iv.Problem(A, Y, 0.1)


@pytest.mark.parametrize("strategy", ["auto", iv.strategies.NoiseMCMC(chains=64, islands=4, rounds=4)])
def test_a_loaded_result_is_checked_with_what_was_solved(strategy, tmp_path):
    result = iv.solve(PROBLEM, PRIOR, strategy=strategy, num_samples=16)
    result.save(tmp_path / "r.nc")
    back = iv.load_result(tmp_path / "r.nc", problem=PROBLEM, prior=PRIOR)
    assert back.strategy_object.name == result.strategy and back.dims == result.dims
    if strategy == "auto":
        assert str(back.check()) == str(result.check())
    else:
        mine = iv.load_result(tmp_path / "r.nc", problem=PROBLEM, prior=PRIOR, strategy=strategy)
        assert mine.strategy_object == strategy and str(mine.check(solves=False)) == str(result.check(solves=False))


def test_inferred_scalars_too(tmp_path):
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=2))
    problem = iv.Problem(A, Y, noise)
    result = iv.solve(problem, PRIOR, num_samples=16)
    result.save(tmp_path / "r.nc")
    assert str(iv.load_result(tmp_path / "r.nc", problem=problem, prior=PRIOR).check()) == str(result.check())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, iv.errors.UnsupportedError, r"iv.load_result\(path, problem=iv.Problem\(A, y, noise\), prior=prior\)"),
        ({"problem": PROBLEM}, iv.errors.InputTypeError, "`prior` must be"),
        ({"prior": PRIOR}, iv.errors.InputTypeError, "`problem` must be an iv.Problem, given with the prior, got None"),
        ({"problem": iv.Problem(A, Y + 1, 0.1), "prior": PRIOR}, iv.errors.InputError, "of the data that the result"),
        (
            {"problem": PROBLEM, "prior": iv.priors.exp(PRIOR)},
            iv.errors.UnsupportedError,
            "a signal with a transformed prior",
        ),
    ],
    ids=["nothing", "no prior", "no problem", "other data", "transformed"],
)
def test_what_was_not_solved_is_refused(options, error, words, tmp_path):
    iv.solve(PROBLEM, PRIOR, num_samples=2).save(tmp_path / "r.nc")
    with pytest.raises(error, match=words):
        iv.load_result(tmp_path / "r.nc", **options).check()


def test_a_strategy_that_is_not_in_the_package_is_one_to_say(tmp_path):
    result = iv.solve(PROBLEM, PRIOR, num_samples=2)
    replace(result, strategy="Mine").save(tmp_path / "r.nc")
    assert iv.load_result(tmp_path / "r.nc", problem=PROBLEM, prior=PRIOR).strategy_object.name == "Exact"


def test_a_derived_result_is_checked_by_its_source():
    result = iv.solve(PROBLEM, PRIOR, num_samples=16)
    size = result.map(lambda x: x.square().sum(1)).map(torch.sqrt)
    assert str(size.check(solves=False)) == str(result.check(solves=False))
    for other in (copy.deepcopy(size), pickle.loads(pickle.dumps(size))):
        with pytest.raises(iv.errors.UnsupportedError, match="derived from is gone"):
            other.check()
    del result  # it is not kept alive by what was made from it
    with pytest.raises(iv.errors.UnsupportedError, match="Keep it, or call check"):
        size.check()


def test_a_check_shows_how_far_it_is():
    shown = []

    class Meter(iv.progress.Progress):
        def init(self, total):
            shown.append((0, total))

        def step(self, done, total):
            shown.append((done, total))

        def close(self):
            shown.append("closed")

    iv.solve(PROBLEM, PRIOR, num_samples=8).check(progress=Meter())
    assert shown[-1] == "closed" and len(shown) > 4
    done = [step[0] for step in shown[:-1]]
    assert done == sorted(done) and 0.5 < done[-1] / shown[0][1] <= 1
    with pytest.raises(iv.errors.InputTypeError, match="Result.check: `progress` must be"):
        iv.solve(PROBLEM, PRIOR, num_samples=8).check(progress="yes")
