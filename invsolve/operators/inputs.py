"""What every public method of an operator checks of a tensor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from invsolve.core.validation import Kind, Shape, check_kind, check_shape, kind_dtype
from invsolve.errors import InputTypeError, invalid, invalid_type


def check_rows(
    owner: str,
    name: str,
    value: Tensor,
    shape: Shape,
    kind: Kind,
    *,
    dtype: torch.dtype | None,
    device: torch.device | None,
    batch: int | None,
) -> None:
    """Refuse all but ``(rows, *shape)`` of this kind, real ``dtype``, ``device`` and number of rows (None: any)."""
    check_shape(owner, name, value, shape)
    check_kind(owner, name, value, kind)
    if dtype is not None and kind_dtype(value.dtype, "real") != dtype:
        hint = f"Convert it, or the operator: A.to(dtype={kind_dtype(value.dtype, 'real')})."
        raise invalid_type(owner, name, f"of precision {dtype}", str(value.dtype), hint)
    if device is not None and value.device != device:
        raise invalid(owner, name, f"on device {device}", value.device, "Move it, or the operator: A.to(device).")
    if batch is not None and len(value) != batch:
        expected = f"of {batch} rows, one for each item of the parameters"
        raise invalid(owner, name, expected, len(value), "Take the items of the rows first: A.take(index).")


def data_repair(A: Any, given: Shape) -> str:
    """What may be wrong with data of shape ``given`` that an operator does not give, or with the operator."""
    if callable(own := getattr(A, "_data_hint", None)):
        return str(own(given))
    return with_axes(A, "out_shape", given[1:]) or with_axes(A, "out_shape", given)


def with_axes(A: Any, name: str, wanted: Shape) -> str:
    """The line that gives an operator on flat vectors the axes ``wanted``, ``name`` "in_shape" or "out_shape".

    Empty where its size is another.
    """
    if tuple(getattr(A, name)) == wanted or math.prod(getattr(A, name)) != math.prod(wanted):
        return ""
    kind = type(A).__name__
    matrix = {"Sparse": "matrix", "ScipyLinear": "operator", "Matrix": "scipy.sparse.csr_array(matrix)"}.get(kind)
    if matrix is None:
        return f"They have as many entries: is it made with {name}={getattr(A, name)} instead of {wanted}?"
    return f"With axes in C order: iv.operators.from_scipy({matrix}, {name}={wanted})."


def not_an_operator(owner: str, name: str, value: Any, expected: str = "an iv.operators.Operator") -> InputTypeError:
    """The error of something else in the place of an operator, with the line that makes one of it."""
    if isinstance(value, str):
        value = repr(value)
    if isinstance(value, type):
        repair = f"Call it, with its parameters: {value.__name__}(...)."
        value = f"the class {value.__name__}"
    elif hasattr(value, "tocsr") or hasattr(value, "rmatvec"):
        repair = "Wrap it: iv.operators.from_scipy(A)."
    elif hasattr(value, "A_adjoint"):
        repair = "Wrap it: iv.operators.from_deepinv(A, in_shape, out_shape)."
    elif hasattr(value, "__array__") or isinstance(value, (list, tuple)):
        repair = "A matrix is iv.operators.Matrix(A), for signals with one axis."
    else:
        repair = (
            "Wrap a function: iv.operators.from_callable(f, in_shape, out_shape), with batched=False if it takes one "
            "signal; of a few named parameters, iv.operators.from_simulator."
        )
    return invalid_type(owner, name, expected, value, repair)
