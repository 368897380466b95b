"""The reverse stochastic equation with steps that every row chooses for itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.core.random import Draws
from invsolve.core.validation import check_int, check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasLaw
from invsolve.problem import Problem
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.guidance.guided import BoundGuidance, Guidance, bound_guidance
from invsolve.strategies.noise_levels import first_signals, noise_levels

_SAFETY, _POWER = 0.9, 0.9  # theta and r of the paper's `h <- theta h E^-r`
_FIRST = 0.01  # the first step, of the whole way
_ROUND = 1e-12  # of the whole way: how far the sum of its stretches may be from it
_DEPTH = 8  # rejections within rejections that are remembered; beyond, two stretches are merged
_PROBES = 16  # draws that the rms of its signals is measured by


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptiveState:
    """Rows first; those of level 0 are finished."""

    x: Tensor
    previous: Tensor  # x1 of the last accepted trial
    level: Tensor  # (rows,) float64
    size: Tensor  # (rows,) float64: of the next step, in ln sigma
    kick: Tensor  # its Brownian increment, of variance `size` in unit noise
    later_size: Tensor  # (rows, _DEPTH) float64: stretches beyond it whose increments are known, the next one last
    later_kick: Tensor  # (rows, _DEPTH, *shape)
    depth: Tensor  # (rows,) int64: how many there are
    accepted: Tensor  # (rows,) float64, how many trials
    rejected: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bound:
    denoise: BoundGuidance
    high: Tensor  # (batch,) float64
    low: Tensor
    unit: float  # rms of a signal about the prior's mean

    def take(self, index: Tensor) -> _Bound:
        return _Bound(denoise=self.denoise.take(index), high=self.high[index], low=self.low[index], unit=self.unit)


def trial(
    denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, now: Tensor, a: Tensor, h: Tensor, kick: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of length ``h`` in ln sigma from level ``a``: Euler-Maruyama's x1, the stochastic improved Euler's x2.

    ``dx = -2 (x - D) dt + sigma sqrt(2) dW``, t = -ln sigma. ``now = D(x, a)``; a, h are ``(rows, 1, ..., 1)``; ``kick
    ~ N(0, h)`` is the increment of W, the same for both. x2 is of weak order 2.
    """
    b = a * (-h).exp()
    kick = math.sqrt(2) * kick
    first = x - 2 * h * (x - now) + a * kick
    second = x - 2 * h * (first - denoise(first, b)) + b * kick
    return first, (first + second) / 2


