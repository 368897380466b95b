"""The properties that every operator keeps, one by one: what `invsolve.testing.check_operator` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import inner
from invsolve.core.derivatives import differences
from invsolve.core.validation import Kind, Shape, kind_dtype
from invsolve.errors import InvsolveError, OperatorError
from invsolve.operators.base import BlackBox, LinearOperator, Operator

ROWS = 3


@final
@dataclass(frozen=True, kw_only=True)
class Property:
    """One property of an operator, and whether it holds.

    Attributes
    ----------
    name : str
        Which: "output", "adjoint", "derivative", ...
    passed : bool
        Whether it holds.
    value : float or None
        The relative error that was found; None where nothing was measured.
    text : str
        What was looked at, or what is wrong.
    """

    name: str
    passed: bool
    value: float | None
    text: str


def adjoint_gap(u: Tensor, v: Tensor, au: Tensor, ahv: Tensor) -> float:
    """``|<Au,v> - <u,A^H v>| / max(||Au|| ||v||, ||u|| ||A^H v||)``, the largest of all rows."""
    u, v, au, ahv = (t.to(kind_dtype(torch.float64, "complex" if t.is_complex() else "real")) for t in (u, v, au, ahv))
    gap = (inner(au, v) - inner(u, ahv)).abs()
    size = torch.maximum(row_norm(au) * row_norm(v), row_norm(u) * row_norm(ahv))
    return float((gap / size.clamp_min(torch.finfo(torch.float64).tiny)).max())


def linearity_gap(A: Operator, x: Tensor, z: Tensor) -> float:
    """How far ``A(2x - 0.7z)`` is from ``2 A(x) - 0.7 A(z)``, of complex signals also ``A(ix)`` from ``i A(x)``."""
    gap = relative_gap(A(2.0 * x - 0.7 * z), 2.0 * A(x) - 0.7 * A(z))
    if A.in_kind == "complex" and A.out_kind == "complex":
        gap = max(gap, relative_gap(A(1j * x), 1j * A(x)))
    return gap


def affine(A: Operator, x: Tensor) -> str:
    """What to do with an operator that does not take 0, in the shape of ``x``, to 0; empty for others."""
    largest = float(A(torch.zeros_like(x)).abs().max())
    if not largest:
        return ""
    return (
        f"A(0) is not 0 (largest entry {largest:.2g}): it is affine, f(x) = L x + f(0). Give its linear part and take "
        "f(0) from the data: lambda x: f(x) - f(0 * x) in place of f, and y - f(0) in place of y."
    )


def relative_gap(a: Tensor, b: Tensor) -> float:
    """``||a - b|| / ||b||``, the largest of all rows."""
    wide = kind_dtype(torch.float64, "complex" if b.is_complex() else "real")
    a, b = a.to(wide), b.to(wide)
    return float((row_norm(a - b) / row_norm(b).clamp_min(torch.finfo(torch.float64).tiny)).max())


def row_norm(x: Tensor) -> Tensor:
    """``||x||`` of each row, ``(rows,)``."""
    return inner(x, x).sqrt()


def normal_rows(
    rows: int, shape: Shape, kind: Kind, dtype: torch.dtype, device: torch.device | None, seed: int
) -> Tensor:
    """Standard normal rows ``(rows, *shape)``, drawn on the CPU from ``seed``."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *shape, generator=rng, dtype=kind_dtype(dtype, kind), device="cpu").to(device)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """All properties of ``A``, each with random rows from ``seed`` in the precision ``dtype``, up to ``tol``."""

    A: Operator
    seed: int
    dtype: torch.dtype
    tol: float

    @property
    def rows(self) -> int:
        return self.A.batch or ROWS

    def run(self) -> list[Property]:
        A = self.A
        first = [self._try(name, check) for name, check in (("output", self._output), ("rows", self._row_by_row))]
        if not all(p.passed for p in first):
            return first  # nothing else can be read from an operator whose output has the wrong shape
        checks: list[tuple[str, Callable[[], tuple[float | None, str]]]] = [
            ("repeatable", self._repeatable),
            ("layout", self._layout),
            ("observed", self._observed),
            ("fingerprint", self._fingerprint),
        ]
        if A.batch is not None:
            checks.append(("items", self._items))
        if isinstance(A, LinearOperator):
            checks += [("linear", self._linear), ("adjoint", self._adjoint), ("normal", self._normal)]
        if not isinstance(A, BlackBox):
            checks += [("derivative", self._derivative), ("pullback", self._pullback)]
        if A.dtype is not None:
            checks.append(("cast", self._cast))
        return first + [self._try(name, check) for name, check in checks]

    def _try(self, name: str, check: Callable[[], tuple[float | None, str]]) -> Property:
        try:
            value, text = check()
        except _Failed as failure:
            return Property(name=name, passed=False, value=None, text=str(failure))
        except (InvsolveError, RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
            said = " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
            return Property(name=name, passed=False, value=None, text=said)
        return Property(name=name, passed=value is None or value <= self.tol, value=value, text=text)

    def _x(self, offset: int = 0) -> Tensor:
        return normal_rows(
            self.rows, self.A.in_shape, self.A.in_kind, self.dtype, self.A.device, self.seed + 10 * offset
        )

    def _y(self, offset: int = 0) -> Tensor:
        return normal_rows(
            self.rows, self.A.out_shape, self.A.out_kind, self.dtype, self.A.device, self.seed + 10 * offset + 5
        )

    def _smooth(self, shape: Shape, kind: Kind) -> Tensor:
        """A constant plus slow waves: adjoint errors at borders and in phases hide in white noise, not in these."""
        value = torch.ones(self.rows, *shape, dtype=torch.float64, device="cpu")
        for axis, n in enumerate(shape, start=1):
            wave = torch.sin(torch.linspace(0.3, 2.5, n, dtype=torch.float64, device="cpu"))
            value = value * (0.5 + wave).view(*([1] * axis), n, *([1] * (len(shape) - axis)))
        value = value * torch.arange(1, self.rows + 1, dtype=torch.float64, device="cpu").view(-1, *([1] * len(shape)))
        if kind == "complex":
            return torch.complex(value, value.flip(tuple(range(1, value.ndim))) * 0.5).to(
                self.A.device, kind_dtype(self.dtype, "complex")
            )
        return value.to(self.A.device, self.dtype)

    def _output(self) -> tuple[float | None, str]:
        x = self._x()
        y = self.A(x)
        if not isinstance(y, Tensor):
            raise _Failed(f"returns {type(y).__name__}, not a tensor")
        want = (self.rows, *self.A.out_shape)
        if tuple(y.shape) != want:
            raise _Failed(f"gives shape {tuple(y.shape)} where out_shape promises {want}")
        if y.dtype != (dtype := kind_dtype(self.dtype, self.A.out_kind)):
            raise _Failed(f"gives {y.dtype} where out_kind={self.A.out_kind!r} and its input promise {dtype}")
        if y.device != x.device:
            raise _Failed(f"gives a tensor on {y.device} for an input on {x.device}")
        if not bool(torch.isfinite(y).all()):
            raise _Failed("gives NaN or infinite values for a normal random signal")
        return None, f"{tuple(y.shape)}, {y.dtype}, finite"

    def _row_by_row(self) -> tuple[float | None, str]:
        x = self._x()
        together = self.A(x)
        index = [torch.tensor([r], device=x.device) for r in range(self.rows)]
        alone = torch.cat([self.A.take(i)(x[i]) for i in index])
        return relative_gap(together, alone), "a row alone gives what it gives in a batch"

    def _repeatable(self) -> tuple[float | None, str]:
        if not torch.equal(self.A(self._x()), self.A(self._x())):
            raise _Failed("gives different outputs for the same input")
        return None, "the same input gives the same output, to the bit"

    def _layout(self) -> tuple[float | None, str]:
        x = self._x()
        strided = torch.stack([x, x + 1], dim=-1)[..., 0]
        return relative_gap(self.A(strided), self.A(x)), "a non-contiguous input gives the same"

    def _observed(self) -> tuple[float | None, str]:
        mask = self.A.observed
        if mask is None:
            return None, "every datum exists"
        if mask.dtype != torch.bool or tuple(mask.shape[-len(self.A.out_shape) :]) != tuple(self.A.out_shape):
            want = f"bool of shape {self.A.out_shape} (or one for each item)"
            raise _Failed(f"`observed` must be {want}, got {mask.dtype} {tuple(mask.shape)}")
        y, other = self.A(self._x()), self.A(self._x(1))
        if bool((y != other)[~mask.expand(y.shape)].any()):
            raise _Failed("gives values that depend on the signal where `observed` says there are no data")
        return None, f"{int(mask.sum())} of {mask.numel()} data exist, the others do not depend on the signal"

    def _fingerprint(self) -> tuple[float | None, str]:
        if self.A.fingerprint() != self.A.fingerprint():
            raise _Failed("the fingerprint changes from call to call: checkpoints could not be resumed")
        return None, "stable"

    def _items(self) -> tuple[float | None, str]:
        x = self._x()
        order = torch.arange(self.rows - 1, -1, -1, device=x.device)
        return relative_gap(self.A.take(order)(x[order]), self.A(x)[order]), "take(index) gives the items of these rows"

    def _linear(self) -> tuple[float | None, str]:
        x, z = self._x(), self._x(1)
        worst = linearity_gap(self.A, x, z)
        if worst > self.tol and (words := affine(self.A, x)):
            raise _Failed(words)
        return worst, "A(2x - 0.7z) = 2 A(x) - 0.7 A(z)"

    def _adjoint(self) -> tuple[float | None, str]:
        A = self.A
        assert isinstance(A, LinearOperator)
        worst = 0.0
        for u, v in (
            (self._x(), self._y()),
            (self._smooth(A.in_shape, A.in_kind), self._smooth(A.out_shape, A.out_kind)),
            (self._x(2), self._smooth(A.out_shape, A.out_kind)),
            (self._smooth(A.in_shape, A.in_kind), self._y(2)),
        ):
            back = A.adjoint(v)
            if tuple(back.shape) != (self.rows, *A.in_shape):
                raise _Failed(f"the adjoint gives shape {tuple(back.shape)}, not {(self.rows, *A.in_shape)}")
            if back.dtype != u.dtype:
                raise _Failed(f"the adjoint gives {back.dtype}, the domain is {u.dtype}")
            worst = max(worst, adjoint_gap(u, v, A(u), back))
        return worst, "<Au, v> = <u, A^H v> on noise and on smooth signals"

    def _normal(self) -> tuple[float | None, str]:
        A = self.A
        assert isinstance(A, LinearOperator)
        x, allowed = self._x(), _normal_rtol(A)
        far = relative_gap(A.normal(x), A.adjoint(A(x)))
        if self.tol < far <= allowed:
            return None, f"normal(x) = A^H A x up to {far:.0e}: it goes another way, and promises {allowed:.0e}"
        return far, "normal(x) = A^H A x"

    def _derivative(self) -> tuple[float | None, str]:
        x, dx = self._x(), self._x(1)
        y, dy = self.A.jvp(x, dx)
        text = "jvp agrees with finite differences"
        worst = relative_gap(y, self.A(x))
        # Central differences: error h^2 from the third derivative, rounding eps / h from the subtraction.
        h = torch.finfo(self.dtype).eps ** (1 / 3)
        measured, coarse = ((self.A(x + s * dx) - self.A(x - s * dx)) / (2 * s) for s in (h, 2 * h))
        # Or what two steps differ by: a solver of equations rounds more, by their condition number.
        allowed = max(100 * h**2, min(3 * relative_gap(coarse, measured), 1e-3))
        far = relative_gap(dy, measured)
        if not far <= max(self.tol, allowed):
            raise _Failed(f"jvp is off from finite differences by {far:.1e} of its size ({allowed:.0e} is expected)")
        return worst, text

    def _pullback(self) -> tuple[float | None, str]:
        x, dx, v = self._x(), self._x(1), self._y()
        y, pull = self.A.vjp(x)
        back, before = pull(v), differences()
        if back.dtype != x.dtype or back.shape != x.shape:
            raise _Failed(
                f"the pullback gives {back.dtype} {tuple(back.shape)}, the domain is {x.dtype} {tuple(x.shape)}"
            )
        gap, text = adjoint_gap(dx, v, self.A.jvp(x, dx)[1], back), "<J dx, v> = <dx, J^H v>"
        if differences() > before and gap <= 100 * torch.finfo(self.dtype).eps ** (2 / 3):  # as in `_derivative`
            return relative_gap(y, self.A(x)), f"{text} up to the error of a difference, {gap:.0e}: J dx is one"
        return max(relative_gap(y, self.A(x)), gap), text

    def _cast(self) -> tuple[float | None, str]:
        other = torch.float32 if self.dtype == torch.float64 else torch.float64
        try:
            cast = self.A.to(dtype=other)
        except OperatorError:  # it says so itself, and never computes in the wrong precision
            return None, f"works in {self.dtype} only, and says so"
        x = self._x()
        there = cast(x.to(kind_dtype(other, self.A.in_kind)))
        far = relative_gap(there, self.A(x).to(kind_dtype(other, self.A.out_kind)))
        if not far <= max(self.tol, 1e-5):  # the narrower of the two precisions
            raise _Failed(f"the operator in {other} differs by {far:.1e} of the size of the output")
        return None, f"works in {other} too"


def _normal_rtol(value: object) -> float:
    """What an operator, or one that it is made of, says that its ``normal`` may be off by: its ``normal_rtol``."""
    parts = [getattr(value, f.name) for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    inside = [p for part in parts for p in (part if isinstance(part, tuple) else (part,)) if isinstance(p, Operator)]
    return max([float(getattr(value, "normal_rtol", 0.0)), *map(_normal_rtol, inside)])


class _Failed(Exception):
    """A property that does not hold, in words; never leaves this module."""
