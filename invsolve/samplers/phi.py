"""The phi functions of exponential integrators, without the cancellation that small steps bring."""

from __future__ import annotations

from math import factorial

import torch
from torch import Tensor


def phi(order: int, z: Tensor) -> Tensor:
    """``phi_k(z) = (phi_{k-1}(z) - 1/(k-1)!) / z``, ``phi_0 = exp``; also ``sum_j z^j / (j + k)!``; z float64.

    The recurrence loses ``k`` times ``log10(1/|z|)`` digits, so the series is summed for ``|z| < 1``: 20 terms leave a
    remainder below 1/20! = 4e-19 of the first. (Hochbruck & Ostermann 2010, Acta Numerica 19, section 2.)
    """
    small = z.abs() < 1
    near = torch.where(small, z, torch.zeros_like(z))
    series = torch.zeros_like(z)
    for j in reversed(range(20)):
        series = series * near + 1 / factorial(j + order)
    far = torch.where(small, torch.ones_like(z), z)
    value = far.exp()
    for k in range(order):
        value = torch.expm1(far) / far if k == 0 else (value - 1 / factorial(k)) / far
    return torch.where(small, series, value)
