"""Sampling the prior itself."""

from __future__ import annotations

from torch import Tensor

from invsolve.samplers import Sampler, UniPC
from invsolve.strategies.guidance.guided import Guided, NoGuidance


def Unconditional(*, sampler: Sampler | None = None, num_steps: int = 50, grid: Tensor | None = None) -> Guided:
    """The prior's denoiser without data, by UniPC-3: the most accurate per evaluation (priors card 3)."""
    return Guided(guidance=NoGuidance(), sampler=sampler or UniPC(order=3), num_steps=num_steps, grid=grid)
