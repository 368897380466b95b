"""Where the values of a field lie: points of a box, equally spaced along every axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import prod
from numbers import Real
from typing import Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.validation import Shape, check_choice, check_dims, check_number, check_positive
from invsolve.errors import invalid, invalid_type

Points = Literal["centers", "interior", "periodic"]
_POINTS = ("centers", "interior", "periodic")
_OWNER = "CartesianGrid"


def points_along(points: Points, n: int, length: float = 1.0) -> Tensor:
    """Where the n points of an axis ``[0, length]`` lie, ``(n,)`` float64."""
    i = torch.arange(n, dtype=torch.float64, device="cpu")
    if points == "interior":
        return (i + 1) * (length / (n + 1))
    return (i + (0.5 if points == "centers" else 0.0)) * (length / n)


@final
@dataclass(frozen=True)
class CartesianGrid:
    """Points of a box, equally spaced along every axis: where a field has its values.

    Parameters
    ----------
    shape : tuple of int
        The number of points along each of 1 to 3 axes, any.
    extent : float or tuple of float
        The lengths of the box along its axes, > 0, in ``unit``; one number is that of all axes.
    points : {"centers", "interior", "periodic"}
        The centres ``(i + 1/2) L / n`` of n cells; the nodes ``(i + 1) L / (n + 1)`` inside a box whose walls hold
        known values; or the nodes ``i L / n`` of a torus.
    origin : tuple of float, optional
        The corner of the box with the smallest coordinates; 0 unless given.
    names : tuple of str, optional
        What the axes are called, as in xarray; ("x",), ("y", "x") or ("z", "y", "x") unless given.
    unit : str
        Of lengths, for labels.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    Examples
    --------
    >>> grid = CartesianGrid((4, 6), extent=(1.0, 3.0), unit="km")
    >>> grid.spacing
    (0.25, 0.5)
    >>> grid.axes[0]
    array([0.125, 0.375, 0.625, 0.875])
    >>> grid.on((8, 12)).spacing
    (0.125, 0.25)
    """

    shape: Shape
    _: KW_ONLY
    extent: tuple[float, ...] = 1.0  # type: ignore[assignment]  # one length for each axis once made
    points: Points = "centers"
    origin: tuple[float, ...] | None = None
    names: tuple[str, ...] | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        shape = check_dims(_OWNER, "shape", self.shape)
        if not 1 <= len(shape) <= 3:
            raise invalid(_OWNER, "shape", "of 1 to 3 axes", shape)
        check_choice(_OWNER, "points", self.points, _POINTS)
        extent = tuple(check_positive(_OWNER, "extent", value) for value in _each(self.extent, "extent", shape))
        origin = tuple(check_number(_OWNER, "origin", value) for value in _each(self.origin or 0.0, "origin", shape))
        names = self.names or ("z", "y", "x")[-len(shape) :]
        if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
            raise invalid_type(_OWNER, "names", "a tuple of names, one for each axis", self.names)
        if len(names) != len(shape) or len(set(names)) != len(shape):
            raise invalid(_OWNER, "names", f"{len(shape)} different names, one for each axis", self.names)
        if not isinstance(self.unit, str):
            raise invalid_type(_OWNER, "unit", "a string", self.unit)
        for key, value in (("shape", shape), ("extent", extent), ("origin", origin), ("names", tuple(names))):
            object.__setattr__(self, key, value)

    @property
    def spacing(self) -> tuple[float, ...]:
        """The distance of neighbours along each axis."""
        return tuple(
            length / (n + (self.points == "interior")) for n, length in zip(self.shape, self.extent, strict=True)
        )

    @property
    def cell(self) -> float:
        """What a point stands for in an integral over the box: the product of the spacings."""
        return prod(self.spacing)

    @property
    def axes(self) -> tuple[NDArray[np.float64], ...]:
        """The coordinates along each axis, float64."""
        corner = self.origin or (0.0,) * len(self.shape)
        return tuple(
            start + points_along(self.points, n, length).numpy()
            for start, n, length in zip(corner, self.shape, self.extent, strict=True)
        )

    @property
    def coords(self) -> dict[str, tuple[str, NDArray[np.float64], dict[str, str]]]:
        """The same for xarray: ``xarray.DataArray(field, dims=grid.names, coords=grid.coords)``."""
        about = {"units": self.unit} if self.unit else {}
        return {name: (name, along, dict(about)) for name, along in zip(self.names or (), self.axes, strict=True)}

    def mesh(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """The coordinates of every point, one tensor ``(*shape)`` for each axis."""
        along = [torch.tensor(axis, dtype=dtype, device=device) for axis in self.axes]
        return tuple(torch.meshgrid(*along, indexing="ij"))

    def on(self, shape: Shape) -> CartesianGrid:
        """Another number of points in the same box."""
        return replace(self, shape=shape)


def _each(value: object, name: str, shape: Shape) -> tuple[float, ...]:
    if isinstance(value, Real):
        return (value,) * len(shape)  # type: ignore[return-value]  # what it is, is checked next
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise invalid_type(_OWNER, name, "a number or a tuple of numbers, one for each axis", value)
    if len(value) != len(shape):
        raise invalid(_OWNER, name, f"one number for each of {len(shape)} axes", tuple(value))
    return tuple(value)
