"""Operators made of operators: ``B @ A``, ``a * A``, ``A + B``, ``A.H``. Each forwards item axes and `observed`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor

from invsolve.core.distributions import Distribution
from invsolve.core.validation import Kind, Shape, check_number
from invsolve.errors import invalid, invalid_type
from invsolve.operators.algebra.delegate import Alike
from invsolve.operators.base import BlackBox, LinearOperator, Operator, Pullback, _field_names

if TYPE_CHECKING:
    from invsolve.operators.spectrum import Spectrum


class _Wrapper(Operator):
    """Forwards item axes, dtype and device of the wrapped operators."""

    def _parts(self) -> dict[str, Operator]:
        values = ((name, getattr(self, name)) for name in _field_names(type(self)))
        return {name: value for name, value in values if isinstance(value, Operator)}

    @property
    def batch(self) -> int | None:
        sizes = {name: part.batch for name, part in self._parts().items() if part.batch is not None}
        if len(set(sizes.values())) > 1:
            raise invalid(type(self).__name__, "/".join(sizes), "operators with one number of items", sizes)
        return next(iter(sizes.values()), None)

    @property
    def dtype(self) -> torch.dtype | None:
        return next((p.dtype for p in self._parts().values() if p.dtype is not None), None)

    @property
    def device(self) -> torch.device | None:
        return next((p.device for p in self._parts().values() if p.device is not None), None)

    def take(self, index: Tensor) -> Self:
        return replace(self, **{name: part.take(index) for name, part in self._parts().items()})  # type: ignore[type-var]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return replace(self, **{n: p.to(device, dtype) for n, p in self._parts().items()})  # type: ignore[type-var]


def _check_chain(outer: Operator, inner: Operator) -> None:
    names = f"{type(outer).__name__} @ {type(inner).__name__}"
    if outer.in_shape != inner.out_shape:
        raise invalid(
            names,
            "operators",
            f"matching: {type(outer).__name__} takes {outer.in_shape}",
            f"{inner.out_shape} from {type(inner).__name__}",
        )
    if outer.in_kind != inner.out_kind:
        raise invalid(
            names,
            "operators",
            f"matching: {type(outer).__name__} takes {outer.in_kind} tensors",
            f"{inner.out_kind} ones from {type(inner).__name__}",
        )


def compose(outer: Operator, inner: Operator) -> Operator:
    """``outer @ inner``: linear if both are, without derivatives if one is."""
    if isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator):
        return ComposedLinear(outer=outer, inner=inner)
    if isinstance(outer, BlackBox) or isinstance(inner, BlackBox):
        return ComposedBlackBox(outer=outer, inner=inner)
    return Composed(outer=outer, inner=inner)


def name_of(A: Operator) -> str:
    """What an error message calls an operator: its class, or those of a chain."""
    return f"{name_of(A.outer)} @ {name_of(A.inner)}" if isinstance(A, _Chain) else type(A).__name__


class _Chain(_Wrapper):
    outer: Operator
    inner: Operator

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.inner.in_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.outer.out_shape

    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        return self.inner.in_kind

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        return self.outer.out_kind

    @property
    def entrywise(self) -> bool:  # type: ignore[override]
        return self.outer.entrywise and self.inner.entrywise

    @property
    def observed(self) -> Tensor | None:
        return self._observed_behind(None)

    def _observed_behind(self, seen: Tensor | None) -> Tensor | None:
        return self.outer._observed_behind(self.inner._observed_behind(seen))

    def _apply(self, x: Tensor) -> Tensor:
        return self.outer._apply(self.inner._apply(x))


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Composed(_Chain):
    """``x -> outer(inner(x))`` where at least one is not linear."""

    outer: Operator
    inner: Operator

    def __post_init__(self) -> None:
        _check_chain(self.outer, self.inner)

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        middle, inner_pullback = self.inner._vjp(x)
        y, outer_pullback = self.outer._vjp(middle)
        return y, lambda v: inner_pullback(outer_pullback(v))

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        return self.outer._jvp(*self.inner._jvp(x, dx))


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ComposedBlackBox(_Chain, BlackBox):
    """``x -> outer(inner(x))`` where one of the two has no derivatives."""

    outer: Operator
    inner: Operator

    def __post_init__(self) -> None:
        _check_chain(self.outer, self.inner)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ComposedLinear(_Chain, LinearOperator):
    """``x -> outer(inner(x))``, both linear."""

    outer: LinearOperator
    inner: LinearOperator

    def __post_init__(self) -> None:
        _check_chain(self.outer, self.inner)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner._adjoint(self.outer._adjoint(y))

    def _normal(self, x: Tensor) -> Tensor:
        return self.inner._adjoint(self.outer._normal(self.inner._apply(x)))


class _Same(Alike, _Wrapper, LinearOperator):
    """A linear wrapper of one operator with its shapes and kinds."""

    operator: LinearOperator


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scaled(_Same):
    """``factor * operator``: a gain or a change of units; ``factor`` is a finite real number."""

    operator: LinearOperator
    factor: float

    def __post_init__(self) -> None:
        if isinstance(self.factor, Distribution):
            repair = (
                f"A gain that is to be inferred: iv.operators.Family(lambda gain: gain * A, gain=iv.{self.factor})."
            )
            raise invalid_type("Scaled", "factor", "a real number", str(self.factor), repair)
        object.__setattr__(self, "factor", check_number("Scaled", "factor", self.factor))

    def _apply(self, x: Tensor) -> Tensor:
        return self.factor * self.operator._apply(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.operator._adjoint(y)

    def _normal(self, x: Tensor) -> Tensor:
        return self.factor**2 * self.operator._normal(x)

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        from invsolve.operators.spectrum import Spectrum

        found = self.operator._svd(dtype, device)
        sign = float(self.factor > 0) - float(self.factor < 0)
        return Spectrum(
            values=abs(self.factor) * found.values, signal_basis=found.signal_basis, data_basis=sign * found.data_basis
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Adjoint(_Wrapper, LinearOperator):
    """``A^H`` as an operator of its own."""

    operator: LinearOperator

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.operator.out_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.operator.in_shape

    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        return self.operator.out_kind

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        return self.operator.in_kind

    @property
    def entrywise(self) -> bool:  # type: ignore[override]
        return self.operator.entrywise

    @property
    def observed(self) -> Tensor | None:
        return self.operator.observed if self.entrywise else None

    def _apply(self, x: Tensor) -> Tensor:
        return self.operator._adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._apply(y)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sum(_Same):
    """``first + second``, of equal shapes and kinds."""

    first: LinearOperator
    second: LinearOperator

    def __post_init__(self) -> None:
        for name in ("in_shape", "out_shape", "in_kind", "out_kind"):
            if getattr(self.first, name) != getattr(self.second, name):
                raise invalid("A + B", name, str(getattr(self.first, name)), getattr(self.second, name))

    @property
    def operator(self) -> LinearOperator:  # type: ignore[override]
        return self.first

    def _apply(self, x: Tensor) -> Tensor:
        return self.first._apply(x) + self.second._apply(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.first._adjoint(y) + self.second._adjoint(y)

    @property
    def entrywise(self) -> bool:  # type: ignore[override]
        return self.first.entrywise and self.second.entrywise

    @property
    def observed(self) -> Tensor | None:
        return self._observed_behind(None)

    def _observed_behind(self, seen: Tensor | None) -> Tensor | None:
        masks = [m for m in (term._observed_behind(seen) for term in (self.first, self.second)) if m is not None]
        return masks[0] | masks[1] if len(masks) == 2 else None
