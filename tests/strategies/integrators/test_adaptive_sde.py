"""The adaptive SDE solver: the order of its pair, the law of its noise, closed-form posteriors, rows that stand alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.strategies import AdaptiveSDE, MomentMatching, NoGuidance, Run
from invsolve.strategies.integrators.adaptive_sde import _DEPTH, _next_stretch, trial

F64 = torch.float64
HIGH, LOW = 20.0, 0.02
VARIANCES = torch.tensor([0.04, 0.25, 1.0, 4.0], dtype=F64)


def gaussian(covariance, mean=None):
    return iv.priors.GaussianPrior(
        mean=covariance.new_zeros(len(covariance)) if mean is None else mean, covariance=covariance
    )


def blind(n):
    """Data that say nothing: the posterior is the prior."""
    return iv.operators.Mask(mask=torch.zeros(n, dtype=torch.bool)), torch.zeros(n, dtype=F64)


# --- the pair ---------------------------------------------------------------------------------------------------------
def variance_error(which, steps):
    """Worst relative error of the variance c + LOW^2 after equal steps: what a start and unit kicks become, exactly."""
    h = math.log(HIGH / LOW) / steps
    variance = VARIANCES + HIGH**2
    for i in range(steps):
        a = HIGH * math.exp(-h * i)

        def move(x, kick, a=a):
            def denoise(x, level):
                return VARIANCES / (VARIANCES + level * level) * x

            x = torch.full((1, 4), x, dtype=F64)
            a, kick = torch.full((1, 1), a, dtype=F64), torch.full((1, 4), kick, dtype=F64)
            return trial(denoise, x, denoise(x, a), a, torch.full((1, 1), h, dtype=F64), kick)[which][0]

        variance = move(1.0, 0.0) ** 2 * variance + h * move(0.0, 1.0) ** 2
    return float((variance / (VARIANCES + LOW**2) - 1).abs().max())


@pytest.mark.parametrize(
    ("which", "steps", "error", "order"), [(0, 1024, 8.2e-5, 1.0), (1, 64, 1.2e-3, 2.0)], ids=["x1", "x2"]
)
def test_weak_orders_of_the_pair(which, steps, error, order):
    """Euler-Maruyama and the stochastic improved Euler in ln sigma, against the exact reverse SDE: errors as measured
    here, orders by theory. (With few steps two errors of x1 cancel, and it is only of order 1 from 1,000 steps on.)"""
    errors = [variance_error(which, n) for n in (steps, 4 * steps)]
    assert errors[0] == pytest.approx(error, rel=0.1)
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(order, abs=0.15)


def test_one_trial_by_hand():
    """Prior N(0, 1), x = 3, a = 2, h = ln 2, kick 1: D = x/(1 + s^2), b = 1."""
    h, a, root = math.log(2), torch.full((1, 1), 2.0, dtype=F64), math.sqrt(2)
    x = torch.full((1, 1), 3.0, dtype=F64)

    def denoise(x, level):
        return x / (1 + level * level)

    first, second = trial(denoise, x, denoise(x, a), a, torch.full((1, 1), h, dtype=F64), torch.ones(1, 1, dtype=F64))
    x1 = 3 - 2 * h * (3 - 0.6) + 2 * root
    x2 = 3 - 2 * h * (x1 - x1 / 2) + root
    assert float(first) == pytest.approx(x1, rel=1e-14) and float(second) == pytest.approx((x1 + x2) / 2, rel=1e-14)


# --- the noise ----------------------------------------------------------------------------------------------------
def running(covariance, strategy, rows=3, seed=0):
    """A run of ``rows`` samples of a Gaussian prior, and its first state."""
    A, y = blind(len(covariance))
    prior = gaussian(covariance)
    problem = iv.Problem(A, y[None], noise=1.0)
    index = torch.zeros(rows, dtype=torch.int64)
    draws = Draws.for_rows(seed, [0] * rows, list(range(rows)), torch.device("cpu"))
    run = Run(problem=problem.take(index), prior=prior, draws=draws, bound=strategy.bind(problem, prior).take(index))
    return run, strategy.init(run)


def test_a_refused_step_keeps_the_path_that_it_has_seen():
    """Its first part comes from the Brownian bridge, the rest is remembered, and both add up to what was seen."""
    _, state = running(torch.eye(2, dtype=F64), AdaptiveSDE(guidance=NoGuidance()))
    wish, z = 0.25 * state.size, torch.tensor([[0.0, 1.0]] * 3, dtype=F64)
    refused = torch.tensor([True, False, True])
    new = _next_stretch(state, refused, wish, z)
    h = float(state.size[0])
    bridge = 0.25 * state.kick + torch.tensor([0.0, math.sqrt(0.25 * 0.75 * h)], dtype=F64)
    torch.testing.assert_close(new["kick"][[0, 2]], bridge[[0, 2]], rtol=1e-13, atol=0)
    torch.testing.assert_close(new["kick"][1], wish[1].sqrt() * z[1])  # nothing is known beyond a step that was taken
    assert new["depth"].tolist() == [1, 0, 1]
    torch.testing.assert_close(new["kick"][0] + new["later_kick"][0, 0], state.kick[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(new["size"] + new["later_size"][:, 0], torch.tensor([h, h / 4, h], dtype=F64))
    # Taken: the next step is the rest of the stretch, as it was, and no longer than that.
    taken = replace(state, **new)
    rest = _next_stretch(taken, torch.zeros(3, dtype=torch.bool), 10 * state.size, 1e9 * torch.ones_like(z))
    torch.testing.assert_close(rest["kick"][0], new["later_kick"][0, 0], rtol=1e-13, atol=0)
    assert rest["depth"].tolist() == [0, 0, 0] and float(rest["size"][0]) == pytest.approx(0.75 * h, rel=1e-13)
    assert float(rest["size"][1]) == float(10 * state.size[1])


def test_a_full_memory_of_the_path_loses_no_length_and_no_increment():
    _, state = running(torch.eye(2, dtype=F64), AdaptiveSDE(guidance=NoGuidance()))
    total, kick = state.size.clone(), state.kick.clone()
    all_rows = torch.ones(3, dtype=torch.bool)
    for i in range(_DEPTH + 4):
        z = Draws.for_rows(i, [0] * 3, [0, 1, 2], torch.device("cpu")).normal((2,), F64, step=0)
        state = replace(state, **_next_stretch(state, all_rows, 0.5 * state.size, z))
        used = torch.arange(_DEPTH) < state.depth[:, None]
        assert state.depth.tolist() == [min(i + 1, _DEPTH)] * 3
        torch.testing.assert_close(state.size + (state.later_size * used).sum(1), total, rtol=1e-12, atol=0)
        path = state.kick + (state.later_kick * used[..., None]).sum(1)
        torch.testing.assert_close(path, kick, rtol=1e-12, atol=1e-14)


# --- posteriors ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rtol", "atol"), [(0.2, 0.05), (0.05, 0.01)])
def test_one_dimension_where_redrawn_noise_fails(rtol, atol):
    """N(2, 0.25) with levels 5..0.005 (final D: 5e-5 of the std): 5 standard errors, and 1 % for the tolerance.

    With new noise after a rejection, as the method was published, the std was 1.6 to 1.9 times too large here.
    """
    prior, n = gaussian(torch.full((1, 1), 0.25, dtype=F64), torch.tensor([2.0], dtype=F64)), 4000
    strategy = AdaptiveSDE(guidance=NoGuidance(), rtol=rtol, atol=atol, levels=(5.0, 0.005))
    result = iv.solve(*blind(1), prior, noise=1.0, strategy=strategy, num_samples=n, seed=2)
    assert float(result.info["rejected"].mean()) > 3  # there was something to be redrawn
    assert abs(float(result.std) / 0.5 - 1) < 5 / math.sqrt(2 * n) + 0.01
    assert abs(float(result.mean) - 2) < 5 * 0.5 / math.sqrt(n)


def test_guided_posterior_has_its_closed_form():
    """Case B of `gaussian_cases`; the solver's own levels stop at a tenth of the smallest posterior std: 0.5 % of it."""
    C = torch.tensor([[1, 0.8], [0.8, 1]], dtype=F64)
    A, y, n = iv.operators.Matrix(matrix=torch.tensor([[1.0, 0.0]], dtype=F64)), torch.tensor([1.5], dtype=F64), 3000
    strategy = AdaptiveSDE(guidance=MomentMatching())
    result = iv.solve(A, y, gaussian(C), noise=0.1, strategy=strategy, num_samples=n, seed=4)
    mean, std = torch.tensor([1.48515, 1.18812], dtype=F64), torch.tensor([0.00990, 0.36634], dtype=F64).sqrt()
    assert ((result.mean - mean).abs() / std).max() < 5 / math.sqrt(n) + 0.02
    assert (result.std / std - 1).abs().max() < 5 / math.sqrt(2 * n) + 0.02
    assert result.strategy == "AdaptiveSDE, MMPS"


