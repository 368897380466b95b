"""PiGDM as published: a sampler's step with the plain denoiser, then a step along the pseudoinverse guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers.base import Level
from invsolve.strategies.base import Info, Run, needs_derivative
from invsolve.strategies.published.annealed import Walk, WalkBound, check_optional, check_share, fixed_eta
from invsolve.strategies.published.proximal import DataStep


@final
@dataclass(frozen=True, kw_only=True)
class PublishedPiGDM(Walk[DataStep]):
    """PiGDM's published step: a sampler's step with the plain denoiser, then one along the pseudoinverse guidance.

    ``x' = D + sqrt(1 - eta^2) (b/a) (x - D) + eta b e + r^2 J^H A^H (r^2 A A^H + G)^-1 (y - A D)``, in the form of the
    public codes; made by ``PiGDM(form="published")``.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    eta : float
        Share of fresh noise, from 0 to 1; 0.2 unless given.
    prior_std : float, optional
        s of ``r^2 = a^2 s^2 / (s^2 + a^2)``, > 0, in the units of the signal; by default the prior's root mean
        variance.

    Raises
    ------
    InputError
        If an option is out of range.

    References
    ----------
    Song, Vahdat, Mardani & Kautz 2023, Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023,
    https://openreview.net/forum?id=9_gsMA8MRKQ.
    """

    eta: float = 0.2
    prior_std: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("PiGDM", "eta", self.eta)
        check_optional("PiGDM", "prior_std", self.prior_std)

    @property
    def name(self) -> str:
        """The published form has a name of its own: "PiGDM, published"."""
        return "PiGDM, published"

    def missing(self, problem: Problem, prior: Prior) -> str:
        return needs_derivative(problem)

    def prepare(self, problem: Problem, prior: Prior) -> DataStep:
        return DataStep.from_problem(problem, prior)

    def move(self, run: Run[WalkBound[DataStep]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        value, pull = run.prior.pullback(x, a)
        std = self.prior_std or run.bound.unit
        r2 = a * a * std**2 / (std**2 + a * a)
        out = fixed_eta(value, x - value, a, b, self.eta, run, i)
        return out + r2 * run.prior.noise_covariance(pull(run.bound.tools.back(value, r2))), {}
