"""A statistic of a result as an image of its slices, in the place of the scan that it was made of: NIfTI and DICOM."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from invsolve.core.files import atomic_write, check_target
from invsolve.core.grid import Grid
from invsolve.core.validation import check_choice
from invsolve.datasets.readers.checks import optional
from invsolve.errors import UnsupportedError, invalid
from invsolve.results.posterior_samples import PosteriorSamples

_OWNER = "Result.save"
_NIFTI = (".nii", ".nii.gz")
_LEVELS = 2**16 - 1  # of a stored pixel
_CT, _MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def is_image(path: object) -> bool:
    """Whether a name promises an image."""
    return isinstance(path, (str, os.PathLike)) and str(path).lower().endswith((*_NIFTI, ".dcm"))


def save_image(result: PosteriorSamples, path: str | os.PathLike[str], statistic: str) -> None:
    """See `Result.save`."""
    dicom = str(path).lower().endswith(".dcm")
    check_choice(_OWNER, "statistic", statistic, ("mean", "std") if dicom else ("mean", "std", "samples"))
    grid = _grid(result)
    volume = _volume(result, statistic)
    affine = grid.of_items(volume.shape[-3]) if len(result.shape) == 2 else grid.affine
    affine = None if affine is None else np.asarray(affine, np.float64)
    words = f"posterior {statistic}{' of the magnitude' * result.samples.is_complex()}"
    words = f"{words}, {result.units}" if result.units else words
    if dicom:
        _save_dicom(volume, grid, affine, words, Path(path))
    else:
        _save_nifti(volume, grid, affine, words, path)


def _grid(result: PosteriorSamples) -> Grid:
    """That of its problem, or of the problem of what it was derived from, pixel by pixel."""
    found: Any = result
    while found is not None and getattr(found, "problem", None) is None:
        found = None if found.source is None else found.source()
    grid = getattr(getattr(found, "problem", None), "grid", None)
    if not isinstance(grid, Grid) or tuple(found.shape) != tuple(result.shape):
        raise UnsupportedError(
            f"{_OWNER}: an image needs to know its pixels: solve iv.open(file).problem(), or "
            "iv.Problem(A, y, noise, grid=iv.Grid(voxel_size=...)). A result that was loaded has no problem: "
            "iv.load_result(path, problem=..., prior=...)."
        )
    return grid


def _volume(result: PosteriorSamples, statistic: str) -> NDArray[np.float32]:
    """([samples,] slices, rows, columns)."""
    real = result.map(torch.abs) if result.samples.is_complex() else result
    value = getattr(real, statistic).detach().cpu()
    lead = statistic == "samples"
    if len(result.shape) == 2:
        value = value if result.batched else value.unsqueeze(int(lead))
    elif len(result.shape) == 3 and (not result.batched or value.shape[int(lead)] == 1):
        value = value.squeeze(int(lead)) if result.batched else value
    else:
        raise invalid(_OWNER, "path", "of a file for an image of slices or of one volume", tuple(value.shape))
    return np.ascontiguousarray(value.numpy(), np.float32)


def _save_nifti(
    volume: NDArray[np.float32],
    grid: Grid,
    affine: NDArray[np.float64] | None,
    words: str,
    path: str | os.PathLike[str],
) -> None:
    nibabel = optional("nibabel", "a .nii file", _OWNER)
    order = (1, 2, 0) if volume.ndim == 3 else (2, 3, 1, 0)  # rows, columns, slices, samples: as `iv.open` takes them
    if affine is None:
        size = grid.voxel_size if len(grid.voxel_size) == 3 else (1.0, *grid.voxel_size)
        where = np.diag([*size[1:], size[0], 1.0])
    else:
        where = affine[:, [1, 2, 0, 3]]
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume.transpose(order)), where)
    image.set_sform(where, code=0 if affine is None else 1)
    image.set_qform(where, code=0 if affine is None else 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = words.encode("ascii", "replace")[:79]
    content = image.to_bytes()
    if str(path).lower().endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    atomic_write(path, lambda file: file.write(content), owner=_OWNER)


def _save_dicom(
    volume: NDArray[np.float32], grid: Grid, affine: NDArray[np.float64] | None, words: str, path: Path
) -> None:
    pydicom = optional("pydicom", "a .dcm file", _OWNER)
    if not np.isfinite(volume).all():
        raise UnsupportedError(f"{_OWNER}: a .dcm file holds whole numbers, and some values are not finite.")
    names = [path] if len(volume) == 1 else [path.with_name(f"{path.stem}-{i + 1:04}.dcm") for i in range(len(volume))]
    for name in names:
        check_target(_OWNER, "path", name)
    low, high = float(volume.min()), float(volume.max())
    slope = float(f"{max((high - low) / _LEVELS, abs(high) * 1e-7, 1e-30):.9g}")  # as many digits as the file holds
    low = float(f"{low:.9g}")
    # Of all values: images that differ anywhere are other objects, whatever their corners have in common.
    seed = hashlib.blake2b(volume.tobytes()).hexdigest() + str(affine) + words
    uids = {n: pydicom.uid.generate_uid(entropy_srcs=[seed, n]) for n in ("study", "series", "frame")}
    for i, (name, values) in enumerate(zip(names, volume, strict=True)):
        data = _header(pydicom, grid.patient, uids, words)
        data.InstanceNumber = i + 1
        data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[seed, str(i)])
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.Rows, data.Columns = values.shape
        data.RescaleSlope, data.RescaleIntercept = f"{slope:.9g}", f"{low:.9g}"
        data.PixelSpacing = [f"{v:.9g}" for v in grid.voxel_size[-2:]]
        if affine is not None:
            _place(data, affine, i)
        data.PixelData = np.rint((values - low) / slope).clip(0, _LEVELS).astype("<u2").tobytes()

        def write(file: BinaryIO, data: Any = data) -> None:
            pydicom.dcmwrite(file, data, enforce_file_format=True)

        atomic_write(name, write, owner=_OWNER)


def _header(pydicom: Any, patient: Mapping[str, str], uids: Mapping[str, str], words: str) -> Any:
    """What is the same in all files of a series."""
    data = pydicom.dataset.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SpecificCharacterSet = "ISO_IR 192"
    for name, value in {"PatientName": "", "PatientID": "", **patient}.items():
        setattr(data, name, value)
    data.Modality = patient.get("Modality") or ("CT" if words.endswith(", HU") else "MR")
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = _CT if data.Modality == "CT" else _MR
    data.StudyInstanceUID = patient.get("StudyInstanceUID") or uids["study"]
    data.FrameOfReferenceUID = patient.get("FrameOfReferenceUID") or uids["frame"]
    data.SeriesInstanceUID = uids["series"]
    data.SeriesDescription = f"invsolve: {words}"[:64]
    data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    return data


def _place(data: Any, affine: NDArray[np.float64], item: int) -> None:
    """Where a slice is, to the left, the back and the top."""
    left = np.diag([-1.0, -1.0, 1.0])
    step, down, right = (left @ affine[:3, i] for i in range(3))
    corner = left @ (affine[:3, 3] + item * affine[:3, 0])
    unit = [v / np.linalg.norm(v) for v in (right, down)]
    data.ImageOrientationPatient = [f"{v:.9g}" for v in (*unit[0], *unit[1])]
    data.ImagePositionPatient = [f"{v:.9g}" for v in corner]
    data.SpacingBetweenSlices = data.SliceThickness = f"{float(np.linalg.norm(step)):.9g}"
