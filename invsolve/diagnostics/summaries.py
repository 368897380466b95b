"""What is looked at in whitened data or residuals whose distribution is known by replicates only."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.noise import Gaussian
from invsolve.operators.base import LinearOperator
from invsolve.problem import Problem

_ROWS = 2**22  # numbers at a time


def summaries(problem: Problem, white: Tensor) -> tuple[list[str], Tensor]:
    """Names and values ``(rows, statistics)``, float64, of whitened data ``white`` ``(rows, *out_shape)``.

    ``problem`` has one row for each. Size, largest entry, offset, skewness, tails, correlation of neighbours along each
    axis, and for linear operators and Gaussian noise how much of it the operator sees (B B^H and its square, B the
    whitened operator): with the size these are moments of the data over the operator's strong and weak directions.
    """
    step = max(1, _ROWS // max(1, white[0].numel()))
    parts = []
    names: list[str] = []
    for index in torch.split(torch.arange(len(white), device=white.device), step):
        names, values = _summaries(problem.take(index), white[index])
        parts.append(values)
    return names, torch.cat(parts)


def standardised(problem: Problem, data: Tensor, middle: Tensor) -> Tensor:
    """Errors ``(pool, *out_shape)`` of a pool of data from ``middle``, whitened.

    If noise is not Gaussian, errors from the pool's own mean in units of its own std: what is symmetric in the pool
    keeps ranks in it exact.
    """
    if isinstance(problem.noise, Gaussian):
        return problem.whiten(data - middle)
    spread = data.std(0)
    white = torch.where(spread > 0, (data - data.mean(0)) / spread, 0)
    observed = problem.operator.observed
    return white if observed is None else white * observed


def _summaries(problem: Problem, white: Tensor) -> tuple[list[str], Tensor]:
    real = to_real(white).double()
    size = real.square().sum(1)
    found = {
        "size": size.log(),
        "largest": real.abs().amax(1).log(),
        "offset": real.sum(1) / size.sqrt(),
        "skewness": real.pow(3).sum(1) / size.pow(1.5),
        "tails": (real.pow(4).sum(1) / size.square()).log(),
    }
    for axis in range(1, white.ndim):
        n = white.shape[axis] - 1
        if n > 0:
            product = (white.narrow(axis, 0, n).conj() * white.narrow(axis, 1, n)).real.flatten(1).double().sum(1)
            found[f"neighbours along axis {axis - 1}"] = product / size
    A = problem.operator
    if isinstance(A, LinearOperator) and isinstance(problem.noise, Gaussian):
        back = A.adjoint(problem.unwhiten_adjoint(white))
        seen = to_real(back).double().square().sum(1)
        again = to_real(problem.whiten(A(back))).double().square().sum(1)
        found["what the operator sees"] = (seen / size).log()
        found["what the operator sees well"] = (again / seen).log()
    return list(found), torch.stack(list(found.values()), 1)
