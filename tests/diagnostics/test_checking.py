"""The tests that `result.check()` is made of: laws against closed forms and counts, faults that each must see."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import invsolve as iv
from invsolve.diagnostics.exchangeability import mean_rank_limit, stands_out, uniform_rank_p
from invsolve.diagnostics.prior_data_conflict import evidence, evidence_tests
from invsolve.diagnostics.repeated_values import repeats_test, resolution
from invsolve.diagnostics.report import LEVEL, RANKED, SHARES
from invsolve.diagnostics.resolve import with_data
from invsolve.errors import UnsupportedError
from invsolve.strategies.base import Strategy
from invsolve.strategies.exact import ExactState

N = 16


def matern(length: float, std: float = 1.0) -> iv.priors.GaussianPrior:
    i = torch.arange(N * N)
    r = ((i[:, None] // N - i // N) ** 2 + (i[:, None] % N - i % N) ** 2).double().sqrt() * 3**0.5 / length
    return iv.priors.GaussianPrior(mean=torch.zeros(N, N), covariance=(std**2 * torch.exp(-r) * (1 + r)).float())


PRIOR = matern(4.0)
BLUR = iv.operators.GaussianBlur(std=(0.6, 1.4), in_shape=(N, N), boundary="zero")
STD = 0.07


def problem(seed: int, batch: int = 1, x: Tensor | None = None) -> iv.Problem:
    x = PRIOR.sample(batch, seed=seed) if x is None else x
    y = BLUR(x) + STD * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return iv.Problem(BLUR, y.contiguous(), noise=STD)


def dense_covariance(p: iv.Problem, prior: iv.priors.GaussianPrior) -> Tensor:
    """Of the whitened data, from the operator's columns and the prior's covariance: nothing of the code under test."""
    n = prior.mean.numel()
    A = p.operator(torch.eye(n, dtype=prior.dtype).view(n, *prior.shape)).flatten(1).mT.double() / p.noise.std
    return A @ prior.covariance.double() @ A.mT + torch.eye(len(A), dtype=torch.float64)


# --- shares and ranks -------------------------------------------------------------------------------------------------
def test_the_shares_of_a_report_add_up_to_its_level():
    closed = {"evidence", "operator", "sensors", "innovations"}
    simulated = {"prior predictive", "held-out sensors"}
    assert sum(v for k, v in SHARES.items() if k not in simulated) <= LEVEL
    assert sum(v for k, v in SHARES.items() if k not in closed) <= LEVEL


def test_a_rank_in_an_exchangeable_pool_is_uniform():
    """400 pools of dependent, skew statistics: counts of p <= level against the binomial, 4 standard errors."""
    rng = torch.Generator().manual_seed(0)
    shared = torch.randn(400, 64, 1, generator=rng)
    pools = torch.cat([shared.exp(), shared + torch.randn(400, 64, 3, generator=rng)], 2)
    p = torch.tensor([stands_out(pool).p for pool in pools])
    assert float(p.min()) >= 1 / 64
    for level in (1 / 16, 1 / 4, 1 / 2):
        assert abs(float((p <= level).double().mean()) - level) < 4 * (level * (1 - level) / 400) ** 0.5


def test_a_row_that_stands_out_is_last_and_bad_columns_are_left_out():
    pool = torch.randn(256, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pool[0, 1] = 9.0
    pool[7, 0], pool[:, 2] = torch.nan, 1.0
    rank = stands_out(pool)
    assert rank.p == RANKED and rank.column == 1 and rank.z > 3 > rank.beyond / 2
    assert stands_out(torch.ones(8, 2)).p == 1.0


def test_the_law_of_uniform_ranks_is_that_of_all_outcomes():
    """Three ranks on 0 ... 3: 64 outcomes, counted."""
    outcomes = np.array(list(itertools.product(range(4), repeat=3)))
    sums, spreads = outcomes.sum(1), ((2 * outcomes - 3) ** 2).sum(1)
    for ranks in (np.array([0, 0, 1]), np.array([3, 0, 3]), np.array([1, 2, 1])):
        for p, law, value in zip(
            uniform_rank_p(ranks, 4), (sums, spreads), (ranks.sum(), ((2 * ranks - 3) ** 2).sum()), strict=True
        ):
            assert p == pytest.approx(min(1.0, 2 * min((law <= value).mean(), (law >= value).mean())))


def test_the_limit_of_a_mean_rank_is_where_its_p_value_fails():
    for number, levels, level in ((64, 16, 1e-4), (6, 64, 1e-4), (8, 16, 0.01)):
        limit = mean_rank_limit(number, levels, level)
        total = round((0.5 - limit) * number * (levels - 1))
        for extra, fails in ((0, True), (1, False)):
            ranks = np.full(number, (total + extra) // number)
            ranks[: (total + extra) % number] += 1
            assert (uniform_rank_p(ranks, levels)[0] <= level) is fails
    assert mean_rank_limit(1, 4, 0.01) == float("inf")


# --- the evidence in closed form --------------------------------------------------------------------------------------
@pytest.mark.parametrize("operator", [
    BLUR,
    iv.operators.Mask(mask=torch.rand(N, N, generator=torch.Generator().manual_seed(0)) < 0.7),
    iv.operators.Matrix(matrix=torch.randn(300, N * N, generator=torch.Generator().manual_seed(2)) / 16)
    @ iv.operators.Subsample(index=torch.arange(N * N), in_shape=(N, N)),
], ids=["blur", "mask", "more data than unknowns"])  # fmt: skip
def test_the_evidence_is_that_of_dense_matrices(operator):
    x = PRIOR.sample(3, seed=1)
    y = operator(x)
    y = y + STD * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    p = iv.Problem(operator, y if operator.observed is None else y * operator.observed, noise=STD)
    found = evidence(p, PRIOR)
    assert found is not None
    keep = slice(None) if operator.observed is None else operator.observed.flatten()
    S, w = dense_covariance(p, PRIOR)[keep][:, keep], p.data.flatten(1).double()[:, keep] / STD
    inverse = torch.linalg.inv(S)
    size = ((w @ inverse) * w).sum(1).numpy()
    # float32 operators: each gain is right to some 1e-6 of the largest, 1e4; the small ones count.
    np.testing.assert_allclose(found.squares.sum(1) + found.rest, size, rtol=1e-2)
    assert len(found.gains) + found.left == len(S)
    np.testing.assert_allclose(found.precision, inverse.diagonal().numpy(), rtol=1e-2)
    loo = (w @ inverse / inverse.diagonal().sqrt()).numpy()
    np.testing.assert_allclose(found.errors, loo, atol=0.05)
    values, vectors = torch.linalg.eigh(S)
    white = w @ vectors / values.sqrt() @ vectors.mT
    torch.testing.assert_close(found.white.flatten(1)[:, keep].double(), white, atol=0.05, rtol=0.01)


def test_p_values_of_the_evidence_are_calibrated():
    """300 items of the right model in one batch: p <= level as often as it says or less (Bonferroni), 4 s.e."""
    for found in evidence_tests(problem(5, batch=300), PRIOR, seed=0):
        for level in (0.02, 0.1):
            assert (found.p <= level).mean() < level + 4 * (level * (1 - level) / 300) ** 0.5
        assert (found.p <= 0.5).mean() > 0.2  # and not by never saying anything


@pytest.mark.parametrize("factor, words", [(0.5, "2 times the noise std"), (2.0, "0.5 times the noise std")])
def test_the_evidence_names_a_wrong_noise_level(factor, words):
    p = dataclasses.replace(problem(2), noise=STD * factor)
    found = evidence_tests(p, PRIOR, seed=0)[0]
    assert found.name == "evidence" and found.p[0] < 1e-3 and words in found.text and found.value > 10


def test_the_stated_power_of_the_evidence_is_kept():
    """The noise factor that the text states is noticed nine times in ten: 200 items, 5 s.e. below."""
    text = evidence_tests(problem(0), PRIOR, seed=0)[0].text
    factor = float(text.split("can detect ")[1].split(" ")[0])
    x = PRIOR.sample(200, seed=9)
    y = BLUR(x) + factor * STD * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    found = evidence_tests(iv.Problem(BLUR, y, noise=STD), PRIOR, seed=0)[0]
    assert 1 < factor < 2 and (found.p < SHARES["evidence"]).mean() > 0.9 - 5 * (0.09 / 200) ** 0.5


@pytest.mark.parametrize("widths, words", [((1.4, 0.6), r"smoother by [0-9.]+ along axis 0"), ((0.3, 0.3), "sharper")])
def test_a_wrong_blur_is_named(widths, words):
    other = iv.operators.GaussianBlur(std=widths, in_shape=(N, N), boundary="zero")
    y = other(PRIOR.sample(1, seed=1)) + STD * torch.randn(1, N, N, generator=torch.Generator().manual_seed(1))
    found = {f.name: f for f in evidence_tests(iv.Problem(BLUR, y.contiguous(), noise=STD), PRIOR, seed=0)}
    # By how much is a choice among neighbours in a list, which rounding may decide.
    assert found["operator"].p[0] < 1e-3 and re.search(words, found["operator"].text)


def test_the_ratio_of_operators_is_that_of_two_evidences():
    """A gain ramp, whose data have a covariance that can be written down: against two multivariate normal densities."""
    p = problem(3)
    ramp = torch.linspace(0.7, 1.3, N).expand(N, N).double()
    S = dense_covariance(p, PRIOR)
    eye = torch.eye(N * N, dtype=torch.float64)
    gain = torch.diag(ramp.flatten())
    other = gain @ (S - eye) @ gain + eye
    y = (
        gain
        @ (
            torch.linalg.cholesky(S - eye + 1e-6 * eye)
            @ torch.randn(N * N, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        )
    ) + torch.randn(N * N, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = next(
        f
        for f in evidence_tests(dataclasses.replace(p, data=(y * STD).view(1, N, N).float()), PRIOR, seed=0)
        if f.name == "operator"
    )
    zero = np.zeros(N * N)
    ratio = stats.multivariate_normal(zero, other).logpdf(y) - stats.multivariate_normal(zero, S).logpdf(y)
    assert "a gain that grows along axis 1" in found.text
    assert found.value == pytest.approx(ratio, abs=0.02)


def test_no_closed_form_is_no_evidence():
    per_item = iv.operators.Mask(mask=torch.ones(2, N, N, dtype=torch.bool), in_shape=(N, N))
    assert evidence(iv.Problem(per_item, torch.ones(2, N, N), noise=1.0), PRIOR) is None
    nothing = iv.operators.Mask(mask=torch.zeros(N, N, dtype=torch.bool))
    assert evidence_tests(iv.Problem(nothing, torch.zeros(1, N, N), noise=1.0), PRIOR, seed=0) == []


def test_dead_sensors_are_named():
    p = problem(3)
    y = p.data.clone()
    worst = y.abs().flatten().argsort(descending=True)[[2, 40]]
    y.view(-1)[worst] = 0.0
    sensors = next(f for f in evidence_tests(dataclasses.replace(p, data=y), PRIOR, seed=0) if f.name == "sensors")
    assert sensors.p[0] < 1e-4
    assert all(str(int(k)) in sensors.text for k in worst)


# --- values that repeat -----------------------------------------------------------------------------------------------
def test_repeats_are_counted_and_digits_are_forgiven():
    y = 3 * torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    A = iv.operators.Matrix(matrix=torch.eye(300))
    stuck = y.clone()
    stuck[1, :6] = 0.0
    p = repeats_test(iv.Problem(A, stuck, noise=0.3))[0]
    assert p.value == 6 and p.p[1] < SHARES["repeated values"] / 2 and p.p[0] == 1
    digits = (y / 0.3).round() * 0.3  # as coarse as the noise: every value occurs often
    assert repeats_test(iv.Problem(A, digits, noise=0.3))[0].p.min() == 1
    correlated = iv.noise.Gaussian(covariance=torch.eye(300))
    assert repeats_test(iv.Problem(A, y, noise=correlated)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_equal_readings_of_continuous_data_are_seen(dtype):
    y = torch.randn(1, 64, generator=torch.Generator().manual_seed(0), dtype=dtype)
    A = iv.operators.Matrix(matrix=torch.eye(64, dtype=dtype))
    assert repeats_test(iv.Problem(A, y, noise=0.3))[0].p.min() == 1
    y[0, 5] = y[0, 40]
    found = repeats_test(iv.Problem(A, y, noise=0.3))[0]
    assert found.value == 2 and found.p[0] < SHARES["repeated values"] and "can detect 2 sensors" in found.text


@pytest.mark.parametrize("count", [32, 64, 1000])
def test_the_resolution_of_data_is_found(count):
    """Single precision, in double too; decimals; a converter with and without an offset; significant digits."""
    x = np.random.default_rng(count).standard_normal(count)
    single = x.astype(np.float32).astype(np.float64)
    assert resolution(np.unique(x)) == np.spacing(np.abs(x)).mean()
    assert resolution(np.unique(single)) == np.spacing(np.abs(x).astype(np.float32)).mean()
    assert resolution(np.unique(x.round(3))) == pytest.approx(1e-3)
    for spacing, offset in ((0.0137, 0.0), (0.0137, 5.3), (2**-7 / 3, 0.1)):
        counts = (x / spacing).round() * spacing + offset
        assert resolution(np.unique(counts)) == pytest.approx(spacing)
        assert resolution(np.unique(counts.astype(np.float32).astype(np.float64))) == pytest.approx(spacing, rel=1e-3)
    assert resolution(np.unique([float(f"{v:.6g}") for v in x])) == pytest.approx(1e-5)


def test_missing_data_are_no_repeats():
    mask = iv.operators.Mask(mask=torch.arange(300) < 200)
    y = torch.randn(1, 300, generator=torch.Generator().manual_seed(0))
    assert repeats_test(iv.Problem(mask, mask(y), noise=0.3))[0].value == 1


# --- solving again ----------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrong(Strategy):
    """Exact draws, stretched about the mean and shifted by posterior stds."""

    factor: float = 1.0
    shift: float = 0.0
    num_steps = 1

    def bind(self, problem, prior):
        return prior.posterior(problem)

    def init(self, run):
        return ExactState(x=run.problem.data.new_zeros(run.rows, *run.problem.shape))

    def step(self, run, state, i):
        mean = run.bound.mean
        return ExactState(x=mean + self.shift * run.bound.std + self.factor * (run.bound.draw(run.draws) - mean)), {}


@pytest.mark.parametrize("strategy", [Wrong(factor=0.7), Wrong(factor=1.4), Wrong(shift=1.0)], ids=repr)
def test_a_solver_with_a_fault_is_noticed_by_its_ranks(strategy):
    report = iv.solve(problem(4), PRIOR, strategy=strategy, num_samples=16).check()
    assert not report["replicated data"].passed
    assert report["evidence"].passed and report["sensors"].passed  # the data are innocent


def test_half_the_noise_variance_is_two_measurements():
    """The posterior given (y, y') is that of their mean with half of the variance: against the stacked operator."""
    p, q = problem(1), problem(2)
    both = with_data(p, (p.data + q.data) / 2, noise_factor=0.5**0.5)
    stacked = iv.Problem(
        iv.operators.Stack(operators=(BLUR, BLUR)), torch.cat([p.data.flatten(1), q.data.flatten(1)], 1), noise=STD
    )
    torch.testing.assert_close(PRIOR.posterior(both).mean, PRIOR.posterior(stacked).mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(PRIOR.posterior(both).std, PRIOR.posterior(stacked).std, atol=0, rtol=1e-3)


def mixture(n: int = 8) -> iv.priors.GaussianMixturePrior:
    i = torch.arange(n * n)
    d = ((i[:, None] // n - i // n) ** 2 + (i[:, None] % n - i % n) ** 2).float().sqrt()
    C = torch.exp(-d / 4) + 0.01 * torch.eye(n * n)
    means = torch.stack([torch.full((n, n), m) for m in (-1.5, 1.5)])
    return iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.6, 0.4]), means=means, covariances=torch.stack([C, C / 2])
    )


MIXTURE = mixture()
SMALL = iv.operators.GaussianBlur(std=0.5, in_shape=(8, 8), boundary="zero")


def small(seed: int, batch: int = 1, factor: float = 1.0, dead: int = 0) -> iv.Result:
    clean = SMALL(MIXTURE.sample(batch, seed=seed) * factor).contiguous()
    if dead:
        clean.view(-1)[clean.abs().flatten().argsort(descending=True)[5 : 5 + dead]] = 0.0
    y = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return iv.solve(SMALL, y, MIXTURE, noise=0.1, num_samples=8, seed=seed)


def test_a_prior_without_closed_form_is_checked_by_simulation():
    names = {c.name for c in small(0).check().checks}
    assert {"prior predictive", "held-out sensors", "split data", "replicated data"} <= names
    assert not {"evidence", "operator", "sensors", "innovations"} & names
    assert not small(1, factor=3.0).check().passed
    assert not small(1, factor=8.0).check()["prior predictive"].passed
    held = small(2, dead=2).check()["held-out sensors"]
    assert not held.passed and held.p_value == RANKED


def test_a_right_posterior_of_a_mixture_passes():
    """20 right models at 2 %: four alarms or more would have a probability of 6e-4."""
    assert sum(not small(100 + seed).check().passed for seed in range(20)) < 4


def test_several_items_are_one_pool_and_the_fault_of_one_is_found():
    assert small(7, batch=3).check().passed
    broken = small(7, batch=3)
    y = broken.problem.data.clone()
    y[1] *= 4
    again = iv.solve(dataclasses.replace(broken.problem, data=y), MIXTURE, num_samples=8)
    report = again.check()
    assert not report["prior predictive"].passed and "of item 1" in report["prior predictive"].text


def test_a_report_is_the_same_twice_and_says_what_was_left_out():
    result = small(0)
    assert str(result.check()) == str(result.check())
    quick = result.check(solves=False)
    assert "not simulated or solved again; check(solves=True) would draw 2" in str(quick)
    assert not {"split data", "replicated data"} & {c.name for c in quick.checks}
    with pytest.raises(UnsupportedError, match="does not hold problem and prior"):
        dataclasses.replace(result, solver=None).check()


def test_data_without_a_batch_axis_are_checked_alike():
    one = small(0)
    y = one.problem.data
    alone = iv.solve(SMALL, y[0], MIXTURE, noise=0.1, num_samples=8, seed=0).check()
    assert [c.p_value for c in alone.checks] == pytest.approx([c.p_value for c in one.check().checks])


def test_weighted_samples_are_checked_by_what_is_exact_for_them():
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.5, 0.5]),
        means=torch.tensor([[-1.0] * 8, [1.0] * 8]),
        covariances=0.3 * torch.eye(8).expand(2, 8, 8),
    )
    A = iv.operators.Matrix(matrix=torch.eye(8))
    y = prior.sample(1, seed=0) + 0.3 * torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    report = iv.solve(A, y, prior, noise=0.3, strategy=iv.strategies.SMC(), num_samples=512, weighted=True).check()
    assert report.passed and "no replicated data" in str(report) and report["split data"].p_value > 1 / 256


