"""What a budget allows: prices of rows, sizes of ensembles, and solves that end when they were told to."""

import math
import time
from types import SimpleNamespace

import pytest
import torch

import invsolve as iv
from invsolve.core.checkpoint import load_state, save_state
from invsolve.core.counting import tally
from invsolve.operators import BlackBox, Operator
from invsolve.results.warnings import shortfalls
from invsolve.solving import escalation
from invsolve.solving import spending as spendings
from invsolve.solving.pricing import (
    affords_quadrature,
    expected_rows,
    fitted,
    price,
    shortest,
    smaller,
    stopped_at_once,
)
from invsolve.solving.spending import Amount, Budget, Spending
from invsolve.strategies import MMPS, SMC, NoiseMCMC
from invsolve.strategies.choice.candidates import Candidate

D = torch.float64
N = 4
PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=D), covariance=torch.eye(N, dtype=D))


class Slow(Operator):
    """x + x^3 / 10 and a millionth of the entry before, row by row, in so many seconds each."""

    in_shape = out_shape = (N,)
    seconds = 0.01

    def _apply(self, x):
        time.sleep(self.seconds * len(x))
        return x + 0.1 * x**3 + 1e-6 * x.roll(1, -1)

    def fingerprint(self):
        return "slow"


class SlowBox(BlackBox, Slow):
    pass


def problem(operator):
    return iv.Problem(operator, torch.zeros(2, N, dtype=D), noise=0.3)


def test_a_row_is_priced_by_what_it_takes():
    found = price(problem(Slow()), PRIOR, Amount(seconds=20.0))
    assert 0.01 <= found.seconds < 0.02  # the derivative of a sleep is free
    assert found.evaluations == 1  # an operator without an adjoint of its own counts once for both
    matrix = iv.operators.Matrix(matrix=torch.eye(N, dtype=D))
    assert price(problem(matrix), PRIOR, Amount(seconds=20.0)).evaluations == 2


def test_without_a_clock_nothing_is_timed():
    left = Spending(budget=Budget(evaluations=1000)).left()
    assert math.isinf(left.seconds) and left.evaluations == 1000
    found = price(problem(Slow()), PRIOR, left)
    assert found.seconds == 0 and found.evaluations == 1


@pytest.mark.parametrize("share", [2.0, 0.5, 0.05, 0.02])
@pytest.mark.parametrize("operator", [Slow(), SlowBox()])
def test_chains_are_as_many_as_fit(share, operator):
    whole = Candidate(strategy=NoiseMCMC(chains=1024), why="")
    row, at = Amount(evaluations=2.0), problem(operator)
    left = row * (expected_rows(whole, at, PRIOR, 1) * share / 0.4)
    small = fitted(whole, at, PRIOR, row, left, 1)
    if share >= 1:
        assert small is whole
        return
    assert small.strategy.chains < 1024 and small.strategy.chains % small.strategy.islands == 0
    assert (row * expected_rows(small, at, PRIOR, 1)).evaluations <= 0.4 * left.evaluations
    assert small.cost == pytest.approx(small.strategy.chains / 1024)
    assert (small.strategy.rounds == 4) == (small.strategy.chains <= 64)


def test_what_does_not_fit_at_any_size_is_left_out():
    row, at = Amount(seconds=1.0), problem(Slow())
    for candidate in (
        Candidate(strategy=NoiseMCMC(), why=""),
        Candidate(strategy=SMC(), why="", islands=8, particles=256),
        Candidate(strategy=MMPS(), why=""),
    ):
        assert fitted(candidate, at, PRIOR, row, Amount(seconds=10.0), 16) is None
        least = shortest(candidate)
        assert expected_rows(least, at, PRIOR, 16) < expected_rows(candidate, at, PRIOR, 16)
    exact = Candidate(strategy=iv.strategies.Unconditional(), why="")
    assert shortest(exact) is exact


def test_particles_and_steps_are_fewer_too():
    row, at = Amount(evaluations=1.0), problem(Slow())
    smc = Candidate(strategy=SMC(), why="", islands=8, particles=256)
    half = fitted(smc, at, PRIOR, row, row * (expected_rows(smc, at, PRIOR, 1) / 2 / 0.8), 1)
    assert half.particles == 128 and half.cost == 0.5
    mmps = Candidate(strategy=MMPS(num_steps=40), why="")
    assert fitted(mmps, at, PRIOR, row, row * (expected_rows(mmps, at, PRIOR, 8) / 2 / 0.8), 8).strategy.num_steps == 20


