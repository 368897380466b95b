"""What baselines take: linear operators and finite data of their shape."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.core.arrays import as_given
from invsolve.core.validation import check_finite, check_shape
from invsolve.errors import invalid_type
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.inputs import data_repair


def checked(owner: str, A: LinearOperator, y: Tensor, *, name: str = "y") -> Tensor:
    """The data of a linear operator."""
    if not isinstance(A, LinearOperator):
        raise invalid_type(owner, "A", "a LinearOperator", A)
    return checked_data(owner, A, y, name=name)


def checked_data(owner: str, A: Operator, y: Tensor, *, name: str = "y") -> Tensor:
    """Finite data of an operator's shape, 0 where the operator observes nothing, whatever was there."""
    y = as_given(owner, name, y, dtype=A.dtype, device=A.device)
    repair = data_repair(A, tuple(y.shape)) if isinstance(y, Tensor) else ""
    y = check_shape(owner, name, y, A.out_shape, repair)
    if A.observed is not None:
        y = torch.where(A.observed, y, 0)
    return check_finite(owner, name, y, "Fill what was not measured with 0.")


def observed(A: Operator, y: Tensor) -> Tensor:
    """Which entries are data, bool, in the shape of ``y``."""
    return torch.ones_like(y, dtype=torch.bool) if A.observed is None else A.observed.expand_as(y)
