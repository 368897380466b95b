"""Markov chains in the prior's noise space: exact for any likelihood, as the number of moves grows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.random import DrawLike
from invsolve.core.validation import check_choice, check_int, check_number
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasTransport
from invsolve.problem import Problem
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.mcmc.kernels import Chains, Metric, Normal, Target, autoregressive, hamiltonian
from invsolve.strategies.mcmc.noise_map import NoiseMap, noise_map
from invsolve.strategies.mcmc.spike_slab import Sites
from invsolve.strategies.mcmc.warm_start import Started
from invsolve.strategies.smc.weights import check_together, systematic

_ACCEPT = {"hmc": 0.8, "mala": 0.6, "pcn": 0.3}  # acceptance that the step size is steered to
_TRAJECTORY = 1.6  # length of an HMC trajectory in the coordinates of the metric: a quarter of an oscillation
_LEAPS = 16  # steps of a trajectory at most
_SETTLE = 3  # rounds at temperature 1 in which metric and step size still adapt
_LOST = 30  # moves after which chains that all have likelihood zero are given up
_NUMBERS = 2**19  # numbers of the chains that are moved at once: what a CPU's cache holds

Kernel = Literal["hmc", "mala", "pcn"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Bound:
    map: NoiseMap
    batch: int
    sites: Sites | None  # exact draws of pairs of coefficients, where they are known
    start: Started | None

    def take(self, index: Tensor) -> _Bound:
        check_together("NoiseMCMC", index, self.batch)
        return self


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseMCMCState:
    """Items first, but for the samples. ``done``: rounds recorded so far; negative before the chains are there."""

    x: Tensor  # (rows, *shape): what was recorded
    u: Tensor  # (items, chains, n)
    log_likelihood: Tensor  # (items, chains)
    grad: Tensor  # (items, chains, n)
    beta: Tensor  # (items,): the power of the likelihood
    log_evidence: Tensor  # (items, islands)
    mean: Tensor  # of the metrics
    root: Tensor  # of the metric from the population's covariance
    narrow: Tensor  # of the one from its scores
    log_step: Tensor  # (items, 2): with either metric
    accept: Tensor  # (items,): of the last round
    left: Tensor  # (items, n + 1): autocorrelation over the moves since the last event
    since: Tensor  # (items,): how many they are
    rises: Tensor  # (items,): of the temperature
    moves: Tensor  # (items,): in all
    done: Tensor  # (items,)
    first: Tensor  # (items, chains, n + 2): sums over the first half of the recorded rounds
    second: Tensor
    square: Tensor

    @property
    def chains(self) -> Chains:
        return Chains(u=self.u, log_likelihood=self.log_likelihood, grad=self.grad)

    @property
    def metrics(self) -> tuple[Metric, Metric]:
        return Metric(mean=self.mean, root=self.root), Metric(mean=self.mean, root=self.narrow)


@final
@dataclass(frozen=True, kw_only=True)
class NoiseMCMC(Strategy):
    """Many chains in the noise u that the prior is made of: target ``N(u; 0, I) p(y | A T(u))``.

    T is the prior's own transport where it states one (Gaussian, field and sparse priors: no network is evaluated),
    else its probability flow in ``evaluations`` evaluations. Any operator and any noise model will do. The kernel is
    HMC with the gradient through T and A (``"hmc"``; ``"mala"``: one step of it), or ``"pcn"``, evaluations only, which
    ``"auto"`` takes for a black box.

    ``chains`` per item start as prior draws and are tempered towards the posterior: powers of the likelihood rise so
    that each rise leaves an effective number of ``keep`` of the chains, which are then resampled and moved. A rise, and
    a recorded round, comes when the moves since the last one have forgotten all but ``forget`` of where the population
    stood (the worst autocorrelation of a component or of the log likelihood), or after ``patience`` moves. Metric (the
    population's covariance) and step size adapt up to the end of this warm-up and are then frozen. ``rounds`` recorded
    rounds follow, which the samples are taken from. Chains live on ``islands`` that exchange nothing but metric, step
    size and temperatures, so that their disagreement is the error of the result (Del Moral, Doucet & Jasra 2006, J. R.
    Stat. Soc. B 68, 411-436; Margossian et al. 2022, arXiv 2110.13017).

    ``start``: chains start where this strategy ends (`DPS`, `DiffPIR`, `MMPS` ...), one run a chain, mapped to noise by
    the inverse of T, and are not tempered: they correct its mean and spread, and find no mode that it missed. There is
    no evidence then (NaN). Items of which a tenth of the runs failed, or all coincide, are tempered after all.

    ``result.info``, the same for all samples of an item: ``log_evidence`` and ``log_evidence_se`` (nats); ``rhat``
    (split R-hat) and ``nested_rhat`` (of the islands), the worst component, and ``ess``, the least, over components,
    energy and log-likelihood; ``mean_error`` and ``std_error``, errors of mean and std in posterior stds, the worst
    component, from the islands, and ``drift``, what of it is islands still moving together;
    ``acceptance``; ``beta`` (1 unless ``num_steps`` moves or a budget were too few: errors are NaN where not all rounds
    were recorded); ``rises`` and ``moves``, their numbers.

    Samples of an item depend on each other, not on other items. An item whose likelihood is zero wherever its chains
    went fails: its samples are NaN.
    """

    couples = "samples"
    gives_evidence = True
    kernel: Literal["auto", "hmc", "mala", "pcn"] = "auto"
    chains: int = 1024
    islands: int = 8
    rounds: int = 8
    keep: float = 0.5
    forget: float = 0.4
    patience: int = 10
    evaluations: int = 25
    num_steps: int = 1000  # moves at most, tempering included
    start: Strategy | None = None

    def __post_init__(self) -> None:
        owner = "NoiseMCMC"
        check_choice(owner, "kernel", self.kernel, ("auto", "hmc", "mala", "pcn"))
        for name, least in (
            ("islands", 2),
            ("chains", 4),
            ("rounds", 4),
            ("patience", 1),
            ("evaluations", 2),
            ("num_steps", 1),
        ):
            check_int(owner, name, getattr(self, name), minimum=least)
        if self.islands % 2:
            raise invalid(owner, "islands", "even: each half of them has the metric of the other", self.islands)
        if self.chains % self.islands or self.chains < 2 * self.islands:
            raise invalid(owner, "chains", f"a multiple of {self.islands} islands, at least twice as many", self.chains)
        for name in ("keep", "forget"):
            if not 0 < check_number(owner, name, getattr(self, name)) < 1:
                raise invalid(owner, name, "between 0 and 1", getattr(self, name))
        if self.start is not None:
            if not isinstance(self.start, Strategy):
                raise invalid_type(owner, "start", "an iv.strategies object, or None", self.start)
            if self.start.couples != "nothing":
                raise invalid(owner, "start", "a strategy whose samples do not see each other", self.start.name)

    def missing(self, problem: Problem, prior: Prior) -> str:
        if self.kernel in ("hmc", "mala") and isinstance(problem.operator, BlackBox):
            return f"an operator with a derivative ({type(problem.operator).__name__} is a black box): kernel='pcn'"
        if self.start is None:
            return ""
        if not (isinstance(prior, HasTransport) or prior.white_noise):
            return f"white diffusion noise, or no `start` ({type(prior).__name__} has neither that nor a transport)"
        lacking = self.start.missing(problem, prior)
        return f"for its start, {self.start.name}: {lacking}" if lacking else ""

    def bind(self, problem: Problem, prior: Prior) -> _Bound:
        return _Bound(
            map=noise_map(prior, self.evaluations),
            batch=len(problem.data),
            sites=Sites.of(problem, prior),
            start=None if self.start is None else Started(strategy=self.start, bound=self.start.bind(problem, prior)),
        )

    def init(self, run: Run) -> NoiseMCMCState:
        bound: _Bound = run.bound
        items, chains = bound.batch, self.chains
        like = run.problem.data.real
        n = prod(run.problem.shape) * (2 if run.problem.signal_dtype.is_complex else 1)
        if bound.start is None:
            u = _first(run).normal((chains, n), like.dtype, step=0)
        else:
            u, begun = bound.start.noise(run, bound.map, items, chains)
        zeros = like.new_zeros(items, dtype=torch.float64)  # one number an item
        sums = zeros[:, None, None].repeat(1, chains, n + 2)
        x = torch.zeros(run.rows, *run.problem.shape, dtype=run.problem.signal_dtype, device=like.device)
        metric = Metric.identity(u)
        state = NoiseMCMCState(
            x=x,
            u=u,
            log_likelihood=zeros[:, None].repeat(1, chains),
            grad=torch.zeros_like(u),
            beta=zeros,
            log_evidence=zeros[:, None].repeat(1, self.islands),
            mean=metric.mean,
            root=metric.root,
            narrow=metric.root.clone(),
            log_step=torch.full_like(zeros, math.log(self._first_step(run.problem, n)))[:, None].repeat(1, 2),
            accept=torch.full_like(zeros, math.nan),
            left=zeros[:, None].repeat(1, n + 1),
            since=zeros,
            rises=zeros,
            moves=zeros,
            done=torch.full_like(zeros, -_SETTLE),
            first=sums,
            second=sums.clone(),
            square=sums.clone(),
        )
        for group in self._groups(torch.arange(items, device=like.device), n):
            target = self._target(run, group)
            if self._kernel(run.problem) == "pcn":
                value, grad = target.log_likelihood(u[group]), state.grad[group]
            else:
                value, grad = target.pullback(u[group])
            state.log_likelihood[group], state.grad[group] = value, grad
        if bound.start is None:
            return state
        # Where no chain has a likelihood the start is none.
        begun = begun & torch.isfinite(state.log_likelihood).any(1)
        even = torch.full_like(state.log_likelihood, 1 / chains)
        measured = self._measured(run.problem, replace(state, beta=torch.ones_like(zeros)), even)
        return _only(begun, measured, state)

    def step(self, run: Run, state: NoiseMCMCState, i: int) -> tuple[NoiseMCMCState, Info]:
        active = (state.done < self.rounds).nonzero()[:, 0]
        state = _copied(state)
        for group in self._groups(active, state.u.shape[-1]):
            self._round(run, state, group, i)
        self._lost(run, state)
        if i + 1 == self.num_steps:
            self._filled(run, state)
        over = i + 1 == self.num_steps or bool((state.done == self.rounds).all())
        return state, self._info(run, state) if over else {}

    def stopped(self, run: Run, state: NoiseMCMCState) -> tuple[NoiseMCMCState, Info]:
        state = _copied(state)
        self._filled(run, state)
        return state, self._info(run, state)

    def finished(self, run: Run, state: NoiseMCMCState) -> bool:
        return bool((state.done == self.rounds).all())

    # --- one round -----------------------------------------------------------------------------------------------
    def _round(self, run: Run, state: NoiseMCMCState, group: Tensor, i: int) -> None:
        """One move of the items ``group``, and what is due after it; writes into ``state``, a copy."""
        draws = _first(run).take(group)

        def normal(index: int, shape: tuple[int, ...]) -> Tensor:
            return draws.normal(shape, state.u.dtype, step=i + 1, index=index)

        part = NoiseMCMCState(
            **{f.name: getattr(state, f.name)[group] for f in fields(state) if f.name != "x"}, x=state.x[:0]
        )
        # `left` is 0 at the start: the first event is the first rise.
        event = (part.left.amax(1) < self.forget) | (part.since >= self.patience)
        hot = event & (part.beta < 1)
        if bool(hot.any()):
            uniform = torch.special.ndtr(normal(2, (self.islands,)).double())
            part = _only(hot, self._tempered(run.problem, part, uniform), part)
        settling = event & ~hot & (part.done < 0)
        if bool(settling.any()):
            even = torch.full_like(part.log_likelihood, 1 / self.chains)
            part = _only(settling, replace(self._measured(run.problem, part, even), done=part.done + 1), part)
        target = self._target(run, group)
        recording = event & ~hot & ~settling & (part.done >= 0)
        if bool(recording.any()):
            part = _only(recording, self._recorded(run, state, part, recording, target, group), part)
        part = replace(
            part, left=torch.where(event[:, None], 1.0, part.left), since=torch.where(event, 0, part.since) + 1
        )
        sites = run.bound.sites
        part = self._moved(part, target, sites and sites.take(group), normal, i)
        for f in fields(state):
            if f.name != "x":
                getattr(state, f.name)[group] = getattr(part, f.name)

    def _moved(
        self, part: NoiseMCMCState, target: Target, sites: Sites | None, normal: Normal, i: int
    ) -> NoiseMCMCState:
        kernel = self._kernel(target.problem)
        kind = 0 if kernel == "pcn" else i % 2
        metric, size = part.metrics[kind], part.log_step[:, kind].exp()
        if kernel == "pcn":
            chains, accept = autoregressive(target, part.chains, metric, part.beta, size, normal)
        else:
            leaps = torch.ones_like(size).long()
            if kernel == "hmc":
                full = (_TRAJECTORY / size).ceil().clamp(1, _LEAPS)
                turn = torch.special.ndtr(normal(3, (1,))[:, 0].double())
                leaps = (full * (0.5 + 0.5 * turn)).ceil().long()  # of random length: no trajectory closes on itself
            chains, accept = hamiltonian(target, part.chains, metric, part.beta, size, leaps, normal)
        if sites is not None:
            u = sites.sweep(chains.u, part.beta, normal)
            value, grad = target.pullback(u) if kernel != "pcn" else (target.log_likelihood(u), chains.grad)
            chains = Chains(u=u, log_likelihood=value, grad=grad)
        rate = accept.mean(1)
        change = torch.where(part.done < 0, 0.7 * (rate - _ACCEPT[kernel]), 0.0)
        log_step = part.log_step.clone()
        log_step[:, kind] += change
        return replace(
            part,
            u=chains.u,
            log_likelihood=chains.log_likelihood,
            grad=chains.grad,
            accept=rate,
            log_step=log_step,
            left=part.left * _autocorrelation(part.metrics[0], part.chains, chains),
            moves=part.moves + 1,
        )

    def _tempered(self, problem: Problem, part: NoiseMCMCState, uniform: Tensor) -> NoiseMCMCState:
        """The power of the likelihood raised, chains weighted and resampled on their islands, a new metric."""
        logs = part.log_likelihood
        rise = _rise(logs, 1 - part.beta, self.keep)
        beta = torch.where(rise >= 1 - part.beta, 1.0, part.beta + rise)
        log_w = rise[:, None] * logs.nan_to_num(neginf=-math.inf)
        log_w = torch.where(logs == -math.inf, -math.inf, log_w)
        islands = log_w.view(len(logs), self.islands, -1)
        gain = torch.logsumexp(islands, -1) - math.log(islands.shape[-1])
        weights = torch.softmax(log_w, 1)
        part = self._measured(problem, replace(part, beta=beta), weights)
        # Resampling on each island: flat (island of item) columns of chains.
        each = torch.softmax(islands, -1).nan_to_num(1 / islands.shape[-1]).flatten(0, 1).mT
        parent = systematic(each, uniform.flatten()).mT.reshape(islands.shape)
        parent = parent + (torch.arange(self.islands, device=parent.device) * islands.shape[-1])[:, None]
        chains = part.chains.take(parent.flatten(1))
        return replace(
            part,
            u=chains.u,
            log_likelihood=chains.log_likelihood,
            grad=chains.grad,
            log_evidence=part.log_evidence + gain,
            rises=part.rises + 1,
        )

    def _measured(self, problem: Problem, part: NoiseMCMCState, weights: Tensor) -> NoiseMCMCState:
        """New metrics from weighted chains.

        HMC takes both in turn: the covariance of the population is wide enough to change modes, and too wide for tails
        and bends, where chains then stand still (10 % of the std of a banana); the scores know the scale there.
        """
        wide, narrow = part.metrics
        wide = Metric.of(part.u, weights, wide)
        if self._kernel(problem) != "pcn":
            scores = part.beta.to(part.u.dtype)[:, None, None] * part.grad - part.u
            narrow = Metric.of_scores(part.u, scores, weights, narrow)
        return replace(part, mean=wide.mean, root=wide.root, narrow=narrow.root)

    def _recorded(
        self, run: Run, state: NoiseMCMCState, part: NoiseMCMCState, recording: Tensor, target: Target, group: Tensor
    ) -> NoiseMCMCState:
        items = run.bound.batch
        x = target.signals(part.u)
        real = to_real(x).double().view(*part.u.shape[:2], -1)
        energy = real.square().sum(-1, keepdim=True)
        values = torch.cat((real, energy, part.log_likelihood[..., None]), -1)
        done = part.done + 1
        early = (done <= self.rounds // 2)[:, None, None]
        number, chain = _plan(part.log_evidence, run.rows // items, self.chains, self.rounds)
        mine = (number == done[:, None]) & recording[:, None]  # (items, samples)
        item, sample = mine.nonzero(as_tuple=True)
        signals = x.view(*part.u.shape[:2], *x.shape[1:])
        state.x[sample * items + group[item]] = signals[item, chain[item, sample]]
        return replace(
            part,
            first=part.first + early * values,
            second=part.second + ~early * values,
            square=part.square + values.square(),
            done=done,
        )

    def _filled(self, run: Run, state: NoiseMCMCState) -> None:
        """Samples of items for which the rounds were too few: where the chains stand (`beta` in the info says so)."""
        items = run.bound.batch
        repeats = run.rows // items
        for group in self._groups((state.done < self.rounds).nonzero()[:, 0], state.u.shape[-1]):
            x = self._target(run, group).signals(state.u[group]).view(len(group), self.chains, *run.problem.shape)
            chain = torch.arange(repeats, device=x.device) * self.chains // repeats
            rows = torch.arange(repeats, device=x.device)[:, None] * items + group
            state.x[rows] = x[:, chain].transpose(0, 1)

    def _lost(self, run: Run, state: NoiseMCMCState) -> None:
        """Items for which no chain ever met a positive likelihood are over, and their samples NaN: there is nothing to
        weight prior draws by.
        """
        active = (state.done < self.rounds) & (state.moves >= _LOST) & (state.beta < 1)
        lost = (active & ~torch.isfinite(state.log_likelihood).any(1)).nonzero()[:, 0]
        if len(lost):
            items = run.bound.batch
            rows = torch.arange(run.rows // items, device=lost.device)[:, None] * items + lost
            state.x[rows] = torch.nan
            state.done[lost] = self.rounds

    def _info(self, run: Run, state: NoiseMCMCState) -> Info:
        from invsolve.strategies.mcmc.convergence import population

        found = population(state.first, state.second, state.square, state.log_evidence, self.rounds)
        # Sums of fewer rounds say nothing of the error.
        short = (state.done < self.rounds) | (state.beta < 1)
        for name in ("mean_error", "std_error", "drift", "rhat", "nested_rhat", "ess"):
            found[name] = torch.where(short, torch.nan, found[name])
        if self.start is not None:
            found["log_evidence"] = found["log_evidence_se"] = torch.full_like(state.beta, math.nan)
        found |= {"acceptance": state.accept, "beta": state.beta, "rises": state.rises, "moves": state.moves}
        repeats = run.rows // run.bound.batch
        return {name: value.repeat(repeats) for name, value in found.items()}

    # --- plumbing --------------------------------------------------------------------------------------------------
    def _kernel(self, problem: Problem) -> Kernel:
        if self.kernel == "auto":
            return "pcn" if isinstance(problem.operator, BlackBox) else "hmc"
        return self.kernel

    def _first_step(self, problem: Problem, n: int) -> float:
        return 0.5 if self._kernel(problem) == "pcn" else min(1.0, 1.2 * n**-0.25)

    def _groups(self, items: Tensor, n: int) -> tuple[Tensor, ...]:
        return torch.split(items, max(1, _NUMBERS // (n * self.chains))) if len(items) else ()

    def _target(self, run: Run, group: Tensor) -> Target:
        problem = run.problem.take(group.repeat_interleave(self.chains))
        return Target(problem=problem, noise_map=run.bound.map, shape=run.problem.shape, chains=self.chains)


def _first(run: Run) -> DrawLike:
    """The streams of the items: those of their first samples."""
    return run.draws.take(torch.arange(run.bound.batch))


def _copied(state: NoiseMCMCState) -> NoiseMCMCState:
    return NoiseMCMCState(**{f.name: getattr(state, f.name).clone() for f in fields(state)})


def _only(items: Tensor, new: NoiseMCMCState, old: NoiseMCMCState) -> NoiseMCMCState:
    """``new`` for the items where True, else ``old``."""

    def chosen(name: str) -> Tensor:
        a, b = getattr(new, name), getattr(old, name)
        return a if name == "x" else torch.where(items.view(-1, *([1] * (a.ndim - 1))), a, b)

    return NoiseMCMCState(**{f.name: chosen(f.name) for f in fields(new)})


def _autocorrelation(metric: Metric, before: Chains, after: Chains) -> Tensor:
    """Of every component in the coordinates of the metric, and of the log likelihood, over chains: (items, n + 1)."""

    def values(chains: Chains) -> Tensor:
        v = torch.cat((metric.whiten(chains.u).double(), chains.log_likelihood[..., None]), -1)
        v = v.nan_to_num(neginf=0.0)
        return v - v.mean(1, keepdim=True)

    a, b = values(before), values(after)
    size = (a.square().sum(1) * b.square().sum(1)).sqrt().clamp_min(torch.finfo(a.dtype).tiny)
    return ((a * b).sum(1) / size).clamp(0, 1)


def _rise(logs: Tensor, room: Tensor, keep: float) -> Tensor:
    """The largest rise of the power, up to ``room`` ``(items,)``, whose weights have an effective share of ``keep``.

    ``logs`` ``(items, chains)``. By bisection of its logarithm; chains of likelihood zero have no weight at any rise.
    """
    shifted = logs - logs.amax(1, keepdim=True)
    alive = torch.isfinite(shifted)
    shifted = torch.where(alive, shifted, -math.inf)
    wanted = keep * alive.sum(1)

    def share(rise: Tensor) -> Tensor:
        w = torch.where(alive, (rise[:, None] * torch.where(alive, shifted, 0.0)).exp(), 0.0)
        return w.sum(1).square() / w.square().sum(1)

    low, high = torch.full_like(room, -60.0), room.log()
    low = torch.minimum(low, high)
    for _ in range(50):
        middle = (low + high) / 2
        enough = share(middle.exp()) >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(share(room) >= wanted, room, low.exp())


def _plan(log_evidence: Tensor, samples: int, chains: int, rounds: int) -> tuple[Tensor, Tensor]:
    """From which round (1, ...) and chain each sample of an item is taken, ``(items, samples)`` each.

    Islands count by their evidence; on each, samples go through chains and rounds so that none is taken twice while
    there are others.
    """
    items, islands = log_evidence.shape
    each = chains // islands
    weights = torch.softmax(log_evidence, 1).nan_to_num(1 / islands)
    comb = ((torch.arange(samples, dtype=torch.float64, device=weights.device) + 0.5) / samples).expand(items, -1)
    edges = weights.cumsum(1).contiguous()
    island = torch.searchsorted(edges, comb.contiguous() * edges[:, -1:]).clamp_max(islands - 1)
    before = torch.searchsorted(island, island, right=False)  # samples of lower islands
    place = torch.arange(samples, device=weights.device) - before
    count = torch.searchsorted(island, island, right=True) - before
    few = count < each
    chain = torch.where(few, place * each // count.clamp_min(1), place % each)
    turns = (count + each - 1) // each  # how often a chain is used; its rounds lie far apart, the last among them
    number = rounds - (place // each % turns.clamp_min(1)) * rounds // turns.clamp_min(1)
    return number.clamp_min(1), island * each + chain