@final
@dataclass(frozen=True)
class AdaptiveSDE(Strategy[AdaptiveState, _Bound]):
    """The reverse stochastic equation, its steps as long as an error estimate allows; every row chooses its own.

    Every step of the strategy is one trial of every row, two evaluations: `trial` gives x1 and x2, the error is ``E =
    rms((x2 - x1) / max(atol u, rtol max(|x1|, |x1 before|)))`` over the entries of the row alone; x2 is taken if ``E <=
    1``, and the next trial has ``h <- min(what is left, 0.9 h E^-0.9)``. At the lowest level a row takes D and stands
    still.

    Parameters
    ----------
    guidance : Guidance
        How the denoiser sees the data; `NoGuidance` ignores them.
    rtol : float
        Relative tolerance, >= 0; 0.05 unless given.
    atol : float
        Absolute tolerance in units of u, the rms of the prior's signals about their mean, > 0; 0.01 unless given.
    levels : tuple of two floats, optional
        The highest and the lowest noise level, in the units of the signal; as `Guided` chooses them unless given.
    num_steps : int
        Trials at most, at least 1; 1000 unless given. A row that has not arrived by then has failed (NaN).

    Raises
    ------
    InputError
        If a tolerance, a level or ``num_steps`` is out of range.
    InputTypeError
        If ``guidance`` is no `Guidance` or ``levels`` no pair.

    Notes
    -----
    Sizes are measured from the prior's mean, and u is the rms of its signals, so that neither an offset nor the units
    matter (the paper's images fill [-1, 1]). Info: "accepted", "rejected", trials of each row.

    One change: a rejected step keeps the Brownian path that it has seen, and the shorter one is drawn from the bridge.
    With new noise after each rejection, as published, the steps that are taken prefer large |x|: samples of N(0, 1) in
    one dimension had a std 1.6 to 2.2 times too large, the worse the tighter the tolerance (measured; in 64 dimensions
    below 1 %). It takes 9 more tensors of the size of x a row.

    References
    ----------
    Jolicoeur-Martineau et al. 2021, Gotta Go Fast When Generating Data with Score-Based Models, arXiv 2105.14080.
    """

    guidance: Guidance
    _: KW_ONLY
    rtol: float = 0.05
    atol: float = 0.01
    levels: tuple[float, float] | None = None
    num_steps: int = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.guidance, Guidance):
            raise invalid_type("AdaptiveSDE", "guidance", "an iv.strategies.Guidance", self.guidance)
        check_positive("AdaptiveSDE", "rtol", self.rtol, zero=True)
        check_positive("AdaptiveSDE", "atol", self.atol)
        check_int("AdaptiveSDE", "num_steps", self.num_steps, minimum=1)
        if self.levels is not None:
            if not isinstance(self.levels, tuple) or len(self.levels) != 2:
                raise invalid_type("AdaptiveSDE", "levels", "a pair (high, low)", self.levels)
            high, low = (check_positive("AdaptiveSDE", f"levels[{i}]", v) for i, v in enumerate(self.levels))
            if not high > low:
                raise invalid("AdaptiveSDE", "levels", "a pair (high, low), high above low", self.levels)

    @property
    def name(self) -> str:
        """With the guidance: "AdaptiveSDE, MMPS"."""
        return f"AdaptiveSDE, {self.guidance.name}"

    def missing(self, problem: Problem, prior: Prior) -> str:
        return self.guidance.missing(problem, prior)

    def bind(self, problem: Problem, prior: Prior) -> _Bound:
        ends = noise_levels(problem, prior) if self.levels is None else self.levels
        device, rows = problem.data.device, len(problem.data)
        high, low = (torch.as_tensor(v, dtype=torch.float64).to(device).expand(rows) for v in ends)
        return _Bound(denoise=bound_guidance(self.guidance, problem, prior), high=high, low=low, unit=_rms(prior))

    def init(self, run: Run[_Bound]) -> AdaptiveState:
        bound = run.bound
        x = first_signals(run, bound.high)
        none, path = torch.zeros_like(bound.high), torch.zeros_like(x)
        size = _FIRST * (bound.high / bound.low).log()
        return AdaptiveState(
            x=x, previous=x, level=bound.high, size=size, kick=_wide(size.sqrt(), x) * run.noise(-1, 1),
            later_size=none[:, None].repeat(1, _DEPTH), later_kick=path[:, None].repeat_interleave(_DEPTH, 1),
            depth=torch.zeros_like(none, dtype=torch.int64), accepted=none, rejected=none,
        )  # fmt: skip

    def step(self, run: Run[_Bound], state: AdaptiveState, i: int) -> tuple[AdaptiveState, Info]:
        bound = run.bound
        x, low = state.x, bound.low
        info: Info = {}

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            nonlocal info
            value, info = bound.denoise(x, t)
            return value

        walking, arrived = state.level > low, state.level == low
        level = torch.maximum(state.level, low)  # finished rows are looked at there, to no effect
        now = denoise(x, _wide(level, x))
        first, second = trial(denoise, x, now, _wide(level, x), _wide(state.size, x), state.kick)
        error = self._error(run, bound.unit, state, first, second)
        broken = walking & ~torch.isfinite(error)
        taken, refused = walking & (error <= 1), walking & (error > 1)
        end = _ROUND * (bound.high / low).log()
        after = torch.where(state.size >= (level / low).log() - end, low, level * (-state.size).exp())
        level = torch.where(taken, after, torch.where(arrived | broken, 0.0, state.level))
        wish = _SAFETY * state.size * error.clamp(min=1e-30) ** -_POWER
        wish = torch.minimum(wish, (torch.maximum(level, low) / low).log())
        x = torch.where(expand(taken, x), second, torch.where(expand(arrived, x), now, x))
        if i + 1 == self.num_steps:
            broken = broken | (level > 0)
        x = torch.where(expand(broken, x), math.nan, x)
        state = AdaptiveState(
            x=x, previous=torch.where(expand(taken, x), first, state.previous), level=level,
            accepted=state.accepted + taken, rejected=state.rejected + refused,
            **_next_stretch(state, refused, wish, run.noise(i)),
        )  # fmt: skip
        return state, replace(Diagnostics.from_mapping(info), accepted=state.accepted, rejected=state.rejected)

    def finished(self, run: Run[_Bound], state: AdaptiveState) -> bool:
        return bool((state.level == 0).all())

    def _error(self, run: Run[_Bound], unit: float, state: AdaptiveState, first: Tensor, second: Tensor) -> Tensor:
        """E of every row, (rows,) float64."""
        mean = run.prior.mean
        scale = torch.maximum((first - mean).abs(), (state.previous - mean).abs())
        relative = (second - first).abs() / (self.rtol * scale).clamp(min=self.atol * unit)
        return relative.double().square().flatten(1).mean(1).sqrt()