def test_a_tighter_tolerance_takes_more_steps():
    counts = []
    for rtol in (0.2, 0.05, 0.01):
        strategy = AdaptiveSDE(guidance=NoGuidance(), rtol=rtol, atol=rtol / 5)
        counts.append(
            iv.solve(*blind(2), gaussian(torch.eye(2, dtype=F64)), noise=1.0, strategy=strategy).info["accepted"].mean()
        )
    assert counts[0] < counts[1] < counts[2]


# --- rows ---------------------------------------------------------------------------------------------------------
def problem_of_three():
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    A = iv.operators.Matrix(matrix=torch.randn(2, 4, generator=torch.Generator().manual_seed(2), dtype=F64))
    return A, torch.tensor([[1.0, 0.0], [3.0, -1.0], [0.1, 30.0]], dtype=F64), gaussian(root @ root.mT)


def test_rows_do_not_see_each_other():
    A, y, prior = problem_of_three()
    strategy = AdaptiveSDE(guidance=MomentMatching())
    both = iv.solve(A, y, prior, noise=0.3, strategy=strategy, num_samples=2, seed=5)
    for item in range(3):
        one = iv.solve(
            A, y[item : item + 1], prior, noise=0.3, strategy=strategy, num_samples=2, seed=5, item_ids=[item]
        )
        assert torch.equal(one.info["accepted"][:, 0], both.info["accepted"][:, item])
        # Roundings of some hundred steps; the tolerance of the solver is 5e-2.
        torch.testing.assert_close(one.samples[:, 0], both.samples[:, item], rtol=1e-9, atol=1e-9)
    assert len(both.info["accepted"].unique()) > 1  # each row has its own steps


