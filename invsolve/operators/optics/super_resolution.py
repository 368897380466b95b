"""Blur and decimation as one operator, whose normal equations have a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.counting import count
from invsolve.core.ownership import made
from invsolve.core.validation import Kind, Shape
from invsolve.errors import invalid
from invsolve.operators.fourier import of_rows
from invsolve.operators.one_kind import OneKind
from invsolve.operators.optics.blur import Blur
from invsolve.operators.optics.downsample import Downsample


@final
@dataclass(frozen=True, eq=False, repr=False)
class SuperResolution(OneKind):
    """A low-resolution picture, ``y = D (h * x)``: periodic blur with a kernel h, then every f-th entry, or means.

    As ``Downsample(factor, ...) @ Blur(kernel, ...)``, with `pinv` and `solve_normal` in closed form.

    Parameters
    ----------
    kernel : Tensor, array or list, shape (k_1, ...) or (items, k_1, ...)
        The point spread on the fine grid, as in `Blur`.
    factor : int or sequence of int
        Fine entries per coarse one, >= 1, one for every axis, or one each; divisors of ``in_shape``.
    in_shape : tuple of int
        The shape of the fine signal, 1 to 3 axes.
    offset : int or sequence of int
        The first entry that is kept, for ``method="pick"``; 0 by default.
    method : {'pick', 'mean'}
        Every f-th entry (the default), or the mean of each block, a detector pixel.
    kind : {'real', 'complex'}
        The kind of signal and data; real by default.

    Raises
    ------
    InputTypeError, InputError
        As `Blur` and `Downsample`; if ``factor`` does not divide ``in_shape``, or means have an offset.

    Notes
    -----
    ``A A^H`` is a periodic convolution on the coarse grid, diagonal in its Fourier space, whatever the offset [1]_:
    ``(A^H W A + tau I)^-1 r = (r - A^H (tau / W + A A^H)^-1 A r) / tau`` for one weight.

    References
    ----------
    .. [1] Zhao, Wei, Basarab, Dobigeon, Kouame & Tourneret 2016, Fast single image super-resolution using a new
       analytical solution for l2-l2 problems, IEEE Trans. Image Process. 25, 3683 (doi 10.1109/TIP.2016.2567075).
    """

    kernel: Tensor
    factor: int | Sequence[int]
    in_shape: Shape
    _: KW_ONLY
    offset: int | Sequence[int] = 0
    method: Literal["pick", "mean"] = "pick"
    kind: Kind = "real"

    def __post_init__(self) -> None:
        blur = Blur(self.kernel, self.in_shape, kind=self.kind)
        down = Downsample(self.factor, blur.in_shape, offset=self.offset, method=self.method, kind=self.kind)
        for name, value in (("kernel", blur.kernel), ("in_shape", blur.in_shape), ("factor", down.factor)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "offset", down.offset)
        if any(n % f for n, f in zip(down.in_shape, down._factors, strict=True)):
            repair = "Any shape: Downsample(factor, shape) @ Blur(kernel, shape)."
            raise invalid("SuperResolution", "factor", f"a divisor of {down.in_shape}", down.factor, repair)
        if self.method == "mean" and any(down._offsets):
            raise invalid("SuperResolution", "offset", "0 for method='mean'", down.offset)

    def _item_axes(self) -> dict[str, int]:
        return {"kernel": len(self.in_shape)}

    @cached_property
    def _blur(self) -> Blur:
        return made(Blur, self.kernel, self.in_shape, kind=self.kind)

    @cached_property
    def _down(self) -> Downsample:
        return Downsample(self.factor, self.in_shape, offset=self.offset, method=self.method, kind=self.kind)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the coarse grid."""
        return self._down.out_shape

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.in_shape), 0))

    @cached_property
    def _gain(self) -> Tensor:
        """The diagonal of ``A A^H`` in the Fourier space of the coarse grid, ``([items,] *out_shape)``, >= 0."""
        rows = 1 if self.batch is None else self.batch
        impulse = self.kernel.new_zeros(rows, *self.out_shape)
        impulse.flatten(1)[:, 0] = 1
        response = self._apply(self._adjoint(impulse))
        gain: Tensor = torch.fft.fftn(response, dim=self._dims).real.clamp_min(0)
        return gain if self.batch is not None else gain[0]

    def _apply(self, x: Tensor) -> Tensor:
        return self._down._apply(self._blur._apply(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._blur._adjoint(self._down._adjoint(y))

    def _filter(self, y: Tensor, multiplier: Tensor) -> Tensor:
        """A convolution on the coarse grid."""
        out = of_rows(torch.fft.ifftn, of_rows(torch.fft.fftn, y, dim=self._dims) * multiplier, dim=self._dims)
        return out.real if self.kind == "real" else out

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        """``A^H (A A^H)^+ y``; what is below the largest gain times eps times length is zero."""
        count("adjoint", len(y))
        floor = self._gain.amax(self._dims, keepdim=True) * torch.finfo(self._gain.dtype).eps * max(self.in_shape)
        return self._adjoint(self._filter(y, torch.where(self._gain > floor, 1 / self._gain, 0.0)))

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        """``(A^H W A + tau I)^-1 rhs``; with one weight: exact, by division in the coarse grid's Fourier space."""
        if isinstance(weight, Tensor):
            return super()._solve_normal(rhs, weight=weight, tau=tau, start=start, rtol=rtol, max_iter=max_iter)
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        inner = self._filter(self._apply(rhs), weight / (tau + weight * self._gain))
        return (rhs - self._adjoint(inner)) / tau


__all__ = ["SuperResolution"]
