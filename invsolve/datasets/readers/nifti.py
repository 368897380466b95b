"""NIfTI in one file, gzipped or not: the header with nibabel, the numbers read here."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from invsolve.core.grid import Grid
from invsolve.datasets.readers.checks import Source, optional
from invsolve.datasets.readers.image import ImageScan, permuted

GZIP = b"\x1f\x8b"
_BLOCK = 2**16
_MM = {"meter": 1e3, "mm": 1.0, "micron": 1e-3}


def version(head: bytes) -> int:
    """1 or 2 for the beginning of such a file, else 0; -1 for a header whose numbers are in another file."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        size = int.from_bytes(head[:4], order)
        for number, length, place in ((1, 348, 344), (2, 540, 4)):
            if size == length and head[place : place + 2] in (b"n+", b"ni") and head[place + 2 : place + 3] in b"12":
                return number if head[place : place + 2] == b"n+" else -1
    return 0


def beginning(source: Source) -> bytes:
    """The first bytes of a file, of what is in it where it is gzipped."""
    head = source.read("the file", 0, min(source.size, 4096))
    if head[:2] != GZIP:
        return head
    with source.guarded("the file"):
        return zlib.decompressobj(31).decompress(head, 1024)


def open_nifti(source: Source) -> ImageScan:
    """A volume, its slices along the third axis."""
    nibabel = optional("nibabel", "NIfTI")
    head = beginning(source)
    number, zipped = version(head), source.read("the file", 0, 2) == GZIP
    if number < 0:
        raise source.refuse("the header", "has its numbers in another file (.img): save it as one .nii")
    length = 348 if number == 1 else 540
    order: Literal["little", "big"] = "little" if int.from_bytes(head[:4], "little") == length else "big"
    axes = int.from_bytes(head[40:42] if number == 1 else head[16:24], order, signed=True)
    if not 1 <= axes <= 7:  # by which others guess the order of bytes
        raise source.refuse("dim", f"says {axes} axes, where 1 to 7 are possible")
    with source.guarded("the header"):
        header = (nibabel.Nifti1Header if number == 1 else nibabel.Nifti2Header)(head[:length], check=False)
        dims = [int(n) for n in header["dim"]]
        dtype = header.get_data_dtype()
        offset = int(float(header["vox_offset"])) if math.isfinite(float(header["vox_offset"])) else -1
    shape = tuple(dims[1 : axes + 1])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if dtype.names is not None or dtype.kind not in "fciu":
        raise source.refuse("datatype", f"is {dtype}, where plain numbers are read")
    size = source.numbers("dim", shape, dtype)
    if not 2 <= len(shape) <= 3:
        raise source.refuse("dim", f"says {shape}, where one volume is read: select it first, with nibabel")
    if offset < length or offset > length + 2**24:
        raise source.refuse("vox_offset", f"is {offset:,}, where the header has {length} bytes")
    if zipped:
        source.expansion("the file", source.size, offset + size)
    elif offset + size > source.size:
        raise source.refuse("dim", f"declares {offset + size:,} bytes, the file has {source.size:,}")
    slope, intercept = _scaling(source, header)
    shape = (*shape, 1) if len(shape) == 2 else shape
    with source.guarded("the affine"):
        affine = np.asarray(header.get_best_affine(), np.float64)
        known = bool(header["sform_code"]) or bool(header["qform_code"])
        unit = header.get_xyzt_units()[0]
    grid, notes = _grid(source, affine, known, unit, shape)
    each = shape[0] * shape[1] * dtype.itemsize

    def rows(index: Sequence[int]) -> NDArray[Any]:
        wide = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
        source.numbers("the volume", (len(index), *shape[:2]), wide)
        found = np.empty((len(index), *shape[:2]), dtype)
        for place, content in _slices(source, index, offset, each, zipped):
            found[place] = np.frombuffer(content, dtype).reshape(shape[1], shape[0]).T
        return found if (slope, intercept) == (1.0, 0.0) else found * slope + intercept

    return ImageScan(
        "NIfTI",
        source.path,
        shape[2],
        (shape[0], shape[1]),
        _source=source,
        _rows=rows,
        grid=grid,
        notes=notes,
    )


def _slices(
    source: Source, index: Sequence[int], offset: int, each: int, zipped: bool
) -> Iterator[tuple[list[int], bytes]]:
    """The bytes of some slices, and where they go."""
    wanted: dict[int, list[int]] = {}
    for place, i in enumerate(index):
        wanted.setdefault(i, []).append(place)
    if not zipped:
        for i, places in wanted.items():
            yield places, source.read("the volume", offset + i * each, each)
        return
    engine, at = zlib.decompressobj(31), 0
    with open(source.path, "rb") as file:

        def take(size: int) -> bytes:
            parts, left = [], size
            while left:
                content = engine.unconsumed_tail or file.read(_BLOCK)
                if engine.eof or not content:
                    raise source.refuse("the volume", "is cut short: the compressed file ends before its numbers do")
                parts.append(engine.decompress(content, left))
                left -= len(parts[-1])
            return b"".join(parts)

        with source.guarded("the volume"):
            for i in sorted(wanted):
                while (skip := offset + i * each - at) > 0:  # a block at a time: what is skipped takes no memory
                    at += len(take(min(skip, _BLOCK)))
                content = take(each)
                at += each
                yield wanted[i], content


def _scaling(source: Source, header: Any) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise source.refuse("scl_inter", f"is {intercept}")
    return slope, intercept


def _grid(
    source: Source, affine: NDArray[np.float64], known: bool, unit: str, shape: tuple[int, ...]
) -> tuple[Grid, tuple[str, ...]]:
    notes = []
    if unit not in _MM:
        notes.append("the header has no unit of length: taken for mm")
    affine = affine.copy()
    affine[:3] *= _MM.get(unit, 1.0)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or sizes.min() <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * np.prod(sizes):
        raise source.refuse("the affine", "is singular or not finite: voxels without a volume")
    if not known:
        notes.append("the header does not say where the volume is in the patient")
    where = permuted(affine, (2, 0, 1)) if known else None
    return Grid(voxel_size=(float(sizes[0]), float(sizes[1])), affine=where, slices=tuple(range(shape[2]))), tuple(
        notes
    )
