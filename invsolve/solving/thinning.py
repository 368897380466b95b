"""Whether chains are too many to be led to the data within a budget: what they have done so far tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from invsolve.solving.spending import Amount, Spending

_STEPS = 8  # between looks, so that what a step costs is known
_TOLD = 0.02  # of the work, before which nothing is known of the rest
_USED = 0.8  # of what is left: forecasts are rough
_HALF = 0.5  # chains that are kept at least, at a time


@final
@dataclass(kw_only=True, eq=False)
class Thinning:
    """The share of the chains to go on with, asked after every step of a run.

    Chains that a budget ends on their way know the data in part, whatever their number; fewer of them are there in
    time. ``ending``: what follows the last step.
    """

    spending: Spending
    ending: Amount = field(default_factory=Amount)
    since: Amount | None = None  # the last look
    steps: int = 0  # by then

    @property
    def memory(self) -> list[float]:
        """What a checkpoint keeps of the last look: seconds since then, evaluations and steps by then."""
        if self.since is None:
            return []
        return [self.spending.elapsed - self.since.seconds, self.since.evaluations, self.steps]

    def recall(self, memory: Sequence[float]) -> None:
        """Go on from the ``memory`` of an earlier process."""
        if len(memory) == 3:
            self.since = Amount(seconds=self.spending.elapsed - memory[0], evaluations=memory[1])
            self.steps = int(memory[2])

    def share(self, calls: int, steps: int, done: float, earlier: float = 0.0) -> float:
        """With so many ``calls`` and ``steps``, the share ``done`` of the work, about.

        ``earlier``: seconds of processes before.
        """
        now = Amount(seconds=self.spending.elapsed, evaluations=calls)
        if self.since is None:
            self.since, self.steps = now, steps
            return 1.0
        if (taken := steps - self.steps) < _STEPS or done < _TOLD:
            return 1.0
        rest = steps * (1 - done) / done / taken
        spent = Amount(seconds=now.seconds - self.since.seconds, evaluations=now.evaluations - self.since.evaluations)
        self.since, self.steps = now, steps
        left = self.spending.left(self.spending.kept_back)
        have = Amount(seconds=left.seconds - earlier, evaluations=left.evaluations - calls)
        fits = (spent * rest + self.ending).into(have)
        return 1.0 if fits >= 1 else max(_HALF, _USED * fits)
