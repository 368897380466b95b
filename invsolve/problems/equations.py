"""The five equations of the literature's benchmarks: the field that they begin with, and its solution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.validation import Shape
from invsolve.operators.base import LinearOperator, Operator, Pullback
from invsolve.operators.mask import Mask
from invsolve.operators.pde.burgers import Burgers
from invsolve.operators.pde.diffusion import Darcy
from invsolve.operators.pde.navier_stokes import NavierStokes
from invsolve.operators.pde.poisson import Helmholtz
from invsolve.operators.pde.spectral import SpectralEvolution
from invsolve.priors.base import Prior
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.spectra import Whittle
from invsolve.priors.level_set import LevelSet
from invsolve.priors.transformed import TransformedPrior

PERMEABILITIES = (3.0, 12.0)
_SPECTRUM = Whittle(3.0, 2.0, zero_mode=False)  # of the fields of Darcy, Poisson and Helmholtz
_VORTICITY = Whittle(7.0, 2.5, amplitude=2**0.5 * 7.0**1.5, zero_mode=False)
_INITIAL = Whittle(7.0, 2.5, amplitude=49.0, zero_mode=False, shortest=1 / 64)
_SNAPSHOTS = 10  # of the vorticity, up to time 1
_TIMES = 128  # of Burgers' equation, 0 and 1 among them


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Equation:
    """A prior of coefficients, sources or initial states, and the map to solutions on the same points."""

    prior: Prior
    solution: Operator
    times: tuple[float, ...] = ()  # along the first axis of solutions
    walls: bool = False  # the first and last points lie on the walls
    centers: bool = False
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def along(self) -> Tensor:
        """Where the points lie along every axis of the unit box."""
        n = self.prior.shape[-1]
        i = torch.arange(n, dtype=torch.float64, device="cpu")
        if self.walls:
            return i / (n - 1)
        return (i + (0.5 if self.centers else 0.0)) / n


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BetweenWalls(LinearOperator):
    """A source on nodes, of which the outermost lie on the walls, to the solution there: 0 on the walls."""

    inner: Helmholtz

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return tuple(n + 2 for n in self.inner.in_shape)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def _apply(self, x: Tensor) -> Tensor:
        u = self.inner._apply(x[:, 1:-1, 1:-1].contiguous())
        return torch.nn.functional.pad(u, (1, 1, 1, 1))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> BetweenWalls:
        return self


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WithStart(Operator):
    """The states of an evolution, the initial one before them."""

    inner: SpectralEvolution

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.inner.in_shape)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        first, *others = self.inner.out_shape
        return (first + 1, *others)

    def _apply(self, x: Tensor) -> Tensor:
        return torch.cat([x.unsqueeze(1), self.inner(x)], 1)

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        y, pull = self.inner.vjp(x)
        return torch.cat([x.unsqueeze(1), y], 1), lambda v: v[:, 0] + pull(v[:, 1:])

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        y, dy = self.inner.jvp(x, dx)
        return torch.cat([x.unsqueeze(1), y], 1), torch.cat([dx.unsqueeze(1), dy], 1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> WithStart:
        inner: Any = self.inner.to(device, dtype)
        return WithStart(inner=inner)


def darcy_equation(n: int, dtype: torch.dtype) -> Equation:
    """``-div(a grad u) = 1`` on n x n cells."""
    grid = CartesianGrid((n, n))
    prior = LevelSet(GaussianFieldPrior(grid, _SPECTRUM, dtype=dtype), PERMEABILITIES, thresholds=0.0)
    return Equation(prior=prior, solution=Darcy(grid), centers=True, numbers={"beta": 1.0})


def poisson_equation(n: int, dtype: torch.dtype) -> Equation:
    """``Laplace(u) = f`` on n x n nodes, walls included; f has the values that the literature puts on its nodes."""
    solution = BetweenWalls(inner=Helmholtz(CartesianGrid((n - 2, n - 2), points="interior")))
    return Equation(prior=GaussianFieldPrior((n, n), _SPECTRUM, dtype=dtype), solution=solution, walls=True)


def helmholtz_equation(n: int, dtype: torch.dtype) -> Equation:
    """``Laplace(u) + u = f`` on n x n nodes, f being 0 on the walls."""
    inside = torch.zeros(n, n, dtype=dtype, device="cpu")
    inside[1:-1, 1:-1] = 1.0
    free = GaussianFieldPrior((n, n), _SPECTRUM, dtype=dtype)
    grid = CartesianGrid((n - 2, n - 2), points="interior")
    return Equation(
        prior=TransformedPrior(base=free, function=Mask(inside)),
        solution=BetweenWalls(inner=Helmholtz(grid, wavenumber=1.0)),
        walls=True,
        numbers={"wavenumber": 1.0},
    )


def navier_stokes_equation(n: int, dtype: torch.dtype, *, last: bool = False) -> Equation:
    """The vorticity at time 1, or also at the start and at tenths."""
    grid = CartesianGrid((n, n), points="periodic")
    y, x = grid.mesh(dtype=dtype)
    phase = 2 * math.pi * (x + y)
    times = tuple(k / _SNAPSHOTS for k in range(1, _SNAPSHOTS + 1))
    flow = NavierStokes(grid, viscosity=1e-3, times=1.0 if last else times, forcing=0.1 * (phase.sin() + phase.cos()))
    return Equation(
        prior=GaussianFieldPrior(grid, _VORTICITY, dtype=dtype),
        solution=flow if last else WithStart(inner=flow),
        times=() if last else (0.0, *times),
        numbers={"nu": 1e-3},
    )


def burgers_equation(n: int, dtype: torch.dtype) -> Equation:
    """``u_t + u u_x = 0.01 u_xx``, at 128 times from 0 to 1."""
    grid = CartesianGrid((n,), points="periodic")
    times = tuple(k / (_TIMES - 1) for k in range(1, _TIMES))
    return Equation(
        prior=GaussianFieldPrior(grid, _INITIAL, dtype=dtype),
        solution=WithStart(inner=Burgers(grid, viscosity=0.01, times=times)),
        times=(0.0, *times),
        numbers={"nu": 0.01},
    )


EQUATIONS: dict[str, Callable[[int, torch.dtype], Equation]] = {
    "darcy": darcy_equation,
    "poisson": poisson_equation,
    "helmholtz": helmholtz_equation,
    "navier_stokes": navier_stokes_equation,
    "burgers": burgers_equation,
}