def test_a_later_try_is_no_smaller_than_a_quarter_of_the_first():
    first, wide = Candidate(strategy=NoiseMCMC(chains=512), why=""), Candidate(strategy=NoiseMCMC(chains=1024), why="")
    assert smaller(wide, 0.3, first).strategy.chains == 304
    assert smaller(wide, 0.1, first) is None and smaller(wide, 1.5, first) is None
    assert smaller(Candidate(strategy=MMPS(), why=""), 0.5, first) is None


def test_a_budget_is_spent_by_its_own_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(spendings, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    spending = Spending(budget=Budget(seconds=10.0, evaluations=100), kept_back=0.3)
    assert not spending.over(50, lost=False) and not spending.over(50, lost=True)
    assert spending.over(71, lost=True) and not spending.over(71, lost=False) and spending.over(101, lost=False)
    now[0] = 8.0
    assert spending.over(0, lost=True) and not spending.over(0, lost=False)
    assert "would take about 5 s, 2 s are left of budget=10" in spending.refusal(Amount(seconds=5.0), "it")
    assert spending.refusal(Amount(seconds=1.0), "it") == ""
    now[0] = 11.0
    assert spending.over(0, lost=False) and "an unknown time, 0 s are left" in spending.refusal(Amount(), "it")
    assert Budget(seconds=10).described(Amount(seconds=1234.5)) == "about 20 min 34 s"
    assert Budget(evaluations=10).described(Amount(evaluations=1234.5)) == "about 1,234 evaluations"


@pytest.mark.parametrize("operator", [Slow(), SlowBox()])
def test_solves_with_slow_operators_end_in_time(operator):
    """200 rows of 10 ms in two seconds: chains end within one move of the smallest ensemble, and say what is missing."""
    started = time.perf_counter()
    result = iv.solve(operator, torch.zeros(N, dtype=D), PRIOR, noise=0.3, num_samples=4, budget=2.0)
    move = 24 * 17 * 0.01  # a gradient at every one of at most 16 leaps
    assert time.perf_counter() - started < 1.1 * 2.0 + move
    assert not result.certificate.reached and " would end after about " in result.certificate.missing
    assert any("the budget ended" in text for text in result.warnings)
    assert not any("do not fit" in text for text in result.warnings)  # they are not there yet
    assert result.samples.isfinite().all()


def test_particles_end_within_a_budget_that_holds_half_of_their_way():
    """At their least size they would take twice as much: they make the rest of the way in one step, and say so."""
    prior = iv.priors.from_denoiser(lambda x, sigma: x / (1 + sigma**2), shape=(N,), mean=0.0, scale=1.0)
    A = iv.operators.from_callable(lambda x: x + 0.3 * x.roll(1, -1) ** 2, (N,), (N,))
    y, options = torch.tensor([0.5, -0.5, 1.0, 0.2]), {"noise": 0.3, "num_samples": 64}
    whole, half = (iv.solve(A, y, prior, budget=Budget(evaluations=n), **options) for n in (10**6, 60_000))
    assert whole.strategy == half.strategy == "SMC" and not half.certificate.reached
    last = half.certificate.attempts[-1]
    assert 0.7 * 60_000 < last.evaluations <= 60_000 < whole.certificate.attempts[0].evaluations
    assert "the rest of the way in one step" in half.certificate.missing and half.log_evidence.isnan()
    # The Gaussian step is not far off here: means agree as far as 64 samples of each can tell.
    assert float(((half.mean - whole.mean) / whole.std).abs().max()) < 5 * (2 / 64) ** 0.5


@pytest.mark.parametrize(("n", "m"), [(2, 1), (8, 4), (16, 16)])
def test_guidance_takes_as_many_products_as_there_are_data(n, m):
    """What is planned for a small problem and a prior without a law, beside what is done: at most, and not much less."""
    rng = torch.Generator().manual_seed(0)
    mixture = iv.priors.GaussianMixturePrior(
        weights=torch.ones(3) / 3,
        means=2 * torch.randn(3, n, generator=rng),
        covariances=0.1 * torch.eye(n).expand(3, n, n),
    )
    prior = iv.priors.from_denoiser(mixture._denoise, shape=(n,), mean=mixture.mean, scale=mixture.scale, detail=0.1)
    A = iv.operators.Matrix(matrix=torch.randn(m, n, generator=rng) / n**0.5)
    at = iv.Problem(A, torch.zeros(1, m), noise=0.1)
    with tally() as calls:
        iv.solve(at, prior, strategy=MMPS(), num_samples=8)
    row = price(at, prior, Amount(seconds=math.inf))
    planned = (row * expected_rows(Candidate(strategy=MMPS(), why=""), at, prior, 8)).evaluations
    assert 0.5 < calls.total() / planned < 1.05  # a first guess saves some


def test_chains_that_fit_are_right():
    """A budget of 60,000 evaluations: 40 chains instead of 4,096, the right posterior within what they say."""
    A = iv.operators.from_callable(lambda x: x + 0.1 * x**3 + 1e-6 * x.roll(1, -1), (N,), (N,))
    y = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=D)
    small = iv.solve(A, y, PRIOR, noise=0.3, num_samples=32, budget=Budget(evaluations=60_000))
    usual = iv.solve(A, y, PRIOR, noise=0.3, num_samples=2048)
    assert small.certificate.attempts[0].evaluations < 60_000 and small.info["beta"].min() == 1
    error = float(small.info["mean_error"].max()) + 32**-0.5
    assert float(((small.mean - usual.mean) / usual.std).abs().max()) < 4 * error


