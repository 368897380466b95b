"""What a report is made of, and how the 2 % of false alarms that it may raise are shared among its tests."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.02  # false alarms of one report, over all of its tests and items together
# Shares of the level, by name. Tests by ranks among 255 replicates cannot be below 1/256, and get just that. No report
# holds more of them than add up to LEVEL (Bonferroni), see `tests/diagnostics/test_check.py`.
RANKED = 1 / 256
SHARES = {
    "noise level": 0.001,
    "outliers": 0.0005,
    "structure": 0.001,
    "prior": 0.001,
    "repeated values": 0.0005,
    "evidence": 0.003,
    "operator": 0.004,
    "sensors": 0.0015,
    "innovations": 0.0015,
    "prior predictive": RANKED,
    "held-out sensors": RANKED,
    "split data": RANKED,
    "replicated data": 0.0015,
}
# What a failed test speaks of. Whether samples reproduce the data does not depend on how well the prior describes the
# signal: a rough prior fails the tests of the model as a whole, and only those.
FIT = ("noise level", "outliers", "structure", "repeated values")
SOLVER = ("rows", "finished", "ess", "replicated data")
_WIDTH = 110
_POWER = "; can detect"  # what follows in a text is the test's power: nine times in ten


@final
@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one test found: ``p`` holds a p-value for every item, or one for all of them."""

    name: str
    value: float
    p: NDArray[np.float64]
    text: str


@final
@dataclass(frozen=True, kw_only=True)
class Check:
    """One test: ``value`` is what was measured, ``p_value`` is over all items, and fails below ``limit``."""

    name: str
    passed: bool
    value: float
    p_value: float | None
    text: str
    limit: float | None = None


@final
@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The tests of one result. ``report.passed`` is False if any failed; ``str(report)`` is for people."""

    checks: tuple[Check, ...]
    level: float
    notes: tuple[str, ...] = ()  # what was left out, and why

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def headline(self) -> str:
        """What failed, in a sentence: the fit of the data, the model as a whole (a rough prior, say), or the solver."""
        failed = [c.name for c in self.checks if not c.passed]
        fit, solver = [n for n in failed if n in FIT], [n for n in failed if n in SOLVER]
        model = [n for n in failed if n not in (*FIT, *SOLVER)]
        said = []
        if fit:
            said.append(f"misfit, the samples do not reproduce the data within the noise ({', '.join(fit)})")
        if model:
            which = ", which the samples fit: a rough prior, or an operator a little wrong" if not fit else ""
            said.append(f"the data are improbable under prior, operator and noise together ({', '.join(model)}){which}")
        if solver:
            said.append(f"the samples are not those of the posterior ({', '.join(solver)})")
        return "Conflict: " + "; ".join(said) if said else "No conflict found"

    def __getitem__(self, name: str) -> Check:
        """The test called ``name``; KeyError lists the names."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no test {name!r}; there are {', '.join(c.name for c in self.checks)}")

    def __str__(self) -> str:
        lines = [f"{self.headline} (at most {self.level:.0%} false alarms over all tests)"]
        for c in self.checks:
            p = "" if c.p_value is None else f", p = {c.p_value:.2g}"
            p += "" if c.limit is None else f" (limit {c.limit:.2g})"
            measured, _, notice = c.text.partition(_POWER)
            lines.append(f"  {'ok  ' if c.passed else 'FAIL'}  {c.name}: {measured}{p}")
            lines += [f"        {_POWER.lstrip('; ')}{notice}"] if notice else []
        lines += [f"  note  {note}" for note in self.notes]
        # No line is so long that a notebook, a page or a terminal would cut it.
        return "\n".join(
            textwrap.fill(line, _WIDTH, subsequent_indent=" " * 8, break_long_words=False) for line in lines
        )

    def __repr__(self) -> str:
        return f"CheckReport({sum(c.passed for c in self.checks)} of {len(self.checks)} passed)"


def judge(found: Measured) -> Check:
    """The test against its share of the level; the worst of n items counts n times (Bonferroni)."""
    p = float(min(1.0, len(found.p) * found.p.min()))
    limit = SHARES[found.name]
    # A rank's p-value is a quotient of integers: 1/256 must not lose to its own rounding.
    passed = p > limit * (1 - 1e-9) if limit != RANKED else p > RANKED * (1 + 1e-9)
    return Check(name=found.name, passed=passed, value=found.value, p_value=p, text=found.text, limit=limit)


def fail_z(name: str, tests: int) -> float:
    """Standard normal deviations beyond which one of ``tests`` two-sided tests sharing the level of ``name`` fails."""
    from scipy import stats

    return float(stats.norm.isf(SHARES[name] / (2 * max(1, tests))))


def join(words: Sequence[str]) -> str:
    """'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
