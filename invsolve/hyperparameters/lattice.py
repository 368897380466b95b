"""A density of one to three variables on a lattice that finds the mass by itself and refines until it resolves it.

On a lattice of spacing h the trapezoid rule of a smooth density of standard deviation s errs by about
``2 exp(-2 pi^2 s^2 / h^2)`` in its integral and, like it, in its moments (Poisson summation): 5e-9 at h = s. A lattice
much finer than that only makes quantiles finer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.errors import UnsupportedError
from invsolve.hyperparameters.mode_search import BOUND, WIDEST, Node, scan

Explorer = Generator[list[Node], list[float], "Lattice"]  # asks for nodes, is sent their log densities
Evaluate = Callable[[Node, list[int]], Sequence[float]]  # (node, numbers of the explorers) -> a log density each

MAX_DIMS = 3
_MAX_NODES = 20_000
_ROUNDS = 24
# Nats below the peak where a lattice ends, by its dimension, and the share of a Gaussian's mass that lies beyond.
_DROP = {1: (12.5, 5.7e-7), 2: (10.0, 4.5e-5), 3: (8.0, 1.1e-3)}
_COARSE, _COARSE_GIVEN = 0.8, 0.6  # spacings per (conditional) std below which moments of a lattice mean nothing


class NotResolved(UnsupportedError):
    """A density that no lattice of a tolerable size resolves."""


class Spent(Exception):
    """Thrown into an explorer: it ends with the lattice that it has."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Lattice:
    """Nodes in lexicographic order with the log of density times cell volume, ``log_mass`` ``(nodes,)`` float64."""

    nodes: tuple[Node, ...]
    log_mass: Tensor
    steps: Node  # the spacing of every axis
    truncation: float  # about the share of the mass that lies beyond the lattice
    hidden: float = 0.0  # what peaks that the scan did not resolve may hold, as a share of the mass that was found

    @property
    def points(self) -> Tensor:
        """``(nodes, dims)`` float64."""
        return torch.tensor(self.nodes, dtype=torch.float64, device="cpu")

    @property
    def log_total(self) -> Tensor:
        """Log of the integral of the density, ()."""
        return torch.logsumexp(self.log_mass, 0)

    @property
    def weights(self) -> Tensor:
        """The probability of every node, ``(nodes,)``."""
        return torch.softmax(self.log_mass, 0)

    @property
    def error(self) -> float:
        """What the log of the integral may be off by.

        Its change when every other node is left out, what lies beyond the edge, and what peaks that were not seen hold.
        """
        index = (self.points / torch.tensor(self.steps, dtype=torch.float64, device="cpu")).round().long()
        even = (index % 2 == 0).all(1)
        if not bool(even.any()):
            return math.inf
        coarse = torch.logsumexp(self.log_mass[even], 0) + len(self.steps) * math.log(2)
        return float((coarse - self.log_total).abs()) + self.truncation + math.log1p(self.hidden)

    def choose(self, uniform: Tensor) -> Tensor:
        """Nodes drawn by inversion of numbers in (0, 1), ``(n,)`` int64."""
        edges = self.weights.cumsum(0)
        return torch.searchsorted(edges, uniform * edges[-1]).clamp_max(len(edges) - 1)


def explore(dims: int, spacing: float, tolerance: float = 0.02, widest: float | None = None) -> Explorer:
    """Find the lattice of a density over ``dims`` coordinates of size about one, yielding the nodes it must know.

    The mass is found by `invsolve.hyperparameters.mode_search`, in cells of at most ``widest`` prior standard
    deviations (0.25, 0.5, 1 for one, two, three dimensions unless given), which says what peaks that it did not resolve
    could hold: ``hidden``. The spacing ends at most at ``spacing`` standard deviations of every coordinate, and at 0.6
    conditional ones, once leaving out every other node changes the log of the integral by less than ``tolerance``
    (which sees peaks narrower than the whole; densities that are Monte Carlo estimates need a larger one). All lattices
    are dyadic and hold the origin, so that finer ones hold the nodes of coarser ones, and explorers of different
    densities ask for the same nodes. Nodes are added next to all that lie within the drop of the peak: the set follows
    curved and correlated densities.

    An explorer that `Spent` is thrown into ends with its last lattice, or with the widest cells of the scan.

    Raises UnsupportedError where no density is finite or too many nodes would be needed.
    """
    drop, share = _DROP[dims]
    values: dict[Node, float] = {}
    widest = widest or WIDEST[dims]
    if (count := (1 + 2 ** math.ceil(math.log2(8 / widest))) ** dims) > _MAX_NODES:
        raise UnsupportedError(
            f"solve: a scan of the unknown scalars {widest:g} prior std apart has {count} nodes, more than "
            f"{_MAX_NODES}. Give a larger one, hierarchy=iv.Hierarchy(scan=...), or narrower distributions of them."
        )
    lattice: Lattice | None = None
    try:
        start = yield from scan(values, dims, drop, widest)
        if start is None:
            raise UnsupportedError(
                "solve: the evidence is not finite for any value of the unknown scalars that was tried. "
                "Check their distributions against the data, and the number of steps of the strategy."
            )
        steps, seeds = start.steps, start.seeds
        for _ in range(_ROUNDS):
            found = yield from _flood(values, steps, seeds, drop)
            logs = torch.tensor([values[n] for n in found], dtype=torch.float64, device="cpu")
            lattice = Lattice(
                nodes=tuple(found), log_mass=logs + math.log(math.prod(steps)), steps=steps, truncation=share
            )
            finer = _finer(lattice, spacing, tolerance)
            if finer == steps:
                # A bound of many times the mass that was found says no more than that nothing is known.
                return replace(lattice, hidden=math.exp(min(start.hidden - float(lattice.log_total), 300.0)))
            best = float(logs.max())
            seeds = [n for n, v in zip(found, logs.tolist(), strict=True) if v >= best - drop]
            steps = finer
        raise NotResolved("solve: no lattice resolves the unknown scalars. Use iv.Hierarchy(method='gibbs').")
    except Spent:
        lattice = lattice or _widest_cells(values, dims, widest, share)
        return replace(lattice, hidden=math.inf)


