"""The blur of a Gaussian point spread: `Blur` with a kernel that is given by its width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import plain
from invsolve.core.validation import Kind, check_dims, check_positive, check_spatial
from invsolve.errors import invalid, invalid_type
from invsolve.operators.optics.blur import Blur, Boundary


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class GaussianBlur(Blur):
    """`Blur` with a Gaussian kernel, sampled at whole pixels, of sum 1.

    A point spread function (PSF) known by its width. With the boundary that is meant this is
    ``scipy.ndimage.gaussian_filter``: its ``mode="reflect"``, the default there, is ``boundary="symmetric"``,
    ``"mirror"`` the same, ``"wrap"`` is ``"periodic"`` and ``"constant"`` is ``"zero"``.

    Parameters
    ----------
    std : float or sequence of float
        Standard deviation (sigma) in pixels, >= 0, for all axes, or one each; 0: no blur along that axis. Kept as a
        tuple.
    in_shape : sequence of int
        The shape of the signal, 1 to 3 axes.
    boundary : {'periodic', 'zero', 'reflect', 'symmetric', 'valid'}
        What the signal is beyond its edge, as in `Blur`; periodic by default.
    kind : {'real', 'complex'}
        The kind of signal and data; real by default.
    dtype : torch.dtype
        The real precision of the kernel; float32 by default.
    truncate : float
        Where the kernel is cut, in standard deviations, > 0; 4 by default.

    Attributes
    ----------
    kernel : Tensor
        What these make; ``to`` casts it as it is, and does not sample it again.

    Raises
    ------
    InputError
        If ``std`` is negative or not one for each axis, or ``truncate`` not positive.
    InputTypeError
        If ``dtype`` is not a floating one.

    Examples
    --------
    >>> A = GaussianBlur(1.5, (16, 16), boundary="reflect")
    >>> A, A.std, isinstance(A, Blur)
    (GaussianBlur((16, 16) -> (16, 16), real), (1.5, 1.5), True)
    """

    std: tuple[float, ...]
    truncate: float

    def __init__(
        self,
        std: float | Sequence[float],
        in_shape: Sequence[int],
        *,
        boundary: Boundary = "periodic",
        kind: Kind = "real",
        dtype: torch.dtype = torch.float32,
        truncate: float = 4.0,
    ) -> None:
        shape = check_dims("GaussianBlur", "in_shape", in_shape)
        std = plain(std)
        stds = list(std) if isinstance(std, (Sequence, np.ndarray)) else [std] * len(shape)
        if not isinstance(std, (Sequence, np.ndarray)) and std != 0:
            check_spatial("GaussianBlur", "std", std, shape, 0.0)
        if len(stds) != len(shape):
            expected = f"a number, or {len(shape)} of them, one for each axis"
            raise invalid("GaussianBlur", "std", expected, f"{len(stds)}")
        reach = check_positive("GaussianBlur", "truncate", truncate)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise invalid_type("GaussianBlur", "dtype", "a floating torch.dtype", str(dtype))
        widths = tuple(check_positive("GaussianBlur", f"std[{a}]", value, zero=True) for a, value in enumerate(stds))
        object.__setattr__(self, "std", widths)
        object.__setattr__(self, "truncate", reach)
        super().__init__(_kernel(widths, reach).to(dtype), shape, boundary=boundary, kind=kind)

    def _replace(self, tensors: dict[str, Tensor]) -> Self:
        """With another kernel, of another precision or device: the constructor would sample it anew."""
        other = object.__new__(type(self))
        for field in fields(self):
            object.__setattr__(other, field.name, tensors.get(field.name, getattr(self, field.name)))
        return other


def _kernel(widths: tuple[float, ...], reach: float) -> Tensor:
    kernel = torch.ones((), dtype=torch.float64, device="cpu")
    for width in widths:
        radius = math.ceil(reach * width)
        offset = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
        line = torch.exp(-0.5 * (offset / width) ** 2) if width else torch.ones(1, dtype=torch.float64, device="cpu")
        kernel = kernel.unsqueeze(-1) * (line / line.sum())
    return kernel
