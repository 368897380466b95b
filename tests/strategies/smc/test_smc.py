"""SMC against closed forms: exact twists, mixtures, evidence, curved operators, independence, particles that die."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.core.checkpoint import Checkpoint
from invsolve.core.random import Draws
from invsolve.core.resampling import relative_variance, systematic
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.priors.base import Prior, Pullback
from invsolve.progress import NoProgress
from invsolve.solving.solver import StrategySolver
from invsolve.solving.spending import Amount
from invsolve.strategies import SMC
from invsolve.strategies.smc.kernels import cholesky, positive

D = torch.float64


def matern(n: int, length: float = 3.0) -> Tensor:
    r = (torch.arange(n, dtype=D)[:, None] - torch.arange(n)).abs() * math.sqrt(3) / length
    return (1 + r) * torch.exp(-r)


def random_mixture(d: int, k: int, seed: int) -> tuple[iv.priors.GaussianMixturePrior, iv.operators.Matrix, Tensor]:
    """k random modes seen through d // 2 random rows with noise .3; every draw from its own seed."""
    rng = torch.Generator().manual_seed(seed)
    factors = torch.randn(k, d, d, generator=rng, dtype=D) / math.sqrt(d)
    weights = torch.rand(k, generator=rng, dtype=D) + 0.2
    prior = iv.priors.GaussianMixturePrior(
        weights=weights / weights.sum(),
        means=3 * torch.randn(k, d, generator=rng, dtype=D),
        covariances=0.5 * factors @ factors.mT + 0.1 * torch.eye(d, dtype=D),
    )
    A = torch.randn(max(1, d // 2), d, generator=rng, dtype=D) / math.sqrt(d)
    y = A @ prior.sample(1, seed=seed)[0] + 0.3 * torch.randn(len(A), generator=rng, dtype=D)
    return prior, iv.operators.Matrix(matrix=A), y


class Denoiser(Prior):
    """A prior known by its denoiser alone: no density, no law."""

    def __init__(self, exact: iv.priors.GaussianMixturePrior) -> None:
        self.exact, self.shape, self.mean = exact, exact.shape, exact.mean
        self.scale, self.detail = exact.scale, exact.detail

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.exact._denoise(x, sigma)

    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pullback]:
        return self.exact._pullback(x, sigma)


def evidence(result: iv.Result) -> tuple[Tensor, Tensor]:
    """Log-evidence and its standard error, one for each item (or 0-d)."""
    return result.info["log_evidence"][0], result.info["log_evidence_se"][0]


def assert_right(
    result: iv.Result, truth: iv.priors.GaussianMixturePrior, prior: iv.priors.GaussianMixturePrior
) -> None:
    """The bounds of the mixtures: mode weights 0.05, mean 0.1 sd, std ratios 0.95 to 1.05, evidence in 5 s.e."""
    got = (prior.responsibilities(result.samples, 1e-3) * result.weights[:, None].to(D)).sum(0)
    assert float((got - truth.weights[0]).abs().max()) < 0.05
    sd = truth.std[0]
    assert float(((result.mean - truth.mean[0]) / sd).abs().max()) < 0.1
    assert 0.95 < float((result.std / sd).min()) and float((result.std / sd).max()) < 1.05
    value, error = evidence(result)
    assert float((value - truth.log_evidence[0]).abs()) < 5 * float(error)


# --- what is exact ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("num_steps", [2, 25])
def test_gaussian_twist_is_exact_in_any_number_of_steps(num_steps: int) -> None:
    prior = iv.priors.GaussianPrior(mean=torch.ones(12, dtype=D), covariance=matern(12))
    A = iv.operators.Subsample(index=torch.arange(0, 12, 3), in_shape=(12,))
    y = A(prior.sample(1, seed=3)) + 0.1
    result = iv.solve(A, y, prior, noise=0.1, strategy=SMC(num_steps=num_steps), weighted=True, num_samples=2000)
    truth = prior.posterior(A, y, 0.1)
    value, error = evidence(result)
    assert float(result.ess) > 0.9 * 2000
    assert float(result.info["resamplings"].max()) == 0
    assert float(error) < 0.01  # the weights' own spread, of the start only
    assert float((value - truth.log_evidence).abs()) < 5 * float(error)
    # 2,000 nearly independent draws: mean to 1/sqrt(2000) sd, std to 1/sqrt(4000), the largest of 12 in five s.e.
    assert float(((result.mean - truth.mean) / truth.std).abs().max()) < 5 / math.sqrt(2000)
    assert float((result.std / truth.std - 1).abs().max()) < 5 / math.sqrt(4000)


@pytest.mark.parametrize("step", [0, 3, 23])
def test_particles_can_be_stopped_at_any_level(step: int) -> None:
    """One step from there to no noise: exact where the posterior is Gaussian; what they say of the evidence is dropped."""
    prior = iv.priors.GaussianPrior(mean=torch.ones(12, dtype=D), covariance=matern(12))
    A = iv.operators.Subsample(index=torch.arange(0, 12, 3), in_shape=(12,))
    y = A(prior.sample(1, seed=3)) + 0.1
    asked = []

    def over(calls: int, power: object, ahead: Amount) -> bool:
        asked.append((calls, ahead.evaluations))
        return len(asked) > step

    solver = StrategySolver(prior=prior, strategy=SMC(), over=over)
    result, truth = solver.draw(iv.Problem(A, y, noise=0.1), num_samples=2000, seed=0), prior.posterior(A, y, 0.1)
    assert len(asked) == step + 1 and result.log_evidence.isnan().all() and float(result.ess) > 0.9 * 2000
    assert float(((result.mean - truth.mean) / truth.std).abs().max()) < 5 / math.sqrt(2000)
    assert float((result.std / truth.std - 1).abs().max()) < 5 / math.sqrt(4000)


def test_complex_signals_and_coloured_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 5, generator=rng, dtype=torch.complex128)
    prior = iv.priors.GaussianPrior(
        mean=torch.zeros(5, dtype=torch.complex128), covariance=matern(5), noise_scale=1 + torch.arange(5, dtype=D)
    )
    A = iv.operators.Matrix(matrix=matrix)
    y = A(prior.sample(1, seed=1))
    result, truth = (
        iv.solve(A, y, prior, noise=0.2, strategy=SMC(num_steps=5), weighted=True, num_samples=1000),
        prior.posterior(A, y, 0.2),
    )
    value, error = evidence(result)
    assert float(result.ess) > 900 and float((value - truth.log_evidence).abs()) < 5 * float(error)
    assert float(((result.mean - truth.mean).abs() / truth.std).max()) < 5 / math.sqrt(1000)


