"""Guidance as a denoiser that has seen the data, composed with any sampler."""

from __future__ import annotations

import abc
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import ClassVar, Protocol, Self, final

from torch import Tensor

from invsolve.core.ownership import Owner, call, is_ours
from invsolve.core.torch_state import Defined
from invsolve.core.validation import check_int
from invsolve.errors import invalid_type
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import Plan, Sampler, SamplerState
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.guidance.head_start import HeadStart
from invsolve.strategies.noise_levels import first_signals, shared_grid, solver_grid

_STEPS = 50
_FEW = 16  # with a head start


class BoundGuidance(Protocol):
    """A stateless denoiser that has seen the data: ``(x, t) -> (D_y, info)``, x ``(rows, *shape)``."""

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]: ...

    def take(self, index: Tensor) -> Self:
        """For the rows ``index`` (the item of every row)."""
        ...


class Guidance(Defined, Owner, abc.ABC):
    """Frozen options of a guidance; ``bind`` gives ``D_y = D + C t^2 grad log p(y | x_t)``.

    Attributes
    ----------
    name : str
        What results and messages call it; the name of the class unless given.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = cls.__name__

    @abc.abstractmethod
    def bind(self, problem: Problem, prior: Prior) -> BoundGuidance:
        """The denoiser that has seen the data of ``problem``, with what can be computed once for all rows."""
        ...

    def missing(self, problem: Problem, prior: Prior) -> str:
        """What the operator, noise or prior lacks, as a clause; '' if nothing."""
        return ""

    def starts_ahead(self, problem: Problem, prior: Prior) -> bool:
        """Whether walks begin below the highest level, from a `HeadStart`; not unless overridden."""
        return False


def bound_guidance(guidance: Guidance, problem: Problem, prior: Prior) -> BoundGuidance:
    """``guidance.bind(problem, prior)``; a denoiser of others is handed copies of the tensors."""
    bound = guidance.bind(problem, prior)
    return bound if is_ours(guidance) else _Lending(bound=bound)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Lending:
    """A denoiser that may work in place."""

    bound: BoundGuidance

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]:
        found: tuple[Tensor, Info] = call(self.bound, x, t)
        return found

    def take(self, index: Tensor) -> _Lending:
        return _Lending(bound=self.bound.take(index))


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundGuided:
    """The guidance with its data, and the sampler with its levels."""

    denoise: BoundGuidance
    plan: Plan
    head_start: HeadStart | None = None

    def take(self, index: Tensor) -> BoundGuided:
        head_start = None if self.head_start is None else self.head_start.take(index)
        return BoundGuided(denoise=self.denoise.take(index), plan=self.plan.take(index), head_start=head_start)


@dataclass(frozen=True)
class Guided(Strategy[SamplerState, BoundGuided]):
    """Run a sampler with the guided denoiser down a grid of noise levels.

    Parameters
    ----------
    guidance : Guidance
        How the denoiser sees the data: `MomentMatching`, `TweedieMoment`, `PseudoinverseGuidance`, `NoGuidance` or
        yours.
    sampler : Sampler
        How a step goes from one level to the next: `iv.samplers`.
    num_steps : int, optional
        Steps on the solver's own grid, at least 2; unless given 50, or 16 with the head start below. The grid is
        log-spaced from ten times the prior's scale (clipped to its range) down to a tenth of the smallest posterior
        standard deviation that prior and data allow, then 0.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own: `iv.samplers.karras_grid`,
        `log_grid`, `custom_grid`. ``num_steps`` is then N.

    Raises
    ------
    InputError
        If ``num_steps`` or ``grid`` is out of range.
    InputTypeError
        If ``guidance`` is no `Guidance` or ``sampler`` no `Sampler`.

    Notes
    -----
    The walk starts at ``mean + sqrt(C_fit + t^2) z`` where the prior states a covariance, else at ``mean + t z``.
    With a learned prior that states one, linear data and Gaussian noise, moment matching has a head start: from draws
    of the posterior under the stated distribution, at the level where noise drowns what is not Gaussian of the prior.
    """

    guidance: Guidance
    sampler: Sampler
    _: KW_ONLY
    num_steps: int = None  # type: ignore[assignment]  # decided by `__post_init__` and `settled`
    grid: Tensor | None = None
    unsized: bool = field(init=False, default=False, repr=False, compare=False)  # nobody said how many steps

    def __post_init__(self) -> None:
        if not isinstance(self.guidance, Guidance):
            raise invalid_type("Guided", "guidance", "an iv.strategies.Guidance", self.guidance)
        if not isinstance(self.sampler, Sampler):
            raise invalid_type("Guided", "sampler", "an iv.samplers.Sampler", self.sampler)
        if self.grid is not None:
            grid = shared_grid("Guided", self.grid)
            object.__setattr__(self, "grid", grid)
            object.__setattr__(self, "num_steps", len(grid) - 1)
        elif self.num_steps is None:
            object.__setattr__(self, "unsized", True)
            object.__setattr__(self, "num_steps", _STEPS)
        check_int("Guided", "num_steps", self.num_steps, minimum=2)

    @property
    def name(self) -> str:
        return self.guidance.name

    def missing(self, problem: Problem, prior: Prior) -> str:
        return self.guidance.missing(problem, prior)

    def settled(self, problem: Problem, prior: Prior) -> Guided:
        few = self.unsized and self.guidance.starts_ahead(problem, prior)
        return replace(self, num_steps=_FEW if few else self.num_steps) if self.unsized else self

    def bind(self, problem: Problem, prior: Prior) -> BoundGuided:
        grid, start = self.grid, None
        if grid is None:
            start = HeadStart.find(problem, prior) if self.guidance.starts_ahead(problem, prior) else None
            grid = solver_grid(problem, prior, self.num_steps, None if start is None else start.level)
        plan = Plan.make(self.sampler.in_units(prior.scale), grid)
        return BoundGuided(denoise=bound_guidance(self.guidance, problem, prior), plan=plan, head_start=start)

    def init(self, run: Run[BoundGuided]) -> SamplerState:
        bound = run.bound
        top = bound.plan.grid[..., 0]
        first = first_signals(run, top) if bound.head_start is None else bound.head_start.draw(run, top)
        return bound.plan.sampler.init(first)

    def step(self, run: Run[BoundGuided], state: SamplerState, i: int) -> tuple[SamplerState, Info]:
        bound = run.bound
        info: Info = {}

        def denoise(x: Tensor, t: float | Tensor) -> Tensor:
            nonlocal info
            value, info = bound.denoise(x, t)
            return value

        state = bound.plan.step(denoise, state, i, lambda j: run.noise(i, j))
        return state, info


@final
@dataclass(frozen=True, kw_only=True)
class NoGuidance(Guidance):
    """The prior's own denoiser: unconditional sampling."""

    name: ClassVar[str] = "Unconditional"

    def bind(self, problem: Problem, prior: Prior) -> BoundGuidance:
        return _Unguided(prior=prior)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Unguided:
    prior: Prior

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]:
        return self.prior.denoise(x, t), {}

    def take(self, index: Tensor) -> Self:
        return self
