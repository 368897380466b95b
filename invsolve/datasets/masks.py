"""Which samples of centred k-space are measured: lines as fastMRI chooses them, and points of two phase-encoding axes.

The origin of k-space is at index n // 2, as in `invsolve.operators.MRI`; masks are combined by ``&`` and ``|``.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_choice, check_int, check_number, check_positive
from invsolve.datasets.continuum import check_plane, check_seed, uniforms
from invsolve.errors import invalid

_SURPLUS = 0.02  # of samples that a search for a radius leaves to be dropped at random
_HALVINGS = 30


@in_defined_state
def random_mask(
    shape: tuple[int, int], acceleration: float, *, center_fraction: float = 0.08, axis: int = -1, seed: int = 0
) -> Tensor:
    """Random lines by the rule of fastMRI: a centre, and every other line with the same probability.

    Of n lines ``c = round(center_fraction * n)`` are the centre; each other is measured, independently, with
    probability ``(n / acceleration - c) / (n - c)``. So ``n / acceleration`` are expected; the number varies with the
    seed. `cartesian_mask` has an exact number of lines.

    Parameters
    ----------
    shape : tuple of int
        (H, W).
    acceleration : float
        All lines over expected lines, >= 1.
    center_fraction : float
        The share of all lines that is measured around the centre (4-fold: 0.08, 8-fold: 0.04 in the challenge), at
        most ``1 / acceleration``.
    axis : {-1, -2, 0, 1}
        Along which lines are chosen.
    seed : int
        Of the choice. Numbers are keyed as everywhere here: they are not those of fastMRI for the same seed.

    Returns
    -------
    Tensor, shape (H, W)
        bool.

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    Zbontar et al. 2018, "fastMRI: an open dataset and benchmarks for accelerated MRI", arXiv 1811.08839.
    """
    owner = "random_mask"
    shape, n, acceleration, centre = _lines(owner, shape, acceleration, center_fraction, axis)
    probability = (n / acceleration - centre) / (n - centre) if centre < n else 1.0
    chosen = uniforms("random mask", check_seed(owner, seed), 0, (n,)) < probability
    return _whole_lines(chosen | _centre(n, centre), shape, axis)


@in_defined_state
def equispaced_mask(
    shape: tuple[int, int], acceleration: float, *, center_fraction: float = 0.08, axis: int = -1, seed: int = 0
) -> Tensor:
    """Equispaced lines by the rule of fastMRI: a centre, and lines at a distance that makes up for it.

    With c central lines of n the distance is ``a = acceleration (n - c) / (n - acceleration c)``; lines are
    ``round(offset + j a)`` below n - 1, for a random whole ``offset`` from 0 to round(a) - 1. The number of measured
    lines is ``n / acceleration`` up to the lines at both ends and those that fall into the centre more or less often.

    Parameters
    ----------
    shape : tuple of int
        (H, W).
    acceleration : float
        All lines over measured lines, >= 1.
    center_fraction : float
        The share of all lines that is measured around the centre; less than ``1 / acceleration``.
    axis : {-1, -2, 0, 1}
        Along which lines are chosen.
    seed : int
        Of the offset.

    Returns
    -------
    Tensor, shape (H, W)
        bool.

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    Zbontar et al. 2018, "fastMRI: an open dataset and benchmarks for accelerated MRI", arXiv 1811.08839.
    """
    owner = "equispaced_mask"
    shape, n, acceleration, centre = _lines(owner, shape, acceleration, center_fraction, axis)
    if not n > acceleration * centre:
        expected = f"such that less than n / acceleration = {n / acceleration:.4g} lines are the centre"
        raise invalid(owner, "center_fraction", expected, center_fraction)
    distance = acceleration * (n - centre) / (n - acceleration * centre)
    offset = int(float(uniforms("equispaced mask", check_seed(owner, seed), 0, (1,))) * round(distance))
    chosen = _centre(n, centre)
    lines = torch.arange(offset, max(offset + 1, n - 1), distance, dtype=torch.float64, device="cpu").round().long()
    chosen[lines[lines < n]] = True
    return _whole_lines(chosen, shape, axis)


@in_defined_state
def partial_fourier_mask(
    shape: tuple[int, int], fraction: float = 0.75, *, side: Literal["high", "low"] = "high", axis: int = -1
) -> Tensor:
    """Partial Fourier sampling: all lines of one half of k-space, and of the other those next to the centre.

    Parameters
    ----------
    shape : tuple of int
        (H, W).
    fraction : float
        The share of all lines that is measured: ``round(fraction * n)``, which must reach the origin, at index n // 2.
    side : {"high", "low"}
        Whether the lines of large or of small index are all measured.
    axis : {-1, -2, 0, 1}
        Along which lines are chosen.

    Returns
    -------
    Tensor, shape (H, W)
        bool.

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    McGibney et al. 1993, "Quantitative evaluation of several partial Fourier reconstruction algorithms used in MRI",
    Magn. Reson. Med. 30, 51.
    """
    owner = "partial_fourier_mask"
    shape = check_plane(owner, "shape", shape)
    check_choice(owner, "side", side, ("high", "low"))
    check_choice(owner, "axis", axis, (-2, -1, 0, 1))
    n = shape[axis]
    lines = round(check_number(owner, "fraction", fraction) * n)
    least = n - n // 2 if side == "high" else n // 2 + 1
    if not least <= lines <= n:
        raise invalid(owner, "fraction", f"from {least / n:.4g}, where the origin is reached, to 1", fraction)
    index = torch.arange(n, device="cpu")
    return _whole_lines(index >= n - lines if side == "high" else index < lines, shape, axis)


@in_defined_state
def variable_density_mask(
    shape: tuple[int, int],
    acceleration: float,
    *,
    calibration: tuple[int, int] = (0, 0),
    density: Literal["polynomial", "gaussian"] = "polynomial",
    power: float = 2.0,
    std: float = 0.5,
    seed: int = 0,
) -> Tensor:
    """Single points of k-space at random, more of them near its origin: two phase-encoding axes.

    ``round(H W / acceleration)`` points, exactly: those of the calibration region, the others drawn without repeats
    with probabilities that fall with ``r``, the distance from the origin in units of the half axes (1 at the edges'
    middles).

    Parameters
    ----------
    shape : tuple of int
        (H, W).
    acceleration : float
        All points over measured points, from 1 to H W.
    calibration : tuple of int
        (h, w) of the block around the origin that is fully measured.
    density : {"polynomial", "gaussian"}
        ``(1 - r / 2^(1/2))^power``, or ``exp(-r^2 / (2 std^2))``.
    power : float
        Of the polynomial, >= 0; 0 is uniform.
    std : float
        Of the Gaussian, > 0.
    seed : int
        Of the choice.

    Returns
    -------
    Tensor, shape (H, W)
        bool.

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    Lustig, Donoho & Pauly 2007, "Sparse MRI", Magn. Reson. Med. 58, 1182. The draw: Efraimidis & Spirakis 2006,
    "Weighted random sampling with a reservoir" (doi 10.1016/j.ipl.2005.11.003).
    """
    owner = "variable_density_mask"
    shape, points, block = _points(owner, shape, acceleration, calibration)
    check_choice(owner, "density", density, ("polynomial", "gaussian"))
    power, std = check_positive(owner, "power", power, zero=True), check_positive(owner, "std", std)
    r = _from_origin(shape)
    log = power * torch.log1p(-r / math.sqrt(2)) if density == "polynomial" else -0.5 * (r / std) ** 2
    u = uniforms("variable density mask", check_seed(owner, seed), 0, shape)
    keys = (log - torch.log(-torch.log(u))).masked_fill(block, math.inf).flatten()
    chosen = torch.zeros(keys.shape, dtype=torch.bool, device="cpu")
    chosen[keys.topk(points).indices] = True
    return chosen.view(shape)


@in_defined_state
def poisson_disc_mask(
    shape: tuple[int, int],
    acceleration: float,
    *,
    calibration: tuple[int, int] = (0, 0),
    power: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Random points of k-space that keep a distance from each other: two phase-encoding axes.

    Points outside of the calibration region are at least ``min(rho_1, rho_2)`` grid steps apart, with the radius
    ``rho = c r^power`` at the distance ``r`` from the origin in units of the half axes; ``c`` is found such that
    ``round(H W / acceleration)`` points, exactly, are measured.

    Parameters
    ----------
    shape : tuple of int
        (H, W).
    acceleration : float
        All points over measured points, from 1 to H W.
    calibration : tuple of int
        (h, w) of the block around the origin that is fully measured.
    power : float
        How the radius grows, >= 0; 0: the same everywhere. The density falls as ``r^(-2 power)``.
    seed : int
        Of the choice.

    Returns
    -------
    Tensor, shape (H, W)
        bool.

    Raises
    ------
    InputError
        If a value is out of its range.

    Notes
    -----
    Points are visited in random order, and taken unless one that was taken before has them in its radius: no further
    point fits in. Of the at most 2 % (or few) that are then too many, some are dropped at random.

    References
    ----------
    Bridson 2007, "Fast Poisson disk sampling in arbitrary dimensions" (doi 10.1145/1278780.1278807); in MRI: Vasanawala
    et al. 2011, "Practical parallel imaging compressed sensing MRI" (doi 10.1109/ISBI.2011.5872579).
    """
    owner = "poisson_disc_mask"
    shape, points, block = _points(owner, shape, acceleration, calibration)
    power = check_positive(owner, "power", power, zero=True)
    seed = check_seed(owner, seed)
    order = uniforms("Poisson disc mask", seed, 0, shape).masked_fill(block, math.inf).flatten().argsort().numpy()
    order = order[: block.numel() - int(block.sum())]
    radius, wanted = (_from_origin(shape) ** power).numpy(), points - int(block.sum())
    low, high = 0.0, 2.0 * math.hypot(*shape) / max(float(radius.max()), 1e-9)
    found = order  # with radius 0 every point is taken
    for _ in range(_HALVINGS):
        if len(found) - wanted <= _SURPLUS * wanted:
            break
        middle = (low + high) / 2 if low == 0 else math.sqrt(low * high)
        trial = _disc(order, middle * radius)
        if len(trial) >= wanted:
            low, found = middle, trial
        else:
            high = middle
    kept = uniforms("Poisson disc mask", seed, 1, (len(found),)).argsort()[:wanted]
    chosen = block.clone().flatten()
    chosen[torch.from_numpy(found)[kept]] = True
    return chosen.view(shape)


