"""Data against prior, operator and noise by simulation, for priors without a closed form."""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from invsolve.diagnostics.exchangeability import REPLICATES, stands_out
from invsolve.diagnostics.report import Measured
from invsolve.diagnostics.resolve import SolveAgain
from invsolve.diagnostics.summaries import standardised, summaries

DRAWS = 4 * (REPLICATES + 1) - 1  # they cost no solve: the limit is then the fourth of 1,024, not the first of 256

_TRIED = 16  # of them, for a forecast


def prior_predictive_test(again: SolveAgain) -> list[Measured]:
    """Do the data stand out among data simulated from the prior (Box 1980, JRSS A 143, 383-430)?

    Every item has its own replicates, and one joint pool judges all items: exact for draws that are exact.
    """
    problem, prior = again.problem, again.prior
    names: list[str] = []
    columns = []
    for item in range(len(problem.data)):
        x = prior.sample(DRAWS, seed=_seed(again, item))
        data = torch.cat([problem.data[item : item + 1], again.predicted(problem, item, x, "prior predictive")])
        rows = problem.take(torch.full((len(data),), item, device=data.device))
        middle = rows.operator(prior.mean.expand(len(data), *prior.mean.shape))
        found, values = summaries(rows, standardised(rows, data, middle))
        names += found if len(problem.data) == 1 else [f"{name} of item {item}" for name in found]
        columns.append(values)
    rank = stands_out(torch.cat(columns, 1))
    text = (
        f"the data among {DRAWS} drawn from the prior: {names[rank.column]} differs most, by {rank.z:+.1f} std of "
        f"the simulated; can detect {rank.beyond + 1.3:.1f} std in any of {len(names)} summaries"
    )
    return [Measured(name="prior predictive", value=rank.z, p=np.array([rank.p]), text=text)]


def seconds_of_simulation(again: SolveAgain, limit: float = math.inf) -> float:
    """Of the simulations of this test, by a few of them; by one where a few take longer than ``limit`` seconds."""
    took = 0.0
    for number in (1, _TRIED):
        started = time.perf_counter()
        x = again.prior.sample(number, seed=again.seed)
        again.problem.take(torch.zeros(number, dtype=torch.int64, device=x.device)).operator(x)
        took = (time.perf_counter() - started) / number
        if took * _TRIED > limit:
            break
    return took * DRAWS * len(again.problem.data)


def _seed(again: SolveAgain, item: int) -> int:
    from invsolve.core.random import item_key

    return item_key(f"check prior predictive {again.seed} {item}")
