"""Normalised weights, effective sample sizes and systematic resampling: weighted samples of several items at once.

Logs and weights are ``(samples, items)``, every reduction is per item; callers keep them in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp(logs: Tensor) -> Tensor:
    """``log mean_k exp(logs_k)`` per item, ``(items,)``."""
    return torch.logsumexp(logs, 0) - math.log(len(logs))


def normalised(logs: Tensor) -> Tensor:
    """Weights of sum 1 per item; NaN where all are zero."""
    return torch.softmax(logs, 0)


def effective(weights: Tensor) -> Tensor:
    """``1 / sum_k w_k^2`` per item, (items,); NaN where the weights are."""
    return 1 / weights.square().sum(0)


def systematic(weights: Tensor, uniform: Tensor | float, count: int | None = None) -> Tensor:
    """Parents ``(count, items)`` by systematic resampling, ``uniform`` in (0, 1), one for each item or for all.

    As many as there are weights unless ``count`` is given. Sample k is copied floor(J w_k) or ceil(J w_k) times, J =
    ``count`` (Kitagawa 1996, J. Comput. Graph. Stat. 5, 1-25). A half for ``uniform`` takes the quantiles
    ``(j + 1/2) / J`` of the weights: the same answer always. NaN weights give some parent or other.
    """
    number = len(weights)
    count = number if count is None else count
    offset = uniform[:, None] if isinstance(uniform, Tensor) else uniform
    teeth = torch.arange(count, dtype=weights.dtype, device=weights.device)
    edges = weights.cumsum(0).mT.contiguous()
    # Scaled by the last edge, whose rounding must not leave a tooth without a parent.
    parents = torch.searchsorted(edges, (teeth + offset) / count * edges[:, -1:])
    return parents.clamp_max(number - 1).mT


def in_place(parents: Tensor) -> Tensor:
    """The same copies ``(samples, items)``, arranged so that every sample that has a copy keeps its own place."""
    count, items = parents.shape
    chosen = parents.sort(0).values
    copies = torch.ones_like(chosen, dtype=torch.bool)  # all but the first of every parent
    copies[0] = False
    copies[1:] = chosen[1:] == chosen[:-1]
    own = torch.arange(count, device=parents.device)[:, None].expand(count, items)
    free = torch.ones_like(copies).scatter_(0, chosen, False)  # as many as there are copies, in every item
    out = own.mT.clone()
    out[free.mT] = chosen.mT[copies.mT]
    return out.mT


def relative_variance(weights: Tensor, founders: Tensor) -> Tensor:
    """Of the evidence estimate, from one run: ``sum_e (sum of the weights that descend from e)^2 - 1/J`` per item.

    ``founders`` ``(samples, items)``: the first sample that each descends from. Chan & Lai 2013 (Ann. Stat. 41,
    2877-2904); without resampling it is the variance of the mean weight. Divided by 1 minus that sum, as a variance of
    few samples is: infinite where one founder is left, which says nothing of the others.
    """
    shares = torch.zeros_like(weights).scatter_add_(0, founders, weights)
    together = shares.square().sum(0)
    return (together - 1 / len(weights)).clamp_min(0) / (1 - together).clamp_min(0)
