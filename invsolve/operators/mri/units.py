"""The units of trajectories in k-space."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from invsolve.core.validation import Shape

Unit = Literal["rad/pixel", "cycles/FOV", "cycles/pixel"]
# -> the largest value that makes sense, in words.
UNITS = {"rad/pixel": "pi", "cycles/FOV": "half of the pixels of its axis", "cycles/pixel": "1/2"}


def to_radians(trajectory: Tensor, unit: Unit, shape: Shape) -> Tensor:
    """A trajectory ``(..., axes)`` in radians a pixel, of images of a shape."""
    scale = {"rad/pixel": [1.0] * len(shape), "cycles/pixel": [2 * math.pi] * len(shape)}
    per = scale.get(unit, [2 * math.pi / n for n in shape])
    return trajectory * torch.tensor(per, dtype=trajectory.dtype, device=trajectory.device)


def reach(trajectory: Tensor, unit: Unit, shape: Shape) -> float:
    """The largest frequency of any axis, as a share of pi radians a pixel."""
    return float(to_radians(trajectory, unit, shape).abs().max()) / math.pi


def fitting(trajectory: Tensor, shape: Shape) -> list[str]:
    """The units in which a trajectory stays within k-space."""
    return [repr(u) for u in UNITS if reach(trajectory, u, shape) <= 1 + 1e-6]  # type: ignore[arg-type]
