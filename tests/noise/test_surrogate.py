"""A measured error of a surrogate: its mean and covariance, and what it does to the posterior of linear models."""

from __future__ import annotations

import math

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, OperatorError
from invsolve.noise.surrogate import shrunk_covariance

F64 = torch.float64
N, M, STD = 10, 8, 0.02


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


EXACT = normal(M, N, seed=0) / N**0.5
WRONG = 0.1 * normal(M, N, seed=1) / N**0.5  # exact - surrogate: five times the noise
MEAN = normal(N, seed=2)
HALF = normal(N, N, seed=3) / N**0.5
COV = HALF @ HALF.mT + 0.1 * torch.eye(N, dtype=F64)
PRIOR = iv.priors.GaussianPrior(MEAN, covariance=COV)
A, B = iv.operators.Matrix(EXACT), iv.operators.Matrix(EXACT - WRONG)
OF_ERROR = WRONG @ COV @ WRONG.mT


def shrunk_by(n, seed=4, count=None):
    return iv.noise.surrogate_error(B, A, PRIOR, count=n, seed=seed)


def test_mean_and_covariance_are_those_of_the_linear_error():
    n = 4000
    error = shrunk_by(n)
    std = OF_ERROR.diagonal().sqrt()
    assert float(((error.mean - WRONG @ MEAN).abs() / (std / n**0.5)).max()) < 4.5  # of 8 standard normals
    outer = torch.outer(std, std)
    spread = ((OF_ERROR**2 + outer**2) / n).sqrt()  # the standard error of an entry of a sample covariance
    allowed = 4.5 * spread + error.shrinkage * outer + outer / n
    assert bool(((error.covariance_matrix - OF_ERROR).abs() < allowed).all())
    assert error.count == n and error.size == M and error.std.shape == (M,) and error.shrinkage < 0.01
    assert torch.equal(shrunk_by(50).mean, shrunk_by(50).mean)
    assert not torch.equal(shrunk_by(50).mean, shrunk_by(50, seed=5).mean)


def test_the_mean_is_in_the_precision_of_the_data():
    single = iv.operators.Matrix(EXACT.float()), iv.operators.Matrix((EXACT - WRONG).float())
    error = iv.noise.surrogate_error(single[1], single[0], PRIOR, count=40, seed=4)
    assert error.mean.dtype == torch.float32 and error.covariance_matrix.dtype == F64
    assert torch.allclose(error.covariance_matrix, shrunk_by(40).covariance_matrix, atol=1e-6)
    assert (torch.zeros(M) - error.mean).dtype == torch.float32


def test_fields_and_values_may_be_given():
    x = PRIOR.sample(40, seed=4)
    same = iv.noise.surrogate_error(B, A(x), x)
    assert torch.equal(same.covariance_matrix, shrunk_by(40).covariance_matrix)
    fewer = iv.noise.surrogate_error(B, A(x)[:20], x, count=20)
    assert fewer.count == 20 and torch.allclose(fewer.mean, (x[:20] @ WRONG.mT).mean(0))
    assert torch.equal(iv.noise.surrogate_error(B, A, x).mean, same.mean)


def test_variances_are_those_of_the_sample_and_correlations_shrink_by_what_is_not_known():
    z = normal(12, 30, seed=6)  # independent: no correlation is real
    centred = z - z.mean(0)
    covariance, share = shrunk_covariance(centred)
    assert share > 0.5
    assert torch.allclose(covariance.diagonal(), centred.square().sum(0) / 11)
    assert float(torch.linalg.eigvalsh(covariance)[0]) > 0  # of 30 data, from 12 draws
    # The share by its definition, entry by entry.
    w = centred / covariance.diagonal().sqrt()
    products = w[:, :, None] * w[:, None]
    variance = 12 / 11**3 * (products - products.mean(0)).square().sum(0)
    off = ~torch.eye(30, dtype=torch.bool)
    correlation = products.sum(0) / 11
    assert share == pytest.approx(float(variance[off].sum() / correlation[off].square().sum()), rel=1e-12)
    one = torch.linspace(-1, 1, 12, dtype=F64)[:, None]
    alike, nothing = shrunk_covariance(torch.cat([one, 2 * one, 0 * one], 1))  # one datum without an error
    assert nothing < 0.2 and not alike[2].any() and not alike[:, 2].any()
    assert shrunk_covariance(one)[1] == 0.0


def test_the_covariance_allows_for_the_mean_that_is_estimated():
    n = 20
    error = shrunk_by(n)
    e = PRIOR.sample(n, seed=4) @ WRONG.mT
    assert torch.allclose(error.covariance_matrix.diagonal(), (1 + 1 / n) * e.var(0))


