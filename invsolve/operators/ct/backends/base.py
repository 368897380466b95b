"""What computes line integrals and their transpose, whatever the way."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Projector(Protocol):
    """A matrix of rays times pixels for columns of images, ``(pixels, columns)`` <-> ``(rays, columns)``, real."""

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, H, W)`` -> ``(batch, views, bins)``."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """``(batch, views, bins)`` -> ``(batch, H, W)``."""
        ...


def of_parts(function: Projector, forward: bool, value: Tensor) -> Tensor:
    """The real map on real and imaginary parts."""
    apply = function.forward if forward else function.adjoint
    if not value.is_complex():
        return apply(value)
    both = apply(torch.cat([value.real, value.imag]))
    return torch.complex(both[: len(value)], both[len(value) :])
