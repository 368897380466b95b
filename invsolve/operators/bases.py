"""Closed forms of `LinearOperator.svd`: decompositions from a known basis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import Kind, Shape
from invsolve.operators.base import LinearOperator
from invsolve.operators.one_kind import OneKind
from invsolve.operators.spectrum import Spectrum


def from_basis(operator: LinearOperator, basis: LinearOperator, values: Tensor) -> Spectrum:
    """The decomposition of an operator with ``A^H A = V S^2 V^H``, from ``basis`` V^H and s: ``U^H = S^-1 V^H A^H``.

    For values that are 0 or far from it: what A^H rounds is divided by them.
    """
    inverse = torch.where(values > 0, 1 / values, 0.0)
    scaling = Diagonal(values=inverse, in_shape=basis.out_shape, kind=basis.out_kind)
    data_basis = scaling @ (basis @ operator.H)
    assert isinstance(data_basis, LinearOperator)  # a chain of linear maps
    return Spectrum(values=values, signal_basis=basis, data_basis=data_basis)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Diagonal(OneKind):
    """``y = values * x`` with real ``values``, ``in_shape`` or ``(items, *in_shape)``."""

    values: Tensor
    in_shape: Shape
    kind: Kind = "real"

    def _item_axes(self) -> dict[str, int]:
        return {"values": len(self.in_shape)}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def _apply(self, x: Tensor) -> Tensor:
        return self.values * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.values * y
