"""Maximum likelihood of counts: MLEM of emission tomography, which microscopy knows as Richardson and Lucy's."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.baselines.inputs import checked, observed
from invsolve.baselines.iterative import inverse_sums
from invsolve.core.arrays import real_parameter
from invsolve.core.conjugate_gradients import expand
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_finite, check_int, check_positive
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator


@in_defined_state
def mlem(
    A: LinearOperator,
    counts: Tensor,
    *,
    iterations: int = 200,
    background: Tensor | float = 0.0,
    discrepancy: float | None = 1.0,
) -> Tensor:
    """MLEM: ``x <- x / (A^T 1) * A^T (y / (A x + b))`` for counts ``y ~ Poisson(A x + b)``, from a constant image.

    Parameters
    ----------
    A : LinearOperator
        Real, without negative entries: PET and SPECT with attenuation and sensitivities, a blur.
    counts : Tensor, shape (batch, *A.out_shape)
        The counts y, finite, >= 0.
    iterations : int
        The most, >= 1; 200 by default. Few of them are smooth images, many are noisy ones.
    background : float or Tensor, broadcastable to counts
        The expected counts b that do not come from the image (scatter, randoms, dark counts), >= 0; 0 by default.
    discrepancy : float or None
        A row stops as soon as the mean of ``(y - m)^2 / m`` over the data that exist (`A.observed`), with ``m = A x +
        b``, is at most this: 1 is expected of the true image, whatever its counts (Pearson's statistic); 1 by default.
        None: all iterations.

    Returns
    -------
    Tensor, shape (batch, *A.in_shape)
        The last iterate, >= 0; zero in pixels that no datum sees.

    Raises
    ------
    InputTypeError
        If ``A`` is not linear, or ``counts`` of another kind or precision than its data.
    InputError
        If ``counts`` has another shape or entries that are negative or not finite, or counts where none are expected
        from any image; if ``A`` is not real or has negative sums, or a number is out of its range.

    Notes
    -----
    The likelihood never falls [1]_ [2]_. With ``b = 0`` every iterate expects as many counts in all as there are. For
    counts of a transmission scan, which fall exponentially with the image, see `iv.noise.PoissonTransmission`.

    References
    ----------
    .. [1] Shepp & Vardi 1982, Maximum likelihood reconstruction for emission tomography, IEEE Transactions on Medical
       Imaging 1, 113.
    .. [2] Lange & Carson 1984, EM reconstruction algorithms for emission and transmission tomography, Journal of
       Computer Assisted Tomography 8, 306.
    """
    y = checked("mlem", A, counts, name="counts")
    iterations = check_int("mlem", "iterations", iterations, minimum=1)
    limit = None if discrepancy is None else check_positive("mlem", "discrepancy", discrepancy)
    if A.in_kind == "complex" or A.out_kind == "complex":
        raise invalid("mlem", "A", "real", f"{A.in_kind} -> {A.out_kind}")
    there = observed(A, y)
    b = torch.where(there, _background(background, y), 0)
    data = there.flatten(1).sum(1).clamp_min(1)
    if len(y) and float(y.amin()) < 0:
        repair = "Corrected counts have no Poisson distribution: give what was subtracted as background=."
        raise invalid("mlem", "counts", "at least 0", float(y.amin()), repair)
    rows = len(y) if A.batch is not None else 1
    ones = y.new_ones(rows, *A.in_shape)
    gain = inverse_sums("mlem", "columns", A.adjoint(y.new_ones(rows, *A.out_shape)))
    seen = A(ones)
    reached = inverse_sums("mlem", "rows", seen) > 0
    dims = tuple(range(1, y.ndim))
    if bool(((y > 0) & ~reached & (b <= 0)).any()):
        expected = "zero where neither the image nor the background gives any"
        raise invalid("mlem", "counts", expected, "counts there", "Is there a background?")
    # As many counts as there are, above the background; where it explains all of them, a little.
    total = torch.maximum((y - b).sum(dims), 0.01 * y.sum(dims)) / seen.sum(dims).clamp_min(torch.finfo(y.dtype).tiny)
    x = expand(total, y.new_empty(len(y), *A.in_shape)) * (gain > 0)
    m = _expected(A, x, b)
    going = torch.ones(len(y), dtype=torch.bool, device=y.device)
    for i in range(iterations):
        if limit is not None:
            going = going & (_pearson(y, m).flatten(1).sum(1) / data > limit)
        if not bool(going.any()):
            break
        x = torch.where(expand(going, x), (x * gain * A.adjoint(_ratio(y, m))).clamp_min(0), x)
        if i + 1 < iterations:
            m = _expected(A, x, b)
    return x


def _background(value: Tensor | float, y: Tensor) -> Tensor:
    b = check_finite("mlem", "background", real_parameter("mlem", "background", value, dtype=y.dtype).to(y))
    try:
        b = b.expand_as(y)
    except RuntimeError:
        raise invalid("mlem", "background", f"broadcastable to {tuple(y.shape)}", tuple(b.shape)) from None
    if len(y) and float(b.amin()) < 0:
        raise invalid("mlem", "background", "at least 0", float(b.amin()))
    return b


def _expected(A: LinearOperator, x: Tensor, b: Tensor) -> Tensor:
    """``A x + b``, not less than what the product is rounded to: fast transforms leave that, of either sign, for 0."""
    m = A(x)
    return torch.maximum(m, torch.finfo(m.dtype).eps * expand(m.flatten(1).abs().amax(1), m)) + b


def _ratio(y: Tensor, m: Tensor) -> Tensor:
    """What is counted over what is expected; 0 where nothing is counted."""
    return torch.where(y > 0, y / torch.where(m > 0, m, torch.finfo(m.dtype).tiny), 0)


def _pearson(y: Tensor, m: Tensor) -> Tensor:
    return torch.where(m > 0, (y - m).square() / torch.where(m > 0, m, 1), 0)
