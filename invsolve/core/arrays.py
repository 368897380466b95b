"""Turning what a user holds (torch, numpy, xarray) into tensors once, at the border; and complex rows into real ones.

A tensor's dtype and device are the user's decision and stay; arrays take those of the operator or prior. Inside the
package all values are tensors. Solvers that know real vectors only see complex entries as pairs (`to_real`).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.validation import kind_dtype, quoted
from invsolve.errors import invalid_type


def as_tensor(owner: str, name: str, value: object, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor; numpy arrays and ``xarray.DataArray`` are converted to the precision ``dtype`` and the device.

    Torch tensors are returned as they are: their dtype and device are the user's decision. Integers are refused. Masked
    entries of a masked array become NaN, which the caller refuses with a word on missing data.
    """
    if isinstance(value, Tensor):
        return normal(value)
    xarray = sys.modules.get("xarray")  # an array of a module that was never imported cannot have been passed
    if xarray is not None and isinstance(value, xarray.DataArray):
        value = value.values
    if not isinstance(value, np.ndarray):
        raise invalid_type(owner, name, "a torch.Tensor, numpy array or xarray.DataArray", quoted(value))
    if value.dtype.kind not in "fc":
        hint = f"Convert it: {name}.astype(float)."
        raise invalid_type(owner, name, "floating point or complex", str(value.dtype), hint)
    wide = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
    return from_numpy(wide).to(device, kind_dtype(dtype, "complex" if value.dtype.kind == "c" else "real"))


def as_given(owner: str, name: str, value: Any, *, dtype: torch.dtype | None, device: torch.device | None) -> Any:
    """`as_tensor` of a numpy or xarray array; all else as it is, also what is no tensor: the caller refuses that."""
    if isinstance(value, Tensor) or not hasattr(value, "__array__") or getattr(value, "ndim", 0) == 0:
        return value
    return as_tensor(owner, name, value, dtype=dtype or torch.float32, device=device or torch.device("cpu"))


def plain(value: Any) -> Any:
    """A number of numpy, also one in an array without axes, as Python's; all else as it is."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value


def numbers(value: Any, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """A number, a sequence, an array or a tensor as a tensor; a tensor stays where it is, others come to the CPU.

    `torch.as_tensor` would bring them, and tensors too, to the default device.
    """
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype)
    return torch.as_tensor(value, dtype=dtype, device=device or "cpu")


def from_numpy(value: NDArray[Any]) -> Tensor:
    """A tensor of the dtype of an array, or of the nearest that torch has: another byte order (FITS), long doubles.

    A copy, never a view: the caller may change its array. What is masked becomes NaN.
    """
    if isinstance(value, np.ma.MaskedArray):
        value = value.filled(np.nan)
    return from_array(value.astype({"g": np.float64, "G": np.complex128}.get(value.dtype.char, value.dtype)))


def normal(value: Tensor) -> Tensor:
    """The tensor; of one made in `torch.inference_mode`, which could not be part of a graph, a copy."""
    return value.clone() if value.is_inference() else value


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
