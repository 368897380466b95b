"""Burgers' equation on a circle: the final state of an initial one."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import final

from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.validation import check_positive
from invsolve.operators.pde.modes import check_grid, dealiased, derivative, highest, squared, to_field, to_spectrum
from invsolve.operators.pde.spectral import SpectralEvolution


@final
@dataclass(frozen=True, eq=False, repr=False)
class Burgers(SpectralEvolution):
    """The state at later times of ``u_t + (u^2 / 2)_x = nu u_xx`` on a circle, of the initial one.

    Parameters
    ----------
    grid : CartesianGrid
        Of one axis, ``points="periodic"``.
    viscosity : float
        nu > 0, in length^2 / time. Shocks have a width of about nu / max|u|: a few points of the grid must lie in it.
    times : float or tuple of float
        When the state is wanted, > 0; several give an axis of times.
    dt : float, optional
        The step. By default chosen for each row, half as long as would be stable or shorter.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.
    OperatorError
        At a call, if ``dt`` is too long for a row (``dt max|u| k_max < 2.8``). Rows that need over 65,536 steps
        are NaN.

    Notes
    -----
    Fourier modes with the 2/3 rule, Runge-Kutta of order 4 with an exact integrating factor; spectral in space. The
    mean is conserved. A chosen step makes the map jump by the error of the steps where their number changes.

    References
    ----------
    Cole 1951, On a quasi-linear parabolic equation occurring in aerodynamics, Quart. Appl. Math. 9, 225 (the exact
    solution that the tests compare with).

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> grid = iv.CartesianGrid((64,), points="periodic")
    >>> A = Burgers(grid, viscosity=0.01, times=(0.5, 1.0))
    >>> A(torch.sin(2 * torch.pi * grid.mesh()[0])[None]).shape
    torch.Size([1, 2, 64])
    """

    grid: CartesianGrid
    _: KW_ONLY
    viscosity: float
    times: float | tuple[float, ...] = 1.0
    dt: float | None = None

    def __post_init__(self) -> None:
        check_grid("Burgers", self.grid, points=("periodic",), axes=(1,))
        object.__setattr__(self, "viscosity", check_positive("Burgers", "viscosity", self.viscosity))
        self._check_run()

    def _linear(self) -> Tensor:
        return -self.viscosity * squared(self.grid)

    def _smooth(self, spectrum: Tensor) -> Tensor:
        return to_field(spectrum * self._like("keep", dealiased(self.grid), spectrum), self.grid)

    def _rate(self, spectrum: Tensor, t: float) -> Tensor:
        u = self._smooth(spectrum)
        slope = self._like("slope", -0.5 * derivative(self.grid, 0) * dealiased(self.grid), spectrum)
        return slope * to_spectrum(u * u, 1)

    def _frequency(self, spectrum: Tensor) -> Tensor:
        return self._smooth(spectrum).abs().flatten(1).amax(1) * highest(self.grid)[0]


__all__ = ["Burgers"]
