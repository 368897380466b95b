"""Posterior simulation-based calibration: is the solver right near *these* data?

A sample x' of p(x | y) and data y' simulated from it: given y and y', x' is a draw from p(x | y, y'), so its rank among
samples of that is uniform if the solver is right (Saeilynoja, Schmitt, Buerkner & Vehtari 2025, arXiv 2502.03279). Both
data sets are measurements of one signal, and one measurement holds all of both, for any operator: their mean, or for
counts their sum (`fission`). Data that contradict the model are no fault of the solver, and are not seen here.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.diagnostics.data_fission import joined
from invsolve.diagnostics.exchangeability import mean_rank_limit, uniform_rank_p
from invsolve.diagnostics.report import SHARES, Measured
from invsolve.diagnostics.resolve import SolveAgain
from invsolve.noise import Gaussian
from invsolve.problem import Problem
from invsolve.strategies.base import Strategy

RUNS, AMONG = 64, 15  # replicated data sets over all items, samples for each
# Particles and chains cost the same for any number of samples: few data sets, fine ranks.
RUNS_OF_ENSEMBLES, AMONG_ENSEMBLES = 4, 63


def sizes(strategy: Strategy) -> tuple[int, int]:
    """How many data sets are simulated, and how many samples the truth of each is ranked among."""
    return (RUNS, AMONG) if strategy.couples == "nothing" else (RUNS_OF_ENSEMBLES, AMONG_ENSEMBLES)


def replicated_data_test(again: SolveAgain, samples: Tensor) -> list[Measured]:
    """Ranks of ``samples`` ``(n, items, *shape)``, and of more where these are few, each with data of its own."""
    problem = again.problem
    items = len(problem.data)
    wanted, among = sizes(again.solver.strategy)
    if len(samples) * items < wanted:
        more = again.posterior(problem, math.ceil(wanted / items) - len(samples), "signals for replicated data")
        samples = torch.cat([samples, more[torch.isfinite(more).flatten(1).all(1)]])
    runs = min(wanted, len(samples) * items)
    index = torch.arange(runs, device=samples.device)
    truth = samples[index // items, index % items]
    rows = problem.take(index % items)
    replicated = again.simulated(rows, truth, "replicated data")
    if (observed := rows.operator.observed) is not None:
        replicated = replicated * observed
    both = joined(rows, replicated)
    x = again.posterior(both, among, "replicated data")
    pool = torch.cat([truth[None], x])  # (1 + samples, runs, *shape)
    usable = torch.isfinite(pool).flatten(2).all(2).all(0)
    if int(usable.sum()) < 4:
        p = np.array([0.0])
        return [Measured(name="replicated data", value=math.nan, p=p, text="most solves of replicated data failed")]
    index = index[usable]
    names, values = _functionals(again, both.take(index), pool[:, usable])
    ranks = (values[1:] < values[:1]).sum(0).cpu().numpy()  # (runs, functionals)
    p = np.array([uniform_rank_p(ranks[:, f], among + 1) for f in range(len(names))])  # (functionals, 2)
    f, kind = np.unravel_index(int(p.argmin()), p.shape)
    worst = float(ranks[:, f].mean() / among)
    text = (
        f"{len(ranks)} data sets simulated from the samples, and solved with these data: mean rank of the truth "
        f"{worst:.2f} for {names[f]}, expected 0.5{'' if kind == 0 else ' (its ranks have the wrong spread)'}; "
        f"{_notice(len(ranks), among + 1, p.size)}"
    )
    return [Measured(name="replicated data", value=worst, p=np.array([min(1.0, p.size * p.min())]), text=text)]


def _functionals(again: SolveAgain, both: Problem, pool: Tensor) -> tuple[list[str], Tensor]:
    """``(1 + samples, runs, functionals)``: numbers of a signal that are symmetric in what else is in its pool."""
    rows = pool.shape[1]
    clean = torch.stack([both.operator(x) for x in pool])
    white = isinstance(both.noise, Gaussian)
    seen = torch.stack([to_real(both.whiten(c) if white else c).double() for c in clean])  # (pool, runs, m)
    observed = both.operator.observed
    left = [both.noise.residual(both.data, c, observed) for c in clean]
    misfit = torch.stack([r.abs().square().flatten(1).sum(1) for r in left])
    real = to_real(pool.flatten(0, 1)).double().view(len(pool), rows, -1)
    draws = again.draws(4, "projections")
    g = draws.normal((real.shape[2],), torch.float64, step=0).to(real.device)
    h = draws.normal((seen.shape[2],), torch.float64, step=1).to(real.device)
    found = {
        "the energy of the signal": real.square().sum(2),
        "its largest value": pool.abs().flatten(2).amax(2).double(),
        "the misfit": misfit.double(),
        "its distance from the mean": (real - real.mean(0)).square().sum(2),
        "the distance of its data from their mean": (seen - seen.mean(0)).square().sum(2),
        **{f"a random sum of its values ({k + 1})": real @ g[k] for k in range(2)},
        **{f"a random sum of its data ({k + 1})": seen @ h[k + 2] for k in range(2)},
    }
    return list(found), torch.stack(list(found.values()), -1)


def _notice(runs: int, levels: int, tests: int) -> str:
    """A shift of b posterior sd moves the mean rank to Phi(b / sqrt 2); ranks have a variance of 1/12 at most."""
    from scipy import stats

    shift = mean_rank_limit(runs, levels, SHARES["replicated data"] / tests) + 1.3 / math.sqrt(12 * runs)
    if shift >= 0.5:
        return "can detect a gross fault of the solver only: there are too few"
    return f"can detect a bias of {math.sqrt(2) * stats.norm.isf(0.5 - shift):.1f} posterior std of one value"