def test_it_adds_to_the_noise():
    error = shrunk_by(30)
    C = error.covariance_matrix
    eye = torch.eye(M, dtype=F64)
    assert torch.allclose((iv.noise.Gaussian(0.5) + error).covariance, C + 0.25 * eye)
    each = torch.arange(1.0, M + 1, dtype=F64)
    assert torch.allclose((iv.noise.Gaussian(each) + error).covariance, C + torch.diag(each**2))
    assert torch.allclose((iv.noise.Gaussian(covariance=OF_ERROR + eye) + error).covariance, C + OF_ERROR + eye)
    both = iv.noise.Gaussian(0.5) + error + iv.noise.Discrepancy(1.0)
    assert torch.allclose(both.covariance, C + 1.25 * eye)
    unknown = iv.noise.Gaussian(iv.LogUniform(0.01, 1.0)) + error
    assert list(unknown.scalars) == ["std"]
    assert torch.allclose(unknown.known({"std": 0.5}).covariance, C + 0.25 * eye)
    wide = error.about_zero()
    assert torch.allclose(wide.covariance_matrix, C + torch.outer(error.mean, error.mean)) and not wide.mean.any()
    assert repr(error).startswith("SurrogateError((8,), mean 0.")


def closed_form(noise_covariance):
    """Gain and covariance of the posterior of the model y = B x + mean of the error + N(0, noise_covariance)."""
    gain = COV @ B.matrix.mT @ torch.linalg.inv(B.matrix @ COV @ B.matrix.mT + noise_covariance)
    return gain, COV - gain @ B.matrix @ COV


def coverage(noise_covariance):
    """The probability, over fields and data of the exact operator, that a 90 % interval holds the truth; mean of all."""
    gain, stated = closed_form(noise_covariance)
    missed = torch.eye(N, dtype=F64) - gain @ EXACT  # x - posterior mean = missed (x - MEAN) - gain n
    real = missed @ COV @ missed.mT + STD**2 * gain @ gain.mT
    ratio = (stated.diagonal() / real.diagonal()).sqrt()
    return float(torch.erf(1.6448536269514722 * ratio / math.sqrt(2)).mean())


def test_posterior_with_the_error_is_the_closed_form_and_covers_the_truth():
    error = shrunk_by(500)
    truth = PRIOR.sample(1, seed=9)
    y = A(truth)[0] + STD * normal(M, seed=10)
    total = error.covariance_matrix + STD**2 * torch.eye(M, dtype=F64)
    result = iv.solve(B, y - error.mean, PRIOR, noise=iv.noise.Gaussian(STD) + error)
    gain, covariance = closed_form(total)
    assert torch.allclose(result.mean, MEAN + gain @ (y - error.mean - B.matrix @ MEAN), atol=1e-10)
    assert torch.allclose(result.std, covariance.diagonal().sqrt(), atol=1e-10)
    without, exactly = coverage(STD**2 * torch.eye(M, dtype=F64)), coverage(OF_ERROR + STD**2 * torch.eye(M, dtype=F64))
    assert without < 0.8 and 0.88 < exactly < 0.96
    assert abs(coverage(total) - exactly) < 0.02


REFUSED = [
    (dict(surrogate=EXACT), InputTypeError, "`surrogate` must be an iv.operators.Operator"),
    (dict(exact="A"), InputTypeError, "`exact` must be an operator, or a tensor"),
    (dict(exact=iv.operators.Matrix(EXACT.mT)), InputError, r"`exact` must be an operator \(10,\) -> \(8,\)"),
    (dict(exact=torch.zeros(3, M)), InputError, r"`exact` must be of shape \(200, 8\), a row for each field"),
    (dict(prior=3), InputTypeError, "`prior` must be a prior with `sample`"),
    (dict(prior=torch.zeros(7, N)), InputError, "`prior` must be of at least 8 fields"),
    (dict(prior=torch.zeros(9, N), count=10), InputError, "`prior` must be of at least 10 fields"),
    (dict(count=7), InputError, "`count` must be at least 8"),
    (dict(seed=0.5), InputTypeError, "`seed` must be an integer"),
    (dict(prior=torch.full((9, N), torch.nan)), InputError, "`prior` must be finite"),
]


@pytest.mark.parametrize(("given", "error", "message"), REFUSED)
def test_refusals(given, error, message):
    with pytest.raises(error, match=message):
        iv.noise.surrogate_error(**{"surrogate": B, "exact": A, "prior": PRIOR, **given})


def test_refusals_of_operators():
    items = iv.operators.Matrix(EXACT.expand(3, M, N))
    with pytest.raises(InputError, match="one operator for all fields, got one with 3 items"):
        iv.noise.surrogate_error(items, A, PRIOR)
    with pytest.raises(InputError, match="with real data, got one with complex data"):
        iv.noise.surrogate_error(iv.operators.Matrix(EXACT + 0j), A, PRIOR)
    broken = iv.operators.from_callable(lambda x: x[:, :M] / 0.0, (N,), (M,))
    with pytest.raises(OperatorError, match=r"`exact\(x\)` must be finite.*x is a field of the prior"):
        iv.noise.surrogate_error(B, broken, PRIOR)
    with pytest.raises(InputError, match=r"`covariance_matrix` must be of shape \(2, 2\)"):
        iv.noise.SurrogateError(torch.zeros(2), torch.zeros(3, 3), 10, 0.0)
    error = shrunk_by(30)
    with pytest.raises(InputTypeError, match=r"iv.noise.Gaussian\(0.1\) \+ error"):
        0.1 + error
    with pytest.raises(InputTypeError, match=r"iv.noise.Gaussian\(std\) \+ error"):
        iv.solve(B, torch.zeros(M, dtype=F64), PRIOR, noise=error)
    with pytest.raises(InputError, match="of as many data as the noise"):
        iv.noise.Gaussian(torch.ones(3)) + error
