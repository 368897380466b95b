"""Moment matching with learned priors: where walks start, where derivatives are taken, what answers for the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.priors import BesideLaw, NetworkPrior
from invsolve.strategies import MMPS
from invsolve.strategies.guidance.head_start import HeadStart, _widest
from invsolve.strategies.guidance.sketched_law import sketched_law

SHAPE, N = (6, 8), 48
NOISE = 0.3


class Scaled(torch.nn.Module):
    """What the network adds to the Wiener filter of the stated law: a multiple of its input."""

    def __init__(self, gain: float):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, x, level):
        return self.gain * x


def learned(gain: float = 0.0) -> NetworkPrior:
    """With ``gain`` 0 the denoiser of a Gaussian field, which the prior also states; else of something else."""
    field = iv.priors.GaussianFieldPrior(
        shape=SHAPE, spectrum=iv.priors.Matern(std=1.0, length=0.5), basis="periodic", mean=1.0
    )
    return NetworkPrior(
        network=Scaled(gain),
        shape=SHAPE,
        scale=field.scale,
        sigma_range=(1e-3, 500.0),
        law=field.law,
        mean=field.mean,
        detail=0.1,
        prediction=BesideLaw(),
    )


def problem(noise: float | torch.Tensor = NOISE, items: int = 1) -> iv.Problem:
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5
    A = iv.operators.Mask(mask=mask)
    y = A(torch.randn(items, *SHAPE, generator=torch.Generator().manual_seed(1)))
    return iv.Problem(A, y, noise=iv.noise.Gaussian(std=noise))


def dense(one: iv.Problem, prior: NetworkPrior) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the posterior under the stated law, float64, by matrices."""
    modes = prior.law.modes
    eye = torch.eye(N, dtype=torch.float64).view(N, *SHAPE)
    S = modes.to(dtype=torch.float64).synthesis(eye).reshape(N, N).T
    C = S @ torch.diag(prior.law.variances.double().flatten()) @ S.T
    A = one.operator.to(dtype=torch.float64)(eye).reshape(N, -1).T
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + NOISE**2 * torch.eye(len(A), dtype=torch.float64))
    mean = prior.mean.double().flatten()
    return mean + gain @ (one.data[0].double().flatten() - A @ mean), C - gain @ A @ C


def test_a_walk_starts_from_the_posterior_under_the_stated_law():
    """Mean and covariance of 20,000 starts, beside the dense posterior and the noise of the level: 5 standard errors."""
    one, prior, n = problem(), learned(), 20_000
    start = HeadStart.find(one, prior)
    mean, covariance = dense(one, prior)
    from invsolve.core.random import Draws
    from invsolve.strategies.base import Run

    rows = one.take(torch.zeros(n, dtype=torch.int64))
    run = Run(problem=rows, prior=prior, draws=Draws.for_rows(0, [0] * n, list(range(n)), torch.device("cpu")))
    x = start.take(torch.zeros(n, dtype=torch.int64)).draw(run, start.level).double().reshape(n, N)
    target = covariance + float(start.level) ** 2 * torch.eye(N, dtype=torch.float64)
    z = (x.mean(0) - mean) / (target.diagonal() / n).sqrt()
    assert float(z.abs().max()) < stats.norm.isf(1e-7 / N)
    ratio = torch.linalg.eigvalsh(torch.linalg.solve(target, torch.cov(x.T)))
    assert abs(float(ratio.mean()) - 1) < 5 * (2 / (n * N)) ** 0.5


def test_the_level_of_the_start_drowns_what_the_data_leave_open():
    """Two and a half stds of the widest direction of the dense posterior, which power iteration gives to 15 %."""
    one, prior = problem(), learned()
    rms = float(prior.law.variances.mean()) ** 0.5
    start = HeadStart.find(one, prior)
    widest = float(torch.linalg.eigvalsh(dense(one, prior)[1]).max()) ** 0.5
    assert 0.85 * widest <= float(_widest(one, prior.law, start.system)) <= widest * (1 + 1e-3)
    assert float(start.level) == pytest.approx(max(6 * rms, 2.5 * float(_widest(one, prior.law, start.system))))
    blind = iv.Problem(one.operator, one.data, noise=iv.noise.Gaussian(std=1e4))
    mode = float(prior.law.variances.max()) ** 0.5
    assert 6 * rms < 0.85 * 2.5 * mode <= float(HeadStart.find(blind, prior).level) <= 2.5 * mode * (1 + 1e-3)


def test_items_have_starts_of_their_own():
    """Two items of other noise levels: each starts where it does alone."""
    std = torch.tensor([0.1, 1e3]).view(2, 1, 1)
    both, prior = problem(std, items=2), learned()
    level = HeadStart.find(both, prior).level
    alone = torch.tensor([float(HeadStart.find(both.take(torch.tensor([b])), prior).level) for b in range(2)])
    assert torch.allclose(level, alone, rtol=1e-4) and level[1] > level[0]


def test_samples_are_those_of_the_law_where_the_network_is_it():
    """1,000 samples of `MMPS()`, whose Jacobian, two products, law and start must agree: mean and std within 5 errors."""
    one, prior, n = problem(), learned(), 1000
    result = iv.solve(one, prior, strategy=MMPS(), num_samples=n)
    mean, covariance = dense(one, prior)
    std = covariance.diagonal().sqrt()
    z = (result.samples[:, 0].double().reshape(n, N).mean(0) - mean) / std
    assert float(z.square().mean().sqrt()) < 1.5 * n**-0.5
    ratio = result.samples[:, 0].double().reshape(n, N).std(0) / std
    assert abs(float(ratio.mean()) - 1) < 5 * (1 / (2 * n * 10)) ** 0.5  # some ten independent directions


