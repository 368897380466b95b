"""A solve by one strategy after another: what was spent and found so far, and how the next piece of work is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, final

from torch import Tensor

from invsolve.core.counting import tally
from invsolve.core.stopping import OutOfTime, ask, ended_by
from invsolve.results.certificate import Attempt
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.best import BestSoFar
from invsolve.solving.pricing import as_ended, rows_at_the_end
from invsolve.solving.request import SolveRequest
from invsolve.solving.spending import Amount, Spending
from invsolve.solving.thinning import Thinning
from invsolve.solving.trial import timed
from invsolve.solving.unmet_modes import UnmetModes
from invsolve.solving.wording import short
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.guidance.mmps import MMPS

LOST = 0.2  # power of the likelihood, at which data count with more than twice the std of their noise
_LITTLE = 0.01  # share of the work, below which it tells nothing of the rest
_Found = TypeVar("_Found")


@final
@dataclass(kw_only=True, eq=False)
class UnderWay:
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
    ensembles: bool = False  # are among the strategies, which test themselves
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
        elsewhere = " and another path of the checkpoint, in which this run has ended" if self.request.saved else ""
        if not any(a.tested for a in self.attempts):
            enough = self.spending.budget.described(self.needs)
            larger = f"A larger budget ({enough}){elsewhere} would run ensembles, which are tested; "
            more = larger if self.ensembles and self.refused else ""
            return f"{more}result.check() and iv.calibrate(A, prior, noise=...) test it"
        if self.stopped or self.refused:
            return f"Give a larger budget{elsewhere}"
        return "No strategy is left to try: look at result.check(), and at a narrower prior or parameters on one scale"

    def left(self) -> Amount:
        """What is left for a decision, the same one when a run goes on from its checkpoint."""
        return self.request.decisions.amount(self.spending.left)

    def run(self, candidate: Candidate, items: Tensor, number: int, **options: Any) -> StrategyOutput:
        # Rows that see each other run together, whatever the caller's chunk is for others.
        here = self.request if candidate.strategy.couples == "nothing" else replace(self.request, chunk=None)
        here = replace(here, **options) if options else here

        ending = self.row * (len(items) * rows_at_the_end(candidate, here.num_samples))

        def over(calls: int, power: Callable[[], float], ahead: Amount) -> bool:
            ask()  # work beside an answer that there is may be given up
            ahead += ending
            if self.spending.over(calls, lost=False, ahead=ahead):
                return True
            return self.spending.over(calls, lost=True, ahead=ahead) and power() < LOST

        own = here.on(items)
        if self.strict and not candidate.tested and isinstance(candidate.strategy, MMPS):
            candidate, tried = timed(candidate, own, number, self.spending)
        else:
            tried = None
        began = self.spending.elapsed
        if tried is not None:
            found = tried
        elif self.strict:
            found = own.run(candidate, number, over, Thinning(spending=self.spending, ending=ending))
        else:
            found = own.run(candidate, number)
        candidate = as_ended(candidate, found)
        if own.saved is not None and tried is None:
            self.spending.earlier += max(0.0, found.seconds - (self.spending.elapsed - began))
        self.spending.evaluations += found.evaluations
        took = Amount(seconds=found.seconds, evaluations=found.evaluations) * (self.batch / len(items))
        self.taken.setdefault(_kind(candidate.strategy), (took, candidate.cost))
        return found

    def within_budget(self, work: Callable[[], _Found]) -> _Found | None:
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

    def expected(self, candidate: Candidate, share: float) -> Amount:
        """What a strategy will take for a share of the items; of another kind than were run, what the last one took."""
        kind = _kind(candidate.strategy)
        alike = [v for k, v in self.taken.items() if k[0] == kind[0]]
        if not self.taken:
            return Amount()
        took, cost = self.taken.get(kind) or (alike or [(v, candidate.cost) for v, _ in self.taken.values()])[-1]
        return self.request.decisions.amount(lambda: took * (share * candidate.cost / cost))

    def enough(self, found: StrategyOutput) -> str:
        """What it takes to end: of the smallest ensemble before it ran, or of one by how much it has done, if more.

        Whether it is certified then is another matter: an ensemble that ends may be too small.
        """
        described = self.spending.budget.described
        whole = Amount()
        if _LITTLE < found.share < 1:
            done = found.share * (1 - self.spending.kept_back)
            whole = Amount(seconds=found.seconds, evaluations=found.evaluations) * (1 / done)
        if self.needs.evaluations > max(found.evaluations, whole.evaluations):
            return f" (the smallest ensemble would end after {described(self.needs)}, or more)"
        return f" (it would end after {described(whole)})" if whole.evaluations else ""

    def attempt(self, candidate: Candidate, found: StrategyOutput, passed: Tensor, text: str, name: str = "") -> None:
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
