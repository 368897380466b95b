"""Line integrals of discs and Gaussian blobs in closed form, along the rays of an operator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import invsolve as iv

F64 = torch.float64
ops = iv.operators
FAN = {"source_to_center": 300.0, "source_to_detector": 500.0}


def turn(views: int, angle: float = math.pi, first: float = 0.0) -> Tensor:
    return first + torch.arange(views, dtype=F64) * angle / views


def scans(size: int, views: int) -> dict[str, ops.LinearOperator]:
    """Of 128 mm on a grid of ``size``: every beam, detector and centre; ``views`` over half a turn."""
    grid, pixel, whole = (size, size), {"pixel_size": 128 / size}, turn(2 * views, 2 * math.pi)
    short = turn(int(1.4 * views), 1.4 * math.pi, 0.4)
    return {
        "parallel": ops.ParallelBeam(turn(views), grid, **pixel),
        "parallel, a whole turn": ops.ParallelBeam(whole, grid, **pixel),
        "parallel, off centre": ops.ParallelBeam(
            turn(views, first=0.3), (size, size + 1), bins=2 * size, detector_offset=1.3, center=(2.0, -1.0), **pixel
        ),
        "parallel, pixels twice as wide": ops.ParallelBeam(
            turn(views), (size, size // 2), pixel_size=(128 / size, 256 / size)
        ),
        "fan": ops.FanBeam(whole, grid, **FAN, **pixel),
        "fan, curved": ops.FanBeam(whole, grid, detector="curved", **FAN, **pixel),
        "fan, short scan": ops.FanBeam(short, grid, **FAN, **pixel),
        "fan, curved, short scan": ops.FanBeam(short, grid, detector="curved", **FAN, **pixel),
    }


def lines(A: ops.LinearOperator) -> tuple[Tensor, Tensor]:
    """Every ray as ``x cos t + y sin t = s`` from the middle of the image, by the definitions of the docstrings."""
    u = (torch.arange(A.bins, dtype=F64) - (A.bins - 1) / 2) * A.bin_size + A.detector_offset
    angle = A.angles[:, None].expand(-1, A.bins)
    if isinstance(A, ops.FanBeam):
        far, tilt = A.source_to_detector, A.detector_tilt
        flat = torch.atan(u * math.cos(tilt) / (far + u * math.sin(tilt)))
        slant = u / far if A.detector == "curved" else flat
        angle, u = angle - slant, A.source_to_center * slant.sin()
    return angle, u + A.center[0] * angle.cos() + A.center[1] * angle.sin()


def distances(A: ops.LinearOperator, x: float, y: float) -> Tensor:
    angle, s = lines(A)
    return s - x * angle.cos() - y * angle.sin()


def disc_data(A: ops.LinearOperator, x: float, y: float, radius: float) -> Tensor:
    return 2 * (radius**2 - distances(A, x, y).square()).clamp_min(0).sqrt()


def blob_data(A: ops.LinearOperator, x: float, y: float, std: float) -> Tensor:
    return math.sqrt(2 * math.pi) * std * torch.exp(-0.5 * (distances(A, x, y) / std).square())


def places(A: ops.LinearOperator) -> tuple[Tensor, Tensor]:
    """x and y of the pixel centres, ``(H, W)``."""
    (H, W), (height, width) = A.in_shape, A.pixel_size
    x = (torch.arange(W, dtype=F64) - (W - 1) / 2) * width
    y = ((H - 1) / 2 - torch.arange(H, dtype=F64)) * height
    return x.expand(H, W), y[:, None].expand(H, W)


def blob(A: ops.LinearOperator, x: float, y: float, std: float) -> Tensor:
    px, py = places(A)
    return torch.exp(-((px - x).square() + (py - y).square()) / (2 * std**2))
