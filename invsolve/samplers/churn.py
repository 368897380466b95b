"""The stochastic sampler of EDM: a little noise is added before each Heun step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.validation import check_positive
from invsolve.errors import invalid
from invsolve.samplers.base import Denoise, Level, Noise, Sampler, SamplerState, add_noise
from invsolve.samplers.heun import HEUN_LAST, heun_columns, heun_step


@final
@dataclass(frozen=True)
class Churn(Sampler):
    """EDM's stochastic sampler: noise up to ``a (1 + gamma)``, then a step of Heun.

    ``gamma = min(s_churn / N, sqrt(2) - 1)`` where ``s_min <= a <= s_max``, else 0, on a grid of N steps: 2N - 1
    evaluations, one draw a step.

    Parameters
    ----------
    s_churn : float
        How much noise is added over the whole walk, >= 0; 0 is `Heun`.
    s_min, s_max : float
        The noise levels between which noise is added, in units of ``unit``; ``s_min`` >= 0, ``s_max`` >= ``s_min``.
    s_noise : float
        Multiplies the added noise, >= 0. EDM's values above 1 undo a blur of trained networks and, with an exact
        denoiser, only add variance, so the default is 1.
    unit : float
        The noise level that counts as 1, > 0: ``solve`` and ``sample_prior`` multiply it by the prior's scale. The
        defaults are EDM's, for data of std 0.5: there ``unit=2`` is EDM itself.

    Raises
    ------
    InputError
        If an option is out of its range.

    Notes
    -----
    The exact Gaussian N(0, 1) on EDM's grid 80..0.002 gets the variance 1.037 with 64 steps, 1.0035 with 256 (tested).

    References
    ----------
    Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
    arXiv:2206.00364, algorithm 2.
    """

    s_churn: float = 40.0
    _: KW_ONLY
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.0
    unit: float = 1.0

    def __post_init__(self) -> None:
        check_positive("Churn", "s_churn", self.s_churn, zero=True)
        low = check_positive("Churn", "s_min", self.s_min, zero=True)
        if check_positive("Churn", "s_max", self.s_max) < low:
            raise invalid("Churn", "s_max", f"at least s_min = {low}", self.s_max)
        check_positive("Churn", "s_noise", self.s_noise, zero=True)
        check_positive("Churn", "unit", self.unit)

    def in_units(self, unit: float) -> Self:
        return replace(self, unit=self.unit * unit)

    @property
    def draws_per_step(self) -> int:
        return 1 if self.s_churn * self.s_noise > 0 else 0

    def evaluations(self, num_steps: int) -> int:
        return 2 * num_steps - 1

    def plan(self, grid: Tensor) -> Tensor:
        a, b = grid[..., :-1], grid[..., 1:]
        gamma = min(self.s_churn / a.shape[-1], math.sqrt(2) - 1)
        inside = (a >= self.s_min * self.unit) & (a <= self.s_max * self.unit)
        raised = torch.where(inside, a * (1 + gamma), a)
        std = torch.where(inside, a * math.sqrt(gamma * (2 + gamma)) * self.s_noise, torch.zeros_like(a))
        heun = torch.stack(heun_columns(raised[..., :-1], b[..., :-1]), dim=-1)
        last = torch.tensor(HEUN_LAST, dtype=grid.dtype, device="cpu").expand(*heun.shape[:-2], 1, -1)
        return torch.cat((std[..., None], raised[..., None], torch.cat((heun, last), dim=-2)), dim=-1)

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        x = add_noise(state.x, c[0], noise)
        return SamplerState(x=heun_step(denoise, x, (c[1], levels[1]), c[2:]))
