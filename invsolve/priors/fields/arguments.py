"""Checks of what `GaussianFieldPrior` is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.distributions import Distribution
from invsolve.core.validation import (
    Shape,
    check_choice,
    check_dims,
    check_finite,
    check_number,
    check_positive,
    kind_dtype,
)
from invsolve.errors import invalid, invalid_type
from invsolve.priors.fields.bases import BASES, POINTS, Basis
from invsolve.priors.fields.spectra import FieldSpectrum

_OWNER = "GaussianFieldPrior"
_BASES: dict[str, Basis] = {points: basis for basis, points in POINTS.items()}  # type: ignore[misc]


def checked_grid(shape: object, basis: object, extent: object) -> tuple[CartesianGrid, Basis]:
    """The grid and the basis of a prior that was given a grid, or a shape with what goes with it."""
    if isinstance(shape, CartesianGrid):
        grid, own = shape, _BASES[shape.points]
        if basis is not None and basis != own:
            want = f"left out, or {own!r}: the points of the grid are {grid.points!r}"
            repair = f"Or make the grid with points={POINTS[str(basis)]!r}." if str(basis) in POINTS else ""
            raise invalid(_OWNER, "basis", want, repr(basis), repair)
        if extent is not None and checked_extent(extent, grid.shape) != grid.extent:
            raise invalid(_OWNER, "extent", f"left out, or that of the grid, {grid.extent}", extent)
        return grid, own
    dims = check_dims(_OWNER, "shape", shape)
    if not 1 <= len(dims) <= 3:
        raise invalid(_OWNER, "shape", "of 1 to 3 axes", dims)
    known: Basis = "neumann" if basis is None else basis  # type: ignore[assignment]
    check_choice(_OWNER, "basis", known, BASES)
    return CartesianGrid(dims, extent=checked_extent(extent, dims), points=POINTS[known]), known


def unknown_numbers(spectrum: object, noise_spectrum: object) -> Mapping[str, Distribution]:
    """The numbers of a spectrum that are distributions."""
    if isinstance(noise_spectrum, FieldSpectrum) and noise_spectrum.unknown:
        given = f"with an unknown {', '.join(noise_spectrum.unknown)}"
        raise invalid(_OWNER, "noise_spectrum", "known: it is chosen, not inferred", given)
    return spectrum.unknown if isinstance(spectrum, FieldSpectrum) else {}


def checked_extent(extent: object, shape: Shape) -> tuple[float, ...]:
    """The lengths of the box, one for each axis."""
    if extent is None:
        return (1.0,) * len(shape)
    if isinstance(extent, str) or not isinstance(extent, Iterable) or getattr(extent, "ndim", 1) == 0:
        each = f"({', '.join([str(extent)] * len(shape))}{',' if len(shape) == 1 else ''})"
        raise invalid_type(_OWNER, "extent", "a tuple of lengths", extent, f"One for each axis: {each}.")
    lengths = tuple(check_positive(_OWNER, f"extent[{i}]", length) for i, length in enumerate(extent))
    if len(lengths) != len(shape):
        raise invalid(_OWNER, "extent", f"of {len(shape)} lengths, one for each axis", lengths)
    return lengths


def precision(dtype: object, mean: object) -> torch.dtype:
    """Single or double, as stated or as the mean has it."""
    if isinstance(mean, Tensor) and kind_dtype(mean.dtype, "real") not in (torch.float32, torch.float64):
        raise invalid_type(
            _OWNER, "mean", "of single or double precision", str(mean.dtype), "Convert it: mean.float()."
        )
    own = kind_dtype(mean.dtype, "real") if isinstance(mean, Tensor) else None
    if dtype is None:
        dtype = own or torch.float32
    if dtype not in (torch.float32, torch.float64):
        raise invalid_type(_OWNER, "dtype", "torch.float32 or torch.float64", str(dtype))
    return dtype


def checked_mean(mean: Tensor | float, shape: Shape, dtype: torch.dtype) -> Tensor:
    """The mean ``(*shape)``."""
    if not isinstance(mean, Tensor):
        if dtype.is_complex and isinstance(mean, complex):
            return check_finite(_OWNER, "mean", torch.full(shape, mean, dtype=dtype, device="cpu"))
        return torch.full(shape, check_number(_OWNER, "mean", mean), dtype=dtype, device="cpu")
    if mean.is_complex() and not dtype.is_complex:
        raise invalid_type(_OWNER, "mean", "real for kind='real'", str(mean.dtype))
    if tuple(mean.shape) != shape:
        raise invalid(_OWNER, "mean", f"a number, or of shape {shape}", tuple(mean.shape))
    return check_finite(_OWNER, "mean", mean).to(dtype)
