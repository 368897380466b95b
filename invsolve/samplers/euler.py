"""Euler's method for the probability flow: DDIM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from invsolve.samplers.base import Denoise, Level, Noise, Sampler, SamplerState, combine, inner_steps, with_last


@final
@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """Euler's method: ``x' = D + (b/a) (x - D)``; order 1, one evaluation a step.

    References
    ----------
    Song, Meng & Ermon 2021, Denoising diffusion implicit models, arXiv:2010.02502 (eta = 0).
    """

    def plan(self, grid: Tensor) -> Tensor:
        a, b, _ = inner_steps(grid)
        return with_last((b / a, 1 - b / a), (0.0, 1.0))

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        return SamplerState(x=combine(c, (state.x, denoise(state.x, levels[0]))))
