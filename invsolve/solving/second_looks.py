"""What follows where an ensemble was certified: a look from a wider start, and a search for modes by optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from invsolve.core.random import DrawLike, Draws
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.judging import by_islands
from invsolve.solving.search import SHARE_OF_BUDGET, affordable
from invsolve.solving.spending import Amount
from invsolve.solving.under_way import UnderWay
from invsolve.solving.wider_start import DRAWS, Look, fewer
from invsolve.solving.wording import short
from invsolve.strategies.choice.candidates import Candidate, wider
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC

_USED = 0.8  # of what is left: expectations are rough
_MANY_NUMBERS = 8  # beyond which points lie too thinly to meet narrow modes
_WIDE = "a wider start, which meets modes"


def look_wider(way: UnderWay, candidate: Candidate, items: Tensor) -> None:
    """Whether a wider start finds what the chains that certified ``items`` missed, where time is left for it."""
    best, wide = way.best, wider(candidate, way.request.problem, way.request.prior)
    assert best is not None
    if wide is None:
        if isinstance(candidate.strategy, NoiseMCMC) and candidate.strategy.spread != 1:
            way.looked = way.looked or "they had a wider start, which meets modes in the tails of the prior"
        return
    expected, left = way.expected(wide, len(items) / way.batch), way.left()
    if refusal := way.spending.refusal(expected, "a look from a wider start", left):
        way.looked = refusal
        return
    look = fewer(wide)
    # Not saved: it is run again where a finished checkpoint is read.
    problem, keys = way.request.problem, way.request.keys

    def draws(items: Sequence[int], samples: Sequence[int]) -> DrawLike:
        chosen = [keys[b] for b in items]
        return Draws.for_rows(way.request.seed, chosen, samples, problem.data.device, purpose="look")

    found = way.run(look, items, 0, num_samples=DRAWS, saved=None, draws=draws)
    best = way.best = best.charged(found.calls, found.seconds)
    if found.stopped:
        way.looked = "a look from a wider start had no time to end"
        return
    cost = f"{short(look.strategy)}, {found.seconds:.1f} s, {found.evaluations:,} evaluations"
    missed = Look.at(best.found, found, items, way.batch).missed
    if not bool(missed.any()):
        way.looked = f"a wider start, which meets modes in the tails of the prior, finds the same ({cost})"
        return
    whose = "" if int(missed.sum()) == way.batch else f" of {int(missed.sum())} of {way.batch} items"
    way.looked = way.missing = f"a wider start found mass{whose} that the first chains had missed ({cost})"
    way.best = best.doubted(items[missed])


def search_modes(way: UnderWay, candidate: Candidate, found: StrategyOutput, items: Tensor) -> None:
    """Whether optimisation finds modes that what was ``found`` of ``items`` lacks, and draws that have them."""
    best = way.best
    assert best is not None
    rows = best.passed[items].nonzero()[:, 0]
    if not len(rows):
        return
    evaluations = affordable(candidate, way.request.problem, way.request.prior)
    rate = way.row if way.row.evaluations else Amount(seconds=found.seconds, evaluations=found.evaluations)
    rate = rate * (len(rows) / max(1.0, rate.evaluations))  # of an evaluation of every item
    if way.strict:
        have = rate.into(way.left())
        evaluations = min(max(evaluations, SHARE_OF_BUDGET * have), _USED * have)
    why = way.unmet.refusal(items[rows], evaluations) or way.spending.refusal(
        rate * evaluations, "a search for modes", way.left()
    )
    before = f"{way.looked}; " if way.looked else ""
    if why:
        none = "a mode that none of them met is not seen, and none was looked for: "
        way.looked = f"{'' if _WIDE in way.looked else none}{before}{why}"
        return
    seconds = SHARE_OF_BUDGET * way.left().seconds
    judged = way.within_budget(
        lambda: way.unmet.judge(found, rows, items[rows], evaluations, long=way.strict, seconds=seconds)
    )
    if judged is None:
        way.looked = f"{before}a search for modes had no time to end"
        return
    best = way.best
    assert best is not None
    way.spending.evaluations += sum(judged.calls.values())
    best = way.best = best.charged(judged.calls, judged.seconds)
    e, cost = judged.effort, f"{judged.seconds:.1f} s, {sum(judged.calls.values()):,} evaluations"
    how = f"optimisation from the best of {e.points * e.rounds:,} points that lie as wide as the prior and wider"
    if way.unmet.size > _MANY_NUMBERS:
        how += f" (in {way.unmet.size} numbers they meet a mode much narrower than the others by chance only)"
    if not bool(judged.lacking.any()):
        known = all(v.known for v in judged.verdicts)
        what = "no mode that they have not met" if known else "modes of which it is not known how much is in them"
        way.looked = f"{before}{how} finds {what} ({cost})"
        return
    where = way.unmet.where(judged)
    way.looked = way.missing = f"{how} found {where}, which the ensemble had not met ({cost})"
    lacking = items[rows][judged.lacking]
    way.best = best.doubted(lacking)
    if drawn := way.within_budget(lambda: way.unmet.sampled(judged, evaluations)):
        _drawn(way, candidate, drawn, lacking)


def _drawn(way: UnderWay, candidate: Candidate, drawn: StrategyOutput, items: Tensor) -> None:
    """Draws from a mixture that holds modes which were lacking, in place of what lacked them."""
    assert way.best is not None
    way.spending.evaluations += drawn.evaluations
    passed, tests, wrong = by_islands(drawn, len(items))
    name, text = "importance sampling with these modes", wrong or "every test passed"
    way.attempt(candidate, drawn, passed, text, name=name)
    why = f"{candidate.why.removesuffix('.')}, and {name}, which they had missed."
    assert drawn.info.mean_error is not None
    known = drawn.info.mean_error.view(-1, len(items))[0].isfinite().cpu()  # else too few of the draws count
    way.best = way.best.updated(
        drawn,
        replace(candidate, why=why, name=f"{candidate.strategy.name}, importance sampling"),
        passed,
        tests,
        items,
        better=known,
    )
    if not bool(passed.all()):
        way.missing = f"{way.missing}; {name}: {wrong}"
