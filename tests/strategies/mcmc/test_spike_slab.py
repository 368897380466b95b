"""Blocks of two coefficients: against the posterior by enumeration of supports, and against one-dimensional laws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.operators import Matrix
from invsolve.priors import GaussianFieldPrior, Laplace, Matern, SparsePrior, SpikeSlab
from invsolve.priors.exact.quantiles import spike_slab_inverse, spike_slab_transport
from invsolve.strategies import NoiseMCMC
from invsolve.strategies.mcmc.spike_slab import Sites

DTYPE = torch.float64
N, STD, CHAINS = 4, 0.3, 8192


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


MATRIX = normal(0, 3, N)  # fewer data than coefficients: supports explain each other's data
DATA = torch.tensor([[1.2, -0.4, 0.9], [0.1, 2.0, -0.6]], dtype=DTYPE)


def prior(spike: float, transform: str = "identity") -> SparsePrior:
    law = SpikeSlab(weight=0.3, slab=1.5, spike=spike)
    return SparsePrior(shape=(N,), coefficients=law, transform=transform, mean=torch.full((N,), 0.2, dtype=DTYPE))


def enumerated(made: SparsePrior, matrix: Tensor, y: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance of the coefficients, and of each the probability of the slab, given y, ``beta`` a power."""
    law = made.coefficients
    unit = torch.eye(N, dtype=DTYPE)
    B = matrix @ made.law.modes.synthesis(unit).mT
    noise = STD**2 / beta * torch.eye(len(y), dtype=DTYPE)
    residual = y - matrix @ made.mean
    logs, means, covariances, supports = [], [], [], []
    for support in itertools.product((0.0, 1.0), repeat=N):
        on = torch.tensor(support, dtype=DTYPE)
        v = torch.where(on > 0, law.slab**2, law.spike**2)
        S = B @ (v[:, None] * B.mT) + noise
        gain = v[:, None] * B.mT @ torch.linalg.inv(S)
        log_prior = float((on * math.log(law.weight) + (1 - on) * math.log(1 - law.weight)).sum())
        logs.append(log_prior + float(stats.multivariate_normal.logpdf(residual.numpy(), cov=S.numpy())))
        means.append(gain @ residual)
        covariances.append(torch.diag(v) - gain @ B * v)
        supports.append(on)
    w = torch.softmax(torch.tensor(logs, dtype=DTYPE), 0)
    m, C, on = torch.stack(means), torch.stack(covariances), torch.stack(supports)
    mean = w @ m
    second = (w[:, None, None] * (C + m[:, :, None] * m[:, None])).sum(0)
    return mean, second - mean[:, None] * mean, w @ on


def swept(made: SparsePrior, problem: iv.Problem, beta: float, count: int, seed: int = 0) -> Tensor:
    """Coefficients ``(items, chains, N)`` after so many sweeps from the prior."""
    sites = Sites.from_problem(problem, made)
    assert sites is not None
    items = len(problem.data)
    u = torch.stack([normal(50 + seed, CHAINS, N)] * items)
    draws = Draws.for_rows(seed, list(range(items)), [0] * items, torch.device("cpu"), purpose="solve")
    heat = torch.full((items,), beta, dtype=DTYPE)
    for k in range(count):
        u = sites.sweep(u, heat, lambda index, shape, k=k: draws.normal(shape, DTYPE, step=k, index=index))
    return made.coefficients.transport(u)[0]


@pytest.mark.parametrize("beta", [0.2, 1.0])
@pytest.mark.parametrize(("spike", "transform"), [(0.0, "identity"), (0.1, "dct")])
def test_sweeps_go_to_the_posterior(spike, transform, beta):
    made = prior(spike, transform)
    problem = iv.Problem(Matrix(matrix=MATRIX), DATA, noise=STD)
    found = swept(made, problem, beta, 40)
    for c, y in zip(found, DATA, strict=True):
        mean, covariance, on = enumerated(made, MATRIX, y, beta)
        z = (c.mean(0) - mean) / (covariance.diagonal() / CHAINS).sqrt()
        assert float(z.abs().max()) < 5
        spread = (c[:, :, None] - mean[:, None]) * (c[:, None] - mean)
        z = (spread.mean(0) - covariance) / (spread.std(0) / CHAINS**0.5)
        assert float(z.abs().max()) < 5
        if spike == 0:
            z = ((c != 0).double().mean(0) - on) / (on * (1 - on) / CHAINS).sqrt()
            assert float(z.abs().max()) < 5


def test_without_data_the_prior_stays():
    made = prior(0.1)
    c = swept(made, iv.Problem(Matrix(matrix=MATRIX), DATA, noise=STD), 0.0, 3)
    law = made.coefficients
    assert torch.allclose(c.square().mean((0, 1)) / law.variance, torch.ones((), dtype=DTYPE), atol=0.1)
    assert float((c.flatten(0, 1).mean(0) / (law.variance / (2 * CHAINS)).sqrt()).abs().max()) < 5


