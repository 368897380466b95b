"""Reading results: checked before it is used, and never building anything but numbers and text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from invsolve.core.arrays import from_array
from invsolve.core.coordinates import Coordinate
from invsolve.core.files import to_be_read
from invsolve.core.packing import Layout, Part
from invsolve.core.torch_state import in_defined_state
from invsolve.errors import FileError, InvsolveError
from invsolve.gaussian.marginals import Known, LatticeMarginals, Marginals, MixtureMarginals, Moments, NormalMarginals
from invsolve.results.certificate import Certificate
from invsolve.results.coordinates import read_coordinate
from invsolve.results.names import legal
from invsolve.results.result import Result
from invsolve.results.status import Status
from invsolve.results.writing import LATTICE, MARK, VERSION

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMBERS = ("float32", "float64", "complex64", "complex128")
_WHOLE = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
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
    "marginals": (str, type(None)),
    "exact_statistics": list,
    "lattices": list,
    "coords": dict,
    "batch_dim": str,
}


@in_defined_state
def read_result(path: str | os.PathLike[str]) -> Result:
    """See `iv.load_result`; FileError says what is wrong with a file."""
    import h5py

    path = to_be_read(path, ".nc")
    name = os.fspath(path)

    def refuse(reason: str) -> FileError:
        return FileError(f"load_result: {name!r} {reason}.")

    if not Path(path).is_file():
        there = sorted(str(found) for found in Path(path).parent.glob("*.nc"))
        more = f": in that folder there are {', '.join(there[:3])}{', ...' if len(there) > 3 else ''}" if there else ""
        raise refuse(f"is no file{more}")
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
    version = _attribute(file, MARK, "iu")
    if version is None:
        raise refuse(f"was not written by Result.save: it has no number {MARK!r} among its attributes")
    if version.size != 1 or int(version.reshape(())) != VERSION:  # h5netcdf writes an array of length 1
        raise refuse(f"has format version {version.tolist()}, this release reads {VERSION}")
    settings, run = (_mapping(file, key, refuse) for key in ("settings", "run"))
    run = {
        "parameters": {},
        "certificate": None,
        "marginals": None,
        "exact_statistics": [],
        "lattices": [],
        "coords": {},
        "batch_dim": "",
    } | run  # files of releases that had none
    for key, kind in _RUN.items():
        if not isinstance(run.get(key), kind) or (isinstance(run[key], bool) and kind is not bool):
            raise refuse(f"has no valid entry {key!r} in its attribute 'run'")
    if run["status"] not in Status.__members__:
        raise refuse(f"has an unknown status {run['status']!r}")
    for key in ("info", "parameters", "warnings", "dims", "exact_statistics", "lattices"):
        texts = run[key].values() if isinstance(run[key], dict) else run[key] or ()
        if not all(isinstance(entry, str) for entry in texts):
            raise refuse(f"has no valid entry {key!r} in its attribute 'run'")

    def variable(key: str, *dtypes: str) -> Tensor:
        return from_array(_variable(file, key, dtypes, refuse))

    def coordinate(key: str) -> Coordinate:
        found = read_coordinate(run["coords"][key], lambda name, *dtypes: _variable(file, name, dtypes, refuse))
        if found is None:
            raise refuse(f"has no valid coordinate {key!r} in its attribute 'run'")
        return found

    samples, failed = variable("samples", *_NUMBERS), variable("failed", "bool")
    info = {key: variable(f"info_{legal(key)}", dtype) for key, dtype in run["info"].items()}
    status = Status[run["status"]]
    if status is Status.SUCCESS and not bool(failed.any()):  # releases before said so of tempered samples, too
        status = Status.from_failures(failed, info.get("beta"))
    lead = 2 if run["batched"] else 1
    return Result(
        samples=samples,
        status=status,
        failed=failed,
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
        info=info,
        parameters={key: variable(f"parameter_{legal(key)}", dtype) for key, dtype in run["parameters"].items()},
        layout=_layout_from_list(run["layout"]),
        warnings=tuple(run["warnings"]),
        dims=None if run["dims"] is None else tuple(run["dims"]),
        units=run["units"],
        coords={key: coordinate(key) for key in run["coords"]},
        batch_dim=run["batch_dim"],
        marginals=_marginals(run["marginals"], run["exact_statistics"], variable, refuse),
        parameter_marginals={
            key: LatticeMarginals(**{part: variable(f"lattice_{part}_{legal(key)}", "float64") for part in LATTICE})
            for key in run["lattices"]
        },
        certificate=None if run["certificate"] is None else Certificate.from_dict(run["certificate"]),
    )


def _marginals(
    kind: str | None, exact: list[str], variable: Callable[..., Tensor], refuse: Callable[[str], FileError]
) -> Marginals | None:
    """Of a closed form, what a file can hold of it."""
    if kind is None:
        return None
    if kind == "lattice":
        return LatticeMarginals(**{part: variable(f"lattice_{part}", *_NUMBERS[:2]) for part in LATTICE})
    of: dict[str, Known] = {"moments, ensemble": "ensemble", "moments, lattice": "lattice"}
    if kind not in ("normal", "mixture", "moments", *of):
        raise refuse(f"has unknown marginals {kind!r}")
    mean = variable("mean", *_NUMBERS)
    std = variable("std", *_NUMBERS[:2]) if "std" in exact or kind in of else None
    if kind == "mixture":
        if std is None:
            raise refuse("has a mixture without its std")
        parts = {n: variable(f"marginal_{n}", *_NUMBERS[:2]) for n in ("weights", "means", "stds")}
        return MixtureMarginals(mean=mean, std=std, **parts)
    if kind in of:
        return Moments(mean=mean, std=std, known=of[kind])
    return (NormalMarginals if kind == "normal" else Moments)(mean=mean, std=std)


def _variable(file: Any, key: str, dtypes: tuple[str, ...], refuse: Callable[[str], FileError]) -> np.ndarray[Any, Any]:
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
    if dtype not in dtypes or dtype not in (*_NUMBERS, *_WHOLE, "bytes8"):
        raise refuse(f"has a variable {key!r} of type {dtype}, expected {' or '.join(dtypes)}")
    if data.chunks is not None or data.shape is None or data.id.get_storage_size() != data.nbytes:
        raise refuse(f"has a variable {key!r} that is compressed, chunked or incomplete; Result.save writes none such")
    value: np.ndarray[Any, Any] = data[()]
    if dtype == "bool":
        value = value != 0
    return value


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
