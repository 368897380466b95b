"""Exponential multistep methods for the probability flow in data prediction: DPM-Solver++ of orders 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
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
from invsolve.samplers.phi import phi


def half_ratio(h: Tensor) -> Tensor:
    """``1 / (2 r) = h / (2 h_prev)`` of every step ``(..., N-1)``, 0 in the first, which has no history."""
    out = torch.zeros_like(h)
    out[..., 1:] = h[..., 1:] / (2 * h[..., :-1])
    return out


@final
@dataclass(frozen=True, kw_only=True)
class DPMSolver2M(Sampler):
    """DPM-Solver++(2M): ``x' = (b/a) x + (1 - e^-h) ((1 + 1/2r) D - D_prev/2r)``, ``r = h_prev/h``.

    Order 2, one evaluation a step. The first step and the last one use D alone.

    References
    ----------
    Lu et al. 2022, DPM-Solver++, arXiv:2211.01095, algorithm 2.
    """

    @property
    def memory(self) -> int:
        return 1

    def plan(self, grid: Tensor) -> Tensor:
        a, b, h = inner_steps(grid)
        gain, w = -torch.expm1(-h), half_ratio(h)
        return with_last((b / a, gain * (1 + w), -gain * w), (0.0, 1.0, 0.0))

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        now = denoise(state.x, levels[0])
        return SamplerState(x=combine(c, (state.x, now, *state.past)), past=(now,))


@final
@dataclass(frozen=True, kw_only=True)
class DPMSolver3M(Sampler):
    """DPM-Solver++(3M) with the divided difference doubled, and a Heun-type first step: order 3, N + 1 evaluations.

    Notes
    -----
    With ``r0 = h1/h``, ``r1 = h2/h`` (h1, h2 the previous two log steps), ``A0 = (D - D1)/r0``, ``A1 = (D1 - D2)/r1``:
    ``x' = (b/a) x + h phi_1 D + h phi_2 (A0 + r0/(r0+r1) (A0 - A1)) + 2 h phi_3 (A0 - A1)/(r0+r1)``, phi at -h.
    The last quotient is a divided difference, half of h^2 D''; released codes leave the 2 out and are of order 2
    (measured). The first step evaluates the denoiser a second time at its Euler point, since an Euler start would bring
    the order back to 2, and the second step uses A0 only.

    References
    ----------
    Lu et al. 2022, DPM-Solver++, arXiv:2211.01095.
    """

    @property
    def memory(self) -> int:
        return 2

    def evaluations(self, num_steps: int) -> int:
        return num_steps + (1 if num_steps > 1 else 0)

    def plan(self, grid: Tensor) -> Tensor:
        """Columns: factors of (x, D, D1, D2); then, for the start, of D(y, b) - D and of (x, D) in y."""
        a, b, h = inner_steps(grid)
        p1, p2, p3 = h * phi(1, -h), h * phi(2, -h), h * phi(3, -h)
        zero = torch.zeros_like(h)
        d0, d1, d2, start, y_x, y_d = p1, zero.clone(), zero.clone(), zero.clone(), zero.clone(), zero.clone()
        # Weights of A0 and of A0 - A1; the latter is there from the third step on.
        w0, w1 = zero.clone(), zero.clone()
        r0, r1 = torch.ones_like(h), torch.ones_like(h)
        r0[..., 1:] = h[..., :-1] / h[..., 1:]
        r1[..., 2:] = h[..., :-2] / h[..., 2:]
        w0[..., 1:] = p2[..., 1:]
        w1[..., 2:] = ((p2 * r0 + 2 * p3) / (r0 + r1))[..., 2:]
        d0 = d0 + (w0 + w1) / r0
        d1 = -(w0 + w1) / r0 - w1 / r1
        d2 = w1 / r1
        start[..., :1], y_x[..., :1], y_d[..., :1] = p2[..., :1], (b / a)[..., :1], (1 - b / a)[..., :1]
        return with_last((b / a, d0, d1, d2, start, y_x, y_d), (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0))

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        now = denoise(state.x, levels[0])
        x = combine(c[:4], (state.x, now, *state.past))
        if not is_zero(c[4]):
            y = combine(c[5:], (state.x, now))
            x = combine((1.0, c[4]), (x, denoise(y, levels[1]) - now))
        return SamplerState(x=x, past=(now, state.past[0]))
