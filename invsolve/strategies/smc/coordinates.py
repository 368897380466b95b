"""Coordinates in which SMC works: real numbers u in which the diffusion noise is white, all in float64.

They are the modes of a prior whose covariance given ``x_t`` is diagonal there (Gaussian and sparse priors), else the
entries of the signal. Everything is float64: twists are differences of large numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.core.counting import count
from invsolve.core.validation import kind_dtype
from invsolve.gaussian.law import Modes
from invsolve.noise import Gaussian
from invsolve.operators.base import LinearOperator
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasLaw, HasModeMoments, IsGaussian
from invsolve.problem import Problem
from invsolve.strategies.smc.kernels import positive


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Coordinates:
    """``u`` ``(rows, n)`` of signals ``(rows, *shape)``."""

    prior: Prior
    dtype: torch.dtype  # of the signal
    modes: Modes | None  # in which V is diagonal; None: the entries themselves, V is a matrix

    @classmethod
    def from_problem(cls, problem: Problem, prior: Prior) -> Coordinates:
        modes = prior.law.modes if isinstance(prior, IsGaussian | HasModeMoments) else None
        return cls(prior=prior, dtype=problem.signal_dtype, modes=modes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.prior.shape if self.modes is None else self.modes.mode_shape)

    @property
    def size(self) -> int:
        return prod(self.shape) * (2 if self.dtype.is_complex else 1)

    def analysis(self, x: Tensor) -> Tensor:
        u = x if self.modes is None else self.modes.analysis(x - self.prior.mean)
        return to_real(u).double()

    def synthesis(self, u: Tensor) -> Tensor:
        x = self.direction(u)
        return x if self.modes is None else self.prior.mean + x

    def direction(self, u: Tensor) -> Tensor:
        """The change of the signal for a change of u."""
        real = kind_dtype(self.dtype, "real")
        v = from_real(u.to(real), self.shape, self.dtype if self.dtype.is_complex else None)
        return v if self.modes is None else self.modes.synthesis(v)

    def adjoint(self, x: Tensor) -> Tensor:
        return to_real(x if self.modes is None else self.modes.adjoint(x)).double()

    def law_variances(self) -> Tensor:
        """Of the modes of the prior's stated Gaussian, ``(1, n)``."""
        assert isinstance(self.prior, HasLaw)
        v = self.prior.law.variances.double().reshape(1, -1)
        return v.repeat_interleave(2, 1) if self.dtype.is_complex else v

    def moments(self, x: Tensor, u: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``D`` in the signal and in u ``(rows, n)``, and V of x0 given ``x`` (Tweedie), which is ``u`` in modes.

        V is ``(rows or 1, n)``, its diagonal, where there are modes, else ``(rows, n, n)``.
        """
        if self.modes is None:
            value, covariance = self.prior.moments(x, level)
            if not self.prior.cheap_pullback:
                covariance, _ = positive(covariance, 1e-9 * level**2)
            return value, to_real(value).double(), covariance
        if isinstance(self.prior, HasModeMoments):
            value, variances = self.prior.mode_moments(x, level)
            return value, self.analysis(value), variances.double().reshape(-1, self.size)
        count("denoise", len(x))  # in the modes: the prior's own would go to modes and back
        t2, v = level.view(-1, 1) ** 2, self.law_variances()
        mean = v / (v + t2) * u
        return self.synthesis(mean), mean, v * (t2 / (v + t2))

    def log_density(self, u: Tensor, level: Tensor) -> Tensor:
        """``log p_t`` of the signal at modes ``u``, (rows,), of a Gaussian prior."""
        total = self.law_variances() + level.view(-1, 1) ** 2
        return -0.5 * (u.square() / total + total.log()).sum(1) - self.constant

    @property
    def constant(self) -> float:
        """What densities in u lack beside those of the signal: ``(2 pi)^(n/2)`` and the volume of the modes."""
        parts = 2 if self.dtype.is_complex else 1
        volume = 0.0 if self.modes is None else parts * self.modes.log_det
        return 0.5 * self.size * math.log(2 * math.pi) + volume

    def products(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """D as in `moments`, and the map ``H -> H V`` of matrices ``(rows or 1, m, n)``, without forming V."""
        value, pull = self.prior.pullback(x, level)
        t2 = (level**2).view(-1, 1)

        def product(H: Tensor) -> Tensor:
            return torch.stack([t2 * self.adjoint(pull(self.direction(h.expand(len(x), -1)))) for h in H.unbind(1)], 1)

        return value, self.analysis(value), product


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Jacobian:
    """``H = G^-1/2 A`` in u, ``(rows or items or 1, m, n)``; where m > n, H and data are rotated by ``Q^T`` into n."""

    matrix: Tensor
    rotation: Tensor | None

    @classmethod
    def of(cls, matrix: Tensor) -> Jacobian:
        if matrix.shape[-2] <= matrix.shape[-1]:
            return cls(matrix=matrix, rotation=None)
        q, r = torch.linalg.qr(matrix)
        return cls(matrix=r, rotation=q.mT)

    def take(self, index: Tensor) -> Jacobian:
        if len(self.matrix) == 1:
            return self
        rotation = None if self.rotation is None else self.rotation[index]
        return Jacobian(matrix=self.matrix[index], rotation=rotation)


def linear_jacobian(problem: Problem, coordinates: Coordinates, *, rows: int = 512) -> Jacobian:
    """Of a linear operator: one matrix, or one for every item where they differ; by applying it to unit vectors.

    To those of the data, through the adjoint, where the data are fewer; ``rows`` at a time. Where the noise is not
    Gaussian its std is known at D only: the matrix is then the operator's.
    """
    if isinstance(problem.noise, Gaussian):
        return Jacobian.of(_matrix(problem, coordinates, rows))
    return Jacobian(matrix=_matrix(problem.with_unit_noise(), coordinates, rows), rotation=None)


def _matrix(problem: Problem, coordinates: Coordinates, rows: int) -> Tensor:
    y, n, items = problem.data, coordinates.size, 1 if problem.shared else len(problem.data)
    m = prod(y.shape[1:]) * (2 if y.is_complex() else 1)
    own = torch.arange(items, device=y.device)
    if m < n // 2 and items == 1:
        operator = problem.operator
        assert isinstance(operator, LinearOperator)
        blocks = []
        for unit in torch.split(torch.eye(m, dtype=kind_dtype(y.dtype, "real"), device=y.device), rows):
            w = from_real(unit, tuple(y.shape[1:]), y.dtype if y.is_complex() else None)
            one = problem.take(own.repeat(len(unit)))
            blocks.append(coordinates.adjoint(operator.adjoint(one.unwhiten_adjoint(w))))
        return torch.cat(blocks)[None]
    columns = []
    for unit in torch.split(torch.eye(n, dtype=torch.float64, device=y.device), max(1, rows // items)):
        taken = problem.take(own.repeat_interleave(len(unit)))
        direction = coordinates.direction(unit)
        clean = taken.operator(direction.repeat(items, *([1] * (direction.ndim - 1))))
        columns.append(to_real(taken.whiten(clean)).double().view(items, len(unit), m))
    return torch.cat(columns, 1).mT


def adjoint_matrix(problem: Problem, coordinates: Coordinates, operator: LinearOperator) -> Tensor:
    """H ``(rows, m, n)`` of an operator linearised at a point for every row: one adjoint product a real datum."""
    y = problem.data
    m = prod(y.shape[1:]) * (2 if y.is_complex() else 1)
    unit = torch.eye(m, dtype=kind_dtype(y.dtype, "real"), device=y.device)
    rows = []
    for e in unit:
        w = from_real(e.expand(len(y), m), tuple(y.shape[1:]), y.dtype if y.is_complex() else None)
        rows.append(coordinates.adjoint(operator.adjoint(problem.unwhiten_adjoint(w))))
    return torch.stack(rows, 1)
