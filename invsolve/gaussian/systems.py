"""Linear data of a Gaussian law: the update every exact posterior and every moment-matched guidance is made of.

With ``x = mean + S u``, ``u ~ N(0, diag(v))`` and whitened data ``w = B u + white noise``, ``B = G^-1/2 A S``, the
conditional mean of u is ``diag(v) B^H (I + B diag(v) B^H)^-1 w``. `System.factor(v)` returns that map. It is formed
densely, in float64, where one side of B is small, and otherwise solved by conjugate gradients in the modes.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.core.conjugate_gradients import conjugate_gradients, expand, inner
from invsolve.core.validation import kind_dtype
from invsolve.errors import InvsolveError
from invsolve.gaussian.law import GaussianLaw, Modes
from invsolve.noise import Gaussian
from invsolve.operators.base import LinearOperator
from invsolve.problem import Problem

Update = Callable[[Tensor], Tensor]  # whitened residual (rows, *out_shape) -> modes (rows, *mode_shape)

DENSE_SIDE = 1024  # the smaller side of B that is factorised at every level: 0.1 s in float64 on two cores
DENSE_SIZE = 2**24  # entries of B: 128 MiB
_MANY = 4096  # unknowns from which on B is formed by whichever of its sides is the shorter
_FEW = 4  # times fewer data than unknowns


class System(abc.ABC):
    """``B = G^-1/2 A S`` and the solves with it."""

    @abc.abstractmethod
    def factor(self, variances: Tensor) -> Update:
        """The conditional mean of the modes for mode variances ``(*mode_shape)``, or ``(rows, *mode_shape)``."""

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

    def factor(self, variances: Tensor, *, light: bool = False) -> Update:
        """``light``: the answer holds the factor only, and not B times the stds too."""
        each = variances.ndim > len(self.mode_shape)
        if each and len(variances) * self.matrix.numel() > DENSE_SIZE:
            return self._factor_sets(variances)
        root = variances.double().sqrt()
        root = root.flatten(1) if each else root.flatten()
        if self.mode_complex is not None:
            root = root.repeat_interleave(2, dim=-1)
        scaled = self.matrix * root[..., None, :]
        if self.gram is None:
            system = scaled @ scaled.mT
        else:
            system = root[..., :, None] * self.gram * root[..., None, :]
        system.diagonal(dim1=-2, dim2=-1).add_(1.0)
        # Not `cholesky`, which reads back whether it worked and stalls a GPU: where it did not, the answer becomes NaN.
        chol, failed = torch.linalg.cholesky_ex(system)
        chol.diagonal(dim1=-2, dim2=-1).masked_fill_((failed != 0)[..., None], torch.nan)

        held = None if light else scaled

        def solve(white: Tensor) -> Tensor:
            scaled = self.matrix * root[..., None, :] if held is None else held
            if each:
                column = white[..., None]
                if self.gram is None:
                    return (scaled.mT @ torch.cholesky_solve(column, chol))[..., 0]
                return torch.cholesky_solve(scaled.mT @ column, chol)[..., 0]
            if self.gram is None:
                return torch.cholesky_solve(white.mT, chol).mT @ scaled
            return torch.cholesky_solve((white @ scaled).mT, chol).mT

        def update(w: Tensor) -> Tensor:
            u = solve(to_real(w).double()) * root
            return from_real(u.to(kind_dtype(w.dtype, "real")), self.mode_shape, self.mode_complex)

        return update

    def _factor_sets(self, variances: Tensor) -> Update:
        """A large matrix and variances for every row: a factor for each set, as for the rows of one noise level."""
        sets, which = torch.unique(variances, dim=0, return_inverse=True)
        updates = [self.factor(v) for v in sets]

        def update(w: Tensor) -> Tensor:
            parts = [(which == k).nonzero()[:, 0] for k in range(len(updates))]
            u = torch.cat([one(w[rows]) for one, rows in zip(updates, parts, strict=True)])
            return torch.empty_like(u).index_copy_(0, torch.cat(parts), u)

        return update

    def forward(self, u: Tensor) -> Tensor:
        w = (to_real(u).double() @ self.matrix.mT).to(kind_dtype(u.dtype, "real"))
        return from_real(w, self.out_shape, self.out_complex)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class IterativeSystem(System):
    """B as maps, in float64 where operator and noise can be cast; solved by conjugate gradients in the modes.

    The system ``I + K^H K`` is at least the identity, so the error of a solution is at most its residual, and that in
    posterior standard deviations of the modes. Solves therefore stop at a residual of ``tol`` per mode (root mean
    square), an absolute number: relative to the right side, which is of size |K|^2, it would hide any error at a high
    signal-to-noise ratio. They stop earlier only where rounding ends them.
    """

    problem: Problem
    operator: LinearOperator  # the problem's own, or its linearisation, row by row
    modes: Modes
    tol: float
    max_iter: int
    level: Tensor  # () or (rows,): mean diagonal of B^H B, for the preconditioner
    precision: Tensor | float | None = None  # 1 / std^2 (a number, or a row's) where B^H B is S^H A^H A S times it
    tolerated: float = math.inf  # a row whose residual per mode ends above this becomes NaN: no answer, not a wrong one
    rough: bool = False  # the residual that the iteration carries along is good enough

    def factor(self, variances: Tensor) -> Update:
        wide = kind_dtype(self.problem.data.dtype, "real")
        variances = variances.to(wide)
        root = variances.sqrt()
        # Where the data see every mode about equally, I + K^H K is about 1 + level * v: its inverse evens the spectrum.
        level = self.level.view(-1, *([1] * len(self.modes.mode_shape))) if self.level.ndim else self.level
        inverse = 1.0 / (1.0 + level * variances)

        def apply(p: Tensor) -> Tensor:
            return p + root * self.normal(root * p)

        def solve(rhs: Tensor, atol: float) -> tuple[Tensor, Tensor]:
            u, info = conjugate_gradients(
                apply,
                rhs,
                rtol=100 * torch.finfo(wide).eps,
                atol=atol,
                max_iter=self.max_iter,
                precondition=lambda r: inverse * r,
            )
            return u, info.residual * inner(rhs, rhs).sqrt()

        def update(w: Tensor) -> Tensor:
            rhs = root * self.adjoint(w.to(kind_dtype(wide, "complex" if w.is_complex() else "real")))
            size = math.sqrt(prod(self.modes.mode_shape) * (2 if rhs.is_complex() else 1))
            u, _ = solve(rhs, self.tol * size)
            if self.rough:
                return (root * u).to(_kind_of(w.dtype, u))
            # The residual that the iteration carries along drifts from the true one: once more, from the true one.
            more, left = solve(rhs - apply(u), self.tol * size)
            u = torch.where(expand(left <= self.tolerated * size, u), u + more, torch.nan)
            return (root * u).to(_kind_of(w.dtype, u))

        return update

    def forward(self, u: Tensor) -> Tensor:
        wide = kind_dtype(self.problem.data.dtype, "real")
        white = self._forward(u.to(kind_dtype(wide, "complex" if u.is_complex() else "real")))
        return white.to(_kind_of(u.dtype, white))

    def _forward(self, u: Tensor) -> Tensor:
        return self.problem.whiten(self.operator(self.modes.synthesis(u)))

    def adjoint(self, w: Tensor) -> Tensor:
        return self.modes.adjoint(self.operator.adjoint(self.problem.unwhiten_adjoint(w)))

    def normal(self, u: Tensor) -> Tensor:
        """``B^H B u``, by the operator's own ``A^H A`` where noise is white: half of the work for MRI."""
        if self.precision is None:
            return self.adjoint(self._forward(u))
        found = self.modes.adjoint(self.operator.normal(self.modes.synthesis(u)))
        return found * (expand(self.precision, found) if isinstance(self.precision, Tensor) else self.precision)

    def take(self, index: Tensor) -> Self:
        """The system of the rows ``index``."""
        problem = self.problem.take(index)
        assert isinstance(problem.operator, LinearOperator)
        level = self.level[index] if self.level.ndim else self.level
        precision = self.precision[index] if isinstance(self.precision, Tensor) else self.precision
        return replace(self, problem=problem, operator=problem.operator, level=level, precision=precision)


