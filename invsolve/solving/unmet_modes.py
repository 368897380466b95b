"""Modes that a certified ensemble has not met: what `auto` does about them, and what the certificate says of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.random import DrawLike, Draws
from invsolve.results.strategy_output import MEMBERS, StrategyOutput
from invsolve.solving.importance import Proposal, weighed
from invsolve.solving.modes import Modes
from invsolve.solving.noise_density import NoiseDensity
from invsolve.solving.request import SolveRequest
from invsolve.solving.search import Effort, Search
from invsolve.solving.unmet import Verdict, verdict
from invsolve.strategies.mcmc.bridge import LARGEST
from invsolve.strategies.reported import Reported

_STEP = 3 * 10**7  # of the random numbers; no strategy takes so many steps
_SHOWN = 4  # numbers of a signal


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Of ``items`` whether their ensembles lack modes, and what it took to know."""

    items: Tensor
    members: Tensor  # (items, count, *shape)
    verdicts: list[Verdict]
    effort: Effort
    calls: Counter[str]
    seconds: float

    @property
    def lacking(self) -> Tensor:
        """Which of them, ``(items,)``."""
        return torch.tensor([v.lacking for v in self.verdicts], dtype=torch.bool, device="cpu")


@final
@dataclass(kw_only=True, eq=False)
class UnmetModes:
    """Of the items of a solve, what searches have found so far."""

    request: SolveRequest
    modes: dict[int, Modes] = field(default_factory=dict)
    effort: Effort | None = None  # of the last search

    @property
    def size(self) -> int:
        """Real numbers of a signal."""
        return NoiseDensity(problem=self.request.problem, prior=self.request.prior).size

    def refusal(self, items: Tensor, evaluations: float) -> str:
        """Why ``items`` are not searched with so many evaluations each; '' if they are, or were."""
        if all(b in self.modes for b in items.tolist()):
            return ""
        density = self._density(items[:1])
        if density.size > LARGEST:
            return f"a search for modes is made in at most {LARGEST} numbers"
        if Effort.of(density, evaluations, long=False) is None:
            return f"a search for modes takes more than {evaluations:,.0f} evaluations"
        return ""

    def judge(
        self, found: StrategyOutput, rows: Tensor, items: Tensor, evaluations: float, *, long: bool, seconds: float
    ) -> Judged:
        """Whether what was ``found`` lacks modes of ``items``, which are the ``rows`` of the items it is of.

        Each is searched with so many evaluations, unless it was before; where that is a ``long`` search, for about so
        many ``seconds`` in all.
        """
        batch = len(found.chi2) // self.request.num_samples
        members = _members(found, batch)[rows.to(found.samples.device)]
        new = torch.tensor([b not in self.modes for b in items.tolist()], dtype=torch.bool, device="cpu")
        calls, took = Counter[str](), 0.0
        if bool(new.any()):
            density, keys = self._density(items[new]), [self.request.keys[b] for b in items[new].tolist()]
            effort = Effort.of(density, evaluations, long=long)
            assert effort is not None  # `refusal` has looked
            run = Search.run(density, effort, members[new.to(members.device)], self._draws(keys), seconds)
            self.modes |= dict(zip(items[new].tolist(), run.of, strict=True))
            self.effort, calls, took = run.effort, run.calls, run.seconds
        assert self.effort is not None
        evidence = [_of(found.info.log_evidence, batch, math.nan), _of(found.info.log_evidence_se, batch, math.inf)]
        verdicts = [
            verdict(self.modes[b], to_real(x).double(), *(float(v[k]) for v in evidence))
            for b, k, x in zip(items.tolist(), rows.tolist(), members, strict=True)
        ]
        return Judged(items=items, members=members, verdicts=verdicts, effort=self.effort, calls=calls, seconds=took)

    def sampled(self, judged: Judged, evaluations: float) -> StrategyOutput | None:
        """Draws of the items that lack modes, from a mixture that holds them; None where none can be fitted."""
        lacking = judged.lacking.nonzero()[:, 0]
        items = judged.items[lacking]
        verdicts = [judged.verdicts[k] for k in lacking.tolist()]
        chosen = [
            self.modes[b].take(torch.tensor(v.which, device=self.modes[b].item.device))
            for b, v in zip(items.tolist(), verdicts, strict=True)
        ]
        density = self._density(items)
        members = judged.members[lacking.to(judged.members.device)]
        proposal = Proposal.of(density, members, chosen, [v.share for v in verdicts])
        if proposal is None:
            return None
        draws = self._draws([self.request.keys[b] for b in items.tolist()])(list(range(len(items))))

        def normal(shape: tuple[int, ...]) -> Tensor:
            return draws.normal(shape, torch.float64, step=_STEP)

        request = self.request
        of = Reported.of(request.reported, density.problem, density.prior)
        return weighed(density, proposal, normal, of=of, num_samples=request.num_samples, evaluations=evaluations)

    def where(self, judged: Judged) -> str:
        """The largest mode that an ensemble lacks, in words."""
        number = max(range(len(judged.verdicts)), key=lambda k: judged.verdicts[k].share * judged.verdicts[k].lacking)
        own, which = self.modes[int(judged.items[number])], judged.verdicts[number].which
        peak = own.peak[max(which, key=lambda k: float(own.log_mass[k]))].tolist()
        numbers = ", ".join(f"{v:.3g}" for v in peak[:_SHOWN]) + (", ..." if len(peak) > _SHOWN else "")
        others = f" and {len(which) - 1} more" if len(which) > 1 else ""
        share = judged.verdicts[number].share
        return f"a mode near ({numbers}){others}, with about {share:.0%} of the mass"

    def _density(self, items: Tensor) -> NoiseDensity:
        problem = self.request.problem
        return NoiseDensity(problem=problem.take(items.to(problem.data.device)), prior=self.request.prior)

    def _draws(self, keys: list[int]) -> Callable[[list[int]], DrawLike]:
        device, seed = self.request.problem.data.device, self.request.seed
        return lambda chosen: Draws.for_rows(
            seed, [keys[k] for k in chosen], [0] * len(chosen), device, purpose="search"
        )


def _members(found: StrategyOutput, batch: int) -> Tensor:
    """Of every item, ``(items, count, *shape)``: of the ensemble, and where that is not kept the samples."""
    members = found.ensemble(MEMBERS)
    if members is not None:
        return members
    return found.samples.view(-1, batch, *found.samples.shape[1:]).transpose(0, 1)


def _of(value: Tensor | None, batch: int, other: float) -> Tensor:
    if value is None:
        return torch.full((batch,), other, dtype=torch.float64, device="cpu")
    return value.view(-1, batch)[0].double().cpu()