@pytest.mark.parametrize(("d", "k", "seed"), [(2, 3, 0), (3, 1, 1), (5, 4, 2), (8, 2, 3), (12, 3, 4), (16, 4, 5)])
def test_mixtures(d: int, k: int, seed: int) -> None:
    prior, A, y = random_mixture(d, k, seed)
    result = iv.solve(A, y, prior, noise=0.3, strategy=SMC(), weighted=True, num_samples=4096, seed=seed)
    assert_right(result, prior.posterior(A, y, 0.3), prior)
    assert result.log_weights is not None and 25 <= result.nfe < 45  # copies and moves take more


def test_two_far_modes_that_the_data_cannot_tell_apart() -> None:
    # Moment matching alone gets these weights wrong; the truth is .5 + .5 by symmetry, shifted by the prior's weights.
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.2, 0.8], dtype=D),
        means=torch.tensor([[-4.0, 1.0], [4.0, 1.0]], dtype=D),
        covariances=torch.stack([0.25 * torch.eye(2, dtype=D), torch.eye(2, dtype=D)]),
    )
    A, y = iv.operators.Matrix(matrix=torch.tensor([[0.3, 1.0]], dtype=D)), torch.tensor([1.0], dtype=D)
    result = iv.solve(A, y, prior, noise=0.5, strategy=SMC(), weighted=True, num_samples=4096)
    assert_right(result, prior.posterior(A, y, 0.5), prior)


