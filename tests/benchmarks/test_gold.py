"""The gold standards of benchmarks/exactness.py against enumeration and quadrature, where these are possible."""

from __future__ import annotations

import itertools
import math

import _gold
import pytest
import torch
from _exactness_problems import LAWS, banana, mixture_problems, nonlinear_problems, sparse_problems
from _exactness_scores import errors
from _gold import Chains, Gold, cached
from _gold_curved import Curved, funnel, hmc, plane, product
from _gold_sparse import Law, all_supports, basis, gibbs

D = torch.float64
SIX = (
    6  # standard errors: over some hundred comparisons, of errors that are themselves estimates from 16 chains or more
)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def density(law, c):
    if law.family == "laplace":
        return -c.abs() / law.scale
    return -(law.dof + 1) / 2 * torch.log1p((c / law.scale) ** 2 / law.dof)


def agrees(gold, mean, std):
    """The largest errors are within six of the largest standard errors (which are at least the component's own)."""
    assert float(((gold.mean - mean) / std).abs().max()) < SIX * gold.mean_error
    assert float((gold.std / std - 1).abs().max()) < SIX * gold.std_error
    assert gold.mean_error < 0.02 and gold.std_error < 0.03 and gold.rhat < 1.02  # else the test says nothing


@pytest.mark.parametrize("law", [Law(family="laplace", scale=0.7), Law(family="student", scale=0.6, dof=3.0)])
def test_continuous_coefficients_against_quadrature_in_the_plane(law):
    T, A, noise = basis("haar", (2,)), torch.tensor([[1.0, 0.4]], dtype=D), 0.3
    y = torch.tensor([1.2], dtype=D)
    axis = torch.linspace(-60, 60, 6001, dtype=D)
    axis = torch.sinh(axis / 12) * 0.9  # dense at zero, where the Laplace density has its edge; out to 67
    weight = torch.gradient(axis)[0]
    points = torch.cartesian_prod(axis, axis[::3])
    weight = (weight[:, None] * torch.gradient(axis[::3])[0]).flatten()
    x = points @ T
    log = density(law, points).sum(1) - (x @ A.mT - y).square().sum(1) / (2 * noise**2) + weight.log()
    p = torch.softmax(log, 0)
    mean = p @ x
    std = (p @ (x - mean).square()).sqrt()
    agrees(gibbs(A, y, noise, T, law, seed=1, effort=0.5), mean, std)


@pytest.mark.parametrize("spike", [0.0, 0.1])
@pytest.mark.parametrize("tempered", [False, True])
def test_supports_against_all_256(spike, tempered):
    law = Law(family="spike-slab", scale=1.5, spike=spike, weight=0.3)
    T, A, noise = basis("dct", (8,)), normal(5, 8, seed=1), 0.4
    c = torch.tensor([1.5, 0, 0, -2, 0, 0, 1, 0], dtype=D)
    y = A @ (c @ T) + noise * normal(5, seed=2)
    K = A @ T.mT
    logs, means, seconds = [], [], []
    for on in itertools.product([0.0, 1.0], repeat=8):
        gamma = torch.tensor(on, dtype=D)
        variance = gamma * law.scale**2 + (1 - gamma) * spike**2
        S = (K * variance) @ K.mT + noise**2 * torch.eye(5, dtype=D)
        gain = torch.linalg.solve(S, K * variance).mT
        cov = T.mT @ (torch.diag(variance) - gain @ (K * variance)) @ T
        m = (gain @ y) @ T
        logs.append(gamma.sum() * math.log(0.3 / 0.7) - 0.5 * (torch.logdet(S) + y @ torch.linalg.solve(S, y)))
        means.append(m)
        seconds.append(cov.diagonal() + m**2)
    p = torch.softmax(torch.stack(logs), 0)
    mean = p @ torch.stack(means)
    std = (p @ torch.stack(seconds) - mean**2).sqrt()
    gold = gibbs(A, y, noise, T, law, seed=3, effort=0.35, tempered=tempered)
    agrees(gold, mean, std)
    exact = all_supports(A, y, noise, T, law, seed=3)
    assert torch.allclose(exact.mean, mean, atol=1e-10) and torch.allclose(exact.std, std, rtol=1e-9)
    draws = exact.samples
    assert float(((draws.mean(0) - mean) / std).abs().max()) < SIX / len(draws) ** 0.5
    kurtosis = ((draws - mean) ** 4).mean(0) / std**4
    assert bool(((draws.std(0) / std - 1).abs() < SIX * ((kurtosis - 1) / (4 * len(draws))).sqrt()).all())
    draws = gold.samples  # the draws are of the same law as the moments; neighbours in a chain are not independent
    assert float(((draws.mean(0) - mean) / std).abs().max()) < 0.15
    assert float((draws.std(0) / std - 1).abs().max()) < 0.15


