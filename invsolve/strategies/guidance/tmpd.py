"""TMPD: moment matching with the data covariance replaced by its row sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

from torch import Tensor

from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import Sampler
from invsolve.strategies.base import Info, needs_derivative
from invsolve.strategies.guidance.guided import BoundGuidance, Guidance, Guided
from invsolve.strategies.guidance.preset import Preset, guided


@final
@dataclass(frozen=True, kw_only=True)
class TweedieMoment(Guidance):
    """Guidance of TMPD: as moment matching, with ``A V A^H`` replaced by its row sums.

    ``g = J^H A^H v``, ``v = (y - A D) / (G + A V A^H 1)`` elementwise; two vector-Jacobian products a step.

    Notes
    -----
    Biased by design where the rows of ``A V A^H`` are not nearly diagonal; negative row sums count as 0. Needs a noise
    std, not a covariance; of noise that is not Gaussian it takes that of its Gaussian at D.

    References
    ----------
    Boys et al. 2023, Tweedie Moment Projected Diffusions for Inverse Problems, arXiv 2310.06721.
    """

    name: ClassVar[str] = "TMPD"

    def missing(self, problem: Problem, prior: Prior) -> str:
        if isinstance(problem.noise, Gaussian) and problem.noise.std is None:
            return "a noise std (it divides by the diagonal of the noise covariance)"
        return needs_derivative(problem)

    def bind(self, problem: Problem, prior: Prior) -> BoundGuidance:
        return _TweedieBound(problem=problem, prior=prior)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _TweedieBound:
    problem: Problem
    prior: Prior

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]:
        prior = self.prior
        value, pull = prior.pullback(x, t)
        clean = self.problem.operator(value)
        problem = self.problem.gaussianised(clean)
        operator = problem.operator.linearize(value)

        def tweedie(v: Tensor) -> Tensor:
            return (t * t) * prior.noise_covariance(pull(operator.adjoint(v)))

        ones = problem.data.new_ones(problem.data.shape)
        sums = problem.whiten(problem.whiten(operator(tweedie(ones)))).real.clamp_min(
            0
        )  # relative to the noise variance
        white = problem.whiten(problem.data - clean) / (1 + sums)
        return value + tweedie(problem.unwhiten_adjoint(white)), {}

    def take(self, index: Tensor) -> Self:
        return replace(self, problem=self.problem.take(index))


@final
class TMPD(Guided, metaclass=Preset):
    """Tweedie moment projected diffusion: `TweedieMoment` with a second-order stochastic sampler.

    Parameters
    ----------
    sampler : Sampler, optional
        How a step goes from one level to the next; `iv.samplers.SDEDPMSolver2M` unless given.
    num_steps, grid : optional
        Of `Guided`; 50 steps unless given.

    Returns
    -------
    Guided
        ``Guided(guidance=TweedieMoment(), sampler=...)``.

    Raises
    ------
    InputError
        As `Guided`.

    References
    ----------
    Boys et al. 2023, Tweedie Moment Projected Diffusions for Inverse Problems, arXiv 2310.06721.
    """

    guidance_type = TweedieMoment

    def __new__(  # type: ignore[misc]  # see `Preset`
        cls,
        *,
        sampler: Sampler | None = None,
        num_steps: int | None = None,
        grid: Tensor | None = None,
    ) -> Guided:
        return guided(TweedieMoment(), sampler, num_steps, grid)