def test_a_denoiser_without_density() -> None:
    prior, A, y = random_mixture(5, 3, 2)
    result = iv.solve(A, y, Denoiser(prior), noise=0.3, strategy=SMC(num_steps=40), weighted=True, num_samples=4096)
    truth = prior.posterior(A, y, 0.3)
    assert float(((result.mean - truth.mean[0]) / truth.std[0]).abs().max()) < 0.1
    assert float((result.std / truth.std[0] - 1).abs().max()) < 0.06
    assert result.vjps == 40 * 5  # a product for every number of the signal and level


def test_sparse_prior_against_all_its_parts() -> None:
    d, weight, slab, spike = 3, 0.4, 1.0, 0.1
    prior = iv.priors.SparsePrior(
        shape=(d,), coefficients=iv.priors.SpikeSlab(weight=weight, spike=spike, slab=slab), dtype=D
    )
    on = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=D)] * d)
    exact = iv.priors.GaussianMixturePrior(
        weights=(weight**on * (1 - weight) ** (1 - on)).prod(1),
        means=torch.zeros(len(on), d, dtype=D),
        covariances=torch.diag_embed(on * slab**2 + (1 - on) * spike**2),
    )
    A, y = iv.operators.Matrix(matrix=torch.tensor([[1.0, 0.5, -1.0]], dtype=D)), torch.tensor([0.8], dtype=D)
    result, truth = (
        iv.solve(A, y, prior, noise=0.2, strategy=SMC(), weighted=True, num_samples=8192),
        exact.posterior(A, y, 0.2),
    )
    value, error = evidence(result)
    assert float((value - truth.log_evidence[0]).abs()) < 5 * float(error) < 0.2
    assert float(((result.mean - truth.mean[0]) / truth.std[0]).abs().max()) < 0.1
    assert float((result.std / truth.std[0] - 1).abs().max()) < 0.07


def test_evidence_errors_are_as_large_as_stated() -> None:
    off = []
    for seed in range(20):
        prior, A, y = random_mixture(2 + seed % 4, 1 + seed % 4, 100 + seed)
        value, error = evidence(
            iv.solve(A, y, prior, noise=0.3, strategy=SMC(), weighted=True, num_samples=512, seed=seed)
        )
        off.append(float((value - prior.posterior(A, y, 0.3).log_evidence[0]).abs() / error))
        assert float(error) < 0.3
    # Of 20 with probability .95 each, fewer than 15 within two have probability 3e-4.
    assert sum(v < 2 for v in off) >= 15


@pytest.mark.parametrize("rows", [1, 3])
def test_curved_operator_keeps_both_modes(rows: int) -> None:
    # y = x^2 + n in 1-D by quadrature; `rows` copies of the datum, with m > n and the noise of their mean the same.
    A = iv.operators.from_callable(lambda x: (x**2).expand(-1, rows), in_shape=(1,), out_shape=(rows,))
    prior = iv.priors.GaussianPrior(mean=torch.full((1,), 0.3, dtype=D), covariance=torch.eye(1, dtype=D))
    std = 0.2 * math.sqrt(rows)
    y = torch.full((1, rows), 1.5, dtype=D)
    x = torch.linspace(-6, 6, 20001, dtype=D)
    logs = -0.5 * (x - 0.3) ** 2 - 0.5 * rows * ((1.5 - x**2) / std) ** 2
    logs = logs - 0.5 * math.log(2 * math.pi) - rows * (math.log(std) + 0.5 * math.log(2 * math.pi))
    total = torch.trapezoid(logs.exp(), x)
    mean = torch.trapezoid(x * logs.exp(), x) / total
    sd = (torch.trapezoid(x**2 * logs.exp(), x) / total - mean**2).sqrt()
    result = iv.solve(A, y, prior, noise=std, strategy=SMC(), weighted=True, num_samples=4096)
    value, error = evidence(result)
    assert float((value - total.log()).abs()) < 5 * float(error) < 0.1
    assert float((result.mean - mean).abs() / sd) < 0.1 and float((result.std / sd - 1).abs()) < 0.05


