"""A deterministic chain solved for its whole trajectory at once: parallel in the noise levels."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import expand, norm
from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import Euler
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.guidance.guided import BoundGuidance, BoundGuided, Guidance, Guided
from invsolve.strategies.noise_levels import first_signals

_MEMORY = 5  # sweeps that Anderson's mixing looks back on
_RIDGE = 1e-10  # of the trace of their Gram matrix, added to its diagonal


@dataclass(frozen=True, kw_only=True, eq=False)
class DeqState:
    """Rows first. Row r's states 0..fixed[r] of its trajectory are final."""

    trajectory: Tensor  # (rows, N + 1, *shape): the states at all levels, the last one at 0
    fixed: Tensor  # (rows,) int64
    sweeps: Tensor  # (rows,) float64: how many the row has taken part in
    change: Tensor  # (rows,) float64: of the last state, relative, in the last of them
    past: tuple[Tensor, ...] = ()  # Anderson: the last sweeps' outcomes and residuals, (rows, _MEMORY, N, *shape) each

    @property
    def x(self) -> Tensor:
        return self.trajectory[:, -1]


def sweep(
    denoise: BoundGuidance, trajectory: Tensor, levels: Tensor, fixed: Tensor, window: int
) -> tuple[Tensor, Tensor, Info]:
    """Every state ``fixed + 1 .. fixed + window`` of each row from its predecessor's old value, in one batched call.

    ``x_(k+1) = x_k + (s_(k+1) - s_k) (x_k - D_k)/s_k``, D_k at the old x_k, summed from the row's state ``fixed``.
    ``trajectory`` (rows, N + 1, *shape), ``levels`` (rows, N + 1), ``fixed`` (rows,) below N; ``denoise`` takes
    rows * window points, those of a row together. Returns the new states (rows, window, *shape), those behind the last
    level repeating it; the slope at the last point of the window (rows, *shape); and the info of the call.
    """
    rows, last = len(trajectory), trajectory.shape[1] - 1
    place = fixed[:, None] + torch.arange(window, device=fixed.device)  # of the points
    inside, place = place < last, place.clamp(max=last - 1)
    points = _pick(trajectory, place)
    t = levels.gather(1, place)
    flat = points.flatten(0, 1)
    level = expand(t.flatten(), flat).to(flat.real.dtype)
    value, info = denoise(flat, level)
    slope = ((flat - value) / level).view_as(points)
    step = torch.where(inside, levels.gather(1, place + 1) - t, 0.0)
    moves = slope * step.to(flat.real.dtype).view(rows, window, *([1] * (points.ndim - 2)))
    return _pick(trajectory, fixed[:, None]) + moves.cumsum(1), slope[:, -1], info


def mixing_weights(residuals: Tensor, ridge: Tensor) -> Tensor:
    """Anderson's weights of the last sweeps, (rows, m) float64: ``min |sum_i w_i g_i|^2 + ridge |w|^2``, ``sum w = 1``.

    ``residuals`` (rows, m, ...), ``ridge`` (rows,) > 0. A row alone decides its weights.
    """
    flat = residuals.flatten(2)
    flat = (torch.view_as_real(flat).flatten(2) if flat.is_complex() else flat).double()
    one = torch.ones(flat.shape[1], dtype=flat.dtype, device=flat.device)
    w: Tensor = torch.linalg.solve_ex(flat @ flat.mT + ridge[:, None, None] * one.diag(), one.expand(flat.shape[:2]))[0]
    return w / w.sum(1, keepdim=True)


def relative_ridge(residuals: Tensor) -> Tensor:
    """(rows,): a fixed part of ``trace(G G^T)``, so that the mixing does not stall as residuals get small."""
    trace = norm(residuals).square()
    return torch.where(trace > 0, _RIDGE * trace, 1.0)


