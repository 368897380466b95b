"""Coordinates in datasets and files, where dates are integers, text is letters, and all else is what it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invsolve.core.coordinates import Coordinate

_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DATES = re.compile(r"(datetime|timedelta)64\[(s|ms|us|ns)\]")
_NUMBERS = re.compile(r"bool|u?int(8|16|32|64)|float(32|64)|complex(64|128)")

Attributes = dict[str, Any]


def as_shown(found: Coordinate) -> tuple[NDArray[Any], Attributes]:
    """Values and attributes in a dataset."""
    return found.values, dict(found.attrs)


def as_stored(found: Coordinate) -> tuple[NDArray[Any], Attributes]:
    """The same in a file: dates by the conventions of NetCDF."""
    if (dates := _DATES.fullmatch(found.values.dtype.name)) is None:
        return as_shown(found)
    attrs: Attributes = {k: v for k, v in found.attrs.items() if k not in ("units", "calendar", "dtype")}
    units = _UNITS[dates[2]]
    if dates[1] == "datetime":
        attrs |= {"units": f"{units} since 1970-01-01", "calendar": "proleptic_gregorian"}
    else:
        attrs |= {"units": units, "dtype": found.values.dtype.name}
    return found.values.view(np.int64), attrs


def account(found: Coordinate, variable: str) -> Attributes:
    """What JSON says of one in the variable of this name."""
    kind = "text" if found.values.dtype.kind == "U" else found.values.dtype.name
    return {"variable": variable, "dims": list(found.dims), "dtype": kind, "attrs": dict(found.attrs)}


def read_coordinate(said: Any, variable: Callable[..., NDArray[Any]]) -> Coordinate | None:
    """One of what `account` says, by its variable of these types; None where it says nothing that is one."""
    if not isinstance(said, dict) or not isinstance(said.get("attrs"), dict):
        return None
    name, dims, kind = (said.get(key) for key in ("variable", "dims", "dtype"))
    if not isinstance(name, str) or not isinstance(kind, str) or not isinstance(dims, list):
        return None
    if not all(isinstance(value, (str, int, float)) for value in (*dims, *said["attrs"].values())):
        return None
    if kind == "text":
        letters = variable(name, "bytes8")
        rows = letters.reshape(-1, letters.shape[-1])
        words = [row.tobytes().rstrip(b"\0").decode() for row in rows]
        values: NDArray[Any] = np.array(words, dtype=str).reshape(letters.shape[:-1])
    elif _DATES.fullmatch(kind):
        values = variable(name, "int64").view(kind)
    elif _NUMBERS.fullmatch(kind):
        values = variable(name, kind)
    else:
        return None
    if values.ndim != len(dims):
        return None
    return Coordinate(tuple(map(str, dims)), values, said["attrs"])
