"""Files that lie, point elsewhere or are damaged: a tiny one for each way, what is wrong with it, and the rule it meets."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scan_files

LIMIT = 2**20  # bytes: what `iv.open` is allowed
SECRET = b"bytes of somebody else"
K = (np.arange(2 * 2 * 16 * 8).reshape(2, 2, 16, 8) + 1j).astype(np.complex64)


@dataclass(frozen=True)
class Case:
    make: Callable[[Path], Path]
    what: str  # the data set, as the message names it
    rule: str
    options: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(what: str, rule: str, **options: Any) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def add(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        CASES[make.__name__] = Case(make, what, rule, {"limit": LIMIT} | options)
        return make

    return add


def hdf5(folder: Path, fill: Callable[[h5py.File], object], header: Any = None) -> Path:
    path = folder / "file.h5"
    with h5py.File(path, "w") as file:
        fill(file)
        if header is not None:
            file["ismrmrd_header"] = header
            file["kspace"] = K
    return path


# --- HDF5: what points elsewhere ------------------------------------------------------------------------------------
@case("kspace", "a link into another file")
def external_link(folder: Path) -> Path:
    with h5py.File(folder / "other.h5", "w") as file:
        file["kspace"] = K
    return hdf5(folder, lambda f: f.__setitem__("kspace", h5py.ExternalLink("other.h5", "/kspace")))


@case("kspace", "is a link, where only")
def soft_link(folder: Path) -> Path:
    return hdf5(folder, lambda f: (f.__setitem__("a", K), f.__setitem__("kspace", h5py.SoftLink("/a"))))


@case("kspace", "is a link, where only")
def cyclic_link(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.__setitem__("kspace", h5py.SoftLink("/kspace")))


@case("kspace", "in another file (external storage)")
def external_storage(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET * 400)
    external = [(str(folder / "secret"), 0, K.nbytes)]
    return hdf5(folder, lambda f: f.create_dataset("kspace", shape=K.shape, dtype=K.dtype, external=external))


@case("kspace", "is virtual")
def virtual(folder: Path) -> Path:
    with h5py.File(folder / "other.h5", "w") as file:
        file["kspace"] = K
    layout = h5py.VirtualLayout(shape=K.shape, dtype=K.dtype)
    layout[...] = h5py.VirtualSource(str(folder / "other.h5"), "kspace", shape=K.shape)
    return hdf5(folder, lambda f: f.create_virtual_dataset("kspace", layout))


@case("kspace", "is no array")
def group_for_array(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_group("kspace"))


# --- HDF5: what declares too much -----------------------------------------------------------------------------------
HUGE = (2**10, 2**9, 2**10, 2**10)


@case("kspace", "above the limit")
def declared_4_tb(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", shape=HUGE, dtype=np.complex64))


@case("kspace", "above the limit")
def declared_4_tb_in_chunks(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", shape=HUGE, dtype=np.complex64, chunks=(1, 1, 64, 64)))


@case("kspace", "was never written")
def never_written(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", shape=K.shape, dtype=np.complex64))


@case("kspace", "above the limit")
def chunk_above_limit(folder: Path) -> Path:
    wide = (2, 2, 2**13, 2**11)

    def fill(f: h5py.File) -> None:
        f.create_dataset("kspace", shape=K.shape, dtype="c8", maxshape=(None,) * 4, chunks=wide, compression="gzip")

    return hdf5(folder, fill)


@case("kspace", "expands from", limit=2**30)
def bomb(folder: Path) -> Path:
    # The zeros are written as one compressed chunk many times over, so that the test itself stays small.
    shape, one = (9, 1, 512, 512), zlib.compress(bytes(512 * 512 * 8), 9)

    def fill(f: h5py.File) -> None:
        data = f.create_dataset("kspace", shape=shape, dtype="c8", chunks=(1, 1, 512, 512), compression="gzip")
        for i in range(9):
            data.id.write_direct_chunk((i, 0, 0, 0), one)

    return hdf5(folder, fill)


def chunked(folder: Path, content: bytes, **options: Any) -> Path:
    def fill(f: h5py.File) -> None:
        data = f.create_dataset("kspace", shape=K.shape, dtype="c8", chunks=K.shape, compression="gzip", **options)
        data.id.write_direct_chunk((0, 0, 0, 0), content)

    return hdf5(folder, fill)


@case("kspace", "stream holds more")
def chunk_that_grows(folder: Path) -> Path:
    return chunked(folder, zlib.compress(bytes(4 * 2**20), 9))


@case("kspace", "stream holds 24")
def chunk_that_is_short(folder: Path) -> Path:
    return chunked(folder, zlib.compress(bytes(24)))


@case("kspace", "is damaged")
def chunk_of_noise(folder: Path) -> Path:
    return chunked(folder, np.random.default_rng(0).bytes(600))


@case("kspace", "it is incomplete")
def missing_chunk(folder: Path) -> Path:
    def fill(f: h5py.File) -> None:
        f.create_dataset("kspace", shape=K.shape, dtype="c8", chunks=(1, 2, 16, 8))[0] = K[0]

    return hdf5(folder, fill)


@case("kspace", "has the filter")
def unknown_filter(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", data=K, compression="lzf"))


# --- HDF5: what holds something else --------------------------------------------------------------------------------
@case("kspace", "has values of type object")
def lists_of_any_length(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", shape=(3, 3, 3), dtype=h5py.vlen_dtype(np.float32)))


@case("kspace", "where complex numbers are read")
def text_for_numbers(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", data=np.full((2, 2, 2), b"abc")))


@case("kspace", "where complex numbers are read")
def real_for_complex(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", data=K.real))


@case("kspace", "has 9 axes")
def nine_axes(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", data=np.zeros((1,) * 9, "c8")))


@case("kspace", "has 2 axes")
def two_axes(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", data=K[0, 0]))


@case("kspace", "without any value")
def no_values(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", data=K[:, :0]))


@case("k-space", "NaN or infinite")
def not_finite(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.create_dataset("kspace", data=np.where(K == K[0, 0, 0, 1], np.nan, K)))


@case("mask", "k-space has 8 columns")
def mask_of_another_length(folder: Path) -> Path:
    return hdf5(folder, lambda f: (f.__setitem__("kspace", K), f.__setitem__("mask", np.ones(9))))


@case("the file", "damaged or not what it seems")
def cut_short(folder: Path) -> Path:
    path = hdf5(folder, lambda f: f.create_dataset("kspace", data=K))
    path.write_bytes(path.read_bytes()[:-1000])
    return path


@case("the file", "addresses of")
def noise_behind_the_mark(folder: Path) -> Path:
    path = folder / "file.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + np.random.default_rng(1).bytes(2000))
    return path


@case("the file", "of no known layout")
def another_layout(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.__setitem__("x", K))


# --- headers --------------------------------------------------------------------------------------------------------
@case("ismrmrd_header", "declares entities")
def billion_laughs(folder: Path) -> Path:
    lines = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    text = f'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a0 "lol">{lines}]><r>&a9;</r>'
    return hdf5(folder, lambda f: None, text)


@case("ismrmrd_header", "encodedSpace/matrixSize")
def endless_matrix(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, scan_files.header(10**9, 8))


@case("ismrmrd_header", "damaged or not what it seems")
def no_xml(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, "<ismrmrdHeader")


@case("ismrmrd_header", "no text in UTF-8")
def no_text(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, np.bytes_(b"\xff\xfe\xff"))


@case("ismrmrd_header", "headers of at most")
def long_header(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, "x" * (2**20 + 1))


def in_reference(folder: Path, offset: int, value: bytes) -> Path:
    """A header whose reference into the heap (length, address, number) is overwritten."""
    path = hdf5(folder, lambda f: None, scan_files.header(16, 8))
    with h5py.File(path) as file:
        at = file["ismrmrd_header"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[at + offset : at + offset + len(value)] = value
    path.write_bytes(bytes(content))
    return path


@case("ismrmrd_header", "leads to no heap")
def heap_elsewhere(folder: Path) -> Path:
    return in_reference(folder, 4, (512).to_bytes(8, "little"))


@case("ismrmrd_header", "the file ends at")
def heap_behind_the_end(folder: Path) -> Path:
    return in_reference(folder, 4, (2**60).to_bytes(8, "little"))


@case("ismrmrd_header", "headers of at most")
def list_of_4_gb(folder: Path) -> Path:
    return in_reference(folder, 0, b"\xff\xff\xff\xff")


@case("ismrmrd_header", "where the file holds none such")
def list_that_is_longer(folder: Path) -> Path:
    return in_reference(folder, 0, (3000).to_bytes(4, "little"))


# --- ISMRMRD --------------------------------------------------------------------------------------------------------
def ismrmrd(folder: Path, change: Callable[[Any], None], **options: Any) -> Path:
    path = scan_files.write_ismrmrd(folder / "scan.h5", K, **options)
    with h5py.File(path, "r+") as file:
        records = file["dataset/data"][()]
        change(records)
        file["dataset/data"][...] = records
    return path


@case("dataset/data", "a line outside of k-space")
def line_outside(folder: Path) -> Path:
    return ismrmrd(folder, lambda r: r["head"]["idx"]["kspace_encode_step_1"].__setitem__(3, 60000))


@case("dataset/data", "its header says at most 16")
def line_too_long(folder: Path) -> Path:
    return ismrmrd(folder, lambda r: r["head"]["number_of_samples"].__setitem__(3, 60000))


@case("dataset/data", "its header says 40")
def line_of_another_length(folder: Path) -> Path:
    return ismrmrd(folder, lambda r: r["head"]["number_of_samples"].__setitem__(slice(None), 10))


@case("dataset/data", "different numbers of coils")
def other_coils(folder: Path) -> Path:
    return ismrmrd(folder, lambda r: r["head"]["active_channels"].__setitem__(3, 60000))


@case("dataset/xml", "the trajectory 'radial'")
def another_trajectory(folder: Path) -> Path:
    return ismrmrd(folder, lambda r: None, xml=scan_files.header(16, 8, trajectory="radial"))


@case("dataset/data", "a damaged heap")
def damaged_heap(folder: Path) -> Path:
    path = ismrmrd(folder, lambda r: None)
    content = bytearray(path.read_bytes())
    at = content.find(b"GCOL")
    while at >= 0:
        if int.from_bytes(content[at + 24 : at + 32], "little") == 2 * 16 * 2 * 4:  # a line, not the header
            content[at + 24 : at + 32] = (2**40).to_bytes(8, "little")
        at = content.find(b"GCOL", at + 4)
    path.write_bytes(bytes(content))
    return path


# --- NIfTI ----------------------------------------------------------------------------------------------------------
def nifti(folder: Path, change: Callable[[bytearray], None], zipped: bool = False) -> Path:
    import nibabel

    image = nibabel.Nifti1Image(np.arange(6 * 5 * 4, dtype=np.float32).reshape(6, 5, 4), np.diag([2, 2, 2, 1]))
    content = bytearray(image.to_bytes())
    change(content)
    path = folder / ("volume.nii.gz" if zipped else "volume.nii")
    path.write_bytes(gzip.compress(bytes(content)) if zipped else bytes(content))
    return path


def dims(*numbers: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[40:56] = struct.pack("<8h", *numbers, *[1] * (8 - len(numbers)))

    return change


@case("dim", "above the limit")
def dims_of_terabytes(folder: Path) -> Path:
    return nifti(folder, dims(3, 32767, 32767, 32767))


@case("dim", "the file has")
def dims_behind_the_end(folder: Path) -> Path:
    return nifti(folder, dims(3, 60, 50, 4))


@case("dim", "9 axes")
def dims_of_nine_axes(folder: Path) -> Path:
    return nifti(folder, dims(9, 6, 5, 4))


@case("dim", "without any value")
def negative_dims(folder: Path) -> Path:
    return nifti(folder, dims(3, -6, 5, 4))


@case("the file", "more than")
def zipped_dims(folder: Path) -> Path:
    return nifti(folder, dims(3, 400, 600, 1), zipped=True)


@case("the volume", "ends before its numbers do")
def zipped_and_short(folder: Path) -> Path:
    return nifti(folder, dims(3, 6, 50, 4), zipped=True)


@case("the volume", "cut short")
def zipped_and_cut(folder: Path) -> Path:
    path = nifti(folder, lambda c: None, zipped=True)
    path.write_bytes(path.read_bytes()[:-60])
    return path


@case("vox_offset", "where the header has 348 bytes")
def numbers_in_the_header(folder: Path) -> Path:
    return nifti(folder, lambda c: c.__setitem__(slice(108, 112), struct.pack("<f", 0.0)))


@case("vox_offset", "where the header has 348 bytes")
def numbers_nowhere(folder: Path) -> Path:
    return nifti(folder, lambda c: c.__setitem__(slice(108, 112), struct.pack("<f", float("nan"))))


@case("datatype", "plain numbers")
def colours(folder: Path) -> Path:
    return nifti(folder, lambda c: c.__setitem__(slice(70, 74), struct.pack("<hh", 128, 24)))


@case("the affine", "singular or not finite")
def flat_affine(folder: Path) -> Path:
    return nifti(folder, lambda c: c.__setitem__(slice(280, 296), bytes(16)))


@case("the header", "in another file")
def two_files(folder: Path) -> Path:
    return nifti(folder, lambda c: c.__setitem__(slice(344, 348), b"ni1\0"))


@case("its values", "are infinite")
def infinite(folder: Path) -> Path:
    return nifti(folder, lambda c: c.__setitem__(slice(360, 364), struct.pack("<f", float("inf"))))


# --- DICOM ----------------------------------------------------------------------------------------------------------
VOLUME = np.arange(3 * 6 * 8).reshape(3, 6, 8)


def dicom(folder: Path, change: Callable[[bytearray], None] = lambda c: None, **values: Any) -> Path:
    path = scan_files.write_series(folder / "one", VOLUME[:1], **values)[0]
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(bytes(content))
    return path


def syntax(uid: bytes) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        at = content.find(b"1.2.840.10008.1.2.1\0")
        content[at - 2 : at + 20] = len(uid).to_bytes(2, "little") + uid
        at = content.find(b"\x02\0\0\0UL")  # the length of the group
        content[at + 8 : at + 12] = (int.from_bytes(content[at + 8 : at + 12], "little") + len(uid) - 20).to_bytes(
            4, "little"
        )

    return change


def pixels(value: bytes) -> Callable[[bytearray], None]:
    """Another length of PixelData."""

    def change(content: bytearray) -> None:
        at = content.find(b"\xe0\x7f\x10\0OW")
        content[at + 8 : at + 12] = value

    return change


@case("TransferSyntaxUID", "is deflated")
def deflated(folder: Path) -> Path:
    return dicom(folder, syntax(b"1.2.840.10008.1.2.1.99"))


@case("TransferSyntaxUID", "compressed pixels")
def compressed_pixels(folder: Path) -> Path:
    return dicom(folder, syntax(b"1.2.840.10008.1.2.4.50"))


@case("PixelData", "is encapsulated")
def encapsulated(folder: Path) -> Path:
    return dicom(folder, pixels(b"\xff\xff\xff\xff"))


@case("PixelData", "has 4,294,967,294 bytes")
def pixels_of_4_gb(folder: Path) -> Path:
    return dicom(folder, pixels(b"\xfe\xff\xff\xff"))


@case("PixelData", "pixels take 7,200")
def more_rows(folder: Path) -> Path:
    return dicom(folder, Rows=450)


@case("PixelData", "above the limit")
def rows_of_gigabytes(folder: Path) -> Path:
    return dicom(folder, Rows=65535, Columns=65535)


@case("PixelData", "ends behind the file")
def cut_pixels(folder: Path) -> Path:
    return dicom(folder, lambda c: c.__delitem__(slice(-20, None)))


@case("PixelData", "is not there")
def element_of_4_gb(folder: Path) -> Path:
    def change(content: bytearray) -> None:
        at = content.find(b"\x10\0\x10\0PN")  # PatientName, with a length of four bytes
        content[at + 4 : at + 8] = b"UN\0\0"
        content[at + 8 : at + 8] = b"\xf0\xff\xff\x7f"

    return dicom(folder, change)


@case("PixelData", "without any value")
def no_rows(folder: Path) -> Path:
    return dicom(folder, Rows=0)


@case("PhotometricInterpretation", "grey values")
def dicom_colours(folder: Path) -> Path:
    return dicom(folder, PhotometricInterpretation="RGB", SamplesPerPixel=3)


@case("NumberOfFrames", "one image")
def frames(folder: Path) -> Path:
    return dicom(folder, NumberOfFrames=4000)


@case("BitsAllocated", "is 12")
def odd_bits(folder: Path) -> Path:
    return dicom(folder, BitsAllocated=12)


@case("RescaleSlope", "is 0")
def no_slope(folder: Path) -> Path:
    return dicom(folder, RescaleSlope=0)


@case("PixelSpacing", "lengths in mm")
def negative_spacing(folder: Path) -> Path:
    return dicom(folder, PixelSpacing=[-1, 1])


@case("ImageOrientationPatient", "perpendicular unit vectors")
def skew(folder: Path) -> Path:
    return dicom(folder, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])


@case("link.dcm", "leads out of the folder")
def link_out_of_the_folder(folder: Path) -> Path:
    scan_files.write_series(folder / "series", VOLUME)
    (folder / "series" / "link.dcm").symlink_to(dicom(folder))
    return folder / "series"


@case("SeriesInstanceUID", "has 2 values")
def two_series(folder: Path) -> Path:
    scan_files.write_series(folder / "series", VOLUME)
    os.rename(dicom(folder), folder / "series" / "other.dcm")
    return folder / "series"


@case("ImagePositionPatient", "is an image missing?")
def gap(folder: Path) -> Path:
    paths = scan_files.write_series(folder / "series", np.concatenate([VOLUME, VOLUME + 1]))
    order = sorted(paths, key=lambda p: p.read_bytes().split(b"-10.0\\-20.0\\")[1][:6])
    order[2].unlink()
    return folder / "series"


@case("ImagePositionPatient", "the same for two images")
def two_volumes(folder: Path) -> Path:
    scan_files.write_series(folder / "series", VOLUME, spacing=0.0)
    return folder / "series"


@case("the folder", "holds no DICOM file")
def empty_folder(folder: Path) -> Path:
    return folder


# --- arrays ---------------------------------------------------------------------------------------------------------
def npy(folder: Path, header: str, numbers: bytes = b"") -> Path:
    text = header.encode("latin1").ljust(117) + b"\n"
    path = folder / "array.npy"
    path.write_bytes(b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + numbers)
    return path


@case("the header", "Python objects", kind="image")
def python_objects(folder: Path) -> Path:
    return npy(folder, "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }", bytes(32))


@case("the array", "above the limit", kind="image")
def array_of_terabytes(folder: Path) -> Path:
    return npy(folder, "{'descr': '<f8', 'fortran_order': False, 'shape': (1048576, 1048576), }")


@case("the array", "the file has", kind="image")
def array_cut_short(folder: Path) -> Path:
    return npy(folder, "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 4), }", bytes(60))


@case("the header", "damaged", kind="image")
def header_that_is_a_program(folder: Path) -> Path:
    return npy(folder, "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (4, 4), }")


@case("the array", "where real or complex or whole or boolean numbers", kind="image")
def array_of_text(folder: Path) -> Path:
    return npy(folder, "{'descr': '<U4', 'fortran_order': False, 'shape': (2, 2), }", bytes(64))


@case("the array", "k-space is complex", kind="kspace")
def real_kspace(folder: Path) -> Path:
    np.save(folder / "array.npy", K.real)
    return folder / "array.npy"


def bart(folder: Path, dims_: str = "16 8 1 2", size: int = 16 * 8 * 2 * 8) -> Path:
    (folder / "scan.hdr").write_text(f"# Dimensions\n{dims_}\n")
    (folder / "scan.cfl").write_bytes(bytes(size))
    return folder / "scan.cfl"


@case("the array", "dimensions", kind="kspace")
def numbers_too_few(folder: Path) -> Path:
    return bart(folder, size=100)


@case("the array", "dimensions", kind="kspace")
def dimensions_that_overflow(folder: Path) -> Path:
    return bart(folder, "4294967296 4294967296 4294967296 2")


@case("the header", "1 to 16 dimensions", kind="kspace")
def seventeen_dimensions(folder: Path) -> Path:
    return bart(folder, " ".join("1" * 17))


@case("the array", "leads out of the folder", kind="kspace")
def sibling_elsewhere(folder: Path) -> Path:
    path = bart(folder)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "secret").write_bytes((SECRET * 100)[: 16 * 8 * 2 * 8])
    path.unlink()
    path.symlink_to(folder / "elsewhere" / "secret")
    return path.with_suffix(".hdr")


@case("the file", "cannot be read", kind="kspace")
def header_alone(folder: Path) -> Path:
    path = bart(folder)
    path.unlink()
    return path.with_suffix(".hdr")


# --- sinograms ------------------------------------------------------------------------------------------------------
def npz(folder: Path, **values: Any) -> Path:
    given = {
        "counts": np.ones((4, 6)),
        "i0": 10.0,
        "ProjectionAngles": np.arange(4.0),
        "DetectorWidth": 1.0,
    } | values
    with zipfile.ZipFile(folder / "scan.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in given.items():
            if value is not None:
                content = io.BytesIO()
                np.save(content, value) if not isinstance(value, bytes) else content.write(value)
                file.writestr(f"{name}.npy", content.getvalue())
    return folder / "scan.npz"


@case("counts", "above the limit")
def zipped_bomb(folder: Path) -> Path:
    return npz(folder, counts=np.zeros((512, 512)))


@case("counts", "expands from", limit=2**30)
def zipped_bomb_below_the_limit(folder: Path) -> Path:
    return npz(folder, counts=np.zeros((2**11, 2**11), np.float64))


@case("counts", "Python objects")
def zipped_objects(folder: Path) -> Path:
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 6), }".ljust(117) + b"\n"
    return npz(folder, counts=b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + bytes(192))


@case("i0", "is not there")
def no_i0(folder: Path) -> Path:
    return npz(folder, i0=None)


@case("i0", "must be positive")
def zero_i0(folder: Path) -> Path:
    return npz(folder, i0=np.zeros(6))


@case("ProjectionAngles", "must be 4 finite angles")
def angles_of_another_scan(folder: Path) -> Path:
    return npz(folder, ProjectionAngles=np.arange(5.0))


@case("DetectorWidth", "must be a positive number")
def negative_bins(folder: Path) -> Path:
    return npz(folder, DetectorWidth=-1.0)


@case("DetectorCount", "is not the number of bins")
def other_bins(folder: Path) -> Path:
    return npz(folder, DetectorCount=7)


@case("type", "'cone'")
def another_geometry(folder: Path) -> Path:
    return npz(folder, type="cone")


@case("the file", "has no array")
def no_data(folder: Path) -> Path:
    return npz(folder, counts=None)


@case("the file", "where at most 100")
def many_members(folder: Path) -> Path:
    return npz(folder, **{f"a{i}": 0.0 for i in range(120)})


@case("the file", "without its directory")
def zip_cut_short(folder: Path) -> Path:
    path = npz(folder)
    path.write_bytes(path.read_bytes()[:-40])
    return path


# --- no files -------------------------------------------------------------------------------------------------------
@case("the file", "no regular file")
def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


@case("the file", "no regular file")
def device(folder: Path) -> Path:
    (folder / "scan.h5").symlink_to("/dev/zero")
    return folder / "scan.h5"


@case("the file", "is empty")
def empty(folder: Path) -> Path:
    (folder / "scan.h5").touch()
    return folder / "scan.h5"


@case("the file", "no kind that is known")
def another_kind(folder: Path) -> Path:
    (folder / "scan.dcm").write_bytes(SECRET)
    return folder / "scan.dcm"


@case("the file", "cannot be read")
def not_there(folder: Path) -> Path:
    return folder / "nothing.h5"
