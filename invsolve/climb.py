"""From a checked call to samples: one strategy, or one after another until the certificate is reached."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import prod
from typing import Any, final

import torch
from torch import Tensor

from invsolve.arrays import to_real
from invsolve.certificate import MEAN_TEST, STD_TEST, Attempt, Certificate, judged
from invsolve.checkpoint import Checkpoint
from invsolve.checks import check_int, check_positive
from invsolve.draws import DrawLike
from invsolve.errors import invalid
from invsolve.fingerprint import fingerprint
from invsolve.loop import DrawFactory, Work
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import Progress
from invsolve.strategies.auto import Rung
from invsolve.strategies.base import Strategy
from invsolve.strategies.convergence import between_islands
from invsolve.strategies.exact import Exact

TILE = 8  # rows of a chunk with reproducible=True: constant, so that kernels add in one order whatever the batch is
# Numbers of a signal batch in one chunk by default: what fits a CPU's cache (8-coil MRI at 192^2: three times faster
# than all rows at once), and enough to fill an accelerator.
_CHUNK_NUMBERS = {"cpu": 2**18}
_CHUNK_NUMBERS_ELSEWHERE = 2**24


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What ``strategy="auto"`` may spend: ``seconds``, and ``evaluations`` of denoiser and operator together, in rows.

    A strategy that was begun is finished; another one is begun only if it is expected to end within the budget.
    """

    seconds: float = 60.0
    evaluations: int | None = None

    def __post_init__(self) -> None:
        check_positive("Budget", "seconds", self.seconds)
        if self.evaluations is not None:
            check_int("Budget", "evaluations", self.evaluations, minimum=1)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What one strategy found; rows are sample k of item b, number ``k * batch + b``."""

    samples: Tensor  # (rows, *shape)
    chi2: Tensor  # (rows,)
    log_weights: Tensor | None
    info: dict[str, Tensor]  # (rows,) each
    calls: Counter[str]
    processed: int  # rows that the calls are divided by
    seconds: float
    chunk: int
    warnings: tuple[str, ...]

    @property
    def evaluations(self) -> int:
        return sum(self.calls.values())


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
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

    def on(self, items: Tensor) -> Call:
        """The same call for some of its items; their draws stay theirs."""
        index = items.tolist()
        if len(index) == len(self.problem.data):
            return self
        own = self.draws
        return replace(
            self, problem=self.problem.take(items.to(self.problem.data.device)), keys=[self.keys[b] for b in index],
            draws=lambda chosen, samples: own([index[b] for b in chosen], samples),
        )

    def run(self, rung: Rung, number: int = 0) -> Found:
        """Run one strategy; ``number`` tells the checkpoints of a ladder apart."""
        if rung.islands == 1:
            done, seconds = self._work(rung, self.problem, self.num_samples, self.draws, number)
            columns = {name: done.column(name) for name in ("samples", "chi2", "log_weights")}
            samples, chi2 = columns["samples"], columns["chi2"]
            assert samples is not None and chi2 is not None
            return Found(
                samples=samples, chi2=chi2, log_weights=columns["log_weights"], info=done.info, calls=done.calls,
                processed=done.processed, seconds=seconds, chunk=done.chunk, warnings=done.warnings,
            )
        # Item b on island i is item b * islands + i of a larger batch, whose sample k has the stream of sample
        # k * islands + i of item b.
        islands, batch = rung.islands, len(self.problem.data)
        index = torch.arange(batch, device=self.problem.data.device).repeat_interleave(islands)

        def draws(items: Sequence[int], samples: Sequence[int]) -> DrawLike:
            numbers = [k * islands + r % islands for r, k in zip(items, samples, strict=True)]
            return self.draws([r // islands for r in items], numbers)

        done, seconds = self._work(rung, self.problem.take(index), rung.particles, draws, number)
        samples, chi2, logs = (done.column(name) for name in ("samples", "chi2", "log_weights"))
        assert samples is not None and chi2 is not None and logs is not None
        info = {k: v.view(rung.particles, batch, islands)[0] for k, v in done.info.items()}
        chosen, info = pooled(samples, chi2, logs, info, self.num_samples)
        return Found(
            samples=samples[chosen], chi2=chi2[chosen], log_weights=None, info=info, calls=done.calls,
            processed=self.num_samples * batch, seconds=seconds, chunk=done.chunk, warnings=done.warnings,
        )

    def _work(self, rung: Rung, problem: Problem, samples: int, draws: DrawFactory, number: int) -> tuple[Any, float]:
        strategy, rows = rung.strategy, samples * len(problem.data)
        chunk = self._chunk_rows(rung, rows)
        saved = self.saved
        if saved is not None and number:
            saved = replace(saved, path=f"{saved.path}.{number}")
        work = Work(
            problem=problem, prior=self.prior, strategy=strategy, draws=draws, rows=rows, chunk=chunk,
            pad=self.reproducible, saved=saved, identity=self._identity(rung, chunk), progress=self.progress,
        )
        started = time.perf_counter()
        done = work.run()
        return done, time.perf_counter() - started + done.seconds

    def _identity(self, rung: Rung, chunk: int) -> dict[str, str]:
        if self.saved is None:
            return {}
        return {
            "y": fingerprint(self.problem.data),
            "operator": self.problem.operator.fingerprint(),
            "noise": fingerprint(self.problem.noise),
            "prior": self.prior.fingerprint(),
            "strategy": rung.strategy.fingerprint(),
            "seed": str(self.seed),
            "dtype": str(self.problem.data.dtype),
            "num_samples": str(self.num_samples),
            "item_ids": fingerprint(list(self.keys)),
            "chunk": f"{chunk}{', tiles' if self.reproducible else ''}",
        }

    def _chunk_rows(self, rung: Rung, rows: int) -> int:
        strategy, chunk = rung.strategy, self.chunk
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


def climb(call: Call, rungs: Sequence[Rung], budget: Budget) -> tuple[Found, Rung, Certificate]:
    """Run the strategies in order, each on the items that are not certified yet, until none is left or the next would
    leave the budget. Of every item the best is kept; the rung is the last one that an item was taken from."""
    batch, started = len(call.problem.data), time.perf_counter()
    items = torch.arange(batch)
    attempts: list[Attempt] = []
    spent, missing = 0, ""
    best: _Best | None = None
    first: dict[str, tuple[float, int, float]] = {}  # seconds, evaluations and relative cost of a kind's first rung
    for number, rung in enumerate(rungs):
        share = len(items) / batch
        if best and (over := _over(rung, first, budget, time.perf_counter() - started, spent, share)):
            missing = f"{missing}; {over}"
            break
        # Rows that see each other run together, whatever the caller's chunk is for others.
        here = call if rung.strategy.couples == "nothing" else replace(call, chunk=None)
        found = here.on(items).run(rung, number)
        spent += found.evaluations
        first.setdefault(rung.strategy.name, (found.seconds / share, round(found.evaluations / share), rung.cost))
        passed, tests, wrong = _judged(rung, found, len(items))
        attempts.append(
            Attempt(
                strategy=short(rung.strategy), items=len(items), reached=int(passed.sum()), seconds=found.seconds,
                evaluations=found.evaluations, text=wrong or ("every test passed" if rung.tested else ""),
            )
        )
        best = _Best.of(found, rung, passed, tests) if best is None else best.updated(
            found, rung, passed, tests, items
        )
        items, missing = (~best.passed).nonzero()[:, 0], wrong
        if not len(items):
            break
    assert best is not None
    return best.found, best.rung, best.certificate(call.problem.batched, tuple(attempts), missing)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Best:
    """The best so far of every item."""

    found: Found
    rung: Rung
    passed: Tensor  # (items,), as all below
    tests: dict[str, Tensor]
    exact: bool

    @classmethod
    def of(cls, found: Found, rung: Rung, passed: Tensor, tests: dict[str, Tensor]) -> _Best:
        return cls(found=found, rung=rung, passed=passed, tests=tests, exact=isinstance(rung.strategy, Exact))

    def updated(self, found: Found, rung: Rung, passed: Tensor, tests: dict[str, Tensor], items: Tensor) -> _Best:
        batch, old = len(self.passed), self.found
        error = tests[_ERROR].nan_to_num(nan=math.inf)
        better = passed | (error < self.tests[_ERROR][items].nan_to_num(nan=math.inf))
        chosen = items[better]

        def merged(a: Tensor, b: Tensor) -> Tensor:
            a = a.clone()
            b = b.view(-1, len(items), *b.shape[1:])[:, better.to(b.device)]
            a.view(-1, batch, *a.shape[1:])[:, chosen.to(a.device)] = b.to(a.dtype)
            return a

        def per_item(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
            out = {}
            for name in (a | b):
                whole = a[name].clone() if name in a else torch.full((batch,), math.nan, dtype=torch.float64)
                whole[chosen] = b[name][better] if name in b else math.nan
                out[name] = whole
            return out

        rows, own = len(old.chi2), len(found.chi2)
        nothing = torch.full((rows,), math.nan, dtype=torch.float64, device=old.chi2.device)
        info = {
            name: merged(old.info.get(name, nothing), found.info.get(name, nothing[:own]))
            for name in (old.info | found.info)
        }
        whole = replace(
            old, samples=merged(old.samples, found.samples), chi2=merged(old.chi2, found.chi2), info=info,
            calls=old.calls + found.calls, seconds=old.seconds + found.seconds, chunk=found.chunk,
            warnings=(*old.warnings, *found.warnings), processed=rows,
        )
        mark = self.passed.clone()
        mark[chosen] = passed[better]
        last = rung if len(chosen) else self.rung
        return replace(self, found=whole, rung=last, passed=mark, tests=per_item(self.tests, tests))

    def certificate(self, batched: bool, attempts: tuple[Attempt, ...], missing: str) -> Certificate:
        nan = torch.full(self.passed.shape, math.nan, dtype=torch.float64)

        def per_item(v: Tensor) -> Tensor:
            return v if batched else v[0]

        def bound(name: str) -> Tensor:
            return per_item(torch.zeros_like(nan) if self.exact else self.tests.get(name, nan))

        reached = bool(self.passed.all())
        return Certificate(
            reached=reached, passed=per_item(self.passed), exact=self.exact, mean_error=bound(MEAN_TEST),
            std_error=bound(STD_TEST), attempts=attempts, missing="" if reached else missing,
            tests={k: float(v[~v.isnan()].max()) for k, v in self.tests.items() if k != _ERROR and not v.isnan().all()},
        )


_ERROR = "error"  # what the best is chosen by


def _judged(rung: Rung, found: Found, batch: int) -> tuple[Tensor, dict[str, Tensor], str]:
    if isinstance(rung.strategy, Exact):
        return torch.ones(batch, dtype=torch.bool), {}, ""
    if not rung.tested:
        return torch.zeros(batch, dtype=torch.bool), {}, f"{rung.strategy.name} is an approximation that was not tested"
    info = {k: v.view(-1, batch)[0].double().cpu() for k, v in found.info.items()}
    passed, tests, wrong = judged(info)
    return passed, tests | {_ERROR: info["mean_error"] + info["std_error"]}, wrong


def _over(
    rung: Rung, first: dict[str, tuple[float, int, float]], budget: Budget, elapsed: float, spent: int, share: float
) -> str:
    """Why this strategy is not begun any more; '' if it is."""
    seconds, evaluations = 0.0, 0
    if rung.strategy.name in first:
        took, count, cost = first[rung.strategy.name]
        more = share * rung.cost / cost
        seconds, evaluations = took * more, round(count * more)
    left = budget.seconds - elapsed
    if seconds > left or left <= 0:
        expected = f"about {seconds:.0f} s" if seconds else "an unknown time"
        return f"{short(rung.strategy)} would take {expected}, {max(0.0, left):.0f} s are left of budget={budget.seconds:g}"
    if budget.evaluations is not None and spent + evaluations >= budget.evaluations:
        left_over = f"{budget.evaluations - spent:,} are left"
        return f"{short(rung.strategy)} would take about {evaluations:,} evaluations, {left_over}"
    return ""


def short(strategy: Strategy) -> str:
    """A strategy by its name and the options that are not the default."""
    if not is_dataclass(strategy) or strategy.name != type(strategy).__name__:
        return f"{strategy.name}()"
    options = ((f.name, getattr(strategy, f.name), f.default) for f in fields(strategy) if f.init)
    given = [f"{name}={value!r}" for name, value, default in options if value is not default and value != default]
    return f"{strategy.name}({', '.join(given)})"


def pooled(
    samples: Tensor, chi2: Tensor, log_weights: Tensor, info: dict[str, Tensor], num_samples: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Independent weighted runs as one: the rows to take as equally weighted samples, and the info of the whole.

    ``info`` ``(items, islands)`` each, ``log_evidence`` among them; rows are particle k of item b on island i, number
    ``(k * items + b) * islands + i``. Rows that failed have no weight.
    """
    items, islands = info["log_evidence"].shape
    count = len(samples) // (items * islands)
    dead = ~torch.isfinite(to_real(samples)).all(1) | log_weights.isnan() | (log_weights == math.inf)
    logs = log_weights.double().masked_fill(dead, -math.inf).view(count, items, islands)
    own = torch.softmax(logs, 0).nan_to_num(0.0)
    evidence = info["log_evidence"].double().nan_to_num(nan=-math.inf)
    share = torch.softmax(evidence, 1).nan_to_num(1 / islands)
    real = torch.where(dead[:, None], 0.0, to_real(samples).double())
    values = torch.cat((real, real.square().sum(1, keepdim=True), chi2.double().nan_to_num(0.0)[:, None]), 1)
    values = values.view(count, items, islands, -1)
    each = (own[..., None] * values).sum(0)
    square = (own[..., None] * values.square()).sum(0)
    weights = (own * share).permute(1, 2, 0).flatten(1)  # (items, islands * count)
    comb = (torch.arange(num_samples, dtype=torch.float64, device=weights.device) + 0.5) / num_samples
    edges = weights.cumsum(1).contiguous()
    place = torch.searchsorted(edges, comb * edges[:, -1:]).clamp_max(weights.shape[1] - 1)  # (items, num_samples)
    island, particle = place // count, place % count
    item = torch.arange(items, device=place.device)[:, None]
    rows = ((particle * items + item) * islands + island).mT.flatten()
    found = between_islands(each, square, evidence)
    found |= {"ess": 1 / weights.square().sum(1)}
    found |= {k: v.double().amin(1) for k, v in info.items() if k == "founders"}
    return rows, {k: v.repeat(num_samples) for k, v in found.items()}
