"""Scattering of time-harmonic waves in two dimensions: exact (Lippmann-Schwinger), and its first Born approximation."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, Literal, Self, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.conjugate_gradients import conjugate_gradients
from invsolve.core.validation import Kind, Shape, check_choice, check_finite, check_int, check_positive, kind_dtype
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.pde.lost_rows import lose, warn_lost
from invsolve.operators.pde.modes import check_grid

Incident = Literal["plane", "point"]


class _Scatterer(Operator):
    """What both operators are made of; constants in float64, used in the precision of the contrast."""

    grid: CartesianGrid
    sources: Tensor
    receivers: Tensor
    wavenumber: float
    incident: Incident
    in_kind: Kind
    out_kind: Kind = "complex"

    def _check_scene(self) -> None:
        owner = type(self).__name__
        check_grid(owner, self.grid, points=("centers",), axes=(2,))
        object.__setattr__(self, "wavenumber", check_positive(owner, "wavenumber", self.wavenumber))
        check_choice(owner, "incident", self.incident, ("plane", "point"))
        check_choice(owner, "in_kind", self.in_kind, ("real", "complex"))
        for name in ("sources", "receivers"):
            made = check_finite(owner, name, parameter(owner, name, getattr(self, name), dtype=torch.float64))
            made = made.double().cpu()
            if made.ndim != 2 or made.shape[1] != 2 or not len(made):
                raise invalid(owner, name, "of shape (n, 2), along the axes of the grid", tuple(made.shape))
            if name == "sources" and self.incident == "plane":
                length = made.norm(dim=1, keepdim=True)
                if not bool((length > 0).all()):
                    raise invalid(owner, name, "directions that are not 0", made[(length == 0)[:, 0]][0].tolist())
                made = made / length
            else:
                nearest = self._distance(made).amin(1)
                if bool((bad := nearest < 0.5 * min(self.grid.spacing)).any()):
                    given = made[bad][0].tolist()
                    raise invalid(owner, name, "at least half a point's distance from every point of the grid", given)
            object.__setattr__(self, name, made)

    @property
    def _points(self) -> Tensor:
        return torch.stack(self.grid.mesh(), -1).reshape(-1, 2)

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """That of the grid."""
        return self.grid.shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """``(sources, receivers)``."""
        return (len(self.sources), len(self.receivers))

    @property
    def dtype(self) -> None:
        """None: any."""
        return None

    @property
    def device(self) -> None:
        """None: any."""
        return None

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Itself: it has no precision or device of its own."""
        return self

    @cached_property
    def _illumination(self) -> Tensor:
        """The incident waves at the points of the grid, ``(sources, N)`` complex128."""
        if self.incident == "plane":
            phase = self.wavenumber * self.sources @ self._points.mT
            return torch.polar(torch.ones_like(phase), phase)
        return self._green(self._distance(self.sources))

    @cached_property
    def _to_receivers(self) -> Tensor:
        """The field that unit contrast in each cell radiates to every receiver, ``(receivers, N)`` complex128."""
        return self._green(self._distance(self.receivers)) * self._strength

    def _distance(self, places: Tensor) -> Tensor:
        """To the points of the grid ``(places, N)``: by differences, squares would lose digits far from the origin."""
        return torch.cdist(places, self._points, compute_mode="donot_use_mm_for_euclid_dist")

    def _green(self, distance: Tensor) -> Tensor:
        from scipy.special import hankel1

        return torch.from_numpy(np.asarray(0.25j * hankel1(0, self.wavenumber * distance.numpy())))

    @property
    def _radius(self) -> float:
        return math.sqrt(self.grid.cell / math.pi)

    @property
    def _strength(self) -> float:
        """``k^2`` times the area of a cell, less what waves inside a disc of that area cancel."""
        from scipy.special import j1

        return float(2 * math.pi * self.wavenumber * self._radius * j1(self.wavenumber * self._radius))

    @cached_property
    def _cast(self) -> dict[tuple[str, torch.dtype, torch.device], Tensor]:
        return {}

    def _like(self, name: str, x: Tensor) -> Tensor:
        dtype = kind_dtype(x.dtype, "complex")
        key = (name, dtype, x.device)
        if key not in self._cast:
            self._cast[key] = getattr(self, name).to(device=x.device, dtype=dtype)
        return self._cast[key]


