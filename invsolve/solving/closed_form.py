"""What is known without samples, where the posterior has a closed form."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from invsolve.core.counting import tally
from invsolve.gaussian.marginals import Marginals, joined
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.loop import out_of_memory
from invsolve.solving.request import SolveRequest
from invsolve.solving.rows import tiled
from invsolve.strategies.base import Strategy
from invsolve.strategies.exact import Exact


def with_marginals(
    request: SolveRequest, strategy: Strategy, output: StrategyOutput
) -> tuple[StrategyOutput, Marginals | None]:
    """Mean, std and quantiles of every entry in closed form, None of what has none; and the output, with their cost."""
    if not isinstance(strategy, Exact):
        return output, None
    started = time.perf_counter()
    with torch.no_grad(), tally() as calls:
        try:
            marginals = _at_fixed_places(request, strategy) if request.reproducible else None
            if marginals is None:
                bound = output.bound or strategy.bind(request.problem, request.prior)  # of a finished checkpoint: anew
                marginals = bound.marginals()
        except (RuntimeError, MemoryError) as error:  # the samples did fit
            if not out_of_memory(error):
                raise
            marginals = None
    seconds = output.seconds + time.perf_counter() - started
    return replace(output, calls=output.calls + calls, seconds=seconds, bound=None), marginals


def _at_fixed_places(request: SolveRequest, strategy: Exact) -> Marginals | None:
    """The same to the bit in any batch: of eight items at a time, at the places at which they are bound for samples."""
    problem, parts = request.problem, list[Marginals]()
    places: dict[int, int] = {}
    for group in tiled(request.keys, 1):
        items = torch.tensor(group.items, device=problem.data.device)
        part = strategy.bind(problem.take(items), request.prior).marginals()
        if part is None:
            return None
        places |= {item: sum(len(p.mean) for p in parts) + i for i, item in enumerate(group.rows) if item is not None}
        parts.append(part)
    return joined(parts, [places[b] for b in range(len(problem.data))])
