"""Acoustic waves against the free-space solution, its refinement, reciprocity, layers and derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import invsolve as iv
from invsolve.errors import InputError, OperatorError
from invsolve.operators import Wave, ricker
from invsolve.operators.contract import Probe

DOUBLE = torch.float64
SMALL = iv.CartesianGrid((6, 7), extent=(6.0, 7.0))
PLACES = {"sources": [[1.0, 2.0], [3.0, 3.0]], "receivers": [[2.0, 2.0], [5.0, 5.0]]}


def small(**options):
    return Wave(SMALL, **PLACES, wavelet=ricker(0.1, 1.0, 8, delay=4.0), dt=1.0, layer=4, **options)


@pytest.mark.parametrize(("dtype", "tol"), [(DOUBLE, 1e-10), (torch.float32, 3e-5)])
def test_contract(dtype, tol):
    scaled = iv.operators.from_callable(lambda x: 0.1 * x, (6, 7), (6, 7), kind="linear", adjoint=lambda y: 0.1 * y)
    A = small(parameter="log velocity") @ scaled
    assert [p for p in Probe(A=A, seed=0, dtype=dtype, tol=tol).run() if not p.passed] == []


def test_gradients_twice():
    A = Wave(SMALL.on((3, 2)), **PLACES, wavelet=ricker(0.1, 1.0, 4, delay=1.0), dt=1.0, layer=4)
    x = 1 + 0.1 * torch.randn(1, 3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    assert torch.autograd.gradcheck(A._apply, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(A._apply, x, fast_mode=True)


def test_rows_take_their_own_steps_and_silence_is_silent():
    A = small()
    x = torch.ones(3, 6, 7, dtype=DOUBLE) * torch.tensor([0.4, 2.0, 1.0], dtype=DOUBLE).view(-1, 1, 1)
    torch.testing.assert_close(A(x), torch.cat([A(row[None]) for row in x]), rtol=1e-13, atol=1e-15)
    quiet = Wave(SMALL, **PLACES, wavelet=torch.zeros(8), dt=1.0, layer=4)
    assert not quiet(x).any()
    assert A(x[:0]).shape == (0, *A.out_shape)


def free_space(c, frequency, delay, distance, times):
    """``s * G`` with ``G = H(t - r / c) / (2 pi sqrt(t^2 - r^2 / c^2))``, after ``t = r / c cosh(z)``."""
    arrival = distance / c

    def s(t):
        a = (math.pi * frequency * (t - delay)) ** 2
        return (1 - 2 * a) * math.exp(-a) if t >= 0 else 0.0

    def at(t):
        if t <= arrival:
            return 0.0
        return quad(lambda z: s(t - arrival * math.cosh(z)), 0, math.acosh(t / arrival), epsabs=1e-10, limit=200)[0]

    return np.array([at(t) for t in times]) / (2 * math.pi)


def homogeneous(n, dt, samples, layer=None):
    """A box of 1 km, 1500 m/s, 4 Hz; 280 m from source to receiver, at corners of cells on every grid."""
    grid = iv.CartesianGrid((n, n), extent=1000.0, unit="m")
    delay = 0.3
    A = Wave(
        grid, [[520.0, 360.0]], [[520.0, 640.0]], ricker(4.0, dt, samples, delay=delay), dt=dt, layer=layer or n // 4
    )
    found = A(torch.full((1, n, n), 1500.0, dtype=DOUBLE))[0, 0, :, 0].numpy()
    return found, free_space(1500.0, 4.0, delay, 280.0, dt * np.arange(samples))


def test_free_space_and_its_refinement():
    """Towards order 2 of the steps, from above and below: space, of order 4, errs the other way."""
    errors = []
    for n in (25, 50, 100):
        found, exact = homogeneous(n, 0.02 * 25 / n * 0.5, 75 * n // 25)
        errors.append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
    assert errors[-1] < 0.01
    assert math.log2(errors[1] / errors[2]) > 1.7


def test_order_2_of_the_steps():
    """Four steps on one grid, at times that they share."""
    grid = iv.CartesianGrid((20, 20), extent=1000.0)
    x = torch.full((1, 20, 20), 1500.0, dtype=DOUBLE)

    def at(n):
        dt = 0.016 / n
        wavelet = ricker(4.0, dt, 40 * n, delay=0.3)
        return Wave(grid, [[510.0, 360.0]], [[490.0, 640.0]], wavelet, dt=dt, layer=8)(x)[0, 0, ::n, 0]

    found = [at(n) for n in (1, 2, 4, 8, 16)]
    steps = [float((a - b).norm()) for a, b in zip(found, found[1:], strict=False)]
    orders = [math.log2(a / b) for a, b in zip(steps, steps[1:], strict=False)]
    assert orders == pytest.approx([2, 2, 2], abs=0.1)


def test_layers_absorb():
    """Waves that have passed do not come back: against a box so large that they could not."""
    grid = iv.CartesianGrid((30, 30), extent=1000.0)
    large = iv.CartesianGrid((110, 110), extent=1000.0 * 110 / 30, origin=(-40 * 1000 / 30,) * 2)
    wavelet = ricker(6.0, 0.008, 120, delay=0.2)
    at = {"sources": [[300.0, 500.0]], "receivers": [[600.0, 500.0], [980.0, 980.0]]}
    found = Wave(grid, **at, wavelet=wavelet, dt=0.008)(torch.full((1, 30, 30), 1500.0, dtype=DOUBLE))
    exact = Wave(large, **at, wavelet=wavelet, dt=0.008)(torch.full((1, 110, 110), 1500.0, dtype=DOUBLE))
    error = float((found - exact).norm() / exact.norm())
    assert error < 5e-3


def test_reciprocity():
    at = [[2.0, 2.0], [4.5, 5.5]]
    x = 1 + 0.3 * torch.rand(1, 6, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    A = Wave(SMALL, [at[0]], [at[1]], ricker(0.1, 1.0, 30), dt=1.0, layer=8)
    B = Wave(SMALL, [at[1]], [at[0]], ricker(0.1, 1.0, 30), dt=1.0, layer=8)
    gap = float((A(x) - B(x)).norm() / A(x).norm())
    assert gap < 1e-12


def test_checkpoints_change_no_gradient():
    """What is computed again is the same to the bit: the pullback is that of forward mode."""
    A = small()
    x = 1 + 0.3 * torch.rand(2, 6, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    dx, v = torch.randn_like(x), torch.randn(2, *A.out_shape, dtype=DOUBLE)
    _, pull = A.vjp(x)
    left, right = (A.jvp(x, dx)[1] * v).sum(), (dx * pull(v)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-11)


def test_wavelet():
    w = ricker(5.0, 0.001, 1000)
    assert float(w.max()) == pytest.approx(1.0)
    assert int(w.argmax()) == 300
    assert abs(float(w[0])) < 1e-7
    with pytest.raises(InputError, match="frequency"):
        ricker(0.0, 1.0, 4)
    with pytest.raises(InputError, match="samples"):
        ricker(1.0, 1.0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sources": [[9.0, 1.0]]}, "inside of the box"),
        ({"receivers": [1.0, 2.0]}, "receivers"),
        ({"wavelet": np.ones((2, 2))}, "wavelet"),
        ({"dt": 0.0}, "dt"),
        ({"parameter": "slowness"}, "parameter"),
        ({"layer": 2}, "layer"),
        ({"frequency": -1.0}, "frequency"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    given = {**PLACES, "wavelet": np.ones(4), "dt": 1.0} | change
    with pytest.raises(InputError, match=words):
        Wave(SMALL, **given)


def test_velocities_that_cannot_be_are_refused():
    x = torch.ones(2, 6, 7, dtype=DOUBLE)
    x[1, 3, 3] = 0.0
    with pytest.raises(OperatorError, match="row 1 has 0"):
        small()(x)


def test_a_place_at_the_far_corner_is_inside():
    grid = iv.CartesianGrid((6, 7), extent=(0.6, 0.6), origin=(0.3, 0.3))  # in doubles 0.3 + 0.6 < 0.9
    A = Wave(grid, sources=[[0.9, 0.9]], receivers=[[0.3, 0.3]], wavelet=[0.0, 1.0], dt=0.1, layer=4)
    assert A.out_shape == (1, 2, 1)
    with pytest.raises(InputError, match="the same for all items"):
        Wave(grid, sources=[[[0.9, 0.9]]], receivers=[[0.3, 0.3]], wavelet=[0.0, 1.0], dt=0.1, layer=4)
