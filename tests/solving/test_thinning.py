"""Chains that would not be led to the data within a budget become fewer, and are there in time."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

import invsolve as iv
from invsolve.core.checkpoint import load_state
from invsolve.solving import pricing
from invsolve.solving.spending import Budget, Spending
from invsolve.solving.thinning import Thinning
from invsolve.strategies.mcmc.state import NoiseMCMCState
from invsolve.strategies.mcmc.thinning import fewer_chains, thinned

D = torch.float64
N = 8
PRIOR = iv.priors.GaussianPrior(torch.zeros(N, dtype=D), torch.eye(N, dtype=D))
# A linear map that nobody knows to be one: its posterior is known, and chains have a long way to data so precise.
MATRIX = torch.linspace(1.0, 0.02, N, dtype=D).diag() + 0.1 * torch.ones(N, N, dtype=D)
NOISE = 1e-3
Y = MATRIX @ torch.linspace(-1, 1, N, dtype=D)
BUDGET = iv.Budget(evaluations=24_000)
OPTIONS = {"noise": NOISE, "num_samples": 200, "budget": BUDGET}


class Counted:
    """The map, which a user interrupts after so many calls."""

    def __init__(self, calls: float = math.inf) -> None:
        self.left = calls

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return x @ MATRIX.mT


def operator(calls: float = math.inf) -> iv.operators.Operator:
    """With a fingerprint that does not know of interruptions."""

    class Map(iv.operators.Operator):
        in_shape = out_shape = (N,)

        def __init__(self) -> None:
            self._count = Counted(calls)

        def _apply(self, x: torch.Tensor) -> torch.Tensor:
            return self._count(x)

        def fingerprint(self) -> str:
            return "map"

    return Map()


@pytest.fixture(autouse=True, scope="module")
def many():
    """As if a chain were expected to be there ten times sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "_WARM_UP", 4.0)
        yield


@pytest.fixture(scope="module")
def result(many: None) -> iv.Result:
    return iv.solve(operator(), Y, PRIOR, **OPTIONS)


def test_they_are_there_in_time_and_right(result, monkeypatch) -> None:
    """Certified, where all of them would have been stopped on their way and be known to nothing."""
    assert result.certificate.reached and result.status is iv.Status.SUCCESS
    assert result.certificate.attempts[0].evaluations <= 1.05 * BUDGET.evaluations
    chains = result.strategy_object.chains
    assert f"chains={chains}" in result.certificate.attempts[0].strategy
    covariance = torch.linalg.inv(torch.eye(N, dtype=D) + MATRIX.mT @ MATRIX / NOISE**2)
    mean, std = covariance @ MATRIX.mT @ Y / NOISE**2, covariance.diagonal().sqrt()
    mean_error, std_error = (float(result.info[n][0]) for n in ("mean_error", "std_error"))
    # Of 8 components the worst, by islands, at four standard errors.
    assert float(((result.mean - mean) / std).abs().max()) < 4 * mean_error
    assert float((result.std / std - 1).abs().max()) < 4 * std_error
    monkeypatch.setattr(Thinning, "share", lambda *arguments: 1.0)
    whole = iv.solve(operator(), Y, PRIOR, **OPTIONS)
    assert whole.strategy_object.chains > chains and not whole.certificate.reached
    assert bool(whole.info["mean_error"].isnan().all())


def test_an_interrupted_run_becomes_smaller_at_the_same_steps(result, tmp_path) -> None:
    saved = iv.Checkpoint(tmp_path / "c", every_steps=5)
    for calls in (60, 60, 30):
        with pytest.raises(KeyboardInterrupt):
            iv.solve(operator(calls), Y, PRIOR, checkpoint=saved, **OPTIONS)
    _, meta = load_state(tmp_path / "c", meta_only=True)
    assert meta["mid"] and len(meta["thinning"]) == 3 and meta["fewer"]["chains"] < 256
    again = iv.solve(operator(), Y, PRIOR, checkpoint=saved, **OPTIONS)
    assert torch.equal(again.samples, result.samples) and torch.equal(again.std, result.std)
    assert again.certificate.attempts[0].strategy == result.certificate.attempts[0].strategy
    twice = iv.solve(operator(), Y, PRIOR, checkpoint=saved, **OPTIONS)
    assert twice.strategy_object == again.strategy_object and torch.equal(twice.samples, again.samples)


