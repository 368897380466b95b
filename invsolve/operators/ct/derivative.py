"""How line integrals change with the geometry of a scan: its centre of rotation, its detector, its distances.

The weights of Joseph are linear in where a ray meets a grid line, between two pixels, and those positions are smooth in
the parameters; so the derivative of every weight is known wherever no ray meets a pixel centre exactly, and there it is
that from one side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import check_choice
from invsolve.errors import invalid, invalid_type
from invsolve.operators.algebra.delegate import Alike
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import LinearOperator
from invsolve.operators.ct.backends.base import Projector
from invsolve.operators.ct.backends.on_the_fly import OnTheFly
from invsolve.operators.ct.beam import Beam
from invsolve.operators.ct.geometry import Geometry, Lines

_PARALLEL = ("detector_offset", "center_x", "center_y", "bin_size", "angle")
_FAN = ("source_to_center", "source_to_detector")


@final
@dataclass(frozen=True, eq=False, repr=False)
class GeometryDerivative(Alike, LinearOperator):
    """The derivative of a scan's line integrals with respect to one number of its geometry: ``x -> d(A x)/dp``.

    Linear in the image, with an adjoint that is the transpose: Jacobian of a calibration, Fisher information, test of a
    geometry. `Family` infers such a number with the image.

    Parameters
    ----------
    operator : ParallelBeam or FanBeam
        The scan A.
    parameter : str
        p: 'detector_offset', 'center_x', 'center_y', 'bin_size', or 'angle', which turns all views; of a fan also
        'source_to_center', 'source_to_detector' and, if its detector is flat, 'detector_tilt'.

    Raises
    ------
    InputTypeError
        If ``operator`` is no such scan.
    InputError
        If its geometry has no such number, or its weights are not Joseph's.

    Notes
    -----
    Line integrals by Joseph's weights have a kink in p where a ray passes a pixel centre, of the size of what the image
    changes in slope from pixel to pixel: for smooth images the derivative of the continuous integral.

    Examples
    --------
    >>> import numpy as np
    >>> import invsolve as iv
    >>> A = iv.operators.ParallelBeam(np.arange(60) * np.pi / 60, (64, 64), bins=95)
    >>> GeometryDerivative(A, "detector_offset")
    GeometryDerivative((64, 64) -> (60, 95), real, d/d detector_offset)
    """

    operator: Beam
    parameter: str

    def __post_init__(self) -> None:
        owner = "GeometryDerivative"
        if not isinstance(self.operator, Beam):
            raise invalid_type(owner, "operator", "an iv.operators.ParallelBeam or FanBeam", self.operator)
        geometry = self.operator.geometry
        if geometry.weights != "joseph":
            raise invalid(owner, "operator", "a scan with weights='joseph'", f"one with {geometry.weights!r}")
        known = _PARALLEL if geometry.source_to_center is None else (*_PARALLEL, *_FAN)
        if geometry.source_to_center is not None and not geometry.curved:
            known = (*known, "detector_tilt")
        check_choice(owner, "parameter", self.parameter, known)

    @property
    def dtype(self) -> torch.dtype | None:
        return self.operator.dtype

    @property
    def device(self) -> torch.device | None:
        return self.operator.device

    @property
    def batch(self) -> int | None:
        return self.operator.batch

    def take(self, index: Tensor) -> GeometryDerivative:
        return GeometryDerivative(self.operator.take(index), self.parameter)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> GeometryDerivative:
        return GeometryDerivative(self.operator.to(device, dtype), self.parameter)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, d/d {self.parameter})"

    def _apply(self, x: Tensor) -> Tensor:
        return matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._by_item(x, self.out_shape, self._projector, forward=True)

    def _backward(self, y: Tensor) -> Tensor:
        return self.operator._by_item(y, self.in_shape, self._projector, forward=False)

    def _projector(self, angles: Tensor, dtype: torch.dtype) -> Projector:
        key = (tuple(angles.tolist()), angles.device)
        if key not in self._made:
            geometry = self.operator._geometry(angles)
            self._made[key] = OnTheFly(geometry=geometry, lines=Changing.of(geometry, self.parameter))
        return self._made[key]

    @cached_property
    def _made(self) -> dict[object, Projector]:
        return {}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Changing:
    """Lines whose taps are the derivatives of those of ``lines``: by where grid lines are met, and by the length."""

    lines: Lines
    start: Tensor  # d/dp of the fields of `lines`, (rays,)
    slope: Tensor
    length: Tensor

    @staticmethod
    def of(geometry: Geometry, parameter: str) -> Changing:
        def moved(change: Tensor) -> Tensor:
            lines = _with(geometry, parameter, change).lines
            return torch.stack([lines.start, lines.slope, lines.length])

        # By two backward passes, the second along the weights of the first: forward mode takes torch seconds to load.
        with torch.enable_grad():
            zero = torch.zeros((), dtype=torch.float64, device=geometry.angles.device).requires_grad_()
            value = moved(zero)
            weight = torch.zeros_like(value).requires_grad_()
            (summed,) = torch.autograd.grad(value, zero, weight, create_graph=True)
            ((start, slope, length),) = torch.autograd.grad(summed, weight)
        return Changing(lines=geometry.lines, start=start, slope=slope, length=length)

    @property
    def taps_per_ray(self) -> Tensor:
        return self.lines.taps_per_ray

    def taps(self, first: int, last: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As `Lines.taps`; what lies outside of the image keeps its weight 0.

        A weight is ``length (1 - |at - j|)``, with ``at = start + k slope``: the first of a pair rises where ``at``
        falls, the second falls.
        """
        lines, some = self.lines, slice(first, last)
        pixel, weight = lines.taps(first, last, torch.float64)
        pairs = self.taps_per_ray[some] // 2
        W = lines.in_shape[1]

        def each(value: Tensor) -> Tensor:
            return value[some].repeat_interleave(pairs)

        index, rows = pixel.view(-1, 2), each(lines.rows)
        k = torch.where(rows, index[:, 0] // W, index[:, 0] % W)
        length = each(lines.length)
        at = (each(self.start) + k * each(self.slope)) * length
        inside = _inside(lines, rows, each(lines.start) + k * each(lines.slope))
        made = weight.view(-1, 2) * (each(self.length) / length)[:, None]
        made += torch.stack([-at, at], -1) * inside
        return pixel, made.to(dtype).view(-1)


def _inside(lines: Lines, rows: Tensor, at: Tensor) -> Tensor:
    """Which pixels of each pair are in the image, ``(pairs, 2)``."""
    H, W = lines.in_shape
    edge = torch.where(rows, W - 1, H - 1)
    lower = at.floor().clamp_min(-1).minimum(edge)
    return torch.stack([lower >= 0, lower + 1 <= edge], -1)


def _with(geometry: Geometry, parameter: str, change: Tensor) -> Geometry:
    """The scan with a number changed by a tensor."""
    if parameter == "angle":
        return replace(geometry, angles=geometry.angles + change)
    if parameter in ("center_x", "center_y"):
        x, y = geometry.center
        center = (x + change, y) if parameter == "center_x" else (x, y + change)
        return replace(geometry, center=center)  # type: ignore[arg-type]  # numbers that torch differentiates
    return replace(geometry, **{parameter: getattr(geometry, parameter) + change})
