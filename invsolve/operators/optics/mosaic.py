"""The colour filters in front of a camera's pixels."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.counting import count
from invsolve.core.validation import Kind, Shape, check_choice, check_dims
from invsolve.errors import invalid
from invsolve.operators.bases import from_basis
from invsolve.operators.identity import Identity
from invsolve.operators.one_kind import OneKind
from invsolve.operators.spectrum import Spectrum

_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")


@final
@dataclass(frozen=True, eq=False, repr=False)
class Mosaic(OneKind):
    """What a colour camera records: one of three colours in every pixel, behind a Bayer filter.

    Parameters
    ----------
    in_shape : tuple of int
        ``(3, H, W)``: red, green and blue planes. Data are ``(H, W)``.
    pattern : {'RGGB', 'BGGR', 'GRBG', 'GBRG'}
        The colours of the first 2 x 2 pixels, row by row; RGGB by default.
    kind : {'real', 'complex'}
        The kind of signal and data; real by default.

    Raises
    ------
    InputError
        If ``in_shape`` is not of three planes, or the pattern is another.

    Notes
    -----
    ``A A^H = I``: `pinv`, `solve_normal` (with any weights) and `svd` are closed forms.

    References
    ----------
    Bayer 1976, Color imaging array, US patent 3,971,065.

    Examples
    --------
    >>> import torch
    >>> Mosaic((3, 2, 2))(torch.arange(12.0).view(1, 3, 2, 2))
    tensor([[[ 0.,  5.],
             [ 6., 11.]]])
    """

    in_shape: Shape
    _: KW_ONLY
    pattern: str = "RGGB"
    kind: Kind = "real"

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_shape", check_dims("Mosaic", "in_shape", self.in_shape))
        check_choice("Mosaic", "pattern", self.pattern, _PATTERNS)
        check_choice("Mosaic", "kind", self.kind, ("real", "complex"))
        if len(self.in_shape) != 3 or self.in_shape[0] != 3:
            repair = "Planes come first: np.moveaxis(photo, -1, 0)." if self.in_shape[-1] == 3 else ""
            raise invalid("Mosaic", "in_shape", "(3, H, W)", self.in_shape, repair)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``(H, W)``."""
        return self.in_shape[1:]

    @property
    def gram(self) -> float:
        return 1.0

    @cached_property
    def _filters(self) -> Tensor:
        """Which entries of the signal are recorded, bool (3, H, W)."""
        height, width = self.out_shape
        cell = torch.tensor(["RGB".index(c) for c in self.pattern], device="cpu").view(2, 2)
        colour = cell.repeat((height + 1) // 2, (width + 1) // 2)[:height, :width]
        return colour == torch.arange(3, device="cpu").view(3, 1, 1)

    def _apply(self, x: Tensor) -> Tensor:
        return (x * self._filters.to(x.device)).sum(1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.unsqueeze(1) * self._filters.to(y.device)

    def _normal(self, x: Tensor) -> Tensor:
        return x * self._filters.to(x.device)

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        count("adjoint", len(y))
        return self._adjoint(y)

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        """``(A^H W A + tau I)^-1 rhs``: a diagonal system, entry by entry."""
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        if isinstance(weight, Tensor):
            weight = weight.expand(*weight.shape[: weight.ndim - 2], *self.out_shape).unsqueeze(-3)
        return rhs / (tau + weight * self._filters.to(rhs.device, rhs.real.dtype))

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        return from_basis(self, Identity(self.in_shape, kind=self.kind), self._filters.to(device, dtype))


__all__ = ["Mosaic"]
