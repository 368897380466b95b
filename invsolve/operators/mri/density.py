"""The area of k-space that each sample stands for, as a share of all of it: what gridding weighs data by."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_finite, check_int
from invsolve.errors import invalid, invalid_type
from invsolve.operators.mri.grid import Grid
from invsolve.operators.mri.interpolation import OnTheFly, Stored
from invsolve.operators.mri.kaiser_bessel import Axis
from invsolve.operators.mri.noncartesian import NonCartesianMRI
from invsolve.operators.mri.nufft import is_stored

_WIDTH = 4  # neighbours in the kernel of `pipe_menon`, two pixels of k-space


@in_defined_state
def pipe_menon(A: NonCartesianMRI, *, iterations: int = 30) -> Tensor:
    """Density compensation of any trajectory, by the fixed point of Pipe and Menon [1]_.

    Parameters
    ----------
    A : NonCartesianMRI
        The scan.
    iterations : int
        How many, >= 1; 30 by default.

    Returns
    -------
    Tensor, shape (samples,) or (items, samples)
        The share of k-space of each sample, float64, > 0; their sum is near the share that is covered.

    Raises
    ------
    InputTypeError
        If ``A`` is no such operator.
    InputError
        If ``iterations`` is out of its range.

    Notes
    -----
    ``w <- w / (C w)`` with C the convolution by a Kaiser-Bessel kernel with itself, until ``C w = 1`` at every sample.

    References
    ----------
    .. [1] Pipe & Menon 1999, Sampling density compensation in MRI: rationale and an iterative numerical solution,
       Magnetic Resonance in Medicine 41, 179.
    """
    if not isinstance(A, NonCartesianMRI):
        raise invalid_type("pipe_menon", "A", "an iv.operators.NonCartesianMRI", A)
    iterations = check_int("pipe_menon", "iterations", iterations, minimum=1)
    omega = A.omega if A.omega.ndim == 3 else A.omega[None]
    grid = Grid(axes=tuple(Axis.of(n, 2.0, _WIDTH) for n in A.in_shape), device=omega.device)
    found = torch.stack([_fixed_point(grid, one, iterations) for one in omega])
    return found if A.omega.ndim == 3 else found[0]


def _fixed_point(grid: Grid, omega: Tensor, iterations: int) -> Tensor:
    stored = is_stored("auto", grid, len(omega), torch.float64)
    kernel = Stored.of(grid, omega, torch.float64) if stored else OnTheFly(grid=grid, omega=omega)
    w = torch.ones(len(omega), 1, dtype=torch.float64, device=omega.device)
    for _ in range(iterations):
        w = w / kernel.forward(kernel.adjoint(w))
    # The kernel's integral over the grid, twice: 1 / w counts the samples under it, of which each has a share of cells.
    mass = math.prod(float(a.transform(grid.device)[a.n // 2]) for a in grid.axes)
    return w[:, 0] * (mass**2 / grid.cells)


@in_defined_state
def radial_density(trajectory: Tensor, spokes: int) -> Tensor:
    """Density compensation of spokes through the centre in closed form: the ramp.

    Parameters
    ----------
    trajectory : Tensor or array, shape (spokes * samples, 2) or (spokes * samples, 3)
        Radians a pixel, spoke after spoke, as `radial` and `kooshball` make them: the samples of a spoke equally spaced
        on a line through the origin, all from one end to the other or all from the centre outwards.
    spokes : int
        How many, >= 1.

    Returns
    -------
    Tensor, shape (spokes * samples,)
        The share of k-space of each sample, float64; their sum is the share that is covered, about pi / 4 or pi / 6.

    Raises
    ------
    InputTypeError
        If ``trajectory`` does not hold real numbers.
    InputError
        If these are not so many such spokes.

    Notes
    -----
    In a plane a spoke has half of the angles to its two neighbours; in space all have the same solid angle. A sample
    has that times ``|k|`` or ``|k|**2``, and the one in the centre what makes the integral of a smooth function right.
    """
    owner = "radial_density"
    omega = real_parameter(owner, "trajectory", trajectory, dtype=torch.float64).detach().double()
    spokes = check_int(owner, "spokes", spokes, minimum=1)
    if omega.ndim != 2 or omega.shape[-1] not in (2, 3) or len(omega) % spokes or len(omega) < 2 * spokes:
        expected = f"of shape (samples, 2) or (samples, 3), two or more samples of each of {spokes} spokes"
        raise invalid(owner, "trajectory", expected, tuple(omega.shape))
    omega = check_finite(owner, "trajectory", omega).view(spokes, -1, omega.shape[-1])
    along = omega[:, -1] - omega[:, 0]
    length = along.norm(dim=-1, keepdim=True)
    along = along / length.clamp_min(1e-12)
    at = (omega * along[:, None]).sum(-1)
    step = length / (omega.shape[1] - 1)
    even = at[:, :1] + step * torch.arange(omega.shape[1], dtype=torch.float64, device=omega.device)
    if float((omega - even[..., None] * along[:, None]).abs().max()) > 1e-4:
        raise invalid(
            owner, "trajectory", f"{spokes} lines through the origin, equally sampled", "another one",
            "Use pipe_menon, which takes any trajectory.",
        )  # fmt: skip
    dim, outwards = omega.shape[-1], bool((at[:, 0] > -step[:, 0] / 2).all())
    share = _angles(along, 2 * math.pi if outwards else math.pi) if dim == 2 else along.new_full(
        (spokes,), (4 if outwards else 2) * math.pi / spokes
    )  # fmt: skip
    area = share[:, None] * (at.abs() ** (dim - 1) * step + _kink(at, step, dim, outwards))
    return (area / (2 * math.pi) ** dim).flatten()


def _kink(at: Tensor, step: Tensor, dim: int, outwards: bool) -> Tensor:
    """What a sum over samples of ``|k|**(dim - 1) g`` lacks to be the integral, at the sample nearest to the centre.

    By the formula of Euler and Maclaurin for samples at ``(n + s) step``: only the kink at the centre counts.
    """
    nearest = at.abs().argmin(1, keepdim=True)
    s = at.abs().gather(1, nearest) / step
    if dim == 2:
        missing = step**2 * (s * s - s + 1 / 6) * (0.5 if outwards else 1)
    else:  # k**2 has a kink where it ends only
        missing = step**3 * (s**3 - 1.5 * s * s + 0.5 * s) / 3 * outwards
    found: Tensor = torch.zeros_like(at).scatter(1, nearest, missing)
    return found


def _angles(along: Tensor, turn: float) -> Tensor:
    """Half of the angles to the two neighbours of each direction in a plane, modulo a turn."""
    angle = torch.atan2(along[:, 0], along[:, 1]).remainder(turn)
    order = angle.argsort()
    gap = torch.cat([angle[order].diff(), turn - (angle[order[-1:]] - angle[order[:1]])])
    out = torch.empty_like(angle)
    out[order] = (gap + gap.roll(1)) / 2
    return out
