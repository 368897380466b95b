"""Data that are not linear in the signal: damped steps, and what they are worth against chains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.gaussian.law import DenseModes
from invsolve.strategies.choice import candidates as choice
from invsolve.strategies.choice.candidates import candidates, guidance_for
from invsolve.strategies.guidance import gauss_newton as module
from invsolve.strategies.guidance.gauss_newton import gauss_newton

D = torch.float64


def modes(n: int = 1) -> DenseModes:
    return DenseModes((n,), torch.eye(n, dtype=D))


@pytest.mark.parametrize(
    ("curve", "y"), [(lambda x: x + 0.3 * x**3, 1.5), (lambda x: torch.exp(2 * x), 9.0), (torch.atan, 1.4)]
)
def test_it_ends_at_the_most_probable_signal(curve, y):
    """Against a search on a fine lattice; a full step of the arc tangent from afar goes further away."""
    value, variance, std = torch.tensor([[-1.5], [0.2]], dtype=D), torch.tensor([4.0], dtype=D), 0.1
    problem = iv.Problem(
        iv.operators.from_callable(curve, (1,), (1,), dtype=D), torch.tensor([[y], [y]], dtype=D), noise=std
    )
    found = gauss_newton(problem, modes(), value, variance, 60, tol=1e-12, max_iter=10)
    lattice = torch.linspace(-8, 12, 400001, dtype=D)
    for row in range(2):
        cost = (lattice - value[row]) ** 2 / 8 + (y - curve(lattice)) ** 2 / (2 * std**2)
        assert abs(float(found[row]) - float(lattice[cost.argmin()])) < 2e-2  # a thousandth of a nat


def test_no_step_makes_a_row_less_probable_and_rows_are_alone():
    curve = iv.operators.from_callable(torch.atan, (1,), (1,), dtype=D)
    y = torch.full((3, 1), 1.45, dtype=D)
    problem = iv.Problem(curve, y, noise=0.02)
    value, variance = torch.tensor([[-3.0], [0.5], [6.0]], dtype=D), torch.tensor([9.0], dtype=D)

    def cost(x: Tensor) -> Tensor:
        return ((x - value) ** 2 / 18 + (y - torch.atan(x)) ** 2 / (2 * 0.02**2))[:, 0]

    last = cost(value)
    for iterations in range(1, 8):
        x = gauss_newton(problem, modes(), value, variance, iterations, tol=1e-12, max_iter=10)
        now = cost(x)
        assert bool((now <= last + 1.1e-3).all())
        last = now
        alone = gauss_newton(
            problem.take(torch.tensor([1])), modes(), value[1:2], variance, iterations, tol=1e-12, max_iter=10
        )
        assert torch.allclose(alone, x[1:2], atol=1e-12)


def test_where_the_operator_is_no_number_the_row_stays():
    curve = iv.operators.from_callable(torch.log, (1,), (1,), dtype=D)
    problem = iv.Problem(curve, torch.tensor([[-20.0]], dtype=D), noise=0.1)
    value = torch.ones(1, 1, dtype=D)
    x = gauss_newton(problem, modes(), value, torch.tensor([1e3], dtype=D), 5, tol=1e-12, max_iter=10)
    assert bool(x.isfinite().all()) and 0 < float(x) < 1


def test_linear_data_need_one_iteration():
    A, y = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=D), torch.ones(3, dtype=D)
    prior = iv.priors.GaussianPrior(torch.zeros(4, dtype=D), torch.eye(4, dtype=D) + 0.5)
    options = {"noise": 0.3, "num_samples": 3}
    one, three = (
        iv.solve(iv.operators.Matrix(A), y, prior, strategy=ivs.MMPS(iterations=k), **options).samples for k in (1, 3)
    )
    assert torch.equal(one, three)
    bent = iv.operators.from_callable(lambda x: x @ A.mT, (4,), (3,), dtype=D)
    damped = iv.solve(bent, y, prior, strategy=ivs.MMPS(iterations=3), **options).samples
    assert torch.allclose(damped, one, atol=1e-6)


def elliptic(n: int = 32, std: float = 2.0) -> tuple[iv.operators.Operator, iv.priors.Prior, Tensor, float]:
    """``-(e^z u')' = 1`` on (0, 1) with u = 0 at both ends, seen at 8 places with noise of 1 %; z is a field."""
    s = (torch.arange(n, dtype=D) + 0.5) / n
    at = torch.linspace(0, n - 2, 10)[1:-1].long()

    def solution(z: Tensor) -> Tensor:
        r = torch.exp(-z)
        flux = (s * r).sum(1, keepdim=True) / r.sum(1, keepdim=True) - s
        return (flux * r).cumsum(1)[:, at] / n

    A = iv.operators.from_callable(solution, (n,), (8,), dtype=D)
    rough = iv.priors.Matern(std=1.0, length=0.3, smoothness=1.0)
    field = iv.priors.Matern(std=std, length=0.5)
    prior = iv.priors.GaussianFieldPrior((n,), field, noise_spectrum=rough, dtype=D)
    clean = A(prior.sample(1, seed=0))
    noise = 0.01 * float(clean.square().mean().sqrt())
    y = clean + noise * torch.randn(1, 8, generator=torch.Generator().manual_seed(0), dtype=D)
    return A, prior, y[0], noise


@pytest.mark.slow
def test_three_iterations_where_one_is_not_enough():
    """A log-coefficient of std 2: the spread of one full step is several times that of converged chains."""
    A, prior, y, noise = elliptic()
    chains = iv.solve(A, y, prior, noise=noise, strategy=ivs.NoiseMCMC(chains=1024), num_samples=1000)
    n = 200

    def off(iterations: int) -> tuple[float, float]:
        r = iv.solve(A, y, prior, noise=noise, strategy=ivs.MMPS(iterations=iterations), num_samples=n, throw=False)
        x = r.samples[~r.failed]
        away = ((x.mean(0) - chains.mean) / chains.std).square().mean().sqrt()
        return float(away), float((x.std(0) / chains.std - 1).abs().max())

    one, three = off(1), off(3)
    assert one[1] > 1.0
    assert three[0] < 0.2 and three[1] < 0.25


def test_auto_takes_them_where_no_chain_fits(monkeypatch):
    """A Gaussian prior and data that are not linear: three iterations; any other prior has none to take."""
    A, prior, y, noise = elliptic()
    problem = iv.Problem(A, y, noise=noise)
    assert guidance_for(problem, prior).guidance.iterations == 3
    assert candidates(problem, prior, 4)[-1].strategy.guidance.iterations == 3
    assert candidates(problem, prior, 4, rows_alone=True)[0].strategy.guidance.iterations == 3
    linear = iv.Problem(iv.operators.Mask(torch.arange(32) < 3), torch.zeros(32, dtype=D), noise=noise)
    assert guidance_for(linear, prior).guidance.iterations == 1
    free = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(32,), scale=1.0, dtype=D)
    assert guidance_for(problem, free).guidance.iterations == 1
    monkeypatch.setattr(choice, "_LARGEST", 16)
    result = iv.solve(A, y, prior, noise=noise, num_samples=4)
    assert result.strategy == "MMPS" and not result.certificate.reached
    assert float(result.chi2.mean()) < 3


def test_systems_that_are_formed_and_those_that_are_iterated_agree(monkeypatch):
    A, prior, y, noise = elliptic()
    options = {"noise": noise, "strategy": ivs.MMPS(iterations=3, num_steps=6), "num_samples": 2}
    formed = iv.solve(A, y, prior, **options).samples
    monkeypatch.setattr(module, "_SMALL", 0)
    iterated = iv.solve(A, y, prior, **options).samples
    assert torch.allclose(formed, iterated, atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 3])
def test_rows_for_which_the_operator_is_no_number_fail(iterations):
    prior = iv.priors.GaussianFieldPrior((6,), iv.priors.Matern(0.3, 0.5), dtype=D)
    A = iv.operators.from_callable(lambda x: (x - 5).log(), (6,), (6,))
    strategy = ivs.MMPS(iterations=iterations, num_steps=4)
    result = iv.solve(A, torch.ones(6, dtype=D), prior, noise=0.1, strategy=strategy, num_samples=2, throw=False)
    assert bool(result.failed.all())


def test_what_is_needed_is_said():
    A, _, y, noise = elliptic()
    free = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(32,), scale=1.0, dtype=D)
    with pytest.raises(iv.errors.UnsupportedError, match="a prior that states its covariance"):
        iv.solve(A, y, free, noise=noise, strategy=ivs.MMPS(iterations=2), num_samples=1)
    with pytest.raises(iv.errors.InputError, match="iterations"):
        ivs.MMPS(iterations=0)
