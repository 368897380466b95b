"""Random heads made of formulas: to tune and to train on, so that nothing is ever fitted to the real slices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.checks import check_int
from invsolve.datasets.continuum import cell_centres, check_plane, check_real_dtype, check_seed, uniforms

_EDGE = 0.006  # half the width of every edge, in fields of view: 1.5 pixels at 256
_WHITE, _GREY, _FLUID, _SCALP, _SKULL = 0.80, 0.58, 0.18, 0.90, 0.06  # T1-like grey levels
_BRAIN = 0.86  # radius of the brain, the scalp being at 1


def head_phantom(n: int, shape: tuple[int, int], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """``n`` different head-like images ``(n, *shape)`` with values in [0, 1]; head k depends on ``seed`` and k only.

    An ellipse with a wobbling rim (half of the heads with scalp and skull, half stripped to the brain), a folded cortex
    of grey matter and dark furrows, the gap between the hemispheres, two ventricles, deep grey nuclei, fine texture and
    smooth shading. Every part is a function of position, sampled at the cell centres of ``shape``: the same seed
    gives the same head on every grid. They are crude next to anatomy: see the card, `datasets/simulated.md`.
    """
    n = check_int("head_phantom", "n", n, minimum=1)
    shape = check_plane("head_phantom", "shape", shape)
    seed = check_seed("head_phantom", seed)
    dtype = check_real_dtype("head_phantom", "dtype", dtype)
    return torch.stack([_head(shape, seed, k) for k in range(n)]).to(dtype)


def _head(shape: tuple[int, int], seed: int, k: int) -> Tensor:
    down, right = cell_centres(shape)
    u = (2 * uniforms("head shape", seed, k, (24,)) - 1).tolist()  # numbers in (-1, 1) for everything that varies

    # The frame of the head: centre, tilt, half axes. y points to the chin.
    angle = 0.12 * u[0]
    right, down = right - 0.02 * u[1], down - 0.02 * u[2]
    x = math.cos(angle) * right + math.sin(angle) * down
    y = math.cos(angle) * down - math.sin(angle) * right
    half_x, half_y = 0.33 + 0.04 * u[3], 0.37 + 0.04 * u[4]
    theta = torch.atan2(y / half_y, x / half_x)
    rim = 1 + sum(0.02 * u[4 + m] * torch.cos(m * theta + math.pi * u[8 + m]) for m in (2, 3, 4))
    radius = torch.sqrt((x / half_x) ** 2 + (y / half_y) ** 2) / rim  # 1 on the scalp
    size = math.sqrt(half_x * half_y)  # turns a difference of radii into a distance

    def inside(r: float) -> Tensor:
        return _soft((r - radius) * size)

    # Cortex: furrows are the zero lines of a wavy field, deep near the rim and absent inside; grey matter lines them.
    waves = _field(x, y, seed, k, what="head folds", number=48, low=7.0, high=13.0)
    depth = (_BRAIN - radius) * size
    outer = _soft(0.11 + 0.03 * u[15] - depth)
    furrow = outer * _soft(0.006 - waves.abs() * 0.016)
    lining = torch.maximum(_soft(0.022 - depth), outer * _soft(0.019 - waves.abs() * 0.016))
    brain = _mix(_WHITE + 0.04 * u[16], _GREY + 0.04 * u[17], lining)

    # Deep nuclei, ventricles and the gap between the hemispheres, mirrored about x = 0.
    side = x.abs()
    brain = _mix(brain, _GREY + 0.06, _ellipse(side - 0.085, y - 0.03, 0.045, 0.06, 0.5))
    brain = _mix(brain, _FLUID, furrow)
    width, length = 0.014 + 0.006 * u[18], 0.055 + 0.02 * u[19]
    ventricle = _ellipse(side - 0.04 - 0.01 * u[20], y + 0.03, width, length, 0.7)
    gap = _soft(0.005 - side) * _soft(-0.05 - y)
    brain = _mix(brain, _FLUID, torch.maximum(ventricle, gap))

    texture = _field(x, y, seed, k, what="head texture", number=64, low=8.0, high=45.0)
    shading = _field(x, y, seed, k, what="head shading", number=12, low=0.3, high=1.2)
    brain = brain * (1 + 0.025 * texture)
    if u[21] > 0:
        shell = _SCALP * (inside(1.0) - inside(0.94)) + _SKULL * (inside(0.94) - inside(_BRAIN))
    else:
        shell = torch.zeros_like(brain)
    return ((shell + brain * inside(_BRAIN)) * (1 + 0.06 * shading)).clamp(0, 1)


def _soft(distance: Tensor) -> Tensor:
    """A step from 0 to 1 where the distance becomes positive, as wide as an edge on the continuum."""
    return torch.sigmoid(2 * distance / _EDGE)


def _mix(background: Tensor | float, level: float, part: Tensor) -> Tensor:
    return background + (level - background) * part


def _ellipse(x: Tensor, y: Tensor, half_x: float, half_y: float, tilt: float) -> Tensor:
    a, b = math.cos(tilt) * x + math.sin(tilt) * y, math.cos(tilt) * y - math.sin(tilt) * x
    return _soft((1 - torch.sqrt((a / half_x) ** 2 + (b / half_y) ** 2)) * math.sqrt(half_x * half_y))


def _field(x: Tensor, y: Tensor, seed: int, k: int, *, what: str, number: int, low: float, high: float) -> Tensor:
    """A random field of variance 1: plane waves with ``low`` to ``high`` periods in the field of view, isotropic."""
    u = uniforms(what, seed, k, (3, number))
    frequency, direction, phase = low + (high - low) * u[0], 2 * math.pi * u[1], 2 * math.pi * u[2]
    total = torch.zeros_like(x)
    for f, d, p in zip(frequency.tolist(), direction.tolist(), phase.tolist(), strict=True):
        total += torch.cos(2 * math.pi * f * (math.cos(d) * x + math.sin(d) * y) + p)
    return total * math.sqrt(2 / number)
