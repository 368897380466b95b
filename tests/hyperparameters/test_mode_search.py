"""The scan for the mass of a density: peaks that are narrow, many, at the edge, or cannot be settled."""

from __future__ import annotations

import math
import random

import pytest
import torch

from invsolve.errors import UnsupportedError
from invsolve.hyperparameters import lattice
from invsolve.hyperparameters import mode_search as scan

DROP = 12.5


def gaussian(mean, std, share=1.0):
    """log of ``share`` times a normal density."""

    def log(z):
        return math.log(share) - sum(
            0.5 * ((x - m) / s) ** 2 + math.log(s * math.sqrt(2 * math.pi))
            for x, m, s in zip(z, mean, std, strict=True)
        )

    return log


def mixed(*parts):
    def log(z):
        logs = [part(z) for part in parts]
        best = max(logs)
        return best + math.log(sum(math.exp(v - best) for v in logs))

    return log


def explored(density, dims, spacing, widest=None):
    asked = []

    def evaluate(node, who):
        asked.append(node)
        return [density(node)]

    grid = lattice.run([lattice.explore(dims, spacing, 0.02, widest)], evaluate)[0]
    assert len(set(asked)) == len(asked)
    return grid, asked


def scanned(density, dims=1, widest=0.25, drop=DROP):
    values: dict[scan.Node, float] = {}
    search = scan.scan(values, dims, drop, widest)
    nodes = next(search)
    while True:
        try:
            nodes = search.send([density(n) for n in nodes])
        except StopIteration as end:
            return end.value, values


@pytest.mark.parametrize(("dims", "spacing", "least", "runs"), [(1, 0.15, 0.01, 60), (2, 0.35, 0.03, 12)])
@pytest.mark.parametrize("narrower", [1.0, 0.7])
def test_two_narrow_peaks_are_both_found(dims, spacing, least, runs, narrower):
    """Anywhere in the prior, as wide as each other or not: one of them alone is off by log 2."""
    rng = random.Random(dims)
    for _ in range(runs):
        std = [math.exp(rng.uniform(math.log(least), math.log(10 * least))) for _ in range(dims)]
        means = [[rng.uniform(-3, 3) for _ in range(dims)] for _ in range(2)]
        pair = mixed(gaussian(means[0], std, 0.5), gaussian(means[1], [narrower * s for s in std], 0.5))
        grid, _ = explored(pair, dims, spacing)
        assert abs(float(grid.log_total)) < max(grid.error, 3 * grid.truncation) < 0.02


def test_two_peaks_in_three_dimensions():
    std = (0.2, 0.3, 0.2)
    pair = mixed(gaussian((-1.3, 0.4, 0.6), std, 0.5), gaussian((1.6, -0.9, -1.7), std, 0.5))
    grid, _ = explored(pair, 3, 0.7)
    assert abs(float(grid.log_total)) < max(grid.error, 3 * grid.truncation) < 0.02


def test_one_peak_costs_no_more_than_the_logarithm_of_its_width():
    """At a distance r cells must be no wider than about r: up to four of them on either side for every halving of r."""
    counts = [len(scanned(gaussian((0.37,), (s,)))[1]) for s in (0.1, 0.01, 0.001)]
    per_halving = [(b - a) / math.log2(10) for a, b in zip(counts, counts[1:], strict=False)]
    assert counts[0] < 33 + 30 and max(per_halving) < 8


def test_a_peak_beyond_the_first_end_is_followed():
    for mean in (4.3, -5.2, 6.8):
        grid, _ = explored(gaussian((mean,), (0.05,)), 1, 0.15)
        assert abs(float(grid.log_total)) < 1e-5
    grid, asked = explored(gaussian((5.1, -4.6), (0.3, 0.2)), 2, 0.35)
    assert abs(float(grid.log_total)) < 3 * grid.truncation
    assert max(max(map(abs, node)) for node in asked) <= scan.BOUND


