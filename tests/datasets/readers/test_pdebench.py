"""Fields in the layouts of PDEBench: what is written is read, sample by sample, and nothing else is."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import FileError, InputError, InputTypeError

open_fields = iv.datasets.open_fields


def darcy(path, samples=5, n=6, m=4, **more):
    rng = np.random.default_rng(0)
    a, u = rng.random((samples, n, m), dtype=np.float32), rng.random((samples, 1, n, m), dtype=np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("nu", data=a, **more)
        file.create_dataset("tensor", data=u, **more)
        file["x-coordinate"] = (np.arange(n) + 0.5) / n
        file["y-coordinate"] = 2 * (np.arange(m) + 0.5) / m - 1
        file["t-coordinate"] = np.arange(2.0)
        file.attrs["beta"], file.attrs["name"] = 0.1, "darcy"
    return a, u


@pytest.mark.parametrize("more", [{}, {"chunks": (2, 3, 4), "compression": "gzip", "shuffle": True}])
def test_arrays_of_all_samples(tmp_path, more):
    if more:
        path = tmp_path / "d.h5"
        a, _ = darcy(path)
        with h5py.File(path, "a") as file:
            del file["nu"]
            file.create_dataset("nu", data=a, **more)
    else:
        a, _ = darcy(path := tmp_path / "d.h5")
    found = open_fields(path)
    assert len(found) == 5
    assert list(found.arrays) == ["nu", "tensor"]
    assert found["tensor"].shape == (5, 1, 6, 4)
    assert found.grid.shape == (6, 4)
    assert found.grid.extent == pytest.approx((1.0, 2.0))
    assert found.grid.origin == pytest.approx((0.0, -1.0), abs=1e-12)
    assert (found.grid.points, found.grid.names) == ("centers", ("x", "y"))
    assert found.parameters == {"beta": 0.1}
    assert found.times.tolist() == [0.0, 1.0]
    assert "beta = 0.1" in repr(found)
    rows = found["nu"][1:4]
    assert rows.dtype == torch.float32
    np.testing.assert_array_equal(rows.numpy(), a[1:4])
    np.testing.assert_array_equal(found["nu"][-1].numpy(), a[-1])
    np.testing.assert_array_equal(found["nu"][[3, 0, 3]].numpy(), a[[3, 0, 3]])
    rows[:] = 0  # the reader's own memory is nobody else's
    np.testing.assert_array_equal(found["nu"][1].numpy(), a[1])


def test_a_group_for_every_sample(tmp_path):
    path, rng = tmp_path / "r.h5", np.random.default_rng(1)
    values = rng.random((3, 4, 5, 5, 2)).astype("f4")
    with h5py.File(path, "w") as file:
        for i, value in enumerate(values):
            group = file.create_group(f"{i:04d}")
            group["data"] = value
            group["grid/t"], group["grid/x"] = np.linspace(0, 5, 4), (np.arange(5) + 0.5) / 5
            group["grid/y"] = (np.arange(5) + 0.5) / 5
    found = open_fields(path)
    assert (len(found), found["data"].shape, found.grid.shape) == (3, (3, 4, 5, 5, 2), (5, 5))
    assert found.times[-1] == 5.0
    np.testing.assert_array_equal(found["data"][2].numpy(), values[2])


def test_only_rows_are_read_and_no_more_than_the_limit(tmp_path):
    darcy(tmp_path / "d.h5")
    found = open_fields(tmp_path / "d.h5", limit=6 * 4 * 4 * 2)
    assert found["nu"][:2].shape == (2, 6, 4)
    with pytest.raises(FileError, match="nu: declares 288 bytes, above the limit"):
        found["nu"][:3]
    with pytest.raises(IndexError, match="has 5 samples"):
        found["nu"][5]
    with pytest.raises(InputError, match="one of 'nu', 'tensor'"):
        found["pressure"]


def test_a_torus_and_points_that_are_no_grid(tmp_path):
    def written(name, x):
        with h5py.File(tmp_path / name, "w") as file:
            file["tensor"], file["x-coordinate"] = np.zeros((2, 3, 8)), x
        return open_fields(tmp_path / name)

    torus = written("a.h5", np.arange(8) / 8).grid
    assert (torus.points, torus.extent) == ("periodic", (1.0,))
    assert written("b.h5", np.arange(8.0) ** 2).grid is None
    assert written("c.h5", np.arange(5.0)).grid is None


def linked(path):
    darcy(path)
    with h5py.File(path, "a") as file:
        del file["nu"], file["tensor"]
        file["nu"] = h5py.ExternalLink("other.h5", "nu")


def virtual(path):
    layout = h5py.VirtualLayout(shape=(5, 4, 4), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "nu", shape=(5, 4, 4))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("nu", layout)


def uneven(path):
    with h5py.File(path, "w") as file:
        file["nu"], file["tensor"] = np.zeros((3, 4, 4)), np.zeros((2, 4, 4))


def words(path):
    with h5py.File(path, "w") as file:
        file["nu"] = np.array([[b"a", b"b"]])


def unequal(path):
    with h5py.File(path, "w") as file:
        file["0000/data"], file["0001/data"] = np.zeros((2, 3)), np.zeros((2, 4))


def wide(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("nu", data=np.zeros((2, 4000)), chunks=(1, 4000), compression="gzip")


def never_written(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("nu", shape=(2**20, 2**20), dtype="f4")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (linked, "holds no fields"),
        (virtual, "nu: is virtual"),
        (uneven, "different numbers of samples"),
        (words, "nu: has values of type"),
        (unequal, "data: differs between samples"),
        (wide, "nu: declares 32,000 bytes, above the limit"),
        (never_written, "nu: declares .* it was never written"),
        (lambda path: path.write_bytes(b"no such thing"), "is no HDF5"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), "has addresses of 0 bytes"),
    ],
)
def test_what_is_no_such_file_is_refused_by_name_and_rule(tmp_path, make, rule):
    make(tmp_path / "f.h5")
    with pytest.raises(FileError, match=f"iv.datasets.open_fields: .*f.h5.*{rule}"):
        open_fields(tmp_path / "f.h5", limit=10_000)


def test_arguments_are_checked():
    with pytest.raises(InputTypeError, match="the path of a file"):
        open_fields(3)
    with pytest.raises(InputError, match="limit"):
        open_fields("f.h5", limit=0)
    with pytest.raises(FileError, match="cannot be read"):
        open_fields("nowhere.h5")


@pytest.mark.parametrize("x", [[0, np.inf, np.inf], [0, np.nan, 1], [-1.5e308, 0, 1.5e308], [0, 1.7e308, np.inf]])
def test_coordinates_that_are_no_numbers_are_no_grid(tmp_path, x):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["tensor"], file["x-coordinate"] = np.zeros((2, 3, 3)), np.array(x, dtype="f8")
    assert open_fields(tmp_path / "x.h5").grid is None
