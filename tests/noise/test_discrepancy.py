"""Model errors in the noise: sums of covariances written out, inferred sizes against quadrature, coverage, `check`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import gamma, kv

import invsolve as iv
from invsolve.core.matern import matern_correlation
from invsolve.core.random import Draws
from invsolve.errors import InputError, InputTypeError, UnsupportedError

F64 = torch.float64
Gaussian, Discrepancy = iv.noise.Gaussian, iv.noise.Discrepancy
TIMES = torch.tensor([0.0, 0.1, 0.25, 0.7, 1.2], dtype=F64)


def matern(points, length, nu):
    """From its definition, by scipy's Bessel function."""
    r = np.linalg.norm(points[:, None] - points, axis=-1)
    s = np.sqrt(8 * nu) * np.where(r > 0, r, 1.0) / length
    return np.where(r > 0, 2 ** (1 - nu) / gamma(nu) * s**nu * kv(nu, s), 1.0)


@pytest.mark.parametrize("nu", [0.5, 0.8, 1.5, 2.5, 4.0])
@pytest.mark.parametrize("d", [1, 2])
def test_the_covariance_of_a_sum(nu, d):
    points = np.random.default_rng(0).uniform(size=(6, d))
    noise = Gaussian(0.1) + Discrepancy(0.5, length=0.4, points=points[:, 0] if d == 1 else points, smoothness=nu)
    assert isinstance(noise, Gaussian)
    expected = 0.01 * np.eye(6) + 0.25 * matern(points, 0.4, nu)
    np.testing.assert_allclose(noise.covariance, expected, atol=1e-12)
    assert float(matern_correlation(torch.tensor([0.4]), 0.4, nu)) == pytest.approx(0.14, abs=0.04)


def test_points_of_a_grid_are_those_of_the_flattened_data():
    grid = iv.CartesianGrid((2, 3), extent=(1.0, 3.0))
    points = np.stack(np.meshgrid(*grid.axes, indexing="ij"), -1).reshape(-1, 2)
    a = Gaussian(0.1) + Discrepancy(0.5, length=0.4, points=grid)
    b = Gaussian(0.1) + Discrepancy(0.5, length=0.4, points=points)
    assert torch.equal(a.covariance, b.covariance)


def test_sums_of_independent_noises():
    C = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=F64))
    each = torch.tensor([0.1, 0.2, 0.3])
    assert (Gaussian(3.0) + Gaussian(4.0)).std == 5.0
    assert (Gaussian(3.0) + Discrepancy(4.0)).std == (Discrepancy(4.0) + Gaussian(3.0)).std == 5.0
    assert torch.allclose((Gaussian(each) + Discrepancy(0.4)).std, (each**2 + 0.16).sqrt())
    assert torch.allclose((Gaussian(covariance=C) + Gaussian(2.0)).covariance, C + 4 * torch.eye(3, dtype=F64))
    assert torch.allclose((Gaussian(2.0) + Gaussian(covariance=C)).covariance, C + 4 * torch.eye(3, dtype=F64))
    assert torch.allclose((Gaussian(covariance=C) + Gaussian(covariance=C)).covariance, 2 * C)
    assert torch.allclose((Gaussian(covariance=C) + Discrepancy(2.0)).covariance, C + 4 * torch.eye(3, dtype=F64))
    assert torch.allclose((Gaussian(each) + Gaussian(covariance=C)).covariance, C + torch.diag(each.double() ** 2))
    two = Gaussian(0.1) + Discrepancy(0.5, length=0.4, points=TIMES) + Discrepancy(0.2, length=0.1, points=TIMES)
    first, second = (matern(TIMES.numpy()[:, None], length, 1.5) for length in (0.4, 0.1))
    np.testing.assert_allclose(two.covariance, 0.01 * np.eye(5) + 0.25 * first + 0.04 * second, atol=1e-12)


