"""One strategy after another until the certificate is reached or the budget spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import check_int, check_positive
from invsolve.results.certificate import MEAN_TEST, STD_TEST, Attempt, Certificate, judged, worst
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.request import SolveRequest
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.exact import Exact


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What ``strategy="auto"`` may spend.

    Another strategy is begun only if it is expected to end within the budget. Markov chains that run out of it stop
    where they are, and are not certified; other strategies have no answer before their end, and are finished. Chains
    that had hardly met the data by then give way to guidance, which takes its time after the budget.

    Parameters
    ----------
    seconds : float
        Wall-clock time, > 0.
    evaluations : int, optional
        Of denoiser and operator together, in rows.

    Raises
    ------
    InputError, InputTypeError
        If one is not positive, or no number.
    """

    seconds: float = 60.0
    evaluations: int | None = None

    def __post_init__(self) -> None:
        check_positive("Budget", "seconds", self.seconds)
        if self.evaluations is not None:
            check_int("Budget", "evaluations", self.evaluations, minimum=1)


def escalate(
    request: SolveRequest, candidates: Sequence[Candidate], budget: Budget | None
) -> tuple[StrategyOutput, Candidate, Certificate]:
    """Run the strategies in order until every item is certified, or the next one would leave the budget.

    Each runs on the items that are not certified yet. Of every item the best is kept; the candidate is the last one
    that an item was taken from. Items of which chains saw less than a fifth of the likelihood's power are left to
    guidance, if that is among the candidates: samples that hardly know the data are no answer.

    Without a budget the default one decides what is begun, and what was begun is finished: the answer then does not
    depend on the speed of the machine unless it takes a second try.
    """
    strict, budget = budget is not None, budget or Budget()
    batch, started = len(request.problem.data), time.perf_counter()
    items = torch.arange(batch, device="cpu")
    attempts: list[Attempt] = []
    spent, missing = 0, ""
    best: _BestSoFar | None = None
    # Seconds, evaluations and relative cost of a kind's first candidate.
    first: dict[str, tuple[float, int, float]] = {}
    for number, candidate in enumerate(r for r in candidates if not r.is_fallback):
        share = len(items) / batch
        if best and (over := _over(candidate, first, budget, time.perf_counter() - started, spent, share)):
            missing = f"{missing}; {over}"
            break
        # Rows that see each other run together, whatever the caller's chunk is for others.
        here = request if candidate.strategy.couples == "nothing" else replace(request, chunk=None)
        found = here.on(items).run(candidate, number, _limit(budget, started, spent) if strict else _never)
        spent += found.evaluations
        first.setdefault(
            candidate.strategy.name, (found.seconds / share, round(found.evaluations / share), candidate.cost)
        )
        passed, tests, wrong = _judged(candidate, found, len(items))
        if found.stopped and wrong:
            wrong = f"stopped when the budget was spent: {wrong}"
        attempts.append(
            Attempt(
                strategy=short(candidate.strategy),
                items=len(items),
                reached=int(passed.sum()),
                seconds=found.seconds,
                evaluations=found.evaluations,
                text=wrong or ("every test passed" if candidate.tested else ""),
            )
        )
        best = (
            _BestSoFar.first(found, candidate, passed, tests)
            if best is None
            else best.updated(found, candidate, passed, tests, items)
        )
        items, missing = (~best.passed).nonzero()[:, 0], wrong
        if not len(items) or found.stopped:
            break
    assert best is not None
    lost = (~best.passed & (_power(best.found, batch) < _LOST)).nonzero()[:, 0]
    for candidate in (r for r in candidates if r.is_fallback and len(lost)):
        found = request.on(lost).run(candidate, len(candidates))
        attempts.append(
            Attempt(
                strategy=short(candidate.strategy),
                items=len(lost),
                reached=0,
                seconds=found.seconds,
                evaluations=found.evaluations,
                text="an approximation that was not tested",
            )
        )
        best = best.updated(
            found, candidate, torch.zeros(len(lost), dtype=torch.bool, device="cpu"), {}, lost, all_of_them=True
        )
        whose = "the samples" if len(lost) == batch else f"the samples of {len(lost)} of {batch} items"
        missing = f"{missing}; {whose} are those of {short(candidate.strategy)}, an approximation that was not tested"
    return best.found, best.candidate, best.certificate(request.problem.batched, tuple(attempts), missing)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _BestSoFar:
    """The best so far of every item."""

    found: StrategyOutput
    candidate: Candidate
    passed: Tensor  # (items,), as all below
    tests: dict[str, Tensor]
    exact: bool

    @classmethod
    def first(cls, found: StrategyOutput, candidate: Candidate, passed: Tensor, tests: dict[str, Tensor]) -> _BestSoFar:
        return cls(
            found=found, candidate=candidate, passed=passed, tests=tests, exact=isinstance(candidate.strategy, Exact)
        )

    def updated(
        self,
        found: StrategyOutput,
        candidate: Candidate,
        passed: Tensor,
        tests: dict[str, Tensor],
        items: Tensor,
        *,
        all_of_them: bool = False,
    ) -> _BestSoFar:
        """With what was ``found`` for ``items`` where that is better, or ``all_of_them``."""
        batch, old = len(self.passed), self.found
        better = torch.ones_like(passed)
        if not all_of_them:
            error, before = (e.nan_to_num(nan=math.inf) for e in (tests[_ERROR], self.tests[_ERROR][items]))
            nearer = (error == before) & (_power(found, len(items)) > _power(self.found, batch)[items])
            better = passed | (error < before) | nearer
        chosen = items[better]

        def merged(a: Tensor, b: Tensor) -> Tensor:
            a = a.clone()
            b = b.view(-1, len(items), *b.shape[1:])[:, better.to(b.device)]
            a.view(-1, batch, *a.shape[1:])[:, chosen.to(a.device)] = b.to(a.dtype)
            return a

        def per_item(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
            out = {}
            for name in a | b:
                whole = (
                    a[name].clone() if name in a else torch.full((batch,), math.nan, dtype=torch.float64, device="cpu")
                )
                whole[chosen] = b[name][better] if name in b else math.nan
                out[name] = whole
            return out

        rows, own = len(old.chi2), len(found.chi2)
        nothing = torch.full((rows,), math.nan, dtype=torch.float64, device=old.chi2.device)
        names = dict.fromkeys((*old.info, *found.info))
        info = {n: merged(old.info.get(n, nothing), found.info.get(n, nothing[:own])) for n in names}
        whole = replace(
            old,
            samples=merged(old.samples, found.samples),
            chi2=merged(old.chi2, found.chi2),
            info=Diagnostics.from_mapping(info),
            calls=old.calls + found.calls,
            seconds=old.seconds + found.seconds,
            chunk=found.chunk,
            warnings=(*old.warnings, *found.warnings),
            processed=rows,
        )
        mark = self.passed.clone()
        mark[chosen] = passed[better]
        last = candidate if len(chosen) else self.candidate
        return replace(self, found=whole, candidate=last, passed=mark, tests=per_item(self.tests, tests))

    def certificate(self, batched: bool, attempts: tuple[Attempt, ...], missing: str) -> Certificate:
        nan = torch.full(self.passed.shape, math.nan, dtype=torch.float64, device="cpu")

        def per_item(v: Tensor) -> Tensor:
            return v if batched else v[0]

        def bound(name: str) -> Tensor:
            return per_item(torch.zeros_like(nan) if self.exact else self.tests.get(name, nan))

        reached = bool(self.passed.all())
        return Certificate(
            reached=reached,
            passed=per_item(self.passed),
            exact=self.exact,
            mean_error=bound(MEAN_TEST),
            std_error=bound(STD_TEST),
            attempts=attempts,
            missing="" if reached else missing,
            tests={k: worst(k, v[~v.isnan()]) for k, v in self.tests.items() if k != _ERROR and not v.isnan().all()},
        )


_LOST = 0.2  # power of the likelihood, at which data count with more than twice the std of their noise
_ERROR = "error"  # what the best is chosen by


def _power(found: StrategyOutput, items: int) -> Tensor:
    """Of the likelihood, that the samples of every item saw, (items,)."""
    if found.info.beta is None:
        return torch.ones(items, dtype=torch.float64, device="cpu")
    return found.info.beta.view(-1, items)[0].double().cpu().nan_to_num(nan=1.0)


def _never(calls: int) -> bool:
    return False


def _limit(budget: Budget, started: float, spent: int) -> Callable[[int], bool]:
    """Whether a strategy that has made so many calls has left the budget."""

    def over(calls: int) -> bool:
        late = time.perf_counter() - started > budget.seconds
        return late or (budget.evaluations is not None and spent + calls > budget.evaluations)

    return over


def _judged(candidate: Candidate, found: StrategyOutput, batch: int) -> tuple[Tensor, dict[str, Tensor], str]:
    if isinstance(candidate.strategy, Exact):
        return torch.ones(batch, dtype=torch.bool, device="cpu"), {}, ""
    if not candidate.tested:
        return (
            torch.zeros(batch, dtype=torch.bool, device="cpu"),
            {},
            f"{candidate.strategy.name} is an approximation that was not tested",
        )
    info = found.info.mapped(lambda v: v.view(-1, batch)[0].double().cpu())
    passed, tests, wrong = judged(info)
    assert info.mean_error is not None and info.std_error is not None  # `judged` has looked at them
    return passed, tests | {_ERROR: info.mean_error + info.std_error}, wrong


def _over(
    candidate: Candidate,
    first: dict[str, tuple[float, int, float]],
    budget: Budget,
    elapsed: float,
    spent: int,
    share: float,
) -> str:
    """Why this strategy is not begun any more; '' if it is."""
    seconds, evaluations = 0.0, 0
    if first:  # of a kind that was not run yet: at least what the last one took
        took, count, cost = first.get(candidate.strategy.name, [*first.values()][-1])
        cost = cost if candidate.strategy.name in first else candidate.cost
        more = share * candidate.cost / cost
        seconds, evaluations = took * more, round(count * more)
    left = budget.seconds - elapsed
    if seconds > left or left <= 0:
        expected = f"about {seconds:.0f} s" if seconds else "an unknown time"
        rest = f"{max(0.0, left):.0f} s are left of budget={budget.seconds:g}"
        return f"{short(candidate.strategy)} would take {expected}, {rest}"
    if budget.evaluations is not None and spent + evaluations >= budget.evaluations:
        left_over = f"{budget.evaluations - spent:,} are left"
        return f"{short(candidate.strategy)} would take about {evaluations:,} evaluations, {left_over}"
    return ""


def short(strategy: Strategy) -> str:
    """A strategy by its name and the options that are not the default."""
    if not is_dataclass(strategy) or strategy.name != type(strategy).__name__:
        return f"{strategy.name}()"
    options = ((f.name, getattr(strategy, f.name), f.default) for f in fields(strategy) if f.init)
    given = [f"{name}={value!r}" for name, value, default in options if value is not default and value != default]
    return f"{strategy.name}({', '.join(given)})"
