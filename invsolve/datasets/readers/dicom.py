"""DICOM: a file, or a folder that holds one series, put in order along its normal, in Hounsfield units where it is CT.

Headers are read with pydicom, from a file that gives no more than it has; pixels are read here, plain ones only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from invsolve.core.grid import Grid, from_positions
from invsolve.datasets.readers.checks import Bounded, Source, optional, regular
from invsolve.datasets.readers.image import ImageScan

MAGIC = b"DICM"  # at byte 128
_FILES = 10_000
_PLAIN = {
    "1.2.840.10008.1.2": (True, True),
    "1.2.840.10008.1.2.1": (False, True),
    "1.2.840.10008.1.2.2": (False, False),
}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SERIES = "SeriesInstanceUID"
_PATIENT = ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "StudyID", "Modality")


def is_dicom(head: bytes) -> bool:
    """By the mark behind the preamble."""
    return head[128:132] == MAGIC


@final
@dataclass(frozen=True)
class Slice:
    """One image: what its header says, and where its pixels are."""

    source: Source
    rows: int
    columns: int
    dtype: np.dtype[Any]
    offset: int
    bits: int
    slope: float
    intercept: float
    series: str
    modality: str
    position: tuple[float, ...] | None
    right: tuple[float, ...] | None  # unit vectors, from one column to the next, and from one row to the next
    down: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    padding: int | None
    number: int
    hounsfield: bool  # the header says how the numbers become CT numbers
    patient: dict[str, str]

    def stored(self) -> NDArray[Any]:
        """The numbers in the file, without what lies in unused bits."""
        size = self.rows * self.columns * self.dtype.itemsize
        found = np.frombuffer(self.source.read("PixelData", self.offset, size), self.dtype)
        unused = 8 * self.dtype.itemsize - self.bits
        if unused:  # shifted to the left and back: the sign is that of the highest bit that is used
            native = found.astype(self.dtype.newbyteorder("="))
            found = (native << native.dtype.type(unused)) >> native.dtype.type(unused)
        return found.reshape(self.rows, self.columns)


def open_dicom(source: Source) -> ImageScan:
    """One image."""
    return _scan(source, [_slice(source)])


def open_series(source: Source) -> ImageScan:
    """The one series in a folder."""
    names = sorted(os.listdir(source.path))
    if len(names) > _FILES:
        raise source.refuse("the folder", f"has {len(names):,} files, where at most {_FILES:,} are read")
    found = []
    for name in names:
        path = os.path.join(source.path, name)
        if not os.path.isfile(path) or name == "DICOMDIR":
            continue
        if Path(os.path.realpath(path)).parent != Path(os.path.realpath(source.path)):
            raise source.refuse(name, "is a link that leads out of the folder")
        one = regular(path, source.limit)
        if one.size >= 132 and is_dicom(one.read("the file", 0, 132)):
            found.append(_slice(one))
    if not found:
        raise source.refuse("the folder", "holds no DICOM file")
    series = sorted({s.series for s in found})
    if len(series) > 1:
        raise source.refuse(_SERIES, f"has {len(series)} values: a folder of one series is read. Sort them apart")
    return _scan(source, found)


def _slice(source: Source) -> Slice:
    pydicom = optional("pydicom", "DICOM")
    with source.guarded("the header"), Bounded(source) as file:
        read = pydicom.filereader.read_dataset
        file.seek(132)
        meta = read(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if syntax == _DEFLATED:
            raise source.refuse("TransferSyntaxUID", "is deflated, which can grow without bound. " + _convert("raw"))
        if syntax not in _PLAIN:
            raise source.refuse("TransferSyntaxUID", f"is {syntax or 'missing'}, compressed pixels. " + _convert("raw"))
        implicit, little = _PLAIN[syntax]
        data = read(file, implicit, little, stop_when=lambda tag, vr, length: int(tag) >= 0x7FE00008)
        head = file.read(12)
        offset, length = _pixels(source, head, implicit, little, file.tell() - len(head))
        return _checked(source, data, offset, length, little)


def _convert(how: str) -> str:
    return f"Convert it, for example by gdcmconv --{how}"


def _pixels(source: Source, head: bytes, implicit: bool, little: bool, at: int) -> tuple[int, int]:
    """Where the values of PixelData begin, and how many bytes it declares."""
    order: Any = "little" if little else "big"
    tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)
    if len(head) < 12 or tag != 0x7FE00010:
        raise source.refuse("PixelData", "is not there")
    length = int.from_bytes(head[4:8] if implicit else head[8:12], order)
    if length == 0xFFFFFFFF:
        raise source.refuse("PixelData", "is encapsulated where the header says that it is plain")
    return at + (8 if implicit else 12), length


def _checked(source: Source, data: Any, offset: int, length: int, little: bool) -> Slice:
    def number(name: str, default: int | None = None) -> int:
        value = data.get(name, default)
        if not isinstance(value, int):
            raise source.refuse(name, f"is {str(value)[:40]!r}, where a whole number is expected")
        return int(value)

    def numbers(name: str, count: int) -> tuple[float, ...] | None:
        value = data.get(name)
        if value is None:
            return None
        found = tuple(
            float(v) for v in (value if isinstance(value, Sequence) or hasattr(value, "__len__") else [value])
        )
        if len(found) != count or not all(map(math.isfinite, found)):
            raise source.refuse(name, f"is {str(value)[:40]!r}, where {count} finite numbers are expected")
        return found

    rows, columns, allocated = number("Rows"), number("Columns"), number("BitsAllocated")
    if number("SamplesPerPixel", 1) != 1 or str(data.get("PhotometricInterpretation", "")) != "MONOCHROME2":
        given = str(data.get("PhotometricInterpretation", "none"))[:20]
        raise source.refuse("PhotometricInterpretation", f"is {given!r}, where grey values, MONOCHROME2, are read")
    if int(data.get("NumberOfFrames", 1) or 1) != 1:
        raise source.refuse("NumberOfFrames", f"is {data.NumberOfFrames}: files of one image are read")
    bits, high = number("BitsStored", allocated), number("HighBit", number("BitsStored", allocated) - 1)
    if allocated not in (8, 16, 32) or not 1 <= bits <= allocated or high != bits - 1:
        raise source.refuse("BitsAllocated", f"is {allocated}, of which {bits} up to number {high} are used")
    signed = "i" if number("PixelRepresentation", 0) == 1 else "u"
    dtype = np.dtype(f"{'<' if little else '>'}{signed}{allocated // 8}")
    size = source.numbers("PixelData", (rows, columns), dtype)
    if length not in (size, size + size % 2):
        raise source.refuse("PixelData", f"has {length:,} bytes, {rows} x {columns} pixels take {size:,}")
    if offset + size > source.size:
        raise source.refuse("PixelData", f"declares {size:,} bytes and ends behind the file: it is cut short")
    slope, intercept = numbers("RescaleSlope", 1), numbers("RescaleIntercept", 1)
    if slope is not None and slope[0] == 0:
        raise source.refuse("RescaleSlope", "is 0: all pixels would be equal")
    spacing = numbers("PixelSpacing", 2)
    if spacing is not None and min(spacing) <= 0:
        raise source.refuse("PixelSpacing", f"is {spacing}, where lengths in mm are expected")
    directions = numbers("ImageOrientationPatient", 6)
    if directions is not None:
        axes = np.array(directions).reshape(2, 3)
        if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-3:
            raise source.refuse("ImageOrientationPatient", f"is {directions}, no two perpendicular unit vectors")
    padding = data.get("PixelPaddingValue")
    if isinstance(padding, int) and signed == "i" and padding >= 2 ** (allocated - 1):  # read without its sign
        padding -= 2**allocated
    return Slice(
        source,
        rows,
        columns,
        dtype,
        offset,
        bits,
        1.0 if slope is None else slope[0],
        0.0 if intercept is None else intercept[0],
        str(data.get(_SERIES, "")),
        str(data.get("Modality", ""))[:16],
        numbers("ImagePositionPatient", 3),
        None if directions is None else directions[:3],
        None if directions is None else directions[3:],
        spacing,
        padding if isinstance(padding, int) else None,
        int(data.get("InstanceNumber", 0) or 0),
        slope is not None and intercept is not None and str(data.get("RescaleType", "") or "HU") == "HU",
        {name: str(data.get(name))[:64] for name in _PATIENT if data.get(name) not in (None, "")},
    )


def _scan(source: Source, slices: list[Slice]) -> ImageScan:
    first = slices[0]
    for name in ("rows", "columns", "modality", "right", "down", "spacing"):
        if len({getattr(s, name) for s in slices}) > 1:
            raise source.refuse(name, "differs between the images of the series")
    notes, affine = [], None
    placed = [s.position is not None for s in slices]
    if any(placed) and not all(placed):
        raise source.refuse("ImagePositionPatient", "is missing in some of the images")
    if first.position is not None and first.right is not None and first.down is not None:
        normal = np.cross(first.right, first.down)
        slices = sorted(slices, key=lambda s: float(normal @ np.asarray(s.position)))
        places = np.array([s.position for s in slices], np.float64)
        along = places @ normal
        if len(slices) > 1 and np.diff(along).min() < 1e-4:
            where = f"{along[int(np.diff(along).argmin())]:.4g} mm"
            raise source.refuse("ImagePositionPatient", f"is the same for two images, at {where}: several volumes?")
        if first.spacing is not None:
            down, right = (np.array(v) * s for v, s in zip((first.down, first.right), first.spacing, strict=True))
            affine = from_positions(places, down, right)
            if affine is None:
                gaps = np.diff(along)
                raise source.refuse(
                    "ImagePositionPatient",
                    f"leaves gaps of {gaps.min():.4g} to {gaps.max():.4g} mm between slices: is an image missing?",
                )
    else:
        slices = sorted(slices, key=lambda s: s.number)
        notes.append("the images do not say where they are: ordered by their numbers")
    grid = None
    if first.spacing is not None:
        order = tuple(range(len(slices)))
        grid = Grid(voxel_size=first.spacing, affine=affine, slices=order, patient=first.patient)

    def rows(index: Sequence[int]) -> NDArray[Any]:
        source.numbers("PixelData", (len(index), first.rows, first.columns), np.dtype(np.float64))
        return np.stack([slices[i].stored() * slices[i].slope + slices[i].intercept for i in index])

    filling = np.array([np.nan if s.padding is None else s.padding * s.slope + s.intercept for s in slices])
    hounsfield = first.modality == "CT" and all(s.hounsfield for s in slices)
    if first.modality == "CT" and not hounsfield:
        notes.append("the headers do not say how the stored numbers become Hounsfield units: left as they are")
    return ImageScan(
        "DICOM",
        source.path,
        len(slices),
        (first.rows, first.columns),
        _source=source,
        _rows=rows,
        units="HU" if hounsfield else "",
        grid=grid,
        notes=tuple(notes),
        _outside=None if np.isnan(filling).all() else lambda values, index: values == filling[list(index), None, None],
    )
