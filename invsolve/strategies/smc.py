"""Sequential Monte Carlo: guidance proposes, weights correct what it gets wrong (guidance card 15)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from invsolve.arrays import to_real
from invsolve.cg import expand
from invsolve.checks import check_int, check_number
from invsolve.draws import DrawLike
from invsolve.errors import UnsupportedError, invalid
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import custom_grid, log_grid
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.guided import needs_gaussian_noise_and_derivative
from invsolve.strategies.levels import noise_levels
from invsolve.strategies.local import Coordinates, Jacobian, Local, cholesky, linear_jacobian
from invsolve.strategies.particles import effective, log_mean_exp, normalised, relative_variance, systematic

DENSE_SIZE = 128  # real numbers of a signal that has a dense covariance for every particle
MAX_DATA = 256  # real numbers of data of larger signals: a product with the covariance for each, at every level
_ROUNDINGS = 10  # of a signal of the prior's scale: the least level at which particles differ by noise
_JITTER = 1e-10  # of the last level's variance: directions that the prior knows have no spread of their own


@runtime_checkable
class HasDensity(Protocol):
    """A prior that knows the density of its noisy signals: the weights are then exact at any step size."""

    def log_prob(self, x: Tensor, sigma: float) -> Tensor: ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Bound:
    coordinates: Coordinates
    grid: Tensor  # (N+1,) or (items or rows, N+1), float64, CPU
    jacobian: Jacobian | None
    batch: int
    dense: bool  # covariances are formed

    def take(self, index: Tensor) -> _Bound:
        if len(index) % self.batch or bool((index.view(-1, self.batch) != index[: self.batch]).any()):
            raise UnsupportedError(
                "SMC: the samples of an item must run together, but memory does not hold them. Ask for fewer samples."
            )
        jacobian = None if self.jacobian is None else self.jacobian.take(index)
        return replace(self, grid=self.grid if self.grid.ndim == 1 else self.grid[index.cpu()], jacobian=jacobian)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SMCState:
    """Particles. ``log_weights`` since the last resampling; in between steps they wait for the twist of this level."""

    x: Tensor  # (rows, *shape)
    log_weights: Tensor  # (rows,), float64
    log_evidence: Tensor  # (rows,), of the item, up to the last resampling
    founder: Tensor  # (rows,): the number, at the start, of the particle that each descends from
    resamplings: Tensor  # (rows,), of the item


@final
@dataclass(frozen=True, kw_only=True)
class SMC(Strategy):
    """``num_samples`` weighted particles per item, whose weights make them draws from the posterior.

    At every level ``x0 | x`` is matched by a Gaussian ``N(D, V)`` with the Tweedie covariance; given the data it is
    ``N(D_y, V_y)`` (moment matching), and the twist is ``N(y; A D, A V A^H + G)``. From level a to b, with
    ``r = b^2 / a^2``, a particle moves by ``N(r x + (1 - r) D_y, (1 - r)^2 V_y + b^2 (1 - r) C)``: exact for Gaussian
    priors and linear operators in any number of steps. The weights correct the rest:

    - towards the exact law of the noisy signals where the prior states its density (`log_prob(x, sigma)`: all exact
      priors): the step size then costs variance only, and the posterior is exact as the number of particles grows;
    - else towards the chain whose kernels are the same without data, ``N(r x + (1 - r) D, ...)``, of second order.

    The last step draws x0 from ``N(D_y, V_y)``; its weight is the true likelihood over that of the linearised operator.
    Particles of an item are resampled (systematic) when their effective number falls below ``resample_below`` of them.
    A particle that becomes NaN has weight zero. ``result.info``: ``log_evidence`` and its standard error
    ``log_evidence_se`` (nats; ancestral estimate), ``ess``, ``founders`` (particles of the start that are left) and
    ``resamplings``, each the same for all samples of an item. Results are weighted: see ``result.log_weights``.

    ``num_steps`` levels on the solver's own grid, or ``grid``. Covariances are formed for signals of up to 128 real
    numbers; larger ones (with up to 256 real data) take the usual reverse step without V, whose chain is of first
    order: give it 100 steps or more, and more particles than data. Samples of an item depend on each other, not on
    other items.
    """

    couples = "samples"
    gives_evidence = True
    num_steps: int = 25
    resample_below: float = 0.5
    grid: Tensor | None = None

    def __post_init__(self) -> None:
        if self.grid is not None:
            grid = custom_grid(self.grid)
            if grid.ndim != 1:
                raise invalid("SMC", "grid", "one grid for all rows, 1-d", tuple(grid.shape))
            object.__setattr__(self, "grid", grid)
            object.__setattr__(self, "num_steps", len(grid) - 1)
        check_int("SMC", "num_steps", self.num_steps, minimum=2)
        if not 0 <= check_number("SMC", "resample_below", self.resample_below) <= 1:
            raise invalid("SMC", "resample_below", "between 0 and 1", self.resample_below)

    def missing(self, problem: Problem, prior: Prior) -> str:
        if reason := needs_gaussian_noise_and_derivative(problem):
            return reason
        coordinates = Coordinates.of(problem, prior)
        data = prod(problem.operator.out_shape) * (2 if problem.data.is_complex() else 1)
        if coordinates.size > DENSE_SIZE and data > MAX_DATA:
            return f"at most {DENSE_SIZE} real unknowns or {MAX_DATA} real data (it has {coordinates.size} and {data})"
        if coordinates.modes is None and type(prior).noise is not Prior.noise:
            return f"white diffusion noise, or a prior that is its law ({type(prior).__name__} is neither)"
        return ""

    def bind(self, problem: Problem, prior: Prior) -> _Bound:
        coordinates = Coordinates.of(problem, prior)
        grid = self.grid if self.grid is not None else log_grid(*_levels(problem, prior), self.num_steps)
        jacobian = linear_jacobian(problem, coordinates) if problem.linear else None
        dense = coordinates.size <= DENSE_SIZE
        return _Bound(coordinates=coordinates, grid=grid, jacobian=jacobian, batch=len(problem.data), dense=dense)

    def init(self, run: Run) -> SMCState:
        bound: _Bound = run.bound
        rows = run.rows
        top = bound.grid[..., 0].to(run.problem.data.device)
        x, log_q = _start(run, top)
        zero = torch.zeros(rows, dtype=torch.float64, device=x.device)
        number = torch.arange(rows, device=x.device) // bound.batch
        pending = -log_q if _density(run) else zero
        return SMCState(x=x, log_weights=pending, log_evidence=zero, founder=number, resamplings=zero)

    def step(self, run: Run, state: SMCState, i: int) -> tuple[SMCState, Info]:
        bound: _Bound = run.bound
        problem, coordinates, last = run.problem, bound.coordinates, i + 1 == self.num_steps
        a, b = (bound.grid[..., j].to(problem.data.device) for j in (i, i + 1))
        local = Local.of(problem, coordinates, bound.jacobian, state.x, a, with_covariance=bound.dense)
        target = local.log_twist
        if density := _density(run):
            target = target + _log_density(density, state.x, bound.grid[..., i])
        particles = _buried(replace(state, log_weights=state.log_weights + target), bound.batch)
        particles, parent = self._resampled(run, particles, i)
        if parent is not None:
            local, target = local.take(parent), target[parent]

        u, z = coordinates.analysis(particles.x), to_real(run.normal(i)).double()
        kernel = _Kernel.of(u, local.guided_mean, local.guided_covariance, a, b)
        move = kernel.draw(z)
        if last:
            linear = problem.linear or not bound.dense
            increment = torch.zeros_like(target) if linear else _true_likelihood(problem, coordinates, local, move)
        elif density:
            increment = _log_normal(u - move, a**2 - b**2) - kernel.log_prob_of(z) - target
        else:
            unguided = _Kernel.of(u, local.mean, local.covariance, a, b)
            increment = unguided.log_prob(move) - kernel.log_prob_of(z) - target
        weights = particles.log_weights + increment
        moved = _buried(replace(particles, x=coordinates.synthesis(move), log_weights=weights), bound.batch)
        return moved, self._info(moved, bound.batch) if last else {}

    def log_weights(self, run: Run, state: SMCState) -> Tensor:
        return state.log_evidence + state.log_weights

    def _resampled(self, run: Run, state: SMCState, i: int) -> tuple[SMCState, Tensor | None]:
        batch = run.bound.batch
        logs = state.log_weights.view(-1, batch)
        count = len(logs)
        weights = normalised(logs)
        poor = effective(weights) < self.resample_below * count  # False where all weights are zero
        if not bool(poor.any()):
            return state, None
        uniform = _uniform(run.draws, i)[:batch]
        own = torch.arange(count, device=logs.device)[:, None].expand(count, batch)
        chosen = torch.where(poor, systematic(torch.where(poor, weights, 1 / count), uniform), own)
        parent = (chosen * batch + torch.arange(batch, device=logs.device)).flatten()
        evidence = state.log_evidence.view(-1, batch) + torch.where(poor, log_mean_exp(logs), 0.0)
        return SMCState(
            x=state.x[parent],
            log_weights=torch.where(poor, 0.0, logs).flatten(),
            log_evidence=evidence.flatten(),
            founder=state.founder[parent],
            resamplings=(state.resamplings.view(-1, batch) + poor).flatten(),
        ), parent

    def _info(self, state: SMCState, batch: int) -> Info:
        logs, founder = state.log_weights.view(-1, batch), state.founder.view(-1, batch)
        weights = normalised(logs)
        kept = torch.zeros_like(weights).scatter_(0, founder, 1.0).sum(0)
        each = {
            "log_evidence": state.log_evidence.view(-1, batch)[0] + log_mean_exp(logs),
            "log_evidence_se": relative_variance(weights, founder).sqrt(),
            "ess": effective(weights),
            "founders": kept,
        }
        return {k: v.expand_as(logs).flatten() for k, v in each.items()} | {"resamplings": state.resamplings}


def _levels(problem: Problem, prior: Prior) -> tuple[float | Tensor, float | Tensor]:
    """`noise_levels`, but none that drowns in the rounding of the signal, where weights would be rounding.

    Nothing is lost by ending higher: the last step draws from the law of x0 given the last level.
    """
    high, low = noise_levels(problem, prior)
    # With coloured noise the mean is in other units than the levels.
    size = max(prior.scale, float(prior.mean.abs().max())) if prior.white_noise else prior.scale
    floor = min(_ROUNDINGS * torch.finfo(prior.dtype).eps * size, 0.1 * prior.scale, 0.1 * prior.sigma_range[1])
    if isinstance(low, Tensor):
        return high, low.clamp(min=floor)
    return high, max(low, floor)


def _start(run: Run, top: Tensor) -> tuple[Tensor, Tensor]:
    """Particles at the highest level, and their log density."""
    prior = run.prior
    parts = 2 if run.problem.signal_dtype.is_complex else 1
    z = run.normal(-1)
    size = 0.5 * to_real(z).double().square().sum(1)
    numbers = to_real(z).shape[1]
    constant = -0.5 * numbers * math.log(2 * math.pi) - size
    if prior.law is None:
        level = top.to(prior.dtype).view(-1, *([1] * (z.ndim - 1))) if top.ndim else top.to(prior.dtype)
        return prior.mean + level * z, constant - numbers * top.log()
    law = prior.law
    z = z.reshape(len(z), *law.modes.mode_shape)
    level = top.to(prior.dtype).view(-1, *([1] * (z.ndim - 1))) if top.ndim else top.to(prior.dtype)
    total = (law.variances.double() + level.double() ** 2).reshape(-1, law.variances.numel())
    return law.sample(z, level), constant - parts * (0.5 * total.log().sum(1) + law.modes.log_det)


def _density(run: Run) -> HasDensity | None:
    """The prior, if weights are to go towards its own density; kernels without covariances are too far from that."""
    return run.prior if run.bound.dense and isinstance(run.prior, HasDensity) else None


def _log_density(prior: HasDensity, x: Tensor, level: Tensor) -> Tensor:
    """``log p_t(x)``, (rows,); ``level`` () or (rows,), on the CPU."""
    if not level.ndim:
        return prior.log_prob(x, float(level)).double()
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for value in set(level.tolist()):
        here = (level == value).nonzero()[:, 0].to(x.device)
        out[here] = prior.log_prob(x[here], value).double()
    return out


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Kernel:
    """``N(r u + (1 - r) m, (1 - r)^2 V + b^2 (1 - r))``, r = b^2 / a^2: a reverse step from level a to b.

    Log densities are without ``(2 pi)^(-n/2)``. Without V it is the usual (DDPM) step.
    """

    centre: Tensor
    root: Tensor  # lower factors (rows or 1, n, n), or a std (rows or 1, 1)

    @classmethod
    def of(cls, u: Tensor, mean: Tensor, covariance: Tensor | None, a: Tensor, b: Tensor) -> _Kernel:
        a, b = a.view(-1, 1), b.view(-1, 1)
        r = (b / a) ** 2
        variance = b**2 * (1 - r)
        centre = r * u + (1 - r) * mean
        if covariance is None:
            return cls(centre=centre, root=variance.sqrt())
        total = (1 - r)[..., None] ** 2 * covariance
        # At b = 0 directions that are known exactly have no spread of their own.
        total.diagonal(dim1=-2, dim2=-1).add_(torch.where(b > 0, variance, _JITTER * a**2))
        return cls(centre=centre, root=cholesky(total))

    def draw(self, z: Tensor) -> Tensor:
        return self.centre + (self.root * z if self.root.ndim == 2 else (self.root @ z[..., None])[..., 0])

    def log_prob_of(self, z: Tensor) -> Tensor:
        """At the draw from ``z``."""
        if self.root.ndim == 2:
            volume = z.shape[1] * self.root[:, 0].log()
        else:
            volume = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * z.square().sum(1) - volume

    def log_prob(self, u: Tensor) -> Tensor:
        away = u - self.centre
        if self.root.ndim == 2:
            return self.log_prob_of(away / self.root)
        return self.log_prob_of(torch.linalg.solve_triangular(self.root, away[..., None], upper=False)[..., 0])


def _log_normal(away: Tensor, variance: Tensor) -> Tensor:
    """log N(away; 0, variance) per row, without ``(2 pi)^(-n/2)``; ``variance`` () or (rows,)."""
    return -0.5 * (away.square().sum(1) / variance + away.shape[1] * variance.log())


def _true_likelihood(problem: Problem, coordinates: Coordinates, local: Local, u: Tensor) -> Tensor:
    """log of the likelihood at ``u`` over the Gaussian one that `Local` stands for."""
    x = coordinates.synthesis(u)
    true = problem.whiten(problem.data - problem.operator(x))
    step = (local.jacobian.matrix @ (u - local.mean)[..., None])[..., 0]
    if local.jacobian.rotation is not None:
        step = (local.jacobian.rotation.mT @ step[..., None])[..., 0]
    return local.log_scale + 0.5 * ((local.residual - step).square().sum(1) - to_real(true).double().square().sum(1))


def _buried(state: SMCState, batch: int) -> SMCState:
    """Particles that are NaN get weight zero and the place of their item's heaviest one: they poison nobody."""
    logs = state.log_weights
    dead = ~torch.isfinite(to_real(state.x).sum(1)) | torch.isnan(logs) | (logs == math.inf)
    logs = torch.where(dead, -math.inf, logs)
    heaviest = logs.view(-1, batch).argmax(0) * batch + torch.arange(batch, device=logs.device)
    heir = heaviest.repeat(len(logs) // batch)
    x = torch.where(expand(dead, state.x), state.x[heir], state.x)
    return replace(state, x=x, log_weights=logs)


def _uniform(draws: DrawLike, i: int) -> Tensor:
    """One uniform number for every row."""
    uniform: Tensor = torch.special.ndtr(draws.normal((1,), torch.float64, step=i + 1, index=1)[:, 0])
    return uniform
