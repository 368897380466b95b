"""What is known without samples, where the posterior has a closed form."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from invsolve.core.counting import tally
from invsolve.gaussian.marginals import Marginals
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.loop import out_of_memory
from invsolve.solving.request import SolveRequest
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
        bound = output.bound or strategy.bind(request.problem, request.prior)  # of a finished checkpoint: anew
        try:
            marginals = bound.marginals()
        except (RuntimeError, MemoryError) as error:  # the samples did fit
            if not out_of_memory(error):
                raise
            marginals = None
    seconds = output.seconds + time.perf_counter() - started
    return replace(output, calls=output.calls + calls, seconds=seconds, bound=None), marginals
