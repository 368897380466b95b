"""One axis of the grid that a non-uniform Fourier transform goes by, and the Kaiser-Bessel kernel on it.

A signal of n pixels, centred on index n // 2, is known on the unit circle from its spectrum at K > n equal steps, up to
an error that falls exponentially with the number of neighbours that are used [1]. K is ``base * phases``: what a
transform of length K would give is found by ``phases`` transforms of length ``base``, which stay in the cache.

.. [1] Beatty, Nishimura & Pauly 2005, Rapid gridding reconstruction with a minimal oversampling ratio, IEEE
   Transactions on Medical Imaging 24, 799: the shape parameter beta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from scipy.fft import next_fast_len
from torch import Tensor

# Relative errors -> (oversampling, neighbours an axis): of white images in one to three dimensions (a pixel in a corner
# has twice as much). Beyond the last level each neighbour more gives a factor of nine.
LEVELS = ((5e-4, 1.5, 5), (6e-5, 1.5, 6), (1e-5, 2.0, 6))
_FINEST = 1e-12


def level(tol: float) -> tuple[float, int]:
    """``(oversampling, neighbours)`` for a relative error."""
    for error, oversampling, width in LEVELS:
        if tol >= error:
            return oversampling, width
    return 2.0, 6 + math.ceil(math.log(LEVELS[-1][0] / max(tol, _FINEST), 9))


@final
@dataclass(frozen=True)
class Axis:
    """``n`` pixels on a grid of ``base * phases`` frequencies, of which ``width`` neighbours are used."""

    n: int
    base: int
    phases: int
    width: int

    @staticmethod
    def of(n: int, oversampling: float, width: int) -> Axis:
        """The grid of at least so many frequencies a pixel; one pixel has one frequency."""
        if n == 1:
            return Axis(1, 1, 1, 1)
        if oversampling == 2:
            return Axis(n, next_fast_len(n), 2, width)
        return Axis(n, next_fast_len(math.ceil(oversampling * n)), 1, width)

    @property
    def fine(self) -> int:
        """The number of frequencies."""
        return self.base * self.phases

    @property
    def _beta(self) -> float:
        over = self.fine / self.n
        return math.pi * math.sqrt((self.width / over * (over - 0.5)) ** 2 - 0.8)

    def taps(self, omega: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of frequencies (int32) and weights (float64) of samples at ``omega``, radians a pixel, (m, width)."""
        if self.n == 1:
            return omega.new_zeros(len(omega), 1).to(torch.int32), omega.new_ones(len(omega), 1)
        at = omega * (self.fine / (2 * math.pi))
        near = torch.ceil(at - self.width / 2)[:, None] + torch.arange(
            self.width, dtype=torch.float64, device=omega.device
        )
        far = (2 / self.width) * (at[:, None] - near)
        weight = torch.special.i0(self._beta * (1 - far.square()).clamp_min(0).sqrt()) / self._scale
        return near.remainder(self.fine).to(torch.int32), weight

    @property
    def _scale(self) -> float:
        return float(torch.special.i0(torch.tensor(self._beta, dtype=torch.float64, device="cpu")))

    def transform(self, device: torch.device) -> Tensor:
        """The Fourier transform of the kernel at the pixels, ``(n,)`` float64: what images are divided by."""
        if self.n == 1:
            return torch.ones(1, dtype=torch.float64, device=device)
        u = (torch.arange(self.n, dtype=torch.float64, device=device) - self.n // 2) / self.fine
        q = (self._beta**2 - (math.pi * self.width * u).square()).sqrt()
        return self.width * torch.sinh(q) / q / self._scale
