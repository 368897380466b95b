"""The centred orthonormal Fourier transform of MRI, and what makes it cheap.

Centred means that index n // 2 is the origin on both sides: ``fftshift(fftn(ifftshift(x)))``.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def of_rows(transform: Callable[..., Tensor], x: Tensor, **options: Any) -> Tensor:
    """``transform(x, **options)`` of torch.fft, also for no rows at all, which some releases of MKL refuse."""
    if x.numel():
        return transform(x, **options)
    return transform(x.new_zeros(1, *x.shape[1:]), **options)[:0]


def shift_phases(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """``(p, q)`` of ``shape``: the centred transform is ``q * fftn(p * x)``, multiplications instead of four copies.

    With c = n // 2, the shift theorem gives p_j = exp(2 pi i j c / n) and q_k = exp(2 pi i (k - c) c / n) along each
    axis: signs for even n (float64), unit complex numbers for odd n (complex128).
    """
    before, after = torch.ones((), dtype=torch.float64, device="cpu"), torch.ones((), dtype=torch.float64, device="cpu")
    for n in shape:
        c = n // 2
        before = before.unsqueeze(-1) * _unit_roots(n, 0)
        after = after.unsqueeze(-1) * _unit_roots(n, c)
    return before, after


def _unit_roots(n: int, origin: int) -> Tensor:
    c = n // 2
    if n % 2 == 0:
        return torch.tensor([1.0 - 2.0 * ((j - origin) % 2) for j in range(n)], dtype=torch.float64, device="cpu")
    # The exponent is reduced modulo n as an integer: no rounding at large indices.
    roots = [cmath.exp(2j * math.pi * ((j - origin) * c % n) / n) for j in range(n)]
    return torch.tensor(roots, dtype=torch.complex128, device="cpu")


def mirrored(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """``x`` at the frequencies -k, in the order of ``fftn``: index (n - i) % n along each of ``dims``."""
    return x.flip(dims).roll([1] * len(dims), dims)
