"""`result.check(budget=...)`: what it will take is told before, what there is no time for is left out and named."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.core.stopping import ask
from invsolve.diagnostics import prior_predictive
from invsolve.diagnostics.check_result import _lighter
from invsolve.diagnostics.report import Measured
from invsolve.diagnostics.schedule import Cost, Schedule, Task
from invsolve.strategies import SMC, NoiseMCMC

D = torch.float64
N = 3
PRIOR = iv.priors.GaussianMixturePrior(
    torch.tensor([0.5, 0.5], dtype=D), torch.tensor([[-1.0] * N, [1.0] * N], dtype=D), 0.3 * torch.eye(N, dtype=D)
)
A = iv.operators.Matrix(torch.eye(N, dtype=D))
TESTS = {"prior predictive", "split data", "replicated data"}  # of so few data no sensors are held out


@pytest.fixture(scope="module")
def result() -> iv.Result:
    y = torch.tensor([[0.5, 0.4, 0.9], [-1.0, -0.5, -1.2]], dtype=D)
    return replace(iv.solve(A, y, PRIOR, noise=0.5, num_samples=20), certificate=None)  # which knows its own seconds


def names(report: iv.CheckReport) -> set[str]:
    return TESTS & {check.name for check in report.checks}


# --- the whole --------------------------------------------------------------------------------------------------------
def test_what_would_take_days_is_left_out_and_named(result) -> None:
    """Unless it is asked for: a minute by default, or a budget; the tests that are run are the same to the bit."""
    slow = replace(result, seconds=86400.0 * 40)  # 2 days a sample
    whole = result.check()
    assert names(whole) == TESTS and "left out, for" not in str(whole)
    for report in (slow.check(), slow.check(budget=20)):
        assert names(report) == {"prior predictive"}
        text = " ".join(str(report).split())
        limit = "1 min 0 s" if report.notes[-1].startswith("left out, for 1") else "20 s"
        assert f"left out, for {limit}: split data (about " in text and " years)" in text
        assert "check(budget=" in text and "would run all" in text
    assert slow.check()["prior predictive"] == whole["prior predictive"]
    assert str(slow.check(solves=True)) == str(result.check(solves=True))
    quick = str(slow.check(solves=False))
    assert "(about " in quick and "years), check(budget=60) what fits into a minute" in " ".join(quick.split())


def test_a_budget_takes_fewer_items_before_it_leaves_tests_out(result) -> None:
    cost = Cost(result=result, lighter=result.strategy_object)
    both, one = cost.of(2, 255), cost.of(1, 255)
    assert both == pytest.approx(2 * one) == pytest.approx(result.seconds * 510 / 40)
    per_row = 20.0 / (255 * 2 + 64 * 15)  # 20 s for both items, of which those of replicated data stay
    report = replace(result, seconds=40 * per_row).check(budget=15.0)
    assert names(report) == TESTS and "1 of 2 items" in str(report)


def test_a_budget_is_enough_to_ask_where_it_is_not_cheap(result) -> None:
    """A denoiser that is no closed form: not solved again unless asked, and a budget asks."""
    hidden = iv.priors.from_denoiser(PRIOR._denoise, shape=(N,), mean=PRIOR.mean, scale=PRIOR.scale)
    found = iv.solve(A, result.problem.data, hidden, noise=0.5, num_samples=4, strategy=iv.strategies.MMPS(num_steps=4))
    with tally() as calls:
        assert names(found.check()) == set() and calls["denoise"] == 0
    assert "split data" in names(found.check(budget=600))


def test_the_meter_tells_before_how_long_it_will_take(result) -> None:
    stream = io.StringIO()
    replace(result, seconds=4.0).check(solves=True, progress=iv.progress.TextProgress(stream, 0.0))
    first, *_, last = stream.getvalue().splitlines()
    seconds = 4.0 / 40 * (255 * 2 + 64 * 15)  # and some milliseconds of simulations
    assert first.startswith("about 2 min ") and first.endswith(" expected") and 120 < seconds < 179
    assert last.startswith("100 %")


# --- its parts --------------------------------------------------------------------------------------------------------
class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def task(clock: Clock, name: str, forecast: float, takes: float) -> Task:
    def run() -> list[Measured]:
        for _ in range(10):
            clock.now += takes / 10
            ask()
        return [Measured(name=name, value=takes, p=np.ones(1), text="")]

    return Task(name=name, samples=1, seconds=forecast, run=run)


@pytest.mark.parametrize(
    ("limit", "real", "found", "spent"),
    [
        (math.inf, 1.0, ["a", "b", "c"], 70.0),
        (100.0, 1.0, ["a", "b", "c"], 70.0),
        (35.0, 1.0, ["b", "c"], 30.0),  # c, b: 10 + 20 s; no 40 s are left
        (15.0, 1.0, ["c"], 10.0),
        (4.0, 0.1, ["b", "c"], 3.0),  # a forecast may be four times too long; then what was measured counts
        (2.0, 1.0, [], 0.0),  # the least is five times what there is
        (12.0, 3.0, [], 12.0),  # it took longer than was told, and was ended
    ],
)
def test_the_cheapest_come_first_and_end_in_time(limit, real, found, spent) -> None:
    clock = Clock()
    tasks = [task(clock, name, s, real * s) for name, s in (("a", 40.0), ("b", 20.0), ("c", 10.0))]
    rows, late = Schedule(tasks=tasks, limit=limit, clock=clock).run()
    assert [m.name for m in rows] == found  # in the order of the report
    assert clock.now == pytest.approx(spent, abs=3.1 if real == 3.0 else 1e-9)  # one look in ten
    assert {name for name in "abc" if f"{name} (about" in late} == set("abc") - set(found)
    assert (late == "") == (len(found) == 3)


def test_chains_are_priced_by_their_moves_and_number() -> None:
    """256 of 1,024 chains, 10 moves at most for each of 5 rises, 3 + 4 rounds: 120 of 480 moves."""
    y = torch.zeros(2, N, dtype=D)
    bent = iv.operators.from_callable(lambda x: x + 0.1 * x.roll(1, -1) ** 2, (N,), (N,))
    normal = iv.priors.GaussianPrior(torch.zeros(N, dtype=D), torch.eye(N, dtype=D))
    chains = NoiseMCMC(chains=64, target=0.05, num_steps=20)
    found = iv.solve(bent, y, normal, noise=0.5, num_samples=4, strategy=chains)
    few = _lighter(found.strategy_object)
    assert (few.chains, few.islands, few.rounds, few.target) == (64, 4, 4, 0.0)
    info = {"moves": torch.full((4, 2), 480.0), "rises": torch.full((4, 2), 5.0)}
    one = replace(found, info=info, seconds=100.0, marginals=None)
    assert Cost(result=one, lighter=replace(few, chains=16, islands=4)).of(1, 63) == pytest.approx(
        100 * (12 * 10 / 480) * (16 / 64) / 2
    )
    other = replace(found, info={}, seconds=100.0, marginals=None, settings={"chunk": 400})
    assert Cost(result=other, lighter=SMC()).of(2, 100) == pytest.approx(50.0)


@pytest.mark.parametrize(("seconds", "rows"), [(1.0, 1), (0.1, 17)])
def test_a_forecast_of_simulations_stays_in_the_budget(seconds, rows, monkeypatch) -> None:
    """Of an operator that takes seconds a signal one is tried; of others a few more."""
    seen = []
    monkeypatch.setattr(prior_predictive.time, "perf_counter", lambda: seconds * sum(seen))

    def slow(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x

    A = iv.operators.from_callable(slow, (3,), (3,))
    prior = iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3))
    problem = iv.Problem(A, torch.zeros(2, 3), 0.5)
    seen.clear()
    again = SimpleNamespace(prior=prior, problem=problem, seed=0)
    assert prior_predictive.seconds_of_simulation(again, limit=10.0) == pytest.approx(
        seconds * prior_predictive.DRAWS * 2
    )
    assert sum(seen) == rows
