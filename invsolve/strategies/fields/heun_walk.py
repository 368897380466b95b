"""What FunDPS and DiffusionPDE share: Heun's method, and a gradient through both denoiser calls of a step."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.core.derivatives import WHY, pullback
from invsolve.core.ownership import call
from invsolve.core.validation import check_int, check_number, check_positive
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.noise import Gaussian
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasLaw
from invsolve.problem import Problem
from invsolve.samplers import Heun, Plan, karras_grid
from invsolve.samplers.base import Level, SamplerState, is_zero
from invsolve.strategies.base import Info, Run, needs_derivative
from invsolve.strategies.guidance.guided import BoundGuidance
from invsolve.strategies.guidance.mmps import MomentMatching
from invsolve.strategies.noise_levels import PerRow, entry_std, noise_size
from invsolve.strategies.published.annealed import Walk, WalkBound, check_optional

Pull = Callable[[Tensor], Tensor]
Residual = Callable[[Tensor], Tensor]

_WIDTH = 2.0  # stds of the signal, and of the data, in a unit: both papers train networks for a std of 1/2


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class HeunTools:
    """What is computed once for all rows."""

    unit: float  # of the signal
    level: float  # noise of level 1, root mean square, in units of the signal
    data_unit: PerRow
    guided: BoundGuidance | None  # of the corrected form
    plan: Plan

    def take(self, index: Tensor) -> Self:
        guided = None if self.guided is None else self.guided.take(index)
        return replace(self, data_unit=self.data_unit.take(index), guided=guided, plan=self.plan.take(index))


@dataclass(frozen=True, kw_only=True)
class HeunWalk(Walk[HeunTools]):
    """Options of both methods; a subclass gives `slope`, and its own default of ``num_steps`` and of the weights."""

    num_steps: int = 500
    weight: float = 1.0
    residual: Residual | None = None
    residual_weight: float = 0.0
    unit: float | None = None
    data_unit: float | None = None
    sigma_max: float = 80.0
    sigma_min: float = 0.002
    corrected: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight", "residual_weight"):
            check_positive(self.name, name, getattr(self, name), zero=True)
        for name in ("unit", "data_unit"):
            check_optional(self.name, name, getattr(self, name))
        low = check_positive(self.name, "sigma_min", self.sigma_min)
        if check_number(self.name, "sigma_max", self.sigma_max) <= low:
            raise invalid(self.name, "sigma_max", f"above sigma_min = {low:g}", self.sigma_max)
        check_int(self.name, "num_steps", self.num_steps, minimum=2)
        if not isinstance(self.corrected, bool):
            raise invalid_type(self.name, "corrected", "True or False", self.corrected)
        if self.residual is not None and not callable(self.residual):
            raise invalid_type(self.name, "residual", "a function of the signal", self.residual)
        if self.residual_weight and self.residual is None:
            raise invalid(self.name, "residual", "given, as it has a weight", None, "Or leave out residual_weight.")
        if self.corrected and self.residual is not None:
            repair = "Take the equation into the operator: A = observation @ solver."
            raise invalid(self.name, "residual", "left out where corrected=True", "a function", repair)

    def missing(self, problem: Problem, prior: Prior) -> str:
        if self.corrected:
            return MomentMatching().missing(problem, prior)
        if not isinstance(problem.noise, Gaussian) and not isinstance(problem.operator, BlackBox):
            return "Gaussian noise (its misfit is a difference), or corrected=True"
        return needs_derivative(problem)

    # --- what is prepared ---------------------------------------------------------------------------------------------
    def bind(self, problem: Problem, prior: Prior) -> WalkBound[HeunTools]:
        unit = self.unit or _WIDTH * signal_std(prior)
        noise = noise_size(prior)
        grid = self.grid
        if grid is None:
            low, high = prior.sigma_range
            top, bottom = (sigma * unit / noise for sigma in (self.sigma_max, self.sigma_min))
            grid = karras_grid(min(top, high), max(bottom, low), self.num_steps)
        tools = HeunTools(
            unit=unit,
            level=noise / unit,
            data_unit=_data_unit(problem, self.data_unit),
            guided=MomentMatching().bind(problem, prior) if self.corrected else None,
            plan=Plan.make(Heun(), grid),
        )
        return WalkBound(grid=grid, tools=tools, unit=entry_std(prior), noise=noise)

    def first(self, run: Run[WalkBound[HeunTools]]) -> Tensor:
        top: Tensor = float(run.bound.grid[0]) * run.noise(-1)
        return run.prior.mean + top

    # --- a step -------------------------------------------------------------------------------------------------------
    def move(self, run: Run[WalkBound[HeunTools]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        tools, prior = run.bound.tools, run.prior
        if tools.guided is not None:
            return self._corrected(run, x, i)
        first, pull_first = prior.pullback(x, a)
        if is_zero(b):
            out = last = first
            back: Pull = pull_first
        else:
            c: list[float] = tools.plan.table[i].tolist()
            y_x, y_d, x_x, x_d, x_y = c
            last, pull_last = prior.pullback(y_x * x + y_d * first, b)
            out = x_x * x + x_d * first + x_y * last

            def back(v: Tensor) -> Tensor:
                through = pull_last(v)
                return y_x * through + y_d * pull_first(through)

        slope = self.slope(run, last, a, b, i)
        return out if slope is None else out - tools.unit**2 * back(slope), {}

    @abc.abstractmethod
    def slope(self, run: Run[WalkBound[HeunTools]], value: Tensor, a: Level, b: Level, i: int) -> Tensor | None:
        """The gradient of the weighted losses in the denoised ``value``; None where there is no guidance."""

    def _corrected(self, run: Run[WalkBound[HeunTools]], x: Tensor, i: int) -> tuple[Tensor, Info]:
        tools = run.bound.tools
        info: Info = {}

        def denoise(x: Tensor, t: Level) -> Tensor:
            nonlocal info
            assert tools.guided is not None
            value, info = tools.guided(x, t)
            return value

        return tools.plan.step(denoise, SamplerState(x=x), i, lambda j: run.noise(i, j)).x, info

    # --- losses -------------------------------------------------------------------------------------------------------
    def misfit(self, run: Run[WalkBound[HeunTools]], value: Tensor) -> tuple[Tensor, Pull]:
        """``(A(value) - y) / unit of the data``, zero where nothing was observed, and the pullback of that map."""
        problem = run.problem
        clean, back = problem.operator.vjp(value)
        unit = run.bound.tools.data_unit.like(clean)
        rest = (clean - problem.data) / unit
        seen = problem.operator.observed
        rest = rest if seen is None else rest * seen
        return rest, lambda v: back(v / unit)

    def equation(self, value: Tensor) -> tuple[Tensor, Pull]:
        """The user's residual ``(rows, n)``, and the pullback of that map."""
        residual = self.residual
        assert residual is not None

        def function(x: Tensor) -> Tensor:
            rest = call(residual, x)
            if not isinstance(rest, Tensor) or rest.ndim < 1 or len(rest) != len(x):
                given = tuple(rest.shape) if isinstance(rest, Tensor) else rest
                raise invalid(self.name, "residual", f"a map to a tensor of {len(x)} rows, as the signals", given)
            return rest.flatten(1)

        return pullback(
            function, value, lambda: UnsupportedError(f"{self.name}: residual must be differentiable, {WHY}")
        )


