"""One strategy after another until the certificate is reached or the budget spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from invsolve.core.counting import tally
from invsolve.core.random import DrawLike, Draws
from invsolve.core.stopping import OutOfTime, ask, ended_by
from invsolve.results.certificate import Attempt, Certificate
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.best import BestSoFar, misfit, power
from invsolve.solving.judging import by_islands, judged_by_its_kind
from invsolve.solving.loop import never
from invsolve.solving.pricing import (
    expected_rows,
    fitted,
    lengthening,
    price,
    rows_at_the_end,
    shortest,
    smaller,
    stopped_at_once,
)
from invsolve.solving.request import SolveRequest
from invsolve.solving.search import SHARE_OF_BUDGET, affordable
from invsolve.solving.spending import Amount, Budget, Spending
from invsolve.solving.trial import timed
from invsolve.solving.unmet_modes import UnmetModes
from invsolve.solving.wider_start import DRAWS, Look, fewer
from invsolve.solving.wording import short
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate, wider
from invsolve.strategies.choice.sample_size import FEWEST, MANY, picked_from
from invsolve.strategies.exact import Exact
from invsolve.strategies.guidance.mmps import MMPS
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC
from invsolve.strategies.smc.smc import SMC

_LOST = 0.2  # power of the likelihood, at which data count with more than twice the std of their noise
_USED = 0.8  # of what is left: expectations are rough
_SAMPLES = 0.05  # of a budget, for samples that nobody asked for
_Found = TypeVar("_Found")
_LITTLE = 0.01  # share of the work, below which it tells nothing of the rest
_MANY_NUMBERS = 8  # beyond which points lie too thinly to meet narrow modes
_WIDE = "a wider start, which meets modes"
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
    run = _Escalation(request=request, spending=spending, strict=budget is not None, unmet=UnmetModes(request=request))
    tries = [c for c in candidates if not c.is_fallback]
    fallbacks = [c for c in candidates if c.is_fallback]
    if run.strict and not isinstance(tries[0].strategy, Exact):
        tries, fallbacks = run.fitted(tries, fallbacks)
        run.unmet = UnmetModes(request=run.request)  # of as many samples as the budget leaves
    for number, candidate in enumerate(tries):
        if not run.tried(candidate, number):
            break
    for candidate in fallbacks:
        run.guided(candidate, len(candidates))
    best = run.best
    assert best is not None
    certificate = best.certificate(request.problem.batched, tuple(run.attempts), run.missing, run.looked, run.remedy)
    return best.found, best.candidate, certificate


@final
@dataclass(kw_only=True, eq=False)
class _Escalation:
    """A solve under way."""

    request: SolveRequest
    spending: Spending
    strict: bool  # a budget was given
    unmet: UnmetModes
    attempts: list[Attempt] = field(default_factory=list)
    best: BestSoFar | None = None
    missing: str = ""
    looked: str = ""
    needs: Amount = field(default_factory=Amount)  # what a budget that is too small for any strategy should be
    stopped: bool = False
    refused: bool = False  # there was more to try, and no time for it
    row: Amount = field(default_factory=Amount)  # what one costs, where that was tried
    # What a kind's first candidate took, for all items, and its relative cost.
    taken: dict[tuple[str, float], tuple[Amount, float]] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return len(self.request.problem.data)

    @property
    def remedy(self) -> str:
        """What to do where the certificate is not reached."""
        if not any(a.tested for a in self.attempts):
            more = "A larger budget would run ensembles, which are tested; " if self.refused else ""
            return f"{more}result.check() and iv.calibrate(A, prior, noise=...) test it"
        if self.stopped or self.refused:
            return "Give a larger budget"
        return "No strategy is left to try: look at result.check(), and at a narrower prior or parameters on one scale"

    def left(self) -> Amount:
        """What is left for a decision, the same one when a run goes on from its checkpoint."""
        return self.request.decisions.amount(self.spending.left)

    def fitted(self, tries: list[Candidate], fallbacks: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
        """The candidates as small as the budget demands: ensembles, else guidance, else the least of all."""
        problem, prior = self.request.problem, self.request.prior
        rows, left = self.request.num_samples * self.batch, self.left()
        with tally() as calls:
            row = self.row = self.request.decisions.amount(lambda: price(problem, prior, left))
        self.spending.evaluations += calls.total()
        if self.request.free:  # chi^2 takes a row for each
            sizes = [n for n in (self.request.num_samples, MANY) if n <= self.request.num_samples]
            within = (n for n in sizes if (row * (n * self.batch)).into(left * _SAMPLES) >= 1)
            number = next(within, FEWEST)
            self.request = replace(self.request, num_samples=number)
            rows = number * self.batch

        def fit(candidate: Candidate, share: float = 1.0) -> Candidate | None:
            return fitted(candidate, problem, prior, row, left * share, rows)

        for index, candidate in enumerate(tries):
            if small := fit(candidate):
                kept = [c for f in fallbacks if (c := fit(f, _KEPT_BACK))]
                self.spending.kept_back = _KEPT_BACK if kept else 0.0
                self._pick_no_more(small)
                return [small, *tries[index + 1 :]], kept
        self.refused = True
        if problem.linear and fallbacks and (guided := fit(fallbacks[0])):
            why = "No ensemble would end within the budget, so moment-matching guidance, an approximation here."
            return [replace(guided, why=why, is_fallback=False)], []
        least = shortest(tries[0])
        self._pick_no_more(least)
        self.needs = row * (expected_rows(least, problem, prior, rows) / _USED)
        return [stopped_at_once(least, problem, prior, row, left)], []

    def _pick_no_more(self, candidate: Candidate) -> None:
        """Samples that nobody asked for are no more than an ensemble has."""
        if self.request.free:
            number = min(self.request.num_samples, picked_from(candidate.strategy))
            self.request = replace(self.request, num_samples=number)

    def tried(self, candidate: Candidate, number: int) -> bool:
        """Run one more strategy on what is not certified yet; whether another one may follow."""
        items = torch.arange(self.batch, device="cpu") if self.best is None else (~self.best.passed).nonzero()[:, 0]
        if self.best is not None:
            expected, left = self._expected(candidate, len(items) / self.batch), self.left()
            if refusal := self.spending.refusal(expected, short(candidate.strategy), left):
                fits = smaller(candidate, _USED * expected.into(left), self.best.candidate)
                if not self.strict or fits is None:
                    self.missing, self.refused = f"{self.missing}; {refusal}", True
                    return False
                candidate = fits
        found, passed = self._improve(candidate, items, number)
        assert self.best is not None
        if bool(passed.any()) and not self.stopped and not isinstance(candidate.strategy, Exact):
            self._look(candidate, items[passed])
            if isinstance(candidate.strategy, (NoiseMCMC, SMC)):
                self._search(candidate, found, items)
        return not bool(self.best.passed.all()) and not self.stopped

    def guided(self, candidate: Candidate, number: int) -> None:
        """Items of which chains hardly met the data, by guidance."""
        best = self.best
        assert best is not None
        lost = (~best.passed & (power(best.found, self.batch) < _LOST)).nonzero()[:, 0]
        if not len(lost):
            return
        found = self._within_budget(lambda: self._run(candidate, lost, number))
        if found is None:
            self.missing = f"{self.missing}; {short(candidate.strategy)} in their place had no time to end"
            return
        nothing = torch.zeros(len(lost), dtype=torch.bool, device="cpu")
        self._attempt(candidate, found, nothing, "an approximation that was not tested")
        here = misfit(found, len(lost))
        nearer = ~(here >= misfit(best.found, self.batch)[lost]) & here.isfinite()
        if not bool(nearer.any()):
            self.best = best.charged(found.calls, found.seconds)
            self.missing = f"{self.missing}; {short(candidate.strategy)} does not fit the data better"
            return
        self.best = best.updated(found, candidate, nothing, {}, lost, better=nearer)
        count = int(nearer.sum())
        whose = "the samples" if count == self.batch else f"the samples of {count} of {self.batch} items"
        guess = f"{whose} are those of {short(candidate.strategy)}, an approximation that was not tested"
        self.missing = f"{self.missing}; {guess}"

    def _look(self, candidate: Candidate, items: Tensor) -> None:
        """Whether a wider start finds what the chains that certified ``items`` missed, where time is left for it."""
        best, wide = self.best, wider(candidate, self.request.problem, self.request.prior)
        assert best is not None
        if wide is None:
            if isinstance(candidate.strategy, NoiseMCMC) and candidate.strategy.spread != 1:
                self.looked = self.looked or "they had a wider start, which meets modes in the tails of the prior"
            return
        expected, left = self._expected(wide, len(items) / self.batch), self.left()
        if refusal := self.spending.refusal(expected, "a look from a wider start", left):
            self.looked = refusal
            return
        look = fewer(wide)
        # Not saved: it is run again where a finished checkpoint is read.
        problem, keys = self.request.problem, self.request.keys

        def draws(items: Sequence[int], samples: Sequence[int]) -> DrawLike:
            chosen = [keys[b] for b in items]
            return Draws.for_rows(self.request.seed, chosen, samples, problem.data.device, purpose="look")

        found = self._run(look, items, 0, num_samples=DRAWS, saved=None, draws=draws)
        best = self.best = best.charged(found.calls, found.seconds)
        if found.stopped:
            self.looked = "a look from a wider start had no time to end"
            return
        cost = f"{short(look.strategy)}, {found.seconds:.1f} s, {found.evaluations:,} evaluations"
        missed = Look.at(best.found, found, items, self.batch).missed
        if not bool(missed.any()):
            self.looked = f"a wider start, which meets modes in the tails of the prior, finds the same ({cost})"
            return
        whose = "" if int(missed.sum()) == self.batch else f" of {int(missed.sum())} of {self.batch} items"
        self.looked = self.missing = f"a wider start found mass{whose} that the first chains had missed ({cost})"
        self.best = best.doubted(items[missed])

    def _search(self, candidate: Candidate, found: StrategyOutput, items: Tensor) -> None:
        """Whether optimisation finds modes that what was ``found`` of ``items`` lacks, and draws that have them."""
        best = self.best
        assert best is not None
        rows = best.passed[items].nonzero()[:, 0]
        if not len(rows):
            return
        evaluations = affordable(candidate, self.request.problem, self.request.prior)
        rate = self.row if self.row.evaluations else Amount(seconds=found.seconds, evaluations=found.evaluations)
        rate = rate * (len(rows) / max(1.0, rate.evaluations))  # of an evaluation of every item
        if self.strict:
            have = rate.into(self.left())
            evaluations = min(max(evaluations, SHARE_OF_BUDGET * have), _USED * have)
        why = self.unmet.refusal(items[rows], evaluations) or self.spending.refusal(
            rate * evaluations, "a search for modes", self.left()
        )
        before = f"{self.looked}; " if self.looked else ""
        if why:
            none = "a mode that none of them met is not seen, and none was looked for: "
            self.looked = f"{'' if _WIDE in self.looked else none}{before}{why}"
            return
        seconds = SHARE_OF_BUDGET * self.left().seconds
        judged = self._within_budget(
            lambda: self.unmet.judge(found, rows, items[rows], evaluations, long=self.strict, seconds=seconds)
        )
        if judged is None:
            self.looked = f"{before}a search for modes had no time to end"
            return
        best = self.best
        assert best is not None
        self.spending.evaluations += sum(judged.calls.values())
        best = self.best = best.charged(judged.calls, judged.seconds)
        e, cost = judged.effort, f"{judged.seconds:.1f} s, {sum(judged.calls.values()):,} evaluations"
        how = f"optimisation from the best of {e.points * e.rounds:,} points that lie as wide as the prior and wider"
        if self.unmet.size > _MANY_NUMBERS:
            how += f" (in {self.unmet.size} numbers they meet a mode much narrower than the others by chance only)"
        if not bool(judged.lacking.any()):
            known = all(v.known for v in judged.verdicts)
            what = "no mode that they have not met" if known else "modes of which it is not known how much is in them"
            self.looked = f"{before}{how} finds {what} ({cost})"
            return
        where = self.unmet.where(judged)
        self.looked = self.missing = f"{how} found {where}, which the ensemble had not met ({cost})"
        lacking = items[rows][judged.lacking]
        self.best = best.doubted(lacking)
        if drawn := self._within_budget(lambda: self.unmet.sampled(judged, evaluations)):
            self._drawn(candidate, drawn, lacking)

    def _within_budget(self, work: Callable[[], _Found]) -> _Found | None:
        """What some ``work`` beside an answer that there is gives; None where the budget ends it, which is charged."""
        began = self.spending.elapsed
        try:
            with tally() as calls, ended_by(lambda: self.strict and self.spending.over(0, lost=False)):
                ask()
                return work()
        except OutOfTime:
            assert self.best is not None
            self.spending.evaluations += calls.total()
            self.best = self.best.charged(calls, self.spending.elapsed - began)
            return None

    def _drawn(self, candidate: Candidate, drawn: StrategyOutput, items: Tensor) -> None:
        """Draws from a mixture that holds modes which were lacking, in place of what lacked them."""
        assert self.best is not None
        self.spending.evaluations += drawn.evaluations
        passed, tests, wrong = by_islands(drawn, len(items))
        name, text = "importance sampling with these modes", wrong or "every test passed"
        self._attempt(candidate, drawn, passed, text, name=name)
        why = f"{candidate.why.removesuffix('.')}, and {name}, which they had missed."
        assert drawn.info.mean_error is not None
        known = drawn.info.mean_error.view(-1, len(items))[0].isfinite().cpu()  # else too few of the draws count
        self.best = self.best.updated(drawn, replace(candidate, why=why), passed, tests, items, better=known)
        if not bool(passed.all()):
            self.missing = f"{self.missing}; {name}: {wrong}"

    def _improve(self, candidate: Candidate, items: Tensor, number: int) -> tuple[StrategyOutput, Tensor]:
        """Run a strategy on ``items``, and keep what is better; what it found, and which of them it certified."""
        candidate = lengthening(candidate) if self.strict else candidate
        found = self._run(candidate, items, number)
        passed, tests, wrong = judged_by_its_kind(candidate, found, len(items))
        if found.stopped and wrong:
            more = self._enough(found)
            wrong = f"stopped when the budget was spent{more}: {wrong}"
        self._attempt(candidate, found, passed, wrong or ("every test passed" if candidate.tested else ""))
        if self.best is None:
            self.best = BestSoFar.first(found, candidate, passed, tests)
        else:
            self.best = self.best.updated(found, candidate, passed, tests, items)
        self.missing, self.stopped = wrong, found.stopped
        return found, passed

    def _enough(self, found: StrategyOutput) -> str:
        """The budget that would do: for the smallest ensemble, or for one that was stopped, by how much it has done."""
        described = self.spending.budget.described
        if self.needs.evaluations > found.evaluations:
            return f" ({described(self.needs)} would do for the smallest ensemble)"
        if not _LITTLE < found.share < 1:
            return ""
        done = found.share * (1 - self.spending.kept_back)
        whole = Amount(seconds=found.seconds, evaluations=found.evaluations) * (1 / done)
        return f" ({described(whole)} would do for its end)"

    def _run(self, candidate: Candidate, items: Tensor, number: int, **options: Any) -> StrategyOutput:
        # Rows that see each other run together, whatever the caller's chunk is for others.
        here = self.request if candidate.strategy.couples == "nothing" else replace(self.request, chunk=None)
        here = replace(here, **options) if options else here

        ending = self.row * (len(items) * rows_at_the_end(candidate, here.num_samples))

        def over(calls: int, power: Callable[[], float], ahead: Amount) -> bool:
            ask()  # work beside an answer that there is may be given up
            ahead += ending
            if self.spending.over(calls, lost=False, ahead=ahead):
                return True
            return self.spending.over(calls, lost=True, ahead=ahead) and power() < _LOST

        own = here.on(items)
        if self.strict and not candidate.tested and isinstance(candidate.strategy, MMPS):
            candidate, tried = timed(candidate, own, number, self.spending)
        else:
            tried = None
        began = self.spending.elapsed
        found = tried or own.run(candidate, number, over if self.strict else never)
        if own.saved is not None and tried is None:
            self.spending.earlier += max(0.0, found.seconds - (self.spending.elapsed - began))
        self.spending.evaluations += found.evaluations
        took = Amount(seconds=found.seconds, evaluations=found.evaluations) * (self.batch / len(items))
        self.taken.setdefault(_kind(candidate.strategy), (took, candidate.cost))
        return found

    def _expected(self, candidate: Candidate, share: float) -> Amount:
        """What a strategy will take for a share of the items; of another kind than were run, what the last one took."""
        kind = _kind(candidate.strategy)
        alike = [v for k, v in self.taken.items() if k[0] == kind[0]]
        if not self.taken:
            return Amount()
        took, cost = self.taken.get(kind) or (alike or [(v, candidate.cost) for v, _ in self.taken.values()])[-1]
        return self.request.decisions.amount(lambda: took * (share * candidate.cost / cost))

    def _attempt(self, candidate: Candidate, found: StrategyOutput, passed: Tensor, text: str, name: str = "") -> None:
        self.attempts.append(
            Attempt(
                strategy=name or short(candidate.strategy),
                items=len(passed),
                reached=int(passed.sum()),
                seconds=found.seconds,
                evaluations=found.evaluations,
                text=text,
                tested=candidate.tested,
            )
        )


def _kind(strategy: Strategy) -> tuple[str, float]:
    """What strategies share whose costs are known from each other: the name, and where chains start."""
    return strategy.name, getattr(strategy, "spread", 1.0)
