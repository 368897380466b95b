"""DPM-Solver++(2M) for the reverse stochastic equation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import check_positive
from invsolve.samplers.base import (
    Denoise,
    Level,
    Noise,
    Sampler,
    SamplerState,
    combine_noisy,
    inner_steps,
    with_last,
)
from invsolve.samplers.dpm_solver import half_ratio


@final
@dataclass(frozen=True)
class SDEDPMSolver2M(Sampler):
    """DPM-Solver++(2M) for the reverse SDE: weak order 2 (measured), one evaluation and one draw a step.

    ``x' = (b/a) e^(-eta h) x + (1 - e^(-(1+eta) h)) (D + (D - D_prev)/2r) + b sqrt(1 - e^(-2 eta h)) e``, ``r =
    h_prev/h``.

    Parameters
    ----------
    eta : float
        How much noise is renewed, >= 0: 1 is the reverse SDE, 0 is `DPMSolver2M`.

    Raises
    ------
    InputError
        If ``eta`` is negative or not finite.

    References
    ----------
    Lu et al. 2022, DPM-Solver++, arXiv:2211.01095, appendix; k-diffusion's ``dpmpp_2m_sde``,
    midpoint form.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_positive("SDEDPMSolver2M", "eta", self.eta, zero=True)

    @property
    def memory(self) -> int:
        return 1

    @property
    def draws_per_step(self) -> int:
        return 1 if self.eta > 0 else 0

    def plan(self, grid: Tensor) -> Tensor:
        a, b, h = inner_steps(grid)
        gain, w = -torch.expm1(-(1 + self.eta) * h), half_ratio(h)
        std = b * (-torch.expm1(-2 * self.eta * h)).sqrt()
        return with_last((b / a * (-self.eta * h).exp(), gain * (1 + w), -gain * w, std), (0.0, 1.0, 0.0, 0.0))

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        now = denoise(state.x, levels[0])
        return SamplerState(x=combine_noisy(c, (state.x, now, *state.past), noise), past=(now,))
