"""A search for modes that an ensemble has not met: many points as wide as the prior and wider, the best of them improved.

Tempered chains and particles follow the mass of a likelihood that is cooled by degrees; a mode that is narrow, and has
its mass at the end only, is left on the way. Optimisation does not mind how narrow a mode is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.counting import tally
from invsolve.core.random import DrawLike
from invsolve.solving.ascent import Ends, ascended
from invsolve.solving.modes import MOST, ROUNDS, Modes, modes
from invsolve.solving.noise_density import NoiseDensity
from invsolve.solving.scatter import points, starts
from invsolve.strategies.mcmc.bridge import LARGEST

SHARE = 0.5  # of the evaluations that an ensemble took, for the search
SHARE_OF_BUDGET = 0.05  # of what is left of one, if that is more
MEMBERS = 512  # of an ensemble, that are looked at
_SCATTERED, _IMPROVED = 0.4, 0.3  # of the evaluations; the rest weighs modes
_POINTS, _STARTS = (64, 2**16), (8, 512)  # at least and at most
_STEPS = 60  # of an optimisation at most, half of which are taken, about
_DRAWS = (128, 1024)  # around a mode
_MATRICES = 2**20  # numbers of the matrices of all optimisations of an item
_NUMBERS = 2**21  # of the points and matrices of the items that are searched at once
_KNOWN = 16  # optimisations that begin in the ensemble, so that its own mode is among those found
_STEP = 2 * 10**7  # of the random numbers; no strategy takes so many steps


@final
@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much a search of one item does."""

    points: int
    starts: int
    modes: int
    draws: int

    @classmethod
    def of(cls, density: NoiseDensity, evaluations: float) -> Effort | None:
        """With about so many evaluations an item; None where that is too few to look for anything."""
        n, value, gradient = density.size, density.value_cost, density.gradient_cost
        if n > LARGEST:
            return None
        scattered = int(_SCATTERED * evaluations / value)
        improved = int(_IMPROVED * evaluations / (_STEPS / 2 * gradient))
        most = min(_STARTS[1], max(_STARTS[0], _MATRICES // n**2))
        # Curvature is seen twice, by 2 n gradients.
        weighing = max(0.0, (1 - _SCATTERED - _IMPROVED) * evaluations)
        number = min(MOST, int(weighing / (4 * n * gradient + ROUNDS * _DRAWS[0] * value)))
        if scattered < _POINTS[0] or improved < _STARTS[0] or number < 2:
            return None
        draws = int((weighing / number - 4 * n * gradient) / (ROUNDS * value))
        return cls(
            points=min(scattered, _POINTS[1]),
            starts=min(improved, most),
            modes=number,
            draws=max(_DRAWS[0], min(draws, _DRAWS[1])),
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What was found: ``of[b]`` are the modes of the b-th item, and how much it took."""

    of: list[Modes]
    effort: Effort
    calls: Counter[str]
    seconds: float

    @classmethod
    def run(
        cls, density: NoiseDensity, effort: Effort, members: Tensor, draws: Callable[[list[int]], DrawLike]
    ) -> Self:
        """Of all items of ``density``, of whose ensembles ``members`` ``(items, count, *shape)`` are known."""
        began, items, n = time.perf_counter(), len(members), density.size
        each = effort.points * n + (effort.starts + _KNOWN) * n**2
        found: list[Modes] = []
        with tally() as calls:
            for group in torch.arange(items, device=members.device).split(max(1, _NUMBERS // each)):
                own = draws(group.tolist())
                here = NoiseDensity(problem=density.problem.take(group), prior=density.prior)
                found += _searched(here, effort, members[group], own)
        return cls(of=found, effort=effort, calls=calls, seconds=time.perf_counter() - began)


def _searched(density: NoiseDensity, effort: Effort, members: Tensor, draws: DrawLike) -> list[Modes]:
    items, n = len(members), density.size

    def normal(shape: tuple[int, ...], index: int) -> Tensor:
        return draws.normal(shape, torch.float64, step=_STEP, index=index).to(members.device)

    index = torch.arange(items, device=members.device)
    u = points(normal((effort.points, n), 0))
    log = density.value(u.flatten(0, 1), index.repeat_interleave(effort.points))[0].view(items, -1)
    known = members[:, torch.linspace(0, members.shape[1] - 1, _KNOWN, device="cpu").long()]
    begins, whose = [], []
    for b in range(items):
        inside = density.noise(known[b])
        begin = torch.cat((u[b, starts(u[b], log[b], effort.starts)], inside[inside.isfinite().all(1)]))
        begins.append(begin)
        whose.append(index[b].expand(len(begin)))
    ends: Ends = ascended(density, torch.cat(begins), torch.cat(whose), _STEPS)
    found = modes(density, ends, lambda shape, k: normal(shape, k + 1), most=effort.modes, draws=effort.draws)
    return [found.take((found.item == b).nonzero()[:, 0]) for b in range(items)]