def test_more_data_than_unknowns() -> None:
    prior, _, _ = random_mixture(3, 3, 1)
    A = iv.operators.Matrix(matrix=torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=D))
    y = A(prior.sample(1, seed=3))
    result, truth = (
        iv.solve(A, y, prior, noise=0.3, strategy=SMC(), weighted=True, num_samples=2000),
        prior.posterior(A, y, 0.3),
    )
    value, error = evidence(result)
    assert float((value - truth.log_evidence).abs()) < 5 * float(error)
    assert float(((result.mean - truth.mean) / truth.std).abs().max()) < 5 / math.sqrt(1500)


def test_large_signals_take_steps_without_covariance() -> None:
    # A mixture of one part: a Gaussian law that does not say so.
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.ones(1, dtype=D), means=torch.zeros(1, 150, dtype=D), covariances=matern(150, 40.0)
    )
    A = iv.operators.Subsample(index=torch.arange(5, 150, 30), in_shape=(150,))
    y, strategy = A(prior.sample(1, seed=1)), SMC(num_steps=200)
    result, truth = (
        iv.solve(A, y, prior, noise=0.1, strategy=strategy, weighted=True, num_samples=128),
        prior.posterior(A, y, 0.1),
    )
    # First order in the step: the twist is exact, the kernels are not.
    assert float(result.ess) > 0.5 * 128
    assert float(((result.mean - truth.mean) / truth.std).square().mean().sqrt()) < 0.2
    assert 0.85 < float((result.std / truth.std).square().mean().sqrt()) < 1.1


