"""Linear data of a Gaussian law: the update every exact posterior and every moment-matched guidance is made of.

With ``x = mean + S u``, ``u ~ N(0, diag(v))`` and whitened data ``w = B u + white noise``, ``B = G^-1/2 A S``, the
conditional mean of u is ``diag(v) B^H (I + B diag(v) B^H)^-1 w``. `System.factor(v)` returns that map. It is formed
densely, in float64, where one side of B is small, and otherwise solved by conjugate gradients in the modes.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.arrays import from_real, to_real
from invsolve.cg import conjugate_gradients, expand
from invsolve.checks import kind_dtype
from invsolve.noise import Gaussian
from invsolve.operators.base import LinearOperator
from invsolve.priors.modes import GaussianLaw, Modes
from invsolve.problem import Problem

Update = Callable[[Tensor], Tensor]  # whitened residual (rows, *out_shape) -> modes (rows, *mode_shape)

DENSE_SIDE = 1024  # the smaller side of B that is factorised at every level: 0.1 s in float64 on two cores
DENSE_SIZE = 2**24  # entries of B: 128 MiB


class System(abc.ABC):
    """``B = G^-1/2 A S`` and the solves with it."""

    @abc.abstractmethod
    def factor(self, variances: Tensor) -> Update:
        """The conditional mean of the modes for mode variances ``(*mode_shape)``; iterative also for a set a row."""

    @abc.abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """``B u`` for modes ``(rows, *mode_shape)``: whitened data ``(rows, *out_shape)``."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DenseSystem(System):
    """B as a float64 matrix ``(m, n)`` over real numbers (complex entries are pairs); one for all rows."""

    matrix: Tensor
    out_shape: tuple[int, ...]
    mode_shape: tuple[int, ...]
    out_complex: torch.dtype | None  # complex dtype of the data, None if real
    mode_complex: torch.dtype | None
    gram: Tensor | None  # B^T B where n < m

    def factor(self, variances: Tensor) -> Update:
        root = variances.double().sqrt().reshape(-1)
        if self.mode_complex is not None:
            root = root.repeat_interleave(2)
        scaled = self.matrix * root
        if self.gram is None:
            system = scaled @ scaled.mT
        else:
            system = root[:, None] * self.gram * root
        system.diagonal().add_(1.0)
        # Not `cholesky`, which reads back whether it worked and stalls a GPU: where it did not, the answer becomes NaN.
        chol, failed = torch.linalg.cholesky_ex(system)
        chol.diagonal().add_(torch.where(failed == 0, 0.0, torch.nan))

        def update(w: Tensor) -> Tensor:
            white = to_real(w).double()
            if self.gram is None:
                u = torch.cholesky_solve(white.mT, chol).mT @ scaled * root
            else:
                u = torch.cholesky_solve((white @ scaled).mT, chol).mT * root
            return from_real(u.to(kind_dtype(w.dtype, "real")), self.mode_shape, self.mode_complex)

        return update

    def forward(self, u: Tensor) -> Tensor:
        w = (to_real(u).double() @ self.matrix.mT).to(kind_dtype(u.dtype, "real"))
        return from_real(w, self.out_shape, self.out_complex)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class IterativeSystem(System):
    """B as maps; ``operator`` is the problem's operator or its linearisation, row by row."""

    problem: Problem
    operator: LinearOperator
    modes: Modes
    rtol: float
    max_iter: int
    level: float  # mean diagonal of B^H B, for the preconditioner
    precision: float | None = None  # 1 / std^2 where B^H B is S^H A^H A S times it, else None
    tolerated: float = math.inf  # rows whose relative residual ends above this become NaN: no answer, not a wrong one

    def factor(self, variances: Tensor) -> Update:
        root = variances.sqrt()
        # Where the data see every mode about equally, I + K^H K is about 1 + level * v: its inverse evens the spectrum.
        inverse = 1.0 / (1.0 + self.level * variances)

        def update(w: Tensor) -> Tensor:
            rhs = root * self.adjoint(w)
            u, info = conjugate_gradients(lambda p: p + root * self.normal(root * p), rhs,
                                          rtol=self.rtol, max_iter=self.max_iter, precondition=lambda r: inverse * r)
            return root * torch.where(expand(info.residual <= self.tolerated, u), u, torch.nan)

        return update

    def forward(self, u: Tensor) -> Tensor:
        return self.problem.whiten(self.operator(self.modes.synthesis(u)))

    def adjoint(self, w: Tensor) -> Tensor:
        return self.modes.adjoint(self.operator.adjoint(self.problem.unwhiten_adjoint(w)))

    def normal(self, u: Tensor) -> Tensor:
        """``B^H B u``, by the operator's own ``A^H A`` where noise is white: half of the work for MRI."""
        if self.precision is None:
            return self.adjoint(self.forward(u))
        return self.precision * self.modes.adjoint(self.operator.normal(self.modes.synthesis(u)))


