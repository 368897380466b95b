"""The reconstructions that everybody knows: zero-filled, Tikhonov (CG-SENSE), total variation; and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from invsolve.baselines.inputs import checked, checked_data
from invsolve.core.conjugate_gradients import direction, expand
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, check_positive, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.metrics import nrmse
from invsolve.operators.base import LinearOperator
from invsolve.operators.optics.phase_retrieval import PhaseRetrieval


@in_defined_state
def zero_filled(A: LinearOperator, y: Tensor) -> Tensor:
    """The adjoint ``A^H y``, with no density compensation and no scale.

    For Cartesian MRI with orthonormal transforms and maps of unit sum of squares this is the usual zero-filled image:
    data that were not measured count as zero. It is too dark by what was left out, and for an operator with
    ``||A|| != 1`` it is not in the units of the signal at all.

    Parameters
    ----------
    A : LinearOperator
        The forward model.
    y : Tensor, shape (batch, *A.out_shape)
        The data, finite.

    Returns
    -------
    Tensor, shape (batch, *A.in_shape)
        ``A^H y``.

    Raises
    ------
    InputTypeError
        If ``A`` is not linear, or ``y`` of another kind or precision than its data.
    InputError
        If ``y`` has another shape or entries that are not finite.
    """
    y = checked("zero_filled", A, y)
    return A.adjoint(y)


@in_defined_state
def tikhonov(A: LinearOperator, y: Tensor, weight: float, *, rtol: float = 1e-6, max_iter: int = 200) -> Tensor:
    """Tikhonov's ``argmin_x 1/2 ||A x - y||^2 + weight/2 ||x||^2``, by conjugate gradients on ``A^H A + weight``.

    With a multi-coil `MRI` this is CG-SENSE [1]_.

    Parameters
    ----------
    A : LinearOperator
        The forward model.
    y : Tensor, shape (batch, *A.out_shape)
        The data, finite.
    weight : float
        > 0, compared with ``||A||^2``. With ``weight = s^2 / a^2`` the result is the posterior mean for noise of
        standard deviation s and a white signal of standard deviation a.
    rtol : float
        The relative residual at which a row stops, > 0; 1e-6 by default.
    max_iter : int
        The most steps, >= 1; 200 by default.

    Returns
    -------
    Tensor, shape (batch, *A.in_shape)
        The minimum.

    Raises
    ------
    InputTypeError
        If ``A`` is not linear, or ``y`` of another kind or precision than its data.
    InputError
        If ``y`` has another shape or entries that are not finite, or a number is out of its range.

    References
    ----------
    .. [1] Pruessmann et al. 2001, Advances in sensitivity encoding with arbitrary k-space trajectories, Magnetic
       Resonance in Medicine 46, 638.
    """
    y = checked("tikhonov", A, y)
    weight = check_positive("tikhonov", "weight", weight)
    rtol = check_positive("tikhonov", "rtol", rtol)
    max_iter = check_int("tikhonov", "max_iter", max_iter, minimum=1)
    return A.solve_normal(A.adjoint(y), tau=weight, rtol=rtol, max_iter=max_iter)


@in_defined_state
def total_variation(A: LinearOperator, y: Tensor, weight: float, *, iterations: int = 200) -> Tensor:
    """Total variation: ``argmin_x 1/2 ||A x - y||^2 + weight TV(x)`` for real or complex signals of 1 to 3 axes.

    ``TV(x) = sum_i sqrt(sum_d |x_(i + e_d) - x_i|^2)``: isotropic, forward differences, no difference across the border
    (Neumann); spacing 1 in every direction.

    Parameters
    ----------
    A : LinearOperator
        The forward model, of signals of 1 to 3 axes.
    y : Tensor, shape (batch, *A.out_shape)
        The data, finite.
    weight : float
        > 0, in units of data^2 over signal.
    iterations : int
        >= 1, 200 by default: one application of A and one of ``A^H`` each; every row runs all of them.

    Returns
    -------
    Tensor, shape (batch, *A.in_shape)
        The last iterate.

    Raises
    ------
    InputTypeError
        If ``A`` is not linear, or ``y`` of another kind or precision than its data.
    InputError
        If ``y`` has another shape or entries that are not finite, a number is out of its range, or ``A`` is zero.

    Notes
    -----
    Primal-dual iterations [1]_, with p the field of the differences, ``|p_i| <= weight``:
    ``z = x - t (A^H (A x - y) + D^H p)``; ``p <- project(p + s D z)``; ``x <- x - t (A^H (A x - y) + D^H p)``. It
    converges for ``t < 2 / ||A||^2`` and ``s t ||D||^2 <= 1``, with ``||D||^2 <= 4`` per axis. Both steps follow from
    ``A.norm()``, so units do not matter.

    References
    ----------
    .. [1] Loris & Verhoeven 2011, On a generalization of the iterative soft-thresholding algorithm for the case of
       non-separable penalty, Inverse Problems 27, 125007.
    """
    y = checked("total_variation", A, y)
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


@in_defined_state
def amplitude_flow(A: PhaseRetrieval, y: Tensor, *, iterations: int = 500) -> Tensor:
    """A local minimum of ``1/2 || |B x| - y ||^2`` from a spectral start, up to what `PhaseRetrieval` leaves open.

    With several coded masks it finds the signal, up to a phase at least; from one oversampled pattern it often
    stagnates.

    Parameters
    ----------
    A : PhaseRetrieval
        Of ``measure="amplitude"``; B is its ``operator``.
    y : Tensor, real, shape (batch, *A.out_shape)
        The amplitudes, finite.
    iterations : int
        >= 1; 500 by default.

    Returns
    -------
    Tensor, shape (batch, *A.in_shape)
        The last iterate.

    Raises
    ------
    InputTypeError
        If ``A`` is not such an operator.
    InputError
        If ``y`` has another shape or entries that are not finite, or B is zero.

    Notes
    -----
    ``x <- x - B^H (B x - y sgn(B x)) / ||B||^2`` [1]_. The start is the top eigenvector of ``B^H diag(T) B`` with
    ``T = min(y^2 / mean(y^2), 4)`` of each row (100 power iterations; Chen & Candes [2]_ leave larger data out),
    scaled to the energy of the data.

    References
    ----------
    .. [1] Zhang et al. 2017, A nonconvex approach for phase retrieval: reshaped Wirtinger flow and incremental
       algorithms, JMLR 18, 141.
    .. [2] Chen & Candes 2017, Solving random quadratic systems of equations is nearly as easy as solving linear
       systems, Comm. Pure Appl. Math. 70, 822.
    """
    if not isinstance(A, PhaseRetrieval) or A.measure != "amplitude":
        raise invalid_type("amplitude_flow", "A", "an iv.operators.PhaseRetrieval with measure='amplitude'", A)
    y = checked_data("amplitude_flow", A, y)
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
    first = torch.randn(1, *B.in_shape, generator=rng, dtype=kind_dtype(y.dtype, B.in_kind), device="cpu")
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
    """A reconstruction with one weight: `tikhonov`, `total_variation`, or a function of the user.

    Called as ``solver(A, y, weight=w)``.
    """

    def __call__(self, A: LinearOperator, y: Tensor, /, *, weight: float) -> Tensor: ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TunedWeight:
    """What `tune_weight` found.

    Attributes
    ----------
    weight : float
        The weight of least error.
    weights : tuple of float
        All weights that were tried.
    errors : tuple of float
        The mean relative error of each.
    """

    weight: float
    weights: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def at_edge(self) -> bool:
        """True if the best weight is the smallest or the largest tried: widen the range."""
        return self.weight in (min(self.weights), max(self.weights))


@in_defined_state
def tune_weight(
    solver: WeightedSolver, problems: Sequence[tuple[LinearOperator, Tensor, Tensor]], weights: Sequence[float]
) -> TunedWeight:
    """The weight of a reconstruction with the smallest mean `nrmse` on examples with a known truth.

    Tune on phantoms or on other patients, never on the truth that the comparison is about.

    Parameters
    ----------
    solver : callable
        ``solver(A, y, weight=w)``, called for every weight on every problem.
    problems : sequence of (LinearOperator, Tensor, Tensor)
        ``(A, y, truth)``, each with a batch axis; at least one.
    weights : sequence of float
        The weights to try, > 0; at least one.

    Returns
    -------
    TunedWeight
        The best weight, and the errors of all.

    Raises
    ------
    InputError
        If there is no problem or no weight, or a weight is not positive.
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
