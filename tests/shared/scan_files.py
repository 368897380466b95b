"""Files such as scanners and the programs of the field write, tiny: for the tests of readers and the pages of docs/."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import invsolve as iv

HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <measurementInformation><protocolName>{protocol}</protocolName></measurementInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{ex}</x><y>{ey}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{rx}</x><y>{ry}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{gx}</x><y>{gy}</y><z>5</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>{high}</maximum><center>{centre}</center></kspace_encoding_step_1>
      <slice><minimum>0</minimum><maximum>1</maximum><center>0</center></slice>
    </encodingLimits>
    <trajectory>{trajectory}</trajectory>
  </encoding>
</ismrmrdHeader>
"""


def header(
    readout: int,
    phase: int,
    *,
    voxel: float = 2.0,
    rows: int | None = None,
    columns: int | None = None,
    centre: int | None = None,
    high: int | None = None,
    trajectory: str = "cartesian",
    protocol: str = "AXT1",
) -> str:
    """k-space of readout x phase, oversampled twice in the readout."""
    rows, columns = rows or readout // 2, columns or phase
    return HEADER.format(
        ex=readout,
        ey=phase,
        fx=readout * voxel,
        fy=phase * voxel,
        rx=rows,
        ry=columns,
        gx=readout // 2 * voxel,
        gy=columns * voxel,
        centre=phase // 2 if centre is None else centre,
        high=phase - 1 if high is None else high,
        trajectory=trajectory,
        protocol=protocol,
    )


