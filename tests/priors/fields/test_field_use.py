"""Gaussian fields as priors: posteriors, batches, precision, long axes, and what coloured noise buys.

The law itself, its spectra and its grids are tested in `test_priors_field.py`, the transforms in `test_transforms.py`.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import invsolve as iv
from invsolve.priors.fields.bases import grid_factor, nodes
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.spectra import Matern

F32, F64 = torch.float32, torch.float64
ALL = ("neumann", "dirichlet", "periodic")
SHAPE, N, M = (4, 5), 20, 6


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def make(basis="neumann", kind="real", colour=False):
    return GaussianFieldPrior(
        shape=SHAPE,
        spectrum=Matern(std=1.3, length=0.5, smoothness=1.0),
        basis=basis,
        kind=kind,
        extent=(1.0, 1.5),
        mean=random(*SHAPE, dtype=F64 if kind == "real" else torch.complex128, seed=7),
        noise_spectrum=Matern(std=1.0, length=0.3, smoothness=0.5) if colour else None,
    )


PRIORS = {
    f"{b}, {k}{', coloured' * c}": make(b, k, c)
    for b, k, c in itertools.product(ALL, ("real", "complex"), (False, True))
}
EVERY = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())


def covariance(prior):
    """The dense covariance of one real component, from unit signals."""
    unit = torch.eye(N, dtype=F64).view(N, *SHAPE)
    modes = prior.law.modes
    return modes.synthesis(prior.law.variances * modes.adjoint(unit)).flatten(1)


def as_vector(kind):
    return iv.operators.from_callable(
        lambda x: x.flatten(1),
        SHAPE,
        (N,),
        kind="linear",
        in_kind=kind,
        out_kind=kind,
        adjoint=lambda y: y.view(-1, *SHAPE),
    )


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "items"])
@EVERY
def test_posterior_is_dense_conditioning(prior, shared):
    dtype = prior.mean.dtype
    matrix = random(*(() if shared else (2,)), M, N, dtype=dtype, seed=5)
    y = random(2, M, dtype=dtype, seed=6)
    posterior = prior.posterior(iv.operators.Matrix(matrix=matrix) @ as_vector(prior.kind), y, 0.3)
    draws, count = posterior.sample(400, seed=0), 400
    K, mean = covariance(prior).to(dtype), prior.mean.flatten()
    for b in range(2):
        H = matrix if shared else matrix[b]
        gain = K @ H.mH @ torch.linalg.inv(H @ K @ H.mH + 0.09 * torch.eye(M, dtype=dtype))
        apart = y[b] - H @ mean
        # Where items differ the solve is iterative: its error is 1e-6 of the right side, C^1/2 H^H r / 0.3^2, times C^1/2.
        bound = 1e-6 * float((K @ H.mH @ apart).norm()) / 0.09
        assert (posterior.mean[b].flatten() - (mean + gain @ apart)).norm() <= max(bound, 1e-10) * prior.scale
        variance = (K - gain @ H @ K).diagonal().real
        # A complex number varies by both of its components; its sample variance has half the relative variance.
        parts = 2 if prior.kind == "complex" else 1
        ratio = draws[:, b].flatten(1).var(0) / (parts * variance)
        assert ((ratio - 1).abs() < 5 * math.sqrt(2 / (parts * count))).all()


@EVERY
def test_the_derivative_of_the_denoiser_is_its_pullback(prior):
    x, v, w = (random(3, *SHAPE, dtype=prior.mean.dtype, seed=s) for s in (1, 2, 3))
    h = 1e-4  # the denoiser is affine: a difference is exact but for rounding, 1e-16 / h
    slope = (prior.denoise(x + h * w, 0.5) - prior.denoise(x - h * w, 0.5)) / (2 * h)
    pulled = prior.pullback(x, 0.5)[1](v)
    inner = [(a.conj() * b).real.flatten(1).sum(1) for a, b in ((v, slope), (pulled, w))]
    assert torch.allclose(*inner, rtol=0, atol=1e-9)


@EVERY
def test_rows_do_not_see_each_other(prior):
    x = random(4, *SHAPE, dtype=prior.mean.dtype, seed=1)
    bad = x.clone()
    bad[1] = math.nan
    keep = torch.tensor([0, 2, 3])
    levels = (0.5, torch.tensor([0.1, 1.0, 2.0, 3.0], dtype=F64))
    for sigma in levels:
        clean, dirty = prior.denoise(x, sigma), prior.denoise(bad, sigma)
        assert torch.equal(clean[keep], dirty[keep]) and bool(dirty[1].isnan().all())
    assert torch.allclose(prior.denoise(x[2:3], 0.5), prior.denoise(x, 0.5)[2:3], rtol=0, atol=1e-12)


@EVERY
def test_float32_is_within_rounding_of_float64(prior):
    low = prior.to(dtype=F32)
    x = 3 * random(3, *SHAPE, dtype=prior.mean.dtype, seed=1)
    for sigma in (1e-3, 0.5, 1e3):
        value, pull = low.pullback(x.to(low.mean.dtype), sigma)
        assert value.dtype == low.mean.dtype
        # Four matrix products of sums of 5 numbers below 10: some ten roundings of 10 * 6e-8.
        assert torch.allclose(value.to(x.dtype), prior.denoise(x, sigma), rtol=0, atol=1e-5)
        assert torch.allclose(pull(x.to(low.mean.dtype)).to(x.dtype), prior.pullback(x, sigma)[1](x), rtol=0, atol=1e-5)
    assert torch.equal(low.to(dtype=F64).law.variances, prior.law.variances)  # computed again, not a rounded copy


def test_limits_of_the_level():
    for prior in PRIORS.values():
        x = random(2, *SHAPE, dtype=prior.mean.dtype)
        assert torch.allclose(prior.denoise(x, 1e-8), x, rtol=0, atol=1e-10)
        assert torch.allclose(prior.denoise(x, 1e8), prior.mean.expand_as(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("basis", ALL)
def test_coloured_diffusion_has_the_same_gains_on_every_grid(basis):
    """White noise of one level per node drowns fine modes the more, the finer the grid; a noise spectrum does not."""
    spectrum, noise = Matern(std=1.0, length=0.3, smoothness=1.5), Matern(std=1.0, length=0.1, smoothness=0.5)
    small = GaussianFieldPrior(shape=(15, 15), spectrum=spectrum, noise_spectrum=noise, basis=basis, dtype=F64)
    assert torch.allclose(small.law.variances, small.on((31, 31)).law.variances[:15, :15], rtol=1e-12)
    white = GaussianFieldPrior(shape=(15, 15), spectrum=spectrum, basis=basis, dtype=F64)
    factor = grid_factor(basis, (31, 31)) / grid_factor(basis, (15, 15))
    assert torch.allclose(factor * white.law.variances, white.on((31, 31)).law.variances[:15, :15], rtol=1e-12)


def test_long_axes_denoise_by_their_spectrum():
    """257 nodes go through the FFT: a wave of k periods is shrunk by the gain of its frequency."""
    n, k = 257, 100
    prior = GaussianFieldPrior(shape=(n,), spectrum=Matern(std=1.0, length=0.2), basis="periodic", dtype=F64)
    wave = torch.cos(2 * math.pi * k * nodes("periodic", n) + 0.3)[None]
    s = n * Matern(std=1.0, length=0.2).variances(torch.tensor([(2 * math.pi * k) ** 2], dtype=F64), "periodic", (1.0,))
    assert torch.allclose(prior.denoise(wave, 0.05), wave * s / (s + 0.05**2), rtol=1e-9)
