"""MCGDiff and FPS: particles in the singular coordinates of a linear operator, without any derivative."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.resampling import effective, in_place, log_mean_exp, normalised, systematic
from invsolve.core.validation import check_positive
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers.base import Level, is_zero
from invsolve.strategies.base import Info, Run, check_together
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.noise_levels import first_signals
from invsolve.strategies.published.annealed import OnLevels, WalkBound, check_optional, check_share
from invsolve.strategies.published.spectral import SpectralData, needs_spectrum

_RESAMPLE = 1_000  # draws of resampling have numbers of their own


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Particles:
    """``log_weights`` since the last resampling, float64."""

    x: Tensor  # (rows, *shape)
    log_weights: Tensor  # (rows,)
    log_evidence: Tensor  # (rows,), of the item, up to the last resampling
    resamplings: Tensor  # (rows,), of the item
    path: Tensor  # (rows, *coordinates): noisy data (FPS), of the item


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Tools:
    spectral: SpectralData
    batch: int

    def take(self, index: Tensor) -> Self:
        check_together("particles", index, self.batch)
        return replace(self, spectral=self.spectral.take(index))


@dataclass(frozen=True, kw_only=True)
class _ParticleFilter(OnLevels[Particles, _Tools]):
    """What both have in common: particles, and resampling of an item's when their effective number is low."""

    couples: ClassVar[Literal["nothing", "samples"]] = "samples"
    resample_below: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.name, "resample_below", self.resample_below)

    def missing(self, problem: Problem, prior: Prior) -> str:
        return needs_spectrum(problem, prior)

    def prepare(self, problem: Problem, prior: Prior) -> _Tools:
        return _Tools(spectral=SpectralData.from_problem(problem), batch=len(problem.data))

    def log_weights(self, run: Run[WalkBound[_Tools]], state: Particles) -> Tensor:
        return state.log_evidence + state.log_weights

    def _initial(self, run: Run[WalkBound[_Tools]], x: Tensor, path: Tensor) -> Particles:
        zero = torch.zeros(run.rows, dtype=torch.float64, device=x.device)
        return Particles(x=x, log_weights=zero, log_evidence=zero, resamplings=torch.zeros_like(zero), path=path)

    def _resampled(self, run: Run[WalkBound[_Tools]], state: Particles, i: int) -> tuple[Particles, Tensor]:
        """The state, and the parents ``(rows,)`` of what now is in each place."""
        batch = run.bound.tools.batch
        logs = state.log_weights.view(-1, batch)
        count = len(logs)
        weights = normalised(logs)
        poor = effective(weights) < self.resample_below * count
        normal = run.draws.normal((1,), torch.float64, step=i + 1, index=_RESAMPLE)[:batch, 0]
        own = torch.arange(count, device=logs.device)[:, None].expand(count, batch)
        chosen = in_place(systematic(torch.where(poor, weights, 1 / count), torch.special.ndtr(normal)))
        chosen = torch.where(poor, chosen, own)
        parent = (chosen * batch + torch.arange(batch, device=logs.device)).flatten()
        gain = torch.where(poor, log_mean_exp(logs), 0.0).repeat(count)
        flat = poor.repeat(count)
        return replace(
            state,
            x=state.x[parent],
            log_weights=torch.where(flat, 0.0, state.log_weights),
            log_evidence=state.log_evidence + gain,
            resamplings=state.resamplings + flat,
        ), parent

    def _info(self, run: Run[WalkBound[_Tools]], state: Particles) -> Info:
        batch = run.bound.tools.batch
        left = effective(normalised(state.log_weights.view(-1, batch)))
        return Diagnostics(ess=left.repeat(run.rows // batch), resamplings=state.resamplings)


def _log_normal(away: Tensor, variance: Tensor, counted: Tensor) -> Tensor:
    """Log N(away; 0, variance) over the coordinates ``counted``, per row, float64; variance per real component."""
    parts = 2 if away.is_complex() else 1
    variance = torch.where(counted, variance, 1.0).double()
    terms = away.abs().double().square() / variance + parts * (variance.log() + math.log(2 * math.pi))
    return -0.5 * torch.where(counted, terms, 0.0).flatten(1).sum(1)


@final
@dataclass(frozen=True, kw_only=True)
class MCGDiff(_ParticleFilter):
    """Particles in singular coordinates whose seen ones are drawn towards noisy data.

    Datum i is ``x_i`` plus noise n_i and counts while the level b is at least n_i, as ``N(y_i; x_i, v)``, ``v = b^2 -
    n_i^2 + kappa (u^2 + n_i^2)``. A particle moves by the product of the ancestral kernel and that; weights are its
    normaliser. The last weight is the likelihood itself.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    resample_below : float
        Particles of an item are resampled (systematic) when their effective number falls below this share of them, from
        0 to 1; 0.5 unless given.
    kappa : float
        Variance of the noisy data at their own level, relative, > 0; 1e-4 unless given.
    unit : float, optional
        u, the std of an entry of the signal; by default the prior's root mean variance.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    Consistent as particles grow, but one particle often has most of the last weight. ``num_samples`` weighted particles
    per item. One evaluation a particle and step, no derivative; linear operators with a decomposition, Gaussian noise.
    `iv.solve` resamples them to equal weights unless it is asked for ``weighted=True``.

    References
    ----------
    Cardoso et al. 2023, Monte Carlo Guided Diffusion for Bayesian Linear Inverse Problems, arXiv 2308.07983.
    """

    kappa: float = 1e-4
    unit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("MCGDiff", "kappa", self.kappa)
        check_optional("MCGDiff", "unit", self.unit)

    def init(self, run: Run[WalkBound[_Tools]]) -> Particles:
        tools = run.bound.tools.spectral
        x = first_signals(run, run.bound.grid[..., 0])
        top = tools.level(run.bound.level(0, x))
        X = tools.spectrum.to_spectrum(x)
        counted, v = self._guide(run, top, X)
        # The product of the initial distribution, taken as N(mean, a^2 + u^2), and the first likelihood: equal weights.
        m = tools.spectrum.to_spectrum(run.prior.mean.expand_as(x))
        width = top * top + (self.unit or run.bound.unit) ** 2
        gain = torch.where(counted, width / (width + v), 0.0)
        X = m + gain * (tools.data - m) + (1 - gain).sqrt() * (X - m)
        return self._initial(run, tools.spectrum.from_spectrum(X), X.new_zeros(X.shape))

    def step(self, run: Run[WalkBound[_Tools]], state: Particles, i: int) -> tuple[Particles, Info]:
        bound = run.bound
        tools = bound.tools.spectral
        level = bound.level(i, state.x)
        a, b = tools.level(level), tools.level(bound.level(i + 1, state.x))
        to = tools.spectrum.to_spectrum
        X = to(state.x)
        counted, v = self._guide(run, a, X)
        before = _log_normal(tools.data - X, v, counted)
        value = run.prior.denoise(state.x, level)
        if is_zero(b):
            away = tools.data - to(value)
            last = _log_normal(away, tools.noise.expand(away.shape) ** 2, tools.seen)
            state = replace(state, x=value, log_weights=state.log_weights + last - before)
            return state, self._info(run, state)
        D = to(value)
        mean, variance = D + (b / a) ** 2 * (X - D), b * b * (1 - (b / a) ** 2)
        counted, v = self._guide(run, b, X)
        total = torch.where(counted, variance + v, 1.0)
        logs = state.log_weights + _log_normal(tools.data - mean, total, counted) - before
        # The next place of a particle that is copied depends on its parent's mean, with noise of its own.
        gain = torch.where(counted, variance / total, 0.0)
        centre = mean + gain * (tools.data - mean)
        state, parent = self._resampled(run, replace(state, x=centre, log_weights=logs), i)
        spread = (variance * (1 - gain)).sqrt()
        if len(spread) == run.rows:
            spread = spread[parent]
        moved = state.x + spread * to(run.noise(i))
        return replace(state, x=tools.spectrum.from_spectrum(moved)), {}

    def _guide(self, run: Run[WalkBound[_Tools]], level: Level, like: Tensor) -> tuple[Tensor, Tensor]:
        """Which data count at a level, and their variances there; ``(rows, *coordinates)``."""
        tools = run.bound.tools.spectral
        unit = self.unit or run.bound.unit
        noise = torch.where(tools.seen, tools.noise, 0.0)
        v = level * level - noise**2 + self.kappa * (unit**2 + noise**2)
        return (tools.seen & (tools.noise <= level)).expand(like.shape), v.expand(like.shape)


@final
@dataclass(frozen=True, kw_only=True)
class FPS(_ParticleFilter):
    """Filtering posterior sampling: one path of noisy data, and a particle filter along it.

    The path ends in the data: ``y' = y + sqrt(1 - eta^2) (b/a) (y_t - y) + eta b A e``. A particle moves by the product
    of the ancestral kernel and the likelihood of y' at the new level; weights are its normaliser.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    resample_below : float
        Particles of an item are resampled (systematic) when their effective number falls below this share of them, from
        0 to 1; 0.5 unless given.
    eta : float
        Share of fresh noise of the path, from 0 to 1; 0.85 unless given.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    For noisy data the product counts them once for every level, so that what is seen ends too certain; what is not is
    right. ``num_samples`` weighted particles per item; linear operators with a decomposition, Gaussian noise.

    References
    ----------
    Dou & Song 2024, Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective, ICLR
    2024.
    """

    eta: float = 0.85

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("FPS", "eta", self.eta)

    def init(self, run: Run[WalkBound[_Tools]]) -> Particles:
        tools = run.bound.tools.spectral
        x = first_signals(run, run.bound.grid[..., 0])
        top = tools.level(run.bound.level(0, x))
        return self._initial(run, x, tools.data + top * self._shared(run, -1))

    def step(self, run: Run[WalkBound[_Tools]], state: Particles, i: int) -> tuple[Particles, Info]:
        bound = run.bound
        tools = bound.tools.spectral
        level = bound.level(i, state.x)
        a, b = tools.level(level), tools.level(bound.level(i + 1, state.x))
        value = run.prior.denoise(state.x, level)
        if is_zero(b):
            state = replace(state, x=value)
            return state, self._info(run, state)
        to = tools.spectrum.to_spectrum
        X, D = to(state.x), to(value)
        keep = (1 - self.eta**2) ** 0.5
        path = tools.data + keep * (b / a) * (state.path - tools.data) + self.eta * b * self._shared(run, i)
        mean, variance = D + (b / a) ** 2 * (X - D), b * b * (1 - (b / a) ** 2)
        seen = tools.seen.expand(X.shape)
        total = torch.where(seen, variance + torch.where(seen, tools.noise, 0.0) ** 2, 1.0)
        logs = state.log_weights + _log_normal(path - mean, total, seen)
        gain = torch.where(seen, variance / total, 0.0)
        centre = mean + gain * (path - mean)
        state, parent = self._resampled(run, replace(state, x=centre, log_weights=logs, path=path), i)
        spread = (variance * (1 - gain)).sqrt()
        if len(spread) == run.rows:
            spread = spread[parent]
        moved = state.x + spread * to(run.noise(i))
        return replace(state, x=tools.spectrum.from_spectrum(moved)), {}

    def _shared(self, run: Run[WalkBound[_Tools]], i: int) -> Tensor:
        """White noise in coordinates, the same for all particles of an item."""
        batch = run.bound.tools.batch
        first = run.noise(i, 1)[:batch]
        tools = run.bound.tools.spectral
        z = tools.spectrum.to_spectrum(first.repeat(run.rows // batch, *([1] * (first.ndim - 1))))
        return torch.where(tools.seen, z, 0.0)
