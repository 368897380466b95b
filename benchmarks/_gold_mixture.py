"""The posterior of a Gaussian mixture seen through a matrix: the textbook formulas, float64."""

from __future__ import annotations

import torch
from _gold import KEPT, D, Gold
from torch import Tensor


def mixture_gold(
    weights: Tensor, means: Tensor, covariances: Tensor, matrix: Tensor, y: Tensor, noise: float, seed: int
) -> Gold:
    """``weights`` ``(K,)``, ``means`` ``(K, d)``, ``covariances`` ``(K, d, d)``, ``matrix`` ``(m, d)``, ``y`` ``(m,)``.

    Kalman's update of every component; its weight is multiplied with the density of the data under it.
    """
    rng, logs, centres, spreads = torch.Generator().manual_seed(seed), [], [], []
    for w, mean, covariance in zip(weights, means, covariances, strict=True):
        cross = covariance @ matrix.mT
        S = matrix @ cross + noise**2 * torch.eye(len(y), dtype=D)
        residual = y - matrix @ mean
        gain = torch.linalg.solve(S, cross.mT).mT
        logs.append(w.log() - 0.5 * (torch.logdet(S) + residual @ torch.linalg.solve(S, residual)))
        centres.append(mean + gain @ residual)
        keep = torch.eye(len(mean), dtype=D) - gain @ matrix  # Joseph's form: symmetric, no difference of large numbers
        spreads.append(keep @ covariance @ keep.mT + noise**2 * gain @ gain.mT)
    p, m, V = torch.softmax(torch.stack(logs), 0), torch.stack(centres), torch.stack(spreads)
    mean = p @ m
    std = (p @ (V.diagonal(dim1=1, dim2=2) + (m - mean).square())).sqrt()
    part = torch.multinomial(p, KEPT, replacement=True, generator=rng)
    root = torch.linalg.cholesky(V)
    draws = m[part] + (root[part] @ torch.randn(KEPT, len(mean), 1, dtype=D, generator=rng))[..., 0]
    return Gold(mean=mean, std=std, samples=draws, weights=p, how="closed form")
