"""Bring your own forward model: `from_callable` makes an operator of a function, and checks every output of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import as_tensor
from invsolve.core.derivatives import difference, pullback, pushforward, with_pullback
from invsolve.core.ownership import call, replaced
from invsolve.core.torch_state import in_defined_state
from invsolve.core.user_functions import Either, of_each, stacked, takes_one
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, kind_dtype
from invsolve.errors import InvsolveError, OperatorError, invalid, invalid_type
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import BlackBox, LinearOperator, Operator, Pullback

Map = Callable[[Tensor], Tensor]
_SMALL = 4096  # entries of a signal for which a function may be called once each
_ROWS = "It gets a batch (rows, *shape) and returns a row for each; for a function of one signal say batched=False."
Product = Callable[[Tensor, Tensor], Tensor]


@in_defined_state
def from_callable(
    f: Map,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    *,
    kind: Literal["nonlinear", "linear", "black box"] = "nonlinear",
    adjoint: Map | None = None,
    vjp: Product | None = None,
    jvp: Product | None = None,
    in_kind: Kind = "real",
    out_kind: Kind = "real",
    dtype: torch.dtype | None = None,
    batched: bool = True,
) -> Operator:
    """Make an operator of a function: of your own solver of a PDE, say, in torch or numpy.

    It is called with tensors or, if it raises TypeError or AttributeError for these, with arrays of numpy. What ``f``
    returns, a tensor or an array, is checked at each call and given the precision of its input; run
    `invsolve.testing.check_operator` once to check the rest. ``f`` may work in place and return the same buffer every
    time: it is handed a copy, and of its answer a copy is kept. Tensors inside ``f`` are not moved by ``to``: move them
    yourself.

    Parameters
    ----------
    f : callable
        Maps ``(batch, *in_shape)`` to ``(batch, *out_shape)``, each row by itself; with ``batched=False`` one signal
        ``in_shape`` to its data ``out_shape``.
    in_shape, out_shape : sequence of int
        The shapes of signal and data, without the batch axis.
    kind : {'nonlinear', 'linear', 'black box'}
        What may be done with it: torch differentiates it; it is linear; evaluations only. Nonlinear by default.
    adjoint : callable, optional
        For ``kind="linear"``: the exact adjoint in Re<u, v>, ``(batch, *out_shape)`` to ``(batch, *in_shape)``. With
        it ``f`` need not be differentiable by torch; without it torch derives it.
    vjp : callable, optional
        For ``kind="nonlinear"``, your own adjoint code, the transposed Jacobian times a vector, which is the gradient
        of ``<v, f(x)>``: ``vjp(x, v)`` is ``J(x)^H v``, of a signal and ``v`` ``(batch, *out_shape)`` to ``(batch,
        *in_shape)``. With it ``f`` need not be differentiable by torch.
    jvp : callable, optional
        For ``kind="nonlinear"``: ``jvp(x, dx)`` is ``J(x) dx``, of two signals to ``(batch, *out_shape)``. By default
        torch derives it; beside ``vjp``, and where torch cannot, it is a central difference of ``f``, which takes two
        evaluations more and keeps two thirds of the digits.
    in_kind, out_kind : {'real', 'complex'}
        The kinds of signal and data; real by default.
    dtype : torch.dtype, optional
        The one real precision that ``f`` works in; by default that of its input. Signals and data may be of a narrower
        one (`to`, and `solve` with such a prior): they are converted around ``f``.
    batched : bool
        False for functions (``f``, ``adjoint``, ``vjp``, ``jvp``) of one signal without a batch axis: they are called
        for one after another. True by default.

    Returns
    -------
    Operator
        A `LinearOperator` for ``kind="linear"``, a `BlackBox` for ``kind="black box"``.

    Raises
    ------
    InputTypeError
        If one of the functions is none, or ``dtype`` no real floating one.
    InputError
        If a choice is not one of those above, or a product is given for another kind than its own.
    OperatorError
        At a call, if ``f`` returns another shape, kind or device than promised.

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
    for what, product in (("adjoint", adjoint), ("vjp", vjp), ("jvp", jvp)):
        if product is not None and not callable(product):
            raise invalid_type(name, what, "a function", product)
    check_choice(name, "kind", kind, ("nonlinear", "linear", "black box"))
    check_choice(name, "in_kind", in_kind, ("real", "complex"))
    check_choice(name, "out_kind", out_kind, ("real", "complex"))
    if adjoint is not None and kind != "linear":
        repair = "Give vjp=, of the signal and of v." if kind == "nonlinear" else ""
        raise invalid(name, "adjoint", "given for kind='linear' only", f"one for kind={kind!r}", repair)
    for what, product in (("vjp", vjp), ("jvp", jvp)):
        if product is not None and kind != "nonlinear":
            repair = "Give adjoint=, of v alone." if kind == "linear" else ""
            raise invalid(name, what, "given for kind='nonlinear' only", f"one for kind={kind!r}", repair)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise invalid_type(name, "dtype", "a real floating torch.dtype or None", str(dtype))
    if not isinstance(batched, bool):
        raise invalid_type(name, "batched", "True or False", batched)
    in_shape, out_shape = check_dims(name, "in_shape", in_shape), check_dims(name, "out_shape", out_shape)
    if not batched:
        f, jvp = OneByOne(f, out_shape, out_kind), jvp and OneByOne(jvp, out_shape, out_kind)
        adjoint, vjp = (g and OneByOne(g, in_shape, in_kind) for g in (adjoint, vjp))
    options: dict[str, Any] = {
        "f": f,
        "in_shape": in_shape,
        "out_shape": out_shape,
        "in_kind": in_kind,
        "out_kind": out_kind,
        "precision": dtype,
    }
    if kind == "linear":
        return CallableLinear(transpose=adjoint, **options)
    return CallableBlackBox(**options) if kind == "black box" else CallableOperator(pull=vjp, push=jvp, **options)


