"""Bridges to deepinv: its physics as operators, and operators as its physics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor

from invsolve.checks import Kind, Shape, check_choice, check_dims
from invsolve.errors import OperatorError, invalid_type
from invsolve.operators.base import LinearOperator, Operator


def _deepinv() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deepinv's own imports
        import deepinv

    return deepinv


def from_deepinv(
    physics: Any, in_shape: Sequence[int], out_shape: Sequence[int], *, in_kind: Kind = "real", out_kind: Kind = "real"
) -> Operator:
    """An operator from a ``deepinv.physics.Physics``; linear, with its own adjoint, if it is a ``LinearPhysics``.

    deepinv images carry a channel axis, shapes here do not: ``in_shape`` ``(H, W)`` is its ``(1, H, W)`` for real and
    its ``(2, H, W)`` (real and imaginary part) for complex signals, data likewise. A shape with one axis more, whose
    first is the number of channels, is passed as it is. The noise model of the physics is not used: give ``noise`` to
    `invsolve.solve`.

    Raises InputTypeError for anything but a Physics; OperatorError, at a call, if it returns another shape.
    """
    deepinv = _deepinv()
    if not isinstance(physics, deepinv.physics.Physics):
        raise invalid_type("from_deepinv", "physics", "a deepinv.physics.Physics", physics)
    check_choice("from_deepinv", "in_kind", in_kind, ("real", "complex"))
    check_choice("from_deepinv", "out_kind", out_kind, ("real", "complex"))
    cls = DeepinvLinear if isinstance(physics, deepinv.physics.LinearPhysics) else DeepinvOperator
    return cls(
        physics=physics,
        in_shape=check_dims("from_deepinv", "in_shape", in_shape),
        out_shape=check_dims("from_deepinv", "out_shape", out_shape),
        in_kind=in_kind,
        out_kind=out_kind,
    )


class _Physics(Operator):
    physics: Any

    def _apply(self, x: Tensor) -> Tensor:
        return _from_channels(self.physics.A(_to_channels(x)), len(x), self.out_shape, self.out_kind, "A")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The physics is a module with a state: it is copied, then moved, so that this operator does not change."""
        import copy
        from dataclasses import replace

        return replace(self, physics=copy.deepcopy(self.physics).to(device=device, dtype=dtype))  # type: ignore[type-var]


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DeepinvOperator(_Physics):
    """A ``deepinv.physics.Physics``; made by `from_deepinv`."""

    physics: Any
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = "real"
    out_kind: Kind = "real"


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DeepinvLinear(_Physics, LinearOperator):
    """A ``deepinv.physics.LinearPhysics``; made by `from_deepinv`."""

    physics: Any
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = "real"
    out_kind: Kind = "real"

    def _adjoint(self, y: Tensor) -> Tensor:
        return _from_channels(self.physics.A_adjoint(_to_channels(y)), len(y), self.in_shape, self.in_kind, "A_adjoint")


def _to_channels(x: Tensor) -> Tensor:
    if x.is_complex():
        return torch.view_as_real(x).movedim(-1, 1)
    return x[:, None] if x.ndim < 4 else x


def _from_channels(y: Tensor, rows: int, shape: Shape, kind: Kind, name: str) -> Tensor:
    if kind == "complex":
        want: Shape = (rows, 2, *shape)
    else:
        want = (rows, 1, *shape) if len(shape) < 3 else (rows, *shape)
    if tuple(y.shape) != want:
        raise OperatorError(
            f"from_deepinv: physics.{name} must return shape {want}, got {tuple(y.shape)}. "
            "Give in_shape and out_shape without the channel axis, and the kinds."
        )
    if kind == "complex":
        return torch.view_as_complex(y.movedim(1, -1).contiguous())
    return y[:, 0] if len(shape) < 3 else y


def to_deepinv(A: Operator) -> Any:
    """A ``deepinv.physics.LinearPhysics`` (or ``Physics``) that applies ``A``, with the channel axes deepinv wants.

    Signals of one or two axes gain a channel, complex ones two (real and imaginary part). It has no noise model.
    """
    if not isinstance(A, Operator):
        raise invalid_type("to_deepinv", "A", "an iv.operators.Operator", A)
    deepinv = _deepinv()
    linear = isinstance(A, LinearOperator)
    base = deepinv.physics.LinearPhysics if linear else deepinv.physics.Physics

    def bare(x: Tensor, shape: Shape, kind: Kind) -> Tensor:
        return _from_channels(x, len(x), shape, kind, "the image")

    class Wrapped(base):  # type: ignore[misc, valid-type]
        """An invsolve operator seen by deepinv."""

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return _to_channels(A(bare(x, A.in_shape, A.in_kind)))

        if linear:

            def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
                return _to_channels(A.adjoint(bare(y, A.out_shape, A.out_kind)))  # type: ignore[attr-defined]

    channels = (2,) if A.in_kind == "complex" else (() if len(A.in_shape) == 3 else (1,))
    return Wrapped(img_size=(*channels, *A.in_shape)) if linear else Wrapped()
