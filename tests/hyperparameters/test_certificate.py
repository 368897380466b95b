"""What inferred scalars say of themselves: R-hat, sweeps until it is small, certificates, meters."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import invsolve as iv
from invsolve.hyperparameters import gibbs, lattice, verdict
from invsolve.hyperparameters.mixing import mixing
from invsolve.operators import BlackBox

D = torch.float64
N = 4
PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=D), covariance=torch.eye(N, dtype=D))
A = iv.operators.Matrix(torch.cat([torch.eye(N, dtype=D)] * 8))
Y = torch.tensor([1.2, -0.7, 0.4, 2.0], dtype=D).repeat(8) + 0.3 * torch.randn(
    32, generator=torch.Generator().manual_seed(0), dtype=D
)
LEVEL = iv.noise.Gaussian(std=iv.LogNormal(median=0.2, factor=2))
BENT = iv.operators.from_callable(lambda x: x + 0.1 * x**3, (N,), (N,))
GIBBS = iv.Hierarchy(method="gibbs")


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


# --- R-hat ----------------------------------------------------------------------------------------------------------
def test_split_r_hat_of_chains_with_a_known_memory():
    """Independent draws: 1 up to chance; chains that stand still: large; an AR(1) has the size of its spectrum at 0."""
    sweeps, chains, batch = 400, 32, 2
    trace = draws(sweeps, chains * batch, 1)
    rhat, ess = mixing(list(trace), batch)
    assert rhat.shape == ess.shape == (batch, 1)
    assert bool((rhat < 1.01).all())
    # The variance of 32 chains' means is known to a factor 1 +- 0.25.
    assert bool(((ess / (sweeps / 2 * chains)).log().abs() < 5 * 0.25).all())
    stuck = [draws(chains * batch, 1) + 0.1 * row for row in trace]
    assert bool((mixing(stuck, batch)[0] > 5).all())
    moving = [row + 0.05 * k for k, row in enumerate(trace)]  # all together: it is not the chains that differ
    assert bool((mixing(moving, batch)[0] > 1.5).all())
    rho, x, slow = 0.9, trace[0], []
    for row in trace:
        x = rho * x + math.sqrt(1 - rho**2) * row
        slow.append(x)
    want = sweeps / 2 * chains * (1 - rho) / (1 + rho)
    assert bool(((mixing(slow, batch)[1] / want).log().abs() < 5 * 0.25 + 0.1).all())  # and 5 % of its edge effects


def test_items_do_not_see_each_other_and_few_sweeps_say_nothing():
    trace = draws(40, 16, 1)
    both = torch.stack([trace, 5 * torch.arange(16.0, dtype=D)[:, None] + trace], 2).flatten(1, 2)  # item 1 is stuck
    rhat, _ = mixing(list(both), 2)
    alone, _ = mixing(list(trace), 1)
    assert torch.equal(rhat[0], alone[0]) and float(rhat[1]) > 5
    assert mixing(list(trace[:3]), 1)[0].isnan().all()
    one, ess = mixing(list(draws(40, 1, 1)), 1)
    assert one.isfinite().all() and float(ess) <= 20


# --- sweeps ---------------------------------------------------------------------------------------------------------
def test_sweeps_go_on_until_r_hat_says_so(monkeypatch):
    """By the clock of a budget at most: how many there were is said, and whether they were enough."""
    result = iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=32, hierarchy=GIBBS)
    assert result.certificate.reached and result.certificate.word in ("certified", "exact")
    assert result.certificate.tests[verdict.RHAT_TEST] <= 1.05 and "Gibbs sweeps" in str(result.certificate)
    asked = []

    def never(trace, batch, names):
        asked.append(len(trace))
        return len(trace) >= 40

    monkeypatch.setattr(gibbs, "mixed", never)
    longer = iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=8, hierarchy=GIBBS)
    assert asked == [10, 15, 23, 35, 53] and "by 53 Gibbs sweeps" in longer.why
    asked.clear()
    given = iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=8, hierarchy=iv.Hierarchy(method="gibbs", num_sweeps=3))
    assert asked == [] and "by 3 Gibbs sweeps" in given.why


def test_sweeps_without_a_budget_are_counted_and_not_timed(monkeypatch):
    """As many as a number of evaluations allows, on any machine; of what is slow a hundredth."""
    monkeypatch.setattr(gibbs, "mixed", lambda *arguments: False)
    options = {"noise": LEVEL, "num_samples": 8, "hierarchy": GIBBS}

    given = iv.solve(A, Y, PRIOR, **(options | {"hierarchy": iv.Hierarchy(method="gibbs", num_sweeps=15)}))
    work = given.certificate.attempts[0].evaluations * (Y.numel() + 512)
    monkeypatch.setattr(gibbs, "_MOST_WORK", 1.5 * work * 0.999)
    assert "by 15 Gibbs sweeps" in iv.solve(A, Y, PRIOR, **options).why  # half as many again would be too many
    monkeypatch.setattr(gibbs, "_MOST_WORK", 1.5 * work * 1.001)
    assert "by 23 Gibbs sweeps" in iv.solve(A, Y, PRIOR, **options).why

    class Box(BlackBox):
        in_shape, out_shape = A.in_shape, A.out_shape

        def _apply(self, x):
            return A(x)

        def fingerprint(self):
            return "box"

    request = SimpleNamespace(calls=lambda: 7, unknowns=SimpleNamespace(medians=None, at=lambda theta: at))
    at = iv.Problem(A, Y, noise=0.1), PRIOR
    plain = gibbs._work(request)
    at = iv.Problem(Box(), Y, noise=0.1), PRIOR
    assert gibbs._work(request) == 100 * plain > 0


def test_chains_that_have_not_mixed_are_not_certified():
    """Two sweeps of a noise level that starts far above."""
    how = iv.Hierarchy(method="gibbs", num_sweeps=2)
    result = iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=16, hierarchy=how)
    certificate = result.certificate
    assert not certificate.reached and certificate.word == "not certified"
    assert "R-hat of the scalars inf after 2 sweeps" in certificate.missing
    assert "not certified" in repr(result) and "  certificate: not certified: split R-hat" in result.summary()
    guided = iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=8, strategy=iv.strategies.MMPS(num_steps=20))
    assert not guided.certificate.reached and "MMPS is an approximation" in guided.certificate.missing


def test_chains_are_judged_by_r_hat():
    """Two groups of chains half a std apart: R-hat about sqrt(1 + 1/16), and a bound of the mean that is not small."""
    apart = 0.5 * torch.tensor([[-1.0], [1.0]], dtype=D).repeat(8, 1)
    trace = [draws(16, 1, seed=k) + apart for k in range(400)]
    found = verdict.of_chains(trace, 1, (), iv.strategies.Exact())
    rhat = math.sqrt(1 + 0.25 * 16 / 15)  # the variance of chains' means over that within
    assert found.tests[verdict.RHAT_TEST] == pytest.approx(rhat, abs=0.02)
    assert not bool(found.passed) and "asked: 1.05" in found.missing
    assert float(found.error) == pytest.approx(2 * math.sqrt((1 - rhat**-2) / 32), abs=0.01)
    good = verdict.of_chains([row - apart for row in trace], 1, (), iv.strategies.Exact())
    assert bool(good.passed) and good.missing == "" and float(good.error) < 0.05
    slow = verdict.of_chains([row - apart for row in trace], 1, ("a moves slowly",), iv.strategies.Exact())
    assert not bool(slow.passed) and "move slowly" in slow.missing


def test_a_budget_that_ends_inside_a_sweep_keeps_signals_and_scalars_together():
    """Every width has a solve of its own; rows that were not drawn again keep a signal that fits."""
    side = 8
    prior = iv.priors.GaussianFieldPrior((side, side), iv.priors.Matern(std=1.0, length=0.3), dtype=D)
    family = iv.operators.Family(
        lambda width: iv.operators.GaussianBlur(width, (side, side), dtype=D),
        width=iv.LogNormal(median=1.0, factor=1.3),
    )
    y = family.at(width=1.0)(prior.sample(1, seed=0))[0] + 0.1 * draws(side, side)
    budget = iv.Budget(evaluations=6_000)
    result = iv.solve(family, y, prior, noise=LEVEL, num_samples=16, hierarchy=GIBBS, budget=budget)
    assert any("Gibbs sweeps: give a larger one" in text for text in result.warnings)
    assert not result.certificate.reached and result.samples.isfinite().all()
    for k in range(16):
        A_k = family.at(width=float(result.parameters["operator.width"][k]))
        problem = iv.Problem(A_k, y, noise=float(result.parameters["noise.std"][k]))
        assert float(result.chi2[k]) == pytest.approx(float(problem.chi2(result.samples[k : k + 1])), rel=1e-6)


def test_what_no_lattice_resolves_is_left_to_sweeps(monkeypatch):
    """Not an error after a long search; unless a lattice was asked for."""
    monkeypatch.setattr(lattice, "_MAX_NODES", 100)
    result = iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=8, hierarchy=iv.Hierarchy(spacing=0.05))
    assert "No lattice of a tolerable size" in result.why and "Gibbs sweeps" in result.why
    with pytest.raises(iv.errors.UnsupportedError, match="more than 100 nodes"):
        iv.solve(A, Y, PRIOR, noise=LEVEL, hierarchy=iv.Hierarchy(method="lattice", spacing=0.05))


# --- lattices -------------------------------------------------------------------------------------------------------
def test_a_lattice_is_certified_by_its_errors(tmp_path):
    result = iv.solve(A, torch.stack([Y, -Y]), PRIOR, noise=LEVEL, num_samples=4)
    certificate = result.certificate
    assert certificate.reached and certificate.exact and certificate.passed.tolist() == [True, True]
    assert torch.equal(certificate.mean_error, result.log_evidence_se) and float(certificate.mean_error.max()) < 1e-3
    assert certificate.tests[verdict.LATTICE] == float(result.log_evidence_se.max())
    assert "on a lattice of" in certificate.attempts[0].text
    result.save(tmp_path / "r.nc")
    assert str(iv.load_result(tmp_path / "r.nc").certificate) == str(certificate)


def test_a_lattice_that_was_not_finished_is_not_certified(tmp_path):
    small = iv.solve(BENT, Y[:N], PRIOR, noise=LEVEL, num_samples=16, budget=iv.Budget(evaluations=3_000))
    assert not small.certificate.reached and "budget ended before the scalars" in small.certificate.missing
    assert small.certificate.passed.ndim == 0
    small.save(tmp_path / "r.nc")
    assert iv.load_result(tmp_path / "r.nc").certificate.tests[verdict.LATTICE] == math.inf


def test_ensembles_at_nodes_are_part_of_the_certificate():
    """What chains said of the signals that were drawn, twice their standard errors, and the power that they reached."""
    nodes = ((0.0,), (1.0,))
    grid = lattice.Lattice(nodes=nodes, log_mass=torch.zeros(2, dtype=D), steps=(1.0,), truncation=0.0)
    chains, small = iv.strategies.NoiseMCMC(), torch.tensor([0.02], dtype=D)

    def judged(**changes):
        info = {name: torch.tensor([0.03, 0.05]) for name in ("mean_error", "std_error", "island_error")}
        return verdict.of_lattices([grid], small, {**info, "beta": torch.ones(2), **changes}, chains)

    good = judged()
    assert bool(good.passed) and not good.exact and good.missing == "" and float(good.error) == pytest.approx(0.04)
    assert good.tests[verdict.MEAN_TEST] == pytest.approx(0.1)
    for changes, message in (
        ({"mean_error": torch.tensor([0.03, 0.1])}, "mean's error.*0.2, of the signals given the scalars"),
        ({"std_error": torch.tensor([math.nan, 0.01])}, "std's relative error.*inf"),
        ({"beta": torch.tensor([1.0, 0.5])}, "power of the likelihood that was reached 0.5"),
    ):
        bad = judged(**changes)
        assert not bool(bad.passed) and re.search(message, bad.missing), bad.missing
    particles = verdict.of_lattices([grid], small, {}, iv.strategies.SMC())
    assert not bool(particles.passed) and "SMC says nothing of the bound" in particles.missing
    assert not bool(verdict.of_lattices([grid], 5 * small, {}, chains).passed)
    assert bool(verdict.of_lattices([grid], 5 * small, {}, iv.strategies.Exact()).passed)
    open_end = replace(grid, hidden=0.2)
    assert "could not rule out" in verdict.of_lattices([open_end], small, {}, iv.strategies.Exact()).missing


# --- meters ---------------------------------------------------------------------------------------------------------
class Meter(iv.progress.Progress):
    def __init__(self):
        self.events = []

    def init(self, total):
        self.events.append(("init", total))

    def step(self, done, total):
        self.events.append((done, total))

    def close(self):
        self.events.append(("close", 0))


@pytest.mark.parametrize("how", [iv.Hierarchy(), GIBBS], ids=["lattice", "gibbs"])
def test_progress_from_the_first_second(how):
    """A meter hears of every node and every group of rows, never goes back, and ends full."""
    meter = Meter()
    iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=4, hierarchy=how, progress=meter)
    assert meter.events[0][0] == "init" and meter.events[-1] == ("close", 0)
    steps = meter.events[1:-1]
    assert len({done for done, _ in steps}) > 10 and steps[0][0] <= 1
    assert all(a[0] <= b[0] <= b[1] for a, b in zip(steps, steps[1:], strict=False))
    assert steps[-1][0] == steps[-1][1] and all(done < total for done, total in steps[:-1])


def test_lines_of_a_search():
    stream, clock = io.StringIO(), iter(float(k) for k in range(10_000))
    meter = iv.progress.TextProgress(stream, clock=lambda: next(clock))
    iv.solve(A, Y, PRIOR, noise=LEVEL, num_samples=4, progress=meter)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith(("1 %", "2 %", "3 %")) and lines[-1].startswith("100 %")
