"""Walks down the noise levels whose step is a method's own, not a sampler with a guided denoiser."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Self, final

from torch import Tensor

from invsolve.core.validation import check_int, check_number, check_positive, real_dtype
from invsolve.errors import invalid
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers.base import Level, SamplerState, is_zero
from invsolve.strategies.base import Bound, Info, Run, StateT, Strategy
from invsolve.strategies.noise_levels import entry_std, first_signals, noise_size, shared_grid, solver_grid

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # as in `strategies.base`

    ToolsT = TypeVar("ToolsT", bound=Bound | None, default=Any)
else:
    from typing import TypeVar

    ToolsT = TypeVar("ToolsT")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class WalkBound(Generic[ToolsT]):
    """The levels, and what the method has prepared for its problem (None: nothing)."""

    grid: Tensor  # (N + 1,) on the CPU, or (rows, N + 1) on the device of the data; float64
    tools: ToolsT
    unit: float  # the std of an entry of the signal, in units of the diffusion noise
    noise: float  # the root mean square of diffusion noise of level 1: 1 if it is white

    def take(self, index: Tensor) -> Self:
        grid = self.grid if self.grid.ndim == 1 else self.grid[index.to(self.grid.device)]
        tools: Any = None if self.tools is None else self.tools.take(index)
        return replace(self, grid=grid, tools=tools)

    def level(self, i: int, like: Tensor) -> Level:
        """A number where rows share the grid, else ``(rows, 1, ..., 1)``; the last level is the number 0 for all."""
        if i + 1 == self.grid.shape[-1]:
            return 0.0
        if self.grid.ndim == 1:
            return float(self.grid[i])
        return self.grid[:, i].to(real_dtype(like.dtype)).view(-1, *([1] * (like.ndim - 1)))


@dataclass(frozen=True, kw_only=True)
class OnLevels(Strategy[StateT, WalkBound[ToolsT]], Generic[StateT, ToolsT]):
    """``num_steps`` steps down the solver's own grid of noise levels, or down ``grid``.

    The solver's grid is log-spaced from ten times the prior's scale down to a tenth of the smallest posterior standard
    deviation, then 0; ``grid`` replaces it, in the units of the signal.

    Subclasses give ``init`` and ``step`` and, where something can be computed once for all rows, `prepare`.
    """

    num_steps: int = 100
    grid: Tensor | None = None

    def __post_init__(self) -> None:
        if self.grid is not None:
            grid = shared_grid(self.name, self.grid)
            object.__setattr__(self, "grid", grid)
            object.__setattr__(self, "num_steps", len(grid) - 1)
        check_int(self.name, "num_steps", self.num_steps, minimum=2)

    def prepare(self, problem: Problem, prior: Prior) -> ToolsT:
        """What is computed once for all rows."""
        return None  # type: ignore[return-value]  # then ToolsT is None

    def bind(self, problem: Problem, prior: Prior) -> WalkBound[ToolsT]:
        grid = self.grid
        if grid is None:
            grid = solver_grid(problem, prior, self.num_steps)
        if grid.ndim > 1:
            grid = grid.to(problem.data.device)
        return WalkBound(grid=grid, tools=self.prepare(problem, prior), unit=entry_std(prior), noise=noise_size(prior))


@dataclass(frozen=True, kw_only=True)
class Walk(OnLevels[SamplerState, ToolsT], Generic[ToolsT]):
    """A signal that moves from level a to level b in every step: subclasses give `move`."""

    @abc.abstractmethod
    def move(self, run: Run[WalkBound[ToolsT]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        """From ``x`` ``(rows, *shape)`` at level a to level b (the number 0.0 in the last step).

        What was prepared is ``run.bound.tools``.
        """

    def first(self, run: Run[WalkBound[ToolsT]]) -> Tensor:
        """The signals at the highest level."""
        return first_signals(run, run.bound.grid[..., 0])

    def init(self, run: Run[WalkBound[ToolsT]]) -> SamplerState:
        return SamplerState(x=self.first(run))

    def step(self, run: Run[WalkBound[ToolsT]], state: SamplerState, i: int) -> tuple[SamplerState, Info]:
        bound = run.bound
        x, info = self.move(run, state.x, bound.level(i, state.x), bound.level(i + 1, state.x), i)
        return SamplerState(x=x), info


# --- arithmetic on levels, numbers or tensors -------------------------------------------------------------------------
def root(v: Level) -> Level:
    """``sqrt(max(v, 0))``."""
    return v.clamp_min(0).sqrt() if isinstance(v, Tensor) else math.sqrt(max(v, 0.0))


def ancestral(x: Tensor, value: Tensor, a: Level, b: Level, run: Run, i: int) -> Tensor:
    """DDPM's step from x with the denoised ``value``: ``D + (b/a)^2 (x - D) + b sqrt(1 - b^2/a^2) e``."""
    if is_zero(b):
        return value
    ratio = (b / a) ** 2
    return value + ratio * (x - value) + b * root(1 - ratio) * run.noise(i)


def fixed_eta(value: Tensor, residual: Tensor, a: Level, b: Level, eta: float, run: Run, i: int) -> Tensor:
    """``value + sqrt(1 - eta^2) (b/a) residual + eta b e``: the step of DDNM, DDRM, DiffPIR and PiGDM's published form.

    With a fixed eta > 0 it is no reverse step of the diffusion for any number of steps: without data a signal of
    variance c ends with ``c (1 + sqrt(1 - eta^2)) / 2`` (0.763 c for eta = 0.85: propagated exactly, with 1000 steps
    0.758).
    """
    if is_zero(b):
        return value
    out = value + math.sqrt(1 - eta * eta) * (b / a) * residual
    return out if eta == 0 else out + eta * b * run.noise(i)


def check_optional(owner: str, name: str, value: float | None) -> None:
    """None, or a positive number."""
    if value is not None:
        check_positive(owner, name, value)


def check_share(owner: str, name: str, eta: float) -> float:
    """A number between 0 and 1."""
    value = check_number(owner, name, eta)
    if not 0 <= value <= 1:
        raise invalid(owner, name, "between 0 and 1", value)
    return value
