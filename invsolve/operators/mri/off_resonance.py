"""Off resonance: ``exp(-2 pi i f t)`` of a field map f and readout times t as a short sum of products.

Time segmentation takes the waves at a few moments for the functions of f, and fits those of t. Here both are the
singular functions of the wave, of which the fewest are needed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import from_array
from invsolve.errors import invalid

_CHECKED = 129  # times and frequencies at which the sum is compared
_PIXELS = 65536  # at once
_TURNS = 1000  # that phases may differ by: 10 kHz over 0.1 s


def segments(times: Tensor, field_map: Tensor, tol: float, limits: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` with ``exp(-2 pi i f_n t_m) = sum_l a[l, n] b[l, m]`` up to ``tol``.

    Parameters
    ----------
    times : Tensor, shape (samples,)
        Seconds, float64.
    field_map : Tensor, shape (pixels,)
        Hz, float64.
    tol : float
        The largest error that is allowed, of all frequencies and times in their ranges; below 1e-12 it is rounding.
    limits : tuple of float
        The lowest and highest frequency of the operator: what is found for a pixel does not depend on the others.

    Returns
    -------
    tuple of Tensor
        ``(segments, pixels)`` and ``(segments, samples)``, complex128.
    """
    times_, field, ends = times.cpu(), field_map.cpu(), torch.tensor(limits, dtype=torch.float64, device="cpu")
    # Half of the largest phase, counted from the middle of both ranges: so many nodes resolve the waves.
    nodes = 24 + math.ceil(1.5 * math.pi / 2 * _range(times_) * _range(ends))
    f, t = _nodes(ends, nodes), _nodes(times_, nodes)
    weight = from_array(np.polynomial.legendre.leggauss(nodes)[1] / 2).sqrt()
    left, size, right = torch.linalg.svd(weight[:, None] * _waves(f, t) * weight, full_matrices=False)
    # Between the nodes by Nystrom's formula: a_l has the size of the singular value, b_l is about 1.
    of_f, of_t = weight[:, None] * right.mH, left.mH * weight / size[:, None]
    some_f, some_t = (_spread(v, _CHECKED) for v in (ends, times_))
    a, b = _waves(some_f, t) @ of_f, of_t @ _waves(f, some_t)
    rest, count = _waves(some_f, some_t), 0
    while count < nodes and float(rest.abs().max()) > max(tol, 1e-12):
        rest, count = rest - a[:, count, None] * b[count], count + 1
    pixels = [(_waves(v, t) @ of_f[:, :count]).mT for v in torch.split(field, _PIXELS)]
    back: Tensor = of_t[:count] @ _waves(f, times_)
    return torch.cat(pixels, 1).to(times.device), back.to(times.device)


def check_turns(times: Tensor, limits: tuple[float, float]) -> None:
    """Refuse more turns between two frequencies than any readout has: segments are as many, and made by a matrix."""
    turns = _range(times) * (limits[1] - limits[0])
    if turns > _TURNS:
        found = f"{_range(times):.4g} s and {limits[1] - limits[0]:.4g} Hz, {turns:.0f} turns"
        expected = f"so short, and `field_map` so narrow, that phases differ by at most {_TURNS} turns"
        raise invalid("NonCartesianMRI", "times", expected, found, "Are they in milliseconds, or is it in rad/s?")


def _range(v: Tensor) -> float:
    return float(v.max() - v.min())


def _nodes(v: Tensor, count: int) -> Tensor:
    """Those of Gauss and Legendre in the range of values."""
    at = from_array(np.polynomial.legendre.leggauss(count)[0])
    return (float(v.max()) + float(v.min())) / 2 + _range(v) / 2 * at


def _spread(v: Tensor, count: int) -> Tensor:
    return torch.linspace(float(v.min()), float(v.max()), count, dtype=torch.float64, device="cpu")


def _waves(f: Tensor, t: Tensor) -> Tensor:
    """``exp(-2 pi i f t)``, a row for each frequency."""
    angle = -2 * math.pi * f[:, None] * t
    return torch.polar(torch.ones_like(angle), angle)
