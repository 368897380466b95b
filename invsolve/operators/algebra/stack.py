"""Several measurements of one signal as one: outputs concatenated to a vector, with a `Layout` that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor

from invsolve.core.packing import Layout, Part
from invsolve.core.validation import Kind, Shape
from invsolve.errors import invalid, invalid_type
from invsolve.operators.algebra.algebra import _Wrapper
from invsolve.operators.base import LinearOperator, Operator, Pullback


class _Stacked(_Wrapper):
    """What both stacks share. The vector is complex if every part is, else real with complex parts interleaved."""

    operators: Sequence[Operator]
    names: Sequence[str]

    def _set_up(self, base: Any, hint: str) -> None:
        owner = type(self).__name__
        operators = tuple(self.operators)
        if not operators:
            raise invalid(owner, "operators", "one operator or more", "none")
        for op in operators:
            if not isinstance(op, base):
                raise invalid_type(owner, "operators", f"{base.__name__} objects", op, hint)
            for name in ("in_shape", "in_kind"):
                if getattr(op, name) != getattr(operators[0], name):
                    raise invalid(
                        owner, "operators", f"of one {name}, {getattr(operators[0], name)}", getattr(op, name)
                    )
        if len(precisions := {op.dtype for op in operators} - {None}) > 1:
            raise invalid(
                owner, "operators", "of one precision", sorted(map(str, precisions)), "Convert with A.to(dtype=...)."
            )
        names = tuple(map(str, range(len(operators)))) if self.names is None else tuple(self.names)
        if len(names) != len(operators):
            raise invalid(owner, "names", f"of length {len(operators)}", len(names))
        object.__setattr__(self, "operators", operators)
        object.__setattr__(self, "names", names)
        parts = (Part(name=n, shape=op.out_shape, kind=op.out_kind) for n, op in zip(names, operators, strict=True))
        object.__setattr__(self, "layout", Layout(parts=tuple(parts)))
        _ = self.batch  # raises if the item axes differ in length

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.operators[0].in_shape

    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        return self.operators[0].in_kind

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        return "complex" if all(op.out_kind == "complex" for op in self.operators) else "real"

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self._layout.size // (2 if self.out_kind == "complex" else 1),)

    @property
    def _layout(self) -> Layout:
        return self.layout  # type: ignore[attr-defined,no-any-return]  # set by `_set_up`

    @property
    def observed(self) -> Tensor | None:
        return self._observed_behind(None)

    def _observed_behind(self, seen: Tensor | None) -> Tensor | None:
        masks = [op._observed_behind(seen) for op in self.operators]
        if all(mask is None for mask in masks):
            return None
        pairs = zip(self.operators, masks, strict=True)
        # With an item axis where one of the masks has it, of an operator here or of what comes before.
        leading = max((m.shape[: m.ndim - len(op.out_shape)] for op, m in pairs if m is not None), key=len)
        flat = []
        for op, mask in zip(self.operators, masks, strict=True):
            full = torch.ones((), dtype=torch.bool, device=self.device or "cpu") if mask is None else mask
            row = full.expand(*leading, *op.out_shape).flatten(len(leading))
            twice = op.out_kind == "complex" and self.out_kind == "real"
            flat.append(row.repeat_interleave(2, dim=-1) if twice else row)
        return torch.cat(flat, dim=-1)

    def _parts(self) -> dict[str, Operator]:
        return dict(zip(self.names, self.operators, strict=True))

    def take(self, index: Tensor) -> Self:
        return replace(self, operators=tuple(op.take(index) for op in self.operators))  # type: ignore[type-var]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return replace(self, operators=tuple(op.to(device, dtype) for op in self.operators))  # type: ignore[type-var]

    def split(self, y: Tensor) -> dict[str, Tensor]:
        """The data of each operator, by name: ``(batch, *out_shape)`` -> ``{name: (batch, *its out_shape)}``."""
        self._check("y", y, self.out_shape, self.out_kind)
        return self._split(y)

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `split`: data of each operator -> the data vector."""
        return self._vector(self._layout.pack(values))

    def _split(self, y: Tensor) -> dict[str, Tensor]:
        return self._layout.split(torch.view_as_real(y.resolve_conj()).flatten(1) if y.is_complex() else y)

    def _join(self, outputs: Sequence[Tensor]) -> Tensor:
        return self.pack(dict(zip(self.names, outputs, strict=True)))

    def _vector(self, packed: Tensor) -> Tensor:
        if self.out_kind == "real":
            return packed
        return torch.view_as_complex(packed.view(*packed.shape[:-1], *self.out_shape, 2))

    def _apply(self, x: Tensor) -> Tensor:
        return self._join([op._apply(x) for op in self.operators])

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        pairs = [op._vjp(x) for op in self.operators]

        def pullback(v: Tensor) -> Tensor:
            pieces = self._split(v).values()
            return torch.stack([pull(piece) for (_, pull), piece in zip(pairs, pieces, strict=True)]).sum(0)

        return self._join([y for y, _ in pairs]), pullback

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [op._jvp(x, dx) for op in self.operators]
        return self._join([y for y, _ in pairs]), self._join([dy for _, dy in pairs])


@final
@dataclass(frozen=True, eq=False, repr=False)
class Stack(_Stacked, LinearOperator):
    """Linear measurements of one signal as one: ``y = [A_1 x; A_2 x; ...]``, flattened and concatenated in order.

    The vector is complex if every output is; otherwise it is real, with complex outputs as re, im, re, im (then the
    map is linear over the reals only).

    Parameters
    ----------
    operators : sequence of LinearOperator
        One or more, of one domain, one precision and one number of items.
    names : sequence of str, optional
        Labels of the parts of ``layout``; "0", "1", ... by default.

    Attributes
    ----------
    layout : Layout
        Name, shape and kind of every part of the data vector.

    Raises
    ------
    InputTypeError
        If an operator is not linear: use `NonlinearStack`.
    InputError
        If the operators differ in domain, precision or items, or the names in number.
    """

    operators: Sequence[LinearOperator]
    _: KW_ONLY
    names: Sequence[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self._set_up(LinearOperator, "Use NonlinearStack.")

    def _adjoint(self, y: Tensor) -> Tensor:
        pieces = self._split(y).values()
        return torch.stack([op._adjoint(v) for op, v in zip(self.operators, pieces, strict=True)]).sum(0)

    def _normal(self, x: Tensor) -> Tensor:
        return torch.stack([op._normal(x) for op in self.operators]).sum(0)

    _vjp = LinearOperator._vjp


@final
@dataclass(frozen=True, eq=False, repr=False)
class NonlinearStack(_Stacked):
    """`Stack` for operators of which at least one is not linear; derivatives are those of the parts.

    Parameters
    ----------
    operators : sequence of Operator
        One or more, of one domain, one precision and one number of items.
    names : sequence of str, optional
        Labels of the parts of ``layout``; "0", "1", ... by default.

    Attributes
    ----------
    layout : Layout
        Name, shape and kind of every part of the data vector.

    Raises
    ------
    InputTypeError
        If one is no operator: wrap a function with `from_callable`.
    InputError
        If the operators differ in domain, precision or items, or the names in number.
    """

    operators: Sequence[Operator]
    _: KW_ONLY
    names: Sequence[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self._set_up(Operator, "Wrap a function with from_callable.")
