"""What every public method of an operator checks of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.core.validation import Kind, Shape, check_kind, check_shape, kind_dtype
from invsolve.errors import invalid, invalid_type


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
