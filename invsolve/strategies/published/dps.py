"""Diffusion posterior sampling (DPS): the gradient of the misfit of the denoised signal, through the denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, final

from torch import Tensor

from invsolve.core.validation import check_choice, check_positive
from invsolve.noise import Gaussian, Poisson
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import vp_grid
from invsolve.samplers.base import Level
from invsolve.strategies.base import Info, Run, needs_derivative
from invsolve.strategies.noise_levels import PerRow, information
from invsolve.strategies.published.annealed import Walk, WalkBound, ancestral, check_optional, root
from invsolve.strategies.published.likelihood_step import residual_norm

# zeta of the authors' configurations (images in [-1, 1], 1000 steps, noise 0.05).
_PUBLISHED = {
    "gaussian_blur": 0.3,
    "motion_blur": 0.3,
    "super_resolution": 0.3,
    "nonlinear_blur": 0.3,
    "inpainting": 0.5,
    "phase_retrieval": 1.0,
}


@final
@dataclass(frozen=True, kw_only=True)
class DPS(Walk[PerRow | None]):
    """Diffusion posterior sampling: an ancestral step, then a step down the misfit of ``D(x)``.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    form : {"widened", "likelihood", "paper"}
        With u the std that the paper has as 1, ``unit``. "widened" (ours, the default): ``x' - scale (a^2 - b^2) / (1 +
        v K^2) C grad_x -log p(y | A D(x))``, ``v = a^2 u^2 / (a^2 + u^2)``, K the norm of ``G^-1/2 A C^1/2``: the noise
        is widened by the most that D can leave open. Stable for any number of steps. "likelihood": the same without ``1
        + v K^2``: D stands for the signal. Needs about ``u^2 K^2`` steps. "paper": ``x' - scale u sqrt(1 + (a/u)^2)
        sqrt(1 + (b/u)^2) C grad_x ||y - A D(x)||_2``, the published step of constant length in variance-preserving
        coordinates, where no noise level appears. Counts y are weighted by 1 / (2 y), as in the paper.
    scale : float
        Factor of the step, > 0; 1 unless given. In the paper's form it is the authors' zeta (`DPS.published`).
    unit : float, optional
        u, in the units of the signal, > 0: by default the prior's scale, in the paper's form the std of an entry.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    Any noise with a gradient (the paper's form: Gaussian or Poisson). Biased by design: no form knows which directions
    D leaves open. One evaluation and one vector-Jacobian product a step. For one unknown of variance 1 and noise 0.5
    the paper's form has 0.1 to 1.3 times the right std, for zeta from 0.1 to 1.

    References
    ----------
    Chung et al. 2023, Diffusion Posterior Sampling for General Noisy Inverse Problems, arXiv 2209.14687.
    """

    form: Literal["widened", "likelihood", "paper"] = "widened"
    scale: float = 1.0
    unit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("DPS", "form", self.form, ("widened", "likelihood", "paper"))
        check_positive("DPS", "scale", self.scale)
        check_optional("DPS", "unit", self.unit)

    @classmethod
    def published(cls, task: str, *, unit: float = 1.0) -> Self:
        """The authors' step and 1000 variance-preserving levels for a task.

        Parameters
        ----------
        task : str
            "gaussian_blur", "motion_blur", "super_resolution", "nonlinear_blur", "inpainting" or "phase_retrieval".
        unit : float
            The std of an entry of the signal, which the levels are in units of.
        """
        check_choice("DPS.published", "task", task, tuple(_PUBLISHED))
        return cls(form="paper", scale=_PUBLISHED[task], unit=unit, grid=unit * vp_grid(1000))

    def missing(self, problem: Problem, prior: Prior) -> str:
        if self.form == "paper" and not isinstance(problem.noise, (Gaussian, Poisson)):
            return "Gaussian or Poisson noise, or form='widened'"
        return needs_derivative(problem)

    def prepare(self, problem: Problem, prior: Prior) -> PerRow | None:
        return PerRow.of(problem, information(problem, prior)) if self.form == "widened" else None

    def move(self, run: Run[WalkBound[PerRow | None]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        prior, problem = run.prior, run.problem
        value, pull = prior.pullback(x, a)
        clean, back = problem.operator.vjp(value)
        out = ancestral(x, value, a, b, run, i)
        if self.form == "paper":
            unit = self.unit or run.bound.unit
            size = self.scale * unit * root(1 + (a / unit) ** 2) * root(1 + (b / unit) ** 2) / run.bound.noise
            slope = residual_norm(problem, clean)[1]
        elif self.form == "likelihood":
            size = self.scale * (a * a - b * b)
            slope = problem.noise.grad(problem.data, clean, problem.operator.observed)
        else:
            # Noise that is not Gaussian by its Gaussian at A(D), whose gradient is finite where log p is not.
            local, s = problem.gaussianised(clean), self.unit or prior.scale
            open_ = a * a * s**2 / (a * a + s**2)
            tools = run.bound.tools
            assert tools is not None
            size = self.scale * (a * a - b * b) / (1 + open_ * tools.like(x) ** 2)
            slope = local.noise.grad(local.data, clean, local.operator.observed)
        return out - size * prior.noise_covariance(pull(back(slope))), {}
