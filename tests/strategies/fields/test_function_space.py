"""Guidance of fields with coloured diffusion noise against the posterior in closed form, on one grid and on several."""

from __future__ import annotations

import math

import pytest
import torch
from field_problems import MODES, STD, at_places, exact, field_prior, measured, off, places

import invsolve as iv
from invsolve import strategies as ivs

N = 400


def samples(problem, strategy, std=STD, n=N):
    prior, A, y = problem
    return iv.solve(A, y, prior, noise=std, strategy=strategy, num_samples=n, seed=1).samples


@pytest.mark.parametrize("seed", [0, 1])
def test_moment_matching_reaches_the_floor_of_the_draws_in_fifty_steps(seed):
    """The mean is off by what independent draws are, the std by its standard error and 1 % of the sampler."""
    problem = measured(seed=seed)
    mean, std = exact(*problem, STD)
    e_mean, e_std, floor = off(samples(problem, ivs.MMPS()), mean, std)
    assert e_mean < 1.5 * floor  # its square has about 15 free modes
    assert e_std < 0.05  # 1 / sqrt(2 N) is 0.035; neighbours are alike, so that it is no sure thing


def test_few_steps_are_too_wide_as_known():
    """Heun's method on EDM's levels: 6 % too wide with 20 steps."""
    problem = measured()
    mean, std = exact(*problem, STD)
    edm = iv.samplers.karras_grid(80.0, 0.002, 20)
    x = samples(problem, ivs.MMPS(sampler=iv.samplers.Heun(), grid=edm))
    assert 1.03 < float(x.std(0).mean() / std.mean()) < 1.10


@pytest.mark.parametrize("std", [1e-3, 0.1, 10.0, 1e3])
@pytest.mark.parametrize(
    "strategy",
    [ivs.MMPS(), ivs.FunDPS(corrected=True, num_steps=50), ivs.MultiResolution((8, 8))],
    ids=lambda s: s.name,
)
def test_noise_aware(strategy, std):
    """From data that are met to data that say nothing: mean and std of the closed form."""
    prior, A, y = measured()
    mean, sd = exact(prior, A, y, std)
    x = samples((prior, A, y), strategy, std=std)
    z = ((x.mean(0) - mean) / sd).square().mean().sqrt()
    assert z < 3 / math.sqrt(N) + 0.02
    assert abs(float(x.std(0).mean() / sd.mean()) - 1) < 0.05


def test_the_posterior_of_the_same_modes_is_the_same_on_every_grid():
    """The norm of the mean, and the mean std, of 16 x 16 modes on 32, 64 and 128 nodes: the L2 norm over the square."""
    found = []
    _, A, y = measured()
    for n in (MODES, 32, 64, 128):
        mean, std = exact(field_prior(n, MODES), at_places(n, places()), y, STD)
        found.append((float(mean.norm() / n), float(std.square().mean().sqrt())))
    for norm, spread in found[1:]:
        assert abs(norm / found[0][0] - 1) < 1e-5 and abs(spread / found[0][1] - 1) < 1e-5


def test_a_sampler_draws_the_same_functions_on_every_grid():
    """With the same modes of the noise: one grid's samples are the other's at its nodes, in their mean over cells."""
    strategy = ivs.MMPS(sampler=iv.samplers.Heun(), grid=iv.samplers.karras_grid(10.0, 0.01, 20))
    y = measured()[2]

    class Same:
        """The first modes of every draw are those of the smallest grid."""

        def __init__(self, rows: int) -> None:
            self.rows = rows

        def normal(self, shape, dtype, *, step, index=0):
            g = torch.Generator().manual_seed(1000 * step + index)
            z = torch.zeros(self.rows, *shape, dtype=dtype)
            z[:, :MODES, :MODES] = torch.randn(self.rows, MODES, MODES, generator=g, dtype=dtype)
            return z

        def take(self, rows):
            return Same(len(rows))

    means = []
    for n in (32, 64):
        prior, A = field_prior(n, MODES), at_places(n, places())
        x = iv.solve(
            A, y, prior, noise=STD, strategy=strategy, num_samples=4, draws=lambda items, k: Same(len(items))
        ).samples
        at = at_places(n, torch.tensor([[0.3, 0.7], [0.5, 0.1], [0.91, 0.4]], dtype=x.dtype))
        means.append(at(x))
    assert torch.allclose(means[0], means[1], atol=1e-8)
