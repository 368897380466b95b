"""Maps of a temperature from 60 stations, as xarray in and out.

    python examples/inpaint_field_xarray.py [--out maps.nc]

The fields are drawn from the prior itself, a Matern field, so the intervals must hold the truth as often as they say.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import xarray as xr

import invsolve as iv

SHAPE, DAYS, STATIONS, NOISE = (48, 72), 16, 60, 0.3  # grid (lat, lon), fields, sensors, std of a thermometer in K


def main(argv: list[str] | None = None) -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="NetCDF file to write")
    arguments = parser.parse_args(argv)

    # 15 degrees Celsius, give or take 4, correlated over 200 km in a box of 1000 km x 1500 km.
    spectrum = iv.priors.Matern(std=4.0, length=200.0, smoothness=1.0)
    prior = iv.priors.GaussianFieldPrior(shape=SHAPE, spectrum=spectrum, mean=15.0, extent=(1000.0, 1500.0))
    fields = prior.sample(DAYS, seed=0)
    rng = torch.Generator().manual_seed(1)
    index = torch.randperm(SHAPE[0] * SHAPE[1], generator=rng)[:STATIONS]
    A = iv.operators.Subsample(index=index, in_shape=SHAPE)
    y = A(fields) + NOISE * torch.randn(DAYS, STATIONS, generator=rng)
    days = np.datetime64("2026-03-01") + np.arange(DAYS)
    readings = xr.DataArray(y.numpy(), dims=("day", "station"), coords={"day": days}, name="temperature")

    # The readings say what the days are; where the signal is, which has other axes, is said beside them.
    grid = {"lat": np.linspace(40.0, 49.0, SHAPE[0]), "lon": np.linspace(0.0, 19.0, SHAPE[1])}
    problem = iv.Problem(A, readings, noise=NOISE, dims=("lat", "lon"), coords=grid, units="degC")
    result = iv.solve(problem, prior, num_samples=39, seed=0)
    maps = result.to_xarray()
    low, high, level = result.interval(0.9)
    truth = xr.DataArray(fields.numpy(), dims=("day", "lat", "lon"))
    inside = ((truth >= low.numpy()) & (truth <= high.numpy())).mean(("lat", "lon"))
    coverage, error = float(inside.mean()), float(inside.std(ddof=1)) / DAYS**0.5
    print(result)
    here = maps[["mean", "std"]].isel(day=0).sel(lat=45.0, lon=10.0, method="nearest")
    print(f"day 0 near 45 N 10 E: {float(here['mean']):.2f} +- {float(here['std']):.2f} degC")
    print(f"{level:.0%} intervals hold {coverage:.3f} +- {error:.3f} of the truth")
    report = result.check()
    print(report)
    if arguments.out:
        maps.to_netcdf(arguments.out, engine="h5netcdf")

    assert (maps["day"].values == days).all()
    assert maps["mean"].dims == ("day", "lat", "lon") and maps["samples"].dims == ("sample", "day", "lat", "lon")
    assert abs(coverage - level) < 5 * error, "exact draws of the right model cover as often as they say"
    assert report.passed


if __name__ == "__main__":
    main()
