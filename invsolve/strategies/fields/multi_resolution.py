"""Sampling that begins on a coarse grid: the fine modes of a field are added once the noise no longer hides them."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Self, final

import torch
import torch.nn.functional as F
from torch import Tensor

from invsolve.core.validation import Shape, check_dims, check_int
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.systems import DenseSystem, System, make_system, taken
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.problem import Problem
from invsolve.samplers import Plan, Sampler, SDEDPMSolver2M, log_grid
from invsolve.samplers.base import SamplerState
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.guidance.gauss_newton import gauss_newton
from invsolve.strategies.guidance.guided import BoundGuidance
from invsolve.strategies.guidance.mmps import MomentMatching
from invsolve.strategies.noise_levels import noise_levels
from invsolve.strategies.published.annealed import check_optional

_ABOVE = 2.0  # stds of the fine modes: there they are 4/5 noise
_TOL, _MAX_ITER = 1e-8, 400  # of solves that are not dense


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MultiResolutionState:
    """The walk on the coarse grid, and that on the fine one, which is zero until it begins."""

    coarse: SamplerState
    fine: SamplerState


@final
@dataclass(frozen=True)
class MultiResolution(Strategy[MultiResolutionState, "MultiResolutionBound"]):
    """Moment-matching guidance on a coarse grid first, on the grid of the prior at last.

    Down to the level ``switch`` the walk holds the modes of the coarse grid only; of the others, which the noise still
    hides, the data see the prior: ``A_2 L_2 A_2^H`` is added to the covariance of the noise. Then they are drawn with
    variance ``s_k + switch^2 c_k^2``, their own and that of the noise, and the walk goes on with all modes. Nothing is
    interpolated, and nothing that was decided is made noisy again.

    Parameters
    ----------
    shape : tuple of int
        The coarse grid: as many axes as the prior has, none longer; odd along periodic axes.
    num_coarse, num_fine : int
        Steps on either grid, at least 1 and 2; 30 and 20 unless given.
    switch : float, optional
        The level of the change, > 0, in units of the diffusion noise: twice the largest std of a mode that is not on
        the coarse grid unless given.
    sampler : Sampler, optional
        How a step goes from one level to the next; `iv.samplers.SDEDPMSolver2M` unless given.
    iterations : int
        Of `MomentMatching`; 1 unless given.

    Raises
    ------
    InputError, InputTypeError
        If an option is out of range, or, once the prior is known, the grid or the level does not fit it.

    Notes
    -----
    Needs a `GaussianFieldPrior` with a ``noise_spectrum``, that is, diffusion noise that is the same on every grid. It
    pays where the denoiser or dense linear algebra is the price: a coarse step costs its share of the nodes.

    References
    ----------
    Yao, Mammadov, Berner, Kerrigan, Ye, Azizzadenesheli & Anandkumar 2025, Guided Diffusion Sampling on Function Spaces
    with Applications to PDEs, arXiv 2505.17004, whose second stage interpolates and starts from much noise again.
    """

    shape: Shape
    _: KW_ONLY
    num_coarse: int = 30
    num_fine: int = 20
    switch: float | None = None
    sampler: Sampler = field(default_factory=SDEDPMSolver2M)
    iterations: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", check_dims("MultiResolution", "shape", self.shape))
        check_int("MultiResolution", "num_coarse", self.num_coarse, minimum=1)
        check_int("MultiResolution", "num_fine", self.num_fine, minimum=2)
        check_optional("MultiResolution", "switch", self.switch)
        check_int("MultiResolution", "iterations", self.iterations, minimum=1)
        if not isinstance(self.sampler, Sampler):
            raise invalid_type("MultiResolution", "sampler", "an iv.samplers.Sampler", self.sampler)

    @property
    def num_steps(self) -> int:  # type: ignore[override]
        """Steps on both grids."""
        return self.num_coarse + self.num_fine

    def missing(self, problem: Problem, prior: Prior) -> str:
        if not isinstance(prior, GaussianFieldPrior) or prior.noise_spectrum is None:
            return "a GaussianFieldPrior with a noise_spectrum: noise that is the same on every grid"
        return MomentMatching(iterations=self.iterations).missing(problem, prior)

    def bind(self, problem: Problem, prior: Prior) -> MultiResolutionBound:
        assert isinstance(prior, GaussianFieldPrior)
        shape = prior.shape
        if len(self.shape) != len(shape) or any(m > n for m, n in zip(self.shape, shape, strict=True)):
            raise invalid("MultiResolution", "shape", f"of {len(shape)} axes, none longer than in {shape}", self.shape)
        if prior.basis == "periodic" and any(m % 2 == 0 and m < n for m, n in zip(self.shape, shape, strict=True)):
            raise invalid("MultiResolution", "shape", "odd along the axes of a torus", self.shape, "Add 1.")
        coarse, absent = prior.on(self.shape), _absent(self.shape, shape).to(prior.device)
        high, low = noise_levels(problem, prior)
        top = float(high.max()) if isinstance(high, Tensor) else high
        hidden = prior.law.variances[absent]
        switch = self.switch
        if switch is None:
            switch = _ABOVE * math.sqrt(float(hidden.max())) if hidden.numel() else 0.1 * top
            switch = min(max(switch, 1e-3 * top), 0.5 * top)
            low = low.clamp(max=0.5 * switch) if isinstance(low, Tensor) else min(low, 0.5 * switch)
        bottom = float(low.max()) if isinstance(low, Tensor) else low
        if not bottom < switch < top:
            raise invalid("MultiResolution", "switch", f"between {bottom:.3g} and {top:.3g}", switch)
        sampler = self.sampler.in_units(prior.scale)
        last = torch.full_like(low, switch) if isinstance(low, Tensor) else switch
        return MultiResolutionBound(
            prior=coarse,
            switch=switch,
            coarse=_CoarseGuide.make(problem, prior, coarse, absent, self.iterations),
            fine=MomentMatching(iterations=self.iterations).bind(problem, prior),
            coarse_plan=Plan.make(sampler, log_grid(top, switch, self.num_coarse + 1)),
            fine_plan=Plan.make(sampler, log_grid(last, low, self.num_fine)),
        )

    def init(self, run: Run[MultiResolutionBound]) -> MultiResolutionState:
        bound = run.bound
        prior, sampler = bound.prior, bound.coarse_plan.sampler
        z = run.draws.normal(prior.shape, run.problem.signal_dtype, step=0)
        x = prior.law.sample(z, float(bound.coarse_plan.grid[0]))
        fine = x.new_zeros(run.rows, *run.prior.shape)
        return MultiResolutionState(coarse=sampler.init(x), fine=sampler.init(fine))

    def step(
        self, run: Run[MultiResolutionBound], state: MultiResolutionState, i: int
    ) -> tuple[MultiResolutionState, Info]:
        bound = run.bound
        if i >= self.num_coarse:
            fine = bound.fine_plan.step(
                lambda x, t: bound.fine(x, t)[0], state.fine, i - self.num_coarse, lambda j: run.noise(i, j)
            )
            return replace(state, fine=fine), {}
        dtype = run.problem.signal_dtype

        def noise(j: int) -> Tensor:
            return bound.prior.noise(run.draws.normal(bound.prior.shape, dtype, step=i + 1, index=j))

        state = replace(state, coarse=bound.coarse_plan.step(bound.coarse, state.coarse, i, noise))
        if i + 1 == self.num_coarse:
            x = self._refined(run, state.coarse.x, run.normal(i, self.sampler.draws_per_step))
            state = replace(state, fine=bound.fine_plan.sampler.init(x))
        return state, {}

    def _refined(self, run: Run[MultiResolutionBound], x: Tensor, z: Tensor) -> Tensor:
        """The signal at the level of the change with all modes: those of ``x`` as they are, the others drawn."""
        bound, law = run.bound, run.prior.law
        assert law is not None
        own = bound.prior.law.modes.analysis(x - bound.prior.law.mean)
        drawn = (law.variances + bound.switch**2).sqrt() * z
        u = torch.where(bound.coarse.absent, drawn, _pad(own, self.shape, tuple(run.prior.shape)))
        return law.mean + law.modes.synthesis(u)

    def samples(self, run: Run[MultiResolutionBound], state: MultiResolutionState) -> Tensor:
        return state.fine.x


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MultiResolutionBound:
    """Both denoisers that have seen the data, and their levels."""

    prior: GaussianFieldPrior  # on the coarse grid
    switch: float
    coarse: _CoarseGuide
    fine: BoundGuidance
    coarse_plan: Plan
    fine_plan: Plan

    def take(self, index: Tensor) -> Self:
        return replace(
            self, coarse=self.coarse.take(index), fine=self.fine.take(index), fine_plan=self.fine_plan.take(index)
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _CoarseGuide:
    """The denoiser that has seen the data, on the coarse grid; absent modes are those of the prior."""

    problem: Problem
    law: GaussianLaw  # of the fine grid
    coarse: GaussianFieldPrior
    absent: Tensor  # bool, (*shape)
    iterations: int
    system: System | None  # of the fine grid, or dense and of the coarse one; None: made anew at every step
    whitener: Tensor | None  # L^-1 of I + B_2 L_2 B_2^H, of a dense system
    rest: Tensor | None  # with it: of the data and the prior's mean, (rows, m), float64

    @classmethod
    def make(
        cls, problem: Problem, prior: GaussianFieldPrior, coarse: GaussianFieldPrior, absent: Tensor, iterations: int
    ) -> _CoarseGuide:
        law, system, whitener, rest = prior.law, None, None, None
        if problem.linear and isinstance(problem.noise, Gaussian):
            system = make_system(problem, law, tol=_TOL, max_iter=_MAX_ITER)
        if isinstance(system, DenseSystem) and system.out_complex is None and system.mode_complex is None:
            hidden = absent.flatten()
            matrix = system.matrix
            extra = matrix[:, hidden] * law.variances.double().flatten()[hidden].sqrt()
            covariance = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) + extra @ extra.mT
            chol = torch.linalg.cholesky(covariance)
            whitener = torch.linalg.inv(chol)
            own = whitener @ matrix[:, ~hidden]
            gram = own.mT @ own if own.shape[1] < own.shape[0] else None
            system = replace(system, matrix=own, mode_shape=coarse.shape, gram=gram)
            at_mean = problem.operator(law.mean.expand(len(problem.data), *law.mean.shape).clone())
            rest = problem.whiten(problem.data - at_mean).flatten(1).double() @ whitener.mT
        return cls(
            problem=problem,
            law=law,
            coarse=coarse,
            absent=absent,
            iterations=iterations,
            system=system,
            whitener=whitener,
            rest=rest,
        )

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        law, modes = self.law, self.coarse.law.modes
        value = self.coarse.denoise(x, t)
        u = modes.analysis(value - self.coarse.law.mean)
        if self.rest is not None:
            assert isinstance(self.system, DenseSystem)
            white = self.rest - u.flatten(1).double() @ self.system.matrix.mT
            shift = self.system.factor(self.coarse.law.posterior_variances(t))(white)
            return value + modes.synthesis(shift.to(u.dtype))
        variances = torch.where(self.absent, law.variances, law.posterior_variances(t))
        full = law.mean + law.modes.synthesis(_pad(u, self.coarse.shape, tuple(law.mean.shape)))
        if self.system is None:
            found = gauss_newton(
                self.problem, law.modes, full, variances, self.iterations, tol=_TOL, max_iter=_MAX_ITER
            )
            moved = law.modes.analysis(found - full)
        else:
            moved = self.system.factor(variances)(self.problem.whiten(self.problem.data - self.problem.operator(full)))
        own = moved[(slice(None), *(slice(0, m) for m in self.coarse.shape))]
        return value + modes.synthesis(own)

    def take(self, index: Tensor) -> Self:
        return replace(
            self,
            problem=self.problem.take(index),
            system=None if self.system is None else taken(self.system, index),
            rest=None if self.rest is None else self.rest[index.to(self.rest.device)],
        )


def _absent(coarse: Shape, shape: Shape) -> Tensor:
    """Bool ``(*shape)``: the modes that the coarse grid does not have."""
    absent = torch.ones(shape, dtype=torch.bool, device="cpu")
    absent[tuple(slice(0, m) for m in coarse)] = False
    return absent


def _pad(u: Tensor, coarse: Shape, shape: Shape) -> Tensor:
    """Modes of the coarse grid with zeros for those that it does not have."""
    return F.pad(u, [k for m, n in zip(reversed(coarse), reversed(shape), strict=True) for k in (0, n - m)])
