"""What `strategy="auto"` says about its own answer: what was tested, what was found, what the rest would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, final

import torch
from torch import Tensor

from invsolve.errors import invalid

MEAN_ERROR = 0.15  # posterior stds: bound (two standard errors) that is asked of the mean of every component
STD_ERROR = 0.15  # relative: the same of every std
EVIDENCE_SE = 1.0  # nats: above it islands disagree by factors, and one of them may be all that counts
MEAN_TEST = "bound on the mean's error (posterior std)"
STD_TEST = "bound on the std's relative error"


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


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate:
    """Whether the samples are draws from the posterior, as far as was tested.

    ``reached`` is True if every item passed: both bounds at most 0.15, the log-evidence known to 1 nat; ``passed``
    ``([batch])`` says which. ``mean_error`` and ``std_error`` ``([batch])`` are bounds, two standard errors wide, of
    the error of mean and std in posterior stds, the worst component (and energy and log-likelihood); NaN where nothing
    was tested. They speak of the *law* of the samples: few samples of a right law have a Monte-Carlo error on top,
    ``1 / sqrt(num_samples)``. ``tests`` says what was looked at, by name, with the worst item's value; ``attempts``
    what was run; ``missing`` what was not reached and what it would cost, '' if all was.

    A certificate rests on independent populations agreeing with each other: a mode that none of them found is not seen.
    """

    reached: bool
    passed: Tensor
    mean_error: Tensor
    std_error: Tensor
    exact: bool  # independent draws from a closed form
    tests: Mapping[str, float]
    attempts: tuple[Attempt, ...]
    missing: str

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it (with NaN, where nothing was tested); `from_dict` is the way back."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: plain[name].tolist() for name in ("passed", "mean_error", "std_error")}
        return plain | tensors | {"tests": dict(self.tests), "attempts": [asdict(a) for a in self.attempts]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """A certificate from `to_dict`; InputError for a mapping that is none."""
        kinds: dict[str, type | tuple[type, ...]] = {
            "reached": bool, "exact": bool, "missing": str, "tests": dict, "attempts": list,
        }
        plain = {name: _typed("Certificate", value, name, kind) for name, kind in kinds.items()}
        tests = {name: float(_typed("Certificate", plain["tests"], name, _NUMBER)) for name in plain["tests"]}
        if not plain["attempts"]:
            raise invalid("Certificate", "attempts", "one or more", "none")
        attempts = tuple(
            Attempt(**{name: _typed("Attempt", a, name, kind) for name, kind in _ATTEMPT.items()})
            for a in plain["attempts"]
        )
        passed = _per_item(value, "passed", bool)
        mean_error, std_error = _per_item(value, "mean_error", float), _per_item(value, "std_error", float)
        if not mean_error.shape == std_error.shape == passed.shape:
            shapes = f"{tuple(mean_error.shape)} and {tuple(std_error.shape)}"
            raise invalid("Certificate", "mean_error` and `std_error", "of as many items as `passed`", shapes)
        return cls(
            reached=plain["reached"], passed=passed, mean_error=mean_error, std_error=std_error, exact=plain["exact"],
            tests=tests, attempts=attempts, missing=plain["missing"],
        )

    def __str__(self) -> str:
        last = self.attempts[-1]
        if self.exact:
            head = f"Certified: exact draws from the closed form ({last.strategy})"
        elif self.reached:
            head = (
                f"Certified ({last.strategy}): mean within {float(self.mean_error.max()):.2f} posterior std and std "
                f"within {float(self.std_error.max()):.0%} in every component (two standard errors)"
            )
        else:
            head = f"Not certified: {self.missing}"
        lines = [head]
        if self.reached and not self.exact:
            lines.append("  from independent populations that agree; a mode that none of them met is not seen")
        lines += [f"  {name}: {value:.3g}" for name, value in self.tests.items()]
        for a in self.attempts:
            count = "certified" if a.reached else "not certified"
            if a.items > 1:
                count = f"{a.reached} of {a.items} items certified"
            text = f"; {a.text}" if a.text else ""
            lines.append(f"  {a.strategy}: {count}, {a.seconds:.1f} s, {a.evaluations:,} evaluations{text}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        found = "exact" if self.exact else "reached" if self.reached else "not reached"
        return f"Certificate({found}, {len(self.attempts)} attempt(s))"


_NUMBER = (int, float)
_ATTEMPT: dict[str, type | tuple[type, ...]] = {
    "strategy": str, "items": int, "reached": int, "seconds": _NUMBER, "evaluations": int, "text": str,
}


def _typed(owner: str, value: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise invalid(owner, name, f"of type {kind if isinstance(kind, tuple) else kind.__name__}", repr(found))
    return found


def _per_item(value: Mapping[str, Any], name: str, kind: type) -> Tensor:
    """A value or a list of one for each item."""
    found = value.get(name)
    each = found if isinstance(found, list) else [found]
    if not each or not all(type(v) is kind for v in each):
        raise invalid("Certificate", name, f"a {kind.__name__}, or a list of them", repr(found)[:60])
    return torch.tensor(found, dtype=torch.bool if kind is bool else torch.float64)


def judged(info: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], str]:
    """From the info of a population ``(items,)`` each: which items pass, the tests, and what failed, in words."""
    tests = {
        MEAN_TEST: 2 * info["mean_error"],
        STD_TEST: 2 * info["std_error"],
        "standard error of the log-evidence (nats)": info["log_evidence_se"],
    }
    limits = (MEAN_ERROR, STD_ERROR, EVIDENCE_SE)
    good = [value <= limit for value, limit in zip(tests.values(), limits, strict=True)]  # False for NaN
    if "beta" in info:
        tests["power of the likelihood that was reached"] = info["beta"]
        good.append(info["beta"] >= 1)
    passed = torch.stack(good).all(0)
    wrong = [
        f"{name} {float(value.nan_to_num(torch.inf, torch.inf).max()):.2g}"
        for (name, value), fine in zip(tests.items(), good, strict=True)
        if not bool(fine.all())
    ]
    return passed, tests, ", ".join(wrong)
