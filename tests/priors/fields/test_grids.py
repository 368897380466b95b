"""Gaussian fields on a `CartesianGrid`: one distribution on every grid, the benchmarks' spectra, coupled draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.operators.base import LinearOperator
from invsolve.priors.fields.bases import grid_factor, nodes, resize_modes

F64 = torch.float64
POINTS = {"neumann": "centers", "dirichlet": "interior", "periodic": "periodic"}
EVERY_BASIS = pytest.mark.parametrize("basis", POINTS)


def field(grid, spectrum, **options):
    return iv.priors.GaussianFieldPrior(grid, spectrum, dtype=F64, **options)


def coefficients(prior, x):
    """Of the eigenfunctions phi_k, for signals ``(rows, *shape)``."""
    return prior.law.modes.transform.forward(x) / math.sqrt(grid_factor(prior.basis, prior.shape))


# --- the grid -----------------------------------------------------------------------------------------------------
@EVERY_BASIS
def test_a_grid_stands_for_shape_basis_and_extent(basis):
    grid = iv.CartesianGrid((6, 9), extent=(2.0, 0.5), points=POINTS[basis], origin=(1.0, -1.0), names=("t", "x"))
    spectrum = iv.priors.Matern(1.0, 0.3)
    ours = field(grid, spectrum)
    theirs = field((6, 9), spectrum, basis=basis, extent=(2.0, 0.5))
    assert (ours.shape, ours.basis, ours.extent) == ((6, 9), basis, (2.0, 0.5))
    assert torch.equal(ours.law.variances, theirs.law.variances)
    assert torch.equal(ours.sample(2), theirs.sample(2))
    assert ours.grid == grid
    assert ours.on((12, 5)).grid == grid.on((12, 5))
    assert ours.to(dtype=torch.float32).grid == grid
    for axis, n, length in zip(theirs.grid.axes, (6, 9), (2.0, 0.5), strict=True):
        np.testing.assert_allclose(axis, nodes(basis, n, length).numpy())


def test_what_contradicts_the_grid_is_refused_by_name():
    grid, spectrum = iv.CartesianGrid((6,), extent=2.0, points="periodic"), iv.priors.Matern(1.0, 0.3)
    with pytest.raises(InputError, match=r"`basis` must be left out, or 'periodic'.*points='centers'"):
        field(grid, spectrum, basis="neumann")
    with pytest.raises(InputError, match="`basis`"):
        field(grid, spectrum, basis="hat")
    with pytest.raises(InputError, match=r"`extent` must be left out, or that of the grid, \(2.0,\)"):
        field(grid, spectrum, extent=(1.0,))
    assert field(grid, spectrum, basis="periodic", extent=(2.0,)).grid == grid


# --- the spectra of the benchmarks ----------------------------------------------------------------------------------
def mean_variance(prior):
    return float((prior.law.variances / grid_factor(prior.basis, prior.shape)).sum())


@pytest.mark.parametrize(("n", "std"), [(128, 0.292078), (64, 0.292058)])
def test_the_poisson_and_darcy_field(n, std):
    prior = field((n, n), iv.priors.Whittle(3.0, 2.0, zero_mode=False))
    assert math.sqrt(mean_variance(prior)) == pytest.approx(std, abs=5e-7)
    # The pointwise variance varies over the square: the card says from 0.026 to 0.21 (n = 128).
    pointwise = prior.law.modes.marginal_variances(prior.law.variances)
    assert float(pointwise.mean()) == pytest.approx(std**2, abs=5e-7)
    assert float(pointwise.min()) == pytest.approx(0.026, abs=1e-3)
    assert 0.20 < float(pointwise.max()) < 0.22


def test_the_vorticity_of_navier_stokes():
    grid = iv.CartesianGrid((128, 128), points="periodic")
    prior = field(grid, iv.priors.Whittle(7.0, 2.5, amplitude=math.sqrt(2) * 7.0**1.5, zero_mode=False))
    assert math.sqrt(mean_variance(prior)) == pytest.approx(0.261959, abs=5e-7)


def test_burgers_initial_state_with_a_cut_off():
    grid = iv.CartesianGrid((256,), points="periodic")
    prior = field(grid, iv.priors.Whittle(7.0, 2.5, amplitude=49.0, zero_mode=False, shortest=1 / 64))
    k = np.arange(1, 65)
    root = np.sqrt(2) * 49 * ((2 * np.pi * k) ** 2 + 49) ** -1.25  # of cos and sin of 2 pi k x, as published
    expected = np.repeat(root**2 / 2, 2)  # the mean square of a cosine
    found = (prior.law.variances / 256).numpy()
    np.testing.assert_allclose(found[1:129], expected, rtol=1e-12)
    assert found[0] == 0
    assert not found[129:].any()


def test_whittle_is_matern_with_another_amplitude():
    for shape in ((40,), (12, 16)):
        kappa, alpha = 9.0, 2.25
        nu = alpha - len(shape) / 2
        a = field(shape, iv.priors.Whittle(kappa, alpha, amplitude=2.0)).law.variances
        b = field(shape, iv.priors.Matern(1.0, math.sqrt(8 * nu) / kappa, smoothness=nu)).law.variances
        assert torch.allclose(a / b, (a / b).flatten()[0].expand_as(a), rtol=1e-12)


def test_refusals_of_whittle():
    for name in ("kappa", "alpha", "amplitude", "shortest"):
        with pytest.raises(InputError, match=f"Whittle: `{name}`"):
            iv.priors.Whittle(**({"kappa": 1.0, "alpha": 2.0} | {name: -1.0}))
    with pytest.raises(InputTypeError, match="`kappa`"):
        iv.priors.Whittle(None, 2.0)
    with pytest.raises(InputTypeError, match="`zero_mode`"):
        iv.priors.Whittle(1.0, 2.0, zero_mode=0)
    with pytest.raises(InputError, match="distribution of positive numbers"):
        iv.priors.Whittle(iv.Normal(0.0, 1.0), 2.0)
    with pytest.raises(UnsupportedError, match="kappa is not known"):
        iv.priors.Whittle(iv.LogNormal(1.0, 2.0), 2.0).variances(torch.ones(3), "neumann", (1.0,))


# --- one distribution across grids ----------------------------------------------------------------------------------
@EVERY_BASIS
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_a_coupled_draw_on_a_coarse_grid_is_the_truncated_one_of_a_fine_grid(basis, kind):
    spectrum = iv.priors.Matern(1.0, 0.3)
    grid = iv.CartesianGrid((128, 64), extent=(2.0, 1.0), points=POINTS[basis])
    fine = field(grid, spectrum, kind=kind)
    coarse = fine.on((33, 17))  # odd: no Nyquist mode, whose convention is that of the grid
    xs, x = fine.coupled_sample(3, seed=5), coarse.coupled_sample(3, seed=5)
    assert torch.equal(fine.coupled_sample(5, seed=5)[:3], xs)
    for row in range(3):
        u = coefficients(fine, xs[row : row + 1])[0]
        cut = resize_modes(u, basis, coarse.shape, power=1)
        assert torch.allclose(cut, coefficients(coarse, x[row : row + 1])[0], atol=1e-13)
    assert not torch.allclose(coarse.coupled_sample(3, seed=6), x)


def test_coupled_draws_have_the_law_of_the_field():
    prior = field((24, 40), iv.priors.Matern(1.0, 0.3), extent=(1.0, 2.0))
    n = 4000
    z = prior.law.modes.analysis(prior.coupled_sample(n) - prior.mean) / prior.law.variances.sqrt()
    sizes = z.square().mean(0)
    assert float((sizes - 1).abs().max()) < 5.5 * math.sqrt(2 / n)  # 960 modes: 5.5 sd of the largest of them
    assert float(z.mean()) == pytest.approx(0, abs=5 / math.sqrt(z.numel()))
    neighbours = (z[:, :, 1:] * z[:, :, :-1]).mean()
    assert float(neighbours) == pytest.approx(0, abs=5 / math.sqrt(z.numel()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sensors(LinearOperator):
    """Weighted sums of a field: ``weights`` (sensors, *in_shape)."""

    weights: torch.Tensor

    @property
    def in_shape(self):
        return tuple(self.weights.shape[1:])

    @property
    def out_shape(self):
        return (len(self.weights),)

    def _apply(self, x):
        return x.flatten(1) @ self.weights.flatten(1).mT

    def _adjoint(self, y):
        return (y @ self.weights.flatten(1)).view(-1, *self.in_shape)


def eigenfunctions(basis, points, modes, extent):
    """``(points, modes, modes)`` of the first modes a side, cosines only (Neumann), by their formula."""
    assert basis == "neumann"
    axes = []
    for axis, length in enumerate(extent):
        k = np.arange(modes)
        f = np.cos(np.pi * k * points[:, axis : axis + 1] / length) * np.sqrt(2)
        f[:, 0] = 1
        axes.append(f)
    return torch.from_numpy(np.einsum("pi,pj->pij", *axes))


@pytest.mark.parametrize("extent", [(1.0, 1.0), (2.0, 0.7)])
@pytest.mark.parametrize("sizes", [(32, 64), pytest.param((32, 64, 128), marks=pytest.mark.slow)])
def test_the_posterior_of_point_observations_is_the_same_on_every_grid(extent, sizes):
    """Card F3: 16 x 16 modes, 20 points, noise 0.02."""
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(20, 2)) * extent
    spectrum = iv.priors.Whittle(3.0, 2.0, zero_mode=False)
    modes = field((16, 16), spectrum, extent=extent)
    s = modes.law.variances / grid_factor("neumann", (16, 16))
    phi = eigenfunctions("neumann", points, 16, extent)
    clean = torch.einsum("pij,ij->p", phi, s.sqrt() * torch.from_numpy(rng.normal(size=(16, 16))))
    y = (clean + 0.02 * torch.from_numpy(rng.normal(size=20)))[None]
    # The formula in the modes: m = s H^T (H s H^T + R)^-1 y.
    H = phi.flatten(1)
    S = H * s.flatten() @ H.mT + 0.02**2 * torch.eye(20, dtype=F64)
    m = s.flatten() * (H.mT @ torch.linalg.solve(S, y[0]))
    found = []
    for n in sizes:
        prior = field(iv.CartesianGrid((n, n), extent=extent), resize_modes(s, "neumann", (n, n), power=2))
        weights = torch.zeros(20, n, n, dtype=F64)
        weights[:, :16, :16] = phi
        weights = prior.law.modes.transform.inverse(weights) / math.sqrt(grid_factor("neumann", (n, n)))
        A = Sensors(weights=weights)
        posterior = prior.posterior(A, y, 0.02)
        mean, std = posterior.mean[0], posterior.std[0]
        # Products of two of these modes have a wavelength of 32 / 31 cells or more: their means over nodes are exact.
        found.append((float(mean.square().mean().sqrt()), float(std.square().mean()), float(std.mean())))
        assert torch.allclose(coefficients(prior, mean[None])[0, :16, :16], m.view(16, 16), atol=1e-9)
    assert found[0][0] == pytest.approx(float(m.norm()), rel=1e-9)
    trace = float((s.flatten() - (s.flatten() * (H.mT @ torch.linalg.solve(S, H)).diagonal() * s.flatten())).sum())
    assert found[0][1] == pytest.approx(trace, rel=1e-9)
    for other in found[1:]:
        assert other[:2] == pytest.approx(found[0][:2], rel=1e-9)
        if extent == (1.0, 1.0):  # the mean of a root is a quadrature, of an error of its own on 32 x 32
            assert other[2] == pytest.approx(found[0][2], rel=1e-5)