def test_what_is_unknown_has_a_name_and_the_rest_its_value():
    law, other = iv.LogNormal(0.1, 2.0), iv.LogUniform(0.1, 1.0)
    noise = Gaussian(law) + Discrepancy(0.5, length=other, points=TIMES) + Discrepancy(law)
    assert noise.unknown
    assert noise.scalars == {"std": law, "discrepancy.length": other, "discrepancy2.std": law}
    known = noise.known({"std": 0.2, "discrepancy.length": 0.3, "discrepancy2.std": 0.4})
    expected = 0.2 * np.eye(5) + 0.25 * matern(TIMES.numpy()[:, None], 0.3, 1.5)
    np.testing.assert_allclose(known.covariance, expected, atol=1e-12)
    white = Gaussian(0.3) + Discrepancy(law)
    assert white.known({"discrepancy.std": 0.4}).std == 0.5
    C = torch.diag(torch.tensor([1.0, 2.0], dtype=F64))
    dense = Gaussian(covariance=C) + Discrepancy(law)
    assert torch.allclose(dense.known({"discrepancy.std": 2.0}).covariance, C + 4 * torch.eye(2, dtype=F64))
    for unresolved in (noise, dense):
        with pytest.raises(UnsupportedError, match=r"not known.*noise.known\(\{'"):
            unresolved.log_prob(torch.zeros(1, 2), torch.zeros(1, 2))
    A = iv.operators.Matrix(torch.eye(5, dtype=F64))
    assert "discrepancy2.std, LogNormal" in str(iv.Problem(A, torch.zeros(5, dtype=F64), noise=noise))


def test_simulated_data_have_the_covariance():
    noise = Gaussian(0.2) + Discrepancy(0.5, length=0.4, points=TIMES)
    n = 20_000
    draws = Draws.for_rows(0, [0] * n, list(range(n)), torch.device("cpu"))
    y = noise.sample(torch.zeros(n, 5, dtype=F64), draws)
    C = noise.covariance
    se = ((C.square() + torch.outer(C.diagonal(), C.diagonal())) / n).sqrt()
    assert bool(((y.mT @ y / n - C).abs() < 5 * se).all())


EACH = torch.tensor([0.1, 0.2, 0.3])


def test_refusals():
    law = iv.LogNormal(0.1, 2.0)
    for arguments in ({"std": 0.0}, {"std": 1.0, "length": -1.0, "points": TIMES}, {"std": 1.0, "smoothness": 0.0}):
        with pytest.raises(InputError, match="must be positive"):
            Discrepancy(**arguments)
    with pytest.raises(InputError, match="distribution of positive numbers"):
        Discrepancy(iv.Normal(0.0, 1.0))
    with pytest.raises(InputTypeError, match="`smoothness` must be a number"):
        Discrepancy(1.0, smoothness=law)
    with pytest.raises(InputError, match="`length` must be given with the points"):
        Discrepancy(1.0, length=0.3)
    with pytest.raises(InputError, match="points without a length"):
        Discrepancy(1.0, points=TIMES)
    with pytest.raises(InputError, match=r"`points` must be of shape \(m,\) or \(m, d\)"):
        Discrepancy(1.0, length=0.3, points=torch.zeros(2, 2, 2))
    with pytest.raises(InputTypeError, match=r"with Gaussian noise.*iv.noise.Gaussian\(0.1\) \+"):
        0.1 + Discrepancy(1.0)
    with pytest.raises(InputTypeError, match="with Gaussian noise"):
        iv.noise.Poisson(counts_per_unit=1.0) + Discrepancy(1.0)
    with pytest.raises(TypeError, match="unsupported operand"):
        Gaussian(1.0) + 3
    with pytest.raises(InputError, match="`std` must be a number in a sum"):
        Gaussian(law) + Gaussian(0.1)
    with pytest.raises(InputError, match="of the same data"):
        Gaussian(law) + Discrepancy(1.0, length=0.3, points=TIMES) + Discrepancy(1.0, length=0.3, points=TIMES[:3])
    with pytest.raises(InputError, match="as many data as the noise.*covariance of 2"):
        Gaussian(covariance=torch.eye(2)) + Discrepancy(1.0, length=0.3, points=TIMES)
    with pytest.raises(InputError, match="std of 2.*std for every item"):
        Gaussian(torch.ones(2, 1)) + Discrepancy(1.0, length=0.3, points=TIMES)
    # Sums that torch would broadcast, or refuse in its own words.
    wide, pair = Gaussian(covariance=torch.eye(3)), Gaussian(torch.ones(2))
    for one, two in ((Gaussian(covariance=torch.eye(1)), wide), (wide, pair), (pair, wide), (pair, Gaussian(EACH))):
        with pytest.raises(InputError, match="`noise \\+ other` must be of the same data"):
            one + two
    assert (Gaussian(EACH) + Gaussian(torch.ones(4, 3))).std.shape == (4, 3)  # items of one std, and of their own
    for std in (torch.ones(2), torch.ones(1, 1)):
        with pytest.raises(InputError, match=r"`noise.std` must be of shape \(3,\) beside a discrepancy"):
            iv.Problem(iv.operators.Identity((3,)), torch.zeros(1, 3), Gaussian(std) + Discrepancy(law))
    with pytest.raises(InputTypeError, match="`discrepancy` must be a tuple of"):
        Gaussian(0.1, discrepancy=(0.1,))
    A, prior = iv.operators.Identity(), iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3))
    with pytest.raises(InputTypeError, match=r"solve: `noise`.*Add it to the noise of the instrument"):
        iv.solve(A, [0.0, 0.0, 0.0], prior, noise=Discrepancy(0.1))
    with pytest.raises(InputError, match="`noise.discrepancy` must be with the points of all 3 data"):
        iv.solve(A, [0.0, 0.0, 0.0], prior, noise=Gaussian(0.1) + Discrepancy(law, length=0.3, points=TIMES))
    with pytest.raises(InputError, match=r"`noise.covariance` must be of shape \(3, 3\)"):
        iv.solve(A, [0.0, 0.0, 0.0], prior, noise=Gaussian(0.1) + Discrepancy(0.1, length=0.3, points=TIMES))


