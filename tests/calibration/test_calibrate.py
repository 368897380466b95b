"""`iv.calibrate`: uniform ranks for right posteriors, known faults flagged, resumes, weights, failures, errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import invsolve as iv
from invsolve.calibration.ranking import Plan, measure
from invsolve.core.checkpoint import save_state
from invsolve.core.random import Draws
from invsolve.errors import (
    CheckpointError,
    FileError,
    InputError,
    InputTypeError,
    SolveError,
    UnsupportedError,
)
from invsolve.progress import Progress
from invsolve.strategies import Exact
from invsolve.strategies.base import Strategy
from invsolve.strategies.exact import ExactState

D = torch.float64
SMALL = {"runs": 40, "num_samples": 31}


@dataclass(frozen=True, kw_only=True, eq=False)
class Changed(Strategy):
    """Exact draws, changed by ``change(x, mean, std)`` (rows first); log weights by ``weigh(x)``."""

    change: Callable[[Tensor, Tensor, Tensor], Tensor]
    weigh: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    num_steps = 1

    def bind(self, problem, prior):
        return prior.posterior(problem)

    def init(self, run):
        return Exact().init(run)

    def step(self, run, state, i):
        return ExactState(x=self.change(run.bound.draw(run.draws), run.bound.mean, run.bound.std)), {}

    def log_weights(self, run, state):
        return None if self.weigh is None else self.weigh(state.x, run.bound.mean, run.bound.std)


def stretched(factor: float | Tensor) -> Changed:
    return Changed(change=lambda x, mean, std: mean + factor * (x - mean))


def shifted(sd: float | Tensor) -> Changed:
    return Changed(change=lambda x, mean, std: x + sd * std)


def correlated(d: int, *, dtype: torch.dtype = D) -> tuple[iv.operators.Matrix, iv.priors.GaussianPrior]:
    """d numbers of exponential covariance seen through d / 2 random rows."""
    i = torch.arange(d, dtype=D)
    matrix = torch.randn(max(1, d // 2), d, generator=torch.Generator().manual_seed(0), dtype=D) / math.sqrt(d)
    covariance = torch.exp(-(i[:, None] - i).abs() / 3)
    prior = iv.priors.GaussianPrior(mean=torch.zeros(d, dtype=dtype), covariance=covariance.to(dtype))
    return iv.operators.Matrix(matrix=matrix.to(dtype)), prior


def same(a: iv.Calibration, b: iv.Calibration, *, but: tuple[str, ...] = ("seconds",)) -> bool:
    one, two = a.to_dict(), b.to_dict()
    return {k: v for k, v in one.items() if k not in but} == {k: v for k, v in two.items() if k not in but}


# --- right posteriors -----------------------------------------------------------------------------------------------
def test_ranks_of_exact_posteriors_are_uniform():
    """Chi-squared over 16 ranks and 640 runs, for every quantity at once: 1e-3 / K each, so 1e-3 in all."""
    A, prior = correlated(4)
    report = iv.calibrate(
        A, prior, noise=0.3, runs=640, num_samples=15, functionals={"x0 x1": lambda x: x[:, 0] * x[:, 1]}
    )
    assert report.passed, str(report)
    assert report.strategy == "Exact" and "x0 x1" in report.names and report.ranks.shape == (640, len(report.names))
    for i, name in enumerate(report.names):
        counts = torch.bincount(report.ranks[:, i], minlength=16).numpy()
        assert stats.chisquare(counts).pvalue > 1e-3 / len(report.names), name


def test_p_values_of_exact_posteriors_are_uniform():
    """Also of sums over strongly dependent components: their null law takes the dependence from the samples."""
    mean = torch.zeros(5, dtype=D)
    prior = iv.priors.GaussianPrior(
        mean=mean, covariance=0.95 * torch.ones(5, 5, dtype=D) + 0.05 * torch.eye(5, dtype=D)
    )
    A = iv.operators.Matrix(matrix=torch.ones(1, 5, dtype=D))
    reports = [iv.calibrate(A, prior, noise=3.0, runs=30, num_samples=31, seed=seed) for seed in range(40)]
    for name in ("bias", "spread", "spread of components"):
        assert stats.kstest([report[name].p_value for report in reports], "uniform").pvalue > 1e-3, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixture_passes_and_one_mode_alone_does_not(dtype):
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.6, 0.4], dtype=dtype),
        means=torch.tensor([[-2.0, 0], [2, 1]], dtype=dtype),
        covariances=torch.stack([0.3 * torch.eye(2), 0.5 * torch.eye(2)]).to(dtype),
    )
    A = iv.operators.Matrix(matrix=torch.tensor([[0.0, 1.0]], dtype=dtype))
    assert iv.calibrate(A, prior, noise=0.7, runs=100, num_samples=63).passed
    folded = Changed(change=lambda x, mean, std: torch.where(x[:, :1] * mean[:, :1] < 0, x * x.new_tensor([-1, 1]), x))
    assert not iv.calibrate(A, prior, noise=0.7, strategy=folded, runs=100, num_samples=63).passed


def test_complex_signals_are_ranked_by_re_and_im():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(2, 2, dtype=torch.complex128), covariance=torch.eye(4, dtype=D))
    A = iv.operators.Mask(mask=torch.tensor([[True, False], [True, True]]), kind="complex")
    report = iv.calibrate(A, prior, noise=0.5, runs=100, num_samples=63)
    assert report.passed, str(report)
    assert report.names[:4] == ("x[0, 0].re", "x[0, 0].im", "x[0, 1].re", "x[0, 1].im")
    flagged = iv.calibrate(
        A,
        prior,
        noise=0.5,
        runs=100,
        num_samples=63,
        strategy=Changed(change=lambda x, mean, std: torch.complex(x.real, mean.imag + 0.6 * (x.imag - mean.imag))),
    )
    assert not flagged.passed and not flagged["spread of components"].passed


def test_long_signals_are_ranked_in_part():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(100, dtype=D), covariance=torch.eye(100, dtype=D))
    A = iv.operators.Mask(mask=torch.arange(100) % 2 == 0)
    report = iv.calibrate(A, prior, noise=0.5, runs=50, num_samples=31)
    assert [len(report.groups[g]) for g in ("components", "projections", "functionals")] == [32, 16, 5]
    assert report.passed, str(report)
    assert not iv.calibrate(A, prior, noise=0.5, runs=50, num_samples=31, strategy=shifted(0.3)).passed


def test_operators_with_items_are_cycled_and_missing_data_are_zero():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3, dtype=D), covariance=torch.eye(3, dtype=D))
    A = iv.operators.Mask(mask=torch.tensor([[True, True, False], [False, True, True]]), in_shape=(3,))
    seen = []

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Look(Strategy):
        num_steps = 1

        def bind(self, problem, prior):
            seen.append(problem)
            return Exact().bind(problem, prior)

        def init(self, run):
            return Exact().init(run)

        def step(self, run, state, i):
            return Exact().step(run, state, i)

    std = torch.tensor([[0.1], [2.0]], dtype=D)
    report = iv.calibrate(A, prior, noise=std.expand(2, 3), strategy=Look(), batch=5, **SMALL)
    assert report.passed, str(report)
    masks = torch.cat([problem.operator.mask for problem in seen])
    assert torch.equal(masks, A.mask.repeat(20, 1))
    data = torch.cat([problem.data for problem in seen])
    assert not data[~masks].any() and data[masks].all()


# --- faults ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("strategy", "test", "words"),
    [
        (
            stretched(0.8),
            "spread",
            r"too narrow \(stds about 0\.(7|8)\d of what they should be; 0\.906 intervals cover 0\.[78]",
        ),
        (stretched(1.25), "spread", r"too wide \(stds about 1\.[23]\d of"),
        (shifted(0.3), "bias", r"means off by 0\.(2[5-9]|3[0-5]) posterior sd"),
        (shifted(0.3 * (-1.0) ** torch.arange(16, dtype=D)), "bias", r"means off by 0\.(2[5-9]|3[0-5]) posterior sd"),
        (
            stretched(torch.where(torch.arange(16) < 8, 0.7, 1.4).to(D)),
            "spread of components",
            r"stds 0\.\d\d to 1\.\d\d of",
        ),
        (
            Changed(change=lambda x, mean, std: mean + std * (x - mean).roll(1, 1) / std.roll(1, 1)),
            "log-likelihood",
            "ECDF",
        ),
        (Changed(change=lambda x, mean, std: mean + (x - mean).abs()), "components", "ECDF"),
    ],
    ids=["narrow", "wide", "bias", "alternating", "mixed", "dependence", "one-sided"],
)
def test_faults_are_flagged_and_named(strategy, test, words):
    A, prior = correlated(16)
    report = iv.calibrate(A, prior, noise=0.3, strategy=strategy, seed=1)
    assert not report.passed and not report[test].passed, str(report)
    assert report.verdict.startswith("Not calibrated: ")
    assert re.search(words, report.verdict), report.verdict


def test_ignoring_the_data_is_noticed_by_the_likelihood():
    """Prior draws have uniform component ranks and pass TARP: quantities that know the data do not."""
    A, prior = correlated(6)

    @dataclass(frozen=True, kw_only=True, eq=False)
    class PriorDraws(Strategy):
        num_steps = 1

        def init(self, run):
            return Exact().init(run)

        def step(self, run, state, i):
            return ExactState(x=prior._sample(run.rows, run.draws)), {}

    report = iv.calibrate(A, prior, noise=0.3, strategy=PriorDraws(), runs=100, num_samples=63)
    assert not report["log-likelihood"].passed
    assert report["components"].passed and report["TARP distance"].passed


def test_a_point_instead_of_a_posterior_is_flagged():
    A, prior = correlated(4)
    report = iv.calibrate(A, prior, noise=0.3, strategy=stretched(0.0), **SMALL)
    assert not report.passed and "too narrow (stds about 0.00" in report.verdict
    json.loads(json.dumps(report.to_dict(), allow_nan=False))  # its z-scores are infinite
    assert str(report) and report.plot() is not None


def test_few_runs_say_what_they_cannot_detect():
    A, prior = correlated(1)
    report = iv.calibrate(A, prior, noise=0.3, runs=3, num_samples=3)
    assert report.passed and report.coverage[0].level == 0.5
    assert "too few to detect" in report.verdict and report.noticed_stds == (None, None) and report.noticed_bias is None
    more = iv.calibrate(A, prior, noise=0.3, runs=100, num_samples=63)
    low, high = more.noticed_stds
    assert 0.5 < low < 1 < high < 2 and 0 < more.noticed_bias < 1
    # One Gaussian component: the bias test is |sum of 100 normals| at 0.005 two-sided, power 0.9.
    assert more.noticed_bias == pytest.approx((stats.norm.isf(0.0025) + stats.norm.isf(0.1)) / 10, rel=0.06)


# --- weights and failures -------------------------------------------------------------------------------------------
WIDE = 1.6


def importance(weighted: bool) -> Changed:
    """Proposals that are 1.6 times too wide, with their exact weights, or without."""

    def weigh(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        z = ((x - mean) / std).square().sum(1)
        return -0.5 * z * (1 - 1 / WIDE**2)

    return replace(stretched(WIDE), weigh=weigh if weighted else None)


def test_weighted_samples_are_ranked_by_their_weights():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3, dtype=D), covariance=torch.eye(3, dtype=D))
    A = iv.operators.Mask(mask=torch.tensor([True, True, False]))  # independent posteriors: the weights are exact
    report = iv.calibrate(A, prior, noise=0.5, strategy=importance(True), runs=200, num_samples=255)
    assert report.passed, str(report)
    assert abs(report.scores["std ratio"].value - 1) < 4 * report.scores["std ratio"].se
    assert not iv.calibrate(A, prior, noise=0.5, strategy=importance(False), runs=200, num_samples=255).passed


def test_smc_on_a_mixture():
    """Every p-value above 1e-4: 1e-3 false alarms over the ten tests."""
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.5, 0.5], dtype=D),
        means=torch.tensor([[-2.0, 0], [2, 0]], dtype=D),
        covariances=torch.stack([0.4 * torch.eye(2, dtype=D)] * 2),
    )
    A = iv.operators.Matrix(matrix=torch.tensor([[0.3, 1.0]], dtype=D))
    report = iv.calibrate(A, prior, noise=0.8, strategy=iv.strategies.SMC(num_steps=12), runs=60, num_samples=127)
    assert min(test.p_value for test in report.tests if test.p_value is not None) > 1e-4, str(report)
    assert report.nfe > 0 and report.strategy == "SMC"


def test_failed_samples_are_left_out_counted_and_reported():
    A, prior = correlated(3)
    lost = Changed(change=lambda x, mean, std: torch.where(x[:, :1] - mean[:, :1] > 1.5 * std[:, :1], math.nan, x))
    report = iv.calibrate(A, prior, noise=0.3, strategy=lost, **SMALL)
    assert report.failed > 0 and report.lost == 0 and not report["rows"].passed and not report.passed
    assert f"{report.failed} of 1240 samples failed" in report.verdict
    assert torch.isfinite(report.stds).all() and all(math.isfinite(e.value) for e in report.scores.values())


def test_runs_without_a_posterior_are_lost():
    A, prior = correlated(3)
    half = Changed(change=lambda x, mean, std: torch.where(mean[:, :1] > 0, math.nan, x))
    report = iv.calibrate(A, prior, noise=0.3, strategy=half, **SMALL)
    assert 0 < report.lost < 40 and report.runs + report.lost == 40 and report.failed == 31 * report.lost
    none = iv.calibrate(A, prior, noise=0.3, strategy=stretched(math.nan), **SMALL)
    assert none.verdict == "Not calibrated: no run gave a posterior (40 lost)." and not none.passed
    assert str(none) and none._repr_html_() and none.to_dict()["scores"] == {}
    with pytest.raises(InputError, match="with a run that counts"):
        none.plot()


def plan_of(prior: iv.priors.GaussianPrior, n: int) -> Plan:
    return Plan.make(prior.sample(64, seed=9), n, 0, {})


def test_one_pool_has_the_ranks_and_scores_of_metrics():
    A, prior = correlated(5)
    truth, samples = prior.sample(3, seed=1), prior.sample(3 * 40, seed=2).view(40, 3, 5)
    problem = iv.Problem(A, A(truth), noise=0.3)
    plan, weights = plan_of(prior, 40), torch.full((40, 3), 1 / 40, dtype=D)
    rows = measure(plan, problem, truth, samples, weights, [0, 1, 2]).rows
    assert torch.equal(rows["ranks"][:, :5], iv.metrics.rank(samples, truth))
    energy = samples.square().sum(2, keepdim=True), truth.square().sum(1, keepdim=True)
    assert torch.equal(rows["ranks"][:, plan.names.index("energy")], iv.metrics.rank(*energy)[:, 0])
    fit = problem.take(torch.arange(3).repeat(40)).log_likelihood(samples.flatten(0, 1)).view(40, 3, 1)
    likelihood = iv.metrics.rank(fit, problem.log_likelihood(truth)[:, None])[:, 0]
    assert torch.equal(rows["ranks"][:, plan.names.index("log-likelihood")], likelihood)
    assert torch.allclose(rows["crps"], iv.metrics.crps(samples, truth), rtol=1e-12)
    assert torch.allclose(rows["energy score"], iv.metrics.energy_score(samples, truth), rtol=1e-9)
    z = (truth - samples.mean(0)) / samples.std(0) / math.sqrt(41 / 40) * math.sqrt(37 / 39)
    assert torch.allclose(rows["z"], z, rtol=1e-12)


def test_samples_of_weight_zero_do_not_count():
    """NaN rows of weight zero, and the same pool without them: the same scores, ranks on the scale of n + 1."""
    A, prior = correlated(5)
    truth, samples = prior.sample(3, seed=1), prior.sample(3 * 40, seed=2).view(40, 3, 5).clone()
    problem = iv.Problem(A, A(truth), noise=0.3)
    few = measure(
        plan_of(prior, 20), problem, truth, samples[:20], torch.full((20, 3), 1 / 20, dtype=D), [0, 1, 2]
    ).rows
    samples[20:] = math.nan
    weights = ((torch.arange(40)[:, None] < 20).to(D) / 20).expand(40, 3)
    rows = measure(plan_of(prior, 40), problem, truth, samples, weights, [0, 1, 2]).rows
    for name in ("z", "crps", "energy score", "error", "variance", "ess"):
        assert torch.allclose(rows[name], few[name], rtol=1e-9), name
    # The same uniform place: u in steps of 1 / 41 and of 1 / 21.
    assert ((rows["ranks"] / 41 - few["ranks"] / 21).abs() < 1 / 21).all()


def test_ties_are_broken_at_random():
    """Signals that are 0 or 1: the rank within the ties must be uniform."""
    A, prior = correlated(2)
    b = 400
    bits = (prior.sample(b * 20, seed=3).view(20, b, 2) > 0).to(D)
    truth = bits[0]
    problem = iv.Problem(A, A(truth), noise=0.3)
    weights = torch.full((19, b), 1 / 19, dtype=D)
    ranks = measure(plan_of(prior, 19), problem, truth, bits[1:], weights, list(range(b))).rows["ranks"]
    for column in ranks[:, :2].T:
        assert stats.chisquare(torch.bincount(column, minlength=20).numpy()).pvalue > 1e-4


# --- seeds, batches, checkpoints ------------------------------------------------------------------------------------
def test_seeds_and_batches():
    A, prior = correlated(4)
    report = iv.calibrate(A, prior, noise=0.3, **SMALL)
    assert same(report, iv.calibrate(A, prior, noise=0.3, **SMALL))
    other = iv.calibrate(A, prior, noise=0.3, seed=1, **SMALL)
    assert not torch.equal(other.ranks, report.ranks)
    for batch in (1, 7, 40):
        again = iv.calibrate(A, prior, noise=0.3, batch=batch, **SMALL)
        assert torch.equal(again.ranks, report.ranks)
        assert [t.passed for t in again.tests] == [t.passed for t in report.tests]
        assert torch.allclose(again.stds, report.stds, rtol=1e-9)
    more = iv.calibrate(A, prior, noise=0.3, runs=50, num_samples=31)
    assert torch.equal(more.ranks[:40], report.ranks)


def test_truth_noise_and_solve_share_no_numbers():
    """The streams of one run, under every purpose: uncorrelated, 5 standard errors of 4,000 numbers."""
    purposes = ("solve", "prior", "calibrate, truth", "calibrate, noise", "calibrate, ties", "calibrate, pilot")
    z = torch.stack(
        [Draws.for_rows(0, [3], [0], torch.device("cpu"), purpose=p).normal((4000,), D, step=0)[0] for p in purposes]
    )
    gram = z @ z.mT / 4000 - torch.diag(z.square().mean(1))
    assert float(gram.abs().max()) < 5 / math.sqrt(4000)


def test_no_number_of_truth_or_noise_is_one_of_the_solve():
    """With a white prior the truth is its numbers (up to sign and order): none is among those a strategy may draw."""
    prior = iv.priors.GaussianPrior(mean=torch.zeros(4, dtype=D), covariance=torch.eye(4, dtype=D))
    A = iv.operators.Mask(mask=torch.ones(4, dtype=torch.bool))
    drawn, truths, data = [], [], []

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Spy(Strategy):
        num_steps = 1

        def init(self, run):
            return Exact().init(run)

        def step(self, run, state, i):
            drawn.extend(run.draws.normal((4,), D, step=step, index=index) for step in range(3) for index in range(2))
            data.append(run.problem.data)
            return ExactState(x=drawn[0]), {}

    def keep(x: Tensor) -> Tensor:
        truths.append(x[:3])
        return x[:, 0]

    iv.calibrate(A, prior, noise=1.0, strategy=Spy(), runs=3, num_samples=3, functionals={"keep": keep})
    numbers = torch.cat(drawn).abs().flatten()
    for secret in (truths[0], data[0][:3] - truths[0]):
        assert float((secret.abs().flatten()[:, None] - numbers).abs().min()) > 1e-9


class StopAt(Progress):
    """Raises when as many runs are done; keeps what it was told."""

    def __init__(self, done: int) -> None:
        self.at, self.told = done, []

    def init(self, total):
        self.told.append(total)

    def step(self, done, total):
        self.told.append((done, total))
        if done == self.at:
            raise KeyboardInterrupt

    def close(self):
        self.told.append("closed")


def test_an_interrupted_calibration_goes_on(tmp_path):
    A, prior = correlated(4)
    path = tmp_path / "run.ckpt"
    functionals = {"sum": lambda x: x.sum(1)}
    arguments = {"noise": 0.3, "batch": 16, "functionals": functionals, **SMALL}
    whole = iv.calibrate(A, prior, **arguments)
    stop = StopAt(32)
    with pytest.raises(KeyboardInterrupt):
        iv.calibrate(A, prior, checkpoint=path, progress=stop, **arguments)
    assert stop.told == [40, (16, 40), (32, 40), "closed"]
    meter = StopAt(-1)
    resumed = iv.calibrate(A, prior, checkpoint=path, progress=meter, **arguments)
    assert meter.told == [40, (40, 40), "closed"]
    assert same(whole, resumed)
    third = iv.calibrate(A, prior, checkpoint=str(path), progress=StopAt(99), **arguments)
    assert same(whole, third)
    # More runs than are in the file: it goes on.
    more = iv.calibrate(A, prior, checkpoint=path, **{**arguments, "runs": 50})
    assert torch.equal(more.ranks[:40], whole.ranks) and more.runs == 50
    with pytest.raises(InputError, match="`runs` must be at least 50, as many as are in the checkpoint, got 40"):
        iv.calibrate(A, prior, checkpoint=path, **arguments)


def test_another_calibration_is_refused_with_the_difference(tmp_path):
    A, prior = correlated(4)
    path = tmp_path / "run.ckpt"
    iv.calibrate(A, prior, noise=0.3, checkpoint=path, **SMALL)
    for change, name in (
        ({"noise": 0.4}, "noise"),
        ({"seed": 1}, "seed"),
        ({"strategy": Exact()}, "strategy"),
        ({"num_samples": 15}, "num_samples"),
        ({"functionals": {"a": torch.numel}}, "functionals"),
    ):
        with pytest.raises(CheckpointError, match=f"checkpoint: `{name}` must be as in the run that wrote the file"):
            iv.calibrate(A, prior, checkpoint=path, **({"noise": 0.3, **SMALL} | change))
    save_state(tmp_path / "other", {"x": torch.zeros(1)}, {"identity": {}})
    with pytest.raises(CheckpointError):
        iv.calibrate(A, prior, noise=0.3, checkpoint=tmp_path / "other", **SMALL)
    from invsolve.core.checkpoint import load_state

    save_state(path, {"x": torch.zeros(1)}, load_state(path)[1])
    with pytest.raises(FileError, match="is not a checkpoint of a calibration"):
        iv.calibrate(A, prior, noise=0.3, checkpoint=path, **SMALL)


# --- the report -----------------------------------------------------------------------------------------------------
def test_report_in_words_json_and_figure(tmp_path):
    A, prior = correlated(4)
    report = iv.calibrate(A, prior, noise=0.3, **SMALL)
    assert repr(report) == "Calibration(passed, 11 of 11 tests, runs=40, num_samples=31, strategy=Exact)"
    assert report.verdict.startswith("No fault found in 40 runs; stds too small by ")
    assert report.verdict.endswith("in all components, would have been detected 9 times in 10.")
    assert report.verdict in str(report) and "ok    bias: means off by" in str(report)
    report.save(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert (
        read == report.to_dict() and read["passed"] is True and read["ranks"]["energy"] == report.ranks[:, 12].tolist()
    )
    assert report.names[12:] == ("energy", "max", "log-likelihood", "TARP distance", "spread")
    axes = report.plot().axes
    assert [len(ax.lines) for ax in axes[:2]] == [1 + 4 + 8, 1 + 4]
    assert "<img" in report._repr_html_() and "&lt;" not in report._repr_html_()[:20]
    with pytest.raises(KeyError, match="no test 'nope'; there are rows, bias, spread"):
        report["nope"]
    wrong = iv.calibrate(A, prior, noise=0.3, strategy=stretched(0.5), **SMALL)
    assert "outside" in wrong.plot().axes[1].get_title() and "NOT calibrated" in repr(wrong)


def test_exact_coverage_and_scores_are_what_they_should_be():
    A, prior = correlated(8)
    report = iv.calibrate(A, prior, noise=0.3, runs=200, num_samples=255)
    assert [round(c.level, 3) for c in report.coverage] == [0.5, 0.805, 0.906, 0.953]
    for c in report.coverage:
        assert abs(c.observed - c.level) < 4 * c.se
    for name, e in report.scores.items():
        assert abs(e.value - e.expected) < 4 * e.se, name
    narrow = iv.calibrate(A, prior, noise=0.3, strategy=stretched(0.5), runs=200, num_samples=255)
    for name, expected in (("std ratio", 0.5), ("spread / skill", 0.5), ("rms z", 2.0)):
        assert abs(narrow.scores[name].value - expected) < 4 * narrow.scores[name].se, name
    assert narrow.scores["crps / expected"].value > 1.5


# --- what is refused ------------------------------------------------------------------------------------------------
A4, PRIOR4 = correlated(4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"A": torch.eye(4)}, InputTypeError, "calibrate: `A` must be an iv.operators.Operator, got Tensor"),
        ({"prior": "x"}, InputTypeError, "calibrate: `prior` must be an iv.priors.Prior"),
        ({"prior": correlated(3)[1]}, InputError, r"calibrate: `prior` must be of the shape that Matrix takes, \(4,\)"),
        ({"noise": None}, InputTypeError, "calibrate: `noise` must be a positive number"),
        ({"noise": -1.0}, InputError, "calibrate: `noise` must be positive"),
        ({"noise": torch.ones(7, dtype=D)}, InputError, "noise.std"),
        ({"runs": 1}, InputError, "calibrate: `runs` must be at least 2, got 1"),
        ({"runs": 2.5}, InputTypeError, "calibrate: `runs` must be an integer"),
        ({"num_samples": 2}, InputError, "calibrate: `num_samples` must be at least 3"),
        ({"seed": "a"}, InputTypeError, "calibrate: `seed` must be an integer"),
        ({"batch": 0}, InputError, "calibrate: `batch` must be at least 1"),
        ({"progress": 1}, InputTypeError, "calibrate: `progress` must be True, False or an iv.progress meter"),
        ({"strategy": "best"}, InputError, "`strategy` must be 'auto'"),
        ({"strategy": Exact}, InputTypeError, "Call it"),
        ({"checkpoint": 3}, InputTypeError, "calibrate: `checkpoint` must be a path"),
        ({"checkpoint": "/nowhere/at/all"}, InputError, "in a folder that exists"),
        ({"functionals": [torch.sum]}, InputTypeError, "`functionals` must be a mapping of names to functions"),
        ({"functionals": {"a": 3}}, InputTypeError, "`functionals` must be a mapping of names to functions"),
        ({"functionals": {"energy": torch.sum}}, InputError, "under names that are not taken, got 'energy'"),
        ({"functionals": {"a": lambda x: x}}, InputError, r"functionals\['a'\]\(x\)` must be of shape \(\d+,\)"),
        ({"functionals": {"a": lambda x: 1.0}}, InputError, r"functionals\['a'\]\(x\)` must be of shape .*, got \(\)"),
        (
            {"functionals": {"a": lambda x: x[:, 0] + 0j}},
            InputTypeError,
            r"functionals\['a'\]\(x\)` must be a real tensor",
        ),
        ({"functionals": {"a": lambda x: x[:, 0] * math.nan}}, InputError, "without NaN"),
    ],
)
def test_bad_arguments_are_refused(change, error, words):
    arguments = {"A": A4, "prior": PRIOR4, "noise": 0.3, **SMALL} | change
    with pytest.raises(error, match=words):
        iv.calibrate(arguments.pop("A"), arguments.pop("prior"), **arguments)


def test_what_a_strategy_cannot_do_is_said_by_solve():
    square = iv.operators.from_callable(lambda x: x.square(), (4,), (4,))
    with pytest.raises(UnsupportedError, match="strategy Exact needs what is not there"):
        iv.calibrate(square, PRIOR4, noise=0.3, strategy=Exact(), **SMALL)


def test_truths_and_data_must_be_finite():
    overflow = iv.operators.from_callable(lambda x: x / 0, (4,), (4,))
    with pytest.raises(SolveError, match="data simulated from prior draws are not finite"):
        iv.calibrate(overflow, PRIOR4, noise=0.3, **SMALL)
    broken = iv.priors.from_denoiser(lambda x, sigma: x * math.nan, shape=(4,), mean=torch.zeros(4, dtype=D), scale=1.0)
    with pytest.raises(SolveError, match="draws of the prior are not finite"):
        iv.calibrate(A4, broken, noise=0.3, **SMALL)


def test_settings_are_kept():
    report = iv.calibrate(A4, PRIOR4, noise=0.3, **SMALL)
    assert report.settings["num_samples"] == 31 and report.seconds > 0 and np.isclose(report.level, 0.02)


@pytest.mark.gpu
def test_on_an_accelerator():
    report = iv.calibrate(A4.to("cuda"), PRIOR4.to("cuda"), noise=0.3, **SMALL)
    assert report.ranks.device.type == "cpu" and report["rows"].passed and report.runs == 40


def test_certified_runs_are_counted_and_a_budget_is_kept(tmp_path):
    law = iv.priors.GaussianPrior(mean=torch.zeros(2), covariance=torch.eye(2))
    bent = iv.operators.from_callable(lambda x: x + 0.1 * x.roll(1, 1) ** 3, (2,), (2,))
    file = tmp_path / "c.ckpt"
    short = iv.calibrate(bent, law, noise=0.01, runs=4, num_samples=15, batch=2, budget=1e-6, checkpoint=file)
    assert short.certified == 0 and "certified: 0 of 4 runs" in str(short) and short.to_dict()["certified"] == 0
    with pytest.raises(iv.errors.CheckpointError, match="budget"):
        iv.calibrate(bent, law, noise=0.01, runs=4, num_samples=15, batch=2, checkpoint=file)
    line = iv.operators.Mask(mask=torch.tensor([True, False]))
    exact = iv.calibrate(line, law, noise=0.1, runs=4, num_samples=15, batch=2)
    assert exact.certified == 4
    own = iv.calibrate(line, law, noise=0.1, runs=4, num_samples=15, strategy=iv.strategies.Exact())
    assert own.certified is None and "certified" not in str(own)
    with pytest.raises(iv.errors.InputError, match="calibrate: `budget` must be left out with a strategy of your own"):
        iv.calibrate(line, law, noise=0.1, runs=4, num_samples=15, strategy=iv.strategies.Exact(), budget=5.0)
