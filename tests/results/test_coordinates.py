"""Names and coordinates of data: in results, datasets and files; the axis of named parameters."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
import xarray

import invsolve as iv
from invsolve.errors import FileError, InputError, InputTypeError
from invsolve.results.inferencedata import variables_of

FIELD = iv.priors.GaussianFieldPrior((6, 5), iv.priors.Matern(std=1.0, length=0.3))
DATES = np.array(["2026-01-01", "2026-01-02T03:04:05.000000006", "NaT"], "M8[ns]")
COORDS = {
    "time": DATES,
    "lat": ("lat", np.linspace(40.0, 45.0, 6), {"units": "degrees_north", "standard_name": "latitude", "valid": 1.5}),
    "lon": np.arange(5, dtype=np.int16),
    "area": (("lat", "lon"), np.arange(30.0, dtype=np.float32).reshape(6, 5)),
    "sea": (("lat", "lon"), np.arange(30).reshape(6, 5) % 2 == 0),
    "phase": ("lon", np.arange(5) * 1j),
    "lag": ("lat", np.arange(6).astype("m8[ns]")),
    "station": ("time", ["a", "b\u00fccher", ""]),
    "run": "x7",
    "level": 850.0,
    "count": ("lat", np.arange(6, dtype=np.uint32)),
}
Y = xarray.DataArray(
    np.random.default_rng(0).normal(size=(3, 6, 5)), dims=("time", "lat", "lon"), coords=COORDS, name="T"
)


def solved(y, A=None):
    return iv.solve(iv.operators.Identity() if A is None else A, y, FIELD, noise=0.5, num_samples=9)


CASES = {
    "a series of maps": Y,
    "one map": Y[0],
    "a dataset of one variable": Y.to_dataset(),
    "text along an axis": Y.drop_vars(["lat", "lag", "area"]).assign_coords(lat=list("uvwxyz")),
    "dates before nanoseconds": Y[0].assign_coords(
        lat=np.arange(6).astype("M8[Y]").astype("M8[s]") - 900 * 365 * 86400
    ),
    "names that are ours": Y.rename(time="sample", lat="mean", station="failed", area="settings"),
    "names that files cannot have": Y.rename(time="a/b", lat="", station=" x", area="."),
}


@pytest.mark.parametrize("case", CASES)
def test_they_come_back_from_a_solve_and_a_file(case, tmp_path):
    y = CASES[case]
    result = solved(y)
    data = result.to_xarray()
    array = y if isinstance(y, xarray.DataArray) else Y
    assert data["mean"].shape == array.shape and len(data.coords) == len(array.coords)
    if not case.startswith("names"):
        assert data["mean"].dims == array.dims and data["samples"].dims == ("sample", *array.dims)
        for name, found in array.coords.items():
            xarray.testing.assert_identical(data.coords[name].reset_coords(drop=True), found.reset_coords(drop=True))
    path = result.save(tmp_path / "r")
    assert path == tmp_path / "r.nc"
    back = iv.load_result(tmp_path / "r")
    xarray.testing.assert_identical(back.to_xarray(), data)
    for name, found in back.to_xarray().coords.items():
        assert found.dtype == data.coords[name].dtype or found.dtype.kind == "U", name
    if "before" not in case:  # which others read in the unit that they are asked for
        with xarray.open_dataset(path, engine="h5netcdf", decode_timedelta=True) as others:
            xarray.testing.assert_identical(others.load(), data)
    back.save(tmp_path / "again.nc")
    xarray.testing.assert_identical(iv.load_result(tmp_path / "again.nc").to_xarray(), data)


def test_they_are_the_users_no_more(tmp_path):
    y = Y.copy(deep=True)
    result = solved(y)
    y.coords["area"].values[:] = -1
    assert float(result.to_xarray().coords["area"].min()) == 0
    result.to_xarray().coords["area"].values[:] = -1
    assert float(result.to_xarray().coords["area"].min()) == 0


def test_derived_results_keep_those_of_the_batch():
    norm = solved(Y).map(lambda x: x.flatten(1).norm(dim=1)).to_xarray()
    assert norm["mean"].dims == ("time",) and set(norm.coords) == {"time", "station", "run", "level"}
    assert norm["mean"].sel(time="2026-01-01").item() == norm["mean"].values[0]


def test_transformed_priors_and_unknown_scalars_keep_them():
    positive = iv.priors.exp(FIELD)
    few = dict(strategy=iv.strategies.NoiseMCMC(chains=16, num_steps=4), num_samples=4, noise=0.5)
    assert set(iv.solve(iv.operators.Identity(), Y[0], positive, **few).to_xarray().coords) == set(Y.coords)
    unknown = iv.noise.Gaussian(std=iv.LogNormal(median=0.5, factor=2))
    data = iv.solve(iv.operators.Identity(), Y[:2], FIELD, noise=unknown, num_samples=4).to_xarray()
    assert set(data.coords) == set(Y.coords) and data["parameter_noise.std"].dims == ("sample", "time")


def test_where_the_data_are_elsewhere_the_signal_has_no_names():
    """k-space, sinograms and patterns of the shape of the image; the batch has its name all the same."""
    field = iv.priors.GaussianFieldPrior((6, 5), iv.priors.Matern(std=1.0, length=0.3), kind="complex")
    mri = iv.operators.MRI(np.ones((6, 5), bool), (6, 5))
    for A in (mri, 2.0 * mri, iv.operators.Mask(np.ones((6, 5), bool), kind="complex") @ mri):
        data = iv.solve(A, Y + 0j, field, noise=0.5, num_samples=3).to_xarray()
        assert data["mean"].dims == ("time", "axis_0", "axis_1")
        assert set(data.coords) == {"time", "station", "run", "level"}
    scan = iv.operators.ParallelBeam(np.arange(6.0), (6, 5), bins=5)
    assert iv.Problem(scan, Y[0], 0.5).dims is None
    assert iv.Problem(scan, Y[0], 0.5, dims=("y", "x")).dims == ("y", "x")
    volume = xarray.DataArray(np.ones((3, 6, 5)), dims=("z", "y", "x"))
    cone = iv.operators.ConeBeam(
        np.arange(3.0), (3, 6, 5), rows=6, bins=5, source_to_center=20.0, source_to_detector=30.0
    )
    sets = iv.operators.SoftSense(np.ones((6, 5), bool), (3, 6, 5), maps=np.ones((3, 3, 6, 5)))
    spokes = iv.operators.NonCartesianMRI(np.ones((5, 2)), (6, 5), maps=np.ones((6, 6, 5)))
    mixed = iv.operators.StructuredRandom.draw((8,), 8)
    for A, y in (
        (cone, volume),
        (sets, volume + 0j),
        (spokes, volume[0] + 0j),
        (mixed, xarray.DataArray(np.ones(8), dims="t")),
    ):
        assert A.in_shape == A.out_shape and iv.Problem(A, y, 0.5).dims is None
    assert iv.Problem(iv.operators.Subsample(np.arange(4), (6, 5)), Y[0, 0, :4], 0.5).dims is None
    blur = iv.operators.GaussianBlur(1.0, (6, 5))
    assert iv.Problem(blur, Y, 0.5).dims == ("lat", "lon")


def test_they_can_be_stated():
    A = iv.operators.Subsample(np.arange(4), (6, 5))
    readings = xarray.DataArray(np.ones((2, 4)), dims=("day", "station"), coords={"day": DATES[:2]})
    grid = {"lat": [1, 2, 3, 4, 5, 6], "lon": Y.lon, "depth": (("lat", "lon"), np.ones((6, 5))), "model": "old"}
    problem = iv.Problem(A, readings, 0.5, dims=("lat", "lon"), coords=grid)
    data = iv.solve(problem, FIELD, num_samples=3).to_xarray()
    assert data["mean"].dims == ("day", "lat", "lon") and set(data.coords) == {*grid, "day"}
    assert data["lat"].values.tolist() == [1, 2, 3, 4, 5, 6] and (data["day"].values == DATES[:2]).all()
    part = problem.take(torch.tensor([1]))
    assert (
        part.coords["day"].values.tolist() == DATES[1:2].tolist() and part.to(dtype=torch.float64).dims == problem.dims
    )
    named = iv.Problem(A, np.ones((2, 4)), 0.5, batch_dim="day", coords={"day": ["a", "b"]})
    assert iv.solve(named, FIELD, num_samples=3).to_xarray()["mean"].dims == ("day", "axis_0", "axis_1")


def test_arviz_gets_them():
    _, dims, coords = variables_of(solved(Y))
    assert dims["x"] == ["time", "lat", "lon"] and set(coords) == {"time", "lat", "lon"}
    np.testing.assert_array_equal(coords["lat"], Y.lat)


REFUSED = {
    "no mapping": (dict(coords=[1]), InputTypeError, "`coords` must be a mapping of names"),
    "another length": (
        dict(dims=("a", "b"), coords={"a": [1, 2]}),
        InputError,
        r"coords\['a'\]` .* a \(6\), b \(5\), got",
    ),
    "no such axis": (dict(coords={"a": [1, 2]}), InputError, "none: state dims= too"),
    "across its own axis": (
        dict(dims=("a", "b"), coords={"a": ("b", np.ones(5))}),
        InputError,
        "along axes of the signal",
    ),
    "objects": (dict(dims=("a", "b"), coords={"a": [{}] * 6}), InputTypeError, "must be numbers, text or dates"),
    "ragged": (dict(dims=("a", "b"), coords={"c": (("a", "b"), np.ones(6))}), InputTypeError, "numbers, text or dates"),
    "a number for a name": (dict(batch_dim=1), InputTypeError, "`batch_dim` must be a name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    options, error, words = REFUSED[case]
    with pytest.raises(error, match=f"Problem: .*{words}"):
        iv.Problem(iv.operators.Identity((6, 5)), np.ones((6, 5)), 0.5, **options)


def test_a_dataset_of_several_variables_is_asked_for_one():
    with pytest.raises(InputTypeError, match=r"a Dataset of 2 variables \('area', 'T'\). Take one .*: y\['area'\]"):
        solved(Y.reset_coords("area"))
    with pytest.raises(InputTypeError, match=r"a Dataset of 0 variables \(none\)"):
        solved(xarray.Dataset())


def test_calendars_of_their_own_are_left_out():
    pytest.importorskip("cftime")
    y = Y.assign_coords(time=xarray.date_range("2000-01-30", periods=3, calendar="360_day", use_cftime=True))
    data = solved(y).to_xarray()
    assert data["mean"].dims[0] == "time" and "time" not in data.coords


@pytest.mark.parametrize(
    "said",
    [
        7,
        {"variable": "lat", "dims": ["lat"], "dtype": "object", "attrs": {}},
        {"variable": 1, "dims": ["lat"], "dtype": "float64", "attrs": {}},
        {"variable": "lat", "dims": ["lat", "lon"], "dtype": "float64", "attrs": {}},
        {"variable": "lat", "dims": ["lat"], "dtype": "float64", "attrs": {"a": []}},
        {"variable": "nothing", "dims": ["lat"], "dtype": "float64", "attrs": {}},
        {"variable": "lat", "dims": ["lat"], "dtype": "text", "attrs": {}},
    ],
)
def test_files_that_say_something_else_are_refused(said, tmp_path):
    path = solved(Y[0]).save(tmp_path / "r.nc")
    with h5py.File(path, "r+") as file:
        run = json.loads(bytes(file.attrs["run"]))
        run["coords"]["lat"] = said
        file.attrs["run"] = np.bytes_(json.dumps(run))
    with pytest.raises(FileError, match="load_result"):
        iv.load_result(path)


def test_named_parts_are_along_an_axis_of_names(tmp_path):
    prior = iv.priors.independent(rate=iv.Normal(mean=1.0, std=0.5), limit=iv.Normal(mean=4.0, std=2.0))
    result = iv.solve(iv.operators.Identity(), [1.0, 4.0], prior, noise=0.5)
    data = result.to_xarray()
    assert data["mean"].sel(parameter="limit").item() == result["limit"].mean.item()
    result.save(tmp_path / "r.nc")
    back = iv.load_result(tmp_path / "r.nc")
    assert back["limit"].mean == result["limit"].mean
    xarray.testing.assert_identical(back.to_xarray(), data)
    layout = iv.Layout([iv.Part("image", (2, 2), kind="complex"), iv.Part("shift", (2,)), iv.Part("gain", ())])
    assert layout.labels == (
        *("image[0, 0].re", "image[0, 0].im", "image[0, 1].re", "image[0, 1].im", "image[1, 0].re", "image[1, 0].im"),
        *("image[1, 1].re", "image[1, 1].im", "shift[0]", "shift[1]", "gain"),
    )
    assert len(layout.labels) == layout.size


def test_the_grid_of_an_operator_names_the_axes_of_the_result():
    grid = iv.CartesianGrid((4, 5), extent=(2.0, 3.0), points="interior", unit="km")
    prior = iv.priors.GaussianFieldPrior(grid, iv.priors.Matern(1.0, 0.6), dtype=torch.float64)
    sensors = iv.operators.PointValues(grid, [[0.5, 0.6]])
    for A in (sensors, sensors @ iv.operators.Poisson(grid), iv.operators.Poisson(grid) >> sensors):
        data = iv.solve(A, [0.1], prior, noise=0.1, num_samples=4).to_xarray()
        assert data["mean"].dims == ("y", "x")
        assert np.array_equal(data["x"], grid.axes[1]) and data["x"].attrs["units"] == "km"
    stated = iv.Problem(A, [0.1], 0.1, dims=("lat", "lon"))
    assert stated.dims == ("lat", "lon") and not stated.coords
