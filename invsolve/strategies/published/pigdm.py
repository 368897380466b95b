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
from invsolve.strategies.base import Info, Strategy, needs_derivative
from invsolve.strategies.guidance.guided import BoundGuidance, Guidance, Guided
from invsolve.strategies.guidance.preset import Preset, guided
from invsolve.strategies.published.pigdm_published import PublishedPiGDM
from invsolve.strategies.published.proximal import DataStep


@final
@dataclass(frozen=True, kw_only=True)
class PseudoinverseGuidance(Guidance):
    """Guidance of PiGDM in its score form: ``g = J^H A^H (r^2 A A^H + G)^-1 (y - A D)``.

    ``r^2 = t^2 s^2 / (s^2 + t^2)`` takes the signal for independent entries of standard deviation s.

    Parameters
    ----------
    prior_std : float, optional
        s in the units of the signal, > 0: 1 in the paper, by default the prior's scale, the largest standard deviation
        of any direction: with less the walk diverges where the data see that direction.
    rtol : float, optional
        Relative residual of the linear solve, > 0; `core.conjugate_gradients.default_rtol` unless given.
    max_iter : int
        Iterations of the linear solve at most, at least 1; 100 unless given.

    Raises
    ------
    InputError
        If ``prior_std`` or ``rtol`` is not positive, or ``max_iter`` below 1.

    Notes
    -----
    Exact only for independent entries: correlated priors are given too wide posteriors. Noise that is not Gaussian is
    replaced by its Gaussian at D.

    References
    ----------
    Song, Vahdat, Mardani & Kautz 2023, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023,
    https://openreview.net/forum?id=9_gsMA8MRKQ.
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
        step = DataStep.from_problem(problem, prior, rtol=self.rtol, max_iter=self.max_iter)
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


@final
class PiGDM(Guided, metaclass=Preset):
    """Pseudoinverse-guided diffusion, in its score form or as published.

    Parameters
    ----------
    form : {"score", "published"}
        "score" (the default): `PseudoinverseGuidance` with a sampler. "published": the step of the paper and the public
        codes (`PublishedPiGDM`), with plain D, fresh noise, and r^2 times the guidance added: it goes too far, the more
        so the more steps are taken.
    prior_std : float, optional
        Of `PseudoinverseGuidance` or `PublishedPiGDM`.
    sampler : Sampler, optional
        Of the score form; `iv.samplers.SDEDPMSolver2M` unless given.
    num_steps : int, optional
        50 unless given, 100 as published.
    grid : Tensor, shape (N + 1,), optional
        Of `Guided` or `PublishedPiGDM`.
    eta : float, optional
        Share of fresh noise of the published form, from 0 to 1; 0.2 unless given.

    Returns
    -------
    Guided or PublishedPiGDM
        ``Guided(guidance=PseudoinverseGuidance(...), sampler=...)``, or the published form.

    Raises
    ------
    InputError
        If an option is out of range, ``eta`` is given with the score form or ``sampler`` with the published one.

    References
    ----------
    Song, Vahdat, Mardani & Kautz 2023, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023,
    https://openreview.net/forum?id=9_gsMA8MRKQ.
    """

    guidance_type = PseudoinverseGuidance
    other_form = PublishedPiGDM

    def __new__(  # type: ignore[misc]  # see `Preset`
        cls,
        *,
        form: Literal["score", "published"] = "score",
        prior_std: float | None = None,
        sampler: Sampler | None = None,
        num_steps: int | None = None,
        grid: Tensor | None = None,
        eta: float | None = None,
    ) -> Strategy:
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
