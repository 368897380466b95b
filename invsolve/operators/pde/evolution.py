"""Bring your own evolution equation: its right side, and what of it is diagonal in Fourier space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.cartesian_grid import CartesianGrid, Points
from invsolve.core.validation import Shape, check_finite, check_int
from invsolve.errors import OperatorError, invalid, invalid_type
from invsolve.operators.pde.modes import check_grid, to_field, to_spectrum
from invsolve.operators.pde.spectral import SpectralEvolution


@final
@dataclass(frozen=True, eq=False, repr=False)
class Evolution(SpectralEvolution):
    """The state at later times of ``u_t = L u + f(u, t)``, with a right side of your own.

    Parameters
    ----------
    grid : CartesianGrid
        Of a state. With ``linear`` it must be periodic.
    rhs : callable
        ``f(u, t)`` for ``u`` ``(batch, *in_shape)``, each row by itself, by operations that torch differentiates.
    times : float or tuple of float
        When the state is wanted, > 0 after the start at 0. Several give an axis of times.
    dt : float
        The step, > 0; shortened so that every time is met.
    linear : Tensor or array, optional
        The symbol of L in the layout of ``torch.fft.rfftn`` over the axes of the grid, such as ``-nu |k|^2``, real or
        complex. It is integrated exactly, so that it does not limit the step.
    fields : int, optional
        How many fields a state has: ``in_shape`` is ``(fields, *grid.shape)``. Without it, the shape of the grid.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.
    OperatorError
        If ``rhs`` returns another shape.

    Notes
    -----
    Runge-Kutta of order 4, with an integrating factor for ``linear`` [1]_. Derivatives are those of the steps, by
    torch; from 40 steps on the states of every sqrt(n)-th are kept and the others computed again, so that memory grows
    with sqrt(n). Nothing is known of the stability of your right side: halve ``dt`` and compare.

    References
    ----------
    .. [1] Kassam & Trefethen 2005, Fourth-order time-stepping for stiff PDEs, SIAM J. Sci. Comput. 26, 1214.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> grid = iv.CartesianGrid((8,), points="periodic")
    >>> logistic = Evolution(grid, lambda u, t: u * (1 - u), times=1.0, dt=0.1)
    >>> logistic(torch.full((1, 8), 0.5, dtype=torch.float64))[0, 0]  # 1 / (1 + exp(-1)) = 0.731059
    tensor(0.7311, dtype=torch.float64)
    """

    grid: CartesianGrid
    rhs: Callable[[Tensor, float], Tensor]
    _: KW_ONLY
    times: float | tuple[float, ...]
    dt: float
    linear: Tensor | None = None
    fields: int | None = None

    def __post_init__(self) -> None:
        owner = "Evolution"
        points: tuple[Points, ...] = ("periodic",) if self.linear is not None else ("periodic", "centers", "interior")
        check_grid(owner, self.grid, points=points)
        if not callable(self.rhs):
            raise invalid_type(owner, "rhs", "a function of a state and a time", self.rhs)
        if self.dt is None:
            raise invalid(owner, "dt", "a number > 0: what is stable depends on your equation", self.dt)
        self._check_run()
        if self.fields is not None:
            check_int(owner, "fields", self.fields, minimum=1)
        if self.linear is not None:
            symbol = check_finite(owner, "linear", parameter(owner, "linear", self.linear))
            half = (*self.grid.shape[:-1], self.grid.shape[-1] // 2 + 1)
            wanted = (*self._fields, *half)
            if tuple(symbol.shape) not in (half, wanted):
                raise invalid(owner, "linear", f"of shape {half}, the layout of rfftn", tuple(symbol.shape))
            object.__setattr__(self, "linear", symbol)

    @property
    def _fields(self) -> Shape:  # type: ignore[override]
        return () if self.fields is None else (self.fields,)

    def _linear(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device="cpu") if self.linear is None else self.linear

    def _enter(self, x: Tensor) -> Tensor:
        return x if self.linear is None else to_spectrum(x, len(self.grid.shape))

    def _leave(self, spectrum: Tensor) -> Tensor:
        return spectrum if self.linear is None else to_field(spectrum, self.grid)

    def _rate(self, spectrum: Tensor, t: float) -> Tensor:
        u = self._leave(spectrum)
        found = self.rhs(u, t)
        if not isinstance(found, Tensor) or found.shape != u.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise OperatorError(
                f"Evolution: rhs must return a tensor of the shape of its state {tuple(u.shape)}, got {got}."
            )
        return self._enter(found)


__all__ = ["Evolution"]