def taken(system: System, index: Tensor) -> System:
    """The system of the rows ``index``; a dense one is that of all."""
    return system.take(index) if isinstance(system, IterativeSystem) else system


def _kind_of(dtype: torch.dtype, like: Tensor) -> torch.dtype:
    """The precision of ``dtype`` and the kind of ``like``."""
    return kind_dtype(dtype, "complex" if like.is_complex() else "real")


def probe(problem: Problem, modes: Modes) -> tuple[Tensor, Tensor | float | None]:
    """``tr(B^H B) / n`` by one random signal (Hutchinson), with a fixed generator; and `IterativeSystem.precision`.

    The first is () where one operator and noise serve all rows, else (items,): rows must not see each other.
    """
    # Noise that differs from item to item needs a row for each, too.
    operator = problem.operator
    assert isinstance(operator, LinearOperator)
    rows = operator.batch or (1 if problem.shared else len(problem.data))
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(1, *modes.mode_shape, generator=rng, dtype=problem.signal_dtype, device="cpu").to(
        problem.data.device
    )
    clean = operator(modes.synthesis(z.expand(rows, *modes.mode_shape)))
    level = problem.whiten(clean).abs().square().flatten(1).sum(1) / z.abs().square().sum()
    # An operator should be zero where nothing is observed. Whitening makes it so, A^H A does not.
    observed = operator.observed
    hidden = observed is not None and bool((clean[~observed.expand(clean.shape)] != 0).any())
    shared = level[0] if rows == 1 and problem.shared and operator.batch is None else level
    return shared, None if hidden else _white_precision(problem)


