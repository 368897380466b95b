"""Names and coordinates of the axes of a signal, which data that are named have where both are on one grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.coordinates import Coordinates, fitting, of_data, stated
from invsolve.core.validation import quoted
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import Operator


@final
@dataclass(frozen=True, eq=False)
class Axes:
    """What the axes of a signal and of its batch are called ("" for no name), and the coordinates along them."""

    dims: tuple[str, ...] | None = None
    coords: Coordinates = field(default_factory=dict)
    batch_dim: str = ""

    @staticmethod
    def of_data(A: Operator, y: Any) -> Axes:
        """Those of a DataArray (or another array with dims); none of others."""
        names = getattr(y, "dims", None)
        if not isinstance(names, tuple) or (extra := len(names) - len(A.out_shape)) not in (0, 1):
            return Axes()
        names = tuple(map(str, names))
        batch_dim, dims = names[0] if extra else "", names[extra:] if on_one_grid(A) else None
        sizes = {name: n for name, n in zip(names, y.shape, strict=True) if name in (batch_dim, *(dims or ()))}
        return Axes(dims, fitting(of_data(y), sizes), batch_dim)

    @staticmethod
    def of(owner: str, A: Operator, y: Any, rows: int, *, dims: Any, coords: Any, batch_dim: Any) -> Axes:
        """Those that are stated, and of data with ``rows`` items those that are not."""
        found = Axes.of_data(A, y)
        if not isinstance(batch_dim, str):
            raise invalid_type(owner, "batch_dim", "a name", batch_dim)
        batch_dim = batch_dim or found.batch_dim
        on = grid_of_signal(A) if dims is None and found.dims is None else None
        if on is not None and batch_dim not in (on.names or ()):
            along = stated(owner, on.coords, dict(zip(on.names or (), on.shape, strict=True)))
            found = Axes(on.names, {**found.coords, **along})
        dims = found.dims if dims is None else checked_dims(owner, dims, len(A.in_shape))
        sizes = {**dict(zip(dims or (), A.in_shape, strict=False)), **({batch_dim: rows} if batch_dim else {})}
        own = stated(owner, coords or {}, sizes)
        return Axes(dims, fitting(found.coords, sizes) | own, batch_dim)


def grid_of_signal(A: Operator) -> CartesianGrid | None:
    """The `CartesianGrid` that an operator, or the first of a chain, has its signal on."""
    while isinstance(inner := getattr(A, "inner", None), Operator):
        A = inner
    grid = getattr(A, "grid", None)
    return grid if isinstance(grid, CartesianGrid) and grid.shape == tuple(A.in_shape) else None


def on_one_grid(A: Operator) -> bool:
    """Whether data stand for the signal, entry by entry, as far as their shapes and the operator tell."""
    return tuple(A.in_shape) == tuple(A.out_shape) and not _elsewhere(A)


def _elsewhere(A: Operator) -> bool:
    """Whether an operator, or one that it is made of, says that its data are in another space (`_other_space`)."""
    if getattr(A, "_other_space", False):
        return True
    held: list[Any] = [getattr(A, f.name) for f in dataclasses.fields(A)] if dataclasses.is_dataclass(A) else []
    parts = [part for value in held for part in (value if isinstance(value, (tuple, list)) else [value])]
    return any(_elsewhere(part) for part in parts if isinstance(part, Operator))


def checked_dims(owner: str, dims: object, axes: int) -> tuple[str, ...]:
    """Names of so many axes, all different."""
    if isinstance(dims, (str, Mapping)) or not isinstance(dims, Iterable):
        raise invalid_type(owner, "dims", "a tuple of names", quoted(dims))
    names = tuple(dims)
    if not all(isinstance(name, str) for name in names) or len(names) != axes or len(set(names)) != axes:
        raise invalid(owner, "dims", f"{axes} names, one for each axis of the signal, all different", names)
    return names
