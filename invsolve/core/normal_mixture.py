"""Mixtures of normal laws fitted to weighted points: a density that is near one which is only known up to a factor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

_SWEEPS = 12  # of expectation maximisation for every number of parts
_MOST = 16  # parts
_LEAST = 8.0  # points worth of weight in a part, beside twice its dimension
_GAIN = 0.02  # nats a held-out point that twice as many parts must bring
_WIDE = 0.1  # share of every part that is wider, so that ratios to a density of heavier tails stay bounded
_RIDGE = 1e-8  # of a variance


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class NormalMixture:
    """``sum_k w_k [0.9 N(m_k, C_k) + 0.1 N(m_k, c C_k)]`` with ``c = 1 + 3 / sqrt(n)``, in float64.

    ``log_weights`` ``(K,)``, ``means`` ``(K, n)``, ``roots`` ``(K, n, n)``, lower factors of C_k.
    """

    log_weights: Tensor
    means: Tensor
    roots: Tensor

    @classmethod
    def fit(cls, points: Tensor, weights: Tensor, held: Tensor, held_weights: Tensor) -> NormalMixture | None:
        """To ``points`` ``(N, n)`` with ``weights`` ``(N,)`` of sum 1; None where they are too few, or degenerate.

        By expectation maximisation (Dempster, Laird & Rubin 1977), parts being halved along their longest axis as long
        as that serves the points that were ``held`` back; these also say how much too narrow covariances of few points
        are.
        """
        n, size = points.shape[1], float(1 / weights.square().sum())
        least = 2 * n + _LEAST
        start = torch.ones_like(points[:, :1])
        best = cls._from(points, weights, start)
        if best is None or not size >= least:
            return None
        score, now = best._score(held, held_weights), best
        while len(now.means) < _MOST and size >= 2 * least * len(now.means):
            halved = now._halved()
            if halved is None or (refined := halved._improved(points, weights, least / size)) is None:
                break
            now = refined
            if (value := now._score(held, held_weights)) < score + _GAIN:
                break
            best, score = now, value
        # Of points that were not fitted to, the mean squared distance is n; more says that the parts are too narrow.
        away = best._distances(held)  # (N, K)
        shares = torch.softmax(best._logs(held, away), 1)
        grow = float((held_weights * (shares * away).sum(1)).sum()) / n
        return replace(best, roots=best.roots * math.sqrt(max(1.0, grow))) if math.isfinite(grow) else None

    def log_prob(self, v: Tensor) -> Tensor:
        """``(N,)``."""
        n, away = v.shape[1], self._distances(v)
        wide = 1 + 3 / math.sqrt(n)
        narrow_part = math.log(1 - _WIDE) - 0.5 * away
        wide_part = math.log(_WIDE) - 0.5 * away / wide - 0.5 * n * math.log(wide)
        logs = torch.logaddexp(narrow_part, wide_part) + self._constants()
        return torch.logsumexp(logs + self.log_weights, 1)

    def draw(self, z: Tensor) -> Tensor:
        """``(N, n)`` from standard normal numbers ``(N, n + 1)``, as many of each part as its weight says."""
        count, n = len(z), z.shape[1] - 1
        teeth = (torch.arange(count, dtype=z.dtype, device=z.device) + 0.5) / count
        edges = self.log_weights.exp().cumsum(0)
        part = torch.searchsorted(edges, teeth * edges[-1]).clamp_max(len(edges) - 1)
        wide = torch.special.ndtr(z[:, n]) < _WIDE
        length = torch.where(wide, math.sqrt(1 + 3 / math.sqrt(n)), 1.0)[:, None]
        return self.means[part] + length * (self.roots[part] @ z[:, :n, None])[..., 0]

    # --- the fit --------------------------------------------------------------------------------------------------
    @classmethod
    def _from(cls, points: Tensor, weights: Tensor, shares: Tensor) -> NormalMixture | None:
        """Moments of the points by their ``shares`` ``(N, K)`` in the parts."""
        w = weights[:, None] * shares
        total = w.sum(0)
        means = (w.mT @ points) / total[:, None]
        apart = points - means[:, None]  # (K, N, n)
        covariances = (w.mT[..., None] * apart).mT @ apart / total[:, None, None]
        ridge = _RIDGE * covariances.diagonal(dim1=1, dim2=2)
        found = torch.linalg.cholesky_ex(covariances + torch.diag_embed(ridge))
        if bool(found.info.any()) or not bool(torch.isfinite(found.L).all()):
            return None
        return cls(log_weights=total.log(), means=means, roots=found.L)

    def _halved(self) -> NormalMixture | None:
        values, vectors = torch.linalg.eigh(self.roots @ self.roots.mT)
        step = 0.8 * values[:, -1].sqrt()[:, None] * vectors[..., -1]
        # The half of a normal law along an axis has 0.36 of its variance there.
        axis = vectors[..., -1:] @ vectors[..., -1:].mT
        covariances = self.roots @ self.roots.mT - 0.64 * values[:, -1, None, None] * axis
        found = torch.linalg.cholesky_ex(covariances)
        if bool(found.info.any()):
            return None
        return NormalMixture(
            log_weights=(self.log_weights - math.log(2)).repeat(2),
            means=torch.cat((self.means - step, self.means + step)),
            roots=found.L.repeat(2, 1, 1),
        )

    def _improved(self, points: Tensor, weights: Tensor, least: float) -> NormalMixture | None:
        """After sweeps of expectation maximisation; parts with less than ``least`` of the weight are given up."""
        now = self
        for _ in range(_SWEEPS):
            shares = torch.softmax(now._logs(points, now._distances(points)), 1)
            kept = weights @ shares >= least
            if not bool(kept.any()):
                return None
            if not bool(kept.all()):
                now = NormalMixture(log_weights=now.log_weights[kept], means=now.means[kept], roots=now.roots[kept])
                shares = torch.softmax(now._logs(points, now._distances(points)), 1)
            found = self._from(points, weights, shares)
            if found is None:
                return None
            now = found
        return now

    def _distances(self, v: Tensor) -> Tensor:
        """Squared, in the metric of every part, ``(N, K)``."""
        apart = (v - self.means[:, None]).mT  # (K, n, N)
        white: Tensor = torch.linalg.solve_triangular(self.roots, apart, upper=False)
        return white.square().sum(1).mT

    def _constants(self) -> Tensor:
        n = self.means.shape[1]
        return -self.roots.diagonal(dim1=1, dim2=2).log().sum(1) - 0.5 * n * math.log(2 * math.pi)

    def _logs(self, v: Tensor, away: Tensor) -> Tensor:
        return self.log_weights + self._constants() - 0.5 * away

    def _score(self, v: Tensor, weights: Tensor) -> float:
        return float((weights * torch.logsumexp(self._logs(v, self._distances(v)), 1)).sum())
