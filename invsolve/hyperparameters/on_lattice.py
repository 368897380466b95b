"""Signals with unknown scalars by way of the evidence: ``p(theta | y)`` on a lattice, then ``p(x | theta, y)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invsolve.core.resampling import systematic
from invsolve.gaussian.evidence import Evidence
from invsolve.gaussian.marginals import LatticeMarginals
from invsolve.hyperparameters.closed_form import ROUGH
from invsolve.hyperparameters.lattice import Evaluate, Lattice, explore, run
from invsolve.hyperparameters.mode_search import WIDEST, WIDEST_SAMPLED, Node
from invsolve.hyperparameters.request import HyperparameterDraws, HyperparameterRequest
from invsolve.hyperparameters.verdict import of_lattices
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import Progress, metered
from invsolve.results.result import Result
from invsolve.results.warnings import fit_warnings, misfit, shortfalls, thinned
from invsolve.strategies.exact import Exact

_SPACING = {1: 0.15, 2: 0.35, 3: 0.7}  # of a lattice, in posterior standard deviations, by the number of scalars
_SPACING_SAMPLED = {1: 0.4, 2: 0.6, 3: 0.7}  # where every node takes an ensemble: moments are as exact
_HIDDEN = 0.05  # share of the mass in peaks not resolved above which a reader is told
_DENSE = 128  # unknowns and data from which on signals are drawn by conjugate gradients, at many noise levels at once
_FAR = 60.0  # nats below the best evidence: a node that does not count, whatever its prior density
_NODES = {1: 100, 2: 2000, 3: 5000}  # of a scan and a lattice, about, for a meter
_PRIORS = 64  # members of a family that are kept
_KEPT = 2**26  # numbers of weighted samples that are kept from the evidence to the draws, instead of made again


def draw_by_lattice(request: HyperparameterRequest, progress: Progress) -> HyperparameterDraws:
    """Rows by way of ``p(theta | y)`` on a lattice for every item."""
    dims = len(request.unknowns.names)
    usual = _SPACING if isinstance(request.strategy, Exact) else _SPACING_SAMPLED
    spacing = request.hierarchy.spacing or usual[dims]
    evidences = _Evidences(request)
    tolerance = 0.02 if isinstance(request.strategy, Exact) else 0.2  # of estimates, nats
    widest = request.hierarchy.scan or (WIDEST if isinstance(request.strategy, Exact) else WIDEST_SAMPLED)[dims]
    explorers = [explore(dims, spacing, tolerance, widest) for _ in range(request.batch)]
    with metered(progress, _NODES[dims] + request.rows) as step:
        lattices = run(explorers, evidences.reporting(step), request.over)
        return _drawn(
            request,
            lattices,
            evidences,
            step,
            f"spacing at most {spacing:g} posterior std, after a scan of the prior at most {widest:g} std apart.",
        )


def _drawn(
    request: HyperparameterRequest,
    lattices: Sequence[Lattice],
    evidences: _Evidences,
    step: Callable[[int, int], None],
    how: str,
) -> HyperparameterDraws:
    """Scalars from the lattices, and signals given them."""
    uniform = _uniform(request, range(request.rows), 0)
    members: dict[Node, list[int]] = {}  # node -> its rows
    for b, lattice in enumerate(lattices):
        rows = torch.arange(b, request.rows, request.batch, device="cpu")
        for r, i in zip(rows.tolist(), lattice.choose(uniform[rows]).tolist(), strict=True):
            members.setdefault(lattice.nodes[i], []).append(r)
    pieces: list[tuple[list[int], Tensor, Tensor, Tensor]] = []
    said: dict[str, list[Tensor]] = {}
    warnings = dict.fromkeys(_unresolved(request, lattices, evidences))
    searched = evidences.asked
    for group in evidences.together(sorted(members)):
        nodes = {r: node for node in group for r in members[node]}
        rows_ = sorted(nodes)
        z = torch.tensor([nodes[r] for r in rows_], dtype=torch.float64, device="cpu")
        theta = request.unknowns.transport(z)
        x, chi2, info, result = evidences.draw(group, theta, rows_)
        pieces.append((rows_, x, chi2, theta))
        # How well rows fit is said of those that are drawn, all together: other items may have no weight here, and
        # a noise level that few rows have may fit them badly, or be worth few particles.
        of_all = fit_warnings(result.chi2, result.info, result.problem)
        if result.log_weights is not None:
            of_all += thinned(result.log_weights, result.failed)
        warnings |= dict.fromkeys(text for text in result.warnings if text not in of_all)
        for name, value in info.items():
            said.setdefault(name, []).append(value)
        step(searched + sum(len(p[0]) for p in pieces), searched + request.rows)
    order = torch.tensor([r for rows_, *_ in pieces for r in rows_], device="cpu").argsort()
    chi2 = torch.cat([p[2] for p in pieces])
    chi2 = chi2[order.to(chi2.device)]
    told = {name: torch.cat(value) for name, value in said.items()}
    warnings |= dict.fromkeys((*misfit(chi2, request.unknowns.problem), *shortfalls(told)))
    found = [_marginal(lattice, evidences, b) for b, lattice in enumerate(lattices)]
    count = [len(lattice.nodes) for lattice in lattices]
    each = {
        "log_evidence": torch.stack([e.log for e in found]),
        "log_evidence_se": torch.stack([e.se for e in found]),
        "lattice_nodes": torch.tensor(count, dtype=torch.float64, device="cpu"),
    }
    device = request.unknowns.problem.data.device
    names = " and ".join(request.unknowns.names)
    numbers = f"{min(count)}" if min(count) == max(count) else f"{min(count)} to {max(count)}"
    return HyperparameterDraws(
        samples=torch.cat([p[1] for p in pieces])[order.to(device)],
        chi2=chi2,
        theta=torch.cat([p[3] for p in pieces])[order],
        info={name: value.to(device).repeat(request.num_samples) for name, value in each.items()},
        how=f"{names}: by the evidence, on a lattice of {numbers} nodes, {how}",
        chunk=result.settings["chunk"],
        warnings=tuple(warnings),
        marginals=_marginals(request, lattices),
        verdict=of_lattices(lattices, each["log_evidence_se"], told, request.strategy),
    )


class _Evidences:
    """log p(theta, y) at nodes, item by item; what was computed is kept for the draws."""

    def __init__(self, request: HyperparameterRequest) -> None:
        self.request = request
        self.known: dict[tuple[Node, int], tuple[float, float]] = {}  # (node, item) -> log p(y | theta), its error
        self._kept: dict[tuple[Node, int], tuple[Result, int]] = {}  # weighted samples of an item
        self._numbers = 0
        self.asked = 0  # nodes
        self.left_out = 0  # nodes that the budget left no time for
        self._priors: dict[tuple[float, ...], Prior] = {}
        self._free = request.closed_form
        self._best = -math.inf  # evidence of a node

    def reporting(self, step: Callable[[int, int], None]) -> Evaluate:
        """The same, which reports nodes: how many there will be is not known, and about as many as so far are left."""
        expected = _NODES[len(self.request.unknowns.names)]

        def evaluate(node: Node, items: list[int]) -> list[float]:
            found = self(node, items)
            self.asked += 1
            step(self.asked, max(expected, math.ceil(1.25 * self.asked)) + self.request.rows)
            return found

        return evaluate

    def __call__(self, node: Node, items: list[int]) -> list[float]:
        if self.known and self.request.over():
            self.left_out += 1
            self.known |= {(node, b): (math.nan, math.nan) for b in items}
            return [math.nan] * len(items)
        z = torch.tensor(node, dtype=torch.float64, device="cpu")
        log, se = self._evidence(node, self.request.unknowns.transport(z), items)
        self.known |= {(node, b): (float(log[i]), float(se[i])) for i, b in enumerate(items)}
        self._best = max(
            self._best, *(self.known[node, b][0] for b in items if not math.isnan(self.known[node, b][0])), -math.inf
        )
        log_prior = -0.5 * (float(z.square().sum()) + len(z) * math.log(2 * math.pi))
        return [self.known[node, b][0] + log_prior for b in items]

    def together(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Nodes whose signals are drawn at once: such as differ in the noise level, where conjugate gradients draw."""
        if not self._free.known or self._free.size <= _DENSE or self.request.unknowns.level is None:
            return [[node] for node in nodes]
        column, groups = self.request.unknowns.level, dict[Node, list[Node]]()
        for node in nodes:
            groups.setdefault(node[:column] + node[column + 1 :], []).append(node)
        return list(groups.values())

    def draw(
        self, nodes: Sequence[Node], theta: Tensor, rows: list[int]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], Result]:
        """One signal for each row with scalars ``theta`` (rows, p), their chi^2 and info, and a solve that drew them.

        ``nodes`` are those of a group of `together`.
        """
        request = self.request
        if request.strategy.couples == "nothing":
            problem, prior = self._at(theta[0])
            index = torch.tensor([r % request.batch for r in rows], device=problem.data.device)
            problem = problem.take(index)
            level = request.unknowns.level
            if level is not None and self._free.known and self._free.size > _DENSE:
                std = theta[:, level].to(problem.data.device, problem.data.real.dtype)
                each = Gaussian(std=std.view(-1, *([1] * len(problem.operator.out_shape))))
                problem = problem.replaced(operator=problem.operator, noise=each)
            result = request.sample_rows(problem, prior, rows, "solve")
            return result.samples[0], result.chi2[0], {name: v[0] for name, v in result.info.items()}, result
        (node,) = nodes
        items = sorted({r % request.batch for r in rows})
        if missing := [b for b in items if (node, b) not in self._kept]:
            self._weighted(node, theta[0], missing)
        uniform = _uniform(request, rows, 1)
        x: dict[int, tuple[Tensor, Tensor]] = {}
        info: dict[str, list[Tensor]] = {}
        for b in items:
            result, column = self._kept[node, b]
            own = [i for i, r in enumerate(rows) if r % request.batch == b]
            # One draw for all rows of the item at this node.
            chosen = systematic(result.weights[:, column, None], float(uniform[own[0]]), len(own))[:, 0]
            for i, k in zip(own, chosen.tolist(), strict=True):
                x[i] = result.samples[k, column], result.chi2[k, column]
            for name, value in result.info.items():
                info.setdefault(name, []).append(value[chosen.to(value.device), column])
        ordered = [x[i] for i in range(len(rows))]
        drawn = {name: torch.cat(value) for name, value in info.items()}
        return torch.stack([p[0] for p in ordered]), torch.stack([p[1] for p in ordered]), drawn, result

    def _evidence(self, node: Node, theta: Tensor, items: list[int]) -> Evidence:
        if isinstance(self.request.strategy, Exact):
            return self._closed(node, theta, items)
        result = self._weighted(node, theta, items)
        assert result.log_evidence is not None and result.log_evidence_se is not None  # the strategy says it gives it
        # NaN where chains were stopped: the evidence of a power of the likelihood would win against all others.
        return Evidence(result.log_evidence, result.log_evidence_se)

    def _closed(self, node: Node, theta: Tensor, items: list[int]) -> Evidence:
        """By one decomposition for all noise levels; where it is not there, or rounded, by that of this node."""
        found = self._free.at(node, self._prior(theta))
        if found is not None:
            index = torch.tensor(items, device=found.log.device)
            found = Evidence(found.log[index], found.se[index])
        if found is None or self._matters(found):
            strategy, (problem, prior) = self.request.strategy, self._at(theta)
            assert isinstance(strategy, Exact)
            found = strategy.bind(self._items(problem, items), prior).evidence or found
        return found or Evidence(*torch.full((2, len(items)), math.nan, dtype=torch.float64, device="cpu"))

    def _matters(self, found: Evidence) -> bool:
        """Whether a rounded evidence could be one that counts."""
        return not self._free.interpolated and bool(
            ((found.se > ROUGH) & (found.log + found.se > self._best - _FAR)).any()
        )

    def _weighted(self, node: Node, theta: Tensor, items: list[int]) -> Result:
        """A solve of these items with all their samples, which is kept where memory allows."""
        request = self.request
        problem, prior = self._at(theta)
        result = request.solve(self._items(problem, items), prior, items)
        if self._numbers > _KEPT:
            self._kept.clear()
            self._numbers = 0
        self._numbers += result.samples.numel()
        self._kept |= {(node, b): (result, i) for i, b in enumerate(items)}
        return result

    def _at(self, theta: Tensor) -> tuple[Problem, Prior]:
        return self.request.unknowns.problem_only(theta), self._prior(theta)

    def _prior(self, theta: Tensor) -> Prior:
        """The prior of a node; they are kept, since many nodes differ in the noise only."""
        unknowns = self.request.unknowns
        key = tuple(theta[unknowns.columns("prior")].tolist())
        if key not in self._priors:
            if len(self._priors) >= _PRIORS:
                self._priors.clear()
            self._priors[key] = unknowns.prior_at(theta)
        return self._priors[key]

    def _items(self, problem: Problem, items: list[int]) -> Problem:
        if len(items) == self.request.batch:
            return problem
        return problem.take(torch.tensor(items, device=problem.data.device))


