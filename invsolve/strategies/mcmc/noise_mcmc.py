"""Markov chains in the prior's noise space: exact for any likelihood, as the number of moves grows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.random import DrawLike
from invsolve.core.validation import check_choice, check_int, check_number
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.marginals import Moments
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasTransport
from invsolve.problem import Problem
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.mcmc.bound import BoundChains
from invsolve.strategies.mcmc.bridge import LARGEST
from invsolve.strategies.mcmc.chain_evidence import chain_evidence
from invsolve.strategies.mcmc.ensemble import moments
from invsolve.strategies.mcmc.kernels import Metric, Target
from invsolve.strategies.mcmc.moves import Kernel, moved
from invsolve.strategies.mcmc.recording import given_up, lengthened, plan, recorded, share, summary
from invsolve.strategies.mcmc.reflection import flipped
from invsolve.strategies.mcmc.state import NoiseMCMCState, only
from invsolve.strategies.mcmc.tempering import IN_PLACE, closed_in, late, measured, tempered
from invsolve.strategies.mcmc.thinning import fewer_chains, thinned
from invsolve.strategies.reported import Reported

_LEAST = {"islands": 2, "chains": 4, "rounds": 4, "patience": 1, "evaluations": 2, "num_steps": 1}
_SETTLE = 3  # rounds at temperature 1 in which metric and step size still adapt
_LOST = 30  # moves after which chains that all have likelihood zero are given up
_VALUES = 2**19  # values of the chains that are moved at once: what a CPU's cache holds


@final
@dataclass(frozen=True, kw_only=True)
class NoiseMCMC(Strategy[NoiseMCMCState, BoundChains]):
    """Many Markov chains in the noise u that the prior is made of: target ``N(u; 0, I) p(y | A T(u))``.

    T is the prior's own transport where it states one (Gaussian, field and sparse priors: no network is evaluated),
    else its probability flow. Any operator and any noise model will do. Chains start as prior draws and are tempered
    towards the posterior: powers of the likelihood rise so that each rise leaves an effective number of ``keep`` of the
    chains, which are then resampled and moved. Metric (the covariance of the chains) and step size adapt up to the end
    of this warm-up and are then frozen; recorded rounds follow, which the samples are taken from.

    Parameters
    ----------
    kernel : {"auto", "hmc", "mala", "pcn"}
        "hmc": Hamiltonian moves with the gradient through T and A; "mala": one step of it; "pcn": evaluations only,
        which "auto" (the default) takes for a black box, else "hmc".
    chains : int
        Per item, a multiple of ``islands`` and at least twice as many; 1024 unless given.
    islands : int
        Groups of chains that exchange nothing but metric, step size and temperatures, so that their disagreement is the
        error of the result; even, 8 unless given.
    rounds : int
        Recorded rounds, at least 4; 8 unless given.
    keep : float
        Share of the chains that is effective after a rise, in (0, 1); 0.5 unless given.
    forget : float
        A rise, and a recorded round, comes when the moves since the last one have forgotten all but this share of where
        the chains stood (the worst autocorrelation of a component or of the log likelihood), or after ``patience``
        moves; in (0, 1), 0.4 unless given.
    patience : int
        At least 1; 10 moves unless given.
    spread : float
        Standard deviation of the noise that chains start from, at least 1 (the default: prior draws). Wider starts meet
        modes in the tails of the prior; tempering leads from there to the same posterior, in more rises.
    evaluations : int
        Of the probability flow where the prior has no transport, at least 2; 25 unless given.
    target : float
        The number of recorded rounds is doubled until ``mean_error`` and ``std_error`` are at most this, while 64 times
        ``rounds`` can be expected to do; 0 unless given: never.
    num_steps : int
        Moves at most, tempering included; 1000 unless given.
    start : Strategy, optional
        Chains start where this strategy ends (`DPS`, `DiffPIR`, `MMPS` ...), one run a chain, mapped to noise by the
        inverse of T, and are not tempered: they correct its mean and spread, and find no mode that it missed. There is
        no evidence then (NaN). Items of which a tenth of the runs failed, or all coincide, are tempered after all.

    Raises
    ------
    InputError
        If an option is out of range, or the samples of ``start`` see each other.
    InputTypeError
        If ``start`` is neither a strategy nor None.

    Notes
    -----
    Exact for any likelihood, as the number of moves grows. Mean and std of the result are those of all chains and
    recorded rounds, of which the samples are some.

    ``result.info``, the same for all samples of an item: ``log_evidence`` and ``log_evidence_se`` (nats; NaN below the
    full likelihood), by the rises or, up to 128 real unknowns, by where the chains ended; ``island_error``, the error
    of the log of the islands' weights; ``rhat``
    (split R-hat) and ``nested_rhat`` (of the islands), the worst component, and ``ess``, the least, over components,
    energy and log-likelihood; ``mean_error`` and ``std_error``, errors of mean and std in posterior stds, the worst
    component, from the islands, and ``drift``, what of it is islands still moving together; ``acceptance``; ``beta`` (1
    unless ``num_steps`` moves or a budget were too few: errors are NaN where not all rounds were recorded); ``rises``
    and ``moves``, their numbers.

    Where measurements below a limit are impossible (expected counts below 0), with a Gaussian prior and a linear
    operator, trajectories bounce from these walls, which move in from outside of all chains before the likelihood
    counts. With other priors and operators trajectories that find themselves behind a wall are reflected, and moves
    without gradients that end there are refused. Where u and -u are equally likely (magnitudes of signals of either
    sign) chains change their sign at random.

    Samples of an item depend on each other, not on other items. An item whose likelihood is zero wherever its chains
    went fails: its samples are NaN.

    References
    ----------
    Cotter et al. 2013, MCMC Methods for Functions, arXiv 1202.0709, doi 10.1214/13-STS421; Neal 2011, MCMC Using
    Hamiltonian Dynamics, arXiv 1206.1901; Del Moral, Doucet & Jasra 2006, Sequential Monte Carlo Samplers, J. R. Stat.
    Soc. B 68, 411-436, doi 10.1111/j.1467-9868.2006.00553.x; Margossian et al. 2022, Nested R-hat, arXiv 2110.13017;
    Mohasel Afshar & Domke 2015, Reflection, Refraction, and Hamiltonian Monte Carlo, NeurIPS 28 (bounces); Betancourt
    2011, Nested Sampling with Constrained Hamiltonian Monte Carlo, AIP Conf. Proc. 1305, 165-172 (reflections).
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
    spread: float = 1.0
    evaluations: int = 25
    target: float = 0.0
    num_steps: int = 1000  # moves at most, tempering included
    start: Strategy | None = None

    def __post_init__(self) -> None:
        owner = "NoiseMCMC"
        check_choice(owner, "kernel", self.kernel, ("auto", "hmc", "mala", "pcn"))
        for name, least in _LEAST.items():
            check_int(owner, name, getattr(self, name), minimum=least)
        if self.islands % 2:
            raise invalid(owner, "islands", "even: each half of them has the metric of the other", self.islands)
        if self.chains % self.islands or self.chains < 2 * self.islands:
            raise invalid(owner, "chains", f"a multiple of {self.islands} islands, at least twice as many", self.chains)
        for name in ("keep", "forget"):
            if not 0 < check_number(owner, name, getattr(self, name)) < 1:
                raise invalid(owner, name, "between 0 and 1", getattr(self, name))
        if check_number(owner, "target", self.target) < 0:
            raise invalid(owner, "target", "at least 0", self.target)
        if check_number(owner, "spread", self.spread) < 1:
            raise invalid(owner, "spread", "at least 1", self.spread)
        if self.start is not None:
            if self.spread != 1:
                raise invalid(owner, "spread", "1 with a `start`, which says where chains start", self.spread)
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

    def bind(self, problem: Problem, prior: Prior) -> BoundChains:
        return BoundChains.from_problem(
            problem,
            prior,
            self.start,
            spread=self.spread,
            evaluations=self.evaluations,
            gradients=self._gradients(problem),
        )

    def init(self, run: Run[BoundChains]) -> NoiseMCMCState:
        bound = run.bound
        items, chains = bound.batch, self.chains
        like = run.problem.data.real
        n = prod(run.problem.shape) * (2 if run.problem.signal_dtype.is_complex else 1)
        if bound.warm_start is None:
            u = _first(run).normal((chains, n), like.dtype, step=0)
        else:
            u, warm = bound.warm_start.noise(run, bound.map, items, chains)
        zeros = like.new_zeros(items, dtype=torch.float64)  # one number an item
        sums = zeros[:, None, None].repeat(1, chains, _reported(run).size + 2)
        x = torch.zeros(run.rows, *run.problem.shape, dtype=run.problem.signal_dtype, device=like.device)
        metric = Metric.identity(u)
        state = NoiseMCMCState(
            x=x,
            u=u,
            log_likelihood=zeros[:, None].repeat(1, chains),
            grad=torch.zeros_like(u),
            beta=zeros,
            slack=bound.slack,
            log_evidence=zeros[:, None].repeat(1, self.islands),
            mark=zeros[:, None].repeat(1, 2),
            lag=zeros,
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
            rounds=torch.full_like(zeros, self.rounds),
            first=sums,
            second=sums.clone(),
            square=sums.clone(),
        )
        for group in self._groups(torch.arange(items, device=like.device), n):
            target = self._target(run, group, state.slack[group])
            if self._kernel(run.problem) == "pcn":
                value, grad = target.log_likelihood(u[group]), state.grad[group]
            else:
                value, grad = target.pullback(u[group])
            state.log_likelihood[group], state.grad[group] = value, grad
        if bound.warm_start is None:
            return state
        # Where no chain has a likelihood nothing was gained.
        warm = warm & torch.isfinite(state.log_likelihood).any(1)
        even = torch.full_like(state.log_likelihood, 1 / chains)
        hot = replace(state, beta=torch.ones_like(zeros), slack=zeros)
        return only(warm, measured(hot, even, scores=self._gradients(run.problem)), state)

    def step(self, run: Run[BoundChains], state: NoiseMCMCState, i: int) -> tuple[NoiseMCMCState, Info]:
        active = (state.done < state.rounds).nonzero()[:, 0]
        state = state.copied()
        for group in self._groups(active, state.u.shape[-1]):
            self._round(run, state, group, i)
        given_up(state, run.rows // run.bound.batch, _LOST)
        if self.target:
            state = lengthened(state, self.rounds, self.target)
        if i + 1 == self.num_steps:
            self._filled(run, state)
        over = i + 1 == self.num_steps or bool((state.done == state.rounds).all())
        return state, self._info(run, state) if over else {}

    def stopped(self, run: Run[BoundChains], state: NoiseMCMCState) -> tuple[NoiseMCMCState, Info]:
        state = state.copied()
        self._filled(run, state)
        return state, self._info(run, state)

    def ensemble(self, run: Run[BoundChains], state: NoiseMCMCState, count: int) -> Tensor:
        items, number = run.bound.batch, min(count, self.chains)
        _, chain = plan(state.log_evidence, number, self.chains, state.rounds.long())
        u = state.u.gather(1, chain[..., None].expand(-1, -1, state.u.shape[-1]))
        target = self._target(run, torch.arange(items, device=u.device))
        return target.signals(u).view(items, number, *run.problem.shape)

    def power(self, run: Run[BoundChains], state: NoiseMCMCState) -> float:
        return float(state.beta.min())

    def moments(self, run: Run[BoundChains], state: NoiseMCMCState) -> Moments:
        return moments(state, self.rounds, _reported(run))

    def fewer(
        self, run: Run[BoundChains], state: NoiseMCMCState, share: float
    ) -> tuple[Strategy, NoiseMCMCState] | None:
        chains = fewer_chains(self.chains, self.islands, share)
        new = thinned(state, chains) if chains < self.chains else None
        return None if new is None else (replace(self, chains=chains), new)

    def share(self, run: Run[BoundChains], state: NoiseMCMCState, i: int) -> float:
        return max((i + 1) / self.num_steps, share(state, _SETTLE))

    def finished(self, run: Run[BoundChains], state: NoiseMCMCState) -> bool:
        return bool((state.done == state.rounds).all())

    # --- one round -----------------------------------------------------------------------------------------------
    def _round(self, run: Run[BoundChains], state: NoiseMCMCState, group: Tensor, i: int) -> None:
        """One move of the items ``group``, and what is due after it; writes into ``state``, a copy."""
        draws = _first(run).take(group)

        def normal(index: int, shape: tuple[int, ...]) -> Tensor:
            return draws.normal(shape, state.u.dtype, step=i + 1, index=index)

        part = NoiseMCMCState(
            **{f.name: getattr(state, f.name)[group] for f in fields(state) if f.name != "x"}, x=state.x[:0]
        )
        scores = self._gradients(run.problem)
        # `left` is 0 initially: the first event is the first rise.
        event = (part.left.amax(1) < self.forget) | (part.since >= self.patience)
        turning = event & run.bound.symmetric[group] & (part.beta > 0)
        if bool(turning.any()):
            turned = flipped(self._target(run, group), part.chains, part.beta, normal, gradients=scores)
            new = replace(part, u=turned.u, log_likelihood=turned.log_likelihood, grad=turned.grad)
            part = only(turning, new, part)
        uniform = torch.special.ndtr(normal(2, (self.islands,)).double())
        out = event & (part.slack > IN_PLACE)
        if bool(out.any()):
            heights = self._target(run, group).heights(part.u)
            part = only(out, closed_in(part, heights, uniform, self.keep, scores=scores), part)
        hot = event & ~out & (part.beta < 1)
        blind = hot & (part.moves > 0) & (part.beta == 0)
        if bool(blind.any()):  # walls came first, and the likelihood begins to count
            seen = self._target(run, group)
            value, grad = seen.pullback(part.u) if scores else (seen.log_likelihood(part.u), part.grad)
            part = only(blind, replace(part, log_likelihood=value, grad=grad), part)
        if bool(hot.any()):
            part = replace(part, slack=torch.where(hot, 0.0, part.slack))
            part = only(hot, tempered(part, uniform, self.keep, scores=scores), part)
        settling = event & ~out & ~hot & (part.done < 0)
        if bool(settling.any()):
            even = torch.full_like(part.log_likelihood, 1 / self.chains)
            settled = late(measured(part, even, scores=scores), torch.zeros_like(part.beta))
            part = only(settling, replace(settled, done=part.done + 1), part)
        target = self._target(run, group, part.slack, blind=bool((part.beta == 0).all()))
        recording = event & ~out & ~hot & ~settling & (part.done >= 0)
        if bool(recording.any()):
            of = _reported(run)
            new = recorded(state.x, part, recording, target, group, run.bound.batch, self.rounds, of)
            part = only(recording, new, part)
        part = replace(
            part, left=torch.where(event[:, None], 1.0, part.left), since=torch.where(event, 0, part.since) + 1
        )
        sites = run.bound.sites
        part = moved(self._kernel(run.problem), part, target, sites and sites.take(group), normal, i)
        for f in fields(state):
            if f.name != "x":
                getattr(state, f.name)[group] = getattr(part, f.name)

    def _filled(self, run: Run[BoundChains], state: NoiseMCMCState) -> None:
        """Samples of items for which the rounds were too few: where the chains stand (`beta` in the info says so)."""
        items = run.bound.batch
        repeats = run.rows // items
        for group in self._groups((state.done < self.rounds).nonzero()[:, 0], state.u.shape[-1]):
            x = self._target(run, group).signals(state.u[group]).view(len(group), self.chains, *run.problem.shape)
            chain = torch.arange(repeats, device=x.device) * self.chains // repeats
            rows = torch.arange(repeats, device=x.device)[:, None] * items + group
            state.x[rows] = x[:, chain].transpose(0, 1)

    def _info(self, run: Run[BoundChains], state: NoiseMCMCState) -> Info:
        repeats = run.rows // run.bound.batch
        n = state.u.shape[-1]
        whole = ((state.beta >= 1) & torch.isfinite(state.log_likelihood).all(1)).nonzero()[:, 0]
        groups = self._groups(whole, n) if self.start is None and n <= LARGEST else ()
        evidence = chain_evidence(run, state, groups, evaluations=self.evaluations, spread=self.spread)
        found = summary(state, self.rounds, evidence, warm=self.start is not None)
        return found.mapped(lambda value: value.repeat(repeats))

    # --- plumbing --------------------------------------------------------------------------------------------------
    def _kernel(self, problem: Problem) -> Kernel:
        if self.kernel == "auto":
            return "pcn" if isinstance(problem.operator, BlackBox) else "hmc"
        return self.kernel

    def _gradients(self, problem: Problem) -> bool:
        return self._kernel(problem) != "pcn"

    def _first_step(self, problem: Problem, n: int) -> float:
        return 0.5 if self._kernel(problem) == "pcn" else min(1.0, 1.2 * n**-0.25)

    def _groups(self, items: Tensor, n: int) -> tuple[Tensor, ...]:
        return torch.split(items, max(1, _VALUES // (n * self.chains))) if len(items) else ()

    def _target(
        self, run: Run[BoundChains], group: Tensor, slack: Tensor | None = None, *, blind: bool = False
    ) -> Target:
        problem, bound = run.problem.take(group.repeat_interleave(self.chains)), run.bound
        walls = None if bound.walls is None else bound.walls.take(group)
        limits = None if bound.limits is None else bound.limits.take(group)
        return Target(
            problem=problem,
            noise_map=bound.map,
            shape=run.problem.shape,
            chains=self.chains,
            spread=self.spread,
            walls=walls if walls is None or slack is None else walls.moved(slack),
            limits=limits if limits is None or slack is None else limits.moved(slack),
            blind=blind,
        )


def _first(run: Run[BoundChains]) -> DrawLike:
    """The streams of the items: those of their first samples."""
    return run.draws.take(torch.arange(run.bound.batch, device="cpu"))


def _reported(run: Run[BoundChains]) -> Reported:
    return Reported.of(run.reported, run.problem, run.prior)
