"""The parallel solution of a deterministic chain against the chain itself, level after level."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.samplers import Euler, log_grid
from invsolve.strategies import DeqParallel, Guided, MomentMatching, NoGuidance, Run
from invsolve.strategies.integrators.deq_parallel import mixing_weights, relative_ridge, sweep

F64 = torch.float64
GRID = log_grid(10.0, 0.01, 25)  # 25 steps, 8 dimensions


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def usual_prior():
    root = normal(8, 8, seed=1)
    return iv.priors.GaussianPrior(mean=normal(8, seed=2), covariance=root @ root.mT / 8)


A, Y = iv.operators.Matrix(matrix=normal(3, 8, seed=3)), normal(2, 3, seed=4)


def solved(strategy, prior=None, operator=A, y=Y, noise=0.1, **options):
    return iv.solve(
        operator, y, prior or usual_prior(), noise=noise, strategy=strategy, **{"num_samples": 3, **options}
    )


def chain(guidance, **options):
    grid = options.pop("grid", GRID)
    return solved(Guided(guidance=guidance, sampler=Euler(), grid=grid, num_steps=25), **options).samples


def worst(x, reference):
    return float(((x - reference).flatten(2).norm(dim=2) / reference.flatten(2).norm(dim=2)).max())


@pytest.mark.parametrize(("acceleration", "most"), [("picard", 12), ("anderson", 9)])
def test_few_sweeps_are_enough(acceleration, most):
    """25 steps to 1e-5 in at most 12 sweeps , with Anderson fewer."""
    result = solved(DeqParallel(guidance=NoGuidance(), grid=GRID, acceleration=acceleration, rtol=1e-5))
    assert worst(result.samples, chain(NoGuidance())) < 1e-5
    sweeps = result.info["sweeps"]
    assert sweeps.max() <= most and (result.info["change"] <= 1e-5).all()
    assert result.nfe == 25 * sweeps.max()


GUIDANCES = {
    "prior": NoGuidance(),
    "MMPS law": MomentMatching(),
    "MMPS jacobian": MomentMatching(covariance="jacobian"),
}


@pytest.mark.parametrize("options", [{}, {"window": 8}, {"window": 1}, {"acceleration": "anderson"}], ids=repr)
@pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=GUIDANCES.keys())
def test_converged_trajectories_are_the_chain(guidance, options):
    result = solved(DeqParallel(guidance=guidance, grid=GRID, rtol=1e-10, **options))
    assert worst(result.samples, chain(guidance)) < 1e-8
    assert result.info["sweeps"].max() <= 25 and result.strategy == f"DeqParallel, {guidance.name}"


@pytest.mark.parametrize("acceleration", ["picard", "anderson"])
def test_as_many_sweeps_as_levels_always_do(acceleration):
    """Triangular: a sweep makes one more state exact, however little is asked of the others."""
    result = solved(DeqParallel(guidance=MomentMatching(), grid=GRID, rtol=1e-300, acceleration=acceleration))
    assert worst(result.samples, chain(MomentMatching())) < 1e-12 and result.info["sweeps"].max() <= 25


def test_a_prior_that_is_not_gaussian_and_items_with_levels_of_their_own():
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.3, 0.7], dtype=F64), means=torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=F64),
        covariances=torch.stack((0.09 * torch.eye(2, dtype=F64), 0.25 * torch.eye(2, dtype=F64))),
    )  # fmt: skip
    noise = iv.noise.Gaussian(std=torch.tensor([[0.05], [0.8]], dtype=F64))
    setting = dict(prior=prior, operator=iv.operators.Matrix(matrix=torch.tensor([[1.0, 0.5]], dtype=F64)),
                   y=torch.tensor([[0.5], [-2.0]], dtype=F64), noise=noise, num_samples=6)  # fmt: skip
    for guidance in (NoGuidance(), MomentMatching(covariance="jacobian")):
        strategy = DeqParallel(guidance=guidance, rtol=1e-11)
        assert worst(solved(strategy, **setting).samples, chain(guidance, grid=None, **setting)) < 1e-8


def test_complex_signals_and_single_precision():
    prior = iv.priors.GaussianPrior(
        mean=torch.ones(3, dtype=torch.complex64), covariance=torch.diag(torch.tensor([1.0, 0.2, 3.0]))
    )
    operator = iv.operators.Mask(mask=torch.tensor([True, False, True]), kind="complex")
    setting = dict(prior=prior, operator=operator, y=torch.tensor([[1.0 + 2j, 0.0, -1j]]))
    for acceleration in ("picard", "anderson"):
        strategy = DeqParallel(guidance=MomentMatching(), rtol=1e-5, grid=GRID, acceleration=acceleration)
        result = solved(strategy, **setting)
        # Prefix sums from states of size 10: some 1e-6 of 10 each.
        torch.testing.assert_close(result.samples, chain(MomentMatching(), **setting), rtol=0, atol=1e-4)
        assert result.samples.dtype == torch.complex64


# --- rows ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("acceleration", ["picard", "anderson"])
def test_rows_do_not_see_each_other(acceleration):
    strategy = DeqParallel(guidance=MomentMatching(), grid=GRID, rtol=1e-6, acceleration=acceleration)
    y, std = torch.cat((Y, 1e3 * Y)), torch.tensor([[0.01], [0.1], [1.0], [10.0]], dtype=F64)
    both = solved(strategy, y=y, seed=3, noise=iv.noise.Gaussian(std=std))
    for item in range(4):
        noise = iv.noise.Gaussian(std=std[item : item + 1])
        one = solved(strategy, y=y[item : item + 1], seed=3, item_ids=[item], noise=noise)
        assert torch.equal(one.info["sweeps"][:, 0], both.info["sweeps"][:, item])
        torch.testing.assert_close(one.samples[:, 0], both.samples[:, item], rtol=1e-9, atol=1e-9)
    assert len(both.info["sweeps"].unique()) > 1  # each row has its own number


def running(strategy, rows=6):
    problem, prior = iv.Problem(A, Y[:1], noise=0.1), usual_prior()
    index = torch.zeros(rows, dtype=torch.int64)
    draws = Draws.for_rows(0, [0] * rows, list(range(rows)), torch.device("cpu"))
    run = Run(problem=problem.take(index), prior=prior, draws=draws, bound=strategy.bind(problem, prior).take(index))
    return run, strategy.init(run)


@pytest.mark.parametrize("acceleration", ["picard", "anderson"])
def test_converged_rows_stay_as_they_are(acceleration):
    strategy = DeqParallel(guidance=NoGuidance(), grid=GRID, rtol=1e-10, acceleration=acceleration)
    run, state = running(strategy, rows=12)
    done = {}
    for i in range(25):
        if strategy.finished(run, state):
            break
        state, info = strategy.step(run, state, i)
        for row in (state.fixed == 25).nonzero()[:, 0].tolist():
            done.setdefault(row, (i, state.trajectory[row].clone(), float(info["change"][row])))
    assert len(done) == 12 and len({i for i, _, _ in done.values()}) > 1
    for row, (i, trajectory, change) in done.items():
        assert torch.equal(state.trajectory[row], trajectory) and float(state.change[row]) == change
        assert float(state.sweeps[row]) == i + 1


def test_a_nan_row_stays_alone_and_holds_nobody_up():
    strategy = DeqParallel(guidance=NoGuidance(), grid=GRID)
    run, state = running(strategy)
    sick = state.trajectory.clone()
    sick[2] = math.nan
    sick = replace(state, trajectory=sick)
    for i in range(25):
        state, _ = strategy.step(run, state, i)
        sick, _ = strategy.step(run, sick, i)
        if strategy.finished(run, state):
            assert strategy.finished(run, sick)
            break
    others = [0, 1, 3, 4, 5]
    assert torch.equal(state.x[others], sick.x[others]) and bool(sick.x[2].isnan().all())


# --- parts --------------------------------------------------------------------------------------------------------
def test_one_sweep_is_the_prefix_sum_by_hand():
    """Levels 4, 2, 1, 0; D = x/2: slopes x/(2 s); row 0 from its first state, row 1 from its second, window 2."""
    levels = torch.tensor([[4.0, 2.0, 1.0, 0.0]], dtype=F64).expand(2, 4)
    x = torch.tensor([[8.0, 6.0, 5.0, 4.0], [8.0, 7.0, 3.0, 2.0]], dtype=F64)[..., None]
    seen = []

    def denoise(x, t):
        seen.append((x[:, 0].tolist(), t[:, 0].tolist()))
        return x / 2, {}

    states, slope, _ = sweep(denoise, x, levels, torch.tensor([0, 1]), 2)
    assert seen == [([8.0, 6.0, 7.0, 3.0], [4.0, 2.0, 2.0, 1.0])]  # one call, those of a row together
    first = 8 + (2 - 4) * 8 / 8
    second = 7 + (1 - 2) * 7 / 4
    exact = [[first, first + (1 - 2) * 6 / 4], [second, second + (0 - 1) * 3 / 2]]
    torch.testing.assert_close(states[..., 0], torch.tensor(exact, dtype=F64), rtol=1e-14, atol=0)
    torch.testing.assert_close(slope[:, 0], torch.tensor([6 / 4, 3 / 2], dtype=F64))
    behind, _, _ = sweep(denoise, x, levels, torch.tensor([2, 2]), 2)  # the window ends behind the last level
    torch.testing.assert_close(behind[:, 1], behind[:, 0])


def test_mixing_weights_are_the_constrained_minimum_of_each_row():
    g = normal(4, 5, 3, 2, seed=7)
    ridge = torch.tensor([1e-3, 1.0, 1e-8, 10.0], dtype=F64)
    w = mixing_weights(g, ridge)
    torch.testing.assert_close(w.sum(1), torch.ones(4, dtype=F64))
    gram = g.flatten(2) @ g.flatten(2).mT + ridge[:, None, None] * torch.eye(5, dtype=F64)
    # At the minimum under sum w = 1 the gradient is the same in all directions.
    slope = (gram @ w[..., None])[..., 0]
    torch.testing.assert_close(slope, slope[:, :1].expand(4, 5), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mixing_weights(g[1:2], ridge[1:2]), w[1:2], rtol=1e-12, atol=0)
    pair = torch.stack((g[0].real, g[1]), -1)
    torch.testing.assert_close(
        mixing_weights(torch.view_as_complex(pair)[None], ridge[:1]), mixing_weights(pair[None], ridge[:1])
    )


def test_a_relative_ridge_does_not_depend_on_the_size_of_the_residuals_and_an_absolute_one_does():
    g = normal(1, 5, 6, seed=8)
    for size in (1e-9, 1.0, 1e9):
        torch.testing.assert_close(
            mixing_weights(size * g, relative_ridge(size * g)), mixing_weights(g, relative_ridge(g))
        )
    fixed = torch.tensor([1e-3], dtype=F64)
    stalled = mixing_weights(1e-9 * g, fixed)
    torch.testing.assert_close(stalled, torch.full((1, 5), 0.2, dtype=F64))  # a plain mean of the last sweeps
    torch.testing.assert_close(mixing_weights(0 * g, relative_ridge(0 * g)), torch.full((1, 5), 0.2, dtype=F64))


# --- limits -------------------------------------------------------------------------------------------------------
def test_fewer_sweeps_give_what_is_there_and_say_so():
    reference = chain(NoGuidance())
    errors = []
    for most in (3, 6, 9):
        result = solved(DeqParallel(guidance=NoGuidance(), grid=GRID, rtol=1e-12, max_sweeps=most))
        errors.append(worst(result.samples, reference))
        assert (result.info["sweeps"] == most).all() and (result.info["change"] > 1e-12).all()
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_a_window_that_does_not_reach_the_end_is_a_failure():
    late = solved(DeqParallel(guidance=NoGuidance(), grid=GRID, window=13, max_sweeps=2), throw=False)
    assert late.status is iv.Status.ALL_FAILED and late.info["change"].isinf().all()
    assert solved(DeqParallel(guidance=NoGuidance(), grid=GRID, window=23, max_sweeps=4)).status is iv.Status.SUCCESS


def test_resuming_from_a_checkpoint_is_bitwise(tmp_path):
    strategy = DeqParallel(guidance=MomentMatching(), grid=GRID, rtol=1e-9, acceleration="anderson")
    whole = solved(strategy)

    class Stop(Exception):
        pass

    class Interrupt(iv.progress.Progress):
        def init(self, total):
            pass

        def close(self):
            pass

        def step(self, done, total):
            if done >= 6 * 5:
                raise Stop

    saved = iv.Checkpoint(path=tmp_path / "run.ckpt", every_steps=1, every_seconds=None)
    with pytest.raises(Stop):
        solved(strategy, checkpoint=saved, progress=Interrupt())
    assert torch.equal(solved(strategy, checkpoint=saved).samples, whole.samples)


BAD = {
    "guidance": (lambda: DeqParallel(guidance="MMPS"), "DeqParallel: `guidance` must be an iv.strategies.Guidance"),
    "steps": (lambda: DeqParallel(guidance=NoGuidance(), num_steps=1), "`num_steps` must be at least 2"),
    "grid": (
        lambda: DeqParallel(guidance=NoGuidance(), grid=torch.tensor([[2.0, 1.0]])),
        "`grid` must be one grid for all rows",
    ),
    "sweeps": (
        lambda: DeqParallel(guidance=NoGuidance(), max_sweeps=0),
        "DeqParallel: `max_sweeps` must be at least 1",
    ),
    "window": (lambda: DeqParallel(guidance=NoGuidance(), window=0), "DeqParallel: `window` must be at least 1"),
    "rtol": (lambda: DeqParallel(guidance=NoGuidance(), rtol=0.0), "DeqParallel: `rtol` must be positive"),
    "acceleration": (
        lambda: DeqParallel(guidance=NoGuidance(), acceleration="newton"),
        "`acceleration` must be one of 'picard', 'anderson'",
    ),
    "too few sweeps": (
        lambda: DeqParallel(guidance=NoGuidance(), window=5, max_sweeps=4),
        "`max_sweeps` must be at least 5, for 25 steps in windows of 5, got 4",
    ),
    "both": (
        lambda: DeqParallel(guidance=NoGuidance(), acceleration="anderson", window=3),
        "`window` must be None with acceleration='anderson', got 3",
    ),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD.keys())
def test_refused(call, words):
    with pytest.raises(iv.errors.InvsolveError, match=words):
        call()