def _widest_cells(values: dict[Node, float], dims: int, widest: float, share: float) -> Lattice:
    """The lattice of the scan before any cell was halved, as far as it is known."""
    step = 8 / 2 ** math.ceil(math.log2(8 / widest))
    found = [n for n, v in sorted(values.items()) if math.isfinite(v) and all((x / step).is_integer() for x in n)]
    if not found:  # nothing is known yet: the scalars stay at their medians
        found, values = [(0.0,) * dims], {(0.0,) * dims: 0.0}
    logs = torch.tensor([values[n] for n in found], dtype=torch.float64, device="cpu") + dims * math.log(step)
    return Lattice(nodes=tuple(found), log_mass=logs, steps=(step,) * dims, truncation=share)


def run(explorers: Sequence[Explorer], evaluate: Evaluate, over: Callable[[], bool] = lambda: False) -> list[Lattice]:
    """The lattices of several densities side by side: a node that many ask for is evaluated for all of them at once.

    When time is ``over`` every explorer ends with the lattice that it has.
    """
    lattices: dict[int, Lattice] = {}
    asked: dict[int, list[Node]] = {i: next(explorer) for i, explorer in enumerate(explorers)}
    while asked:
        who: dict[Node, list[int]] = {}
        for i, nodes in asked.items():
            for node in nodes:
                who.setdefault(node, []).append(i)
        inner = sorted(who, key=lambda node: sum(x * x for x in node))  # what counts most first, should time end
        known = {node: dict(zip(who[node], evaluate(node, who[node]), strict=True)) for node in inner}
        following: dict[int, list[Node]] = {}
        for i, nodes in asked.items():
            try:
                following[i] = explorers[i].send([known[node][i] for node in nodes])
                if over():
                    del following[i]
                    explorers[i].throw(Spent())
            except StopIteration as end:
                lattices[i] = end.value
        asked = following
    return [lattices[i] for i in range(len(explorers))]


def _flood(
    values: dict[Node, float], steps: Node, seeds: list[Node], drop: float
) -> Generator[list[Node], list[float], list[Node]]:
    """The nodes of a lattice around the seeds, grown where the density is within ``drop`` of the highest; sorted."""
    shifts = [s for s in itertools.product((-1, 0, 1), repeat=len(steps)) if any(s)]
    members, expanded = set(seeds), set[Node]()
    while True:
        best = max(values[n] for n in members)
        frontier = [n for n in members if n not in expanded and values[n] >= best - drop]
        if not frontier:
            return sorted(members)
        expanded.update(frontier)
        around = {
            tuple(x + k * h for x, k, h in zip(n, shift, steps, strict=True)) for n in frontier for shift in shifts
        } - members
        around = {n for n in around if max(map(abs, n)) <= BOUND}
        members |= around
        if len(members) > _MAX_NODES:
            raise NotResolved(
                f"solve: a lattice over the {len(steps)} unknown scalars would need more than {_MAX_NODES} nodes: the "
                "data say little of them, or of some given the others. Give narrower distributions, infer fewer at a "
                "time, or draw them in turns: hierarchy=iv.Hierarchy(method='gibbs')."
            )
        if fresh := [n for n in sorted(around) if n not in values]:
            sent = yield fresh
            values.update((n, v if math.isfinite(v) else -math.inf) for n, v in zip(fresh, sent, strict=True))


def _finer(lattice: Lattice, spacing: float, tolerance: float) -> Node:
    """The spacing that this lattice says is needed: its own if it is fine enough."""
    points, weights = lattice.points, lattice.weights
    steps = torch.tensor(lattice.steps, dtype=torch.float64, device="cpu")
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