def test_quadrature_of_a_slow_simulator_is_not_begun():
    """A thousand rows of 10 ms do not end in two seconds; without a budget they are run."""

    class Entrywise(SlowBox):
        def _apply(self, x):
            time.sleep(self.seconds * len(x))
            return x**3

    at = iv.Problem(Entrywise(), torch.ones(N, dtype=D), noise=0.3)
    assert not affords_quadrature(at, PRIOR, Amount(seconds=2.0)) and affords_quadrature(
        at, PRIOR, Amount(seconds=60.0, evaluations=10**6)
    )
    result = iv.solve(at, PRIOR, num_samples=4, budget=2.0)
    assert result.strategy == "NoiseMCMC" and "quadrature would not end" in result.why
    assert affords_quadrature(problem(Slow()), PRIOR, Amount(seconds=0.1))  # which takes none: its entries mix


class Interrupted(Slow):
    """Without the sleep; interrupted in so many calls from now."""

    def __init__(self, at):
        self.left = [at]

    def _apply(self, x):
        self.left[0] -= 1
        if self.left[0] == 0:
            raise KeyboardInterrupt
        return x + 0.1 * x**3 + 1e-6 * x.roll(1, -1)


def test_a_checkpoint_is_found_again_beside_a_budget_of_seconds(tmp_path, monkeypatch):
    """What the clock decided is kept with it: on a machine a hundred times as slow the run goes on with its sizes."""

    def go(name, seconds):
        monkeypatch.setattr(escalation, "price", lambda *arguments: Amount(seconds=seconds, evaluations=1.0))
        saved = iv.Checkpoint(tmp_path / name, every_steps=1)
        return iv.solve(A, torch.zeros(N, dtype=D), PRIOR, noise=0.3, num_samples=4, budget=30.0, checkpoint=saved)

    A = Interrupted(40)
    with pytest.raises(KeyboardInterrupt):
        go("c", 3e-4)
    again, whole = go("c", 1e-2), go("other", 3e-4)
    size = again.certificate.attempts[0].strategy
    assert size == whole.certificate.attempts[0].strategy and "NoiseMCMC(chains=128," in size
    assert torch.equal(again.samples, whole.samples)
    assert "NoiseMCMC(chains=24," in go("slow", 1e-2).certificate.attempts[0].strategy


def test_the_seconds_of_an_earlier_process_are_spent(tmp_path):
    """A file of a run that has used up the budget: it ends at the next step, and its seconds are those of both."""
    A, file = Interrupted(40), tmp_path / "c"
    saved = iv.Checkpoint(file, every_steps=1)
    options = {"noise": 0.3, "num_samples": 4, "budget": 100.0, "checkpoint": saved}
    with pytest.raises(KeyboardInterrupt):
        iv.solve(A, torch.zeros(N, dtype=D), PRIOR, **options)
    tensors, meta = load_state(file)
    assert meta["mid"] and len(meta["decisions"]) > 1 and load_state(file, meta_only=True) == ({}, meta)
    save_state(file, tensors, meta | {"seconds": 101.0})
    result = iv.solve(A, torch.zeros(N, dtype=D), PRIOR, **options)
    assert "stopped when the budget was spent" in result.certificate.missing and result.seconds > 101
    assert len(result.certificate.attempts) == 1 and float(result.info["moves"].max()) == meta["step"] + 1


