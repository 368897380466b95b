"""Heun's method for the probability flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from invsolve.samplers.base import (
    Denoise,
    Level,
    Noise,
    Sampler,
    SamplerState,
    combine,
    inner_steps,
    is_zero,
    with_last,
)


def heun_columns(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Factors of (x, D) in the Euler point y, then of (x, D, D(y, b)) in x'.

    ``x' = x + (b - a) (d + d_y) / 2`` with ``d = (x - D)/a`` and ``d_y = (y - D(y, b))/b``, multiplied out.
    """
    r, w, w_y = b / a, (b - a) / (2 * a), (b - a) / (2 * b)
    return r, 1 - r, 1 + w + w_y * r, w_y * (1 - r) - w, -w_y


HEUN_LAST = (0.0, 1.0, 0.0, 1.0, 0.0)  # b = 0: x' = y = D


def heun_step(denoise: Denoise, x: Tensor, levels: tuple[Level, Level], c: Sequence[Level]) -> Tensor:
    """One step of Heun's method with the factors ``c`` of `heun_columns`; to level 0 it returns D."""
    first = denoise(x, levels[0])
    if is_zero(levels[1]):
        return first
    y = combine(c[:2], (x, first))
    return combine(c[2:], (x, first, denoise(y, levels[1])))


@final
@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """Heun's method: ``y = x + (b-a) d``, ``x' = x + (b-a) (d + (y - D(y, b))/b) / 2``, with ``d = (x - D)/a``.

    Order 2, two evaluations a step. The last step has one, so a grid of N steps costs 2N - 1.

    References
    ----------
    Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
    arXiv:2206.00364, algorithm 1.
    """

    def evaluations(self, num_steps: int) -> int:
        return 2 * num_steps - 1

    def plan(self, grid: Tensor) -> Tensor:
        a, b, _ = inner_steps(grid)
        return with_last(heun_columns(a, b), HEUN_LAST)

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        return SamplerState(x=heun_step(denoise, state.x, levels, c))
