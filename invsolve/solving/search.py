"""A search for modes that an ensemble has not met: many points as wide as the prior and wider, the best improved.

Tempered chains and particles follow the mass of a likelihood that is cooled by degrees; a mode that is narrow, and has
its mass at the end only, is left on the way. Optimisation does not mind how narrow a mode is.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.counting import tally
from invsolve.core.random import DrawLike
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.solving.ascent import ascended
from invsolve.solving.modes import MOST, ROUNDS, Modes, distinct, modes
from invsolve.solving.noise_density import NoiseDensity
from invsolve.solving.pricing import expected_rows
from invsolve.solving.scatter import points, starts, unexplained
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.mcmc.bridge import LARGEST

SHARE_OF_BUDGET = 0.05  # of what is left of one that was given, for a search
_SCATTERED, _IMPROVED = 0.6, 0.2  # of the evaluations; the rest weighs modes
_POINTS, _STARTS = (64, 2**16), (8, 512)  # of a round, at least and at most
_EXPLAINED = 2**25  # points times the square of their size, that modes are compared with
_ROUNDS, _PASSES = 64, 4  # at most; passes over the points of a round
_STEPS, _STEPS_MOST = 30, 90  # of an optimisation at most, and one more for every number; half are taken, about
_DRAWS = (96, 1024)  # around a mode
_MATRICES = 2**18  # numbers of the matrices of all optimisations of an item
_NUMBERS = 2**21  # of the points and matrices of the items that are searched at once
_KNOWN = 16  # optimisations that begin in the ensemble, so that its own mode is among those found
# Of the rows that an ensemble is expected to take: chains are over much sooner where the posterior is simple.
_SHARES = {"NoiseMCMC": 0.03, "SMC": 1.0}
_STEP = 2 * 10**7  # of the random numbers; no strategy takes so many steps


def affordable(candidate: Candidate, problem: Problem, prior: Prior) -> float:
    """Evaluations of a search of one item, where no budget says more: known before anything was run, for every item."""
    one = problem.take(torch.zeros(1, dtype=torch.int64, device=problem.data.device))
    return _SHARES[candidate.strategy.name] * expected_rows(candidate, one, prior, 0)


def _steps(n: int) -> int:
    return min(_STEPS_MOST, _STEPS + n)


@final
@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much a search of one item does: ``points`` and ``starts`` in each of the ``rounds``."""

    points: int
    starts: int
    rounds: int
    modes: int
    draws: int

    @classmethod
    def of(cls, density: NoiseDensity, evaluations: float, *, long: bool) -> Effort | None:
        """With about so many evaluations an item; None where that is too few to look for anything.

        ``long``: in as many rounds as they allow, else in one.
        """
        n, value, gradient = density.size, density.value_cost, density.gradient_cost
        if n > LARGEST:
            return None
        scattered = int(_SCATTERED * evaluations / value)
        improved = int(_IMPROVED * evaluations / (_steps(n) / 2 * gradient))
        most = min(_POINTS[1], max(_POINTS[0], _EXPLAINED // n**2))
        matrices = min(_STARTS[1], max(_STARTS[0], _MATRICES // n**2))
        # Curvature is seen twice, by 2 n gradients.
        weighing = max(0.0, (1 - _SCATTERED - _IMPROVED) * evaluations)
        number = min(MOST, int(weighing / (4 * n * gradient + ROUNDS * _DRAWS[0] * value)))
        if scattered < _POINTS[0] or improved < _STARTS[0] or number < 2:
            return None
        draws = int((weighing / number - 4 * n * gradient) / (ROUNDS * value))
        return cls(
            points=min(scattered, most),
            starts=min(improved, matrices),
            rounds=max(1, min(_ROUNDS, scattered // most, improved // matrices)) if long else 1,
            modes=number,
            draws=max(_DRAWS[0], min(draws, _DRAWS[1])),
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What was found: ``of[b]`` are the modes of the b-th item, and how much it took."""

    of: list[Modes]
    effort: Effort  # that was made
    calls: Counter[str]
    seconds: float

    @classmethod
    def run(
        cls,
        density: NoiseDensity,
        effort: Effort,
        members: Tensor,
        draws: Callable[[list[int]], DrawLike],
        seconds: float = math.inf,
    ) -> Self:
        """Of all items of ``density``, of whose ensembles ``members`` ``(items, count, *shape)`` are known.

        No round after the first begins after so many ``seconds``.
        """
        began, items, n = time.perf_counter(), len(members), density.size
        each = effort.points * n + (effort.starts + _KNOWN) * n**2
        found: list[Modes] = []
        rounds = effort.rounds
        with tally() as calls:
            for group in torch.split(torch.arange(items, device=members.device), max(1, _NUMBERS // each)):
                here = NoiseDensity(problem=density.problem.take(group), prior=density.prior)
                until = began + seconds * (int(group[-1]) + 1) / items
                made, own = _searched(here, effort, members[group], draws(group.tolist()), until)
                rounds, found = min(rounds, made), found + own
        took = time.perf_counter() - began
        return cls(of=found, effort=replace(effort, rounds=rounds), calls=calls, seconds=took)


def _searched(
    density: NoiseDensity, effort: Effort, members: Tensor, draws: DrawLike, until: float
) -> tuple[int, list[Modes]]:
    """The rounds that were made, and the modes of every item."""
    items, steps = len(members), _steps(density.size)

    def normal(shape: tuple[int, ...], index: int) -> Tensor:
        return draws.normal(shape, torch.float64, step=_STEP, index=index).to(members.device)

    index = torch.arange(items, device=members.device)
    known = members[:, torch.arange(_KNOWN, device=members.device) * members.shape[1] // _KNOWN]
    inside = density.noise(known.flatten(0, 1))
    good = inside.isfinite().all(1)
    ends = ascended(density, inside[good], index.repeat_interleave(_KNOWN)[good], steps)
    made = 0
    while made < effort.rounds and (made == 0 or time.perf_counter() < until):
        u = points(normal((effort.points, density.size), ROUNDS + made))
        log = density.value(u.flatten(0, 1), index.repeat_interleave(effort.points))[0].view(items, -1)
        fresh = torch.ones_like(log, dtype=torch.bool)
        for k in range(_PASSES):
            other = torch.stack([unexplained(u[b], log[b], ends.of(b)) for b in range(items)]) & fresh
            if k and not bool(other.any()):
                break
            number = [effort.starts // _PASSES if k == 0 or bool(other[b].any()) else 0 for b in range(items)]
            begin = [starts(log[b], other[b], fresh[b], number[b]) for b in range(items)]
            for b, chosen in enumerate(begin):
                fresh[b, chosen] = False
            whose = torch.cat([index[b].expand(len(chosen)) for b, chosen in enumerate(begin)])
            first = torch.cat([u[b, chosen] for b, chosen in enumerate(begin)])
            ends = distinct(ends.joined(ascended(density, first, whose, steps)), 2 * effort.modes)
        made += 1
    found = modes(density, ends, normal, most=effort.modes, draws=effort.draws)
    return made, [found.take((found.item == b).nonzero()[:, 0]) for b in range(items)]
