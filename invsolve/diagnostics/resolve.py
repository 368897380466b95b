"""Solving again: the result's own strategy and prior on other data of the same measurement."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from invsolve.core.random import Draws, item_key
from invsolve.diagnostics.residuals import unweighted
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import NoProgress, Progress
from invsolve.results.result import Result
from invsolve.results.solver import Solver


@final
@dataclass(kw_only=True, eq=False)
class Drawn:
    """How many of the samples that are to be drawn are there, on a meter."""

    progress: Progress
    total: int
    seconds: float = 0.0  # expected
    count: int = 0

    def __post_init__(self) -> None:
        self.progress.init(self.total)
        if self.seconds:
            self.progress.expect(self.seconds)

    def more(self, number: int) -> None:
        self.count += number
        self.progress.step(min(self.count, self.total), self.total)

    def close(self) -> None:
        self.progress.close()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SolveAgain:
    """What it takes to solve again.

    ``problem`` holds the items that are looked at, ``particles`` is 0 for strategies whose samples have equal weights,
    else how many of weighted ones are asked for.
    """

    problem: Problem
    prior: Prior
    solver: Solver
    seed: int
    particles: int = 0
    drawn: Drawn = field(default_factory=lambda: Drawn(progress=NoProgress(), total=0))

    def posterior(self, problem: Problem, number: int, purpose: str) -> Tensor:
        """``number`` equally weighted posterior samples of every item, ``(number, items, *shape)``; NaN if failed."""
        result: Result = self.solver.draw(
            problem,
            num_samples=max(number, self.particles),
            seed=item_key(f"check {purpose} {self.seed}"),
        )
        self.drawn.more(number * len(problem.data))
        lead = (result.num_samples, len(problem.data))  # data without a batch axis are one item here
        samples = result.samples.view(*lead, *result.shape)
        if result.log_weights is None:
            return samples
        samples = torch.where(result.failed.view(*lead, *([1] * len(result.shape))), 0, samples)
        weights = result.weights.view(lead).nan_to_num(nan=1 / result.num_samples)
        return unweighted(samples, weights, number)

    def draws(self, rows: int, purpose: str) -> Draws:
        """Keyed numbers for ``rows`` rows."""
        return Draws.for_rows(
            self.seed, [0] * rows, list(range(rows)), self.problem.data.device, purpose=f"check {purpose}"
        )

    def noise(self, problem: Problem, purpose: str) -> Tensor:
        """Additive noise of the data of ``problem`` ``(rows, *out_shape)``, zero where nothing is observed."""
        drawn = problem.noise.sample(torch.zeros_like(problem.data), self.draws(len(problem.data), purpose))
        observed = problem.operator.observed
        return drawn if observed is None else drawn * observed

    def simulated(self, problem: Problem, signals: Tensor, purpose: str) -> Tensor:
        """Data ``(rows, *out_shape)`` drawn from ``signals`` ``(rows, *shape)``; no noise where nothing is seen."""
        clean = problem.operator(signals)
        drawn = problem.noise.sample(clean, self.draws(len(signals), purpose))
        observed = problem.operator.observed
        return drawn if observed is None else torch.where(observed, drawn, clean)

    def predicted(self, problem: Problem, item: int, signals: Tensor, purpose: str) -> Tensor:
        """Data of ``problem`` simulated from ``signals`` ``(rows, *shape)`` of one item."""
        rows = problem.take(torch.full((len(signals),), item, device=signals.device))
        return self.simulated(rows, signals, f"{purpose} {item}")


def with_data(problem: Problem, data: Tensor, *, noise_factor: float = 1.0) -> Problem:
    """The problem with other data ``(rows, *out_shape)`` and ``noise_factor`` times the noise."""
    return replace(problem, data=data, noise=scaled(problem.noise, noise_factor))


def scaled(noise: object, factor: float | Tensor) -> Gaussian:
    """Noise of ``factor`` times the std; a tensor of factors ``out_shape`` only for noise that is not correlated."""
    assert isinstance(noise, Gaussian)
    if noise.covariance is not None:
        assert not isinstance(factor, Tensor)
        return Gaussian(covariance=noise.covariance * factor**2)
    assert isinstance(noise.std, (float, Tensor))  # an unknown level was refused before
    return Gaussian(std=noise.std * factor)
