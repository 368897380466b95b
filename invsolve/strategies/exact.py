"""Draws from the closed form, where there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

from torch import Tensor

from invsolve.gaussian.evidence import Evidence
from invsolve.gaussian.marginals import Marginals
from invsolve.gaussian.posterior import Posterior, not_linear_gaussian
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasPosterior
from invsolve.problem import Problem
from invsolve.separable.posterior import SeparablePosterior, not_separable
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.diagnostics import Diagnostics


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ExactState:
    """One draw for every row."""

    x: Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class BoundExact:
    """The closed form, and the evidence of its items, once for all chunks."""

    posterior: Posterior
    evidence: Evidence | None

    def marginals(self) -> Marginals | None:
        """See `Posterior.marginals`."""
        return self.posterior.marginals()

    def take(self, index: Tensor) -> Self:
        if self.evidence is None:
            return replace(self, posterior=self.posterior.take(index))
        log, se = (value[index.to(value.device)] for value in self.evidence)
        return replace(self, posterior=self.posterior.take(index), evidence=Evidence(log, se))


@final
@dataclass(frozen=True, kw_only=True)
class Exact(Strategy[ExactState, BoundExact]):
    """Independent draws from the exact posterior, where linear algebra or one-dimensional quadrature gives it.

    Linear algebra: Gaussian (and mixture) priors, linear operators, Gaussian noise. Quadrature: priors of independent
    entries (Gaussian with a diagonal covariance, sparse without a transform, mixtures of diagonal Gaussians), data that
    each depend on one entry of the signal (through a mask, a detector's curve, any function of one entry), and noise
    that is independent from datum to datum. No network evaluations.

    Notes
    -----
    By linear algebra exact up to rounding and, for problems too large to factorise, the residual of a linear solve
    (`GaussianPosterior`). ``result.log_evidence`` is log p(y) in closed form, and its standard error a bound of the
    rounding (`gaussian.evidence.rounding`); None where the posterior cannot be factorised within about a second.

    By quadrature the density of every entry is resolved to about 1e-10 (`separable.density.resolve`): modes, walls,
    kinks and atoms are kept, and ``result.log_evidence`` has the error of it. In double precision, whatever the data
    are; for at most 2^17 entries of an item and 2^20 in all. What a datum depends on is seen from draws of the prior; a
    function whose entries meet only where the posterior lies is refused (`OperatorError`).
    """

    num_steps = 1

    def missing(self, problem: Problem, prior: Prior) -> str:
        if not (lacking := _no_formula(problem, prior)) or not not_separable(problem, prior.entry_laws):
            return ""
        return lacking

    def bind(self, problem: Problem, prior: Prior) -> BoundExact:
        posterior: Posterior
        if _no_formula(problem, prior):
            posterior = SeparablePosterior.from_problem(problem, prior.entry_laws)
        else:
            posterior = prior.posterior(problem)
        return BoundExact(posterior=posterior, evidence=posterior.evidence())

    def init(self, run: Run[BoundExact]) -> ExactState:
        return ExactState(x=run.problem.data.new_zeros(run.rows, *run.problem.shape, dtype=run.problem.signal_dtype))

    def step(self, run: Run[BoundExact], state: ExactState, i: int) -> tuple[ExactState, Info]:
        bound = run.bound
        state = ExactState(x=bound.posterior.draw(run.draws))
        if bound.evidence is None:
            return state, {}
        return state, Diagnostics(log_evidence=bound.evidence.log, log_evidence_se=bound.evidence.se)


def by_quadrature(problem: Problem, prior: Prior) -> bool:
    """Whether it takes quadrature: about a thousand rows of the operator, and a millisecond an entry."""
    return bool(_no_formula(problem, prior)) and not not_separable(problem, prior.entry_laws)


def _no_formula(problem: Problem, prior: Prior) -> str:
    """Why linear algebra does not give the posterior, as a clause; '' if it does."""
    if reason := not_linear_gaussian(problem):
        return reason
    return "" if isinstance(prior, HasPosterior) else f"the prior {type(prior).__name__} has no closed-form posterior"