def probe(problem: Problem, operator: LinearOperator, modes: Modes) -> tuple[float, float | None]:
    """``tr(B^H B) / n`` by one random signal (Hutchinson), with a fixed generator; and `IterativeSystem.precision`."""
    # Noise that differs from item to item needs a row for each, too.
    rows = operator.batch or (1 if problem.shared else len(problem.data))
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(rows, *modes.mode_shape, generator=rng, dtype=problem.signal_dtype).to(problem.data.device)
    clean = operator(modes.synthesis(z))
    level = float(problem.whiten(clean).abs().square().sum() / z.abs().square().sum())
    std = problem.noise.std if isinstance(problem.noise, Gaussian) else None
    observed = problem.operator.observed
    # An operator should be zero where nothing is observed. Whitening makes it so, A^H A does not.
    if not isinstance(std, float) or (observed is not None and bool((clean[~observed.expand(clean.shape)] != 0).any())):
        return level, None
    return level, 1 / std**2


def make_system(
    problem: Problem, law: GaussianLaw, *, operator: LinearOperator | None = None, rtol: float, max_iter: int,
    tolerated: float = math.inf,
) -> System:
    """Dense where the operator and noise are shared by the rows and one side is small, else iterative."""
    linear = operator or problem.operator
    assert isinstance(linear, LinearOperator)
    n = prod(law.modes.mode_shape) * (2 if law.mean.is_complex() else 1)
    m = prod(linear.out_shape) * (2 if problem.data.is_complex() else 1)
    if operator is None and problem.shared and min(m, n) <= DENSE_SIDE and m * n <= DENSE_SIZE:
        matrix = dense_matrix(problem, linear, law.modes)
        return DenseSystem(
            matrix=matrix, out_shape=tuple(linear.out_shape), mode_shape=tuple(law.modes.mode_shape),
            out_complex=problem.data.dtype if problem.data.is_complex() else None,
            mode_complex=law.mean.dtype if law.mean.is_complex() else None,
            gram=matrix.mT @ matrix if n < m else None,
        )
    level, precision = probe(problem, linear, law.modes)
    return IterativeSystem(problem=problem, operator=linear, modes=law.modes, rtol=rtol, max_iter=max_iter, level=level,
                           precision=precision, tolerated=tolerated)


def dense_matrix(problem: Problem, operator: LinearOperator, modes: Modes, *, rows: int = 256) -> Tensor:
    """``B`` as a real float64 matrix ``(m, n)``, by applying it to unit modes, ``rows`` at a time."""
    dtype = kind_dtype(problem.data.dtype, "complex" if problem.signal_dtype.is_complex else "real")
    n = prod(modes.mode_shape) * (2 if dtype.is_complex else 1)
    columns = []
    for first in range(0, n, rows):
        unit = torch.zeros(min(rows, n - first), n, dtype=kind_dtype(dtype, "real"), device=problem.data.device)
        unit.diagonal(first).fill_(1.0)
        u = from_real(unit, tuple(modes.mode_shape), dtype if dtype.is_complex else None)
        columns.append(to_real(problem.whiten(operator(modes.synthesis(u)))).double())
    return torch.cat(columns).mT.contiguous()

