"""The best that was found of every item, while one strategy after another is tried."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.gaussian.marginals import Moments
from invsolve.results.certificate import MEAN_TEST, STD_TEST, Attempt, Certificate, worst
from invsolve.results.strategy_output import StrategyOutput
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.exact import Exact

ERROR = "error"  # what the best is chosen by


def power(found: StrategyOutput, items: int) -> Tensor:
    """Of the likelihood, that the samples of every item saw, (items,)."""
    if found.info.beta is None:
        return torch.ones(items, dtype=torch.float64, device="cpu")
    return found.info.beta.view(-1, items)[0].double().cpu().nan_to_num(nan=1.0)


def misfit(found: StrategyOutput, items: int) -> Tensor:
    """The median chi^2 per datum of the samples of every item, (items,); NaN where none is known."""
    return found.chi2.view(-1, items).double().cpu().nanmedian(0).values


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class BestSoFar:
    """The best so far of every item."""

    found: StrategyOutput
    candidate: Candidate
    passed: Tensor  # (items,), as all below
    tests: dict[str, Tensor]
    doubt: Tensor  # items of which anything else is better
    exact: bool

    @classmethod
    def first(cls, found: StrategyOutput, candidate: Candidate, passed: Tensor, tests: dict[str, Tensor]) -> BestSoFar:
        return cls(
            found=found,
            candidate=candidate,
            passed=passed,
            tests=tests,
            doubt=torch.zeros_like(passed),
            exact=isinstance(candidate.strategy, Exact),
        )

    def updated(
        self,
        found: StrategyOutput,
        candidate: Candidate,
        passed: Tensor,
        tests: dict[str, Tensor],
        items: Tensor,
        *,
        better: Tensor | None = None,
    ) -> BestSoFar:
        """With what was ``found`` for ``items`` where that is ``better``; unless given, where errors are smaller."""
        batch, old = len(self.passed), self.found
        if better is None:
            error, before = (e.nan_to_num(nan=math.inf) for e in (tests[ERROR], self.tests[ERROR][items]))
            nearer = (error == before) & (power(found, len(items)) > power(self.found, batch)[items])
            better = passed | (error < before) | nearer | self.doubt[items]
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
            moments=_merged(old.moments, found.moments, batch, chosen, better),
            calls=old.calls + found.calls,
            seconds=old.seconds + found.seconds,
            chunk=found.chunk,
            warnings=(*old.warnings, *found.warnings),
            processed=rows,
        )
        mark, doubt = self.passed.clone(), self.doubt.clone()
        mark[chosen], doubt[chosen] = passed[better], False
        last = candidate if len(chosen) else self.candidate
        return replace(self, found=whole, candidate=last, passed=mark, doubt=doubt, tests=per_item(self.tests, tests))

    def charged(self, calls: Counter[str], seconds: float) -> BestSoFar:
        """With the cost of what was run for comparison."""
        found = replace(self.found, calls=self.found.calls + calls, seconds=self.found.seconds + seconds)
        return replace(self, found=found)

    def doubted(self, items: Tensor) -> BestSoFar:
        """With ``items`` no longer certified, without an evidence, and anything better than what was found of them."""
        passed, doubt = self.passed.clone(), self.doubt.clone()
        passed[items], doubt[items] = False, True
        tests = {name: v.index_fill(0, items, math.nan) for name, v in self.tests.items()}
        found = self.found

        def unknown(value: Tensor) -> Tensor:
            by_item = value.view(-1, len(self.passed)).clone()
            by_item[:, items.to(value.device)] = math.nan
            return by_item.flatten()

        evidence = {name: unknown(found.info[name]) for name in ("log_evidence", "log_evidence_se")}
        info = Diagnostics.from_mapping(dict(found.info) | evidence)
        return replace(self, passed=passed, doubt=doubt, tests=tests, found=replace(found, info=info))

    def certificate(
        self, batched: bool, attempts: tuple[Attempt, ...], missing: str, looked: str = "", remedy: str = ""
    ) -> Certificate:
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
            looked=looked,
            remedy="" if reached else remedy,
            tests={k: worst(k, v[~v.isnan()]) for k, v in self.tests.items() if k != ERROR and not v.isnan().all()},
        )


def _merged(old: Moments | None, found: Moments | None, batch: int, chosen: Tensor, better: Tensor) -> Moments | None:
    """Of the items ``chosen`` those that were ``found`` of the ones that are ``better``; NaN where there are none."""
    some = old or found
    if some is None:
        return None

    def merged(a: Tensor | None, b: Tensor | None, like: Tensor | None) -> Tensor:
        assert like is not None
        out = like.new_full((batch, *like.shape[1:]), math.nan) if a is None else a.clone()
        out[chosen.to(out.device)] = math.nan if b is None else b[better.to(b.device)].to(out.dtype)
        return out

    return Moments(
        mean=merged(old and old.mean, found and found.mean, some.mean),
        std=merged(old and old.std, found and found.std, some.std),
        known="ensemble",
    )
