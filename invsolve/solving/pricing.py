"""Ensembles as large as a budget allows: what a row costs is tried, how many rows it takes is known about."""

from __future__ import annotations

import time
from dataclasses import replace
from math import isinf, prod

import torch
from torch import Tensor

from invsolve.core.counting import tally
from invsolve.hyperparameters.request import Hierarchy
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasDensity, HasTransport, Learned
from invsolve.problem import Problem
from invsolve.results.certificate import MEAN_ERROR, STD_ERROR
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.spending import Amount
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate, candidates
from invsolve.strategies.exact import Exact, by_quadrature
from invsolve.strategies.guidance.mmps import MMPS
from invsolve.strategies.guidance.sketched_law import can_be_sketched
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC
from invsolve.strategies.smc.smc import DENSE_SIZE, SMC

_USED = 0.8  # of what is left: expectations are rough
_WARM_UP = 0.4  # of what is left, for chains up to their first rounds: what then is left they go on with
_TRIAL = 0.01  # of the budget that a trial may take, one row apart
_ROWS, _VALUES_AT_ONCE = 4096, 2**20  # of a trial at most
# Evaluations that a chain takes from the prior to its last round, about, the more the more unknowns: gradients (280 of
# 64 unknowns, 1,100 of 256) or moves without one; and the share of them with half of the rounds.
_GRADIENTS, _GRADIENTS_EACH, _GRADIENTS_MOST = 300, 3, 1500
_VALUES, _VALUES_EACH, _VALUES_MOST = 50, 5, 250
_SHORT = 0.65
_SMALL = 64  # chains below which there are 4 islands of 4 rounds
_LEAST_CHAINS = 24
_TARGET = min(MEAN_ERROR, STD_ERROR) / 2  # one standard error
_MOST_MOVES = 10**5
_LEAST_PARTICLES = 32  # on an island
_LEAST_ON_ISLAND, _LEAST_ISLANDS = 2, 2  # particles that are stopped after one step
_CHAINS_STOPPED = 8  # after one move
_ROWS_OF_MOVE = 6  # with those that chains start at
_PRODUCTS = 6  # of guidance at a level, with a network, in which little is measured: linear solves
_PRODUCTS_MOST = 30  # of them else: as many as there are data, up to here
TRIAL_STEPS = 5
_NODES = {1: 50, 2: 150, 3: 400}  # of a lattice over so many scalars, scan and draws included, about
_SWEEPS = 30  # of Gibbs chains, about, until they have mixed
_NODES_OF_QUADRATURE = 1000  # rows of the operator, an item
_ENTRY = 1e-3  # seconds of quadrature, of every entry of the signal
_MOVES = 2.5  # of particles at a level: copies and Metropolis moves take a step of their own
_FLOW = 25  # evaluations of a probability flow