def centred(x: Any, inverse: bool = False, axes: tuple[int, ...] = (-2, -1)) -> np.ndarray:
    transform = np.fft.ifftn if inverse else np.fft.fftn
    return np.fft.fftshift(transform(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def scan(
    slices: int = 2,
    coils: int = 4,
    grid: tuple[int, int] = (32, 24),
    std: float = 1e-6,
    scale: float = 1e-4,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Images, maps and full k-space with the readout oversampled twice; coloured noise of the coils."""
    H, W = grid
    rng = np.random.default_rng(seed)
    fine = iv.datasets.heads.slices(slices, (4 * H, 4 * W), seed=seed).abs()
    small = torch.nn.functional.avg_pool2d(fine[:, None], 4)[:, 0]
    phase = iv.datasets.smooth_phase(grid, seed=seed)
    images = scale * torch.polar(small, phase.expand_as(small)).to(torch.complex128).numpy()
    maps = iv.datasets.coil_maps(coils, (2 * H, W), seed=seed, dtype=torch.float64).numpy()
    wide = np.zeros((slices, 2 * H, W), complex)
    wide[:, H - H // 2 : H - H // 2 + H] = images
    mix = np.eye(coils) + 0.3 * rng.normal(size=(coils, coils)) * (1 + 0.5j) if coils > 1 else np.eye(1)
    white = rng.normal(size=(slices, coils, 2 * H, W)) + 1j * rng.normal(size=(slices, coils, 2 * H, W))
    kspace = centred(maps * wide[:, None]) + std * np.einsum("ab,sbhw->sahw", mix, white)
    inner = slice(H - H // 2, H - H // 2 + H)
    return {
        "images": images,
        "maps": maps[:, inner],
        "kspace": kspace,
        "covariance": std**2 * mix @ mix.conj().T,
    }


def mask(columns: int, acceleration: int = 3, centre: int = 8) -> np.ndarray:
    kept = np.arange(columns) % acceleration == 0
    kept[columns // 2 - centre // 2 : columns // 2 - centre // 2 + centre] = True
    return kept


def write_fastmri(
    path: Path, kspace: np.ndarray, columns: np.ndarray | None = None, *, xml: str | None = None, **options: Any
) -> Path:
    """As the files of the challenge are: single-precision k-space, header, mask in test files, attributes."""
    with h5py.File(path, "w") as file:
        sampled = kspace if columns is None else kspace * columns
        file.create_dataset("kspace", data=sampled.astype(np.complex64), **options)
        file.create_dataset("ismrmrd_header", data=xml or header(*kspace.shape[-2:]))
        if columns is not None:
            file["mask"] = columns
        rss = np.sqrt((abs(centred(kspace.reshape(len(kspace), -1, *kspace.shape[-2:]), inverse=True)) ** 2).sum(1))
        H = kspace.shape[-2]
        file["reconstruction_rss"] = rss[:, H // 4 : H // 4 + H // 2].astype(np.float32)
        file.attrs["max"] = float(rss.max())
        file.attrs["norm"] = float(np.linalg.norm(rss))
        file.attrs["acquisition"] = "AXT1"
        file.attrs["patient_id"] = "0"
    return path


def write_sinogram(
    path: Path, *, counts: bool = True, fan: bool = False, form: str = "npz", size: int = 32
) -> np.ndarray:
    """A head of 240 mm, 48 views; returns the line integrals that are expected."""
    bins, views = 64, 48
    angles = (2 if fan else 1) * math.pi * np.arange(views) / views
    geometry: dict[str, Any] = {
        "type": "parallel",
        "ProjectionAngles": angles,
        "DetectorWidth": 4.0,
        "DetectorCount": bins,
    }
    options: dict[str, Any] = {"pixel_size": 240 / 128, "bins": bins, "bin_size": 4.0}
    if fan:
        geometry |= {"type": "fanflat", "DistanceOriginSource": 500.0, "DistanceOriginDetector": 200.0}
        A: Any = iv.operators.FanBeam(
            torch.from_numpy(angles), (128, 128), source_to_center=500.0, source_to_detector=700.0, **options
        )
    else:
        A = iv.operators.ParallelBeam(torch.from_numpy(angles), (128, 128), **options)
    head = iv.datasets.heads.ct(1, (128, 128), seed=3)
    clean = A(iv.operators.ct.from_hounsfield(head))[0].numpy()
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {"line_integrals": clean + 0.01 * rng.normal(size=clean.shape)}
    if counts:
        data = {"counts": rng.poisson(2000 * np.exp(-clean)), "i0": 2000.0}
    if form == "npz":
        np.savez(path, **data, **geometry)
    else:
        with h5py.File(path, "w") as file:
            for name, value in {**data, **geometry}.items():
                file[name] = value
    return clean


def write_bart(stem: Path, array: np.ndarray) -> Path:
    """An array of up to sixteen axes as BART writes it."""
    dims = [*array.shape, *[1] * (16 - array.ndim)]
    stem.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + " \n# Command\nphantom\n")
    array.astype("<c8").flatten("F").tofile(stem.with_suffix(".cfl"))
    return stem.with_suffix(".cfl")


def write_series(folder: Path, volume: np.ndarray, *, spacing: float = 3.0, **changes: Any) -> list[Path]:
    """A CT series in HU by pydicom, files in an order that is not that of the slices."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(exist_ok=True)
    series, study, paths = generate_uid(), generate_uid(), []
    for number in np.random.default_rng(1).permutation(len(volume)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.Modality, data.PatientName, data.PatientID = "CT", "Test^Phantom", "17"
        data.Rows, data.Columns = volume.shape[1:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelSpacing = [0.75, 0.5]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-10.0, -20.0, 30.0 + spacing * int(number)]
        data.InstanceNumber = int(number) + 1
        for name, value in changes.items():
            setattr(data, name, value)
        data.PixelData = (volume[number] + 1024).astype("<u2").tobytes()
        paths.append(folder / f"{len(paths):03}.dcm")
        pydicom.dcmwrite(paths[-1], data, enforce_file_format=True)
    return paths


def write_ismrmrd(
    path: Path,
    kspace: np.ndarray,
    *,
    noise: np.ndarray | None = None,
    columns: np.ndarray | None = None,
    xml: str | None = None,
) -> Path:
    """By the field's own writer: noise lines first, then every sampled line."""
    import ismrmrd

    slices, coils, H, W = kspace.shape
    with ismrmrd.Dataset(str(path), "dataset") as file:
        file.write_xml_header((xml or header(H, W)).encode())

        def line(values: np.ndarray, column: int, number: int, *flags: int) -> None:
            acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(values, np.complex64))
            acquisition.center_sample = H // 2
            acquisition.idx.kspace_encode_step_1 = column
            acquisition.idx.slice = number
            acquisition.position[:] = (0.0, 0.0, 6.0 * number)
            acquisition.read_dir[:], acquisition.phase_dir[:], acquisition.slice_dir[:] = (
                (1, 0, 0),
                (0, 1, 0),
                (0, 0, 1),
            )
            for flag in flags:
                acquisition.setFlag(flag)
            file.append_acquisition(acquisition)

        for values in () if noise is None else noise:
            line(values, 0, 0, ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        for number in range(slices):
            for column in range(W):
                if columns is None or columns[column]:
                    line(kspace[number, :, :, column], column, number)
    return path


# --- the pages of docs/ ---------------------------------------------------------------------------------------------
def for_fastmri(folder: Path) -> None:
    """file1000017.h5: two slices of a head, 6 coils, a third of the columns."""
    made = scan(slices=2, coils=6, grid=(96, 80), std=2e-6, seed=1)
    columns = mask(80, acceleration=4, centre=14)
    write_fastmri(folder / "file1000017.h5", made["kspace"], columns, xml=header(192, 80, protocol="AXT2"))


def for_sinogram(folder: Path) -> None:
    """lesion.npz: counts behind water of 200 mm with a lesion of 60 HU, edges as soft as a focus makes them."""
    y, x = np.mgrid[119.5:-120:-1, -119.5:120]  # mm

    def disc(right: float, up: float, radius: float) -> np.ndarray:
        return 1 / (1 + np.exp((np.hypot(x - right, y - up) - radius) / 2))

    hounsfield = -1000 + 1000 * disc(0, 0, 100) + 60 * disc(40, 20, 24)
    angles = np.arange(48) * math.pi / 48
    A = iv.operators.ParallelBeam(torch.from_numpy(angles), (240, 240), bins=64, bin_size=3.75)
    line = A(iv.operators.ct.from_hounsfield(torch.from_numpy(hounsfield[None]).float()))[0].numpy()
    counts = np.random.default_rng(0).poisson(3000 * np.exp(-line))
    np.savez(
        folder / "lesion.npz", counts=counts, i0=3000.0, type="parallel", ProjectionAngles=angles, DetectorWidth=3.75
    )


PAGES = {"docs/fastmri.md": for_fastmri, "docs/sinogram.md": for_sinogram}
