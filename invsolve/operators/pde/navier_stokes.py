"""Incompressible flow on a torus, in two dimensions: vorticity at later times of the initial one."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.validation import check_finite, check_positive
from invsolve.errors import invalid
from invsolve.operators.pde.modes import check_grid, dealiased, derivative, highest, squared, to_field, to_spectrum
from invsolve.operators.pde.spectral import SpectralEvolution
from invsolve.operators.pde.time_stepping import Rate


@final
@dataclass(frozen=True, eq=False, repr=False)
class NavierStokes(SpectralEvolution):
    """Vorticity at later times of the initial one: ``w_t + u . grad w = nu Laplacian w - drag w + forcing``.

    The velocity is that of the stream function, ``-Laplacian psi = w``, ``u_x = d psi / dy``, ``u_y = -d psi / dx``;
    the first axis of the grid is y, the last is x.

    Parameters
    ----------
    grid : CartesianGrid
        Of two axes, ``points="periodic"``, of any sizes and extents.
    viscosity : float
        nu >= 0, in length^2 / time.
    times : float or tuple of float
        When the vorticity is wanted, > 0; several give an axis of times.
    forcing : Tensor or array, shape (grid.shape) or (items, *grid.shape), optional
        Added to the rate of the vorticity, constant in time; none by default.
    drag : float
        >= 0, in 1 / time; none by default.
    dt : float, optional
        The step. By default chosen for each row, half as long as would be stable or shorter.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.
    OperatorError
        At a call, if ``dt`` is too long for a row (``dt (max|u_x| k_x + max|u_y| k_y) < 2.8``). Rows that need over
        65,536 steps are NaN.

    Notes
    -----
    Pseudo-spectral with the 2/3 rule, Runge-Kutta of order 4 with an exact integrating factor for what is linear. The
    mean vorticity moves with the forcing's only. A chosen step makes the map jump by the error of the steps where
    their number changes. Derivatives are those of the steps, with a memory that grows with sqrt(steps) from 40 on.
    Gradients of chaotic flows grow exponentially with time.

    References
    ----------
    Canuto, Hussaini, Quarteroni & Zang 2007, Spectral Methods: Evolution to Complex Geometries and Applications to
    Fluid Dynamics, chapter 3.

    Examples
    --------
    >>> import invsolve as iv, math, torch
    >>> grid = iv.CartesianGrid((16, 16), points="periodic")
    >>> y, x = grid.mesh()
    >>> w = torch.sin(2 * torch.pi * x) * torch.sin(2 * torch.pi * y)  # of Taylor and Green: it only decays
    >>> out = NavierStokes(grid, viscosity=0.01, times=1.0)(w[None])
    >>> torch.allclose(out[0], math.exp(-8 * math.pi**2 * 0.01) * w)
    True
    """

    grid: CartesianGrid
    _: KW_ONLY
    viscosity: float
    times: float | tuple[float, ...] = 1.0
    forcing: Tensor | None = None
    drag: float = 0.0
    dt: float | None = None

    def __post_init__(self) -> None:
        owner = "NavierStokes"
        check_grid(owner, self.grid, points=("periodic",), axes=(2,))
        for name in ("viscosity", "drag"):
            object.__setattr__(self, name, check_positive(owner, name, getattr(self, name), zero=True))
        self._check_run()
        if self.forcing is not None:
            forcing = check_finite(owner, "forcing", real_parameter(owner, "forcing", self.forcing))
            if forcing.ndim not in (2, 3) or tuple(forcing.shape[-2:]) != self.grid.shape:
                raise invalid(
                    owner, "forcing", f"of shape {self.grid.shape}, or one for each item", tuple(forcing.shape)
                )
            object.__setattr__(self, "forcing", forcing)

    def _item_axes(self) -> dict[str, int]:
        return {"forcing": 2}

    def _linear(self) -> Tensor:
        return -self.viscosity * squared(self.grid) - self.drag

    @cached_property
    def _fields_of_vorticity(self) -> Tensor:
        """Symbols of u_x, u_y, w_x and w_y, ``(4, ky, kx)``."""
        k2 = squared(self.grid)
        inverse = torch.where(k2 > 0, 1 / k2, 0.0)
        dy, dx = derivative(self.grid, 0), derivative(self.grid, 1)
        keep = dealiased(self.grid)
        return torch.stack(torch.broadcast_tensors(dy * inverse, -dx * inverse, dx + 0 * k2, dy + 0 * k2)) * keep  # type: ignore[no-untyped-call]

    def _rate(self, spectrum: Tensor, t: float) -> Tensor:
        symbols = self._like("symbols", self._fields_of_vorticity, spectrum)
        ux, uy, wx, wy = to_field(symbols * spectrum.unsqueeze(1), self.grid).unbind(1)
        keep = self._like("minus", -dealiased(self.grid), spectrum)
        return keep * to_spectrum(ux * wx + uy * wy, 2)

    def _rate_of(self, rows: Tensor | None) -> Rate:
        if self.forcing is None:
            return self._rate
        forcing = self.forcing if rows is None or self.forcing.ndim == 2 else self.forcing.index_select(0, rows)
        pushed = to_spectrum(forcing, 2)
        return lambda spectrum, t: self._rate(spectrum, t) + pushed

    def _gained(self) -> Tensor | float:
        if self.forcing is None:
            return 0.0
        return self._frequency(to_spectrum(self.forcing.view(-1, *self.grid.shape), 2)) * self._all_times[-1]

    def _frequency(self, spectrum: Tensor) -> Tensor:
        symbols = self._like("symbols", self._fields_of_vorticity, spectrum)[:2]
        speed = to_field(symbols * spectrum.unsqueeze(1), self.grid).abs().flatten(2).amax(2)
        ky, kx = highest(self.grid)
        return speed[:, 0] * kx + speed[:, 1] * ky


__all__ = ["NavierStokes"]