def price(problem: Problem, prior: Prior, left: Amount) -> Amount:
    """What one row costs: the denoiser (unless the prior has a transport) and the operator, with their derivatives.

    Rows are tried in growing numbers while that takes a hundredth of what is left; nothing is timed where only
    evaluations count.
    """
    timed, rows, found = not isinf(left.seconds), 1, Amount()
    _row(problem, prior, 1)  # what is made once is not counted
    while True:
        with tally() as calls:
            started = time.perf_counter()
            try:
                _row(problem, prior, rows)
            except (RuntimeError, MemoryError):  # as many do not fit
                if rows == 1:
                    raise
                return found
            took = time.perf_counter() - started
        if timed and took <= _TRIAL * left.seconds:  # another process may have been in the way
            started = time.perf_counter()
            _row(problem, prior, rows)
            took = min(took, time.perf_counter() - started)
        found = Amount(seconds=took / rows if timed else 0.0, evaluations=sum(calls.values()) / rows)
        largest = max(prod(problem.shape), prod(problem.operator.out_shape), 1)
        if not timed or 8 * rows > min(_ROWS, _VALUES_AT_ONCE // largest) or 8 * took > _TRIAL * left.seconds:
            return found
        rows *= 8


def _row(problem: Problem, prior: Prior, rows: int) -> None:
    own = problem.take(torch.zeros(rows, dtype=torch.int64, device=problem.data.device))
    x: Tensor = prior.mean.expand(rows, *problem.shape).to(problem.signal_dtype).clone()
    with torch.no_grad():
        if isinstance(prior, HasTransport):
            prior.transport(torch.zeros_like(x))
        else:
            prior.pullback(x, prior.scale)[1](x)
        if isinstance(problem.operator, BlackBox):
            own.operator(x)
        else:
            clean, back = own.operator.vjp(x)
            back(clean)


def affords_quadrature(problem: Problem, prior: Prior, left: Amount) -> bool:
    """Whether exact quadrature ends within what is ``left``, where it is what the posterior takes."""
    if not by_quadrature(problem, prior):
        return True
    expected = price(problem, prior, left) * (_NODES_OF_QUADRATURE * len(problem.data))
    seconds = expected.seconds + _ENTRY * problem.data.shape[0] * prod(problem.shape)
    return replace(expected, seconds=seconds).into(left * _USED) >= 1


def expected_rows(candidate: Candidate, problem: Problem, prior: Prior, rows: int) -> float:
    """How many rows, as `price` prices them, a strategy will take; ``rows``: of one without an ensemble."""
    strategy, items = candidate.strategy, len(problem.data)
    n = prod(problem.shape) * (2 if problem.signal_dtype.is_complex else 1)
    if isinstance(strategy, NoiseMCMC):
        blind = isinstance(problem.operator, BlackBox)
        moves = min(_VALUES + _VALUES_EACH * n, _VALUES_MOST)
        gradients = min(_GRADIENTS + _GRADIENTS_EACH * n, _GRADIENTS_MOST)
        each = (moves if blind else gradients) * (_SHORT if strategy.rounds < 8 else 1)
        return each * strategy.chains * items * (1 if isinstance(prior, HasTransport) else _FLOW)
    if isinstance(strategy, SMC):
        products = n + 1 if n <= DENSE_SIZE else _PRODUCTS
        here = _MOVES if isinstance(prior, HasDensity) else 1.0  # without a density nothing moves
        return here * strategy.num_steps * items * products * candidate.particles * candidate.islands
    if isinstance(prior, Learned):
        return strategy.num_steps * rows * _PRODUCTS
    first = 2 if can_be_sketched(prior) else 1  # a guess is looked at
    return strategy.num_steps * rows * (first + min(n, prod(problem.operator.out_shape), _PRODUCTS_MOST))


def rows_at_the_end(candidate: Candidate, num_samples: int) -> int:
    """How many rows an item takes after the last step: chi^2 of its samples, the evidence by where its chains stand."""
    strategy = candidate.strategy
    if isinstance(strategy, SMC):
        return max(num_samples, candidate.islands * candidate.particles)
    return num_samples + (2 * strategy.chains if isinstance(strategy, NoiseMCMC) else 0)


def fitted(
    candidate: Candidate, problem: Problem, prior: Prior, row: Amount, left: Amount, rows: int
) -> Candidate | None:
    """The candidate, smaller where it would not end within what is ``left``; None where no size would.

    ``row`` is the price of a row, ``rows`` how many a strategy without an ensemble has.
    """
    have = left * (_WARM_UP if isinstance(candidate.strategy, NoiseMCMC) else _USED)

    def share(of: Candidate) -> float:
        return (row * expected_rows(of, problem, prior, rows)).into(have)

    strategy, fits = candidate.strategy, share(candidate)
    if fits >= 1:
        return candidate
    if isinstance(strategy, NoiseMCMC):
        if (chains := int(strategy.chains * fits)) > _SMALL:
            return _with(candidate, chains // strategy.islands * strategy.islands)
        few = _with(candidate, _SMALL)
        chains = min(_SMALL, int(_SMALL * share(few)) // 8 * 8)
        return _with(candidate, chains) if chains >= _LEAST_CHAINS else None
    if isinstance(strategy, SMC):
        particles = int(candidate.particles * fits)
        if particles < _LEAST_PARTICLES:
            return None
        return replace(candidate, particles=particles, cost=candidate.cost * particles / candidate.particles)
    if isinstance(strategy, MMPS):
        steps = int(strategy.num_steps * fits)
        return replace(candidate, strategy=replace(strategy, num_steps=steps)) if steps >= TRIAL_STEPS else None
    return candidate


def affordable(
    strategy: Strategy, problem: Problem, prior: Prior, how: Hierarchy, scalars: int, left: Amount, num_samples: int
) -> Strategy:
    """The strategy for the signal given unknown scalars, so small that a whole inference ends within ``left``.

    A lattice takes a solve for every node, Gibbs one for every sweep; at least the smallest ensemble is run, and the
    inference then stops when the budget is spent.
    """
    if isinstance(strategy, Exact):
        if affords_quadrature(problem, prior, left * (1 / _NODES.get(scalars, (how.num_sweeps or _SWEEPS) + 1))):
            return strategy
        strategy = candidates(problem, prior, num_samples, quadrature=False)[0].strategy
        if isinstance(strategy, Exact):
            return strategy
    lattice = strategy.gives_evidence and how.method != "gibbs" and scalars in _NODES
    solves = _NODES[scalars] if lattice else (how.num_sweeps or _SWEEPS) + 1
    one = Candidate(strategy=strategy, why="", particles=num_samples)
    row, rows = price(problem, prior, left), num_samples * len(problem.data)
    return (fitted(one, problem, prior, row, left * (1 / solves), rows) or shortest(one)).strategy


def shortest(candidate: Candidate) -> Candidate:
    """The candidate at its least size, for a budget that is too small for any."""
    strategy = candidate.strategy
    if isinstance(strategy, NoiseMCMC):
        return _with(candidate, _LEAST_CHAINS)
    if isinstance(strategy, SMC):
        return replace(candidate, particles=_LEAST_PARTICLES)
    if isinstance(strategy, MMPS):
        return replace(candidate, strategy=replace(strategy, num_steps=TRIAL_STEPS))
    return candidate


def stopped_at_once(candidate: Candidate, problem: Problem, prior: Prior, row: Amount, left: Amount) -> Candidate:
    """What is left of the `shortest` where its first step alone would be more than is ``left``: as many rows as fit.

    Such an ensemble ends after one step. It is at least a few rows, which a budget may not hold.
    """
    strategy, items, have = candidate.strategy, len(problem.data), left * _USED
    if isinstance(strategy, SMC):
        n = prod(problem.shape) * (2 if problem.signal_dtype.is_complex else 1)
        level = n + 2 if problem.linear else 2 * n + 20  # evaluations, of which a row is about three
        each = (level if n <= DENSE_SIZE else _PRODUCTS) * items
        rows = int(min((row * each).into(have), candidate.islands * candidate.particles))
        islands = max(_LEAST_ISLANDS, min(candidate.islands, rows // _LEAST_ON_ISLAND))
        return replace(candidate, islands=islands, particles=max(_LEAST_ON_ISLAND, rows // islands))
    if isinstance(strategy, NoiseMCMC):
        moves = 1 + (1 if isinstance(problem.operator, BlackBox) else _ROWS_OF_MOVE)
        each = moves * items * (1 if isinstance(prior, HasTransport) else _FLOW)
        chains = min(strategy.chains, max(_CHAINS_STOPPED, int(min((row * each).into(have), strategy.chains)) // 8 * 8))
        return _with(candidate, chains)
    return candidate


def smaller(candidate: Candidate, share: float, least: Candidate) -> Candidate | None:
    """Chains in so small a share of their number, at least a quarter of those of ``least``; None if that cannot be."""
    strategy, first = candidate.strategy, least.strategy
    if not isinstance(strategy, NoiseMCMC) or not isinstance(first, NoiseMCMC):
        return None
    chains = int(strategy.chains * share) // strategy.islands * strategy.islands
    return _with(candidate, chains) if first.chains // 4 <= chains < strategy.chains else None


def lengthening(candidate: Candidate) -> Candidate:
    """Chains that go on, where that can certify them: what is left of a budget buys more of them at no more warm-up."""
    strategy = candidate.strategy
    if not isinstance(strategy, NoiseMCMC):
        return candidate
    return replace(
        candidate, strategy=replace(strategy, target=_TARGET, num_steps=max(strategy.num_steps, _MOST_MOVES))
    )


def as_ended(candidate: Candidate, found: StrategyOutput) -> Candidate:
    """With as many chains as it ended with: some are given up where all of them would not be there in time."""
    ended, strategy = found.strategy, candidate.strategy
    if not isinstance(ended, NoiseMCMC) or not isinstance(strategy, NoiseMCMC):
        return candidate
    return replace(candidate, strategy=ended, cost=candidate.cost * ended.chains / strategy.chains)


def _with(candidate: Candidate, chains: int) -> Candidate:
    """With so many chains; few are on 4 islands of 4 rounds."""
    strategy = candidate.strategy
    assert isinstance(strategy, NoiseMCMC)
    cost = candidate.cost * chains / strategy.chains
    islands, rounds = (4, 4) if chains <= _SMALL else (strategy.islands, strategy.rounds)
    return replace(candidate, strategy=replace(strategy, chains=chains, islands=islands, rounds=rounds), cost=cost)
