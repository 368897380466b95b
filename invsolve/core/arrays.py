"""Turning what a user holds (torch, numpy, xarray, lists, numbers, files) into tensors, once, at the border.

A floating or complex tensor that is data or a parameter keeps its dtype and device, which are the user's decision; what
is given to a call of an operator or prior takes those of the operator or prior. All else has the precision that it is
needed in; integers are numbers too. Inside the package all values are tensors.

Solvers that know real vectors only see complex entries as pairs (`to_real`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.validation import Kind, kind_dtype, quoted, real_dtype
from invsolve.errors import FileError, invalid, invalid_type

R = TypeVar("R")

_NUMBERS = "biufc"
_KNOWN = "a torch.Tensor, a numpy array, an xarray.DataArray, numbers in a list, or the path of a .npy file"
_ARRAY = "a tensor, an array, a list, or the path of a .npy file"
_CPU = torch.device("cpu")


_READERS = {  # of files of arrays, those that hold several by name
    ".npz": "numpy.load({})[name]",
    ".nc": "xarray.open_dataset({})[name]",
    ".mat": "scipy.io.loadmat({})[name]",
    ".h5": "h5py.File({})[name][()]",
    ".hdf5": "h5py.File({})[name][()]",
    ".csv": "numpy.loadtxt({}, delimiter=',')",
    ".txt": "numpy.loadtxt({})",
    ".dat": "numpy.loadtxt({})",
    ".fits": "astropy.io.fits.getdata({})",
    ".dcm": "pydicom.dcmread({}).pixel_array",
    ".nii": "nibabel.load({}).get_fdata()",
    ".gz": "nibabel.load({}).get_fdata(), if it is a volume",
    ".pt": "torch.load({})",
}


def as_tensor(owner: str, name: str, value: object, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor; what is none, and what holds integers, has the precision ``dtype``; what is none comes to the device.

    Floating and complex tensors are returned as they are. Masked entries of a masked array become NaN, which the caller
    refuses with a word on missing data.
    """
    if isinstance(value, Tensor):
        return _of_numbers(normal(value), dtype)
    array = numbers_of(owner, name, value)
    if array is None:
        repair = ""
        if isinstance(value, (str, os.PathLike)) and "." in (path := os.fspath(value)):
            picture = "matplotlib.pyplot.imread({}), if it is a picture"
            how = _READERS.get(os.path.splitext(path)[1].lower(), picture).format(repr(path))
            repair = f"Read it first, by {how}."
        raise invalid_type(owner, name, _KNOWN, quoted(value), repair)
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    return from_numpy(wide).to(device, kind_dtype(dtype, "complex" if array.dtype.kind == "c" else "real"))


def as_given(
    owner: str,
    name: str,
    value: Any,
    *,
    dtype: torch.dtype | None,
    device: torch.device | None,
    kind: Kind | None = None,
) -> Any:
    """What a call is given as a tensor of the precision of the object that is called, float32 where it has none.

    With ``kind="complex"`` real numbers become complex ones. Single numbers stay as they are, and so does what is no
    tensor: the caller refuses that.
    """
    if isinstance(value, Tensor):
        fits = value.is_floating_point() and (dtype is None or value.dtype == dtype) and kind != "complex"
        if fits and not value.is_inference():
            return value  # nearly always: this is asked at every call
        value = _of_numbers(normal(value), dtype or torch.float32)
    else:
        array = None if isinstance(value, (str, os.PathLike)) else numbers_of(owner, name, value)
        if array is None or array.ndim == 0:
            return value
        value = as_tensor(owner, name, array, dtype=dtype or torch.float32, device=device or _CPU)
    wanted = kind_dtype(dtype or value.dtype, "complex" if kind == "complex" or value.is_complex() else "real")
    return value if value.dtype == wanted else value.to(wanted)


