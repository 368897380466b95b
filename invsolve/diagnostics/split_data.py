"""Data fission: two independent measurements made of one, the second predicted from the first.

The solver sees the first half y1 of `fission`. If model and solver are right, the second one, y2, and replicates of it
simulated from the samples x_k given y1 are exchangeable: a rank among them is exactly uniform.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from invsolve.diagnostics.data_fission import halves
from invsolve.diagnostics.exchangeability import REPLICATES, stands_out
from invsolve.diagnostics.report import Measured
from invsolve.diagnostics.resolve import SolveAgain
from invsolve.diagnostics.summaries import standardised, summaries
from invsolve.noise import Gaussian


def split_data_test(again: SolveAgain) -> list[Measured]:
    """Is the second half of the data what the solver predicts from the first?"""
    problem = again.problem
    first, second = halves(again, "split data")
    x = again.posterior(first, REPLICATES, "split data")
    good = torch.isfinite(x).flatten(1).all(1)  # of every item: a joint pool has all of them
    if int(good.sum()) < REPLICATES // 2:
        p = np.array([0.0])
        return [Measured(name="split data", value=math.nan, p=p, text="most samples of half of the data failed")]
    names: list[str] = []
    columns, sizes = [], []
    for item in range(len(problem.data)):
        data = torch.cat(
            [second.data[item : item + 1], again.predicted(second, item, x[good, item], "split data replicates")]
        )
        # Errors of the mean of the pool, the same for each member: what is symmetric in the pool keeps the rank exact.
        rows = second.take(torch.full((len(data),), item, device=data.device))
        found, values = summaries(rows, standardised(rows, data, data.mean(0)))
        names += found if len(problem.data) == 1 else [f"{name} of item {item}" for name in found]
        columns.append(values)
        sizes.append(values[:, 0])
    rank = stands_out(torch.cat(columns, 1))
    ratio = math.exp(float(max((s[0] - s[1:].mean() for s in sizes), key=abs)) / 2)
    spread = max(float(s[1:].std()) for s in sizes)
    notice = math.exp((3.0 + 1.3) * spread / 2)  # 3: about the largest of 256 normal numbers
    how = "split by added noise" if isinstance(problem.noise, Gaussian) else "each count given to one of two"
    text = (
        f"second half of the data ({how}) predicted from the first: errors {ratio:.2f} times as large "
        f"as predicted, {names[rank.column]} differs most ({rank.z:+.1f} std); can detect errors {notice:.2f} times "
        "as large"
    )
    return [Measured(name="split data", value=ratio, p=np.array([rank.p]), text=text)]
