"""Scattering against a dense solve, the series of a homogeneous disc, reciprocity and its Born approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import h1vp, hankel1, jv, jvp

import invsolve as iv
from invsolve.errors import InputError
from invsolve.operators import BornScattering, Scattering
from invsolve.operators.contract import Probe

DOUBLE = torch.float64
BOX = iv.CartesianGrid((6, 7), extent=(1.0, 1.2))
DIRECTIONS = [[1.0, 0.0], [0.0, 1.0]]
AROUND = [[3.0, 0.0], [0.0, 3.0], [-2.0, 1.0]]


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize(("dtype", "tol"), [(DOUBLE, 1e-10), (torch.float32, 3e-5)])
def test_contract(kind, dtype, tol):
    for A in (
        BornScattering(BOX, DIRECTIONS, AROUND, wavenumber=5.0, in_kind=kind),
        BornScattering(BOX, AROUND, AROUND[:1], wavenumber=5.0, in_kind=kind, incident="point"),
        Scattering(BOX, DIRECTIONS, AROUND, wavenumber=5.0, in_kind=kind),
    ):
        assert [p for p in Probe(A=A, seed=0, dtype=dtype, tol=tol).run() if not p.passed] == []
        assert not A(torch.zeros(2, *A.in_shape, dtype=dtype)).any()
        assert A(torch.zeros(0, *A.in_shape, dtype=dtype)).shape == (0, *A.out_shape)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_gradients_twice(kind):
    A = Scattering(BOX.on((3, 2)), DIRECTIONS, AROUND, wavenumber=5.0, in_kind=kind)
    dtype = torch.complex128 if kind == "complex" else DOUBLE
    x = torch.randn(2, 3, 2, dtype=dtype, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(A._apply, x)
    assert torch.autograd.gradgradcheck(A._apply, x)


def test_against_a_dense_solve():
    """The equations written as a matrix, entry by entry."""
    A = Scattering(BOX, DIRECTIONS, AROUND, wavenumber=5.0)
    f = torch.randn(1, 6, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)).abs()
    k, h2 = 5.0, BOX.cell
    a = math.sqrt(h2 / math.pi)
    at = np.stack([m.numpy().ravel() for m in BOX.mesh()], 1)
    r = np.linalg.norm(at[:, None] - at[None], axis=2)
    np.fill_diagonal(r, 1.0)
    G = 0.5j * math.pi * k * a * jv(1, k * a) * hankel1(0, k * r)
    np.fill_diagonal(G, 0.5j * math.pi * k * a * hankel1(1, k * a) - 1)
    waves = np.exp(1j * k * at @ np.array(DIRECTIONS).T)
    field = np.linalg.solve(np.eye(len(at)) - G * f.numpy().ravel(), waves)
    out = np.linalg.norm(np.array(AROUND)[:, None] - at[None], axis=2)
    y = 0.5j * math.pi * k * a * jv(1, k * a) * hankel1(0, k * out) @ (f.numpy().reshape(-1, 1) * field)
    np.testing.assert_allclose(A(f)[0].numpy(), y.T, rtol=1e-10)


def disc_series(k, radius, contrast, distance, angle):
    """A plane wave along angle 0 that a homogeneous disc scatters, by separation in polar coordinates."""
    inside, total = k * math.sqrt(1 + contrast), 0
    for n in range(-30, 31):
        j0, j0p = jv(n, k * radius), jvp(n, k * radius)
        j1, j1p = jv(n, inside * radius), jvp(n, inside * radius)
        h, hp = hankel1(n, k * radius), h1vp(n, k * radius)
        share = (inside * j0 * j1p - k * j0p * j1) / (k * hp * j1 - inside * h * j1p)
        total = total + 1j**n * share * hankel1(n, k * distance) * np.exp(1j * n * angle)
    return total


def test_homogeneous_disc():
    """Cells at the border hold the disc's share of them; the error falls with the spacing at order 2."""
    k, radius, contrast = 2 * math.pi, 0.45, 0.6
    angles = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    receivers = 2.0 * np.stack([np.sin(angles), np.cos(angles)], 1)  # y, x
    exact = disc_series(k, radius, contrast, 2.0, angles)
    errors = []
    for n in (12, 24, 48):
        grid = iv.CartesianGrid((n, n), origin=(-0.5, -0.5))
        fine = iv.CartesianGrid((16 * n, 16 * n), origin=(-0.5, -0.5))
        y, x = fine.mesh()
        share = (x**2 + y**2 < radius**2).to(DOUBLE).view(n, 16, n, 16).mean((1, 3))
        A = Scattering(grid, [[0.0, 1.0]], receivers, wavenumber=k)
        found = A(contrast * share[None])[0, 0].numpy()
        errors.append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
    assert errors[-1] < 3e-3
    assert math.log2(errors[0] / errors[-1]) / 2 > 1.7


def test_reciprocity_and_born():
    A = Scattering(BOX, AROUND, AROUND, wavenumber=5.0, incident="point")
    f = torch.randn(1, 6, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)).abs()
    torch.testing.assert_close(A(f), A(f).mT, rtol=1e-10, atol=1e-12)
    born = BornScattering(BOX, AROUND, AROUND, wavenumber=5.0, incident="point")
    far = [float((A(s * f) - born(s * f)).norm() / born(s * f).norm()) for s in (1e-3, 1e-4)]
    assert far[0] / far[1] == pytest.approx(10, rel=0.05)
    torch.testing.assert_close(A.jvp(0 * f, f)[1], born(f), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wavenumber": 0.0}, "wavenumber"),
        ({"incident": "beam"}, "incident"),
        ({"in_kind": "both"}, "in_kind"),
        ({"sources": [[0.0, 0.0]]}, "directions"),
        ({"sources": [1.0]}, "sources"),
        ({"receivers": [[BOX.axes[0][0], BOX.axes[1][0]]]}, "half a point"),
        ({"rtol": 0.0}, "rtol"),
        ({"max_iter": 0}, "max_iter"),
        ({"grid": iv.CartesianGrid((4, 4), points="periodic")}, "centers"),
        ({"grid": iv.CartesianGrid((4,))}, "axes"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    given = {"grid": BOX, "sources": DIRECTIONS, "receivers": AROUND, "wavenumber": 5.0} | change
    with pytest.raises(InputError, match=words):
        Scattering(given.pop("grid"), given.pop("sources"), given.pop("receivers"), **given)


def test_distances_do_not_depend_on_where_the_origin_is():
    # scattering of a point's wave sees distances only; 30 receivers, from which on torch would form squares
    turn = torch.arange(30, dtype=DOUBLE) / 5
    around = 3 * torch.stack([turn.cos(), turn.sin()], 1)
    x = torch.randn(1, 6, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    there = torch.tensor([2.0**20, -(2.0**21)], dtype=DOUBLE)  # metres, as on a map: coordinates have 2e-10 of rounding
    far = iv.CartesianGrid((6, 7), extent=(1.0, 1.2), origin=tuple(there.tolist()))
    options = {"wavenumber": 5.0, "incident": "point"}
    here = BornScattering(BOX, AROUND, around, **options)(x)
    moved = BornScattering(far, torch.tensor(AROUND, dtype=DOUBLE) + there, around + there, **options)(x)
    assert float((moved - here).norm() / here.norm()) < 5.0 * 4 * 2.0**21 * 2**-52
