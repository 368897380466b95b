"""Chains that bounce from hard walls, against truncated Gaussians and a chain of pixels solved on a grid."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import invsolve as iv
from invsolve.strategies.mcmc.kernels import Chains, Metric, Target, hamiltonian
from invsolve.strategies.mcmc.noise_map import noise_map
from invsolve.strategies.mcmc.walls import Walls

D = torch.float64


def gaussian(covariance, mean=0.5):
    return iv.priors.GaussianPrior(mean=torch.full((len(covariance),), mean, dtype=D), covariance=covariance)


def planes(A, y, prior, noise):
    problem = iv.Problem(A, y, noise=noise)
    return problem, Walls.from_problem(problem, prior, noise_map(prior, 2))


def test_heights_are_distances_to_the_nearest_plane():
    """x = 0.5 + 2 u and walls at x = -0.1: planes at u = -0.3; an unobserved pixel has none."""
    A = iv.operators.Mask(mask=torch.tensor([True, True, False]))
    prior = gaussian(4 * torch.eye(3, dtype=D))
    _, walls = planes(A, torch.zeros(3, dtype=D), prior, iv.noise.Poisson(2.0, background=0.2))
    u = torch.tensor([[[0.0, 1.0, -9.0], [0.5, -2.0, 0.0]]], dtype=D)
    signal_first = torch.linalg.solve(prior.law.modes.matrix, torch.eye(3, dtype=D))
    heights = walls.heights(u @ signal_first.mT)
    assert torch.allclose(heights, torch.tensor([[0.3, -1.7]], dtype=D), atol=1e-12)
    assert torch.allclose(walls.moved(torch.tensor([2.0])).heights(u @ signal_first.mT), heights + 2)


@pytest.mark.parametrize("dense", [True, False])
def test_a_drift_is_that_between_mirrors(dense):
    """Two pixels with walls at 0, free flight: |x + v t| in either, whatever the (diagonal) metric is."""
    A = iv.operators.Mask(mask=torch.ones(2, dtype=torch.bool))
    prior = gaussian(torch.eye(2, dtype=D), mean=0.0)
    _, walls = planes(A, torch.zeros(2, dtype=D), prior, iv.noise.Poisson(1.0))
    g = torch.Generator().manual_seed(0)
    u, p = torch.rand(2, 6, 2, dtype=D, generator=g), torch.randn(2, 6, 2, dtype=D, generator=g)
    scale = torch.tensor([0.5, 2.0], dtype=D).expand(2, 2, 2)
    time = torch.tensor([1.0, 3.0], dtype=D)
    there, momentum = walls.drift(u, p, time, torch.diag_embed(scale) if dense else scale)
    # The modes of the prior are the pixels up to order and sign; the walls tell which sign.
    sign = walls.normals[0].sum(0).sign()
    free = sign * u + sign * p * scale[:, :1] * time[:, None, None]
    start_inside = (sign * u >= 0).all()
    assert start_inside and torch.allclose(sign * there, free.abs(), atol=1e-12)
    assert torch.allclose(sign * momentum, sign * p * free.sign(), atol=1e-12)


def test_a_bounced_trajectory_goes_back():
    """Reversible and of the same energy, in a box of slanted walls and with a full metric."""
    g = torch.Generator().manual_seed(1)
    A = iv.operators.Matrix(matrix=torch.rand(7, 4, dtype=D, generator=g))
    prior = gaussian(torch.eye(4, dtype=D))
    _, walls = planes(A, torch.zeros(7, dtype=D), prior, iv.noise.Poisson(1.0))
    u = torch.zeros(1, 8, 4, dtype=D)  # the mean of the prior is inside
    p = torch.randn(1, 8, 4, dtype=D, generator=g)
    root = torch.randn(4, 4, dtype=D, generator=g).tril().expand(1, 2, 4, 4)
    time = torch.tensor([5.0], dtype=D)
    there, momentum = walls.drift(u, p, time, root)
    assert (walls.heights(there) > -1e-12).all() and not torch.allclose(momentum, p)
    assert torch.allclose(momentum.square().sum(-1), p.square().sum(-1), rtol=1e-10)
    back, reverse = walls.drift(there, -momentum, time, root)
    assert torch.allclose(back, u, atol=1e-9) and torch.allclose(reverse, -p, atol=1e-9)


def test_moves_leave_a_truncated_gaussian_as_it_is():
    """Long chains of one kernel, without tempering: mean and std of N(-1.5, 1) on x >= 0 in 6 pixels."""
    n, chains = 6, 512
    A = iv.operators.Mask(mask=torch.ones(n, dtype=torch.bool))
    prior = gaussian(torch.eye(n, dtype=D))
    problem, walls = planes(A, torch.zeros(n, dtype=D), prior, iv.noise.Poisson(2.0))
    to_signal = noise_map(prior, 2)
    rows = problem.take(torch.zeros(chains, dtype=torch.int64))
    target = Target(problem=rows, noise_map=to_signal, shape=(n,), chains=chains, walls=walls)
    law = stats.truncnorm(1.5, np.inf, loc=-1.5)
    x = torch.as_tensor(law.rvs((chains, n), random_state=0))
    u = to_signal.inverse(x)[None]
    state = Chains(u=u, log_likelihood=target.pullback(u)[0], grad=target.pullback(u)[1])
    g = torch.Generator().manual_seed(0)
    step, leaps, metric = torch.full((1,), 0.3, dtype=D), torch.tensor([4]), Metric.identity(u)

    def moved(target):
        def normal(index, shape):
            return torch.randn(1, *shape, dtype=D, generator=g)

        return hamiltonian(target, state, metric, torch.ones(1, dtype=D), step, leaps, normal)

    without, kept = float(moved(replace(target, walls=None))[1].mean()), []
    for _ in range(40):
        state, accept = moved(target)
        kept.append(to_signal(state.u[0]))
    assert float(accept.mean()) > 0.6 > 0.1 > without
    x = torch.stack(kept[8:]).flatten(0, 1)
    se = law.std() / (chains * 8) ** 0.5  # 32 moves, of which four forget
    assert ((x.mean(0) - law.mean()).abs() < 5 * se).all()
    assert ((x.std(0) / law.std() - 1).abs() < 5 * se / law.std()).all()


def markov(y, counts, length):
    """Evidence, means and stds of dark and bright pixels under exp(-|i - j| / length), N(0.5, 1): forward, backward."""
    x = np.linspace(0, 6.5, 1301)
    weight = np.full(len(x), x[1] - x[0])
    weight[[0, -1]] /= 2
    a = math.exp(-1 / length)
    step = stats.norm.pdf(x[:, None], 0.5 + a * (x - 0.5), math.sqrt(1 - a * a)) * weight  # (to, from)
    like = [stats.poisson.pmf(k, counts * x) for k in y]
    forward = [stats.norm.pdf(x, 0.5) * like[0]]
    for k in range(1, len(y)):
        forward.append(step @ forward[-1] * like[k])
    backward = [np.ones_like(x)]
    for k in range(len(y) - 1, 0, -1):
        backward.append(
            stats.norm.pdf(x, (0.5 + a * (x[:, None] - 0.5)), math.sqrt(1 - a * a)) @ (weight * like[k] * backward[-1])
        )
    found = [f * b * weight for f, b in zip(forward, backward[::-1], strict=True)]
    mean = np.array([(f * x).sum() / f.sum() for f in found])
    std = np.array([math.sqrt((f * (x - m) ** 2).sum() / f.sum()) for f, m in zip(found, mean, strict=True)])
    return math.log(found[0].sum()), mean, std


@pytest.mark.parametrize("y", [[0.0] * 20, [0.0, 0.0, 3.0, 0.0, 1.0, 0.0, 0.0, 5.0] * 2], ids=["dark", "mixed"])
def test_correlated_dark_pixels(y):
    """Through `solve`: means, stds and evidence of a Markov chain of pixels, known on a grid."""
    n, length, chains = len(y), 1.0, 512
    at = torch.arange(n, dtype=D)
    prior = gaussian(torch.exp(-(at[:, None] - at).abs() / length))
    A = iv.operators.Mask(mask=torch.ones(n, dtype=torch.bool))
    strategy = iv.strategies.NoiseMCMC(chains=chains)
    result = iv.solve(
        A, torch.tensor(y, dtype=D), prior, noise=iv.noise.Poisson(2.0), num_samples=chains, strategy=strategy
    )
    evidence, mean, std = markov(y, 2.0, length)
    assert np.abs((result.mean.numpy() - mean) / std).max() < 5 / chains**0.5
    assert np.abs(result.std.numpy() / std - 1).max() < 5 / chains**0.5
    assert abs(float(result.log_evidence) - evidence) < 5 * float(result.info["log_evidence_se"].max())
    assert (result.samples >= 0).all()


def test_items_have_walls_of_their_own():
    """An operator and a background for every item: walls where each has them."""
    A = iv.operators.Mask(mask=torch.tensor([[True, True], [True, False]]), in_shape=(2,))
    noise = iv.noise.Poisson(1.0, background=torch.tensor([[0.0], [3.0]], dtype=D))
    prior = gaussian(torch.eye(2, dtype=D), mean=0.0)
    _, walls = planes(A, torch.zeros(2, 2, dtype=D), prior, noise)
    inside = walls.heights(prior.inverse_transport(torch.tensor([[1.0, 2.0], [1.0, -9.0]], dtype=D))[:, None])
    assert torch.allclose(inside[:, 0], torch.tensor([1.0, 4.0], dtype=D))
    assert torch.equal(walls.take(torch.tensor([1])).offsets, walls.offsets[1:])


def test_where_there_are_no_planes():
    A, y = iv.operators.Mask(mask=torch.ones(4, dtype=torch.bool)), torch.zeros(4, dtype=D)
    prior = gaussian(torch.eye(4, dtype=D))
    laplace = iv.priors.SparsePrior(shape=(4,), coefficients=iv.priors.Laplace(scale=1.0), dtype=D)
    bend = iv.operators.from_callable(lambda x: x**3, (4,), (4,))
    poisson = iv.noise.Poisson(1.0)
    assert planes(A, y, prior, iv.noise.Gaussian(0.1))[1] is None
    assert planes(A, y, laplace, poisson)[1] is None and planes(bend, y, prior, poisson)[1] is None
    for noise in (iv.noise.Speckle(2.0), iv.noise.Multiplicative(0.1)):
        assert planes(A, y + 1, prior, noise)[1] is not None


def test_an_item_that_measures_nothing_has_no_walls():
    """Beside one with dark pixels: its posterior is the prior, and its evidence 0."""
    n = 3
    covariance = torch.eye(n, dtype=torch.float64) + 0.3
    prior = iv.priors.GaussianPrior(mean=torch.ones(n, dtype=torch.float64), covariance=covariance)
    A = iv.operators.Mask(mask=torch.tensor([[True] * n, [False] * n]), in_shape=(n,))
    noise = iv.noise.Poisson(counts_per_unit=2.0)
    y = torch.zeros(2, n, dtype=torch.float64)
    result = iv.solve(A, y, prior, noise=noise, strategy=iv.strategies.NoiseMCMC(), num_samples=512)
    assert abs(float(result.log_evidence[1])) < 1e-9 and bool(result.log_evidence.isfinite().all())
    assert float((result.mean[1] - 1).abs().max()) < 1.3**0.5 * (
        5 * 512**-0.5 + 5 * float(result.info["mean_error"][0, 1])
    )
