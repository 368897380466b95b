"""What a clock decided, in order: kept in checkpoints, so that a run that goes on finds the same sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

from invsolve.core.checkpoint import Checkpoint, load_state
from invsolve.solving.spending import Amount


@final
@dataclass(kw_only=True, eq=False)
class Decisions:
    """The amounts that sizes were decided by: those ``known`` from an earlier process are taken first, in order."""

    known: list[Any] = field(default_factory=list)  # what JSON can hold
    asked: int = 0

    @classmethod
    def of(cls, saved: Checkpoint | None) -> Self:
        """Those of the last checkpoint of a run: every file has all that were made before it was written."""
        found = cls()
        if saved is None:
            return found
        path, number = Path(saved.path), 0
        while path.exists():
            found.known = list(load_state(path, meta_only=True)[1].get("decisions", []))
            number += 1
            path = Path(f"{saved.path}.{number}")
        return found

    def amount(self, compute: Callable[[], Amount]) -> Amount:
        """What is known, else what is computed now."""
        seconds, evaluations = self._next(lambda: [(now := compute()).seconds, now.evaluations])
        return Amount(seconds=seconds, evaluations=evaluations)

    def truth(self, compute: Callable[[], bool]) -> bool:
        """The same of a question."""
        return bool(self._next(compute))

    def _next(self, compute: Callable[[], Any]) -> Any:
        if self.asked == len(self.known):
            self.known.append(compute())
        self.asked += 1
        return self.known[self.asked - 1]