# --- items, seeds, particles -----------------------------------------------------------------------------------------
def test_items_are_independent() -> None:
    prior, A, y = random_mixture(4, 3, 7)
    batch = torch.stack([y, y + 1.0, y - 2.0])
    noise = iv.noise.Gaussian(std=torch.tensor([[0.3], [0.1], [0.6]], dtype=D))  # a grid for every item
    many = iv.solve(A, batch, prior, noise=noise, strategy=SMC(), weighted=True, num_samples=256)
    one = iv.solve(A, batch[1:2], prior, noise=0.1, strategy=SMC(), weighted=True, num_samples=256, item_ids=[1])
    torch.testing.assert_close(many.samples[:, 1], one.samples[:, 0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(many.weights[:, 1], one.weights[:, 0], rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(many.info["log_evidence"][:, 1], one.info["log_evidence"][:, 0])
    truth = prior.posterior(A, batch, noise)
    assert bool(((many.mean - truth.mean).abs() / truth.std < 0.5).all())


def test_seeds() -> None:
    prior, A, y = random_mixture(3, 2, 7)
    a, b, c = (
        iv.solve(A, y, prior, noise=0.3, strategy=SMC(num_steps=8), weighted=True, num_samples=64, seed=s)
        for s in (1, 1, 2)
    )
    assert torch.equal(a.samples, b.samples) and torch.equal(a.weights, b.weights)
    assert not torch.equal(a.samples, c.samples)


class Changed:
    """Draws with the rows permuted, and those of some rows of some step made NaN."""

    def __init__(self, inner: Draws, order: Tensor | None = None, step: int = -9, dead: Tensor | None = None) -> None:
        self.inner, self.order, self.step, self.dead = inner, order, step, dead

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        z = self.inner.normal(shape, dtype, step=step, index=index)
        if self.order is not None and len(z) == len(self.order):  # not of the items
            z = z[self.order]
        if self.dead is not None and step == self.step and index == 0:
            z[self.dead] = torch.nan
        return z

    def take(self, rows: Tensor) -> Changed:  # not called by SMC
        raise AssertionError


def changed(order: Tensor | None = None, step: int = -9, dead: Tensor | None = None):  # type: ignore[no-untyped-def]
    def draws(items: list[int], samples: list[int]) -> Changed:
        return Changed(Draws.for_rows(0, items, samples, torch.device("cpu")), order, step, dead)

    return draws


def test_permuted_particles_give_permuted_samples() -> None:
    prior, A, y = random_mixture(3, 2, 3)
    strategy = SMC(resample_below=0.0)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    a = iv.solve(A, y, prior, noise=0.3, strategy=strategy, weighted=True, num_samples=100, draws=changed())
    b = iv.solve(A, y, prior, noise=0.3, strategy=strategy, weighted=True, num_samples=100, draws=changed(order))
    torch.testing.assert_close(a.samples[order], b.samples)
    torch.testing.assert_close(a.mean, b.mean)
    # The evidence is seen from both sides of a fit, which does not know the particles' order but depends on it.
    (value, error), (other, its) = evidence(a), evidence(b)
    assert float((value - other).abs()) < 5 * math.hypot(float(error), float(its))


@pytest.mark.parametrize("step", [0, 5, 25])  # of the start, of a move, of the last move
@pytest.mark.parametrize("resample_below", [0.0, 1.0])
def test_a_particle_that_becomes_nan_poisons_nobody(step: int, resample_below: float) -> None:
    prior, A, y = random_mixture(3, 2, 3)
    dead = torch.tensor([3, 17])
    strategy = SMC(resample_below=resample_below)
    result = iv.solve(
        A, y, prior, noise=0.3, strategy=strategy, weighted=True, num_samples=1000, draws=changed(None, step, dead)
    )
    truth = prior.posterior(A, y, 0.3)
    assert bool(torch.isfinite(result.samples).all()) and bool(torch.isfinite(result.mean).all())
    if step == 25 or resample_below == 0:
        assert result.weights[dead].tolist() == [0.0, 0.0]
    else:  # resampled since: their places are taken by others
        assert float(result.weights[dead].min()) > 0
    value, error = evidence(result)
    assert float((value - truth.log_evidence[0]).abs()) < 5 * float(error) + 0.01  # 2 of 1,000 are lost
    assert float(((result.mean - truth.mean[0]) / truth.std[0]).abs().max()) < 0.3


def test_an_item_without_particles_is_lost_alone() -> None:
    prior, A, y = random_mixture(3, 2, 3)
    dead = torch.arange(1, 200, 2)  # all of item 1 of 2
    batch = torch.stack([y, y])
    result = iv.solve(
        A,
        batch,
        prior,
        noise=0.3,
        strategy=SMC(),
        weighted=True,
        num_samples=100,
        draws=changed(None, 4, dead),
        throw=False,
    )
    assert bool(result.failed[:, 1].all()) and not bool(result.failed[:, 0].any())
    assert bool(torch.isnan(result.mean[1]).all()) and bool(torch.isfinite(result.mean[0]).all())


def test_resampling_at_every_step_is_still_right() -> None:
    prior, A, y = random_mixture(3, 2, 3)
    result = iv.solve(A, y, prior, noise=0.3, strategy=SMC(resample_below=1.0), weighted=True, num_samples=4096)
    truth = prior.posterior(A, y, 0.3)
    assert float(result.info["resamplings"][0]) > 10  # not where all weights are equal to the last bit
    assert float(((result.mean - truth.mean[0]) / truth.std[0]).abs().max()) < 0.15
    value, error = evidence(result)
    assert float((value - truth.log_evidence[0]).abs()) < 5 * float(error)


def test_the_grid_can_be_given() -> None:
    prior, A, y = random_mixture(3, 2, 3)
    strategy = SMC(grid=torch.tensor([40.0, 8.0, 2.0, 0.7, 0.3, 0.1, 0.03]))
    assert strategy.num_steps == 7
    result = iv.solve(A, y, prior, noise=0.3, strategy=strategy, weighted=True, num_samples=4096)
    truth = prior.posterior(A, y, 0.3)
    assert float(((result.mean - truth.mean[0]) / truth.std[0]).abs().max()) < 0.15


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Interrupt(NoProgress):
        def step(self, done: int, total: int) -> None:
            if done > 14 / 25 * total:
                raise Stop

    prior, A, y = random_mixture(3, 2, 3)
    batch = torch.stack([y, y + 1])
    whole = iv.solve(A, batch, prior, noise=0.3, strategy=SMC(), weighted=True, num_samples=32)
    saved = Checkpoint(path=tmp_path / "run", every_steps=4)
    with pytest.raises(Stop):
        iv.solve(
            A,
            batch,
            prior,
            noise=0.3,
            strategy=SMC(),
            weighted=True,
            num_samples=32,
            checkpoint=saved,
            progress=Interrupt(),
        )
    again = iv.solve(A, batch, prior, noise=0.3, strategy=SMC(), weighted=True, num_samples=32, checkpoint=saved)
    assert torch.equal(whole.samples, again.samples) and torch.equal(whole.weights, again.weights)
    assert torch.equal(whole.info["log_evidence"], again.info["log_evidence"])


# --- the parts -------------------------------------------------------------------------------------------------------
def test_systematic_resampling_copies_floor_or_ceil() -> None:
    rng = torch.Generator().manual_seed(0)
    weights = torch.softmax(2 * torch.randn(50, 4, generator=rng, dtype=D), 0)
    parents = systematic(weights, torch.rand(4, generator=rng, dtype=D))
    for item in range(4):
        copies = torch.bincount(parents[:, item], minlength=50)
        expected = 50 * weights[:, item]
        assert bool((copies >= expected.floor()).all()) and bool((copies <= expected.ceil()).all())


def test_relative_variance() -> None:
    weights = torch.softmax(torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=D), 0)
    own = torch.arange(40)[:, None].expand(40, 2)
    direct = (40 * weights).var(0, unbiased=False) / 40  # of the mean of weights with mean 1
    direct = direct / (1 - weights.square().sum(0))  # of few
    torch.testing.assert_close(relative_variance(weights, own), direct)
    one = torch.zeros_like(own)  # all descend from one: nothing is known
    assert (relative_variance(weights, one) > 1e9).all()


@pytest.mark.parametrize("per_row", [False, True])
def test_moments_of_a_mixture_are_those_of_its_pullback(per_row: bool) -> None:
    prior, _, _ = random_mixture(4, 3, 1)
    x = prior.sample(6, seed=0) + 0.5
    level: float | Tensor = torch.linspace(0.1, 3, 6, dtype=D) if per_row else 0.7
    value, V = prior.moments(x, level)
    torch.testing.assert_close(value, prior.denoise(x, level))
    torch.testing.assert_close(V, Denoiser(prior).moments(x, level)[1])
    assert float(torch.linalg.eigvalsh(V).min()) > 0


@pytest.mark.parametrize("per_row", [False, True])
def test_moments_of_a_sparse_prior_are_those_of_its_pullback(per_row: bool) -> None:
    prior = iv.priors.SparsePrior(shape=(2, 4), coefficients=iv.priors.Laplace(scale=0.5), transform="dct", dtype=D)
    x = prior.sample(3, seed=0) + 0.5
    level = torch.tensor([0.1, 0.5, 2.0], dtype=D).view(-1, 1, 1) if per_row else torch.tensor(0.7, dtype=D)
    value, V = prior.moments(x, level)
    torch.testing.assert_close(value, prior.denoise(x, level))
    torch.testing.assert_close(V, Prior._moments(prior, x, level)[1])


def test_moments_of_complex_signals() -> None:
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3, dtype=torch.complex128), covariance=matern(3))
    _, V = prior.moments(prior.sample(2, seed=0), 0.5)
    one = torch.linalg.inv(torch.linalg.inv(matern(3)) + 4 * torch.eye(3, dtype=D))
    torch.testing.assert_close(V, torch.stack([torch.kron(one.contiguous(), torch.eye(2, dtype=D))] * 2))


