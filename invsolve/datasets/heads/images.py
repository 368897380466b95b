"""Pictures of random heads: MR of any contrast, CT numbers, tissue fractions; on any plane."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_choice, check_int
from invsolve.datasets.continuum import check_plane, check_seed, uniforms
from invsolve.datasets.heads.anatomy import TISSUES, Head
from invsolve.datasets.heads.fields import PERIOD, lattice, rotation, seen
from invsolve.errors import invalid

Contrast = Literal["random", "T1", "T2", "PD", "free"]
View = Literal["random", "axial", "coronal", "sagittal"]
Scalp = Literal["random", "kept", "stripped"]

# Grey levels: (low, high) of a uniform draw, by tissue in the order of TISSUES
_MR: dict[str, tuple[tuple[float, float], ...]] = {
    "T1": (
        (0, 0),
        (0.75, 1.2),
        (0.35, 0.6),
        (0.02, 0.08),
        (0.5, 0.9),
        (0.08, 0.3),
        (0.5, 0.68),
        (0.75, 0.92),
        (0.58, 0.75),
        (0.1, 1.0),
        (0.3, 0.6),
    ),
    "T2": (
        (0, 0),
        (0.4, 0.8),
        (0.2, 0.4),
        (0.02, 0.06),
        (0.3, 0.6),
        (0.85, 1.1),
        (0.5, 0.68),
        (0.35, 0.5),
        (0.4, 0.55),
        (0.02, 0.2),
        (0.7, 1.0),
    ),
    "PD": (
        (0, 0),
        (0.7, 1.0),
        (0.5, 0.7),
        (0.03, 0.1),
        (0.5, 0.8),
        (0.75, 1.0),
        (0.75, 0.95),
        (0.62, 0.8),
        (0.7, 0.85),
        (0.1, 0.5),
        (0.8, 1.0),
    ),
    "free": ((0, 0), *(((0.05, 1.0),) * 10)),
}
_HOUNSFIELD = (-1000.0, -95.0, 50.0, 1100.0, 350.0, 8.0, 38.0, 29.0, 39.0, 50.0, 22.0)
_SPREAD = (0.0, 10.0, 8.0, 250.0, 150.0, 3.0, 3.0, 3.0, 3.0, 8.0, 10.0)
_BRAIN = [TISSUES.index(t) for t in ("grey", "white", "deep grey", "vessel", "lesion")]
_FIELD_OF_VIEW = (215.0, 262.0)  # mm
_FINE = 200  # pixels a side from which on a pixel is no larger than the softness of an edge and needs no average


@in_defined_state
def slices(
    n: int,
    shape: tuple[int, int],
    *,
    seed: int = 0,
    first: int = 0,
    contrast: Contrast = "random",
    view: View = "random",
    scalp: Scalp = "random",
) -> Tensor:
    """MR magnitudes of random heads, about 1 where they are brightest.

    Image i is a slice of head ``first + i``, which depends on ``seed`` and that number only: the same on every grid and
    in every batch. Each pixel is the mean of 2 x 2 points of a function of position (of one, from 200 pixels on). Row 0
    is the top of the head, or the front of an axial slice.

    Parameters
    ----------
    n : int
        How many, >= 1.
    shape : tuple of int
        (H, W).
    seed : int
        Of the heads.
    first : int
        Number of the first head, >= 0.
    contrast : {"random", "T1", "T2", "PD", "free"}
        Grey levels like those of a T1-, T2- or PD-weighted image, or any; ``"random"``: drawn for every head.
    view : {"random", "axial", "coronal", "sagittal"}
        The plane, tilted by up to 15 degrees.
    scalp : {"random", "kept", "stripped"}
        All tissues, or the brain alone as after brain extraction.

    Returns
    -------
    Tensor, shape (n, H, W)
        float32, >= 0.

    Raises
    ------
    InputError
        If a value is out of its range.
    """
    n, shape, seed, first = _checked("slices", n, shape, seed, first)
    check_choice("slices", "contrast", contrast, ("random", *_MR))
    check_choice("slices", "view", view, ("random", "axial", "coronal", "sagittal"))
    check_choice("slices", "scalp", scalp, ("random", "kept", "stripped"))
    return torch.stack([_mr(shape, seed, first + i, contrast, view, scalp) for i in range(n)])


@in_defined_state
def tissues(n: int, shape: tuple[int, int], *, seed: int = 0, first: int = 0, view: View = "random") -> Tensor:
    """Fractions of the `TISSUES` on the slices of random heads: those that `slices` shows for the same arguments.

    Parameters
    ----------
    n : int
        How many, >= 1.
    shape : tuple of int
        (H, W).
    seed : int
        Of the heads.
    first : int
        Number of the first head, >= 0.
    view : {"random", "axial", "coronal", "sagittal"}
        The plane.

    Returns
    -------
    Tensor, shape (n, tissues, H, W)
        With sum 1 over the tissues.

    Raises
    ------
    InputError
        If a value is out of its range.
    """
    n, shape, seed, first = _checked("tissues", n, shape, seed, first)
    check_choice("tissues", "view", view, ("random", "axial", "coronal", "sagittal"))
    return torch.stack([_fractions(shape, seed, first + i, view)[0] for i in range(n)])


@in_defined_state
def ct(n: int, shape: tuple[int, int], *, seed: int = 0, first: int = 0, view: View = "axial") -> Tensor:
    """CT numbers of random heads, from -1000 (air) to about 1,800 (dense bone).

    Parameters
    ----------
    n : int
        How many, >= 1.
    shape : tuple of int
        (H, W).
    seed : int
        Of the heads.
    first : int
        Number of the first head, >= 0.
    view : {"random", "axial", "coronal", "sagittal"}
        The plane.

    Returns
    -------
    Tensor, shape (n, H, W)
        In Hounsfield units.

    Raises
    ------
    InputError
        If a value is out of its range.
    """
    n, shape, seed, first = _checked("ct", n, shape, seed, first)
    check_choice("ct", "view", view, ("random", "axial", "coronal", "sagittal"))
    out = []
    for i in range(n):
        fractions, _ = _fractions(shape, seed, first + i, view)
        u = 2 * uniforms("heads ct", seed, first + i, (len(TISSUES),)).float() - 1
        level = (
            torch.tensor(_HOUNSFIELD, dtype=torch.float32, device="cpu")
            + torch.tensor(_SPREAD, dtype=torch.float32, device="cpu") * u
        )
        out.append(torch.einsum("t,thw->hw", level, fractions))
    return torch.stack(out)


@in_defined_state
def volume(shape: tuple[int, int, int], *, seed: int = 0, number: int = 0, extent: float = 256.0) -> Tensor:
    """Tissue fractions of one head in three dimensions.

    Parameters
    ----------
    shape : tuple of int
        Points along x (left to right), y (back to front) and z (upwards).
    seed : int
        Of a series of heads.
    number : int
        Of the head in it, >= 0.
    extent : float
        Of the box, mm a side.

    Returns
    -------
    Tensor, shape (tissues, *shape)
        With sum 1 over the tissues.

    Raises
    ------
    InputError
        If a value is out of its range.
    """
    if len(shape) != 3:
        raise invalid("volume", "shape", "of three axes", shape)
    seed, number = check_seed("volume", seed), check_int("volume", "number", number, minimum=0)
    axes = [((torch.arange(m, dtype=torch.float32, device="cpu") + 0.5) / m - 0.5) * extent for m in shape]
    head = Head(seed, number)
    slabs = [
        head.tissues(torch.stack([g.flatten() for g in torch.meshgrid(x[None], *axes[1:], indexing="ij")], 1))
        for x in axes[0]
    ]
    return torch.stack([s.view(len(TISSUES), *shape[1:]) for s in slabs], 1)


# --- one image -------------------------------------------------------------------------------------------------------
def _checked(
    owner: str, n: int, shape: tuple[int, int], seed: int, first: int
) -> tuple[int, tuple[int, int], int, int]:
    return (
        check_int(owner, "n", n, minimum=1),
        check_plane(owner, "shape", shape),
        check_seed(owner, seed),
        check_int(owner, "first", first, minimum=0),
    )


def _plane(shape: tuple[int, int], u: list[float], view: View) -> Tensor:
    """Points in mm of the pixel centres of a slice, ``(H * W, 3)``."""
    names: tuple[View, ...] = ("axial", "coronal", "sagittal")
    if view == "random":
        view = names[min(2, int(3 * u[0]))]
    low, high = {"axial": (-32.0, 62.0), "coronal": (-72.0, 60.0), "sagittal": (-50.0, 50.0)}[view]
    place = low + (high - low) * u[1]
    extent = _FIELD_OF_VIEW[0] + (_FIELD_OF_VIEW[1] - _FIELD_OF_VIEW[0]) * u[2]
    rows, columns = ((torch.arange(m, dtype=torch.float32, device="cpu") + 0.5) / m - 0.5 for m in shape)
    longer = max(shape)
    down, right = torch.meshgrid(rows * extent * shape[0] / longer, columns * extent * shape[1] / longer, indexing="ij")
    down, right = (down + 24 * (u[3] - 0.5)).flatten(), (right + 16 * (u[4] - 0.5)).flatten()
    still = torch.full_like(down, place)
    points = {
        "axial": (right, -down + 4, still),
        "coronal": (right, still, -down + 4),
        "sagittal": (still, right, -down + 4),
    }[view]
    angles = [math.radians(30 * (v - 0.5)) for v in u[5:8]]
    return torch.stack(points, 1) @ _tilt(angles)


def _tilt(angles: list[float]) -> Tensor:
    out = torch.eye(3, dtype=torch.float32, device="cpu")
    for axis, a in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = torch.eye(3, dtype=torch.float32, device="cpu")
        turn[i, i] = turn[j, j] = math.cos(a)
        turn[i, j], turn[j, i] = math.sin(a), -math.sin(a)
        out = out @ turn
    return out


def _fractions(shape: tuple[int, int], seed: int, number: int, view: View) -> tuple[Tensor, Tensor]:
    """Tissue fractions ``(tissues, H, W)`` and the points of the pixel centres."""
    u = uniforms("heads plane", seed, number, (8,)).tolist()
    k = 1 if max(shape) >= _FINE else 2  # points a pixel, along each axis
    fine = (k * shape[0], k * shape[1])
    points = _plane(fine, u, view)
    parts = Head(seed, number).tissues(points).view(len(TISSUES), *fine)
    return torch.nn.functional.avg_pool2d(parts[None], k)[0], points.view(*fine, 3)[::k, ::k]


def _mr(shape: tuple[int, int], seed: int, number: int, contrast: Contrast, view: View, scalp: Scalp) -> Tensor:
    fractions, points = _fractions(shape, seed, number, view)
    u = uniforms("heads contrast", seed, number, (32,)).float()
    kinds: tuple[Contrast, ...] = ("T1", "T1", "T2", "PD", "free")
    kind = kinds[min(4, int(5 * float(u[0])))] if contrast == "random" else contrast
    bounds = torch.tensor(_MR[kind], dtype=torch.float32, device="cpu")
    levels = bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * u[1 : 1 + len(TISSUES)]
    flat = points.reshape(-1, 3)

    def field(what: str, wavelength: float, width: float) -> Tensor:
        v = uniforms(f"heads {what}", seed, number, (6,)).float()
        return seen(lattice(what, wavelength, width), flat, rotation(v[:3]), PERIOD * v[3:])[0].view(shape)

    # Tissues vary inside, by a smooth and by a fine field; the coil shades all of it.
    smooth, fine = field("tissue", 34.0, 0.5), field("grain", 8.0, 0.4)
    a, b = 0.01 + 0.05 * float(u[20]), 0.01 + 0.035 * float(u[21])
    inside = fractions
    strip = scalp == "stripped" or (scalp == "random" and float(u[22]) < 0.5)
    if strip:
        inside = _stripped(fractions, float(u[23]))
    image = torch.einsum("t,thw->hw", levels, inside) * (1 + a * smooth + b * fine)
    bias = field("bend", 90.0, 0.3)
    shaded: Tensor = image * torch.exp(0.12 * float(u[24]) * bias)
    top = (
        torch.quantile(shaded[shaded > 0.02].flatten(), 0.99)
        if bool((shaded > 0.02).any())
        else torch.ones((), dtype=torch.float32, device="cpu")
    )
    return (shaded / top.clamp_min(0.05) * (0.75 + 0.4 * float(u[25]))).clamp_min(0)


def _stripped(fractions: Tensor, how: float) -> Tensor:
    """The fractions with all but the brain set to nothing, as a brain extraction leaves it.

    It is cut sharply, with the fluid in its furrows.
    """
    brain = fractions[_BRAIN].sum(0)
    from scipy.ndimage import binary_closing, binary_fill_holes, generate_binary_structure, iterate_structure

    reach = int((1 + 2.5 * how) * brain.shape[-1] / 128)  # pixels that furrows are closed over
    disc = iterate_structure(generate_binary_structure(2, 1), max(1, reach))
    mask = (brain > 0.5).numpy()
    kept = binary_fill_holes(binary_closing(np.pad(mask, 12), disc)[12:-12, 12:-12])
    return fractions * torch.from_numpy(kept)
