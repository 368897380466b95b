"""Filtered backprojection of cones: Feldkamp, Davis and Kress."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from invsolve.baselines.filtered_backprojection import WINDOWS, Window, angles_between, ramp, redundancy
from invsolve.baselines.inputs import checked
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_choice
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import LinearOperator
from invsolve.operators.ct.backends.base import of_parts
from invsolve.operators.ct.cone import ConeBeam

_VALUES = 10  # that a voxel needs while it is made


@in_defined_state
def fdk(A: LinearOperator, y: Tensor, *, window: Window = "ram-lak") -> Tensor:
    """Filtered backprojection of a `ConeBeam` on a circle, after Feldkamp, Davis and Kress, in the units of the volume.

    Parameters
    ----------
    A : ConeBeam
        The scan, without pitch, tilt and roll; one set of angles, in any order, over a whole turn, or over a short
        scan, half a turn and the angle of the fan at least; its detector in the middle along its rows.
    y : Tensor, shape (batch, views, rows, bins)
        Line integrals, finite.
    window : {'ram-lak', 'shepp-logan', 'cosine', 'hamming', 'hann'}
        What the ramp filter is multiplied with along the rows; 'ram-lak' by default, which is nothing.

    Returns
    -------
    Tensor, shape (batch, D, H, W)
        The volume.

    Raises
    ------
    InputTypeError
        If ``A`` is no such operator, or ``y`` of another kind or precision.
    InputError
        If ``y`` does not fit, the window is none of these, the source does not run on a circle, or the views are too
        few of a turn.

    See Also
    --------
    fbp : scans in a plane.

    Notes
    -----
    Exact in the plane in which the source turns [1]_, where it is `fbp` of a `FanBeam`; above and below it the values
    fall with the square of the angle under which the source sees them, because a circle does not measure all there is.
    Views count as those of `fbp`; rays of a short scan by the weights of their fan. Done slab by slab in ``A.memory``.

    References
    ----------
    .. [1] Feldkamp, Davis & Kress 1984, Practical cone-beam algorithm, Journal of the Optical Society of America A 1,
       612.
    """
    if not isinstance(A, ConeBeam):
        raise invalid_type("fdk", "A", "an iv.operators.ConeBeam", A)
    y = checked("fdk", A, y)
    check_choice("fdk", "window", window, WINDOWS)
    if A.batch is not None:
        raise invalid(
            "fdk", "A", "of one set of angles", f"{A.batch} items", "Take one: A.take([i]), or build it anew."
        )
    moved = [f"{name} {getattr(A, name):.6g}" for name in ("pitch", "tilt", "roll") if getattr(A, name)]
    if moved:
        raise invalid(
            "fdk", "A", "a circle without pitch, tilt and roll", ", ".join(moved), "Use sirt, cgls, or iv.solve."
        )
    return of_parts(_Feldkamp(A, window), False, y)


class _Feldkamp:
    """Of real data; a back end whose adjoint it stands for."""

    def __init__(self, A: ConeBeam, window: Window) -> None:
        self.A, self.window, self.fan = A, window, A.middle_fan
        (self.height, self.step), far = A.detector_sizes, A.source_to_detector
        rows = torch.arange(A.rows or 1, dtype=torch.float64, device=A.angles.device)
        u, v = self.fan.positions, (rows - (len(rows) - 1) / 2) * self.height + A.detector_offset[1]
        slant = u / far if self.fan.curved else torch.atan(u / far)
        share = angles_between(self.fan.angles, 2 * math.pi)[:, None] * redundancy(self.fan, slant)
        self.share = share[:, None] * self._cosine(u, v[:, None])  # (views, rows, bins)

    def _cosine(self, u: Tensor, v: Tensor) -> Tensor:
        """Of the angle between each ray and that through the middle of the detector; an arc: times the distance."""
        far, near = self.A.source_to_detector, self.A.source_to_center
        if self.fan.curved:
            return near * torch.cos(u / far) * far / torch.sqrt(far**2 + v**2)
        return far / torch.sqrt(far**2 + u**2 + v**2)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def adjoint(self, y: Tensor) -> Tensor:
        A = self.A
        D, H, W = A.in_shape
        out = y.new_zeros(len(y), D, H, W)
        spacing = self.step / A.source_to_detector * (1 if self.fan.curved else A.source_to_center)
        slices = max(1, min(D, A.memory // (y.dtype.itemsize * H * W * (_VALUES + len(y)))))
        for i, angle in enumerate(self.fan.angles.tolist()):
            weighted = y[:, i] * self.share[i].to(y.dtype)
            filtered = ramp(weighted, spacing, self.window, curved=spacing if self.fan.curved else 0.0)[None]
            for low, grid, weight in self._places(angle, slices):
                shape = (1, grid.shape[0] * H, W, 2)
                seen = functional.grid_sample(filtered, grid.view(shape).to(y.dtype), align_corners=False)
                out[:, low : low + len(grid)] += seen.view(len(y), len(grid), H, W) * weight.to(y.dtype)
        return out

    def _places(self, angle: float, slices: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Slab by slab: where its voxels are on the detector, as torch says it, and their weights of distance."""
        A, device = self.A, self.A.angles.device
        (D, H, W), (depth, height, width), (x0, y0, z0) = A.in_shape, A.geometry.voxel_size, A.center
        x = (torch.arange(W, dtype=torch.float64, device=device) - (W - 1) / 2) * width - x0
        y = ((H - 1) / 2 - torch.arange(H, dtype=torch.float64, device=device))[:, None] * height - y0
        c, s, far = math.cos(angle), math.sin(angle), A.source_to_detector
        u, ahead = x * c + y * s, A.source_to_center + y * c - x * s
        if self.fan.curved:
            apart = torch.hypot(ahead, u)
            weight, u = 1 / apart**2, far * torch.atan2(u, ahead)
        else:
            apart = ahead
            weight, u = (A.source_to_center / ahead) ** 2, far * u / ahead
        column = (u - A.detector_offset[0]) * 2 / (self.step * (A.bins or 1))
        for low in range(0, D, slices):
            z = torch.arange(low, min(low + slices, D), dtype=torch.float64, device=device)[:, None, None]
            v = far * ((z - (D - 1) / 2) * depth - z0) / apart - A.detector_offset[1]
            row = v * 2 / (self.height * (A.rows or 1))
            yield low, torch.stack([column.expand_as(row), row], -1), weight
