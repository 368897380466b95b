"""Data against a white signal of one variance: ``A^H (v A C A^H + G)^-1 r``, the linear algebra of published steps.

With ``D`` a denoised signal and v a variance, ``D + v C A^H (v A C A^H + G)^-1 (y - A D)`` is the mean of a signal
``N(D, v C)`` given the data: DiffPIR's proximal point, the split Gibbs step of PnP-DM, and PiGDM's vector.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.core.conjugate_gradients import conjugate_gradients, default_rtol
from invsolve.core.validation import kind_dtype
from invsolve.gaussian.systems import DENSE_SIDE, DENSE_SIZE
from invsolve.noise import Gaussian
from invsolve.operators.base import LinearOperator
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers.base import Level


class Resolvent(abc.ABC):
    """For one problem and prior; a row is solved by itself."""

    @abc.abstractmethod
    def back(self, rest: Tensor, v: Level) -> Tensor:
        """``A^H (v A C A^H + G)^-1 rest`` for ``rest`` ``(rows, *out_shape)``: ``(rows, *shape)``."""

    @abc.abstractmethod
    def take(self, index: Tensor) -> Self: ...


def resolvent(
    problem: Problem,
    prior: Prior,
    operator: LinearOperator | None = None,
    *,
    rtol: float | None = None,
    max_iter: int = 200,
) -> Resolvent:
    """The solver of ``A^H (v A C A^H + G)^-1`` that suits the problem, whose noise is Gaussian.

    Elementwise where ``A A^H`` is diagonal, by one decomposition where rows share a small operator, else by conjugate
    gradients (to ``rtol``, by default `core.conjugate_gradients.default_rtol`, in at most ``max_iter`` steps).
    ``operator``: in place of the problem's own, one item a row.
    """
    linear = operator or problem.operator
    assert isinstance(linear, LinearOperator) and isinstance(problem.noise, Gaussian)
    white = prior.white_noise
    if white and linear.gram is not None and isinstance(problem.noise.std, (float, Tensor)):
        return _Diagonal(problem=problem, operator=linear)
    parts = 2 if problem.data.is_complex() else 1
    m, n = parts * prod(linear.out_shape), prod(problem.shape) * (2 if problem.signal_dtype.is_complex else 1)
    if white and operator is None and problem.shared and min(m, n) <= DENSE_SIDE and m * n <= DENSE_SIZE:
        return _Dense.of(problem, linear)
    rtol = rtol or default_rtol(problem.data.dtype)
    return _Iterative(problem=problem, prior=prior, operator=linear, rtol=rtol, max_iter=max_iter)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Diagonal(Resolvent):
    problem: Problem
    operator: LinearOperator

    def back(self, rest: Tensor, v: Level) -> Tensor:
        gram, noise = self.operator.gram, self.problem.noise
        assert isinstance(noise, Gaussian) and gram is not None and isinstance(noise.std, (float, Tensor))
        if isinstance(gram, Tensor):  # a mask times a number would be of torch's default precision
            gram = gram.to(rest.real.dtype)
        weighed = rest / (v * gram + noise.std**2)
        observed = self.problem.operator.observed
        return self.operator.adjoint(weighed if observed is None else weighed * observed)

    def take(self, index: Tensor) -> Self:
        return replace(self, problem=self.problem.take(index), operator=self.operator.take(index))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Dense(Resolvent):
    """``G^-1/2 A = U s V^T`` over real numbers (complex entries are pairs), float64."""

    problem: Problem
    left: Tensor  # U (m, k)
    values: Tensor  # (k,)
    right: Tensor  # V^T (k, n)

    @classmethod
    def of(cls, problem: Problem, operator: LinearOperator) -> _Dense:
        dtype = problem.signal_dtype
        n = prod(problem.shape) * (2 if dtype.is_complex else 1)
        columns = []
        for rows in torch.split(torch.eye(n, dtype=kind_dtype(dtype, "real"), device=problem.data.device), 256):
            signals = from_real(rows, problem.shape, dtype if dtype.is_complex else None)
            columns.append(to_real(problem.whiten(operator(signals))).double())
        left, values, right = torch.linalg.svd(torch.cat(columns).mT, full_matrices=False)
        return cls(problem=problem, left=left, values=values, right=right)

    def back(self, rest: Tensor, v: Level) -> Tensor:
        white = to_real(self.problem.whiten(rest)).double()
        level = v.double().view(-1, 1) if isinstance(v, Tensor) else v
        gain = self.values / (1 + level * self.values**2)
        real = ((white @ self.left) * gain) @ self.right
        dtype = self.problem.signal_dtype
        real = real.to(kind_dtype(dtype, "real"))
        return from_real(real, self.problem.shape, dtype if dtype.is_complex else None)

    def take(self, index: Tensor) -> Self:
        return replace(self, problem=self.problem.take(index))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Iterative(Resolvent):
    problem: Problem
    prior: Prior
    operator: LinearOperator
    rtol: float
    max_iter: int

    def back(self, rest: Tensor, v: Level) -> Tensor:
        problem, operator = self.problem, self.operator

        def apply(w: Tensor) -> Tensor:
            back = self.prior.noise_covariance(operator.adjoint(problem.unwhiten_adjoint(w)))
            return w + problem.whiten(operator(v * back))

        w, _ = conjugate_gradients(apply, problem.whiten(rest), rtol=self.rtol, max_iter=self.max_iter)
        return operator.adjoint(problem.unwhiten_adjoint(w))

    def take(self, index: Tensor) -> Self:
        return replace(self, problem=self.problem.take(index), operator=self.operator.take(index))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DataStep:
    """The data's part of a plug-and-play step, bound once: a mean or a draw of ``N(centre, v C)`` given the data.

    Exact for linear operators and Gaussian noise; others are linearised at the centre, and the noise is replaced by its
    Gaussian there (one Gauss-Newton step).
    """

    problem: Problem
    prior: Prior
    solver: Resolvent | None  # None: made anew for every centre
    rtol: float | None = None
    max_iter: int = 200

    @classmethod
    def from_problem(
        cls, problem: Problem, prior: Prior, *, rtol: float | None = None, max_iter: int = 200
    ) -> DataStep:
        once = problem.linear and isinstance(problem.noise, Gaussian)
        solver = resolvent(problem, prior, rtol=rtol, max_iter=max_iter) if once else None
        return cls(problem=problem, prior=prior, solver=solver, rtol=rtol, max_iter=max_iter)

    def back(self, centre: Tensor, v: Level, data: Tensor | None = None) -> Tensor:
        """``A^H (v A C A^H + G)^-1 (y - A centre)``; ``data``: in place of the problem's."""
        problem, solver = self.problem, self.solver
        clean = problem.operator(centre)
        if solver is None:
            problem, linear = problem.gaussianised(clean), problem.operator.linearize(centre)
            solver = resolvent(problem, self.prior, linear, rtol=self.rtol, max_iter=self.max_iter)
        return solver.back((problem.data if data is None else data) - clean, v)

    def mean(self, centre: Tensor, v: Level, data: Tensor | None = None) -> Tensor:
        """``centre + v C A^H (v A C A^H + G)^-1 (y - A centre)``."""
        return centre + v * self.prior.noise_covariance(self.back(centre, v, data))

    def draw(self, centre: Tensor, v: Level, unit: Tensor, noise: Tensor) -> Tensor:
        """A draw by perturbing both ends (Papandreou & Yuille 2010).

        ``unit``: diffusion noise of level 1 for the signal, ``noise``: drawn from the noise of the data.
        """
        spread = v.sqrt() if isinstance(v, Tensor) else v**0.5
        return self.mean(centre + spread * unit, v, self.problem.data + noise)

    def take(self, index: Tensor) -> Self:
        solver = None if self.solver is None else self.solver.take(index)
        return replace(self, problem=self.problem.take(index), solver=solver)


__all__ = ["DataStep", "Resolvent", "resolvent"]
