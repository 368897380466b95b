"""Factors of sparse matrices by scipy, one row after another, in double precision."""

from __future__ import annotations

from math import prod
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.validation import kind_dtype
from invsolve.operators.pde.multigrid import Faces


@final
class DirectSolve:
    """``K^-1 f`` for the conductances of faces, or for a given diagonal of theirs: symmetric, real or complex.

    A row whose matrix is singular or not finite has None in the place of its factors, and solutions of NaN.
    """

    def __init__(self, faces: Faces, diagonal: Tensor | None = None) -> None:
        from scipy.sparse import csc_matrix

        shape = faces.shape
        cells = prod(shape)
        number = np.arange(cells).reshape(shape)
        rows, columns = [number.ravel()], [number.ravel()]
        values = [(faces.diagonal() if diagonal is None else diagonal).flatten(1)]
        for k, (g, n) in enumerate(zip(faces.along, shape, strict=True)):
            first, last = (np.take(number, range(i, n - 1 + i), axis=k).ravel() for i in (0, 1))
            inner = -g.narrow(k + 1, 1, n - 1).flatten(1)
            for i, j in ((first, last), (last, first)):
                rows.append(i)
                columns.append(j)
                values.append(inner)
        wide = torch.cat([v.to(kind_dtype(torch.float64, "complex" if v.is_complex() else "real")) for v in values], 1)
        index = np.concatenate(rows), np.concatenate(columns)
        options = {"SymmetricMode": not wide.is_complex()}
        self.factors = [
            _factorised(csc_matrix((row, index), shape=(cells, cells)), options) for row in wide.cpu().numpy()
        ]

    def __call__(self, f: Tensor, *, adjoint: bool = False) -> Tensor:
        """The solutions, of ``K^H`` where ``adjoint``."""
        made = (
            f.cpu()
            .resolve_conj()
            .resolve_neg()
            .to(kind_dtype(torch.float64, "complex" if f.is_complex() else "real"))
            .flatten(1)
            .numpy()
        )
        found = [
            np.full_like(row, np.nan)
            if factor is None
            else factor.solve(row, "H" if adjoint else "N")
            if row.any()
            else np.zeros_like(row)
            for factor, row in zip(self.factors * (len(made) if len(self.factors) == 1 else 1), made, strict=True)
        ]
        if not found:
            return torch.zeros_like(f)
        return torch.from_numpy(np.stack(found)).to(device=f.device, dtype=f.dtype).view(f.shape)


def _factorised(matrix: Any, options: dict[str, bool]) -> Any:
    from scipy.sparse.linalg import splu

    if not np.isfinite(matrix.data).all():
        return None
    try:
        return splu(matrix, permc_spec="MMD_AT_PLUS_A", options=options)
    except RuntimeError:  # "Factor is exactly singular"
        return None
