"""Bilinear finite elements for ``-div(a grad u) = f`` on a square with u = 0 on its walls, a row by itself at a time.

Element by element a is a number. The stiffness matrix is block tridiagonal, a block a line of nodes, and is factorised
line by line for a whole batch.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from invsolve.operators.pde.lost_rows import lose

_ROWS = 128  # factorised at once: what fits into the caches of a core


def solve_elements(a: Tensor, load: Tensor) -> Tensor:
    """The solution at the inner nodes ``(rows, n - 1, n - 1)``.

    ``a`` ``(rows, n, n)``: the coefficient of every element, > 0. ``load`` ``(rows, n - 1, n - 1)``: the integral of f
    times the basis function of a node. A product with the derivative takes one more solve with the same factors, and
    has a derivative too.
    """
    u: Tensor = _Solve.apply(a, load, None)
    return u


@final
class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, load: Tensor, factors: list[list[Tensor]] | None) -> Tensor:
        parts = [(a[i : i + _ROWS], load[i : i + _ROWS]) for i in range(0, len(a), _ROWS)]
        made = [_factorised(each) for each, _ in parts] if factors is None else factors
        solved = [_solved(each, f, own) for (each, f), own in zip(parts, made, strict=True)]
        u = torch.cat(solved) if solved else torch.zeros_like(load)
        ctx.save_for_backward(a, u)
        ctx.factors = made
        return u

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, Tensor, None]:
        a, u = ctx.saved_tensors
        adjoint = _Solve.apply(a, cotangents[0], ctx.factors)  # the matrix is symmetric
        return -energies(adjoint, u), adjoint, None


def energies(v: Tensor, u: Tensor) -> Tensor:
    """The integral of ``grad v . grad u`` over every element ``(rows, n, n)``, of values at the inner nodes."""
    corners = [_corners(torch.nn.functional.pad(w, (1, 1, 1, 1))) for w in (v, u)]
    # 2/3 of a node with itself, -1/6 with its neighbours along the sides, -1/3 across.
    (p, q, r, s), (k, h, m, n) = corners
    total, along = p * k + q * h + r * m + s * n, (p + s) * (h + m) + (q + r) * (k + n)
    across = p * n + s * k + q * m + r * h
    return (4 * total - along - 2 * across) / 6


def _corners(w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return w[:, :-1, :-1], w[:, :-1, 1:], w[:, 1:, :-1], w[:, 1:, 1:]


def _bands(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A line of nodes: its diagonal, its neighbours to the right; of the next line those above, right and left."""
    below_left, below_right, above_left, above_right = _corners(a)
    diagonal = (below_left + below_right + above_left + above_right) * (2 / 3)
    right = -(below_right + above_right)[..., :-1] / 6
    up = -(above_left + above_right)[:, :-1] / 6
    return diagonal, right, up, -above_right[:, :-1, :-1] / 3, -above_left[:, :-1, 1:] / 3


def _factorised(a: Tensor) -> list[Tensor]:
    """Lower Cholesky factors of ``S_1 = D_1``, ``S_(i+1) = D_(i+1) - T_i^T S_i^-1 T_i``, one a line of nodes."""
    diagonal, right, up, up_right, up_left = _bands(a)
    factors: list[Tensor] = []
    failed = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    for i in range(diagonal.shape[1]):
        S = torch.diag_embed(diagonal[:, i])
        S.diagonal(1, -2, -1).copy_(right[:, i])
        S.diagonal(-1, -2, -1).copy_(right[:, i])
        if i:
            T = torch.diag_embed(up[:, i - 1])
            T.diagonal(1, -2, -1).copy_(up_right[:, i - 1])
            T.diagonal(-1, -2, -1).copy_(up_left[:, i - 1])
            W = torch.linalg.solve_triangular(factors[-1], T, upper=False)
            S = torch.baddbmm(S, W.mT, W, alpha=-1)
        factor, info = torch.linalg.cholesky_ex(S)
        factors.append(factor)
        failed |= info != 0
    factors[-1] = lose(factors[-1], failed)  # through which every solution goes: NaN where rounding has won
    return factors


def _solved(a: Tensor, load: Tensor, factors: list[Tensor]) -> Tensor:
    _, _, up, up_right, up_left = _bands(a)

    def forth(i: int, v: Tensor) -> Tensor:  # T_i^T v
        out = up[:, i] * v
        out[:, 1:] += up_right[:, i] * v[:, :-1]
        out[:, :-1] += up_left[:, i] * v[:, 1:]
        return out

    def back(i: int, v: Tensor) -> Tensor:  # T_i v
        out = up[:, i] * v
        out[:, :-1] += up_right[:, i] * v[:, 1:]
        out[:, 1:] += up_left[:, i] * v[:, :-1]
        return out

    def inverse(i: int, v: Tensor) -> Tensor:
        return torch.cholesky_solve(v[..., None], factors[i])[..., 0]

    lines = load.shape[1]
    known = [inverse(0, load[:, 0])]
    for i in range(1, lines):
        known.append(inverse(i, load[:, i] - forth(i - 1, known[-1])))
    for i in range(lines - 2, -1, -1):
        known[i] = known[i] - inverse(i, back(i, known[i + 1]))
    return torch.stack(known, 1)
