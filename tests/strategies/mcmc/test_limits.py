"""Walls that are no planes: moves leave posteriors with curved ends as they are, known on grids and by Gibbs draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.operators import BlackBox
from invsolve.strategies.mcmc.bound import BoundChains
from invsolve.strategies.mcmc.kernels import Chains, Metric, Target, autoregressive, hamiltonian
from invsolve.strategies.mcmc.limits import Limits
from invsolve.strategies.mcmc.noise_map import noise_map

D = torch.float64
COUNTS = 2.0
MIX = torch.tensor([[0.7, 0.3], [0.3, 0.7]], dtype=D)
BLUR = iv.operators.Matrix(MIX)
BENT = iv.operators.from_callable(lambda x: x + 0.5 * x.roll(1, -1) ** 2 - 0.3, (2,), (2,))
LAPLACE = iv.priors.SparsePrior(shape=(2,), coefficients=iv.priors.Laplace(scale=1.0), dtype=D)
GAUSSIAN = iv.priors.GaussianPrior(mean=torch.full((2,), 0.5, dtype=D), covariance=torch.eye(2, dtype=D))
POISSON = iv.noise.Poisson(COUNTS)


class Box(BlackBox):
    in_shape = out_shape = (2,)

    def _apply(self, x):
        return x @ MIX.mT

    def fingerprint(self):
        return "box"


def laplace(x):
    return -np.abs(x).sum(-1)


def normal(x):
    return -0.5 * ((x - 0.5) ** 2).sum(-1)


def blurred(x):
    return x @ MIX.numpy().T


def bent(x):
    return x + 0.5 * np.roll(x, 1, -1) ** 2 - 0.3


CASES = {
    "laplace, blurred": (BLUR, blurred, LAPLACE, laplace),
    "laplace, bent": (BENT, bent, LAPLACE, laplace),
    "gaussian, bent": (BENT, bent, GAUSSIAN, normal),
    "laplace, black box": (Box(), blurred, LAPLACE, laplace),
}


def on_grid(clean, log_prior, y, size=1281, reach=8.0):
    """Points and their probabilities. Walls cut cells: half of a width of 0.0125 at a density of at most 3, so 2 %."""
    axis = np.linspace(-reach, reach, size)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    mean = COUNTS * clean(x)
    possible = (mean > 0).all(1)
    x, mean = x[possible], mean[possible]
    log = log_prior(x) + (y * np.log(mean) - mean).sum(1)
    weight = np.exp(log - log.max())
    return x, weight / weight.sum()


def made(A, prior, chains, y, slack=0.0):
    problem, to_signal = iv.Problem(A, y[None], noise=POISSON), noise_map(prior, 2)
    limits = Limits.from_problem(problem, to_signal).moved(torch.full((1,), slack, dtype=D))
    rows = problem.take(torch.zeros(chains, dtype=torch.int64))
    return Target(problem=rows, noise_map=to_signal, shape=(2,), chains=chains, limits=limits), to_signal


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("slack", [0.0, 0.3])
def test_moves_leave_posteriors_with_curved_ends_as_they_are(name, slack):
    """Chains start as draws from it, and after 20 moves they are still: means, second moments, and how many stand near
    a wall. With slack it is the prior up to walls further out, and the likelihood does not count."""
    A, clean, prior, log_prior = CASES[name]
    chains, y = 2048, torch.tensor([0.0, 1.0], dtype=D)
    target, to_signal = made(A, prior, chains, y, slack)
    limits = target.limits
    x, weight = on_grid(clean, log_prior, y.numpy())
    if slack:
        axis = np.linspace(-8, 8, 1281)
        x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        x = x[(clean(x) / limits.scale.numpy() > -slack).all(1)]
        weight = np.exp(log_prior(x))
        weight /= weight.sum()
    rng = np.random.default_rng(0)
    start = x[rng.choice(len(x), size=chains, p=weight)] + rng.uniform(-1, 1, (chains, 2)) * 8 / 1280
    start = torch.as_tensor(start)
    # The half cells at walls: some are behind them.
    inside = torch.isfinite(target.log_likelihood(to_signal.inverse(start)[None]))[0]
    start = torch.where(inside[:, None], start, start[inside][:1])
    u = to_signal.inverse(start)[None]
    kind = "pcn" if isinstance(A, BlackBox) else "hmc"
    value, grad = (target.log_likelihood(u), torch.zeros_like(u)) if kind == "pcn" else target.pullback(u)
    state, metric = Chains(u=u, log_likelihood=value, grad=grad), Metric.identity(u)
    beta = torch.zeros(1, dtype=D) if slack else torch.ones(1, dtype=D)
    g = torch.Generator().manual_seed(0)

    def draw(index, shape):
        return torch.randn(1, *shape, dtype=D, generator=g)

    accepted, step = [], torch.full((1,), 0.4, dtype=D)
    for k in range(20):
        if kind == "pcn":
            state, accept = autoregressive(target, state, metric, beta, step, draw)
        else:
            state, accept = hamiltonian(target, state, metric, beta, step, torch.tensor([2 + k % 5]), draw)
        accepted.append(float(accept.mean()))
    assert min(accepted) > 0.1
    now = to_signal(state.u[0]).numpy()
    height = (clean(x) / limits.scale.numpy()).min(1)
    near, now_near = (h < height.min() + 0.2 for h in (height, (clean(now) / limits.scale.numpy()).min(1)))
    for before, after in (
        *((x[:, i], now[:, i]) for i in range(2)),
        *((np.abs(x[:, i] - 0.3), np.abs(now[:, i] - 0.3)) for i in range(2)),
        (near.astype(float), now_near.astype(float)),
    ):
        mean = (weight * before).sum()
        std = math.sqrt((weight * (before - mean) ** 2).sum())
        assert abs(after.mean() - mean) < (5 / chains**0.5 + 0.02) * std  # 0.02: see `on_grid`
    assert (clean(now) >= -slack * limits.scale.numpy()).all()


def test_trajectories_are_reflected():
    """Those that meet no wall are as without; of the others, which were lost, most come back."""
    chains = 256
    target, _ = made(BENT, LAPLACE, chains, torch.zeros(2, dtype=D))
    g = torch.Generator().manual_seed(0)
    u = torch.randn(1, chains, 2, dtype=D, generator=g)
    u = torch.where(torch.isfinite(target.log_likelihood(u))[..., None], u, torch.ones_like(u))
    value, grad = target.pullback(u)
    state, one = Chains(u=u, log_likelihood=value, grad=grad), torch.ones(1, dtype=D)
    momenta = torch.randn(1, chains, 2, dtype=D, generator=g)

    def draw(index, shape):  # everything that is possible at all is accepted
        return momenta if index == 0 else torch.full((1, *shape), -40.0, dtype=D)

    ends, accepted = [], []
    for one_target in (target, replace(target, limits=None)):
        end, accept = hamiltonian(one_target, state, Metric.identity(u), one, 0.3 * one, torch.tensor([7]), draw)
        ends.append(end.u)
        accepted.append(accept)
    met = (ends[0] - ends[1]).abs().amax(-1) > 1e-9
    assert chains / 10 < int(met.sum()) < chains
    assert float(accepted[0][met].mean()) > 0.3 and float(accepted[1][met].mean()) < 0.1
    assert torch.equal(accepted[0][~met], accepted[1][~met])


def test_walls_that_prior_draws_lie_behind_come_in_from_afar():
    """Of items with counts that exclude part of the prior; where all of it is possible chains start as ever."""
    noise = iv.noise.Poisson(COUNTS, background=torch.tensor([[0.0], [100.0]], dtype=D))
    problem = iv.Problem(BLUR, torch.zeros(2, 2, dtype=D), noise=noise)
    bound = BoundChains.from_problem(problem, LAPLACE, None, spread=1.0, evaluations=2, gradients=True)
    assert bound.walls is None and bound.slack.tolist() == [math.inf, 0.0]
    taken = bound.limits.take(torch.tensor([1]))
    assert taken.lowest.tolist() == [[-50.0, -50.0]] and not bool(taken.needed)
    clean = torch.tensor([[1.0, -51.0], [math.nan, 0.0]], dtype=D)
    assert taken.heights(clean).tolist() == [[float(-1 / taken.scale[0, 1]), -math.inf]]
    out = taken.outwards(clean)
    assert out[0, 0] == 0 and out[0, 1] > 0 and not bool(out[1].any())
    gauss = BoundChains.from_problem(
        iv.Problem(BLUR, torch.zeros(1, 2, dtype=D), noise=0.1),
        LAPLACE,
        None,
        spread=1.0,
        evaluations=2,
        gradients=True,
    )
    assert gauss.limits is None and gauss.slack.tolist() == [0.0]
    planes = BoundChains.from_problem(problem, GAUSSIAN, None, spread=1.0, evaluations=2, gradients=True)
    assert planes.walls is not None and planes.limits is None and bool(planes.slack.isinf().all())


def test_what_is_not_observed_has_no_wall():
    A = iv.operators.Mask(mask=torch.tensor([True, False]))
    limits = Limits.from_problem(iv.Problem(A, torch.zeros(1, 2, dtype=D), noise=POISSON), noise_map(LAPLACE, 2))
    assert limits.lowest.tolist() == [[0.0, -math.inf]]


@pytest.mark.parametrize("name", CASES)
def test_dark_pixels_through_solve(name):
    A, clean, prior, log_prior = CASES[name]
    y = torch.tensor([0.0, 0.0], dtype=D)
    x, weight = on_grid(clean, log_prior, y.numpy())
    mean = weight @ x
    std = np.sqrt(weight @ (x - mean) ** 2)
    number = 512
    strategy = iv.strategies.NoiseMCMC(chains=number)
    result = iv.solve(A, y, prior, noise=POISSON, num_samples=number, strategy=strategy)
    error = float(result.info["mean_error"].max())
    assert np.abs((result.mean.numpy() - mean) / std).max() < 5 * number**-0.5 + 3 * error + 0.02
    # Of a law with the tails of Laplace's (a fourth moment of 6 std^4).
    assert np.abs(result.std.numpy() / std - 1).max() < 5 * (5 / 4 / number) ** 0.5 + 3 * error + 0.02
    assert (clean(result.samples.numpy()) >= 0).all()


def dark_by_gibbs(blur, sweeps, chains, seed):
    """Means and stds of Laplace's prior on dark pixels ``blur x >= 0``: each entry in turn, by inversion.

    Given the others, ``exp(-|x| - g x)`` above the highest of its walls.
    """
    rng, n = np.random.default_rng(seed), len(blur)
    g, x = COUNTS * blur.sum(0), np.full((chains, n), 0.5)
    clean, kept = x @ blur.T, []
    for sweep in range(sweeps):
        for i in range(n):
            column = blur[:, i]
            on = column > 0
            low = (-(clean[:, on] - np.outer(x[:, i], column[on])) / column[on]).max(1)
            above, up, down = np.maximum(low, 0), 1 + g[i], g[i] - 1
            right = np.exp(-up * above) / up
            left = np.where(low < 0, np.expm1(-down * np.minimum(low, 0)) / down, 0.0)
            chosen = rng.random(chains) * (left + right)
            new = np.where(
                chosen < left,
                -np.log(np.exp(-down * np.minimum(low, 0)) - down * np.minimum(chosen, left)) / down,
                above - np.log(np.clip(1 - (chosen - left) / right, 1e-300, 1)) / up,
            )
            clean += np.outer(new - x[:, i], column)
            x[:, i] = new
        if sweep >= sweeps // 5:
            kept.append((x.mean(0), (x**2).mean(0)))
    mean, square = np.mean(kept, 0)
    return mean, np.sqrt(square - mean**2)


@pytest.mark.slow
def test_sixteen_dark_pixels_behind_a_blur():
    """Laplace's prior, three pixels wide blur. Trajectories that are not reflected left means 0.75 stds off."""
    n = 16
    blur = 0.5 * np.eye(n) + 0.25 * (np.eye(n, k=1) + np.eye(n, k=-1))
    blur[0, 0], blur[0, 1] = 0.6, 0.2  # not the same rate everywhere
    mean, std = dark_by_gibbs(blur, 800, 300, 0)
    prior = iv.priors.SparsePrior(shape=(n,), coefficients=iv.priors.Laplace(scale=1.0), dtype=D)
    A = iv.operators.Matrix(torch.as_tensor(blur))
    number = 512
    strategy = iv.strategies.NoiseMCMC(chains=number)
    result = iv.solve(A, torch.zeros(n, dtype=D), prior, noise=POISSON, num_samples=number, strategy=strategy)
    error = float(result.info["mean_error"].max())
    assert error < 0.15
    assert np.abs((result.mean.numpy() - mean) / std).max() < 5 * number**-0.5 + 3 * error


@pytest.mark.slow
def test_a_pocket_keeps_its_mass():
    """0.5 % of a posterior lies apart behind a bend: while walls come in no chain may cross them unseen."""
    x, weight = on_grid(bent, laplace, np.array([0.0, 3.0]))
    wanted = weight[x[:, 1] < -1].sum()
    strategy = iv.strategies.NoiseMCMC(chains=8192)
    options = {"noise": POISSON, "num_samples": 8192, "strategy": strategy}
    y = torch.tensor([0.0, 3.0], dtype=D)
    found = [
        float((iv.solve(BENT, y, LAPLACE, seed=s, **options).samples[:, 1] < -1).double().mean()) for s in range(6)
    ]
    assert abs(np.mean(found) - wanted) < 4 * np.std(found, ddof=1) / 6**0.5 + 0.02 * wanted