def test_what_only_one_of_two_strategies_says_is_no_shortfall():
    """Particles count likelihoods that are not defined; items that chains were taken for have NaN there."""
    assert shortfalls({"undefined": torch.tensor([math.nan, 0.0])}) == ()
    assert "likelihood of 3 particles" in shortfalls({"undefined": torch.tensor([math.nan, 3.0])})[0]


def test_samples_that_nobody_asked_for_take_little_of_a_budget():
    """chi^2 of 199 samples would take 199 rows of 20 ms, twice the budget."""

    class Slower(Slow):
        seconds = 0.02

    result = iv.solve(Slower(), torch.zeros(N, dtype=D), PRIOR, noise=0.3, budget=2.0)
    assert result.num_samples == 19 and not result.certificate.reached
    assert iv.solve(Slower(), torch.zeros(N, dtype=D), PRIOR, noise=0.3, budget=1.0, num_samples=24).num_samples == 24


@pytest.mark.parametrize(("limit", "fewest", "most"), [(12_000, 5, 10), (60_000, 20, 50)])
def test_guidance_is_as_long_as_a_trial_of_it_says(limit, fewest, most):
    """Its linear solves take more than is known before: five steps are run, and then as many as there is room for."""
    n = 160
    prior = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(n,), scale=1.0)
    A = iv.operators.Matrix(matrix=torch.randn(120, n, generator=torch.Generator().manual_seed(0)) / n**0.5)
    result = iv.solve(A, torch.zeros(120), prior, noise=0.01, num_samples=8, budget=Budget(evaluations=limit))
    (attempt,) = result.certificate.attempts
    assert result.strategy == "MMPS" and attempt.evaluations <= 1.1 * limit
    assert fewest <= result.strategy_object.num_steps <= most


BENDING = iv.operators.from_callable(lambda x: x + 0.3 * x.roll(1, -1) ** 2, (N,), (N,))
GAUSSIAN = iv.priors.GaussianPrior(mean=torch.zeros(N), covariance=torch.eye(N))
BY_DENOISER = iv.priors.from_denoiser(lambda x, sigma: x / (1 + sigma**2), shape=(N,), mean=0.0, scale=1.0)


class Box(BlackBox):
    in_shape = out_shape = (N,)

    def _apply(self, x):
        return BENDING(x)

    def fingerprint(self):
        return "box"


@pytest.mark.parametrize("limit", [300, 1000, 3000])
@pytest.mark.parametrize("samples", [None, 64])
@pytest.mark.parametrize(
    ("operator", "prior"),
    [
        (BENDING, BY_DENOISER),
        (iv.operators.Matrix(matrix=torch.eye(N)), BY_DENOISER),
        (BENDING, GAUSSIAN),
        (Box(), GAUSSIAN),
    ],
    ids=["particles", "linear particles", "chains", "chains of a black box"],
)
def test_budgets_of_a_few_evaluations_are_kept(operator, prior, samples, limit):
    """To 10 %, trials included: a few particles or chains, stopped, which say what would be enough."""
    with tally() as calls:
        result = iv.solve(
            operator, torch.ones(N), prior, noise=0.3, num_samples=samples, budget=Budget(evaluations=limit)
        )
    assert calls.total() <= 1.1 * limit and result.samples.isfinite().all()
    assert not result.certificate.reached
    if result.strategy != "MMPS":
        assert "would end after about " in result.certificate.missing


def test_a_budget_of_less_than_the_least_takes_that():
    """Four particles of one step, eight chains of one move: and no more."""
    small = Amount(evaluations=1.0)
    for candidate, operator, count in (
        (Candidate(strategy=SMC(), why="", islands=8, particles=32), BENDING, (2, 2)),
        (Candidate(strategy=NoiseMCMC(chains=24, islands=4), why=""), BENDING, (1, 8)),
    ):
        least = stopped_at_once(candidate, problem(operator), PRIOR, Amount(evaluations=3.0), small)
        rows = least.particles or least.strategy.chains
        assert (least.islands, rows) == count
    guided = Candidate(strategy=MMPS(), why="")
    assert stopped_at_once(guided, problem(BENDING), PRIOR, small, small) is guided
