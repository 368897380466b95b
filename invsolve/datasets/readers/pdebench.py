"""Fields of differential equations in the HDF5 layouts of PDEBench: looked at whole, read sample by sample."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.notebook import TextInNotebook
from invsolve.core.validation import Shape, check_int
from invsolve.datasets.readers import hdf5
from invsolve.datasets.readers.checks import LIMIT, Source, regular
from invsolve.errors import invalid, invalid_type

_OWNER = "open_fields"
_AXES = ("t-coordinate", "x-coordinate", "y-coordinate", "z-coordinate")
_LARGEST = 2**44  # bytes of a data set: only rows are ever read
_SAMPLES = 100_000  # groups of one sample each
_EVEN = 1e-3  # relative difference up to which distances of points count as equal


@final
@dataclass(frozen=True, eq=False)
class FieldArray(TextInNotebook):
    """One quantity of all samples, read where it is indexed: ``array[3]``, ``array[10:20]``, ``array[[1, 5]]``.

    Attributes
    ----------
    name : str
        As in the file.
    shape : tuple of int
        Samples first, as in the file.
    """

    name: str
    shape: Shape
    limit: int
    parts: tuple[hdf5.Stored, ...]  # one, or one a sample

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int]) -> Tensor:
        if isinstance(index, (int, np.integer)):
            return self[[int(index)]][0]
        rows = list(range(len(self))[index]) if isinstance(index, slice) else [int(i) for i in index]
        if any(not -len(self) <= i < len(self) for i in rows):
            raise IndexError(f"FieldArray: {self.name!r} has {len(self)} samples, got {rows[:5]}")
        size = len(rows) * math.prod(self.shape[1:]) * self.parts[0].dtype.itemsize
        if size > self.limit:
            raise self.parts[0].source.too_large(self.name, size)
        rows = [i % len(self) for i in rows]
        if len(self.parts) == 1 and self.parts[0].shape == self.shape:
            values = self.parts[0].rows(rows)
        else:
            values = np.stack([self.parts[i].all() for i in rows])
        return torch.from_numpy(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=True)))

    def __repr__(self) -> str:
        return f"FieldArray({self.name!r}, {self.shape}, {self.parts[0].dtype})"


@final
@dataclass(frozen=True, eq=False)
class FieldFile(TextInNotebook):
    """What a file of fields holds, of which nothing but coordinates was read; ``file["tensor"][:10]`` reads.

    Attributes
    ----------
    path : str
        Of the file.
    arrays : mapping of str to FieldArray
        The quantities.
    grid : CartesianGrid or None
        Where the values lie in space, x being the first axis as in the file; None where the file does not say.
    times : array or None
        When, of fields in time.
    parameters : mapping of str to float
        Numbers among the attributes of the file, such as "beta" or "nu".
    """

    path: str
    arrays: dict[str, FieldArray]
    grid: CartesianGrid | None
    times: NDArray[np.float64] | None
    parameters: dict[str, float]

    def __getitem__(self, name: str) -> FieldArray:
        if name not in self.arrays:
            raise invalid("FieldFile", "name", f"one of {', '.join(map(repr, self.arrays))}", repr(name))
        return self.arrays[name]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __repr__(self) -> str:
        held = ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items())
        when = "" if self.times is None else f", {len(self.times)} times to {self.times[-1]:g}"
        numbers = "".join(f", {name} = {value:g}" for name, value in self.parameters.items())
        where = "grid not stated" if self.grid is None else f"{self.grid.shape} points of {self.grid.extent}"
        return f"FieldFile({len(self)} samples: {held}; {where}{when}{numbers})"


def open_fields(path: str | os.PathLike[str], *, limit: int = LIMIT) -> FieldFile:
    """Look at a file of fields as PDEBench writes them; values are read sample by sample, when they are indexed.

    Files are not trusted: see `iv.open`.

    Parameters
    ----------
    path : str or path
        HDF5 with one array a quantity, samples first (``nu`` and ``tensor`` of Darcy flow; ``tensor`` in time;
        ``velocity`` and others), or a group for every sample, each with ``data`` and ``grid/t``, ``grid/x``,
        ``grid/y``.
    limit : int
        The most bytes that are read at once, 4 GiB by default.

    Returns
    -------
    FieldFile
        Print it; ``file["tensor"][:10]`` are the first ten samples, a tensor.

    Raises
    ------
    FileError
        Naming file, data set and rule: for a file that is not there, damaged, hostile or of no such layout.
    InputError, InputTypeError
        If an argument is not what it should be.

    References
    ----------
    Takamoto et al. 2022, PDEBench, arXiv 2210.07182.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise invalid_type(_OWNER, "path", "the path of a file", path)
    limit = check_int(_OWNER, "limit", limit, minimum=1)
    source = regular(path, _LARGEST, f"iv.datasets.{_OWNER}")
    if source.read("the file", 0, min(source.size, 8)) != hdf5.MAGIC:
        raise source.refuse("the file", "is no HDF5")
    with hdf5.HDF5File(source) as file:
        names = file.names()
        if names and all(name.isdigit() for name in names):
            return _by_sample(file, source, limit)
        arrays: dict[str, FieldArray] = {}
        skipped = {*_AXES, "t"}
        for name in names:
            if name not in skipped and file.is_array(name):
                stored = _checked(file.array(name, "fiu"), limit)
                if len(stored.shape) > 1:
                    arrays[name] = FieldArray(name, stored.shape, limit, (stored,))
        if not arrays:
            raise source.refuse("the file", f"holds no fields: {', '.join(map(repr, names[:8])) or 'nothing'}")
        counts = {len(array) for array in arrays.values()}
        if len(counts) > 1:
            held = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise source.refuse("the file", f"holds arrays of different numbers of samples: {held}")
        along = {name: _line(file, name, limit) for name in _AXES if file.has(name)}
        times = along.pop("t-coordinate", None)
        numbers = {name: file.attribute(name) for name in file.attribute_names()}
        parameters = {name: value for name, value in numbers.items() if value is not None}
    # Nodes on the walls look like those of a torus, and are neither that nor another grid.
    grid = None if parameters.get("nodes_on_walls") else _grid(list(along.values()), arrays)
    return FieldFile(source.path, arrays, grid, times, parameters)


