"""Posteriors in closed form: what `prior.posterior(A, y, noise)` returns and what `Exact` draws from."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.core.random import DrawLike, Draws
from invsolve.core.torch_state import Defined
from invsolve.core.validation import check_int, kind_dtype
from invsolve.errors import UnsupportedError, invalid
from invsolve.gaussian.evidence import Evidence, rounding
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.marginals import Marginals, NormalMarginals
from invsolve.gaussian.systems import DenseSystem, IterativeSystem, System, Update, make_system
from invsolve.gaussian.variances import CHEAP, entry_variances, mode_factor, mode_stds, root_of_one_plus
from invsolve.noise import Gaussian
from invsolve.operators.algebra.algebra import name_of
from invsolve.operators.base import LinearOperator, Operator
from invsolve.problem import Problem, checked_problem

_TOLERATED = 1e-2  # residual of a linear solve, in posterior sd of a mode, above which a draw is no draw
_LARGEST = 8192  # real values of which a covariance is formed


class Posterior(Defined, abc.ABC):
    """A posterior that is known: one distribution for every item of the data."""

    problem: Problem
    mean: Tensor  # (batch, *shape)

    @abc.abstractmethod
    def draw(self, draws: DrawLike) -> Tensor:
        """One exact draw for every row, ``(rows, *shape)``; rows are items here, use `take` for other rows."""

    @abc.abstractmethod
    def take(self, index: Tensor) -> Self:
        """The posterior of the rows ``index``."""

    def evidence(self) -> Evidence | None:
        """Log p(y) of every item with a bound of its rounding; None where it is not known, or costs seconds."""
        return None

    def marginals(self) -> Marginals | None:
        """Mean, std and quantiles of every entry, ``(batch, *shape)``, but for what would take more than a second."""
        return None

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """``n`` draws for every item, ``(n, batch, *shape)``; draw k of item b depends on (seed, b, k) only."""
        n = check_int(type(self).__name__, "n", n, minimum=1)
        batch = len(self.problem.data)
        items = list(range(batch)) * n
        samples = [k for k in range(n) for _ in range(batch)]
        draws = Draws.for_rows(check_int(type(self).__name__, "seed", seed), items, samples, self.problem.data.device)
        index = torch.tensor(items, device=self.problem.data.device)
        return self.take(index).draw(draws).reshape(n, batch, *self.problem.shape)


def closed_form_problem(owner: str, A: Operator | Problem, y: Any, noise: Any) -> Problem:
    """The problem of a closed form: refuses what is not linear with Gaussian noise."""
    for name, value in (("y", y), ("noise", noise)):
        if isinstance(A, Problem) and value is not None:
            raise invalid(owner, name, "left out when the first argument is a Problem", type(value).__name__)
    problem = A if isinstance(A, Problem) else checked_problem(owner, A, y, noise=noise)
    if reason := not_linear_gaussian(problem):
        raise UnsupportedError(f"{owner}: no closed-form posterior, because {reason}. Use strategy='auto' or MMPS().")
    return problem


def not_linear_gaussian(problem: Problem) -> str:
    """Why a problem is not linear with Gaussian noise; '' if it is."""
    if not isinstance(problem.operator, LinearOperator):
        return f"the operator {name_of(problem.operator)} is not a LinearOperator"
    if not isinstance(problem.noise, Gaussian):
        return f"the noise is {type(problem.noise).__name__}, not Gaussian"
    return ""


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GaussianPosterior(Posterior):
    """``N(mean, covariance)`` of a `GaussianLaw` seen through linear data with Gaussian noise.

    Draws are perturb-and-solve (Papandreou & Yuille 2010): a prior draw plus the update of its simulated residual;
    exact whatever the size, one linear solve a draw. Dense where one side of the problem is small, else conjugate
    gradients in float64 until the error is at most ``tol`` posterior standard deviations of a mode (root mean square;
    `IterativeSystem`). A draw whose solve ends above a hundredth is NaN, and so a failed row of the result.
    """

    problem: Problem
    law: GaussianLaw
    system: System
    update: Update

    @classmethod
    def from_problem(
        cls, law: GaussianLaw, problem: Problem, *, tol: float | None = None, max_iter: int = 5000
    ) -> GaussianPosterior:
        """Condition ``law`` on ``problem`` (linear, Gaussian noise); ``tol`` is 1e-4 in float32, 1e-10 in float64."""
        if tol is None:
            tol = 1e-10 if kind_dtype(problem.data.dtype, "real") == torch.float64 else 1e-4
        system = make_system(problem, law, tol=tol, max_iter=max_iter, tolerated=_TOLERATED)
        return cls(problem=problem, law=law, system=system, update=system.factor(law.variances))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and files have what it is made of; the system is factorised again."""
        return _posterior, (self.problem, self.law, self.system)

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        """``(batch, *shape)``; one linear solve an item, when it is first asked for."""
        mean = self.law.mean + self.law.modes.synthesis(self.update(self._residual(self.law.mean)))
        return mean.expand(len(self.problem.data), *self.problem.shape)

    def draw(self, draws: DrawLike) -> Tensor:
        law, rows = self.law, len(self.problem.data)
        dtype = self.problem.signal_dtype
        u = law.variances.sqrt() * draws.normal(tuple(law.modes.mode_shape), dtype, step=0, index=0)
        error = draws.normal(tuple(self.problem.operator.out_shape), self.problem.data.dtype, step=0, index=1)
        if self.problem.operator.observed is not None:
            error = error * self.problem.operator.observed
        white = self._residual(law.mean) - self.system.forward(u) - error
        assert len(white) == rows
        return law.mean + law.modes.synthesis(u + self.update(white))

    def take(self, index: Tensor) -> Self:
        problem = self.problem.take(index)
        if isinstance(self.system, DenseSystem):
            return replace(self, problem=problem)
        assert isinstance(self.system, IterativeSystem)
        system = self.system.take(index)
        return replace(self, problem=problem, system=system, update=system.factor(self.law.variances))

    @property
    def covariance(self) -> Tensor:
        """``(n, n)`` over the flattened signal (complex: over pairs re, im), float64; only where B is dense.

        Raises UnsupportedError for problems too large to form it: use draws.
        """
        factor = self._mode_factor()
        return factor @ factor.mT

    @property
    def std(self) -> Tensor:
        """Posterior standard deviation ``(batch, *shape)`` (complex: of |x - mean|).

        Raises UnsupportedError where it is too large to form: use draws.
        """
        variance = entry_variances(self.problem, self.law, self.system)
        if variance is None:
            variance = self._mode_factor().square().sum(1)
            if self.law.mean.is_complex():
                variance = variance.view(-1, 2).sum(1)
            variance = variance.view(1, *self.problem.shape)
        return self._spread(variance)

    def marginals(self) -> Marginals | None:
        if not bool(torch.isfinite(self.mean).all()):  # a linear solve that did not end
            return None
        variance = entry_variances(self.problem, self.law, self.system)
        return NormalMarginals(mean=self.mean, std=None if variance is None else self._spread(variance))

    def image(self, function: LinearOperator) -> Marginals:
        """Of ``f(x)`` for a linear f; without the std where that would take more than a second."""
        mean, dense = function(self.mean), self.system
        n = len(mode_stds(self.law))
        if not isinstance(dense, DenseSystem) or 2 * (len(dense.matrix) + n) * n**2 > CHEAP:
            return NormalMarginals(mean=mean, std=None)
        wide: LinearOperator = function.to(dtype=torch.float64)
        factor = mode_factor(dense.matrix, self.law).mT
        rows = from_real(factor, self.problem.shape, torch.complex128 if self.law.mean.is_complex() else None)
        variance = wide(rows).abs().square().sum(0)
        std = variance.sqrt().to(self.law.variances.dtype)
        return NormalMarginals(mean=mean, std=std.expand(mean.shape))

    def _spread(self, variance: Tensor) -> Tensor:
        std = variance.clamp_min(0).sqrt().to(self.law.variances.dtype)
        return std.expand(len(self.problem.data), *self.problem.shape)

    @property
    def log_evidence(self) -> Tensor:
        """Log p(y), (batch,), float64; dense only."""
        return self._evidence(self._dense()).log

    def evidence(self) -> Evidence | None:
        if not isinstance(self.system, DenseSystem):
            return None
        m, n = self.system.matrix.shape
        return self._evidence(self.system) if 2 * (m + n) * min(m, n) ** 2 <= CHEAP else None

    def _evidence(self, dense: DenseSystem) -> Evidence:
        scaled = dense.matrix * mode_stds(self.law)
        white = to_real(self._residual(self.law.mean)).double()
        # w^T (I + K K^T)^-1 w = |u|^2 + |w - K u|^2 with u = K^T (I + K K^T)^-1 w: nothing cancels. The determinants of
        # I + K K^T and I + K^T K are equal; the smaller one is factorised.
        if len(scaled) <= scaled.shape[1]:
            root = root_of_one_plus(scaled.mT)
            u = torch.cholesky_solve(white.mT, root, upper=True).mT @ scaled
        else:
            root = root_of_one_plus(scaled)
            u = torch.cholesky_solve((white @ scaled).mT, root, upper=True).mT
        left = white - u @ scaled.mT  # (I + K K^T)^-1 w
        size = u.square().sum(1) + left.square().sum(1)
        problem = self.problem
        # log N(w; 0, I + K K^T) is over all entries; the noise's own log_prob knows the units and what was observed.
        own = problem.noise.log_prob(problem.data, problem.data, problem.operator.observed).double()
        logs = root.diagonal().abs().log()
        data = to_real(problem.whiten(problem.data)).double()
        se = rounding(
            kind_dtype(problem.data.dtype, "real"),
            matrix=torch.linalg.matrix_norm(scaled),
            side=len(root),
            law=self.law.variances.double().max() * dense.matrix.square().sum(),
            ends=data.norm(dim=1) + (data - white).norm(dim=1),
            shift=u.norm(dim=1),
            left=left.norm(dim=1),
            terms=own.abs() + 2 * data.shape[1] + 0.5 * size + logs.abs().sum(),
        )
        return Evidence(own - 0.5 * size - logs.sum(), se)

    def _residual(self, mean: Tensor) -> Tensor:
        A = self.problem.operator
        return self.problem.whiten(self.problem.data - A(mean.expand(A.batch or 1, *mean.shape)))

    def _dense(self) -> DenseSystem:
        if not isinstance(self.system, DenseSystem):
            raise UnsupportedError(
                "GaussianPosterior: the covariance is too large to form, or differs from item to item. "
                "Estimate what you need from draws: posterior.sample(n)."
            )
        return self.system

    def _mode_factor(self) -> Tensor:
        """F with ``covariance = F F^T``."""
        dense, n = self._dense(), len(mode_stds(self.law))
        if n > _LARGEST:
            raise UnsupportedError(f"GaussianPosterior: the covariance of {n} values is too large to form. Use draws.")
        return mode_factor(dense.matrix, self.law)


def _posterior(problem: Problem, law: GaussianLaw, system: System) -> GaussianPosterior:
    return GaussianPosterior(problem=problem, law=law, system=system, update=system.factor(law.variances))
