"""The Jacobian of an operator at a point."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.checks import Kind, Shape
from invsolve.operators.base import LinearOperator, Operator, Pullback


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Linearized(LinearOperator):
    """``dx -> J(at) dx`` with ``at`` ``(batch, *in_shape)``: one item for every row of ``at``."""

    operator: Operator
    at: Tensor
    value: Tensor = field(init=False)  # operator(at)
    _pull: Pullback = field(init=False)

    def __post_init__(self) -> None:
        value, pull = self.operator.vjp(self.at)
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "_pull", pull)

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.operator.in_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.operator.out_shape

    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        return self.operator.in_kind

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        return self.operator.out_kind

    @property
    def batch(self) -> int | None:
        return len(self.at)

    @property
    def observed(self) -> Tensor | None:
        return self.operator.observed

    def take(self, index: Tensor) -> Self:
        return replace(self, operator=self.operator.take(index), at=self.at[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return replace(self, operator=self.operator.to(device, dtype), at=self.at.to(device, dtype))

    def _apply(self, x: Tensor) -> Tensor:
        return self.operator._jvp(self.at, x)[1]

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._pull(y)
