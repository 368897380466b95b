"""What a scanner adds to the anatomy: receive sensitivities and a smooth phase, as functions of position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, check_positive
from invsolve.datasets.continuum import cell_centres, check_plane, check_real_dtype, check_seed, normals, uniforms

_RING = 0.78  # distance of the coils from the centre, in fields of view: outside of every corner (0.71)
_LOOP = 0.25  # half the width of a coil


@in_defined_state
def coil_maps(num_coils: int, shape: tuple[int, int], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth complex receive sensitivities, ``sum_c |S_c|^2 = 1`` everywhere; the same on every grid.

    Parameters
    ----------
    num_coils : int
        >= 1.
    shape : tuple of int
        (H, W).
    seed : int
        Jitters the coils, which stand on a ring around the field of view.
    dtype : torch.dtype
        The precision: float32 gives complex64, float64 complex128.

    Returns
    -------
    Tensor, shape (num_coils, H, W)
        Complex.

    Raises
    ------
    InputError, InputTypeError
        If a value is out of its range or of another type.

    Notes
    -----
    A long wire across the slice at w has the receive field 1 / (z - w), z = x + i y (Biot-Savart in two dimensions); a
    coil is a loop of two wires with opposite currents, ``1 / (z - a) - 1 / (z - b)``, which never vanishes.
    """
    num_coils = check_int("coil_maps", "num_coils", num_coils, minimum=1)
    down, right = cell_centres(check_plane("coil_maps", "shape", shape))
    jitter = 2 * uniforms("coil maps", check_seed("coil_maps", seed), num_coils, (num_coils, 3)) - 1
    dtype = check_real_dtype("coil_maps", "dtype", dtype)
    z = right + 1j * down
    fields = []
    for c, (turn, push, twist) in enumerate(jitter.tolist()):
        angle = 2 * math.pi * (c + 0.2 * turn) / num_coils
        outward = complex(math.cos(angle), math.sin(angle))
        centre, half = (_RING + 0.03 * push) * outward, 1j * _LOOP * outward
        gain = complex(math.cos(math.pi * twist), math.sin(math.pi * twist))
        fields.append(gain / (z - centre - half) - gain / (z - centre + half))
    maps = torch.stack(fields)
    return (maps / maps.abs().square().sum(0).sqrt()).to(dtype.to_complex())


@in_defined_state
def smooth_phase(
    shape: tuple[int, int], *, strength: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A slowly varying phase; the same on every grid.

    A random combination of the cosines of up to two half periods a side, without the constant one.

    Parameters
    ----------
    shape : tuple of int
        (H, W).
    strength : float
        The largest size that it may have, in radians, >= 0.
    seed : int
        Of the combination.
    dtype : torch.dtype
        float32 or float64.

    Returns
    -------
    Tensor, shape (H, W)
        In radians.

    Raises
    ------
    InputError, InputTypeError
        If a value is out of its range or of another type.
    """
    down, right = cell_centres(check_plane("smooth_phase", "shape", shape))
    strength = check_positive("smooth_phase", "strength", strength, zero=True)
    weights = normals("smooth phase", check_seed("smooth_phase", seed), 0, (3, 3))
    weights[0, 0] = 0
    weights = weights * strength / weights.abs().sum()
    orders = torch.arange(3, dtype=torch.float64, device="cpu")
    rows, columns = torch.cos(math.pi * orders * (down + 0.5)), torch.cos(math.pi * orders[:, None] * (right + 0.5))
    return (rows @ weights @ columns).to(check_real_dtype("smooth_phase", "dtype", dtype))