def test_indefinite_covariances_are_mended_row_by_row() -> None:
    good, bad = torch.eye(2, dtype=D), torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=D)
    lost = torch.full((2, 2), torch.nan, dtype=D)
    out, none = positive(torch.stack([good, bad, lost]), torch.tensor(1e-9, dtype=D))
    assert none is None
    assert torch.equal(out[0], good) and bool(torch.isnan(out[2]).all())
    torch.testing.assert_close(out[1], torch.full((2, 2), 1.5, dtype=D))  # eigenvalue 3 on (1, 1) / sqrt 2
    cross = torch.tensor([[1.0, 5.0], [3.0, 5.0]], dtype=D).expand(2, 2, 2)
    _, kept = positive(torch.stack([good, bad]), torch.tensor(1e-9, dtype=D), cross)
    assert kept is not None and torch.equal(kept[0], cross[0])
    torch.testing.assert_close(kept[1], torch.tensor([[2.0, 5.0], [2.0, 5.0]], dtype=D))  # what is along (1, 1)
    roots = cholesky(torch.stack([good, bad]))
    assert torch.equal(roots[0], good) and bool(torch.isnan(roots[1].diagonal()).all())


def test_a_denoiser_with_a_falling_direction_fails_no_row() -> None:
    """As of a network: in some direction D falls, and ``1 + H V H^T`` is no covariance. Too large for dense forms."""
    n = 140
    sign = torch.where(torch.arange(n) < 2, -1.0, 1.0)
    falling = iv.priors.from_denoiser(lambda x, sigma: sign * x / (1 + sigma**2), shape=(n,), scale=1.0)
    operator, y = iv.operators.Mask(mask=torch.arange(n) < 40), (torch.arange(n) < 40).float()
    result = iv.solve(operator, y, falling, noise=0.3, strategy=SMC(num_steps=8), weighted=True, num_samples=64, seed=0)
    assert result.status is iv.Status.SUCCESS and bool(result.weights.isfinite().all())
    # Data along it say nothing, and others what they do: 1 / 1.09 on average, and not further from the data than the
    # prior is.
    assert abs(float(result.mean[2:40].mean()) - 1 / 1.09) < 0.1 and float(result.mean[:2].min()) > -0.5