def test_items_with_their_own_operators_and_noise():
    """Each as if it were alone: draws are keyed by the item."""
    made = prior(0.1)
    matrices = torch.stack([MATRIX, 2 * MATRIX.flip(0)])
    noise = iv.noise.Gaussian(std=torch.tensor([[STD], [2 * STD]], dtype=DTYPE).expand(2, 3))
    both = iv.Problem(Matrix(matrix=matrices), DATA, noise=noise)
    found = swept(made, both, 1.0, 2)
    first = iv.Problem(Matrix(matrix=MATRIX), DATA[:1], noise=STD)
    assert torch.allclose(found[0], swept(made, first, 1.0, 2)[0], atol=1e-9)
    found = swept(made, both, 1.0, 40)[1]
    mean, covariance, _ = enumerated(made, matrices[1] / 2, DATA[1] / 2, 1.0)  # as many units of noise
    assert float(((found.mean(0) - mean) / (covariance.diagonal() / CHAINS).sqrt()).abs().max()) < 5


def test_masked_data_are_not_seen():
    made = prior(0.1)
    mask = torch.tensor([True, False, True, True])
    seen = swept(made, iv.Problem(iv.operators.Mask(mask=mask), DATA[:1].new_ones(1, N), noise=STD), 1.0, 5)[0]
    assert float((seen[:, 1].square().mean() / made.coefficients.variance - 1).abs()) < 0.1  # the prior


@pytest.mark.parametrize("spike", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("weight", [0.05, 0.5, 0.95])
def test_inverse_of_the_transport(spike, weight):
    z = torch.cat([torch.linspace(-9, 9, 4001, dtype=DTYPE), torch.tensor([-1e-9, 0.0, 1e-9, 37.0], dtype=DTYPE)])
    values = [torch.tensor(v, dtype=DTYPE) for v in (weight, 2.0, spike)]
    c, slope = spike_slab_transport(z, *values)
    back = spike_slab_inverse(c, normal(1, len(z)), *values)
    on = (c != 0) | (spike > 0)
    # c is right to its rounding, which is that of z times the slope
    tolerance = 1e-9 + 1e-11 * c.abs() / slope.clamp_min(1e-300)
    assert bool(((back - z).abs() < tolerance)[on].all())


def test_where_the_transport_is_flat_the_inverse_is_the_normal_law_there():
    values = [torch.tensor(v, dtype=DTYPE) for v in (0.3, 2.0, 0.0)]
    c = spike_slab_transport(normal(2, 20000), *values)[0]
    back = spike_slab_inverse(c, normal(3, len(c)), *values)
    assert stats.kstest(back.numpy(), "norm").pvalue > 1e-3
    assert torch.equal(spike_slab_transport(back, *values)[0] == 0, c == 0)


def test_only_where_blocks_have_a_closed_form():
    linear = Matrix(matrix=MATRIX)
    problem = iv.Problem(linear, DATA, noise=STD)
    assert Sites.from_problem(problem, prior(0.1)) is not None
    laplace = SparsePrior(shape=(N,), coefficients=Laplace(scale=1.0), dtype=DTYPE)
    assert Sites.from_problem(problem, laplace) is None
    assert (
        Sites.from_problem(problem, GaussianFieldPrior(shape=(N,), spectrum=Matern(std=1.0, length=0.4), dtype=DTYPE))
        is None
    )
    square = iv.operators.from_callable(lambda x: x[:, :3] ** 2, (N,), (3,), dtype=DTYPE)
    assert Sites.from_problem(iv.Problem(square, DATA, noise=STD), prior(0.1)) is None
    large = SparsePrior(shape=(513,), coefficients=SpikeSlab(weight=0.3, slab=1.0), dtype=DTYPE)
    mask = iv.operators.Mask(mask=torch.ones(513, dtype=torch.bool))
    assert Sites.from_problem(iv.Problem(mask, torch.zeros(1, 513, dtype=DTYPE), noise=STD), large) is None


def test_one_coefficient_alone():
    """Nothing to pair it with: left to the other moves."""
    made = SparsePrior(shape=(1,), coefficients=SpikeSlab(weight=0.3, slab=1.5, spike=0.1), dtype=DTYPE)
    result = iv.solve(
        Matrix(matrix=torch.ones(1, 1, dtype=DTYPE)),
        torch.ones(1, dtype=DTYPE),
        made,
        noise=STD,
        strategy=NoiseMCMC(),
        num_samples=64,
    )
    assert bool(result.samples.isfinite().all())


def test_chains_with_sweeps_find_the_evidence_and_the_posterior():
    made = prior(0.1, "dct")
    result = iv.solve(Matrix(matrix=MATRIX), DATA[0], made, noise=STD, strategy=NoiseMCMC(), num_samples=1024)
    mean, covariance, _ = enumerated(made, MATRIX, DATA[0], 1.0)
    x = made.mean + made.law.modes.synthesis(mean[None])[0]
    S = made.law.modes.synthesis(torch.eye(N, dtype=DTYPE))
    std = (S.mT @ covariance @ S).diagonal().sqrt()
    assert float(((result.mean - x) / std).abs().max()) < 5 / 1024**0.5
    assert float((result.std / std - 1).abs().max()) < 0.15
