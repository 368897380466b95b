"""OS-SART: SIRT that steps after a few views instead of all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.baselines.inputs import checked
from invsolve.baselines.iterative import goal, inverse_sums
from invsolve.core.conjugate_gradients import expand, inner
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, check_number
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import LinearOperator
from invsolve.operators.ct.beam import Beam


@in_defined_state
def os_sart(
    A: LinearOperator,
    y: Tensor,
    *,
    subsets: int = 10,
    iterations: int = 10,
    relaxation: float = 1.0,
    noise_std: float | None = None,
    non_negative: bool = False,
) -> Tensor:
    """OS-SART, SIRT by ordered subsets: ``x <- x + w C_s A_s^H R_s (y_s - A_s x)``, one subset s after another.

    Parameters
    ----------
    A : ParallelBeam or FanBeam
        The scan, real.
    y : Tensor, shape (batch, views, bins)
        Line integrals, finite.
    subsets : int
        How many subsets of views, from 1 (`sirt`) to the number of views (SART); 10 by default. Views are dealt out
        in turn, so that each subset is spread over the scan.
    iterations : int
        Passes over all subsets at most, >= 1; 10 by default. One is worth about as many of `sirt` as there are subsets.
    relaxation : float
        The step w, larger than 0 and less than 2; 1 by default. Of data with noise smaller ones end nearer to least
        squares.
    noise_std : float, optional
        The standard deviation of the noise, > 0: a row stops after the pass that leaves a residual of that root mean
        square (the discrepancy principle); all rows run all passes by default.
    non_negative : bool
        Whether negative pixels are set to zero after every subset; False by default.

    Returns
    -------
    Tensor, shape (batch, H, W)
        The last iterate.

    Raises
    ------
    InputTypeError
        If ``A`` is no such scan, or ``y`` of another kind or precision than its data.
    InputError
        If ``y`` has another shape or entries that are not finite, ``A`` is not real, or a number is out of its range.

    Notes
    -----
    R_s and C_s are one over the sums of the rows and columns of the subset's A_s [1]_, zero where those are. The order
    of the subsets is that of the golden ratio: each is far from those before it. On data that no image explains
    the iterates do not settle: they circle about least squares, with a radius that ``relaxation`` gives. There `sirt`,
    `cgls`, or stopping by ``noise_std`` helps.

    References
    ----------
    .. [1] Wang & Jiang 2004, Ordered-subset simultaneous algebraic reconstruction techniques (OS-SART), Journal of
       X-Ray Science and Technology 12, 169.
    """
    if not isinstance(A, Beam):
        raise invalid_type("os_sart", "A", "an iv.operators.ParallelBeam or FanBeam", A, "For others: sirt.")
    y = checked("os_sart", A, y)
    views = A.out_shape[0]
    subsets = check_int("os_sart", "subsets", subsets, minimum=1)
    if subsets > views:
        raise invalid("os_sart", "subsets", f"at most {views}, the number of views", subsets)
    iterations = check_int("os_sart", "iterations", iterations, minimum=1)
    step = check_number("os_sart", "relaxation", relaxation)
    if not 0 < step < 2:
        raise invalid("os_sart", "relaxation", "larger than 0 and less than 2", relaxation)
    least = goal("os_sart", noise_std, A, y)
    if A.in_kind == "complex":
        raise invalid("os_sart", "A", "real", "complex", "Reconstruct the parts by themselves.")
    rows = len(y) if A.batch is not None else 1
    parts = []
    for first in golden_order(subsets):
        index = torch.arange(first, views, subsets, device=y.device)
        part = A.take_views(index)
        R = inverse_sums("os_sart", "rows", part(y.new_ones(rows, *part.in_shape)))
        C = inverse_sums("os_sart", "columns", part.adjoint(y.new_ones(rows, *part.out_shape)))
        parts.append((part, y[:, index], R, step * C))
    x = y.new_zeros(len(y), *A.in_shape)
    going = inner(y, y) > least
    for _ in range(iterations):
        if not bool(going.any()):
            break
        for part, data, R, C in parts:
            moved = x + C * part.adjoint(R * (data - part(x)))
            moved = moved.clamp_min(0) if non_negative else moved
            x = torch.where(expand(going, x), moved, x)
        if noise_std is not None:
            left = [data - part(x) for part, data, _, _ in parts]
            going = going & (sum(inner(r, r) for r in left) > least)
    return x


def golden_order(count: int) -> list[int]:
    """0 to count - 1, each far from those before it: by multiples of the golden ratio, modulo 1."""
    ratio = (math.sqrt(5) - 1) / 2
    spread = sorted(range(count), key=lambda i: (i * ratio) % 1)
    order = [0] * count
    for place, turn in enumerate(spread):
        order[turn] = place
    return order
