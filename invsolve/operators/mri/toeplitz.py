"""``F^H F`` of a non-uniform transform as a convolution: two transforms of twice the length, however many samples.

Its kernel ``T[l] = sum_m exp(i omega_m . l)`` is summed once to 1e-7 at least, so that this is the normal operator of
the exact transform, not of an interpolated one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.core.validation import Shape
from invsolve.operators.mri.grid import Grid
from invsolve.operators.mri.kaiser_bessel import Axis
from invsolve.operators.mri.nufft import adjoint_of_ones

_ERROR = 1e-7  # relative, of the kernel


def convolution_grid(shape: Shape, device: torch.device) -> Grid:
    """The grid on which images of a shape do not meet their periodic copies."""
    return Grid(axes=tuple(Axis.of(n, 2.0, 1) for n in shape), device=device)


def transfer(omega: Tensor, grid: Grid, tol: float) -> Tensor:
    """The transform of the kernel on `convolution_grid`, for samples at ``omega`` ``(m, axes)``.

    ``(phases, *base)``, float64, for `Grid.filtered`: real, because ``T[-l]`` is the conjugate of ``T[l]``, and divided
    by the number of phases, whose inverse transforms are added up.
    """
    shape = tuple(2 * a.n - 1 for a in grid.axes)
    kernel = adjoint_of_ones(omega, shape, min(tol, _ERROR))
    dense = Grid(axes=tuple(Axis(n, a.fine, 1, 1) for n, a in zip(shape, grid.axes, strict=True)), device=grid.device)
    spectrum = torch.fft.fftn(dense.rolled(kernel)).real / grid.phases
    d = len(grid.axes)
    split = spectrum.reshape([n for a in grid.axes for n in (a.base, a.phases)])
    phases: Tensor = split.permute(*range(1, 2 * d, 2), *range(0, 2 * d, 2)).reshape(grid.phases, *grid.base)
    return phases
