"""`solve` with unknown scalars: a noise level, a correlation length. Two ways, by what the strategy can give.

*Lattice*: where the strategy gives the evidence p(y | theta), the posterior of the scalars theta is its product with
their prior, put on a lattice (`invsolve.hyperparameters.lattice`) in standard normal coordinates; every sample draws
its theta from it and then its signal from ``p(x | theta, y)`` by the strategy. What is approximate: theta takes the
values of lattice nodes (moments and evidence are those of the continuum; quantiles are right to half a spacing).

*Gibbs*: with every other strategy each row is a chain of its own that alternates ``theta | x, y`` and ``x | theta, y``.
What is approximate: the strategy, and the finite number of sweeps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from invsolve.core.counting import tally
from invsolve.core.random import Draws
from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import UnsupportedError, invalid
from invsolve.gaussian.evidence import Evidence
from invsolve.hyperparameters.lattice import MAX_DIMS, Lattice, explore, run
from invsolve.hyperparameters.mode_search import WIDEST, WIDEST_SAMPLED, Node
from invsolve.hyperparameters.unknowns import Unknowns
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import Progress, metered
from invsolve.results.model_comparison import data_fingerprint
from invsolve.results.result import Result, Status, blanked
from invsolve.results.warnings import fit_warnings, misfit, shortfalls, thinned
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import candidates
from invsolve.strategies.exact import Exact
from invsolve.strategies.guidance.mmps import MMPS

_SPACING = {1: 0.15, 2: 0.35, 3: 0.7}  # of a lattice, in posterior standard deviations, by the number of scalars
_SPACING_SAMPLED = {1: 0.4, 2: 0.6, 3: 0.7}  # where every node is a population: moments are as exact
_HIDDEN = 0.05  # share of the mass in peaks not resolved above which a reader is told
_PRIORS = 64  # members of a family that are kept
_KEPT = 2**26  # numbers of weighted samples that are kept from the evidence to the draws, instead of made again


@final
@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """How `solve` infers unknown scalars.

    A lattice finds the mass by a scan of the whole prior, in cells that are halved until no peak can hide in them which
    is as curved as those that were found or as the evidence nearby (`invsolve.hyperparameters.mode_search`); what they
    could still hold is part of ``log_evidence_se``. A peak that is narrower than a tenth of ``scan`` and does not show
    at its flanks is not seen, and no error says so.

    ``method``: ``"lattice"`` where the strategy gives the evidence (`Exact` up to the sizes it factorises, `SMC`,
    `NoiseMCMC`) and there are up to three scalars; ``"gibbs"`` with any strategy; ``"auto"``: the lattice where it can
    be. ``spacing`` of the lattice in posterior standard deviations (0.15, 0.35, 0.7 for one, two, three scalars unless
    given, 0.4, 0.6, 0.7 with populations; the evidence is computed at every node, about ``12 / spacing`` of them for
    one scalar). ``scan``: the widest cells of the scan, in prior standard deviations, at most 4 (0.25, 0.5, 1 for one,
    two, three scalars unless given, twice that with populations; about ``(8 / scan)^scalars`` nodes): a smaller one
    where the evidence may have narrow peaks, as of a frequency or a shift. ``num_sweeps`` of Gibbs: how
    often the scalars of a chain are drawn; the signal is drawn once more than that. Ten are enough for a noise level
    alone; with scalars of the prior take 30 or more, and heed the warning of chains that move slowly.
    """

    method: Literal["auto", "lattice", "gibbs"] = "auto"
    spacing: float | None = None
    scan: float | None = None
    num_sweeps: int = 10

    def __post_init__(self) -> None:
        check_choice("Hierarchy", "method", self.method, ("auto", "lattice", "gibbs"))
        if self.spacing is not None and check_positive("Hierarchy", "spacing", self.spacing) > 1:
            raise invalid("Hierarchy", "spacing", "at most 1 posterior standard deviation", self.spacing)
        if self.scan is not None and check_positive("Hierarchy", "scan", self.scan) > 4:
            raise invalid("Hierarchy", "scan", "at most 4 prior standard deviations", self.scan)
        check_int("Hierarchy", "num_sweeps", self.num_sweeps, minimum=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What `solve` was asked for. Row r of the result is sample ``r // batch`` of item ``r % batch``."""

    unknowns: Unknowns
    strategy: Strategy
    why: str
    hierarchy: Hierarchy
    num_samples: int
    seed: int
    keys: Sequence[int]  # of the items
    chunk: int | None
    reproducible: bool

    @property
    def batch(self) -> int:
        return len(self.keys)

    @property
    def rows(self) -> int:
        return self.num_samples * self.batch

    def draws(self, rows: Sequence[int], purpose: str) -> Draws:
        """The keyed streams of these rows of the result."""
        items, samples = [self.keys[r % self.batch] for r in rows], [r // self.batch for r in rows]
        return Draws.for_rows(self.seed, items, samples, self.unknowns.problem.data.device, purpose=purpose)

    def solve(self, problem: Problem, prior: Prior, **options: Any) -> Result:
        """One solve with everything known; failures are kept."""
        from invsolve.solving.solve import solve

        return solve(
            problem,
            prior,
            strategy=self.strategy,
            seed=self.seed,
            throw=False,
            chunk=self.chunk,
            reproducible=self.reproducible,
            **options,
        )

    def sample_rows(self, problem: Problem, prior: Prior, rows: Sequence[int], purpose: str) -> Result:
        """One signal for each row of ``problem``, keyed as ``rows`` of the result: ``samples`` (1, rows, ...)."""

        def draws(items: Sequence[int], samples: Sequence[int]) -> Draws:
            return self.draws([rows[i] for i in items], purpose)

        return self.solve(replace(problem), prior, num_samples=1, draws=draws)  # a copy has a batch axis


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Rows of the result: signals, their scalars, and what the solves that drew them said."""

    samples: Tensor  # (rows, *shape)
    theta: Tensor  # (rows, p) float64
    chi2: Tensor  # (rows,)
    info: dict[str, Tensor]  # (rows,) each
    how: str  # a clause for `why`
    like: Result  # a solve that holds versions and settings
    warnings: tuple[str, ...] = ()


def choose(problem: Problem, prior: Prior, hierarchy: Hierarchy, scalars: int) -> tuple[Strategy, str]:
    """The strategy of ``"auto"`` with so many unknown scalars, by the problem and prior at their medians, and why."""
    exact, guided = Exact(), MMPS()
    if not (lacking := exact.missing(problem, prior)):
        return exact, "Given the scalars there is a closed form."
    population = candidates(problem, prior, 1)[0].strategy
    alone = hierarchy.method == "gibbs" or scalars > MAX_DIMS
    if alone and population.weighs and not guided.missing(problem, prior):
        return guided, f"No closed form ({lacking}) and one signal at a time, so moment-matching guidance."
    if population.gives_evidence:
        return population, f"Given the scalars there is no closed form ({lacking}), so populations that give evidence."
    return guided, f"No closed form ({lacking}) and too large for populations, so moment-matching guidance."


def solve_unknowns(job: Job, progress: Progress) -> Result:
    """The joint posterior of signal and unknown scalars; `solve` calls it and raises what must be raised."""
    started = time.perf_counter()
    unknowns, problem = job.unknowns, job.unknowns.problem
    with torch.no_grad(), tally() as calls:
        lacking = _no_lattice(job)
        if job.hierarchy.method == "lattice" and lacking:
            raise UnsupportedError(f"solve: no lattice over the unknown scalars, because {lacking}.")
        if lacking or job.hierarchy.method == "gibbs":
            from invsolve.hyperparameters.gibbs import draw_by_gibbs

            drawn = draw_by_gibbs(job, progress)
        else:
            drawn = draw_by_lattice(job, progress)
    failed = ~torch.isfinite(drawn.samples).flatten(1).all(1)
    lead = (job.num_samples, job.batch) if problem.batched else (job.num_samples,)
    settings = {
        "num_samples": job.num_samples,
        "operator": repr(problem.operator),
        "noise": repr(problem.noise),
        "prior": repr(unknowns.prior),
        "hierarchy": repr(job.hierarchy),
        "data": data_fingerprint(problem),
    }
    return replace(
        drawn.like,
        samples=blanked(drawn.samples, failed).view(*lead, *problem.shape),
        status=Status.of(failed),
        failed=failed.view(lead),
        batched=problem.batched,
        shape=problem.shape,
        chi2=torch.where(failed, torch.nan, drawn.chi2).view(lead),
        log_weights=None,
        why=f"{job.why} {drawn.how}",
        nfe=calls["denoise"] / job.rows,
        vjps=calls["vjp"] / job.rows,
        operator_calls={k: v for k, v in calls.items() if k not in ("denoise", "vjp")},
        seconds=time.perf_counter() - started,
        settings={**drawn.like.settings, **settings},
        info={name: value.view(lead) for name, value in drawn.info.items()},
        parameters={name: drawn.theta[:, i].view(lead) for i, name in enumerate(unknowns.names)},
        problem=problem,
        prior=unknowns.prior,
        warnings=drawn.warnings,
        dims=problem.dims,
        units=problem.units,
        certificate=None,
    )


def _no_lattice(job: Job) -> str:
    """Why the scalars cannot be put on a lattice, as a clause; '' if they can."""
    if len(job.unknowns.names) > MAX_DIMS:
        return f"there are {len(job.unknowns.names)} of them, more than {MAX_DIMS}"
    if isinstance(job.strategy, Exact):
        evidence = job.strategy.bind(*job.unknowns.at(job.unknowns.medians)).evidence
        return "" if evidence is not None else "the closed form is too large, or another for every item, to factorise"
    return "" if job.strategy.gives_evidence else f"{job.strategy.name} gives no evidence"


# --- the lattice ---------------------------------------------------------------------------------------------------
def draw_by_lattice(job: Job, progress: Progress) -> Drawn:
    """Rows by way of ``p(theta | y)`` on a lattice for every item."""
    dims = len(job.unknowns.names)
    usual = _SPACING if isinstance(job.strategy, Exact) else _SPACING_SAMPLED
    spacing = job.hierarchy.spacing or usual[dims]
    evidences = _Evidences(job)
    tolerance = 0.02 if isinstance(job.strategy, Exact) else 0.2  # of estimates, nats
    widest = job.hierarchy.scan or (WIDEST if isinstance(job.strategy, Exact) else WIDEST_SAMPLED)[dims]
    lattices = run([explore(dims, spacing, tolerance, widest) for _ in range(job.batch)], evidences)
    uniform = _uniform(job, range(job.rows), 0)
    members: dict[Node, list[int]] = {}  # node -> its rows
    for b, lattice in enumerate(lattices):
        rows = torch.arange(b, job.rows, job.batch)
        for r, i in zip(rows.tolist(), lattice.choose(uniform[rows]).tolist(), strict=True):
            members.setdefault(lattice.nodes[i], []).append(r)
    pieces: list[tuple[list[int], Tensor, Tensor, Tensor]] = []
    said: dict[str, list[Tensor]] = {}
    warnings = dict.fromkeys(_unresolved(job, lattices, evidences))
    with metered(progress, job.rows) as step:
        for node in sorted(members):
            rows_ = sorted(members[node])
            theta = job.unknowns.transport(torch.tensor(node, dtype=torch.float64))
            x, chi2, info, result = evidences.draw(node, theta, rows_)
            pieces.append((rows_, x, chi2, theta.expand(len(rows_), -1)))
            # How well rows fit is said of those that are drawn, all together: other items may have no weight here, and
            # a noise level that few rows have may fit them badly, or be worth few particles.
            of_all = fit_warnings(result.chi2, result.info)
            if result.log_weights is not None:
                of_all += thinned(result.log_weights, result.failed)
            warnings |= dict.fromkeys(text for text in result.warnings if text not in of_all)
            for name, value in info.items():
                said.setdefault(name, []).append(value)
            step(sum(len(p[0]) for p in pieces), job.rows)
    chi2 = torch.cat([p[2] for p in pieces])
    warnings |= dict.fromkeys((*misfit(chi2), *shortfalls({name: torch.cat(value) for name, value in said.items()})))
    order = torch.tensor([r for rows_, *_ in pieces for r in rows_]).argsort()
    found = [_marginal(lattice, evidences, b) for b, lattice in enumerate(lattices)]
    count = [len(lattice.nodes) for lattice in lattices]
    each = {
        "log_evidence": torch.stack([e.log for e in found]),
        "log_evidence_se": torch.stack([e.se for e in found]),
        "lattice_nodes": torch.tensor(count, dtype=torch.float64),
    }
    device = job.unknowns.problem.data.device
    names = " and ".join(job.unknowns.names)
    numbers = f"{min(count)}" if min(count) == max(count) else f"{min(count)} to {max(count)}"
    return Drawn(
        samples=torch.cat([p[1] for p in pieces])[order.to(device)],
        chi2=chi2[order.to(device)],
        theta=torch.cat([p[3] for p in pieces])[order],
        info={name: value.to(device).repeat(job.num_samples) for name, value in each.items()},
        how=f"{names}: by the evidence, on a lattice of {numbers} nodes, spacing at most {spacing:g} posterior std, "
        f"after a scan of the prior at most {widest:g} std apart.",
        like=result,
        warnings=tuple(warnings),
    )


class _Evidences:
    """log p(theta, y) at nodes, item by item; what was computed is kept for the draws."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.known: dict[tuple[Node, int], tuple[float, float]] = {}  # (node, item) -> log p(y | theta), its error
        self._kept: dict[tuple[Node, int], tuple[Result, int]] = {}  # weighted samples of an item
        self._numbers = 0
        self._priors: dict[tuple[float, ...], Prior] = {}

    def __call__(self, node: Node, items: list[int]) -> list[float]:
        z = torch.tensor(node, dtype=torch.float64)
        log, se = self._evidence(node, self.job.unknowns.transport(z), items)
        self.known |= {(node, b): (float(log[i]), float(se[i])) for i, b in enumerate(items)}
        log_prior = -0.5 * (float(z.square().sum()) + len(z) * math.log(2 * math.pi))
        return [self.known[node, b][0] + log_prior for b in items]

    def draw(self, node: Node, theta: Tensor, rows: list[int]) -> tuple[Tensor, Tensor, dict[str, Tensor], Result]:
        """One signal for each row, their chi^2 and info, and a result of a solve that drew them."""
        job = self.job
        if job.strategy.couples == "nothing":
            problem, prior = self._at(theta)
            index = torch.tensor([r % job.batch for r in rows], device=problem.data.device)
            result = job.sample_rows(problem.take(index), prior, rows, "solve")
            return result.samples[0], result.chi2[0], {name: v[0] for name, v in result.info.items()}, result
        items = sorted({r % job.batch for r in rows})
        if missing := [b for b in items if (node, b) not in self._kept]:
            self._weighted(node, theta, missing)
        uniform = _uniform(job, rows, 1)
        x: dict[int, tuple[Tensor, Tensor]] = {}
        info: dict[str, list[Tensor]] = {}
        for b in items:
            result, column = self._kept[node, b]
            own = [i for i, r in enumerate(rows) if r % job.batch == b]
            edges = result.weights[:, column].cumsum(0)
            # One comb for the rows of the item at this node: systematic resampling.
            comb = (torch.arange(len(own)) + uniform[own[0]]) / len(own)
            chosen = torch.searchsorted(edges, comb.to(edges.device, edges.dtype) * edges[-1]).clamp_max(len(edges) - 1)
            for i, k in zip(own, chosen.tolist(), strict=True):
                x[i] = result.samples[k, column], result.chi2[k, column]
            for name, value in result.info.items():
                info.setdefault(name, []).append(value[chosen.to(value.device), column])
        ordered = [x[i] for i in range(len(rows))]
        drawn = {name: torch.cat(value) for name, value in info.items()}
        return torch.stack([p[0] for p in ordered]), torch.stack([p[1] for p in ordered]), drawn, result

    def _evidence(self, node: Node, theta: Tensor, items: list[int]) -> Evidence:
        if isinstance(self.job.strategy, Exact):
            problem, prior = self._at(theta)
            found = self.job.strategy.bind(self._items(problem, items), prior).evidence
            assert found is not None  # it was there at the medians
            return found
        result = self._weighted(node, theta, items)
        assert result.log_evidence is not None and result.log_evidence_se is not None  # the strategy says it gives it
        log = result.log_evidence
        if "beta" in result.info:  # the evidence of a power of the likelihood is none: it would win against all others
            log = torch.where((log > -math.inf) & (result.info["beta"][0] < 1), math.nan, log)
        return Evidence(log, result.log_evidence_se)

    def _weighted(self, node: Node, theta: Tensor, items: list[int]) -> Result:
        """A solve of these items with all their samples, which is kept where memory allows."""
        job = self.job
        problem, prior = self._at(theta)
        problem = replace(self._items(problem, items))  # a copy has a batch axis
        result = job.solve(problem, prior, num_samples=job.num_samples, item_ids=[job.keys[b] for b in items])
        if self._numbers > _KEPT:
            self._kept.clear()
            self._numbers = 0
        self._numbers += result.samples.numel()
        self._kept |= {(node, b): (result, i) for i, b in enumerate(items)}
        return result

    def _at(self, theta: Tensor) -> tuple[Problem, Prior]:
        """The problem and prior of a node; priors are kept, since many nodes differ in the noise only."""
        unknowns = self.job.unknowns
        key = tuple(theta[unknowns.columns("prior")].tolist())
        if key not in self._priors:
            if len(self._priors) >= _PRIORS:
                self._priors.clear()
            self._priors[key] = unknowns.prior_at(theta)
        return unknowns.problem_only(theta), self._priors[key]

    def _items(self, problem: Problem, items: list[int]) -> Problem:
        if len(items) == self.job.batch:
            return problem
        return problem.take(torch.tensor(items, device=problem.data.device))


def _uniform(job: Job, rows: Sequence[int], index: int) -> Tensor:
    """A number in (0, 1) for each of these rows, on the CPU."""
    z = job.draws(rows, "scalars").normal((1,), torch.float64, step=0, index=index)[:, 0]
    uniform: Tensor = torch.special.ndtr(z).cpu()
    return uniform


def _unresolved(job: Job, lattices: Sequence[Lattice], evidences: _Evidences) -> tuple[str, ...]:
    """What scan and lattices could not settle, in words."""
    names, found = " and ".join(job.unknowns.names), []
    if (hidden := max(lattice.hidden for lattice in lattices)) > _HIDDEN:
        share = f"{hidden:.2g} of" if hidden < 1 else "more than"
        found.append(
            f"the scan of {names} was broken off: peaks that it did not resolve may hold {share} the mass that was "
            "found. Give narrower laws, or a smaller iv.Hierarchy(scan=...)"
        )
    # A lattice ends next to the nodes that count, so that these nodes are among them or beside them.
    none = sum(math.isnan(evidences.known[n, b][0]) for b, lattice in enumerate(lattices) for n in lattice.nodes)
    if none:
        total = sum(len(lattice.nodes) for lattice in lattices)
        found.append(
            f"{job.strategy.name} gave no evidence at {none} of {total} values of {names} which may count, and they "
            "were left out: raise its number of steps"
        )
    return tuple(found)


def _marginal(lattice: Lattice, evidences: _Evidences, b: int) -> Evidence:
    """Log p(y) of an item over all values of the scalars. Errors of the nodes may share their sign: they are added."""
    se = torch.tensor([evidences.known[node, b][1] for node in lattice.nodes], dtype=torch.float64)
    weights = lattice.weights
    spread = (weights * torch.where(weights > 0, se, 0.0)).sum()
    return Evidence(lattice.log_total, spread + lattice.error)
