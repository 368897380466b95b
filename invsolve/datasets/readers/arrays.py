"""Plain arrays: numpy's .npy and BART's .cfl with its .hdr. They do not say what they hold: ``kind=`` does."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invsolve.datasets.readers.checks import Rows, Source
from invsolve.datasets.readers.image import ImageScan
from invsolve.datasets.readers.kspace import KSpaceScan
from invsolve.datasets.readers.scan import Scan
from invsolve.errors import InputError, invalid

NPY = b"\x93NUMPY"
KINDS = ("kspace", "image")
_HEADER = 10_000  # bytes


def array_header(source: Source, what: str, head: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, type, whether in Fortran's order, and where the numbers begin."""
    file = io.BytesIO(head)
    with source.guarded(what):
        major, minor = np.lib.format.read_magic(file)
        if (major, minor) not in ((1, 0), (2, 0)):
            raise source.refuse(what, f"has version {major}.{minor} of its format, where 1.0 and 2.0 are read")
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=_HEADER)
    if dtype.hasobject:
        raise source.refuse(what, "holds Python objects, which are never read")
    return tuple(int(n) for n in shape), dtype, bool(fortran), file.tell()


def open_npy(source: Source, kind: str | None) -> Scan:
    """([slices, [coils,]] readout, phase) for k-space, ([slices,] rows, columns) for images."""
    head = source.read("the header", 0, min(source.size, _HEADER + 100))
    shape, dtype, fortran, offset = array_header(source, "the header", head)
    size = source.numbers("the array", shape, dtype)
    if offset + size != source.size:
        raise source.refuse("the array", f"declares {offset + size:,} bytes, the file has {source.size:,}")
    kind = _stated(source, kind, "complex" if dtype.kind == "c" else "real")

    def values() -> NDArray[Any]:
        flat = np.frombuffer(source.read("the array", offset, size), dtype)
        return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)

    def rows(index: Sequence[int]) -> NDArray[Any]:
        if fortran or len(shape) == 2:
            return _expanded(kind, values())[list(index)]
        each = size // shape[0]
        found = [np.frombuffer(source.read("the array", offset + i * each, each), dtype) for i in index]
        return _expanded(kind, np.stack(found).reshape(len(index), *shape[1:]))

    return _scan(source, "numpy", kind, _whole(source, kind, shape), dtype, rows)


def _expanded(kind: str, values: NDArray[Any]) -> NDArray[Any]:
    """With all of its axes: slices first, then coils of k-space."""
    values = values[None] if values.ndim == 2 else values
    return values[:, None] if kind == "kspace" and values.ndim == 3 else values


def _whole(source: Source, kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    most = 4 if kind == "kspace" else 3
    if not 2 <= len(shape) <= most:
        raise source.refuse(
            "the array", f"has shape {shape}, where {' or '.join(map(str, range(2, most + 1)))} axes are read"
        )
    lead = (1, *shape) if len(shape) == 2 else shape
    return (lead[0], 1, *lead[1:]) if kind == "kspace" and len(lead) == 3 else lead


def open_bart(source: Source, kind: str | None) -> Scan:
    """A pair of files: dimensions in text, and complex numbers, the first axis fastest.

    Of the sixteen axes 0 to 2 are space, 3 the coils, 13 the slices.
    """
    stem = re.sub(r"\.(cfl|hdr)$", "", source.path)
    header = source.beside(stem + ".hdr", "the header")
    numbers = source.beside(stem + ".cfl", "the array")
    header.text("the header", header.size)
    text = header.read("the header", 0, header.size).decode("ascii", "replace").splitlines()
    found = next((b for a, b in zip(text, text[1:], strict=False) if a.strip() == "# Dimensions"), "")
    if not re.fullmatch(r"\s*\d{1,12}(\s+\d{1,12}){0,15}\s*", found):
        raise header.refuse("the header", f"has no line of 1 to 16 dimensions: {found[:40]!r}")
    dims = [int(n) for n in found.split()]
    dims += [1] * (16 - len(dims))
    dtype = np.dtype("<c8")
    if (size := math.prod(dims) * 8) != numbers.size:
        raise numbers.refuse("the array", f"has {numbers.size:,} bytes, dimensions {dims} take {size:,}")
    kind = _stated(source, kind, "complex")
    others = {i: n for i, n in enumerate(dims) if n != 1 and i not in (0, 1, 2, 3, 13)}
    space = [n for n in dims[:3] if n != 1]
    if others or len(space) != 2 or (kind == "image" and dims[3] != 1):
        raise source.refuse(
            "the header", f"has dimensions {dims}: two of space, with coils (3) and slices (13), are read"
        )
    coils, slices = dims[3], dims[13]
    numbers.numbers("the array", (1, coils, *space), dtype)
    each = coils * math.prod(space) * 8

    def rows(index: Sequence[int]) -> NDArray[Any]:
        numbers.numbers("the array", (len(index), coils, *space), dtype)
        flat = [np.frombuffer(numbers.read("the array", i * each, each), dtype) for i in index]
        stacked = np.stack(flat).reshape(len(index), coils, space[1], space[0]).swapaxes(-1, -2)
        return stacked if kind == "kspace" else stacked[:, 0]

    whole = (slices, coils, *space) if kind == "kspace" else (slices, *space)
    return _scan(source, "BART", kind, whole, dtype, rows)


def _stated(source: Source, kind: str | None, numbers: str) -> str:
    if kind is None:
        repair = "iv.open(path, kind='kspace') or kind='image': such a file does not say what it holds."
        raise invalid(
            "open",
            "kind",
            f"stated for {os.path.basename(source.path)!r}, an array of {numbers} numbers",
            "None",
            repair,
        )
    if kind not in KINDS:
        raise InputError(f"iv.open: `kind` must be one of {', '.join(map(repr, KINDS))} for an array, got {kind!r}.")
    if kind == "kspace" and numbers != "complex":
        raise source.refuse("the array", "has real numbers, where k-space is complex")
    return kind


def _scan(source: Source, format: str, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any], rows: Rows) -> Scan:
    source.numbers("the array", (1, *shape[1:]), dtype)
    scan = KSpaceScan if kind == "kspace" else ImageScan
    return scan(format, source.path, shape[0], shape[1:], _source=source, _rows=rows)
