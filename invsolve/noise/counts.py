"""The Poisson distribution of counts: its density without cancellation, and its quantiles, in torch and float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SMALL = 50.0  # expected counts below which the search for a quantile starts from 0
_WIDTH = 256  # counts in which it is looked for


def log_poisson(y: Tensor, mu: Tensor) -> Tensor:
    """Log of ``mu^y exp(-mu) / y!``, minus infinity for mu < 0, and for mu = 0 unless y = 0.

    As ``-y (t - log(1 + t)) - log(y! e^y / y^y)`` with ``t = mu / y - 1``, so that no large terms are subtracted
    (Loader 2000, "Fast and accurate computation of binomial probabilities").
    """
    positive = y.clamp_min(1)
    t = (mu.clamp_min(0) - positive) / positive
    log = torch.where(y > 0, -positive * (t - torch.log1p(t)) - _stirling(positive), -mu)
    return torch.where(mu >= 0, log, torch.where(mu < 0, -math.inf, mu))  # NaN stays NaN


def _stirling(y: Tensor) -> Tensor:
    """``log(y! e^y / y^y)``: Stirling's series from 16 on, where its error is below 1e-14."""
    w = y.clamp_min(16) ** -2
    series = (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w / 1680))) / y.clamp_min(16)
    few = y.clamp_max(16)
    direct = torch.special.gammaln(few + 1) + few - torch.xlogy(few, few)
    return torch.where(y >= 16, 0.5 * torch.log(2 * math.pi * y) + series, direct)


def poisson_quantile(z: Tensor, mu: Tensor) -> Tensor:
    """The count k that has the rank of the standard normal ``z``: the least with ``P(count <= k) >= Phi(z)``.

    Exact up to the rounding of the incomplete gamma functions, whose smaller tail is compared: a bisection of 256
    counts, from 0 on for means below 50, else around the Cornish-Fisher expansion, whose error is below 10 for
    |z| < 9 whatever the mean. Those functions lose digits in far tails of large means: 2 % of the probability at 8 std
    and a mean of 1e7.
    """
    mu = mu.clamp_min(0)
    root = mu.clamp_min(_SMALL).sqrt()
    middle = mu + root * z + (z**2 - 1) / 6 + (z - z**3) / (72 * root)
    low = torch.where(mu < _SMALL, -1.0, (middle.floor() - _WIDTH / 2).clamp_min(-1))  # too small
    high = low + _WIDTH  # large enough
    upper = z > 0
    tail = torch.special.ndtr(-z.abs())
    for _ in range(int(math.log2(_WIDTH))):
        k = torch.floor((low + high) / 2)
        below, above = torch.special.gammaincc(k + 1, mu), torch.special.gammainc(k + 1, mu)
        enough = torch.where(upper, above <= tail, below >= tail)
        low, high = torch.where(enough, low, k), torch.where(enough, k, high)
    return torch.where(mu > 0, high, 0.0)