def _by_sample(file: hdf5.HDF5File, source: Source, limit: int) -> FieldFile:
    names = file.names(_SAMPLES)
    parts = tuple(_checked(file.array(f"{name}/data", "fiu"), limit) for name in names)
    shapes = {part.shape for part in parts}
    if len(shapes) > 1 or len({part.dtype for part in parts}) > 1:
        raise source.refuse("data", f"differs between samples: {sorted(shapes)[:3]}")
    array = FieldArray("data", (len(parts), *parts[0].shape), limit, parts)
    first = names[0]
    lines = [_line(file, f"{first}/grid/{axis}", limit) for axis in "xyz" if file.has(f"{first}/grid/{axis}")]
    times = _line(file, f"{first}/grid/t", limit) if file.has(f"{first}/grid/t") else None
    arrays = {"data": array}
    return FieldFile(source.path, arrays, _grid(lines, arrays), times, {})


def _checked(stored: hdf5.Stored, limit: int) -> hdf5.Stored:
    size = math.prod(stored.chunk) * stored.dtype.itemsize if stored.chunk else 0
    if size > limit:
        raise stored.source.too_large(stored.name, size)
    return stored


def _line(file: hdf5.HDF5File, name: str, limit: int) -> NDArray[np.float64]:
    stored = _checked(file.array(name, "f", (1,)), limit)
    if stored.shape[0] * stored.dtype.itemsize > limit:
        raise stored.source.too_large(name, stored.shape[0] * stored.dtype.itemsize)
    return stored.all().astype(np.float64)


def _grid(lines: list[NDArray[np.float64]], arrays: dict[str, FieldArray]) -> CartesianGrid | None:
    """The box of equally spaced coordinates, at most three, that an array has as axes one after another."""
    if not 1 <= len(lines) <= 3 or any(len(line) < 2 for line in lines):
        return None
    shape = tuple(len(line) for line in lines)
    if not any(
        array.shape[i : i + len(shape)] == shape for array in arrays.values() for i in range(1, len(array.shape))
    ):
        return None
    origin, extent, places = [], [], set()
    for line in lines:
        with np.errstate(all="ignore"):  # coordinates of a file may be anything
            steps = np.diff(line)
            step = float(steps.mean())
        if (
            not 0 < step * len(line) < math.inf
            or not np.isfinite(line).all()
            or float(np.abs(steps - step).max()) > _EVEN * step
        ):
            return None
        # Cell centres unless the first lies at 0, which only a torus has as a node.
        places.add("periodic" if abs(float(line[0])) < _EVEN * step else "centers")
        extent.append(step * len(line))
        origin.append(float(line[0]) if abs(float(line[0])) < _EVEN * step else float(line[0]) - step / 2)
    if len(places) > 1:
        return None
    points: Any = places.pop()
    names = ("x", "y", "z")[: len(shape)]
    return CartesianGrid(shape, extent=tuple(extent), origin=tuple(origin), points=points, names=names)
