"""The Poisson distribution of counts: its density without cancellation, and its quantiles, in torch and float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FAR_BELOW = -0.9  # mu / y - 1 where its logarithm is taken from mu itself
_SMALL = 50.0  # expected counts below which the search for a quantile starts from 0
_WIDTH = 256  # counts in which it is looked for


def log_poisson(y: Tensor, mu: Tensor, log_mu: Tensor | None = None) -> Tensor:
    """Log of ``mu^y exp(-mu) / y!``, minus infinity for mu < 0 or infinite, and for mu = 0 unless y = 0.

    As ``-y (t - log(1 + t)) - log(y! e^y / y^y)`` with ``t = mu / y - 1``, so that no large terms are subtracted
    (Loader 2000, "Fast and accurate computation of binomial probabilities"). Of means far below y, where 1 + t has no
    digits, the logarithm counts: ``log_mu``, for means that are too small for a float.
    """
    positive = y.clamp_min(1)
    t = (mu.clamp_min(0) - positive) / positive
    log_mu = mu.clamp_min(0).log() if log_mu is None else log_mu
    ratio = torch.where(t < _FAR_BELOW, log_mu - positive.log(), torch.log1p(t))
    log = torch.where(y > 0, -positive * (t - ratio) - _stirling(positive), -mu)
    log = torch.where(mu == math.inf, -math.inf, log)  # infinity less its logarithm
    return torch.where(mu >= 0, log, torch.where(mu < 0, -math.inf, mu))  # NaN stays NaN


def over_std(y: Tensor, mu: Tensor, least: float) -> Tensor:
    """``(y - mu) / sqrt(mu)``, the mean in the root at ``least`` or more; minus infinity for an infinite mean."""
    return torch.where(mu == math.inf, -math.inf, (y - mu) / mu.clamp_min(least).sqrt())


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
    return torch.where(mu > 0, torch.where(mu == math.inf, math.inf, high), 0.0)
