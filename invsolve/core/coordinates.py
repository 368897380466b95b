"""Coordinates along the axes of signals and data: numbers, text and dates, as xarray has them.

They come with data (a DataArray) or are stated, are kept beside the numbers, and go into datasets and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from invsolve.errors import invalid, invalid_type

_KINDS = "biufcUMm"
_KNOWN = "numbers, text or dates (datetime64), with one axis, (dims, values) or a DataArray"


@final
@dataclass(frozen=True, eq=False)
class Coordinate:
    """Values along named axes; none for a single value. ``attrs``: texts and numbers that describe them."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    attrs: Mapping[str, str | int | float] = field(default_factory=dict)

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether all of its axes are there, as long as it is."""
        return all(sizes.get(name) == n for name, n in zip(self.dims, self.values.shape, strict=True))

    def taken(self, dim: str, index: NDArray[Any]) -> Coordinate:
        """Some places along an axis."""
        if dim not in self.dims:
            return self
        return Coordinate(self.dims, self.values.take(index, self.dims.index(dim)), self.attrs)


Coordinates = Mapping[str, Coordinate]


def fitting(coords: Coordinates, sizes: Mapping[str, int]) -> dict[str, Coordinate]:
    """Those whose axes are all there, by name and length."""
    return {name: c for name, c in coords.items() if c.fits(sizes)}


def of_data(value: Any) -> dict[str, Coordinate]:
    """The coordinates of a DataArray; what is neither numbers, text nor dates (a calendar's own) is left out."""
    found = {}
    for name, held in getattr(value, "coords", {}).items():
        if (values := _plain(np.asarray(held.values))) is not None:
            found[str(name)] = Coordinate(tuple(map(str, held.dims)), values, _described(held.attrs))
    return found


def stated(owner: str, coords: Any, sizes: Mapping[str, int]) -> dict[str, Coordinate]:
    """Coordinates as they are given to xarray, by name: along the axis of that name, or ``(dims, values)``."""
    if not isinstance(coords, Mapping):
        raise invalid_type(owner, "coords", "a mapping of names to coordinates", coords)
    found = {}
    for key, value in coords.items():
        name = f"coords[{key!r}]"
        if isinstance(value, Coordinate):
            made = value
        elif hasattr(value, "dims") and hasattr(value, "values"):  # xarray's
            made = _of(owner, name, tuple(value.dims), value.values, getattr(value, "attrs", {}))
        elif isinstance(value, tuple) and len(value) in (2, 3) and isinstance(value[0], (str, tuple, list)):
            dims = (value[0],) if isinstance(value[0], str) else tuple(value[0])
            made = _of(owner, name, dims, value[1], *value[2:])
        else:
            made = _of(owner, name, (key,) if np.ndim(value) else (), value)
        if not made.fits(sizes) or (key in sizes and made.dims != (key,)):
            axes = ", ".join(f"{dim} ({n})" for dim, n in sizes.items()) or "none: state dims= too"
            raise invalid(owner, name, f"along axes of the signal, {axes}", f"{made.dims} {made.values.shape}")
        found[str(key)] = made
    return found


def _of(owner: str, name: str, dims: tuple[Any, ...], values: Any, attrs: Any = None) -> Coordinate:
    array = _plain(np.asarray(values))
    if array is None or array.ndim != len(dims):
        given = f"{np.asarray(values).dtype} {np.shape(values)}"
        raise invalid_type(owner, name, _KNOWN, given)
    return Coordinate(tuple(map(str, dims)), array, _described(attrs or {}))


def _plain(values: NDArray[Any]) -> NDArray[Any] | None:
    """A copy, in a type that files have too; None for others."""
    if values.dtype.kind == "O":
        if not values.size or not all(isinstance(v, str) for v in values.flat):
            return None
        values = values.astype(str)
    if values.dtype.kind in "Mm":
        fine = values.astype(f"{values.dtype.kind}8[ns]")
        there = ~np.isnat(values)
        whole = bool((fine.astype(values.dtype)[there] == values[there]).all())
        return fine if whole else values.astype(f"{values.dtype.kind}8[s]")  # years that nanoseconds do not reach
    if values.dtype.kind not in _KINDS:
        return None
    if values.dtype.kind in "fc" and values.dtype.name not in ("float32", "float64", "complex64", "complex128"):
        values = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=True)


def _described(attrs: Mapping[Any, Any]) -> dict[str, str | int | float]:
    return {
        name: value
        for name, value in attrs.items()
        if isinstance(name, str)
        and name.isidentifier()
        and not name.startswith("_")
        and type(value) in (str, int, float)
    }