@final
@dataclass(frozen=True)
class DeqParallel(Strategy[DeqState, BoundGuided]):
    """The deterministic chain of DDIM, all of its levels solved at once as a fixed point.

    ``x_(k+1) = D_y + (b/a) (x_k - D_y)``: the fixed point of the stacked chain is what ``Guided(guidance, Euler())``
    computes one level after the other. That needs ``num_steps`` calls of rows, this some 10 calls of ``rows *
    num_steps``: less waiting where a device has room for them, more work everywhere.

    Parameters
    ----------
    guidance : Guidance
        How the denoiser sees the data; `NoGuidance` ignores them.
    num_steps : int
        Levels, at least 2; 25 unless given.
    max_sweeps : int, optional
        Sweeps at most, at least 1; ``num_steps`` unless given. It stops there with what is there; then look at the info
        "change".
    rtol : float
        A row's states become final, from the first one on, where none changes by more than this share of its distance
        from the prior's mean, > 0; 1e-4 unless given. The row is left alone once all are: after ``num_steps`` sweeps at
        the latest.
    window : int, optional
        How many levels are swept at once, memory ``rows * window`` for the call; all unless given. A row that has not
        reached the last level by ``max_sweeps`` has failed (NaN).
    acceleration : {"picard", "anderson"}
        "anderson" mixes the last five sweeps (whole trajectories only, so no window), with a regulariser relative to
        their size. "picard" unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels as in `Guided`.

    Raises
    ------
    InputError
        If an option is out of range, ``window`` is given with "anderson", or ``max_sweeps`` windows do not reach the
        end.
    InputTypeError
        If ``guidance`` is no `Guidance`.

    Notes
    -----
    A sweep makes at least one more state of every row exact. Info: "sweeps" and "change" (of the last state, in the
    last sweep, relative) of each row.

    References
    ----------
    Cao et al. 2024, Deep Equilibrium Diffusion Restoration with Parallel Sampling, arXiv 2311.11600; Shih et al. 2023,
    Parallel Sampling of Diffusion Models, arXiv 2305.16317, with a sliding window.
    """

    guidance: Guidance
    _: KW_ONLY
    num_steps: int = 25
    max_sweeps: int | None = None
    rtol: float = 1e-4
    window: int | None = None
    acceleration: Literal["picard", "anderson"] = "picard"
    grid: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.guidance, Guidance):
            raise invalid_type("DeqParallel", "guidance", "an iv.strategies.Guidance", self.guidance)
        chain = self._chain
        object.__setattr__(self, "grid", chain.grid)
        object.__setattr__(self, "num_steps", chain.num_steps)
        check_positive("DeqParallel", "rtol", self.rtol)
        for name in ("max_sweeps", "window"):
            if getattr(self, name) is not None:
                check_int("DeqParallel", name, getattr(self, name), minimum=1)
        check_choice("DeqParallel", "acceleration", self.acceleration, ("picard", "anderson"))
        if self.acceleration == "anderson" and self.window is not None:
            raise invalid(
                "DeqParallel",
                "window",
                "None with acceleration='anderson'",
                self.window,
                "Mixing takes whole trajectories.",
            )
        if self.window is not None and self.max_sweeps is not None and self.window * self.max_sweeps < self.num_steps:
            least = -(-self.num_steps // self.window)
            raise invalid(
                "DeqParallel",
                "max_sweeps",
                f"at least {least}, for {self.num_steps} steps in windows of {self.window}",
                self.max_sweeps,
            )

    @property
    def name(self) -> str:
        """With the guidance: "DeqParallel, MMPS"."""
        return f"DeqParallel, {self.guidance.name}"

    def missing(self, problem: Problem, prior: Prior) -> str:
        return self.guidance.missing(problem, prior)

    def bind(self, problem: Problem, prior: Prior) -> BoundGuided:
        return self._chain.bind(problem, prior)

    def init(self, run: Run[BoundGuided]) -> DeqState:
        levels = self._levels(run)
        x = first_signals(run, levels[:, 0])
        mean = run.prior.mean
        ratio = (levels / levels[:, :1]).to(x.real.dtype).view(run.rows, -1, *([1] * (x.ndim - 1)))
        trajectory = mean + ratio * (x - mean)[:, None]  # exact where D is the mean
        none = torch.zeros(run.rows, dtype=torch.float64, device=x.device)
        past: tuple[Tensor, ...] = ()
        if self.acceleration == "anderson":
            past = (torch.zeros_like(trajectory[:, None, 1:]).repeat_interleave(_MEMORY, 1),) * 2
        return DeqState(trajectory=trajectory, fixed=none.long(), sweeps=none, change=none + math.inf, past=past)

    def step(self, run: Run[BoundGuided], state: DeqState, i: int) -> tuple[DeqState, Info]:
        levels, old, last = self._levels(run), state.trajectory, self.num_steps
        window = min(self.window or last, last)
        working, fixed = state.fixed < last, state.fixed.clamp(max=last - 1)
        # Row r of what was bound, once for each point of its window.
        denoise = run.bound.denoise.take(torch.arange(run.rows, device=old.device).repeat_interleave(window))
        states, slope, info = sweep(denoise, old, levels, fixed, window)
        place = (fixed[:, None] + 1 + torch.arange(window, device=fixed.device)).clamp(max=last)
        moved = norm((states - _pick(old, place)).flatten(0, 1)).view_as(place)
        size = norm((states - run.prior.mean).flatten(0, 1)).view_as(place)
        still = moved <= self.rtol * size
        still[:, 0] = True  # exact: its predecessor is final
        ahead = place.gather(1, still.long().cumprod(1).sum(1, keepdim=True) - 1)[:, 0]
        broken = ~torch.isfinite(moved).all(1)
        end = torch.where(broken, last, ahead)
        # Behind the window the states are carried along the last slope, as one long step.
        far = (levels - levels.gather(1, place[:, -1:])).to(old.real.dtype)
        beyond = torch.arange(last + 1, device=old.device) > place[:, -1:]
        wide = (slice(None), slice(None), *([None] * (old.ndim - 2)))
        new = torch.where(beyond[wide], states[:, -1:] + far[wide] * slope[:, None], old)
        new = _put(new, place, states)
        new = torch.where(expand(broken, new), math.nan, new)
        past = state.past
        if past:
            past = tuple(
                torch.cat((v[:, None], p[:, :-1]), 1)
                for v, p in zip((new[:, 1:], new[:, 1:] - old[:, 1:]), past, strict=True)
            )
            new = self._mixed(new, past, end, min(i + 1, _MEMORY))
        unreached = working & (end < last) & (place[:, -1] < last)
        if i + 1 == self._limit:
            new = torch.where(expand(unreached, new), math.nan, new)
        change = torch.where(moved[:, -1] > 0, moved[:, -1] / size[:, -1], 0.0)
        state = DeqState(
            trajectory=torch.where(expand(working, new), new, old),
            fixed=torch.where(working, end, state.fixed),
            sweeps=state.sweeps + working,
            change=torch.where(working, torch.where(place[:, -1] < last, math.inf, change), state.change),
            past=past,
        )
        # Of what a guidance says of its points the worst of each row.
        told = Diagnostics.from_mapping(info).over_points(window)
        return state, replace(told, sweeps=state.sweeps, change=state.change)

    def finished(self, run: Run[BoundGuided], state: DeqState) -> bool:
        return bool(((state.fixed == self.num_steps) | (state.sweeps >= self._limit)).all())

    @property
    def _chain(self) -> Guided:
        return Guided(guidance=self.guidance, sampler=Euler(), num_steps=self.num_steps, grid=self.grid)

    @property
    def _limit(self) -> int:
        return min(self.max_sweeps or self.num_steps, self.num_steps)

    def _levels(self, run: Run[BoundGuided]) -> Tensor:
        """(rows, N + 1) float64."""
        grid: Tensor = run.bound.plan.grid
        return grid.to(run.problem.data.device).expand(run.rows, -1)

    def _mixed(self, new: Tensor, past: tuple[Tensor, ...], fixed: Tensor, count: int) -> Tensor:
        """``new`` with its states that are not final replaced by the mixture of the last ``count`` sweeps."""
        outcomes, residuals = (p[:, :count] for p in past)
        w = mixing_weights(residuals, relative_ridge(residuals)).to(new.real.dtype)
        mixture = (w.view(*w.shape, *([1] * (new.ndim - 1))) * outcomes).sum(1)
        free = torch.arange(1, new.shape[1], device=new.device) > fixed[:, None]
        free = free.view(*free.shape, *([1] * (new.ndim - 2)))
        return torch.cat((new[:, :1], torch.where(free, mixture, new[:, 1:])), 1)


def _pick(trajectory: Tensor, place: Tensor) -> Tensor:
    """States ``place`` (rows, k) of a trajectory (rows, N + 1, *shape): (rows, k, *shape)."""
    return trajectory[torch.arange(len(trajectory), device=place.device)[:, None], place]


def _put(trajectory: Tensor, place: Tensor, states: Tensor) -> Tensor:
    """A copy with ``states`` at ``place``; where places repeat, so do the states."""
    out = trajectory.clone()
    out[torch.arange(len(out), device=place.device)[:, None], place] = states
    return out