def parameter(owner: str, name: str, value: Any, *, dtype: torch.dtype | None = None) -> Tensor:
    """A floating or complex tensor of what an object is made of.

    Tensors, arrays and files of such keep their precision; others have that of ``dtype``, float32 by default.
    """
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return _of_numbers(normal(value), dtype or torch.float32)
    if isinstance(value, Tensor) or hasattr(value, "tocsr"):
        dense = "to_dense()" if isinstance(value, Tensor) else "toarray()"
        repair = f"Write {name}.{dense}; as an operator, iv.operators.from_scipy takes a sparse matrix of scipy."
        raise invalid_type(owner, name, "a dense array of numbers", f"a sparse one, {type(value).__name__}", repair)
    array = numbers_of(owner, name, value)
    if array is None:
        raise invalid_type(owner, name, f"numbers: {_ARRAY}", quoted(value))
    if isinstance(value, (np.ndarray, str, os.PathLike)) and array.dtype.kind in "fc":
        return from_numpy(array)
    return as_tensor(owner, name, array, dtype=dtype or torch.float32, device=_CPU)


def real_parameter(owner: str, name: str, value: Any, *, dtype: torch.dtype | None = None) -> Tensor:
    """`parameter` that is real."""
    found = parameter(owner, name, value, dtype=dtype)
    if found.is_complex():
        raise invalid_type(owner, name, "real", str(found.dtype))
    return found


def taking_arrays(method: Callable[..., R], names: Sequence[str]) -> Callable[..., R]:
    """A method whose first arguments, of these names, may be arrays or lists too: they come as tensors."""

    @functools.wraps(method)
    def taking(self: Any, *args: Any, **kwargs: Any) -> R:
        if not all(isinstance(value, Tensor) for value in args[: len(names)]) or kwargs:
            owner = type(self).__name__
            taken = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
            found = {k: parameter(owner, k, v) if several(v) else v for k, v in taken.items()}
            args = (*(found[k] for k in names[: len(args)]), *args[len(names) :])
            kwargs = {k: found.get(k, v) for k, v in kwargs.items()}
        return method(self, *args, **kwargs)

    return taking


def several(value: Any) -> bool:
    """Whether a value is a tensor, an array or a list with axes, in the place of one number."""
    return isinstance(value, (list, tuple)) or (hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0)


def parameters(owner: str, **values: Any) -> dict[str, Tensor]:
    """`parameter` of each, all of the widest precision and, but for tensors, on the device of the tensors."""
    held = [v for v in values.values() if isinstance(v, Tensor)]
    kinds = [real_dtype(v.dtype) for v in held if v.is_floating_point() or v.is_complex()]
    arrays = [v.dtype for v in values.values() if isinstance(v, np.ndarray) and v.dtype.kind in "fc"]
    kinds += [torch.float64 if np.finfo(dtype).bits > 32 else torch.float32 for dtype in arrays]
    widest = max(kinds, key=lambda dtype: torch.finfo(dtype).bits, default=torch.float32)
    device = held[0].device if held else _CPU
    made = {name: parameter(owner, name, value, dtype=widest) for name, value in values.items()}
    return {
        name: v.to(v.device if isinstance(values[name], Tensor) else device, _precise(v.dtype, widest))
        for name, v in made.items()
    }


def as_mask(owner: str, name: str, value: Any) -> Tensor:
    """A mask as a bool tensor: of True and False, or of 1 and 0 of any type."""
    if not isinstance(value, Tensor):
        array = None if isinstance(value, np.ma.MaskedArray) else numbers_of(owner, name, value)
        if array is None:
            expected = "True and False: a bool tensor, an array, a list, or the path of a .npy file"
            repair = "Give masked.filled(False)." if isinstance(value, np.ma.MaskedArray) else ""
            raise invalid_type(owner, name, expected, quoted(value), repair)
        value = from_numpy(array)
    if value.dtype == torch.bool:
        return normal(value)
    bad = (value != 0) & (value != 1)
    if bool(bad.any()):
        given = f"{int(bad.sum())} other values, the first {value[bad][0].item():.6g}"
        raise invalid(owner, name, "True and False, or 1 and 0", given, f"Write {name} > 0.5, or whatever you mean.")
    mask: Tensor = value != 0
    return mask


