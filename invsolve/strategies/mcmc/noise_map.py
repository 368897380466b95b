"""The map from white noise to the prior: where a Markov chain lives in which the prior is standard normal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

from invsolve.core.derivatives import pullback
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasLaw, HasTransport
from invsolve.samplers import Plan, UniPC, log_grid, prior_range


class NoiseMap(Protocol):
    """``z`` ``(rows, *prior.shape)`` standard normal (complex: of unit variance per component) to a prior draw."""

    def __call__(self, z: Tensor) -> Tensor: ...

    def pullback(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The draw, and the map ``v -> (dT/dz)^H v``."""
        ...

    def inverse(self, x: Tensor) -> Tensor:
        """The noise that is mapped to the signals ``x``, about."""
        ...


def noise_map(prior: Prior, evaluations: int, *, top: float = 1.0) -> NoiseMap:
    """The prior's own transport where it states one, else its probability flow in so many evaluations.

    The flow starts at ``top`` times the usual level, as far as the prior is made for it.
    """
    if isinstance(prior, HasTransport):
        return _Transport(prior=prior)
    high, low = prior_range(prior)
    high = max(high, min(top * high, prior.sigma_range[1]))
    return _Flow(prior=prior, plan=Plan.make(UniPC(order=3), log_grid(high, low, evaluations)))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Transport:
    prior: Prior

    def __call__(self, z: Tensor) -> Tensor:
        return self.prior.transport(z)[0]

    def pullback(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self.prior.transport(z)

    def inverse(self, x: Tensor) -> Tensor:
        return self.prior.inverse_transport(x)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Flow:
    """A deterministic sampler, started from the prior's stated Gaussian (or its scale) plus noise of the highest level.

    The gradient is taken through all of its steps; of a denoiser only the input is kept, and it is evaluated again on
    the way back (`_Denoise`), so that memory is that of the states alone.
    """

    prior: Prior
    plan: Plan

    def __call__(self, z: Tensor) -> Tensor:
        return self._run(z, lambda x, level: self.prior.denoise(x, level))

    def pullback(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def run(leaf: Tensor) -> Tensor:
            return self._run(leaf, lambda x, level: _Denoise.apply(x, level, self.prior))

        return pullback(run, z, self.prior._not_differentiable)

    def inverse(self, x: Tensor) -> Tensor:
        """The flow run upwards by Heun's method in the logarithm of the level, two evaluations a level."""
        prior, levels = self.prior, self.plan.grid[:-1].flip(0).tolist()
        for low, high in zip(levels[:-1], levels[1:], strict=True):
            h = math.log(high / low)
            slope = x - prior.denoise(x, low)
            there = x + h * slope
            x = x + h / 2 * (slope + there - prior.denoise(there, high))
        top = levels[-1]
        if isinstance(prior, HasLaw):
            law = prior.law
            u: Tensor = law.modes.analysis(x - law.mean) / (law.variances + top * top).sqrt()
            return u.reshape(x.shape)
        return (x - prior.mean) / math.hypot(top, prior.scale / math.sqrt(2))

    def _run(self, z: Tensor, denoise: Callable[[Tensor, Any], Tensor]) -> Tensor:
        prior, high = self.prior, float(self.plan.grid[0])
        if isinstance(prior, HasLaw):
            x = prior.law.sample(z.reshape(len(z), *prior.law.modes.mode_shape), high)
        else:
            x = prior.mean + math.hypot(high, prior.scale / math.sqrt(2)) * prior.noise(z)
        state = self.plan.sampler.init(x)
        for i in range(self.plan.num_steps):
            state = self.plan.step(denoise, state, i, _no_noise)
        return state.x


def _no_noise(index: int) -> Tensor:
    raise AssertionError("a deterministic sampler asks for no noise")  # pragma: no cover


class _Denoise(torch.autograd.Function):
    """A denoiser in a graph that keeps its input only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: Any, prior: Prior) -> Tensor:
        ctx.save_for_backward(x)
        ctx.level, ctx.prior = level, prior
        return prior.denoise(x, level)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return ctx.prior.pullback(x, ctx.level)[1](grads[0]), None, None
