"""Diffraction in the far field: the oversampled Fourier transform of a signal, behind coded masks if there are any."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.counting import count
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import (
    Kind,
    Shape,
    check_choice,
    check_dims,
    check_finite,
    check_int,
    kind_dtype,
)
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import LinearOperator
from invsolve.operators.bases import from_basis
from invsolve.operators.fourier import of_rows
from invsolve.operators.identity import Identity
from invsolve.operators.spectrum import Spectrum


@final
@dataclass(frozen=True, eq=False, repr=False)
class Diffraction(LinearOperator):
    """Far-field patterns ``y_l = F P (c_l x)``: codes c, zero padding P, orthonormal Fourier transform F.

    Its modulus is what `PhaseRetrieval` sees: the pattern with ``oversampling=2`` determines the autocorrelation of
    the signal [1]_, several codes in general the signal up to one phase [2]_.

    Parameters
    ----------
    in_shape : tuple of int
        The shape of the signal, 1 to 3 axes, each padded at its end to ``oversampling`` times its length and
        transformed. The signal's origin is index 0, that of the frequencies index n // 2 of the n after padding.
    codes : Tensor, complex, shape (patterns, *in_shape) or (items, patterns, *in_shape), optional
        Masks in front of the signal, finite, see `random_codes`; data are ``(batch, patterns, *padded)``. Without
        codes there is one pattern, data are ``(batch, *padded)``, and the precision is that of the data.
    oversampling : int
        Length of the transform over length of the signal, >= 1; 2 by default.
    in_kind : {'real', 'complex'}
        The kind of the signal; complex by default. For a real signal the adjoint is the real part.

    Raises
    ------
    InputTypeError
        If ``codes`` is not a complex tensor.
    InputError
        If its shape does not fit, or ``in_shape`` has more than 3 axes.

    Notes
    -----
    ``A^H A = diag(sum_l |c_l|^2)``, 1 without codes: `pinv`, `solve_normal` with one weight, and `svd` are closed
    forms.

    References
    ----------
    .. [1] Fienup 1982, Phase retrieval algorithms: a comparison, Applied Optics 21, 2758.
    .. [2] Candes, Li & Soltanolkotabi 2015, Phase retrieval from coded diffraction patterns, Appl. Comput. Harmon.
       Anal. 39, 277.
    """

    in_shape: Shape
    _: KW_ONLY
    codes: Tensor | None = None
    oversampling: int = 2
    in_kind: Kind = "complex"

    out_kind = "complex"

    _other_space = True  # its data are not over the signal's grid, whatever their shape

    def __post_init__(self) -> None:
        shape = check_dims("Diffraction", "in_shape", self.in_shape)
        object.__setattr__(self, "in_shape", shape)
        if not 1 <= len(shape) <= 3:
            raise invalid("Diffraction", "in_shape", "of 1 to 3 axes", shape)
        object.__setattr__(self, "oversampling", check_int("Diffraction", "oversampling", self.oversampling, minimum=1))
        check_choice("Diffraction", "in_kind", self.in_kind, ("real", "complex"))
        if self.codes is None:
            return
        codes = parameter("Diffraction", "codes", self.codes)
        codes = codes.to(kind_dtype(codes.dtype, "complex"))
        object.__setattr__(self, "codes", codes)
        fits = tuple(codes.shape[-len(shape) :]) == shape and codes.ndim - len(shape) in (1, 2)
        if not fits or 0 in codes.shape:
            want = ", ".join(map(str, ("patterns", *shape)))
            raise invalid("Diffraction", "codes", f"of shape ({want}) or (items, {want})", tuple(codes.shape))
        check_finite("Diffraction", "codes", codes)

    def _item_axes(self) -> dict[str, int]:
        return {"codes": len(self.in_shape) + 1}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``([patterns,] *padded)``."""
        return self._padded if self.codes is None else (self.codes.shape[-len(self.in_shape) - 1], *self._padded)

    @property
    def _padded(self) -> Shape:
        return tuple(self.oversampling * n for n in self.in_shape)

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.in_shape), 0))

    @property
    def _power(self) -> Tensor:
        """``sum_l |c_l|^2``, the diagonal of ``A^H A``: ``([items,] *in_shape)``, or 0-d."""
        if self.codes is None:
            return torch.ones((), dtype=torch.float32, device="cpu")
        return self.codes.abs().square().sum(-len(self.in_shape) - 1)

    def _apply(self, x: Tensor) -> Tensor:
        z = x if self.codes is None else x.unsqueeze(1) * self.codes
        y = of_rows(torch.fft.fftn, z, s=self._padded, dim=self._dims, norm="ortho")
        centred: Tensor = torch.fft.fftshift(y, self._dims)
        return centred

    def _adjoint(self, y: Tensor) -> Tensor:
        z = of_rows(torch.fft.ifftn, torch.fft.ifftshift(y, self._dims), dim=self._dims, norm="ortho")
        for axis, n in zip(self._dims, self.in_shape, strict=True):
            z = z.narrow(axis, 0, n)
        x = z if self.codes is None else (z * self.codes.conj()).sum(1)
        return x.real.contiguous() if self.in_kind == "real" else x.contiguous()

    def _normal(self, x: Tensor) -> Tensor:
        return x * self._power.to(x.device, x.real.dtype)

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        """``A^+ y = A^H y / sum_l |c_l|^2``; 0 where no code lets light through."""
        count("adjoint", len(y))
        x = self._adjoint(y)
        power = self._power.to(x.device, x.real.dtype)
        return x * torch.where(power > 0, 1 / power, 0.0)

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        """``(A^H W A + tau I)^-1 rhs``; with one weight: exact, by division."""
        if isinstance(weight, Tensor):
            return super()._solve_normal(rhs, weight=weight, tau=tau, start=start, rtol=rtol, max_iter=max_iter)
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        return rhs / (weight * self._power.to(rhs.device, rhs.real.dtype) + tau)

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        values = self._power.to(device, dtype).sqrt()
        entries = Identity(self.in_shape, kind=self.in_kind)
        return from_basis(self, entries, values.expand(*values.shape[: self._leading], *self.in_shape))

    @property
    def _leading(self) -> int:
        return 0 if self.batch is None else 1


@in_defined_state
def random_codes(number: int, shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.complex64) -> Tensor:
    """Coded masks for `Diffraction`: entries 1, -1, i, -i, equally likely.

    Parameters
    ----------
    number : int
        How many masks, >= 1.
    shape : tuple of int
        The shape of the signal.
    seed : int
        The same seed gives the same codes on every machine; 0 by default.
    dtype : torch.dtype
        The complex precision; complex64 by default.

    Returns
    -------
    Tensor, shape (number, *shape)
        The masks, on the CPU.

    Raises
    ------
    InputTypeError
        If ``dtype`` is not complex.
    InputError
        If ``number`` is less than 1.
    """
    shape = check_dims("random_codes", "shape", shape)
    number = check_int("random_codes", "number", number, minimum=1)
    if not isinstance(dtype, torch.dtype) or not dtype.is_complex:
        raise invalid_type("random_codes", "dtype", "a complex torch.dtype", str(dtype))
    rng = torch.Generator().manual_seed(check_int("random_codes", "seed", seed))
    turns = torch.randint(4, (number * prod(shape),), generator=rng, device="cpu").view(number, *shape)
    real = kind_dtype(dtype, "real")
    quarter = torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=real, device="cpu")
    return torch.complex(quarter[turns], quarter[(turns - 1) % 4])
