"""Keep some entries: `Mask` (zero-filled, same shape) and `Subsample` (the kept entries as a vector)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import as_index, as_mask
from invsolve.core.validation import Kind, Shape, axes_hint, check_choice, check_dims
from invsolve.errors import invalid
from invsolve.operators.bases import from_basis
from invsolve.operators.identity import Identity
from invsolve.operators.one_kind import OneKind
from invsolve.operators.spectrum import Spectrum


@final
@dataclass(frozen=True, eq=False, repr=False)
class Mask(OneKind):
    """Keep some entries in place: ``y = mask * x``.

    Inpainting, gaps in a series. Entries where ``mask`` is False are zero and do not count as data (`observed`). Any
    precision.

    Parameters
    ----------
    mask : Tensor, array or list, shape (*in_shape) or (items, *in_shape)
        True, or 1, where there is a datum; False, or 0, elsewhere.
    in_shape : tuple of int, optional
        The shape of the signal; by default that of ``mask``, which is one mask then.
    kind : {'real', 'complex'}
        The kind of signal and data; real by default.

    Raises
    ------
    InputTypeError
        If ``mask`` does not hold numbers.
    InputError
        If it holds others than 0 and 1, or its shape does not fit ``in_shape``.
    """

    mask: Tensor
    _: KW_ONLY
    in_shape: Shape = None  # type: ignore[assignment]  # default: the shape of the mask
    kind: Kind = "real"

    entrywise = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", as_mask("Mask", "mask", self.mask))
        check_choice("Mask", "kind", self.kind, ("real", "complex"))
        shape = tuple(self.mask.shape) if self.in_shape is None else check_dims("Mask", "in_shape", self.in_shape)
        object.__setattr__(self, "in_shape", shape)
        if tuple(self.mask.shape) != shape and tuple(self.mask.shape[1:]) != shape:
            expected, given = f"of shape {shape} or (items, {', '.join(map(str, shape))})", tuple(self.mask.shape)
            raise invalid("Mask", "mask", expected, given, axes_hint("mask", given, shape))

    def _item_axes(self) -> dict[str, int]:
        return {"mask": len(self.in_shape)}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, that of the signal."""
        return self.in_shape

    @property
    def observed(self) -> Tensor:
        return self.mask

    @property
    def gram(self) -> Tensor:
        return self.mask

    def _apply(self, x: Tensor) -> Tensor:
        return x * self.mask

    def _adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask

    def _normal(self, x: Tensor) -> Tensor:
        return x * self.mask

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        entries = Identity(self.in_shape, kind=self.kind)
        return Spectrum(values=self.mask.to(dtype), signal_basis=entries, data_basis=self)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Subsample(OneKind):
    """Sensors at some entries, as a vector of length m: ``y = x.flatten()[index]``.

    Parameters
    ----------
    index : Tensor, array or list of int, shape (m,) or (items, m)
        Positions in the flattened signal, from 0; repeats are allowed.
    in_shape : tuple of int
        The shape of the signal.
    kind : {'real', 'complex'}
        The kind of signal and data; real by default.

    Raises
    ------
    InputTypeError
        If ``index`` does not hold integers.
    InputError
        If it has another number of axes or points outside the signal.
    """

    index: Tensor
    in_shape: Shape
    _: KW_ONLY
    kind: Kind = "real"

    def __post_init__(self) -> None:
        shape = check_dims("Subsample", "in_shape", self.in_shape)
        object.__setattr__(self, "in_shape", shape)
        check_choice("Subsample", "kind", self.kind, ("real", "complex"))
        object.__setattr__(self, "index", as_index("Subsample", "index", self.index))
        if self.index.ndim not in (1, 2):
            raise invalid("Subsample", "index", "of shape (m,) or (items, m)", tuple(self.index.shape))
        size = torch.Size(shape).numel()
        if self.index.numel() and (int(self.index.min()) < 0 or int(self.index.max()) >= size):
            raise invalid(
                "Subsample", "index", f"between 0 and {size - 1}", f"{int(self.index.min())} to {int(self.index.max())}"
            )

    def _item_axes(self) -> dict[str, int]:
        return {"index": 1}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The number of sensors, ``(m,)``."""
        return (self.index.shape[-1],)

    def _observed_behind(self, seen: Tensor | None) -> Tensor | None:
        if seen is None:
            return None
        flat = seen.flatten(seen.ndim - len(self.in_shape))
        return flat[..., self.index] if self.index.ndim == 1 else flat.expand(len(self.index), -1).gather(1, self.index)

    def _apply(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat[:, self.index] if self.index.ndim == 1 else flat.gather(1, self.index)

    def _adjoint(self, y: Tensor) -> Tensor:
        flat = y.new_zeros(len(y), torch.Size(self.in_shape).numel())
        return flat.scatter_add(1, self.index.expand(len(y), -1), y).view(len(y), *self.in_shape)

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        """The entries; an entry that is kept r times has the value sqrt(r)."""
        times = self._adjoint(torch.ones(self.batch or 1, *self.out_shape, dtype=dtype, device=device))
        entries = Identity(self.in_shape, kind=self.kind)
        return from_basis(self, entries, (times if self.batch is not None else times[0]).sqrt())
