"""What an operator is: `Operator`, `LinearOperator`, `BlackBox`. The public method checks, the private one computes.

Shapes are batch first: an operator maps ``(batch, *in_shape)`` to ``(batch, *out_shape)``. The inner product is
Re<u, v> throughout, so the adjoint of a real-to-complex map returns real tensors.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from invsolve.core.arrays import as_given, numbers, plain
from invsolve.core.conjugate_gradients import conjugate_gradients
from invsolve.core.counting import count
from invsolve.core.derivatives import WHY, pullback, pushforward
from invsolve.core.fingerprint import fingerprint
from invsolve.core.ownership import Owner, replaced
from invsolve.core.torch_state import Defined, defined_closure
from invsolve.core.validation import Kind, Shape, check_positive, kind_dtype
from invsolve.errors import OperatorError, UnsupportedError, invalid
from invsolve.operators.inputs import check_rows
from invsolve.operators.power_iteration import largest_singular_value

if TYPE_CHECKING:
    from invsolve.operators.algebra.algebra import Adjoint, Scaled, Sum
    from invsolve.operators.spectrum import Spectrum

Pullback = Callable[[Tensor], Tensor]


class Operator(Defined, Owner, abc.ABC):
    """A map from ``(batch, *in_shape)`` to ``(batch, *out_shape)``, row by row; differentiable by torch.

    Subclasses give the attributes and one method, ``_apply``; frozen dataclasses whose tensors are fields get ``to``,
    ``take`` and ``fingerprint`` for nothing. The tensors are copied: what is done to them later changes no operator,
    and one whose parameters are learned is made anew after every step. Of tensor fields that may carry a leading item
    axis (another mask for every datum) the method ``_item_axes`` returns a dict: name to number of axes without it.

    Attributes
    ----------
    in_shape, out_shape : tuple of int
        The shapes of signal and data, without the batch axis.
    in_kind, out_kind : {'real', 'complex'}
        Their kinds; real unless a subclass says otherwise.
    entrywise : bool
        True if each datum depends on one entry of the signal only, the one at its own place: behind an operator with
        data that do not exist (`observed`), the same data do not exist.

    Raises
    ------
    InputError
        From every public method: if a tensor has another shape, device or number of rows than stated.
    InputTypeError
        If it has another kind or precision.
    """

    _lends = ("_apply", "_adjoint", "_normal", "_vjp", "_jvp", "_pinv", "_solve_normal")

    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = "real"
    out_kind: Kind = "real"
    entrywise: bool = False

    @abc.abstractmethod
    def _apply(self, x: Tensor) -> Tensor:
        """``(batch, *in_shape)`` -> ``(batch, *out_shape)``; the input is checked, and yours to change: a copy."""

    def _item_axes(self) -> Mapping[str, int]:
        """Fields that may carry an item axis -> their number of axes without it."""
        return {}

    # --- what is derived -------------------------------------------------------------------------------------------
    @property
    def batch(self) -> int | None:
        """The length of the item axis of the parameters, or None if one set of parameters serves every row."""
        sizes = {name: len(value) for name, value in self._items().items()}
        if len(set(sizes.values())) > 1:
            raise invalid(type(self).__name__, "/".join(sizes), "item axes of one length", sizes)
        return next(iter(sizes.values()), None)

    @property
    def observed(self) -> Tensor | None:
        """Bool, ``out_shape`` or ``(batch, *out_shape)``: the data that exist. None: all of them.

        The others do not depend on the signal, and may hold anything.
        """
        return None

    @property
    def dtype(self) -> torch.dtype | None:
        """The real dtype of the parameters; None if there are none and any precision is accepted."""
        for value in self._tensors().values():
            if value.is_floating_point() or value.is_complex():
                return kind_dtype(value.dtype, "real")
        return None

    @property
    def device(self) -> torch.device | None:
        """Where the parameters are; None if there are none."""
        return next((value.device for value in self._tensors().values()), None)

    def __call__(self, x: Tensor) -> Tensor:
        """``A(x)`` ``(batch, *out_shape)`` for ``x`` ``(batch, *in_shape)``."""
        x = self._check("x", x, self.in_shape, self.in_kind)
        count("operator", len(x))
        return self._apply(x)

    def vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """Return ``y = A(x)`` and the map ``v -> J(x)^H v`` for ``v`` ``(batch, *out_shape)``."""
        x = self._check("x", x, self.in_shape, self.in_kind)
        count("operator", len(x))
        y, pull = self._vjp(x)
        return y, defined_closure(pull)

    def jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``y = A(x)`` and ``J(x) dx``, both ``(batch, *out_shape)``."""
        x = self._check("x", x, self.in_shape, self.in_kind)
        dx = self._check("dx", dx, self.in_shape, self.in_kind)
        count("operator", len(x))
        return self._jvp(x, dx)

    def linearize(self, x: Tensor) -> LinearOperator:
        """The Jacobian at ``x`` ``(batch, *in_shape)`` as a linear operator with one item for every row."""
        from invsolve.operators.algebra.linearized import Linearized

        x = self._check("x", x, self.in_shape, self.in_kind)
        return Linearized(operator=self, at=x)

    def take(self, index: Tensor) -> Self:
        """Return the operator of the rows ``index`` (int64, 1-d): parameters with items are indexed, others shared."""
        items, index = self._items(), numbers(index)
        if not items:
            return self
        return self._replace({name: value[index.to(value.device)] for name, value in items.items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same operator with its parameters moved and cast; complex parameters keep being complex."""

        def move(value: Tensor) -> Tensor:
            if dtype is None or not (value.is_floating_point() or value.is_complex()):
                return value.to(device=device)
            return value.to(device=device, dtype=kind_dtype(dtype, "complex" if value.is_complex() else "real"))

        return self._replace({name: move(value) for name, value in self._tensors().items()})

    def fingerprint(self) -> str:
        """A hash of the parameters: equal operators have equal fingerprints in every process."""
        return fingerprint(self)

    def __matmul__(self, inner_: Operator) -> Operator:
        """``(B @ A)(x) = B(A(x))``; linear if both are."""
        from invsolve.operators.algebra.algebra import compose

        if not isinstance(inner_, Operator):
            return NotImplemented
        return compose(self, inner_)

    def __rshift__(self, outer: Operator) -> Operator:
        """``(A >> B)(x) = B(A(x))``: the same as ``B @ A``, in the order in which it happens."""
        return outer @ self if isinstance(outer, Operator) else NotImplemented

    def __repr__(self) -> str:
        batch = "" if self.batch is None else f", {self.batch} items"
        kinds = self.in_kind if self.in_kind == self.out_kind else f"{self.in_kind} -> {self.out_kind}"
        return f"{type(self).__name__}({self.in_shape} -> {self.out_shape}, {kinds}{batch})"

    # --- what subclasses may replace by something faster -------------------------------------------------------------
    def _observed_behind(self, seen: Tensor | None) -> Tensor | None:
        """`observed` of ``self @ A`` where that of A is ``seen``."""
        own = self.observed
        if seen is None or not self.entrywise:
            return own
        return seen if own is None else own & seen

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        return pullback(self._apply, x, self._not_differentiable)

    def _not_differentiable(self) -> Exception:
        return OperatorError(f"{type(self).__name__}: its function must be differentiable by torch, {WHY}")

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        return pushforward(self._apply, x, dx, type(self).__name__)

    # --- plumbing ------------------------------------------------------------------------------------------------
    def _check(self, name: str, value: Tensor, shape: Shape, kind: Kind) -> Tensor:
        """Signals or data as the operator takes them, of an array too; refuses what does not fit."""
        owner, dtype, device, batch = type(self).__name__, self.dtype, self.device, self.batch
        value = as_given(owner, name, value, dtype=dtype, device=device, kind=kind)
        check_rows(owner, name, value, shape, kind, dtype=dtype, device=device, batch=batch)
        return value

    def _tensors(self) -> dict[str, Tensor]:
        values = ((name, getattr(self, name)) for name in _field_names(type(self)))
        return {name: value for name, value in values if isinstance(value, Tensor)}

    def _items(self) -> dict[str, Tensor]:
        axes = self._item_axes()
        return {n: v for n, v in self._tensors().items() if n in axes and v.ndim == axes[n] + 1}

    def _replace(self, tensors: dict[str, Tensor]) -> Self:
        return replaced(self, **tensors) if tensors else self


@cache
def _field_names(cls: type) -> tuple[str, ...]:
    """The fields of a dataclass, none for another class; asked for several times in every call of an operator."""
    return tuple(f.name for f in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else ()


class LinearOperator(Operator):
    """A linear operator; subclasses add ``_adjoint``, its exact adjoint in Re<u, v>.

    All else follows from ``_apply`` and ``_adjoint``. What may be replaced by something faster is private, and gets
    tensors that are checked: ``_normal``, ``_pinv``, ``_solve_normal``, ``_svd``, and ``_vjp`` and ``_jvp``.
    """

    @abc.abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor:
        """``(batch, *out_shape)`` -> ``(batch, *in_shape)``, of the kind of the domain."""

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H y`` for ``y`` ``(batch, *out_shape)``."""
        y = self._check("y", y, self.out_shape, self.out_kind)
        count("adjoint", len(y))
        return self._adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``, fused where the operator can."""
        x = self._check("x", x, self.in_shape, self.in_kind)
        return self._counted_normal(x)

    @property
    def gram(self) -> Tensor | float | None:
        """The diagonal of ``A A^H``, broadcastable to the data; None where it is not known to be diagonal."""
        return None

    @property
    def H(self) -> Adjoint:
        """The adjoint as an operator."""
        from invsolve.operators.algebra.algebra import Adjoint

        return Adjoint(operator=self)

    def norm(self, *, rtol: float = 1e-2, max_iter: int = 100, seed: int = 0) -> Tensor:
        """Return the largest singular value, () or (batch,) with item axes, by power iteration on ``A^H A``.

        Stops when the estimate changes by less than ``rtol`` relative; it approaches the norm from below.
        """
        rows = self.batch or 1
        rng = torch.Generator().manual_seed(seed)
        dtype = kind_dtype(self.dtype or torch.float32, self.in_kind)
        # One start for all rows: a norm does not depend on the other items.
        x = (
            torch.randn(1, *self.in_shape, generator=rng, dtype=dtype, device="cpu")
            .to(self.device)
            .expand(rows, *self.in_shape)
        )
        value = largest_singular_value(self.normal, x, rtol=rtol, max_iter=max_iter)
        return value if self.batch is not None else value[0]

    def pinv(self, y: Tensor, *, rtol: float = 1e-6, max_iter: int = 500) -> Tensor:
        """Return the minimum-norm least-squares solution ``A^+ y`` for ``y`` ``(batch, *out_shape)``.

        In closed form where one is known, else by conjugate gradients on the normal equations, until a row's residual
        is ``rtol`` of its right side or after ``max_iter`` steps.
        """
        y = self._check("y", y, self.out_shape, self.out_kind)
        return self._pinv(y, rtol=rtol, max_iter=max_iter)

    def solve_normal(
        self,
        rhs: Tensor,
        *,
        weight: Tensor | float = 1.0,
        tau: float,
        start: Tensor | None = None,
        rtol: float = 1e-6,
        max_iter: int = 200,
    ) -> Tensor:
        """Return ``(A^H W A + tau I)^-1 rhs`` with ``W = diag(weight)``.

        In closed form where one is known, else by conjugate gradients.

        Parameters
        ----------
        rhs : Tensor, shape (batch, *in_shape)
            The right side.
        weight : float or Tensor, broadcastable to (batch, *out_shape)
            Real, >= 0; 1 by default.
        tau : float
            > 0.
        start : Tensor, shape (batch, *in_shape), optional
            Where conjugate gradients start; at zero by default.
        rtol, max_iter : float, int
            A row stops at a residual of ``rtol`` relative to its right side, or after ``max_iter`` steps.
        """
        rhs = self._check("rhs", rhs, self.in_shape, self.in_kind)
        if start is not None:
            start = self._check("start", start, self.in_shape, self.in_kind)
        tau = check_positive(type(self).__name__, "tau", tau)
        weight = plain(as_given(type(self).__name__, "weight", weight, dtype=self.dtype, device=self.device))
        return self._solve_normal(rhs, weight=weight, tau=tau, start=start, rtol=rtol, max_iter=max_iter)

    def svd(self, *, like: Tensor | None = None) -> Spectrum:
        """Return ``A = U S V^H`` as a `Spectrum`: in closed form where one is known, else by a dense decomposition.

        Closed forms: `Identity`, `Mask`, `Subsample`, periodic `Blur`, `Downsample`, `Diffraction`, `MRI` of one coil,
        `Mosaic`, `Ptychography`, `StructuredRandom`; multiples and `Frames` of them.

        Parameters
        ----------
        like : Tensor, optional
            Precision and device for an operator that has none of its own; float32 and the CPU by default.

        Raises
        ------
        UnsupportedError
            For more than 4096 unknowns or data, counted in real values, without a closed form.
        """
        other = torch.empty(0, dtype=torch.float32, device="cpu") if like is None else like
        return self._svd(self.dtype or kind_dtype(other.dtype, "real"), self.device or other.device)

    def linearize(self, x: Tensor) -> LinearOperator:
        """Itself: a linear map is its own Jacobian."""
        x = self._check("x", x, self.in_shape, self.in_kind)
        return self

    def __rmul__(self, factor: float) -> Scaled:
        from invsolve.operators.algebra.algebra import Scaled

        return Scaled(operator=self, factor=factor)

    def __add__(self, other: LinearOperator) -> Sum:
        from invsolve.operators.algebra.algebra import Sum

        if not isinstance(other, LinearOperator):
            return NotImplemented
        return Sum(first=self, second=other)

    # --- what subclasses may replace by something faster; tensors are checked, `_pinv` and `_solve_normal` count ------
    def _normal(self, x: Tensor) -> Tensor:
        return self._adjoint(self._apply(x))

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        count("adjoint", len(y))
        return conjugate_gradients(self._counted_normal, self._adjoint(y), rtol=rtol, max_iter=max_iter)[0]

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        def apply(x: Tensor) -> Tensor:
            if isinstance(weight, (int, float)):
                return weight * self._counted_normal(x) + tau * x
            count("operator", len(x))
            # The public adjoint: it refuses what a weight of another shape or precision makes of the data.
            return self.adjoint(weight * self._apply(x)) + tau * x

        return conjugate_gradients(apply, rhs, start=start, rtol=rtol, max_iter=max_iter)[0]

    def _counted_normal(self, x: Tensor) -> Tensor:
        count("operator", len(x))
        count("adjoint", len(x))
        return self._normal(x)

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        from invsolve.operators.spectrum import dense

        return dense(self, dtype, device)

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        return self._apply(x), self.adjoint

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        both = self._apply(torch.cat([x, dx])) if self.batch is None else None
        return (both[: len(x)], both[len(x) :]) if both is not None else (self._apply(x), self._apply(dx))


class BlackBox(Operator):
    """Evaluations only: a simulator that nobody can differentiate; its derivatives raise UnsupportedError."""

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        raise self._no_derivative()

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        raise self._no_derivative()

    def _no_derivative(self) -> Exception:
        return UnsupportedError(
            f"{type(self).__name__}: a black box has no derivative. Use a strategy that needs evaluations only."
        )


__all__ = ["BlackBox", "LinearOperator", "Operator", "Pullback"]
