"""Where optimisation begins: the best of many points that lie as wide as the prior and wider."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.solving.ascent import Ends

_WIDTHS = (1.0, 1.0, 2.0, 3.0)  # stds of the prior, in turn
_MARGIN, _MARGIN_EACH = 3.0, 0.5  # nats above what modes explain, and for every number of a signal


def points(z: Tensor) -> Tensor:
    """From standard normal numbers ``(items, count, n)``, half as wide as the prior and half wider."""
    width = torch.tensor(_WIDTHS, dtype=z.dtype, device=z.device).repeat(-(-z.shape[1] // len(_WIDTHS)))
    return z * width[: z.shape[1], None]


def unexplained(u: Tensor, log: Tensor, modes: Ends) -> Tensor:
    """Which of one item's points ``(count, n)`` lie higher than the parabolas of all its ``modes``: others are near."""
    model = torch.full_like(log, -math.inf)
    for centre, top, covariance in zip(modes.u, modes.log, modes.covariance, strict=True):
        found = torch.linalg.cholesky_ex(covariance)
        if not int(found.info):
            white = torch.linalg.solve_triangular(found.L, (u - centre).mT, upper=False)
            model = torch.maximum(model, top - 0.5 * white.square().sum(0))
    return log.isfinite() & (log > model + _MARGIN + _MARGIN_EACH * u.shape[1])


def starts(log: Tensor, other: Tensor, fresh: Tensor, count: int) -> Tensor:
    """The places ``(count or fewer,)`` of one item's points from which to go up, of those that are ``fresh``.

    Half are the highest of ``other`` ones, which no mode explains, half the highest of equal groups of all.
    """
    fresh = fresh & log.isfinite()
    if count == 0:
        return fresh.nonzero()[:0, 0]
    height = torch.where(fresh & other, log, -math.inf)
    first = height.topk(min(len(log), count - count // 2)).indices
    first = first[height[first].isfinite()]
    left = torch.where(fresh, log, -math.inf).index_fill(0, first, -math.inf)
    groups = max(1, min(len(log), count // 2))
    size = len(log) // groups
    place = torch.arange(groups, device=log.device) * size + left[: groups * size].view(groups, size).argmax(1)
    return torch.cat((first, place[left[place].isfinite()]))
