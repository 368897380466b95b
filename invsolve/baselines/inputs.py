"""What baselines take: linear operators and finite data of their shape."""

from __future__ import annotations

from torch import Tensor

from invsolve.core.arrays import as_given
from invsolve.core.validation import check_finite, check_shape
from invsolve.errors import invalid_type
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.inputs import data_repair


def checked(owner: str, A: LinearOperator, y: Tensor) -> Tensor:
    """The data of a linear operator."""
    if not isinstance(A, LinearOperator):
        raise invalid_type(owner, "A", "a LinearOperator", A)
    return checked_data(owner, A, y)


def checked_data(owner: str, A: Operator, y: Tensor) -> Tensor:
    """Finite data of an operator's shape."""
    y = as_given(owner, "y", y, dtype=A.dtype, device=A.device)
    repair = data_repair(A, tuple(y.shape)) if isinstance(y, Tensor) else ""
    return check_finite(
        owner, "y", check_shape(owner, "y", y, A.out_shape, repair), "Fill what was not measured with 0."
    )
