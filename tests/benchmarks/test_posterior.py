"""The problems of benchmarks/posterior.py against published closed forms, and its scores against known answers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from _network import Network
from _ours import DenoiserOnly
from _problems import PROBLEMS, components, problem_a, problem_c, rescaled
from _scores import GROUPS, _with_error, coverage, mean_error, score


@pytest.mark.parametrize(
    ("name", "mean", "variance"),
    [
        ("A1", [0.8], [0.2]),
        ("A4", [0.94118], [0.23529]),
        ("pair", [1.48515, 1.18812], [0.00990, 0.36634]),
    ],
)
def test_small_problems_have_their_published_posterior(name, mean, variance):
    got_mean, got_cov = PROBLEMS[name]().posterior
    assert torch.allclose(got_mean[0], torch.tensor(mean, dtype=torch.float64), atol=5e-6)  # printed digits
    assert torch.allclose(got_cov[0].diagonal(), torch.tensor(variance, dtype=torch.float64), atol=5e-6)


def test_c_has_its_published_trace_and_norm():
    mean, covariance = problem_c().posterior
    assert float(covariance[0].trace()) == pytest.approx(1.99813, abs=5e-6)
    assert float(mean.norm()) == pytest.approx(3.94522, abs=5e-6)


def test_a_and_g64_have_their_published_spread():
    a, g64 = PROBLEMS["A"](), PROBLEMS["G64"]()
    assert a.std / float(a.posterior_std.mean()) == pytest.approx(2.63, abs=0.005)
    assert float(g64.posterior_std.mean()) == pytest.approx(0.15, abs=0.005)


@pytest.mark.parametrize("name", PROBLEMS)
def test_posterior_is_that_of_the_information_form(name):
    """(C^-1 + A^T A / s^2)^-1, a second formula for every item."""
    case = PROBLEMS[name]()
    mean, covariance = case.posterior
    precision = torch.linalg.inv(torch.block_diag(*[case.covariance] * case.parts))
    for item, (matrix, y) in enumerate(case.dense):
        second = torch.linalg.inv(precision + matrix.mT @ matrix / case.noise**2)
        other = second @ (precision @ case.prior_mean + matrix.mT @ y / case.noise**2)
        # The prior of A and B has condition number about 4e5: inverses lose 1e-10 of the largest entry.
        assert torch.allclose(covariance[item], second, atol=1e-8 * float(second.abs().max()))
        assert torch.allclose(mean[item], other, atol=1e-8 * float(other.abs().max()))


def test_complex_problem_matches_complex_arithmetic():
    """The operator as torch's own shifted transform, the posterior by complex matrices."""
    case = PROBLEMS["MRI"]()
    basis, axes = torch.eye(256, dtype=torch.complex128).view(256, 16, 16), (-2, -1)
    k = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(basis, dim=axes), norm="ortho"), dim=axes)
    seen = case.operator.observed.flatten()
    a, c = k.flatten(1)[:, seen].mT, case.covariance.to(torch.complex128)
    gain = c @ a.mH @ torch.linalg.inv(a @ c @ a.mH + case.noise**2 * torch.eye(len(a)))
    prior_mean = case.mean.flatten()
    mean = prior_mean + (case.data.flatten(1)[:, seen] - prior_mean @ a.mT) @ gain.mT
    variance = (c - gain @ a @ c).diagonal().real
    assert torch.allclose(case.posterior[0], components(mean, 1), atol=1e-10)
    assert torch.allclose(case.posterior_std.square(), variance.repeat(2).expand(2, -1), atol=1e-10)


def test_rescaling_rescales_the_posterior():
    case = problem_a()
    other = rescaled(case, 250.0, "other")
    assert torch.allclose(other.posterior[0], 250 * case.posterior[0], rtol=1e-9)
    assert torch.allclose(other.posterior_std, 250 * case.posterior_std, rtol=1e-9)
    assert other.unit == 250.0 and not other.unit_interval


def test_exact_draws_have_the_exact_moments():
    case, n = PROBLEMS["pair"](), 20_000
    draws = case.exact_draws(n, seed=3)[:, 0]
    mean, covariance = case.posterior
    assert ((draws.mean(0) - mean[0]).abs() < 5 * case.posterior_std[0] / n**0.5).all()
    sd = (covariance[0].diagonal()[:, None] * covariance[0].diagonal() + covariance[0].square()).sqrt()
    assert ((draws.T.cov() - covariance[0]).abs() < 5 * sd / n**0.5).all()
    assert torch.equal(draws, case.exact_draws(n, seed=3)[:, 0])


# --- the network that peers see ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["A", "MRI"])
@pytest.mark.parametrize("sigma", [0.03, 1.0, 30.0])
def test_network_is_the_denoiser_of_the_prior(name, sigma):
    case = PROBLEMS[name]()
    network, rng = Network(case), torch.Generator().manual_seed(0)
    x = case.mean + sigma * torch.randn(3, *case.shape, generator=rng, dtype=case.mean.dtype)
    want = components(case.prior(torch.float64).denoise(x, sigma), 1)
    got = network(components(x, 1).float(), torch.tensor(sigma))
    assert torch.allclose(got.double(), want, atol=256 * 1.2e-7 * float(x.abs().max()))  # one rounding a term
    rowwise = network(components(x, 1).float(), torch.full((3,), sigma))
    assert torch.allclose(rowwise, got, atol=1e-5 * float(x.abs().max()))