@pytest.mark.slow
def test_hmc_against_quadrature_of_a_banana():
    R, bend, noise, y = torch.eye(2, dtype=D), 1.0, 0.3, torch.tensor([-0.5], dtype=D)
    problem = Curved(
        f=lambda x: x[:, 1:] - bend * x[:, :1] ** 2, y=y, noise=noise, mean=torch.zeros(2, dtype=D), root=R
    )
    grid = plane(lambda p: (p[:, 1] - bend * p[:, 0] ** 2 - y[0]) ** 2 / (2 * noise**2), torch.zeros(2, dtype=D))
    mean, cov = grid.moments
    agrees(hmc(problem, seed=1, chains=64, sweeps=300), mean, cov.diagonal().sqrt())


@pytest.mark.slow
def test_hmc_with_mirror_moves_against_quadrature_of_phase_retrieval():
    A, centre, noise = normal(4, 2, seed=5), torch.tensor([0.6, -0.2], dtype=D), 0.3
    y = (A @ torch.tensor([1.0, 0.5], dtype=D)).square()
    problem = Curved(
        f=lambda x: (x @ A.mT).square(), y=y, noise=noise, mean=centre, root=torch.eye(2, dtype=D), even=True
    )
    grid = plane(lambda p: ((p @ A.mT).square() - y).square().sum(1) / (2 * noise**2), centre)
    mean, cov = grid.moments
    gold = hmc(problem, seed=1, chains=64, sweeps=300)
    agrees(gold, mean, cov.diagonal().sqrt())
    # moments are averages over {x, -x}: the signs of the draws, which are close to independent, are seen here alone
    assert float(((gold.samples.mean(0) - mean) / gold.std).abs().max()) < SIX / len(gold.samples) ** 0.5


def test_funnel_against_quadrature_in_the_plane():
    y, noise = torch.tensor([0.8], dtype=D), 0.4
    gold = funnel(y, noise, torch.eye(2, dtype=D), 0)
    grid = plane(lambda p: ((p[:, 0] / 2).exp() * p[:, 1] - y[0]) ** 2 / (2 * noise**2), torch.zeros(2, dtype=D))
    mean, cov = grid.moments
    assert torch.allclose(gold.mean, mean, atol=1e-6)  # both rules converge faster than any power of the step
    assert torch.allclose(gold.std, cov.diagonal().sqrt(), atol=1e-6)
    assert float(((gold.samples.mean(0) - mean) / gold.std).abs().max()) < SIX / len(gold.samples) ** 0.5


def test_plane_does_not_depend_on_its_nodes():
    def misfit(p):
        return (p[:, 1] - 1.5 * p[:, 0] ** 2) ** 2 / (2 * 0.05**2)

    (m1, c1), (m2, c2) = (plane(misfit, torch.zeros(2, dtype=D), nodes=n).moments for n in (801, 1201))
    assert torch.allclose(m1, m2, atol=1e-6) and torch.allclose(c1, c2, atol=1e-6)


def test_product_turns_moments():
    R = torch.linalg.qr(normal(4, 4))[0]
    part = plane(lambda p: (p[:, 0] - 1) ** 2, torch.zeros(2, dtype=D))  # N(2/3, 1/3) and N(0, 1)
    gold = product([part, part], R, 0)
    z = torch.tensor([2 / 3, 0, 2 / 3, 0], dtype=D)
    cov = torch.diag(torch.tensor([1 / 3, 1, 1 / 3, 1], dtype=D))
    assert torch.allclose(gold.mean, R @ z, atol=1e-9)
    assert torch.allclose(gold.std, (R @ cov @ R.mT).diagonal().sqrt(), atol=1e-9)


def test_mixture_against_the_packages_closed_form():
    """Two programs: singular values there, Kalman's update here."""
    problem = mixture_problems()[6]
    second = problem.prior.posterior(problem.operator, problem.data, problem.noise)
    assert len(problem.gold.weights) > 1
    assert torch.allclose(problem.gold.mean, second.mean[0], atol=1e-9)
    assert torch.allclose(problem.gold.std, second.std[0], atol=1e-9)
    assert torch.allclose(problem.gold.weights, second.weights[0], atol=1e-9)


