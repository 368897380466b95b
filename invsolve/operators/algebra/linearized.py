"""The Jacobian of an operator at a point."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.ownership import replaced
from invsolve.operators.algebra.delegate import Alike
from invsolve.operators.base import LinearOperator, Operator, Pullback


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Linearized(Alike, LinearOperator):
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
    def batch(self) -> int | None:
        return len(self.at)

    def take(self, index: Tensor) -> Self:
        return replaced(self, operator=self.operator.take(index), at=self.at[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return replaced(self, operator=self.operator.to(device, dtype), at=self.at.to(device, dtype))

    def _apply(self, x: Tensor) -> Tensor:
        return self.operator._jvp(self.at, x)[1]

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._pull(y)
