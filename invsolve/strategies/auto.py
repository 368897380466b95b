"""Which strategy ``strategy="auto"`` takes, and why: decided by what is known, never by timing."""

from __future__ import annotations

from invsolve.errors import UnsupportedError
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.strategies.base import Strategy
from invsolve.strategies.exact import Exact
from invsolve.strategies.mmps import MMPS


def choose(problem: Problem, prior: Prior) -> tuple[Strategy, str]:
    """The strategy and one sentence of reason. Raises UnsupportedError if none of the package's would do."""
    exact = Exact()
    lacking = exact.missing(problem, prior)
    if not lacking:
        return exact, "Prior, operator and noise have a closed-form posterior: independent exact draws."
    guided = MMPS()
    if missing := guided.missing(problem, prior):
        raise UnsupportedError(
            f"solve: strategy 'auto' finds none that would do: not Exact, because {lacking}; "
            f"not MMPS, which needs {missing}."
        )
    exactness = "exact for Gaussian priors and linear operators, an approximation here"
    return guided, f"No closed form ({lacking}), so moment-matching guidance: {exactness}."


def alternatives(problem: Problem, prior: Prior) -> str:
    """The names of the strategies that would do for this problem, for an error message."""
    from invsolve.strategies.pigdm import PiGDM
    from invsolve.strategies.tmpd import TMPD

    fitting = [
        name
        for name, s in {"Exact()": Exact(), "MMPS()": MMPS(), "TMPD()": TMPD(), "PiGDM()": PiGDM()}.items()
        if not s.missing(problem, prior)
    ]
    return ", ".join(fitting) or "none of this version"
