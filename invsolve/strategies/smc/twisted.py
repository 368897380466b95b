"""The Gaussian that stands for ``x0 | x_t`` with and without the data, for every row, and the kernels made of it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.noise import Gaussian
from invsolve.problem import Problem
from invsolve.strategies.smc.coordinates import Coordinates, Jacobian, adjoint_matrix
from invsolve.strategies.smc.kernels import (
    DenseKernel,
    DiagonalKernel,
    Kernel,
    UpdatedKernel,
    cholesky,
    log_diagonal,
    positive,
    solve,
    solve_transposed,
    times,
)

_Form = TypeVar("_Form", bound="Local")

_POINTS = 8  # pairs of points at which the curvature of an operator is felt
_EXPANSIONS = 2  # of noise that is not Gaussian, after the one at D
_IMPOSSIBLE = 1e-2  # below minus this, in units of the noise, an eigenvalue of H V H^T is no rounding
_JITTER = 1e-10  # of the last level's variance: directions that the prior knows have no spread of their own


@dataclass(frozen=True, kw_only=True, eq=False)
class Local(abc.ABC):
    """``x0 | x_t ~ N(mean, V)`` at level a, and given the data ``N(guided_mean, V_y)``; all in u.

    ``log_twist`` (rows,): ``log N(y; A D, A V A^H + G)``, A linearised at D where it is not linear. A reverse step from
    ``u`` at level a to b is ``N(r u + (1 - r) D, (1 - r)^2 V + b^2 (1 - r))``, r = b^2 / a^2: exact for Gaussian
    priors; `unguided` is this, `guided` the same with ``D_y`` and ``V_y``. Levels are 0-d or a row each.
    """

    level: Tensor  # a, () or (rows,)
    mean: Tensor  # (rows, n)
    guided_mean: Tensor  # (rows, n)
    log_twist: Tensor  # (rows,)
    linear: Linear

    @abc.abstractmethod
    def unguided(self, u: Tensor, b: Tensor, mean: Tensor | None = None) -> Kernel:
        """The step without data, or towards another ``mean`` than D."""

    @abc.abstractmethod
    def guided(self, u: Tensor, b: Tensor) -> Kernel:
        """The step given the data."""

    def _weights(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """r, and ``b^2 (1 - r)``, which at b = 0 is a trace of noise; ``(rows or 1, 1)``."""
        a, b = self.level.view(-1, 1), b.view(-1, 1)
        r = (b / a) ** 2
        return r, torch.where(b > 0, b**2 * (1 - r), _JITTER * a**2)

    def log_likelihood_ratio(self, problem: Problem, coordinates: Coordinates, u: Tensor) -> Tensor:
        """Log of the likelihood at ``u`` over the Gaussian one of the linearised operator and Gaussian noise."""
        linear, clean = self.linear, problem.operator(coordinates.synthesis(u))
        if isinstance(problem.noise, Gaussian):  # relative to the peak, which is large
            true = -0.5 * to_real(problem.whiten(problem.data - clean)).double().square().sum(1)
        else:
            true = problem.noise.log_prob(problem.data, clean, problem.operator.observed).double() - linear.peak
        step = times(linear.jacobian.matrix, u - self.mean)
        if linear.jacobian.rotation is not None:
            step = times(linear.jacobian.rotation.mT, step)
        gaussian = (linear.residual - step).square().sum(1)
        return linear.log_scale + 0.5 * gaussian + true


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """Whitened data as a linear function of u around D: ``residual = H (u - D) + noise``."""

    jacobian: Jacobian
    residual: Tensor  # whitened y - A(D), (rows, m); of a non-linear A less its mean curvature, over its std
    log_scale: Tensor  # (rows,): log of the product of those stds
    peak: Tensor  # (rows,): log density of the noise at its mode, which knows units and what was observed
    plain: Plain | None = None  # where the noise is not Gaussian

    @classmethod
    def at(
        cls, problem: Problem, coordinates: Coordinates, jacobian: Jacobian | None, value: Tensor, V: Tensor | None
    ) -> Linear:
        """Around D = ``value``; ``jacobian`` None: the operator is linearised there, its curvature felt within V."""
        if not isinstance(problem.noise, Gaussian):
            plain = Plain.at(problem, coordinates, jacobian, value, V)
            return plain.with_noise_at(problem, plain.clean)
        log_scale = torch.zeros(len(value), dtype=torch.float64, device=value.device)
        white = to_real(problem.whiten(problem.data - problem.operator(value))).double()
        if jacobian is None:
            matrix = adjoint_matrix(problem, coordinates, problem.operator.linearize(value))
            white, matrix = _defined(white, matrix)
            if V is not None:
                shift, variance = curvature(problem, coordinates, value, V, matrix)
                scale = (1 + variance).sqrt()
                white, matrix = (white - shift) / scale, matrix / scale[..., None]
                log_scale = scale.log().sum(1)
            jacobian = Jacobian.of(matrix)
        peak = problem.noise.log_prob(problem.data, problem.data, problem.operator.observed).double()
        return cls(jacobian=jacobian, residual=white, log_scale=log_scale, peak=peak)

    @property
    def rotated(self) -> Tensor:
        """The residual as the Jacobian sees it."""
        rotation = self.jacobian.rotation
        return self.residual if rotation is None else times(rotation, self.residual)

    def log_density(self, z: Tensor, residual: Tensor, root: Tensor) -> Tensor:
        """``log N(residual; 0, 1 + H V H^T)``, of ``z = root^-1 residual``, and of what the rotation left out."""
        size = z.square().sum(1)
        if self.jacobian.rotation is not None:
            size = size + self.residual.square().sum(1) - residual.square().sum(1)
        return self.peak - self.log_scale - 0.5 * size - log_diagonal(root)


def _defined(white: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in which A or its derivative is no number at D as data that say nothing, one std away each.

    The signal itself may lie where A is defined: a twist of NaN, which is a weight of 0, would leave it out.
    """
    known = white.isfinite().all(1) & matrix.isfinite().flatten(1).all(1)
    if bool(known.all()):
        return white, matrix
    return torch.where(known[:, None], white, 3.0), torch.where(known[:, None, None], matrix, 0.0)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Plain:
    """Clean data as a linear function of u around D, in the units of the data; 0 where nothing was observed."""

    clean: Tensor  # A(D), (rows, *out_shape)
    matrix: Tensor  # (rows or 1, m, n)
    shift: Tensor | None  # (rows, m): mean curvature of a non-linear A within V, and its variance
    variance: Tensor | None

    @classmethod
    def at(
        cls, problem: Problem, coordinates: Coordinates, jacobian: Jacobian | None, value: Tensor, V: Tensor | None
    ) -> Plain:
        clean = problem.operator(value)
        if jacobian is not None:
            return cls(clean=clean, matrix=jacobian.matrix, shift=None, variance=None)
        plain = problem.with_unit_noise()
        matrix = adjoint_matrix(plain, coordinates, plain.operator.linearize(value))
        shift, variance = (None, None) if V is None else curvature(plain, coordinates, value, V, matrix)
        return cls(clean=clean, matrix=matrix, shift=shift, variance=variance)

    def after(self, step: Tensor) -> Tensor:
        """The clean data ``(rows, *out_shape)`` for a change of u ``(rows, n)``."""
        y = self.clean
        change = times(self.matrix, step).to(y.real.dtype)
        return y + from_real(change, tuple(y.shape[1:]), y.dtype if y.is_complex() else None)

    def with_noise_at(self, problem: Problem, clean: Tensor) -> Linear:
        """The noise replaced by its Gaussian at ``clean``; ``peak`` makes the likelihood there the true one."""
        local, peak = problem.surrogate(clean)
        y = local.data
        ones = from_real(torch.ones_like(to_real(y)), tuple(y.shape[1:]), y.dtype if y.is_complex() else None)
        weight = to_real(local.whiten(ones)).double()
        white = to_real(local.whiten(y - self.clean)).double()
        log_scale = torch.zeros_like(peak)
        if self.shift is not None and self.variance is not None:
            scale = (1 + weight.square() * self.variance).sqrt()
            white, weight = (white - weight * self.shift) / scale, weight / scale
            log_scale = scale.log().sum(1)
        jacobian = Jacobian.of(weight[..., None] * self.matrix)
        return Linear(jacobian=jacobian, residual=white, log_scale=log_scale, peak=peak, plain=self)


