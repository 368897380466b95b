"""Functions of one variable that are costly to evaluate, as piecewise polynomials with a measured error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

_DEGREE = 7
_BLOCK = 2**14  # arguments at a time: their coefficients stay in the cache


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """``k`` functions on ``[0, end]``: equal buckets, each cut into ``2^level`` cells with a polynomial of degree 7.

    The polynomials interpolate at Chebyshev-Lobatto nodes, ends of the cells included: the table is continuous. Beyond
    ``end`` the line from its last point goes on.
    """

    end: float
    cells: Tensor  # (buckets,) float64: cells in the bucket
    start: Tensor  # (buckets,) int64: the first of them
    coefficients: Tensor  # (cells, degree + 1, k), of the powers of a local variable in [-1, 1]
    error: float  # the largest found between the nodes, in the measure of `make`

    @classmethod
    def make(
        cls,
        function: Callable[[Tensor], Tensor],
        end: float,
        *,
        buckets: int,
        tolerance: float,
        error: Callable[[Tensor, Tensor, Tensor], Tensor],
        limit: int,
    ) -> Self | None:
        """A table of ``function`` ``(n,) -> (n, k)``; None if it takes more than ``limit`` evaluations.

        ``error(t, found, true)`` ``(n,)`` is measured between the nodes; buckets where it is above ``tolerance`` are
        cut in halves again.
        """
        nodes, between, fit, powers = _rules()
        width = end / buckets
        level = torch.zeros(buckets, dtype=torch.int64, device="cpu")
        done: list[Tensor | None] = [None] * buckets
        open_, spent, worst = list(range(buckets)), 0, 0.0
        points = torch.cat([nodes, between])
        while open_:
            count = [int(2 ** int(level[b])) for b in open_]
            spent += sum(count) * len(points)
            if spent > limit:
                return None
            low = torch.cat(
                [
                    width * (b + torch.arange(c, dtype=torch.float64, device="cpu") / c)
                    for b, c in zip(open_, count, strict=True)
                ]
            )
            size = torch.cat([torch.full((c,), width / c, dtype=torch.float64, device="cpu") for c in count])
            t = (low[:, None] + size[:, None] * (points + 1) / 2).clamp(0, end)
            values = function(t.flatten()).view(*t.shape, -1)
            coefficients = fit @ values[:, : len(nodes)]
            found, true = powers @ coefficients, values[:, len(nodes) :]
            checked = t[:, len(nodes) :]
            wrong = error(checked.flatten(), found.flatten(0, 1), true.flatten(0, 1)).view(checked.shape).amax(1)
            still = []
            for b, own, e in zip(open_, torch.split(coefficients, count), torch.split(wrong, count), strict=True):
                if float(e.max()) <= tolerance:
                    done[b], worst = own, max(worst, float(e.max()))
                else:
                    level[b] += 1
                    still.append(b)
            open_ = still
        cells = 2**level
        return cls(
            end=end,
            cells=cells.double(),
            start=cells.cumsum(0) - cells,
            error=worst,
            coefficients=torch.cat([c for c in done if c is not None]),
        )

    def __call__(self, t: Tensor) -> Tensor:
        """The functions at ``t`` >= 0 (any shape), ``(k, *t.shape)``; NaN where t is."""
        blocks = [self._evaluate(part) for part in torch.split(t.flatten(), _BLOCK)]
        return torch.cat(blocks, 1).view(-1, *t.shape)

    def _evaluate(self, t: Tensor) -> Tensor:
        inside = t.nan_to_num(0.0, posinf=self.end).clamp(0, self.end)
        place = inside * (len(self.cells) / self.end)
        bucket = place.long().clamp_max(len(self.cells) - 1)
        cells = self.cells[bucket]
        place = (place - bucket) * cells
        cell = torch.minimum(place.floor(), cells - 1)
        v = (2 * (place - cell) - 1)[:, None]
        c = self.coefficients[self.start[bucket] + cell.long()]
        p = c[:, -1]
        for k in range(_DEGREE - 1, -1, -1):
            p = torch.addcmul(c[:, k], p, v)
        last = self.coefficients[-1]
        slope = (last * torch.arange(_DEGREE + 1, dtype=last.dtype, device=last.device)[:, None]).sum(0)
        slope = slope * (2 * len(self.cells) / self.end * self.cells[-1])
        return torch.addcmul(p, slope, (t - inside)[:, None]).mT

    def to(self, device: torch.device) -> Self:
        if self.cells.device == device:
            return self
        return replace(
            self, cells=self.cells.to(device), start=self.start.to(device), coefficients=self.coefficients.to(device)
        )


@cache
def _rules() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nodes, points between them, the map of values at the nodes to coefficients, and of these to the points."""
    nodes = -np.cos(np.pi * np.arange(_DEGREE + 1) / _DEGREE)
    between = -np.cos(np.pi * (np.arange(_DEGREE) + 0.5) / _DEGREE)
    fit = np.linalg.inv(np.vander(nodes, increasing=True))
    powers = np.vander(between, _DEGREE + 1, increasing=True)
    a, b, c, d = (torch.from_numpy(v.copy()) for v in (nodes, between, fit, powers))
    return a, b, c, d
