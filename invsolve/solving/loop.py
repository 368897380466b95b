"""The one loop that runs every strategy: chunks of rows, steps, progress, checkpoints, back-off without memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invsolve.core.checkpoint import Checkpoint, check_fingerprint, fill_state, flatten_state, load_state, save_state
from invsolve.core.counting import tally
from invsolve.core.files import write_or_warn
from invsolve.core.ownership import version
from invsolve.core.random import DrawLike
from invsolve.core.stopping import ask
from invsolve.core.torch_workarounds import keep_memory
from invsolve.errors import invalid, invalid_type, on_interrupt
from invsolve.gaussian.marginals import Moments
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import Progress, duration
from invsolve.results.strategy_output import MEMBERS, StrategyOutput
from invsolve.solving.finished_rows import FinishedRows
from invsolve.solving.rows import RowGroup, in_order, tiled
from invsolve.solving.spending import Amount
from invsolve.solving.thinning import Thinning
from invsolve.strategies.base import Run, Strategy, itself
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.mcmc.bridge import LARGEST

_PER_CENT = 100
_LOOK_EVERY = 10  # steps between looks for NaN; a look at every step costs a third of a tight loop

Over = Callable[[int, Callable[[], float], Amount], bool]


def never(calls: int, power: Callable[[], float], ahead: Amount) -> bool:
    """What is begun is finished."""
    return False


def unless_ended(calls: int, power: Callable[[], float], ahead: Amount) -> bool:
    """What is begun is finished, or given up where whoever began it ends it (`core.stopping`)."""
    ask()
    return False


_Resume = tuple[int, dict[str, Tensor], Counter[str]]  # step, tensors of the state, calls so far of the chunk
# (item of every row, sample of every row) -> draws
DrawFactory = Callable[[Sequence[int], Sequence[int]], DrawLike]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChunkedRun:
    """One strategy on all rows of a problem, ``chunk`` at a time."""

    problem: Problem
    prior: Prior
    strategy: Strategy
    draws: DrawFactory
    samples: int
    chunk: int
    keys: Sequence[int] | None  # of the items, for tiles of rows (`rows.tiled`); None: rows as they are numbered
    saved: Checkpoint | None
    identity: dict[str, str]
    progress: Progress
    # Told the calls so far and what comes before the next question, and asked with the power of the likelihood, after
    # every step: True ends the work, where the strategy has an answer by then.
    over: Over = never
    reported: Callable[[Tensor], Tensor] = itself  # see `strategies.base.Run`
    thinning: Thinning | None = None  # of an ensemble that would not be there in time
    decisions: Sequence[Any] = ()  # what sizes were decided by, to be kept in the checkpoint

    def run(self) -> StrategyOutput:
        """All rows, from the checkpoint on if there is one."""
        started = time.perf_counter()
        keep_memory()
        chunk, position = self.chunk, 0
        resume: _Resume | None = None
        done = FinishedRows(chunk=chunk)
        if self.saved is not None and Path(self.saved.path).exists():
            done, position, resume = self._load()
            chunk = done.chunk
        self.progress.init(self._places * self._unit)
        with torch.no_grad(), on_interrupt(lambda: self._interrupted(done)):  # what needs a derivative enables it
            self._run(done, chunk, position, resume)
        order = [row for group in self.groups for row in group.rows if row is not None]
        return done.output(order, time.perf_counter() - started)

    @cached_property
    def groups(self) -> tuple[RowGroup, ...]:
        """The rows in the order in which they run."""
        batch = len(self.problem.data)
        return in_order(batch, self.samples) if self.keys is None else tiled(self.keys, self.samples)

    @property
    def _unit(self) -> int:
        """Of a row on the meter: its steps or, where these are a limit, per cent of the work."""
        return _PER_CENT if type(self.strategy).share is not Strategy.share else self.strategy.num_steps

    @cached_property
    def _places(self) -> int:
        """Rows to run, repeats included."""
        return sum(len(group.rows) for group in self.groups)

    def _of_items(self, items: Sequence[int]) -> Problem:
        if self.keys is None:
            return self.problem
        return self.problem.take(torch.tensor(items, device=self.problem.data.device))

    def _run(self, done: FinishedRows, chunk: int, position: int, resume: _Resume | None) -> None:
        started, first = time.perf_counter(), 0
        try:
            for group in self.groups:
                last = first + len(group.rows)
                if position < last:
                    of_items = self._of_items(group.items)
                    given = version(of_items.data)
                    with tally() as calls:
                        bound = self.strategy.bind(of_items, self.prior)
                    done.bound = bound if len(self.groups) == 1 and self.keys is None else None
                    done.calls += calls if resume is None and position == first else Counter()
                    self._unchanged("bind", of_items.data, given)
                while position < last:
                    try:
                        count = min(chunk, last - position)
                        rows = group.rows[position - first : position - first + count]
                        self._chunk(done, position, rows, group, bound, resume)
                    except (RuntimeError, MemoryError) as error:
                        if not out_of_memory(error) or chunk == 1 or self.keys is not None:
                            raise
                        chunk, resume = max(1, chunk // 2), None
                        done.chunk = chunk
                        done.warnings = (*done.warnings, f"memory ran out: rows are now run {chunk} at a time")
                        continue
                    position, resume = position + count, None
                    if self.saved is not None and self._due(done) and position < self._places:
                        self._save(done, position, None, 0, Counter(), time.perf_counter() - started)
                first = last
            if self.saved is not None:
                self._save(done, self._places, None, 0, Counter(), time.perf_counter() - started)
        finally:
            self.progress.close()

    def _chunk(
        self,
        done: FinishedRows,
        position: int,
        rows: Sequence[int | None],
        group: RowGroup,
        bound: Any,
        resume: _Resume | None,
    ) -> None:
        started = time.perf_counter()
        strategy, steps, count = done.strategy or self.strategy, self.strategy.num_steps, len(rows)
        batch = len(self.problem.data)
        kept = [place for place, row in enumerate(rows) if row is not None]
        # What stands beside a row must not matter, only how many rows there are and at which place it stands.
        other = next(row for row in rows if row is not None)
        numbers = [other if row is None else row for row in rows]
        items, samples = [r % batch for r in numbers], [r // batch for r in numbers]
        index = torch.tensor([group.items.index(item) for item in items], device=self.problem.data.device)
        run = Run(
            problem=self.problem.take(torch.tensor(items, device=index.device)),
            prior=self.prior,
            draws=self.draws(items, samples),
            bound=None if bound is None else bound.take(index),
            reported=self.reported,
        )
        given = version(run.problem.data)
        with tally() as calls:
            state = strategy.init(run)
            first = 0
            if resume is not None:
                first, tensors, before = resume
                state = fill_state(state, tensors)
                calls.clear()
                calls.update(before)
            info = Diagnostics()
            share = 0.0
            diverged = torch.full((len(numbers),), -1, device=index.device)
            for i in range(first, steps):
                began, called = time.perf_counter(), calls.total()
                told = strategy.step(run, state, i)
                if not (isinstance(told, tuple) and len(told) == 2 and isinstance(told[1], Mapping)):
                    expected = "a state and a mapping of names to tensors (rows,), {} for nothing"
                    raise invalid_type(strategy.name, "step(...)", expected, type(told).__name__)
                state, now = told
                info = Diagnostics.from_mapping(now).after(info)
                done.steps_since += 1
                if i % _LOOK_EVERY == _LOOK_EVERY - 1:
                    # A sum a row sees every NaN and infinity; nothing is read back here.
                    bad = ~torch.isfinite(strategy.samples(run, state).flatten(1).sum(1))
                    diverged = torch.where(bad & (diverged < 0), i, diverged)
                share = max(share, strategy.share(run, state, i))  # chains that go on are not less far than before
                self.progress.step(round((position + share * count) * self._unit), self._places * self._unit)
                if self.saved is not None and i + 1 < steps and self._due(done):
                    self._save(done, position, state, i + 1, calls, time.perf_counter() - started)
                if strategy.finished(run, state):
                    break
                if self.thinning is not None:
                    part = self.thinning.share(done.calls.total() + calls.total(), i + 1, share, done.seconds)
                    if part < 1 and (less := strategy.fewer(run, state, part)) is not None:
                        strategy, state = less
                        done.strategy = strategy
                power, so_far = partial(strategy.power, run, state), calls.total()
                step = Amount(seconds=time.perf_counter() - began, evaluations=so_far - called)
                ahead = step * strategy.ahead + Amount(seconds=done.seconds)  # of which no clock of today knows
                if i + 1 < steps and self.over(done.calls.total() + so_far, power, ahead):
                    answer = strategy.stopped(run, state)
                    if answer is not None:
                        done.share = strategy.share(run, state, i)
                        state, done.stopped = answer[0], True
                        info = Diagnostics.from_mapping({**info, **answer[1]})
                        break
            x = strategy.samples(run, state)
            weights = strategy.log_weights(run, state)
            done.moments = strategy.moments(run, state) if count == self._places else None
        if count == self._places:
            done.ensemble = partial(strategy.ensemble, run, state)
        self._unchanged("step", run.problem.data, given)
        if tuple(x.shape) != (count, *self.problem.shape):
            raise invalid(strategy.name, "samples(state)", f"of shape {(count, *self.problem.shape)}", tuple(x.shape))
        finished = {"samples": x, "chi2": run.problem.chi2(x)}
        if weights is not None:
            finished["log_weights"] = weights
        finished |= {f"info.{k}": v for k, v in {"diverged_at": diverged, **info}.items()}
        if len(kept) < count:
            places = torch.tensor(kept, device=index.device)
            finished = {name: value[places.to(value.device)] for name, value in finished.items()}
        for name, value in finished.items():
            done.rows.setdefault(name, []).append(value)
        done.calls += calls
        done.processed += count

    def _unchanged(self, method: str, data: Tensor, given: int) -> None:
        """Refuse a strategy that wrote into the data: the next step, or chi^2, would use what it left there."""
        if version(data) != given:
            expected = "a function that leaves the tensors of the problem as they are"
            repair = "Write r = data - clean, not r = data; r -= clean."
            raise invalid(self.strategy.name, f"{method}(...)", expected, "data changed in place", repair)

    # --- checkpoints -----------------------------------------------------------------------------------------------
    def _interrupted(self, done: FinishedRows) -> str:
        """What is left of a run that the user ended, and how to go on."""
        if self.saved is None:
            return "solve: interrupted, and nothing was saved. With checkpoint='run.ckpt' the same call would go on."
        path = os.fspath(self.saved.path)
        if not done.kept:
            each = ((self.saved.every_steps, "steps"), (self.saved.every_seconds, "s"))
            often = " or ".join(f"{number:g} {unit}" for number, unit in each if number is not None)
            return f"solve: interrupted, and nothing was saved yet: {path!r} is written every {often}."
        ago = f"{duration(time.monotonic() - done.saved_at)} ago"
        return f"solve: interrupted. {path!r} holds its state of {ago}: the same call goes on from there."

    def _due(self, done: FinishedRows) -> bool:
        assert self.saved is not None
        return self.saved.due(done.steps_since, time.monotonic() - done.saved_at)

    def _save(
        self, done: FinishedRows, position: int, state: Any, step: int, calls: Counter[str], seconds: float
    ) -> None:
        assert self.saved is not None
        tensors = {f"done.{name}": torch.cat(chunks) for name, chunks in done.rows.items()}
        if done.moments is not None and done.moments.std is not None:
            tensors |= {"moments.mean": done.moments.mean, "moments.std": done.moments.std}
        if state is not None:
            tensors |= flatten_state(state, "state")
        searched = prod(self.problem.shape) <= LARGEST  # only these are asked for again
        if position == self._places and searched and (members := done.ensemble(MEMBERS)) is not None:
            tensors["ensemble"] = members
        done.saved_at, done.steps_since = time.monotonic(), 0
        meta = {
            "identity": self.identity,
            "position": position,
            "step": step,
            "mid": state is not None,
            "chunk": done.chunk,
            "calls": dict(done.calls),
            "calls_now": dict(calls),
            "processed": done.processed,
            "seconds": done.seconds + seconds,
            "warnings": list(done.warnings),
            "stopped": done.stopped,
            "decisions": list(self.decisions),
            "fewer": _changed(self.strategy, done.strategy),
            "thinning": [] if self.thinning is None else self.thinning.memory,
        }
        path = self.saved.path
        failed = write_or_warn(partial(save_state, path, tensors, meta), "The solve goes on without this checkpoint.")
        done.kept = failed is None or done.kept
        if failed is not None:
            done.warnings = tuple(dict.fromkeys((*done.warnings, failed.removesuffix("."))))

    def _load(self) -> tuple[FinishedRows, int, _Resume | None]:
        assert self.saved is not None
        tensors, meta = load_state(self.saved.path)
        check_fingerprint(meta.get("identity", {}), self.identity)
        device = self.problem.data.device
        tensors = {k: v.to(device) for k, v in tensors.items()}
        found = FinishedRows(
            rows={k.removeprefix("done."): [v] for k, v in tensors.items() if k.startswith("done.")},
            calls=Counter(meta["calls"]),
            processed=meta["processed"],
            seconds=meta["seconds"],
            chunk=meta["chunk"],
            warnings=tuple(meta["warnings"]),
            stopped=bool(meta.get("stopped", False)),
            kept=True,
            strategy=replace(self.strategy, **less) if (less := meta.get("fewer")) else None,  # type: ignore[type-var]
        )
        if "moments.mean" in tensors:
            found.moments = Moments(mean=tensors["moments.mean"], std=tensors["moments.std"], known="ensemble")
        if "ensemble" in tensors:
            found.ensemble = partial(_first, tensors["ensemble"])
        if self.thinning is not None:
            self.thinning.recall(meta.get("thinning", []))
        if not meta["mid"]:
            return found, meta["position"], None
        state = {k: v for k, v in tensors.items() if k.startswith("state")}
        return found, meta["position"], (meta["step"], state, Counter(meta["calls_now"]))


def _first(members: Tensor, count: int) -> Tensor:
    return members[:, :count]


def _changed(strategy: Strategy, fewer: Strategy | None) -> dict[str, Any]:
    """The options in which a smaller ensemble differs."""
    if fewer is None:
        return {}
    pairs = ((f.name, getattr(fewer, f.name), getattr(strategy, f.name)) for f in fields(fewer) if f.init)  # type: ignore[arg-type]
    return {name: new for name, new, old in pairs if new is not old and new != old}


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
