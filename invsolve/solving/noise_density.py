"""The posterior as a density of the noise that the prior is made of: known, up to a factor, for every prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasTransport
from invsolve.problem import Problem
from invsolve.strategies.mcmc.bridge import EVALUATIONS
from invsolve.strategies.mcmc.kernels import Target
from invsolve.strategies.mcmc.noise_map import NoiseMap, noise_map

_AT_ONCE = 2**19  # numbers of the signals that are evaluated at once


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseDensity:
    """``log N(u; 0, I) + log p(y | T(u))`` of rows ``u`` ``(rows, n)`` float64; ``item`` ``(rows,)`` is whose data."""

    problem: Problem
    prior: Prior

    @cached_property
    def map(self) -> NoiseMap:
        return noise_map(self.prior, EVALUATIONS)

    @property
    def size(self) -> int:
        """Real numbers of a signal."""
        return prod(self.problem.shape) * (2 if self.problem.signal_dtype.is_complex else 1)

    @property
    def blind(self) -> bool:
        """Whether derivatives are differences of values."""
        return isinstance(self.problem.operator, BlackBox)

    @property
    def value_cost(self) -> int:
        """Evaluations that a value takes, about."""
        return 1 if isinstance(self.prior, HasTransport) else EVALUATIONS + 1

    @property
    def gradient_cost(self) -> int:
        """Evaluations that a value with its gradient takes, about."""
        if self.blind:
            return (2 * self.size + 1) * self.value_cost
        return 2 if isinstance(self.prior, HasTransport) else 3 * EVALUATIONS + 2

    def noise(self, x: Tensor) -> Tensor:
        """Of signals ``(rows, *shape)``, about: ``(rows, n)``."""
        return to_real(self.map.inverse(x)).double()

    def value(self, u: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """The log density ``(rows,)``, minus infinity where it is no number, and the signals as ``(rows, n)``."""
        found = [self._value(*part) for part in self._parts(u, item)]
        return torch.cat([v for v, _ in found]), torch.cat([x for _, x in found])

    def gradient(self, u: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """The log density and its derivative ``(rows, n)``, 0 where it is no number."""
        found = [self._gradient(*part) for part in self._parts(u, item)]
        return torch.cat([v for v, _ in found]), torch.cat([g for _, g in found])

    # --- one piece ------------------------------------------------------------------------------------------------
    def _parts(self, u: Tensor, item: Tensor) -> list[tuple[Tensor, Tensor]]:
        size = max(1, _AT_ONCE // max(self.size, prod(self.problem.operator.out_shape)))
        return list(zip(torch.split(u, size), torch.split(item, size), strict=True))

    def _value(self, u: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        problem, dtype = self.problem.take(item), self.problem.signal_dtype
        z = from_real(u.to(problem.data.real.dtype), problem.shape, dtype if dtype.is_complex else None)
        x = self.map(z)
        log = problem.noise.log_prob(problem.data, problem.operator(x), problem.operator.observed).double()
        log = log + self._prior(u)
        return torch.where(log.isnan() | (log == math.inf), -math.inf, log), to_real(x).double()

    def _gradient(self, u: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        if self.blind:
            return self._differences(u, item)
        target = Target(problem=self.problem.take(item), noise_map=self.map, shape=self.problem.shape, chains=1)
        value, grad = target.pullback(u[:, None].to(self.problem.data.real.dtype))
        log = value[:, 0] + self._prior(u)
        return log, torch.where(log.isfinite()[:, None], grad[:, 0].double() - u, 0.0)

    def _differences(self, u: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        rows, n = u.shape
        h = torch.finfo(self.problem.data.real.dtype).eps ** (1 / 3)
        step = h * torch.eye(n, dtype=u.dtype, device=u.device)
        around = torch.cat((u[:, None], u[:, None] + step, u[:, None] - step), 1).flatten(0, 1)
        log = self.value(around, item.repeat_interleave(2 * n + 1))[0].view(rows, 2 * n + 1)
        grad = (log[:, 1 : n + 1] - log[:, n + 1 :]) / (2 * h)
        return log[:, 0], torch.where(grad.isfinite().all(1, keepdim=True), grad, 0.0)

    def _prior(self, u: Tensor) -> Tensor:
        return -0.5 * u.square().sum(1) - 0.5 * self.size * math.log(2 * math.pi)
