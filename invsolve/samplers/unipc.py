"""UniPC: a multistep predictor whose corrector costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import check_int
from invsolve.errors import invalid
from invsolve.samplers.base import Denoise, Level, Noise, Sampler, SamplerState, combine, inner_steps
from invsolve.samplers.phi import phi


@final
@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC: a multistep predictor whose corrector costs nothing; data prediction, variant bh2, one evaluation a step.

    Parameters
    ----------
    order : int
        1, 2 or 3. Orders of convergence 2, 3 and 4: one above the name.

    Raises
    ------
    InputError
        If ``order`` is not one of these.

    Notes
    -----
    ``state.x`` is the *predicted* point at level a. Its evaluation D(x, a) corrects the point itself, and is then the
    newest of the values that predict the next one. The order is kept to the end (the released default lowers it, which
    was measured to cost up to 10 times the error at 64 steps).

    References
    ----------
    Zhao et al. 2023, UniPC: a unified predictor-corrector framework for fast sampling of diffusion
    models, arXiv:2302.04867.
    """

    order: int = 3

    def __post_init__(self) -> None:
        if check_int("UniPC", "order", self.order, minimum=1) > 3:
            raise invalid("UniPC", "order", "1, 2 or 3", self.order)

    @property
    def memory(self) -> int:
        return self.order

    def init(self, x: Tensor) -> SamplerState:
        # past[0] is the corrected point without its newest term: at the start there is nothing to correct.
        return SamplerState(x=x, past=(x, *(torch.zeros_like(x),) * (self.order - 1)))

    def plan(self, grid: Tensor) -> Tensor:
        """Columns: factor of D in the corrected x at a; of (x, D, D1, ..) in the predicted x at b; in the corrected."""
        a, b, h = inner_steps(grid)
        num, p = h.shape[-1], self.order
        predict, correct = (torch.zeros(*h.shape, p + 1, dtype=h.dtype, device="cpu") for _ in range(2))
        newest = torch.zeros(*h.shape[:-1], num + 1, dtype=h.dtype, device="cpu")
        for out in (predict, correct):
            out[..., 0], out[..., 1] = b / a, -torch.expm1(-h)
        for q in range(1, p + 1):  # the first steps have less history
            steps = slice(q - 1, q) if q < p else slice(q - 1, num)
            ratios, weights_p, weights_c = _weights(grid, h, steps, q)
            for k, r in enumerate(ratios, start=1):
                for out, weights in ((predict, weights_p), (correct, weights_c)):
                    w = weights[..., k - 1] / r  # of (D_{i-k} - D_i)
                    out[..., steps, k + 1] += w
                    out[..., steps, 1] -= w
            correct[..., steps, 1] -= weights_c[..., q - 1]
            newest[..., 1:][..., steps] = weights_c[..., q - 1]
        last = torch.zeros(*h.shape[:-1], 1, p + 1, dtype=h.dtype, device="cpu")
        last[..., 1] = 1.0  # x' = D
        halves = [torch.cat((half, last), dim=-2) for half in (predict, correct)]
        return torch.cat((newest[..., None], *halves), dim=-1)

    def step(
        self, denoise: Denoise, state: SamplerState, levels: tuple[Level, Level], c: Sequence[Level], noise: Noise
    ) -> SamplerState:
        now, (opened, *older), p = denoise(state.x, levels[0]), state.past, self.order
        x = combine((1.0, c[0]), (opened, now))
        terms = (x, now, *older)
        return SamplerState(
            x=combine(c[1 : p + 2], terms), past=(combine(c[p + 2 :], terms), *((now, *older)[: p - 1]))
        )


def _weights(grid: Tensor, h: Tensor, steps: slice, q: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Ratios r_1..r_{q-1} and the factors of ``D_k = (D_{i-k} - D_i)/r_k`` in predictor and corrector, ``(..., n, q)``.

    The paper's ``-B(h) rho`` with ``R rho = b``: ``b_k = k! hh phi_{k+1}(hh) / B``, hh = -h, B = expm1(hh) (bh2), so B
    only matters where the paper fixes rho = 1/2 (predictor of order 2, corrector of order 1).
    """
    lam, h = -grid[..., :-1].log(), h[..., steps]
    here = torch.arange(h.shape[-1], device="cpu") + steps.start
    ratios = [(lam[..., here - k] - lam[..., here]) / h for k in range(1, q)]
    bh, knots = torch.expm1(-h), torch.stack((*ratios, torch.ones_like(h)), dim=-1)
    powers = torch.stack([knots**k for k in range(q)], dim=-2)  # R_kj = r_j^(k-1)
    right = torch.stack([factorial(k) * -h * phi(k + 1, -h) for k in range(1, q + 1)], dim=-1)  # b B
    half = -0.5 * bh[..., None]
    corrector = half if q == 1 else -torch.linalg.solve(powers, right[..., None])[..., 0]
    if q <= 2:
        predictor = half
    else:
        predictor = -torch.linalg.solve(powers[..., : q - 1, : q - 1], right[..., : q - 1, None])[..., 0]
    return ratios, predictor, corrector
