"""What a flow carries along while it spreads: linear in the initial state."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.derivatives import pullback
from invsolve.core.validation import check_finite, check_positive
from invsolve.errors import invalid
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import LinearOperator, Pullback
from invsolve.operators.pde.modes import check_grid, dealiased, derivative, highest, squared, to_field, to_spectrum
from invsolve.operators.pde.spectral import SpectralEvolution


@final
@dataclass(frozen=True, eq=False, repr=False)
class AdvectionDiffusion(SpectralEvolution, LinearOperator):
    """The concentration at later times of the initial one: ``u_t = -div(v u) + kappa Laplacian u``, on a torus.

    Parameters
    ----------
    grid : CartesianGrid
        Of 1 to 3 axes, ``points="periodic"``.
    velocity : Tensor or array, shape (axes,) or (axes, *grid.shape)
        v along each axis of the grid in their order, constant or a field, in length / time. It need not be free of
        divergence: the total is conserved.
    diffusivity : float
        kappa >= 0, in length^2 / time.
    times : float or tuple of float
        When the concentration is wanted, > 0; several give an axis of times.
    dt : float, optional
        The step, for a velocity that is a field; by default half as long as is stable.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be, or ``dt`` longer than is stable.

    Notes
    -----
    With a constant velocity exact in the modes of the grid. Else pseudo-spectral with the 2/3 rule, Runge-Kutta of
    order 4 with an exact integrating factor for the diffusion. The adjoint is that of the steps, to rounding.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> grid = iv.CartesianGrid((8,), points="periodic")
    >>> A = AdvectionDiffusion(grid, velocity=[0.25], diffusivity=0.0, times=1.0)
    >>> u = torch.cos(2 * torch.pi * grid.mesh()[0])[None]
    >>> torch.allclose(A(u), u.roll(2, 1))  # a quarter of the box further
    True
    """

    grid: CartesianGrid
    _: KW_ONLY
    velocity: Tensor
    diffusivity: float
    times: float | tuple[float, ...] = 1.0
    dt: float | None = None

    def __post_init__(self) -> None:
        owner = "AdvectionDiffusion"
        check_grid(owner, self.grid, points=("periodic",))
        velocity = check_finite(
            owner, "velocity", real_parameter(owner, "velocity", self.velocity, dtype=torch.float64)
        )
        axes = len(self.grid.shape)
        if tuple(velocity.shape) not in ((axes,), (axes, *self.grid.shape)):
            wanted = f"of shape {(axes,)} or {(axes, *self.grid.shape)}"
            raise invalid(owner, "velocity", wanted, tuple(velocity.shape))
        object.__setattr__(self, "velocity", velocity.double().cpu())
        object.__setattr__(self, "diffusivity", check_positive(owner, "diffusivity", self.diffusivity, zero=True))
        self._check_run()
        if not self._constant:
            last = self._all_times[-1]
            top = float(self._fastest)
            chosen = 1.4 / top if top else last
            if self.dt is not None and self.dt * top > 2.8:
                raise invalid(owner, "dt", f"at most {2.8 / top:.3g}, to be stable with this velocity", self.dt)
            object.__setattr__(self, "dt", self.dt or min(chosen, last / 8))
        else:
            object.__setattr__(self, "dt", self._all_times[-1])

    @property
    def _constant(self) -> bool:
        return self.velocity.ndim == 1

    @property
    def dtype(self) -> None:
        """None: any."""
        return None

    @property
    def device(self) -> None:
        """None: any."""
        return None

    def to(self, device: Any = None, dtype: Any = None) -> AdvectionDiffusion:
        """Itself: it has no precision or device of its own."""
        return self

    @cached_property
    def _fastest(self) -> Tensor:
        tops = self.velocity.flatten(1).abs().amax(1)
        return (tops * torch.tensor(highest(self.grid), dtype=torch.float64, device="cpu")).sum()

    def _linear(self) -> Tensor:
        spread = -self.diffusivity * squared(self.grid)
        if not self._constant:
            return spread
        parts = [-float(v) * derivative(self.grid, a) for a, v in enumerate(self.velocity)]
        return sum(parts, spread + 0j)

    @cached_property
    def _slopes(self) -> Tensor:
        parts = [-derivative(self.grid, a) * dealiased(self.grid) for a in range(len(self.grid.shape))]
        return torch.stack(torch.broadcast_tensors(*parts))  # type: ignore[no-untyped-call]

    def _rate(self, spectrum: Tensor, t: float) -> Tensor:
        if self._constant:
            return torch.zeros_like(spectrum)
        keep, slopes = (self._like(n, v, spectrum) for n, v in (("keep", self._keep), ("slopes", self._slopes)))
        u = to_field(spectrum * keep, self.grid).unsqueeze(1)
        flux = u * self._like("velocity", self.velocity, spectrum)
        return (slopes * to_spectrum(flux, len(self.grid.shape))).sum(1)

    @cached_property
    def _keep(self) -> Tensor:
        return dealiased(self.grid)

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._run(self._enter(x), 1, None)

    def _apply(self, x: Tensor) -> Tensor:
        return matched(x, self._evaluate, self._transposed)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._transposed, self._evaluate)

    def _transposed(self, y: Tensor) -> Tensor:
        """The pullback at zero, which of a linear map is the adjoint everywhere."""
        zero = torch.zeros(len(y), *self.in_shape, dtype=y.dtype, device=y.device)
        return pullback(self._evaluate, zero, self._not_differentiable)[1](y.contiguous())

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        return LinearOperator._vjp(self, x)

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        return LinearOperator._jvp(self, x, dx)


__all__ = ["AdvectionDiffusion"]