@final
@dataclass(frozen=True, eq=False)
class OneByOne:
    """A function of one signal, called for every row, whose values of ``shape`` become rows."""

    f: Callable[..., Any]
    shape: Shape
    kind: Kind

    def __call__(self, *rows: Tensor) -> Any:
        if not len(rows[0]):
            return rows[0].new_zeros(0, *self.shape, dtype=kind_dtype(rows[0].dtype, self.kind))
        found = of_each(self._called, *rows)
        if wrong := [shape for v in found if (shape := tuple(np.shape(v))) != self.shape]:
            name = getattr(self.f, "__qualname__", type(self.f).__name__)
            raise OperatorError(
                f"from_callable(batched=False): {name} must return shape {self.shape} for one input of shape "
                f"{tuple(rows[0].shape[1:])}, got {wrong[0]}."
            )
        return stacked(found)

    @cached_property
    def _called(self) -> Either:
        return Either(self.f)


class _Callable(Operator):
    f: Map
    precision: torch.dtype | None  # that the function works in
    outside: torch.dtype | None  # a narrower one, of signals and data

    @property
    def dtype(self) -> torch.dtype | None:
        return self.outside or self.precision

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        if dtype is None or self.precision is None:
            return self
        real = kind_dtype(dtype, "real")
        if torch.finfo(real).bits > torch.finfo(self.precision).bits:
            raise OperatorError(
                f"{type(self).__name__}: this function works in {self.precision} only, and cannot be cast "
                f"to {dtype}. Build it again for {dtype}, or from_callable(..., dtype=None)."
            )
        return replaced(self, outside=None if real == self.precision else real)

    def _run(self, name: str, f: Callable[..., Tensor], x: Tensor, shape: Shape, kind: Kind, *more: Tensor) -> Tensor:
        """``f(x, *more)``, refused unless it is a tensor of the promised shape, kind and precision."""
        given = (x, *more)
        if self.outside is not None and self.precision is not None:  # rounded outside of the function only
            given = tuple(v.to(kind_dtype(self.precision, "complex" if v.is_complex() else "real")) for v in given)
        where, single = self._named(name, f), isinstance(f, OneByOne)
        try:
            y = call(f, *given) if single else self._called.setdefault(name, Either(f))(*given)
        except Exception as error:
            if isinstance(error, InvsolveError):
                if single and type(error) is OperatorError:  # of one of several functions
                    raise OperatorError(str(error).replace("False): ", f"False): `{name}` = ", 1)) from None
                raise
            if not single and takes_one(f, shape, *given):
                raise self._for_one(where, given, f"{type(error).__name__}: {error}") from error
            shapes = " and ".join(str(tuple(v.shape[1 if single else 0 :])) for v in given)
            note = f"{where} was called with torch tensors {shapes}; code in numpy takes x.numpy()."
            error.add_note(note if single else f"{note} {_ROWS}")
            raise
        if not isinstance(y, Tensor):  # an array, of a simulator in numpy
            try:
                y = as_tensor(where, "its value", y, dtype=x.dtype, device=x.device)
            except InvsolveError:
                kind_of = type(y).__name__
                raise OperatorError(f"{where} must return a torch.Tensor or an array, got {kind_of}.") from None
        if tuple(y.shape) != (len(x), *shape):
            if not single and takes_one(f, shape, *given):
                raise self._for_one(where, given, f"shape {tuple(y.shape)}")
            raise OperatorError(
                f"{where} must return shape {(len(x), *shape)} for an input of shape {tuple(x.shape)}, "
                f"got {tuple(y.shape)}. {'' if single else _ROWS}"
            )
        want = kind_dtype(x.dtype, kind)
        if y.is_complex() and not want.is_complex:
            raise OperatorError(
                f"{where} must return {want} for an input of {x.dtype}, got {y.dtype}. "
                "Say in_kind and out_kind, or return the part that is meant."
            )
        y = y.to(want)  # a solver in another precision, counts in integers
        if y.device != x.device:
            raise OperatorError(f"{where} must return a tensor on {x.device}, the device of its input, got {y.device}.")
        return y

    @cached_property
    def _called(self) -> dict[str, Either]:
        return {}

    def _for_one(self, where: str, given: Sequence[Tensor], got: str) -> OperatorError:
        """The error of a function that takes one signal, and was called with rows."""
        rows, one = (" and ".join(str(tuple(v.shape[a:])) for v in given) for a in (0, 1))
        return OperatorError(
            f"{where} is a function of one signal, {one}. Say so: from_callable(..., batched=False). It was called "
            f"with a batch, {rows}, for which it gives {got}."
        )

    def _named(self, name: str, f: Callable[..., Tensor]) -> str:
        f = f.f if isinstance(f, OneByOne) else f
        return f"{type(self).__name__}: `{name}` ({getattr(f, '__qualname__', type(f).__name__)})"

    def _apply(self, x: Tensor) -> Tensor:
        return self._evaluate(x)

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._run("f", self.f, x, self.out_shape, self.out_kind)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CallableOperator(_Callable):
    """A function that torch differentiates, or that has its own derivatives; made by `from_callable`."""

    f: Map
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = "real"
    out_kind: Kind = "real"
    precision: torch.dtype | None = None
    outside: torch.dtype | None = None
    pull: Product | None = None
    push: Product | None = None

    def _apply(self, x: Tensor) -> Tensor:
        if self.pull is None:
            return self._evaluate(x)
        return with_pullback(self._evaluate, x, self._back)

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        if self.pull is None:
            return super()._vjp(x)
        return self._evaluate(x.detach()).detach(), lambda v: self._back(x, v)

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        if self.push is not None:
            dy = self._run("jvp", self.push, x.detach(), self.out_shape, self.out_kind, dx.detach())
            return self._evaluate(x.detach()).detach(), dy.detach()
        whose = self._named("f", self.f)
        return (pushforward if self.pull is None else difference)(self._evaluate, x, dx, whose)

    def _not_differentiable(self) -> Exception:
        return OperatorError(
            f"{super()._not_differentiable()} Code outside of torch needs its adjoint: from_callable(..., vjp=), or "
            "kind='linear' with adjoint=; kind='black box' makes do without."
        )

    def _back(self, x: Tensor, v: Tensor) -> Tensor:
        assert self.pull is not None  # the callers
        return self._run("vjp", self.pull, x.detach(), self.in_shape, self.in_kind, v.detach()).detach()


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
    outside: torch.dtype | None = None


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
    outside: torch.dtype | None = None

    def _apply(self, x: Tensor) -> Tensor:
        return self._forward(x) if self.transpose is None else matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._derived if self.transpose is None else self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return self._run("f", self.f, x, self.out_shape, self.out_kind)

    def _backward(self, y: Tensor) -> Tensor:
        assert self.transpose is not None  # the callers
        return self._run("adjoint", self.transpose, y, self.in_shape, self.in_kind)

    def _derived(self, y: Tensor) -> Tensor:
        """The pullback at zero, which for a linear map is the adjoint everywhere."""
        zero = torch.zeros(len(y), *self.in_shape, dtype=kind_dtype(y.dtype, self.in_kind), device=y.device)
        return pullback(self._forward, zero, self._not_differentiable)[1](y)

    def _not_differentiable(self) -> Exception:
        small = len(self.in_shape) == len(self.out_shape) == 1 and self.in_shape[0] <= _SMALL
        matrix = f" or take the matrix of it, iv.operators.Matrix(A(np.eye({self.in_shape[0]})).T)," if small else ""
        return OperatorError(
            "CallableLinear: torch cannot differentiate this function, so its adjoint is not known. Give "
            f"from_callable(..., adjoint=),{matrix} or say kind='black box'."
        )