def test_items_may_have_levels_of_their_own():
    A, y, prior = problem_of_three()
    noise = iv.noise.Gaussian(std=torch.tensor([[0.01], [0.3], [3.0]], dtype=F64))
    strategy = AdaptiveSDE(guidance=MomentMatching())
    result = iv.solve(A, y, prior, noise=noise, strategy=strategy, num_samples=200, seed=1)
    for item, std in enumerate((0.01, 0.3, 3.0)):
        exact = prior.posterior(A, y[item : item + 1], noise=std)
        assert ((result.mean[item] - exact.mean[0]) / exact.std[0]).abs().max() < 5 / math.sqrt(200) + 0.02
        assert (result.std[item] / exact.std[0] - 1).abs().max() < 5 / math.sqrt(400) + 0.02


def test_finished_rows_stand_still_until_all_are_done():
    strategy = AdaptiveSDE(guidance=NoGuidance(), rtol=0.1, atol=0.02)
    run, state = running(torch.diag(VARIANCES), strategy, rows=8)
    ended = {}
    for i in range(strategy.num_steps):
        assert not strategy.finished(run, state)
        state, _ = strategy.step(run, state, i)
        for row in (state.level == 0).nonzero()[:, 0].tolist():
            ended.setdefault(row, (i, state.x[row].clone(), float(state.accepted[row])))
        if strategy.finished(run, state):
            break
    assert len(ended) == 8 and len({i for i, _, _ in ended.values()}) > 1
    for row, (_, x, accepted) in ended.items():
        assert torch.equal(state.x[row], x) and float(state.accepted[row]) == accepted


def test_two_evaluations_a_trial():
    prior = gaussian(torch.eye(3, dtype=F64))
    result = iv.solve(*blind(3), prior, noise=1.0, strategy=AdaptiveSDE(guidance=NoGuidance()), num_samples=1)
    trials = float(result.info["accepted"] + result.info["rejected"])
    assert result.nfe == 2 * (trials + 1)  # and D at the lowest level


