"""Tests that solve again, within a time: what each will cost is told before, and what there is no time for is named."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from invsolve.core.stopping import OutOfTime, ask, ended_by
from invsolve.diagnostics.report import Measured
from invsolve.progress import duration
from invsolve.results.result import Result
from invsolve.strategies.base import Strategy
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC

USUAL = 60.0  # seconds, where nobody says
_ROUGH = 4.0  # a forecast before anything was solved again may be so many times too long
_SETTLE = 3  # rounds before the recorded ones


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Cost:
    """Seconds of solving again with a ``lighter`` strategy than a result's, by what the result took."""

    result: Result
    lighter: Strategy

    def of(self, items: int, number: int) -> float:
        """Of ``number`` samples each of so many items."""
        result, lighter = self.result, self.lighter
        before = result.strategy_object
        rows, batch = result.failed.numel(), result.failed[0].numel()
        if isinstance(lighter, NoiseMCMC) and isinstance(before, NoiseMCMC):
            # As many moves as chains take to be led to the data, and fewer recorded rounds, each of few moves.
            told = {name: float(result.info[name].nan_to_num(nan=0.0).max()) for name in ("moves", "rises")}
            moves, events = max(1.0, told["moves"]), told["rises"] + _SETTLE + lighter.rounds
            less = min(1.0, events * lighter.patience / moves) * lighter.chains / before.chains
            return self._last() * less * items / batch
        if lighter.couples != "nothing":  # the rows of an ensemble are those that ran together
            rows = max(1, int(result.settings.get("chunk") or rows))
        return self._last() * number * items / rows

    def _last(self) -> float:
        """Of the solve that the result is of, without what else was tried and looked for."""
        certificate = self.result.certificate
        tries = () if certificate is None else certificate.attempts
        mine = [a.seconds for a in tries if a.strategy.startswith(self.lighter.name)]
        return min([self.result.seconds, *mine[-1:]])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A test to be run: its name, the samples it draws, the seconds it is expected to take."""

    name: str
    samples: int
    seconds: float
    run: Callable[[], list[Measured]]


@final
@dataclass(kw_only=True, eq=False)
class Schedule:
    """Tests in a time ``limit``, the cheapest first; what was found stands in their own order."""

    tasks: Sequence[Task]
    limit: float = math.inf
    clock: Callable[[], float] = time.perf_counter

    @property
    def seconds(self) -> float:
        """Of those that are begun, by what is known before."""
        return sum(t.seconds for t in self._begun())

    @property
    def samples(self) -> int:
        """That those draw."""
        return sum(t.samples for t in self._begun())

    def run(self) -> tuple[list[Measured], str]:
        """What was measured, and a note on what was left out; '' if nothing was."""
        began, rate, measured = self.clock(), 1.0, False
        found: dict[str, list[Measured]] = {}
        late: dict[str, float] = {}
        for task in sorted(self.tasks, key=lambda t: t.seconds):
            started = self.clock()
            left = self.limit - (started - began)
            if task.seconds * rate > left * (1.0 if measured else _ROUGH):
                late[task.name] = task.seconds * rate
                continue
            try:
                with ended_by(lambda: self.clock() - began > self.limit):
                    ask()
                    found[task.name] = task.run()
            except OutOfTime:
                late[task.name] = max(task.seconds * rate, 2 * (self.clock() - started))
                continue
            if task.seconds > 0 and task.samples:  # the others solve nothing
                rate, measured = (self.clock() - started) / task.seconds, True
        rows = [m for task in self.tasks for m in found.get(task.name, [])]
        if not late:
            return rows, ""
        named = ", ".join(f"{name} (about {duration(seconds)})" for name, seconds in late.items())
        enough = 1.2 * (self.clock() - began + sum(late.values()))
        whole = max(1, math.ceil(enough / 10)) * 10
        return rows, f"left out, for {duration(self.limit)}: {named}; check(budget={whole}) would run all, in seconds"

    def _begun(self) -> list[Task]:
        chosen, total = list[Task](), 0.0
        for task in sorted(self.tasks, key=lambda t: t.seconds):
            total += task.seconds
            if total <= self.limit * (1.0 if chosen else _ROUGH):
                chosen.append(task)
        return chosen
