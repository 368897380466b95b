"""What instruments see of a field: its values at points, its averages over boxes. The same on every grid."""

from __future__ import annotations

import abc
import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.validation import Shape, check_choice, check_finite
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator
from invsolve.operators.pde.modes import check_grid, line_of, transform_of

_METHODS = ("linear", "spectral")
_THIN = 1e-12  # of the extent: a box that has no length


class Separable(LinearOperator):
    """``y_m = sum_ij.. r1_mi r2_mj .. x_ij..``: sensors whose weights are products over the axes of a grid.

    Subclasses have ``grid`` and say `_weights`. Coordinates are kept in float64, weights have the precision of what
    they act on.
    """

    grid: CartesianGrid

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """That of the grid."""
        return self.grid.shape

    @property
    @abc.abstractmethod
    def out_shape(self) -> Shape:  # type: ignore[override]
        """One value for each sensor."""

    @abc.abstractmethod
    def _weights(self, axis: int) -> Tensor:
        """Of the points along an axis for every sensor, ``(m, n)`` or ``(items, m, n)``, float64 on the CPU."""

    @property
    def dtype(self) -> None:
        """None: any."""
        return None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same operator elsewhere; it has no precision of its own."""
        return self._replace({name: value.to(device) for name, value in self._tensors().items()})

    @cached_property
    def _double(self) -> list[Tensor]:
        return [self._weights(axis).to(self.device) for axis in range(len(self.grid.shape))]

    @cached_property
    def _single(self) -> list[Tensor]:
        return [row.float() for row in self._double]

    def _rows(self, x: Tensor) -> list[Tensor]:
        return self._double if x.dtype == torch.float64 else self._single

    def _apply(self, x: Tensor) -> Tensor:
        first, *others = self._rows(x)
        y = (first @ x.reshape(*x.shape[:2], math.prod(x.shape[2:]))).view(len(x), *self.out_shape, *x.shape[2:])
        for row in others:
            y = (y * row.view(*row.shape, *([1] * (y.ndim - 3)))).sum(2)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        first, *others = self._rows(y)
        spread = y
        for row in others:
            middle = [1] * (spread.ndim - 2)
            spread = spread[..., None] * row.view(*row.shape[:-1], *middle, row.shape[-1])
        return (first.mT @ spread.reshape(*y.shape, math.prod(self.in_shape[1:]))).view(len(y), *self.in_shape)


@final
@dataclass(frozen=True, eq=False, repr=False)
class PointValues(Separable):
    """A field to its values at points anywhere in the box: ``y_m = x(points_m)``.

    Parameters
    ----------
    grid : CartesianGrid
        Of the field.
    points : Tensor or array, shape (m, axes) or (items, m, axes); (m,) of one axis
        Coordinates inside of the box, in the unit of the grid, along its axes in their order.
    method : {"linear", "spectral"}
        Between the points of the grid: linearly (second order; towards 0 at the walls of ``"interior"``, constant
        within half a cell of those of ``"centers"``), or by the modes of the box, exact for fields of few modes.

    Raises
    ------
    InputError, InputTypeError
        If points lie outside, or an argument is not what it should be.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> grid = iv.CartesianGrid((4,), extent=4.0)  # centres at 0.5, 1.5, 2.5, 3.5
    >>> PointValues(grid, [[1.5], [2.0]])(torch.tensor([[0.0, 1.0, 3.0, 5.0]], dtype=torch.float64))
    tensor([[1., 2.]], dtype=torch.float64)
    """

    grid: CartesianGrid
    points: Tensor
    _: KW_ONLY
    method: Literal["linear", "spectral"] = "linear"

    def __post_init__(self) -> None:
        owner = "PointValues"
        grid = check_grid(owner, self.grid)
        check_choice(owner, "method", self.method, _METHODS)
        object.__setattr__(self, "points", coordinates(owner, "points", self.points, grid))

    def _item_axes(self) -> dict[str, int]:
        return {"points": 2}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """``(m,)``, a value for each point."""
        return (self.points.shape[-2],)

    def _weights(self, axis: int) -> Tensor:
        weights = _linear if self.method == "linear" else _spectral
        return weights(self.grid, axis, self.points[..., axis].cpu())


@final
@dataclass(frozen=True, eq=False, repr=False)
class BoxAverages(Separable):
    """A field to its averages over boxes: coarse pixels, instruments with a footprint, wells.

    Along an axis where a box has no length it is the value there, linearly between points: a well is a box that is
    long along one axis.

    Parameters
    ----------
    grid : CartesianGrid
        Of the field, whose values stand for cells of the size of its spacing.
    lower, upper : Tensor or array, shape (m, axes) or (items, m, axes); (m,) of one axis
        Corners inside of the box, in the unit of the grid, ``lower <= upper``.

    Raises
    ------
    InputError, InputTypeError
        If corners lie outside, or in the wrong order, or an argument is not what it should be.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> grid = iv.CartesianGrid((4,), extent=4.0)
    >>> BoxAverages(grid, [[0.0]], [[4.0]])(torch.tensor([[0.0, 1.0, 5.0, 7.0]], dtype=torch.float64))
    tensor([[3.2500]], dtype=torch.float64)
    """

    grid: CartesianGrid
    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        owner = "BoxAverages"
        grid = check_grid(owner, self.grid)
        lower, upper = (coordinates(owner, name, getattr(self, name), grid) for name in ("lower", "upper"))
        if lower.shape != upper.shape:
            raise invalid(owner, "upper", f"of the shape of lower, {tuple(lower.shape)}", tuple(upper.shape))
        if bool((lower > upper).any()):
            raise invalid(owner, "upper", ">= lower everywhere", float((upper - lower).min()))
        for name, value in (("lower", lower), ("upper", upper)):
            object.__setattr__(self, name, value)

    def _item_axes(self) -> dict[str, int]:
        return {"lower": 2, "upper": 2}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """``(m,)``, a value for each box."""
        return (self.lower.shape[-2],)

    def _weights(self, axis: int) -> Tensor:
        low, high = self.lower[..., axis].cpu(), self.upper[..., axis].cpu()
        thin = (high - low) <= _THIN * self.grid.extent[axis]
        return torch.where(thin[..., None], _linear(self.grid, axis, low), _overlap(self.grid, axis, low, high))


def coordinates(owner: str, name: str, value: Any, grid: CartesianGrid) -> Tensor:
    """Of places in the box of a grid, ``(m, axes)`` or ``(items, m, axes)`` float64 on the CPU."""
    made = check_finite(owner, name, parameter(owner, name, value, dtype=torch.float64)).double().cpu()
    axes = len(grid.shape)
    if axes == 1 and made.ndim == 1:
        made = made[:, None]
    if made.ndim not in (2, 3) or made.shape[-1] != axes or not made.numel():
        raise invalid(owner, name, f"of shape (m, {axes}) or (items, m, {axes})", tuple(made.shape))
    corner = torch.tensor(grid.origin, dtype=torch.float64, device="cpu")
    size = torch.tensor(grid.extent, dtype=torch.float64, device="cpu")
    outside = (made < corner - 1e-9 * size) | (made > corner + size + 1e-9 * size)
    if bool(outside.any()):
        place = made[outside.any(-1)][0].tolist()
        box = " x ".join(f"[{a:g}, {a + b:g}]" for a, b in zip(grid.origin or (), grid.extent, strict=True))
        raise invalid(owner, name, f"inside of the box {box}", place)
    return made


def _place(grid: CartesianGrid, axis: int, at: Tensor) -> Tensor:
    """Where coordinates lie among the points of an axis: 0 at the first, n - 1 at the last."""
    first = {"centers": 0.5, "interior": 1.0, "periodic": 0.0}[grid.points]
    return (at - (grid.origin or ())[axis]) / grid.spacing[axis] - first


def _linear(grid: CartesianGrid, axis: int, at: Tensor) -> Tensor:
    n = grid.shape[axis]
    place = _place(grid, axis, at)
    if grid.points == "centers":
        place = place.clamp(0, n - 1)
    low = place.floor()
    share = place - low
    index = torch.arange(n, dtype=torch.float64, device="cpu")
    left, right = (low.remainder(n), (low + 1).remainder(n)) if grid.points == "periodic" else (low, low + 1)
    return (index == left[..., None]) * (1 - share)[..., None] + (index == right[..., None]) * share[..., None]


def _spectral(grid: CartesianGrid, axis: int, at: Tensor) -> Tensor:
    n, length = grid.shape[axis], grid.extent[axis]
    to_modes = (
        transform_of(line_of(grid, axis), torch.float64).forward(torch.eye(n, dtype=torch.float64, device="cpu")).mT
    )
    x = ((at - (grid.origin or ())[axis]) / length)[..., None]
    j = torch.arange(n, dtype=torch.float64, device="cpu")
    if grid.points == "periodic":
        angle = 2 * math.pi * torch.div(j + 1, 2, rounding_mode="floor") * x
        values = math.sqrt(2) * torch.where(j % 2 == 1, angle.cos(), angle.sin())
        values[..., 0] = 1.0
        if n % 2 == 0:  # of the pair at the Nyquist frequency a grid sees the cosine, of mean square 1 at its points
            values[..., -1] = torch.cos(math.pi * n * x[..., 0])
        scale = math.sqrt(n)
    elif grid.points == "centers":
        values, scale = math.sqrt(2) * torch.cos(math.pi * j * x), math.sqrt(n)
        values[..., 0] = 1.0
    else:
        values, scale = math.sqrt(2) * torch.sin(math.pi * (j + 1) * x), math.sqrt(n + 1)
    return values @ to_modes / scale


def _overlap(grid: CartesianGrid, axis: int, low: Tensor, high: Tensor) -> Tensor:
    """The share of a box that lies in the cell of every point."""
    n, h = grid.shape[axis], grid.spacing[axis]
    start = (grid.origin or ())[axis] + {"centers": 0.0, "interior": 0.5, "periodic": -0.5}[grid.points] * h
    edges = start + h * torch.arange(n + 1, dtype=torch.float64, device="cpu")

    def held(shift: float) -> Tensor:
        left = torch.maximum(low[..., None], edges[:-1] + shift)
        right = torch.minimum(high[..., None], edges[1:] + shift)
        return (right - left).clamp_min(0)

    total = held(0.0)
    if grid.points == "periodic":  # the first cell begins before the box, where the last half of it is seen again
        total = total + held(grid.extent[axis])
    return total / (high - low).clamp_min(1e-300)[..., None]
