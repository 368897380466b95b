"""Eigenvectors and singular vectors that are the same on every device.

A vector's sign, and the basis where values are equal, are a matter of the library. Where random numbers are coordinates
along these vectors, other vectors are other samples of the same law: a seed would give other ones on a GPU. What is
decomposed before a solve is therefore decomposed on the CPU, by LAPACK. Where nothing depends on the choice, as in
`V f(s) V^T`, torch's own are called where the matrix is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors as columns of a symmetric matrix, on its device."""
    values, vectors = torch.linalg.eigh(matrix.cpu())
    return values.to(matrix.device), vectors.to(matrix.device)


def svd(matrix: Tensor, *, full_matrices: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``U, s, V^T`` of a matrix, on its device."""
    left, values, right = torch.linalg.svd(matrix.cpu(), full_matrices=full_matrices)
    return left.to(matrix.device), values.to(matrix.device), right.to(matrix.device)
