"""How noise is removed: a sampler turns a denoiser into a walk down a grid of noise levels.

A `Sampler` is frozen options. `plan` computes every coefficient of every step once, in float64, as a table of numbers;
`step` then is a few fused multiplications. The grid belongs to the caller and ends in 0; the last step returns D.

Symbols, the same in every file of this folder: a step goes from level a to level b, h = ln(a/b) > 0, x is the state at
a, and D = D(x, a) is the denoiser there, E[x0 | x]. Levels are the standard deviations sigma of added noise, as in
Karras et al. 2022 (arXiv:2206.00364); x' is the state at b.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from invsolve.core.ownership import Owner

Level = float | Tensor  # a number, or (rows, 1, ..., 1)
Denoise = Callable[[Tensor, Level], Tensor]  # (x (rows, *shape), level) -> D (rows, *shape)
Noise = Callable[[int], Tensor]  # index of the draw within the step -> diffusion noise of unit level (rows, *shape)


@dataclass(frozen=True, eq=False)
class SamplerState:
    """What a sampler carries from level to level.

    Parameters
    ----------
    x : Tensor, shape (rows, *shape)
        The signal with the noise of the current level.
    past : tuple of Tensor
        What a multistep method remembers, each of the shape of ``x``; empty for one-step methods.
    """

    x: Tensor
    _: KW_ONLY
    past: tuple[Tensor, ...] = ()


class Sampler(Owner, abc.ABC):
    """How noise is removed, step by step: frozen options; all state is in `SamplerState`.

    `invsolve.samplers.Plan` holds a sampler together with a grid. Subclasses give `plan` and `step`.
    """

    @property
    def memory(self) -> int:
        """How many tensors the state carries beside ``x``."""
        return 0

    @property
    def draws_per_step(self) -> int:
        """How often a step may call ``noise``: 0 if the sampler is deterministic."""
        return 0

    @property
    def stochastic(self) -> bool:
        """True if steps draw noise."""
        return self.draws_per_step > 0

    def evaluations(self, num_steps: int) -> int:
        """Denoiser evaluations on a grid of ``num_steps`` steps (``num_steps + 1`` levels), per row."""
        return num_steps

    def in_units(self, unit: float) -> Sampler:
        """The same sampler for data of scale ``unit``; it differs only where the formula has a noise level of its own.

        Whoever builds a plan for a prior passes ``prior.scale``, so that a change of units changes nothing else.
        """
        return self

    def init(self, x: Tensor) -> SamplerState:
        """The state at the first level; ``past`` is filled so that its structure never changes."""
        return SamplerState(x=x, past=(torch.zeros_like(x),) * self.memory)

    @abc.abstractmethod
    def plan(self, grid: Tensor) -> Tensor:
        """The coefficients of all steps: grid ``(..., N+1)`` -> ``(..., N, K)``.

        Parameters
        ----------
        grid : Tensor, shape (..., N + 1)
            Noise levels: float64 on the CPU, decreasing, ending in 0. Leading axes (a grid per row) are kept.

        Returns
        -------
        Tensor, shape (..., N, K)
            K numbers for each step; how many, and what they mean, is the sampler's own affair.
        """

    @abc.abstractmethod
    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        """One step, from level a to level b.

        What is zero in every row is the float 0.0: the last level, a noise that is off, a term that the first steps do
        not have. So a step may leave out the work behind a zero without reading a tensor back, and changes no result by
        it.

        Parameters
        ----------
        denoise : callable
            ``(x (rows, *shape), level)`` -> D ``(rows, *shape)``.
        state : SamplerState
            The state at level a.
        levels : tuple of two levels
            a and b: floats when the rows share one grid, else tensors ``(rows, 1, ..., 1)``.
        c : sequence of levels
            This step's K coefficients of `plan`, floats or tensors as the levels.
        noise : callable
            Index of the draw within the step -> diffusion noise of unit level ``(rows, *shape)``.

        Returns
        -------
        SamplerState
            The state at level b.
        """


def is_zero(value: Level) -> bool:
    """True for the float 0.0, which stands for "zero in every row"; never reads a tensor."""
    return isinstance(value, float) and value == 0.0


def combine(c: Sequence[Level], terms: Sequence[Tensor]) -> Tensor:
    """``sum_k c_k terms_k``, a new tensor, in one pass over memory per term; terms behind a zero are left out."""
    used = [(factor, term) for factor, term in zip(c, terms, strict=True) if not is_zero(factor)]
    if not used:
        return torch.zeros_like(terms[0])
    (scale, first), *rest = used
    if rest and isinstance(scale, float) and scale == 1.0:
        (factor, term), *rest = rest
        out = _plus(first, term, factor)
    else:
        out = first * scale
    for factor, term in rest:  # in place: a large tensor costs as much to allocate as to compute
        if isinstance(factor, Tensor):
            out = out.add_(term * factor) if term.is_complex() else out.addcmul_(term, factor)
        else:
            out = out.add_(term, alpha=factor)
    return out


def _plus(first: Tensor, term: Tensor, factor: Level) -> Tensor:
    """``first + factor term``, a new tensor."""
    if not isinstance(factor, Tensor):
        return torch.add(first, term, alpha=factor)
    return first + term * factor if term.is_complex() else torch.addcmul(first, term, factor)


def combine_noisy(c: Sequence[Level], terms: Sequence[Tensor], noise: Noise, index: int = 0) -> Tensor:
    """`combine` with one more term, ``c[-1] noise(index)``; nothing is drawn where ``c[-1]`` is zero."""
    return combine(c[:-1], terms) if is_zero(c[-1]) else combine(c, (*terms, noise(index)))


def add_noise(x: Tensor, std: Level, noise: Noise, index: int = 0) -> Tensor:
    """``x + std * noise(index)``; nothing is drawn where ``std`` is zero."""
    return x if is_zero(std) else combine((1.0, std), (x, noise(index)))


def with_last(columns: Sequence[Tensor], last: Sequence[float]) -> Tensor:
    """The table ``(..., N, K)`` from K columns ``(..., N-1)``, the steps to positive levels, and the last row."""
    head = torch.stack(tuple(columns), dim=-1)
    tail = torch.tensor(last, dtype=head.dtype).expand(*head.shape[:-2], 1, len(last))
    return torch.cat((head, tail), dim=-2)


def inner_steps(grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``a``, ``b`` and ``h = ln(a/b)``, each ``(..., N-1)``, of all steps but the last one, which goes to 0."""
    a, b = grid[..., :-2], grid[..., 1:-1]
    return a, b, (a / b).log()
