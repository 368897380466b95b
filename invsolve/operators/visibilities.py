"""What a radio interferometer measures of the sky: its Fourier transform at any frequencies, by an exact sum."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, check_finite, check_positive, kind_dtype
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator


@final
@dataclass(frozen=True, eq=False, repr=False)
class Visibilities(LinearOperator):
    """Fourier transform of a picture at given frequencies: ``V(u, v) = sum I(l, m) exp(-2 pi i (u l + v m))``.

    The visibilities of a radio interferometer (small field, no w term), or of any samples of Fourier space. Gains,
    primary beams and sums of baselines are operators before or behind it.

    Parameters
    ----------
    uv : Tensor or array, shape (M, 2) or (items, M, 2)
        (u, v) in wavelengths, cycles per radian. Real and finite.
    in_shape : tuple of int
        (H, W) of the picture.
    pixel_size : float
        Side of a pixel in radians, > 0. ``l`` grows with the column and ``m`` with the row, 0 at index n // 2: a sky
        with east to the left and north up is ``sky.flip(0, 1)`` of a picture.
    in_kind : {'real', 'complex'}
        The kind of the picture; real by default.

    Raises
    ------
    InputTypeError
        If ``uv`` does not hold real numbers.
    InputError
        If a shape or a number does not fit.

    Notes
    -----
    An exact sum, by the two factors of the exponential: ``M (H + W)`` numbers are stored, and a product costs ``M H (W
    + 1)`` multiplications an image. Phases are computed in float64.

    References
    ----------
    Thompson, Moran & Swenson 2017, Interferometry and Synthesis in Radio Astronomy, chapter 3 (doi
    10.1007/978-3-319-44431-4).
    """

    uv: Tensor
    in_shape: Shape
    _: KW_ONLY
    pixel_size: float
    in_kind: Kind = "real"

    out_kind = "complex"

    def __post_init__(self) -> None:
        owner = "Visibilities"
        object.__setattr__(self, "in_shape", check_dims(owner, "in_shape", self.in_shape))
        check_choice(owner, "in_kind", self.in_kind, ("real", "complex"))
        if len(self.in_shape) != 2:
            raise invalid(owner, "in_shape", "(H, W)", self.in_shape)
        object.__setattr__(self, "uv", real_parameter(owner, "uv", self.uv))
        if self.uv.ndim not in (2, 3) or self.uv.shape[-1] != 2 or 0 in self.uv.shape:
            raise invalid(owner, "uv", "of shape (M, 2) or (items, M, 2)", tuple(self.uv.shape))
        check_finite(owner, "uv", self.uv)
        object.__setattr__(self, "pixel_size", check_positive(owner, "pixel_size", self.pixel_size))

    def _item_axes(self) -> dict[str, int]:
        return {"uv": 2}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``(M,)``."""
        return (self.uv.shape[-2],)

    @cached_property
    def _waves(self) -> tuple[Tensor, Tensor]:
        """``exp(-2 pi i v m)`` ([items,] M, H) and ``exp(-2 pi i u l)`` ([items,] W, M)."""
        factors = []
        for n, frequency in zip(self.in_shape, (self.uv[..., 1], self.uv[..., 0]), strict=True):
            place = (torch.arange(n, dtype=torch.float64, device=self.uv.device) - n // 2) * self.pixel_size
            turns = frequency.double()[..., None] * place
            turns = turns - turns.round()  # exact for whole turns: no digits are lost to large phases
            wave = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
            factors.append(wave.to(kind_dtype(self.uv.dtype, "complex")))
        rows, columns = factors
        return rows, columns.mT.contiguous()

    def _apply(self, x: Tensor) -> Tensor:
        rows, columns = self._waves
        return (x.to(rows.dtype) @ columns * rows.mT).sum(-2)

    def _adjoint(self, y: Tensor) -> Tensor:
        rows, columns = self._waves
        x = (rows.mH * y.unsqueeze(-2)) @ columns.mH
        return x.real.contiguous() if self.in_kind == "real" else x


__all__ = ["Visibilities"]
