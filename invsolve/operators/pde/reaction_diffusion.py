"""Two substances that react and spread: patterns of FitzHugh-Nagumo and of Gray and Scott."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.validation import Shape, check_choice, check_number, check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.operators.pde.modes import check_grid, squared, to_field, to_spectrum
from invsolve.operators.pde.spectral import SpectralEvolution

_NEEDED = {"FitzHugh-Nagumo": ("k",), "Gray-Scott": ("feed", "kill")}
_USUAL = {"FitzHugh-Nagumo": {"k": 5e-3}, "Gray-Scott": {"feed": 0.04, "kill": 0.06}}


@final
@dataclass(frozen=True, eq=False, repr=False)
class ReactionDiffusion(SpectralEvolution):
    """The fields (u, v) at later times of the initial ones: ``u_t = D_u Laplacian u + R_u``, and v alike.

    ``"FitzHugh-Nagumo"``, as in PDEBench [1]_: ``R_u = u - u^3 - k - v``, ``R_v = u - v``. ``"Gray-Scott"`` [2]_:
    ``R_u = -u v^2 + feed (1 - u)``, ``R_v = u v^2 - (feed + kill) v``.

    Parameters
    ----------
    grid : CartesianGrid
        Of 1 to 3 axes: ``points="periodic"``, or ``"centers"`` with walls that let nothing through.
    reaction : {"FitzHugh-Nagumo", "Gray-Scott"}
        What R is; for one of your own there is `Evolution`.
    diffusivities : tuple of float
        (D_u, D_v), each >= 0, in length^2 / time.
    times : float or tuple of float
        When the fields are wanted, > 0; several give an axis of times.
    parameters : dict of str to float, optional
        ``k`` (5e-3, as in PDEBench), or ``feed`` and ``kill`` (0.04 and 0.06), in 1 / time.
    dt : float, optional
        The step. By default chosen for each row by its fastest reaction at the start.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.
    OperatorError
        At a call, if ``dt`` is too long for a row. Rows that need over 65,536 steps are NaN.

    Notes
    -----
    Diffusion is exact in the modes of the grid, reactions are evaluated at its points, Runge-Kutta of order 4. A state
    has shape ``(2, *grid.shape)``.

    References
    ----------
    .. [1] Takamoto et al. 2022, PDEBench, NeurIPS datasets and benchmarks, arXiv 2210.07182.
    .. [2] Pearson 1993, Complex patterns in a simple system, Science 261, 189.

    Examples
    --------
    >>> import invsolve as iv
    >>> grid = iv.CartesianGrid((16, 16), extent=2.0)
    >>> ReactionDiffusion(grid, "FitzHugh-Nagumo", diffusivities=(1e-3, 5e-3), times=(1.0, 2.0))
    ReactionDiffusion((2, 16, 16) -> (2, 2, 16, 16), real)
    """

    grid: CartesianGrid
    reaction: Literal["FitzHugh-Nagumo", "Gray-Scott"]
    _: KW_ONLY
    diffusivities: tuple[float, float]
    times: float | tuple[float, ...] = 1.0
    parameters: dict[str, float] = field(default_factory=dict)
    dt: float | None = None

    def __post_init__(self) -> None:
        owner = "ReactionDiffusion"
        check_grid(owner, self.grid, points=("periodic", "centers"))
        check_choice(owner, "reaction", self.reaction, tuple(_NEEDED))
        if not isinstance(self.diffusivities, (tuple, list)):
            raise invalid_type(owner, "diffusivities", "two numbers, (D_u, D_v)", self.diffusivities)
        if len(self.diffusivities) != 2:
            raise invalid(owner, "diffusivities", "two numbers, (D_u, D_v)", self.diffusivities)
        both = tuple(check_positive(owner, "diffusivities", d, zero=True) for d in self.diffusivities)
        object.__setattr__(self, "diffusivities", both)
        if not isinstance(self.parameters, dict):
            raise invalid_type(owner, "parameters", "a dict of numbers", self.parameters)
        if unknown := set(self.parameters) - set(_NEEDED[self.reaction]):
            allowed = " and ".join(_NEEDED[self.reaction])
            raise invalid(owner, "parameters", f"{allowed} of {self.reaction}", sorted(map(str, unknown)))
        values = _USUAL[self.reaction] | {n: check_number(owner, n, v) for n, v in self.parameters.items()}
        object.__setattr__(self, "parameters", values)
        self._check_run()

    @property
    def _fields(self) -> Shape:  # type: ignore[override]
        return (2,)

    @cached_property
    def _torus(self) -> CartesianGrid:
        """The grid; with walls, the one of the box and its mirror images."""
        if self.grid.points == "periodic":
            return self.grid
        shape, extent = tuple(2 * n for n in self.grid.shape), tuple(2 * length for length in self.grid.extent)
        return replace(self.grid, shape=shape, extent=extent, points="periodic")

    def _enter(self, x: Tensor) -> Tensor:
        if self.grid.points == "centers":
            for axis in range(2, x.ndim):
                x = torch.cat([x, x.flip(axis)], axis)
        return to_spectrum(x, len(self.grid.shape))

    def _leave(self, spectrum: Tensor) -> Tensor:
        x = to_field(spectrum, self._torus)
        for axis, n in enumerate(self.grid.shape, start=2):
            x = x.narrow(axis, 0, n)
        return x

    def _linear(self) -> Tensor:
        k2 = squared(self._torus)
        return torch.stack([-d * k2 for d in self.diffusivities])

    def _rate(self, spectrum: Tensor, t: float) -> Tensor:
        u, v = self._leave(spectrum).unbind(1)
        p = self.parameters
        if self.reaction == "FitzHugh-Nagumo":
            rates = u - u**3 - p["k"] - v, u - v
        else:
            made = u * v * v
            rates = p["feed"] * (1 - u) - made, made - (p["feed"] + p["kill"]) * v
        return self._enter(torch.stack(rates, 1))

    def _frequency(self, spectrum: Tensor) -> Tensor:
        u, v = self._leave(spectrum).abs().flatten(2).amax(2).unbind(1)
        if self.reaction == "FitzHugh-Nagumo":  # bounds of the Jacobian's rows
            return torch.maximum(3 * u * u, u.new_ones(()) * 2) + 1
        return v * v + 2 * u * v + sum(abs(p) for p in self.parameters.values())


__all__ = ["ReactionDiffusion"]
