"""Walls that are no planes: curved operators, priors that are not Gaussian, moves without gradients.

Where a measurement would be impossible the likelihood is 0. All that is asked of such a wall is whether a signal is
behind it and, for moves with gradients, which way is out. A trajectory that finds itself behind a wall is reflected
there, at the hyperplane across that direction (Betancourt 2011, Nested sampling with constrained Hamiltonian Monte
Carlo, AIP Conf. Proc. 1305, 165-172): as the direction depends on the place alone this is reversible and keeps the
volume, so that a Metropolis test keeps the posterior exact; a trajectory that ends behind a wall is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.random import Draws
from invsolve.problem import Problem
from invsolve.strategies.mcmc.noise_map import NoiseMap

_LOOKS = 16  # prior draws that tell the size of measurements, and whether any is impossible


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """Clean measurements that are possible: those above ``lowest - slack scale``."""

    lowest: Tensor  # (items, m); minus infinity: all
    scale: Tensor  # (items, m): stds of prior draws
    slack: Tensor  # (items,); above 0 the walls alone count, and the likelihood does not yet
    needed: Tensor  # (items,): prior draws lie behind them

    @classmethod
    def from_problem(cls, problem: Problem, noise_map: NoiseMap) -> Self | None:
        """None where no measurement is impossible."""
        limits = problem.noise.lower_limits(problem.data)
        if limits is None:
            return None
        items, A = len(problem.data), problem.operator
        device = problem.data.device
        lowest = limits.expand(problem.data.shape)
        if A.observed is not None:
            lowest = torch.where(A.observed, lowest, -math.inf)
        draws = Draws.for_rows(0, [0] * _LOOKS, list(range(_LOOKS)), device, purpose="limits")
        x = noise_map(draws.normal(problem.shape, problem.signal_dtype, step=0)).repeat_interleave(items, 0)
        clean = problem.take(torch.arange(items, device=device).repeat(_LOOKS)).operator(x)
        clean = clean.view(_LOOKS, items, -1).nan_to_num(0.0, 0.0, 0.0)
        lowest = lowest.flatten(1)
        scale = clean.std(0)
        return cls(
            lowest=lowest,
            scale=torch.where(scale > 0, scale, 1.0),
            slack=torch.zeros(items, dtype=torch.float64, device=device),
            needed=(clean < lowest).flatten(2).any(2).any(0),
        )

    def take(self, items: Tensor) -> Self:
        """Of these items."""
        return replace(
            self,
            lowest=self.lowest[items],
            scale=self.scale[items],
            slack=self.slack[items],
            needed=self.needed[items],
        )

    def moved(self, slack: Tensor) -> Self:
        """All walls moved outwards by ``slack`` ``(items,)``."""
        return replace(self, slack=slack)

    def heights(self, clean: Tensor) -> Tensor:
        """How far above the nearest limit clean measurements ``(items * chains, *out_shape)`` are, (items, chains)."""
        above = self._above(clean)
        return torch.where(above.isnan(), -math.inf, above).amin(-1)

    def walled(self, log_likelihood: Tensor, clean: Tensor) -> Tensor:
        """The log likelihood ``(items, chains)``, of walls alone where they are not in place."""
        out = self.heights(clean) < -self.slack[:, None]
        walls = torch.where(out, -math.inf, torch.zeros_like(log_likelihood))
        return torch.where(self.slack[:, None] > 0, walls, log_likelihood)

    def refused(self, log_likelihood: Tensor) -> Tensor:
        """Which chains ``(items, chains)`` are behind walls that are not in place."""
        return (self.slack[:, None] > 0) & (log_likelihood == -math.inf)

    def outwards(self, clean: Tensor) -> Tensor:
        """The direction out of the walls that signals are behind, in the measurements, shape of ``clean``."""
        behind = (-self._above(clean) - self.slack[:, None, None].to(clean.dtype)).nan_to_num(0.0, 0.0, 0.0)
        return (behind.clamp_min(0) / self.scale[:, None]).view(clean.shape)

    def _above(self, clean: Tensor) -> Tensor:
        return (clean.view(len(self.lowest), -1, self.lowest.shape[1]) - self.lowest[:, None]) / self.scale[:, None]
