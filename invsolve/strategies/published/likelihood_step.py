"""The likelihood of a signal and its gradient, for methods that follow it."""

from __future__ import annotations

from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.noise import Poisson
from invsolve.problem import Problem
from invsolve.samplers.base import Level

_TINY = 1e-30


def tamed(step: Tensor, length: Level) -> Tensor:
    """``step`` ``(rows, *shape)``, shortened per row to a root mean square of ``length`` (a number or one a row)."""
    size = step.flatten(1).abs().square().mean(1).sqrt()
    size = expand(size, step)
    return step * (length / size.clamp_min(_TINY)).clamp_max(1.0)


def likelihood_gradient(problem: Problem, x: Tensor) -> Tensor:
    """The gradient of ``-log p(y | A(x))`` in x ``(rows, *shape)``."""
    clean, pull = problem.operator.vjp(x)
    return pull(problem.noise.grad(problem.data, clean, problem.operator.observed))


def residual_norm(problem: Problem, clean: Tensor) -> tuple[Tensor, Tensor]:
    """``||y - A(x)||_2`` per row ``(rows,)`` over the data that exist, and its gradient in A(x); zero at its kink.

    Counts have the weights of the paper of DPS, ``1 / (2 y)``, those below one count as one.
    """
    noise = problem.noise
    slope: Tensor | float = 1.0
    rest = problem.data - clean
    if isinstance(noise, Poisson):
        slope = noise.counts_per_unit * (0.5 / problem.data.clamp_min(1)).sqrt()
        rest = slope * (problem.data - noise.background) / noise.counts_per_unit - slope * clean
    observed = problem.operator.observed
    rest = rest if observed is None else rest * observed
    size = rest.flatten(1).abs().square().sum(1).sqrt()
    wide = expand(size, rest)
    return size, -slope * rest / wide.clamp_min(_TINY) * (wide > 0)
