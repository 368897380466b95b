"""Bring your own forward model: `from_callable` makes an operator of a function, and checks every output of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.ownership import call
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, kind_dtype
from invsolve.errors import OperatorError, invalid, invalid_type
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import BlackBox, LinearOperator, Operator

Map = Callable[[Tensor], Tensor]


def from_callable(
    f: Map,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    *,
    kind: Literal["nonlinear", "linear", "black box"] = "nonlinear",
    adjoint: Map | None = None,
    in_kind: Kind = "real",
    out_kind: Kind = "real",
    dtype: torch.dtype | None = None,
) -> Operator:
    """Make an operator of a function.

    What ``f`` returns is checked at each call; run `invsolve.testing.check_operator` once to check the rest. ``f`` may
    work in place and return the same buffer every time: it is handed a copy, and of its answer a copy is kept. Tensors
    inside ``f`` are not moved by ``to``: move them yourself.

    Parameters
    ----------
    f : callable
        Maps ``(batch, *in_shape)`` to ``(batch, *out_shape)``, each row by itself.
    in_shape, out_shape : sequence of int
        The shapes of signal and data, without the batch axis.
    kind : {'nonlinear', 'linear', 'black box'}
        What may be done with it: torch differentiates it; it is linear; evaluations only. Nonlinear by default.
    adjoint : callable, optional
        For ``kind="linear"``: the exact adjoint in Re<u, v>, ``(batch, *out_shape)`` to ``(batch, *in_shape)``. With
        it ``f`` need not be differentiable by torch; without it torch derives it.
    in_kind, out_kind : {'real', 'complex'}
        The kinds of signal and data; real by default.
    dtype : torch.dtype, optional
        The one real precision that ``f`` works in; by default that of its input.

    Returns
    -------
    Operator
        A `LinearOperator` for ``kind="linear"``, a `BlackBox` for ``kind="black box"``.

    Raises
    ------
    InputTypeError
        If ``f`` or ``adjoint`` is no function, or ``dtype`` no real floating one.
    InputError
        If a choice is not one of those above, or an adjoint is given for another kind than linear.
    OperatorError
        At a call, if ``f`` returns another shape, kind, precision or device than promised.

    Examples
    --------
    >>> import torch
    >>> from invsolve.testing import check_operator
    >>> depth = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)
    >>> def attenuate(x):  # (batch, 10) -> (batch, 3): light left at three depths
    ...     return torch.exp(-(x * depth.to(x)).cumsum(1))[:, [2, 5, 9]]
    >>> A = from_callable(attenuate, in_shape=(10,), out_shape=(3,))
    >>> A
    CallableOperator((10,) -> (3,), real)
    >>> check_operator(A).passed
    True
    """
    name = "from_callable"
    if not callable(f):
        raise invalid_type(name, "f", "a function", f)
    if adjoint is not None and not callable(adjoint):
        raise invalid_type(name, "adjoint", "a function", adjoint)
    check_choice(name, "kind", kind, ("nonlinear", "linear", "black box"))
    check_choice(name, "in_kind", in_kind, ("real", "complex"))
    check_choice(name, "out_kind", out_kind, ("real", "complex"))
    if adjoint is not None and kind != "linear":
        raise invalid(name, "adjoint", "given for kind='linear' only", f"one for kind={kind!r}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise invalid_type(name, "dtype", "a real floating torch.dtype or None", str(dtype))
    shapes = check_dims(name, "in_shape", in_shape), check_dims(name, "out_shape", out_shape)
    if kind == "linear":
        return CallableLinear(
            f=f,
            transpose=adjoint,
            in_shape=shapes[0],
            out_shape=shapes[1],
            in_kind=in_kind,
            out_kind=out_kind,
            precision=dtype,
        )
    cls = CallableOperator if kind == "nonlinear" else CallableBlackBox
    return cls(f=f, in_shape=shapes[0], out_shape=shapes[1], in_kind=in_kind, out_kind=out_kind, precision=dtype)


class _Callable(Operator):
    f: Map
    precision: torch.dtype | None

    @property
    def dtype(self) -> torch.dtype | None:
        return self.precision

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        if dtype is not None and self.precision is not None and kind_dtype(dtype, "real") != self.precision:
            raise OperatorError(
                f"{type(self).__name__}: this function works in {self.precision} only, and cannot be cast "
                f"to {dtype}. Build it again for {dtype}, or from_callable(..., dtype=None)."
            )
        return self

    def _run(self, name: str, f: Map, x: Tensor, shape: Shape, kind: Kind) -> Tensor:
        """``f(x)``, refused unless it is a tensor of the promised shape, kind and precision."""
        y = call(f, x)
        where = f"{type(self).__name__}: `{name}` ({getattr(f, '__qualname__', type(f).__name__)})"
        if not isinstance(y, Tensor):
            raise OperatorError(f"{where} must return a torch.Tensor, got {type(y).__name__}.")
        if tuple(y.shape) != (len(x), *shape):
            raise OperatorError(
                f"{where} must return shape {(len(x), *shape)} for an input of shape {tuple(x.shape)}, "
                f"got {tuple(y.shape)}."
            )
        if y.dtype != (want := kind_dtype(x.dtype, kind)):
            raise OperatorError(
                f"{where} must return {want} for an input of {x.dtype}, got {y.dtype}. "
                "Use the dtype of the input inside, and say in_kind and out_kind."
            )
        if y.device != x.device:
            raise OperatorError(f"{where} must return a tensor on {x.device}, the device of its input, got {y.device}.")
        return y

    def _apply(self, x: Tensor) -> Tensor:
        return self._run("f", self.f, x, self.out_shape, self.out_kind)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CallableOperator(_Callable):
    """A function that torch differentiates; made by `from_callable`."""

    f: Map
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = "real"
    out_kind: Kind = "real"
    precision: torch.dtype | None = None


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CallableBlackBox(_Callable, BlackBox):
    """A function without derivatives; made by `from_callable(kind="black box")`."""

    f: Map
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = "real"
    out_kind: Kind = "real"
    precision: torch.dtype | None = None


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CallableLinear(_Callable, LinearOperator):
    """A linear function with its adjoint, given or derived by torch; made by `from_callable(kind="linear")`."""

    f: Map
    transpose: Map | None
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = "real"
    out_kind: Kind = "real"
    precision: torch.dtype | None = None

    def _apply(self, x: Tensor) -> Tensor:
        return self._forward(x) if self.transpose is None else matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._derived(y) if self.transpose is None else matched(y, self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return self._run("f", self.f, x, self.out_shape, self.out_kind)

    def _backward(self, y: Tensor) -> Tensor:
        assert self.transpose is not None  # the callers
        return self._run("adjoint", self.transpose, y, self.in_shape, self.in_kind)

    def _derived(self, y: Tensor) -> Tensor:
        """The pullback at zero, which for a linear map is the adjoint everywhere; differentiable in ``y``."""
        with torch.enable_grad():
            x = torch.zeros(len(y), *self.in_shape, dtype=kind_dtype(y.dtype, self.in_kind), device=y.device)
            out = self._forward(x.requires_grad_())
            if not out.requires_grad:
                raise OperatorError(
                    "CallableLinear: torch cannot differentiate this function, so its adjoint is not known. "
                    "Give from_callable(..., adjoint=), or say kind='black box'."
                )
            (grad,) = torch.autograd.grad(out, x, y, create_graph=y.requires_grad)
        return grad if y.requires_grad else grad.detach()