@final
@dataclass(frozen=True, eq=False, repr=False)
class BornScattering(_Scatterer, LinearOperator):
    """The scattered waves at receivers of a weak contrast: ``y = k^2 integral G(r, r') f(r') u_in(r') dr'``.

    The first Born approximation of `Scattering`: every wave is scattered once. ``G = i/4 H_0^(1)(k |r - r'|)``, waves
    vary as exp(-i omega t).

    Parameters
    ----------
    grid : CartesianGrid
        Of the contrast: two axes, ``points="centers"``.
    sources : Tensor or array, shape (sources, 2)
        Directions in which plane waves travel, or coordinates of points, along the axes of the grid in their order.
    receivers : Tensor or array, shape (receivers, 2)
        Coordinates.
    wavenumber : float
        k > 0 outside of the object, 2 pi / wavelength.
    incident : {"plane", "point"}
        Plane waves of amplitude 1, or waves G of points.
    in_kind : {"real", "complex"}
        Of the contrast ``f = n^2 - 1``, n the refractive index; complex with absorption, imaginary part >= 0.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be, or a source or receiver lies on a point of the grid.

    Notes
    -----
    A cell is a disc of its area with a constant contrast and field [1]_: order 2 in the spacing for smooth contrasts.
    Two matrices of ``(sources + receivers) N`` complex numbers are stored.

    References
    ----------
    .. [1] Richmond 1965, Scattering by a dielectric cylinder of arbitrary cross section shape, IEEE Trans. Antennas
       Propag. 13, 334.
    """

    grid: CartesianGrid
    sources: Tensor
    receivers: Tensor
    _: KW_ONLY
    wavenumber: float
    incident: Incident = "plane"
    in_kind: Kind = "real"

    out_kind = "complex"

    def __post_init__(self) -> None:
        self._check_scene()

    def _apply(self, x: Tensor) -> Tensor:
        waves, green = self._like("_illumination", x), self._like("_to_receivers", x)
        return (waves * x.flatten(1).to(waves.dtype).unsqueeze(1)) @ green.mT

    def _adjoint(self, y: Tensor) -> Tensor:
        waves, green = self._like("_illumination", y), self._like("_to_receivers", y)
        x = (waves.conj() * (y @ green.conj())).sum(1).view(-1, *self.in_shape)
        return x.real.contiguous() if self.in_kind == "real" else x


