"""Values that occur again and again in data with continuous noise: stuck sensors, padding taken for data."""

from __future__ import annotations

from math import lgamma, log, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.diagnostics.report import SHARES, Measured
from invsolve.noise import Gaussian
from invsolve.problem import Problem

_DIGITS = 13  # decimal digits that are looked for at most
_SHARES = 32  # spacings in the smallest gap, at most
_CLEAR = 8.0  # a multiple of the spacing is told from other numbers: one in four would do by chance


def repeats_test(problem: Problem) -> list[Measured]:
    """Is the most frequent value more frequent than continuous noise allows?

    Each datum has a density of at most ``1 / (sqrt(2 pi) std)``, so the expected number of c-tuples that agree to a
    resolution q is at most ``binom(m, c) (q / (sqrt(2 pi) std))^(c-1)``, and so is the probability of one (Markov). The
    resolution is that of the data themselves, see `resolution`: of 64 readings of six digits and more no two are equal.
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
        rate = log(resolution(values.cpu().numpy()) / ((2 * pi) ** 0.5 * float(s.min())))
        c = int(counts.max())
        p.append(min(1.0, float(np.exp(min(0.0, _log_tuples(m, c, rate))))))
        if c > most:
            most, value = c, float(values[counts.argmax()])
        enough = (c for c in range(2, m + 1) if _log_tuples(m, c, rate) < log(SHARES["repeated values"]))
        needed = max(needed, next(enough, m))
    text = f"the value {value:.4g} occurs {most} times" if most > 1 else "no value occurs twice"
    notice = f"can detect {needed} sensors stuck at one value" if needed else "too few data for this test"
    return [Measured(name="repeated values", value=float(most), p=np.array(p), text=f"{text}; {notice}")]


def resolution(values: NDArray[np.float64]) -> float:
    """The step in which different ``values``, in order, are told apart: a digit, a count of a converter, a rounding.

    The coarsest of: the rounding of the shortest floating-point format that holds all of them (a number in single
    precision stays one when it is converted), of the fewest decimal digits that do, and a common spacing, of which all
    gaps are multiples.
    """
    formats = (d for d in (np.float16, np.float32) if np.array_equal(values, values.astype(d).astype(np.float64)))
    rounding = np.spacing(np.abs(values).astype(next(formats, np.float64))).astype(np.float64)
    found = [float(rounding.mean())]
    digits = np.floor(np.log10(np.where(values == 0, 1.0, np.abs(values))))
    tolerance = 4 * np.finfo(np.float64).eps * np.abs(values)
    for count in range(1, _DIGITS):
        unit = 10.0 ** (digits - count + 1)
        if bool((np.abs(values - np.round(values / unit) * unit) <= tolerance).all()):
            found.append(float(unit.max()))
            break
    gaps = np.sort(np.diff(values))
    spacings = (_spacing(gaps, float(gaps[0]) / share, 2 * float(rounding.max())) for share in range(1, _SHARES + 1))
    return max(found + [s for s in spacings if s is not None][:1])


def _spacing(gaps: NDArray[np.float64], guess: float, error: float) -> float | None:
    """The spacing near ``guess`` that all ``gaps``, rising and known to ``error``, are multiples of; None without one.

    It is known the better the longer the gap that it was last taken from; where multiples can no longer be told from
    anything else there is none.
    """
    longest = 1.0
    for gap in gaps:
        number = max(1.0, round(gap / guess))
        slack = error * (1 + number / longest)
        if abs(gap - number * guess) > slack or slack > guess / _CLEAR:
            return None
        if number > longest:
            guess, longest = gap / number, number
    return guess


def _log_tuples(m: int, c: int, rate: float) -> float:
    return lgamma(m + 1) - lgamma(c + 1) - lgamma(m - c + 1) + (c - 1) * rate
