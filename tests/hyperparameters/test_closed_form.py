"""Unknown blur width and noise level: lattices over evidence that comes for nothing, at any size, against quadrature."""

from __future__ import annotations

import math

import pytest
import torch

import invsolve as iv
from invsolve.hyperparameters import closed_form
from invsolve.hyperparameters.closed_form import ClosedForm
from invsolve.hyperparameters.unknowns import Unknowns

D = torch.float64
LEVEL, WIDTH = iv.LogNormal(median=0.1, factor=3.0), iv.LogNormal(median=1.5, factor=1.5)
NOISE = iv.noise.Gaussian(std=LEVEL)


def blurred(side, basis="neumann", boundary="periodic", dtype=torch.float32, seed=0):
    """A family of blurs, data of width 1.7 and std 0.05, and the prior."""
    spectrum = iv.priors.Matern(std=1.0, length=0.2)
    prior = iv.priors.GaussianFieldPrior(shape=(side, side), spectrum=spectrum, basis=basis, dtype=dtype)

    def blur(width):
        return iv.operators.GaussianBlur(std=width, in_shape=(side, side), boundary=boundary, dtype=dtype)

    noise = torch.randn(side, side, generator=torch.Generator().manual_seed(seed + 1), dtype=dtype)
    y = blur(1.7)(prior.sample(1, seed=seed))[0] + 0.05 * noise
    return iv.operators.Family(blur, width=WIDTH), y, prior


def quadrature(logs, stds, widths):
    """log p(y), and mean and std of each scalar, from log p(y | std, width) ``(widths, stds)`` on a grid in logs."""

    def log_prior(v, law):
        z = (v / law.median).log() / math.log(law.factor)
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - math.log(math.log(law.factor))  # of log v

    joint = logs + log_prior(widths, WIDTH)[:, None] + log_prior(stds, LEVEL)
    cell = float((widths[1] / widths[0]).log() * (stds[1] / stds[0]).log())
    weights = torch.softmax(joint.flatten(), 0).view_as(joint)
    found = {"log": torch.logsumexp(joint.flatten(), 0) + math.log(cell)}
    for name, value, weight in (("operator.width", widths, weights.sum(1)), ("noise.std", stds, weights.sum(0))):
        mean = weight @ value
        found[name] = mean, (weight @ (value - mean).square()).sqrt()
    return found


def grid(low, high, points):
    return torch.linspace(math.log(low), math.log(high), points, dtype=D).exp()


def agrees(result, truth):
    """The evidence within its stated error and 1e-3; drawn scalars within five standard errors."""
    error = (result.log_evidence - truth["log"]).abs()
    assert float(error) <= 1e-3 + 2 * float(result.log_evidence_se), (error, result.log_evidence_se)
    n = result.num_samples
    for name in ("operator.width", "noise.std"):
        mean, std = truth[name]
        known = result[name]
        assert abs(float((known.mean - mean) / std)) < 0.01 and abs(float(known.std / std) - 1) < 0.01, name
        drawn = result.parameters[name]
        assert abs(float((drawn.mean(0) - mean) / std)) < 5 / math.sqrt(n), name
        assert abs(float(drawn.std(0) / std) - 1) < 5 / math.sqrt(2 * n), name


@pytest.fixture(scope="module")
def small():
    """The defaults of blur and field, periodic and Neumann, and what is found with them."""
    family, y, prior = blurred(12, dtype=D)
    return family, y, prior, iv.solve(family, y, prior, noise=NOISE, num_samples=1500)


def test_bases_that_differ_at_the_edge(small):
    """By dense covariances."""
    family, y, prior, result = small
    stds, widths = grid(0.03, 0.08, 161), grid(1.2, 2.6, 81)
    unit = torch.eye(144, dtype=D).view(144, 12, 12)
    modes, root = prior.law.modes, prior.law.variances.sqrt()
    rows = []
    for width in widths:
        matrix = family.at(width=float(width))(modes.synthesis(root * unit)).flatten(1)
        values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
        total = values.clamp_min(0) + stds[:, None] ** 2
        c = (y.flatten() @ vectors).square()
        rows.append(-0.5 * (c / total + total.log() + math.log(2 * math.pi)).sum(1))
    agrees(result, quadrature(torch.stack(rows), stds, widths))
    assert result.strategy == "Exact" and result.warnings == ()


def test_64_by_64_where_blur_and_field_share_their_modes():
    """By sums over torch's own Fourier modes: a 64 x 64 image with two unknown scalars in seconds."""
    family, y, prior = blurred(64, basis="periodic")
    result = iv.solve(family, y, prior, noise=NOISE, num_samples=100, budget=60)
    assert result.seconds < 60 and result.certificate.reached
    k = 2 * math.pi * torch.fft.fftfreq(64, d=1 / 64, dtype=D)
    power = 64**2 * prior.spectrum.variances(k[:, None] ** 2 + k**2, "periodic", (1.0, 1.0))
    seen = torch.fft.fft2(y.double(), norm="ortho").abs().square()
    stds, widths = grid(0.047, 0.053, 81), grid(1.5, 2.0, 121)
    rows = []
    for width in widths.tolist():
        reach = math.ceil(4 * width)
        i = torch.arange(-reach, reach + 1, dtype=D)
        line = torch.exp(-0.5 * (i / width) ** 2)
        line = torch.zeros(64, dtype=D).index_add(0, torch.arange(-reach, reach + 1) % 64, line / line.sum())
        total = power * torch.outer(*2 * [torch.fft.fft(line).real]) ** 2 + stds[:, None, None] ** 2
        rows.append(-0.5 * (seen / total + total.log() + math.log(2 * math.pi)).sum((1, 2)))
    truth = quadrature(torch.stack(rows), stds, widths)
    agrees(result, truth)
    # Signals fit the data at their own noise level, and are as close to each other as the posterior says.
    assert float(result.chi2.median()) == pytest.approx(1.0, abs=0.1)


