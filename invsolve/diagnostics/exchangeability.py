"""Exact tests by exchangeability: is the observed row one of a pool, or does it stand out?"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REPLICATES = 255  # the smallest p-value is 1/256


class Rank(NamedTuple):
    """``p`` = rank / pool; ``column`` stands out most, by ``z`` standard deviations of the pool."""

    p: float
    column: int
    z: float
    beyond: float  # the largest |z| of a replicate in that column


def stands_out(columns: Tensor) -> Rank:
    """Row 0 of ``columns`` ``(pool, statistics)`` against the others.

    A row's score is its largest deviation from the pool's mean over the statistics, each in units of the largest
    deviation of any *other* row: a statistic with heavy tails does not drown the others. p is the fraction of the pool
    that scores at least as high as row 0. Rows are treated alike, so p is uniform on {1/pool, ..., 1} if they are
    exchangeable, whatever the statistics and however these depend on each other (Barnard 1963; Besag & Clifford 1989,
    Biometrika 76, 633-642). Statistics that are not finite everywhere are left out.
    """
    values = columns.double()
    spread = values.std(0)
    usable = values.isfinite().all(0) & (spread > 0)
    if not bool(usable.any()):
        return Rank(1.0, 0, 0.0, 0.0)
    z = ((values - values.mean(0)) / spread).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) * usable
    size = z.abs()
    top, second = size.topk(2, 0).values
    others = torch.where(size < top, top, second)  # the largest of the other rows
    score = torch.where(usable, size / others.clamp_min(1e-12), 0.0)
    row = score.amax(1)
    column = int(score[0].argmax())
    p = float((row >= row[0]).double().mean())
    return Rank(p, column, float(z[0, column]), float(size[1:, column].max()))


def uniform_rank_p(ranks: NDArray[np.int64], levels: int) -> tuple[float, float]:
    """Two-sided p-values of the mean and of the spread of independent ranks, each uniform on 0 ... levels - 1.

    The distributions of ``sum r`` and of ``sum (2 r - levels + 1)^2`` are convolutions of those of one rank: exact.
    """
    spread = (2 * ranks.astype(np.int64) - (levels - 1)) ** 2
    sums = (int(ranks.sum()), int(spread.sum()))
    laws = (_law(len(ranks), levels, False), _law(len(ranks), levels, True))
    mean, width = (
        min(1.0, 2 * min(float(law[: s + 1].sum()), float(law[s:].sum()))) for s, law in zip(sums, laws, strict=True)
    )
    return mean, width


def mean_rank_limit(number: int, levels: int, p: float) -> float:
    """How far from 1/2 the mean of ``number`` ranks, over levels - 1, must be for a two-sided p-value of ``p``."""
    below = np.cumsum(_law(number, levels, False))
    last = int(np.searchsorted(below, p / 2, side="right")) - 1  # the largest sum that fails; -1: none does
    return 0.5 - last / (number * (levels - 1)) if last >= 0 else float("inf")


@cache
def _law(number: int, levels: int, spread: bool) -> NDArray[np.float64]:
    each = np.arange(levels)
    one = np.bincount((2 * each - (levels - 1)) ** 2 if spread else each) / levels
    law = np.ones(1)
    for _ in range(number):
        law = np.convolve(law, one)
    return law
