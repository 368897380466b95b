"""Where scans sample k-space: radial, golden angle, spiral, stack of stars, radial in three dimensions.

All are in radians a pixel, between -pi and pi, ``(samples, axes)`` float64, one readout after another; axis a of a
trajectory is axis a of the image: ``(ky, kx)``, ``(kz, ky, kx)``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_choice, check_int, check_number, check_positive

Angles = Literal["uniform", "golden"]
_GOLDEN = math.pi * (math.sqrt(5) - 1) / 2  # 111.25 degrees


@in_defined_state
def radial(spokes: int, samples: int, *, angles: Angles = "uniform", first: float = 0.0) -> Tensor:
    """Spokes through the centre of k-space, in a plane.

    Parameters
    ----------
    spokes : int
        How many, >= 1.
    samples : int
        Of each spoke, >= 1; sample ``samples // 2`` is the centre. Twice the pixels of a side is usual.
    angles : {'uniform', 'golden'}
        Equal steps over half a turn, or steps of 111.25 degrees, of which any number in a row is spread evenly.
    first : float
        The angle of the first spoke, radians from the last axis of the image (x) towards the first (y).

    Returns
    -------
    Tensor, shape (spokes * samples, 2)
        ``(ky, kx)``, radians a pixel.

    Raises
    ------
    InputTypeError, InputError
        If a number is out of its range.

    Examples
    --------
    >>> radial(2, 4).shape
    torch.Size([8, 2])
    """
    spokes, samples = _counts("radial", spokes=spokes, samples=samples)
    check_choice("radial", "angles", angles, ("uniform", "golden"))
    step = _GOLDEN if angles == "golden" else math.pi / spokes
    angle = check_number("radial", "first", first) + step * _upto(spokes)
    return _spokes(torch.stack([angle.sin(), angle.cos()], -1), samples)


@in_defined_state
def kooshball(spokes: int, samples: int) -> Tensor:
    """Spokes through the centre of k-space in all directions of space, evenly spread.

    Parameters
    ----------
    spokes : int
        How many, >= 1.
    samples : int
        Of each spoke, >= 1; sample ``samples // 2`` is the centre.

    Returns
    -------
    Tensor, shape (spokes * samples, 3)
        ``(kz, ky, kx)``, radians a pixel.

    Raises
    ------
    InputTypeError, InputError
        If a number is out of its range.

    Notes
    -----
    Directions lie on a spiral over half a sphere, at equal steps of height and golden angles about the z axis.
    """
    spokes, samples = _counts("kooshball", spokes=spokes, samples=samples)
    z = (_upto(spokes) + 0.5) / spokes
    around, turn = (1 - z.square()).sqrt(), 2 * _GOLDEN * _upto(spokes)
    return _spokes(torch.stack([z, around * turn.sin(), around * turn.cos()], -1), samples)


@in_defined_state
def stack_of_stars(partitions: int, spokes: int, samples: int, *, angles: Angles = "uniform") -> Tensor:
    """Radial planes above one another, at equal steps along the first axis.

    Parameters
    ----------
    partitions : int
        How many planes, >= 1: the pixels of the first axis for full sampling. Plane ``partitions // 2`` is the centre.
    spokes : int
        Of each plane, >= 1.
    samples : int
        Of each spoke, >= 1.
    angles : {'uniform', 'golden'}
        Of the spokes, as for `radial`.

    Returns
    -------
    Tensor, shape (partitions * spokes * samples, 3)
        ``(kz, ky, kx)``, radians a pixel, plane after plane.

    Raises
    ------
    InputTypeError, InputError
        If a number is out of its range.
    """
    partitions, spokes, samples = _counts("stack_of_stars", partitions=partitions, spokes=spokes, samples=samples)
    check_choice("stack_of_stars", "angles", angles, ("uniform", "golden"))
    plane = radial(spokes, samples, angles=angles)
    height = (_upto(partitions) - partitions // 2) * (2 * math.pi / partitions)
    rows = [height[:, None, None].expand(-1, len(plane), 1), plane.expand(partitions, -1, 2)]
    return torch.cat(rows, -1).flatten(0, 1)


@in_defined_state
def spiral(interleaves: int, samples: int, *, turns: float, power: float = 1.0) -> Tensor:
    """Archimedean spirals from the centre of k-space to its edge.

    Parameters
    ----------
    interleaves : int
        How many, >= 1, each turned by the same angle.
    samples : int
        Of each interleave, >= 1.
    turns : float
        Of each interleave, > 0. For full sampling ``interleaves * turns`` is at least half of the pixels of a side.
    power : float
        The radius is ``pi s**power`` at the share s of the angle; above 1 the centre is sampled more densely. > 0.

    Returns
    -------
    Tensor, shape (interleaves * samples, 2)
        ``(ky, kx)``, radians a pixel.

    Raises
    ------
    InputTypeError, InputError
        If a number is out of its range.

    Notes
    -----
    Samples are equally spaced along the spiral, but for its first turn.
    """
    interleaves, samples = _counts("spiral", interleaves=interleaves, samples=samples)
    turns, power = check_positive("spiral", "turns", turns), check_positive("spiral", "power", power)
    # Equal lengths: the length grows as s**(power + 1).
    s = (_upto(samples) / max(1, samples - 1)) ** (1 / (power + 1))
    angle = 2 * math.pi * (turns * s + _upto(interleaves)[:, None] / interleaves)
    radius = math.pi * s**power
    return torch.stack([radius * angle.sin(), radius * angle.cos()], -1).flatten(0, 1)


def _upto(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device="cpu")


def _counts(owner: str, **values: int) -> list[int]:
    return [check_int(owner, name, value, minimum=1) for name, value in values.items()]


def _spokes(direction: Tensor, samples: int) -> Tensor:
    at = (_upto(samples) - samples // 2) * (2 * math.pi / samples)
    return (direction[:, None] * at[:, None]).flatten(0, 1)
