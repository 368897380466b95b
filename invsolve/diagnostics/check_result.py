"""`result.check()`: is *this* posterior right for *this* data?

Each test states what it measured and what it can detect, and fails at its share of 2 % false alarms over the whole
report. The tests are in `invsolve.diagnostics`: of the samples, of the data in closed form (Gaussian priors) or against
data simulated from the prior, and of the solver, which is run again on data of known relation to the given ones.
"""

from __future__ import annotations

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
from invsolve.errors import invalid_type
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import NoProgress, Progress
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
    result: Result, solver: Solver, *, solves: bool | None = None, progress: Progress | None = None
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
        more, notes = _by_replicates(result, solver, problem, prior, samples, bool(closed), solves, meter)
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
    """Fewer chains: ranks among a few hundred samples need no more, and there are dozens of solves."""
    if isinstance(strategy, NoiseMCMC):
        return replace(strategy, chains=min(strategy.chains, _CHAINS), islands=min(strategy.islands, 4), rounds=4)
    return strategy


def _by_replicates(
    result: Result,
    solver: Solver,
    problem: Problem,
    prior: Prior,
    samples: Tensor,
    closed: bool,
    solves: bool | None,
    progress: Progress,
) -> tuple[list[Measured], list[str]]:
    """The tests that simulate and solve again, and what to say about those left out."""
    from invsolve.diagnostics.data_fission import can_split
    from invsolve.diagnostics.held_out import FOLDS, held_out_test
    from invsolve.diagnostics.posterior_sbc import sizes
    from invsolve.diagnostics.prior_predictive import prior_predictive_test

    strategy = solver.strategy
    items = min(len(problem.data), _ITEMS if solves or result.nfe == 0 else 1)
    gaussian, splits = isinstance(problem.noise, Gaussian), can_split(problem)
    folds = FOLDS if gaussian and not closed else 0
    asked = items * REPLICATES * (splits + folds) + splits * prod(sizes(strategy))
    if solves is None:
        cheap = result.nfe == 0 or prior.cheap_pullback
        solves = cheap and max(prod(problem.shape), prod(problem.operator.out_shape)) <= _NUMBERS
    if not solves:
        cost = asked * result.seconds / max(1, result.failed.numel())
        return [], [
            f"not simulated or solved again; check(solves=True) would draw {asked} more samples (about {cost:.0f} s)"
        ]
    notes = []
    chosen = torch.arange(items, device=problem.data.device) * len(problem.data) // items
    if items < len(problem.data):
        notes.append(f"simulated and solved again for {items} of {len(problem.data)} items")
    # Draws that were resampled from one run are copies of few; those of `auto` come from independent islands.
    weighted = result.log_weights is not None or (strategy.weighs and result.certificate is None)
    again = SolveAgain(
        problem=problem.take(chosen),
        prior=prior,
        solver=solver.using(strategy=_lighter(strategy)),
        seed=result.seed,
        particles=max(_PARTICLES, result.num_samples) if strategy.weighs else 0,
        drawn=Drawn(progress=progress, total=asked),
    )
    with closing(again.drawn):
        found = [*([] if closed else prior_predictive_test(again)), *(held_out_test(again) if folds else [])]
        return _on_splits(again, found, notes, samples[:, chosen] if len(samples) else samples, splits, weighted)


def _on_splits(
    again: SolveAgain, found: list[Measured], notes: list[str], samples: Tensor, splits: bool, weighted: bool
) -> tuple[list[Measured], list[str]]:
    """The tests on data that were split in two, or simulated from ``samples``, beside those ``found``."""
    from invsolve.diagnostics.posterior_sbc import replicated_data_test
    from invsolve.diagnostics.split_data import split_data_test

    if not splits:
        notes.append("no split and no replicated data: this noise has no known split into two measurements")
        return found, notes
    found += split_data_test(again)
    if weighted:
        notes.append("no replicated data: ranks among weighted samples have no exact distribution")
    elif len(samples):
        found += replicated_data_test(again, samples)
    return found, notes