def _marginals(request: HyperparameterRequest, lattices: Sequence[Lattice]) -> dict[str, LatticeMarginals]:
    """Of every scalar alone, all items: the samples have the values of so many nodes only."""
    unknowns, device = request.unknowns, request.unknowns.problem.data.device
    whole = [(unknowns.transport(lattice.points), lattice.points, lattice.weights) for lattice in lattices]
    found = {}
    for i, name in enumerate(unknowns.names):
        points = []
        for theta, z, weights in whole:
            nodes = torch.tensor(sorted(set(z[:, i].tolist())), dtype=z.dtype, device="cpu")
            index = torch.searchsorted(nodes, z[:, i].contiguous())
            value = torch.empty_like(nodes).scatter_(0, index, theta[:, i])
            points.append((value, torch.zeros_like(nodes).index_add_(0, index, weights)))
        found[name] = LatticeMarginals.of(points, device)
    return found


def _uniform(request: HyperparameterRequest, rows: Sequence[int], index: int) -> Tensor:
    """A number in (0, 1) for each of these rows, on the CPU."""
    z = request.draws(rows, "scalars").normal((1,), torch.float64, step=0, index=index)[:, 0]
    uniform: Tensor = torch.special.ndtr(z).cpu()
    return uniform


def _unresolved(request: HyperparameterRequest, lattices: Sequence[Lattice], evidences: _Evidences) -> tuple[str, ...]:
    """What scan and lattices could not settle, in words."""
    names, found = " and ".join(request.unknowns.names), []
    if any(math.isinf(lattice.hidden) for lattice in lattices):
        computed = len({node for node, _ in evidences.known}) - evidences.left_out
        return (
            f"the budget was spent after {computed} values of {names}, and their posterior is that of a lattice which "
            "is too coarse. Give a larger budget, or narrower distributions",
        )
    if (hidden := max(lattice.hidden for lattice in lattices)) > _HIDDEN:
        share = f"{hidden:.2g} of" if hidden < 1 else "more than"
        found.append(
            f"the scan of {names} was broken off: peaks that it did not resolve may hold {share} the mass that was "
            "found. Give narrower distributions, or a smaller iv.Hierarchy(scan=...)"
        )
    # A lattice ends next to the nodes that count, so that these nodes are among them or beside them.
    none = sum(math.isnan(evidences.known[n, b][0]) for b, lattice in enumerate(lattices) for n in lattice.nodes)
    if none:
        total = sum(len(lattice.nodes) for lattice in lattices)
        found.append(
            f"{request.strategy.name} gave no evidence at {none} of {total} values of {names} which may count, and "
            "they were left out: raise its number of steps"
        )
    return tuple(found)


def _marginal(lattice: Lattice, evidences: _Evidences, b: int) -> Evidence:
    """Log p(y) of an item over all values of the scalars. Errors of the nodes may share their sign: they are added.

    It is not known where time ended first.
    """
    if math.isinf(lattice.hidden):
        return Evidence(*torch.full((2,), math.nan, dtype=torch.float64, device="cpu"))
    se = torch.tensor([evidences.known[node, b][1] for node in lattice.nodes], dtype=torch.float64, device="cpu")
    weights = lattice.weights
    spread = (weights * torch.where(weights > 0, se, 0.0)).sum()
    return Evidence(lattice.log_total, spread + lattice.error)