def test_chains_know_their_error():
    """AR(1) chains of known autocorrelation: the stated standard error is the true one to its own 30 %."""
    rho, n, chains = 0.8, 2000, 40
    out, x = Chains(chains, 1), normal(chains, 1, seed=1)
    for k in range(n):
        x = rho * x + (1 - rho**2) ** 0.5 * normal(chains, 1, seed=2 + k)
        out.add(x, int(k >= n // 2))
    gold = out.gold("")
    true = ((1 + rho) / (1 - rho) / (n * chains)) ** 0.5
    assert gold.mean_error == pytest.approx(true, rel=3 * (2 * (chains - 1)) ** -0.5)  # three s.e. of a std of 40
    assert abs(float(gold.mean)) < SIX * true
    assert 1 <= gold.rhat < 1.03  # about 1 + 9 / (2 n): the halves have 111 effective draws


def test_separated_chains_are_noticed():
    out = Chains(8, 1)
    for k in range(100):
        out.add(normal(8, 1, seed=k) + torch.tensor([[0.0], [3.0]], dtype=D).repeat(4, 1), int(k >= 50))
    gold = out.gold("")
    assert gold.rhat > 1.5 and gold.gap_mean > 1


def test_cache_returns_what_was_made(tmp_path, monkeypatch):
    monkeypatch.setenv("INVSOLVE_GOLD", str(tmp_path))
    calls = []

    def make():
        calls.append(1)
        return Gold(mean=normal(3), std=normal(3).abs(), samples=normal(5, 3), how="by hand", rhat=1.25)

    first, second = cached("a", "key", make), cached("a", "key", make)
    assert len(calls) == 1 and second.how == "by hand" and second.rhat == 1.25 and second.weights is None
    assert torch.equal(first.mean, second.mean) and torch.equal(first.samples, second.samples)
    cached("a", "another key", make)
    assert len(calls) == 2


@pytest.mark.parametrize("problem", sparse_problems(), ids=lambda p: p.name)
def test_matrices_are_the_operators_and_bases_the_priors(problem):
    x = normal(3, *problem.shape)
    y = problem.operator(x)
    y = torch.cat([y.real, y.imag], 1) if y.is_complex() else y
    assert torch.allclose(y.flatten(1), x.flatten(1) @ problem.matrix.mT, atol=1e-12)
    T = basis(problem.prior.transform, problem.shape)
    assert torch.allclose(T @ T.mT, torch.eye(problem.d, dtype=D), atol=1e-12)
    # the prior's density of x is that of the coefficients T x: shifting one coefficient changes its own term alone
    c = normal(2, problem.d, seed=1)
    log = problem.prior.log_prob((c @ T).view(2, *problem.shape), 0.3)
    one = problem.prior.coefficients.moments(c, torch.tensor(0.3, dtype=D))[0].sum(1)
    assert torch.allclose(log, one, atol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_laws_are_the_packages(name):
    """Draws of the law here have the cumulative moments of the package's: variance to five standard errors."""
    from _exactness_problems import _draw, coefficients

    law, n = LAWS[name], 400_000
    c = _draw(law, n, torch.Generator().manual_seed(0))
    clipped = c.clamp(-4, 4)  # bounded, so that its moments have standard errors even for three degrees of freedom
    z, w = normal(n, seed=1), normal(n, seed=2)
    other = coefficients(law).sample(z, w).clamp(-4, 4)
    for power in (2, 4):
        a, b = clipped**power, other**power
        assert abs(float(a.mean() - b.mean())) < 5 * float((a.var() / n + b.var() / n).sqrt())


def test_pressure_solves_its_equation():
    """Against a finite-volume solve with the same cells: fluxes over half cells of either side in series."""
    from _exactness_problems import pressure

    n, u = 16, normal(1, 16)
    k = u[0].exp()
    # unknowns: faces 1..n-1 and cell centres; flux continuity at faces, balance in half cells, on a mesh of halves
    m = 2 * n
    kappa = k.repeat_interleave(2) * m  # conductance of a half cell
    matrix = torch.diag(kappa[:-1] + kappa[1:]) - torch.diag(kappa[1:-1], 1) - torch.diag(kappa[1:-1], -1)
    p = torch.linalg.solve(matrix, torch.full((m - 1,), 1 / m, dtype=D))  # nodes of linear elements: exact in 1-D
    assert torch.allclose(pressure(u, torch.arange(1, n))[0], p[1::2], atol=1e-12)


def test_scores_of_gold_draws_pass_and_of_wrong_ones_do_not():
    problem = mixture_problems()[4]
    x = problem.gold.samples
    assert errors(problem, x).mean < 0.1 and errors(problem, x).weight < 0.05
    sd = problem.gold.std
    assert errors(problem, x + 0.2 * sd).mean == pytest.approx(0.2, abs=0.08)
    spread = errors(problem, problem.gold.mean + 1.3 * (x - problem.gold.mean))
    assert spread.std_min > 1.2 and not spread.passed("mixtures")
    half = torch.arange(len(x)) < len(x) // 2  # weights leave the second half out
    weights = half.double() / half.sum()
    weighted, alone = errors(problem, torch.where(half[:, None], x, 100.0), weights).mean, errors(problem, x[half]).mean
    assert weighted == pytest.approx(alone, rel=1e-10)  # sums in another order
    holes = x.clone()
    holes[::3] = math.nan
    assert math.isfinite(errors(problem, holes).mean)
    assert math.isnan(errors(problem, holes[::3]).mean) and not errors(problem, holes[::3]).passed("mixtures")


def test_problems_are_what_the_lists_promise(tmp_path, monkeypatch):
    monkeypatch.setattr(_gold, "folder", lambda: tmp_path)
    assert len(mixture_problems()) == 30 and len(sparse_problems()) >= 12 and len(nonlinear_problems()) >= 10
    names = [p.name for p in (*mixture_problems(), *sparse_problems(), *nonlinear_problems())]
    assert len(set(names)) == len(names)
    problem = banana(4, 0.5, 0.3, 1)
    again = banana(4, 0.5, 0.3, 1)
    assert torch.equal(problem.data, again.data) and problem.gold.mean.shape == (4,)
