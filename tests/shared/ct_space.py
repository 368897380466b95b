"""Line integrals of ellipsoids and Gaussian blobs in closed form, along the rays of a scan in space."""

from __future__ import annotations

import math

import torch
from ct_phantoms import F64, turn
from torch import Tensor

import invsolve as iv

ops = iv.operators
NEAR = {"source_to_center": 400.0, "source_to_detector": 600.0}
Triple = tuple[float, float, float]


def space_scans(size: int, weights: str = "joseph") -> dict[str, ops.LinearOperator]:
    """Of 128 mm on a grid of about ``size``, on few bins that no voxel is aligned with."""
    angles, grid = turn(12, 2 * math.pi, 0.3), (size, size, size)
    common = {"weights": weights, "backend": "on the fly", "rows": 28, "bins": 31}
    cone = {"voxel_size": 128 / size, "bin_size": (6.7, 5.9), **NEAR, **common}
    c, s, none = angles.cos(), angles.sin(), torch.zeros(12, dtype=F64)
    along, up = torch.stack([c, s, none], -1), torch.stack([none, none, none + 1], -1)
    leaning = torch.stack([-0.8 * s, 0.8 * c, none - 0.6], -1)
    return {
        "cone": ops.ConeBeam(angles, grid, **cone),
        "cone, curved": ops.ConeBeam(angles, grid, detector="curved", detector_offset=(3.0, -2.0), **cone),
        "helix": ops.ConeBeam(2 * angles - 6, grid, pitch=25.0, **cone),
        "tilt and roll": ops.ConeBeam(angles, grid, tilt=0.4, roll=-0.3, detector_offset=(2.0, 3.0), **cone),
        "slices three times as thick, off centre": ops.ConeBeam(
            angles,
            (size // 3, size, size + 2),
            center=(2.0, -1.0, 3.0),
            **cone | {"voxel_size": (384 / size, 128 / size, 120 / size)},
        ),
        "parallel, laminography": ops.VectorBeam(
            direction=leaning,
            detector_center=5 * up,
            u=4.3 * along,
            v=4.9 * up,
            in_shape=grid,
            voxel_size=128 / size,
            **common,
        ),
    }


def rays(A: ops.LinearOperator) -> tuple[Tensor, Tensor]:
    return A.geometry.rays(0, A.geometry.lines)


def blob_data(A: ops.LinearOperator, center: Triple, std: float) -> Tensor:
    point, direction = rays(A)
    away = torch.tensor(center, dtype=F64) - point
    squared = away.square().sum(-1) - (away * direction).sum(-1).square()
    return (math.sqrt(2 * math.pi) * std * torch.exp(-squared / (2 * std**2))).view(A.out_shape)


def ellipsoid_data(A: ops.LinearOperator, center: Triple, radii: Triple) -> Tensor:
    point, direction = (v / torch.tensor(radii, dtype=F64) for v in rays(A))
    point = point - torch.tensor(center, dtype=F64) / torch.tensor(radii, dtype=F64)
    a, b, c = (direction**2).sum(-1), (direction * point).sum(-1), (point**2).sum(-1) - 1
    return (2 * (b**2 - a * c).clamp_min(0).sqrt() / a).view(A.out_shape)


def box_data(A: ops.LinearOperator) -> Tensor:
    """The length of every ray in the whole volume."""
    g = A.geometry
    point, direction = rays(A)
    half = torch.tensor([n * size / 2 for n, size in zip(g.in_shape, g.voxel_size, strict=True)][::-1], dtype=F64)
    ends = torch.stack([(-half - point) / direction, (half - point) / direction])
    return (ends.amax(0).amin(-1) - ends.amin(0).amax(-1)).clamp_min(0).view(A.out_shape)


def places(A: ops.LinearOperator) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and z of the voxel centres, ``(D, H, W)``."""
    (D, H, W), (depth, height, width) = A.geometry.in_shape, A.geometry.voxel_size
    x = (torch.arange(W, dtype=F64) - (W - 1) / 2) * width
    y = ((H - 1) / 2 - torch.arange(H, dtype=F64))[:, None] * height
    z = (torch.arange(D, dtype=F64) - (D - 1) / 2)[:, None, None] * depth
    return x.expand(D, H, W), y.expand(D, H, W), z.expand(D, H, W)


def distance(A: ops.LinearOperator, center: Triple) -> Tensor:
    away = [p - c for p, c in zip(places(A), center, strict=True)]
    return torch.stack(away).norm(dim=0)


def blob(A: ops.LinearOperator, center: Triple, std: float) -> Tensor:
    return torch.exp(-distance(A, center).square() / (2 * std**2))
