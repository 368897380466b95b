"""The five benchmarks of the literature on recovering a field from a few sensors of a solution."""

from __future__ import annotations

from math import prod

import torch

from invsolve.core.random import Draws
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.noise import Gaussian
from invsolve.operators.mask import Subsample
from invsolve.problem import Problem
from invsolve.problems.base import InverseProblem
from invsolve.problems.equations import (
    Equation,
    burgers_equation,
    darcy_equation,
    helmholtz_equation,
    navier_stokes_equation,
    poisson_equation,
)

LEAST = 4  # points along an axis
_DIFFUSION_PDE = "Huang et al. 2024, DiffusionPDE, arXiv 2406.17763"
_FNO = "Li et al. 2021, arXiv 2010.08895; " + _DIFFUSION_PDE


def checked_resolution(owner: str, resolution: object) -> int:
    """Points along an axis."""
    return check_int(owner, "resolution", resolution, minimum=LEAST)


@in_defined_state
def darcy(
    resolution: int = 128,
    *,
    sensors: int = 500,
    noise: float = 0.01,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> InverseProblem:
    """A medium of two permeabilities from its pressure at a few points: ``-div(a grad u) = 1``, u = 0 on the walls.

    a is 12 where a Gaussian field ``N(0, (-Laplace + 9)^-2)`` is >= 0 and 3 elsewhere, on the cells of the unit square;
    the harmonic mean of two cells is what they conduct, so that u > 0. The published data move a to nodes by a spline,
    which makes it negative in places: ``generate("darcy", ..., legacy_spline=True)`` writes such data.

    Parameters
    ----------
    resolution : int
        Cells along a side, >= 4; 128 as published.
    sensors : int
        Cells where u is seen, drawn without repetition; 500 as published.
    noise : float
        Standard deviation of the noise over the root mean square of the clean data, > 0. The published data have none;
        1e-4 is close to that.
    seed : int
        Of truth, sensors and noise.
    dtype : torch.dtype
        float64 or float32.

    Returns
    -------
    InverseProblem
        Signals (resolution, resolution), data (sensors,).

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    References
    ----------
    Li et al. 2021, Fourier neural operator for parametric partial differential equations, arXiv 2010.08895.
    Huang et al. 2024, DiffusionPDE, arXiv 2406.17763.

    Examples
    --------
    >>> case = darcy(16, sensors=20)
    >>> case.problem.data.shape, case.truth.unique()
    (torch.Size([1, 20]), tensor([ 3., 12.], dtype=torch.float64))
    """
    n = checked_resolution("darcy", resolution)
    return _case("darcy", darcy_equation(n, _precision("darcy", dtype)), sensors, noise, seed, _FNO)


@in_defined_state
def poisson(
    resolution: int = 128,
    *,
    sensors: int = 500,
    noise: float = 0.01,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> InverseProblem:
    """The source of a potential from its values at a few points: ``Laplace(u) = f``, u = 0 on the walls.

    f is a Gaussian field ``N(0, (-Laplace + 9)^-2)``, so that the posterior is known in closed form. The nodes of the
    grid include those on the walls, where f has no effect; its spectrum is that of cells, as published.

    Parameters
    ----------
    resolution : int
        Nodes along a side, >= 4; 128 as published.
    sensors : int
        Nodes where u is seen, drawn without repetition (some on the walls); 500 as published.
    noise : float
        Standard deviation of the noise over the root mean square of the clean data, > 0.
    seed : int
        Of truth, sensors and noise.
    dtype : torch.dtype
        float64 or float32.

    Returns
    -------
    InverseProblem
        Signals (resolution, resolution), data (sensors,).

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    References
    ----------
    Huang et al. 2024, DiffusionPDE, arXiv 2406.17763.

    Examples
    --------
    >>> case = poisson(16, sensors=20)
    >>> case.truth.shape
    torch.Size([16, 16])
    """
    n = checked_resolution("poisson", resolution)
    return _case("poisson", poisson_equation(n, _precision("poisson", dtype)), sensors, noise, seed, _DIFFUSION_PDE)


@in_defined_state
def helmholtz(
    resolution: int = 128,
    *,
    sensors: int = 500,
    noise: float = 0.01,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> InverseProblem:
    """The source of a wave from its values at a few points: ``Laplace(u) + u = f``, u = 0 on the walls.

    f is the Gaussian field of `poisson`, set to 0 on the nodes of the walls, which the prior knows.

    Parameters
    ----------
    resolution : int
        Nodes along a side, those on the walls too, >= 4; 128 as published.
    sensors : int
        Nodes where u is seen, drawn without repetition (some on the walls); 500 as published.
    noise : float
        Standard deviation of the noise over the root mean square of the clean data, > 0.
    seed : int
        Of truth, sensors and noise.
    dtype : torch.dtype
        float64 or float32.

    Returns
    -------
    InverseProblem
        Signals (resolution, resolution), data (sensors,).

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    References
    ----------
    Huang et al. 2024, DiffusionPDE, arXiv 2406.17763.

    Examples
    --------
    >>> case = helmholtz(16, sensors=20)
    >>> float(case.truth[0].abs().max())
    0.0
    """
    n = checked_resolution("helmholtz", resolution)
    made = helmholtz_equation(n, _precision("helmholtz", dtype))
    return _case("helmholtz", made, sensors, noise, seed, _DIFFUSION_PDE)


@in_defined_state
def navier_stokes(
    resolution: int = 128,
    *,
    sensors: int = 500,
    noise: float = 0.01,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> InverseProblem:
    """The initial vorticity of a flow on a torus from that at time 1 at a few points.

    ``w_t + v . grad w = 1e-3 Laplace(w) + 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y))``, the initial vorticity a Gaussian
    field ``N(0, 7^3 (-Laplace + 49)^-2.5)`` times sqrt(2), as the published generator has it, without mean.

    Parameters
    ----------
    resolution : int
        Points along a side, >= 4; 128 as published.
    sensors : int
        Points where w is seen at time 1, drawn without repetition; 500 as published.
    noise : float
        Standard deviation of the noise over the root mean square of the clean data, > 0.
    seed : int
        Of truth, sensors and noise.
    dtype : torch.dtype
        float64 or float32.

    Returns
    -------
    InverseProblem
        Signals (resolution, resolution), data (sensors,).

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    References
    ----------
    Li et al. 2021, arXiv 2010.08895; Huang et al. 2024, DiffusionPDE, arXiv 2406.17763.

    Examples
    --------
    >>> navier_stokes(16, sensors=20).problem.data.shape
    torch.Size([1, 20])
    """
    n = checked_resolution("navier_stokes", resolution)
    made = navier_stokes_equation(n, _precision("navier_stokes", dtype), last=True)
    return _case("navier_stokes", made, sensors, noise, seed, _FNO)


@in_defined_state
def burgers(
    resolution: int = 128,
    *,
    sensors: int = 5,
    noise: float = 0.01,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> InverseProblem:
    """The initial state of Burgers' equation on a circle from the values at a few points over time.

    ``u_t + u u_x = 0.01 u_xx``, the initial state a Gaussian field ``N(0, 49^2 (-Laplace + 49)^-2.5)`` of the waves 1
    to 64, without mean.

    Parameters
    ----------
    resolution : int
        Points of the circle, >= 4; 128 as published.
    sensors : int
        Points where u is seen at the 128 times k / 127, drawn without repetition; 5 as published.
    noise : float
        Standard deviation of the noise over the root mean square of the clean data, > 0.
    seed : int
        Of truth, sensors and noise.
    dtype : torch.dtype
        float64 or float32.

    Returns
    -------
    InverseProblem
        Signals (resolution,), data (128 * sensors,): all sensors at the first time, then at the second.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    References
    ----------
    Li et al. 2021, arXiv 2010.08895; Huang et al. 2024, DiffusionPDE, arXiv 2406.17763.

    Examples
    --------
    >>> burgers(32, sensors=2).problem.data.shape
    torch.Size([1, 256])
    """
    n = checked_resolution("burgers", resolution)
    return _case("burgers", burgers_equation(n, _precision("burgers", dtype)), sensors, noise, seed, _FNO)


def _precision(owner: str, dtype: torch.dtype) -> torch.dtype:
    if dtype not in (torch.float32, torch.float64):
        raise invalid_type(owner, "dtype", "torch.float32 or torch.float64", str(dtype))
    return dtype


def _case(name: str, made: Equation, sensors: int, noise: float, seed: int, reference: str) -> InverseProblem:
    check_int(name, "sensors", sensors, minimum=1)
    check_positive(name, "noise", noise)
    check_int(name, "seed", seed)
    points = prod(made.prior.shape)
    if sensors > points:
        raise invalid(name, "sensors", f"at most {points}, the points of the grid", sensors)
    # Streams of their own: `simulate` draws other truths, of the same seed too.
    where, truths, noises = (
        Draws.for_rows(seed, [0], [0], made.prior.device, purpose=f"{name} {what}", owner=name)
        for what in ("sensors", "truth", "noise")
    )
    index = where.normal((points,), torch.float64, step=0)[0].argsort()[:sensors].sort().values
    if made.times:
        first = torch.arange(len(made.times), dtype=torch.int64, device="cpu") * points
        index = (first[:, None] + index).flatten()
    operator = Subsample(index, in_shape=made.solution.out_shape) @ made.solution
    truth = made.prior._sample(1, truths)
    clean = operator(truth)
    model = Gaussian(noise * float(clean.double().square().mean().sqrt()))
    return InverseProblem(
        problem=Problem(operator, model.sample(clean, noises), model),
        prior=made.prior,
        truth=truth[0],
        reference=reference,
    )
