"""Every operator of the room, of no rows at all, and whatever state torch is in."""

import pickle

import pytest
import torch

import invsolve as iv
from invsolve.operators import (
    AdvectionDiffusion,
    BornScattering,
    BoxAverages,
    Burgers,
    Darcy,
    Heat,
    Helmholtz,
    HelmholtzMedium,
    HelmholtzSource,
    NavierStokes,
    PointValues,
    Poisson,
    ReactionDiffusion,
    Scattering,
    Wave,
)
from invsolve.problems.cell_coefficient import CellCoefficient

CELLS, INNER = iv.CartesianGrid((7, 6)), iv.CartesianGrid((7, 6), points="interior")
TORUS, LINE = iv.CartesianGrid((6, 5), points="periodic"), iv.CartesianGrid((6,), points="periodic")
PLACES = torch.tensor([[0.1, 0.2], [0.5, 0.6]])
OUTSIDE = [[3.0, 0.0], [0.0, 2.0]]
FLOW = torch.linspace(-0.1, 0.1, 60).view(2, 6, 5)
OPERATORS = (
    AdvectionDiffusion(TORUS, velocity=FLOW, diffusivity=0.01),
    BornScattering(CELLS, OUTSIDE, OUTSIDE, wavenumber=1.0),
    BoxAverages(CELLS, PLACES, PLACES + 0.2),
    BoxAverages(LINE, [0.1, 0.3], [0.2, 0.3]),
    Burgers(LINE, viscosity=0.05),
    CellCoefficient(2, elements=6, points=3, dtype=torch.float32),
    Darcy(CELLS, log=True),
    Darcy(INNER, solver="direct"),
    Heat(CELLS, diffusivity=0.1, times=(0.1, 0.2)),
    Helmholtz(TORUS, wavenumber=1.0),
    HelmholtzMedium(CELLS, torch.ones(7, 6), wavenumber=9.0, layer=2),
    HelmholtzSource(CELLS, torch.full((7, 6), 81.0), wavenumber=9.0, layer=2),
    NavierStokes(TORUS, viscosity=0.01, times=(0.3, 0.5)),
    PointValues(CELLS, PLACES),
    PointValues(TORUS, PLACES, method="spectral"),
    Poisson(INNER),
    ReactionDiffusion(CELLS, "Gray-Scott", diffusivities=(1e-3, 5e-3), times=0.5),
    Scattering(CELLS, OUTSIDE, OUTSIDE, wavenumber=1.0),
    Wave(CELLS, PLACES, PLACES, torch.ones(5), dt=0.05, layer=4),
)


def products(A, x):
    """The values, and a product with the adjoint of the derivative."""
    y, pull = A.vjp(x)
    return y, pull(torch.ones_like(y))


def _one(A):
    dtype = torch.complex64 if A.in_kind == "complex" else torch.float32
    return torch.ones(1, *A.in_shape, dtype=dtype)


@pytest.mark.parametrize("A", OPERATORS, ids=lambda A: type(A).__name__)
def test_no_rows(A):
    y, slope = products(A, _one(A)[:0])
    assert (y.shape, slope.shape) == ((0, *A.out_shape), (0, *A.in_shape))
    assert A.jvp(_one(A)[:0], _one(A)[:0])[1].shape == y.shape


@pytest.mark.parametrize("A", OPERATORS, ids=lambda A: type(A).__name__)
def test_the_state_of_torch_changes_nothing(A):
    x = _one(A) * torch.linspace(0.5, 1.5, _one(A).numel()).view(1, *A.in_shape)
    expected = products(A, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = products(A, x)
    again = pickle.loads(pickle.dumps(A))
    with torch.inference_mode():
        inside = products(again, x)
    after = products(again, x)  # with what was kept inside
    leaf = x.clone().requires_grad_()
    assert torch.autograd.grad(again(leaf).abs().sum(), leaf)[0].isfinite().all()
    for found in (cast, inside, after):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
