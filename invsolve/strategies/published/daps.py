"""Decoupled annealing (DAPS): run the flow to a clean signal, draw around it given the data, add noise again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.core.validation import check_choice, check_int, check_positive, real_dtype
from invsolve.gaussian.posterior import not_linear_gaussian
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import karras_grid
from invsolve.samplers.base import Level, is_zero
from invsolve.strategies.base import Info, Run, needs_derivative
from invsolve.strategies.noise_levels import PerRow, information
from invsolve.strategies.published.annealed import Walk, WalkBound, check_optional
from invsolve.strategies.published.likelihood_step import likelihood_gradient, tamed
from invsolve.strategies.published.proximal import DataStep

_RHO = 7.0  # of the levels of the inner flow
_ACCEPTED = 0.25  # of the steps of Crank-Nicolson
_GAIN = 1.0  # by how much one of them changes the logarithm of the next ones' length, at first
_STABLE = 0.3  # of the largest step of Langevin dynamics that is stable, 2 / curvature
# Step of the authors' configurations, for |A| <= 1 and images in [-1, 1].
_PUBLISHED = {
    "super_resolution": (1e-4, 100),
    "inpainting": (1e-4, 100),
    "gaussian_blur": (1e-4, 100),
    "box_inpainting": (5e-5, 100),
    "motion_blur": (5e-5, 100),
    "phase_retrieval": (5e-5, 100),
    "nonlinear_blur": (1e-5, 200),
}


@final
@dataclass(frozen=True, kw_only=True)
class DAPS(Walk["_Tools"]):
    """Decoupled annealing: a clean signal by the probability flow, a draw around it given the data, new noise.

    At level a the flow gives x-hat; then ``N(x-hat, a^2 C) p(y | .)`` is drawn from, and noise of level b is added.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    inner : {"auto", "exact", "langevin", "pcn"}
        "exact" draws in closed form (linear operators, Gaussian noise); "langevin" takes unadjusted Langevin steps,
        none of whose drifts is longer than a, with C in front of drift and noise; "pcn" takes preconditioned
        Crank-Nicolson steps ``x-hat + sqrt(1 - b^2) (x - x-hat) + b a C^1/2 e``, accepted by the likelihood: without a
        gradient or the bias of a step length, and the same on every grid of a field. "auto": exact where it can be.
    ode_steps : int
        Euler steps of the flow, at least 1; 5 unless given.
    floor : float, optional
        Level at which the flow ends, before its step to 0, in the units of the signal; a tenth of the last level of the
        grid unless given.
    langevin_steps : int
        Langevin or Crank-Nicolson steps at each level, at least 1; 100 unless given.
    step_size : float, optional
        Of the Langevin steps, falling linearly to a hundredth over the levels; by default, at every level, 0.3 of the
        largest stable one. Crank-Nicolson steps find theirs, b, at every level: a quarter of them are accepted.
    tau : float, optional
        A noise std in place of the problem's own; the paper's 0.01 is not the noise level.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    Biased by design: a^2 is not the variance of the signal given x, so unobserved directions spread too far (without
    any data a prior of variance 1 comes out with 1.8); with the published step size they hardly move. ``ode_steps``
    evaluations a step, no derivative of the denoiser. With a prior of the coefficient of an equation, and an operator
    that solves it, this is the decoupled solver of Lin et al. (DDIS), whose gradient steps have no C.

    References
    ----------
    Zhang et al. 2024, Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing, arXiv 2407.01521.

    Lin, Yao, Chiang, Berner & Anandkumar 2026, Decoupled Diffusion Sampling for Inverse Problems on Function Spaces,
    arXiv 2601.23280.
    """

    inner: Literal["auto", "exact", "langevin", "pcn"] = "auto"
    ode_steps: int = 5
    floor: float | None = None
    langevin_steps: int = 100
    step_size: float | None = None
    tau: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("DAPS", "inner", self.inner, ("auto", "exact", "langevin", "pcn"))
        check_int("DAPS", "ode_steps", self.ode_steps, minimum=1)
        check_int("DAPS", "langevin_steps", self.langevin_steps, minimum=1)
        for name in ("floor", "step_size", "tau"):
            check_optional("DAPS", name, getattr(self, name))

    @classmethod
    def published(cls, task: str, *, unit: float = 1.0) -> Self:
        """The authors' 200 levels from 100 to 0.1, tau 0.01 and Langevin steps for a task.

        Parameters
        ----------
        task : str
            Those of `DPS.published`, or "box_inpainting".
        unit : float
            The std of an entry of the signal, which levels and tau are in units of; |A| is at most 1.
        """
        check_choice("DAPS.published", "task", task, tuple(_PUBLISHED))
        check_positive("DAPS.published", "unit", unit)
        size, steps = _PUBLISHED[task]
        return cls(
            inner="langevin",
            floor=0.01 * unit,
            tau=0.01 * unit,
            step_size=size * unit**2,
            langevin_steps=steps,
            grid=unit * karras_grid(100.0, 0.1, 200),
        )

    def missing(self, problem: Problem, prior: Prior) -> str:
        if reason := needs_derivative(problem):
            return reason
        if self.tau is not None and not isinstance(problem.noise, Gaussian):
            return "Gaussian noise, or tau=None"
        lacking = not_linear_gaussian(problem) if self.inner == "exact" else ""
        return f"{lacking}: inner='langevin'" if lacking else ""

    def prepare(self, problem: Problem, prior: Prior) -> _Tools:
        if self.tau is not None:
            problem = problem.replaced(operator=problem.operator, noise=Gaussian(std=self.tau))
        exact = not not_linear_gaussian(problem)
        if self.inner in ("langevin", "pcn") or (self.inner == "auto" and not exact):
            wanted = self.step_size is None or self.inner == "pcn"
            known = PerRow.of(problem, information(problem, prior)) if wanted else None
            return _Tools(problem=problem, exact=None, information=known)
        return _Tools(problem=problem, exact=DataStep.from_problem(problem, prior), information=None)

    def move(self, run: Run[WalkBound[_Tools]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        tools = run.bound.tools
        clean = self._flow(run, x, a)
        if tools.exact is not None:
            noise = tools.problem.noise.sample(torch.zeros_like(tools.problem.data), run.draws, step=i + 1, index=2)
            x = tools.exact.draw(clean, a * a, run.noise(i, 1), noise)
        elif self.inner == "pcn":
            x = self._crank_nicolson(run, tools, clean, a, i)
        else:
            x = self._langevin(run, tools, clean, a, i)
        return (x if is_zero(b) else x + b * run.noise(i)), {}

    def _flow(self, run: Run[WalkBound[_Tools]], x: Tensor, a: Level) -> Tensor:
        floor = self.floor or 0.1 * run.bound.level(self.num_steps - 1, x)
        if isinstance(a, Tensor):
            floor = torch.minimum(a, torch.as_tensor(floor, dtype=a.dtype, device=a.device))
        else:
            floor = min(a, floor)
        low, high = floor ** (1 / _RHO), a ** (1 / _RHO)
        levels = [(high + j / max(1, self.ode_steps - 1) * (low - high)) ** _RHO for j in range(self.ode_steps)]
        for j, here in enumerate(levels):
            value = run.prior.denoise(x, here)
            x = value if j + 1 == len(levels) else value + (levels[j + 1] / here) * (x - value)
        return x

    def _langevin(self, run: Run[WalkBound[_Tools]], tools: _Tools, centre: Tensor, a: Level, i: int) -> Tensor:
        prior, problem, x = run.prior, tools.problem, centre
        size: Level
        if self.step_size is not None:
            size = self.step_size * (1 + i / self.num_steps * (0.01 - 1))
        else:
            assert tools.information is not None
            size = 2 * _STABLE / (tools.information.like(x) ** 2 + 1 / (a * a))
        spread = (2 * size) ** 0.5
        for k in range(self.langevin_steps):
            force = prior.noise_covariance(likelihood_gradient(problem, x))
            drift = size * ((x - centre) / (a * a) + force)
            x = x - tamed(drift, a * run.bound.noise) + spread * run.noise(i, 1 + k)
        return x

    def _crank_nicolson(self, run: Run[WalkBound[_Tools]], tools: _Tools, centre: Tensor, a: Level, i: int) -> Tensor:
        problem, x = tools.problem, centre
        assert tools.information is not None
        # Where the data say more than the noisy signal a step is about as long as what they leave open.
        known = (a * tools.information.like(x)).flatten().double()
        log_b = -0.5 * torch.log1p(known**2)
        log_p = _known(problem.log_likelihood(x))
        for k in range(self.langevin_steps):
            b = expand(log_b.exp().to(real_dtype(x.dtype)), x)
            tried = centre + (1 - b * b).clamp_min(0).sqrt() * (x - centre) + b * a * run.noise(i, 1 + 2 * k)
            found = _known(problem.log_likelihood(tried))
            chance = run.draws.normal((1,), log_p.dtype, step=i + 1, index=2 + 2 * k)[:, 0]
            better = torch.special.log_ndtr(chance) < found - log_p  # not from nothing to nothing
            x, log_p = tried.where(expand(better, x), x), found.where(better, log_p)
            log_b = (log_b + _GAIN / (k + 1) ** 0.5 * (better.double() - _ACCEPTED)).clamp_max(0)
        return x


def _known(log_p: Tensor) -> Tensor:
    """Where the operator is no number there is no likelihood."""
    return log_p.double().nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Tools:
    problem: Problem  # with the noise that the method is told
    exact: DataStep | None
    information: PerRow | None  # |G^-1/2 A C^1/2|

    def take(self, index: Tensor) -> Self:
        return replace(
            self,
            problem=self.problem.take(index),
            exact=None if self.exact is None else self.exact.take(index),
            information=None if self.information is None else self.information.take(index),
        )
