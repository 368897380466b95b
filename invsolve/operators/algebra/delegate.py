"""What an operator takes over from the one it is made of."""

from __future__ import annotations

from torch import Tensor

from invsolve.core.validation import Kind, Shape
from invsolve.operators.base import Operator


class Alike(Operator):
    """Has the shapes, the kinds and the observed entries of its ``operator``, and is entrywise if that is."""

    operator: Operator

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
    def entrywise(self) -> bool:  # type: ignore[override]
        return self.operator.entrywise

    def _observed_behind(self, seen: Tensor | None) -> Tensor | None:
        return self.operator._observed_behind(seen)

    @property
    def observed(self) -> Tensor | None:
        return self.operator.observed
