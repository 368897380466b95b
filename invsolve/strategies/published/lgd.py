"""Loss-guided diffusion (LGD): the likelihood averaged over a cloud around the denoised signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import check_int
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers.base import Level
from invsolve.strategies.base import Info, Run, needs_derivative
from invsolve.strategies.published.annealed import Walk, WalkBound, ancestral, check_optional, root
from invsolve.strategies.published.likelihood_step import tamed


@final
@dataclass(frozen=True, kw_only=True)
class LGD(Walk[None]):
    """Loss-guided diffusion: the likelihood averaged over a cloud of points around the denoised signal.

    ``g = grad_x log (1/K) sum_k p(y | A(D + r xi_k))``, ``r = a u / sqrt(a^2 + u^2)``; an ancestral step with
    ``D + a^2 C g``.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    clouds : int
        K, the number of points, at least 1; 16 unless given.
    trust : float, optional
        No guidance is longer than this many times the noise of the level (root mean square), > 0; 1 unless given, None:
        as it is.
    unit : float, optional
        u, the std of an entry of the signal; by default the prior's root mean variance.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    For linear operators, Gaussian noise and many points this is PiGDM; with few points in many dimensions one point has
    all the weight, and the step is too long: hence ``trust``. One evaluation, one vector-Jacobian product and K of the
    operator a step.

    References
    ----------
    Song et al. 2023, Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation, ICML 2023,
    https://proceedings.mlr.press/v202/song23k.html.
    """

    clouds: int = 16
    trust: float | None = 1.0
    unit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("LGD", "clouds", self.clouds, minimum=1)
        for name in ("trust", "unit"):
            check_optional("LGD", name, getattr(self, name))

    def missing(self, problem: Problem, prior: Prior) -> str:
        return needs_derivative(problem)

    def move(self, run: Run[WalkBound[None]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        prior, rows, count = run.prior, run.rows, self.clouds
        value, pull = prior.pullback(x, a)
        unit = self.unit or run.bound.unit
        width = a / root(1 + (a / unit) ** 2)
        points = torch.cat([value + width * run.noise(i, 1 + k) for k in range(count)])  # draw 0 is the step's
        many = run.problem.take(torch.arange(rows, device=x.device).repeat(count))
        clean, back = many.operator.vjp(points)
        logs = many.noise.log_prob(many.data, clean, many.operator.observed).double().view(count, rows)
        weights = torch.softmax(logs, 0).nan_to_num(1 / count)  # all of likelihood zero
        slopes = back(many.noise.grad(many.data, clean, many.operator.observed)).view(count, *x.shape)
        slope = (weights.to(slopes.real.dtype).view(count, rows, *[1] * (x.ndim - 1)) * slopes).sum(0)
        out = ancestral(x, value, a, b, run, i)
        step = (a * a - b * b) * prior.noise_covariance(pull(slope))
        return out - (step if self.trust is None else tamed(step, self.trust * a * run.bound.noise)), {}
