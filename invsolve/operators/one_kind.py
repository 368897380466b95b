"""What linear operators share whose signals and data are both real, or both complex."""

from __future__ import annotations

from invsolve.core.validation import Kind
from invsolve.operators.base import LinearOperator


class OneKind(LinearOperator):
    """A linear operator whose signals and data have one kind, its field ``kind``."""

    kind: Kind

    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        return self.kind

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        return self.kind
