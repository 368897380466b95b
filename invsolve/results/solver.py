"""What a result asks of whatever made it. `solving.solver.StrategySolver` is the one that `solve` uses."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

from invsolve.core.random import DrawLike
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import Progress
from invsolve.strategies.base import Strategy


class Solver(Protocol):
    """What made a result, and makes others like it: `check` and inferred hyperparameters ask it to solve again."""

    @property
    def strategy(self) -> Strategy:
        """What is run."""

    @property
    def reproducible(self) -> bool:
        """Whether rows are run in constant tiles."""

    def using(self, *, prior: Prior | None = None, strategy: Strategy | None = None) -> Solver:
        """The same with another prior or strategy."""

    def draw(
        self,
        problem: Problem,
        *,
        num_samples: int,
        seed: int,
        keys: Sequence[int] | None = None,
        draws: Callable[[Sequence[int], Sequence[int]], DrawLike] | None = None,
    ) -> Any:
        """A result for another problem of the same kind; failed rows are kept.

        ``keys``: of the items, whose random numbers they name; ``draws`` makes those of (items, samples) otherwise.
        """

    def check(self, result: Any, *, solves: bool | None, budget: float | None, progress: Progress) -> Any:
        """The report of `Result.check`."""


@final
class Source:
    """The result that another one was derived from, as long as it is there: it is not kept alive, nor copied."""

    def __init__(self, result: Any) -> None:
        self._found = None if result is None else weakref.ref(result)

    def __call__(self) -> Any:
        """That result; None if it is gone."""
        return None if self._found is None else self._found()

    def __reduce__(self) -> tuple[type[Source], tuple[None]]:
        return Source, (None,)
