"""Scores of samples against a posterior with Gaussian marginals that are known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = 16  # of the jackknife


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Averages over the items; ``*_se``: standard errors by a jackknife over groups of samples."""

    samples: int  # per item
    finite: float  # the fraction of samples without NaN or Inf; the scores are of these
    e_mean: float  # rms over components of (sample mean - exact mean) / exact std
    e_mean_se: float
    floor: float  # what e_mean is, in rms, for as many exact draws
    mean_relative: float  # ||sample mean - exact mean|| / ||exact mean - prior mean||
    std_ratio: float  # mean sample std / mean exact std
    std_ratio_se: float
    std_min: float  # the smallest and the largest ratio of a single component
    std_max: float
    cov90: float  # exact posterior mass of the central 90 % interval of the samples
    cov90_se: float


def score(samples: Tensor, mean: Tensor, std: Tensor, prior_mean: Tensor) -> Scores:
    """Scores of ``samples`` ``(n, items, size)`` against means and stds ``(items, size)``; prior mean ``(size,)``."""
    total = len(samples)
    samples = samples.double()
    samples = samples[samples.flatten(1).isfinite().all(1)]
    n = len(samples)
    if n < 2 * GROUPS:
        nan = float("nan")
        return Scores(
            samples=total,
            finite=n / total,
            e_mean=nan,
            e_mean_se=nan,
            floor=nan,
            mean_relative=nan,
            std_ratio=nan,
            std_ratio_se=nan,
            std_min=nan,
            std_max=nan,
            cov90=nan,
            cov90_se=nan,
        )
    ratios = samples.std(0) / std
    gap = (samples.mean(0) - mean).norm(dim=1) / (mean - prior_mean).norm(dim=1)
    e_mean, e_se = _with_error(lambda s: mean_error(s, mean, std), samples)
    ratio, ratio_se = _with_error(lambda s: float((s.std(0).mean(1) / std.mean(1)).mean()), samples)
    mass, mass_se = _with_error(lambda s: coverage(s, mean, std, 0.9), samples)
    return Scores(
        samples=total,
        finite=n / total,
        e_mean=e_mean,
        e_mean_se=e_se,
        floor=n**-0.5,
        mean_relative=float(gap.mean()),
        std_ratio=ratio,
        std_ratio_se=ratio_se,
        std_min=float(ratios.min()),
        std_max=float(ratios.max()),
        cov90=mass,
        cov90_se=mass_se,
    )


def mean_error(samples: Tensor, mean: Tensor, std: Tensor) -> float:
    """Root mean square over the components of the error of the sample mean in posterior sd, averaged over the items."""
    return float((((samples.mean(0) - mean) / std) ** 2).mean(1).sqrt().mean())


def coverage(samples: Tensor, mean: Tensor, std: Tensor, level: float) -> float:
    """Exact mass of the central interval of the samples at (n+1) plotting positions, averaged over components, items.

    The k-th of n exact draws has mass k/(n+1) below it in expectation, so exact draws score ``level`` whatever n is
    (where the position falls between two ranks, to the accuracy of a linear interpolation).
    """
    n = len(samples)
    ordered = ((samples - mean) / std).sort(0).values
    position = (torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64) * (n + 1) - 1).clamp(0, n - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=n - 1)
    weight = (position - below).view(-1, 1, 1)
    low, high = (ordered[below] * (1 - weight) + ordered[above] * weight).unbind()
    return float((torch.special.ndtr(high) - torch.special.ndtr(low)).mean())


def _with_error(statistic: Callable[[Tensor], float], samples: Tensor) -> tuple[float, float]:
    """The statistic and its standard error by the delete-a-group jackknife (Kott 2001, J. Official Stat. 17, 521)."""
    n = len(samples) - len(samples) % GROUPS
    group = torch.arange(n) % GROUPS
    values = torch.tensor([statistic(samples[:n][group != g]) for g in range(GROUPS)], dtype=torch.float64)
    variance = (GROUPS - 1) / GROUPS * (values - values.mean()).square().sum()
    return statistic(samples), float(variance.sqrt())