# --- inference ------------------------------------------------------------------------------------------------------
def problem(items=1):
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(5, 4, dtype=F64, generator=generator) / 2
    prior = iv.priors.GaussianPrior(torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64))
    x = torch.randn(items, 4, dtype=F64, generator=generator)
    noise = Gaussian(0.2) + Discrepancy(0.6, length=0.3, points=TIMES)
    root = torch.linalg.cholesky(noise.covariance)
    y = x @ matrix.mT + torch.randn(items, 5, dtype=F64, generator=generator) @ root.mT
    return matrix, prior, y


def quadrature(matrix, y, laws, points=120):
    """Of one item: means and stds of the scalars, mean and std of the signal."""
    levels = (torch.arange(points, dtype=F64) + 0.5) / points
    axes = [law.quantile(levels).numpy() for law in laws.values()]
    logs, means, variances, thetas = [], [], [], []
    for values in np.array(np.meshgrid(*axes, indexing="ij")).reshape(len(axes), -1).T:
        named = {"std": 0.2, "discrepancy.std": 0.6, "discrepancy.length": 0.3} | dict(zip(laws, values, strict=True))
        K = torch.from_numpy(matern(TIMES.numpy()[:, None], named["discrepancy.length"], 1.5))
        R = named["std"] ** 2 * torch.eye(5, dtype=F64) + named["discrepancy.std"] ** 2 * K
        S = matrix @ matrix.mT + R
        logs.append(torch.distributions.MultivariateNormal(torch.zeros(5, dtype=F64), S).log_prob(y))
        gain = matrix.mT @ torch.linalg.inv(S)
        means.append(gain @ y)
        variances.append((torch.eye(4, dtype=F64) - gain @ matrix).diagonal())
        thetas.append(values)
    w = torch.softmax(torch.stack(logs), 0)
    thetas, means, variances = torch.from_numpy(np.array(thetas)), torch.stack(means), torch.stack(variances)
    scalar, mean = w @ thetas, w @ means
    spread = (w @ thetas.square() - scalar.square()).sqrt()
    return scalar, spread, mean, (w @ (variances + means.square()) - mean.square()).sqrt()


LAWS = {
    "std": iv.LogNormal(0.2, 1.5),
    "discrepancy.std": iv.LogUniform(0.05, 3.0),
    "discrepancy.length": iv.LogUniform(0.1, 1.0),
}


def made(names):
    given = {"std": 0.2, "discrepancy.std": 0.6, "discrepancy.length": 0.3} | {name: LAWS[name] for name in names}
    return Gaussian(given["std"]) + Discrepancy(
        given["discrepancy.std"], length=given["discrepancy.length"], points=TIMES
    )


@pytest.mark.parametrize(
    "names",
    [("discrepancy.std",), ("discrepancy.length",), pytest.param(("std", "discrepancy.std"), marks=pytest.mark.slow)],
)
def test_its_size_is_inferred_as_by_quadrature(names):
    matrix, prior, y = problem(items=2)
    result = iv.solve(iv.operators.Matrix(matrix), y, prior, noise=made(names), num_samples=400, seed=0)
    for item in range(2):
        laws = {name: LAWS[name] for name in names}
        scalar, spread, mean, std = quadrature(matrix, y[item], laws, points=300 if len(names) == 1 else 40)
        for i, name in enumerate(names):
            found = result[f"noise.{name}"]
            assert float(found.mean[item]) == pytest.approx(float(scalar[i]), abs=0.02 * float(spread[i]))
            assert float(found.std[item]) == pytest.approx(float(spread[i]), rel=0.02)
        assert bool(((result.samples[:, item].mean(0) - mean).abs() < 5 * std / 20).all())
        assert bool(((result.samples[:, item].std(0) / std - 1).abs() < 5 / 800**0.5).all())


