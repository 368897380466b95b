"""Cartesian MRI with several sets of coil maps."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property, reduce
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.ownership import made
from invsolve.core.validation import Kind, Shape, axes_hint, check_choice, check_dims, check_finite, kind_dtype
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator
from invsolve.operators.fourier import of_rows
from invsolve.operators.mri.cartesian import MRI, checked_mask


@final
@dataclass(frozen=True, eq=False, repr=False)
class SoftSense(LinearOperator):
    """Cartesian MRI of several images, each with coil maps of its own: ``y_c = M F sum_s S_sc x_s`` (soft SENSE).

    A second image takes up what one set of maps cannot explain, as where the field of view is smaller than the object.

    Parameters
    ----------
    mask : Tensor or array, broadcastable to the grid, or (items, ...) with as many axes more
        What is sampled, as in `MRI`.
    in_shape : tuple of int
        ``(sets, H, W)`` or ``(sets, D, H, W)``; the grid is what follows the sets.
    maps : Tensor or array, shape (sets, coils, *grid) or (items, sets, coils, *grid)
        Coil sensitivities, as `invsolve.operators.mri.estimate_maps` gives them with ``sets=``. Data are ``(batch,
        coils, *grid)``.
    in_kind : {'real', 'complex'}
        The kind of the images; complex by default. For real images the adjoint is the real part.

    Raises
    ------
    InputTypeError
        If ``mask`` or ``maps`` do not hold numbers.
    InputError
        If ``mask`` holds others than 0 and 1, or a shape, a device or the number of items does not fit.

    References
    ----------
    Uecker et al. 2014, "ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI", Magn. Reson. Med. 71, 990.
    """

    mask: Tensor
    in_shape: Shape
    _: KW_ONLY
    maps: Tensor
    in_kind: Kind = "complex"

    out_kind = "complex"

    _other_space = True  # its data are not over the signal's grid, whatever their shape

    def __post_init__(self) -> None:
        shape = check_dims("SoftSense", "in_shape", self.in_shape)
        object.__setattr__(self, "in_shape", shape)
        if len(shape) not in (3, 4):
            raise invalid("SoftSense", "in_shape", "(sets, H, W) or (sets, D, H, W)", shape)
        check_choice("SoftSense", "in_kind", self.in_kind, ("real", "complex"))
        object.__setattr__(self, "mask", checked_mask("SoftSense", self.mask, self._grid))
        maps = parameter("SoftSense", "maps", self.maps)
        maps = maps.to(kind_dtype(maps.dtype, "complex"))
        object.__setattr__(self, "maps", maps)
        dim = len(self._grid)
        wanted = (shape[0], *maps.shape[-dim - 1 : -dim], *self._grid)
        if maps.ndim not in (dim + 2, dim + 3) or tuple(maps.shape[-dim - 2 :]) != wanted or 0 in maps.shape:
            want = ", ".join(map(str, (shape[0], "coils", *self._grid)))
            hint = axes_hint("maps", maps.shape, wanted)
            raise invalid("SoftSense", "maps", f"of shape ({want}) or (items, {want})", tuple(maps.shape), hint)
        if maps.device != self.mask.device:
            raise invalid("SoftSense", "maps", f"on the device of `mask`, {self.mask.device}", maps.device)
        check_finite("SoftSense", "maps", maps)
        _ = self.batch  # raises if mask and maps have different numbers of items

    def _item_axes(self) -> dict[str, int]:
        return {"mask": len(self._grid), "maps": len(self._grid) + 2}

    @property
    def _grid(self) -> Shape:
        return self.in_shape[1:]

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``(coils, *grid)``."""
        return tuple(self.maps.shape[-len(self._grid) - 1 :])

    @property
    def observed(self) -> Tensor:
        mask = self.mask.unsqueeze(-len(self._grid) - 1)
        items = self.mask.shape[:1] if "mask" in self._items() else ()
        return mask.expand(*items, *self.out_shape)

    @cached_property
    def _fourier(self) -> MRI:
        """``M F`` of one coil: its phases, mask and axes are those of every coil here."""
        return made(MRI, self.mask, self._grid)

    @cached_property
    def _sets(self) -> tuple[Tensor, Tensor]:
        """``p S``, the maps with the phases of the transform, and its conjugate: (items or 1, sets, coils, *grid)."""
        maps = self.maps if "maps" in self._items() else self.maps.unsqueeze(0)
        maps = maps * self._fourier._encoding(self.maps.dtype).maps.unsqueeze(1)
        return maps, maps.conj().resolve_conj()

    def _seen(self, x: Tensor) -> Tensor:
        """``p sum_s S_sc x_s``, (batch, coils, *grid)."""
        maps = self._sets[0]
        return reduce(torch.add, (maps[:, s] * x[:, s, None] for s in range(self.in_shape[0])))

    def _combined(self, coils: Tensor) -> Tensor:
        """``sum_c conj(p S_sc) x_c``, (batch, sets, *grid)."""
        conjugate = self._sets[1]
        x = torch.stack([(conjugate[:, s] * coils).sum(1) for s in range(self.in_shape[0])], 1)
        return x.real.contiguous() if self.in_kind == "real" else x

    def _apply(self, x: Tensor) -> Tensor:
        plan = self._fourier._encoding(self.maps.dtype)
        k = of_rows(torch.fft.fftn, self._seen(x), dim=self._fourier._dims, norm="ortho")
        return k.mul_(plan.mask)  # in place: a temporary of this size costs more than the product

    def _adjoint(self, y: Tensor) -> Tensor:
        plan = self._fourier._encoding(self.maps.dtype)
        return self._combined(of_rows(torch.fft.ifftn, y * plan.back, dim=self._fourier._dims, norm="ortho"))

    def _normal(self, x: Tensor) -> Tensor:
        """The phases behind the transform cancel, and so do transforms where the mask does not change: see `MRI`."""
        plan, dims = self._fourier._encoding(self.maps.dtype), self._fourier._varying
        seen = self._seen(x)
        if not dims:
            return self._combined(seen.mul_(plan.sampled))
        k = of_rows(torch.fft.fftn, seen, dim=dims, norm="ortho").mul_(plan.sampled)
        return self._combined(of_rows(torch.fft.ifftn, k, dim=dims, norm="ortho"))


__all__ = ["SoftSense"]
