"""A field on a larger box, of which the signal is the middle: its walls are somewhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from invsolve.core.validation import Kind, Shape
from invsolve.operators.base import LinearOperator


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Crop(LinearOperator):
    """The middle of a signal: ``margin`` entries of every axis are left out at each of its ends."""

    in_shape: Shape
    margin: Shape
    in_kind: Kind = "real"

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return tuple(n - 2 * m for n, m in zip(self.in_shape, self.margin, strict=True))

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        return self.in_kind

    def middle(self, x: Tensor) -> Tensor:
        """Of ``(..., *in_shape)``."""
        for axis, (n, m) in enumerate(zip(self.in_shape, self.margin, strict=True), start=-len(self.in_shape)):
            x = x.narrow(axis, m, n - 2 * m)
        return x

    def _apply(self, x: Tensor) -> Tensor:
        return self.middle(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return F.pad(y, [m for margin in reversed(self.margin) for m in (margin, margin)])
