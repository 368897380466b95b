"""Waves of one frequency in a medium that varies, in open space: absorbing layers along the walls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from math import log
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter, real_parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.validation import Kind, Shape, check_finite, check_int, check_positive, kind_dtype
from invsolve.errors import invalid
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.pde.linear_solve import solve_linear
from invsolve.operators.pde.modes import check_grid
from invsolve.operators.pde.multigrid import Faces
from invsolve.operators.pde.sparse_factors import DirectSolve

_REFLECTED = 1e-6  # of a wave that meets a layer head on, in the continuum


class _Open:
    """The stencil of a grid whose outermost points absorb: ``M = -K + cell s k^2``, complex and symmetric."""

    grid: CartesianGrid
    wavenumber: float
    layer: int

    def _checked(self, owner: str, name: str, real: bool) -> None:
        grid = check_grid(owner, self.grid)
        if grid.points == "periodic":
            raise invalid(owner, "grid", 'of points="centers" or "interior", with walls', "points='periodic'")
        check_positive(owner, "wavenumber", self.wavenumber)
        layer = check_int(owner, "layer", self.layer, minimum=0)
        if 2 * layer >= min(grid.shape):
            raise invalid(owner, "layer", f"of fewer points than half of the shortest axis, {min(grid.shape)}", layer)
        take = real_parameter if real else parameter
        value = check_finite(owner, name, take(owner, name, getattr(self, name)))
        if grid.shape not in (value.shape, value.shape[1:]):
            raise invalid(owner, name, f"of the shape of the grid, {grid.shape}", tuple(value.shape))
        object.__setattr__(self, name, value if real else value.to(kind_dtype(value.dtype, "complex")))

    def _stretch(self, axis: int, faces: bool) -> Tensor:
        """``s = 1 + i sigma / k`` along an axis, at its points or at the faces between them, complex128."""
        n, h, length = self.grid.shape[axis], self.grid.spacing[axis], self.grid.extent[axis]
        start = 0.5 if self.grid.points == "interior" else 0.0
        i = torch.arange(n + 1 if faces else n, dtype=torch.float64, device="cpu")
        x = h * (i + start + (0.0 if faces else 0.5))
        width = h * self.layer
        if not width:
            return torch.ones_like(x, dtype=torch.complex128)
        depth = (width - torch.minimum(x, length - x)).clamp_min(0) / width
        return torch.complex(torch.ones_like(x), -3 * log(_REFLECTED) / (2 * width) / self.wavenumber * depth**2)

    @cached_property
    def _stencil(self) -> tuple[Faces, Tensor]:
        """Conductances of one row, and ``cell s``, complex128."""
        grid, axes, along = self.grid, range(len(self.grid.shape)), []
        wall = 2.0 if grid.points == "centers" else 1.0
        total = torch.full(grid.shape, grid.cell, dtype=torch.complex128, device="cpu")
        for k in axes:
            total = total * _along(self._stretch(k, False), k, len(axes))
            g = 1 / self._stretch(k, True)
            g[0], g[-1] = wall * g[0], wall * g[-1]
            g = _along(g, k, len(axes)) * (grid.cell / grid.spacing[k] ** 2)
            for other in axes:
                g = g if other == k else g * _along(self._stretch(other, False), other, len(axes))
            along.append(g[None])
        return Faces(tuple(along)), total

    def _there(self, like: Tensor) -> tuple[Faces, Tensor]:
        faces, scale = self._stencil
        dtype = kind_dtype(like.dtype, "complex")
        return Faces(tuple(g.to(like.device, dtype) for g in faces.along)), scale.to(like.device, dtype)

    def _factors(self, k2: Tensor) -> DirectSolve:
        """Of M for ``k2`` ``(rows, *shape)``; the sign of K is turned, so that its solutions are those of -M."""
        faces, scale = self._stencil
        wide = Faces(tuple(g.expand(len(k2), *g.shape[1:]) for g in faces.along))
        return DirectSolve(wide, wide.diagonal() - scale * k2.detach().cpu().double())


def _along(v: Tensor, axis: int, axes: int) -> Tensor:
    return v.view(-1, *([1] * (axes - 1 - axis)))


@final
@dataclass(frozen=True, eq=False, repr=False)
class HelmholtzMedium(_Open, Operator):
    """The squared wavenumber of a medium to the wave u of one source, ``Laplace(u) + k(x)^2 u = f``, in open space.

    Second order; a sparse factorisation for every row, in double precision, which serves its derivatives too. Waves
    leave: of those that go as ``exp(i k r)`` layers absorb all but about 1e-6, where k is near ``wavenumber`` there.

    Parameters
    ----------
    grid : CartesianGrid
        Of medium, source and wave, ``points="centers"`` or ``"interior"``, the layers included; ten to twenty points a
        wave length.
    source : Tensor, shape (*grid.shape)
        f, real or complex. A point source is ``1 / grid.cell`` at its point.
    wavenumber : float
        k > 0 outside of what is looked for, radians per length, for which the layers are made.
    layer : int
        Points of the absorbing layer at every wall: one to two wave lengths; 0 for walls where u = 0.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> grid = iv.CartesianGrid((24, 24))
    >>> A = HelmholtzMedium(grid, torch.ones(24, 24), wavenumber=12.0, layer=6)
    >>> A(torch.full((1, 24, 24), 144.0)).dtype
    torch.complex64
    """

    grid: CartesianGrid
    source: Tensor
    _: KW_ONLY
    wavenumber: float
    layer: int = 10

    def __post_init__(self) -> None:
        self._checked("HelmholtzMedium", "source", real=False)

    def _item_axes(self) -> Mapping[str, int]:
        return {"source": len(self.grid.shape)}

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        """Complex."""
        return "complex"

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the grid."""
        return self.grid.shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the grid."""
        return self.grid.shape

    def _apply(self, x: Tensor) -> Tensor:
        faces, scale = self._there(x)
        kept: list[tuple[Tensor, DirectSolve]] = []

        def factors(k2: Tensor) -> DirectSolve:
            if not kept or kept[0][0].shape != k2.shape or not torch.equal(kept[0][0], k2):
                kept[:] = [(k2, self._factors(k2))]
            return kept[0][1]

        return solve_linear(
            x,
            (scale * self.source).expand(len(x), *self.out_shape),
            lambda k2, f: -factors(k2)(f),
            lambda k2, u: scale * k2 * u - faces.apply(u),
            solve_adjoint=lambda k2, f: -factors(k2)(f, adjoint=True),
        )


@final
@dataclass(frozen=True, eq=False, repr=False)
class HelmholtzSource(_Open, LinearOperator):
    """A source f to its wave u in a given medium, ``Laplace(u) + k(x)^2 u = f``, in open space; linear.

    The matrix is factorised once, in double precision. `HelmholtzMedium` has the same equation for an unknown medium,
    `Helmholtz` is faster in a homogeneous one between walls.

    Parameters
    ----------
    grid : CartesianGrid
        Of medium, source and wave, ``points="centers"`` or ``"interior"``, the layers included.
    k2 : Tensor, shape (*grid.shape) or (items, *grid.shape)
        The squared wavenumber, real.
    wavenumber : float
        k > 0 near the walls, for which the layers are made.
    layer : int
        Points of the absorbing layer at every wall; 0 for walls where u = 0.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> HelmholtzSource(iv.CartesianGrid((24, 24)), torch.full((24, 24), 144.0), wavenumber=12.0, layer=6)
    HelmholtzSource((24, 24) -> (24, 24), complex)
    """

    grid: CartesianGrid
    k2: Tensor
    _: KW_ONLY
    wavenumber: float
    layer: int = 10

    def __post_init__(self) -> None:
        self._checked("HelmholtzSource", "k2", real=True)

    def _item_axes(self) -> Mapping[str, int]:
        return {"k2": len(self.grid.shape)}

    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        """Complex."""
        return "complex"

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        """Complex."""
        return "complex"

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the grid."""
        return self.grid.shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the grid."""
        return self.grid.shape

    @cached_property
    def _made(self) -> DirectSolve:
        made = self._factors(self.k2 if self.batch is not None else self.k2[None])
        if None in made.factors:
            raise invalid("HelmholtzSource", "k2", "away from resonances", "a medium in which waves have no end")
        return made

    def _apply(self, x: Tensor) -> Tensor:
        return matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return -self._made(self._there(x)[1] * x)

    def _backward(self, y: Tensor) -> Tensor:
        return -self._there(y)[1].conj() * self._made(y, adjoint=True)
