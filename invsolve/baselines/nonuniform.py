"""Gridding: the inverse of non-Cartesian scans with many readouts."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from invsolve.baselines.inputs import checked
from invsolve.core.arrays import real_parameter
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_finite
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import LinearOperator
from invsolve.operators.mri.density import pipe_menon
from invsolve.operators.mri.noncartesian import NonCartesianMRI


@in_defined_state
def gridding(A: LinearOperator, y: Tensor, *, density: Tensor | None = None) -> Tensor:
    """Gridding of non-Cartesian MRI: density-compensated data through the adjoint, in the units of the image.

    Parameters
    ----------
    A : NonCartesianMRI
        The scan.
    y : Tensor, shape (batch, *A.out_shape)
        The data, finite.
    density : Tensor or array, shape (samples,) or (items, samples), optional
        The share of k-space of each sample, >= 0: of `iv.operators.mri.radial_density`, or by default of `pipe_menon`.

    Returns
    -------
    Tensor, shape (batch, *A.in_shape)
        ``N A^H (density y) / sum_c |S_c|^2``, N the number of pixels; zero where no coil sees anything.

    Raises
    ------
    InputTypeError
        If ``A`` is no such operator, or ``y`` of another kind or precision than its data.
    InputError
        If ``y`` or ``density`` do not fit, or have entries that are not finite or negative.

    Notes
    -----
    With too few readouts there are streaks; noise is not known, and is amplified where samples are rare.
    """
    if not isinstance(A, NonCartesianMRI):
        raise invalid_type("gridding", "A", "an iv.operators.NonCartesianMRI", A)
    y = checked("gridding", A, y)
    samples = A.out_shape[-1]
    w = pipe_menon(A) if density is None else real_parameter("gridding", "density", density, dtype=torch.float64)
    if tuple(w.shape) not in ((samples,), (len(y), samples)):
        raise invalid("gridding", "density", f"of shape ({samples},) or (batch, {samples})", tuple(w.shape))
    if not bool((check_finite("gridding", "density", w) >= 0).all()):
        raise invalid("gridding", "density", "non-negative", float(w.min()))
    w = (w * prod(A.in_shape)).to(y.device, y.real.dtype)
    x = A.adjoint(y * (w if w.ndim == 1 else w.view(len(w), *[1] * (y.ndim - 2), samples)))
    if A.maps is None:
        return x
    seen = A.maps.abs().square().sum(-len(A.in_shape) - 1).to(x.real.dtype)
    return x * torch.where(seen > 0, 1 / seen, 0.0)
