"""Diffusion of heat in a box, exact in the modes of the grid."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.validation import Shape, check_positive
from invsolve.operators.base import LinearOperator
from invsolve.operators.pde.modes import check_grid, laplacian_values, line_of, transform_of
from invsolve.operators.pde.time_stepping import check_times


def heat_matrix(grid: CartesianGrid, axis: int, amount: float) -> Tensor:
    """``exp(amount d^2/dx^2)`` on the points of an axis, ``(n, n)`` float64; exact for its modes.

    Symmetric. Sines between walls at 0 ("interior"), cosines between walls that let nothing through ("centers"), waves
    of a torus.
    """
    line = line_of(grid, axis)
    modes = transform_of(line, torch.float64).forward(torch.eye(line.shape[0], dtype=torch.float64, device="cpu"))
    matrix = (modes * torch.exp(-amount * laplacian_values(line, "spectral"))) @ modes.mT
    return (matrix + matrix.mT) / 2


@final
@dataclass(frozen=True, eq=False, repr=False)
class Heat(LinearOperator):
    """The temperature at later times of the initial one: ``u_t = kappa Laplacian u``.

    The walls are those of the grid: ``points="interior"`` holds 0 at them, ``"centers"`` lets nothing through, and
    ``"periodic"`` has none. Going back in time is the classical ill-posed problem.

    Parameters
    ----------
    grid : CartesianGrid
        Of 1 to 3 axes.
    diffusivity : float
        kappa > 0, in length^2 / time.
    times : float or tuple of float
        When the temperature is wanted, > 0; several give an axis of times.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    Notes
    -----
    Exact for the modes of the grid, whatever the time, and so of spectral order in space; a product of a symmetric
    matrix for each axis, of which ``(n, n)`` numbers are stored for each time. Self-adjoint for a single time.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> grid = iv.CartesianGrid((31,), points="interior")
    >>> u = torch.sin(torch.pi * grid.mesh()[0])
    >>> later = Heat(grid, diffusivity=0.1, times=1.0)(u[None])[0]
    >>> torch.allclose(later, u * torch.exp(torch.tensor(-0.1 * torch.pi**2)))
    True
    """

    grid: CartesianGrid
    _: KW_ONLY
    diffusivity: float
    times: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        check_grid("Heat", self.grid, points=("centers", "interior", "periodic"))
        object.__setattr__(self, "diffusivity", check_positive("Heat", "diffusivity", self.diffusivity))
        times, several = check_times("Heat", self.times)
        object.__setattr__(self, "times", times if several else times[0])

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """That of the grid."""
        return self.grid.shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The same, behind an axis of times where several are given."""
        return (*([len(self.times)] if isinstance(self.times, tuple) else []), *self.grid.shape)

    @cached_property
    def _matrices(self) -> list[list[Tensor]]:
        times = self.times if isinstance(self.times, tuple) else (self.times,)
        axes = range(len(self.grid.shape))
        return [[heat_matrix(self.grid, axis, self.diffusivity * t) for axis in axes] for t in times]

    @cached_property
    def _cast(self) -> dict[tuple[torch.dtype, torch.device], list[list[Tensor]]]:
        return {}

    def _like(self, x: Tensor) -> list[list[Tensor]]:
        key = (x.dtype, x.device)
        if key not in self._cast:
            self._cast[key] = [[m.to(device=x.device, dtype=x.dtype) for m in some] for some in self._matrices]
        return self._cast[key]

    def _spread(self, x: Tensor, matrices: list[Tensor]) -> Tensor:
        for axis, matrix in enumerate(matrices, start=1):
            x = (x.movedim(axis, -1) @ matrix).movedim(-1, axis)
        return x.contiguous()

    def _apply(self, x: Tensor) -> Tensor:
        found = [self._spread(x, matrices) for matrices in self._like(x)]
        return torch.stack(found, 1) if isinstance(self.times, tuple) else found[0]

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = y.unbind(1) if isinstance(self.times, tuple) else [y]
        found = [self._spread(part, matrices) for part, matrices in zip(parts, self._like(y), strict=True)]
        return sum(found[1:], found[0])


__all__ = ["Heat"]
