"""A prior on a finer grid against the dense law that it is meant to be."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.priors import GaussianFieldPrior, GaussianPrior, Matern, ResampledPrior
from invsolve.priors.learned.resampled import continued

D = torch.float64


def field(shape=(4, 6), kind="real", dtype=D):
    return GaussianFieldPrior(
        shape=shape, spectrum=Matern(std=1.5, length=0.3), basis="periodic", mean=0.7, kind=kind, dtype=dtype
    )


def dense(prior, size=None):
    """The covariance of a resampled Gaussian law by its definition: low modes g^2 times the inner ones, and `beyond`."""
    n = math.prod(prior.shape)
    eye = torch.eye(n, dtype=D).view(n, *prior.shape)
    u = prior._fine.forward(eye)
    variances = prior.beyond.clone()
    low = tuple(slice(m) for m in prior.prior.shape)
    variances[low] = n / math.prod(prior.prior.shape) * prior.prior.law.variances
    rows = prior._fine.inverse(variances * u).reshape(n, n)
    return (rows + rows.mT) / 2


@pytest.mark.parametrize("shape", [(8, 12), (5, 7), (4, 6)])
def test_denoiser_and_derivative_are_those_of_the_dense_law(shape):
    prior = ResampledPrior(prior=field(), shape=shape, beyond=0.01)
    exact = GaussianPrior(mean=prior.mean, covariance=dense(prior))
    assert torch.allclose(prior.mean, torch.full(shape, 0.7, dtype=D), atol=1e-12)
    x = torch.randn(3, *shape, dtype=D, generator=torch.Generator().manual_seed(0))
    for sigma in (0.05, torch.tensor([0.2, 1.0, 30.0], dtype=D)):
        assert torch.allclose(prior.denoise(x, sigma), exact.denoise(x, sigma), atol=1e-10)
        a, pull = prior.pullback(x, sigma)
        b, other = exact.pullback(x, sigma)
        assert torch.allclose(a, b, atol=1e-10) and torch.allclose(pull(x), other(x), atol=1e-10)
    assert prior.scale == pytest.approx(exact.scale, rel=1e-9)
    root = prior.law.modes.synthesis(torch.eye(x[0].numel(), dtype=D).view(-1, *shape)).flatten(1)
    assert torch.allclose(root.mT @ (prior.law.variances.flatten()[:, None] * root), dense(prior), atol=1e-10)


def test_values_stay_what_they_were():
    """A band-limited signal on the fine grid, seen at the coarse nodes, is the signal that the inner prior sees."""
    inner = field((8, 8))
    prior = ResampledPrior(prior=inner, shape=(24, 16))
    low = torch.zeros(1, 8, 8, dtype=D)
    low[:, :5, :5] = torch.randn(1, 5, 5, dtype=D, generator=torch.Generator().manual_seed(1))
    x0 = inner.law.modes.synthesis(low)  # no Nyquist modes
    fine = prior._lift(x0)
    assert torch.allclose(fine[:, ::3, ::2], x0, atol=1e-12)
    assert torch.allclose(prior._cut(prior._fine.forward(fine)), x0, atol=1e-12)


def test_complex_signals():
    prior = ResampledPrior(prior=field(kind="complex"), shape=(8, 6), beyond=0.1)
    real = ResampledPrior(prior=field(), shape=(8, 6), beyond=0.1)
    x = torch.randn(2, 8, 6, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    found = prior.denoise(x, 0.5)
    assert torch.allclose(found.real, real.denoise(x.real, 0.5), atol=1e-12)
    assert torch.allclose(found.imag, real.denoise(x.imag + 0.7, 0.5) - 0.7, atol=1e-12)  # a real mean
    assert prior.kind == "complex" and prior.cheap_pullback


def test_solve_with_it_is_right():
    """Jacobian-free moment matching is exact for a Gaussian law that the prior states."""
    prior = ResampledPrior(prior=field(), shape=(6, 8), beyond=0.02)
    exact = GaussianPrior(mean=prior.mean, covariance=dense(prior))
    A = iv.operators.Mask(mask=torch.arange(48).view(6, 8) % 3 != 0)
    y = A(exact.sample(1, seed=2))
    result = iv.solve(A, y, prior, noise=0.3, strategy=iv.strategies.MMPS(), num_samples=512, seed=0)
    posterior = exact.posterior(A, y, noise=0.3)
    assert float(((result.mean - posterior.mean) / posterior.std).abs().max()) < 5 / 512**0.5
    assert float((result.std / posterior.std - 1).abs().max()) < 5 * 0.5**0.5 / 512**0.5 + 0.01  # and the grid's bias


def test_a_power_law_is_continued():
    def law(n):
        return GaussianFieldPrior(
            shape=(n, n),
            spectrum=iv.priors.Spectrum(lambda e: 3.0 * (e / (2 * math.pi) ** 2 + 1e-9) ** -1.4),
            basis="periodic",
            dtype=D,
        ).law

    found, true = continued(law(16), (32, 32)), law(32).variances
    high = torch.ones(32, 32, dtype=torch.bool)
    high[:16, :16] = False
    assert torch.allclose(found[high], true[high], rtol=1e-6)


def test_a_law_without_fourier_modes_cannot_be_continued():
    with pytest.raises(iv.errors.UnsupportedError, match="only a law of Fourier modes"):
        continued(GaussianPrior(mean=torch.zeros(4), covariance=torch.eye(4)).law, (8,))
    flat = GaussianFieldPrior(shape=(2, 2), spectrum=Matern(std=1.0, length=0.3), basis="periodic", dtype=D)
    assert torch.isfinite(continued(flat.law, (4, 4))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (3, 8)}, "none shorter than the prior's"),
        ({"shape": (8,)}, "of 2 axes"),
        ({"beyond": -1.0}, "`beyond` must be non-negative"),
        ({"beyond": math.nan}, "beyond"),
        ({"prior": "a"}, "`prior` must be an iv.priors.Prior"),
    ],
)
def test_refusals(options, message):
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=message):
        ResampledPrior(**({"prior": field(), "shape": (8, 8)} | options))


def test_coloured_noise_and_level_maps_are_refused():
    coloured = GaussianFieldPrior(
        shape=(4, 4), spectrum=Matern(std=1.0, length=0.3), noise_spectrum=Matern(std=1.0, length=0.1), basis="periodic"
    )
    with pytest.raises(iv.errors.UnsupportedError, match="white diffusion noise"):
        ResampledPrior(prior=coloured, shape=(8, 8))
    prior = ResampledPrior(prior=field(), shape=(8, 8))
    with pytest.raises(iv.errors.UnsupportedError, match="one noise level for every row"):
        prior.denoise(torch.zeros(1, 8, 8, dtype=D), torch.ones(1, 8, 8, dtype=D))


def test_a_law_that_is_not_spectral_is_not_stated():
    inner = GaussianPrior(mean=torch.zeros(4, dtype=D), covariance=torch.eye(4, dtype=D))
    assert ResampledPrior(prior=inner, shape=(8,)).law is None
    assert repr(ResampledPrior(prior=inner, shape=(8,))).startswith("ResampledPrior(GaussianPrior")


def test_it_moves_and_counts_calls_once():
    prior = ResampledPrior(prior=field(), shape=(8, 8), beyond=0.1)
    single = prior.to(dtype=torch.float32)
    assert (
        single.dtype == torch.float32 and single.prior.dtype == torch.float32 and single.beyond.dtype == torch.float32
    )
    assert single.fingerprint() != prior.fingerprint()
    A = iv.operators.Mask(mask=torch.ones(8, 8, dtype=torch.bool))
    result = iv.solve(
        A, torch.zeros(1, 8, 8, dtype=D), prior, noise=0.3, strategy=iv.strategies.MMPS(num_steps=7), num_samples=2
    )
    assert result.nfe == 7


def test_prior_and_shape_may_be_given_by_position():
    inner = field()
    assert ResampledPrior(inner, (8, 12)).fingerprint() == ResampledPrior(prior=inner, shape=(8, 12)).fingerprint()
    with pytest.raises(TypeError, match="positional"):
        ResampledPrior(inner, (8, 12), 0.1)
