"""From and to scipy: sparse matrices become `Sparse`, a ``LinearOperator`` is called on the CPU, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import from_array
from invsolve.core.ownership import made
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, kind_dtype
from invsolve.errors import OperatorError, invalid, invalid_type
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import LinearOperator
from invsolve.operators.sparse import Sparse

_REPAIR = "Convert it first, for instance .astype(np.float32)."


@in_defined_state
def from_scipy(
    operator: Any,
    in_shape: Sequence[int] | None = None,
    out_shape: Sequence[int] | None = None,
    *,
    in_kind: Kind | None = None,
) -> LinearOperator:
    """Make an operator of a scipy sparse matrix, or of a ``scipy.sparse.linalg.LinearOperator``.

    A sparse matrix keeps its precision and runs in torch on any device. A scipy operator runs on the CPU in its own
    precision (``astra.OpTomo`` is one), and its adjoint needs ``rmatvec``; gradients flow through both.

    Parameters
    ----------
    operator : scipy.sparse matrix or array, or scipy.sparse.linalg.LinearOperator, shape (m, n)
        Of float32, float64, complex64 or complex128.
    in_shape, out_shape : sequence of int, optional
        The axes of signal and data in C order, prod(in_shape) = n and prod(out_shape) = m; ``(n,)`` and ``(m,)`` by
        default. Of images ``in_shape=(H, W)``, which is the prior's shape; of sinograms ``out_shape=(views, bins)``.
    in_kind : {'real', 'complex'}, optional
        The kind of the signal; that of the operator by default.

    Returns
    -------
    LinearOperator
        A `Sparse` for a sparse matrix.

    Raises
    ------
    InputTypeError
        If it is neither of the two, or of another dtype.
    InputError
        If a shape does not fit, or a complex signal is to pass a real scipy operator.
    OperatorError
        At a call, if a scipy operator lacks the product that is needed.
    """
    import scipy.sparse  # here, not above: half of `import invsolve` otherwise
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

    if not (scipy.sparse.issparse(operator) or isinstance(operator, ScipyOperator)):
        raise invalid_type(
            "from_scipy",
            "operator",
            "a scipy.sparse matrix or scipy.sparse.linalg.LinearOperator",
            operator,
            "For a dense matrix use Matrix.",
        )
    if operator.ndim != 2:
        raise invalid("from_scipy", "operator", "of shape (m, n)", operator.shape)
    if np.dtype(operator.dtype).char not in "fdFD":
        raise invalid_type(
            "from_scipy", "operator", "of float32, float64, complex64 or complex128", str(operator.dtype), _REPAIR
        )
    shapes = []
    for name, shape, size in (("in_shape", in_shape, operator.shape[1]), ("out_shape", out_shape, operator.shape[0])):
        dims = (size,) if shape is None else check_dims("from_scipy", name, shape)
        if prod(dims) != size:
            raise invalid(
                "from_scipy", name, f"of {size} entries in all, as the operator has", f"{dims}, {prod(dims)} entries"
            )
        shapes.append(dims)
    if in_kind is not None:
        check_choice("from_scipy", "in_kind", in_kind, ("real", "complex"))
    kind: Kind = "complex" if np.dtype(operator.dtype).kind == "c" else "real"
    if isinstance(operator, ScipyOperator):
        if kind == "real" and in_kind == "complex":
            raise invalid("from_scipy", "in_kind", "'real' for a real scipy LinearOperator", repr(in_kind))
        return ScipyLinear(
            operator=operator, in_shape=shapes[0], out_shape=shapes[1], in_kind=in_kind or kind, out_kind=kind
        )
    matrix = operator.tocsr()
    return made(
        Sparse,
        crow=from_array(matrix.indptr).clone(),
        col=from_array(matrix.indices).clone(),
        values=from_array(matrix.data).clone(),
        in_shape=shapes[0],
        out_shape=shapes[1],
        in_kind=in_kind or kind,
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ScipyLinear(LinearOperator):
    """A scipy ``LinearOperator`` called on the CPU, in its own precision, whatever the data's; see `from_scipy`."""

    operator: Any
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = "real"
    out_kind: Kind = "real"

    def _apply(self, x: Tensor) -> Tensor:
        return matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return self._call("matvec", x, self.out_shape, self.out_kind)

    def _backward(self, y: Tensor) -> Tensor:
        return self._call("rmatvec", y, self.in_shape, self.in_kind)

    def _call(self, name: str, x: Tensor, shape: Shape, kind: Kind) -> Tensor:
        dtype = np.dtype(self.operator.dtype)
        rows = x.detach().resolve_conj().cpu().flatten(1).numpy()
        together = name.replace("vec", "mat")
        try:  # copies: the product may work in place
            if _has_own(self.operator, together):
                out = getattr(self.operator, together)(np.array(rows.T, dtype=dtype, order="C")).T
            else:
                product = getattr(self.operator, name)
                out = np.stack([np.ravel(product(np.array(row, dtype=dtype))) for row in rows])
        except (NotImplementedError, TypeError) as error:
            if isinstance(error, TypeError) and "NoneType" not in str(error):
                raise  # of the product itself; scipy calls a missing one as None, or raises the other
            raise OperatorError(
                f"from_scipy: the scipy operator has no `{name}`, so its adjoint is not known. "
                "Give LinearOperator(..., rmatvec=)."
            ) from error
        if np.iscomplexobj(out) and dtype.kind != "c":
            raise OperatorError(
                f"from_scipy: the scipy operator says that it is of {dtype}, and its `{name}` returns {out.dtype}. "
                "Give LinearOperator(..., dtype=complex)."
            )
        out = out.real if kind == "real" else out
        result = from_array(np.array(out, order="C")).to(x.device, kind_dtype(x.dtype, kind))
        return result.view(len(x), *shape)