# --- what is refused -------------------------------------------------------------------------------------------------
def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="num_steps"):
        SMC(num_steps=1)
    with pytest.raises(InputError, match="resample_below"):
        SMC(resample_below=1.5)
    with pytest.raises(InputError, match="moves"):
        SMC(moves=-1)
    with pytest.raises(InputError, match="tempering"):
        SMC(tempering=-0.1)
    with pytest.raises(InputTypeError, match="guidance"):
        SMC(guidance="MMPS")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="grid"):
        SMC(grid=torch.tensor([[2.0, 1.0], [3.0, 1.0]]))


def test_what_is_missing_is_said() -> None:
    prior = iv.priors.GaussianFieldPrior(shape=(50, 60), spectrum=iv.priors.Matern(std=1.0, length=0.2))
    A = iv.operators.Mask(mask=torch.ones(50, 60, dtype=torch.bool))
    with pytest.raises(UnsupportedError, match="3000 and 3000"):
        iv.solve(A, torch.zeros(50, 60), prior, noise=0.1, strategy=SMC(), weighted=True)
    box = iv.operators.from_callable(lambda x: x, in_shape=(2,), out_shape=(2,), kind="black box")
    small = iv.priors.GaussianPrior(mean=torch.zeros(2), covariance=torch.eye(2))
    with pytest.raises(UnsupportedError, match="black box"):
        iv.solve(box, torch.zeros(2), small, noise=0.1, strategy=SMC(), weighted=True)

    class Coloured(Denoiser):
        def noise(self, z: Tensor) -> Tensor:
            return 2 * z

    mixture, B, y = random_mixture(2, 2, 0)
    with pytest.raises(UnsupportedError, match="white diffusion noise"):
        iv.solve(B, y, Coloured(mixture), noise=0.1, strategy=SMC(), weighted=True)


def test_particles_of_an_item_are_not_split() -> None:
    prior, A, y = random_mixture(2, 2, 0)
    bound = SMC().bind(iv.Problem(A, torch.stack([y, y]), noise=0.3), prior)
    with pytest.raises(UnsupportedError, match="run together"):
        bound.take(torch.tensor([0, 1, 0]))
    with pytest.raises(UnsupportedError, match="run together"):
        bound.take(torch.tensor([0, 1, 1, 0]))