def row_norm(rest: Tensor) -> Tensor:
    """``||rest||`` of every row, ``(rows, 1, ..., 1)``."""
    return expand(torch.linalg.vector_norm(rest.flatten(1), dim=1), rest)


def signal_std(prior: Prior) -> float:
    """The root mean variance of an entry, in the units of the signal."""
    if not isinstance(prior, HasLaw):
        return prior.scale * noise_size(prior)
    if prior.white_noise:
        return entry_std(prior)
    rng = torch.Generator().manual_seed(0)
    shape = (16, *prior.law.modes.mode_shape)
    z = torch.randn(shape, generator=rng, dtype=prior.mean.dtype, device="cpu").to(prior.device)
    z = z / z.abs().square().mean(0).sqrt()  # of every mode: no error of sampling where modes are waves
    return float((prior.law.sample(z) - prior.mean).abs().square().mean().sqrt())


def _data_unit(problem: Problem, given: float | None) -> PerRow:
    """That of every item: twice the root mean square of its data, unless given; 1 without data."""
    rows = len(problem.data)
    if given is not None:
        return PerRow.of(problem, torch.full((rows,), given, dtype=torch.float64, device="cpu"))
    seen = problem.operator.observed
    y = problem.data if seen is None else torch.where(seen, problem.data, 0)
    power = y.abs().square().double().flatten(1).sum(1) / problem.num_data.clamp_min(1)
    size = _WIDTH * power.sqrt()
    return PerRow.of(problem, torch.where(size > 0, size, 1.0))
