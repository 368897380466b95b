"""Predictor-corrector sampling: Langevin steps at every new level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.samplers.ancestral import Ancestral
from invsolve.samplers.base import Denoise, Level, Noise, Sampler, SamplerState, combine, is_zero


@final
@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A step of a predictor to level b, then Langevin steps ``x <- x - tau (x - D) + b sqrt(2 tau) e`` at that level.

    Parameters
    ----------
    predictor : Sampler
        A one-step method (`Ancestral`, the default, `Euler`, `Heun`, `Churn`): what multistep methods remember is not
        of the corrected point.
    corrections : int
        Langevin steps at every level but the last, >= 1, each with one evaluation and one draw.
    rule : {"snr", "level"}
        ``"snr"`` is the paper's, ``tau = 2 (size b |e| / |x - D|)^2``, with the norms of each row alone (their code
        averages them over the batch), and tau at most 1, beyond which x would be thrown past D. ``"level"``:
        ``tau = size``, the same at every level.
    size : float
        Between 0 and 1: for ``"snr"`` the paper's signal-to-noise ratio (0.16 for their networks), for ``"level"`` tau.

    Raises
    ------
    InputError, InputTypeError
        If an option is out of its range, or the predictor remembers more than one step.

    Notes
    -----
    Unadjusted Langevin steps for the distribution at level b. More steps do not make it exact: where b drowns the
    signal, they settle at a variance ``1/(1 - tau/2)`` times the right one.

    References
    ----------
    Song et al. 2021, Score-based generative modeling through stochastic
    differential equations, arXiv:2011.13456, algorithms 2 and 4.
    """

    predictor: Sampler = field(default_factory=Ancestral)
    _: KW_ONLY
    corrections: int = 1
    rule: Literal["snr", "level"] = "snr"
    size: float = 0.16

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Sampler):
            raise invalid_type("PredictorCorrector", "predictor", "a Sampler, such as Euler()", self.predictor)
        if self.predictor.memory or isinstance(self.predictor, PredictorCorrector):
            raise invalid(
                "PredictorCorrector",
                "predictor",
                "a one-step method: Ancestral, Euler, Heun or Churn",
                type(self.predictor).__name__,
            )
        check_int("PredictorCorrector", "corrections", self.corrections, minimum=1)
        check_choice("PredictorCorrector", "rule", self.rule, ("snr", "level"))
        if check_positive("PredictorCorrector", "size", self.size) > 1:
            raise invalid("PredictorCorrector", "size", "at most 1", self.size)

    @property
    def draws_per_step(self) -> int:
        return self.predictor.draws_per_step + self.corrections

    def evaluations(self, num_steps: int) -> int:
        return self.predictor.evaluations(num_steps) + self.corrections * (num_steps - 1)

    def in_units(self, unit: float) -> PredictorCorrector:
        moved = self.predictor.in_units(unit)
        return self if moved is self.predictor else replace(self, predictor=moved)

    def plan(self, grid: Tensor) -> Tensor:
        """The predictor's columns; then ``tau, b sqrt(2 tau)`` of the rule "level", or ``2 (size b)^2, b sqrt(2)``."""
        b = grid[..., 1:]
        first = 2 * (self.size * b) ** 2 if self.rule == "snr" else self.size * (b > 0).to(b)
        second = b * math.sqrt(2 if self.rule == "snr" else 2 * self.size)
        return torch.cat((self.predictor.plan(grid), torch.stack((first, second), dim=-1)), dim=-1)

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        x = self.predictor.step(denoise, state, levels, c[:-2], noise).x
        if is_zero(levels[1]):
            return SamplerState(x=x)
        drawn = self.predictor.draws_per_step
        for i in range(self.corrections):
            away, e = x - denoise(x, levels[1]), noise(drawn + i)
            if self.rule == "level":
                x = combine((1.0, -c[-2], c[-1]), (x, away, e))
            else:
                tau = _quotient(c[-2], e, away)
                x = combine((1.0, -tau, c[-1] * tau.sqrt()), (x, away, e))
        return SamplerState(x=x)


def _quotient(factor: Level, e: Tensor, away: Tensor) -> Tensor:
    """``min(1, factor |e|^2 / |away|^2)`` of each row, ``(rows, 1, ..., 1)``; 1 where x is D."""
    top, bottom = (torch.linalg.vector_norm(v.flatten(1), dim=1).square() for v in (e, away))
    top = expand(top, away) * factor
    bottom = expand(bottom, away)
    return torch.where(top < bottom, top / bottom, 1.0)