def _has_own(operator: Any, name: str) -> bool:
    """Whether ``matmat`` or ``rmatmat`` is more than a loop over vectors.

    That loop of scipy's hands its vectors on as matrices of one column, which astra's OpTomo and many functions of
    users do not take.
    """
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

    parts = [part for part in getattr(operator, "args", ()) if isinstance(part, ScipyOperator)]
    if parts:  # a sum, a product, an adjoint
        return all(_has_own(part, method) for part in parts for method in ("matmat", "rmatmat"))
    if getattr(type(operator), f"_{name}") is getattr(ScipyOperator, f"_{name}"):
        return False
    given: Any = getattr(operator, f"_CustomLinearOperator__{name}_impl", operator)  # of LinearOperator(shape, matvec)
    return given is not None


def to_scipy(A: LinearOperator) -> Any:
    """Make a scipy operator of ours, on flattened vectors of float64 or complex128, in C order.

    As a matrix of scipy, one of real numbers acts on complex vectors too.

    Parameters
    ----------
    A : LinearOperator
        Real to real or complex to complex, of one item (``A.take(torch.tensor([0]))``) or none.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
        Its products run on the device and in the precision of ``A`` (float64 if it has none of its own).

    Raises
    ------
    InputTypeError
        If ``A`` is not linear.
    InputError
        If ``A`` has several items, or maps between real and complex: it is not linear over scipy's numbers then.
    """
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

    if not isinstance(A, LinearOperator):
        raise invalid_type("to_scipy", "A", "a LinearOperator", A, "Linearise it: A.linearize(x).")
    if A.batch not in (None, 1):
        raise invalid("to_scipy", "A", "one operator", f"{A.batch} items", "Take one: A.take(torch.tensor([0])).")
    if A.in_kind != A.out_kind:
        raise invalid("to_scipy", "A", "real to real or complex to complex", f"{A.in_kind} to {A.out_kind}")
    work = kind_dtype(A.dtype or torch.float64, A.in_kind)

    def product(f: Any, shape: Shape) -> Any:
        def run(columns: Any) -> Any:
            if np.iscomplexobj(columns) and A.in_kind == "real":  # a real matrix on complex vectors
                return run(columns.real) + 1j * run(columns.imag)
            x = from_array(np.asarray(columns, dtype=dtype).T).to(A.device, work).reshape(-1, *shape)
            with torch.no_grad():
                y = f(x) if A.batch is None else torch.cat([f(row[None]) for row in x])
            return y.flatten(1).resolve_conj().cpu().numpy().T.astype(dtype)

        return run

    n, m = prod(A.in_shape), prod(A.out_shape)
    dtype = np.dtype(np.complex128 if A.in_kind == "complex" else np.float64)
    forward, backward = product(A, A.in_shape), product(A.adjoint, A.out_shape)
    return ScipyOperator(
        shape=(m, n),
        dtype=dtype,
        matmat=forward,
        rmatmat=backward,
        matvec=lambda v: forward(v.reshape(-1, 1))[:, 0],
        rmatvec=lambda v: backward(v.reshape(-1, 1))[:, 0],
    )
