"""PnP-DM: a split Gibbs sampler between a signal that fits the data and one that the prior knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.random import DrawLike
from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import invalid
from invsolve.gaussian.posterior import not_linear_gaussian
from invsolve.noise import Gaussian
from invsolve.operators.identity import Identity
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasPosterior, IsGaussian
from invsolve.problem import Problem
from invsolve.samplers import Euler, Plan, SDEDPMSolver2M, log_grid
from invsolve.samplers.base import SamplerState
from invsolve.strategies.base import Info, Run, Strategy, needs_derivative
from invsolve.strategies.noise_levels import first_signals, information, noise_size
from invsolve.strategies.published.annealed import check_optional, check_share
from invsolve.strategies.published.likelihood_step import likelihood_gradient, tamed
from invsolve.strategies.published.proximal import DataStep

_TIGHT = 0.3  # rho at the end, in stds of the best measured direction: its noise variance grows by 9 %
_FLOOR = 0.02  # of rho: where the prior step's levels end
_LATER = 10**6  # indices of draws that know of no iterations
_STABLE = 0.3  # of the largest step of Langevin dynamics that is stable, 2 / curvature


@final
@dataclass(frozen=True, kw_only=True)
class PnPDM(Strategy[SamplerState, "PnPDMBound"]):
    """A split Gibbs sampler between a signal that fits the data and one that the prior knows.

    Alternate ``z ~ p(y | A z) N(z; x, rho^2 C)`` and ``x ~ p(x0 | x0 + rho C^(1/2) e = z)`` while rho falls:
    ``max(rho_min, rho_max decay^k)`` in iteration k of ``num_steps``.

    Parameters
    ----------
    num_steps : int
        Iterations, at least 1; 100 unless given.
    rho_max, rho_min : float, optional
        First and last rho, in the units of the signal, > 0; by default ten times the prior's scale and 0.3 of the noise
        std over ``|A C^(1/2)|``, whatever the number of steps.
    decay : float, optional
        Factor of rho from one iteration to the next, in (0, 1]; by default rho falls over the first three quarters.
    data_step : {"auto", "exact", "langevin"}
        "exact": in closed form (linear operators, Gaussian noise); "langevin": unadjusted steps from x, none of whose
        drifts is longer than rho. "auto": exact where it can be.
    prior_step : {"auto", "exact", "sde", "ode"}
        "exact": in closed form, for priors that have posteriors (what "auto" takes for Gaussian priors); "sde": a
        stochastic sampler; "ode": Euler's method, which the public code offers and which is no Gibbs step: spreads come
        out too small.
    prior_steps : int
        Evaluations of a prior step, at least 1; 20 unless given.
    langevin_steps : int
        Langevin steps of a data step, at least 1; 100 unless given.
    step_size : float, optional
        Of the Langevin steps, > 0; by default 0.3 of the largest stable one.

    Raises
    ------
    InputError
        If an option is out of range, or ``rho_min`` above ``rho_max``.

    Notes
    -----
    At rest the signals have the posterior of data with noise ``G + rho^2 A C A^H``: right where ``rho_min`` is well
    below the noise over |A|, and slow to mix there. No derivative of the denoiser.

    References
    ----------
    Wu et al. 2024, Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play Priors, arXiv 2405.18782.
    """

    num_steps: int = 100
    rho_max: float | None = None
    rho_min: float | None = None
    decay: float | None = None
    data_step: Literal["auto", "exact", "langevin"] = "auto"
    prior_step: Literal["auto", "exact", "sde", "ode"] = "auto"
    prior_steps: int = 20
    langevin_steps: int = 100
    step_size: float | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "prior_steps", "langevin_steps"):
            check_int("PnPDM", name, getattr(self, name), minimum=1)
        for name in ("rho_max", "rho_min", "decay", "step_size"):
            check_optional("PnPDM", name, getattr(self, name))
        check_share("PnPDM", "decay", 1.0 if self.decay is None else self.decay)
        if self.rho_max is not None and self.rho_min is not None and not self.rho_min <= self.rho_max:
            raise invalid("PnPDM", "rho_min", f"at most rho_max, {self.rho_max:g}", self.rho_min)
        check_choice("PnPDM", "data_step", self.data_step, ("auto", "exact", "langevin"))
        check_choice("PnPDM", "prior_step", self.prior_step, ("auto", "exact", "sde", "ode"))

    @classmethod
    def published(cls, *, unit: float = 1.0, rho_min: float = 0.3) -> Self:
        """The authors' 100 iterations, rho from 10 by 0.9 to 0.3, 100 levels of the prior step.

        Parameters
        ----------
        unit : float
            The std of an entry of the signal, which rho is in units of.
        rho_min : float
            The last rho: 0.3 for deblurring and super-resolution (the default), 0.1 for phase retrieval.
        """
        check_positive("PnPDM.published", "unit", unit)
        return cls(rho_max=10 * unit, rho_min=rho_min * unit, decay=0.9, prior_steps=100, prior_step="sde")

    def missing(self, problem: Problem, prior: Prior) -> str:
        if reason := needs_derivative(problem):
            return reason
        if self.prior_step == "exact" and not _knows_itself(prior):
            return f"a prior with a closed-form posterior ({type(prior).__name__} has none), or prior_step='sde'"
        lacking = not_linear_gaussian(problem) if self.data_step == "exact" else ""
        return f"{lacking}: data_step='langevin'" if lacking else ""

    def bind(self, problem: Problem, prior: Prior) -> PnPDMBound:
        exact = not not_linear_gaussian(problem)
        known = information(problem, prior).expand(len(problem.data))
        high = self.rho_max or min(10 * prior.scale, prior.sigma_range[1])
        low = torch.full_like(known, self.rho_min) if self.rho_min else (_TIGHT / known).clamp(max=high)
        low = low.clamp(min=prior.sigma_range[0])
        if self.decay is None:
            share = torch.linspace(0, 1, max(2, 3 * self.num_steps // 4), dtype=torch.float64, device="cpu")
            rho = high * (low[:, None] / high) ** share
        else:
            power = torch.arange(self.num_steps, dtype=torch.float64, device="cpu")
            rho = torch.maximum(high * self.decay**power, low[:, None])
        last = low[:, None].expand(-1, max(0, self.num_steps - rho.shape[1]))
        return PnPDMBound(
            rho=torch.cat([rho, last], 1)[:, : self.num_steps],
            shared=problem.shared,
            information=known,
            noise=noise_size(prior),
            data_step=DataStep.from_problem(problem, prior) if exact and self.data_step != "langevin" else None,
        )

    def init(self, run: Run[PnPDMBound]) -> SamplerState:
        bound = run.bound
        return SamplerState(x=first_signals(run, torch.zeros_like(bound.rho[:, 0])))

    def step(self, run: Run[PnPDMBound], state: SamplerState, i: int) -> tuple[SamplerState, Info]:
        bound = run.bound
        rho = bound.rho[:, i].to(state.x.device, run.prior.dtype).view(-1, *([1] * (state.x.ndim - 1)))
        if bound.data_step is not None:
            noise = run.problem.noise.sample(torch.zeros_like(run.problem.data), run.draws, step=i + 1, index=1)
            z = bound.data_step.draw(state.x, rho**2, run.noise(i), noise)
        else:
            z = self._langevin(run, bound, state.x, rho, i)
        return SamplerState(x=self._prior(run, bound, z, rho, i)), {}

    def _langevin(self, run: Run[PnPDMBound], bound: PnPDMBound, x: Tensor, rho: Tensor, i: int) -> Tensor:
        known = bound.information.to(rho.device, rho.dtype).view(rho.shape)
        size = self.step_size or 2 * _STABLE / (known**2 + 1 / rho**2)
        z = x
        for k in range(self.langevin_steps):
            force = run.prior.noise_covariance(likelihood_gradient(run.problem, z)) + (z - x) / rho**2
            z = z - tamed(size * force, rho * bound.noise) + (2 * size) ** 0.5 * run.noise(i, 3 + k)
        return z

    def _prior(self, run: Run[PnPDMBound], bound: PnPDMBound, z: Tensor, rho: Tensor, i: int) -> Tensor:
        prior = run.prior
        # Of mixtures the closed form is one factorisation a row: only where it is asked for.
        if self.prior_step == "exact" or (self.prior_step == "auto" and isinstance(prior, IsGaussian)):
            return _exact_draw(run, z, rho, i)
        high = bound.rho[:1, i] if bound.shared else bound.rho[:, i]
        floor = torch.maximum(_FLOOR * high, torch.full_like(high, prior.sigma_range[0]))
        grid = log_grid(high, torch.minimum(floor, 0.5 * high), self.prior_steps)
        plan = Plan.make(SDEDPMSolver2M() if self.prior_step != "ode" else Euler(), grid[0] if bound.shared else grid)
        state = plan.sampler.init(z)
        first = 3 + self.langevin_steps
        for j in range(plan.num_steps):
            state = plan.step(prior.denoise, state, j, partial(_drawn, run, i, first + 2 * j))
        return state.x


def _drawn(run: Run[PnPDMBound], i: int, first: int, index: int) -> Tensor:
    return run.noise(i, first + index)


def _exact_draw(run: Run[PnPDMBound], z: Tensor, rho: Tensor, i: int) -> Tensor:
    """A draw of x0 given ``x0 + rho C^(1/2) e = z``."""
    prior = run.prior
    if isinstance(prior, IsGaussian):
        law = prior.law
        level = rho.view(-1, *([1] * len(law.modes.mode_shape)))
        u = law.posterior_variances(level).sqrt() * run.normal(i, 2).reshape(len(z), *law.modes.mode_shape)
        return prior.denoise(z, rho) + law.modes.synthesis(u)
    noisy = Problem(
        Identity(prior.shape, kind=prior.kind), z, noise=Gaussian(std=rho.expand(-1, *([1] * len(prior.shape))))
    )
    return prior.posterior(noisy).draw(_Later(run.draws, i + 1))


@final
@dataclass(frozen=True, eq=False)
class _Later:
    """The numbers of one iteration for a draw that knows of no iterations."""

    draws: DrawLike
    step: int

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        return self.draws.normal(shape, dtype, step=self.step, index=_LATER * (1 + step) + index)

    def take(self, rows: Tensor) -> DrawLike:
        return _Later(self.draws.take(rows), self.step)


def _knows_itself(prior: Prior) -> bool:
    return isinstance(prior, IsGaussian) or (isinstance(prior, HasPosterior) and prior.white_noise)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PnPDMBound:
    """The rho of every iteration, and what the data step needs."""

    rho: Tensor  # (rows, num_steps), float64, CPU
    shared: bool  # all rows have the same rho
    information: Tensor  # (rows,), CPU
    noise: float  # the root mean square of diffusion noise of level 1
    data_step: DataStep | None

    def take(self, index: Tensor) -> Self:
        here = index.cpu()
        return replace(
            self,
            rho=self.rho[here],
            information=self.information[here],
            data_step=None if self.data_step is None else self.data_step.take(index),
        )
