"""What `NoiseMCMC` prepares once for all its items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.strategies.base import Strategy, check_together
from invsolve.strategies.mcmc.limits import Limits
from invsolve.strategies.mcmc.noise_map import NoiseMap, noise_map
from invsolve.strategies.mcmc.reflection import symmetric
from invsolve.strategies.mcmc.spike_slab import Sites
from invsolve.strategies.mcmc.walls import Walls
from invsolve.strategies.mcmc.warm_start import WarmStart


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class BoundChains:
    """The map from noise to signals, and what is special about the problem."""

    map: NoiseMap
    batch: int
    sites: Sites | None  # exact draws of pairs of coefficients, where they are known
    walls: Walls | None  # where measurements would be impossible, if they are planes that trajectories bounce from
    limits: Limits | None  # else
    symmetric: Tensor  # (items,): noise and its reflection are equally likely, as far as was seen
    warm_start: WarmStart | None

    @classmethod
    def from_problem(
        cls, problem: Problem, prior: Prior, start: Strategy | None, *, spread: float, evaluations: int, gradients: bool
    ) -> BoundChains:
        """``evaluations`` of a probability flow; moves without ``gradients`` bounce from no planes.

        Chains of a ``spread`` live in the noise over it (`Target`); exact draws need the prior's own.
        """
        to_signal = noise_map(prior, evaluations)
        walls = Walls.from_problem(problem, prior, to_signal) if gradients else None
        return cls(
            map=to_signal,
            batch=len(problem.data),
            sites=Sites.from_problem(problem, prior) if spread == 1 else None,
            walls=walls and walls.nearer(spread),
            limits=None if walls is not None else Limits.from_problem(problem, to_signal),
            symmetric=symmetric(problem, to_signal),
            warm_start=None if start is None else WarmStart(strategy=start, bound=start.bind(problem, prior)),
        )

    @property
    def slack(self) -> Tensor:
        """How far out walls are at first, ``(items,)``: those that prior draws lie behind come in from afar."""
        if self.walls is not None:
            return torch.full((self.batch,), math.inf, dtype=torch.float64, device=self.symmetric.device)
        if self.limits is None:
            return torch.zeros(self.batch, dtype=torch.float64, device=self.symmetric.device)
        return torch.where(self.limits.needed, math.inf, self.limits.slack)

    def take(self, index: Tensor) -> BoundChains:
        """The same: the samples of an item run together."""
        check_together("NoiseMCMC", index, self.batch)
        return self
