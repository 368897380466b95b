"""The source of a potential, or of a wave of one frequency, in a homogeneous medium."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.transforms import Transform
from invsolve.core.validation import Shape, check_choice, check_number
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator
from invsolve.operators.pde.modes import Accuracy, check_grid, laplacian_values, transform_of

_ACCURACIES = ("second order", "spectral")
_RESONANT = 1e-8  # relative distance of k^2 from an eigenvalue, below which nothing is solved


@final
@dataclass(frozen=True, eq=False, repr=False)
class Helmholtz(LinearOperator):
    """The source f to the solution of ``Laplace(u) + k^2 u = f`` in a homogeneous medium, by two transforms.

    The walls are those of the grid: u = 0 around ``points="interior"``, no flow through the walls of cells
    (``"centers"``), or a torus (``"periodic"``). It is its own adjoint.

    Parameters
    ----------
    grid : CartesianGrid
        Of source and solution, any number of points along 1 to 3 axes.
    wavenumber : float
        k >= 0, radians per length. Waves that a wall reflects resonate where k^2 is an eigenvalue: refused there.
    accuracy : {"second order", "spectral"}
        "second order" inverts the stencil of nearest neighbours exactly; "spectral" takes the eigenvalues of the modes
        themselves, exact for sources of few modes. Waves need ten points a length 2 pi / k, or more where they travel
        many lengths.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be, or k^2 is an eigenvalue: for k = 0 the constant, where no wall holds u.

    References
    ----------
    Buzbee, Golub & Nielson 1970, On direct methods for solving Poisson's equations, doi 10.1137/0707049.

    Examples
    --------
    >>> import invsolve as iv
    >>> A = Helmholtz(iv.CartesianGrid((31, 31), points="interior"), wavenumber=1.0)
    >>> A
    Helmholtz((31, 31) -> (31, 31), real)
    """

    grid: CartesianGrid
    _: KW_ONLY
    wavenumber: float = 0.0
    accuracy: Accuracy = "second order"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        grid = check_grid(owner, self.grid)
        check_choice(owner, "accuracy", self.accuracy, _ACCURACIES)
        k = check_number(owner, "wavenumber", self.wavenumber)
        if k < 0:
            raise invalid(owner, "wavenumber", ">= 0", k)
        values = laplacian_values(grid, self.accuracy)
        gap = (values - k**2).abs()
        if float(gap.min()) <= _RESONANT * max(k**2, grid.extent[0] ** -2):
            if k == 0:
                repair = 'points="interior" has walls where u = 0; a wavenumber > 0 takes the constant along.'
                raise invalid(owner, "grid", "with walls that hold u, for k = 0", f"points={grid.points!r}", repair)
            raise invalid(
                owner, "wavenumber", f"away from resonances, k^2 = {float(values.flatten()[gap.argmin()])!r}", k
            )

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the grid."""
        return self.grid.shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the grid."""
        return self.grid.shape

    def _apply(self, x: Tensor) -> Tensor:
        transform, gain = self._made(x.dtype, x.device)
        return transform.inverse(gain * transform.forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Helmholtz:
        """The same: it has neither precision nor place."""
        return self

    def _made(self, dtype: torch.dtype, device: torch.device) -> tuple[Transform, Tensor]:
        kept: dict[object, tuple[Transform, Tensor]] = vars(self).setdefault("_kept", {})
        if (dtype, device) not in kept:
            gain = 1 / (self.wavenumber**2 - laplacian_values(self.grid, self.accuracy))
            kept[dtype, device] = transform_of(self.grid, dtype, device), gain.to(device, dtype)
        return kept[dtype, device]


def Poisson(  # noqa: N802  a special case that has a name
    grid: CartesianGrid, *, accuracy: Accuracy = "second order"
) -> Helmholtz:
    """The source f to the solution of ``Laplace(u) = f``, by two transforms: `Helmholtz` for k = 0.

    Parameters
    ----------
    grid : CartesianGrid
        With ``points="interior"``, u = 0 on the walls.
    accuracy : {"second order", "spectral"}
        As for `Helmholtz`.

    Returns
    -------
    Helmholtz
        With ``wavenumber=0``; mind the sign: a positive source makes u negative.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> A = Poisson(iv.CartesianGrid((3,), points="interior"))
    >>> A(torch.ones(1, 3, dtype=torch.float64))  # x (x - 1) / 2, exactly
    tensor([[-0.0938, -0.1250, -0.0938]], dtype=torch.float64)
    """
    return Helmholtz(grid, wavenumber=0.0, accuracy=accuracy)
