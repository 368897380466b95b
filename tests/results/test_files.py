"""Results in files: bit for bit there and back, readable by others, and refused when they are not what they claim."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray
from torch import Tensor

from invsolve.core.packing import Layout, Part
from invsolve.errors import FileError, InputTypeError
from invsolve.results import writing
from invsolve.results.names import legal
from invsolve.results.result import Result
from invsolve.results.status import Status
from invsolve.solving.loading import load_result


def make(
    dtype: torch.dtype = torch.float32, *, batched: bool = True, shape: tuple[int, ...] = (3, 2), **changes: Any
) -> Result:
    lead = (5, 2) if batched else (5,)
    rng = torch.Generator().manual_seed(0)
    failed = torch.zeros(lead, dtype=torch.bool)
    failed[1] = True
    samples = torch.randn(*lead, *shape, dtype=dtype, generator=rng)
    samples[failed] = math.nan
    values: dict[str, Any] = dict(
        samples=samples,
        status=Status.SOME_FAILED,
        failed=failed,
        batched=batched,
        shape=shape,
        chi2=torch.rand(lead, generator=rng).masked_fill(failed, math.nan),
        strategy="MMPS",
        why='µ "quoted"\nreason',
        nfe=50.5,
        vjps=math.inf,
        operator_calls={"forward": 2**40},
        seconds=0.1 + 0.2,
        seed=-3,
        settings={"steps": 50, "third": 1 / 3, "none": None, "flag": True, "nested": {"a": [1, 2.5]}},
        versions={"torch": "2.15"},
        warnings=("one", "two"),
        info={
            "steps": torch.arange(10).reshape(5, 2) if batched else torch.arange(5),
            "stopped": failed,
            "residual": torch.rand(lead, generator=rng, dtype=torch.float64),
        },
    )
    return Result(**(values | changes))


def bits(value: Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(found: Result, want: Result) -> None:
    for item in dataclasses.fields(Result):
        a, b = getattr(found, item.name), getattr(want, item.name)
        if item.name in ("problem", "prior"):
            assert a is None
        elif isinstance(b, Tensor):
            assert a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b), item.name
        elif item.name in ("info", "parameters"):
            assert list(a) == list(b) and all(bits(a[k]) == bits(b[k]) and a[k].dtype == b[k].dtype for k in b)
        else:
            assert a == b, item.name


# --- there and back --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_round_trip_is_bit_exact(tmp_path, dtype, batched):
    result = make(dtype, batched=batched)
    result.save(tmp_path / "r.nc")
    assert os.listdir(tmp_path) == ["r.nc"]
    assert_same(load_result(tmp_path / "r.nc"), result)


@pytest.mark.parametrize("value", [-math.nan, -0.0, 5e-324, math.nan])
def test_special_values_keep_their_bits(tmp_path, value):
    result = make(torch.float64)
    result.samples[1] = value if math.isnan(value) else math.nan
    if not math.isnan(value):
        result.samples[0] = value
    result.save(tmp_path / "r.nc")
    assert_same(load_result(tmp_path / "r.nc"), result)


@pytest.mark.parametrize("shape", [(), (4,), (1, 2, 3, 2)], ids=str)
def test_any_number_of_axes(tmp_path, shape):
    result = make(shape=shape)
    result.save(str(tmp_path / "r.nc"))
    assert_same(load_result(str(tmp_path / "r.nc")), result)


def test_weights_layout_dims_units_and_a_long_setting(tmp_path):
    layout = Layout(parts=(Part(name="image", shape=(2,), kind="complex", unit="T"), Part(name="shift", shape=(3,))))
    weights = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    weights[0] = -math.inf
    result = make(
        shape=(7,),
        layout=layout,
        log_weights=weights,
        dims=("unknowns",),
        units="mm",
        settings={"text": "x" * 200_000},
        problem="not saved",
        prior="not saved",
    )
    result.save(tmp_path / "r.nc")
    back = load_result(tmp_path / "r.nc")
    assert_same(back, result)
    torch.testing.assert_close(back["image"].mean, result["image"].mean, rtol=0, atol=0)
    torch.testing.assert_close(back.mean, result.mean, rtol=0, atol=0)


def test_half_precision_becomes_float32(tmp_path):
    result = make(torch.bfloat16)
    result.save(tmp_path / "r.nc")
    back = load_result(tmp_path / "r.nc").samples
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, result.samples.float(), rtol=0, atol=0, equal_nan=True)


def test_loaded_tensors_can_be_written_to_and_outlive_the_file(tmp_path):
    make().save(tmp_path / "r.nc")
    back = load_result(tmp_path / "r.nc")
    os.remove(tmp_path / "r.nc")
    back.samples.add_(1)
    assert back.mean.isfinite().all()


def test_results_that_require_grad_or_are_conjugate_views_are_saved(tmp_path):
    result = make(torch.complex64)
    lazy = dataclasses.replace(result, samples=result.samples.conj().requires_grad_())
    lazy.save(tmp_path / "r.nc")
    found = load_result(tmp_path / "r.nc").samples
    torch.testing.assert_close(found, result.samples.conj().resolve_conj(), rtol=0, atol=0, equal_nan=True)


# --- xarray ----------------------------------------------------------------------------------------------------------
def test_the_dataset_has_named_axes_and_one_json_attribute_of_settings():
    result = make(torch.complex64, problem=SimpleNamespace(dims=("y", "x"), units="T"), log_weights=torch.zeros(5, 2))
    data = result.to_xarray()
    assert data.samples.dims == ("sample", "item", "y", "x") and data["std"].dims == ("item", "y", "x")
    assert data.failed.dtype == bool and data.samples.dtype == np.complex64 and data.samples.attrs == {"units": "T"}
    assert json.loads(data.attrs["settings"]) == result.settings
    assert json.loads(data.attrs["run"])["status"] == "SOME_FAILED"
    np.testing.assert_array_equal(data["mean"], result.mean)
    assert {"log_weights", "info_steps", "info_stopped"} <= set(data.data_vars)
    plain = make(batched=False).to_xarray()
    assert plain.samples.dims == ("sample", "axis_0", "axis_1") and plain.chi2.dims == ("sample",)


def test_signal_axes_called_like_ours_are_renamed():
    assert make(dims=("item", "x")).to_xarray().samples.dims == ("sample", "item", "axis_item", "x")
    for name in ("samples", "failed", "chi2", "info_steps", "log_weights", "sample"):
        assert make(dims=(name, f"axis_{name}")).to_xarray().mean("sample").samples.dims == (
            "item",
            f"axis_axis_{name}",
            f"axis_{name}",
        )
    assert make(dims=("lat/deg", "")).to_xarray().samples.dims == ("sample", "item", "lat%2Fdeg", "axis_")


# Ours, illegal in HDF5, or of a meaning of their own in NetCDF: each as an axis, a diagnostic, an unknown scalar, a unit.
HOSTILE = [
    *("samples", "sample", "axis_sample", "item", "mean", "std", "failed", "chi2", "log_weights", "info_x", "x"),
    *("parameter_x", "", " ", "a ", " a", ".", "..", "/", "a/b", "./a", "a//b", "a.b", "%", "a%2Fb", "lat/deg", "\0"),
    *("a\nb", "\u00e9", "e\u0301", "\ud800", "\u65e5", "$\\frac", "time", "units", "dims", "NAME", "x" * 300),
    *("phony_dim_0", "_NCProperties", "_nc4_non_coord_x", "_Netcdf4Dimid", "coordinates", "invsolve_result"),
]


@pytest.mark.parametrize("number", range(2))
def test_hostile_names_come_back_and_other_programs_read_them(tmp_path, number):
    """25 of them as axes of one signal, all of them as diagnostics, with names that renaming could lead to."""
    names = HOSTILE[22 * number :] + HOSTILE[: 22 * number]
    dims = tuple(dict.fromkeys(n for name in names[:22] for n in (name, f"axis_{legal(name)}")))[:25]
    values = {name: torch.rand(5, 2) for name in {*HOSTILE, *dims}}
    result = make(shape=(1,) * len(dims), dims=dims, info=values, parameters=values, units="".join(names))
    result.save(tmp_path / "r.nc")
    back = load_result(tmp_path / "r.nc")
    assert_same(back, result)
    assert back.dims == dims and back.units == "".join(names)
    with xarray.open_dataset(tmp_path / "r.nc", engine="h5netcdf") as data:
        xarray.testing.assert_identical(data.load(), result.to_xarray())


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_other_programs_read_the_file(tmp_path, dtype):
    result = make(dtype, dims=("y", "x"))
    result.save(tmp_path / "r.nc")
    with xarray.open_dataset(tmp_path / "r.nc", engine="h5netcdf") as data:
        xarray.testing.assert_identical(data.load(), result.to_xarray())


def test_settings_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(InputTypeError, match="Result.save: `settings` must be what JSON can hold, got .*not JSON"):
        make(settings={"x": torch.ones(2)}).save(tmp_path / "r.nc")
    assert os.listdir(tmp_path) == []


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.nc"
    old = make()
    old.save(path)

    def breaks(data, file, encoding):
        file.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(writing, "_to_netcdf", breaks)
    with pytest.raises(OSError, match="disk full"):
        make(torch.float64).save(path)
    assert os.listdir(tmp_path) == ["r.nc"]
    assert_same(load_result(path), old)


# --- files that are refused ------------------------------------------------------------------------------------------
@pytest.fixture
def path(tmp_path):
    make().save(tmp_path / "r.nc")
    return tmp_path / "r.nc"


def refused(path, message):
    with pytest.raises(FileError, match=message):
        load_result(path)


def test_missing_and_foreign_files(tmp_path):
    refused(tmp_path / "no.nc", "load_result: '.*no.nc' is no file")
    refused(tmp_path, "is no file")
    for raw in (b"", b"\x80\x04\x95garbage", b"CDF\x01", b"PK\x03\x04"):
        (tmp_path / "x.nc").write_bytes(raw)
        refused(tmp_path / "x.nc", r"is not a NetCDF-4 \(HDF5\) file: its first bytes are others")
    xarray.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    refused(tmp_path / "x.nc", "was not written by Result.save: it has no number 'invsolve_result' among")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[: max(8, int(share * len(raw)))])
    refused(path, "is cut short or damaged|is damaged")


def test_any_flipped_byte_is_refused_or_harmless(path):
    """No other exception, no crash: a FileError, or a result (a changed sample cannot be seen without a checksum)."""
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        where = int(rng.integers(8, len(raw)))
        path.write_bytes(raw[:where] + bytes([raw[where] ^ int(rng.integers(1, 256))]) + raw[where + 1 :])
        try:
            outcomes.add(type(load_result(path)).__name__)
        except FileError:
            outcomes.add("FileError")
    assert outcomes == {"Result", "FileError"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("invsolve_result", np.int64(99), "has format version 99, this release reads 1"),
        ("invsolve_result", np.array([1, 1]), r"has format version \[1, 1\]"),
        ("invsolve_result", "1", "it has no number 'invsolve_result' among its attributes"),
        ("settings", "{}", "has no text of fixed length 'settings' among its attributes"),  # a heap: HDF5 may hang
        ("settings", np.bytes_("{"), "has an attribute 'settings' that is not JSON"),
        ("settings", np.bytes_("[" * 100_000), "has an attribute 'settings' that is not JSON"),
        ("settings", np.bytes_("[1]"), "has an attribute 'settings' that is not a mapping"),
        ("run", np.float64(3), "has no text of fixed length 'run'"),
        ("run", np.bytes_(b"\xff"), "has an attribute 'run' that is not JSON"),
    ],
)
def test_hostile_attributes(path, name, value, message):
    with h5py.File(path, "r+", libver="latest") as file:
        del file.attrs[name]
        file.attrs[name] = value
    refused(path, message)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("status", "FINE", "has an unknown status 'FINE'"),
        ("status", None, "has no valid entry 'status' in its attribute 'run'"),
        ("seed", True, "has no valid entry 'seed'"),
        ("nfe", "50", "has no valid entry 'nfe'"),
        ("warnings", [1], "has no valid entry 'warnings'"),
        ("dims", ["x", "y", "z"], "is inconsistent: Result: `dims` must be 2 different names"),
        ("info", ["steps"], "has no valid entry 'info'"),
        ("info", {"steps": 64}, "has no valid entry 'info'"),
        ("info", {"steps": "object"}, "has a variable 'info_steps' of type int64, expected object"),
        ("info", {"gone": "int64"}, "has no variable 'info_gone' of its own"),
        ("batched", False, "is inconsistent: Result: `failed` must be of shape"),
        ("layout", [{"name": "a"}], "is damaged"),
        ("layout", [{"name": "", "shape": [2]}], "is inconsistent: Part: `name`"),
        ("status", "SUCCESS", "is inconsistent: Result: `status` must be Status.SOME_FAILED"),
    ],
)
def test_hostile_accounts_of_the_run(path, entry, value, message):
    with h5py.File(path, "r+", libver="latest") as file:
        run = json.loads(file.attrs["run"]) | {entry: value}
        del file.attrs["run"]
        file.attrs["run"] = np.bytes_(json.dumps(run))
    refused(path, message)


def replace(path, **options):
    with h5py.File(path, "r+") as file:
        del file["samples"]
        file.create_dataset("samples", **options)


def test_hostile_variables(path, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(10**4))
    shape = (5, 2, 3, 2)
    replace(path, shape=shape, dtype="f4", external=[(str(secret), 0, 10**4)])
    refused(path, "has a variable 'samples' that is no array of its own")
    replace(
        path, shape=(2**20, 2, 3, 2), dtype="f4"
    )  # declared, never written: would fill 50 MB of memory from nothing
    refused(path, "has a variable 'samples' that is compressed, chunked or incomplete")
    replace(path, data=np.zeros(shape, "f4"), compression="gzip")
    refused(path, "has a variable 'samples' that is compressed, chunked or incomplete")
    replace(path, data=np.zeros(shape, "i4"))
    refused(path, "has a variable 'samples' of type int32, expected float32 or float64 or complex64 or complex128")
    replace(path, shape=shape, dtype=h5py.string_dtype())
    refused(path, "has a variable 'samples' of type object")
    replace(path, data=np.zeros((5, 2, 3), "f4"))  # a signal of one axis: NaN rows are then no longer where failed says
    assert load_result(path).shape == (3,)
    replace(path, data=np.zeros((4, 2, 3, 2), "f4"))
    refused(path, "is inconsistent: Result: `failed` must be of shape")
    layout = h5py.VirtualLayout(shape=shape, dtype="f4")
    layout[:] = h5py.VirtualSource(str(secret), "x", shape=shape)
    with h5py.File(path, "r+") as file:
        del file["samples"]
        file.create_virtual_dataset("samples", layout)
    refused(path, "has a variable 'samples' that is no array of its own")


@pytest.mark.parametrize("kind", ["soft", "external", "group", "type", "missing"])
def test_links_and_other_things_in_place_of_variables(path, kind, tmp_path):
    make().save(tmp_path / "other.nc")
    with h5py.File(path, "r+") as file:
        file.move("chi2", "moved")
        if kind == "soft":
            file["chi2"] = h5py.SoftLink("/moved")
        elif kind == "external":
            file["chi2"] = h5py.ExternalLink(str(tmp_path / "other.nc"), "/chi2")
        elif kind == "group":
            file.create_group("chi2")
        elif kind == "type":
            file["chi2"] = np.dtype("f4")
    refused(path, "has no variable 'chi2' of its own|has a variable 'chi2' that is no array of its own")


def test_big_endian_files_are_read(path):
    """A file written on another machine: the numbers are the same."""
    want = make()
    with h5py.File(path, "r+") as file:
        value = file["samples"][()]
        del file["samples"]
        file.create_dataset("samples", data=value.astype(">f4"), dtype=">f4")
    found = load_result(path).samples
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want.samples, rtol=0, atol=0, equal_nan=True)
