"""Which strategies would do for a problem, and whose spread was found to be right on its kind."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, final

import torch

from invsolve.core.notebook import TextInNotebook
from invsolve.core.torch_state import in_defined_state
from invsolve.errors import UnsupportedError, invalid
from invsolve.noise import Gaussian
from invsolve.noise.convert import noise_for_data
from invsolve.operators.algebra.algebra import name_of
from invsolve.operators.base import BlackBox, LinearOperator, Operator
from invsolve.operators.identity import of_shape
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import IsGaussian
from invsolve.priors.compatibility import check_pair, not_a_prior
from invsolve.priors.exact.sparse import SparsePrior
from invsolve.priors.inferred import as_inferred
from invsolve.problem import Problem, checked_problem
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import candidates

_ORDER = {"right": 0, "close": 1, "off": 2, "untested": 3}
_WORDS = {
    "right": "no fault found",
    "close": "spread within about 15 %",
    "off": "spread not to be trusted",
    "untested": "not measured on this kind of problem",
}

# The problems that benchmarks/strategies.py measures.
KINDS = {
    "mask": "Gaussian prior, 16 correlated values, half of them seen, noise 0.2",
    "smooth": "Gaussian prior, a smooth curve of 64 points, every third seen, noise 0.1 (128 draws)",
    "blur": "Gaussian prior, 16 correlated values, blurred, noise 0.1",
    "modes": "mixture of three Gaussians in 4 dimensions, one datum, noise 0.5 (1024 draws)",
    "sparse": "16 values, Laplace coefficients of Haar wavelets, 60 % seen, noise 0.2",
    "curved": "Gaussian prior, 4 correlated values, u + 0.3 u^2 of 4 mixtures, noise 0.2",
    "counts": "Gaussian prior of mean 3, 8 correlated values, Poisson counts of 2 a unit",
}
_SMOOTH = 600.0  # largest over smallest variance of the prior's modes: 50 of the mask's prior, 8000 of the smooth one


@final
@dataclass(frozen=True, kw_only=True)
class Advised(TextInNotebook):
    """One strategy that can take the problem.

    Attributes
    ----------
    name : str
        As it is written in code.
    strategy : Strategy or None
        The strategy; None stands for the string "auto".
    verdict : {"right", "close", "off", "untested"}
        By calibration on problems of this kind.
    std : float
        Posterior standard deviation over what it should be, there; NaN where it was not measured.
    evaluations : float
        Of the denoiser per sample, there; NaN where they were not counted.
    why : str
        What the calibration found.
    """

    name: str  # as it is written in code
    strategy: Strategy | None  # None: the string "auto"
    verdict: str  # 'right', 'close', 'off' or 'untested': by calibration on problems of this kind
    std: float  # posterior std over what it should be, there; NaN where it was not measured
    evaluations: float  # of the denoiser per sample, there
    why: str

    def __str__(self) -> str:
        cost = "" if math.isnan(self.evaluations) else f", {self.evaluations:.4g} evaluations"
        std = "" if math.isnan(self.std) else f", posterior standard deviation {self.std:.2f} times the right one"
        return f"{self.name}: {_WORDS[self.verdict]}{std}{cost}"


@final
@dataclass(frozen=True, kw_only=True)
class Advice(TextInNotebook):
    """What `advise` found, the most trustworthy first and among equals the cheapest; ``print(advice)`` for people.

    Attributes
    ----------
    kind : str
        The kind of problem of docs/strategies.md that was looked up.
    because : str
        Why it is of that kind.
    strategies : tuple of Advised
        Those that can take the problem, best first.
    refused : dict of str to str
        Strategies that cannot take the problem, and what they lack.
    """

    kind: str  # the kind of problem of docs/strategies.md that was looked up
    because: str
    strategies: tuple[Advised, ...]
    refused: dict[str, str]  # strategies that cannot take the problem, and what they lack

    @property
    def best(self) -> Strategy | str:
        """What to pass to ``solve(strategy=)``."""
        first = self.strategies[0]
        return "auto" if first.strategy is None else first.strategy

    def __iter__(self) -> Iterator[Advised]:
        return iter(self.strategies)

    def __str__(self) -> str:
        lines = [f"Kind of problem: {self.kind} ({self.because})"]
        lines += [f"Measured on: {KINDS[self.kind]}"] if self.kind in KINDS else []
        lines += [f"  {s}" for s in self.strategies]
        lines += [f"  {name} cannot: {why}" for name, why in self.refused.items()]
        return "\n".join([*lines, "Test the choice on your problem: iv.calibrate(A, prior, noise=..., strategy=...)"])


@in_defined_state
def advise(A: Operator | Problem, prior: Prior, noise: Any = None) -> Advice:
    """Every strategy that can take this operator, prior and noise, and how it did on problems of its kind.

    Parameters
    ----------
    A : Operator or Problem
        The operator, with ``noise``; or a problem, which has its own.
    prior : Prior
        The prior.
    noise : float, Tensor or Noise, optional
        A standard deviation in the units of the data, or an `iv.noise` model; left out with a problem.

    Returns
    -------
    Advice
        The strategies in order, and those that cannot take the problem.

    Raises
    ------
    InputError, InputTypeError
        As `iv.solve` does.

    Notes
    -----
    The table behind it is docs/strategies.md: `iv.calibrate` on small problems with exact denoisers. It says what to
    expect, not what is true of your problem; with a learned prior the errors of the network come on top.
    """
    if isinstance(A, Problem) and noise is not None:
        raise invalid("advise", "noise", "left out when the first argument is a Problem", noise)
    problem = A if isinstance(A, Problem) else _problem(A, prior, noise)
    if not isinstance(prior, Prior):
        raise not_a_prior("advise", prior)
    check_pair("advise", problem.operator, prior)
    problem, prior, _ = as_inferred(problem, prior)
    kind, because = _kind(problem, prior)
    from invsolve.strategies.choice.catalogue import catalogue  # a dozen modules that most programs do not need

    advised, refused = [], {}
    for name, strategy in catalogue():
        lacking = "" if strategy is None else strategy.missing(problem, prior)
        if strategy is None:
            lacking = _auto_lacks(problem, prior)
        if lacking:
            refused[name] = lacking if lacking.startswith(("the ", "solve:")) else f"it needs {lacking}"
            continue
        row = measured().get((name, kind), {})
        verdict = row.get("verdict", "untested")
        advised.append(
            Advised(
                name=name,
                strategy=strategy,
                verdict=verdict if verdict in _ORDER else "untested",
                std=float(row.get("std", "nan")),
                evaluations=float(row.get("nfe", "nan")),
                why=row.get("why", ""),
            )
        )
    advised.sort(key=lambda s: (_ORDER[s.verdict], s.strategy is not None, _cost(s)))
    return Advice(kind=kind, because=because, strategies=tuple(advised), refused=refused)


@cache
def measured() -> dict[tuple[str, str], dict[str, str]]:
    """The table of benchmarks/strategies.py by strategy and kind."""
    text = resources.files("invsolve.strategies.choice").joinpath("measured.csv").read_text(encoding="utf-8")
    return {(row["strategy"], row["kind"]): row for row in csv.DictReader(text.splitlines())}


def _cost(s: Advised) -> float:
    return math.inf if math.isnan(s.evaluations) else s.evaluations


def _problem(A: object, prior: object, noise: object) -> Problem:
    if not isinstance(prior, Prior):
        raise not_a_prior("advise", prior)
    if isinstance(A, Operator):
        A = of_shape(A, tuple(prior.shape), prior.kind)
    shape = getattr(A, "out_shape", ())
    kind = getattr(A, "out_kind", "real")
    dtype = torch.promote_types(prior.dtype, torch.complex64) if kind == "complex" else prior.dtype
    batch = getattr(A, "batch", None) or 1
    y = torch.zeros(batch, *shape, dtype=dtype, device=prior.device)
    problem = checked_problem("advise", A, y, noise=1.0)  # what is wrong with A is said there
    model = noise_for_data("advise", noise, out_shape=tuple(shape), batch=batch, dtype=dtype, device=prior.device)
    return problem._with(noise=model)  # the data say nothing, and need not be such as the noise can give


def _kind(problem: Problem, prior: Prior) -> tuple[str, str]:
    if not isinstance(problem.noise, Gaussian):
        return "counts", f"{type(problem.noise).__name__} noise"
    if isinstance(problem.operator, BlackBox):
        return "black box", "no derivative: nothing of this kind was measured"
    if not isinstance(problem.operator, LinearOperator):
        return "curved", f"{name_of(problem.operator)} is not linear"
    if isinstance(prior, IsGaussian):
        variances = prior.law.variances
        if float(variances.max()) > _SMOOTH * float(variances.min()):
            return "smooth", "Gaussian prior whose modes differ much in size, linear"
        if problem.operator.gram is not None:
            return "mask", "Gaussian prior, data of unmixed entries"
        return "blur", "Gaussian prior, linear"
    if isinstance(prior, SparsePrior):
        return "sparse", "sparse prior, linear"
    return "modes", f"{type(prior).__name__} may have several modes"


def _auto_lacks(problem: Problem, prior: Prior) -> str:
    try:
        candidates(problem, prior, 256)
    except UnsupportedError as error:
        return str(error)
    return ""
