"""Variances of the entries of a Gaussian posterior, where they are known without a matrix of all pairs of entries.

The modes have the covariance ``diag(v)^1/2 (I + K^T K)^-1 diag(v)^1/2``, ``K = B diag(v)^1/2`` (m, n). Three ways:
a triangular factor of ``I + K^T K``, where n is small; the prior's variance less what the data take from it, by a
factor of ``I + K K^T``, where m is; and mode by mode, where ``B^T B`` is diagonal (a stationary blur in its own Fourier
basis, white noise on the signal itself), whatever the size.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.gaussian.law import DenseModes, GaussianLaw, Modes
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.gaussian.systems import DenseSystem, IterativeSystem, System
from invsolve.problem import Problem

CHEAP = 2**33  # floating point operations of a factorisation that every solve may spend on what it says: about 1 s
_LOST = 1e-8  # of the prior's variance, below which a difference has lost too many digits
_ROUNDING = 1e-6  # relative, of a variance
_DIAGONAL = 1e-10  # relative difference of two looks at B^T B, below which it is diagonal


def entry_variances(problem: Problem, law: GaussianLaw, system: System) -> Tensor | None:
    """Variances of the entries (complex: of both parts together), ``(1 or batch, *shape)`` float64.

    None where they would take more than about a second.
    """
    n = prod(law.modes.mode_shape) * (2 if law.mean.is_complex() else 1)
    if isinstance(system, DenseSystem):
        m = len(system.matrix)
        if m < n and 2 * (m + n) * m**2 <= CHEAP and (found := _by_difference(system.matrix, law)) is not None:
            return found
        if 2 * (m + n) * n**2 <= CHEAP:
            return _of_entries(mode_factor(system.matrix, law), law)[None]
        return _by_squares(system, law)
    assert isinstance(system, IterativeSystem)
    if (found := _by_modes(system, law)) is not None:
        return found
    m = prod(problem.operator.out_shape) * (2 if problem.data.is_complex() else 1)
    if problem.shared or len(problem.data) * 2 * (m + n) * n**2 > CHEAP:
        return None
    rows = range(len(problem.data))
    return torch.stack([_of_entries(mode_factor(_matrix_of_row(system, n, b, law), law), law) for b in rows])


def root_of_one_plus(matrix: Tensor) -> Tensor:
    """Upper triangular R with ``R^T R = I + K^T K``, by QR of K over I.

    Nothing is squared, so that nearly exact data, whose ``K^T K`` drowns the I in rounding, are no trouble.
    """
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    root: Tensor = torch.linalg.qr(torch.cat([matrix, eye]), mode="r").R
    return root


def mode_stds(law: GaussianLaw) -> Tensor:
    """``sqrt(v)`` over real numbers, ``(n,)`` float64."""
    root = law.variances.double().sqrt().reshape(-1)
    return root.repeat_interleave(2) if law.mean.is_complex() else root


def mode_factor(matrix: Tensor, law: GaussianLaw) -> Tensor:
    """F with ``covariance = F F^T`` for B ``(m, n)``: signals of the columns of ``sqrt(v) R^-1``."""
    return _factor(root_of_one_plus(matrix * mode_stds(law)), law)


def _factor(upper: Tensor, law: GaussianLaw) -> Tensor:
    root = mode_stds(law)
    eye = torch.eye(len(root), dtype=root.dtype, device=root.device)
    return _signals(torch.linalg.solve_triangular(upper, eye, upper=True).mT * root, law)


def _signals(rows: Tensor, law: GaussianLaw) -> Tensor:
    """Signals of modes ``(k, n)``, as columns ``(n, k)``; all over real numbers."""
    modes = law.modes.to(dtype=torch.float64)
    complex_ = torch.complex128 if law.mean.is_complex() else None
    return to_real(modes.synthesis(from_real(rows, tuple(modes.mode_shape), complex_))).mT


def _of_entries(factor: Tensor, law: GaussianLaw) -> Tensor:
    """Squared lengths of the rows ``(n, k)``, ``(*shape)``; of complex entries the sum over both parts."""
    variance = factor.square().sum(1)
    if law.mean.is_complex():
        variance = variance.view(-1, 2).sum(1)
    return variance.reshape(law.mean.shape)


def _by_difference(matrix: Tensor, law: GaussianLaw) -> Tensor | None:
    prior = _independent(law.modes.to(dtype=torch.float64), law.variances.double())
    if prior is None:
        return None
    prior = 2 * prior if law.mean.is_complex() else prior
    scaled = matrix * mode_stds(law)
    upper = root_of_one_plus(scaled.mT)
    taken = torch.linalg.solve_triangular(upper.mT, scaled, upper=False) * mode_stds(law)  # R^-T K sqrt(v)
    left = prior - _of_entries(_signals(taken, law), law)
    return left[None] if bool((left > _LOST * prior).all()) else None


def _by_squares(system: DenseSystem, law: GaussianLaw) -> Tensor | None:
    """By a Cholesky factor of ``I + K^T K``, where n is small, m large, and the I does not drown in rounding."""
    root = mode_stds(law)
    if system.gram is None or 2 * len(root) ** 3 > CHEAP:
        return None
    gram = root[:, None] * system.gram * root
    if torch.finfo(root.dtype).eps * float(gram.trace()) > _ROUNDING:
        return None
    gram.diagonal().add_(1.0)
    return _of_entries(_factor(torch.linalg.cholesky(gram).mT, law), law)[None]


def _independent(modes: Modes, variances: Tensor) -> Tensor | None:
    """Variances of the entries of ``S u`` from those of independent modes, both per real component."""
    if isinstance(modes, SpectralModes):
        power = variances if modes.colour is None else modes.colour**2 * variances
        return modes.transform.squared_inverse(power)
    if isinstance(modes, DenseModes):
        own = modes.marginal_variances(variances)
        return own if modes.scale is None else own * modes.scale**2
    return None


def _by_modes(system: IterativeSystem, law: GaussianLaw) -> Tensor | None:
    """By the diagonal of ``B^H B``, where that is all of it: what two random signals show alike."""
    modes = system.modes
    if not isinstance(modes, (SpectralModes, DenseModes)):
        return None
    rows = 1 if system.problem.shared else len(system.problem.data)
    signal = system.problem.signal_dtype
    looks = []
    for seed in (0, 1):
        rng = torch.Generator().manual_seed(seed)
        z = torch.randn(1, *modes.mode_shape, generator=rng, dtype=signal, device="cpu").to(law.mean.device)
        z = torch.where(z.abs() < 0.1, 1.0, z)  # nothing is divided by almost nothing
        looks.append(system.normal(z.expand(rows, *modes.mode_shape)) / z)
    first, second = looks
    if not bool(((first - second).abs() <= _DIAGONAL * first.abs().amax()).all()):
        return None
    diagonal = (first.real if first.is_complex() else first).double().clamp_min(0)
    variances = law.variances.double()
    wide = modes.to(dtype=torch.float64)
    found = [_independent(wide, variances / (1 + d * variances)) for d in diagonal]
    return torch.stack([2 * v if law.mean.is_complex() else v for v in found if v is not None])


def _matrix_of_row(system: IterativeSystem, n: int, b: int, law: GaussianLaw) -> Tensor:
    """B of one item ``(m, n)`` over real numbers, float64."""
    index = torch.full((n,), b, device=law.mean.device)
    unit = torch.eye(n, dtype=torch.float64, device=law.mean.device)
    own = system.take(index)
    complex_ = torch.complex128 if law.mean.is_complex() else None
    u = from_real(unit, tuple(law.modes.mode_shape), complex_).to(own.problem.signal_dtype)
    return to_real(own.forward(u)).double().mT
