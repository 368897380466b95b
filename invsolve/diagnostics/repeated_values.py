"""Values that occur again and again in data with continuous noise: stuck sensors, padding taken for data."""

from __future__ import annotations

from math import lgamma, log, pi

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.diagnostics.report import SHARES, Measured
from invsolve.noise import Gaussian
from invsolve.problem import Problem


def repeats_test(problem: Problem) -> list[Measured]:
    """Is the most frequent value more frequent than continuous noise allows?

    Each datum has a density of at most ``1 / (sqrt(2 pi) std)``, so the expected number of c-tuples that agree to a
    resolution q is at most ``binom(m, c) (q / (sqrt(2 pi) std))^(c-1)``, and so is the probability of one (Markov). The
    resolution is taken from the data (their smallest gap, for readings of few digits that is a digit), which is never
    finer than what they have: the bound is kept for quantised data, too.
    """
    noise = problem.noise
    assert isinstance(noise, Gaussian)
    if not isinstance(noise.std, (float, Tensor)):
        return []  # correlated noise has no such simple bound
    observed = problem.operator.observed
    std = torch.as_tensor(noise.std, dtype=torch.float64, device=problem.data.device).expand(problem.data.shape)
    p, most, needed = [], 0, 0
    value = 0.0
    for row in range(len(problem.data)):
        y, s = problem.data[row : row + 1], std[row : row + 1]
        s = s.flatten(1).repeat_interleave(2, 1) if y.is_complex() else s.flatten(1)
        numbers = to_real(y)[0]
        if observed is not None:
            mask = observed.expand(problem.data.shape)[row : row + 1].flatten(1)
            mask = mask.repeat_interleave(2, 1) if y.is_complex() else mask
            numbers, s = numbers[mask[0]], s[:, mask[0]]
        m = len(numbers)
        values, counts = torch.unique(numbers.double(), return_counts=True)
        if m < 2 or len(values) < 2:
            p.append(1.0)
            continue
        ulp = torch.finfo(numbers.dtype).eps * float(values.abs().max())
        rate = log(max(ulp, float(values.diff().min())) / ((2 * pi) ** 0.5 * float(s.min())))
        c = int(counts.max())
        p.append(min(1.0, float(np.exp(min(0.0, _log_tuples(m, c, rate))))))
        if c > most:
            most, value = c, float(values[counts.argmax()])
        enough = (c for c in range(2, m + 1) if _log_tuples(m, c, rate) < log(SHARES["repeated values"]))
        needed = max(needed, next(enough, m))
    text = f"the value {value:.4g} occurs {most} times" if most > 1 else "no value occurs twice"
    notice = f"can detect {needed} sensors stuck at one value" if needed else "too few data for this test"
    return [Measured(name="repeated values", value=float(most), p=np.array(p), text=f"{text}; {notice}")]


def _log_tuples(m: int, c: int, rate: float) -> float:
    return lgamma(m + 1) - lgamma(c + 1) - lgamma(m - c + 1) + (c - 1) * rate