@pytest.mark.parametrize("name", ["A", "MRI"])
def test_the_hidden_prior_is_the_same_denoiser_and_states_no_law(name):
    case = PROBLEMS[name]()
    hidden, rng = DenoiserOnly.of(case), torch.Generator().manual_seed(0)
    x = (case.mean + torch.randn(3, *case.shape, generator=rng, dtype=case.mean.dtype)).to(hidden.mean.dtype)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    want = case.prior(torch.float64).denoise(x.to(case.mean.dtype), sigma.double())
    assert torch.allclose(hidden.denoise(x, sigma).to(want.dtype), want, atol=256 * 1.2e-7 * float(x.abs().max()))
    assert hidden.law is None and not hidden.cheap_pullback and not hidden.exact_law


def test_network_counts_forward_passes_and_vjps():
    network = Network(problem_c())
    x = torch.zeros(5, 32, requires_grad=True)
    out = network(x, torch.tensor(1.0))
    for _ in range(3):
        torch.autograd.grad(out, x, torch.ones_like(out), retain_graph=True)
    _, pull = torch.func.vjp(lambda v: network(v, torch.tensor(1.0)), torch.zeros(4, 32))
    pull(torch.ones(4, 32))
    assert (network.calls.forward, network.calls.vjp) == (5 + 4, 3 * 5 + 4)


def test_network_vjp_is_that_of_its_jacobian():
    case = problem_c()
    jacobian = case.covariance @ torch.linalg.inv(case.covariance + 0.25 * torch.eye(32))
    v = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    _, pull = torch.func.vjp(lambda x: Network(case)(x, torch.tensor(0.5)), torch.zeros(1, 32))
    assert torch.allclose(pull(v)[0].double(), v.double() @ jacobian, atol=1e-5)


# --- the scores -------------------------------------------------------------------------------------------------------
def ranks(n: int) -> torch.Tensor:
    """Points with exactly k/(n+1) of N(0, 1) below the k-th."""
    return torch.special.ndtri(torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)).view(-1, 1, 1)


ZERO, ONE = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize("n", [19, 39, 999])  # 0.05 (n + 1) is a rank
def test_coverage_of_ideal_ranks_is_exact(n):
    assert coverage(ranks(n), ZERO, ONE, 0.9) == pytest.approx(0.9, abs=1e-12)


def test_coverage_and_std_see_a_wrong_scale():
    wide = score(2 * ranks(999) + 3, 3 * ONE, ONE, torch.zeros(1))
    assert wide.cov90 == pytest.approx(1 - 2 * 0.5 * math.erfc(2 * 1.6448536 / math.sqrt(2)), abs=1e-6)
    assert wide.std_ratio == pytest.approx(2 * float(ranks(999).std()), abs=1e-12)
    assert wide.std_min == wide.std_max == pytest.approx(wide.std_ratio)
    assert wide.e_mean == pytest.approx(0, abs=1e-9)


def test_exact_draws_are_covered_whatever_their_number():
    """The mean of many small sets is 0.9, where plain quantiles of 16 draws would give about 0.81."""
    rng = torch.Generator().manual_seed(0)
    for n in (19, 64):
        z = torch.randn(n, 1, 20_000, generator=rng, dtype=torch.float64)
        got = coverage(z, torch.zeros(1, 20_000), torch.ones(1, 20_000), 0.9)
        # Ranks 1 and 19 of 19 hold a mass Beta(18, 2), of sd 0.066; 64 hold it better, but interpolate: bias < 1e-3.
        assert got == pytest.approx(0.9, abs=1e-3 + 5 * 0.066 / 20_000**0.5)


def test_mean_error_is_in_posterior_sd():
    mean, std = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.5, 4.0], [1.0, 1.0]])
    samples = (mean + torch.tensor([[0.5, 4.0], [0.0, 0.0]])).expand(4, 2, 2).double()
    assert mean_error(samples, mean, std) == pytest.approx(0.5)  # 1 sd on item 0, none on item 1


def test_relative_mean_error():
    s = score(ranks(99) + 3.0, 2 * ONE, ONE, torch.tensor([1.0]))
    assert s.mean_relative == pytest.approx(1.0, abs=1e-9) and s.e_mean == pytest.approx(1.0, abs=1e-9)
    assert s.floor == pytest.approx(99**-0.5)


def test_jackknife_gives_the_standard_error_of_a_mean():
    z = torch.randn(1600, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, error = _with_error(lambda s: float(s.mean()), z)
    assert value == float(z.mean())
    # 15 degrees of freedom: relative sd 0.18, here 4 of them; the factor for one item in 40 is wide on purpose.
    assert error == pytest.approx(1 / 40, rel=0.75)


def test_rows_that_are_not_finite_are_left_out_and_counted():
    samples = ranks(999).repeat(1, 1, 2)
    broken = torch.cat([samples, torch.tensor([[[math.nan, 0.0]], [[math.inf, 0.0]]], dtype=torch.float64)])
    got = score(broken, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(2))
    want = score(samples, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(2))
    assert replace(got, samples=0, finite=1.0) == replace(want, samples=0)
    assert got.samples == 1001 and got.finite == pytest.approx(999 / 1001)


def test_too_few_finite_samples_have_no_scores():
    got = score(torch.full((2 * GROUPS, 1, 1), math.nan), ZERO, ONE, torch.zeros(1))
    assert got.finite == 0 and math.isnan(got.e_mean) and math.isnan(got.cov90)
