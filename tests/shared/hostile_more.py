"""More files of the kind of `hostile_files`, for rules that are rarer."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scan_files
from h5py import h5d, h5p, h5s, h5t
from hostile_files import K, bart, case, chunked, dicom, hdf5, in_reference, ismrmrd, nifti, npy, npz


def low_level(
    folder: Path, kind: Any, layout: int = h5d.CONTIGUOUS, name: bytes = b"kspace", shape: Any = (2, 2)
) -> Path:
    path = folder / "file.h5"
    with h5py.File(path, "w") as file:
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_layout(layout)
        plan.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        h5d.create(file.id, name, kind, h5s.create_simple(shape), plan)
        if name != b"kspace":
            file["kspace"] = K
    return path


@case("kspace", "no int32, of another format")
def odd_numbers(folder: Path) -> Path:
    kind = h5t.STD_I32LE.copy()
    kind.set_precision(20)
    return low_level(folder, kind)


@case("kspace", "is empty")
def nothing_in_it(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.__setitem__("kspace", h5py.Empty("c8")))


@case("kspace", "at most 1,048,576 are read", limit=2**30)
def chunks_of_one_number(folder: Path) -> Path:
    shape = (2**21, 1, 1)
    return hdf5(folder, lambda f: f.create_dataset("kspace", shape=shape, dtype="c8", chunks=(1, 1, 1)))


@case("kspace", "for 4,096")
def chunk_that_is_long(folder: Path) -> Path:
    return chunked(folder, bytes(100_000))


@case("kspace", "has a chunk of 30 bytes")
def chunk_without_its_filter(folder: Path) -> Path:
    def fill(f: h5py.File) -> None:
        data = f.create_dataset("kspace", shape=K.shape, dtype="c8", chunks=K.shape, compression="gzip")
        data.id.write_direct_chunk((0, 0, 0, 0), bytes(30), filter_mask=1)

    return hdf5(folder, fill)


@case("kspace", "outside of its shape")
def chunk_elsewhere(folder: Path) -> Path:
    def fill(f: h5py.File) -> None:
        data = f.create_dataset("kspace", shape=(4, 5, 16, 8), dtype="c8", chunks=(1, 5, 16, 8))
        data[0] = data[3] = 1

    path = hdf5(folder, fill)
    before, after = (struct.pack("<4Q", n, 5, 16, 8) for n in (4, 2))  # its size, and the largest that it may have
    path.write_bytes(path.read_bytes().replace(before, after, 2))
    return path


@case("kspace", "file.h5', kspace: ")  # by HDF5, or behind it: that depends on its version
def numbers_at_the_end(folder: Path) -> Path:
    path = hdf5(folder, lambda f: f.__setitem__("kspace", K))
    with h5py.File(path) as file:
        at = struct.pack("<QQ", file["kspace"].id.get_offset(), K.nbytes)
    content = path.read_bytes()
    assert content.count(at) == 1
    path.write_bytes(content.replace(at, struct.pack("<QQ", len(content) - 8, K.nbytes)))
    return path


@case("k-space", "zero everywhere")
def only_zeros(folder: Path) -> Path:
    return hdf5(folder, lambda f: f.__setitem__("kspace", 0 * K))


@case("reconstruction_rss", "has 3 slices")
def images_of_another_scan(folder: Path) -> Path:
    return hdf5(folder, lambda f: (f.__setitem__("kspace", K), f.__setitem__("reconstruction_rss", np.ones((3, 8, 8)))))


# --- headers --------------------------------------------------------------------------------------------------------
@case("ismrmrd_header", "where text is read")
def number_for_header(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, np.arange(3))


@case("ismrmrd_header", "where one text is read")
def two_headers(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, np.array([b"a", b"b"]))


@case("ismrmrd_header", "a type that is not read")
def opaque_header(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, np.array([np.void(b"12345678")]))


@case("ismrmrd_header", "nested too deeply")
def nested_header(folder: Path) -> Path:
    kind: Any = np.dtype("<i4")
    for _ in range(7):
        kind = np.dtype([("a", kind)])
    return hdf5(folder, lambda f: None, np.zeros(1, kind))


@case("ismrmrd_header", "in its header (compact)")
def compact_header(folder: Path) -> Path:
    kind = h5t.C_S1.copy()
    kind.set_size(8)
    return low_level(folder, kind, h5d.COMPACT, b"ismrmrd_header", (1,))


@case("ismrmrd_header", "its length is wrong")
def list_longer_than_the_file(folder: Path) -> Path:
    return in_reference(folder, 0, (500_000).to_bytes(4, "little"))


@case("ismrmrd_header", "damaged or not what it seems")
def list_of_nothing(folder: Path) -> Path:
    return in_reference(folder, 0, bytes(4))


@case("ismrmrd_header", "no element 'encoding'")
def header_of_something_else(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, "<html><body/></html>")


@case("ismrmrd_header", "no number at encodedSpace/fieldOfView_mm/x")
def field_of_view_without_number(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, scan_files.header(16, 8).replace("<x>32.0</x>", "<x>wide</x>", 1))


@case("ismrmrd_header", "that are not in order")
def encodings_out_of_order(folder: Path) -> Path:
    return hdf5(folder, lambda f: None, scan_files.header(16, 8, centre=9, high=3))


# --- ISMRMRD --------------------------------------------------------------------------------------------------------
def table(folder: Path, values: Any, **options: Any) -> Path:
    path = folder / "scan.h5"
    with h5py.File(path, "w") as file:
        file["dataset/xml"] = scan_files.header(16, 8)
        file.create_dataset("dataset/data", data=values, **options)
    return path


@case("dataset/data", "no table of acquisitions")
def another_table(folder: Path) -> Path:
    return table(folder, np.zeros(4, [("a", "<f4")]))


@case("dataset/data", "has shape (3, 3)")
def table_of_two_axes(folder: Path) -> Path:
    return table(folder, np.zeros((3, 3)))


@case("dataset/data", "something else than float32")
def lists_of_whole_numbers(folder: Path) -> Path:
    return table(folder, None, shape=(3,), dtype=h5py.vlen_dtype(np.int64))


@case("dataset/data", "has no line of an image")
def noise_alone(folder: Path) -> Path:
    return ismrmrd(folder, lambda r: r["head"]["flags"].__setitem__(slice(None), 1 << 18))


@case("dataset/data", "has 2 partitions")
def three_dimensions(folder: Path) -> Path:
    return ismrmrd(folder, lambda r: r["head"]["idx"]["kspace_encode_step_2"].__setitem__(3, 1))


@case("dataset/data", "NaN or infinite")
def line_of_nan(folder: Path) -> Path:
    def change(records: Any) -> None:
        records["data"][3] = np.full_like(records["data"][3], np.nan)

    return ismrmrd(folder, change)


# --- others ---------------------------------------------------------------------------------------------------------
@case("scl_inter", "is nan")
def no_intercept(folder: Path) -> Path:
    return nifti(folder, lambda c: c.__setitem__(slice(112, 120), struct.pack("<ff", 2.0, float("nan"))))


@case("the header", "is above the limit", limit=1000)
def long_comment(folder: Path) -> Path:
    return dicom(folder, ImageComments="x" * 5000)


@case("the array", "2 or 3 or 4 axes are read", kind="kspace")
def five_axes(folder: Path) -> Path:
    np.save(folder / "array.npy", K[None])
    return folder / "array.npy"


@case("the array", "differs between machines", kind="image")
def long_doubles(folder: Path) -> Path:
    return npy(folder, "{'descr': '<f16', 'fortran_order': False, 'shape': (2, 2), }", bytes(64))


@case("the header", "version 3.0", kind="image")
def version_three(folder: Path) -> Path:
    path = npy(folder, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }", bytes(32))
    path.write_bytes(path.read_bytes().replace(b"NUMPY\x01", b"NUMPY\x03"))
    return path


@case("the header", "two of space", kind="kspace")
def space_of_three_dimensions(folder: Path) -> Path:
    return bart(folder, "16 8 2 1")


@case("counts", "declares 224 bytes and has 320")
def member_of_another_length(folder: Path) -> Path:
    content = io.BytesIO()
    np.save(content, np.ones((4, 6)))
    return npz(folder, counts=content.getvalue().replace(b"(4, 6)", b"(4, 3)"))


@case("counts", "something else than deflate")
def another_compression(folder: Path) -> Path:
    path = npz(folder)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file:
        for name, value in members.items():
            file.writestr(name, value)
    return path


@case("counts", "bytes in a file of")
def member_larger_than_the_file(folder: Path) -> Path:
    path = npz(folder)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 20 : at + 24] = (10**6).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    return path


@case("kspace", "expands from", limit=2**20)
def chunks_much_larger_than_what_is_in_them(folder: Path) -> Path:
    """512 bytes in chunks that inflate to 32 MiB; of a million of them, to more than anybody waits for."""

    def fill(f: h5py.File) -> None:
        whole = {"maxshape": (64, None, None), "chunks": (1, 1, 2**16), "compression": "gzip"}
        f.create_dataset("kspace", data=np.zeros((64, 1, 1), np.complex64), **whole)

    return hdf5(folder, fill)


@case("kspace", "they overlap")
def chunks_that_overlap(folder: Path) -> Path:
    path = hdf5(folder, lambda f: f.create_dataset("kspace", data=K, chunks=(1, 1, 4, 2), compression="gzip"))
    with h5py.File(path) as file:
        data = file["kspace"].id
        found = [data.get_chunk_info(i) for i in range(data.get_num_chunks())]
    content = path.read_bytes()
    for chunk in found:  # the key of a chunk: its bytes, filters that were left out, its place
        key = struct.pack("<II4Q", chunk.size, 0, *chunk.chunk_offset)
        assert content.count(key) == 1
        content = content.replace(key, struct.pack("<I", 1000) + key[4:])
    path.write_bytes(content)
    return path


def large_zip(folder: Path, members: int, shift: int = 0) -> Path:
    """With the record of files above 2 GiB, which counts, and a usual one before it that says little."""
    path = npz(folder)
    content = path.read_bytes()
    at = content.rfind(b"PK\x05\x06")
    size, begin = struct.unpack_from("<II", content, at + 12)
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, members, members, size, begin)
    place = struct.pack("<IIQI", 0x07064B50, 0, at + shift, 1)
    path.write_bytes(content[:at] + record + place + content[at:])
    return path


@case("the file", "members, where at most 100")
def zip_with_another_number_of_members(folder: Path) -> Path:
    return large_zip(folder, 101)


@case("the file", "elsewhere than before its end")
def zip_with_its_record_elsewhere(folder: Path) -> Path:
    return large_zip(folder, 4, shift=-1)


def retyped(folder: Path, change: Any) -> Path:
    """A table of acquisitions whose heads have other types: ``change`` of their fields, by name."""
    path = ismrmrd(folder, lambda r: None)
    with h5py.File(path, "r+") as file:
        records = file["dataset/data"][()]
        fields = {name: kind[0] for name, kind in records.dtype["head"].fields.items()}
        new = [("head", np.dtype(list(change(fields).items())))]
        new += [(name, records.dtype.fields[name][0]) for name in ("traj", "data")]
        made = np.zeros(len(records), np.dtype(new))
        for name in ("traj", "data"):
            made[name] = records[name]
        for name in ("active_channels", "number_of_samples"):
            made["head"][name] = records["head"][name]
        del file["dataset/data"]
        file.create_dataset("dataset/data", data=made)
    return path


@case("the file", "damaged or not what it seems")
def flags_that_are_no_whole_numbers(folder: Path) -> Path:
    return retyped(folder, lambda fields: fields | {"flags": np.dtype("<f8")})


@case("the file", "damaged or not what it seems")
def counters_without_slices(folder: Path) -> Path:
    def change(fields: dict[str, Any]) -> dict[str, Any]:
        idx = fields["idx"].fields
        return fields | {"idx": np.dtype([(name, kind[0]) for name, kind in idx.items() if name != "slice"])}

    return retyped(folder, change)
