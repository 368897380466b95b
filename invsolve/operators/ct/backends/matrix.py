"""Line integrals by a stored sparse matrix and its stored transpose, many images at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from invsolve.core.arrays import from_array
from invsolve.operators.ct.backends.symmetry import Symmetry, symmetry
from invsolve.operators.ct.geometry import Geometry
from invsolve.operators.sparse import csr_tensor

_RAYS = 512  # weights of so many are made at once: they stay in the cache
_COLUMNS = 64  # of images at once: more leave it


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMatrix:
    """The weights of all rays that no symmetry gives, and their transpose."""

    weights: Tensor  # sparse CSR, (rays, pixels)
    transposed: Tensor  # sparse CSR, (pixels, rays)
    symmetry: Symmetry

    @staticmethod
    def of(geometry: Geometry, dtype: torch.dtype) -> StoredMatrix:
        device = geometry.angles.device
        found = symmetry(geometry)
        lines = found.geometry.lines
        rays, pixels = len(lines.start), geometry.in_shape[0] * geometry.in_shape[1]
        crow = torch.zeros(rays + 1, dtype=torch.int64, device=device)
        crow[1:] = lines.taps_per_ray.cumsum(0)
        total = int(crow[-1])
        column = torch.empty(total, dtype=torch.int32, device=device)
        values = torch.empty(total, dtype=dtype, device=device)
        for first in range(0, rays, _RAYS):
            last = min(first + _RAYS, rays)
            some = slice(int(crow[first]), int(crow[last]))
            column[some], values[some] = lines.taps(first, last, dtype)
        parts = [v.cpu().numpy() for v in (values, column, crow.to(_index(total)))]
        turned = scipy.sparse.csr_matrix(tuple(parts), shape=(rays, pixels)).tocsc()
        back = [from_array(v).to(device) for v in (turned.indptr, turned.indices, turned.data)]
        weights = csr_tensor(crow.to(_index(total)), column.to(_index(total)), values, (rays, pixels))
        return StoredMatrix(weights=weights, transposed=csr_tensor(*back, (pixels, rays)), symmetry=found)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.symmetry.data(torch.sparse.mm(self.weights, self.symmetry.images(v))) for v in self._pieces(x)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def adjoint(self, y: Tensor) -> Tensor:
        parts = [self.symmetry.image(torch.sparse.mm(self.transposed, self.symmetry.columns(v))) for v in self._pieces(y)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _pieces(self, value: Tensor) -> tuple[Tensor, ...]:
        return value.split(max(1, _COLUMNS // len(self.symmetry.kinds)))


def _index(total: int) -> torch.dtype:
    return torch.int32 if total < np.iinfo(np.int32).max else torch.int64
