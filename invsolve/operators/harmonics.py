"""The orthonormal Fourier transform as an operator; of real signals, in real coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import Kind, Shape
from invsolve.operators.fourier import mirrored, of_rows
from invsolve.operators.one_kind import OneKind


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Harmonics(OneKind):
    """``c = conj(phase) * F x`` with the orthonormal F over all axes, in the order of ``fftn``.

    For real signals the coordinates are ``Re - Im`` of that (Hartley 1942, Proc. IRE 30, 144): as many real numbers as
    the signal has, an orthogonal map, and frequencies k and -k have a coordinate each.

    ``phase``: None (1 everywhere), or complex, broadcastable to ``in_shape``, with one axis more for items; of modulus
    0 or 1, and for real signals conjugate-symmetric, ``phase(-k) = conj(phase(k))``.
    """

    in_shape: Shape
    phase: Tensor | None = None
    kind: Kind = "real"

    def _item_axes(self) -> dict[str, int]:
        return {"phase": len(self.in_shape)}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.in_shape), 0))

    def _apply(self, x: Tensor) -> Tensor:
        c = of_rows(torch.fft.fftn, x, dim=self._dims, norm="ortho")
        c = c if self.phase is None else c * self.phase.conj()
        return c.real - c.imag if self.kind == "real" else c

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.kind == "real":  # the spectrum of a real signal: what is even in k is its real part
            other = mirrored(y, self._dims)
            y = torch.complex(y + other, other - y) / 2
        y = y if self.phase is None else y * self.phase
        x = of_rows(torch.fft.ifftn, y, dim=self._dims, norm="ortho")
        return x.real.contiguous() if self.kind == "real" else x