def _disc(order: NDArray[np.int64], radius: NDArray[np.float64]) -> NDArray[np.int64]:
    """The points of ``order`` that no earlier one has within its radius, in steps of the grid."""
    height, width = radius.shape
    reach = math.ceil(min(float(radius.max()), math.hypot(height, width)))
    offset = np.arange(-reach, reach + 1)
    squares = (offset[:, None] ** 2 + offset**2).astype(np.float64)
    free, taken = np.ones(radius.shape, dtype=bool), []
    for point in order.tolist():
        i, j = divmod(point, width)
        if not free[i, j]:
            continue
        taken.append(point)
        own = float(radius[i, j])
        k = min(math.ceil(own), reach)
        if own > 1:
            top, left = max(0, i - k), max(0, j - k)
            near = squares[
                reach + top - i : reach + min(k, height - 1 - i) + 1,
                reach + left - j : reach + min(k, width - 1 - j) + 1,
            ]
            free[top : i + k + 1, left : j + k + 1] &= near >= own * own
    return np.array(taken, dtype=np.int64)


def _from_origin(shape: tuple[int, int]) -> Tensor:
    """The distance of every point from the origin in units of the half axes, (H, W); at most the square root of 2."""
    rows, columns = ((torch.arange(n, dtype=torch.float64, device="cpu") - n // 2) / (n // 2 + 1) for n in shape)
    return torch.hypot(rows[:, None], columns[None, :])


def _lines(
    owner: str, shape: object, acceleration: float, center_fraction: float, axis: int
) -> tuple[tuple[int, int], int, float, int]:
    """Shape, number of lines, acceleration and number of central lines, checked."""
    plane = check_plane(owner, "shape", shape)
    check_choice(owner, "axis", axis, (-2, -1, 0, 1))
    n = plane[axis]
    acceleration = check_number(owner, "acceleration", acceleration)
    if not 1 <= acceleration <= n:
        raise invalid(owner, "acceleration", f"between 1 and the number of lines, {n}", acceleration)
    centre = round(check_number(owner, "center_fraction", center_fraction) * n)
    if not 0 <= centre <= n / acceleration:
        raise invalid(owner, "center_fraction", f"between 0 and {1 / acceleration:.4g}", center_fraction)
    return plane, n, acceleration, centre


def _points(
    owner: str, shape: object, acceleration: float, calibration: tuple[int, int]
) -> tuple[tuple[int, int], int, Tensor]:
    """Shape, number of points and the calibration region (H, W), checked."""
    plane = check_plane(owner, "shape", shape)
    total = plane[0] * plane[1]
    acceleration = check_number(owner, "acceleration", acceleration)
    if not 1 <= acceleration <= total:
        raise invalid(owner, "acceleration", f"between 1 and the number of points, {total}", acceleration)
    points = round(total / acceleration)
    sides = tuple(calibration) if isinstance(calibration, (tuple, list)) else (calibration, calibration)
    if len(sides) != 2:
        raise invalid(owner, "calibration", "two integers (h, w)", calibration)
    h, w = (check_int(owner, f"calibration[{a}]", side, minimum=0) for a, side in enumerate(sides))
    if h > plane[0] or w > plane[1] or h * w > points:
        raise invalid(owner, "calibration", f"within {plane} and of at most {points} points, those measured", (h, w))
    return plane, points, _centre(plane[0], h)[:, None] & _centre(plane[1], w)


def _centre(n: int, number: int) -> Tensor:
    """Which of n lines are the ``number`` central ones, as in fastMRI (for odd n one later than `cartesian_mask`)."""
    first = (n - number + 1) // 2
    index = torch.arange(n, device="cpu")
    return (index >= first) & (index < first + number)


def _whole_lines(chosen: Tensor, shape: tuple[int, int], axis: int) -> Tensor:
    return (chosen if axis in (-1, 1) else chosen[:, None]).expand(shape).contiguous()