@final
@dataclass(frozen=True, eq=False, repr=False)
class Scattering(_Scatterer):
    """The scattered waves at receivers, of the contrast, with all that is scattered again: Lippmann and Schwinger.

    ``u = u_in + k^2 integral G f u``, ``y = k^2 integral G(r, r') f(r') u(r') dr'`` at the receivers; ``G = i/4
    H_0^(1)(k |r - r'|)``, waves vary as exp(-i omega t).

    Parameters
    ----------
    grid : CartesianGrid
        Of the contrast: two axes, ``points="centers"``.
    sources : Tensor or array, shape (sources, 2)
        Directions in which plane waves travel, or coordinates of points, along the axes of the grid in their order.
    receivers : Tensor or array, shape (receivers, 2)
        Coordinates.
    wavenumber : float
        k > 0 outside of the object, 2 pi / wavelength.
    incident : {"plane", "point"}
        Plane waves of amplitude 1, or waves G of points.
    in_kind : {"real", "complex"}
        Of the contrast ``f = n^2 - 1``, n the refractive index; complex with absorption, imaginary part >= 0.
    rtol : float, optional
        Of the field's equation, relative to the incident wave; 1e-12 in float64 and 1e-6 in float32 unless given.
    max_iter : int
        Of conjugate gradients, >= 1.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be, or a source or receiver lies on a point of the grid.

    See Also
    --------
    BornScattering : Linear, for weak contrasts.

    Notes
    -----
    A cell is a disc of its area with a constant contrast and field [1]_: order 2 in the spacing for smooth contrasts.
    Products with G by FFT; conjugate gradients on the normal equations, each source of each row by itself. Rows that do
    not reach ``rtol``, of a contrast so strong that waves resonate, are NaN. Derivatives cost one solve of the adjoint
    equation, and can be differentiated again.

    References
    ----------
    .. [1] Richmond 1965, Scattering by a dielectric cylinder of arbitrary cross section shape, IEEE Trans. Antennas
       Propag. 13, 334.
    """

    grid: CartesianGrid
    sources: Tensor
    receivers: Tensor
    _: KW_ONLY
    wavenumber: float
    incident: Incident = "plane"
    in_kind: Kind = "real"
    rtol: float | None = None
    max_iter: int = 2000

    out_kind = "complex"

    def __post_init__(self) -> None:
        self._check_scene()
        if self.rtol is not None:
            object.__setattr__(self, "rtol", check_positive("Scattering", "rtol", self.rtol))
        check_int("Scattering", "max_iter", self.max_iter, minimum=1)

    @cached_property
    def _kernel(self) -> Tensor:
        """The spectrum of ``k^2 G`` times a cell, on a torus of twice the size; complex128."""
        from scipy.special import hankel1

        steps = [
            torch.minimum(i, 2 * n - i) * h
            for n, h in zip(self.grid.shape, self.grid.spacing, strict=True)
            for i in [torch.arange(2 * n, dtype=torch.float64, device="cpu")]
        ]
        distance = torch.hypot(steps[0][:, None], steps[1])
        distance[0, 0] = 1.0  # replaced below
        kernel = self._green(distance) * self._strength
        ka = self.wavenumber * self._radius
        kernel[0, 0] = torch.tensor(
            complex(0.5j * math.pi * ka * hankel1(1, ka) - 1), dtype=torch.complex128, device="cpu"
        )
        spectrum: Tensor = torch.fft.fft2(kernel)
        return spectrum

    def _radiated(self, current: Tensor, adjoint: bool = False) -> Tensor:
        """``G`` or ``G^H`` times currents ``(..., H, W)``."""
        kernel = self._like("_kernel", current)
        height, width = self.grid.shape
        spectrum = torch.fft.fft2(current, s=(2 * height, 2 * width)) * (kernel.conj() if adjoint else kernel)
        field: Tensor = torch.fft.ifft2(spectrum)
        return field[..., :height, :width]

    def _system(self, f: Tensor, u: Tensor, adjoint: bool) -> Tensor:
        """``(I - G diag f) u``, or its adjoint."""
        return u - (f.conj() * self._radiated(u, True) if adjoint else self._radiated(f * u))

    def _solved(self, f: Tensor, b: Tensor, adjoint: bool) -> Tensor:
        """The solution for ``f`` (rows, 1, H, W) and ``b`` (rows, sources, H, W), without a graph."""
        rows, many = b.shape[:2]
        each = f.expand(rows, many, *f.shape[2:]).flatten(0, 1)
        eps = torch.finfo(kind_dtype(b.dtype, "real")).eps
        rtol = self.rtol or (1e-12 if eps < 1e-10 else 1e-6)
        right = b.flatten(0, 1)
        u = torch.zeros_like(right)
        size = right.flatten(1).norm(dim=1)
        for _ in range(4):  # the residual of the equation itself counts, not that of the normal equations
            residual = right - self._system(each, u, adjoint)
            left = residual.flatten(1).norm(dim=1)
            if not bool((left > rtol * size).any()):  # rows that are NaN hold nobody up
                break
            wanted = (left > rtol * size).view(-1, 1, 1)
            start = self._system(each, torch.where(wanted, residual, 0.0), not adjoint)
            step = conjugate_gradients(
                lambda v: self._system(each, self._system(each, v, adjoint), not adjoint),
                start,
                rtol=max(rtol * 0.03, 4 * eps),
                max_iter=self.max_iter,
            )[0]
            u = u + step
        else:
            left = (right - self._system(each, u, adjoint)).flatten(1).norm(dim=1)
            if bool((left > 30 * rtol * size).any()):
                which = f"whose field was not found to rtol={rtol:.0e} in {self.max_iter} iterations"
                repair = "The contrast is so strong that waves resonate: raise max_iter or rtol, or add absorption."
                warn_lost("Scattering", which, repair)
        return lose(u.view_as(b), ~(left <= 30 * rtol * size).view(rows, many).all(1))

    def _apply(self, x: Tensor) -> Tensor:
        f = x.to(kind_dtype(x.dtype, "complex")).unsqueeze(1)
        b = self._like("_illumination", x).view(1, -1, *self.in_shape).expand(len(x), -1, -1, -1)
        if not len(x):
            return f.new_zeros(0, *self.out_shape)
        u: Tensor = _Field.apply(f, b, self, False)
        return (f * u).flatten(2) @ self._like("_to_receivers", x).mT


class _Field(torch.autograd.Function):
    """``(I - G diag f)^-1 b``, or with the adjoint; its backward pass is made of the same, so that it has one too."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, b: Tensor, scene: Scattering, adjoint: bool) -> Tensor:
        u = scene._solved(f.detach(), b.detach(), adjoint)
        ctx.scene, ctx.adjoint = scene, adjoint
        ctx.save_for_backward(f, u)
        return u

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        f, u = ctx.saved_tensors
        scene, adjoint = ctx.scene, ctx.adjoint
        other = _Field.apply(f, grad, scene, not adjoint)
        if not ctx.needs_input_grad[0]:
            return None, other, None, None
        if adjoint:
            to_f = (other.conj() * scene._radiated(u, True)).sum(1, keepdim=True)
        else:
            to_f = (u.conj() * scene._radiated(other, True)).sum(1, keepdim=True)
        return to_f, other if ctx.needs_input_grad[1] else None, None, None


__all__ = ["BornScattering", "Scattering"]
