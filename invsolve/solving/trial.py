"""Guidance that is timed before it is begun within a budget."""

from __future__ import annotations

from dataclasses import replace

from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.loop import unless_ended
from invsolve.solving.pricing import TRIAL_STEPS
from invsolve.solving.request import SolveRequest
from invsolve.solving.spending import Amount, Spending
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.guidance.mmps import MMPS

_USED = 0.8  # of what is left: a trial is rough


def timed(
    candidate: Candidate, request: SolveRequest, number: int, spending: Spending
) -> tuple[Candidate, StrategyOutput | None]:
    """Guidance of as many steps as what is left allows, and its answer if these are no more than a trial takes.

    How many products its linear solves take is not known before.
    """
    strategy = candidate.strategy
    assert isinstance(strategy, MMPS)
    few = replace(candidate, strategy=replace(strategy, num_steps=min(strategy.num_steps, TRIAL_STEPS)))
    trials = list[StrategyOutput]()

    def trial() -> Amount:
        trials.append(found := replace(request, saved=None).run(few, number, unless_ended))
        spending.evaluations += found.evaluations
        return Amount(seconds=found.seconds, evaluations=found.evaluations)

    took = request.decisions.amount(trial)
    steps = int(TRIAL_STEPS * (took.into(request.decisions.amount(spending.left) * _USED)))
    if min(steps, strategy.num_steps) < 2 * TRIAL_STEPS:
        if not trials:
            trial()
        spending.evaluations -= trials[0].evaluations  # counted with the answer
        return few, trials[0]
    return replace(candidate, strategy=replace(strategy, num_steps=min(steps, strategy.num_steps))), None
