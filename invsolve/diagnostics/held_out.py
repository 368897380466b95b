"""Sensors that were held out: a quarter of the data at a time gets no say, and is predicted from the others."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.diagnostics.exchangeability import REPLICATES, stands_out
from invsolve.diagnostics.report import Measured
from invsolve.diagnostics.resolve import SolveAgain, scaled
from invsolve.noise import Gaussian
from invsolve.problem import Problem

FOLDS = 4
_SILENT = 1e6  # times the noise std: the data of a held-out sensor weigh 1e-12


def can_be_held_out(problem: Problem) -> bool:
    """Whether a quarter of the data can be left without a say: independent Gaussian noise, and enough of them."""
    noise = problem.noise
    return isinstance(noise, Gaussian) and noise.covariance is None and problem.data[0].numel() >= 2 * FOLDS


def held_out_test(again: SolveAgain) -> list[Measured]:
    """Are held-out data what the solver predicts from the others?

    Within a fold the data and the replicates ``A x_k + noise`` are exchangeable. Folds are joined replicate by
    replicate; the errors of different folds are correlated as data and independent as replicates, which makes the
    largest error of the replicates larger (Sidak 1967): for Gaussian errors the p-value errs to the safe side.
    """
    problem = again.problem
    if not can_be_held_out(problem):
        return []
    fold = _folds(again)
    errors = [
        torch.zeros(REPLICATES + 1, *problem.data.shape[1:], dtype=torch.float64, device="cpu") for _ in problem.data
    ]
    good = torch.ones(REPLICATES, dtype=torch.bool, device=problem.data.device)
    predictions = []
    for k in range(FOLDS):
        held = fold == k
        factor = torch.where(held, _SILENT, 1.0).to(problem.data.real.dtype)
        silent = Problem(problem.operator, problem.data, noise=scaled(problem.noise, factor))
        x = again.posterior(silent, REPLICATES, f"held-out {k}")
        good &= torch.isfinite(x).flatten(1).all(1)
        predictions.append((held, x))
    if int(good.sum()) < REPLICATES // 2:
        p = np.array([0.0])
        return [Measured(name="held-out sensors", value=math.nan, p=p, text="most samples without a fold failed")]
    columns, names, spreads = [], [], []
    for item in range(len(problem.data)):
        rows = problem.take(torch.full((int(good.sum()) + 1,), item, device=problem.data.device))
        white = torch.zeros(rows.data.shape, dtype=rows.data.dtype, device=rows.data.device)
        for k, (held, x) in enumerate(predictions):
            data = torch.cat(
                [
                    problem.data[item : item + 1],
                    again.predicted(problem, item, x[good, item], f"held-out replicates {k}"),
                ]
            )
            error = rows.whiten(data - data.mean(0))
            # In units of the predicted std, symmetric in the pool; at least the noise, which is known.
            spread = error.abs().square().mean(0).sqrt().clamp_min(1.0 if not error.is_complex() else math.sqrt(2))
            spreads.append(spread[held])
            white = white + torch.where(held, error / spread, 0)
        real = to_real(white).double()
        columns += [real.abs().amax(1).log(), real.square().sum(1).log()]
        names += [f"the largest error (item {item})", f"the size of all (item {item})"]
        errors[item] = real[:1]
    rank = stands_out(torch.stack(columns, 1))
    largest = [e[0].abs() for e in errors]
    worst = max(range(len(largest)), key=lambda b: float(largest[b].max()))
    parts = 2 if problem.data.is_complex() else 1
    entry = int(largest[worst].argmax()) // parts
    limit = max(float(c[1:].exp().max()) for c in columns[::2])
    typical = float(torch.cat([s.flatten() for s in spreads]).median())
    text = (
        f"each datum predicted from the other three quarters: largest error {float(largest[worst].max()):.1f} std "
        f"(entry {entry}{'' if len(largest) == 1 else f' of item {worst}'}); can detect a typical datum wrong, or "
        f"dead, by {(limit + 1.3) * typical:.1f} noise std"
    )
    return [Measured(name="held-out sensors", value=float(largest[worst].max()), p=np.array([rank.p]), text=text)]


def _folds(again: SolveAgain) -> Tensor:
    """A random fold 0 ... FOLDS - 1 for every datum, of equal size, ``out_shape``."""
    shape = again.problem.data.shape[1:]
    z = again.draws(1, "folds").normal((math.prod(shape),), torch.float64, step=0)[0]
    fold = torch.empty(len(z), dtype=torch.int64, device=z.device)
    fold[z.argsort()] = torch.arange(len(z), device=z.device) % FOLDS
    return fold.view(shape)
