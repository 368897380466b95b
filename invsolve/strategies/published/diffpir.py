"""DiffPIR: denoise, move to the data by a proximal step, add noise again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, final

from torch import Tensor

from invsolve.core.validation import check_choice, check_positive
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import ddpm_grid, karras_grid
from invsolve.samplers.base import Level, is_zero
from invsolve.strategies.base import Info, Run, needs_derivative
from invsolve.strategies.published.annealed import Walk, WalkBound, check_share, fixed_eta
from invsolve.strategies.published.proximal import DataStep

# lam, zeta, steps and spacing: configurations and main_ddpir_deblur.py of the authors (arXiv 2305.08995).
_PUBLISHED = {
    "blur": (0.25, 0.1, 100),
    "super_resolution": (0.25, 0.25, 100),
    "inpainting": (0.25, 1.0, 20),
    "inversebench": (8.0, 1.0, 1000),
}


@final
@dataclass(frozen=True, kw_only=True)
class DiffPIR(Walk[DataStep]):
    """Denoise, move to the data by a proximal step, add noise again.

    ``u = argmin -log p(y | A u) + lam |u - D|^2 / 2a^2``, then ``u + b (sqrt(1 - zeta) (x - u)/a + sqrt(zeta) e)``.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    lam : float
        How far D is trusted, > 0; 1 (the default): as a signal of variance a^2.
    zeta : float
        The share of fresh noise, from 0 to 1; 0.1 unless given.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    Linear operators and Gaussian noise have the exact proximal point, others the one of their linearisation and
    Gaussian at D. The last step returns D. No derivative of the denoiser; one evaluation a step.

    For Gaussian priors of independent entries it tends to the posterior as steps grow and then zeta falls; with
    ``zeta = 1`` or ``lam = 8`` it does not: see `docs/strategies.md`.

    References
    ----------
    Zhu et al. 2023, Denoising Diffusion Models for Plug-and-Play Image Restoration, arXiv 2305.08995.
    """

    lam: float = 1.0
    zeta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("DiffPIR", "lam", self.lam)
        check_share("DiffPIR", "zeta", self.zeta)

    @classmethod
    def published(
        cls, task: Literal["blur", "super_resolution", "inpainting", "inversebench"], *, unit: float = 1.0
    ) -> Self:
        """The authors' settings for a task, or those of InverseBench.

        100 DDPM levels (20 for inpainting) with quadratic spacing; InverseBench: lam 8, zeta 1 and 1000 levels. The
        authors' lambda of 1 is a ``lam`` of 1/4: their noise level is that of images in [0, 1], their a of [-1, 1].

        Parameters
        ----------
        task : {"blur", "super_resolution", "inpainting", "inversebench"}
            What is restored.
        unit : float
            The std of an entry of the signal, which the levels are in units of.
        """
        check_choice("DiffPIR.published", "task", task, tuple(_PUBLISHED))
        check_positive("DiffPIR.published", "unit", unit)
        lam, zeta, steps = _PUBLISHED[task]
        grid = karras_grid(100.0, 0.01, steps) if task == "inversebench" else ddpm_grid(steps, spacing="quadratic")
        return cls(lam=lam, zeta=zeta, grid=unit * grid)

    def missing(self, problem: Problem, prior: Prior) -> str:
        return needs_derivative(problem)

    def prepare(self, problem: Problem, prior: Prior) -> DataStep:
        return DataStep.from_problem(problem, prior)

    def move(self, run: Run[WalkBound[DataStep]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        value = run.prior.denoise(x, a)
        if is_zero(b):
            return value, {}
        point = run.bound.tools.mean(value, a * a / self.lam)
        return fixed_eta(point, x - point, a, b, self.zeta**0.5, run, i), {}
