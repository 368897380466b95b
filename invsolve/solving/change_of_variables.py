"""Solving for u where the prior is one of ``x = f(u)``: in one place, before and behind all that strategies do.

Strategies, certificates and diagnostics see the problem of u and its prior (`priors.inferred.as_inferred`); the
caller sees x. Evidence and chi^2 are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from invsolve.core.random import DrawLike
from invsolve.gaussian.marginals import Marginals, Moments
from invsolve.gaussian.posterior import GaussianPosterior, not_linear_gaussian
from invsolve.operators.base import LinearOperator, Operator
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import IsGaussian
from invsolve.priors.fields.padded import Crop
from invsolve.priors.inferred import as_inferred, increasing
from invsolve.problem import Problem
from invsolve.progress import Progress
from invsolve.results.assembly import with_moments
from invsolve.results.result import Result
from invsolve.results.solver import Solver
from invsolve.solving.validation import check_units
from invsolve.strategies.base import Strategy

_BLOCK = 2**22  # numbers that f is applied to at once


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ChangeOfVariables:
    """``problem`` and ``prior`` of u, and the f that makes x of u; ``given`` is what the caller asked about x."""

    problem: Problem
    prior: Prior
    given: tuple[Problem, Prior]
    function: Operator | None

    @classmethod
    def of(cls, problem: Problem, prior: Prior) -> ChangeOfVariables:
        """Of a checked problem and prior; u is x where the prior is not transformed."""
        inner, base, function = as_inferred(problem, prior)
        if function is not None:
            check_units(inner, base)
        return cls(problem=inner, prior=base, given=(problem, prior), function=function)

    def reported(self, u: Tensor) -> Tensor:
        """X of u, any number of them."""
        return u if self.function is None else self.function._apply(u)

    def back(self, found: Result, moments: Moments | None = None) -> Result:
        """The result about x, of one about u; ``moments``: of x, of the ensemble behind it (`reported`)."""
        if self.function is None:
            return found
        lead, function = found.failed.ndim, self.function
        u = found.samples.reshape(-1, *found.shape)
        with torch.no_grad():
            x = torch.cat([function._apply(rows) for rows in torch.split(u, max(1, _BLOCK // max(1, u[0].numel())))])
        moved = found._derive(x.view(*found.samples.shape[:lead], *x.shape[1:]), "the signal")  # without dims and units
        problem, prior = self.given
        marginals = found.marginals
        if isinstance(function, Crop):
            marginals = None if marginals is None else marginals.selected(function.middle)
        elif isinstance(function, LinearOperator):
            marginals = None if marginals is None else self._image(found, function)
        elif marginals is not None:
            marginals = marginals.through(function.to(dtype=torch.float64)) if increasing(function) else None
        whole = replace(
            moved,
            marginals=marginals,
            problem=problem,
            prior=prior,
            solver=None if found.solver is None else MappedSolver(change=self, inner=found.solver, found=found),
            settings={**found.settings, "operator": repr(problem.operator), "prior": repr(prior)},
            layout=getattr(prior, "layout", None),
            source=None,
        )
        return whole if moments is None else with_moments(whole, moments)

    def _image(self, found: Result, function: LinearOperator) -> Marginals | None:
        """Of a linear function of u, where u has a closed form for one set of scalars."""
        if found.parameters or not isinstance(self.prior, IsGaussian) or not_linear_gaussian(self.problem):
            return None
        marginals = GaussianPosterior.from_problem(self.prior.law, self.problem).image(function)
        return marginals if found.batched else marginals.only_item()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MappedSolver:
    """What solved the problem of u, for a result about x; its tests are run on u, whose law has formulas."""

    change: ChangeOfVariables
    inner: Solver
    found: Result | None = None  # about u

    @property
    def strategy(self) -> Strategy:
        """What is run."""
        return self.inner.strategy

    @property
    def reproducible(self) -> bool:
        """Whether rows are run in constant tiles."""
        return self.inner.reproducible

    def using(self, *, prior: Prior | None = None, strategy: Strategy | None = None) -> MappedSolver:
        """The same with another prior of x, or strategy."""
        change = self.change if prior is None else ChangeOfVariables.of(self.change.given[0], prior)
        own = self.inner.using(prior=None if prior is None else change.prior, strategy=strategy)
        return replace(self, change=change, inner=own, found=None)

    def draw(
        self,
        problem: Problem,
        *,
        num_samples: int,
        seed: int,
        keys: Sequence[int] | None = None,
        draws: Callable[[Sequence[int], Sequence[int]], DrawLike] | None = None,
    ) -> Result:
        """A result about x for another problem; failed rows are kept."""
        change = ChangeOfVariables.of(problem, self.change.given[1])
        found: Result = self.inner.draw(change.problem, num_samples=num_samples, seed=seed, keys=keys, draws=draws)
        return change.back(found)

    def check(self, result: Result, *, solves: bool | None, budget: float | None, progress: Progress) -> Any:
        """See `Result.check`: on the samples of u."""
        assert self.found is not None  # `using` makes a solver of other results, which are not checked
        return self.inner.check(self.found, solves=solves, budget=budget, progress=progress)
