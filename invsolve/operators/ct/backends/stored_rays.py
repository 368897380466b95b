"""Line integrals in space by a stored sparse matrix and its stored transpose: small scans of many volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import from_array
from invsolve.operators.ct.backends.crossings import OTHERS, Crossings, crossings
from invsolve.operators.ct.geometry import Weights
from invsolve.operators.ct.views import Views
from invsolve.operators.sparse import csr_tensor

_BLOCK = 2**18  # crossings at once
_COLUMNS = 32  # volumes at once


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRays:
    """The weights of all rays, and their transpose, as sparse CSR."""

    weights: Tensor  # (rays, voxels)
    transposed: Tensor  # (voxels, rays)
    views: Views

    @staticmethod
    def of(views: Views, weights: Weights, dtype: torch.dtype) -> StoredRays:
        from scipy.sparse import coo_matrix, vstack

        D, H, W = views.in_shape
        step = max(1, _BLOCK // (max(D, H, W) * views.bins))
        blocks = []
        for first in range(0, views.lines, step):
            last = min(first + step, views.lines)
            parts = [_entries(found.within(found.low, found.high), weights) for found in crossings(views, first, last)]
            ray, voxel, value = (torch.cat(v).cpu() for v in zip(*parts, strict=True))
            entries = (value.to(dtype).numpy(), (ray.numpy(), voxel.numpy()))
            blocks.append(coo_matrix(entries, shape=((last - first) * views.bins, D * H * W)).tocsr())
        matrix = vstack(blocks, format="csr") if len(blocks) > 1 else blocks[0]
        return StoredRays(
            weights=_tensor(matrix, views.source.device),
            transposed=_tensor(matrix.T.tocsr(), views.source.device),
            views=views,
        )

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, len(self.views.source), self.views.rows, self.views.bins)
        return torch.cat([_product(self.weights, v) for v in torch.split(x.flatten(1), _COLUMNS)]).view(shape)

    def adjoint(self, y: Tensor) -> Tensor:
        shape = (-1, *self.views.in_shape)
        return torch.cat([_product(self.transposed, v) for v in torch.split(y.flatten(1), _COLUMNS)]).view(shape)


def _product(matrix: Tensor, rows: Tensor) -> Tensor:
    found: Tensor = torch.sparse.mm(matrix, rows.mT.contiguous()).mT
    return found.contiguous()


def _tensor(matrix: object, device: torch.device) -> Tensor:
    crow, col, values = (from_array(getattr(matrix, name)).to(device) for name in ("indptr", "indices", "data"))
    return csr_tensor(crow, col, values, matrix.shape)  # type: ignore[attr-defined]


def _entries(found: Crossings, weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Rays, voxels in the flattened volume and weights, of all that are not 0."""
    _, H, W = found.shape
    strides = (H * W, W, 1)
    lower, weight = found.corners(weights, torch.float64)
    lower = lower.long()
    k = torch.arange(found.low, found.high, device=lower.device)[:, None] * strides[found.axis]
    first, second = (strides[i] for i in OTHERS[found.axis])
    ray = found.ray.expand(found.planes, -1)
    parts = []
    for i, share in enumerate(weight * found.length):
        a, b = lower[0] + i // 2, lower[1] + i % 2
        inside = (a >= 0) & (a < found.sides[0]) & (b >= 0) & (b < found.sides[1]) & (share != 0)
        parts.append((ray[inside], (k + a * first + b * second)[inside], share[inside]))
    rays, voxels, values = (torch.cat(v) for v in zip(*parts, strict=True))
    return rays, voxels, values
