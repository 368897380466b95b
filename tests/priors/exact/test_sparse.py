"""Sparse priors against quadrature, and `from_denoiser`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import invsolve as iv
from invsolve.priors import Laplace, SparsePrior, SpikeSlab, Student

D = torch.float64


def normal(c, std=1.0):  # scipy's own densities take 0.1 ms a call
    return np.exp(-0.5 * (c / std) ** 2) / (std * math.sqrt(2 * math.pi))


PEAK = {dof: stats.t.pdf(0.0, dof) for dof in (3, 30)}


def student(c, dof):
    return PEAK[dof] * (1 + c**2 / dof) ** (-(dof + 1) / 2)


LAWS = {
    "laplace": (Laplace(scale=0.7), lambda c: np.exp(-abs(c) / 0.7) / 1.4),
    "student 3": (Student(scale=0.5, dof=3.0), lambda c: 2 * student(c / 0.5, 3)),
    "student 30": (Student(scale=0.5, dof=30.0), lambda c: 2 * student(c / 0.5, 30)),
    "spike-slab": (SpikeSlab(weight=0.3, slab=1.0, spike=0.1), lambda c: 0.3 * normal(c) + 0.7 * normal(c, 0.1)),
}


@pytest.mark.parametrize("u", [0.0, 0.3, -2.0, 9.0])
@pytest.mark.parametrize("s", [0.02, 0.3, 5.0])
@pytest.mark.parametrize(("law", "pdf"), LAWS.values(), ids=LAWS)
def test_moments_against_quadrature(law, pdf, s, u):
    points = sorted({0.0, u, u - s, u + s, u - 6 * s, u + 6 * s})
    edges = [min(points[0], -60) - 12 * s, *points, max(points[-1], 60) + 12 * s]

    def moment(k: int) -> float:
        f = lambda c: pdf(c) * normal(u - c, s) * c**k  # noqa: E731
        return sum(
            integrate.quad(f, a, b, limit=400, epsabs=0, epsrel=1e-11)[0]
            for a, b in zip(edges[:-1], edges[1:], strict=True)
            if b > a
        )

    with np.errstate(under="ignore"):
        z, m1, m2 = moment(0), moment(1), moment(2)
    log, mean, variance = (float(t) for t in law.moments(torch.tensor([[u]], dtype=D), torch.tensor(s, dtype=D)))
    assert abs(log - math.log(z)) < 1e-7
    assert abs(mean - m1 / z) < 1e-7 * max(s, 0.1)
    assert abs(variance - (m2 / z - (m1 / z) ** 2)) < 1e-7


@pytest.mark.parametrize(("law", "pdf"), LAWS.values(), ids=LAWS)
def test_density_and_sampling(law, pdf):
    c = torch.linspace(-3, 3, 13, dtype=D)[None]
    assert np.allclose(law.log_prob(c).exp(), pdf(c.numpy()), rtol=1e-9)
    n = 200_000
    prior = SparsePrior(shape=(n,), coefficients=law, dtype=D)
    x = prior.sample(1, seed=0)[0]
    for edge in (0.05, 0.5, 1.5):  # the law of |x|, not only its variance
        want = 2 * integrate.quad(pdf, 0, edge, points=[0.01], limit=200)[0]
        assert abs((x.abs() < edge).double().mean() - want) < 5 * math.sqrt(want * (1 - want) / n)
    assert abs(x.mean()) < 5 * x.std() / math.sqrt(n)


@pytest.mark.parametrize(
    "law", [law for law, _ in LAWS.values()] + [SpikeSlab(weight=0.2, slab=1.0)], ids=[*LAWS, "dirac spike"]
)
@pytest.mark.parametrize("dtype", [torch.float32, D], ids=str)
def test_limits_over_twelve_decades(law, dtype):
    prior = SparsePrior(shape=(3,), coefficients=law, mean=2.0, dtype=dtype)
    x = torch.tensor([[2.0, 2.5, -40.0]], dtype=dtype)
    assert torch.allclose(prior.denoise(x, 1e-6), x, atol=1e-3)
    assert torch.allclose(prior.denoise(x, 1e6), torch.full_like(x, 2.0), atol=1e-3)
    for sigma in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        for point in (x, 2 + 1e7 * (x - 2)):
            D_x, pull = prior.pullback(point, sigma)
            assert torch.isfinite(D_x).all() and torch.isfinite(pull(torch.ones_like(point))).all()


@pytest.mark.parametrize("transform", ["identity", "dct", "haar"])
@pytest.mark.parametrize("law", [law for law, _ in LAWS.values()], ids=LAWS)
def test_pullback_is_the_jacobian_and_tweedie_holds(transform, law):
    prior = SparsePrior(shape=(4, 2), transform=transform, coefficients=law, dtype=D)
    x = prior.sample(2, seed=1)
    sigma = torch.tensor([0.3, 1.1], dtype=D)
    value, pull = prior.pullback(x, sigma)
    assert torch.equal(value, prior.denoise(x, sigma))
    v = torch.randn(x.shape, dtype=D, generator=torch.Generator().manual_seed(0))
    h = 1e-6
    difference = (prior.denoise(x + h * v, sigma) - prior.denoise(x - h * v, sigma)) / (2 * h)
    assert torch.allclose(pull(v), difference, atol=1e-7)  # symmetric: J v = J^T v
    # Tweedie: D = x + sigma^2 grad log p_sigma.
    up, down = (prior.log_prob(x + s * h * v, 0.3) for s in (1, -1))
    score = ((prior.denoise(x, 0.3) - x) / 0.3**2 * v).flatten(1).sum(1)
    assert torch.allclose((up - down) / (2 * h), score, atol=1e-5)


def test_transforms_are_orthonormal_and_parameters_per_coefficient():
    scales = torch.linspace(0.5, 2, 8, dtype=D).view(8)
    prior = SparsePrior(shape=(8,), transform="dct", coefficients=Laplace(scale=scales), dtype=D)
    x = prior.sample(40_000, seed=0)
    want = (
        prior.law.modes.synthesis(torch.diag(2 * scales**2))
        if False
        else prior.law.modes.marginal_variances(2 * scales**2)
    )
    assert (x.var(0) / want - 1).abs().max() < 5 * math.sqrt(5 / 40_000)  # kurtosis of a Laplace number: 6
    assert prior.scale == pytest.approx(math.sqrt(8)) and prior.detail == pytest.approx(math.sqrt(0.5))
    assert prior.to(dtype=torch.float32).dtype == torch.float32
    assert (
        prior.fingerprint()
        != SparsePrior(shape=(8,), transform="dct", coefficients=Laplace(scale=1.0), dtype=D).fingerprint()
    )


def test_rows_do_not_see_each_other_and_maps_of_levels():
    prior = SparsePrior(shape=(3,), coefficients=Student(scale=1.0, dof=4.0), dtype=D)
    x = prior.sample(4, seed=0)
    poisoned = x.clone()
    poisoned[1] = math.nan
    keep = torch.tensor([0, 2, 3])
    assert torch.equal(prior.denoise(poisoned, 0.5)[keep], prior.denoise(x, 0.5)[keep])
    levels = torch.rand(4, 3, dtype=D, generator=torch.Generator().manual_seed(0)) + 0.1
    each = torch.stack([prior.denoise(x, levels[:, j])[:, j] for j in range(3)], dim=1)
    assert torch.allclose(prior.denoise(x, levels), each)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Laplace(scale=0.0), "Laplace: `scale` must be positive"),
        (lambda: Laplace(scale=torch.tensor([1.0, -1.0])), "Laplace: `scale` must be positive, got -1.0"),
        (lambda: Laplace(scale=torch.tensor([1j, 2])), "Laplace: `scale` must be real, got torch.complex64"),
        (lambda: Laplace(scale=torch.tensor([1.0, math.nan])), "Laplace: `scale` must be finite"),
        (lambda: SpikeSlab(weight=1.0, slab=1.0), "`weight` must be below 1"),
        (lambda: SpikeSlab(weight=0.5, slab=1.0, spike=-0.1), "`spike` must be non-negative"),
        (lambda: SpikeSlab(weight=0.5, slab=1.0, spike=torch.tensor([-0.1])), "`spike` must be non-negative"),
        (lambda: SpikeSlab(weight=0.5, slab=1.0, spike=1.0), "`spike` must be below `slab`"),
        (lambda: Student(scale=1.0, dof=2.0), "`dof` must be above 2"),
        (lambda: Student(scale=1.0, dof=torch.tensor([3.0])), "`dof` must be a number"),
        (lambda: SparsePrior(shape=(2, 2, 2, 2), coefficients=Laplace(scale=1.0)), "`shape` must be of 1 to 3 axes"),
        (
            lambda: SparsePrior(shape=(2,), coefficients=1.0),
            "`coefficients` must be a Laplace, Student or SpikeSlab law, got float",
        ),
        (
            lambda: SparsePrior(shape=(2,), coefficients=Laplace(scale=torch.ones(3))),
            r"`coefficients.scale` must be a number or of shape \(2,\)",
        ),
        (
            lambda: SparsePrior(shape=(2,), transform="wavelet", coefficients=Laplace(scale=1.0)),
            "`transform` must be one of 'identity', 'dct', 'haar'",
        ),
        (lambda: SparsePrior(shape=(6,), transform="haar", coefficients=Laplace(scale=1.0)), "powers of two"),
        (
            lambda: SparsePrior(shape=(2,), coefficients=Laplace(scale=1.0), dtype=torch.int64),
            "`dtype` must be torch.float32 or torch.float64",
        ),
        (
            lambda: SparsePrior(shape=(2,), coefficients=Laplace(scale=1.0), mean=torch.zeros(3)),
            r"`mean` must be a number or of shape \(2,\)",
        ),
        (lambda: SparsePrior(shape=(2,), coefficients=Laplace(scale=1.0), mean=math.inf), "`mean` must be finite"),
        (
            lambda: SparsePrior(shape=(2,), transform="dct", coefficients=Laplace(scale=1.0)).denoise(
                torch.ones(1, 2), torch.ones(1, 2)
            ),
            "`sigma` must be 0-d",
        ),
        (
            lambda: SparsePrior(shape=(2,), coefficients=SpikeSlab(weight=0.5, slab=1.0)).log_prob(torch.ones(1, 2)),
            "a spike of std 0 has no density",
        ),
        # from_denoiser
        (lambda: iv.priors.from_denoiser(3, shape=(2,), scale=1.0), "`function` must be a function of"),
        (lambda: iv.priors.from_denoiser(torch.sin, shape=(2,), scale=0.0), "`scale` must be positive"),
        (lambda: iv.priors.from_denoiser(torch.sin, shape=(2,), scale=1.0, detail=-1.0), "`detail` must be positive"),
        (lambda: iv.priors.from_denoiser(torch.sin, shape=(2,), scale=1.0, kind="both"), "`kind` must be one of"),
        (
            lambda: iv.priors.from_denoiser(torch.sin, shape=(2,), scale=1.0, dtype=torch.int64),
            "`dtype` must be torch.float32 or torch.float64",
        ),
        (
            lambda: iv.priors.from_denoiser(torch.sin, shape=(2,), scale=1.0, mean=torch.zeros(3)),
            "`mean` must be a number or of shape",
        ),
        (
            lambda: iv.priors.from_denoiser(torch.sin, shape=(2,), scale=1.0, sigma_range=(1.0, 0.5)),
            "`sigma_range` must be",
        ),
        (
            lambda: iv.priors.from_denoiser(torch.sin, shape=(2,), scale=1.0, law="gaussian"),
            "`law` must be a GaussianLaw",
        ),
        (
            lambda: iv.priors.from_denoiser(
                torch.sin, shape=(2,), scale=1.0, law=SparsePrior(shape=(3,), coefficients=Laplace(scale=1.0)).law
            ),
            r"`law` must be of shape \(2,\), real",
        ),
        (
            lambda: iv.priors.from_denoiser(lambda x, s: None, shape=(2,), scale=1.0).denoise(torch.ones(1, 2), 1.0),
            "returning a torch.Tensor, got NoneType",
        ),
        (
            lambda: iv.priors.from_denoiser(lambda x, s: x[:, :1], shape=(2,), scale=1.0).denoise(
                torch.ones(1, 2), 1.0
            ),
            r"returning what it is given, \(1, 2\) torch.float32 on cpu, got \(1, 1\)",
        ),
        (
            lambda: iv.priors.from_denoiser(lambda x, s: x.double(), shape=(2,), scale=1.0).denoise(
                torch.ones(1, 2), 1.0
            ),
            "got .* torch.float64",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        call()


def test_from_denoiser_differentiates_and_samples():
    scale = torch.tensor([1.0, 2.0], dtype=D)
    prior = iv.priors.from_denoiser(
        lambda x, s: x * scale**2 / (scale**2 + s**2), shape=(2,), mean=torch.zeros(2, dtype=D), scale=2.0, detail=1.0
    )
    x = torch.ones(3, 2, dtype=D)
    _, pull = prior.pullback(x, torch.tensor([0.5, 1.0, 2.0], dtype=D))
    assert torch.allclose(pull(x)[1], scale**2 / (scale**2 + 1))
    draws = prior.sample(20_000, seed=0)
    assert (draws.std(0) / scale - 1).abs().max() < 5 / math.sqrt(40_000) + 0.01
    assert not prior.cheap_pullback
    law = iv.priors.GaussianPrior(mean=torch.zeros(2, dtype=D), covariance=torch.diag(scale**2)).law
    informed = iv.priors.from_denoiser(prior.function, shape=(2,), mean=torch.zeros(2, dtype=D), scale=2.0, law=law)
    A = iv.operators.Matrix(matrix=torch.eye(2, dtype=D))
    result = iv.solve(A, torch.ones(2, dtype=D), informed, noise=0.5, num_samples=4, strategy=iv.strategies.MMPS())
    assert result.vjps == 0 and result.strategy == "MMPS"


# --- twelve decades, against 50 digits and an independent quadrature ---------------------------------------------------
def laplace_in_50_digits(u: float, s: float) -> tuple[float, float, float]:
    """log density of u, posterior mean and variance for scale 1, by the two cut normal laws."""
    import mpmath as mp

    with mp.workdps(50):
        u_, s_ = mp.mpf(u), mp.mpf(s)
        logs, means, variances = [], [], []
        for sign in (1, -1):
            a = sign * u_ / s_ - s_
            mills = mp.npdf(a) / mp.ncdf(a)
            logs.append(mp.log(mp.ncdf(a)) - sign * u_ + s_**2 / 2 - mp.log(2))
            means.append(sign * s_ * (a + mills))
            variances.append(s_**2 * (1 - mills * (a + mills)))
        total = mp.log(mp.e ** logs[0] + mp.e ** logs[1])
        r = mp.e ** (logs[0] - total)
        mean = r * means[0] + (1 - r) * means[1]
        variance = r * variances[0] + (1 - r) * variances[1] + r * (1 - r) * (means[0] - means[1]) ** 2
        return float(total), float(mean), float(variance)


@pytest.mark.parametrize("s", [1e-6, 1e-3, 0.3, 5.9, 6.1, 30.0, 1e3, 1e6])
def test_laplace_over_twelve_decades(s):
    for z in (0.0, 0.3, -2.0, 30.0):
        u = z * max(s, 1.0)
        log, mean, variance = (
            float(t) for t in Laplace(scale=1.0).moments(torch.tensor([[u]], dtype=D), torch.tensor(s, dtype=D))
        )
        want = laplace_in_50_digits(u, s)
        # u itself is known to 1e-16 of u, in units of the posterior std: nothing else may be lost.
        loss = 1e-13 + 4e-16 * abs(u) / math.sqrt(want[2])
        assert abs(log - want[0]) <= 1e-13 * max(1.0, abs(want[0]))
        assert abs(mean - want[1]) <= loss * math.sqrt(want[2])
        assert abs(variance / want[2] - 1) <= 1e-12


@pytest.mark.parametrize("dof", [2.05, 3.0, 10.0, 100.0])
def test_student_over_twelve_decades(dof):
    """Nodes ten times closer, over a range three times as wide, in extended precision."""
    g = np.arange(-140, math.log(1 + 12 / math.sqrt(dof / 2) + 80 / dof) + 1, 0.004).astype(np.longdouble)
    c = np.exp(-g)
    prior = dof / 2 * (g - np.exp(g)) + math.log(0.004) + dof / 2 * math.log(dof / 2) - math.lgamma(dof / 2)
    for s in (1e-6, 1e-2, 1.0, 1e3, 1e6):
        for u in (0.0, 0.3 * (1 + s), -2 * s, 30 * (1 + s), 1e3 * s):
            total = c + np.longdouble(s) ** 2
            log = prior - 0.5 * (np.longdouble(u) ** 2 / total + np.log(2 * np.longdouble(np.pi) * total))
            r = np.exp(log - log.max())
            z, r = log.max() + np.log(r.sum()), r / r.sum()
            gain = c / total
            mean = (r * gain).sum() * u
            variance = (r * gain).sum() * s**2 + (r * (gain * u - mean) ** 2).sum()
            out = Student(scale=1.0, dof=dof).moments(torch.tensor([[u]], dtype=D), torch.tensor(s, dtype=D))
            assert abs(float(out[0]) - z) < 1e-9
            # The mean in posterior standard deviations; u itself is rounded by 1e-16.
            assert abs(float(out[1]) - mean) < (1e-9 + 4e-16 * abs(u) / math.sqrt(variance)) * math.sqrt(variance)
            assert abs(float(out[2]) / variance - 1) < 1e-9


def test_a_map_of_levels_of_one_row_is_not_a_level_per_row():
    """Shape (1, n) with n no more than the batch: refused in a mixing transform, elementwise in the identity."""
    levels = torch.tensor([[0.1, 2.0]], dtype=D)
    x = torch.randn(3, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    mixing = SparsePrior(shape=(2,), transform="dct", coefficients=Laplace(scale=1.0), dtype=D)
    with pytest.raises(iv.errors.InputError, match="`sigma` must be 0-d or"):
        mixing.denoise(x, levels)
    plain = SparsePrior(shape=(2,), coefficients=Laplace(scale=1.0), dtype=D)
    each = torch.stack([plain.denoise(x, 0.1)[:, 0], plain.denoise(x, 2.0)[:, 1]], dim=1)
    assert torch.equal(plain.denoise(x, levels), each)


def test_which_haar_is_meant():
    """Orthonormal, all levels, the product of one-dimensional bases: written out here by sums and differences."""

    def haar(n):
        rows = np.eye(n)
        done = []
        while len(rows) > 1:
            even, odd = rows[::2], rows[1::2]
            rows, details = (even + odd) / math.sqrt(2), (even - odd) / math.sqrt(2)
            done.insert(0, details)
        return np.concatenate([rows, *done])

    prior = SparsePrior(shape=(4, 8), transform="haar", coefficients=Laplace(scale=1.0), dtype=torch.float64)
    found = prior.law.modes.analysis(torch.eye(32, dtype=torch.float64).view(32, 4, 8)).flatten(1).mT
    assert torch.allclose(found, torch.as_tensor(np.kron(haar(4), haar(8))), atol=1e-14)
    assert "haar: orthonormal, 2 x 3 levels, product of one-dimensional bases" in repr(prior)
    line = SparsePrior(shape=(8,), transform="haar", coefficients=Laplace(scale=1.0))
    assert repr(line).startswith("SparsePrior(shape=(8,), real, Laplace, haar: orthonormal, 3 levels, scale=")
    assert "dct: orthonormal DCT-II" in repr(SparsePrior((8,), Laplace(scale=1.0), transform="dct"))
