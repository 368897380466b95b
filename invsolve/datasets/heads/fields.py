"""Smooth random fields in space: folds, texture, shape. A few periodic lattices, seen from anywhere."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from invsolve.datasets.continuum import normals

_NODES = 64
PERIOD = 192.0  # mm: a head sees about one period of a lattice


@cache
def lattice(what: str, wavelength: float, width: float) -> Tensor:
    """A periodic Gaussian field of unit variance and the size of its gradient (1 / mm), ``(1, 2, n, n, n)`` float32.

    Its wavelengths lie around ``wavelength`` mm, with a relative spread of ``width``; isotropic.
    """
    k = torch.fft.fftfreq(_NODES, 1 / _NODES, dtype=torch.float64, device="cpu") / PERIOD
    k3 = torch.meshgrid(k, k, k, indexing="ij")
    size = torch.stack(k3).square().sum(0).sqrt()
    gain = torch.exp(-0.5 * ((size * wavelength - 1) / width) ** 2)
    gain[0, 0, 0] = 0
    white = normals(f"heads {what} {wavelength} {width}", 0, 0, (_NODES**3,)).view(_NODES, _NODES, _NODES)
    spectrum = gain * torch.fft.fftn(white)
    f = torch.fft.ifftn(spectrum).real
    slopes = torch.stack([torch.fft.ifftn(2j * torch.pi * q * spectrum).real for q in k3])
    both = torch.stack([f, slopes.square().sum(0).sqrt()]) / f.std()
    return functional.pad(both[None].float(), (0, 1, 0, 1, 0, 1), mode="circular")


def seen(field: Tensor, points: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """A `lattice` at ``points`` ``(n, 3)`` in mm, turned and moved: ``(channels, n)``, trilinear.

    ``turn``: a rotation ``(3, 3)``; ``shift`` ``(3,)``, in mm.
    """
    where = ((points @ turn.mT + shift) / PERIOD) % 1.0
    # grid_sample takes (x, y, z) for the axes (last, middle, first)
    grid = (2 * where.flip(-1) - 1).view(1, -1, 1, 1, 3)
    out = functional.grid_sample(field, grid, mode="bilinear", align_corners=True)
    return out.view(field.shape[1], -1)


def rotation(u: Tensor) -> Tensor:
    """A rotation ``(3, 3)`` from three uniform numbers (Shoemake 1992, Graphics Gems III, 124-132)."""
    a, b, c = u.tolist()
    s, t = (1 - a) ** 0.5, a**0.5
    angle = torch.tensor([b, c], dtype=torch.float32, device="cpu") * 2 * torch.pi
    sin, cos = angle.sin(), angle.cos()
    x, y, z, w = (v.item() for v in (s * sin[0], s * cos[0], t * sin[1], t * cos[1]))
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float32,
        device="cpu",
    )
