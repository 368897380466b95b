"""Whether kernels in Triton can run: asked before they are imported, which decides how they are made."""

from __future__ import annotations

import importlib.util
import os

from invsolve.errors import UnsupportedError, invalid
from invsolve.operators.ct.geometry import Geometry


def triton_installed() -> bool:
    """Whether there is a Triton to import; torch brings it on Linux with CUDA."""
    return importlib.util.find_spec("triton") is not None


def check_triton(owner: str, geometry: Geometry) -> None:
    """Refuse where its kernels cannot run: a GPU is needed, or Triton's interpreter, which is for tests."""
    device = geometry.angles.device
    if geometry.weights != "joseph":
        raise invalid(owner, "weights", "'joseph' for backend='triton'", geometry.weights, "Use backend='auto'.")
    if not triton_installed():
        raise UnsupportedError(f"{owner}: backend='triton' needs the package triton, which torch for CUDA brings.")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UnsupportedError(
            f"{owner}: backend='triton' needs a CUDA device, and the angles are on {device}. "
            "Use backend='auto', or move them: ParallelBeam(angles.to('cuda'), ...)."
        )
