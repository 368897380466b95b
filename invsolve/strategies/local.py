"""The Gaussian that stands for ``x0 | x_t`` with and without the data, densely and for every row.

Coordinates u are real numbers in which the diffusion noise is white: the entries of the signal, or the modes of an
exact law. Everything is float64: twists are differences of large numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.arrays import from_real, to_real
from invsolve.checks import kind_dtype
from invsolve.operators.base import LinearOperator
from invsolve.priors.base import Prior
from invsolve.priors.modes import Modes
from invsolve.problem import Problem

_POINTS = 8  # pairs of points at which the curvature of an operator is felt


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Coordinates:
    """``u`` ``(rows, n)`` of signals ``(rows, *shape)``."""

    prior: Prior
    dtype: torch.dtype  # of the signal
    modes: Modes | None  # None: the entries themselves

    @classmethod
    def of(cls, problem: Problem, prior: Prior) -> Coordinates:
        modes = prior.law.modes if prior.exact_law and prior.law is not None else None
        return cls(prior=prior, dtype=problem.signal_dtype, modes=modes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.prior.shape if self.modes is None else self.modes.mode_shape)

    @property
    def size(self) -> int:
        return prod(self.shape) * (2 if self.dtype.is_complex else 1)

    @property
    def log_det(self) -> float:
        """log of the volume of a unit of u in the signal."""
        parts = 2 if self.dtype.is_complex else 1
        return 0.0 if self.modes is None else parts * self.modes.log_det

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

    def moments(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``D`` in the signal and in u ``(rows, n)``, and ``V`` ``(rows or 1, n, n)``: of x0 given ``x`` (Tweedie)."""
        if self.modes is not None:
            law = self.prior.law
            assert law is not None
            value = self.prior.denoise(x, level)
            t = level.to(law.variances).view(-1, *([1] * len(self.shape))) if level.ndim else level.to(law.variances)
            variances = law.posterior_variances(t).double().reshape(-1, prod(self.shape))
            if self.dtype.is_complex:
                variances = variances.repeat_interleave(2, 1)
            return value, self.analysis(value), torch.diag_embed(variances)
        value, covariance = self.prior.moments(x, level)
        if not self.prior.cheap_pullback:
            covariance = _positive(covariance, 1e-9 * level**2)
        return value, to_real(value).double(), covariance

    def products(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """D as in `moments`, and the map ``H -> H V`` of matrices ``(rows or 1, m, n)``, without forming V."""
        if self.modes is not None:
            value, mean, covariance = self.moments(x, level)
            return value, mean, lambda H: H * covariance.diagonal(dim1=-2, dim2=-1)[:, None]
        value, pull = self.prior.pullback(x, level)
        t2 = (level**2).view(-1, 1)

        def product(H: Tensor) -> Tensor:
            return torch.stack(
                [t2 * self.adjoint(pull(self.direction(h.expand(len(x), -1)))) for h in H.unbind(1)], 1
            )

        return value, to_real(value).double(), product


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


def linear_jacobian(problem: Problem, coordinates: Coordinates) -> Jacobian:
    """Of a linear operator: one matrix, or one for every item where they differ; by applying it to unit vectors."""
    n, items = coordinates.size, 1 if problem.shared else len(problem.data)
    unit = coordinates.direction(torch.eye(n, dtype=torch.float64, device=problem.data.device))
    rows = problem.take(torch.arange(items, device=unit.device).repeat_interleave(n))
    columns = rows.whiten(rows.operator(unit.repeat(items, *([1] * (unit.ndim - 1)))))
    return Jacobian.of(to_real(columns).double().view(items, n, -1).mT)


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


def curvature(
    problem: Problem, coordinates: Coordinates, value: Tensor, covariance: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(rows, m)`` of what linearisation at D leaves of the whitened data, over ``N(D, V)``.

    From fixed points: without it, a twist is far too sure of itself where A bends within V, and modes are lost.
    """
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(_POINTS, covariance.shape[-1], generator=rng, dtype=torch.float64).to(value.device)
    jitter = 1e-12 * covariance.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    total = covariance.clone()
    total.diagonal(dim1=-2, dim2=-1).add_(jitter)
    root = cholesky(total)
    clean = problem.operator(value)
    left = []
    for z in torch.cat((points, -points)):
        step = (root @ z).expand(len(value), -1)
        bent = to_real(problem.whiten(problem.operator(value + coordinates.direction(step)) - clean)).double()
        left.append(bent - (matrix @ step[..., None])[..., 0])
    errors = torch.stack(left)
    return errors.mean(0), errors.var(0)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Local:
    """``x0 | x_t ~ N(mean, covariance)``, and given the data ``N(guided_mean, guided_covariance)``; all in u.

    ``log_twist`` (rows,): ``log N(y; A D, A V A^H + G)``, A linearised at D where it is not linear. Covariances
    ``(rows or 1, n, n)`` are left out (None) where the signal is large.
    """

    mean: Tensor
    guided_mean: Tensor
    covariance: Tensor | None
    guided_covariance: Tensor | None
    log_twist: Tensor
    residual: Tensor  # whitened y - A(D), (rows, m); of a non-linear A less its mean curvature, over its std
    log_scale: Tensor  # (rows,): log of the product of those stds
    jacobian: Jacobian

    @classmethod
    def of(
        cls, problem: Problem, coordinates: Coordinates, jacobian: Jacobian | None, x: Tensor, level: Tensor,
        *, with_covariance: bool,
    ) -> Local:
        """At ``x``, level t (0-d or a row each); ``jacobian`` of a linear operator, None: it is linearised at D."""
        covariance, log_scale = None, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if with_covariance:
            value, mean, covariance = coordinates.moments(x, level)
        else:
            value, mean, product = coordinates.products(x, level)
        white = to_real(problem.whiten(problem.data - problem.operator(value))).double()
        if jacobian is None:
            matrix = adjoint_matrix(problem, coordinates, problem.operator.linearize(value))
            if covariance is not None:
                shift, variance = curvature(problem, coordinates, value, covariance, matrix)
                scale = (1 + variance).sqrt()
                white, matrix = (white - shift) / scale, matrix / scale[..., None]
                log_scale = scale.log().sum(1)
            jacobian = Jacobian.of(matrix)
        H = jacobian.matrix
        # A V = (V A^H)^H, (rows or 1, m, n)
        cross = product(H) if covariance is None else _times(covariance, H.mT).mT
        residual, rest = white, white.new_zeros(())
        if jacobian.rotation is not None:
            residual = (jacobian.rotation @ white[..., None])[..., 0]
            rest = white.square().sum(1) - residual.square().sum(1)
        system = _times(cross, H.mT)
        system.diagonal(dim1=-2, dim2=-1).add_(1.0)
        root = cholesky((system + system.mT) / 2)
        z = torch.linalg.solve_triangular(root, residual[..., None], upper=False)
        scaled = torch.linalg.solve_triangular(root, cross, upper=False)
        # log N is the noise's own density at its mode, which knows units and what was observed, and the rest.
        peak = problem.noise.log_prob(problem.data, problem.data, problem.operator.observed).double()
        size = z[..., 0].square().sum(1) + rest
        return cls(
            mean=mean, covariance=covariance, residual=white, log_scale=log_scale, jacobian=jacobian,
            guided_mean=mean + (scaled.mT @ z)[..., 0],
            guided_covariance=None if covariance is None else _minus_square(covariance, scaled),
            log_twist=peak - log_scale - 0.5 * size - root.diagonal(dim1=-2, dim2=-1).log().sum(-1),
        )

    def take(self, index: Tensor) -> Local:
        """Of the rows ``index``."""

        def rows(v: Tensor) -> Tensor:
            return v[index] if len(v) == len(self.mean) else v  # what is shared by the rows stays so

        return Local(
            mean=rows(self.mean), guided_mean=rows(self.guided_mean),
            covariance=None if self.covariance is None else rows(self.covariance),
            guided_covariance=None if self.guided_covariance is None else rows(self.guided_covariance),
            log_twist=rows(self.log_twist), residual=rows(self.residual),
            log_scale=rows(self.log_scale), jacobian=self.jacobian.take(index),
        )


def _times(many: Tensor, one: Tensor) -> Tensor:
    """``many @ one``, as a single product where ``one`` is shared by the rows: several times faster than a batch."""
    if len(one) > 1 or len(many) == 1:
        return many @ one
    return (many.reshape(-1, many.shape[-1]) @ one[0]).view(*many.shape[:-1], -1)


def _minus_square(covariance: Tensor, scaled: Tensor) -> Tensor:
    """``V - X^T X``."""
    if len(covariance) != len(scaled):
        return covariance - scaled.mT @ scaled
    return torch.baddbmm(covariance, scaled.mT, scaled, alpha=-1)


def _positive(covariance: Tensor, floor: Tensor) -> Tensor:
    """Covariances with eigenvalues below 0 (a network's Jacobian) set to 0; rows that are NaN stay."""
    total = covariance.clone()
    total.diagonal(dim1=-2, dim2=-1).add_(floor.view(-1, 1))
    failed = torch.linalg.cholesky_ex(total).info != 0
    failed &= torch.isfinite(covariance).flatten(1).all(1)
    if not bool(failed.any()):
        return covariance
    values, vectors = torch.linalg.eigh(covariance[failed])
    out = covariance.clone()
    out[failed] = (vectors * values.clamp_min(0)[:, None]) @ vectors.mT
    return out


def cholesky(matrix: Tensor) -> Tensor:
    """Lower factors ``(rows, n, n)``; a matrix that is not positive definite gives NaN, for its own row only."""
    factor = torch.linalg.cholesky_ex(matrix)
    root: Tensor = factor.L
    root.diagonal(dim1=-2, dim2=-1).add_(torch.where(factor.info == 0, 0.0, torch.nan)[..., None])
    return root
