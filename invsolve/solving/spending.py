"""What ``strategy="auto"`` may spend, and what is left of it."""

from __future__ import annotations

import math
import time
from dataclasses import KW_ONLY, dataclass, field
from typing import final

from invsolve.core.validation import check_int, check_positive
from invsolve.progress import duration

_USUAL = 60.0  # seconds
QUADRATURE = 0.7  # of a budget, after which it is ended


@final
@dataclass(frozen=True)
class Budget:
    """What ``strategy="auto"`` may spend.

    Ensembles are made as small as it takes to end within it, which a trial of operator and denoiser tells. Markov
    chains that still run out of it stop where they are, and are not certified; chains that had hardly met the data by
    then give way to guidance, for which time is kept back.

    Parameters
    ----------
    seconds : float, optional
        Wall-clock time, > 0; 60 unless given. Without it, and with ``evaluations``, no clock is looked at: the answer
        does not depend on the speed of the machine.
    evaluations : int, optional
        Of denoiser and operator together, derivatives included, in rows.

    Raises
    ------
    InputError, InputTypeError
        If one is not positive, or no number.
    """

    seconds: float | None = None
    _: KW_ONLY
    evaluations: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None:
            check_positive("Budget", "seconds", self.seconds)
        if self.evaluations is not None:
            check_int("Budget", "evaluations", self.evaluations, minimum=1)

    @property
    def limit(self) -> float:
        """Seconds, infinite where only evaluations count."""
        if self.seconds is None:
            return _USUAL if self.evaluations is None else math.inf
        return self.seconds

    def described(self, amount: Amount) -> str:
        """An amount in the budget's own unit."""
        if math.isinf(self.limit):
            return f"about {amount.evaluations:,.0f} evaluations"
        return f"about {duration(amount.seconds)}"


@final
@dataclass(kw_only=True)
class Spending:
    """A budget and what went of it. ``kept_back``: the share that is left to guidance while chains are lost."""

    budget: Budget
    started: float = field(default_factory=lambda: time.perf_counter())
    evaluations: int = 0
    kept_back: float = 0.0
    earlier: float = 0.0  # seconds of earlier processes, of which a checkpoint knows

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started + self.earlier

    @property
    def seconds_left(self) -> float:
        """May be negative."""
        return self.budget.limit - self.elapsed

    @property
    def evaluations_left(self) -> float:
        """Infinite where they are not limited."""
        return math.inf if self.budget.evaluations is None else self.budget.evaluations - self.evaluations

    def left(self, kept_back: float = 0.0) -> Amount:
        """What may still be spent, but for a share of the whole."""
        limit, count = self.budget.limit, self.budget.evaluations
        return Amount(
            seconds=self.seconds_left - (kept_back * limit if math.isfinite(limit) else 0.0),
            evaluations=self.evaluations_left - (0.0 if count is None else kept_back * count),
        )

    def used(self, calls: int, share: float) -> bool:
        """Whether more than this share of the whole is gone with so many calls."""
        whole = Amount(seconds=self.budget.limit, evaluations=self.budget.evaluations or math.inf)
        return self.over(calls, lost=False, ahead=whole * (1 - share))

    def over(self, calls: int, *, lost: bool, ahead: Amount | None = None) -> bool:
        """Whether a strategy that has made so many calls leaves the budget with what is ``ahead``.

        ``lost``: it needs guidance by then.
        """
        left, ahead = self.left(self.kept_back if lost else 0.0), ahead or Amount()
        return left.seconds < ahead.seconds or calls + ahead.evaluations > left.evaluations

    def refusal(self, amount: Amount, who: str, left: Amount | None = None) -> str:
        """Why what is expected to take ``amount`` is not begun; '' if it is. ``left``: now, unless given."""
        left = left or self.left()
        if amount.seconds > left.seconds or left.seconds <= 0:
            expected = f"about {duration(amount.seconds)}" if amount.seconds else "an unknown time"
            have = duration(max(0.0, left.seconds))
            return f"{who} would take {expected}, {have} are left of budget={self.budget.limit:g}"
        if left.evaluations <= amount.evaluations:
            wanted = f"about {amount.evaluations:,.0f} evaluations"
            return f"{who} would take {wanted}, {max(0.0, left.evaluations):,.0f} are left"
        return ""


@final
@dataclass(frozen=True, kw_only=True)
class Amount:
    """Seconds and evaluations."""

    seconds: float = 0.0
    evaluations: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(seconds=self.seconds + other.seconds, evaluations=self.evaluations + other.evaluations)

    def __mul__(self, times: float) -> Amount:
        return Amount(seconds=self.seconds * times, evaluations=self.evaluations * times)

    @property
    def without_calls(self) -> Amount:
        """Its seconds alone."""
        return Amount(seconds=self.seconds)

    def into(self, whole: Amount) -> float:
        """How often this fits into ``whole``; infinite where it costs nothing."""
        pairs = (whole.seconds, self.seconds), (whole.evaluations, self.evaluations)
        return min((max(0.0, have) / need if need > 0 else math.inf) for have, need in pairs)