def curvature(
    problem: Problem, coordinates: Coordinates, value: Tensor, V: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(rows, m)`` of what linearisation at D leaves of the whitened data, over ``N(D, V)``.

    From fixed points: without it, a twist is far too sure of itself where A bends within V, and modes are lost.
    """
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(_POINTS, coordinates.size, generator=rng, dtype=torch.float64, device="cpu").to(value.device)
    if V.ndim == 3:
        total = V.clone()
        total.diagonal(dim1=-2, dim2=-1).add_(1e-12 * V.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True))
        root = cholesky(total)
    clean = problem.operator(value)
    left = []
    for z in torch.cat((points, -points)):
        step = (root @ z if V.ndim == 3 else V.sqrt() * z).expand(len(value), -1)
        bent = to_real(problem.whiten(problem.operator(value + coordinates.direction(step)) - clean)).double()
        left.append(bent - times(matrix, step))
    errors = torch.stack(left)
    known = errors.isfinite().all(-1, keepdim=True)
    if bool(known.all()):
        return errors.mean(0), errors.var(0)
    # A point outside of the operator's domain (a root of what is negative) says nothing, and must not take D with it.
    errors, count = torch.where(known, errors, 0.0), known.sum(0)
    mean = errors.sum(0) / count.clamp_min(1)
    return mean, torch.where(known, (errors - mean).square(), 0.0).sum(0) / (count - 1).clamp_min(1)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DiagonalLocal(Local):
    """V diagonal in u: kernels need no n x n matrix, only m x m ones; shared by the rows where V and H are."""

    V: Tensor  # (rows or 1, n)
    R: Tensor  # (rows or 1, m, m): root of 1 + H V H^T

    @classmethod
    def of(
        cls,
        problem: Problem,
        coordinates: Coordinates,
        jacobian: Jacobian | None,
        x: Tensor,
        u: Tensor,
        level: Tensor,
    ) -> DiagonalLocal:
        value, mean, V = coordinates.moments(x, u, level)
        linear = Linear.at(problem, coordinates, jacobian, value, V)
        return _settled(problem, linear, lambda linear: cls.given(linear, mean, V, level))

    @classmethod
    def given(cls, linear: Linear, mean: Tensor, V: Tensor, level: Tensor) -> DiagonalLocal:
        H, residual = linear.jacobian.matrix, linear.rotated
        R = _root_of_one_plus(H, V)
        z = solve(R, residual)
        return cls(
            level=level,
            mean=mean,
            V=V,
            R=R,
            linear=linear,
            guided_mean=mean + V * times(H.mT, solve_transposed(R, z)),
            log_twist=linear.log_density(z, residual, R),
        )

    def unguided(self, u: Tensor, b: Tensor, mean: Tensor | None = None) -> Kernel:
        r, noise = self._weights(b)
        centre = r * u + (1 - r) * (self.mean if mean is None else mean)
        return DiagonalKernel(centre=centre, std=((1 - r) ** 2 * self.V + noise).sqrt())

    def guided(self, u: Tensor, b: Tensor) -> Kernel:
        r, noise = self._weights(b)
        total, H = (1 - r) ** 2 * self.V + noise, self.linear.jacobian.matrix
        # R R^T - M M^T = 1 + H E H^T with E = V - (1 - r)^2 V^2 / total, written so that nothing cancels.
        S = _root_of_one_plus(H, self.V * (noise / total))
        return UpdatedKernel(
            centre=r * u + (1 - r) * self.guided_mean,
            std=total.sqrt(),
            gain=(1 - r) * self.V / total.sqrt(),
            H=H,
            R=self.R,
            S=S,
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DenseLocal(Local):
    """V and ``V_y`` as matrices ``(rows or 1, n, n)``."""

    V: Tensor
    guided_V: Tensor

    @classmethod
    def of(
        cls,
        problem: Problem,
        coordinates: Coordinates,
        jacobian: Jacobian | None,
        x: Tensor,
        u: Tensor,
        level: Tensor,
    ) -> DenseLocal:
        value, mean, V = coordinates.moments(x, u, level)

        def given(linear: Linear) -> DenseLocal:
            guided_mean, log_twist, scaled = _condition(linear, mean, _product(V, linear.jacobian.matrix.mT).mT)
            return cls(
                level=level,
                mean=mean,
                V=V,
                linear=linear,
                guided_mean=guided_mean,
                log_twist=log_twist,
                guided_V=torch.baddbmm(V, scaled.mT, scaled, alpha=-1),
            )

        return _settled(problem, Linear.at(problem, coordinates, jacobian, value, V), given)

    def unguided(self, u: Tensor, b: Tensor, mean: Tensor | None = None) -> Kernel:
        return self._kernel(u, b, self.mean if mean is None else mean, self.V)

    def guided(self, u: Tensor, b: Tensor) -> Kernel:
        return self._kernel(u, b, self.guided_mean, self.guided_V)

    def _kernel(self, u: Tensor, b: Tensor, mean: Tensor, covariance: Tensor) -> Kernel:
        r, noise = self._weights(b)
        total = (1 - r)[..., None] ** 2 * covariance
        total.diagonal(dim1=-2, dim2=-1).add_(noise)
        return DenseKernel(centre=r * u + (1 - r) * mean, root=cholesky(total))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class BareLocal(Local):
    """V is only multiplied with: the twist is as above, the steps are the usual ones without V, of first order."""

    @classmethod
    def of(
        cls,
        problem: Problem,
        coordinates: Coordinates,
        jacobian: Jacobian | None,
        x: Tensor,
        u: Tensor,
        level: Tensor,
    ) -> BareLocal:
        value, mean, product = coordinates.products(x, level)

        def given(linear: Linear) -> BareLocal:
            cross = product(linear.jacobian.matrix)
            guided_mean, log_twist, _ = _condition(linear, mean, cross, sure=coordinates.prior.cheap_pullback)
            return cls(level=level, mean=mean, linear=linear, guided_mean=guided_mean, log_twist=log_twist)

        linear = Linear.at(problem, coordinates, jacobian, value, None)
        return _settled(problem, linear, given, expansions=0)  # each would be a product with V for every datum

    def unguided(self, u: Tensor, b: Tensor, mean: Tensor | None = None) -> Kernel:
        r, _ = self._weights(b)
        std = b.view(-1, 1) * (1 - r).sqrt()
        return DiagonalKernel(centre=r * u + (1 - r) * (self.mean if mean is None else mean), std=std)

    def guided(self, u: Tensor, b: Tensor) -> Kernel:
        return self.unguided(u, b, self.guided_mean)


def _settled(
    problem: Problem, linear: Linear, given: Callable[[Linear], _Form], expansions: int = _EXPANSIONS
) -> _Form:
    """``given(linear)``, with noise that is not Gaussian expanded where the data lead from D: Newton's method.

    At D itself the Gaussian of a datum that is far from it is too wide or too narrow, which in many data adds up.
    """
    local = given(linear)
    if linear.plain is not None:
        for _ in range(expansions):
            clean = linear.plain.after(local.guided_mean - local.mean)
            local = given(linear.plain.with_noise_at(problem, clean))
    return local


def _condition(linear: Linear, mean: Tensor, cross: Tensor, *, sure: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """``D_y``, the log twist and ``R^-1 H V`` from ``cross = H V`` ``(rows, m, n)``.

    V that are not ``sure`` to be positive are those of a network: data along which H V H^T is negative say nothing.
    """
    residual = linear.rotated
    system = _product(cross, linear.jacobian.matrix.mT)
    system = (system + system.mT) / 2
    if not sure:
        system, kept = positive(system, torch.full_like(system[:, 0, 0], _IMPOSSIBLE), cross)
        assert kept is not None
        cross = kept
    system.diagonal(dim1=-2, dim2=-1).add_(1.0)
    R = cholesky(system)
    z = solve(R, residual)
    scaled = torch.linalg.solve_triangular(R, cross, upper=False)
    return mean + times(scaled.mT, z), linear.log_density(z, residual, R), scaled


def _root_of_one_plus(H: Tensor, V: Tensor) -> Tensor:
    """The lower factor of ``1 + H diag(V) H^T``."""
    scaled = H * V.sqrt()[:, None]
    system = scaled @ scaled.mT
    system.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return cholesky(system)


def _product(many: Tensor, one: Tensor) -> Tensor:
    """``many @ one``, as a single product where ``one`` is shared by the rows: several times faster than a batch."""
    if len(one) > 1 or len(many) == 1:
        return many @ one
    return (many.reshape(-1, many.shape[-1]) @ one[0]).view(*many.shape[:-1], -1)
