"""A linear operator as a dense matrix of real numbers: the reference for everything small."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.core.validation import check_int, kind_dtype
from invsolve.errors import invalid_type
from invsolve.operators.base import LinearOperator


def dense_matrix(operator: LinearOperator, *, dtype: torch.dtype | None = None, rows: int = 1024) -> Tensor:
    """The matrix of ``operator``, float64: ``(m, n)``, or ``(items, m, n)`` where its parameters have an item axis.

    Signals and data are flattened; complex ones are stacked as ``[Re; Im]``, so that the matrix is real whatever the
    kinds. The operator is applied to unit signals, ``rows`` at a time, in its own precision or in ``dtype`` (float64
    where it has neither), on its own device.

    Raises InputTypeError for an operator that is not linear.

    >>> import torch
    >>> from invsolve.operators import Subsample
    >>> dense_matrix(Subsample(torch.tensor([2, 0]), (3,)))
    tensor([[0., 0., 1.],
            [1., 0., 0.]], dtype=torch.float64)
    """
    if not isinstance(operator, LinearOperator):
        raise invalid_type(
            "dense_matrix", "operator", "a LinearOperator", operator, "Linearise it first: operator.linearize(x)."
        )
    rows = check_int("dense_matrix", "rows", rows, minimum=1)
    real = kind_dtype(operator.dtype or dtype or torch.float64, "real")
    items = operator.batch or 1
    size = torch.Size(operator.in_shape).numel()
    units = torch.eye(size, dtype=real, device=operator.device or "cpu")
    if operator.in_kind == "complex":
        zero = torch.zeros_like(units)
        units = torch.cat([torch.complex(units, zero), torch.complex(zero, units)])
    columns = []
    for chunk in torch.split(units, max(1, rows // items)):
        # Rows of one call: all units of item 0, then of item 1, ...
        x = chunk.repeat(items, 1).reshape(-1, *operator.in_shape)
        index = torch.arange(items, device="cpu").repeat_interleave(len(chunk))
        y = (operator.take(index) if operator.batch is not None else operator)(x)
        columns.append(_stacked(y).double().view(items, len(chunk), -1))
    matrix = torch.cat(columns, 1).mT.contiguous()
    return matrix if operator.batch is not None else matrix[0]


def _stacked(y: Tensor) -> Tensor:
    """``(rows, ...)`` -> ``(rows, m)`` real, complex as [Re; Im]."""
    y = y.flatten(1)
    return torch.cat([y.real, y.imag], 1) if y.is_complex() else y
