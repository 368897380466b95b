"""From a packed vector to one of its parts, and back from an array to a vector: several unknowns as one."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.packing import Layout
from invsolve.core.validation import Kind, Shape
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import LinearOperator


@final
@dataclass(frozen=True, eq=False, repr=False)
class Unpack(LinearOperator):
    """One part of a packed vector: ``sensors @ Unpack(prior.layout, "u")`` are data of u.

    Parameters
    ----------
    layout : Layout
        Of the vector: ``prior.layout``.
    name : str
        Of the part.

    Raises
    ------
    InputError, InputTypeError
        For what is no layout, or a name that it does not have.

    Examples
    --------
    >>> import torch
    >>> import invsolve as iv
    >>> layout = iv.Layout([iv.Part("a", (2,)), iv.Part("u", (3,))])
    >>> Unpack(layout, "u")(torch.arange(5.0)[None])
    tensor([[2., 3., 4.]])
    """

    layout: Layout
    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.layout, Layout):
            raise invalid_type("Unpack", "layout", "an iv.Layout, such as prior.layout", self.layout)
        if self.name not in self.layout.names:
            raise invalid("Unpack", "name", "one of " + ", ".join(map(repr, self.layout.names)), repr(self.name))

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """``(n,)``."""
        return (self.layout.size,)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """Of the part; ``(1,)`` of a number."""
        return self.layout[self.name].shape or (1,)

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        """Of the part."""
        return self.layout[self.name].kind

    def _apply(self, x: Tensor) -> Tensor:
        return self.layout.split(x)[self.name].reshape(len(x), *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        numbers = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
        out = numbers.new_zeros(len(y), self.layout.size)
        out[:, self.layout.slice(self.name)] = numbers.flatten(1)
        return out


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Flatten(LinearOperator):
    """A real array as a vector, in the order of its memory."""

    in_shape: Shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (prod(self.in_shape),)

    def _apply(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.view(len(y), *self.in_shape)