def test_seeds_are_nodes_of_the_lattice_they_come_with():
    found, values = scanned(mixed(gaussian((0.3, -1.0), (0.05, 0.4)), gaussian((-2.0, 1.0), (0.3, 0.1))), 2, 0.5, 10.0)
    best = max(values.values())
    assert {n for n, v in values.items() if v >= best - 10.0} == set(found.seeds)
    for node in found.seeds:
        assert all((x / h).is_integer() for x, h in zip(node, found.steps, strict=True))
    assert all(math.log2(h).is_integer() for h in found.steps)


def test_what_cannot_be_seen_is_bounded_by_what_could_hide():
    """Cells left alone: for a Gaussian, whose curvature is known everywhere, the bound holds what lies in them."""
    std = 0.05
    found, values = scanned(gaussian((0.37,), (std,)))
    edges = sorted(x for (x,) in values)
    fine = [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b - a > 2 * std]
    outside = sum(0.5 * (math.erf((b - 0.37) / std / 2**0.5) - math.erf((a - 0.37) / std / 2**0.5)) for a, b in fine)
    assert outside <= math.exp(found.hidden) < 1e-4


def test_a_scan_that_is_broken_off_says_so(monkeypatch):
    """A comb of many peaks, and few nodes: the error must hold what is missing."""

    def comb(z):
        return 30 * math.cos(60 * z[0]) ** 2 - 30

    whole, _ = explored(comb, 1, 0.15)
    assert whole.hidden < 1e-3
    monkeypatch.setattr(scan, "_MOST", {1: 20})
    found, _ = scanned(comb)
    assert found.hidden > float(whole.log_total)  # the cells that are left may hold all there is


def test_a_finer_scan_sees_what_shows_nothing_at_its_flanks():
    """A peak on a flat floor, 200 std away from which nothing tells of it: only a node on it does."""
    needle = mixed(gaussian((0.0,), (1.0,), 0.5), gaussian((1.003,), (0.002,), 0.5))
    blind, _ = explored(mixed(gaussian((0.0,), (1.0,), 0.5), gaussian((1.06,), (0.002,), 0.5)), 1, 0.15)
    assert float(blind.log_total) < -0.5  # half of the mass is not seen: Hierarchy says that it may not be
    seen, _ = explored(needle, 1, 0.15, 0.01)
    assert abs(float(seen.log_total)) < max(seen.error, 1e-5) < 0.05


def test_values_that_are_not_finite():
    def half(z):
        return gaussian((0.2,), (0.3,))(z) if z[0] > -1 else -math.inf

    grid, _ = explored(half, 1, 0.15)
    assert abs(float(grid.log_total)) < 1e-4  # what is cut off lies four std away
    assert scanned(lambda z: math.nan)[0] is None
    with pytest.raises(UnsupportedError, match="evidence is not finite"):
        explored(lambda z: -math.inf, 1, 0.15)


def test_a_scan_with_too_many_nodes_is_refused():
    with pytest.raises(UnsupportedError, match=r"0.01 prior std apart has 1050625 nodes, more than 20000"):
        next(lattice.explore(2, 0.35, 0.02, 0.01))


def test_items_share_the_nodes_of_the_scan():
    asked: dict[scan.Node, list[int]] = {}

    def evaluate(node, who):
        asked.setdefault(node, []).extend(who)
        return [gaussian((i - 0.75,), (0.1,))((node[0],)) for i in who]

    grids = lattice.run([lattice.explore(1, 0.15) for _ in range(3)], evaluate)
    for node in torch.arange(-4, 4.25, 0.25).tolist():
        assert asked[node,] == [0, 1, 2]  # asked for once, for all
    alone, _ = explored(gaussian((0.25,), (0.1,)), 1, 0.15)
    assert grids[1].nodes == alone.nodes and torch.equal(grids[1].log_mass, alone.log_mass)