def _next_stretch(state: AdaptiveState, refused: Tensor, wish: Tensor, z: Tensor) -> dict[str, Tensor]:
    """The next step of every row, at most ``wish`` (rows,) long, and the Brownian path beyond it.

    What a refused step has seen of the path stays: its stretch is put back and cut, the increment of the first part
    drawn from the Brownian bridge. So no trial, refused or not, changes the distribution of the noise.
    """
    rows, slots = torch.arange(len(wish), device=wish.device), torch.arange(_DEPTH, device=wish.device)
    depth = (state.depth + refused).clamp(max=_DEPTH)
    put = refused[:, None] & (slots == depth[:, None] - 1)
    full = put & (state.depth == _DEPTH)[:, None]  # no room: the stretch joins the one after it
    sizes = torch.where(put, state.size[:, None] + torch.where(full, state.later_size, 0.0), state.later_size)
    later = state.later_kick
    kicks = torch.where(_slots(put, later), state.kick[:, None] + torch.where(_slots(full, later), later, 0), later)
    known, top = depth > 0, (depth - 1).clamp(min=0)
    whole, path = sizes[rows, top], kicks[rows, top]
    size = torch.where(known, torch.minimum(wish, whole), wish)
    part = torch.where(known, size / whole, 0.0)
    spread = torch.where(known, size * (1 - part), size).sqrt()
    kick = _wide(part, z) * path + _wide(spread, z) * z
    cut = known[:, None] & (slots == top[:, None])
    sizes = torch.where(cut, (whole - size)[:, None], sizes)
    kicks = torch.where(_slots(cut, kicks), (path - kick)[:, None], kicks)
    return {
        "size": size,
        "kick": kick,
        "later_size": sizes,
        "later_kick": kicks,
        "depth": torch.where(known & (size == whole), depth - 1, depth),
    }


def _wide(row: Tensor, like: Tensor) -> Tensor:
    """(rows,) float64 -> (rows, 1, ..., 1) of the real dtype of ``like``."""
    return expand(row, like).to(like.real.dtype)


def _slots(which: Tensor, like: Tensor) -> Tensor:
    """(rows, _DEPTH) -> the number of axes of ``like``."""
    return which.view(*which.shape, *([1] * (like.ndim - 2)))


def _rms(prior: Prior) -> float:
    """The rms of signals about the prior's mean: of draws of its stated Gaussian; else ``prior.scale``."""
    if not isinstance(prior, HasLaw):
        return prior.scale
    draws = Draws.for_rows(0, [0] * _PROBES, list(range(_PROBES)), prior.device, purpose="adaptive")
    dtype = prior.mean.dtype
    x = prior.law.sample(draws.normal(prior.law.modes.mode_shape, dtype, step=0)) - prior.mean
    return float(x.abs().double().square().mean().sqrt())
