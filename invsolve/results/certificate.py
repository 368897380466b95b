"""What `strategy="auto"` says about its own answer: what was tested, what was found, what the rest would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from invsolve.core.notebook import TextInNotebook
from invsolve.strategies.diagnostics import Diagnostics

MEAN_ERROR = 0.15  # posterior stds: bound (two standard errors) that is asked of the mean of every component
STD_ERROR = 0.15  # relative: the same of every std
ISLAND_ERROR = 1.0  # nats: above it islands disagree by factors, and one of them may be all that counts
MEAN_TEST = "bound on the mean's error (posterior std)"
STD_TEST = "bound on the std's relative error"
ISLANDS = "standard error of the islands' log weights (nats)"
EVIDENCE = "standard error of the log-evidence (nats)"
_UNSEEN = "a mode that none of them met is not seen"
_NO_BOUND = 100.0
POWER = "power of the likelihood that was reached"
_SHORT = {  # of a test: what a sentence calls it, its unit, and what a value is multiplied by
    MEAN_TEST: ("mean", "known to", " posterior std", 1.0),
    STD_TEST: ("std", "known to", " %", 100.0),
    ISLANDS: ("evidence of the independent runs", "known to a standard error of", " nats", 1.0),
    POWER: ("power of the likelihood", "reached:", "", 1.0),
}
NOT_TESTED = (  # what a result without a certificate says
    "not tested: strategy='auto' tests what it finds; this was run once. result.check() and iv.calibrate(..., "
    "strategy=...) test it"
)


@final
@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One strategy that was run: name and options, on how many ``items``, how many it certified, at what cost."""

    strategy: str
    items: int
    reached: int
    seconds: float
    evaluations: int  # of the denoiser and its derivative, and of the operator and its adjoint, in rows
    text: str
    tested: bool = True  # whether it says how right it is


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate(TextInNotebook):
    """Whether the samples are draws from the posterior, as far as was tested.

    Errors speak of the *distribution* of the samples: few samples of a right distribution have a Monte Carlo error on
    top, ``1 / sqrt(num_samples)``. A certificate rests on independent ensembles agreeing with each other: a mode that
    none of them found is not seen.

    Attributes
    ----------
    reached : bool
        Every item passed: both bounds at most 0.15, the log weights of the islands known to 1 nat. It speaks of the
        samples: what the evidence is worth is its own standard error, and NaN where it is not known.
    passed : Tensor of bool, shape ([batch])
        Which items did.
    mean_error, std_error : Tensor, shape ([batch])
        Bounds, two standard errors wide, of the error of mean and standard deviation in posterior standard deviations,
        the worst component (and energy and log-likelihood); NaN where nothing was tested.
    exact : bool
        The samples are independent draws from a closed form.
    tests : mapping of str to float
        What was looked at, by name, with the worst item's value.
    attempts : tuple of Attempt
        What was run, with its cost.
    missing : str
        What was not reached and what it would cost; '' if all was.
    remedy : str
        What to do about it, a sentence; '' if nothing is missing.
    looked : str
        How modes were looked for that none of the chains had met, and what that found or why it was left out; '' where
        nothing was to be looked for.
    """

    reached: bool
    passed: Tensor
    mean_error: Tensor
    std_error: Tensor
    exact: bool  # independent draws from a closed form
    tests: Mapping[str, float]
    attempts: tuple[Attempt, ...]
    missing: str
    looked: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        lines = [self.sentence[0].upper() + self.sentence[1:]]
        if self.reached and not self.exact:
            lines.append(f"  from independent ensembles that agree; {self.looked or _UNSEEN}")
        of = ", of the worst item" if self.passed.numel() > 1 else ""
        lines += [f"  {name}{of}: {said(name, value, digits=3)}" for name, value in self.tests.items()]
        if self.tests and EVIDENCE not in self.tests:
            lines.append("  the log-evidence is not known")
        for a in self.attempts:
            count = "certified" if a.reached else "not certified"
            if a.items > 1:
                count = f"{a.reached} of {a.items} items certified"
            text = f"; {a.text}" if a.text else ""
            lines.append(f"  {a.strategy}: {count}, {a.seconds:.1f} s, {a.evaluations:,} evaluations{text}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        lists = {k: getattr(self, k).tolist() for k in ("passed", "mean_error", "std_error")}
        plain = {
            "reached": self.reached,
            "exact": self.exact,
            "missing": self.missing,
            "looked": self.looked,
            "remedy": self.remedy,
            "tests": dict(self.tests),
        }
        return {**plain, **lists, "attempts": [asdict(a) for a in self.attempts]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Certificate:
        """The certificate of `to_dict`; KeyError, TypeError or ValueError if it is none."""
        errors = {k: torch.tensor(value[k], dtype=torch.float64, device="cpu") for k in ("mean_error", "std_error")}
        attempts = tuple(
            Attempt(
                strategy=str(a["strategy"]),
                items=int(a["items"]),
                reached=int(a["reached"]),
                seconds=float(a["seconds"]),
                evaluations=int(a["evaluations"]),
                text=str(a["text"]),
                tested=bool(a.get("tested", True)),
            )
            for a in value["attempts"]
        )
        if not attempts:
            raise ValueError("a certificate without attempts")
        return cls(
            reached=bool(value["reached"]),
            exact=bool(value["exact"]),
            missing=str(value["missing"]),
            looked=str(value.get("looked", "")),  # files of releases that did not look have none
            remedy=str(value.get("remedy", "")),
            tests={str(k): float(v) for k, v in value["tests"].items()},
            attempts=attempts,
            passed=torch.tensor(value["passed"], dtype=torch.bool, device="cpu"),
            **errors,
        )

    def __repr__(self) -> str:
        return f"Certificate({self.word}, {len(self.attempts)} attempt(s))"

    @property
    def word(self) -> str:
        """One of "certified", "not certified" and "not tested": nothing that was run says how right it is."""
        if self.reached:
            return "certified"
        return "not certified" if any(a.tested for a in self.attempts) else "not tested"

    @property
    def sentence(self) -> str:
        """The word, and why: what was found, or what was not reached and what to do about it."""
        last = self.attempts[-1]
        if self.exact:
            return f"certified: exact draws from the closed form ({last.strategy})"
        if self.reached:
            return (
                f"certified ({last.strategy}): {self._bounds(self.passed)} in every component of the ensemble behind "
                "the samples (two standard errors)"
            )
        items, good = self.passed.numel(), int(self.passed.sum())
        whose = f" in {items - good} of {items} items" if good else ""
        others = f". The other items: {self._bounds(self.passed)}" if good else ""
        return f"{self.word}{whose}: {self.missing}" + (f". {self.remedy}" if self.remedy else "") + others

    def _bounds(self, items: Tensor) -> str:
        """The worst of these items."""
        mean, std = (float(e[items].nan_to_num(nan=torch.inf).max()) for e in (self.mean_error, self.std_error))
        return f"mean within {mean:.2f} posterior std and std within {std:.0%}"


def said(name: str, value: float, *, digits: int = 2) -> str:
    """A test's value in words: an error of a hundred stds is no bound, whatever number stands there."""
    return "none" if name != POWER and value > _NO_BOUND else f"{value:.{digits}g}"


def _short(name: str, value: float, limit: float) -> str:
    """What a test found and what is asked, as part of a sentence: "mean known to 0.5 posterior std (asked: 0.15)"."""
    what, known, unit, scale = _SHORT[name]
    if said(name, value) == "none":
        return f"{what} not known (asked: to {limit * scale:.2g}{unit})"
    return f"{what} {known} {beyond(value * scale, limit * scale)}{unit} (asked: {limit * scale:.2g})"


def beyond(value: float, limit: float) -> str:
    """A value with two digits, and more where it would look like the ``limit`` that it is not.

    >>> beyond(1.04, 1.0), beyond(0.5, 0.15)
    ('1.04', '0.5')
    """
    texts = (f"{value:.{digits}g}" for digits in range(2, 7))
    return next((text for text in texts if float(text) != limit), f"{value:.6g}")


def worst(name: str, value: Tensor) -> float:
    """The worst item's value of a test, ``(items,)``, NaN being worse than any: of powers the least, else the most."""
    return float(value.nan_to_num(0.0).min() if name == POWER else value.nan_to_num(torch.inf).max())


def judged(info: Diagnostics) -> tuple[Tensor, dict[str, Tensor], str]:
    """From the info of an ensemble ``(items,)`` each: which items pass, the tests, and what failed, in words."""
    mean_error, std_error, apart = info.mean_error, info.std_error, info.island_error
    assert mean_error is not None and std_error is not None and apart is not None  # of every strategy that is tested
    tests = {MEAN_TEST: 2 * mean_error, STD_TEST: 2 * std_error, ISLANDS: apart}
    limits = [MEAN_ERROR, STD_ERROR, ISLAND_ERROR]
    good = [value <= limit for value, limit in zip(tests.values(), limits, strict=True)]  # False for NaN
    if info.beta is not None:
        tests[POWER] = info.beta
        good.append(info.beta >= 1)
        limits.append(1.0)
    passed = torch.stack(good).all(0)
    wrong = [
        _short(name, worst(name, value), limit)
        for (name, value), fine, limit in zip(tests.items(), good, limits, strict=True)
        if not bool(fine.all())
    ]
    if any(text.startswith(("mean known", "std known")) for text in wrong):
        wrong[-1] += "; bounds are two standard errors"
    if info.log_evidence_se is not None:  # a figure of its own: samples are right or not without it
        tests[EVIDENCE] = info.log_evidence_se
    return passed, tests, ", ".join(wrong)
