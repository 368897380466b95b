"""Cartesian MRI: one coil or several, two or three dimensions, real or complex images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, reduce
from math import prod
from typing import NamedTuple, final

import torch
from torch import Tensor

from invsolve.core.arrays import as_mask, parameter
from invsolve.core.counting import count
from invsolve.core.validation import Kind, Shape, axes_hint, check_choice, check_dims, check_finite, kind_dtype
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator
from invsolve.operators.bases import from_basis
from invsolve.operators.fourier import mirrored, of_rows, shift_phases
from invsolve.operators.harmonics import Harmonics
from invsolve.operators.mask import Mask
from invsolve.operators.spectrum import Spectrum

_CACHED = 2**20  # bytes of images of coils that are worked on at once on a CPU: they stay in the cache of a core


@final
@dataclass(frozen=True, eq=False, repr=False)
class MRI(LinearOperator):
    """Cartesian MRI ``y_c = M F (S_c x)``: coil maps S, centred orthonormal Fourier transform F, sampling mask M.

    Data are zero where not sampled; `observed` is the mask, over coils.

    Parameters
    ----------
    mask : Tensor or array, broadcastable to in_shape, or (items, ...) with as many axes more
        What is sampled, True or 1 (``(1, W)``: whole columns); the origin of k-space is at index n // 2.
    in_shape : tuple of int
        ``(H, W)`` or ``(D, H, W)``; the transform is over all of its axes.
    maps : Tensor or array, shape (coils, *in_shape) or (items, coils, *in_shape), optional
        Coil sensitivities; data are ``(batch, coils, *in_shape)``. With sum_c |S_c|^2 <= 1, as usual, the norm of the
        operator is at most 1; that is not required. Without maps there is one coil, data are ``(batch, *in_shape)``,
        and the precision is that of the data.
    in_kind : {'real', 'complex'}
        The kind of the image; complex by default. For a real image the adjoint is the real part.

    Raises
    ------
    InputTypeError
        If ``mask`` or ``maps`` do not hold numbers.
    InputError
        If ``mask`` holds others than 0 and 1, or a shape, a device or the number of items does not fit.

    Notes
    -----
    The convention is that of fastMRI and of deepinv. `pinv`, `solve_normal` and `svd` are closed forms for one coil.
    """

    mask: Tensor
    in_shape: Shape
    _: KW_ONLY
    maps: Tensor | None = None
    in_kind: Kind = "complex"

    out_kind = "complex"

    _other_space = True  # its data are not over the signal's grid, whatever their shape

    def __post_init__(self) -> None:
        shape = check_dims("MRI", "in_shape", self.in_shape)
        object.__setattr__(self, "in_shape", shape)
        if len(shape) not in (2, 3):
            raise invalid("MRI", "in_shape", "(H, W) or (D, H, W)", shape)
        check_choice("MRI", "in_kind", self.in_kind, ("real", "complex"))
        object.__setattr__(self, "mask", checked_mask("MRI", self.mask, shape))
        if self.maps is not None:
            maps = parameter("MRI", "maps", self.maps)
            object.__setattr__(self, "maps", maps.to(kind_dtype(maps.dtype, "complex")))
            self._check_maps(maps)

    def _check_maps(self, maps: Tensor) -> None:
        dim = len(self.in_shape)
        if maps.ndim not in (dim + 1, dim + 2) or tuple(maps.shape[-dim:]) != self.in_shape or 0 in maps.shape:
            want = ", ".join(map(str, ("coils", *self.in_shape)))
            moved = tuple(maps.shape[-1:] + maps.shape[:-1])
            hint = axes_hint("maps", maps.shape, moved if moved[1:] == self.in_shape else self.in_shape)
            raise invalid("MRI", "maps", f"of shape ({want}) or (items, {want})", tuple(maps.shape), hint)
        if maps.device != self.mask.device:
            raise invalid("MRI", "maps", f"on the device of `mask`, {self.mask.device}", maps.device)
        check_finite("MRI", "maps", maps)
        _ = self.batch  # raises if mask and maps have different numbers of items

    def _item_axes(self) -> dict[str, int]:
        return {"mask": len(self.in_shape), "maps": len(self.in_shape) + 1}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``([coils,] *in_shape)``."""
        return self.in_shape if self.maps is None else (self.maps.shape[-len(self.in_shape) - 1], *self.in_shape)

    @property
    def observed(self) -> Tensor:
        mask = self.mask if self.maps is None else self.mask.unsqueeze(-len(self.in_shape) - 1)
        items = self.mask.shape[:1] if "mask" in self._items() else ()
        return mask.expand(*items, *self.out_shape)

    # --- plans: computed once -----------------------------------------------------------------------------------------
    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.in_shape), 0))

    @cached_property
    def _phases(self) -> tuple[Tensor, Tensor]:
        """``F = q fftn p``, in float64 or complex128 on the operator's device."""
        before, after = shift_phases(self.in_shape)
        return before.to(self.mask.device), after.to(self.mask.device)

    @cached_property
    def _encode(self) -> dict[torch.dtype, _Encoding]:
        return {}

    def _encoding(self, dtype: torch.dtype) -> _Encoding:
        """What A is made of, as precise as ``dtype``."""
        real = kind_dtype(dtype, "real")
        if real not in self._encode:
            before, after = (_cast(phase, real) for phase in self._phases)
            maps = before.unsqueeze(0) if self.maps is None else before * self.maps
            items = self._items()
            maps = maps if "maps" in items else maps.unsqueeze(0)
            mask = narrow = (self.mask if "mask" in items else self.mask.unsqueeze(0)).unsqueeze(1)
            for a in self._dims:
                narrow = narrow if a in self._varying else narrow.narrow(a, 0, 1)
            mask = mask * after
            # Written out: a conjugate that is only marked as one is computed again at every product.
            self._encode[real] = _Encoding(
                maps=maps,
                conjugate=maps.conj().resolve_conj(),
                mask=mask,
                back=mask.conj().resolve_conj(),
                sampled=narrow.to(real),
            )
        return self._encode[real]

    @cached_property
    def _varying(self) -> tuple[int, ...]:
        """The axes along which the mask changes; along the others F^-1 M F does nothing: they are not transformed."""
        return tuple(a for a in self._dims if bool((self.mask != self.mask.narrow(a, 0, 1)).any()))

    # --- the operator -------------------------------------------------------------------------------------------------
    def _apply(self, x: Tensor) -> Tensor:
        plan = self._encoding(x.dtype)
        k = of_rows(torch.fft.fftn, x.unsqueeze(1) * plan.maps, dim=self._dims, norm="ortho")
        k = k.mul_(plan.mask)  # in place: a temporary of this size costs more than the product
        return k.squeeze(1) if self.maps is None else k

    def _adjoint(self, y: Tensor) -> Tensor:
        plan = self._encoding(y.dtype)
        y = y.unsqueeze(1) if self.maps is None else y

        def images(rows: slice, coils: slice) -> Tensor:
            k = y[rows, coils] * _part(plan.back, rows)
            return of_rows(torch.fft.ifftn, k, dim=self._dims, norm="ortho")

        return self._combined(images, plan.conjugate, len(y))

    def _normal(self, x: Tensor) -> Tensor:
        """``sum_c conj(S_c) F^-1 M F S_c x``: the phases q cancel, and so do transforms where M does not change."""
        plan = self._encoding(x.dtype)

        def images(rows: slice, coils: slice) -> Tensor:
            seen = x[rows].unsqueeze(1) * _part(plan.maps, rows, coils)
            seen = seen if seen.is_complex() else torch.complex(seen, torch.zeros_like(seen))
            if not self._varying:
                return seen.mul_(_part(plan.sampled, rows))
            k = of_rows(torch.fft.fftn, seen, dim=self._varying, norm="ortho").mul_(_part(plan.sampled, rows))
            return of_rows(torch.fft.ifftn, k, dim=self._varying, norm="ortho")

        return self._combined(images, plan.conjugate, len(x))

    def _combined(self, images: Callable[[slice, slice], Tensor], conjugate: Tensor, rows: int) -> Tensor:
        """``sum_c conj(p S_c) images_c`` of so many rows, of some rows and coils at a time on a CPU.

        What ``images`` makes of them is overwritten.
        """
        coils, pixels = conjugate.shape[1], prod(self.in_shape)
        whole = conjugate.device.type != "cpu"
        entries = coils * pixels * rows if whole else _CACHED // (2 * conjugate.real.element_size())
        row_step, coil_step = max(1, entries // (coils * pixels)), min(coils, max(1, entries // pixels))
        sums = []
        for first in range(0, max(1, rows), row_step):
            here = slice(first, first + row_step)
            several = (slice(c, c + coil_step) for c in range(0, coils, coil_step))
            parts = (images(here, c).mul_(_part(conjugate, here, c)).sum(1) for c in several)
            sums.append(reduce(Tensor.add_, parts))  # in place: what is made anew is paid for again
        x = sums[0] if len(sums) == 1 else torch.cat(sums)
        return x.real.contiguous() if self.in_kind == "real" else x

    # --- closed forms for one coil ------------------------------------------------------------------------------------
    def _multiplier(self, gain: Tensor) -> Tensor:
        """``M~`` with A^H diag(gain) A = F^-1 M~ F, in the order of fftn.

        On real images only the part of the gain that is even in k acts: Re F^-1 g F x = F^-1 ((g(k) + g(-k)) / 2) F x.
        """
        gain = torch.fft.ifftshift(gain, self._dims)
        if self.in_kind == "complex":
            return gain
        return 0.5 * (gain + mirrored(gain, self._dims))

    def _filter(self, x: Tensor, multiplier: Tensor) -> Tensor:
        spectrum = of_rows(torch.fft.fftn, x, dim=self._dims) * multiplier
        out = of_rows(torch.fft.ifftn, spectrum, dim=self._dims)
        return out.real.contiguous() if self.in_kind == "real" else out

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        """``A^+ y``: A^H y for one coil and complex images, closed form for real ones; CG-SENSE for several coils."""
        if self.maps is not None:
            return super()._pinv(y, rtol=rtol, max_iter=max_iter)
        count("adjoint", len(y))
        x = self._adjoint(y)
        if self.in_kind == "complex":
            return x
        # 0, 1/2 or 1: a frequency may be known from its mirror image
        gain = self._multiplier(self.observed.to(x.dtype))
        return self._filter(x, torch.where(gain > 0, 1 / gain, 0.0))

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        """One coil: values 0 and 1 in k-space; of real images 0, 1/sqrt(2) and 1 in real harmonics."""
        if self.maps is not None:
            return super()._svd(dtype, device)
        sampled = self.observed
        if self.in_kind == "real":
            values = self._multiplier(sampled.to(dtype)).sqrt()
            return from_basis(self, Harmonics(in_shape=self.in_shape), values)
        everywhere = torch.ones((), dtype=torch.bool, device=self.mask.device).expand(self.in_shape)
        return Spectrum(
            values=sampled.to(dtype),
            signal_basis=MRI(in_shape=self.in_shape, mask=everywhere),
            data_basis=Mask(mask=sampled, in_shape=self.in_shape, kind="complex"),
        )

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        """``(A^H W A + tau I)^-1 rhs``; one coil: exact, by division in k-space, whatever the weights."""
        if self.maps is not None:
            return super()._solve_normal(rhs, weight=weight, tau=tau, start=start, rtol=rtol, max_iter=max_iter)
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        return self._filter(rhs, 1 / (self._multiplier(weight * self.observed.to(rhs.real.dtype)) + tau))


class _Encoding(NamedTuple):
    """What A is made of; the first two axes are (items or 1, coils or 1)."""

    maps: Tensor  # p S
    conjugate: Tensor
    mask: Tensor  # M q
    back: Tensor  # its conjugate
    sampled: Tensor  # M, of length 1 along the axes along which it does not change


def checked_mask(owner: str, mask: Tensor, shape: Shape) -> Tensor:
    """The mask as bool, with as many axes as the image of this shape, or with one more for items."""
    mask = as_mask(owner, "mask", mask)
    if mask.ndim < len(shape):
        mask = mask.reshape(*[1] * (len(shape) - mask.ndim), *mask.shape)
    fits = all(a in (1, n) for a, n in zip(mask.shape[-len(shape) :], shape, strict=True))
    if mask.ndim > len(shape) + 1 or not fits:
        given, coils = tuple(mask.shape), ""
        if len(shape) == 3 and {given, given[1:]} & {shape[1:], shape[:-1]}:
            coils = "in_shape is that of the image alone, (H, W): coils come with maps=, first: (coils, H, W)."
        expected = f"broadcastable to {shape} or (items, {', '.join(map(str, shape))})"
        raise invalid(owner, "mask", expected, given, coils or axes_hint("mask", given, shape))
    return mask


def _part(t: Tensor, rows: slice, coils: slice = slice(None)) -> Tensor:
    """Some rows and coils of what may be the same for all of them."""
    t = t if len(t) == 1 else t[rows]
    return t if t.shape[1] == 1 else t[:, coils]


def _cast(phase: Tensor, real: torch.dtype) -> Tensor:
    return phase.to(kind_dtype(real, "complex" if phase.is_complex() else "real"))
