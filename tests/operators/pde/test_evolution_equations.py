"""Evolution equations: exact solutions at their order, conservation laws, symmetries, derivatives, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, OperatorError
from invsolve.operators import (
    AdvectionDiffusion,
    Burgers,
    Evolution,
    Heat,
    NavierStokes,
    ReactionDiffusion,
)
from invsolve.operators.contract import Probe
from invsolve.operators.pde.modes import squared
from invsolve.operators.pde.time_stepping import march, rk4

DOUBLE = torch.float64
LINE = iv.CartesianGrid((16,), points="periodic")
TORUS = iv.CartesianGrid((8, 7), points="periodic", extent=(1.0, 2.0))
BOX = iv.CartesianGrid((6, 7), extent=(1.0, 1.2))
FLOW = torch.randn(2, 8, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
OPERATORS = {
    "heat cells": Heat(iv.CartesianGrid((5, 6)), diffusivity=0.01, times=(0.5, 1.0)),
    "heat zero walls": Heat(iv.CartesianGrid((4, 3, 2), points="interior"), diffusivity=0.01),
    "heat torus": Heat(TORUS, diffusivity=0.01),
    "heat one point": Heat(iv.CartesianGrid((1, 3)), diffusivity=0.1),
    "advection constant": AdvectionDiffusion(TORUS, velocity=[0.3, -0.2], diffusivity=0.01, times=(0.5, 1.0)),
    "advection field": AdvectionDiffusion(TORUS, velocity=0.3 * FLOW, diffusivity=0.01),
    "Burgers": Burgers(LINE, viscosity=0.05, times=(0.1, 0.3)),
    "Burgers one point": Burgers(LINE.on((1,)), viscosity=0.05),
    "Navier-Stokes": NavierStokes(TORUS, viscosity=0.01, times=0.5),
    "Navier-Stokes fixed": NavierStokes(TORUS, viscosity=0.0, times=(0.2, 0.5), dt=0.1, drag=0.1),
    "Navier-Stokes forced": NavierStokes(TORUS, viscosity=0.01, times=0.5, forcing=FLOW[:1].expand(3, 8, 7)),
    "FitzHugh-Nagumo": ReactionDiffusion(BOX, "FitzHugh-Nagumo", diffusivities=(1e-3, 5e-3), times=0.5, dt=0.02),
    "Gray-Scott": ReactionDiffusion(TORUS, "Gray-Scott", diffusivities=(1e-3, 2e-3), times=(0.3, 0.5), dt=0.02),
    "own": Evolution(LINE, lambda u, t: torch.sin(u), times=1.0, dt=0.1),
    "own, linear": Evolution(LINE, lambda u, t: torch.sin(u), times=1.0, dt=0.1, linear=-0.01 * squared(LINE)),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("dtype", "tol"), [(DOUBLE, 1e-10), (torch.float32, 3e-5)])
def test_contract(name, dtype, tol):
    A = OPERATORS[name]
    if A.dtype not in (None, dtype):
        A = A.to(dtype=dtype)
    assert [p for p in Probe(A=A, seed=0, dtype=dtype, tol=tol).run() if not p.passed] == []
    assert A(torch.zeros(0, *A.in_shape, dtype=dtype)).shape == (0, *A.out_shape) if A.batch is None else True


@pytest.mark.parametrize("name", ["heat torus", "advection field", "Burgers", "Navier-Stokes", "Gray-Scott"])
def test_gradients_twice(name):
    A = OPERATORS[name]
    x = torch.randn(1, *A.in_shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(A._apply, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda v: A._apply(v).square(), x, fast_mode=True)


@pytest.mark.parametrize("name", ["Burgers", "Navier-Stokes", "FitzHugh-Nagumo"])
def test_a_row_alone_whatever_the_others(name):
    """The number of steps is a row's own: rows of other sizes beside it change nothing."""
    A = OPERATORS[name]
    x = torch.randn(3, *A.in_shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    x = x * torch.tensor([1.0, 2.0, 0.1], dtype=DOUBLE).view(-1, *[1] * (x.ndim - 1))
    if name != "FitzHugh-Nagumo":
        x[1] *= 30
    alone = torch.cat([A(row[None]) for row in x])
    torch.testing.assert_close(A(x), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", [n for n in OPERATORS if n not in ("FitzHugh-Nagumo", "Gray-Scott", "Navier-Stokes forced")]
)
def test_zero_stays_zero(name):
    A = OPERATORS[name]
    assert not A(torch.zeros(2, *A.in_shape, dtype=DOUBLE)).any()


# --- time stepping -------------------------------------------------------------------------------------------------
def orders(errors):
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


def test_own_equation_order_4():
    """u' = u (1 - u) from 1/2 is 1 / (1 + exp(-t))."""
    start = torch.full((1, 16), 0.5, dtype=DOUBLE)
    exact = 1 / (1 + math.exp(-2.0))
    found = [Evolution(LINE, lambda u, t: u * (1 - u), times=2.0, dt=2 / n)(start)[0, 0] for n in (10, 20, 40, 80)]
    assert orders([abs(float(f) - exact) for f in found]) == pytest.approx([4, 4, 4], abs=0.1)


def test_own_equation_with_time_and_linear_part():
    """u_t = u_xx + f with the solution sin(x) cos(t): order 4, the time of a rate counts."""
    grid = iv.CartesianGrid((8,), extent=2 * math.pi, points="periodic")
    wave = torch.sin(grid.mesh()[0])[None]

    def error(n):
        source = lambda u, t: wave * (math.cos(t) - math.sin(t))  # noqa: E731
        A = Evolution(grid, lambda u, t: 0 * u + source(u, t), times=(0.5, 1.0), dt=1 / n, linear=-squared(grid))
        return float((A(wave)[0, 1] - wave[0] * math.cos(1.0)).abs().max())

    assert orders([error(n) for n in (4, 8, 16, 32)]) == pytest.approx([4, 4, 4], abs=0.1)


def test_checkpoints_change_no_gradient():
    x = torch.linspace(0.1, 0.9, 5, dtype=DOUBLE)[None].requires_grad_()
    step = rk4(lambda u, t: u * (1 - u), 0.02)
    calls = []

    def counted(u, t):
        calls.append(t)
        return step(u, t)

    plain = x
    for i in range(90):
        plain = step(plain, i * 0.02)
    (expected,) = torch.autograd.grad(plain.sum(), x)
    (found,) = torch.autograd.grad(march(counted, x, start=0.0, h=0.02, steps=90).sum(), x)
    assert torch.equal(found, expected)
    assert len(calls) == 180  # each step once more
    assert sorted(set(calls)) == pytest.approx([0.02 * i for i in range(90)])


# --- heat and advection --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("points", ["centers", "interior", "periodic"])
@pytest.mark.parametrize("shape", [(6, 5), (1, 4), (7, 8)])
def test_heat_of_a_mode(points, shape):
    grid = iv.CartesianGrid(shape, extent=(1.0, 2.0), points=points)
    y, x = grid.mesh()
    if points == "periodic":
        u, k2 = torch.cos(2 * math.pi * x / 2.0), math.pi**2
    elif points == "centers":
        u, k2 = torch.cos(math.pi * x / 2.0), math.pi**2 / 4
    else:
        u, k2 = torch.sin(math.pi * y) * torch.sin(math.pi * x / 2.0), math.pi**2 * 1.25
    A = Heat(grid, diffusivity=0.3, times=(0.25, 0.5))
    expected = torch.stack([u * math.exp(-0.3 * k2 * t) for t in (0.25, 0.5)])
    torch.testing.assert_close(A(u[None])[0], expected, rtol=1e-12, atol=1e-13)


def test_heat_is_symmetric_and_conserves():
    A = Heat(iv.CartesianGrid((5, 6)), diffusivity=0.02, times=0.7)
    x = torch.randn(2, 5, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(A(x), A.adjoint(x), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(A(x).sum((1, 2)), x.sum((1, 2)))
    half = Heat(A.grid, diffusivity=0.02, times=0.35)
    torch.testing.assert_close(half(half(x)), A(x), rtol=1e-12, atol=1e-13)


def test_advection_moves_and_conserves():
    grid = iv.CartesianGrid((12, 10), points="periodic")
    y, x = grid.mesh()
    u = torch.exp(torch.sin(2 * math.pi * x) + torch.cos(2 * math.pi * y))[None]
    A = AdvectionDiffusion(grid, velocity=[0.0, 0.3], diffusivity=0.0)
    torch.testing.assert_close(A(u), u.roll(3, 2), rtol=1e-3, atol=1e-3)  # the Nyquist mode stays
    field = AdvectionDiffusion(
        grid, velocity=torch.stack([torch.sin(2 * math.pi * x), torch.cos(2 * math.pi * y)]), diffusivity=0.01
    )
    torch.testing.assert_close(field(u).sum(), u.sum())


def test_constant_velocity_as_a_field():
    """The steps of a field give what is exact for a constant, at order 4."""
    grid = iv.CartesianGrid((16,), points="periodic")
    u = torch.cos(2 * math.pi * grid.mesh()[0])[None]
    exact = AdvectionDiffusion(grid, velocity=[0.5], diffusivity=0.01)(u)
    errors = []
    for n in (8, 16, 32, 64):
        A = AdvectionDiffusion(grid, velocity=torch.full((1, 16), 0.5), diffusivity=0.01, dt=1 / n)
        errors.append(float((A(u) - exact).abs().max()))
    assert orders(errors) == pytest.approx([4, 4, 4], abs=0.1)


# --- Burgers -------------------------------------------------------------------------------------------------------
def cole_hopf(start, nu, t, n, fine=4096):
    """Burgers' solution on n points, of a start of zero mean given on ``fine`` points."""
    k = 2j * np.pi * np.fft.fftfreq(fine, 1 / fine)
    inverse = np.divide(1, k, out=np.zeros_like(k), where=k != 0)
    potential = np.fft.ifft(np.fft.fft(start) * inverse).real
    theta = np.fft.fft(np.exp(-(potential - potential.min()) / (2 * nu))) * np.exp(nu * k**2 * t)
    u = -2 * nu * np.fft.ifft(theta * k).real / np.fft.ifft(theta).real
    return torch.from_numpy(u[:: fine // n].copy())


def test_burgers_against_cole_and_hopf():
    """Known errors of this scheme at n = 128, nu = 0.01, T = 1: 1.7e-7 and 1.2e-8 of a sine."""
    start = np.sin(2 * np.pi * np.arange(4096) / 4096)
    exact = cole_hopf(start, 0.01, 1.0, 128)
    grid = iv.CartesianGrid((128,), points="periodic")
    x = torch.from_numpy(start[::32].copy())[None]
    errors = [
        float((Burgers(grid, viscosity=0.01, dt=dt)(x)[0] - exact).norm() / exact.norm()) for dt in (1 / 128, 1 / 256)
    ]
    assert errors[0] < 2.5e-7
    assert errors[1] < 2.0e-8
    chosen = Burgers(grid, viscosity=0.01)(x)[0]
    assert float((chosen - exact).norm() / exact.norm()) < 1e-5


def test_burgers_order_and_mean():
    grid = iv.CartesianGrid((63,), points="periodic")
    x = torch.sin(2 * math.pi * grid.mesh()[0])[None] + 0.3
    fine = Burgers(grid, viscosity=0.05, times=0.5, dt=1 / 2560)(x)
    errors = [
        float((Burgers(grid, viscosity=0.05, times=0.5, dt=1 / n)(x) - fine).abs().max()) for n in (80, 160, 320, 640)
    ]
    assert orders(errors) == pytest.approx([4, 4, 4], abs=0.1)
    assert float(fine.mean()) == pytest.approx(0.3, abs=1e-14)


# --- Navier-Stokes -------------------------------------------------------------------------------------------------
SQUARE = iv.CartesianGrid((64, 64), points="periodic")


def vorticity(seed=0, n=64):
    """A draw of N(0, 7^3 (-Laplacian + 49)^-2.5) on the unit torus, of zero mean; few numbers make it."""
    g = torch.Generator().manual_seed(seed)
    k = torch.fft.fftfreq(n, 1 / n, dtype=DOUBLE)
    root = math.sqrt(2) * 7**1.5 * (4 * math.pi**2 * (k[:, None] ** 2 + k**2) + 49) ** -1.25
    root[0, 0] = 0
    z = torch.complex(torch.randn(n, n, dtype=DOUBLE, generator=g), torch.randn(n, n, dtype=DOUBLE, generator=g))
    return (n**2 * torch.fft.ifft2(root * z)).real[None]


def forcing(grid):
    y, x = grid.mesh()
    return 0.1 * (torch.sin(2 * math.pi * (x + y)) + torch.cos(2 * math.pi * (x + y)))


def test_taylor_green_decays():
    y, x = SQUARE.mesh()
    w = (torch.sin(2 * math.pi * x) * torch.sin(2 * math.pi * y))[None]
    found = NavierStokes(SQUARE, viscosity=0.01, times=(0.5, 1.0))(w)[0]
    for t, later in zip((0.5, 1.0), found, strict=True):
        assert float((later - math.exp(-8 * math.pi**2 * 0.01 * t) * w[0]).abs().max()) < 5e-15


def test_navier_stokes_order_4():
    grid = SQUARE.on((32, 32))
    w = vorticity(n=32)
    A = lambda dt: NavierStokes(grid, viscosity=1e-3, forcing=forcing(grid), dt=dt)(w)  # noqa: E731
    fine = A(1 / 320)
    errors = [float((A(1 / n) - fine).norm() / fine.norm()) for n in (10, 20, 40, 80)]
    assert orders(errors) == pytest.approx([4, 4, 4], abs=0.15)
    assert errors[0] < 2e-6
    assert float((NavierStokes(grid, viscosity=1e-3, forcing=forcing(grid))(w) - fine).norm() / fine.norm()) < 2e-6


def test_enstrophy_and_time_reversal_without_viscosity():
    grid = SQUARE.on((32, 32))
    w = NavierStokes(grid, viscosity=0.1, times=1e-2, dt=1e-2)(vorticity(n=32))
    drift = []
    for n in (10, 20, 40):
        later = NavierStokes(grid, viscosity=0.0, dt=1 / n)(w)
        drift.append(abs(float((later**2).sum() / (w**2).sum()) - 1))
    assert drift[0] < 1e-6
    assert drift[2] < drift[0] / 2**7  # at least of order 4, in fact 5
    A = NavierStokes(grid, viscosity=0.0, dt=0.02)
    assert float((-A(-A(w)) - w).norm() / w.norm()) < 1e-7


def test_symmetries_of_the_flow():
    grid = SQUARE.on((24, 24))
    w = vorticity(n=24)
    A = NavierStokes(grid, viscosity=1e-3, dt=0.1)
    out, scale = A(w), float(w.abs().max())
    mirrored = lambda v: -v.flip(2).roll(1, 2)  # noqa: E731
    turned = lambda v: v.mT.flip(2).roll(1, 2)  # noqa: E731
    moved = lambda v: v.roll((3, 5), (1, 2))  # noqa: E731
    for change in (mirrored, turned, moved):
        assert float((A(change(w)) - change(out)).abs().max()) < 2e-14 * scale
    assert float(out.mean()) == pytest.approx(0, abs=1e-16)


def test_forcing_of_items_and_steps_of_rows():
    grid = iv.CartesianGrid((8, 8), points="periodic")
    w = torch.randn(3, 8, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    w[1] *= 50
    f = torch.randn(3, 8, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(6))
    A = NavierStokes(grid, viscosity=0.02, forcing=f, times=0.5)
    alone = torch.cat([NavierStokes(grid, viscosity=0.02, forcing=f[i], times=0.5)(w[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(A(w)[[0, 2]], alone[[0, 2]], rtol=1e-5, atol=1e-6)  # of their own steps each
    torch.testing.assert_close(A.take(torch.tensor([1]))(w[1:2]), A(w)[1:2])


# --- reaction and diffusion ----------------------------------------------------------------------------------------
def test_mirror_walls_are_those_of_cells():
    """Without reaction (a state where it rests) walls conserve; cosines decay as those of `Heat`."""
    grid = iv.CartesianGrid((5, 8))
    x = torch.zeros(1, 2, 5, 8, dtype=DOUBLE)
    x[:, 0] = 1 + 1e-6 * torch.cos(math.pi * grid.mesh()[1])
    A = ReactionDiffusion(grid, "Gray-Scott", diffusivities=(0.1, 0.1), parameters={"feed": 0.0})
    heat = Heat(grid, diffusivity=0.1)
    torch.testing.assert_close(A(x)[:, 0], heat(x[:, 0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reaction", ["FitzHugh-Nagumo", "Gray-Scott"])
def test_uniform_reactions(reaction):
    """A uniform state follows the ordinary equation, whose right sides are written here once more."""
    from scipy.integrate import solve_ivp

    def rates(t, s):
        u, v = s
        if reaction == "FitzHugh-Nagumo":
            return [u - u**3 - 5e-3 - v, u - v]
        return [-u * v * v + 0.04 * (1 - u), u * v * v - 0.1 * v]

    exact = solve_ivp(rates, (0, 3.0), [0.7, 0.4], rtol=1e-11, atol=1e-12).y[:, -1]
    x = torch.tensor([0.7, 0.4], dtype=DOUBLE).view(1, 2, 1, 1).expand(1, 2, 3, 2)
    errors = []
    for n in (10, 20, 40, 80):
        A = ReactionDiffusion(BOX.on((3, 2)), reaction, diffusivities=(1e-3, 5e-3), times=3.0, dt=3.0 / n)
        errors.append(float((A(x)[0, :, 0, 0] - torch.from_numpy(exact)).abs().max()))
    assert errors[-1] < 1e-7
    assert orders(errors[:3])[1] == pytest.approx(4, abs=0.3)


# --- refusals ------------------------------------------------------------------------------------------------------
PLAIN = iv.CartesianGrid((4, 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Heat(LINE, diffusivity=-1.0), "diffusivity"),
        (lambda: Heat(LINE, diffusivity=1.0, times=(1.0, 0.5)), "times"),
        (lambda: Heat(LINE, diffusivity=1.0, times=()), "times"),
        (lambda: Heat(LINE, diffusivity=1.0, times=0.0), "times"),
        (lambda: Burgers(LINE, viscosity=0.0), "viscosity"),
        (lambda: Burgers(TORUS, viscosity=0.1), "grid"),
        (lambda: Burgers(iv.CartesianGrid((4,)), viscosity=0.1), "periodic"),
        (lambda: NavierStokes(TORUS, viscosity=-1e-3), "viscosity"),
        (lambda: NavierStokes(TORUS, viscosity=1e-3, drag=-1.0), "drag"),
        (lambda: NavierStokes(TORUS, viscosity=1e-3, dt=0.0), "dt"),
        (lambda: NavierStokes(TORUS, viscosity=1e-3, forcing=np.ones((2, 2))), "forcing"),
        (lambda: AdvectionDiffusion(TORUS, velocity=[1.0], diffusivity=0.1), "velocity"),
        (lambda: AdvectionDiffusion(TORUS, velocity=[1.0, 0.0], diffusivity=-0.1), "diffusivity"),
        (lambda: AdvectionDiffusion(TORUS, velocity=np.ones((2, 8, 7)), diffusivity=0.1, dt=1.0), "stable"),
        (lambda: ReactionDiffusion(TORUS, "Brusselator", diffusivities=(1.0, 1.0)), "reaction"),
        (lambda: ReactionDiffusion(TORUS, "Gray-Scott", diffusivities=(1.0,)), "two numbers"),
        (lambda: ReactionDiffusion(TORUS, "Gray-Scott", diffusivities=(1.0, -1.0)), "diffusivities"),
        (
            lambda: ReactionDiffusion(TORUS, "Gray-Scott", diffusivities=(1.0, 1.0), parameters={"k": 1.0}),
            "feed and kill",
        ),
        (lambda: Evolution(LINE, torch.sin, times=1.0, dt=None), "dt"),
        (lambda: Evolution(LINE, torch.sin, times=1.0, dt=0.1, fields=0), "fields"),
        (lambda: Evolution(LINE, torch.sin, times=1.0, dt=0.1, linear=np.ones(4)), "rfftn"),
        (lambda: Evolution(PLAIN, torch.sin, times=1.0, dt=0.1, linear=np.ones((4, 3))), "periodic"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Heat((4, 4), diffusivity=1.0),
        lambda: Heat(LINE, diffusivity=1.0, times="now"),
        lambda: ReactionDiffusion(TORUS, "Gray-Scott", diffusivities=1.0),
        lambda: ReactionDiffusion(TORUS, "Gray-Scott", diffusivities=(1.0, 1.0), parameters=[1.0]),
        lambda: Evolution(LINE, "sin", times=1.0, dt=0.1),
    ],
)
def test_wrong_types_are_refused(make):
    with pytest.raises(InputTypeError):
        make()


def test_too_long_a_step_is_refused_by_name():
    w = torch.ones(2, 64, 64, dtype=DOUBLE)
    w[1] = 1000 * vorticity()[0]
    with pytest.raises(OperatorError, match="row 1 .Courant"):
        NavierStokes(SQUARE, viscosity=1e-3, dt=0.1)(w)


def test_a_right_side_of_another_shape_is_refused():
    with pytest.raises(OperatorError, match="rhs must return"):
        Evolution(LINE, lambda u, t: u[:, :3], times=1.0, dt=0.5)(torch.ones(1, 16))