def test_many_items_are_looked_at_in_part():
    assert "8 of 9 items" in str(small(0, batch=9).check())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failing(Wrong):
    """Fails wherever the data are not those of ``data``."""

    data: Tensor

    def step(self, run, state, i):
        state, info = Wrong.step(self, run, state, i)
        std = run.problem.noise.std
        good = torch.equal(run.problem.data[0], self.data[0]) and isinstance(std, float) and std == 0.1
        return (state if good else ExactState(x=state.x * torch.nan)), info


def test_solves_that_fail_fail_the_test():
    p = small(0).problem
    report = iv.solve(p, MIXTURE, strategy=Failing(data=p.data), num_samples=8).check()
    for name in ("split data", "held-out sensors", "replicated data"):
        assert not report[name].passed and "failed" in report[name].text


@pytest.mark.parametrize("solves", [1, "yes"])
def test_solves_is_true_or_false(solves):
    with pytest.raises(iv.errors.InputTypeError, match="`solves` must be True, False or None"):
        small(0).check(solves=solves)


def test_the_law_behind_a_sum_of_tails_is_chi2():
    """The bands' p-values for one band at a time: chi^2 tails, as scipy has them."""
    from invsolve.diagnostics.power_spectrum import _bands

    squares = np.array([[9.0, 1.0, 1.0, 5.0]])
    p, where, worst = _bands(squares, np.array([1.0, 1.0, 1.0, 3.0]))
    assert where == ["directions 1 to 1 of 3"] and worst[0] == 9
    assert p[0] == pytest.approx(4 * 2 * stats.chi2.sf(9, 1))
