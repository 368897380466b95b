"""A checked call of `solve`, and what one strategy makes of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.checkpoint import Checkpoint
from invsolve.core.counting import tally
from invsolve.core.fingerprint import fingerprint
from invsolve.core.random import DrawLike
from invsolve.core.resampling import effective, in_place, normalised, systematic
from invsolve.errors import invalid
from invsolve.gaussian.evidence import Evidence
from invsolve.gaussian.marginals import Moments
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasDensity, HasTransport
from invsolve.problem import Problem
from invsolve.progress import Progress
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.decisions import Decisions
from invsolve.solving.loop import ChunkedRun, DrawFactory, Over, never
from invsolve.solving.particle_evidence import particle_evidence
from invsolve.solving.rows import TILE
from invsolve.solving.thinning import Thinning
from invsolve.strategies.base import itself
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.choice.sample_size import default_samples
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.mcmc.convergence import between_islands
from invsolve.strategies.reported import Reported
from invsolve.strategies.smc.smc import SMC

_RESAMPLING = 10**6  # a step that no strategy asks numbers for
# Numbers of a signal batch in one chunk by default: what fits a CPU's cache (8-coil MRI at 192^2: three times faster
# than all rows at once), and enough to fill an accelerator.
_CHUNK_NUMBERS = {"cpu": 2**18}
_CHUNK_NUMBERS_ELSEWHERE = 2**24


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SolveRequest:
    """What the caller of `solve` asked for, checked."""

    problem: Problem
    prior: Prior
    num_samples: int
    seed: int
    keys: Sequence[int]  # of the items
    draws: DrawFactory
    chunk: int | None
    reproducible: bool
    saved: Checkpoint | None
    progress: Progress
    decisions: Decisions = field(default_factory=Decisions)  # what sizes were decided by
    free: bool = False  # the caller did not say how many samples
    reported: Callable[[Tensor], Tensor] = itself  # of the signal: what mean, std and certificate are of
    drawn_by: str = ""  # what a source of random numbers of the caller's own is known by
    weighted: bool = True  # samples of a strategy that weighs keep their weights, and are no draws

    def on(self, items: Tensor) -> SolveRequest:
        """The same call for some of its items; their draws stay theirs."""
        index = items.tolist()
        if len(index) == len(self.problem.data):
            return self
        own = self.draws
        return replace(
            self,
            problem=self.problem.take(items.to(self.problem.data.device)),
            keys=[self.keys[b] for b in index],
            draws=lambda chosen, samples: own([index[b] for b in chosen], samples),
        )

    def sized(self, num_samples: int | None, candidates: Sequence[Candidate]) -> SolveRequest:
        """With so many samples, or as many as these strategies get where the caller does not say."""
        number = num_samples or default_samples(self.problem, self.prior, candidates)
        return replace(self, num_samples=number, free=num_samples is None)

    def run(
        self, candidate: Candidate, number: int = 0, over: Over = never, thinning: Thinning | None = None
    ) -> StrategyOutput:
        """Run one strategy.

        ``number`` tells the checkpoints of several attempts apart, ``over`` ends it, ``thinning`` makes it smaller
        (see `ChunkedRun`).
        """
        if candidate.islands == 1:
            found = self._chunked(candidate, self.problem, self.num_samples, self.draws, number, over, thinning)
            return self._with_evidence(candidate, found, over)
        # Item b on island i is item b * islands + i of a larger batch, whose sample k has the stream of sample
        # k * islands + i of item b.
        islands, batch = candidate.islands, len(self.problem.data)
        index = torch.arange(batch, device=self.problem.data.device).repeat_interleave(islands)

        def draws(items: Sequence[int], samples: Sequence[int]) -> DrawLike:
            numbers = [k * islands + r % islands for r, k in zip(items, samples, strict=True)]
            return self.draws([r // islands for r in items], numbers)

        each = self._chunked(candidate, self.problem.take(index), candidate.particles, draws, number, over)
        assert each.log_weights is not None
        told = each.info.mapped(lambda v: v.view(candidate.particles, batch, islands)[0])
        of = Reported.of(self.reported, self.problem, self.prior)
        chosen, info, moments = pooled(each.samples, each.chi2, each.log_weights, told, self.num_samples, of)
        each = self._with_evidence(candidate, replace(each, info=info, moments=moments), over, islands)
        return replace(
            each,
            samples=each.samples[chosen],
            chi2=each.chi2[chosen],
            log_weights=None,
            processed=self.num_samples * batch,
            ensemble=partial(_members, each, told, batch, of),
        )

    def _with_evidence(
        self, candidate: Candidate, found: StrategyOutput, over: Over, islands: int = 1
    ) -> StrategyOutput:
        """Weighted particles also give the evidence by where they ended, which may be better than their weights.

        Not within a budget where that takes a probability flow, of which a particle may cost more than it did so far;
        and what particles that were stopped say of it is not known.
        """
        own, weights = found.info, found.log_weights
        if not isinstance(candidate.strategy, SMC) or weights is None:
            return found
        if found.stopped:
            unknown = torch.full_like(own["log_evidence"], math.nan)
            return replace(found, info=replace(own, log_evidence=unknown, log_evidence_se=unknown))
        if over is not never and not isinstance(self.prior, (HasTransport, HasDensity)):
            return found
        assert own.log_evidence is not None and own.log_evidence_se is not None
        batch, started = len(self.problem.data), time.perf_counter()
        with tally() as calls:
            bridged = particle_evidence(
                self.problem,
                self.prior,
                found.samples,
                weights,
                self.draws(range(batch), [0] * batch),
                islands=islands,
            )
        alone = Evidence(*(v.view(-1, batch)[0].double() for v in (own.log_evidence, own.log_evidence_se)))
        best = alone.or_better(bridged).known(torch.ones_like(alone.log).bool())
        repeats = len(own.log_evidence) // batch
        info = replace(own, log_evidence=best.log.repeat(repeats), log_evidence_se=best.se.repeat(repeats))
        seconds = found.seconds + time.perf_counter() - started
        return replace(found, info=info, calls=found.calls + calls, seconds=seconds)

    def _chunked(
        self,
        candidate: Candidate,
        problem: Problem,
        samples: int,
        draws: DrawFactory,
        number: int,
        over: Over,
        thinning: Thinning | None = None,
    ) -> StrategyOutput:
        strategy, chunk = candidate.strategy, self._chunk_rows(candidate, samples * len(problem.data))
        saved = self.saved
        if saved is not None and number:
            saved = replace(saved, path=f"{saved.path}.{number}")
        return ChunkedRun(
            problem=problem,
            prior=self.prior,
            strategy=strategy,
            draws=draws,
            samples=samples,
            chunk=chunk,
            keys=self.keys if self.reproducible else None,
            saved=saved,
            identity=self._identity(candidate, chunk),
            progress=self.progress,
            over=over,
            thinning=thinning,
            reported=self.reported,
            decisions=self.decisions.known,
        ).run()

    def _identity(self, candidate: Candidate, chunk: int) -> dict[str, str]:
        if self.saved is None:
            return {}
        own = {"draws": self.drawn_by} if self.drawn_by else {}
        return own | {
            "y": fingerprint(self.problem.data),
            "operator": self.problem.operator.fingerprint(),
            "noise": fingerprint(self.problem.noise),
            "prior": self.prior.fingerprint(),
            "strategy": candidate.strategy.fingerprint(),
            "seed": str(self.seed),
            "dtype": str(self.problem.data.dtype),
            "num_samples": str(self.num_samples),
            "item_ids": fingerprint(list(self.keys)),
            "chunk": f"{chunk}{', at fixed places' if self.reproducible else ''}",
        }

    def _chunk_rows(self, candidate: Candidate, rows: int) -> int:
        strategy, chunk = candidate.strategy, self.chunk
        if self.reproducible:
            if chunk not in (None, TILE):
                raise invalid("solve", "chunk", f"left out (or {TILE}) with reproducible=True", chunk)
            if strategy.couples != "nothing":
                raise invalid("solve", "reproducible", f"False for {strategy.name}, whose samples see each other", True)
            return TILE
        if strategy.couples != "nothing":
            if chunk is not None:
                raise invalid("solve", "chunk", f"left out for {strategy.name}, whose samples see each other", chunk)
            return rows
        numbers = max(prod(self.problem.shape), prod(self.problem.operator.out_shape), 1)
        most = _CHUNK_NUMBERS.get(self.problem.data.device.type, _CHUNK_NUMBERS_ELSEWHERE)
        return min(rows, chunk or max(1, most // numbers))


def _members(each: StrategyOutput, told: Diagnostics, batch: int, of: Reported, count: int) -> Tensor:
    """So many particles of every item ``(batch, count, *shape)`` as equally weighted ones, of all islands."""
    assert each.log_weights is not None
    rows, _, _ = pooled(each.samples, each.chi2, each.log_weights, told, count, of)
    return each.samples[rows].view(count, batch, *each.samples.shape[1:]).transpose(0, 1)


def equally_weighted(
    output: StrategyOutput, failed: Tensor, draws: DrawLike, items: int
) -> tuple[StrategyOutput, Tensor]:
    """Weighted rows as draws: systematic resampling in every item by its own ``draws``; and which rows failed.

    ``failed`` rows have no weight; all rows of an item without any weight fail, as none of them is a draw. The
    effective number of the weighted samples is kept as ``ess``.
    """
    assert output.log_weights is not None
    logs = output.log_weights.double().masked_fill(failed, -math.inf).view(-1, items)
    lost = ~(logs > -math.inf).any(0)
    weights = normalised(logs.masked_fill(lost, 0.0))
    uniform = torch.special.ndtr(draws.normal((1,), torch.float64, step=_RESAMPLING)[:, 0]).to(weights.device)
    parent = in_place(systematic(weights, uniform))
    rows = (parent * items + torch.arange(items, device=parent.device)).flatten()
    ess = effective(weights).masked_fill(lost, 0.0).repeat(len(logs))
    info = output.info.mapped(lambda v: v[rows.to(v.device)])
    known = {} if info.ess is not None else {"ess": ess}
    whole = replace(
        output,
        samples=output.samples[rows],
        chi2=output.chi2[rows],
        log_weights=None,
        info=Diagnostics.from_mapping(dict(info) | known),
    )
    return whole, failed[rows] | lost.repeat(len(logs))


def pooled(
    samples: Tensor, chi2: Tensor, log_weights: Tensor, info: Diagnostics, num_samples: int, of: Reported
) -> tuple[Tensor, Diagnostics, Moments]:
    """Independent weighted runs as one: the rows to take as equally weighted samples, and info and moments of all.

    Errors and moments are ``of`` what is reported. ``info`` ``(items, islands)`` each, the evidence among them; rows
    are particle k of item b on island i, number ``(k * items + b) * islands + i``. Rows that failed have no weight.
    """
    assert info.log_evidence is not None and info.log_evidence_se is not None  # strategies run on islands state it
    items, islands = info.log_evidence.shape
    count = len(samples) // (items * islands)
    dead = ~torch.isfinite(to_real(samples)).all(1) | log_weights.isnan() | (log_weights == math.inf)
    logs = log_weights.double().masked_fill(dead, -math.inf).view(count, items, islands)
    own = torch.softmax(logs, 0).nan_to_num(0.0)
    evidence = info.log_evidence.double().nan_to_num(nan=-math.inf)
    share = torch.softmax(evidence, 1).nan_to_num(1 / islands)
    real = torch.where(dead[:, None], 0.0, of.values(samples))
    values = torch.cat((real, real.square().sum(1, keepdim=True), chi2.double().nan_to_num(0.0)[:, None]), 1)
    values = values.view(count, items, islands, -1)
    each = (own[..., None] * values).sum(0)
    square = (own[..., None] * values.square()).sum(0)
    weights = (own * share).permute(1, 2, 0).flatten(1)  # (items, islands * count)
    place = systematic(weights.mT, 0.5, num_samples).mT  # (items, num_samples)
    island, particle = place // count, place % count
    item = torch.arange(items, device=place.device)[:, None]
    rows = ((particle * items + item) * islands + island).mT.flatten()
    found = {**info.over_islands(), **between_islands(each, square, evidence), "ess": effective(weights.mT)}
    # Where an island does not know its own evidence, others that agree with it do not either.
    sure = torch.isfinite(info.log_evidence_se).all(1)
    found["log_evidence_se"] = torch.where(sure, found["island_error"], math.inf)
    mean = (share[..., None] * each[..., :-2]).sum(1)
    around = square[..., :-2] - 2 * mean[:, None] * each[..., :-2] + mean[:, None].square()
    variance = (share[..., None] * around).sum(1).clamp_min(0)
    moments = of.moments(mean, variance / (1 - 1 / found["ess"][:, None].clamp_min(2)))
    return rows, Diagnostics.from_mapping(found).mapped(lambda v: v.repeat(num_samples)), moments