def test_the_jacobian_is_taken_where_it_pays():
    """No product above twice the rms of the signal nor below half of the best known std, at most two a level between."""
    one, prior = problem(), learned(0.01)
    rms = float(prior.law.variances.mean()) ** 0.5
    for levels, least, most in (
        ([300.0, 60.0, 10.0, 2.1 * rms], 0, 0),
        ([1.9 * rms, rms, 0.5 * rms], 3, 6),
        ([0.04, 0.02, 0.01], 0, 0),  # what is known best, by the finest that the prior resolves: to 0.1
    ):
        grid = torch.tensor([*levels, 0.0])
        result = iv.solve(one, prior, strategy=MMPS(grid=grid), num_samples=2)
        assert least <= result.vjps <= most


@pytest.mark.parametrize("gain", [0.0, 0.02])
def test_the_law_answers_for_what_two_products_leave(gain):
    """Where the network is the law the sum is the exact update; where it is not, nearer to it than the law alone."""
    one, prior = problem(), learned(gain)
    prior, one = prior.to(dtype=torch.float64), one.to(dtype=torch.float64)
    x = prior.mean + torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    t = 0.8
    eye = torch.eye(N, dtype=torch.float64).view(N, *SHAPE)
    J = prior.pullback(x.expand(N, *SHAPE), t)[1](eye).reshape(N, N)
    A = one.operator(eye).reshape(N, -1).T
    D = prior.denoise(x, t)
    residual = (one.data - one.operator(D)).flatten()
    V = t**2 * (J + J.T) / 2
    right = V @ A.T @ torch.linalg.solve(A @ V @ A.T + NOISE**2 * torch.eye(len(A), dtype=torch.float64), residual)
    found = {}
    for name in ("auto", "law"):
        bound = MMPS(covariance=name, rtol=1e-8).guidance.bind(one, prior)
        found[name] = float(((bound(x, t)[0] - D).flatten() - right).norm() / right.norm())
    if gain == 0:
        assert found["auto"] < 1e-5 and found["law"] < 1e-6
    else:
        assert found["auto"] < 0.5 * found["law"]


def test_steps_are_few_where_a_walk_has_a_head_start():
    """16, unless said or the data are curved; a strategy that was changed keeps its number."""
    one, prior = problem(), learned()
    assert iv.solve(one, prior, strategy=MMPS(), num_samples=1).nfe == 16
    assert iv.solve(one, prior, strategy=MMPS(num_steps=7), num_samples=1).nfe == 7
    assert iv.solve(one, prior, strategy=MMPS(covariance="jacobian"), num_samples=1).nfe == 50
    assert iv.solve(one, prior, strategy=replace(MMPS(), num_steps=9), num_samples=1).nfe == 9
    counts = iv.Problem(one.operator, one.data.abs().round(), noise=iv.noise.Poisson(counts_per_unit=10.0))
    assert MMPS().settled(counts, prior).num_steps == 50
    with pytest.raises(iv.errors.InputError, match="num_steps"):
        MMPS(num_steps=0)


def field(kind: str = "real", mean: float = 0.0) -> iv.priors.GaussianFieldPrior:
    return iv.priors.GaussianFieldPrior(
        shape=SHAPE, spectrum=iv.priors.Matern(std=1.0, length=0.5), basis="periodic", mean=mean, kind=kind
    )


def denoiser_only(apart: float = 0.0, kind: str = "real", mean: float = 0.0) -> iv.priors.Prior:
    """A Gaussian field, or two of them on either side of its mean, known by its denoiser only."""
    known = field(kind, mean)
    law, centre = known.law, apart * torch.ones(SHAPE) / N**0.5

    def denoise(x, sigma):
        level = sigma.reshape(-1).expand(len(x))
        if not apart:
            return law.denoise(x, level)
        odd = law.modes.synthesis(
            law.modes.analysis(centre.expand(x.shape)) / (law.variances + level.view(-1, 1, 1) ** 2)
        )
        share = torch.tanh((x * odd).flatten(1).sum(1)).view(-1, 1, 1)
        return law.denoise(x - share * centre, level) + share * centre

    return iv.priors.from_denoiser(denoise, shape=SHAPE, scale=known.scale, kind=kind, mean=known.mean)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_the_covariance_of_a_denoiser_is_found_in_much_noise(kind):
    """That of a Gaussian, to what float32 leaves of gains of a hundredth."""
    stated = field(kind, mean=1.0)
    law = sketched_law(denoiser_only(kind=kind, mean=1.0))
    unit = torch.eye(N, dtype=stated.mean.dtype).view(N, *SHAPE)

    def covariance(law):
        return law.modes.synthesis(law.variances * law.modes.adjoint(unit))

    found, right = covariance(law), covariance(stated.law)
    assert float((found - right).norm() / right.norm()) < 1e-3


def test_no_covariance_is_read_off_where_it_is_stated_or_dear():
    stated, large = learned(), iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(33, 32), scale=1.0)
    assert sketched_law(stated) is None and sketched_law(large) is None


@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_a_first_guess_saves_products_and_changes_nothing(apart):
    """Under the covariance in much noise solves start; where that is the right one, one product confirms it."""
    prior, one = denoiser_only(apart), problem()
    guidance = MMPS().guidance
    bound = guidance.bind(one, prior)
    plain = replace(bound, guess=None)
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    for t in (10.0, 0.5):
        with tally() as few:
            found = bound(x, t)[0]
        with tally() as many:
            right = plain(x, t)[0]
        assert torch.allclose(found, right, atol=1e-4)
        assert few["vjp"] <= many["vjp"]
        if apart == 0:
            assert few["vjp"] <= 2 < many["vjp"]
