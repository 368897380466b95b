"""Fewer pixels: the mean of each block, or every f-th entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from math import prod
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.counting import count
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, check_int, check_spatial
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator
from invsolve.operators.bases import from_basis
from invsolve.operators.identity import Identity
from invsolve.operators.one_kind import OneKind
from invsolve.operators.spectrum import Spectrum


@final
@dataclass(frozen=True, eq=False, repr=False)
class Downsample(OneKind):
    """Fewer pixels: one value for every block of entries, its mean or its first entry.

    For super-resolution. Entries before the first and, for the mean, after the last whole block are not seen. Any
    precision and device.

    Parameters
    ----------
    factor : int or sequence of int
        The block's length, >= 1, one for every axis, or one each.
    in_shape : tuple of int
        The shape of the signal.
    offset : int or sequence of int
        Where the first block starts, 0 <= offset < factor, one for every axis, or one each; 0 by default.
    method : {'mean', 'pick'}
        The mean of a block (the default), or its first entry.
    kind : {'real', 'complex'}
        The kind of signal and data; real by default.

    Raises
    ------
    InputTypeError
        If a factor or an offset is not an integer.
    InputError
        If there is not one for each axis, an offset is too large, or no whole block fits.

    Notes
    -----
    ``A A^H = c I`` with c = 1 / prod(factor) for the mean and 1 for picking, so `pinv` and `solve_normal` are closed
    forms: ``A^+ = A^H / c``.
    """

    factor: int | Sequence[int]
    in_shape: Shape
    _: KW_ONLY
    offset: int | Sequence[int] = 0
    method: Literal["mean", "pick"] = "mean"
    kind: Kind = "real"

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_shape", check_dims("Downsample", "in_shape", self.in_shape))
        check_choice("Downsample", "method", self.method, ("mean", "pick"))
        check_choice("Downsample", "kind", self.kind, ("real", "complex"))
        object.__setattr__(self, "factor", self._per_axis("factor", 1))
        object.__setattr__(self, "offset", self._per_axis("offset", 0))
        if any(o >= f for o, f in zip(self._offsets, self._factors, strict=True)):
            raise invalid("Downsample", "offset", f"less than the factor {self._factors}", self._offsets)
        if 0 in self.out_shape:
            raise invalid(
                "Downsample",
                "factor",
                f"small enough to leave a block of {self.in_shape}",
                f"{self._factors} with offset {self._offsets}",
            )

    def _per_axis(self, name: str, minimum: int) -> Shape:
        value = getattr(self, name)
        several = isinstance(value, (Sequence, np.ndarray))
        if name == "factor" and not several and value != 1:
            check_spatial("Downsample", name, value, self.in_shape, 1)
        values = tuple(value) if several else (value,) * len(self.in_shape)
        if len(values) != len(self.in_shape):
            raise invalid("Downsample", name, f"an integer, or {len(self.in_shape)} of them, one for each axis", values)
        return tuple(check_int("Downsample", f"{name}[{i}]", v, minimum=minimum) for i, v in enumerate(values))

    @property
    def _factors(self) -> Shape:
        return self.factor  # type: ignore[return-value]  # a tuple since the constructor

    @property
    def _offsets(self) -> Shape:
        return self.offset  # type: ignore[return-value]

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The number of blocks along each axis."""
        last = 0 if self.method == "mean" else 1  # a block that is cut off still has a first entry
        return tuple(
            (n - o + last * (f - 1)) // f for n, f, o in zip(self.in_shape, self._factors, self._offsets, strict=True)
        )

    @property
    def _gain(self) -> float:
        """The c of ``A A^H = c I``."""
        return 1.0 / prod(self._factors) if self.method == "mean" else 1.0

    def _window(self, x: Tensor) -> Tensor:
        """The part of the signal that is seen: a view."""
        for a, (m, f, o) in enumerate(zip(self.out_shape, self._factors, self._offsets, strict=True), start=1):
            x = x.narrow(a, o, m * f) if self.method == "mean" else x[(slice(None),) * a + (slice(o, None, f),)]
        return x

    def _apply(self, x: Tensor) -> Tensor:
        x = self._window(x)
        if self.method == "pick":
            return x.clone()
        blocks = [size for m, f in zip(self.out_shape, self._factors, strict=True) for size in (m, f)]
        return x.reshape(len(x), *blocks).mean(dim=tuple(range(2, 2 * len(self.in_shape) + 1, 2)))

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), *self.in_shape)
        if self.method == "mean":
            y = y * self._gain
            for a, f in enumerate(self._factors, start=1):
                y = y.repeat_interleave(f, dim=a) if f > 1 else y
        self._window(x).copy_(y)
        return x

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        """``A^+ y = A^H y / c``: every entry of a block gets its mean."""
        count("adjoint", len(y))
        return self._adjoint(y) / self._gain

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        """The entries, the first of each mean's block standing for it (see `_Blocks`)."""
        pick = self.method == "pick"
        basis = Identity(self.in_shape, kind=self.kind) if pick else _Blocks(blocks=self)
        seen = torch.zeros(1, *self.in_shape, dtype=dtype, device=device)
        self._firsts(seen).fill_(self._gain**0.5)
        return from_basis(self, basis, seen[0])

    def _firsts(self, x: Tensor) -> Tensor:
        """The first entry of each block: a view ``(batch, *out_shape)``."""
        x = self._window(x)
        return x if self.method == "pick" else x[(slice(None), *(slice(None, None, f) for f in self._factors))]

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        """``(A^H W A + tau I)^-1 rhs = (rhs - A^H W (tau + c W)^-1 A rhs) / tau``: Woodbury, exact, ``A A^H = c I``."""
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        return (rhs - self._adjoint(weight / (tau + self._gain * weight) * self._apply(rhs))) / tau


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Blocks(LinearOperator):
    """The reflection that takes u, the constant unit vector of a block, to e, its first entry, for every block.

    Householder's ``x - 2 w <w, x>`` with ``w = (e - u) / |e - u|``: orthogonal, and its own inverse. With B entries
    in a block, ``<u, x> = sqrt(B) mean(x)``, ``|e - u|^2 = 2 - 2 / sqrt(B)``, and ``A^H g = g u / sqrt(B)``.
    """

    blocks: Downsample

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return self.blocks.in_shape

    out_shape = in_shape

    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        return self.blocks.kind

    out_kind = in_kind

    def _apply(self, x: Tensor) -> Tensor:
        gain = self.blocks._gain  # 1 / B
        if gain == 1:
            return x.clone()
        root = gain**-0.5
        g = (self.blocks._firsts(x) - root * self.blocks._apply(x)) / (1 - 1 / root)
        out: Tensor = x + root * self.blocks._adjoint(g)
        self.blocks._firsts(out).sub_(g)
        return out

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y)