def as_index(owner: str, name: str, value: Any) -> Tensor:
    """Positions as an int64 tensor, of integers of any type."""
    if not isinstance(value, Tensor):
        array = numbers_of(owner, name, value)
        if array is None:
            raise invalid_type(owner, name, f"integers: {_ARRAY}", quoted(value))
        value = torch.zeros(array.shape, dtype=torch.int64, device="cpu") if array.size == 0 else from_numpy(array)
    if value.dtype == torch.bool or value.is_floating_point() or value.is_complex():
        repair = "The positions in a mask are mask.flatten().nonzero()." if value.dtype == torch.bool else ""
        raise invalid_type(owner, name, "integers", str(value.dtype), repair)
    return normal(value).to(torch.int64)


def one_variable(owner: str, name: str, value: Any) -> Any:
    """An xarray.Dataset of one variable as its DataArray; all else as it is."""
    variables = getattr(value, "data_vars", None)
    if variables is None:
        return value
    if len(variables) != 1:
        names = ", ".join(repr(key) for key in variables) or "none"
        repair = f"Take one of its variables: {name}[{next(iter(variables))!r}]." if variables else ""
        raise invalid_type(owner, name, _KNOWN, f"a Dataset of {len(variables)} variables ({names})", repair)
    return next(iter(variables.values()))


def numbers_of(owner: str, name: str, value: Any) -> NDArray[Any] | None:
    """The array of numbers that a value stands for; None if it stands for none, an error where it holds others."""
    if isinstance(value, (str, os.PathLike)):
        if not os.fspath(value).endswith(".npy"):
            return None
        value = _read(owner, name, value)
    elif value is None or isinstance(value, (bytes, dict, set, type)) or callable(value):
        return None
    elif isinstance(value, (list, tuple)):
        if value and all(isinstance(v, Tensor) for v in value) and len({v.shape for v in value}) == 1:
            value = torch.stack([v.detach().cpu() for v in value]).numpy()
        else:
            value = _listed(owner, name, value)
    elif not isinstance(value, np.ndarray):
        value = one_variable(owner, name, value)
        if not (hasattr(value, "__array__") or isinstance(value, (bool, int, float, complex))):
            return None
        try:
            value = np.asarray(value)
        except (TypeError, ValueError):  # what says that it is an array, and is none
            return None
    if value.dtype.kind not in _NUMBERS:
        raise invalid_type(owner, name, "floating point or complex, or integers", str(value.dtype))
    array: NDArray[Any] = value
    return array


def _listed(owner: str, name: str, value: Any) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = None
    if array is None or array.dtype.kind not in _NUMBERS:
        given = type(value).__name__ if array is None else f"a {type(value).__name__} of {array.dtype}"
        raise invalid_type(owner, name, "numbers, in rows of one length", given)
    return array


def _read(owner: str, name: str, path: Any) -> NDArray[Any]:
    shown = repr(os.fspath(path))
    try:
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise FileError(f"{owner}: `{name}`: there is no file {shown}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{owner}: `{name}`: {shown} is no .npy file of numbers: {error}.") from error


def _of_numbers(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Integers and bools in the precision ``dtype``."""
    return value if value.is_floating_point() or value.is_complex() else value.to(real_dtype(dtype))


def widened(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating or complex tensor in the precision of ``dtype``, if that is the wider one: nothing is rounded."""
    wider = torch.finfo(real_dtype(dtype)).bits > torch.finfo(real_dtype(value.dtype)).bits
    return value.to(_precise(value.dtype, dtype)) if wider else value


def _precise(dtype: torch.dtype, precision: torch.dtype) -> torch.dtype:
    return kind_dtype(precision, "complex" if dtype.is_complex else "real")


def plain(value: Any) -> Any:
    """A number of numpy, also one in an array without axes, as Python's; all else as it is."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value


def numbers(value: Any, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """A number, a sequence, an array or a tensor as a tensor; a tensor stays where it is, others come to the CPU.

    `torch.as_tensor` would bring them, and tensors too, to the default device.
    """
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype)
    if hasattr(value, "__array__"):  # an xarray.DataArray too, which torch would take for a number
        value = np.asarray(value)
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
