"""Gaussian kernels ``N(centre, covariance)`` for every row, in three forms of the covariance; all in float64.

Log densities are without ``(2 pi)^(-n/2)``. `draw` maps standard normal numbers; `log_prob_of` is the log density of
such a draw, from its numbers, and `log_prob` that of any point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor


class Kernel(Protocol):
    """A Gaussian for every row."""

    def draw(self, z: Tensor) -> Tensor: ...

    def log_prob_of(self, z: Tensor) -> Tensor: ...

    def log_prob(self, u: Tensor) -> Tensor: ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DiagonalKernel:
    """Independent coordinates."""

    centre: Tensor  # (rows, n)
    std: Tensor  # (rows or 1, n or 1)

    def draw(self, z: Tensor) -> Tensor:
        return self.centre + self.std * z

    def log_prob_of(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1) - self.std.log().expand(-1, z.shape[1]).sum(1)

    def log_prob(self, u: Tensor) -> Tensor:
        return self.log_prob_of((u - self.centre) / self.std)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DenseKernel:
    """A lower Cholesky factor of the covariance."""

    centre: Tensor  # (rows, n)
    root: Tensor  # (rows or 1, n, n)

    def draw(self, z: Tensor) -> Tensor:
        return self.centre + times(self.root, z)

    def log_prob_of(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1) - log_diagonal(self.root)

    def log_prob(self, u: Tensor) -> Tensor:
        return self.log_prob_of(solve(self.root, u - self.centre))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class UpdatedKernel:
    """Covariance ``diag(std) (1 - M^T (R R^T)^-1 M) diag(std)``, ``M = H diag(gain)``, with m data and no n x n matrix.

    ``R R^T - M M^T = S S^T`` must hold. Then ``diag(std) (1 - M^T R^-T (R + S)^-1 M)`` is a root of it: Andrews' square
    root of a Kalman update (AIAA J. 6, 1968, 1165), and its determinant that of S over that of R.
    """

    centre: Tensor  # (rows, n)
    std: Tensor  # (rows or 1, n)
    gain: Tensor  # (rows or 1, n)
    H: Tensor  # (rows or 1, m, n)
    R: Tensor  # (rows or 1, m, m), lower
    S: Tensor  # (rows or 1, m, m), lower

    def draw(self, z: Tensor) -> Tensor:
        inner = solve(self.R + self.S, times(self.H, self.gain * z))
        return self.centre + self.std * (z - self.gain * times(self.H.mT, solve_transposed(self.R, inner)))

    def log_prob_of(self, z: Tensor) -> Tensor:
        volume = self.std.log().sum(1) + log_diagonal(self.S) - log_diagonal(self.R)
        return -0.5 * z.square().sum(1) - volume

    def log_prob(self, u: Tensor) -> Tensor:
        white = (u - self.centre) / self.std
        more = solve(self.S, times(self.H, self.gain * white))  # (1 - M^T (R R^T)^-1 M)^-1 = 1 + M^T (S S^T)^-1 M
        volume = self.std.log().sum(1) + log_diagonal(self.S) - log_diagonal(self.R)
        return -0.5 * (white.square().sum(1) + more.square().sum(1)) - volume


# --- matrices (rows or 1, p, q), vectors (rows, q) ------------------------------------------------------------------
def times(matrix: Tensor, v: Tensor) -> Tensor:
    """``matrix @ v`` row by row; one product where the matrix is shared."""
    return v @ matrix[0].mT if len(matrix) == 1 else (matrix @ v[..., None])[..., 0]


def solve(root: Tensor, v: Tensor) -> Tensor:
    """``root^-1 v`` for lower factors."""
    shared = len(root) == 1
    out: Tensor = torch.linalg.solve_triangular(root[0] if shared else root, _columns(v, shared), upper=False)
    return out.mT if shared else out[..., 0]


def solve_transposed(root: Tensor, v: Tensor) -> Tensor:
    """``root^-T v`` for lower factors."""
    shared = len(root) == 1
    out: Tensor = torch.linalg.solve_triangular((root[0] if shared else root).mT, _columns(v, shared), upper=True)
    return out.mT if shared else out[..., 0]


def _columns(v: Tensor, shared: bool) -> Tensor:
    return v.mT if shared else v[..., None]


def log_diagonal(root: Tensor) -> Tensor:
    """Half of the log-determinant, (rows or 1,)."""
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def cholesky(matrix: Tensor) -> Tensor:
    """Lower factors ``(rows, n, n)``; a matrix that is not positive definite gives NaN, for its own row only."""
    factor = torch.linalg.cholesky_ex(matrix)
    root: Tensor = factor.L
    root.diagonal(dim1=-2, dim2=-1).masked_fill_((factor.info != 0)[..., None], torch.nan)
    return root


def positive(matrix: Tensor, floor: Tensor, cross: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Symmetric matrices with eigenvalues below 0 (of a network's Jacobian) set to 0.

    Where one is below -``floor`` (rows,); rows that are NaN stay. ``cross`` ``(rows, n, ...)`` loses what it has along
    their eigenvectors.
    """
    total = matrix.clone()
    total.diagonal(dim1=-2, dim2=-1).add_(floor.view(-1, 1))
    failed = torch.linalg.cholesky_ex(total).info != 0
    failed &= torch.isfinite(matrix).flatten(1).all(1)
    if not bool(failed.any()):
        return matrix, cross
    values, vectors = torch.linalg.eigh(matrix[failed])
    out = matrix.clone()
    out[failed] = (vectors * values.clamp_min(0)[:, None]) @ vectors.mT
    if cross is not None:
        cross = cross.clone()
        cross[failed] = (vectors * (values > 0)[:, None]) @ (vectors.mT @ cross[failed])
    return out, cross
