"""Sampling the prior itself."""

from __future__ import annotations

from typing import final

from torch import Tensor

from invsolve.samplers import Sampler, UniPC
from invsolve.strategies.guidance.guided import Guided, NoGuidance
from invsolve.strategies.guidance.preset import Preset, guided


@final
class Unconditional(Guided, metaclass=Preset):
    """The prior's denoiser without data, by UniPC of order 3: the most accurate per evaluation.

    Parameters
    ----------
    sampler : Sampler, optional
        How a step goes from one level to the next; ``iv.samplers.UniPC(order=3)`` unless given.
    num_steps, grid : optional
        Of `Guided`; 50 steps unless given.

    Returns
    -------
    Guided
        ``Guided(guidance=NoGuidance(), sampler=...)``.

    Raises
    ------
    InputError
        As `Guided`.

    References
    ----------
    Zhao et al. 2023, UniPC: A Unified Predictor-Corrector Framework, arXiv 2302.04867.
    """

    guidance_type = NoGuidance

    def __new__(  # type: ignore[misc]  # see `Preset`
        cls,
        *,
        sampler: Sampler | None = None,
        num_steps: int | None = None,
        grid: Tensor | None = None,
    ) -> Guided:
        return guided(NoGuidance(), sampler or UniPC(order=3), num_steps, grid)
