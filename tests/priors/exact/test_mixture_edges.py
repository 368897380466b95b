"""Gaussian mixtures at their edges: point masses, extreme levels, maps of levels, single precision, odd measurements."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import invsolve as iv
from invsolve.priors import GaussianMixturePrior

F32, F64 = torch.float32, torch.float64
SHAPE, N, K = (2, 2), 4, 3


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


ROOT = random(K, N, N, seed=1) / 2
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
MEANS, COVARIANCES = 2 * random(K, *SHAPE, seed=2), ROOT @ ROOT.mT + 0.05 * torch.eye(N, dtype=F64)
PRIOR = GaussianMixturePrior(weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)
POINTS = GaussianMixturePrior(
    weights=WEIGHTS, means=MEANS, covariances=torch.zeros(N, N, dtype=F64)
)  # an empirical law
SHARED = GaussianMixturePrior(weights=WEIGHTS, means=MEANS, covariances=COVARIANCES[0])
FLAT = GaussianMixturePrior(weights=WEIGHTS, means=MEANS, covariances=ROOT[:, :, :2] @ ROOT[:, :, :2].mT)  # rank 2
PRIORS = {"full": PRIOR, "points": POINTS, "shared": SHARED, "flat": FLAT}
EVERY = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
LEVELS = {
    "number": 0.6,
    "rows": torch.tensor([0.05, 0.7, 20.0], dtype=F64),
    "map": random(1, *SHAPE, seed=3).exp(),
    "map of rows": random(3, *SHAPE, seed=4).exp(),
}


def reference(prior, x, level):
    """D and the covariance of x0 given x, one row, from the definition in dense matrices; level (n,)."""
    noise = torch.diag(level**2)
    covariances = prior.covariances.expand(K, N, N)
    logs, means, seconds = [], [], []
    for w, m, C in zip(prior.weights, prior.means.flatten(1), covariances, strict=True):
        gain = C @ torch.linalg.inv(C + noise)
        mean = m + gain @ (x - m)
        logs.append(w.log() + MultivariateNormal(m, C + noise).log_prob(x))
        means.append(mean)
        seconds.append(C - gain @ C + torch.outer(mean, mean))
    r = torch.stack(logs).softmax(0)
    mean = (r[:, None] * torch.stack(means)).sum(0)
    return mean, (r[:, None, None] * torch.stack(seconds)).sum(0) - torch.outer(mean, mean)


@pytest.mark.parametrize("sigma", LEVELS.values(), ids=LEVELS)
@EVERY
def test_denoiser_and_pullback_are_the_moments(prior, sigma):
    """V = J diag(sigma^2), so J^T v = diag(sigma^-2) V v, for a level per entry too."""
    x, v = 2 * random(3, *SHAPE, seed=5), random(3, *SHAPE, seed=6)
    value, pull = prior.pullback(x, sigma)
    assert torch.equal(value, prior.denoise(x, sigma))
    level = torch.as_tensor(sigma, dtype=F64)
    level = (level.view(-1, 1, 1) if level.ndim == 1 else level).expand(3, *SHAPE).flatten(1)
    back = pull(v).flatten(1)
    for b in range(3):
        mean, variance = reference(prior, x[b].flatten(), level[b])
        assert torch.allclose(value[b].flatten(), mean, rtol=0, atol=1e-10)
        want = variance @ v[b].flatten() / level[b] ** 2
        assert torch.allclose(back[b], want, rtol=0, atol=1e-9 * float(1 + (1 / level[b] ** 2).max()))
    assert prior.cheap_pullback and not prior.exact_law


@EVERY
def test_pullback_is_the_derivative_for_a_map_of_levels(prior):
    x, v, w = (random(2, *SHAPE, seed=s) for s in (7, 8, 9))
    sigma, h = random(2, *SHAPE, seed=10).exp(), 1e-5
    slope = (prior.denoise(x + h * w, sigma) - prior.denoise(x - h * w, sigma)) / (2 * h)
    # Central differences: h^2 times a third derivative of order 10, and rounding 1e-16 / h.
    assert torch.allclose(
        (v * slope).flatten(1).sum(1), (prior.pullback(x, sigma)[1](v) * w).flatten(1).sum(1), atol=1e-8
    )


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@EVERY
def test_limits_over_twelve_decades(prior, dtype):
    prior = prior.to(dtype=dtype)
    eps = torch.finfo(dtype).eps
    x = prior.sample(5, seed=0)
    for sigma in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        for point in (x, 1e7 * x):
            value, pull = prior.pullback(point, sigma)
            assert torch.isfinite(value).all() and torch.isfinite(pull(x)).all()
    # A level far below every scale: x comes back (points: the support), up to the level and the rounding of x.
    assert torch.allclose(prior.denoise(x, 1e-6), x, rtol=0, atol=1e-5 + 10 * eps)
    # Far above: the mean; the first correction is C x / sigma^2.
    assert torch.allclose(prior.denoise(x, 1e6), prior.mean.expand_as(x), rtol=0, atol=1e-9 + 10 * eps)


def test_responsibilities_far_away_do_not_underflow():
    x = torch.full((1, *SHAPE), 1e4, dtype=F64)
    r = PRIOR.responsibilities(x, 0.1)
    assert float(r.sum()) == pytest.approx(1.0) and torch.isfinite(r).all()
    assert torch.isfinite(PRIOR.log_prob(x, 0.1)).all()


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_density(sigma):
    x = random(4, *SHAPE, seed=3)
    noise = sigma**2 * torch.eye(N, dtype=F64)
    each = [
        w.log() + MultivariateNormal(m, C + noise).log_prob(x.flatten(1))
        for w, m, C in zip(WEIGHTS, MEANS.flatten(1), COVARIANCES, strict=True)
    ]
    assert torch.allclose(PRIOR.log_prob(x, sigma), torch.stack(each).logsumexp(0), rtol=1e-12)
    rows = PRIOR.log_prob(x, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64))
    assert float(rows[2]) == pytest.approx(float(PRIOR.log_prob(x[2:3], 0.3)), rel=1e-12)


@EVERY
def test_samples_come_from_their_components(prior):
    n = 20_000
    x = prior.sample(n, seed=1).flatten(1)
    want = (prior.law.modes.matrix * prior.law.variances) @ prior.law.modes.matrix.mT
    assert ((x.mean(0) - prior.mean.flatten()).abs() < 5 * (want.diagonal() / n).sqrt()).all()
    # Second moments: their standard error from the sample itself.
    centred = x - prior.mean.flatten()
    products = centred[:, :, None] * centred[:, None, :]
    assert ((products.mean(0) - want).abs() < 5 * products.std(0) / math.sqrt(n) + 1e-12).all()
    share = prior.responsibilities(x.view(n, *SHAPE), 1e-3).mean(0)
    assert ((share - WEIGHTS).abs() < 5 * (WEIGHTS * (1 - WEIGHTS) / n).sqrt()).all()
    assert torch.allclose(prior.sample(3, seed=1).flatten(1), x[:3], rtol=0, atol=1e-12)


@EVERY
def test_rows_do_not_see_each_other(prior):
    x = random(4, *SHAPE, seed=1)
    bad = x.clone()
    bad[1] = math.nan
    keep = torch.tensor([0, 2, 3])
    for sigma in (0.5, random(4, *SHAPE, seed=2).exp()):
        clean, dirty = prior.denoise(x, sigma), prior.denoise(bad, sigma)
        assert torch.equal(clean[keep], dirty[keep]) and bool(dirty[1].isnan().all())
    assert torch.allclose(prior.denoise(x[2:3], 0.5), prior.denoise(x, 0.5)[2:3], rtol=0, atol=1e-13)


def test_attributes_cast_and_identity():
    assert PRIOR.shape == SHAPE and PRIOR.kind == "real" and PRIOR.dtype == F64 and PRIOR.has_posterior
    assert PRIOR.detail == pytest.approx(math.sqrt(float(COVARIANCES.diagonal(dim1=1, dim2=2).min())))
    assert POINTS.detail is None and 0 < POINTS.scale
    low = PRIOR.to(dtype=F32)
    x = random(3, *SHAPE, seed=1)
    assert low.dtype == F32 and low.denoise(x.float(), 0.5).dtype == F32
    # Parameters rounded by 6e-8 move D by about that times the condition of C + sigma^2 and the spread of the means.
    assert torch.allclose(low.denoise(x.float(), 0.5).double(), PRIOR.denoise(x, 0.5), rtol=0, atol=3e-6)
    again = GaussianMixturePrior(weights=WEIGHTS.clone(), means=MEANS.clone(), covariances=COVARIANCES.clone())
    assert again.fingerprint() == PRIOR.fingerprint()
    assert len({p.fingerprint() for p in PRIORS.values()} | {low.fingerprint()}) == 5


# --- posteriors ---------------------------------------------------------------------------------------------------------
def conditioned(prior, H, G, y):
    """Weights, means, covariances and log evidence by the textbook, one item, real data."""
    logs, means, covariances = [], [], []
    for w, m, C in zip(prior.weights, prior.means.flatten(1), prior.covariances.expand(K, N, N), strict=True):
        S = H @ C @ H.mT + G
        gain = C @ H.mT @ torch.linalg.inv(S)
        logs.append(w.log() + MultivariateNormal(H @ m, S).log_prob(y))
        means.append(m + gain @ (y - H @ m))
        covariances.append(C - gain @ H @ C)
    log = torch.stack(logs)
    return log.softmax(0), torch.stack(means), torch.stack(covariances), log.logsumexp(0)


def as_vector():
    return iv.operators.from_callable(
        lambda x: x.flatten(1), SHAPE, (N,), kind="linear", adjoint=lambda y: y.view(-1, *SHAPE)
    )


@pytest.mark.parametrize("case", ["covariance", "std per item", "std per entry", "complex", "more data than numbers"])
@EVERY
def test_posterior_of_unusual_measurements(prior, case):
    m = 7 if case == "more data than numbers" else 3
    matrix, y = random(m, N, seed=11), random(2, m, seed=12)
    noise: object = 0.3
    G = 0.09 * torch.eye(m, dtype=F64).expand(2, m, m)
    if case == "covariance":
        root = random(m, m, seed=13)
        G = (root @ root.mT + torch.eye(m, dtype=F64)).expand(2, m, m)
        noise = iv.noise.Gaussian(covariance=G[0])
    elif case == "std per item":
        std = torch.tensor([[0.2], [0.9]], dtype=F64)
        noise, G = iv.noise.Gaussian(std=std), torch.diag_embed(std.expand(2, m) ** 2)
    elif case == "std per entry":
        std = torch.tensor([0.2, 0.5, 1.0], dtype=F64)
        noise, G = iv.noise.Gaussian(std=std), torch.diag(std**2).expand(2, m, m)
    H = matrix
    if case == "complex":  # the std is per real component
        matrix = random(m, N, dtype=torch.complex128, seed=11)
        y = random(2, m, dtype=torch.complex128, seed=12)
        H, G = torch.cat([matrix.real, matrix.imag]), 0.09 * torch.eye(2 * m, dtype=F64).expand(2, 2 * m, 2 * m)
        A = iv.operators.Matrix(matrix=matrix, in_kind="real") @ as_vector()
    else:
        A = iv.operators.Matrix(matrix=matrix) @ as_vector()
    posterior = prior.posterior(A, y, noise)
    for b in range(2):
        data = torch.cat([y[b].real, y[b].imag]) if y.is_complex() else y[b]
        weights, means, covariances, evidence = conditioned(prior, H, G[b], data)
        assert torch.allclose(posterior.weights[b], weights, atol=1e-10)
        assert torch.allclose(posterior.means[b].flatten(1), means, atol=1e-9)
        own = posterior.covariances if posterior.covariances.ndim == 3 else posterior.covariances[b]
        assert torch.allclose(own, covariances, atol=1e-9)
        assert torch.allclose(posterior.log_evidence[b], evidence, rtol=1e-10)
        mean = (weights[:, None] * means).sum(0)
        assert torch.allclose(posterior.mean[b].flatten(), mean, atol=1e-9)
        second = (weights[:, None] * (covariances.diagonal(dim1=1, dim2=2) + means**2)).sum(0)
        assert torch.allclose(posterior.std[b].flatten(), (second - mean**2).clamp_min(0).sqrt(), atol=1e-7)
    draws = posterior.sample(4000, seed=0)
    error = posterior.std / math.sqrt(4000) + 1e-9
    assert ((draws.mean(0) - posterior.mean).abs() < 5 * error).all()


def test_posterior_of_nearly_exact_data():
    """Noise 1e-7 of the signal: the data are met to that noise, covariances stay positive, the evidence is finite."""
    matrix, y = random(2, N, seed=11), random(1, 2, seed=12)
    posterior = PRIOR.posterior(iv.operators.Matrix(matrix=matrix) @ as_vector(), y, 1e-7)
    fitted = posterior.means[0].flatten(1) @ matrix.mT
    assert torch.allclose(fitted, y.expand(K, 2), rtol=0, atol=1e-10)  # the bias of a component is sigma^2-small
    assert (torch.linalg.eigvalsh(posterior.covariances)[:, 0] > 0).all()
    want = conditioned(PRIOR, matrix, 1e-14 * torch.eye(2, dtype=F64), y[0])
    assert torch.allclose(posterior.weights[0], want[0], atol=1e-9)
    assert torch.allclose(posterior.log_evidence[0], want[3], rtol=1e-9)
    assert (posterior.sample(50).flatten(2) @ matrix.mT - y).abs().max() < 6e-7


def test_posterior_takes_rows_and_refuses_other_signals():
    matrix, y = random(3, 2, N, seed=11), random(3, 2, seed=12)
    posterior = PRIOR.posterior(iv.operators.Matrix(matrix=matrix) @ as_vector(), y, 0.3)
    part = posterior.take(torch.tensor([2, 0]))
    assert torch.equal(part.mean, posterior.mean[[2, 0]]) and torch.equal(
        part.covariances, posterior.covariances[[2, 0]]
    )
    assert torch.equal(part.std, posterior.std[[2, 0]])
    # Draw k of item b depends on (seed, b, k) only.
    assert torch.allclose(posterior.sample(2, seed=3), posterior.sample(5, seed=3)[:2], rtol=0, atol=1e-12)
    with pytest.raises(iv.errors.InputError, match=r"`A` must be an operator on signals of shape \(2, 2\), got \(5,\)"):
        PRIOR.posterior(iv.operators.Matrix(matrix=random(2, 5)), random(1, 2), 0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": [0.0]}, r"`means` must be of shape \(K, \*shape\), got \(1,\)"),
        ({"weights": None}, "`weights` must be numbers: .*, got NoneType"),
        ({"means": MEANS.to(torch.complex128)}, "`(means|weights)` must be"),
        ({"weights": WEIGHTS * 1.1}, r"`weights` must be of sum 1, got 1.1.*Pass weights / weights.sum\(\)"),
        (
            {"covariances": COVARIANCES - 2 * torch.eye(N, dtype=F64)},
            "`covariances` must be positive semidefinite, got a matrix",
        ),
        ({"covariances": COVARIANCES.triu()}, "`covariances` must be symmetric"),
        (
            {"weights": torch.ones(1, dtype=F64), "means": MEANS[:1], "covariances": torch.zeros(N, N, dtype=F64)},
            "`covariances` must be positive for some direction, got a law that is a single point",
        ),
    ],
)
def test_refused(change, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        GaussianMixturePrior(**({"weights": WEIGHTS, "means": MEANS, "covariances": COVARIANCES} | change))


@pytest.mark.parametrize("prior", [POINTS, FLAT], ids=["points", "flat"])
def test_no_density_without_noise_where_a_covariance_is_singular(prior):
    with pytest.raises(iv.errors.InputError, match="`sigma` must be positive where a covariance is singular"):
        prior.log_prob(random(1, *SHAPE))
