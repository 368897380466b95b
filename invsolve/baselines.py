"""The reconstructions that everybody knows, to be beaten: zero-filled, Tikhonov (CG-SENSE), total variation.

Each takes a linear operator ``A`` (`amplitude_flow`: the modulus of one) and data ``y`` ``(batch, *A.out_shape)``, and
returns ``(batch, *A.in_shape)``; rows do not see each other. Weights are in the units of the objective that is stated,
and `tune_weight` chooses them on examples with a known truth, which must not be the data that are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import direction, expand
from invsolve.core.validation import check_finite, check_int, check_positive, check_shape, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.metrics import nrmse
from invsolve.operators.base import LinearOperator
from invsolve.operators.optics.phase_retrieval import PhaseRetrieval


def zero_filled(A: LinearOperator, y: Tensor) -> Tensor:
    """``A^H y``: the adjoint, with no density compensation and no scale.

    For Cartesian MRI with orthonormal transforms and maps of unit sum of squares this is the usual zero-filled image:
    data that were not measured count as zero. It is too dark by what was left out, and for an operator with
    ``||A|| != 1`` it is not in the units of the signal at all.
    """
    _check("zero_filled", A, y)
    return A.adjoint(y)


def tikhonov(A: LinearOperator, y: Tensor, *, weight: float, rtol: float = 1e-6, max_iter: int = 200) -> Tensor:
    """``argmin_x 1/2 ||A x - y||^2 + weight/2 ||x||^2``, by conjugate gradients on ``A^H A + weight``.

    With a multi-coil `MRI` this is CG-SENSE (Pruessmann et al. 2001, MRM 46). ``weight`` > 0 is compared with
    ``||A||^2``; with ``weight = s^2 / a^2`` it is the posterior mean for noise of std s and a white signal of std a. A
    row stops at a relative residual of ``rtol``, or after ``max_iter`` steps.
    """
    _check("tikhonov", A, y)
    weight = check_positive("tikhonov", "weight", weight)
    rtol = check_positive("tikhonov", "rtol", rtol)
    max_iter = check_int("tikhonov", "max_iter", max_iter, minimum=1)
    return A.solve_normal(A.adjoint(y), tau=weight, rtol=rtol, max_iter=max_iter)


def total_variation(A: LinearOperator, y: Tensor, *, weight: float, iterations: int = 200) -> Tensor:
    """``argmin_x 1/2 ||A x - y||^2 + weight TV(x)`` for real or complex signals of 1 to 3 axes.

    ``TV(x) = sum_i sqrt(sum_d |x_(i + e_d) - x_i|^2)``: isotropic, forward differences, no difference across the border
    (Neumann); spacing 1 in every direction. ``weight`` > 0 is in units of data^2 over signal.

    Primal-dual iterations of Loris & Verhoeven 2011 (Inverse Problems 27, 125007), with p the field of the
    differences, ``|p_i| <= weight``: ``z = x - t (A^H (A x - y) + D^H p)``; ``p <- project(p + s D z)``;
    ``x <- x - t (A^H (A x - y) + D^H p)``. It converges for ``t < 2 / ||A||^2`` and ``s t ||D||^2 <= 1``, with
    ``||D||^2 <= 4`` per axis. Both steps follow from ``A.norm()``, so units do not matter. One application of A and
    one of ``A^H`` an iteration; every row runs all of them.
    """
    _check("total_variation", A, y)
    weight = check_positive("total_variation", "weight", weight)
    iterations = check_int("total_variation", "iterations", iterations, minimum=1)
    axes = len(A.in_shape)
    if not 1 <= axes <= 3:
        raise invalid("total_variation", "A.in_shape", "of 1 to 3 axes", A.in_shape)
    # The power iteration approaches the norm from below; 1.5 instead of 2 leaves room for 13 % of it.
    norm = A.norm(rtol=1e-3).to(y.device)
    if not bool((norm > 0).all()):
        raise invalid("total_variation", "A", "an operator that is not zero", f"norm {float(norm.min())}")
    rhs = A.adjoint(y)
    step = expand((1.5 / norm**2).to(rhs.real.dtype).expand(len(rhs)), rhs)
    dual_step = 1 / (4 * axes * step)
    x, p = torch.zeros_like(rhs), torch.zeros_like(rhs).expand(axes, *rhs.shape)
    pull = torch.zeros_like(rhs)  # D^H p
    for _ in range(iterations):
        descended = x - step * (A.normal(x) - rhs)
        p = p + dual_step * _differences(descended - step * pull)
        size = p.abs().square().sum(0).sqrt()
        p = p * (weight / size.clamp_min(weight))
        pull = _differences_adjoint(p)
        x = descended - step * pull
    return x


def amplitude_flow(A: PhaseRetrieval, y: Tensor, *, iterations: int = 500) -> Tensor:
    """A local minimum of ``1/2 || |B x| - y ||^2`` for ``A`` with ``measure="amplitude"``, from a spectral start.

    ``x <- x - B^H (B x - y sgn(B x)) / ||B||^2`` (Zhang et al. 2017, JMLR 18, 141; `PhaseRetrieval` says what it leaves
    open, a phase at least). The start is the top eigenvector of ``B^H diag(T) B`` with ``T = min(y^2 / mean(y^2), 4)``
    of each row (100 power iterations; Chen & Candes 2017, Comm. Pure Appl. Math. 70, 822, leave larger data out),
    scaled to the energy of the data. With several coded masks it finds the signal; from one oversampled pattern it
    often stagnates.
    """
    if not isinstance(A, PhaseRetrieval) or A.measure != "amplitude":
        raise invalid_type("amplitude_flow", "A", "an iv.operators.PhaseRetrieval with measure='amplitude'", A)
    check_finite("amplitude_flow", "y", check_shape("amplitude_flow", "y", y, A.out_shape))
    iterations = check_int("amplitude_flow", "iterations", iterations, minimum=1)
    B = A.operator
    norm = B.norm(rtol=1e-3).to(y.device)
    if not bool((norm > 0).all()):
        raise invalid("amplitude_flow", "A", "of an operator that is not zero", f"norm {float(norm.min())}")
    x = _spectral_start(B, y)
    step = expand((1 / norm**2).to(y.dtype).expand(len(y)), x)
    for _ in range(iterations):
        u = B(x)
        x = x - step * B.adjoint(u - y * torch.sgn(u))
    return x


def _spectral_start(B: LinearOperator, y: Tensor, iterations: int = 100) -> Tensor:
    dims = tuple(range(1, y.ndim))
    power = y.square()
    weight = (power / power.mean(dims, keepdim=True).clamp_min(torch.finfo(y.dtype).tiny)).clamp_max(4)
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(1, *B.in_shape, generator=rng, dtype=kind_dtype(y.dtype, B.in_kind))
    x = first.to(y.device).expand(len(y), *B.in_shape)
    for _ in range(iterations):
        x = direction(B.adjoint(weight * B(x)))
    reached = B(x).abs().square().sum(dims)
    gain = (power.sum(dims) / reached.clamp_min(torch.finfo(y.dtype).tiny)).sqrt()
    return expand(gain, x) * x


def _differences(x: Tensor) -> Tensor:
    """``D x``: (batch, *shape) -> (axes, batch, *shape), forward differences, zero at the far border."""
    out = x.new_zeros(x.ndim - 1, *x.shape)
    for d in range(1, x.ndim):
        n = x.shape[d] - 1
        torch.sub(x.narrow(d, 1, n), x.narrow(d, 0, n), out=out[d - 1].narrow(d, 0, n))
    return out


def _differences_adjoint(p: Tensor) -> Tensor:
    """``D^H p``: the adjoint of `_differences` (minus a divergence)."""
    out = torch.zeros_like(p[0])
    for d in range(1, out.ndim):
        n = out.shape[d] - 1
        inside = p[d - 1].narrow(d, 0, n)
        out.narrow(d, 1, n).add_(inside)
        out.narrow(d, 0, n).sub_(inside)
    return out


class WeightedSolver(Protocol):
    """A reconstruction with one weight: `tikhonov`, `total_variation`, or a function of the user."""

    def __call__(self, A: LinearOperator, y: Tensor, /, *, weight: float) -> Tensor: ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TunedWeight:
    """The ``weight`` of least error, and the ``errors`` (mean relative error) of all ``weights`` that were tried."""

    weight: float
    weights: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def at_edge(self) -> bool:
        """True if the best weight is the smallest or the largest tried: widen the range."""
        return self.weight in (min(self.weights), max(self.weights))


def tune_weight(
    solver: WeightedSolver, problems: Sequence[tuple[LinearOperator, Tensor, Tensor]], weights: Sequence[float]
) -> TunedWeight:
    """The weight with the smallest mean `nrmse` over ``problems``, each ``(A, y, truth)`` with a batch axis.

    ``solver(A, y, weight=w)`` is called for every weight on every problem. Tune on phantoms or on other
    patients, never on the truth that the comparison is about.
    """
    if not problems:
        raise invalid("tune_weight", "problems", "at least one (A, y, truth)", "none")
    if not weights:
        raise invalid("tune_weight", "weights", "at least one number", "none")
    tried = tuple(check_positive("tune_weight", f"weights[{i}]", w) for i, w in enumerate(weights))
    errors = []
    for weight in tried:
        scores = [nrmse(solver(A, y, weight=weight), truth) for A, y, truth in problems]
        errors.append(float(torch.cat(scores).mean()))
    best = min(range(len(tried)), key=errors.__getitem__)
    return TunedWeight(weight=tried[best], weights=tried, errors=tuple(errors))


def _check(owner: str, A: LinearOperator, y: Tensor) -> None:
    if not isinstance(A, LinearOperator):
        raise invalid_type(owner, "A", "a LinearOperator", A)
    check_finite(owner, "y", check_shape(owner, "y", y, A.out_shape))
