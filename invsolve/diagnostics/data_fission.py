"""Data fission and its inverse: two independent measurements made of one, and one made of two.

Gaussian noise: with fresh noise n distributed as the data's own, ``y + n`` and ``y - n`` are independent given the
clean data, each with twice the noise variance; the mean of two measurements, with half the variance, holds all of both.
Counts: of a Poisson number each count goes to one side or the other, and the sides are independent Poisson numbers of
half the exposure each; the sum of two measurements, of twice the exposure, holds all of both (Leiner, Duan, Wasserman &
Ramdas 2025, JASA 120, 135-146; Neufeld, Dharamshi, Gao & Witten 2024, JMLR 25, for counts).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from invsolve.core.arrays import numbers
from invsolve.diagnostics.resolve import SolveAgain, with_data
from invsolve.noise import Gaussian, Poisson, PoissonTransmission
from invsolve.problem import Problem


def can_split(problem: Problem) -> bool:
    """Whether the noise has a known split of one measurement into two independent ones."""
    return isinstance(problem.noise, (Gaussian, Poisson, PoissonTransmission))


def halves(again: SolveAgain, purpose: str) -> tuple[Problem, Problem]:
    """Two problems of the same signals, whose data are independent given these."""
    problem = again.problem
    if isinstance(problem.noise, Gaussian):
        n = again.noise(problem, purpose)
        twice = math.sqrt(2.0)
        return (
            with_data(problem, problem.data + n, noise_factor=twice),
            with_data(problem, problem.data - n, noise_factor=twice),
        )
    first = _half(
        problem.data,
        again.draws(len(problem.data), purpose).normal(tuple(problem.data.shape[1:]), torch.float64, step=0),
    )
    return _exposed(problem, first, 0.5), _exposed(problem, problem.data - first, 0.5)


def joined(problem: Problem, data: Tensor) -> Problem:
    """One problem that holds the data of ``problem``, and further ``data`` of the same signals and noise."""
    if isinstance(problem.noise, Gaussian):
        return with_data(problem, (problem.data + data) / 2, noise_factor=math.sqrt(0.5))
    return _exposed(problem, problem.data + data, 2.0)


def _exposed(problem: Problem, data: Tensor, factor: float) -> Problem:
    assert isinstance(problem.noise, (Poisson, PoissonTransmission))
    return replace(problem, data=data, noise=problem.noise.exposed(factor))


def _half(counts: Tensor, z: Tensor) -> Tensor:
    """``Binomial(counts, 1/2)`` numbers of the ranks of the standard normal ``z``: exact, by the smaller tail."""
    from scipy.stats import binom

    # What is not observed may be anything.
    counts = torch.where((counts >= 0) & (counts == counts.round()), counts, 0.0)
    tail = torch.special.ndtr(-z.abs()).cpu().numpy()
    low = numbers(binom.ppf(tail, counts.double().cpu().numpy(), 0.5)).to(counts)
    return torch.where(z > 0, counts - low, low)
