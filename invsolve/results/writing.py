"""Results as xarray datasets and NetCDF files; `invsolve.results.reading` reads them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from invsolve.core.coordinates import Coordinate
from invsolve.core.files import atomic_write, with_extension
from invsolve.errors import invalid_type
from invsolve.gaussian.marginals import LatticeMarginals, Marginals, MixtureMarginals, NormalMarginals
from invsolve.results.coordinates import account, as_shown, as_stored
from invsolve.results.names import axis_names, legal, printable
from invsolve.results.posterior_samples import PosteriorSamples

if TYPE_CHECKING:
    import xarray

VERSION = 1
MARK = "invsolve_result"  # attribute: the version of this format
_KINDS: dict[type[Marginals], str] = {  # others: mean and std
    NormalMarginals: "normal",
    MixtureMarginals: "mixture",
    LatticeMarginals: "lattice",
}
LATTICE = ("mean", "std", "values", "levels")  # variables of an unknown scalar
# Variables of a mixture, and whether they have the signal's axes.
_COMPONENTS = {"marginal_weights": False, "marginal_means": True, "marginal_stds": True}


def to_xarray(result: PosteriorSamples) -> xarray.Dataset:
    """The dataset of `Result.to_xarray`; dims without a name are 'axis_0', ..., illegal ones renamed."""
    return _dataset(result)[0]


def _dataset(result: PosteriorSamples, *, stored: bool = False) -> tuple[xarray.Dataset, dict[str, Any]]:
    """The dataset and how its variables are encoded; ``stored``: with dates as integers, as files have them."""
    import xarray

    info = {name: f"info_{legal(name)}" for name in result.info}
    parameters = {name: f"parameter_{legal(name)}" for name in result.parameters}
    taken = {"sample", "item", "samples", "mean", "std", "chi2", "failed", "log_weights", "component", *_COMPONENTS}
    named = result.dims or (("parameter",) if result.layout is not None else None)
    dims = named or tuple(f"axis_{i}" for i in range(len(result.shape)))
    coords = dict(result.coords)
    if result.layout is not None and result.dims is None:
        coords["parameter"] = Coordinate(dims, np.array(result.layout.labels))
    batch = result.batch_dim or "item"
    own = dict.fromkeys([*dims, *([batch] if batch != "item" else []), *coords])
    called = dict(zip(own, axis_names(list(own), {*taken, *info.values(), *parameters.values()}), strict=True))
    signal = tuple(called[dim] for dim in dims)
    item = ("item" if batch == "item" else called[batch],) if result.batched else ()
    units = {"units": printable(result.units)} if result.units else {}
    whose = result.statistics
    variables: dict[str, tuple[Any, ...]] = {
        "samples": (("sample", *item, *signal), _numpy(result.samples), units),
        "mean": ((*item, *signal), _numpy(result.mean), {**units, "statistics": whose["mean"]}),
        "std": ((*item, *signal), _numpy(result.std), {**units, "statistics": whose["std"]}),
        "chi2": (("sample", *item), _numpy(result.chi2), {"long_name": "chi^2 per datum"}),
        "failed": (("sample", *item), _numpy(result.failed)),
    }
    if result.log_weights is not None:
        variables["log_weights"] = (("sample", *item), _numpy(result.log_weights))
    for names, values in ((info, result.info), (parameters, result.parameters)):
        variables |= {names[key]: (("sample", *item), _numpy(value)) for key, value in values.items()}
    marginals = result.marginals
    if isinstance(marginals, MixtureMarginals):
        for name, axes in _COMPONENTS.items():
            value = getattr(marginals, name.removeprefix("marginal_"))
            variables[name] = ((*item, "component", *(signal if axes else ())), _numpy(value))
    if isinstance(marginals, LatticeMarginals):
        for part in LATTICE:
            points = ("point",) if part in ("values", "levels") else ()
            variables[f"lattice_{part}"] = ((*item, *points), _numpy(getattr(marginals, part)))
    lattices = {k: v for k, v in result.parameter_marginals.items() if isinstance(v, LatticeMarginals)}
    for key, found in lattices.items():
        for part in LATTICE:
            points = (f"point_{legal(key)}",) if part in ("values", "levels") else ()
            variables[f"lattice_{part}_{legal(key)}"] = ((*item, *points), _numpy(getattr(found, part)))
    layout = None if result.layout is None else [dataclasses.asdict(part) for part in result.layout.parts]
    run = {
        "status": result.status.name,
        "batched": result.batched,
        "strategy": result.strategy,
        "why": result.why,
        "nfe": float(result.nfe),
        "vjps": float(result.vjps),
        "operator_calls": dict(result.operator_calls),
        "seconds": float(result.seconds),
        "seed": result.seed,
        "versions": dict(result.versions),
        "info": {key: variables[name][1].dtype.name for key, name in info.items()},
        "parameters": {key: variables[name][1].dtype.name for key, name in parameters.items()},
        "warnings": list(result.warnings),
        "dims": result.dims,
        "batch_dim": result.batch_dim,
        "coords": {key: account(found, called[key]) for key, found in result.coords.items()},
        "units": result.units,
        "layout": layout,
        "marginals": None if marginals is None else _kind(marginals),
        "exact_statistics": list(result.exact_statistics[:2]),
        "lattices": list(lattices),
        "certificate": None if result.certificate is None else result.certificate.to_dict(),
    }
    attrs = {MARK: VERSION, "settings": _json("settings", dict(result.settings)), "run": _json("run", run)}
    whole = {
        called[key]: (tuple(called.get(dim, dim) for dim in found.dims), *(as_stored if stored else as_shown)(found))
        for key, found in coords.items()
    }
    # No fill value: a NaN of a failed row is a number like any other, and must come back with its bits.
    encoding: dict[str, Any] = {name: {"_FillValue": None} for name in (*variables, *whole)}
    for name, (_, held, _) in whole.items():
        if held.dtype.kind == "U":  # letters: HDF5 reads text of variable length through a heap, see `save_result`
            encoding[name]["dtype"] = "S1"
    return xarray.Dataset(variables, coords=whole, attrs=attrs), encoding


def _kind(marginals: Marginals) -> str:
    """What a file calls them; of an ensemble, and of other closed forms, it holds mean and std."""
    return _KINDS.get(type(marginals), "moments" if marginals.known == "closed form" else f"moments, {marginals.known}")


def save_result(result: PosteriorSamples, path: str | os.PathLike[str]) -> Path:
    """Write `to_xarray` as a NetCDF-4 file, and return its name; an interrupted write leaves an old file as it was."""
    path = with_extension("Result.save", path, (".nc", ".nc4", ".h5", ".hdf5"), "NetCDF-4, which is HDF5")
    data, plain = _dataset(result, stored=True)
    # Text of fixed length: HDF5 reads text of variable length through a heap, and never returns from some damaged ones.
    data = data.assign_attrs({name: np.bytes_(data.attrs[name]) for name in ("settings", "run")})
    atomic_write(path, lambda file: _to_netcdf(data, file, plain), owner="Result.save")
    return Path(path)


def _to_netcdf(data: xarray.Dataset, file: BinaryIO, encoding: dict[Any, dict[str, Any]]) -> None:
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    # What `to_netcdf(..., engine="h5netcdf")` does; to files in memory it writes in the newest releases of xarray only.
    with h5netcdf.File(file, "w") as container:
        data.dump_to_store(H5NetCDFStore(container), encoding=encoding)


def _json(name: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise invalid_type("Result.save", name, "what JSON can hold", str(error)) from error


def _numpy(value: Tensor) -> np.ndarray[Any, Any]:
    value = value.detach().cpu().resolve_conj()
    if value.dtype in (torch.float16, torch.bfloat16):  # not types of NetCDF
        value = value.float()
    return np.asarray(value.numpy())
