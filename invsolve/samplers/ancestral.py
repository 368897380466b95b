"""Ancestral sampling: the reverse kernel of a Gaussian diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

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


@final
@dataclass(frozen=True)
class Ancestral(Sampler):
    """Ancestral sampling: ``x' = D + (b/a) sqrt(1 - tau) (x - D) + b sqrt(tau) e``, from level a to level b.

    ``tau = eta (1 - b^2/a^2)``, clipped to [0, 1]. Weak order 1 for every eta; one evaluation and one draw a step.

    Parameters
    ----------
    eta : float
        How much noise is renewed, >= 0: 1 is DDPM, 0 is Euler (DDIM). DDIM's own eta enters squared: its 0.5 is 0.25
        here.

    Raises
    ------
    InputError
        If ``eta`` is negative or not finite.

    References
    ----------
    Ho, Jain & Abbeel 2020, Denoising diffusion probabilistic models, arXiv:2006.11239.
    Song, Meng & Ermon 2021, Denoising diffusion implicit models, arXiv:2010.02502.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_positive("Ancestral", "eta", self.eta, zero=True)

    @property
    def draws_per_step(self) -> int:
        return 1 if self.eta > 0 else 0

    def plan(self, grid: Tensor) -> Tensor:
        a, b, _ = inner_steps(grid)
        tau = (self.eta * (1 - (b / a) ** 2)).clamp(0, 1)
        keep = b / a * (1 - tau).sqrt()
        return with_last((keep, 1 - keep, b * tau.sqrt()), (0.0, 1.0, 0.0))

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        return SamplerState(x=combine_noisy(c, (state.x, denoise(state.x, levels[0])), noise))
