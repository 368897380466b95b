"""One strategy after another until the certificate is reached or the budget spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from invsolve.core.counting import tally
from invsolve.results.certificate import Certificate
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.best import BestSoFar, misfit, power
from invsolve.solving.judging import judged_by_its_kind
from invsolve.solving.pricing import (
    as_ended,
    expected_rows,
    fitted,
    lengthening,
    price,
    shortest,
    smaller,
    stopped_at_once,
)
from invsolve.solving.request import SolveRequest
from invsolve.solving.second_looks import look_wider, search_modes
from invsolve.solving.spending import Budget, Spending
from invsolve.solving.under_way import LOST, UnderWay
from invsolve.solving.unmet_modes import UnmetModes
from invsolve.solving.wording import short
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.choice.sample_size import FEWEST, MANY, picked_from
from invsolve.strategies.exact import Exact
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC
from invsolve.strategies.smc.smc import SMC

_USED = 0.8  # of what is left: expectations are rough
_SAMPLES = 0.05  # of a budget, for samples that nobody asked for
_KEPT_BACK = 0.3  # of a budget, at most: for guidance


def escalate(
    request: SolveRequest,
    candidates: Sequence[Candidate],
    budget: Budget | None,
    spending: Spending | None = None,
) -> tuple[StrategyOutput, Candidate, Certificate]:
    """Run the strategies in order until every item is certified, or the next one would leave the budget.

    Each runs on the items that are not certified yet. Of every item the best is kept; the candidate is the last one
    that an item was taken from. What chains certified is looked at again from a wider start (`wider_start`), and modes
    that an ensemble has not met are searched for by optimisation (`unmet_modes`), where that fits into what is left.
    Items of which chains saw less than a fifth of the likelihood's power are left to guidance, if that is among the
    candidates and fits the data better: samples that hardly know them are no answer.

    Without a budget the default one decides what is begun, and what was begun is finished: the answer then does not
    depend on the speed of the machine unless it takes a second try. With one the ensembles are made as small as it
    takes to end within it (`pricing`). ``spending``: what went of it before.
    """
    spending = spending or Spending(budget=budget or Budget())
    way = UnderWay(request=request, spending=spending, strict=budget is not None, unmet=UnmetModes(request=request))
    tries = [c for c in candidates if not c.is_fallback]
    fallbacks = [c for c in candidates if c.is_fallback]
    way.ensembles = any(c.tested for c in tries)
    if way.strict and not isinstance(tries[0].strategy, Exact):
        tries, fallbacks = _fitted(way, tries, fallbacks)
        way.unmet = UnmetModes(request=way.request)  # of as many samples as the budget leaves
    for number, candidate in enumerate(tries):
        if not _tried(way, candidate, number):
            break
    for candidate in fallbacks:
        _guided(way, candidate, len(candidates))
    best = way.best
    assert best is not None
    certificate = best.certificate(request.problem.batched, tuple(way.attempts), way.missing, way.looked, way.remedy)
    return best.found, best.candidate, certificate


def _fitted(
    way: UnderWay, tries: list[Candidate], fallbacks: list[Candidate]
) -> tuple[list[Candidate], list[Candidate]]:
    """The candidates as small as the budget demands: ensembles, else guidance, else the least of all."""
    problem, prior = way.request.problem, way.request.prior
    rows, left = way.request.num_samples * way.batch, way.left()
    with tally() as calls:
        row = way.row = way.request.decisions.amount(lambda: price(problem, prior, left))
    way.spending.evaluations += calls.total()
    if way.request.free:  # chi^2 takes a row for each
        sizes = [n for n in (way.request.num_samples, MANY) if n <= way.request.num_samples]
        within = (n for n in sizes if (row * (n * way.batch)).into(left * _SAMPLES) >= 1)
        number = next(within, FEWEST)
        way.request = replace(way.request, num_samples=number)
        rows = number * way.batch

    def fit(candidate: Candidate, share: float = 1.0) -> Candidate | None:
        return fitted(candidate, problem, prior, row, left * share, rows)

    for index, candidate in enumerate(tries):
        if small := fit(candidate):
            kept = [c for f in fallbacks if (c := fit(f, _KEPT_BACK))]
            way.spending.kept_back = _KEPT_BACK if kept else 0.0
            _pick_no_more(way, small)
            return [small, *tries[index + 1 :]], kept
    way.refused = True
    least = shortest(tries[0])
    way.needs = row * (expected_rows(least, problem, prior, rows) / _USED)
    if problem.linear and fallbacks and (guided := fit(fallbacks[0])):
        why = "No ensemble would end within the budget, so moment-matching guidance, an approximation here."
        return [replace(guided, why=why, is_fallback=False)], []
    _pick_no_more(way, least)
    return [stopped_at_once(least, problem, prior, row, left)], []


def _pick_no_more(way: UnderWay, candidate: Candidate) -> None:
    """Samples that nobody asked for are no more than an ensemble has."""
    if way.request.free:
        number = min(way.request.num_samples, picked_from(candidate.strategy))
        way.request = replace(way.request, num_samples=number)


def _tried(way: UnderWay, candidate: Candidate, number: int) -> bool:
    """Run one more strategy on what is not certified yet; whether another one may follow."""
    items = torch.arange(way.batch, device="cpu") if way.best is None else (~way.best.passed).nonzero()[:, 0]
    if way.best is not None:
        expected, left = way.expected(candidate, len(items) / way.batch), way.left()
        if refusal := way.spending.refusal(expected, short(candidate.strategy), left):
            fits = smaller(candidate, _USED * expected.into(left), way.best.candidate)
            if not way.strict or fits is None:
                way.missing, way.refused = f"{way.missing}; {refusal}", True
                return False
            candidate = fits
    found, passed = _improve(way, candidate, items, number)
    candidate = as_ended(candidate, found)
    assert way.best is not None
    if bool(passed.any()) and not way.stopped and not isinstance(candidate.strategy, Exact):
        look_wider(way, candidate, items[passed])
        if isinstance(candidate.strategy, (NoiseMCMC, SMC)):
            search_modes(way, candidate, found, items)
    return not bool(way.best.passed.all()) and not way.stopped


def _guided(way: UnderWay, candidate: Candidate, number: int) -> None:
    """Items of which chains hardly met the data, by guidance."""
    best = way.best
    assert best is not None
    lost = (~best.passed & (power(best.found, way.batch) < LOST)).nonzero()[:, 0]
    if not len(lost):
        return
    found = way.within_budget(lambda: way.run(candidate, lost, number))
    if found is None:
        way.missing = f"{way.missing}; {short(candidate.strategy)} in their place had no time to end"
        return
    nothing = torch.zeros(len(lost), dtype=torch.bool, device="cpu")
    way.attempt(candidate, found, nothing, "an approximation that was not tested")
    here = misfit(found, len(lost))
    nearer = ~(here >= misfit(best.found, way.batch)[lost]) & here.isfinite()
    if not bool(nearer.any()):
        way.best = best.charged(found.calls, found.seconds)
        way.missing = f"{way.missing}; {short(candidate.strategy)} does not fit the data better"
        return
    way.best = best.updated(found, candidate, nothing, {}, lost, better=nearer)
    count = int(nearer.sum())
    whose = "the samples" if count == way.batch else f"the samples of {count} of {way.batch} items"
    guess = f"{whose} are those of {short(candidate.strategy)}, an approximation that was not tested"
    way.missing = f"{way.missing}; {guess}"


def _improve(way: UnderWay, candidate: Candidate, items: Tensor, number: int) -> tuple[StrategyOutput, Tensor]:
    """Run a strategy on ``items``, and keep what is better; what it found, and which of them it certified."""
    candidate = lengthening(candidate) if way.strict else candidate
    found = way.run(candidate, items, number)
    candidate = as_ended(candidate, found)
    passed, tests, wrong = judged_by_its_kind(candidate, found, len(items))
    if found.stopped and wrong:
        more = way.enough(found)
        wrong = f"stopped when the budget was spent{more}: {wrong}"
    way.attempt(candidate, found, passed, wrong or ("every test passed" if candidate.tested else ""))
    if way.best is None:
        way.best = BestSoFar.first(found, candidate, passed, tests)
    else:
        way.best = way.best.updated(found, candidate, passed, tests, items)
    way.missing, way.stopped = wrong, found.stopped
    return found, passed