@pytest.mark.slow
def test_gibbs_sweeps_agree_with_quadrature():
    matrix, prior, y = problem()
    names = ("std", "discrepancy.std")
    hierarchy = iv.Hierarchy(method="gibbs", num_sweeps=6)
    result = iv.solve(
        iv.operators.Matrix(matrix), y[0], prior, noise=made(names), num_samples=30, seed=0, hierarchy=hierarchy
    )
    scalar, spread, mean, std = quadrature(matrix, y[0], {name: LAWS[name] for name in names}, points=60)
    for i, name in enumerate(names):
        # Chains are independent: five standard errors of the mean.
        found = result[f"noise.{name}"].samples
        assert float(found.mean()) == pytest.approx(float(scalar[i]), abs=5 * float(spread[i]) / 30**0.5)
    assert bool(((result.samples.mean(0) - mean).abs() < 5 * std / 30**0.5).all())


@pytest.mark.parametrize("strategy", [iv.strategies.MMPS(), iv.strategies.NoiseMCMC(num_steps=60)])
def test_strategies_take_the_sum_as_any_correlated_noise(strategy):
    matrix, prior, y = problem()
    noise = made(())
    A = iv.operators.Matrix(matrix)
    exact = prior.posterior(A, y, noise)
    result = iv.solve(A, y, prior, noise=noise, strategy=strategy, num_samples=500, seed=0)
    gap = (result.mean - exact.mean).abs() / exact.std
    assert float(gap.max()) < 10 / 500**0.5


# --- data that are not the solver's own -----------------------------------------------------------------------------
def advection_diffusion(n, scheme, epsilon=0.05):
    """``f -> u`` at n inner nodes of ``-epsilon u'' + u' = f``, u = 0 at both walls."""
    h, upwind = 1 / (n + 1), scheme == "upwind"
    lower = -epsilon / h**2 - (1.0 if upwind else 0.5) / h
    upper = -epsilon / h**2 + (0.0 if upwind else 0.5) / h
    diagonal = -lower - upper
    system = np.diag(np.full(n, diagonal)) + np.diag(np.full(n - 1, lower), -1) + np.diag(np.full(n - 1, upper), 1)
    return torch.from_numpy(np.linalg.inv(system))


@pytest.fixture(scope="module")
def mismatch():
    """Sources on a grid twice as fine, solved by central differences; the operator is upwind on the coarse one."""
    n, items, std = 31, 200, 3e-3
    grid = iv.CartesianGrid((n,), points="interior")
    prior = iv.priors.GaussianFieldPrior(grid, iv.priors.Matern(1.0, 0.4, smoothness=2.0), dtype=F64)
    fine = prior.on((2 * n + 1,)).sample(items, seed=0)
    sensors = torch.arange(1, n, 2)
    y = (fine @ advection_diffusion(2 * n + 1, "central").mT)[:, 1::2][:, sensors]
    y = y + std * torch.randn(y.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    A = iv.operators.Matrix(advection_diffusion(n, "upwind")[sensors])
    return A, y, prior, std, fine[:, 1::2], torch.from_numpy(grid.axes[0])[sensors]


def covered(result, truth):
    low, high = result.interval(0.9)[:2]
    return float(((low <= truth) & (truth <= high)).double().mean())


@pytest.mark.slow
def test_the_truth_of_a_finer_grid_and_another_scheme_is_covered_with_the_discrepancy_only(mismatch):
    A, y, prior, std, truth, points = mismatch
    plain = iv.solve(A, y, prior, noise=std, num_samples=99, seed=0)
    assert covered(plain, truth) < 0.75  # 0.9 is claimed
    noise = Gaussian(std) + Discrepancy(iv.LogUniform(1e-4, 1.0), length=1.0, points=points)
    result = iv.solve(A, y, prior, noise=noise, num_samples=99, seed=0)
    # 200 truths of some four independent values each: a standard error of 0.009 was measured.
    assert 0.85 <= covered(result, truth) <= 0.95
    error = [float((r.mean - truth).square().mean().sqrt()) for r in (result, plain)]
    assert error[0] < 0.7 * error[1]


@pytest.mark.slow
def test_check_complains_where_it_is_left_out(mismatch):
    A, y, prior, std, _, points = mismatch
    report = iv.solve(A, y[:3], prior, noise=std, num_samples=99, seed=0).check()
    assert not report.passed
    noise = Gaussian(std) + Discrepancy(iv.LogUniform(1e-4, 1.0), length=1.0, points=points)
    assert iv.solve(A, y[:3], prior, noise=noise, num_samples=99, seed=0).check().passed
