"""Least squares by iterations that are stopped early: SIRT and CGLS."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.baselines.inputs import checked, observed
from invsolve.core.conjugate_gradients import expand, inner
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, check_positive
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator

_NOTHING = 1e-8  # of the largest sum of a row or column: less is none


@in_defined_state
def sirt(
    A: LinearOperator,
    y: Tensor,
    *,
    iterations: int = 200,
    noise_std: float | None = None,
    non_negative: bool = False,
) -> Tensor:
    """SIRT, the simultaneous iterative reconstruction technique of CT: ``x <- x + C A^H R (y - A x)`` from zero.

    Parameters
    ----------
    A : LinearOperator
        Real, without negative entries, as the operators of CT.
    y : Tensor, shape (batch, *A.out_shape)
        The data, finite.
    iterations : int
        The most, >= 1; 200 by default. Few of them are smooth images, many are noisy ones.
    noise_std : float, optional
        The standard deviation of the noise, > 0: a row stops as soon as its residual has that root mean square
        (the discrepancy principle); all rows run all iterations by default.
    non_negative : bool
        Whether negative pixels are set to zero in every iteration; False by default.

    Returns
    -------
    Tensor, shape (batch, *A.in_shape)
        The last iterate.

    Raises
    ------
    InputTypeError
        If ``A`` is not linear, or ``y`` of another kind or precision than its data.
    InputError
        If ``y`` has another shape or entries that are not finite, ``A`` has negative sums or is not real, or a number
        is out of its range.

    Notes
    -----
    R and C are one over the sums of the rows and columns of A [1]_, zero where those are; the iteration minimises
    ``(A x - y)^H R (A x - y)``, and converges, because ``C A^H R A`` has no eigenvalue above 1.

    References
    ----------
    .. [1] Gregor & Benson 2008, Computational analysis and improvement of SIRT, IEEE Transactions on Medical Imaging
       27, 918.
    """
    y = checked("sirt", A, y)
    iterations = check_int("sirt", "iterations", iterations, minimum=1)
    least = goal("sirt", noise_std, A, y)
    if A.in_kind == "complex" or A.out_kind == "complex":
        raise invalid("sirt", "A", "real", f"{A.in_kind} -> {A.out_kind}", "Reconstruct the parts by themselves.")
    rows = len(y) if A.batch is not None else 1
    R = inverse_sums("sirt", "rows", A(y.new_ones(rows, *A.in_shape)))
    C = inverse_sums("sirt", "columns", A.adjoint(y.new_ones(rows, *A.out_shape)))
    x = y.new_zeros(len(y), *A.in_shape)
    residual = y
    for i in range(iterations):
        going = inner(residual, residual) > least
        if not bool(going.any()):
            break
        moved = x + C * A.adjoint(R * residual)
        moved = moved.clamp_min(0) if non_negative else moved
        x = torch.where(expand(going, x), moved, x)
        if i + 1 < iterations:
            residual = y - A(x)
    return x


@in_defined_state
def cgls(
    A: LinearOperator, y: Tensor, *, iterations: int = 20, noise_std: float | None = None, rtol: float = 1e-6
) -> Tensor:
    """CGLS: conjugate gradients on the normal equations from zero, stopped early, which is what regularises.

    Parameters
    ----------
    A : LinearOperator
        The forward model.
    y : Tensor, shape (batch, *A.out_shape)
        The data, finite.
    iterations : int
        The most, >= 1; 20 by default. The error falls, and then grows with the noise that is fitted.
    noise_std : float, optional
        The standard deviation of the noise, of a real component, > 0: a row stops as soon as its residual has that root
        mean square (the discrepancy principle).
    rtol : float
        A row stops, too, where ``||A^H (y - A x)||`` is this part of ``||A^H y||``, > 0; 1e-6 by default.

    Returns
    -------
    Tensor, shape (batch, *A.in_shape)
        The last iterate: of n steps the least residual in the n-dimensional Krylov space.

    Raises
    ------
    InputTypeError
        If ``A`` is not linear, or ``y`` of another kind or precision than its data.
    InputError
        If ``y`` has another shape or entries that are not finite, or a number is out of its range.

    References
    ----------
    .. [1] Hestenes & Stiefel 1952, Methods of conjugate gradients for solving linear systems, Journal of Research of
       the National Bureau of Standards 49, 409.
    """
    y = checked("cgls", A, y)
    iterations = check_int("cgls", "iterations", iterations, minimum=1)
    least, rtol = goal("cgls", noise_std, A, y), check_positive("cgls", "rtol", rtol)
    residual, s = y, A.adjoint(y)
    x, p = torch.zeros_like(s), s
    first = size = inner(s, s)
    for _ in range(iterations):
        going = (inner(residual, residual) > least) & (size > rtol**2 * first)
        if not bool(going.any()):
            break
        image = A(p)
        length = inner(image, image)
        step = torch.where(going & (length > 0), size / torch.where(length > 0, length, 1), 0)
        x = x + expand(step, x) * p
        residual = residual - expand(step, residual) * image
        s = A.adjoint(residual)
        before, size = size, torch.where(going, inner(s, s), size)
        p = torch.where(expand(going, p), s + expand(size / torch.where(before > 0, before, 1), p) * p, p)
    return x


def goal(owner: str, noise_std: float | None, A: LinearOperator, y: Tensor) -> Tensor:
    """The squared norm of a residual that is noise, of each row; below zero where the noise is not known."""
    if noise_std is None:
        return y.new_full((len(y),), -1.0, dtype=y.real.dtype)
    numbers = observed(A, y).flatten(1).sum(1) * (2 if y.is_complex() else 1)
    return numbers.to(y.real.dtype) * check_positive(owner, "noise_std", noise_std) ** 2


def inverse_sums(owner: str, what: str, sums: Tensor) -> Tensor:
    """One over the sums of rows or columns of an operator, 0 where there is nothing: nothing but rounding, or less."""
    small = max(_NOTHING, 32 * torch.finfo(sums.dtype).eps) * sums.flatten(1).abs().amax(1)
    nothing = expand(small, sums)
    if bool((sums < -nothing).any()):
        raise invalid(owner, "A", "an operator without negative entries", f"negative sums of {what}", "Try cgls.")
    kept = sums > nothing
    return torch.where(kept, 1 / torch.where(kept, sums, 1), 0)
