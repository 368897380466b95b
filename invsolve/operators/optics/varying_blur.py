"""Blur whose kernel changes with the place: a sum of a few convolutions with maps of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import parameters, real_parameter
from invsolve.core.ownership import made
from invsolve.core.validation import Kind, Shape, check_dims, check_finite, check_int, check_positive
from invsolve.errors import invalid
from invsolve.operators.one_kind import OneKind
from invsolve.operators.optics.blur import Blur, Boundary


@final
@dataclass(frozen=True, eq=False, repr=False)
class VaryingBlur(OneKind):
    """Blur that changes over the picture: ``y = sum_k h_k * (w_k x)``, each source spread by its own kernel.

    A source at p is spread by ``sum_k w_k(p) h_k``. `VaryingBlur.tiled` takes kernels on a lattice of places,
    `VaryingBlur.low_rank` kernels at any places.

    Parameters
    ----------
    kernels : Tensor or array, shape (K, k_1, ...)
        As in `Blur`: one axis for every axis of the signal. Real, or complex for ``kind="complex"``.
    weights : Tensor or array, shape (K, *in_shape)
        w_k, real and finite.
    boundary : {'periodic', 'zero', 'reflect', 'valid'}
        What ``w_k x`` is beyond its edge, as in `Blur`; periodic by default.
    kind : {'real', 'complex'}
        The kind of signal and data; real by default.

    Raises
    ------
    InputTypeError
        If ``kernels`` or ``weights`` do not hold numbers of their kind.
    InputError
        If their shapes do not fit, or they are not finite.

    References
    ----------
    Flicker & Rigaut 2005, Anisoplanatic deconvolution of adaptive optics images, J. Opt. Soc. Am. A 22, 504; Nagy &
    O'Leary 1998, Restoring images degraded by spatially variant blur, SIAM J. Sci. Comput. 19, 1063; Denis, Thiebaut,
    Soulez, Becker & Mourya 2015, Fast approximations of shift-variant blur, Int. J. Comput. Vis. 115, 253.
    """

    kernels: Tensor
    weights: Tensor
    _: KW_ONLY
    boundary: Boundary = "periodic"
    kind: Kind = "real"

    def __post_init__(self) -> None:
        owner = "VaryingBlur"
        found = parameters(owner, kernels=self.kernels, weights=self.weights)
        kernels, weights = found["kernels"], real_parameter(owner, "weights", found["weights"])
        object.__setattr__(self, "kernels", kernels)
        object.__setattr__(self, "weights", weights)
        if weights.ndim < 2 or 0 in weights.shape:
            raise invalid(owner, "weights", "of shape (K, *in_shape)", tuple(weights.shape))
        if kernels.ndim != weights.ndim or len(kernels) != len(weights):
            expected = f"of {weights.ndim} axes, the first of length {len(weights)}, as `weights`"
            raise invalid(owner, "kernels", expected, tuple(kernels.shape))
        check_finite(owner, "weights", weights)
        if kernels.device != weights.device:
            raise invalid(owner, "weights", f"on the device of `kernels`, {kernels.device}", weights.device)
        _ = self._blur  # which checks the rest

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the signal, that of the weights."""
        return tuple(self.weights.shape[1:])

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data: that of the signal, or shorter for ``boundary="valid"``."""
        return self._blur.out_shape

    @cached_property
    def _blur(self) -> Blur:
        """All convolutions; its kernels broadcast against an axis of K behind the rows."""
        return made(Blur, self.kernels, self.in_shape, boundary=self.boundary, kind=self.kind)

    def _apply(self, x: Tensor) -> Tensor:
        blur = self._blur  # summed in Fourier space: one inverse transform
        spectrum = blur._transform(blur._extend(x.unsqueeze(1) * self.weights)) * blur._spectrum
        y = blur._inverse(spectrum.sum(1))
        for a in blur._axes:
            y = y.narrow(a, blur._first(a), self.out_shape[a])
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        several = y.unsqueeze(1)  # transformed once, for all kernels
        return (self._blur._adjoint(several) * self.weights).sum(1)

    @classmethod
    def tiled(
        cls,
        kernels: Tensor,
        in_shape: Sequence[int],
        *,
        boundary: Boundary = "periodic",
        kind: Kind = "real",
    ) -> Self:
        """Kernels on a lattice of places, interpolated linearly between them.

        Places are the centres of equal tiles; weights are overlapping tents of sum 1, constant beyond the outermost
        centres. A quarter of a picture sees one to four kernels of a 2 x 2 lattice.

        Parameters
        ----------
        kernels : Tensor or array, shape (t_1, ..., k_1, ...)
            The lattice's axes first, one for every axis of the signal, then those of a kernel.
        in_shape : sequence of int
            The shape of the signal.
        boundary, kind : str
            As of the class.

        Returns
        -------
        VaryingBlur

        Raises
        ------
        InputError
            If the number of axes does not fit.
        """
        shape = check_dims(cls.__name__, "in_shape", in_shape)
        kernels = parameters(cls.__name__, kernels=kernels)["kernels"]
        if kernels.ndim != 2 * len(shape):
            raise invalid(cls.__name__, "kernels", f"of {2 * len(shape)} axes: lattice, kernel", tuple(kernels.shape))
        tiles = tuple(kernels.shape[: len(shape)])
        dim, weights = len(shape), torch.ones((), dtype=torch.float64, device=kernels.device)
        for a, (number, n) in enumerate(zip(tiles, shape, strict=True)):
            place = [number if b == a else n if b == dim + a else 1 for b in range(2 * dim)]
            weights = weights * _tents(number, n, kernels.device).view(place)
        flat = weights.reshape(math.prod(tiles), *shape).to(kernels.real.dtype)
        return cls(kernels.flatten(0, len(shape) - 1), flat, boundary=boundary, kind=kind)

    @classmethod
    def low_rank(
        cls,
        kernels: Tensor,
        weights: Tensor,
        *,
        rank: int | None = None,
        rtol: float = 1e-3,
        boundary: Boundary = "periodic",
        kind: Kind = "real",
    ) -> Self:
        """Fewer convolutions: the P kernels by their R principal ones, of a singular value decomposition.

        Parameters
        ----------
        kernels : Tensor or array, shape (P, k_1, ...)
            Measured or computed kernels.
        weights : Tensor or array, shape (P, *in_shape)
            How much of each kernel a source at every place has, as in the class: an interpolation.
        rank : int, optional
            R; by default the least whose relative error, in the root sum of squares of all kernels, is below ``rtol``.
        rtol : float
            See ``rank``, > 0.
        boundary, kind : str
            As of the class.

        Returns
        -------
        VaryingBlur

        Raises
        ------
        InputError
            If a shape does not fit, or ``rank`` is not between 1 and P.
        """
        whole = cls(kernels, weights, boundary=boundary, kind=kind)  # which checks them
        P = len(whole.kernels)
        wide = torch.complex128 if whole.kernels.is_complex() else torch.float64
        left, values, right = torch.linalg.svd(whole.kernels.flatten(1).to(wide), full_matrices=False)
        if rank is None:
            rtol = check_positive(cls.__name__, "rtol", rtol)
            lost = values.square().flip(0).cumsum(0).flip(0).sqrt()  # of leaving out this one and all behind it
            rank = max(1, int((lost > rtol * lost[0]).sum()))
        rank = check_int(cls.__name__, "rank", rank, minimum=1)
        if rank > len(values):
            raise invalid(cls.__name__, "rank", f"at most {len(values)}, for {P} kernels", rank)
        if left.is_complex():
            raise invalid(cls.__name__, "kernels", "real for low_rank", str(whole.kernels.dtype))
        principal = (values[:rank, None] * right[:rank]).reshape(rank, *whole.kernels.shape[1:])
        mixed = torch.tensordot(left[:, :rank].mT, whole.weights.double(), dims=1)
        dtype = whole.kernels.dtype
        return cls(principal.to(dtype), mixed.to(dtype), boundary=boundary, kind=kind)


def _tents(number: int, n: int, device: torch.device) -> Tensor:
    """Linear interpolation between the centres of ``number`` equal parts of n pixels: (number, n), of sum 1."""
    place = ((torch.arange(n, dtype=torch.float64, device=device) + 0.5) * number / n - 0.5).clamp(0, number - 1)
    return (1 - (place - torch.arange(number, dtype=torch.float64, device=device)[:, None]).abs()).clamp_min(0)


__all__ = ["VaryingBlur"]
