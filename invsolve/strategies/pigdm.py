"""PiGDM in its score form: the posterior score for signals with independent entries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar, Self, final

from torch import Tensor

from invsolve.cg import conjugate_gradients, default_rtol
from invsolve.checks import check_int, check_positive
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import Sampler
from invsolve.samplers.base import combine
from invsolve.strategies.base import Info
from invsolve.strategies.guided import BoundGuidance, Guidance, Guided, guided, needs_derivative


@final
@dataclass(frozen=True, kw_only=True)
class PseudoinverseGuidance(Guidance):
    """PiGDM in its score form (Song et al. 2023): ``g = J^H A^H (r^2 A A^H + G)^-1 (y - A D)`` (guidance card 3).

    ``r^2 = t^2 s^2 / (s^2 + t^2)`` takes the signal for independent entries of std s; ``prior_std`` is s in the units
    of the signal, 1 in the paper, by default the root mean variance of the prior's law (its scale, without one). Exact
    only for such signals: correlated priors are given too wide or too narrow posteriors. Noise that is not Gaussian is
    replaced by its Gaussian at D.
    """

    name: ClassVar[str] = "PiGDM"

    prior_std: float | None = None
    rtol: float | None = None  # `invsolve.cg.default_rtol` unless given
    max_iter: int = 100

    def __post_init__(self) -> None:
        if self.prior_std is not None:
            check_positive("PiGDM", "prior_std", self.prior_std)
        if self.rtol is not None:
            check_positive("PiGDM", "rtol", self.rtol)
        check_int("PiGDM", "max_iter", self.max_iter, minimum=1)

    def missing(self, problem: Problem, prior: Prior) -> str:
        return needs_derivative(problem)

    def bind(self, problem: Problem, prior: Prior) -> BoundGuidance:
        std = self.prior_std
        if std is None:
            law = prior.law
            std = prior.scale if law is None else sqrt(float(law.variances.double().mean()))
        return _PseudoinverseBound(problem=problem, prior=prior, options=self, prior_std=std)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _PseudoinverseBound:
    problem: Problem
    prior: Prior
    options: PseudoinverseGuidance
    prior_std: float

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]:
        value, pull = self.prior.pullback(x, t)
        clean = self.problem.operator(value)
        problem = self.problem.gaussianised(clean)
        operator = problem.operator.linearize(value)
        r2 = t * t * self.prior_std**2 / (self.prior_std**2 + t * t)
        rest = problem.data - clean
        noise = problem.noise
        assert isinstance(noise, Gaussian)
        gram = operator.gram if self.prior.white_noise else None
        if gram is not None and isinstance(noise.std, (float, Tensor)):
            if isinstance(gram, Tensor):  # a mask times a number would be of torch's default precision
                gram = gram.to(rest.real.dtype)
            guided = operator.adjoint(rest.div_(r2 * gram + noise.std**2))
        else:

            def apply(w: Tensor) -> Tensor:
                back = self.prior.noise_covariance(operator.adjoint(problem.unwhiten_adjoint(w)))
                return w + problem.whiten(operator(r2 * back))

            w, _ = conjugate_gradients(
                apply,
                problem.whiten(rest),
                rtol=self.options.rtol or default_rtol(rest.dtype),
                max_iter=self.options.max_iter,
            )
            guided = operator.adjoint(problem.unwhiten_adjoint(w))
        return combine((1.0, t * t), (value, self.prior.noise_covariance(pull(guided)))), {}

    def take(self, index: Tensor) -> Self:
        return replace(self, problem=self.problem.take(index))


def PiGDM(
    *, prior_std: float | None = None, sampler: Sampler | None = None, num_steps: int = 50, grid: Tensor | None = None
) -> Guided:
    """Pseudoinverse-guided diffusion, score form: `PseudoinverseGuidance` with a second-order stochastic sampler."""
    return guided(PseudoinverseGuidance(prior_std=prior_std), sampler, num_steps, grid)