def test_signals_at_many_noise_levels_are_those_of_the_posterior(small):
    """Beyond 128 data rows of one width are drawn together, by conjugate gradients: their mean and spread."""
    family, y, prior, result = small
    for k in range(0, 1500, 100):  # at the noise level of the row, and of no other
        A = family.at(width=float(result.parameters["operator.width"][k]))
        problem = iv.Problem(A, y, noise=float(result.parameters["noise.std"][k]))
        assert float(result.chi2[k]) == pytest.approx(float(problem.chi2(result.samples[k : k + 1])), rel=1e-9)
    widths, stds = result.parameters["operator.width"], result.parameters["noise.std"]
    node = torch.stack([widths, stds], 1)
    values, counts = node.unique(dim=0, return_counts=True)
    width, std = values[counts.argmax()].tolist()  # the node that was drawn most often
    rows = result.samples[(node == values[counts.argmax()]).all(1)]
    exact = prior.posterior(family.at(width=width), y, std)
    z = (rows - exact.mean[0]) / exact.std[0]
    # Averages over 144 correlated entries: chi^2 of each row whitened by the dense covariance.
    root = torch.linalg.cholesky(exact.covariance + 1e-12 * torch.eye(144, dtype=D))
    white = torch.linalg.solve_triangular(root, (rows - exact.mean[0]).flatten(1).mT, upper=False)
    assert float(white.square().mean()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / white.numel()))
    assert float(z.mean(0).abs().max()) < 5 / math.sqrt(len(rows))


def test_members_between_others_are_interpolated(monkeypatch):
    """Where decompositions take long: far fewer of them, and the same evidence to the tolerance."""
    family, y, prior = blurred(12, dtype=D)
    options = {"noise": 0.05, "num_samples": 200, "seed": 3}
    calls, decompose = 0, closed_form.evidence_by_level

    def counted(*arguments, **keywords):
        nonlocal calls
        calls += 1
        return decompose(*arguments, **keywords)

    monkeypatch.setattr(closed_form, "evidence_by_level", counted)
    whole = iv.solve(family, y, prior, **options)
    each, calls = calls, 0
    monkeypatch.setattr(closed_form, "_SLOW", 0)
    fewer = iv.solve(family, y, prior, **options)
    assert calls < 0.75 * each
    assert float((fewer.log_evidence - whole.log_evidence).abs()) < 2e-3
    same = (fewer.parameters["operator.width"] == whole.parameters["operator.width"]).double().mean()
    assert float(same) > 0.95


def test_an_interpolation_is_refused_where_the_evidence_is_not_smooth(monkeypatch):
    """A kink in the width, between members that are known: two degrees disagree, and the member is decomposed."""
    monkeypatch.setattr(closed_form, "_SLOW", 0)
    _, y, prior = blurred(8, dtype=D)

    def blur(width):
        return iv.operators.GaussianBlur(std=1.5 + 0.5 * abs(width - 1.5), in_shape=(8, 8), dtype=D)

    family = iv.operators.Family(blur, width=WIDTH)
    unknowns = Unknowns.from_problem(iv.Problem(family, y, noise=NOISE), prior)
    found = ClosedForm(unknowns)
    for k in range(-4, 5):
        found.at((0.0, k / 8), prior)
    node = (0.0, 1 / 64)
    exact = ClosedForm(unknowns).at(node, prior)
    assert torch.equal(found.at(node, prior).log, exact.log) and not found.interpolated
    found.at((0.0, 0.31), prior)  # beside the kink there are three smooth members on the right only
    smooth = (0.0, 7 / 16)
    assert float((found.at(smooth, prior).log - ClosedForm(unknowns).at(smooth, prior).log).abs()) < 2e-3


def test_without_a_closed_form_nothing_comes_for_nothing():
    mixture = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.4, 0.6], dtype=D),
        means=random_means(),
        covariances=torch.eye(3, dtype=D).expand(2, 3, 3),
    )
    problem = iv.Problem(iv.operators.Matrix(torch.eye(3, dtype=D)), torch.ones(3, dtype=D), noise=NOISE)
    assert ClosedForm(Unknowns.from_problem(problem, mixture)).at((0.0,), mixture) is None
    result = iv.solve(problem, mixture, num_samples=4)  # by the closed form of every node
    assert result.strategy == "Exact" and result.certificate.reached


def random_means():
    return torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], dtype=D)
