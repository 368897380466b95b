"""How noise is removed: a sampler turns a denoiser into a walk down a grid of noise levels.

A `Sampler` is frozen options. `plan` computes every coefficient of every step once, in float64, as a table of numbers;
`step` then is a few fused multiplications. The grid belongs to the caller and ends in 0; the last step returns D.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float | Tensor], Tensor]  # (x (rows, *shape), level) -> D (rows, *shape)
Noise = Callable[[int], Tensor]  # index of the draw within the step -> diffusion noise of unit level (rows, *shape)
Level = float | Tensor  # a number, or (rows, 1, ..., 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplerState:
    """``x`` (rows, *shape) at the current level and ``past``: what a multistep method remembers, each (rows, *shape)."""

    x: Tensor
    past: tuple[Tensor, ...] = ()


class Sampler(abc.ABC):
    """Frozen options; all state is in `SamplerState`."""

    @abc.abstractmethod
    def plan(self, grid: Tensor) -> Tensor:
        """The coefficients of all steps: grid ``(..., N+1)`` float64 on CPU, decreasing, ending in 0 -> ``(..., N, K)``.

        Leading axes of the grid (a grid per row) are kept.
        """

    @abc.abstractmethod
    def init(self, x: Tensor) -> SamplerState:
        """The state at the first level; ``past`` is filled with zeros so that its structure never changes."""

    @abc.abstractmethod
    def step(self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: list[Level], noise: Noise) -> SamplerState:
        """From level a to level b = ``levels``; ``c`` is this step's K coefficients."""
