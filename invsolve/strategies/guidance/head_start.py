"""Where a walk with a stated distribution may begin: the highest level at which the prior is more than its covariance.

Above it ``p(x_t | y)`` is that of the stated Gaussian, whose posterior can be drawn. Two things must be drowned by the
noise there: what is not Gaussian of an entry, and what the data leave open of any combination of entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import direction, expand, inner
from invsolve.core.validation import real_dtype
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.posterior import GaussianPosterior, not_linear_gaussian
from invsolve.gaussian.systems import System, make_system, taken
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasLaw, IsGaussian, Learned
from invsolve.problem import Problem
from invsolve.strategies.base import Run

_ENTRY = 6.0  # in rms of the signal
_OPEN = 2.5  # in stds of the direction that the data know least of
_TOL = 1e-2  # of the solves: a draw is blurred by the noise of the level next
_ITERATIONS = 100
_POWER = 6  # steps of power iteration


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class HeadStart:
    """The posterior under the stated distribution, and the level at which walks begin from its draws.

    ``level``: (), or (items,) where operators or noise differ; of rows once taken.
    """

    problem: Problem
    law: GaussianLaw
    system: System
    level: Tensor

    @staticmethod
    def possible(problem: Problem, prior: Prior) -> bool:
        """Whether the prior is more than the distribution it states, which has a posterior that can be drawn."""
        more = isinstance(prior, Learned) and isinstance(prior, HasLaw) and not isinstance(prior, IsGaussian)
        return more and not not_linear_gaussian(problem)

    @classmethod
    def find(cls, problem: Problem, prior: Prior) -> HeadStart:
        """For `possible` ones."""
        assert isinstance(prior, HasLaw)
        law = prior.law
        system = make_system(problem, law, tol=_TOL, max_iter=_ITERATIONS, rough=True)
        level = _OPEN * _widest(problem, law, system)
        return cls(problem=problem, law=law, system=system, level=level.clamp_min(_ENTRY * law.variances.mean().sqrt()))

    def draw(self, run: Run, top: Tensor) -> Tensor:
        """Where the rows start, at the level ``top``, () or (rows,)."""
        law, system = self.law, self.system
        under = GaussianPosterior(problem=self.problem, law=law, system=system, update=system.factor(law.variances))
        top = top.to(run.problem.data.device, real_dtype(run.prior.dtype)).expand(run.rows)
        return under.draw(run.draws) + expand(top, run.prior.mean[None]) * run.noise(-1, 2)

    def take(self, index: Tensor) -> Self:
        level = self.level[index.to(self.level.device)] if self.level.ndim else self.level
        return replace(self, problem=self.problem.take(index), system=taken(self.system, index), level=level)


def _widest(problem: Problem, law: GaussianLaw, system: System) -> Tensor:
    """The std of the direction that the data leave most open, about, () or (items,): power iteration."""
    alike = problem.shared and isinstance(problem.noise, Gaussian)
    rows = 1 if alike else len(problem.data)
    if alike:
        system = taken(system, torch.zeros(1, dtype=torch.int64, device=problem.data.device))
    update = system.factor(law.variances)
    rng = torch.Generator().manual_seed(0)
    u = torch.randn(1, *law.modes.mode_shape, generator=rng, dtype=problem.signal_dtype, device="cpu")
    u = direction(u.to(problem.data.device) * law.variances.sqrt()).expand(rows, *law.modes.mode_shape)
    found = torch.zeros(rows, dtype=law.variances.dtype, device=u.device)
    for _ in range(_POWER):
        wide = law.variances * u
        wide = wide - update(system.forward(wide))
        found = inner(u, wide).clamp_min(0)
        u = direction(wide)
    return found.sqrt()[0] if alike else found.sqrt()
