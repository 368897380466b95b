"""DiffPIR: denoise, move to the data by a proximal step, add noise again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

from torch import Tensor

from invsolve.checks import check_positive
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import karras_grid
from invsolve.samplers.base import Level
from invsolve.strategies.base import Info, Run
from invsolve.strategies.guided import needs_derivative
from invsolve.strategies.resolvent import DataStep
from invsolve.strategies.walk import Walk, check_share, fixed_eta


@final
@dataclass(frozen=True, kw_only=True)
class DiffPIR(Walk):
    """``u = argmin -log p(y | A u) + lam |u - D|^2 / 2a^2``, then ``u + b (sqrt(1 - zeta) (x - u)/a + sqrt(zeta) e)``.

    Zhu et al. 2023 (arXiv 2305.08995). ``lam``: how far D is trusted (1: as a signal of variance a^2); ``zeta``: the
    share of fresh noise. Linear operators and Gaussian noise have the exact proximal point, others the one of their
    linearisation and Gaussian at D. The last step returns D. No derivative of the denoiser; one evaluation a step.

    Where the prior is Gaussian with independent entries of variance 1 it tends to the posterior as steps grow and zeta
    falls; with ``zeta = 1`` or ``lam = 8`` it does not: see `docs/strategies.md`.
    """

    lam: float = 1.0
    zeta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("DiffPIR", "lam", self.lam)
        check_share("DiffPIR", "zeta", self.zeta)

    @classmethod
    def published(cls, *, unit: float = 1.0) -> Self:
        """InverseBench's: lam 8, zeta 1, 1000 levels from 100 to 0.01 in units of ``unit``, the std of an entry."""
        return cls(lam=8.0, zeta=1.0, grid=unit * karras_grid(100.0, 0.01, 1000))

    def missing(self, problem: Problem, prior: Prior) -> str:
        return needs_derivative(problem)

    def prepare(self, problem: Problem, prior: Prior) -> DataStep:
        return DataStep.of(problem, prior)

    def move(self, run: Run, x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        value = run.prior.denoise(x, a)
        if isinstance(b, float) and b == 0.0:
            return value, {}
        point = run.bound.tools.mean(value, a * a / self.lam)
        return fixed_eta(point, x - point, a, b, self.zeta**0.5, run, i), {}