def test_a_row_that_does_not_arrive_or_diverges_has_failed():
    A, y, prior = problem_of_three()
    late = iv.solve(
        A, y, prior, noise=0.3, strategy=AdaptiveSDE(guidance=NoGuidance(), num_steps=5), num_samples=2, throw=False
    )
    assert late.status is iv.Status.ALL_FAILED
    sick = iv.priors.from_denoiser(
        lambda x, sigma: torch.where(x[:, :1] > 0, x / (1 + sigma**2), math.nan),
        shape=(2,), mean=torch.zeros(2, dtype=F64), scale=1.0,
    )  # fmt: skip
    clean = iv.priors.from_denoiser(
        lambda x, sigma: x / (1 + sigma**2), shape=(2,), mean=torch.zeros(2, dtype=F64), scale=1.0
    )
    strategy = AdaptiveSDE(guidance=NoGuidance(), levels=(3.0, 0.1))
    some, good = (
        iv.solve(*blind(2), p, noise=1.0, strategy=strategy, num_samples=12, throw=False) for p in (sick, clean)
    )
    assert some.status is iv.Status.SOME_FAILED and good.status is iv.Status.SUCCESS
    torch.testing.assert_close(some.samples[~some.failed], good.samples[~some.failed], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fitted", [True, False])
def test_units_and_offsets_do_not_matter(fitted):
    def prior(unit, offset):
        C = torch.tensor([[1.0, 0.5], [0.5, 0.4]], dtype=F64)
        if fitted:
            return gaussian(unit**2 * C, torch.full((2,), offset, dtype=F64))
        mean = torch.full((2,), offset, dtype=F64)
        gain = unit**2 * C

        def denoise(x, sigma):
            s = gain + sigma.reshape(-1, 1, 1) ** 2 * torch.eye(2, dtype=F64)
            return mean + (gain @ torch.linalg.solve(s, (x - mean)[..., None]))[..., 0]

        return iv.priors.from_denoiser(denoise, shape=(2,), mean=mean, scale=1.2 * unit)

    near, far = (
        iv.solve(
            *blind(2),
            prior(unit, offset),
            noise=1.0,
            strategy=AdaptiveSDE(guidance=NoGuidance()),
            num_samples=5,
            seed=3,
        )
        for unit, offset in ((1.0, 0.0), (250.0, 1e4))
    )
    # Beside 1e4 a signal of 250 has roundings of 1e-14; each of a hundred steps is chosen by a difference of two of them.
    torch.testing.assert_close((far.samples - 1e4) / 250, near.samples, rtol=1e-5, atol=1e-5)


def test_seeds_single_precision_and_complex_signals():
    prior = gaussian(torch.eye(2))
    A, y = iv.operators.Mask(mask=torch.tensor([True, False])), torch.tensor([1.0, 0.0])
    one, two, other = (
        iv.solve(A, y, prior, noise=0.5, strategy=AdaptiveSDE(guidance=MomentMatching()), seed=s) for s in (0, 0, 1)
    )
    assert torch.equal(one.samples, two.samples) and not torch.equal(one.samples, other.samples)
    assert one.samples.dtype == torch.float32
    rotated = iv.priors.GaussianPrior(mean=torch.zeros(2, dtype=torch.complex128), covariance=torch.eye(2, dtype=F64))
    A = iv.operators.Mask(mask=torch.tensor([False, False]), kind="complex")
    n = 2000
    x = iv.solve(
        A,
        torch.zeros(2, dtype=torch.complex128),
        rotated,
        noise=1.0,
        strategy=AdaptiveSDE(guidance=NoGuidance()),
        num_samples=n,
    ).samples
    for part in (x.real, x.imag):  # std 1 for each component
        assert (part.std(0) - 1).abs().max() < 5 / math.sqrt(2 * n) + 0.015


BAD = {
    "guidance": (lambda: AdaptiveSDE(guidance="MMPS"), "`guidance` must be an iv.strategies.Guidance"),
    "rtol": (lambda: AdaptiveSDE(guidance=NoGuidance(), rtol=-0.1), "`rtol` must be non-negative"),
    "atol": (lambda: AdaptiveSDE(guidance=NoGuidance(), atol=0.0), "`atol` must be positive"),
    "steps": (lambda: AdaptiveSDE(guidance=NoGuidance(), num_steps=0), "`num_steps` must be at least 1"),
    "levels": (lambda: AdaptiveSDE(guidance=NoGuidance(), levels=5.0), r"`levels` must be a pair \(high, low\), got float"),
    "three": (lambda: AdaptiveSDE(guidance=NoGuidance(), levels=(3.0, 2.0, 1.0)), r"`levels` must be a pair"),
    "order": (lambda: AdaptiveSDE(guidance=NoGuidance(), levels=(1.0, 2.0)), r"high above low, got \(1.0, 2.0\)"),
    "zero": (lambda: AdaptiveSDE(guidance=NoGuidance(), levels=(1.0, 0.0)), r"`levels\[1\]` must be positive"),
    "operator": (
        lambda: iv.solve(
            iv.operators.from_callable(lambda x: x, (2,), (2,), kind="black box"), torch.zeros(2, dtype=F64),
            gaussian(torch.eye(2, dtype=F64)), noise=0.1, strategy=AdaptiveSDE(guidance=MomentMatching())),
        "an operator with a derivative",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD.keys())
def test_refused(call, words):
    with pytest.raises(iv.errors.InvsolveError, match=words):
        call()