def _white_precision(problem: Problem) -> Tensor | float | None:
    """``1 / std^2`` of noise that is the same for all data, or for all of a row (rows,); else None."""
    std = problem.noise.std if isinstance(problem.noise, Gaussian) else None
    if isinstance(std, float):
        return 1 / std**2
    if isinstance(std, Tensor) and std.numel() == len(std) == len(problem.data) and std.ndim == problem.data.ndim:
        return std.flatten() ** -2
    return None


def make_system(
    problem: Problem, law: GaussianLaw, *, tol: float, max_iter: int, tolerated: float = math.inf, rough: bool = False
) -> System:
    """Dense where the operator and noise are shared by the rows and one side is small, else iterative.

    Iterations are in float64 where that can be, and look at the true residual at the end; ``rough`` ones, for a ``tol``
    of 1e-2 and some ten products, need neither.
    """
    linear = problem.operator
    assert isinstance(linear, LinearOperator)
    n = prod(law.modes.mode_shape) * (2 if law.mean.is_complex() else 1)
    m = prod(linear.out_shape) * (2 if problem.data.is_complex() else 1)
    if problem.shared and min(m, n) <= DENSE_SIDE and m * n <= DENSE_SIZE:
        matrix = dense_matrix(problem, linear, law.modes)
        return DenseSystem(
            matrix=matrix,
            out_shape=tuple(linear.out_shape),
            mode_shape=tuple(law.modes.mode_shape),
            out_complex=problem.data.dtype if problem.data.is_complex() else None,
            mode_complex=law.mean.dtype if law.mean.is_complex() else None,
            gram=matrix.mT @ matrix if n < m else None,
        )
    modes = law.modes
    if not rough and (wide := widened(problem, modes)) is not None:
        problem, modes = wide
        linear = problem.operator
        assert isinstance(linear, LinearOperator)
    level, precision = probe(problem, modes)
    return IterativeSystem(
        problem=problem,
        operator=linear,
        modes=modes,
        tol=tol,
        max_iter=max_iter,
        level=level,
        precision=precision,
        tolerated=tolerated,
        rough=rough,
    )


def widened(problem: Problem, modes: Modes) -> tuple[Problem, Modes] | None:
    """Problem and modes in float64; None where the operator works in its own precision only."""
    try:
        wide, basis = problem.to(dtype=torch.float64), modes.to(dtype=torch.float64)
        linear = wide.operator
        assert isinstance(linear, LinearOperator)
        x = torch.zeros(linear.batch or 1, *linear.in_shape, dtype=wide.signal_dtype, device=wide.data.device)
        linear.adjoint(linear(x))  # a function may hold tensors that cannot be cast from outside
    except (InvsolveError, RuntimeError, TypeError):
        return None
    return wide, basis


def dense_matrix(problem: Problem, operator: LinearOperator, modes: Modes, *, rows: int = 256) -> Tensor:
    """``B`` as a real float64 matrix ``(m, n)``, by applying it to unit modes, ``rows`` at a time.

    Or, where there are many unknowns and few data, by its adjoint and unit data.
    """
    dtype = kind_dtype(problem.data.dtype, "complex" if problem.signal_dtype.is_complex else "real")
    n = prod(modes.mode_shape) * (2 if dtype.is_complex else 1)
    m = prod(operator.out_shape) * (2 if problem.data.is_complex() else 1)
    if n >= _MANY and _FEW * m <= n:
        return _dense_by_adjoint(problem, operator, modes, m, rows)
    columns = []
    for first in range(0, n, rows):
        unit = torch.zeros(min(rows, n - first), n, dtype=kind_dtype(dtype, "real"), device=problem.data.device)
        unit.diagonal(first).fill_(1.0)
        u = from_real(unit, tuple(modes.mode_shape), dtype if dtype.is_complex else None)
        columns.append(to_real(problem.whiten(operator(modes.synthesis(u)))).double())
    return torch.cat(columns).mT.contiguous()


def _dense_by_adjoint(problem: Problem, operator: LinearOperator, modes: Modes, m: int, rows: int) -> Tensor:
    dtype, real = problem.data.dtype, kind_dtype(problem.data.dtype, "real")
    found = []
    for first in range(0, m, rows):
        unit = torch.zeros(min(rows, m - first), m, dtype=real, device=problem.data.device)
        unit.diagonal(first).fill_(1.0)
        w = from_real(unit, tuple(operator.out_shape), dtype if dtype.is_complex else None)
        found.append(to_real(modes.adjoint(operator.adjoint(problem.unwhiten_adjoint(w)))).double())
    return torch.cat(found)
