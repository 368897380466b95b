"""Rows that cannot be solved are NaN, say so, and leave the others of their batch as they are alone."""

import warnings

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError
from invsolve.operators import (
    Burgers,
    Darcy,
    HelmholtzMedium,
    HelmholtzSource,
    NavierStokes,
    ReactionDiffusion,
    Scattering,
    Wave,
    ricker,
)
from invsolve.operators.pde.bilinear_elements import solve_elements
from invsolve.problems.cell_coefficient import CellCoefficient

DOUBLE = torch.float64
LINE = iv.CartesianGrid((16,), points="periodic")
TORUS = iv.CartesianGrid((8, 7), points="periodic")
CELLS = iv.CartesianGrid((12, 11))
SMALL = iv.CartesianGrid((6, 7), extent=(6.0, 7.0))
PLACES = {"sources": [[1.0, 2.0]], "receivers": [[2.0, 2.0], [5.0, 5.0]]}
WAVELET = ricker(0.1, 1.0, 8, delay=4.0)
FLOW = {"diffusivities": (1e-3, 5e-3)}
AROUND = [[3.0, 0.0], [0.0, 3.0]]
OPERATORS = {
    "Burgers": (Burgers(LINE, viscosity=0.05, times=(0.1, 0.3)), 1e9),
    "Burgers, dt": (Burgers(LINE, viscosity=0.05, dt=0.01), None),
    "Navier-Stokes": (NavierStokes(TORUS, viscosity=0.01, times=0.5), 1e9),
    "FitzHugh-Nagumo": (ReactionDiffusion(SMALL, "FitzHugh-Nagumo", **FLOW, times=0.5), 1e9),
    "wave": (Wave(SMALL, **PLACES, wavelet=WAVELET, dt=1.0, layer=4), 1e6),
    "wave, log": (Wave(SMALL, **PLACES, wavelet=WAVELET, dt=1.0, layer=4, parameter="log velocity"), 1e6),
    "scattering": (Scattering(SMALL, AROUND, 5 * torch.tensor(AROUND), wavenumber=1.0, max_iter=2000), None),
    "Darcy": (Darcy(CELLS, walls=1.0), None),
    "Darcy, log": (Darcy(CELLS, log=True), 1e6),
    "Darcy, direct": (Darcy(CELLS, log=True, solver="direct"), 1e6),
    "medium": (HelmholtzMedium(CELLS, torch.ones(12, 11, dtype=DOUBLE), wavenumber=9.0, layer=3), None),
    "cells": (CellCoefficient(2, elements=6, points=3), 1e4),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_wild_row_is_nan_and_harms_no_other(name):
    A, large = OPERATORS[name]
    rows = torch.rand(4, *A.in_shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) + 0.5
    rows[1, ..., 0] = torch.nan
    rows[2] = torch.inf if large is None else large * rows[2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        y, pull = A.vjp(rows)
        slope = pull(torch.ones_like(y))
    good = [0, 3]
    alone, pull = A.vjp(rows[good])
    torch.testing.assert_close(y[good], alone, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(slope[good], pull(torch.ones_like(alone)), rtol=1e-9, atol=1e-11)
    assert y[1:3].isnan().flatten(1).all()


def test_rows_that_speed_up_on_the_way_are_nan():
    # from rest any step is fine; the forcing makes the flow faster than this one allows
    push = torch.zeros(2, 8, 7, dtype=DOUBLE)
    push[1] = 1e4 * torch.sin(2 * torch.pi * TORUS.mesh()[0])
    A = NavierStokes(TORUS, viscosity=0.0, forcing=push, dt=0.1)
    y = A(torch.zeros(2, 8, 7, dtype=DOUBLE))
    assert not y[0].any()
    assert y[1].isnan().all()


@pytest.mark.parametrize(
    ("A", "value", "words"),
    [
        (Burgers(LINE, viscosity=1e-3), 1e9, "Burgers: rows that need more than 65,536 steps are NaN. Give smaller"),
        (OPERATORS["wave"][0], 1e6, "more than 4096 steps between samples dt=1 apart are NaN. Give dt in the unit"),
        (Scattering(SMALL, AROUND, AROUND, wavenumber=5.0, max_iter=2), 30.0, "rtol=1e-12 in 2 iterations are NaN"),
    ],
)
def test_a_lost_row_says_why(A, value, words):
    x = torch.ones(2, *A.in_shape, dtype=DOUBLE)
    x[1] = value
    x[0] *= 0 if isinstance(A, Scattering) else 1
    with pytest.warns(RuntimeWarning, match=words):
        y = A(x)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


def test_a_row_that_conjugate_gradients_do_not_solve_is_nan(monkeypatch):
    monkeypatch.setattr("invsolve.operators.pde.diffusion._MAX_ITER", 2)
    x = torch.zeros(2, 12, 11, dtype=DOUBLE)
    A = Darcy(CELLS, log=True)
    with pytest.warns(RuntimeWarning, match='Darcy: rows that were not solved to rtol=1e-12 in 2 .*solver="direct"'):
        assert A(x).isnan().all()
    assert Darcy(CELLS, log=True, solver="direct")(x).isfinite().all()


def test_factors_of_a_matrix_that_is_not_positive_are_no_solution():
    a, load = torch.ones(2, 4, 4, dtype=DOUBLE), torch.ones(2, 3, 3, dtype=DOUBLE)
    a[1] = -1
    u = solve_elements(a, load)
    assert u[0].isfinite().all()
    assert u[1].isnan().all()


def test_a_medium_in_resonance_is_refused():
    line = iv.CartesianGrid((1,), points="interior")  # 2 u / h^2 = k^2 u for every u
    A = HelmholtzSource(line, torch.tensor([8.0], dtype=DOUBLE), wavenumber=1.0, layer=0)
    with pytest.raises(InputError, match="k2.* away from resonances"):
        A(torch.ones(1, 1, dtype=torch.complex128))
    medium = HelmholtzMedium(line, torch.ones(1, dtype=DOUBLE), wavenumber=1.0, layer=0)
    y = medium(torch.tensor([[8.0], [4.0]], dtype=DOUBLE))
    assert y[0].isnan().all()
    np.testing.assert_allclose(y[1], [-1 / 4], rtol=1e-14)
