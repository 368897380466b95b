"""A density of one to three numbers on a lattice that finds the mass by itself and refines until it resolves it.

On a lattice of spacing h the trapezoid rule of a smooth density of standard deviation s errs by about
``2 exp(-2 pi^2 s^2 / h^2)`` in its integral and, like it, in its moments (Poisson summation): 5e-9 at h = s. A lattice
much finer than that only makes quantiles finer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.errors import UnsupportedError

Node = tuple[float, ...]
Explorer = Generator[list[Node], list[float], "Lattice"]  # asks for nodes, is sent their log densities
Evaluate = Callable[[Node, list[int]], Sequence[float]]  # (node, numbers of the explorers) -> a log density each

MAX_DIMS = 3
_MAX_NODES = 20_000
_ROUNDS = 24
_BOUND = 7.0  # standard deviations of the prior that the lattice may reach
_REACH = 4.0  # end of the first scan
# Its spacing, by dimension: about what the lattice of a density of unit std ends at, so that it costs little. Every
# local maximum of the *log* density on the scan is looked at, however low: a Gaussian peak of a twentieth of the
# spacing is 50 nats above its nearest node, and still a maximum there unless another one's flank is steeper.
SCAN = {1: 0.125, 2: 0.5, 3: 1.0}
SCAN_SAMPLED = {1: 1.0, 2: 2.0, 3: 2.0}  # where every node is a population
# Nats below the peak where a lattice ends, by its dimension, and the share of a Gaussian's mass that lies beyond.
_DROP = {1: (12.5, 5.7e-7), 2: (10.0, 4.5e-5), 3: (8.0, 1.1e-3)}
_COARSE, _COARSE_GIVEN = 0.8, 0.6  # spacings per (conditional) std below which moments of a lattice mean nothing
_MAXIMA = 8  # local maxima that a finer lattice looks at, however low they are


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Lattice:
    """Nodes in lexicographic order with the log of density times cell volume, ``log_mass`` ``(nodes,)`` float64."""

    nodes: tuple[Node, ...]
    log_mass: Tensor
    steps: Node  # the spacing of every axis
    truncation: float  # about the share of the mass that lies beyond the lattice

    @property
    def points(self) -> Tensor:
        """``(nodes, dims)`` float64."""
        return torch.tensor(self.nodes, dtype=torch.float64)

    @property
    def log_total(self) -> Tensor:
        """log of the integral of the density, ()."""
        return torch.logsumexp(self.log_mass, 0)

    @property
    def weights(self) -> Tensor:
        """The probability of every node, ``(nodes,)``."""
        return torch.softmax(self.log_mass, 0)

    @property
    def error(self) -> float:
        """What the log of the integral may be off by: its change when every other node is left out, and the edge."""
        index = (self.points / torch.tensor(self.steps, dtype=torch.float64)).round().long()
        even = (index % 2 == 0).all(1)
        if not bool(even.any()):
            return math.inf
        coarse = torch.logsumexp(self.log_mass[even], 0) + len(self.steps) * math.log(2)
        return float((coarse - self.log_total).abs()) + self.truncation

    def choose(self, uniform: Tensor) -> Tensor:
        """Nodes drawn by inversion of numbers in (0, 1), ``(n,)`` int64."""
        edges = self.weights.cumsum(0)
        return torch.searchsorted(edges, uniform * edges[-1]).clamp_max(len(edges) - 1)


def explore(dims: int, spacing: float, tolerance: float = 0.02, scan: float | None = None) -> Explorer:
    """Find the lattice of a density over ``dims`` coordinates of size about one, yielding the nodes it must know.

    The spacing ends at most at ``spacing`` standard deviations of every coordinate, and at 0.6 conditional ones, once
    leaving out every other node changes the log of the integral by less than ``tolerance`` (which sees peaks narrower
    than the whole; densities that are Monte Carlo estimates need a larger one). All
    lattices are dyadic and hold the origin, so that finer ones hold the nodes of coarser ones, and explorers of
    different densities ask for the same nodes. Between a first scan of [-4, 4], ``scan`` apart (a power of two; `SCAN`
    unless given), and the end, nodes are added next to all that lie within the drop of the peak: the set follows curved
    and correlated densities, and peaks apart from each other where the scan saw them.

    Raises UnsupportedError where no density is finite or too many nodes would be needed.
    """
    drop, share = _DROP[dims]
    values: dict[Node, float] = {}
    first = SCAN[dims] if scan is None else scan
    steps: Node = (first,) * dims
    axis = [k * first for k in range(-round(_REACH / first), round(_REACH / first) + 1)]
    seeds, peaks = list[Node](itertools.product(axis, repeat=dims)), list[Node]()
    for _ in range(_ROUNDS):
        found = yield from _flood(values, steps, seeds, peaks, drop)
        logs = torch.tensor([values[n] for n in found], dtype=torch.float64)
        lattice = Lattice(
            nodes=tuple(found), log_mass=logs + math.log(math.prod(steps)), steps=steps, truncation=share
        )
        finer = _finer(lattice, spacing, tolerance)
        if finer == steps:
            return lattice
        best, peaks = float(logs.max()), _maxima(values, found, steps)
        seeds = [n for n, v in zip(found, logs.tolist(), strict=True) if v >= best - drop] + peaks
        steps = finer
    raise UnsupportedError("solve: no lattice resolves the unknown scalars. Use iv.Hierarchy(method='gibbs').")


def run(explorers: Sequence[Explorer], evaluate: Evaluate) -> list[Lattice]:
    """The lattices of several densities side by side: a node that many ask for is evaluated for all of them at once."""
    lattices: dict[int, Lattice] = {}
    asked: dict[int, list[Node]] = {i: next(explorer) for i, explorer in enumerate(explorers)}
    while asked:
        who: dict[Node, list[int]] = {}
        for i, nodes in asked.items():
            for node in nodes:
                who.setdefault(node, []).append(i)
        known = {node: dict(zip(some, evaluate(node, some), strict=True)) for node, some in who.items()}
        following: dict[int, list[Node]] = {}
        for i, nodes in asked.items():
            try:
                following[i] = explorers[i].send([known[node][i] for node in nodes])
            except StopIteration as end:
                lattices[i] = end.value
        asked = following
    return [lattices[i] for i in range(len(explorers))]


def _flood(
    values: dict[Node, float], steps: Node, seeds: list[Node], peaks: list[Node], drop: float
) -> Generator[list[Node], list[float], list[Node]]:
    """The nodes of a lattice around the seeds, grown next to ``peaks`` and where the density is within ``drop`` of the
    highest; sorted."""
    shifts = [s for s in itertools.product((-1, 0, 1), repeat=len(steps)) if any(s)]
    members, expanded, fresh = set(seeds), set[Node](), [n for n in sorted(set(seeds)) if n not in values]
    beside = set(peaks)
    while True:
        if fresh:
            sent = yield fresh
            values.update((n, v if math.isfinite(v) else -math.inf) for n, v in zip(fresh, sent, strict=True))
        best = max(values[n] for n in members)
        if best == -math.inf:
            raise UnsupportedError(
                "solve: the evidence is not finite for any value of the unknown scalars that was tried. "
                "Check their distributions against the data."
            )
        frontier = [n for n in members if n not in expanded and (n in beside or values[n] >= best - drop)]
        if not frontier:
            return sorted(members)
        expanded.update(frontier)
        around = {
            tuple(x + k * h for x, k, h in zip(n, shift, steps, strict=True)) for n in frontier for shift in shifts
        } - members
        around = {n for n in around if max(map(abs, n)) <= _BOUND}
        members |= around
        fresh = [n for n in sorted(around) if n not in values]
        if len(members) > _MAX_NODES:
            raise UnsupportedError(
                f"solve: a lattice over the unknown scalars would need more than {_MAX_NODES} nodes; they are too many "
                "or too dependent. Use iv.Hierarchy(method='gibbs')."
            )


def _finer(lattice: Lattice, spacing: float, tolerance: float) -> Node:
    """The spacing that this lattice says is needed: its own if it is fine enough."""
    points, weights = lattice.points, lattice.weights
    steps = torch.tensor(lattice.steps, dtype=torch.float64)
    apart = points - weights @ points
    covariance = (apart * weights[:, None]).mT @ apart
    std = covariance.diagonal().sqrt()
    given = torch.zeros_like(std)
    if bool((std > 0).all()):
        correlation = covariance / std.outer(std)
        if float(torch.linalg.eigvalsh(correlation)[0]) > 1e-8:
            given = std * torch.linalg.inv(correlation).diagonal().rsqrt()
    coarse = (std < _COARSE * steps) | (given < _COARSE_GIVEN * steps)
    if bool(coarse.any()):
        return tuple(torch.where(coarse, steps / 4, steps).tolist())
    wanted = torch.minimum(spacing * std, _COARSE_GIVEN * given)
    finer = torch.minimum(steps, torch.exp2(torch.floor(torch.log2(wanted))))
    if bool((finer == steps).all()) and lattice.error - lattice.truncation > tolerance:
        finer = steps / 2
    return tuple(finer.tolist())


def _maxima(values: dict[Node, float], nodes: list[Node], steps: Node) -> list[Node]:
    """The highest nodes of this lattice with no higher neighbour along an axis."""
    peaks = []
    for node in nodes:
        beside = [
            node[:i] + (node[i] + sign * steps[i],) + node[i + 1 :] for i in range(len(steps)) for sign in (-1, 1)
        ]
        if values[node] > -math.inf and all(values.get(n, -math.inf) <= values[node] for n in beside):
            peaks.append(node)
    return sorted(peaks, key=lambda n: -values[n])[:_MAXIMA]
