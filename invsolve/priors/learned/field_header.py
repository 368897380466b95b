"""The random field of a learned prior, as numbers in the header of its file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from typing import Any

import torch
from torch import Tensor

from invsolve.errors import FileError, UnsupportedError
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.spectra import FieldSpectrum, Matern, Whittle
from invsolve.priors.fields.tabulated import TabulatedSpectrum

_LARGEST = 4096  # entries of a table
_LARGEST_GRID = 2**24  # points


def field_header(field: GaussianFieldPrior | None) -> dict[str, Any] | None:
    """What JSON can hold of a field. Raises UnsupportedError for spectra that are functions or tensors."""
    if field is None:
        return None
    noise, mean = field.noise_spectrum, field.law.mean
    if not bool((mean == mean.flatten()[0]).all()):
        raise UnsupportedError("save_prior: a field with a mean that is not constant has no file format.")
    if mean.numel() > _LARGEST_GRID:
        raise UnsupportedError(f"save_prior: a field of more than {_LARGEST_GRID} points has no file format: field.on.")
    return {
        "shape": list(field.shape),
        "basis": field.basis,
        "extent": list(field.extent or ()),
        "mean": float(mean.flatten()[0]),
        "spectrum": _described(field.spectrum),
        "noise_spectrum": None if noise is None else _described(noise),
    }


def field_of(header: Mapping[str, Any] | None, dtype: torch.dtype) -> GaussianFieldPrior | None:
    """The field that `field_header` described."""
    if header is None:
        return None
    if prod(header["shape"]) > _LARGEST_GRID:
        raise FileError(f"load: a field of shape {header['shape']} is absurd.")
    noise = header["noise_spectrum"]
    return GaussianFieldPrior(
        tuple(header["shape"]),
        _spectrum(header["spectrum"]),
        basis=header["basis"],
        extent=tuple(header["extent"]),
        mean=header["mean"],
        noise_spectrum=None if noise is None else _spectrum(noise),
        dtype=dtype,
    )


def _described(spectrum: FieldSpectrum | Tensor) -> dict[str, Any]:
    if isinstance(spectrum, Matern):
        return {"matern": asdict(spectrum)}
    if isinstance(spectrum, Whittle):
        return {"whittle": asdict(spectrum)}
    if isinstance(spectrum, TabulatedSpectrum):
        if len(spectrum.values) > _LARGEST:
            raise UnsupportedError(f"save_prior: a table of more than {_LARGEST} values has no file format.")
        table = {"eigenvalues": spectrum.eigenvalues.tolist(), "values": spectrum.values.tolist()}
        return {"table": table | {"at_zero": spectrum.at_zero}}
    raise UnsupportedError(
        f"save_prior: a field whose spectrum is a {type(spectrum).__name__} has no file format. A Matern, a "
        "Whittle or a TabulatedSpectrum (iv.priors.estimate_spectrum) has."
    )


def _spectrum(about: Mapping[str, Any]) -> FieldSpectrum:
    if "matern" in about:
        return Matern(**about["matern"])
    if "whittle" in about:
        return Whittle(**about["whittle"])
    table = about["table"]
    if len(table["values"]) > _LARGEST or len(table["eigenvalues"]) > _LARGEST:
        raise FileError(f"load: a spectrum of {len(table['values'])} values is absurd.")
    return TabulatedSpectrum(table["eigenvalues"], table["values"], at_zero=table["at_zero"])
