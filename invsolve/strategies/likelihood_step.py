"""The likelihood of a signal and its gradient, for methods that follow it."""

from __future__ import annotations

from torch import Tensor

from invsolve.operators.base import BlackBox
from invsolve.problem import Problem
from invsolve.samplers.base import Level

_TINY = 1e-30


def tamed(step: Tensor, length: Level) -> Tensor:
    """``step`` ``(rows, *shape)``, shortened per row to a root mean square of ``length`` (a number or one a row)."""
    size = step.flatten(1).abs().square().mean(1).sqrt().view(-1, *([1] * (step.ndim - 1)))
    return step * (length / size.clamp_min(_TINY)).clamp_max(1.0)


def likelihood_gradient(problem: Problem, x: Tensor) -> Tensor:
    """The gradient of ``-log p(y | A(x))`` in x ``(rows, *shape)``."""
    clean, pull = problem.operator.vjp(x)
    return pull(problem.noise.grad(problem.data, clean, problem.operator.observed))


def residual_norm(problem: Problem, clean: Tensor) -> tuple[Tensor, Tensor]:
    """``||y - A(x)||_2`` per row ``(rows,)`` over the data that exist, and its gradient in A(x); zero at its kink."""
    rest = problem.data - clean
    observed = problem.operator.observed
    rest = rest if observed is None else rest * observed
    size = rest.flatten(1).abs().square().sum(1).sqrt()
    wide = size.view(-1, *([1] * (rest.ndim - 1)))
    return size, -rest / wide.clamp_min(_TINY) * (wide > 0)


def needs_derivative(problem: Problem) -> str:
    """What a method that follows the gradient of the likelihood lacks; '' if nothing."""
    if isinstance(problem.operator, BlackBox):
        return f"an operator with a derivative ({type(problem.operator).__name__} is a black box)"
    return ""
