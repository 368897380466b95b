"""Results as xarray datasets and NetCDF files. Reading checks first, and never builds anything but numbers and text."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invsolve.core.files import atomic_write
from invsolve.core.packing import Layout, Part
from invsolve.errors import FileError, InvsolveError, invalid_type
from invsolve.results.certificate import Certificate
from invsolve.results.result import Result, Status

if TYPE_CHECKING:
    import xarray

_VERSION = 1
_MARK = "invsolve_result"  # attribute: the version of this format
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMBERS = ("float32", "float64", "complex64", "complex128")
_WHOLE = ("int8", "uint8", "int16", "int32", "int64", "bool")
_RUN: dict[str, type | tuple[type, ...]] = {  # what the attribute "run" must hold
    "status": str,
    "batched": bool,
    "strategy": str,
    "why": str,
    "nfe": (int, float),
    "vjps": (int, float),
    "operator_calls": dict,
    "seconds": (int, float),
    "seed": int,
    "versions": dict,
    "info": dict,
    "warnings": list,
    "dims": (list, type(None)),
    "units": str,
    "layout": (list, type(None)),
    "parameters": dict,
    "certificate": (dict, type(None)),
}


def to_xarray(result: Result) -> xarray.Dataset:
    """A dataset on dims 'sample', 'item' (if batched) and the signal's (``result.dims``, or 'axis_0', ...).

    Variables: ``samples``, ``mean``, ``std``, ``chi2``, ``failed``, ``log_weights`` if any, ``info_*``, and
    ``parameter_*`` for the scalars inferred with the signal.
    ``attrs['settings']`` is the settings as JSON, ``attrs['run']`` the account of the run. Half precision becomes
    float32; complex stays complex.
    """
    import xarray

    signal = result.dims or tuple(f"axis_{i}" for i in range(len(result.shape)))
    if set(signal) & {"sample", "item"}:
        signal = tuple(f"axis_{name}" if name in ("sample", "item") else name for name in signal)
    item = ("item",) if result.batched else ()
    units = {"units": result.units} if result.units else {}
    variables: dict[str, tuple[Any, ...]] = {
        "samples": (("sample", *item, *signal), _numpy(result.samples), units),
        "mean": ((*item, *signal), _numpy(result.mean), units),
        "std": ((*item, *signal), _numpy(result.std), units),
        "chi2": (("sample", *item), _numpy(result.chi2), {"long_name": "chi^2 per datum"}),
        "failed": (("sample", *item), _numpy(result.failed)),
    }
    if result.log_weights is not None:
        variables["log_weights"] = (("sample", *item), _numpy(result.log_weights))
    for name, value in result.info.items():
        variables[f"info_{name}"] = (("sample", *item), _numpy(value))
    for name, value in result.parameters.items():
        variables[f"parameter_{name}"] = (("sample", *item), _numpy(value))
    layout = None if result.layout is None else [dataclasses.asdict(part) for part in result.layout.parts]
    run = {
        "status": result.status.name,
        "batched": result.batched,
        "strategy": result.strategy,
        "why": result.why,
        "nfe": float(result.nfe),
        "vjps": float(result.vjps),
        "operator_calls": dict(result.operator_calls),
        "seconds": float(result.seconds),
        "seed": result.seed,
        "versions": dict(result.versions),
        "info": {name: variables[f"info_{name}"][1].dtype.name for name in result.info},
        "parameters": {name: variables[f"parameter_{name}"][1].dtype.name for name in result.parameters},
        "warnings": list(result.warnings),
        "dims": result.dims,
        "units": result.units,
        "layout": layout,
        "certificate": None if result.certificate is None else result.certificate.to_dict(),
    }
    attrs = {_MARK: _VERSION, "settings": _json("settings", dict(result.settings)), "run": _json("run", run)}
    return xarray.Dataset(variables, attrs=attrs)


def save_result(result: Result, path: str | os.PathLike[str]) -> None:
    """Write `to_xarray` as a NetCDF-4 file; an interrupted write leaves an old file as it was."""
    data = to_xarray(result)
    # No fill value: a NaN of a failed row is a number like any other, and must come back with its bits.
    plain: dict[Any, dict[str, Any]] = {name: {"_FillValue": None} for name in data.variables}
    # Text of fixed length: HDF5 reads text of variable length through a heap, and never returns from some damaged ones.
    data = data.assign_attrs({name: np.bytes_(data.attrs[name]) for name in ("settings", "run")})
    atomic_write(path, lambda temporary: _to_netcdf(data, temporary, plain))


def _to_netcdf(data: xarray.Dataset, path: Path, encoding: dict[Any, dict[str, Any]]) -> None:
    data.to_netcdf(path, engine="h5netcdf", encoding=encoding)


def load_result(path: str | os.PathLike[str]) -> Result:
    """Read a file of ``Result.save``: bit for bit, but for ``problem`` and ``prior``, which are None.

    FileError says what is wrong with a file that is missing, cut short, foreign or not what it claims to be. Other
    programs open the same files with ``xarray.open_dataset(path, engine="h5netcdf")``.
    """
    import h5py

    name = os.fspath(path)

    def refuse(reason: str) -> FileError:
        return FileError(f"load_result: {name!r} {reason}.")

    if not Path(path).is_file():
        raise refuse("is no file")
    with open(path, "rb") as raw:
        if raw.read(len(_HDF5)) != _HDF5:
            raise refuse("is not a NetCDF-4 (HDF5) file: its first bytes are others")
    try:
        file = h5py.File(name, "r")
    except OSError as error:
        raise refuse(f"is cut short or damaged: {error}") from error
    try:
        with file:
            return _read(file, refuse)
    except FileError:
        raise
    except InvsolveError as error:  # numbers that do not fit together
        raise refuse(f"is inconsistent: {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise refuse(f"is damaged: {error}") from error


def _read(file: Any, refuse: Callable[[str], FileError]) -> Result:
    version = _attribute(file, _MARK, "iu")
    if version is None:
        raise refuse(f"was not written by Result.save: it has no number {_MARK!r} among its attributes")
    if version.size != 1 or int(version.reshape(())) != _VERSION:  # h5netcdf writes an array of length 1
        raise refuse(f"has format version {version.tolist()}, this release reads {_VERSION}")
    settings, run = (_mapping(file, key, refuse) for key in ("settings", "run"))
    run = {"parameters": {}, "certificate": None} | run  # files of releases that had none
    for key, kind in _RUN.items():
        if not isinstance(run.get(key), kind) or (isinstance(run[key], bool) and kind is not bool):
            raise refuse(f"has no valid entry {key!r} in its attribute 'run'")
    if run["status"] not in Status.__members__:
        raise refuse(f"has an unknown status {run['status']!r}")
    for key in ("info", "parameters", "warnings", "dims"):
        texts = run[key].values() if isinstance(run[key], dict) else run[key] or ()
        if not all(isinstance(entry, str) for entry in texts):
            raise refuse(f"has no valid entry {key!r} in its attribute 'run'")

    def variable(key: str, *dtypes: str) -> Tensor:
        return _variable(file, key, dtypes, refuse)

    samples = variable("samples", *_NUMBERS)
    lead = 2 if run["batched"] else 1
    return Result(
        samples=samples,
        status=Status[run["status"]],
        failed=variable("failed", "bool"),
        batched=run["batched"],
        shape=tuple(samples.shape[lead:]),
        chi2=variable("chi2", *_NUMBERS[:2]),
        log_weights=variable("log_weights", *_NUMBERS[:2]) if "log_weights" in file else None,
        strategy=run["strategy"],
        why=run["why"],
        nfe=float(run["nfe"]),
        vjps=float(run["vjps"]),
        operator_calls=run["operator_calls"],
        seconds=float(run["seconds"]),
        seed=run["seed"],
        settings=settings,
        versions=run["versions"],
        info={key: variable(f"info_{key}", dtype) for key, dtype in run["info"].items()},
        parameters={key: variable(f"parameter_{key}", dtype) for key, dtype in run["parameters"].items()},
        layout=_layout_from_list(run["layout"]),
        warnings=tuple(run["warnings"]),
        dims=None if run["dims"] is None else tuple(run["dims"]),
        units=run["units"],
        certificate=None if run["certificate"] is None else Certificate.from_dict(run["certificate"]),
    )


def _variable(file: Any, key: str, dtypes: tuple[str, ...], refuse: Callable[[str], FileError]) -> Tensor:
    """A plain array of the file itself: nothing that points elsewhere, or is larger in memory than on disk."""
    import h5py

    if file.get(key, getlink=True) is None or not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise refuse(f"has no variable {key!r} of its own")
    data = file[key]
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise refuse(f"has a variable {key!r} that is no array of its own")
    dtype = data.dtype.name
    if dtype == "int8" and dtypes == ("bool",):  # NetCDF has no bool
        dtype = "bool"
    if dtype not in dtypes or dtype not in (*_NUMBERS, *_WHOLE):
        raise refuse(f"has a variable {key!r} of type {dtype}, expected {' or '.join(dtypes)}")
    if data.chunks is not None or data.shape is None or data.id.get_storage_size() != data.nbytes:
        raise refuse(f"has a variable {key!r} that is compressed, chunked or incomplete; Result.save writes none such")
    value: np.ndarray[Any, Any] = data[()]
    if dtype == "bool":
        value = value != 0
    value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("=")).reshape(data.shape)
    return torch.from_numpy(value)


def _attribute(file: Any, key: str, kinds: str) -> np.ndarray[Any, Any] | None:
    """An attribute of one of these numpy kinds; None if there is none. The type is checked before the value is read."""
    if key not in file.attrs or file.attrs.get_id(key).dtype.kind not in kinds:
        return None
    return np.asarray(file.attrs[key])


def _mapping(file: Any, key: str, refuse: Callable[[str], FileError]) -> dict[str, Any]:
    text = _attribute(file, key, "S")
    if text is None or text.shape != ():
        raise refuse(f"has no text of fixed length {key!r} among its attributes")
    try:
        value = json.loads(bytes(text.item()))
    except (ValueError, RecursionError) as error:
        raise refuse(f"has an attribute {key!r} that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise refuse(f"has an attribute {key!r} that is not a mapping")
    return value


def _layout_from_list(parts: list[Any] | None) -> Layout | None:
    if parts is None:
        return None
    return Layout(parts=tuple(Part(**{**part, "shape": tuple(part["shape"])}) for part in parts))


def _json(name: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise invalid_type("Result.save", name, "what JSON can hold", str(error)) from error


def _numpy(value: Tensor) -> np.ndarray[Any, Any]:
    value = value.detach().cpu().resolve_conj()
    if value.dtype in (torch.float16, torch.bfloat16):  # not types of NetCDF
        value = value.float()
    return np.asarray(value.numpy())
