"""Two grids give the distribution of one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from field_problems import DTYPE, STD, exact, field_prior, measured, off

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.gaussian import systems
from invsolve.strategies.noise_levels import noise_levels


def test_without_data_every_mode_has_the_variance_of_the_prior():
    """Those that are added at the change too: their variance there is ``s_k + switch^2 c_k^2``."""
    prior = field_prior()
    nothing = iv.operators.Mask(torch.zeros(16, 16, dtype=torch.bool))
    n = 2000
    for switch in (0.1, None):
        strategy = ivs.MultiResolution((8, 8), switch=switch)
        x = iv.solve(nothing, torch.zeros(16, 16, dtype=DTYPE), prior, noise=1.0, strategy=strategy, num_samples=n)
        u = prior.law.modes.analysis(x.samples - prior.law.mean)
        low = noise_levels(iv.Problem(nothing, torch.zeros(16, 16, dtype=DTYPE), noise=1.0), prior)[1]
        v = prior.law.variances.clamp_min(1e-30)
        ratio = u.square().mean(0) / v * (1 + low**2 / v)  # what any walk loses that ends at that level
        old, new = torch.zeros(16, 16, dtype=torch.bool), torch.ones(16, 16, dtype=torch.bool)
        old[:8, :8], new[:8, :8] = True, False
        old[0, 0] = False  # the prior has no mean
        big = v.sqrt() > low  # below it the walk has other errors
        for part in (old & big, new & big):  # 5 standard errors of the mean over so many modes, and 1 % of the sampler
            assert abs(float(ratio[part].mean()) - 1) < 5 * math.sqrt(2 / (n * int(part.sum()))) + 0.01
        assert float((ratio[(new | old) & big] - 1).abs().max()) < 6 * math.sqrt(2 / n)


@pytest.mark.slow
@pytest.mark.parametrize("switch", [0.2, 0.1])
def test_exact_data_at_many_places_need_the_absent_modes_as_noise(switch):
    """150 places, noise 2e-4: with the noise of the data alone the mean was off by 0.06 and 0.11."""
    problem = measured(32, 150, 2e-4)
    prior, A, y = problem
    mean, std = exact(*problem, 2e-4)
    strategy = ivs.MultiResolution((16, 16), switch=switch)
    x = iv.solve(A, y, prior, noise=2e-4, strategy=strategy, num_samples=1000).samples
    e_mean, e_std, floor = off(x, mean, std)
    assert floor < 0.01 and e_mean < 2 * floor + 0.005 and e_std < 0.06


def test_dense_iterative_and_linearised_systems_agree(monkeypatch):
    """The same walk by all three ways of solving."""
    prior, A, y = measured()
    strategy = ivs.MultiResolution((6, 8), num_coarse=6, num_fine=4)
    options = {"noise": STD, "strategy": strategy, "num_samples": 2}
    dense = iv.solve(A, y, prior, **options).samples
    bent = iv.operators.from_callable(A, (16, 16), (20,), dtype=DTYPE)
    linearised = iv.solve(bent, y, prior, **options).samples
    monkeypatch.setattr(systems, "DENSE_SIDE", 1)
    iterative = iv.solve(A, y, prior, **options).samples
    assert torch.allclose(dense, iterative, atol=1e-6)
    assert torch.allclose(dense, linearised, atol=1e-6)


def test_rows_and_items_are_alone_and_seeds_count():
    prior, A, y = measured()
    two = torch.stack([y, 2 * y])
    strategy = ivs.MultiResolution((8, 8), num_coarse=6, num_fine=4)
    options = {"noise": STD, "strategy": strategy}
    both = iv.solve(A, two, prior, num_samples=3, **options).samples
    other = iv.solve(A, torch.stack([y, 5 * y]), prior, num_samples=3, **options).samples
    assert torch.equal(both[:, 0], other[:, 0]) and not torch.equal(both[:, 1], other[:, 1])
    alone = iv.solve(A, two[1:], prior, num_samples=2, item_ids=[1], **options).samples
    assert torch.allclose(alone[:, 0], both[:2, 1], atol=1e-9)
    again, seed = (iv.solve(A, two, prior, num_samples=3, seed=s, **options).samples for s in (0, 1))
    assert torch.equal(again, both) and not torch.allclose(seed, both)
    noises = torch.tensor([[STD], [3 * STD]], dtype=DTYPE)
    each = iv.solve(A, two, prior, noise=noises, strategy=strategy, num_samples=2).samples
    single = iv.solve(A, two[1:], prior, noise=3 * STD, strategy=strategy, num_samples=2, item_ids=[1]).samples
    assert torch.allclose(each[:, 1], single[:, 0], atol=1e-6)


def test_evaluations_are_counted_and_the_state_can_be_saved(tmp_path):
    prior, A, y = measured()
    strategy = ivs.MultiResolution((8, 8), num_coarse=3, num_fine=2)
    saved = iv.Checkpoint(path=tmp_path / "run.ckpt", every_steps=1)
    one = iv.solve(A, y, prior, noise=STD, strategy=strategy, num_samples=2)
    two = iv.solve(A, y, prior, noise=STD, strategy=strategy, num_samples=2, checkpoint=saved)
    assert one.nfe == 5 and torch.equal(one.samples, two.samples)


def test_a_torus_and_one_axis():
    spectrum, noise = iv.priors.Matern(std=1.0, length=0.3), iv.priors.Matern(std=1.0, length=0.1)
    prior = iv.priors.GaussianFieldPrior((32,), spectrum, basis="periodic", noise_spectrum=noise, dtype=DTYPE)
    A = iv.operators.Mask(torch.arange(32) % 3 == 0)
    y = A(prior.sample(1, seed=0))[0]
    mean, std = exact(prior, A, y, 0.1)
    x = iv.solve(A, y, prior, noise=0.1, strategy=ivs.MultiResolution((15,)), num_samples=800).samples
    assert ((x.mean(0) - mean) / std).abs().max() < 5 / math.sqrt(800) + 0.02
    assert (x.std(0) / std - 1).abs().max() < 5 / math.sqrt(1600) + 0.03
    with pytest.raises(iv.errors.InputError, match="odd along the axes of a torus"):
        iv.solve(A, y, prior, noise=0.1, strategy=ivs.MultiResolution((16,)), num_samples=1)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ivs.MultiResolution((8, 0)), "shape"),
        (lambda: ivs.MultiResolution((8, 8), num_coarse=0), "num_coarse"),
        (lambda: ivs.MultiResolution((8, 8), num_fine=1), "num_fine"),
        (lambda: ivs.MultiResolution((8, 8), switch=-1.0), "switch"),
        (lambda: ivs.MultiResolution((8, 8), iterations=0), "iterations"),
        (lambda: ivs.MultiResolution((8, 8), sampler="Heun"), "an iv.samplers.Sampler"),
    ],
)
def test_wrong_options_are_refused(make, match):
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=match):
        make()


def test_what_does_not_fit_the_prior_is_refused():
    prior, A, y = measured()

    def solve(strategy, law=prior):
        iv.solve(A, y, law, noise=STD, strategy=strategy, num_samples=1)

    for shape in ((8,), (8, 17)):
        with pytest.raises(iv.errors.InputError, match="of 2 axes, none longer"):
            solve(ivs.MultiResolution(shape))
    with pytest.raises(iv.errors.InputError, match="switch"):
        solve(ivs.MultiResolution((8, 8), switch=100.0))
    with pytest.raises(iv.errors.UnsupportedError, match="noise_spectrum"):
        solve(ivs.MultiResolution((8, 8)), replace(prior, noise_spectrum=None))
