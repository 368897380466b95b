"""What one strategy found, on its way from the loop to a `Result`: the one carrier between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from invsolve.gaussian.marginals import Moments
from invsolve.strategies.diagnostics import Diagnostics

MEMBERS = 512  # of an ensemble, that are looked at


def none(count: int) -> Tensor | None:
    """Of an ensemble that is not kept, or none."""
    return None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StrategyOutput:
    """Rows are sample k of item b, number ``k * batch + b``."""

    samples: Tensor  # (rows, *shape)
    chi2: Tensor  # (rows,)
    log_weights: Tensor | None = None  # (rows,); None: equal weights
    info: Diagnostics = field(default_factory=Diagnostics)  # (rows,) each
    calls: Counter[str] = field(default_factory=Counter)  # of denoiser and operator by kind, in rows
    processed: int  # rows that the calls are divided by
    seconds: float
    chunk: int  # rows that were run at once
    warnings: tuple[str, ...] = ()
    stopped: bool = False  # before its last step
    share: float = 1.0  # of its work that was done, about
    strategy: Any = None  # that it ended with, where that has a smaller ensemble than the one that was begun
    moments: Moments | None = None  # (items, ...) of the ensemble behind the samples; NaN: of some items there is none
    bound: Any = None  # what the strategy prepared for all items, where that was once
    ensemble: Callable[[int], Tensor | None] = none  # so many of every item, (items, number, *shape), where there are

    @property
    def evaluations(self) -> int:
        """Calls of every kind together."""
        return sum(self.calls.values())
