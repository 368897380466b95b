"""Gauss-Newton steps for data that are not linear in the signal, damped so that no step makes things worse."""

from __future__ import annotations

from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.gaussian.law import Modes
from invsolve.gaussian.systems import IterativeSystem
from invsolve.problem import Problem

_SHARES = (1.0, 0.5, 0.25, 0.125)  # of a step; a row for which none of them helps stays where it is
_SLACK = 1e-3  # nats by which a step may fail to help: what is left of rounding and of solves that stop early


def gauss_newton(
    problem: Problem, modes: Modes, value: Tensor, variances: Tensor, iterations: int, *, tol: float, max_iter: int
) -> Tensor:
    """The signal that is most probable under ``N(value, V)`` times the likelihood, about, ``(rows, *shape)``.

    Every iteration makes the operator linear, and the noise Gaussian, where the last one ended, and takes the largest
    of the steps 1, 1/2, 1/4 and 1/8 towards the solution there that makes the signal more probable. Far from a solution
    (in much noise the operator is made linear at the prior's mean) full steps of a curved operator overshoot.

    ``variances`` of the modes in V, ``(*mode_shape)`` or ``(rows, *mode_shape)``.
    """
    u = modes.analysis(value) * 0  # of the kind of the modes
    clean = problem.operator(value)
    cost = _cost(problem, clean, u, variances)
    for _ in range(iterations):
        at = value + modes.synthesis(u)
        local = problem.gaussianised(clean)
        system = IterativeSystem(
            problem=local,
            operator=problem.operator.linearize(at),
            modes=modes,
            tol=tol,
            max_iter=max_iter,
            level=variances.new_zeros(()),
        )
        rest = local.whiten(local.data - clean) + system.forward(u)
        step = system.factor(variances)(rest) - u
        start, done = u, cost.new_zeros(len(u)).bool()
        for share in _SHARES:
            tried = start + share * step
            seen = problem.operator(value + modes.synthesis(tried))
            reached = _cost(problem, seen, tried, variances)
            better = ~done & (reached <= cost + _SLACK)  # not where it is NaN
            u = tried.where(expand(better, tried), u)
            clean = seen.where(expand(better, seen), clean)
            cost = reached.where(better, cost)
            done = done | better
            if bool(done.all()):
                break
    return value + modes.synthesis(u)


def _cost(problem: Problem, clean: Tensor, u: Tensor, variances: Tensor) -> Tensor:
    """Minus the log density, (rows,) float64, but for a constant; modes without variance do not move."""
    size = u.abs().square().double() / variances.double()
    prior = size.where(u != 0, 0.0).flatten(1).sum(1)
    likelihood = problem.noise.log_prob(problem.data, clean, problem.operator.observed)
    return 0.5 * prior - likelihood.double()
