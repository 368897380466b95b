"""Diffusion posterior sampling (DPS): the gradient of the misfit of the denoised signal, through the denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, final

from torch import Tensor

from invsolve.checks import check_choice, check_positive
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import vp_grid
from invsolve.samplers.base import Level
from invsolve.strategies.base import Info, Run
from invsolve.strategies.levels import entry_std
from invsolve.strategies.likelihood_step import capped, needs_derivative, residual_norm
from invsolve.strategies.walk import Walk, ancestral, check_optional, root

# zeta of the authors' configurations (images in [-1, 1], 1000 steps, noise 0.05; guidance card 2).
_PUBLISHED = {
    "gaussian_blur": 0.3, "motion_blur": 0.3, "super_resolution": 0.3, "nonlinear_blur": 0.3, "inpainting": 0.5,
    "phase_retrieval": 1.0,
}


@final
@dataclass(frozen=True, kw_only=True)
class DPS(Walk):
    """An ancestral step, then a step down the misfit of ``D(x)`` (Chung et al. 2023, arXiv 2209.14687).

    ``form="likelihood"`` (ours): ``x' - scale (a^2 - b^2) C grad_x -log p(y | A D(x))``, an ancestral step with
    ``D + a^2 C grad log p``; residuals that are larger than ``cap`` noise stds (root mean square over the data) are
    followed as if they were of that size, without which coarse steps diverge (``cap=None``: the likelihood as it is).
    Any noise with a gradient.

    ``form="paper"``: ``x' - scale u sqrt(1 + (a/u)^2) sqrt(1 + (b/u)^2) C grad_x ||y - A D(x)||_2``, the published step
    of constant length in variance-preserving coordinates, where no noise level appears; u is ``unit``, the std of an
    entry of the signal that the paper has as 1, by default the prior's root mean variance. `DPS.published` has the
    authors' zeta and grid.

    Biased by design: D stands for the signal without its uncertainty. One evaluation and one vector-Jacobian product a
    step. With one number of variance 1, noise 0.5: std 0.97 of the right one (likelihood form), 0.1 to 1.3 for zeta
    from 0.1 to 1 (paper).
    """

    form: Literal["likelihood", "paper"] = "likelihood"
    scale: float = 1.0
    cap: float | None = 1.0
    unit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("DPS", "form", self.form, ("likelihood", "paper"))
        check_positive("DPS", "scale", self.scale)
        for name in ("cap", "unit"):
            check_optional("DPS", name, getattr(self, name))

    @classmethod
    def published(cls, task: str, *, unit: float = 1.0) -> Self:
        """The authors' step and 1000 variance-preserving levels for ``"gaussian_blur"``, ``"motion_blur"``,
        ``"super_resolution"``, ``"nonlinear_blur"``, ``"inpainting"`` or ``"phase_retrieval"``; levels are in units of
        ``unit``, the std of an entry of the signal."""
        check_choice("DPS.published", "task", task, tuple(_PUBLISHED))
        return cls(form="paper", scale=_PUBLISHED[task], unit=unit, grid=unit * vp_grid(1000))

    def missing(self, problem: Problem, prior: Prior) -> str:
        return needs_derivative(problem)

    def move(self, run: Run, x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        prior, problem = run.prior, run.problem
        value, pull = prior.pullback(x, a)
        clean, back = problem.operator.vjp(value)
        out = ancestral(x, value, a, b, run, i)
        if self.form == "paper":
            unit = self.unit or entry_std(prior)
            size = self.scale * unit * root(1 + (a / unit) ** 2) * root(1 + (b / unit) ** 2)
            slope = residual_norm(problem, clean)[1]
        else:
            size = self.scale * (a * a - b * b)
            slope = capped(problem, clean, self.cap)
        return out - size * prior.noise_covariance(pull(back(slope))), {}
