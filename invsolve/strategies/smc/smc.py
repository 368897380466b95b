"""Sequential Monte Carlo: guidance proposes, weights correct what it gets wrong (Wu et al. 2023, arXiv 2306.17775)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.conjugate_gradients import expand
from invsolve.core.resampling import effective, in_place, log_mean_exp, normalised, relative_variance, systematic
from invsolve.core.validation import check_int, check_number
from invsolve.errors import invalid, invalid_type
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasDensity
from invsolve.problem import Problem
from invsolve.samplers import log_grid
from invsolve.strategies.base import Info, Run, Strategy, check_together, needs_derivative
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.guidance.guided import Guidance, bound_guidance
from invsolve.strategies.noise_levels import noise_levels, shared_grid
from invsolve.strategies.smc.coordinates import Coordinates, linear_jacobian
from invsolve.strategies.smc.initial import first_particles
from invsolve.strategies.smc.proposals import Form, Level, Ready, Setting

DENSE_SIZE = 128  # real unknowns up to which every particle has a dense covariance
_ROUNDINGS = 10  # of a signal of the prior's scale: the least level at which particles differ by noise
MAX_SIDE = 2048  # the smaller number of data and unknowns, of which determinants are formed
MAX_ENTRIES = 2**24  # of the matrix of the operator: 128 MiB
_TEMPERATURES = 40  # at most, of the last level
_EXPONENTS = 64  # that are tried: steps of 1/64
_RATES = (0.25, 0.5)  # of acceptance: outside of these the next moves are made smaller, larger
_LINEAGES = 100  # effective number of the first particles that the last ones descend from, for an evidence by weights
_REACH = (-8, 10)  # moves of a variance from 1/16 to 32 times the level's


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Bound:
    setting: Setting
    batch: int

    def take(self, index: Tensor) -> _Bound:
        check_together("SMC", index, self.batch)
        old = self.setting
        grid = old.grid if old.grid.ndim == 1 else old.grid[index.cpu()]
        jacobian = None if old.jacobian is None else old.jacobian.take(index[: self.batch])
        guidance = None if old.guidance is None else old.guidance.take(index)
        return replace(self, setting=replace(old, grid=grid, jacobian=jacobian, guidance=guidance))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SMCState:
    """Particles. ``log_weights`` since the last resampling; in between steps they wait for the twist of this level."""

    x: Tensor  # (rows, *shape)
    log_weights: Tensor  # (rows,), float64
    log_evidence: Tensor  # (rows,), of the item, up to the last resampling
    founder: Tensor  # (rows,): the number of the initial particle that each descends from
    resamplings: Tensor  # (rows,), of the item
    exponent: Tensor  # (rows,), of the item: the power of the twist in the last target
    reach: Tensor  # (rows,), of the item: how far its moves go up
    tried: Tensor  # (rows,), of the item: moves so far
    accepted: Tensor  # (rows,), of the item: the sum of their acceptance rates
    undefined: Tensor  # (rows,), of the item: particles so far that were NaN, or had a weight that was
    level: Tensor  # (rows,): of the grid, at which the particles are


@final
@dataclass(frozen=True, kw_only=True)
class SMC(Strategy[SMCState, _Bound]):
    """Sequential Monte Carlo: guided particles whose weights make them draws from the posterior.

    ``num_samples`` weighted particles per item. At every level ``x0 | x`` is matched by a Gaussian ``N(D, V)`` with the
    Tweedie covariance; given the data it is ``N(D_y, V_y)`` (moment matching), and the twist is ``N(y; A D, A V A^H +
    G)``. From level a to b, with ``r = b^2 / a^2``, a particle moves by ``N(r x + (1 - r) D_y, (1 - r)^2 V_y + b^2 (1 -
    r) C)``: exact for Gaussian priors and linear operators in any number of steps, with equal weights. The weights
    correct the rest.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 25 unless given.
    resample_below : float
        Particles of an item are resampled (systematic) when their effective number falls below this share of them, from
        0 to 1; 0.5 unless given.
    moves : int
        Metropolis moves of every particle after a resampling (noise up, then a guided step back), which leave the
        level's ``density * twist`` invariant; at least 0, 1 unless given. Only where the prior states its density
        (elsewhere no target is known: nothing moves).
    tempering : float
        Above 0 the twist counts with an exponent, for every item the largest at which that share of its particles is
        effective; it is 1 at the end, by as many more temperatures of the last level as it takes. From 0 (the default)
        to 1. For curved operators, whose early twists are wrong: try 0.5.
    guidance : Guidance, optional
        Steps go towards its D_y, with the covariance without data; twist, weights and last step stay as they are, and
        the posterior stays right. By default the one that belongs to the twist.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    dense_size : int
        Real unknowns up to which a prior without modes has a covariance for every particle, at least 0; 128 unless
        given.

    Raises
    ------
    InputError
        If an option is out of range.
    InputTypeError
        If ``guidance`` is neither a `Guidance` nor None.

    Notes
    -----
    Weights correct towards the exact distribution of the noisy signals where the prior states its density (`log_prob(x,
    sigma)`: all exact priors): the step size then costs variance only, and the posterior is exact as the number of
    particles grows; else towards the chain whose kernels are the same without data, ``N(r x + (1 - r) D, ...)``, of
    second order.

    The last step draws x0 from ``N(D_y, V_y)``; its weight is the true likelihood over that of the linearised operator.
    Noise that is not Gaussian is replaced, in steps and twists, by its Gaussian at the clean data that D and y lead to
    (`Problem.gaussianised`, found by Newton's method from D); the last weight, by the true likelihood, corrects that.
    Only large signals whose steps have no V have no such weight: there it is an error that vanishes with the last
    level. A particle that becomes NaN has weight zero, and no move to NaN is accepted.

    ``result.info``: ``log_evidence`` and its standard error ``log_evidence_se`` (nats; by the weights, or up to 128
    real unknowns by where the particles ended, whichever is known better; NaN if neither is), ``ess``,
    ``founders`` (first particles that have descendants left), ``resamplings`` and ``acceptance`` (of moves; NaN without
    any), each the same for all samples of an item. `iv.solve` resamples
    them to equal weights unless it is asked for ``weighted=True``.

    Where V is diagonal in modes (Gaussian and sparse priors) no covariance is formed, only determinants of the smaller
    of data and unknowns, up to 2,048. Other priors have a covariance for every particle up to ``dense_size``; larger
    signals take the usual reverse step without V, whose chain is of first order: give it 100 steps or more, and more
    particles than data. Particles are run in blocks, so that memory does not grow with their number times a matrix.
    Samples of an item depend on each other, not on other items.

    References
    ----------
    Wu et al. 2023, Practical and Asymptotically Exact Conditional Sampling in Diffusion Models, arXiv 2306.17775; Rozet
    et al. 2024, Learning Diffusion Priors from Observations by Expectation Maximization, arXiv 2405.13712.
    """

    couples = "samples"
    gives_evidence = True
    ahead = 2.0  # with its moves a step takes more than the last one did
    num_steps: int = 25
    resample_below: float = 0.5
    moves: int = 1
    tempering: float = 0.0
    guidance: Guidance | None = None
    grid: Tensor | None = None
    dense_size: int = DENSE_SIZE

    def __post_init__(self) -> None:
        if self.grid is not None:
            grid = shared_grid("SMC", self.grid)
            object.__setattr__(self, "grid", grid)
            object.__setattr__(self, "num_steps", len(grid) - 1)
        check_int("SMC", "num_steps", self.num_steps, minimum=2)
        check_int("SMC", "moves", self.moves, minimum=0)
        check_int("SMC", "dense_size", self.dense_size, minimum=0)
        for name in ("resample_below", "tempering"):
            if not 0 <= check_number("SMC", name, getattr(self, name)) <= 1:
                raise invalid("SMC", name, "between 0 and 1", getattr(self, name))
        if not (self.guidance is None or isinstance(self.guidance, Guidance)):
            raise invalid_type("SMC", "guidance", "an iv.strategies.Guidance, or None", self.guidance)

    def missing(self, problem: Problem, prior: Prior) -> str:
        if reason := needs_derivative(problem):
            return reason
        coordinates = Coordinates.from_problem(problem, prior)
        n, m = coordinates.size, prod(problem.operator.out_shape) * (2 if problem.data.is_complex() else 1)
        if n > self.dense_size and (min(m, n) > MAX_SIDE or m * n > MAX_ENTRIES):
            return f"at most {MAX_SIDE} real unknowns or data and {MAX_ENTRIES} of their pairs (it has {n} and {m})"
        if coordinates.modes is None and not prior.white_noise:
            return (
                f"white diffusion noise, or a prior that is Gaussian in its modes ({type(prior).__name__} is neither)"
            )
        return "" if self.guidance is None else self.guidance.missing(problem, prior)

    def bind(self, problem: Problem, prior: Prior) -> _Bound:
        coordinates = Coordinates.from_problem(problem, prior)
        form: Form = "diagonal" if coordinates.modes is not None else "bare"
        if form == "bare" and coordinates.size <= self.dense_size:
            form = "dense"
        setting = Setting(
            coordinates=coordinates,
            form=form,
            batch=len(problem.data),
            grid=self.grid if self.grid is not None else log_grid(*_levels(problem, prior), self.num_steps),
            jacobian=linear_jacobian(problem, coordinates) if problem.linear else None,
            fixed_noise=isinstance(problem.noise, Gaussian),
            guidance=None if self.guidance is None else bound_guidance(self.guidance, problem, prior),
        )
        return _Bound(setting=setting, batch=len(problem.data))

    def init(self, run: Run[_Bound]) -> SMCState:
        setting = run.bound.setting
        top = setting.grid[..., 0].to(run.problem.data.device)
        x, log_q = first_particles(run, setting, top)
        zero = torch.zeros(run.rows, dtype=torch.float64, device=x.device)
        number = torch.arange(run.rows, device=x.device) // setting.batch
        return SMCState(
            x=x,
            log_weights=-log_q if _density(run) else zero,
            log_evidence=zero,
            founder=number,
            resamplings=torch.zeros_like(number),
            exponent=torch.ones_like(zero),
            reach=torch.zeros_like(number),
            tried=torch.zeros_like(number),
            accepted=zero,
            undefined=torch.zeros_like(number),
            level=torch.zeros_like(number),
        )

    def step(self, run: Run[_Bound], state: SMCState, i: int) -> tuple[SMCState, Info]:
        setting = run.bound.setting
        last = i + 1 == self.num_steps
        level = Level.of(run, setting, _density(run), i, last=last)
        own = torch.arange(run.rows, device=state.x.device)
        ready = level.ready(state.x, own)
        state = replace(state, log_weights=state.log_weights + ready.density, exponent=torch.zeros_like(state.exponent))
        stale = torch.zeros_like(own, dtype=torch.bool)
        for number in range(_TEMPERATURES if last else 1):
            force = not self.tempering or (last and number == _TEMPERATURES - 1)
            exponent = self._exponent(state, ready.twist, setting.batch, number, force)
            weights = state.log_weights + (exponent - state.exponent) * ready.twist
            state = _buried(replace(state, log_weights=weights, exponent=exponent), setting.batch)
            state, parent, poor = self._resampled(level, state, number)
            if bool(poor.any()):
                ready, stale = ready.take(parent), stale[parent] | (parent != own)
                if self.moves and level.density is not None:
                    ready, stale, state = self._moved(level, ready, stale, state, own[poor], number)
            if bool((state.exponent == 1).all()):
                break
        # A copy has the place, and the step, of another; it takes one of its own.
        fresh = own[stale]
        ready = ready.put(fresh, level.ready(ready.x[fresh], fresh)) if len(fresh) else ready
        x = setting.coordinates.synthesis(ready.move)
        weights = state.log_weights + ready.increment - (0.0 if last else ready.target(state.exponent))
        state = _buried(replace(state, x=x, log_weights=weights, level=state.level + 1), setting.batch)
        return state, self._info(run, state, setting.batch) if last else {}

    def stopped(self, run: Run[_Bound], state: SMCState) -> tuple[SMCState, Info]:
        """One step from where the particles are to no noise: draws from ``N(D_y, V_y)``, and their weights."""
        setting = run.bound.setting
        level = Level.of(run, setting, _density(run), int(state.level[0]), last=True)
        ready = level.ready(state.x, torch.arange(run.rows, device=state.x.device))
        weights = state.log_weights + ready.density + ready.twist + ready.increment
        state = replace(state, x=setting.coordinates.synthesis(ready.move), log_weights=weights)
        state = _buried(state, setting.batch)
        return state, self._info(run, state, setting.batch)

    def log_weights(self, run: Run[_Bound], state: SMCState) -> Tensor:
        return state.log_evidence + state.log_weights

    def _exponent(self, state: SMCState, twist: Tensor, batch: int, number: int, force: bool) -> Tensor:
        """The largest exponent of the twist at which enough particles are left; where none does, the best one."""
        if force:
            return torch.ones_like(state.exponent)
        logs, old = state.log_weights.view(-1, batch), state.exponent[:batch]
        least = self.tempering * len(logs)
        value, best = old.clone(), torch.zeros_like(old)
        for tried in torch.linspace(0, 1, _EXPONENTS + 1, dtype=old.dtype, device="cpu").tolist():
            total = logs + (tried - old) * twist.view(-1, batch)
            left = effective(normalised(torch.where(torch.isnan(total), -math.inf, total)))
            left = torch.where(tried > old, left, 0.0) if number else left  # once begun, only upwards
            better = (left >= least) | (left > best)
            value, best = torch.where(better, tried, value), torch.where(better, left.clamp_max(least), best)
        return value.repeat(len(logs))

    def _moved(
        self, level: Level, ready: Ready, stale: Tensor, state: SMCState, rows: Tensor, number: int
    ) -> tuple[Ready, Tensor, SMCState]:
        """Moves of the particles in ``rows``: of the items that were resampled, all of theirs."""
        batch = level.setting.batch
        item = rows % batch
        count = torch.zeros_like(state.exponent[:batch]).index_add_(0, item, torch.ones_like(item).double())
        total = torch.zeros_like(count)
        part, changed = ready.take(rows), torch.zeros_like(rows, dtype=torch.bool)
        for k in range(self.moves):
            part, accepted = level.moved(part, rows, state.reach[rows], state.exponent[rows], number * self.moves + k)
            total.index_add_(0, item, accepted.double())
            changed |= accepted
        # Of moves that are done, for those to come: what a move may depend on.
        rate = total / (self.moves * count).clamp_min(1)
        shift = (rate > _RATES[1]).long() - ((rate < _RATES[0]) & (count > 0)).long()
        every = torch.arange(len(stale), device=rows.device) % batch
        stale = stale.index_copy(0, rows, stale[rows] & ~changed)
        state = replace(
            state,
            x=state.x.index_copy(0, rows, part.x),
            reach=(state.reach + shift[every]).clamp(*_REACH),
            tried=state.tried + (count > 0)[every],
            accepted=state.accepted + rate[every],
        )
        return ready.put(rows, part), stale, state

    def _resampled(self, level: Level, state: SMCState, number: int) -> tuple[SMCState, Tensor, Tensor]:
        """The state, the parents of the rows, and which rows were resampled."""
        batch = level.setting.batch
        logs = state.log_weights.view(-1, batch)
        count = len(logs)
        weights = normalised(logs)
        left = effective(weights)  # NaN where all weights are zero
        poor = left < self.resample_below * count
        if level.last:  # or the next temperature would find no more particles than this one
            poor |= (state.exponent[:batch] < 1) & (left < count)
        own = torch.arange(count, device=logs.device)[:, None].expand(count, batch)
        if not bool(poor.any()):
            return state, torch.arange(len(state.x), device=logs.device), poor.repeat(count)
        uniform = level.uniform(number * max(1, self.moves))[:batch]
        chosen = torch.where(poor, in_place(systematic(torch.where(poor, weights, 1 / count), uniform)), own)
        parent = (chosen * batch + torch.arange(batch, device=logs.device)).flatten()
        evidence = state.log_evidence.view(-1, batch) + torch.where(poor, log_mean_exp(logs), 0.0)
        return (
            replace(
                state,
                x=state.x[parent],
                log_weights=torch.where(poor, 0.0, logs).flatten(),
                log_evidence=evidence.flatten(),
                founder=state.founder[parent],
                resamplings=(state.resamplings.view(-1, batch) + poor).flatten(),
            ),
            parent,
            poor.repeat(count),
        )

    def _info(self, run: Run[_Bound], state: SMCState, batch: int) -> Info:
        logs, founder = state.log_weights.view(-1, batch), state.founder.view(-1, batch)
        weights = normalised(logs)
        kept = torch.zeros_like(weights).scatter_(0, founder, 1.0).sum(0)
        log_evidence = state.log_evidence.view(-1, batch)[0] + log_mean_exp(logs)
        # Where weights are equal but for rounding their spread says nothing: ten roundings a value and level.
        values = prod(run.problem.data.shape[1:]) + prod(run.problem.shape)
        rounding = 10 * torch.finfo(run.problem.data.dtype).eps * self.num_steps * (values + log_evidence.abs())
        variance = relative_variance(weights, founder)
        # What few lineages found says nothing of what others would have; and without a density weights correct towards
        # a chain of steps, whose end is not the prior.
        known = (variance < 1 / (_LINEAGES - 1)) & (_density(run) is not None)
        se = torch.where(known, (variance + rounding**2).sqrt(), math.inf)
        each = Diagnostics(
            log_evidence=log_evidence,
            log_evidence_se=se,
            ess=effective(weights),
            founders=kept,
        )
        rows = each.mapped(lambda value: value.expand_as(logs).flatten())
        acceptance = state.accepted / state.tried
        return replace(rows, resamplings=state.resamplings, acceptance=acceptance, undefined=state.undefined)


def _density(run: Run[_Bound]) -> HasDensity | None:
    """The prior, if weights are to go towards its own density; kernels without covariances are too far from that."""
    return run.prior if run.bound.setting.form != "bare" and isinstance(run.prior, HasDensity) else None


def _buried(state: SMCState, batch: int) -> SMCState:
    """Particles that are NaN get weight zero and the place of their item's heaviest one: they poison nobody.

    They are counted. Where an item has no others, all of its particles are NaN, and its rows fail.
    """
    logs = state.log_weights
    dead = ~torch.isfinite(to_real(state.x).sum(1)) | torch.isnan(logs) | (logs == math.inf)
    logs = torch.where(dead, -math.inf, logs)
    heaviest = logs.view(-1, batch).argmax(0) * batch + torch.arange(batch, device=logs.device)
    heir = heaviest.repeat(len(logs) // batch)
    x = torch.where(expand(dead, state.x), state.x[heir], state.x)
    lost = dead.view(-1, batch).sum(0)
    none = (lost == len(logs) // batch).repeat(len(logs) // batch)
    x = torch.where(expand(none, x), torch.nan, x)
    return replace(state, x=x, log_weights=logs, undefined=state.undefined + lost.repeat(len(logs) // batch))


def _levels(problem: Problem, prior: Prior) -> tuple[float | Tensor, float | Tensor]:
    """`noise_levels`, but none that drowns in the rounding of the signal, where weights would be rounding.

    Nothing is lost by ending higher: the last step draws x0 given the last level.
    """
    high, low = noise_levels(problem, prior)
    # With coloured noise the mean is in other units than the levels.
    size = max(prior.scale, float(prior.mean.abs().max())) if prior.white_noise else prior.scale
    floor = min(_ROUNDINGS * torch.finfo(prior.dtype).eps * size, 0.1 * prior.scale, 0.1 * prior.sigma_range[1])
    if isinstance(low, Tensor):
        return high, low.clamp(min=floor)
    return high, max(low, floor)
