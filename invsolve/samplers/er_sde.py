"""Extended reverse-time SDE solvers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.validation import check_int, check_positive
from invsolve.errors import invalid
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

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(64))


def paper_log_gain(s: Tensor) -> Tensor:
    """``ln(phi(s)/s)`` of the paper's choice ``phi(s) = s (exp(s^0.3) + 10)``."""
    return torch.logaddexp(s**0.3, torch.full_like(s, math.log(10.0)))


def er_table(grid: Tensor, order: int, log_gain: Callable[[Tensor], Tensor]) -> Tensor:
    """Factors of (x, D, D1, .., noise) for any ``phi(s) = s exp(log_gain(s))``.

    phi = s gives the probability flow, phi = s^2 the reverse SDE (and order 1 then is DDPM). ``I0`` and ``I1`` of the
    paper are taken in ln s, where their integrands are smooth: 64 Gauss points reach rounding for steps of up to
    ln(a/b) = 7 (tested against an adaptive rule).
    """
    a, b, h = inner_steps(grid)
    log_g = log_gain(b) - log_gain(a)
    r = b / a * log_g.exp()
    noise = b * (-torch.expm1(2 * log_g)).clamp_min(0).sqrt()  # b^2 - a^2 r^2 without the cancellation
    s = b[..., None] * (h[..., None] * (_NODES + 1) / 2).exp()
    integrand = (log_gain(b)[..., None] - log_gain(s)).exp() * b[..., None]  # phi(b)/phi(s) ds/d ln s
    i0 = (integrand * _WEIGHTS).sum(-1) * h / 2  # phi(b) I0
    i1 = (integrand * (s - a[..., None]) * _WEIGHTS).sum(-1) * h / 2
    zero = torch.zeros_like(h)
    d0, d1, d2 = 1 - r, zero.clone(), zero.clone()
    if order >= 2:  # (b - a + phi(b) I0) (D - D1)/(a - S1)
        first = ((b - a + i0)[..., 1:]) / (a[..., 1:] - a[..., :-1])
        d0[..., 1:] += first
        d1[..., 1:] -= first
    if order >= 3:  # ((b - a)^2/2 + phi(b) I1) 2 (d1 - d1_prev)/(a - S2)
        s0, s1, s2 = a[..., 2:], a[..., 1:-1], a[..., :-2]
        second = (2 * ((b - a) ** 2 / 2 + i1)[..., 2:]) / (s0 - s2)
        d0[..., 2:] += second / (s0 - s1)
        d1[..., 2:] -= second / (s0 - s1) + second / (s1 - s2)
        d2[..., 2:] += second / (s1 - s2)
    return with_last((r, *(d0, d1, d2)[:order], noise), (0.0, 1.0, *(0.0,) * order))


@final
@dataclass(frozen=True)
class ERSDE(Sampler):
    """ER-SDE-1, -2 or -3: between the probability flow and the reverse SDE; one evaluation and one draw a step.

    Parameters
    ----------
    order : int
        1, 2 or 3. Weak order 1 for 1, 2 for 2 and 3, where 3 has the smaller constant (measured).
    unit : float
        The noise level that counts as 1, > 0: ``solve`` and ``sample_prior`` multiply it by the prior's scale, so that
        data in other units give the same samples in those units.

    Raises
    ------
    InputError
        If an option is out of its range.

    Notes
    -----
    The paper's ``phi(s) = s (exp(s^0.3) + 10)`` is not scale invariant (it adds more noise where s is large): hence
    ``unit``, by which levels are divided.

    References
    ----------
    Cui et al. 2023, Elucidating the solution space of extended reverse-time SDE for diffusion models,
    arXiv:2309.06169.
    """

    order: int = 3
    _: KW_ONLY
    unit: float = 1.0

    def __post_init__(self) -> None:
        if check_int("ERSDE", "order", self.order, minimum=1) > 3:
            raise invalid("ERSDE", "order", "1, 2 or 3", self.order)
        check_positive("ERSDE", "unit", self.unit)

    def in_units(self, unit: float) -> Self:
        return replace(self, unit=self.unit * unit)

    @property
    def memory(self) -> int:
        return self.order - 1

    @property
    def draws_per_step(self) -> int:
        return 1

    def plan(self, grid: Tensor) -> Tensor:
        table = er_table(grid / self.unit, self.order, paper_log_gain)
        table[..., -1] *= self.unit  # the other columns have no unit
        return table

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        now = denoise(state.x, levels[0])
        x = combine_noisy(c, (state.x, now, *state.past), noise)
        return SamplerState(x=x, past=(now, *state.past)[: self.order - 1])
