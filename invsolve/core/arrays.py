"""Turning what a user holds (torch, numpy, xarray) into tensors once, at the border; and complex rows into real ones.

A tensor's dtype and device are the user's decision and stay; arrays take those of the operator or prior. Inside the
package all values are tensors. Solvers that know real vectors only see complex entries as pairs (`to_real`).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invsolve.core.validation import kind_dtype, quoted
from invsolve.errors import invalid_type


def as_tensor(owner: str, name: str, value: object, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor; numpy arrays and ``xarray.DataArray`` are converted to the precision ``dtype`` and the device.

    Torch tensors are returned as they are: their dtype and device are the user's decision. Integers are refused. Masked
    entries of a masked array become NaN, which the caller refuses with a word on missing data.
    """
    if isinstance(value, Tensor):
        return value
    xarray = sys.modules.get("xarray")  # an array of a module that was never imported cannot have been passed
    if xarray is not None and isinstance(value, xarray.DataArray):
        value = value.values
    if not isinstance(value, np.ndarray):
        raise invalid_type(owner, name, "a torch.Tensor, numpy array or xarray.DataArray", quoted(value))
    if value.dtype.kind not in "fc":
        hint = f"Convert it: {name}.astype(float)."
        raise invalid_type(owner, name, "floating point or complex", str(value.dtype), hint)
    if isinstance(value, np.ma.MaskedArray):
        value = value.filled(np.nan)
    # A copy, never a view: the caller may change its array while a solve runs. In float64 and C order, because torch
    # takes no other byte order (NetCDF-3, FITS), no long doubles and no negative strides.
    copied = np.array(value, dtype=np.complex128 if value.dtype.kind == "c" else np.float64, order="C")
    return torch.from_numpy(copied).to(device, kind_dtype(dtype, "complex" if value.dtype.kind == "c" else "real"))


def from_array(value: Any) -> Tensor:
    """A numpy array as a tensor of its own type, whatever its byte order and strides; shared where torch can.

    >>> from_array(np.array([1.0, 2.0], dtype=">f4"))
    tensor([1., 2.])
    """
    return torch.from_numpy(np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("=")).reshape(value.shape))


def to_real(x: Tensor) -> Tensor:
    """``(rows, ...)`` -> ``(rows, n)`` real: complex entries become pairs (re, im)."""
    return torch.view_as_real(x.resolve_conj()).flatten(1) if x.is_complex() else x.flatten(1)


def from_real(x: Tensor, like_shape: tuple[int, ...], complex_: torch.dtype | None) -> Tensor:
    """The inverse of `to_real` for rows of ``like_shape``; ``complex_`` is the complex dtype, or None for real rows."""
    if complex_ is None:
        return x.reshape(len(x), *like_shape)
    return torch.view_as_complex(x.reshape(len(x), *like_shape, 2).contiguous()).to(complex_)
