"""Shared by the generators: where a grid samples the field of view, and keyed random parameters.

Generators are functions of position, so that every grid sees the same object: a grid of n cells samples an axis of
the field of view [-1/2, 1/2] at its cell centres ``(i + 1/2) / n - 1/2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.core.random import Draws, item_key
from invsolve.core.validation import Shape, check_dims, check_int
from invsolve.errors import invalid, invalid_type


def cell_centres(shape: Shape) -> tuple[Tensor, Tensor]:
    """``(down, right)``, float64, ``(H, 1)`` and ``(1, W)``: the cell centres in units of the field of view."""
    down, right = ((torch.arange(n, dtype=torch.float64, device="cpu") + 0.5) / n - 0.5 for n in shape)
    return down[:, None], right[None, :]


def normals(what: str, seed: int, number: int, shape: Shape, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that depend on what they are for, the seed and the object's number only."""
    draws = Draws.for_rows(seed, [item_key(what)], [number], torch.device("cpu"), purpose="datasets")
    return draws.normal(shape, dtype, step=0)[0]


def uniforms(what: str, seed: int, number: int, shape: Shape) -> Tensor:
    """Uniform numbers in (0, 1), keyed as in `normals`, float64."""
    uniform: Tensor = torch.special.ndtr(normals(what, seed, number, shape))
    return uniform


def check_plane(owner: str, name: str, shape: object) -> tuple[int, int]:
    """A shape of two axes."""
    dims = check_dims(owner, name, shape)
    if len(dims) != 2:
        raise invalid(owner, name, "of two axes (H, W)", dims)
    return dims[0], dims[1]


def check_seed(owner: str, seed: object) -> int:
    """A seed: any integer of 64 bits."""
    number = check_int(owner, "seed", seed)
    if not -(2**63) <= number < 2**63:
        raise invalid(owner, "seed", "an integer of 64 bits", number)
    return number


def check_real_dtype(owner: str, name: str, dtype: torch.dtype) -> torch.dtype:
    """float32 or float64."""
    if dtype not in (torch.float32, torch.float64):
        raise invalid_type(owner, name, "torch.float32 or torch.float64", str(dtype))
    return dtype
