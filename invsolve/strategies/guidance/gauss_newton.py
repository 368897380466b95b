"""Gauss-Newton steps for data that are not linear in the signal, damped so that no step makes things worse."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.gaussian.law import Modes
from invsolve.gaussian.systems import IterativeSystem
from invsolve.operators.base import LinearOperator
from invsolve.problem import Problem

_SHARES = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 32, 1 / 128)  # of a step; a row for which none of them helps stays where it is
_SMALL = 64  # data up to which the system of every row is formed: as many adjoint solves, fewer than iterations take
_SLACK = 1e-3  # nats by which a step may fail to help: what is left of rounding and of solves that stop early


def gauss_newton(
    problem: Problem, modes: Modes, value: Tensor, variances: Tensor, iterations: int, *, tol: float, max_iter: int
) -> Tensor:
    """The signal that is most probable under ``N(value, V)`` times the likelihood, about, ``(rows, *shape)``.

    Every iteration makes the operator linear, and the noise Gaussian, where the last one ended, and takes the largest
    of the shares 1, 1/2, ..., 1/128 of the way to the solution there that makes the signal more probable. A row for
    which the operator is no number where it ends is NaN. Far from a
    solution (in much noise the operator is made linear at the prior's mean) full steps of a curved operator overshoot.

    ``variances`` of the modes in V, ``(*mode_shape)`` or ``(rows, *mode_shape)``.
    """
    u = modes.analysis(value) * 0  # of the kind of the modes
    clean = problem.operator(value)
    cost = _cost(problem, clean, u, variances)
    small = not u.is_complex() and not clean.is_complex() and 0 < prod(problem.operator.out_shape) <= _SMALL
    for _ in range(iterations):
        at = value + modes.synthesis(u)
        local = problem.gaussianised(clean)
        linear = problem.operator.linearize(at)
        if small:
            matrix = _matrix(local, linear, modes)
            rest = local.whiten(local.data - clean).flatten(1) + torch.einsum("bmn,bn->bm", matrix, u.flatten(1))
            target = _dense(matrix, rest, variances.flatten(variances.ndim - len(modes.mode_shape))).view_as(u)
        else:
            system = IterativeSystem(
                problem=local, operator=linear, modes=modes, tol=tol, max_iter=max_iter, level=variances.new_zeros(())
            )
            target = system.factor(variances)(local.whiten(local.data - clean) + system.forward(u))
        step = target - u
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
    # Where the operator is no number the data have said nothing: the row fails, and is no draw from the prior.
    known = clean.isfinite().flatten(1).all(1)
    return (value + modes.synthesis(u)).masked_fill(~expand(known, value), torch.nan)


def _matrix(local: Problem, linear: LinearOperator, modes: Modes) -> Tensor:
    """``G^-1/2 A S`` of every row, ``(rows, m, n)``, by its adjoint and unit data."""
    m = prod(linear.out_shape)
    rows = []
    for k in range(m):
        unit = torch.zeros_like(local.data).flatten(1)
        unit[:, k] = 1.0
        w = unit.view_as(local.data)
        rows.append(modes.adjoint(linear.adjoint(local.unwhiten_adjoint(w))).flatten(1))
    return torch.stack(rows, 1)


def _dense(matrix: Tensor, rest: Tensor, variances: Tensor) -> Tensor:
    """``V B^H (I + B V B^H)^-1 rest``, in float64."""
    wide, v = matrix.double(), variances.double()
    scaled = wide * v.unsqueeze(-2)
    system = scaled @ wide.mT
    system.diagonal(dim1=-2, dim2=-1).add_(1.0)
    chol, failed = torch.linalg.cholesky_ex(system)
    chol.diagonal(dim1=-2, dim2=-1).masked_fill_((failed != 0)[..., None], torch.nan)
    found = torch.cholesky_solve(rest.double()[..., None], chol)
    return (scaled.mT @ found)[..., 0].to(matrix.dtype)


def _cost(problem: Problem, clean: Tensor, u: Tensor, variances: Tensor) -> Tensor:
    """Minus the log density, (rows,) float64, but for a constant; modes without variance do not move."""
    size = u.abs().square().double() / variances.double()
    prior = size.where(u != 0, 0.0).flatten(1).sum(1)
    likelihood = problem.noise.log_prob(problem.data, clean, problem.operator.observed)
    return 0.5 * prior - likelihood.double()
