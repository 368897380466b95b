"""Posteriors of independent entries against quadrature over the signal itself, through `solve` and its parts."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import invsolve as iv
from invsolve.operators import Mask, Matrix, Saturation, Subsample, from_callable
from invsolve.separable.posterior import SeparablePosterior
from invsolve.separable.structure import datum_entries

D = torch.float64
N = 3
MEAN = torch.tensor([0.5, -0.2, 1.1], dtype=D)
STD = torch.tensor([1.0, 0.3, 2.0], dtype=D)
IDENTITY = Mask(mask=torch.ones(N, dtype=torch.bool))


def gaussian(mean=MEAN, std=STD):
    return iv.priors.GaussianPrior(mean=mean, covariance=torch.diag(std**2))


def sparse(law):
    return iv.priors.SparsePrior(shape=(N,), coefficients=law, mean=MEAN)


# A prior, and its density over x (rows, N), entry by entry.
PRIORS = {
    "gaussian": (gaussian(), lambda x: stats.norm.pdf(x, MEAN, STD)),
    "laplace": (sparse(iv.priors.Laplace(scale=STD)), lambda x: stats.laplace.pdf(x, MEAN, STD)),
    "student": (sparse(iv.priors.Student(scale=STD, dof=3.0)), lambda x: stats.t.pdf(x, 3, MEAN, STD)),
    "spike": (
        sparse(iv.priors.SpikeSlab(weight=0.3, slab=1.5, spike=0.05)),
        lambda x: 0.3 * stats.norm.pdf(x, MEAN, 1.5) + 0.7 * stats.norm.pdf(x, MEAN, 0.05),
    ),
    "white field": (
        iv.priors.GaussianFieldPrior(shape=(N,), spectrum=torch.full((N,), 0.5, dtype=D), mean=MEAN),
        None,  # its variance is the grid's
    ),
}
# A noise model, data, and an operator on entries.
NOISES = {
    "gaussian": (iv.noise.Gaussian(std=0.3), [0.1, -2.0, 3.0]),
    "gaussians": (iv.noise.Gaussian(std=torch.tensor([0.01, 1.0, 20.0], dtype=D)), [0.1, -2.0, 3.0]),
    "laplace": (iv.noise.Laplace(scale=0.2), [0.1, -2.0, 3.0]),
    "poisson": (iv.noise.Poisson(2.0), [0.0, 1.0, 7.0]),
    "background": (iv.noise.Poisson(2.0, background=0.3), [0.0, 1.0, 7.0]),
    "transmission": (iv.noise.PoissonTransmission(30.0, background=1.0), [0.0, 20.0, 3.0]),
    "rician": (iv.noise.Rician(std=0.25), [0.1, 1.0, 3.0]),
    "saturated": (iv.noise.Saturated(std=0.2, low=0.0, high=1.0), [0.0, 0.4, 1.0]),
    "quantised": (iv.noise.Quantised(std=0.05, step=0.5), [0.0, 0.5, 1.5]),
    "multiplicative": (iv.noise.Multiplicative(std=0.3), [0.2, 0.5, 3.0]),
    "speckle": (iv.noise.Speckle(looks=2.0), [0.2, 0.5, 3.0]),
}


def by_quadrature(density, likelihood, points):
    """Evidence, means and stds of entries: Gauss-Legendre on panels that shrink towards ``points``, out to 1e8."""
    away = 1e-3 * 1.5 ** np.arange(63)
    away = np.concatenate([-away, [0.0], away])
    edges = np.unique(np.concatenate([c + away for c in sorted({*points, *MEAN.tolist()})]))
    nodes, weights = np.polynomial.legendre.leggauss(24)
    half = np.diff(edges)[:, None] / 2
    x = ((edges[:-1, None] + half) + half * nodes).reshape(-1, 1) * np.ones(N)
    log = np.nan_to_num(likelihood(torch.as_tensor(x)).numpy(), nan=-np.inf)  # beyond the range of numbers
    weight = density(x) * np.exp(log) * (half * weights).reshape(-1, 1)
    mass = weight.sum(0)
    mean = (weight * x).sum(0) / mass
    return math.fsum(np.log(mass)), mean, np.sqrt((weight * (x - mean) ** 2).sum(0) / mass)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("law", [name for name, (_, density) in PRIORS.items() if density])
def test_against_quadrature_over_the_signal(law, noise):
    prior, density = PRIORS[law]
    model, y = NOISES[noise]
    problem = iv.Problem(IDENTITY, torch.tensor(y, dtype=D), noise=model)
    found = SeparablePosterior.from_problem(problem, prior.entry_laws)
    points = [*y, -1.0, -0.15, 0.0, 1.0]  # kinks and walls
    evidence, mean, std = by_quadrature(
        density, lambda x: problem.noise.log_prob_each(problem.data.expand(x.shape), x), points
    )
    assert abs(float(found.evidence().log) - evidence) < 1e-7
    assert np.abs((found.mean[0].numpy() - mean) / std).max() < 1e-7
    assert np.abs(found.std[0].numpy() / std - 1).max() < 1e-7


def test_draws_are_quantiles_of_the_posterior():
    """Dark pixels: N(0.5, 1) exp(-2 x) on x >= 0, a truncated N(-1.5, 1), of 16 pixels and 1,024 draws each."""
    n, draws = 16, 1024
    prior = iv.priors.GaussianPrior(mean=torch.full((n,), 0.5), covariance=torch.eye(n))
    A = Mask(mask=torch.ones(n, dtype=torch.bool))
    result = iv.solve(A, torch.zeros(n), prior, noise=iv.noise.Poisson(2.0), num_samples=draws)
    assert result.strategy == "Exact" and result.certificate.exact and result.certificate.reached
    law = stats.truncnorm(1.5, np.inf, loc=-1.5)
    assert stats.kstest(result.samples.flatten().numpy(), law.cdf).pvalue > 1e-3
    assert ((result.samples.mean(0) - law.mean()).abs() < 5 * law.std() / draws**0.5).all()
    assert abs(float(result.log_evidence) - n * (1 + stats.norm.logsf(1.5))) < 1e-9
    assert float(result.info["log_evidence_se"].max()) < 1e-9


def test_a_sign_that_data_do_not_tell():
    """Two modes in every pixel, of equal weight under a symmetric prior: 2^8 modes."""
    y = torch.full((8,), 1.0)
    prior = iv.priors.GaussianPrior(mean=torch.zeros(8), covariance=torch.eye(8))
    A = Mask(mask=torch.ones(8, dtype=torch.bool))
    result = iv.solve(A, y, prior, noise=iv.noise.Rician(0.25), num_samples=2000)
    assert result.certificate.exact
    x = np.linspace(-5, 5, 200_001)
    weight = stats.norm.pdf(x) * stats.rice.pdf(1.0, np.abs(x) / 0.25, scale=0.25)
    std = math.sqrt(np.trapezoid(weight * x**2, x) / np.trapezoid(weight, x))
    assert (result.samples.mean(0).abs() < 5 * std / 2000**0.5).all()
    assert (
        (result.samples.std(0) / std - 1).abs() < 5 / 2000**0.5
    ).all()  # the fourth moment of two narrow modes is smaller


def test_an_atom_keeps_its_weight():
    """A spike of std 0 under Gaussian noise: closed form; draws are 0 exactly."""
    prior = iv.priors.SparsePrior(shape=(2,), coefficients=iv.priors.SpikeSlab(weight=0.4, slab=1.0))
    y = torch.tensor([0.3, 1.2])
    result = iv.solve(Mask(mask=torch.ones(2, dtype=torch.bool)), y, prior, noise=0.4, num_samples=4000)
    on = 0.4 * stats.norm.pdf(y, scale=math.hypot(1, 0.4))
    off = 0.6 * stats.norm.pdf(y, scale=0.4)
    share = on / (on + off)
    found = (result.samples != 0).double().mean(0).numpy()
    assert np.abs(found - share).max() < 5 * 0.5 / 4000**0.5
    assert abs(float(result.log_evidence) - np.log(on + off).sum()) < 1e-7


def test_a_mixture_of_independent_entries():
    """Two components with diagonal covariances, curved operator: weights by the evidence of each."""
    means = torch.tensor([[-1.0, 1.0], [1.0, 0.5]], dtype=D)
    covariances = torch.stack([torch.eye(2, dtype=D) * 0.25, torch.diag(torch.tensor([1.0, 0.04], dtype=D))])
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.3, 0.7], dtype=D), means=means, covariances=covariances
    )
    bend = from_callable(lambda x: x + 0.1 * x**3, (2,), (2,))
    y = torch.tensor([-0.5, 0.7], dtype=D)
    result = iv.solve(bend, y, prior, noise=0.5, num_samples=4000)
    assert result.certificate.exact
    x = np.linspace(-10, 10, 200_001)
    like = stats.norm.pdf(y[:, None].numpy(), x + 0.1 * x**3, 0.5)
    total, first = 0.0, np.zeros(2)
    for w, m, c in zip((0.3, 0.7), means, covariances, strict=True):
        weight = like * stats.norm.pdf(x, m[:, None], c.diagonal().sqrt()[:, None])
        mass = np.trapezoid(weight, x, axis=1)
        total += w * mass.prod()
        first += w * mass.prod() * np.trapezoid(weight * x, x, axis=1) / mass
    assert abs(float(result.log_evidence) - math.log(total)) < 1e-8
    mean = torch.as_tensor(first / total)
    assert ((result.samples.mean(0) - mean).abs() < 5 * result.std / 4000**0.5).all()
    assert torch.allclose(result.mean, mean, atol=1e-7)


def test_entries_without_data_are_prior_draws_and_repeated_data_count():
    A = Subsample(index=torch.tensor([2, 0, 2]), in_shape=(N,))
    y = torch.tensor([3.0, 1.0, 5.0], dtype=D)
    problem = iv.Problem(A, y, noise=iv.noise.Poisson(2.0))
    found = SeparablePosterior.from_problem(problem, gaussian().entry_laws)
    assert abs(float(found.mean[0, 1]) - MEAN[1]) < 1e-9 and abs(float(found.std[0, 1]) - STD[1]) < 1e-9

    def log(x):
        counts = problem.noise.log_prob_each(problem.data.expand(x.shape), x[:, [2, 0, 2]])
        return torch.stack([counts[:, 1], torch.zeros_like(x[:, 0]), counts[:, 0] + counts[:, 2]], 1)

    evidence, mean, _ = by_quadrature(PRIORS["gaussian"][1], log, [0.0, 1.0, 3.0])
    assert abs(float(found.evidence().log) - evidence) < 1e-7 and np.abs(found.mean[0].numpy() - mean).max() < 1e-7


def test_items_have_operators_and_noise_of_their_own():
    mask = torch.tensor([[True, True, False], [False, True, True]])
    A = Mask(mask=mask, in_shape=(N,))
    noise = iv.noise.Laplace(scale=torch.tensor([[0.1], [0.7]], dtype=D))
    y = torch.tensor([[0.1, 0.4, 0.0], [0.0, 0.3, 2.0]], dtype=D)
    both = iv.solve(A, y, gaussian(), noise=noise, num_samples=8, reproducible=True)
    assert both.certificate.exact
    for b in range(2):
        alone = iv.solve(
            Mask(mask=mask[b]),
            y[b],
            gaussian(),
            noise=iv.noise.Laplace(scale=float(noise.scale[b])),
            num_samples=8,
            item_ids=[b],
            reproducible=True,
        )
        assert torch.equal(alone.samples, both.samples[:, b])
        assert float(alone.log_evidence) == pytest.approx(float(both.log_evidence[b]), abs=1e-12)


def test_a_white_field_is_one():
    """Variance of a white field on a grid: that of its transport."""
    prior = PRIORS["white field"][0]
    (law,) = prior.entry_laws
    z = torch.randn(4, N, dtype=D, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(law.transport(z), prior.mean + prior.law.variances.sqrt() * z)


def test_what_falls_apart_and_what_does_not():
    full = torch.eye(N, dtype=D) + 0.1
    joint = iv.priors.GaussianPrior(mean=MEAN, covariance=full)
    haar = iv.priors.SparsePrior(shape=(4,), coefficients=iv.priors.Laplace(scale=1.0), transform="haar")
    smooth = iv.priors.GaussianFieldPrior(shape=(8,), spectrum=iv.priors.Matern(length=0.2, std=1.0))
    mixed = iv.priors.GaussianMixturePrior(weights=torch.ones(1, dtype=D), means=MEAN[None], covariances=full[None])
    for prior in (joint, haar, smooth, mixed):
        assert prior.entry_laws == ()
    noise, y = iv.noise.Laplace(scale=0.1), torch.zeros(N, dtype=D)
    exact = iv.strategies.Exact()
    blur = Matrix(matrix=torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9]], dtype=D))
    assert exact.missing(iv.Problem(IDENTITY, y, noise=noise), gaussian()) == ""
    for A, prior in ((blur, gaussian()), (IDENTITY, joint)):
        assert "noise is Laplace" in exact.missing(iv.Problem(A, y, noise=noise), prior)
    covariance = iv.noise.Gaussian(covariance=full)
    bend = from_callable(lambda x: x**3, (N,), (N,))
    assert "not a LinearOperator" in exact.missing(iv.Problem(bend, y, noise=covariance), gaussian())


SIGNALS = torch.randn(3, 2, 6, dtype=D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("A", "entries"),
    [
        (Mask(mask=torch.tensor([1, 1, 0, 1, 1, 1]).bool()), [0, 1, -1, 3, 4, 5]),
        (Subsample(index=torch.tensor([5, 5, 0, 2]), in_shape=(6,)), [5, 5, 0, 2]),
        (Matrix(matrix=torch.eye(6, dtype=D).flip(0) * 3), [5, 4, 3, 2, 1, 0]),
        (Matrix(matrix=torch.zeros(2, 6, dtype=D)), [-1, -1]),
        (Saturation((6,), high=-50.0, softness=1e-3), [0, 1, 2, 3, 4, 5]),  # no draw moves it
        (from_callable(lambda x: x.abs() * 2, (6,), (6,)), [0, 1, 2, 3, 4, 5]),
        (from_callable(lambda x: x.log(), (6,), (6,)), [0, 1, 2, 3, 4, 5]),  # NaN of half the signals
        (from_callable(lambda x: x[:, :2] * x[:, 2:4], (6,), (2,)), None),
        (from_callable(lambda x: x + 1e-6 * x.sum(1, keepdim=True), (6,), (6,)), None),
        (from_callable(lambda x: torch.zeros_like(x[:, :2]), (6,), (2,)), None),
        (Matrix(matrix=torch.eye(6, dtype=D) + 1e-9), None),
    ],
)
def test_structure(A, entries):
    found = datum_entries(A, SIGNALS)
    assert found is None if entries is None else found.tolist() == [entries]


def test_structure_of_every_item():
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    found = datum_entries(Mask(mask=mask, in_shape=(3,)), SIGNALS[..., :3])
    assert found.tolist() == [[0, -1, 2], [-1, 1, 2]]


def test_functions_whose_parts_meet_where_the_data_lead():
    """Entries that see each other only beyond 6 stds of the prior, where these data are."""
    meet = from_callable(lambda x: x + (x - 6).clamp_min(0) * x.roll(1, 1), (N,), (N,))
    prior = gaussian(torch.zeros(N, dtype=D), torch.ones(N, dtype=D))
    y = torch.full((N,), 9.0, dtype=D)
    with pytest.raises(iv.errors.OperatorError, match="but not for draws from the posterior.*NoiseMCMC"):
        iv.solve(meet, y, prior, noise=0.1, strategy=iv.strategies.Exact())
    found = iv.solve(meet, y, prior, noise=0.1, num_samples=4, budget=2.0)
    assert found.certificate.attempts[0].strategy.startswith("NoiseMCMC")


def test_functions_of_one_precision_are_left_to_chains():
    weight = torch.ones(N, N) / N
    single = from_callable(lambda x: x + 0 * (x @ weight), (N,), (N,))
    problem = iv.Problem(single, torch.zeros(N), noise=0.1)
    assert "not a LinearOperator" in iv.strategies.Exact().missing(problem, gaussian(MEAN.float(), STD.float()))


def test_too_many_entries(monkeypatch):
    monkeypatch.setattr("invsolve.separable.posterior.LARGEST", 2)
    problem = iv.Problem(IDENTITY, torch.zeros(N, dtype=D), noise=iv.noise.Laplace(scale=1.0))
    assert "noise is Laplace" in iv.strategies.Exact().missing(problem, gaussian())


def test_impossible_data_fail():
    """No signal of this prior, whose entries are at -3 or so, has a positive measurement that double precision knows."""
    prior = gaussian(torch.full((N,), -1e7, dtype=D), torch.ones(N, dtype=D))
    with pytest.raises(iv.errors.SolveError):
        iv.solve(IDENTITY, torch.ones(N, dtype=D), prior, noise=iv.noise.Poisson(1.0), num_samples=2)


def test_results_are_checked_and_saved(tmp_path):
    y = torch.tensor([0.0, 1.0, 4.0], dtype=D)
    result = iv.solve(IDENTITY, y, gaussian(), noise=iv.noise.Poisson(2.0), num_samples=64)
    assert result.check().passed
    result.save(tmp_path / "r.nc")
    again = iv.load_result(tmp_path / "r.nc")
    assert again.certificate.exact and torch.equal(again.samples, result.samples)
    assert float(again.log_evidence) == float(result.log_evidence)


@pytest.mark.slow
def test_an_unknown_noise_level_is_inferred_by_exact_evidence():
    """Student coefficients and Gaussian noise: a lattice of closed evidences."""
    n = 32
    prior = iv.priors.SparsePrior(shape=(n,), coefficients=iv.priors.Student(scale=1.0, dof=3.0), dtype=D)
    g = torch.Generator().manual_seed(0)
    y = prior.sample(1, seed=1)[0] + 0.3 * torch.randn(n, dtype=D, generator=g)
    A = Mask(mask=torch.ones(n, dtype=torch.bool))
    result = iv.solve(A, y, prior, noise=iv.noise.Gaussian(std=iv.LogNormal(0.3, 1.5)), num_samples=32)
    assert result.strategy == "Exact" and "lattice" in result.why
    std = result.parameters["noise.std"]
    assert abs(float(std.mean()) - 0.3) < 4 * float(std.std())
