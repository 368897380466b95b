"""PiGDM in its score form: the posterior score for signals with independent entries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, final

from torch import Tensor

from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import invalid
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import Sampler
from invsolve.samplers.base import combine
from invsolve.strategies.base import Info, Strategy
from invsolve.strategies.guidance.guided import BoundGuidance, Guidance, guided, needs_derivative
from invsolve.strategies.published.pigdm_published import PublishedPiGDM
from invsolve.strategies.published.proximal import DataStep


@final
@dataclass(frozen=True, kw_only=True)
class PseudoinverseGuidance(Guidance):
    """PiGDM in its score form (Song et al. 2023): ``g = J^H A^H (r^2 A A^H + G)^-1 (y - A D)`` (guidance card 3).

    ``r^2 = t^2 s^2 / (s^2 + t^2)`` takes the signal for independent entries of std s; ``prior_std`` is s in the units
    of the signal, 1 in the paper, by default the prior's scale, the largest std of any direction: with less the walk
    diverges where the data see that direction. Exact only for independent entries: correlated priors are given too wide
    posteriors. Noise that is not Gaussian is
    replaced by its Gaussian at D.
    """

    name: ClassVar[str] = "PiGDM"

    prior_std: float | None = None
    rtol: float | None = None  # `invsolve.core.conjugate_gradients.default_rtol` unless given
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
        step = DataStep.of(problem, prior, rtol=self.rtol, max_iter=self.max_iter)
        return _PseudoinverseBound(step=step, prior=prior, prior_std=self.prior_std or prior.scale)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _PseudoinverseBound:
    step: DataStep
    prior: Prior
    prior_std: float

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]:
        value, pull = self.prior.pullback(x, t)
        r2 = t * t * self.prior_std**2 / (self.prior_std**2 + t * t)
        guided = pull(self.step.back(value, r2))
        return combine((1.0, t * t), (value, self.prior.noise_covariance(guided))), {}

    def take(self, index: Tensor) -> Self:
        return replace(self, step=self.step.take(index))


def PiGDM(
    *,
    form: Literal["score", "published"] = "score",
    prior_std: float | None = None,
    sampler: Sampler | None = None,
    num_steps: int | None = None,
    grid: Tensor | None = None,
    eta: float | None = None,
) -> Strategy:
    """Pseudoinverse-guided diffusion.

    ``form="score"``: `PseudoinverseGuidance` with a sampler, by default a second-order stochastic one and 50 steps.
    ``"published"``: the step of the paper and the public codes (`PublishedPiGDM`, 100 steps), with plain D, fresh noise
    of share ``eta`` (0.2 unless given), and r^2 times the guidance added: it goes too far, the more so the more steps
    are taken.
    """
    check_choice("PiGDM", "form", form, ("score", "published"))
    if form == "published":
        if sampler is not None:
            raise invalid("PiGDM", "sampler", "left out: the published form has its own step", sampler)
        return PublishedPiGDM(
            eta=0.2 if eta is None else eta,
            prior_std=prior_std,
            num_steps=100 if num_steps is None else num_steps,
            grid=grid,
        )
    if eta is not None:
        raise invalid("PiGDM", "eta", "left out: the score form has a sampler instead", eta)
    return guided(PseudoinverseGuidance(prior_std=prior_std), sampler, 50 if num_steps is None else num_steps, grid)
