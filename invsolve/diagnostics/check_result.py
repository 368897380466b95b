"""`result.check()`: is *this* posterior right for *this* data?

Each test states what it measured and what it can detect, and fails at its share of 2 % false alarms over the whole
report. The tests are in `invsolve.diagnostics`: of the samples, of the data in closed form (Gaussian priors) or against
data simulated from the prior, and of the solver, which is run again on data of known relation to the given ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from invsolve.diagnostics.exchangeability import REPLICATES
from invsolve.diagnostics.prior_data_conflict import evidence_tests
from invsolve.diagnostics.repeated_values import repeats_test
from invsolve.diagnostics.report import LEVEL, Check, CheckReport, Measured, judge
from invsolve.diagnostics.residuals import LOOKED_AT, sample_tests, unweighted
from invsolve.diagnostics.resolve import Drawn, SolveAgain
from invsolve.diagnostics.schedule import USUAL, Cost, Schedule, Task
from invsolve.errors import invalid_type
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import NoProgress, Progress, duration
from invsolve.results.result import Result
from invsolve.results.solver import Solver
from invsolve.strategies.base import Strategy
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC

_NUMBERS = 4096  # of signal or data: larger ones are solved again only if asked for
_ITEMS = 8  # tests by replicates look at this many items, spread over the batch (one by default if it takes a denoiser)
_CHAINS = 256
_PARTICLES = 4 * REPLICATES  # of strategies that give weights


@torch.no_grad()  # an operator may hold a network
def check_result(
    result: Result,
    solver: Solver,
    *,
    solves: bool | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """The report of `Result.check`, with ``solver`` for what is solved again."""
    problem, prior = result.problem, result.prior
    if solves is not None and not isinstance(solves, bool):
        raise invalid_type("Result.check", "solves", "True, False or None", solves)
    checks, samples, alive = check_rows(result)
    if not len(alive):
        return CheckReport(checks=tuple(checks), level=LEVEL)
    problem = problem.take(alive)
    found: list[Measured] = []
    notes: list[str] = []
    if bool(problem.num_data.all()):
        found += sample_tests(problem, prior, samples) if len(samples) else []
        closed: list[Measured] = []
        if isinstance(problem.noise, Gaussian):
            closed = evidence_tests(problem, prior, seed=result.seed)
            found += [*repeats_test(problem), *closed]
        meter = progress or NoProgress()
        more, notes = _by_replicates(result, solver, problem, prior, samples, bool(closed), solves, budget, meter)
        found += more
    elif len(samples):
        found += sample_tests(problem, prior, samples)
    if not isinstance(problem.noise, Gaussian):
        kind = type(problem.noise).__name__
        tests = "noise level, outliers, structure, repeated values, held-out sensors"
        notes = [f"left out for {kind} noise: {tests}", *notes]
    return CheckReport(checks=(*checks, *map(judge, found)), level=LEVEL, notes=tuple(notes))


def check_rows(result: Result) -> tuple[list[Check], Tensor, Tensor]:
    """What became of the samples; up to 32 good ones ``(n, items, *shape)``; the items that have any."""
    samples = result.samples if result.batched else result.samples[:, None]
    failed = result.failed if result.batched else result.failed[:, None]
    # The first samples that are good for every item: the tests are one per item and sample.
    unfinished = result.unfinished.view(-1)
    alive = torch.nonzero(~failed.all(0) & ~unfinished)[
        :, 0
    ]  # an item without any sample says nothing about the others
    samples, failed = samples[:, alive], failed[:, alive]
    lost, rows = int(result.failed.sum()), result.failed.numel()
    text = f"{lost} of {rows} samples are not finite"
    checks = [Check(name="rows", passed=lost == 0, value=float(lost), p_value=None, text=text)]
    if bool(unfinished.any()):
        # Of samples that are none of the posterior misfits say nothing of the model.
        whose = f" of {int(unfinished.sum())} of {len(unfinished)} items" if len(unfinished) > 1 else ""
        power = float(result.info["beta"].nan_to_num(nan=1.0).min())
        text = f"the samples{whose} are of the power {power:.2g} of the likelihood: raise num_steps, or the budget"
        checks.append(Check(name="finished", passed=False, value=power, p_value=None, text=text))
    if result.log_weights is not None or (result.solver is not None and result.solver.strategy.weighs):
        weights = result.weights if result.batched else result.weights[:, None]
        ess = float(result.ess.min())
        text = f"effective sample size {ess:.0f} of {len(samples)} (16 are needed for an interval)"
        checks.append(Check(name="ess", passed=ess >= 16, value=ess, p_value=None, text=text))
        return checks, unweighted(samples, weights[:, alive]), alive
    good = torch.nonzero(~failed.any(1))[:LOOKED_AT, 0]
    return checks, samples[good], alive


def _lighter(strategy: Strategy) -> Strategy:
    """Fewer chains and rounds: ranks among a few hundred samples need no more, and there are dozens of solves."""
    if isinstance(strategy, NoiseMCMC):
        chains, islands = min(strategy.chains, _CHAINS), min(strategy.islands, 4)
        return replace(strategy, chains=chains, islands=islands, rounds=4, target=0.0)
    return strategy


def _by_replicates(
    result: Result,
    solver: Solver,
    problem: Problem,
    prior: Prior,
    samples: Tensor,
    closed: bool,
    solves: bool | None,
    budget: float | None,
    progress: Progress,
) -> tuple[list[Measured], list[str]]:
    """The tests that simulate and solve again, and what to say about those left out."""
    from invsolve.diagnostics.data_fission import can_split
    from invsolve.diagnostics.held_out import FOLDS, can_be_held_out
    from invsolve.diagnostics.posterior_sbc import sizes

    strategy = solver.strategy
    cost = Cost(result=result, lighter=_lighter(strategy))
    particles = max(_PARTICLES, result.num_samples) if strategy.weighs else 0
    splits, folds = can_split(problem), FOLDS if can_be_held_out(problem) and not closed else 0
    # Draws that were resampled from one run are copies of few; those of `auto` come from independent islands.
    weighted = result.log_weights is not None or (strategy.weighs and result.certificate is None)
    runs, among = sizes(strategy)

    def solved(items: int, number: int, times: int = 1) -> tuple[int, float]:
        """Samples that are asked for, and seconds."""
        return items * number * times, times * cost.of(items, max(number, particles))

    def planned(items: int) -> dict[str, tuple[int, float]]:
        plan = {"held-out sensors": solved(items, REPLICATES, folds)} if folds else {}
        plan |= {"split data": solved(items, REPLICATES)} if splits else {}
        return plan | ({"replicated data": solved(runs, among)} if splits and not weighted and len(samples) else {})

    items = min(len(problem.data), _ITEMS if solves or result.nfe == 0 else 1)
    given = budget is not None
    if solves is None:
        cheap = result.nfe == 0 or prior.cheap_pullback
        solves = given or (cheap and max(prod(problem.shape), prod(problem.operator.out_shape)) <= _NUMBERS)
        budget = budget or USUAL
    if not solves:
        asked, seconds = (sum(each) for each in zip((0, 0.0), *planned(items).values(), strict=True))
        return [], [
            f"not simulated or solved again; check(solves=True) would draw {asked:,.0f} more samples (about "
            f"{duration(seconds)}), check(budget=60) what fits into a minute"
        ]
    limit = budget or math.inf
    if given:
        whole = sum(seconds for _, seconds in planned(items).values())
        items = max(1, min(items, int(items * limit / whole))) if whole > 0 else items
    notes = [f"simulated and solved again for {items} of {len(problem.data)} items"] * (items < len(problem.data))
    chosen = torch.arange(items, device=problem.data.device) * len(problem.data) // items
    again = SolveAgain(
        problem=problem.take(chosen),
        prior=prior,
        solver=solver.using(strategy=_lighter(strategy)),
        seed=result.seed,
        particles=particles,
    )
    plan, own = planned(items), samples[:, chosen] if len(samples) else samples
    if not splits:
        notes.append("no split and no replicated data: this noise has no known split into two measurements")
    elif weighted:
        notes.append("no replicated data: ranks among weighted samples have no exact distribution")
    return _scheduled(again, plan, own, not closed, limit, progress, notes)


def _scheduled(
    again: SolveAgain,
    plan: dict[str, tuple[int, float]],
    samples: Tensor,
    predictive: bool,
    limit: float,
    progress: Progress,
    notes: list[str],
) -> tuple[list[Measured], list[str]]:
    """The tests of a plan, name: samples and seconds, that there is time for."""
    from invsolve.diagnostics.held_out import held_out_test
    from invsolve.diagnostics.posterior_sbc import replicated_data_test
    from invsolve.diagnostics.prior_predictive import prior_predictive_test, seconds_of_simulation
    from invsolve.diagnostics.split_data import split_data_test

    if predictive:
        plan = {"prior predictive": (0, seconds_of_simulation(again, limit))} | plan

    def running() -> SolveAgain:
        return replace(again, drawn=drawn)

    tests: dict[str, Callable[[], list[Measured]]] = {
        "prior predictive": lambda: prior_predictive_test(again),
        "held-out sensors": lambda: held_out_test(running()),
        "split data": lambda: split_data_test(running()),
        "replicated data": lambda: replicated_data_test(running(), samples),
    }
    tasks = [Task(name=n, samples=k, seconds=s, run=tests[n]) for n, (k, s) in plan.items()]
    schedule = Schedule(tasks=tasks, limit=limit)
    drawn = Drawn(progress=progress, total=schedule.samples, seconds=schedule.seconds)
    with closing(drawn):
        found, late = schedule.run()
    return found, [*notes, *([late] if late else [])]
