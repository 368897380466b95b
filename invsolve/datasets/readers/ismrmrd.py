"""ISMRMRD: HDF5 with a table of acquisitions, each a line of k-space of all coils, and a header in XML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invsolve.datasets.readers.checks import Source
from invsolve.datasets.readers.hdf5 import HDF5File, Heap, Stored
from invsolve.datasets.readers.header import Encoding, read_header
from invsolve.datasets.readers.kspace import Directions, KSpaceScan

_NOISE, _CALIBRATION, _BOTH, _REVERSE = 19, 20, 21, 22  # numbers of flags, from 1
_NO_IMAGE = (23, 24, 26, 27, 28, 29, 30, 31)  # navigators, phase corrections, feedback, dummies, ...
_OTHERS = ("average", "contrast", "phase", "repetition", "set", "kspace_encode_step_2")
_HEAD = (
    "flags number_of_samples active_channels center_sample discard_pre discard_post encoding_space_ref position "
    "read_dir phase_dir slice_dir idx sample_time_us"
).split()


def ismrmrd_group(file: HDF5File) -> str | None:
    """The group that has a header and acquisitions; None if there is none."""
    return next((name for name in file.names() if file.has(f"{name}/xml") and file.has(f"{name}/data")), None)


def open_ismrmrd(file: HDF5File, group: str) -> KSpaceScan:
    """The lines of the first encoding; of averages, contrasts, repetitions, ... the first."""
    source, table = file.source, f"{group}/data"
    encoding = read_header(source, f"{group}/xml", file.text(f"{group}/xml"))
    if encoding.trajectory not in ("cartesian", ""):
        raise source.refuse(
            f"{group}/xml", f"has the trajectory {encoding.trajectory!r}, where Cartesian ones are read"
        )
    stored = file.records(table)
    names = stored.dtype.names or ()
    if "head" not in names or "data" not in names or set(_HEAD) - set(stored.dtype["head"].names or ()):
        raise source.refuse(table, "is no table of acquisitions of ISMRMRD")
    records = stored.all()
    head, lists = records["head"], records["data"]
    flags, idx = head["flags"], head["idx"]

    def has(*numbers: int) -> Any:
        return np.asarray([flags >> np.uint64(n - 1) & np.uint64(1) for n in numbers]).any(0)

    calibration = has(_CALIBRATION) & ~has(_BOTH) & (not encoding.embedded)
    image = ~has(_NOISE, *_NO_IMAGE) & ~calibration & (head["encoding_space_ref"] == 0)
    notes = []
    for name in _OTHERS:
        values = idx[name][image]
        if values.size and (n := len(np.unique(values))) > 1:
            if name == "kspace_encode_step_2":
                raise source.refuse(table, f"has {n} partitions: k-space in three dimensions is not read")
            notes.append(f"{n} numbers of {name!r}: the lowest is read")
            image &= idx[name] == values.min()
    if not image.any():
        raise source.refuse(table, "has no line of an image")
    coils = {int(c) for c in head["active_channels"][image]}
    samples = {int(s) for s in head["number_of_samples"][image]}
    if len(coils) > 1 or 0 in coils:
        raise source.refuse(table, f"has lines of different numbers of coils: {sorted(coils)}")
    columns, rows = encoding.matrix[1], encoding.matrix[0]
    if max(samples) > rows:
        raise source.refuse(table, f"has a line of {max(samples)} samples, its header says at most {rows}")
    slices = np.unique(idx["slice"][image])
    shape = (coils.pop(), rows, columns)
    source.numbers(table, (1, *shape), np.dtype(np.complex64))
    lines = _Lines(source, table, stored, records, image, slices, encoding, shape)
    lines.check()
    return KSpaceScan(
        "ISMRMRD",
        source.path,
        len(slices),
        shape,
        _source=source,
        _rows=lines.read,
        encoding=encoding,
        covariance=_covariance(source, table, head[has(_NOISE)], lists[has(_NOISE)], head[image][0], shape[0]),
        directions=_directions(head[image], idx["slice"][image], slices),
        notes=tuple(notes),
    )


class _Lines:
    """The acquisitions of an image, which are read slice by slice."""

    def __init__(
        self,
        source: Source,
        table: str,
        stored: Stored,
        records: NDArray[Any],
        image: NDArray[np.bool_],
        slices: NDArray[Any],
        encoding: Encoding,
        shape: tuple[int, ...],
    ) -> None:
        self.source, self.table, self.stored = source, table, stored
        self.records, self.slices, self.shape = records[image], slices, shape
        self.first = 0 if encoding.lines is None else shape[2] // 2 - encoding.lines[1]

    def check(self) -> None:
        """Refuse lines that lie outside of k-space."""
        head = self.records["head"]
        place = head["idx"]["kspace_encode_step_1"].astype(np.int64) + self.first
        start = self.shape[1] // 2 - head["center_sample"].astype(np.int64)
        end = start + head["number_of_samples"]
        ignored = head["discard_pre"].astype(np.int64) + head["discard_post"] > head["number_of_samples"]
        if ((place < 0) | (place >= self.shape[2]) | (start < 0) | (end > self.shape[1]) | ignored).any():
            raise self.source.refuse(self.table, f"has a line outside of k-space, {self.shape[1]} x {self.shape[2]}")

    def read(self, index: Sequence[int]) -> NDArray[Any]:
        self.source.numbers(self.table, (len(index), *self.shape), np.dtype(np.complex64))
        out = np.zeros((len(index), *self.shape), np.complex64)
        heap = Heap(self.source, self.table)
        coils, rows, _ = self.shape
        wanted = self.slices[list(index)]
        for record in self.records[np.isin(self.records["head"]["idx"]["slice"], wanted)]:
            head = record["head"]
            found = np.flatnonzero(wanted == head["idx"]["slice"])
            values = _line(self.source, self.table, heap, record["data"], coils, int(head["number_of_samples"]))
            if int(head["flags"]) >> (_REVERSE - 1) & 1:
                values = values[:, ::-1]
            first, last = int(head["discard_pre"]), values.shape[1] - int(head["discard_post"])
            start = rows // 2 - int(head["center_sample"])
            column = int(head["idx"]["kspace_encode_step_1"]) + self.first
            out[found, :, start + first : start + last, column] = values[:, first:last]
        return out


def _line(source: Source, table: str, heap: Heap, reference: Any, coils: int, samples: int) -> NDArray[Any]:
    """One acquisition, (coils, samples)."""
    if int(reference["length"]) != 2 * coils * samples:
        rule = f"has a line of {int(reference['length'])} numbers, its header says {2 * coils * samples}"
        raise source.refuse(table, rule)
    found = np.frombuffer(heap.value(reference, 4), "<f4").view("<c8").reshape(coils, samples)
    if not np.isfinite(found).all():
        raise source.refuse(table, "has a line with NaN or infinite values")
    return found


def _covariance(
    source: Source, table: str, head: NDArray[Any], lists: NDArray[Any], line: Any, coils: int
) -> NDArray[Any] | None:
    """Of a real component of the noise in lines like ``line``; None without enough noise scans."""
    heap, total, count = Heap(source, table), np.zeros((coils, coils), complex), 0
    for h, reference in zip(head, lists, strict=True):
        if int(h["active_channels"]) == coils:
            values = _line(source, table, heap, reference, coils, int(h["number_of_samples"])).astype(complex)
            dwell = float(h["sample_time_us"]), float(line["sample_time_us"])  # the variance goes with the bandwidth
            total += values @ values.conj().T * (dwell[0] / dwell[1] if min(dwell) > 0 else 1.0)
            count += values.shape[1]
    return total / (2 * count) if count >= 4 * coils else None


def _directions(head: NDArray[Any], of: NDArray[Any], slices: NDArray[Any]) -> Directions | None:
    """Where the slices are; None where the acquisitions do not say."""
    first = [int(np.argmax(of == s)) for s in slices]
    readout, phase = (np.asarray(head[name][first[0]], np.float64) for name in ("read_dir", "phase_dir"))
    gram = np.array([[readout @ readout, readout @ phase], [phase @ readout, phase @ phase]])
    centres = np.asarray(head["position"][first], np.float64)
    if not np.isfinite(centres).all() or not np.abs(gram - np.eye(2)).max() < 1e-3:
        return None
    return Directions(centres, readout, phase)
