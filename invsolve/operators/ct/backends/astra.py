"""Line integrals by astra-toolbox, on a CPU: a second program to compare with. GPLv3, imported where it is asked for.

Only its projectors of planes for a CPU are made, by their names: those for a GPU would end the process where there is
none. Its sums are single precision, and forward and adjoint round differently: they are transposes to about 1e-7.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import from_array
from invsolve.errors import UnsupportedError, invalid
from invsolve.operators.ct.geometry import Geometry


def check_astra(owner: str, geometry: Geometry) -> None:
    """Refuse a scan that astra would not take, or would compute wrongly."""
    toolbox(owner)
    if geometry.angles.device.type != "cpu":
        raise invalid(owner, "backend", "one for accelerators", "'astra', which is run on the CPU here", "Use 'auto'.")
    height, width = geometry.pixel_size
    if not math.isclose(height, width, rel_tol=1e-9):
        found = f"'astra' with pixels of {height:.6g} x {width:.6g} mm"
        raise invalid(owner, "backend", "one that knows pixels that are not square", found, "Use 'auto'.")
    if geometry.curved:
        raise invalid(owner, "backend", "one that knows curved detectors", "'astra'", "Use 'auto'.")
    if geometry.source_to_center is not None and geometry.weights != "siddon":
        raise invalid(owner, "weights", "'siddon' for backend='astra', which has no others of fans", geometry.weights)


def toolbox(owner: str) -> Any:
    """The package astra; UnsupportedError where it is not installed."""
    try:
        import astra
    except ImportError as error:
        raise UnsupportedError(
            f"{owner}: backend='astra' needs astra-toolbox (GPLv3): pip install astra-toolbox."
        ) from error
    return astra


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Astra:
    """Astra's projectors of parallel rays, `linear` (Joseph's weights) and `line` (Siddon's), and `line_fanflat`."""

    projector: int
    geometry: Geometry

    @staticmethod
    def of(geometry: Geometry) -> Astra:
        astra = toolbox("astra")
        a = geometry.angles.numpy()
        along, ahead = np.stack([np.cos(a), np.sin(a)], 1), np.stack([-np.sin(a), np.cos(a)], 1)
        axis = np.array(geometry.center)
        (H, W), (size, _) = geometry.in_shape, geometry.pixel_size
        volume = astra.create_vol_geom(H, W, -W * size / 2, W * size / 2, -H * size / 2, H * size / 2)
        if geometry.source_to_center is None or geometry.source_to_detector is None:
            vectors = [ahead, axis + geometry.detector_offset * along, geometry.bin_size * along]
            name, kind = "linear" if geometry.weights == "joseph" else "line", "parallel_vec"
        else:
            tilt = geometry.detector_tilt
            side = math.cos(tilt) * along + math.sin(tilt) * ahead
            source = axis - geometry.source_to_center * ahead
            middle = source + geometry.source_to_detector * ahead + geometry.detector_offset * side
            vectors = [source, middle, geometry.bin_size * side]
            name, kind = "line_fanflat", "fanflat_vec"
        beam = astra.create_proj_geom(kind, geometry.bins, np.concatenate(vectors, 1))
        made = Astra(projector=astra.create_projector(name, beam, volume), geometry=geometry)
        weakref.finalize(made, astra.projector.delete, made.projector).atexit = False
        return made

    def forward(self, x: Tensor) -> Tensor:
        return self._each(toolbox("astra").projector.direct_FP, x, (len(self.geometry.angles), self.geometry.bins))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._each(toolbox("astra").projector.direct_BP, y, self.geometry.in_shape)

    def _each(self, run: Any, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Image by image: it has no batches."""
        out = np.zeros((len(value), *shape), dtype=np.float32)
        for one, into in zip(value.to(torch.float32).contiguous().numpy(), out, strict=True):
            run(self.projector, one, out=into)
        return from_array(out)
