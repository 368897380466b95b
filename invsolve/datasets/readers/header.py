"""The header of ISMRMRD, XML, which fastMRI's files carry too: the grids of k-space and of the image."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import final
from xml.etree import ElementTree

from invsolve.datasets.readers.checks import Source

_MOST = 2**14  # samples along an axis


@final
@dataclass(frozen=True)
class Encoding:
    """What a header says of one encoding; x is the readout, y the phase, z the partition. Lengths in mm."""

    matrix: tuple[int, int, int]  # of k-space
    field_of_view: tuple[float, float, float]
    image_matrix: tuple[int, int, int]
    image_field_of_view: tuple[float, float, float]
    lines: tuple[int, int, int] | None  # lowest, centre, highest number of a phase encoding
    trajectory: str
    protocol: str = ""
    embedded: bool = False  # calibration lines are lines of the image too

    @property
    def oversampling(self) -> float:
        """Of the readout: how much larger its field of view is than that of the image."""
        return self.field_of_view[0] / self.image_field_of_view[0]


def read_header(source: Source, what: str, text: str) -> Encoding:
    """The first encoding of a header. Nothing but plain elements is read: no entities, which can grow without bound."""
    source.text(what, len(text))
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise source.refuse(what, "declares entities, which no scanner writes")
    with source.guarded(what):
        root = ElementTree.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # without its name space
    encoding = root.find("encoding")
    if encoding is None:
        raise source.refuse(what, "has no element 'encoding'")

    def triple(path: str, whole: bool) -> tuple[float, float, float]:
        found = [_number(source, what, encoding.findtext(f"{path}/{axis}"), f"{path}/{axis}") for axis in "xyz"]
        bad = any(v < 1 or v != int(v) or v > _MOST for v in found) if whole else any(not v > 0 for v in found)
        if bad:
            raise source.refuse(what, f"has {path} {found}, where positive {'whole ' * whole}numbers are expected")
        return (found[0], found[1], found[2])

    def matrix(path: str) -> tuple[int, int, int]:
        x, y, z = triple(path, True)
        return int(x), int(y), int(z)

    limits = encoding.find("encodingLimits/kspace_encoding_step_1")
    lines = None
    if limits is not None:
        low, centre, high = (
            int(_number(source, what, limits.findtext(part), f"kspace_encoding_step_1/{part}"))
            for part in ("minimum", "center", "maximum")
        )
        if not 0 <= low <= centre <= high <= _MOST:
            raise source.refuse(what, f"has phase encodings {low}, {centre}, {high} that are not in order")
        lines = (low, centre, high)
    return Encoding(
        matrix("encodedSpace/matrixSize"),
        triple("encodedSpace/fieldOfView_mm", False),
        matrix("reconSpace/matrixSize"),
        triple("reconSpace/fieldOfView_mm", False),
        lines,
        (encoding.findtext("trajectory") or "").strip().lower(),
        _line(root.findtext("measurementInformation/protocolName")),
        (encoding.findtext("parallelImaging/calibrationMode") or "").strip().lower() == "embedded",
    )


def _number(source: Source, what: str, text: str | None, path: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise source.refuse(what, f"has no number at {path}: {(text or '')[:40]!r}")
    return value


def _line(text: str | None) -> str:
    """Text of a file that is shown: one short line of printable characters."""
    return "".join(c for c in " ".join((text or "").split()) if c.isprintable())[:60]
