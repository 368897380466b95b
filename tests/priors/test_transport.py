"""Transport maps from white noise against distribution functions, central differences and dense matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.priors import (
    DenseModes,
    GaussianFieldPrior,
    GaussianLaw,
    GaussianMixturePrior,
    GaussianPrior,
    Laplace,
    Matern,
    SparsePrior,
    SpikeSlab,
    Student,
)

D = torch.float64
Z = torch.cat([-torch.logspace(-6, math.log10(8.0), 200, dtype=D), torch.linspace(-8, 8, 401, dtype=D)])


def mixture(weight, slab, spike):
    def tail(t):
        return weight * special.ndtr(-t / slab) + (1 - weight) * special.ndtr(-t / spike)

    return tail, lambda t: weight * stats.norm.pdf(t, scale=slab) + (1 - weight) * stats.norm.pdf(t, scale=spike)


def student(scale, dof):
    law = stats.t(dof)
    return lambda t: law.sf(t / scale), lambda t: law.pdf(t / scale) / scale


def laplace(scale):
    return lambda t: 0.5 * np.exp(-t / scale), lambda t: 0.5 / scale * np.exp(-t / scale)


# The upper tail P(c > t) and the density at t >= 0.
LAWS = {
    "laplace": (Laplace(scale=0.7), *laplace(0.7)),
    "student 2.1": (Student(scale=0.5, dof=2.1), *student(0.5, 2.1)),
    "student 3": (Student(scale=0.5, dof=3.0), *student(0.5, 3.0)),
    "student 100": (Student(scale=2.0, dof=100.0), *student(2.0, 100.0)),
    "spike-slab": (SpikeSlab(weight=0.3, slab=1.0, spike=0.1), *mixture(0.3, 1.0, 0.1)),
    "thin spike": (SpikeSlab(weight=0.05, slab=1.0, spike=1e-4), *mixture(0.05, 1.0, 1e-4)),
    "broad spike": (SpikeSlab(weight=0.9, slab=2.0, spike=1.8), *mixture(0.9, 2.0, 1.8)),
}


@pytest.mark.parametrize(("law", "tail", "pdf"), LAWS.values(), ids=LAWS)
def test_tails_of_normal_and_law_agree(law, tail, pdf):
    c, slope = (t.numpy() for t in law.transport(Z))
    z = Z.numpy()
    assert np.array_equal(np.sign(c), np.sign(z)) and np.all(np.diff(c[200:]) > 0)
    # An error of the tail, over the density, is one of c: relative 1e-9, or the rounding of a tail near 1/2.
    error = np.abs(tail(np.abs(c)) - special.ndtr(-np.abs(z))) / pdf(np.abs(c))
    assert np.all(error <= 1e-9 * np.abs(c) + 3e-16 / pdf(np.abs(c)))
    assert np.allclose(slope, stats.norm.pdf(z) / pdf(np.abs(c)), rtol=1e-9, atol=0)


def test_laplace_and_student_below_rounding_of_one_half():
    z = torch.tensor([1e-9, -1e-12], dtype=D)
    for law, density in (
        (Laplace(scale=1.0), 0.5),
        (Student(scale=1.0, dof=5.0), stats.t.pdf(0.0, 5.0)),
        (SpikeSlab(weight=0.2, slab=1.0, spike=0.1), (0.2 + 8) / math.sqrt(2 * math.pi)),
    ):
        c, slope = law.transport(z)
        assert torch.allclose(c, z / math.sqrt(2 * math.pi) / density, rtol=1e-8, atol=0)
        assert torch.allclose(slope, c / z, rtol=1e-8)


@pytest.mark.parametrize("ratio", [1e-6, 1e-3, 0.03, 0.5])
@pytest.mark.parametrize("weight", [0.01, 0.4, 0.95])
def test_table_and_bracket_agree(weight, ratio):
    number = SpikeSlab(weight=weight, slab=2.0, spike=2 * ratio).transport(Z)
    bracket = SpikeSlab(weight=torch.tensor([weight], dtype=D), slab=2.0, spike=2 * ratio).transport(Z)
    for a, b in zip(number, bracket, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=0)


@pytest.mark.parametrize("weight", [0.05, 0.4, 0.95])
def test_dirac_spike(weight):
    c, slope = (t.numpy() for t in SpikeSlab(weight=weight, slab=2.0).transport(Z))
    z, tail = Z.numpy(), special.ndtr(-np.abs(Z.numpy()))
    flat = tail > weight / 2
    assert flat.any() and np.all(c[flat] == 0) and np.all(slope[flat] == 0)
    size = -2 * special.ndtri(np.minimum(tail[~flat] / weight, 0.5))
    assert np.allclose(np.abs(c[~flat]), size, rtol=1e-9, atol=1e-14) and np.all(np.sign(c[~flat]) == np.sign(z[~flat]))
    far = SpikeSlab(weight=weight, slab=2.0).transport(torch.tensor([30.0, 36.0, 45.0], dtype=D))[0] / 2
    assert np.allclose(
        special.log_ndtr(-far.numpy()) + math.log(weight), special.log_ndtr(-np.array([30.0, 36.0, 45.0])), rtol=1e-13
    )
    pdf = weight * stats.norm.pdf(c[~flat], scale=2.0)
    assert np.allclose(slope[~flat], stats.norm.pdf(z[~flat]) / pdf, rtol=1e-9)


@pytest.mark.parametrize(
    "law", [law for law, *_ in LAWS.values()] + [SpikeSlab(weight=0.2, slab=1.0)], ids=[*LAWS, "dirac"]
)
def test_slope_is_the_derivative_and_far_numbers_are_finite(law):
    h = 1e-5
    z = torch.tensor([-7.3, -2.0, -0.9, 0.2, 0.45, 1.7, 5.0, 20.0, 33.0, 39.0], dtype=D)
    (up, _), (down, _), (c, slope) = (law.transport(z + s * h) for s in (1, -1, 0))
    assert torch.isfinite(c).all() and torch.isfinite(slope).all()
    scale = slope.abs() + c.abs() * 1e-16 / h
    curvature = (up - 2 * c + down).abs() / h  # the difference is of second order: h times the bend
    assert ((up - down) / (2 * h) - slope).abs().le(1e-6 * scale + 1e-3 * curvature).all()
    c, slope = law.transport(torch.tensor([math.nan, 1.0, 49.0, 45.0], dtype=D))
    assert torch.isnan(c).tolist() == torch.isnan(slope).tolist() == [True, False, False, False]
    assert 0 < c[3] < c[2] < math.inf


def test_parameters_may_differ_between_coefficients():
    scale = torch.tensor([0.5, 2.0, 3.0], dtype=D)
    spike = torch.tensor([0.0, 0.1, 1.5], dtype=D)
    z = torch.randn(50, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    for law, each in (
        (Laplace(scale=scale), lambda k: Laplace(scale=float(scale[k]))),
        (Student(scale=scale, dof=4.0), lambda k: Student(scale=float(scale[k]), dof=4.0)),
        (
            SpikeSlab(weight=0.3, slab=scale, spike=spike / 4),
            lambda k: SpikeSlab(weight=0.3, slab=float(scale[k]), spike=float(spike[k]) / 4),
        ),
    ):
        together = law.transport(z)
        for k in range(3):
            for a, b in zip(together, each(k).transport(z[:, k]), strict=True):
                assert torch.allclose(a[:, k], b, rtol=1e-12)


def dense_gaussian(kind="real", **options):
    g = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, dtype=D, generator=g)
    mean = torch.randn(2, 3, dtype=D if kind == "real" else torch.complex128, generator=g)
    return GaussianPrior(mean=mean, covariance=root @ root.mT, **options)


def one_component():
    prior = dense_gaussian()
    return GaussianMixturePrior(
        weights=torch.tensor([1.0, 0.0], dtype=D),
        covariances=prior.covariance,
        means=torch.stack([prior.mean, prior.mean + 1]),
    )


FIELD = {"shape": (4, 6), "spectrum": Matern(std=0.5, length=0.2), "mean": 1.0, "dtype": D}
PRIORS = {
    "gaussian": dense_gaussian,
    "complex gaussian": lambda: dense_gaussian("complex"),
    "units": lambda: dense_gaussian(noise_scale=torch.arange(1.0, 7, dtype=D).view(2, 3)),
    "field": lambda: GaussianFieldPrior(**FIELD),
    "complex field": lambda: GaussianFieldPrior(**FIELD, kind="complex", basis="periodic"),
    "coloured": lambda: GaussianFieldPrior(**FIELD, noise_spectrum=Matern(std=1.0, length=0.1)),
    "mixture of one": one_component,
    "laplace dct": lambda: SparsePrior(
        shape=(4, 3), transform="dct", coefficients=Laplace(scale=0.5), mean=1.0, dtype=D
    ),
    "student haar": lambda: SparsePrior(
        shape=(8,), transform="haar", coefficients=Student(scale=0.5, dof=3.0), dtype=D
    ),
    "spike-slab": lambda: SparsePrior(shape=(5,), coefficients=SpikeSlab(weight=0.3, slab=1.0, spike=0.1), dtype=D),
    "float32": lambda: SparsePrior(shape=(5,), transform="dct", coefficients=Laplace(scale=1.0)),
}


def white(prior, n, seed=0):
    dtype = prior.mean.dtype
    z = torch.randn(n, *prior.shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return z * math.sqrt(2) if dtype.is_complex else z  # unit variance per component


@pytest.mark.parametrize("make", PRIORS.values(), ids=PRIORS)
def test_pull_is_the_adjoint_of_the_derivative(make):
    prior = make()
    assert prior.has_transport
    z, v, w = (white(prior, 3, seed) for seed in range(3))
    x, pull = prior.transport(z.requires_grad_())
    assert x.shape == z.shape and x.dtype == z.dtype and not x.requires_grad
    z = z.detach()
    back = pull(v.requires_grad_())
    v = v.detach()
    assert back.shape == z.shape and back.dtype == z.dtype and not back.requires_grad
    h = 1e-5 if prior.dtype == D else 1e-2
    forward = (prior.transport(z + h * w)[0] - prior.transport(z - h * w)[0]) / (2 * h)
    left, right = ((a.conj() * b).real.flatten(1).sum(1) for a, b in ((v, forward), (back, w)))
    assert torch.allclose(left, right, rtol=0, atol=(1e-7 if prior.dtype == D else 2e-3) * float(left.abs().max() + 1))
    one = prior.transport(z[1:2])[0]  # rows do not see each other
    assert torch.allclose(one, x[1:2], rtol=1e-12 if prior.dtype == D else 1e-5)


@pytest.mark.parametrize("make", PRIORS.values(), ids=PRIORS)
def test_covariance_of_the_pushforward(make):
    """Gaussian maps by their matrix, the others by draws: mean, covariance and the law of the first coefficient."""
    prior = make()
    if isinstance(prior, SparsePrior):
        n = 2**17
        x, _ = prior.transport(white(prior, n))
        c = prior.law.modes.analysis(x - prior.mean).double().flatten(1)
        std = math.sqrt(float(prior.coefficients.variance))
        assert ((x.double() - prior.mean).mean(0).abs() < 5 * std / math.sqrt(n)).all()
        if not isinstance(prior.coefficients, Student):  # whose fourth moment is infinite at dof = 3
            for entries in (c.square(), c[:, :1] * c[:, 1:]):
                want = std**2 if entries.shape[1] == c.shape[1] else 0.0
                assert ((entries.mean(0) - want).abs() < 5 * entries.std(0) / math.sqrt(n)).all()
        own = prior.coefficients.sample(*(white(prior, n, seed).double().flatten() for seed in (5, 6)))
        assert stats.ks_2samp(c[:, 0].numpy(), own[:n].numpy()).pvalue > 1e-4
        return
    unit = torch.eye(math.prod(prior.shape), dtype=prior.mean.dtype).view(-1, *prior.shape)
    _, pull = prior.transport(torch.zeros_like(unit))
    root = pull(unit).flatten(1)  # rows S^H e_k: the adjoint of the map
    x, _ = prior.transport(unit)
    assert torch.allclose((x - prior.mean).flatten(1).mT, root, atol=1e-12)
    law = prior.law
    modes = torch.eye(law.variances.numel(), dtype=D).view(-1, *law.modes.mode_shape)
    S = law.modes.synthesis(modes).flatten(1).mT
    want = (S * law.variances.flatten()) @ S.mT
    assert torch.allclose((root @ root.mH).real, want, atol=1e-12)
    if hasattr(prior, "covariance"):
        assert torch.allclose((root @ root.mH).real, prior.covariance, atol=1e-10)


def test_other_laws_that_are_exact_and_those_that_are_not():
    class Wide(DenseModes.__mro__[1]):  # more modes than entries: x = u_1 + u_2
        shape, mode_shape, orthonormal, log_det = (1,), (2,), False, 0.0

        def synthesis(self, u):
            return u.sum(1, keepdim=True)

        def adjoint(self, x):
            return x.expand(-1, 2)

        analysis = marginal_variances = to = adjoint

    class Stated(iv.priors.Prior):
        exact_law, shape, mean, scale = True, (1,), torch.zeros(1), 1.0

        def __init__(self, modes):
            self.law = GaussianLaw(mean=self.mean, modes=modes, variances=torch.ones(modes.mode_shape))

        def _denoise(self, x, sigma):
            return x

    assert not Stated(Wide()).has_transport
    prior = Stated(DenseModes(shape=(1,), matrix=torch.eye(1)))
    assert prior.has_transport and prior.transport(torch.full((1, 1), 2.0))[0].item() == 2.0


def test_refusals():
    prior = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(3,), scale=1.0)
    two = GaussianMixturePrior(weights=torch.tensor([0.5, 0.5]), means=torch.eye(2), covariances=torch.eye(2))
    for p in (prior, two):
        assert not p.has_transport
        with pytest.raises(UnsupportedError, match="Prior.transport: this prior has no closed-form map .* Use a"):
            p.transport(torch.zeros(1, *p.shape))
    sparse = SparsePrior(shape=(3,), coefficients=Laplace(scale=1.0))
    with pytest.raises(InputError, match=r"SparsePrior: `z` must be of shape \(batch, 3\), got \(3,\)"):
        sparse.transport(torch.zeros(3))
    with pytest.raises(InputTypeError, match="`z` must be real floating point, got torch.complex64"):
        sparse.transport(torch.zeros(1, 3, dtype=torch.complex64))
    with pytest.raises(InputError, match="`z` must be on device cpu, got meta"):
        sparse.transport(torch.zeros(1, 3, device="meta"))


def test_not_counted_as_a_call_of_the_denoiser():
    prior = SparsePrior(shape=(3,), coefficients=Laplace(scale=1.0))
    with tally() as calls:
        x, pull = prior.transport(torch.zeros(2, 3))
        pull(x)
    assert not calls
