"""Draws from the closed form, where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from invsolve.posterior import Posterior, not_linear_gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.strategies.base import Info, Run, Strategy


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ExactState:
    x: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Exact(Strategy):
    """Independent draws from the exact posterior: Gaussian (and mixture) priors, linear operators, Gaussian noise.

    No network evaluations. Exact up to rounding and, for problems too large to factorise, the residual of a linear
    solve (`GaussianPosterior`).
    """

    num_steps = 1

    def missing(self, problem: Problem, prior: Prior) -> str:
        if reason := not_linear_gaussian(problem):
            return reason
        return "" if prior.has_posterior else f"the prior {type(prior).__name__} has no closed-form posterior"

    def bind(self, problem: Problem, prior: Prior) -> Posterior:
        return prior.posterior(problem)

    def init(self, run: Run) -> ExactState:
        return ExactState(x=run.problem.data.new_zeros(run.rows, *run.problem.shape, dtype=run.problem.signal_dtype))

    def step(self, run: Run, state: ExactState, i: int) -> tuple[ExactState, Info]:
        return ExactState(x=run.bound.draw(run.draws)), {}
