"""Uniform ranks: their scores, simultaneous bands for their ECDF with exact p-values, quadratic tests of many of them.

If the truth and n posterior samples are exchangeable given the data, the rank of the truth among them is uniform on
0..n, for any quantity and any distribution (Talts et al. 2018, arXiv:1804.06788). Everything here is about ``runs``
independent such ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.random import Draws
from invsolve.core.validation import check_int
from invsolve.errors import invalid

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_POINTS = 256  # evaluation points of an ECDF at most: finer ones add cost, and nothing that 200 runs could show
_NULL = 2**15  # simulated values of a quadratic form: a level of 0.005 is then met to 8 % of itself
_POWER = 4096
_STRAIGHT = 0.75  # posterior sd


def location_scores(n: int) -> Tensor:
    """Normal scores of the ranks 0..n, ``(n + 1,)`` float64: mean 0 and variance 1 over them. Sensitive to bias."""
    score: Tensor = torch.special.ndtri((torch.arange(n + 1, dtype=torch.float64, device="cpu") + 0.5) / (n + 1))
    return score / score.square().mean().sqrt()


def scale_scores(n: int) -> Tensor:
    """Normal scores of the rank's distance from the middle, n >= 2: mean 0, variance 1. Sensitive to spread.

    Nearly normal, where the squares of the normal scores would be skewed: sums over few runs keep their level.
    """
    distance = (2 * torch.arange(n + 1, dtype=torch.float64, device="cpu") - n).abs()
    score: Tensor = torch.special.ndtri((distance + 1) / (n + 2))
    score = score - score.mean()
    return score / score.square().mean().sqrt()


def two_sided(total: float, runs: int) -> float:
    """The p-value of a sum of ``runs`` scores: their sum is normal, nearly exactly, since each of them nearly is."""
    return math.erfc(abs(total) / math.sqrt(2 * runs))


# --- ECDFs ----------------------------------------------------------------------------------------------------------
@final
@dataclass(frozen=True, kw_only=True, eq=False)
class UniformBand:
    """Simultaneous bands for the ECDF of ``runs`` independent ranks, each uniform on 0..``num_samples``.

    The ECDF is seen at z_i = i / (n + 1), i = 1..n (at most 256 of them). Its distance from uniform is the smallest of
    the pointwise binomial tails, gamma (Saeilynoja, Buerkner & Vehtari 2022, Stat. Comput. 32:32, eq. 7); the
    distribution of gamma is exact, by recursion over the points: given their number, uniform points are Poisson points,
    whose counts between the z_i are independent, so that every step is a convolution cut to the band (theirs is
    Algorithm 2).

    >>> band = UniformBand(runs=200, num_samples=255)
    >>> low, high = band.limits(0.05)  # of how many of the 200 ranks lie below each point
    >>> round(band.p_value(band.gamma(0.05)), 3)
    0.05
    """

    runs: int
    num_samples: int

    def __post_init__(self) -> None:
        check_int("UniformBand", "runs", self.runs, minimum=1)
        check_int("UniformBand", "num_samples", self.num_samples, minimum=1)

    @cached_property
    def places(self) -> Counts:
        """The i of the evaluation points."""
        n = self.num_samples
        return np.unique(np.linspace(1, n, min(n, _POINTS)).round().astype(np.int64))

    @cached_property
    def points(self) -> Floats:
        """z_i = i / (n + 1)."""
        return self.places / (self.num_samples + 1)

    @cached_property
    def _tails(self) -> Floats:
        """The smaller of P(Bin <= c) and P(Bin >= c), for c = 0..runs at every point: (runs + 1, points)."""
        from scipy.special import bdtr, bdtrc

        count = np.arange(self.runs + 1)[:, None]
        z = self.points[None]
        below = bdtr(count, self.runs, z)
        above = np.where(count > 0, bdtrc(np.maximum(count - 1, 0), self.runs, z), 1.0)
        tails: Floats = np.minimum(below, above)
        return tails

    def counts(self, ranks: Tensor) -> Counts:
        """How many of the ranks ``(runs, k)`` lie below each point: ``(k, points)``."""
        ranks = ranks.cpu()
        if ranks.ndim != 2 or len(ranks) != self.runs:
            raise invalid("UniformBand", "ranks", f"of shape ({self.runs}, k)", tuple(ranks.shape))
        if bool(((ranks < 0) | (ranks > self.num_samples)).any()):
            raise invalid(
                "UniformBand", "ranks", f"between 0 and {self.num_samples}", f"{int(ranks.min())} to {int(ranks.max())}"
            )
        ordered = ranks.long().sort(dim=0).values.T.contiguous()
        places = torch.from_numpy(self.places).expand(len(ordered), -1).contiguous()
        found: Counts = torch.searchsorted(ordered, places).numpy()
        return found

    def gammas(self, ranks: Tensor) -> Floats:
        """Twice the smallest tail of each column of ``ranks`` ``(runs, k)``: small is far from uniform. ``(k,)``."""
        counts = self.counts(ranks)
        worst: Floats = 2 * self._tails[counts, np.arange(len(self.points))].min(1)
        return worst

    def p_value(self, gamma: float) -> float:
        """P(an ECDF of uniform ranks is as far away as ``gamma``, or farther): exact."""
        low, high = self._edges(gamma)
        if (low > high).any():
            return 1.0
        rates = self.runs * np.diff(self.points, prepend=0.0, append=1.0)
        pmf_at = np.arange(self.runs + 1)
        logs = np.array([math.lgamma(k + 1) for k in pmf_at])
        state, first = np.ones(1), 0  # the distribution of the count so far, from `first` on
        for rate, a, b in zip(rates, [*low, self.runs], [*high, self.runs], strict=True):
            step = np.exp(pmf_at[: b - first + 1] * math.log(rate) - rate - logs[: b - first + 1])
            state = np.convolve(state, step)[max(0, a - first) : b - first + 1]
            first = max(a, first)
        total = math.exp(self.runs * math.log(self.runs) - self.runs - logs[-1])  # P(Poisson(runs) = runs)
        return float(min(1.0, max(0.0, 1 - state[-1] / total)))

    def gamma(self, level: float) -> float:
        """The gamma that uniform ranks fall to or below with probability ``level`` at most (and nearly)."""
        low, high = math.log(level) - math.log(8 * len(self.points)), math.log(level)  # Bonferroni; one point
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if self.p_value(math.exp(middle)) <= level else (low, middle)
        return math.exp(low)

    def limits(self, level: float) -> tuple[Counts, Counts]:
        """Smallest and largest counts inside the band that uniform ranks leave with probability ``level``."""
        return self._edges(self.gamma(level))

    def _edges(self, gamma: float) -> tuple[Counts, Counts]:
        inside = self._tails > gamma / 2 * (1 + 1e-9)  # tails above and below are equal in all but the last bits
        low = np.where(inside.any(0), inside.argmax(0), 1)  # an empty band: low > high
        high = np.where(inside.any(0), self.runs - inside[::-1].argmax(0), 0)
        return low, high


# --- many quantities at once ----------------------------------------------------------------------------------------
def quadratic_test(total: Tensor, covariance: Tensor, normals: Tensor) -> float:
    """P(sum_j total_j^2 is as large, or larger) for ``total ~ N(0, covariance)``, by simulation.

    ``total`` ``(k,)`` and ``covariance`` ``(k, k)``: sums over runs of scores and of their covariances. Dependence
    among the quantities is in the covariance, so that it costs no level. ``normals`` ``(m, k)``: see `null_normals`;
    the smallest value is 1 / (m + 1).
    """
    form = normals.square() @ torch.linalg.eigvalsh(covariance).clamp_min(0)
    return (1 + int((form >= total.square().sum()).sum())) / (1 + len(normals))


def noticed_shift(slope: Tensor, covariance: Tensor, runs: int, level: float, normals: Tensor) -> float:
    """The shift that `quadratic_test` at ``level`` detects 9 times in 10.

    In units of which ``slope`` ``(k,)`` is the mean score per run; infinite above 0.75, where scores are no longer
    straight lines.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0)
    threshold = torch.quantile(normals.square() @ values, 1 - level)
    noise = normals[:_POWER] * values.sqrt()
    push = runs * (vectors.mT @ slope)
    low, high = 0.0, _STRAIGHT
    for _ in range(24):
        middle = (low + high) / 2
        power = float(((noise + middle * push).square().sum(1) > threshold).double().mean())
        low, high = (low, middle) if power >= 0.9 else (middle, high)
    return high if high < _STRAIGHT else math.inf


def null_normals(seed: int, size: int) -> Tensor:
    """Keyed standard normal numbers ``(2^15, size)``, float64: what quadratic forms are simulated with."""
    cpu = torch.device("cpu")
    draws = Draws.for_rows(seed, [0] * _NULL, list(range(_NULL)), cpu, purpose="calibrate, null")
    return draws.normal((size,), torch.float64, step=0)