# --- its parts --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chains", "islands", "share", "left"),
    [(1024, 8, 0.5, 512), (80, 8, 0.63, 48), (64, 4, 0.1, 24), (48, 8, 0.1, 24), (24, 4, 0.5, 24), (60, 10, 0.1, 30)],
)
def test_islands_stay_as_large_as_each_other(chains, islands, share, left) -> None:
    assert fewer_chains(chains, islands, share) == left and left % islands == 0


def state(**changes: torch.Tensor) -> NoiseMCMCState:
    """Two items with eight chains on two islands, each value of a chain its number."""
    number = torch.arange(8.0, dtype=D).expand(2, 8)
    values: dict[str, torch.Tensor] = {f.name: torch.zeros(2, dtype=D) for f in fields(NoiseMCMCState)}
    values |= {name: number[..., None] for name in ("u", "grad", "first", "second", "square")}
    values |= {"log_likelihood": number, "log_evidence": torch.zeros(2, 2, dtype=D)}
    values |= {"mark": torch.tensor([[0.1, 5.0], [0.2, 6.0]], dtype=D), "done": torch.tensor([-1.0, 0.0], dtype=D)}
    return NoiseMCMCState(**(values | changes))


def test_chains_that_go_on_are_where_they_were() -> None:
    new = thinned(state(), 4)
    assert new is not None
    for name in ("u", "grad", "first", "second", "square"):
        assert getattr(new, name)[..., 0].tolist() == [[0, 2, 4, 6]] * 2, name
    assert new.log_likelihood.tolist() == [[0, 2, 4, 6]] * 2
    assert new.mark.tolist() == [[0.1, 4.5], [0.2, 5.5]]  # their mean is 3, that of all 3.5
    lost = state(log_likelihood=torch.full((2, 8), -math.inf, dtype=D))
    assert thinned(lost, 4).mark.tolist() == [[0.1, 5.0], [0.2, 6.0]]
    assert thinned(state(done=torch.tensor([0.0, 1.0], dtype=D)), 4) is None  # a round is of all chains


def test_it_looks_every_eighth_step_and_knows_what_is_left() -> None:
    """10 calls a step: after 20 steps and a fifth of the work another 800 calls are needed."""
    for limit, share in ((10_000, 1.0), (1001, 1.0), (600, 0.5), (210, 0.5), (920, 0.72)):
        thinning = Thinning(spending=Spending(budget=Budget(evaluations=limit)))
        assert thinning.share(100, 10, 0.1) == 1.0  # nothing is known of the cost of a step
        assert thinning.share(170, 17, 0.2) == 1.0  # too few steps
        found = thinning.share(200, 20, 0.2)
        fits = (limit - 200) / 800
        assert found == pytest.approx(share) == (1.0 if fits >= 1 else max(0.5, 0.8 * fits)), limit
        assert thinning.share(210, 21, 0.2) == 1.0  # just looked
    blind = Thinning(spending=Spending(budget=Budget(evaluations=100)))
    assert blind.share(10, 1, 0.0) == blind.share(90, 9, 0.01) == 1.0  # a share of a hundredth tells nothing


def test_another_process_goes_on_from_the_last_look() -> None:
    first = Thinning(spending=Spending(budget=Budget(evaluations=600)))
    assert first.memory == [] and first.share(100, 10, 0.1) == 1.0
    second = Thinning(spending=Spending(budget=Budget(evaluations=600)))
    second.recall(first.memory)
    assert second.share(200, 20, 0.2) == first.share(200, 20, 0.2) == 0.5
    clocked = Thinning(spending=Spending(budget=Budget(seconds=1000.0)))
    clocked.since, clocked.steps = clocked.spending.left() * 0.0, 0
    clocked.spending.earlier = 80.0  # 10 s a step: 3,120 s more, and 920 are left
    assert clocked.share(0, 8, 8 / 320) == 0.5
    clocked.since, clocked.steps = clocked.spending.left() * 0.0, 0
    assert clocked.share(0, 8, 8 / 80) == 1.0  # 720 s more
    clocked.since, clocked.steps = clocked.spending.left() * 0.0, 0
    assert clocked.share(0, 8, 8 / 80, 500.0) == 0.5  # an earlier process took 500, 420 are left
