"""A run that is over is read again at once, to the bit, and only by the call that made it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import invsolve as iv
from invsolve.core.checkpoint import load_state, save_state
from invsolve.core.counting import tally
from invsolve.core.random import Draws

D = torch.float64
N = 3
PRIOR = iv.priors.GaussianPrior(torch.zeros(N, dtype=D), torch.eye(N, dtype=D))
MIX = iv.priors.GaussianMixturePrior(
    torch.tensor([0.5, 0.5], dtype=D), torch.tensor([[-1.0] * N, [1.0] * N], dtype=D), 0.3 * torch.eye(N, dtype=D)
)
HIDDEN = iv.priors.from_denoiser(MIX._denoise, shape=(N,), mean=MIX.mean, scale=MIX.scale)
BENT = iv.operators.from_callable(lambda x: x + 0.1 * x.roll(1, -1) ** 2, (N,), (N,))
Y = torch.tensor([0.5, -0.2, 1.0], dtype=D)
CALLS = {
    "looks and a search": (PRIOR, {}),
    "a clock": (PRIOR, {"budget": 3.0, "seed": 1}),
    "evaluations": (PRIOR, {"budget": iv.Budget(evaluations=30_000)}),
    "particles by themselves": (MIX, {"strategy": iv.strategies.SMC(num_steps=6)}),
    "weights": (MIX, {"strategy": iv.strategies.SMC(num_steps=10), "weighted": True}),
}


def go(path: Path, prior: iv.priors.Prior = PRIOR, **options: object) -> tuple[iv.Result, int]:
    with tally() as calls:
        result = iv.solve(BENT, Y, prior, **{"noise": 0.5, "num_samples": 64, "checkpoint": path} | options)
    return result, calls.total()


def same(one: iv.Result, two: iv.Result) -> bool:
    """Everything that a reader sees, to the bit."""
    assert one.info.keys() == two.info.keys()
    tensors = [(one.samples, two.samples), (one.mean, two.mean), (one.std, two.std), (one.chi2, two.chi2)]
    tensors += [(one.info[name], two.info[name]) for name in one.info]
    equal = all(torch.equal(a.nan_to_num(nan=-9), b.nan_to_num(nan=-9)) for a, b in tensors)
    words = one.summary() == two.summary() and str(one.certificate) == str(two.certificate)
    return equal and words and one.settings == two.settings and one.strategy_object == two.strategy_object


@pytest.mark.parametrize("name", CALLS)
def test_what_is_finished_is_not_computed_again(name, tmp_path) -> None:
    prior, options = CALLS[name]
    first, calls = go(tmp_path / "c", prior, **options)
    again, none = go(tmp_path / "c", prior, **options)
    assert same(first, again) and again.seconds == first.seconds
    assert none < 10 < calls / 10  # that an operator is what it says is looked at before


def test_it_is_the_answer_of_one_call(tmp_path) -> None:
    """Another budget goes its own way, another seed is refused; without the checkpoint it is begun anew."""
    path = tmp_path / "c"
    first, calls = go(path, budget=iv.Budget(evaluations=4000))
    more, _ = go(path, budget=iv.Budget(evaluations=200_000))
    assert more.certificate.looked != first.certificate.looked or more.certificate.reached
    with pytest.raises(iv.errors.CheckpointError, match="`seed`"):
        go(path, budget=iv.Budget(evaluations=200_000), seed=5)
    os.remove(path)
    anew, calls_anew = go(path, budget=iv.Budget(evaluations=4000))
    assert (same(first, anew) or first.seconds != anew.seconds) and calls_anew > 0.9 * calls
    assert torch.equal(first.samples, anew.samples)


def test_a_run_that_a_budget_ended_has_ended(tmp_path) -> None:
    """A larger budget does not go on with it, so that the remedy names another path; without a checkpoint it need not."""
    stopped, _ = go(tmp_path / "c", budget=iv.Budget(evaluations=300))
    assert (
        stopped.certificate.remedy
        == "Give a larger budget and another path of the checkpoint, in which this run has ended"
    )
    more, _ = go(tmp_path / "c", budget=iv.Budget(evaluations=200_000))
    assert (
        not more.certificate.reached
    )  # as the docstring of `solve` says; were it to go on, the remedy would be shorter
    assert go(tmp_path / "d", budget=iv.Budget(evaluations=200_000))[0].certificate.reached
    alone, _ = go(tmp_path / "e", checkpoint=None, budget=iv.Budget(evaluations=300))
    assert alone.certificate.remedy == "Give a larger budget"


def test_a_damaged_answer_is_found_again_from_the_checkpoint(tmp_path) -> None:
    options = {"budget": iv.Budget(evaluations=3000), "num_samples": 8}
    first, _ = go(tmp_path / "c", **options)
    answer = tmp_path / "c.answer"
    tensors, meta = load_state(answer)
    whole = answer.read_bytes()
    for damage in (
        lambda: answer.write_bytes(whole[:100]),
        lambda: save_state(answer, tensors, {**meta, "certificate": {}}),
        lambda: save_state(answer, tensors, {**meta, "certificate": {**meta["certificate"], "tests": []}}),
        lambda: save_state(answer, tensors, {**meta, "options": {"chains": -1}}),
        lambda: save_state(answer, {**tensors, "samples": tensors["samples"][:, :2]}, meta),
        lambda: save_state(answer, {**tensors, "info.beta": tensors["info.beta"][:3]}, meta),
    ):
        damage()
        again, _ = go(tmp_path / "c", **options)
        assert torch.equal(first.samples, again.samples)
        assert answer.read_bytes() != whole[:100]  # and written again


def test_large_guided_runs_are_not_kept_twice(tmp_path) -> None:
    go(tmp_path / "c", HIDDEN, strategy=iv.strategies.MMPS(num_steps=4))
    assert os.listdir(tmp_path) == ["c"]


def test_another_source_of_random_numbers_or_another_version_is_another_call(tmp_path, monkeypatch) -> None:
    """Its answer is not read, and a checkpoint of other numbers is refused."""

    def own(shift: int):
        return lambda items, samples: Draws.for_rows(shift, items, samples, torch.device("cpu"))

    first, calls = go(tmp_path / "c", draws=own(1), **CALLS["evaluations"][1])
    again, none = go(tmp_path / "c", draws=own(1), **CALLS["evaluations"][1])
    assert same(first, again) and none < 10 < calls / 10
    for draws in (None, own(2)):
        with pytest.raises(iv.errors.CheckpointError, match="`draws` must be as in the run"):
            go(tmp_path / "c", draws=draws, **CALLS["evaluations"][1])
    monkeypatch.setattr("invsolve.solving.finished.package_version", lambda: "another")
    later, more = go(tmp_path / "c", draws=own(1), **CALLS["evaluations"][1])
    assert more > 10 and torch.equal(later.samples, first.samples)
