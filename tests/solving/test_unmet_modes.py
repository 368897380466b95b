"""Modes that an ensemble has not met: found by optimisation, weighed, and sampled."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.progress import NoProgress
from invsolve.solving.ascent import ascended
from invsolve.solving.importance import Proposal, weighed
from invsolve.solving.modes import Modes, distinct, modes
from invsolve.solving.noise_density import NoiseDensity
from invsolve.solving.request import SolveRequest
from invsolve.solving.search import Effort
from invsolve.solving.unmet import verdict
from invsolve.solving.unmet_modes import UnmetModes
from invsolve.strategies.reported import Reported

D = torch.float64
Y = torch.zeros(1, dtype=D)


def bumps(places, widths, shares, kind="nonlinear"):
    """Under N(0, I), a likelihood of Gaussian bumps; posterior mean and std, and log-evidence, in closed form.

    As an operator: y = 0 and noise 1 give the log likelihood ``-A(x)^2 / 2``.
    """
    places, widths, shares = (torch.tensor(v, dtype=D) for v in (places, widths, shares))
    n, total = places.shape[1], 1 + widths**2
    inside = -0.5 * places.square().sum(1) / total + n * (widths / total.sqrt()).log()
    heights = shares.log() - inside  # so that bumps have these shares of the posterior
    top = float(heights.logsumexp(0)) + 1

    def root(x):
        logs = [h - 0.5 * (x - p).square().sum(-1) / w**2 for h, p, w in zip(heights, places, widths, strict=True)]
        return (2 * (top - torch.stack(logs).logsumexp(0))).sqrt()[..., None]

    centres, variances = places / total[:, None], widths**2 / total
    mean = (shares[:, None] * centres).sum(0)
    second = (shares[:, None] * (centres.square() + variances[:, None])).sum(0)
    A = iv.operators.from_callable(root, in_shape=(n,), out_shape=(1,), kind=kind)
    return A, mean, (second - mean.square()).sqrt(), -top - 0.5 * math.log(2 * math.pi)


def normal_prior(n):
    return iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=torch.eye(n, dtype=D))


def normal_denoiser(n):
    """The same law, known by its denoiser only."""

    def denoise(x, sigma):
        sigma = torch.as_tensor(sigma, dtype=x.dtype)
        return x / (1 + (sigma.view(-1, 1) if sigma.ndim else sigma) ** 2)

    return iv.priors.from_denoiser(denoise, shape=(n,), scale=1.0, dtype=D)


PLACES = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=D).tolist()
NEEDLE = (PLACES, [0.5, 0.05], [0.3, 0.7])


def assert_right(result, mean, std, log_evidence):
    """Within what the certificate allows and five standard errors of so many samples; the evidence within three."""
    assert float(((result.mean - mean) / std).abs().max()) < 0.15 + 5 * len(result.samples) ** -0.5
    assert float((result.std / std - 1).abs().max()) < 0.15 + 5 * (2 * len(result.samples)) ** -0.5
    assert abs(float(result.log_evidence) - log_evidence) < 3 * float(result.log_evidence_se)


def test_a_narrow_mode_that_both_starts_miss_is_found_and_weighed():
    """70 % of the mass in a bump of a tenth of the width: certified, the mean was off by 1.5 stds."""
    A, mean, std, log_evidence = bumps(*NEEDLE)
    result = iv.solve(A, Y, normal_prior(4), noise=1.0, num_samples=512)
    certificate = result.certificate
    assert certificate.reached and certificate.attempts[0].reached == 1  # it would have been believed
    assert_right(result, mean, std, log_evidence)
    assert "found a mode near (-1." in certificate.looked and "which the ensemble had not met" in str(certificate)
    assert "importance sampling" in certificate.attempts[-1].strategy and "importance sampling" in result.why
    assert result.strategy == f"{result.strategy_object.name}, importance sampling"


@pytest.mark.slow
def test_a_mode_that_particles_miss_is_found():
    """SMC certified the wide bump alone, which has 30 % of the mass."""
    A, mean, std, log_evidence = bumps(*NEEDLE)
    result = iv.solve(A, Y, normal_denoiser(4), noise=1.0, num_samples=512)
    certificate = result.certificate
    assert certificate.reached and "which the ensemble had not met" in certificate.looked
    assert_right(result, mean, std, log_evidence)


@pytest.mark.slow
def test_where_no_derivative_is_known_differences_do():
    A, mean, std, log_evidence = bumps([[0.8, 0.5], [-0.9, -0.7]], [0.5, 0.01], [0.3, 0.7], kind="black box")
    result = iv.solve(A, Y, normal_prior(2), noise=1.0, num_samples=512, budget=iv.Budget(evaluations=3 * 10**6))
    if result.certificate.reached:
        assert_right(result, mean, std, log_evidence)
    assert "which the ensemble had not met" in result.certificate.looked


@pytest.mark.parametrize("shares", [[1.0], pytest.param([0.8, 0.2], marks=pytest.mark.slow)])
def test_modes_that_were_met_raise_no_alarm(shares):
    A, mean, std, log_evidence = bumps([[0.5, 0, 0], [-1.5, 0, 0]][: len(shares)], [0.3, 0.3][: len(shares)], shares)
    result = iv.solve(A, Y, normal_prior(3), noise=1.0, num_samples=256)
    assert result.certificate.reached and "finds no mode that they have not met" in result.certificate.looked
    assert len(result.certificate.attempts) == 1
    assert_right(result, mean, std, log_evidence)


def test_particles_that_met_every_mode_raise_no_alarm():
    A = iv.operators.from_callable(lambda x: x[:, :1] * x[:, 1:], (2,), (1,))
    y = torch.tensor([1.0], dtype=D)
    result = iv.solve(A, y, normal_denoiser(2), noise=0.5, num_samples=32)
    assert result.strategy == "SMC" and result.certificate.reached
    assert "finds no mode that they have not met" in result.certificate.looked


def test_by_evaluations_a_search_does_not_look_at_the_clock():
    A = bumps(*NEEDLE)[0]
    budget = iv.Budget(evaluations=400_000)
    one, two = (iv.solve(A, Y, normal_prior(4), noise=1.0, num_samples=8, budget=budget) for _ in range(2))
    assert torch.equal(one.samples, two.samples)
    assert sum(one.operator_calls.values()) == sum(two.operator_calls.values()) <= 1.1 * 400_000


def test_a_finished_checkpoint_gives_the_same_answer(tmp_path):
    A, path = bumps(*NEEDLE)[0], tmp_path / "run.ckpt"
    one, two = (iv.solve(A, Y, normal_prior(4), noise=1.0, num_samples=8, checkpoint=path) for _ in range(2))
    assert torch.equal(one.samples, two.samples)
    assert "which the ensemble had not met" in one.certificate.looked and two.certificate.reached


@pytest.mark.slow
def test_many_items_are_searched_each_for_itself():
    A = bumps(*NEEDLE)[0]
    result = iv.solve(A, torch.zeros(2, 1, dtype=D), normal_prior(4), noise=1.0, num_samples=8, item_ids=[0, 1])
    alone = iv.solve(A, torch.zeros(1, 1, dtype=D), normal_prior(4), noise=1.0, num_samples=8, item_ids=[0])
    assert bool(result.certificate.passed.all())
    torch.testing.assert_close(result.samples[:, :1], alone.samples, rtol=0, atol=1e-6)


# --- the parts ----------------------------------------------------------------------------------------------------------
MATRIX = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, -1.0]], dtype=D)
DATA = torch.tensor([[1.0, -2.0], [0.3, 0.5]], dtype=D)
NOISE = 0.5


def linear(rows=slice(None)):
    """A density whose logarithm is a parabola, for two items."""
    problem = iv.Problem(iv.operators.Matrix(matrix=MATRIX), DATA[rows], noise=NOISE)
    return NoiseDensity(problem=problem, prior=normal_prior(3))


def posterior():
    covariance = torch.linalg.inv(torch.eye(3, dtype=D) + MATRIX.mT @ MATRIX / NOISE**2)
    return DATA @ MATRIX @ covariance / NOISE**2, covariance


def drawn(items):
    draws = Draws.for_rows(0, list(range(items)), [0] * items, torch.device("cpu"))
    return lambda shape, index=0: draws.normal(shape, D, step=0, index=index)


def ends(density):
    items = len(density.problem.data)
    whose = torch.arange(items).repeat(8)
    start = torch.randn(8 * items, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    return ascended(density, 3 * start, whose, 60)


def test_an_ascent_ends_at_the_maximum_and_knows_its_curvature():
    density = linear()
    found, (mean, covariance) = ends(density), posterior()
    grad = (mean[found.item] - found.u) @ torch.linalg.inv(covariance)
    promised = 0.5 * (grad * (found.covariance @ grad[..., None])[..., 0]).sum(1)
    assert float(promised.max()) < 1e-3  # nats
    torch.testing.assert_close(found.log, density.value(found.u, found.item)[0])
    near = distinct(found, 4)
    assert near.item.tolist() == [0, 1]


def test_where_nothing_is_possible_there_are_no_modes():
    problem = iv.Problem(iv.operators.from_callable(lambda x: x * math.nan, (3,), (3,)), torch.zeros(2, 3), noise=1.0)
    density = NoiseDensity(problem=problem, prior=iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3)))
    found = modes(density, ends(density), drawn(2), most=4, draws=128)
    assert not len(found.item) and not verdict(found, torch.zeros(8, 3, dtype=D), -1.0, 0.1).lacking


def test_a_mode_is_weighed():
    """Its region holds nine tenths of it by the draws; exact draws say how much of the evidence that is."""
    density, (mean, covariance) = linear(), posterior()
    found = modes(density, ends(density), drawn(2), most=4, draws=1024)
    assert found.item.tolist() == [0, 1]
    exact = density.prior.posterior(iv.operators.Matrix(matrix=MATRIX), DATA, noise=NOISE)
    z = torch.randn(20000, 3, generator=torch.Generator().manual_seed(1), dtype=D)
    for k in range(2):
        inside = found.inside(k, mean[k] + z @ torch.linalg.cholesky(covariance).mT).double()
        expected = float(exact.log_evidence[k]) + float(inside.mean().log())
        error = math.hypot(float(found.error[k]), float(inside.std() / inside.mean()) / 20000**0.5)
        assert abs(float(found.log_mass[k]) - expected) < 4 * error
        assert abs(float(inside.mean()) - 0.9) < 4 * (0.09 / 1024) ** 0.5


def test_a_weighed_mixture_has_the_posterior_and_its_evidence():
    density, (mean, covariance) = linear(slice(0, 1)), posterior()
    own = modes(density, ends(density), drawn(1), most=4, draws=1024)
    z = torch.randn(512, 3, generator=torch.Generator().manual_seed(1), dtype=D)
    members = (mean[0] + 1.5 * z @ torch.linalg.cholesky(covariance).mT)[None]
    proposal = Proposal.of(density, members, [own], [0.5])
    found = weighed(
        density,
        proposal,
        drawn(1),
        of=Reported.of(lambda x: x, density.problem, density.prior),
        num_samples=1024,
        evaluations=10**5,
    )
    exact = density.prior.posterior(iv.operators.Matrix(matrix=MATRIX), DATA[:1], noise=NOISE)
    std = covariance.diagonal().sqrt()
    assert float(((found.samples.mean(0) - mean[0]) / std).abs().max()) < 5 * (
        1024**-0.5 + float(found.info.mean_error[0])
    )
    log, se = (float(v[0]) for v in (found.info.log_evidence, found.info.log_evidence_se))
    assert abs(log - float(exact.log_evidence[0])) < 4 * se < 0.1


def test_of_draws_that_hardly_count_no_error_is_known():
    density, mean = linear(slice(0, 1)), posterior()[0]
    own = modes(density, ends(density), drawn(1), most=4, draws=1024)
    far = Modes(**{**vars(own), "centre": own.centre + 6.0, "root": 0.2 * own.root})
    members = (6 + mean[0] + torch.randn(512, 3, generator=torch.Generator().manual_seed(1), dtype=D) / 5)[None]
    proposal = Proposal.of(density, members, [far], [0.5])
    found = weighed(
        density,
        proposal,
        drawn(1),
        of=Reported.of(lambda x: x, density.problem, density.prior),
        num_samples=16,
        evaluations=10**5,
    )
    assert bool(found.info.mean_error.isnan().all()) and bool(found.info.std_error.isnan().all())


def test_an_ensemble_that_fills_no_space_gives_no_proposal():
    density = linear(slice(0, 1))
    own = modes(density, ends(density), drawn(1), most=4, draws=128)
    assert Proposal.of(density, torch.ones(1, 64, 3, dtype=D), [own], [0.5]) is None


def ball(place, log_mass, *, error=0.01, n=2):
    """A mode of signals with std 0.1 about ``place``."""
    return {
        "item": torch.tensor(0),
        "centre": torch.full((n,), place, dtype=D),
        "root": 0.1 * torch.eye(n, dtype=D),
        "log_mass": torch.tensor(log_mass, dtype=D),
        "error": torch.tensor(error, dtype=D),
        "peak": torch.full((n,), place, dtype=D),
        "middle": torch.full((n,), place, dtype=D),
        "variance": torch.full((n,), 0.01, dtype=D),
        "axes": 10 * torch.eye(n, dtype=D),
        "radius": torch.tensor(3.0, dtype=D),
    }


def balls(*each):
    return Modes(**{name: torch.stack([e[name] for e in each]) for name in each[0]})


def test_a_verdict_compares_masses_with_samples():
    x = 0.1 * torch.randn(512, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    half = torch.cat((x[:256], x[256:] + 2.0))
    here, there = ball(0.0, -3.0), ball(2.0, -3.0)
    unmet = verdict(balls(here, there), x, math.nan, math.inf)
    assert unmet.lacking and unmet.which == [1] and abs(unmet.share - 0.5) < 0.1
    assert not verdict(balls(here, there), half, math.nan, math.inf).lacking  # met
    assert not verdict(
        balls(here, ball(2.0, -8.0)), x, math.nan, math.inf
    ).lacking  # of 0.7 % the certificate says nothing
    assert not verdict(balls(here, ball(2.0, -3.0, error=0.6)), x, math.nan, math.inf).lacking  # nothing is known of it
    assert not verdict(balls(here, there), x, 4.0, 0.1).lacking  # the evidence says that both have little
    assert not verdict(balls(there), x, math.nan, math.inf).known  # nothing to compare with
    assert verdict(balls(there), x, -3.0, 0.1).lacking


def test_an_effort_has_a_least_size():
    density = linear()
    assert Effort.of(density, 100.0, long=False) is None
    assert Effort.of(density, 1e5, long=False).rounds == 1 < Effort.of(density, 1e7, long=True).rounds
    problem = iv.Problem(iv.operators.Mask(mask=torch.ones(129, dtype=torch.bool)), torch.zeros(1, 129), noise=1.0)
    large = NoiseDensity(problem=problem, prior=iv.priors.GaussianPrior(torch.zeros(129), torch.eye(129)))
    assert Effort.of(large, 1e9, long=True) is None


def test_what_is_not_searched_is_said():
    mask, prior = torch.ones(129, dtype=torch.bool), iv.priors.GaussianPrior(torch.zeros(129), torch.eye(129))
    problem, first = iv.Problem(iv.operators.Mask(mask=mask), torch.zeros(1, 129), noise=1.0), torch.zeros(1).long()
    assert "in at most 128 numbers" in UnmetModes(request=asked(problem, prior)).refusal(first, 1e9)
    small = UnmetModes(request=asked(linear().problem, normal_prior(3)))
    assert small.refusal(first, 100.0) == "a search for modes takes more than 100 evaluations"
    assert not small.refusal(first, 1e6)


def asked(problem, prior):
    def draws(items, samples):
        raise AssertionError("nothing is drawn")

    return SolveRequest(
        problem=problem,
        prior=prior,
        num_samples=1,
        seed=0,
        keys=[0, 1],
        draws=draws,
        chunk=None,
        reproducible=False,
        saved=None,
        progress=NoProgress(),
    )


@pytest.mark.slow
def test_a_search_goes_with_the_samples_that_a_budget_leaves():
    """Nobody said how many samples, and the budget leaves fewer than the default: 999 or 199 before."""
    A = iv.operators.from_callable(lambda x: x + 0.05 * x * x[:, :1], (2,), (2,))
    searched = []
    for evaluations in (75_000, 85_000):
        found = iv.solve(
            A, torch.tensor([0.5, 0.5], dtype=D), normal_prior(2), noise=1.0, budget=iv.Budget(evaluations=evaluations)
        )
        assert len(found.samples) < 999
        searched.append("optimisation" in found.certificate.looked)
    assert any(searched)


@pytest.mark.slow
def test_draws_of_which_too_few_count_replace_nothing(monkeypatch):
    """The ensemble that lacks a mode is a better answer than a few draws over and over; it stays uncertified."""
    A = bumps(*NEEDLE)[0]
    monkeypatch.setattr("invsolve.solving.importance._EFFECTIVE", 1e9)
    found = iv.solve(A, Y, normal_prior(4), noise=1.0, num_samples=400, budget=iv.Budget(evaluations=10**6))
    assert not found.certificate.reached and "a mode near" in str(found.certificate)
    near = (found.samples - torch.tensor(PLACES[1], dtype=D)).norm(dim=-1) < 0.5  # where 70 % of the mass is
    assert float(near.double().mean()) < 0.05
