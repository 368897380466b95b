"""Results as xarray datasets and NetCDF files; `invsolve.results.reading` reads them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invsolve.core.files import atomic_write
from invsolve.errors import invalid_type
from invsolve.results.posterior_samples import PosteriorSamples

if TYPE_CHECKING:
    import xarray

VERSION = 1
MARK = "invsolve_result"  # attribute: the version of this format


def to_xarray(result: PosteriorSamples) -> xarray.Dataset:
    """The dataset of `Result.to_xarray`; dims without a name are 'axis_0', ..."""
    import xarray

    signal = result.dims or tuple(f"axis_{i}" for i in range(len(result.shape)))
    if set(signal) & {"sample", "item"}:
        signal = tuple(f"axis_{name}" if name in ("sample", "item") else name for name in signal)
    item = ("item",) if result.batched else ()
    units = {"units": result.units} if result.units else {}
    variables: dict[str, tuple[Any, ...]] = {
        "samples": (("sample", *item, *signal), _numpy(result.samples), units),
        "mean": ((*item, *signal), _numpy(result.mean), units),
        "std": ((*item, *signal), _numpy(result.std), units),
        "chi2": (("sample", *item), _numpy(result.chi2), {"long_name": "chi^2 per datum"}),
        "failed": (("sample", *item), _numpy(result.failed)),
    }
    if result.log_weights is not None:
        variables["log_weights"] = (("sample", *item), _numpy(result.log_weights))
    for name, value in result.info.items():
        variables[f"info_{name}"] = (("sample", *item), _numpy(value))
    for name, value in result.parameters.items():
        variables[f"parameter_{name}"] = (("sample", *item), _numpy(value))
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
        "info": {name: variables[f"info_{name}"][1].dtype.name for name in result.info},
        "parameters": {name: variables[f"parameter_{name}"][1].dtype.name for name in result.parameters},
        "warnings": list(result.warnings),
        "dims": result.dims,
        "units": result.units,
        "layout": layout,
        "certificate": None if result.certificate is None else result.certificate.to_dict(),
    }
    attrs = {MARK: VERSION, "settings": _json("settings", dict(result.settings)), "run": _json("run", run)}
    return xarray.Dataset(variables, attrs=attrs)


def save_result(result: PosteriorSamples, path: str | os.PathLike[str]) -> None:
    """Write `to_xarray` as a NetCDF-4 file; an interrupted write leaves an old file as it was."""
    data = to_xarray(result)
    # No fill value: a NaN of a failed row is a number like any other, and must come back with its bits.
    plain: dict[Any, dict[str, Any]] = {name: {"_FillValue": None} for name in data.variables}
    # Text of fixed length: HDF5 reads text of variable length through a heap, and never returns from some damaged ones.
    data = data.assign_attrs({name: np.bytes_(data.attrs[name]) for name in ("settings", "run")})
    atomic_write(path, lambda temporary: _to_netcdf(data, temporary, plain))


def _to_netcdf(data: xarray.Dataset, path: Path, encoding: dict[Any, dict[str, Any]]) -> None:
    data.to_netcdf(path, engine="h5netcdf", encoding=encoding)


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
