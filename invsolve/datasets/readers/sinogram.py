"""Sinograms with their geometry, by astra's names, in .npz or HDF5: counts or line integrals."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from invsolve.core.grid import Grid
from invsolve.core.validation import check_dims, check_positive
from invsolve.datasets.readers.arrays import array_header
from invsolve.datasets.readers.checks import Rows, Source
from invsolve.datasets.readers.hdf5 import HDF5File
from invsolve.datasets.readers.scan import Scan, _tensor
from invsolve.errors import invalid
from invsolve.noise import PoissonTransmission
from invsolve.operators.base import LinearOperator
from invsolve.operators.ct.fan import FanBeam
from invsolve.operators.ct.hounsfield import WATER
from invsolve.operators.ct.parallel import ParallelBeam
from invsolve.problem import Problem

ZIP = b"PK\x03\x04"
_DATA = ("counts", "line_integrals")
_TYPES = {"parallel": "parallel beams", "fanflat": "a fan of rays on a flat detector"}
_NAMES = (
    "type",
    "ProjectionAngles",
    "DetectorWidth",
    "DetectorSpacingX",
    "DetectorCount",
    "DistanceOriginSource",
    "DistanceOriginDetector",
)
_MORE = ("i0", "background")
_MEMBERS = 100


@final
@dataclass(frozen=True, eq=False, repr=False)
class SinogramScan(Scan):
    """A scan of slices by parallel or fan beams: counts, or line integrals, with the geometry. Lengths in mm.

    Attributes
    ----------
    format, path : str
        What file it is.
    num_slices : int
        How many slices it holds.
    shape : tuple of int
        Of one slice, (views, bins).
    counts : bool
        Whether the data are counts; else line integrals.
    angles : array, shape (views,)
        Radians, counterclockwise.
    bin_size : float
        Of the detector, mm.
    source_to_center, source_to_detector : float or None
        mm; None for parallel beams.
    i0 : array, broadcastable to (views, bins), or None
        Expected counts without an object.
    background : array, broadcastable to (views, bins), or None
        Expected counts that did not pass it.
    notes : tuple of str
        What was noticed, in sentences.
    """

    format: str
    path: str
    num_slices: int
    shape: tuple[int, ...]
    _: KW_ONLY
    _source: Source
    _rows: Rows
    counts: bool
    angles: NDArray[Any]
    bin_size: float
    source_to_center: float | None = None
    source_to_detector: float | None = None
    i0: NDArray[Any] | None = None
    background: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def _magnification(self) -> float:
        if self.source_to_center is None or self.source_to_detector is None:
            return 1.0
        return self.source_to_detector / self.source_to_center

    def operator(self, in_shape: tuple[int, int] | None = None, pixel_size: float | None = None) -> LinearOperator:
        """The projector, of attenuation in 1/mm.

        Parameters
        ----------
        in_shape : tuple of int, optional
            (H, W); as many pixels each way as the detector has bins unless given.
        pixel_size : float, optional
            mm; unless given, so large that the detector sees the whole width.

        Returns
        -------
        ParallelBeam or FanBeam
        """
        bins = self.shape[1]
        rows, columns = check_dims("SinogramScan", "in_shape", (bins, bins) if in_shape is None else in_shape)
        seen = bins * self.bin_size / self._magnification
        pixel = seen / columns if pixel_size is None else check_positive("SinogramScan", "pixel_size", pixel_size)
        options: dict[str, Any] = {"pixel_size": pixel, "bins": bins, "bin_size": self.bin_size}
        angles = torch.from_numpy(np.array(self.angles, np.float64))
        if self.source_to_center is None or self.source_to_detector is None:
            return ParallelBeam(angles, (rows, columns), **options)
        far, all_ = self.source_to_center, self.source_to_detector
        return FanBeam(angles, (rows, columns), **options, source_to_center=far, source_to_detector=all_)

    def problem(
        self,
        slices: object = None,
        *,
        in_shape: tuple[int, int] | None = None,
        pixel_size: float | None = None,
        water: float = WATER,
        noise: Any = None,
    ) -> Problem:
        """What `iv.solve` takes, of an unknown in Hounsfield units.

        Parameters
        ----------
        slices : int, slice, sequence of int, optional
            Which; all unless given. A number gives a problem without a batch axis.
        in_shape : tuple of int, optional
            (H, W) of the image; as many pixels each way as the detector has bins unless given.
        pixel_size : float, optional
            mm; unless given, so large that the detector sees the whole width.
        water : float
            The attenuation of water at the energy of the scan, 1/mm; 0.0192 by default, at about 70 keV.
        noise : float or Noise, optional
            Of line integrals it must be given. Of counts it is ``PoissonTransmission`` with the ``i0`` of the file.

        Returns
        -------
        Problem
            ``attenuation = water (1 + x / 1000)``: what water alone absorbs is taken from the line integrals, or put
            into the counts without an object.

        Raises
        ------
        InputError, InputTypeError
            For slices that are not there, and for line integrals without ``noise``.
        FileError
            Where the file is damaged, or what is asked for is above the limit.
        """
        owner = "SinogramScan.problem"
        index, batched = self._chosen(slices)
        water = check_positive(owner, "water", water)
        A = self.operator(in_shape, pixel_size)
        y = _tensor(self._read(index).astype(np.float64)).to(torch.float32)
        rows, columns = (int(n) for n in A.in_shape)
        through = A(torch.full((1, rows, columns), water, dtype=torch.float32, device="cpu"))[0]
        if self.counts:
            if noise is not None:
                raise invalid(owner, "noise", "left out for counts, whose noise is Poisson's", repr(noise))
            assert self.i0 is not None
            alone = torch.from_numpy(np.array(self.i0, np.float32)) * torch.exp(-through)
            other = (
                0.0
                if self.background is None
                else torch.from_numpy(np.array(self.background, np.float32)).expand_as(alone)
            )
            noise = PoissonTransmission(alone, background=other)
        else:
            if noise is None:
                raise invalid(owner, "noise", "given for line integrals: their std, or a noise model", "None")
            y = y - through
        pixel = (
            self.bin_size * self.shape[1] / self._magnification / columns if pixel_size is None else float(pixel_size)
        )
        grid = Grid(voxel_size=(pixel, pixel), slices=tuple(index))
        y = y if batched else y[0]
        return Problem((water / 1000) * A, y, noise, dims=("row", "column"), units="HU", grid=grid)

    def _lines(self) -> list[str]:
        views, bins = self.shape
        what = "counts" if self.counts else "line integrals"
        beams = _TYPES["parallel" if self.source_to_center is None else "fanflat"]
        turn = math.degrees(float(np.ptp(self.angles)))
        plural = "s" * (self.num_slices > 1)
        lines = [
            f"{self.format}, {what} of {self.num_slices} slice{plural}, {views} views of {bins} bins: {self.path!r}",
            f"{beams} over {turn:.4g} degrees, bins of {self.bin_size:.4g} mm",
        ]
        if self.source_to_center is not None:
            lines.append(
                f"{self.source_to_center:.4g} mm from the source to the centre, "
                f"{self.source_to_detector:.4g} to the detector"
            )
        if self.i0 is not None:
            lines.append(f"{float(np.median(self.i0)):.4g} counts without an object")
        return lines


def open_npz(source: Source) -> SinogramScan:
    """Arrays by name in a zip file, without objects."""
    _check_directory(source)
    with source.guarded("the file"), zipfile.ZipFile(source.path) as file:
        entries = {entry.filename: entry for entry in file.infolist()}

        def get(name: str) -> NDArray[Any] | None:
            entry = entries.get(f"{name}.npy")
            if entry is None:
                return None
            if entry.file_size > source.limit:
                raise source.too_large(name, entry.file_size)
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise source.refuse(name, "is encrypted, or compressed by something else than deflate")
            if entry.compress_size > source.size:
                raise source.refuse(name, f"declares {entry.compress_size:,} bytes in a file of {source.size:,}")
            source.expansion(name, entry.compress_size, entry.file_size)
            with file.open(entry) as member:
                content = member.read(10_100)
                shape, dtype, fortran, offset = array_header(source, name, content)
                if name == "type":
                    if dtype.kind not in "US" or shape != () or dtype.itemsize > 256:
                        raise source.refuse(name, "is no short text")
                    size = dtype.itemsize
                else:
                    size = source.numbers(name, shape or (1,), dtype, "fiu")
                if offset + size != entry.file_size:
                    raise source.refuse(name, f"declares {offset + size:,} bytes and has {entry.file_size:,}")
                content += member.read(max(0, offset + size - len(content)))
            flat = np.frombuffer(content[offset : offset + size], dtype)
            return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)

        data = next((name for name in _DATA if f"{name}.npy" in entries), None)
        if data is None:
            raise source.refuse("the file", f"has no array {' or '.join(map(repr, _DATA))}")
        values = get(data)
        assert values is not None
        return _made(source, data, values.shape, lambda index: np.atleast_3d(values.T).T[list(index)], get)


def _check_directory(source: Source) -> None:
    """The end of a zip file says how many members it has: looked at before the list of them is made."""
    tail = source.read("the file", max(0, source.size - 2**16 - 98), min(source.size, 2**16 + 98))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + 22 > len(tail):
        raise source.refuse("the file", "is cut short: a zip file without its directory")
    count, length = struct.unpack_from("<HI", tail, at + 10)
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":  # of a large file: a record before has the numbers
        place = source.size - len(tail) + at - 76
        if at < 76 or tail[at - 76 : at - 72] != b"PK\x06\x06" or struct.unpack_from("<Q", tail, at - 12)[0] != place:
            raise source.refuse("the file", "has the record of its directory elsewhere than before its end")
        count, length = struct.unpack_from("<QQ", tail, at - 44)
    if count > _MEMBERS or length > 2**20:
        raise source.refuse("the file", f"has {count} members, where at most {_MEMBERS} are read")


def is_sinogram(file: HDF5File) -> bool:
    """Whether it has what such files have."""
    return file.has("ProjectionAngles") and any(file.has(name) for name in _DATA)


def open_hdf5(file: HDF5File) -> SinogramScan:
    """Data sets by the same names."""
    data = next(name for name in _DATA if file.has(name))
    stored = file.array(data, "fiu", rank=(2, 3))

    def get(name: str) -> NDArray[Any] | None:
        if not file.has(name):
            return None
        if name == "type":
            return np.array(file.text(name))
        return file.array(name, "fiu").all()

    def rows(index: Sequence[int]) -> NDArray[Any]:
        return stored.rows(index) if len(stored.shape) == 3 else stored.all()[None][list(index)]

    return _made(file.source, data, stored.shape, rows, get)


def _made(
    source: Source,
    data: str,
    shape: tuple[int, ...],
    rows: Rows,
    get: Callable[[str], NDArray[Any] | None],
) -> SinogramScan:
    if len(shape) not in (2, 3):
        raise source.refuse(data, f"has shape {shape}, where ([slices,] views, bins) is read")
    views, bins = shape[-2:]
    counts = data == "counts"
    found = {name: get(name) for name in (*_NAMES, *_MORE)}
    stated = found["type"]
    fan = found["DistanceOriginSource"] is not None
    name = "fanflat" if fan else "parallel"
    if stated is not None:
        word = stated.item()
        name = (word.decode("ascii", "replace") if isinstance(word, bytes) else str(word)).strip()
        if name not in _TYPES:
            raise source.refuse("type", f"is {name[:40]!r}, where {' and '.join(map(repr, _TYPES))} are read")
    angles = found["ProjectionAngles"]
    if angles is None or angles.shape != (views,) or not np.isfinite(angles).all():
        raise source.refuse("ProjectionAngles", f"must be {views} finite angles in radians, one a view")

    def positive(what: str) -> float:
        value = found[what]
        if value is None or value.size != 1 or not (math.isfinite(v := float(value.reshape(()))) and v > 0):
            raise source.refuse(what, "must be a positive number of mm")
        return v

    # astra's name in two dimensions, and in three
    spacing = positive("DetectorWidth" if found["DetectorSpacingX"] is None else "DetectorSpacingX")
    if found["DetectorCount"] is not None and int(positive("DetectorCount")) != bins:
        raise source.refuse("DetectorCount", f"is not the number of bins, {bins}")
    far = near = None
    if name == "fanflat":
        far = positive("DistanceOriginSource")
        near = far + (0.0 if found["DistanceOriginDetector"] is None else _at_least_zero(source, found))
    if counts and found["i0"] is None:
        raise source.refuse("i0", "is not there: the expected counts without an object, which counts need")
    for more in _MORE:
        if (value := found[more]) is not None:
            fits = value.ndim <= 2 and all(a in (1, b) for a, b in zip(value.shape[::-1], (bins, views), strict=False))
            low = value.min() if value.size else -1
            if not fits or not np.isfinite(value).all() or low < 0 or (more == "i0" and low == 0):
                raise source.refuse(more, f"must be positive, and broadcastable to {(views, bins)}")
    return SinogramScan(
        "sinogram",
        source.path,
        shape[0] if len(shape) == 3 else 1,
        (views, bins),
        _source=source,
        _rows=rows,
        counts=counts,
        angles=angles.astype(np.float64),
        bin_size=spacing,
        source_to_center=far,
        source_to_detector=near,
        i0=found["i0"],
        background=found["background"],
    )


def _at_least_zero(source: Source, found: dict[str, NDArray[Any] | None]) -> float:
    value = found["DistanceOriginDetector"]
    number = math.nan if value is None or value.size != 1 else float(value.reshape(()))
    if not (math.isfinite(number) and number >= 0):
        raise source.refuse("DistanceOriginDetector", "must be a number of mm, >= 0")
    return number
