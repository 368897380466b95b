"""Gaussian priors, linear operators, and their posteriors in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import invsolve as iv

DTYPE = torch.float64


def gaussian(covariance: Tensor, mean: Tensor | None = None) -> iv.priors.GaussianPrior:
    return iv.priors.GaussianPrior(
        mean=covariance.new_zeros(len(covariance)) if mean is None else mean, covariance=covariance
    )


def matern(n: int, length: float) -> Tensor:
    r = (torch.arange(n, dtype=DTYPE)[:, None] - torch.arange(n)).abs() * math.sqrt(3) / length
    return (1 + r) * torch.exp(-r)


def case(name: str) -> tuple[Tensor, Tensor, float, Tensor]:
    """Covariance, matrix, noise std and data of the problems A1 and A4 (scalars), B (two unknowns), C (32)."""
    if name in ("A1", "A4"):
        return (
            torch.eye(1, dtype=DTYPE) * (4.0 if name == "A4" else 1.0),
            torch.eye(1, dtype=DTYPE),
            0.5,
            torch.ones(1, dtype=DTYPE),
        )
    if name == "B":
        C = torch.tensor([[1, 0.8], [0.8, 1]], dtype=DTYPE)
        return C, torch.tensor([[1.0, 0.0]], dtype=DTYPE), 0.1, torch.tensor([1.5], dtype=DTYPE)
    i = torch.arange(32, dtype=DTYPE)
    A = torch.eye(32, dtype=DTYPE)[::2]
    return 0.9 ** (i[:, None] - i).abs(), A, 0.1, A @ torch.sin(2 * math.pi * i / 32)


def conditioned(C: Tensor, A: Tensor, std: float, y: Tensor) -> tuple[Tensor, Tensor]:
    K = C @ A.mT @ torch.linalg.inv(A @ C @ A.mT + std**2 * torch.eye(len(A), dtype=DTYPE))
    return K @ y, C - K @ A @ C
