"""Rows of a run that are there, and what they cost: what the loop collects and a checkpoint holds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from invsolve.gaussian.marginals import Moments
from invsolve.results.strategy_output import StrategyOutput, none
from invsolve.strategies.base import Strategy
from invsolve.strategies.diagnostics import Diagnostics


@dataclass(kw_only=True)
class FinishedRows:
    """What is finished so far: ``rows`` in order, by name, a list of chunks each; and what they cost."""

    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    processed: int = 0  # rows run, padding included: what the calls are divided by
    seconds: float = 0.0  # of earlier processes
    chunk: int = 0
    warnings: tuple[str, ...] = ()
    stopped: bool = False  # before the last step, by `ChunkedRun.over`
    share: float = 1.0  # of the work that was done by then
    strategy: Strategy | None = None  # with a smaller ensemble than was begun with
    moments: Moments | None = None  # of the items, where they are of more than the rows
    bound: Any = None  # what the strategy prepared, where that was once for all items
    saved_at: float = field(default_factory=time.monotonic)  # when a checkpoint was last written
    steps_since: int = 0  # steps of chunks run since then
    kept: bool = False  # in a checkpoint
    ensemble: Callable[[int], Tensor | None] = none  # of rows that ran together

    def output(self, order: Sequence[int], seconds: float) -> StrategyOutput:
        """All of it after so many ``seconds`` in this process; ``order``: the rows as they were run."""
        columns = {name: torch.cat(chunks) for name, chunks in self.rows.items()}
        if any(place != row for place, row in enumerate(order)):
            place = torch.tensor(order, device="cpu").argsort()
            columns = {name: value[place.to(value.device)] for name, value in columns.items()}
        return StrategyOutput(
            samples=columns["samples"],
            chi2=columns["chi2"],
            log_weights=columns.get("log_weights"),
            info=Diagnostics.from_mapping(
                {k.removeprefix("info."): v for k, v in columns.items() if k.startswith("info.")}
            ),
            calls=self.calls,
            processed=self.processed,
            seconds=self.seconds + seconds,
            chunk=self.chunk,
            warnings=self.warnings,
            stopped=self.stopped,
            share=self.share,
            strategy=self.strategy,
            moments=self.moments,
            bound=self.bound,
            ensemble=self.ensemble,
        )
