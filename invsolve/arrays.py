"""Turning what a user holds (torch, numpy, xarray) into tensors once, at the border."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from invsolve.checks import kind_dtype
from invsolve.errors import invalid_type


def as_tensor(owner: str, name: str, value: object, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor; numpy arrays and ``xarray.DataArray`` are converted to the precision ``dtype`` and the device.

    Torch tensors are returned as they are: their dtype and device are the user's decision. Integers are refused.
    """
    if isinstance(value, Tensor):
        return value
    xarray = sys.modules.get("xarray")  # an array of a module that was never imported cannot have been passed
    if xarray is not None and isinstance(value, xarray.DataArray):
        value = value.values
    if not isinstance(value, np.ndarray):
        raise invalid_type(owner, name, "a torch.Tensor, numpy array or xarray.DataArray", value)
    if value.dtype.kind not in "fc":
        raise invalid_type(owner, name, "floating point or complex", str(value.dtype), f"Convert it: {name}.astype(float).")
    # A copy, never a view: the caller may change its array while a solve runs.
    tensor = torch.tensor(value)
    return tensor.to(device, kind_dtype(dtype, "complex" if value.dtype.kind == "c" else "real"))


def to_real(x: Tensor) -> Tensor:
    """``(rows, ...)`` -> ``(rows, n)`` real: complex entries become pairs (re, im)."""
    return torch.view_as_real(x).flatten(1) if x.is_complex() else x.flatten(1)


def from_real(x: Tensor, like_shape: tuple[int, ...], complex_: torch.dtype | None) -> Tensor:
    """The inverse of `to_real` for rows of ``like_shape``; ``complex_`` is the complex dtype, or None for real rows."""
    if complex_ is None:
        return x.reshape(len(x), *like_shape)
    return torch.view_as_complex(x.reshape(len(x), *like_shape, 2).contiguous()).to(complex_)
