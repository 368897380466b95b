"""Files in the layout of fastMRI: HDF5 with k-space of slices, a header, and an image to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from invsolve.datasets.readers.hdf5 import HDF5File
from invsolve.datasets.readers.header import read_header
from invsolve.datasets.readers.kspace import KSpaceScan

_IMAGES = ("reconstruction_rss", "reconstruction_esc")


def is_fastmri(file: HDF5File) -> bool:
    """Whether it has what such files have."""
    return file.has("kspace")


def open_fastmri(file: HDF5File) -> KSpaceScan:
    """``kspace`` (slices, [coils,] readout, phase), ``ismrmrd_header``, ``mask``, ``reconstruction_rss``."""
    source = file.source
    kspace = file.array("kspace", "c", rank=(3, 4))
    encoding = None
    if file.has("ismrmrd_header"):
        encoding = read_header(source, "ismrmrd_header", file.text("ismrmrd_header"))
    mask = None
    if file.has("mask"):
        stored = file.array("mask", "fiub", rank=(1,))
        if stored.shape != (kspace.shape[-1],):
            raise source.refuse("mask", f"has shape {stored.shape}, k-space has {kspace.shape[-1]} columns")
        mask = stored.all() != 0
    image = next((name for name in _IMAGES if file.has(name)), None)
    reference = None if image is None else file.array(image, "f", rank=(3,))
    if reference is not None and reference.shape[0] != kspace.shape[0]:
        raise source.refuse(str(image), f"has {reference.shape[0]} slices, k-space has {kspace.shape[0]}")

    def rows(index: Sequence[int]) -> NDArray[Any]:
        found = kspace.rows(index)
        return found if found.ndim == 4 else found[:, None]

    coils = kspace.shape[1] if len(kspace.shape) == 4 else 1
    largest = file.attribute("max")
    notes = () if largest is None else (f"largest value of the image in the file: {largest:.4g}",)
    return KSpaceScan(
        "fastMRI",
        source.path,
        kspace.shape[0],
        (coils, *kspace.shape[-2:]),
        _source=source,
        _rows=rows,
        encoding=encoding,
        mask=mask,
        notes=notes,
        _reference=reference,
    )
