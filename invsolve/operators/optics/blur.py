"""Convolution with a known kernel, with five boundary rules and exact adjoints, in Fourier space."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.counting import count
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, check_finite, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.operators.fourier import mirrored, of_rows
from invsolve.operators.harmonics import Harmonics
from invsolve.operators.one_kind import OneKind
from invsolve.operators.spectrum import Spectrum

Boundary = Literal["periodic", "zero", "reflect", "mirror", "symmetric", "valid"]
_BOUNDARIES = ("periodic", "zero", "reflect", "mirror", "symmetric", "valid")
_MIRRORED = ("reflect", "symmetric")
_ELSEWHERE = {"wrap": "periodic", "circular": "periodic", "constant": "zero", "fill": "zero"}  # in numpy, scipy, torch


@dataclass(frozen=True, eq=False, repr=False)
class Blur(OneKind):
    """True convolution with a kernel h of length k: ``y[i] = sum_j h[j] x[i + c - j]``, its centre at ``c = k // 2``.

    The kernel is the point spread function (PSF); `GaussianBlur` has that of a Gaussian.

    Parameters
    ----------
    kernel : Tensor, array or list, shape (k_1, ...) or (items, k_1, ...)
        One axis for every axis of ``in_shape``, of length 1 where nothing is blurred. Real, or complex for
        ``kind="complex"``; finite.
    in_shape : tuple of int
        The shape of the signal, 1 to 3 axes.
    boundary : {'periodic', 'zero', 'reflect', 'symmetric', 'valid'}
        What the signal is beyond its edge; periodic by default. A photograph goes on beyond its edge: of these
        ``"symmetric"`` or ``"reflect"`` is the nearest to it, of large ones ``"valid"``.

        - ``"periodic"``: repeated (the kernel may be longer than the signal; `pinv`, `solve_normal` and `svd` are
          closed forms);
        - ``"zero"``: zero;
        - ``"reflect"`` or ``"mirror"``: mirrored about the centre of the outermost entry, which is not repeated,
          ``c b | a b c | b a``: "reflect" of numpy and torch, "mirror" of scipy.ndimage;
        - ``"symmetric"``: mirrored about the edge, the outermost entry is repeated, ``b a | a b c | c b``: "symmetric"
          of numpy, and "reflect" of scipy.ndimage, which is its default;
        - ``"valid"``: not needed: only outputs that see the signal alone, ``n - k + 1`` along each axis.
    kind : {'real', 'complex'}
        The kind of signal and data; real by default.

    Raises
    ------
    InputTypeError
        If ``kernel`` does not hold numbers, or is complex for ``kind="real"``.
    InputError
        If it has another number of axes, is too long for the boundary, or is not finite.

    Notes
    -----
    Computed in Fourier space; but for periodic boundaries, at lengths without prime factors above 5. scipy.signal's
    mode "same" puts the centre of an even kernel at (k - 1) // 2, one entry away.
    """

    kernel: Tensor
    in_shape: Shape
    _: KW_ONLY
    boundary: Boundary = "periodic"
    kind: Kind = "real"

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_shape", check_dims("Blur", "in_shape", self.in_shape))
        if isinstance(self.boundary, str) and self.boundary in _ELSEWHERE:
            repair = f"What others call {self.boundary!r} is {_ELSEWHERE[self.boundary]!r} here."
            raise invalid(
                "Blur", "boundary", f"one of {', '.join(map(repr, _BOUNDARIES))}", repr(self.boundary), repair
            )
        check_choice("Blur", "boundary", self.boundary, _BOUNDARIES)
        if self.boundary == "mirror":
            object.__setattr__(self, "boundary", "reflect")
        check_choice("Blur", "kind", self.kind, ("real", "complex"))
        dim = len(self.in_shape)
        if not 1 <= dim <= 3:
            raise invalid("Blur", "in_shape", "of 1 to 3 axes", self.in_shape)
        object.__setattr__(self, "kernel", parameter("Blur", "kernel", self.kernel))
        if self.kernel.is_complex() and self.kind == "real":
            raise invalid_type("Blur", "kernel", "real for kind='real'", str(self.kernel.dtype), "Say kind='complex'.")
        if self.kernel.ndim not in (dim, dim + 1) or 0 in self.kernel.shape:
            raise invalid(
                "Blur",
                "kernel",
                f"non-empty, of {dim} axes, or {dim + 1} with one kernel per item",
                tuple(self.kernel.shape),
                "Give length 1 to the axes that are not blurred.",
            )
        check_finite("Blur", "kernel", self.kernel)
        if self.boundary == "valid" and any(k > n for k, n in zip(self._lengths, self.in_shape, strict=True)):
            raise invalid("Blur", "kernel", f"at most {self.in_shape} long for boundary='valid'", self._lengths)
        # Mirroring once gives n - 1 new entries, or n; k // 2 are needed on the longer side.
        most = [n - (self.boundary == "reflect") for n in self.in_shape]
        if self.boundary in _MIRRORED and any(k // 2 > m for k, m in zip(self._lengths, most, strict=True)):
            want = f"at most {tuple(2 * m + 1 for m in most)} long for boundary={self.boundary!r}"
            raise invalid("Blur", "kernel", want, self._lengths)

    def _item_axes(self) -> dict[str, int]:
        return {"kernel": len(self.in_shape)}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data: that of the signal, or shorter for ``boundary="valid"``."""
        if self.boundary != "valid":
            return self.in_shape
        return tuple(n - k + 1 for n, k in zip(self.in_shape, self._lengths, strict=True))

    # --- every boundary is crop . periodic convolution of length `_fft_shape` . extend --------------------------------
    @property
    def _lengths(self) -> Shape:
        return tuple(self.kernel.shape[-len(self.in_shape) :])

    @cached_property
    def _axes(self) -> tuple[int, ...]:
        """The axes that are transformed, counted from the end: those along which the kernel is longer than 1."""
        return tuple(a - len(self.in_shape) for a, k in enumerate(self._lengths) if k > 1)

    @cached_property
    def _fft_shape(self) -> Shape:
        """The transform's length along `_axes`: long enough that what wraps around is cropped."""
        if self.boundary == "periodic":
            return tuple(self.in_shape[a] for a in self._axes)
        from scipy.fft import next_fast_len  # here, not above: half of `import invsolve` otherwise

        lengths = []
        for a in self._axes:
            n, k = self.in_shape[a], self._lengths[a]
            needed = {"valid": n, "zero": n + max(k // 2, k - 1 - k // 2)}
            lengths.append(next_fast_len(needed.get(self.boundary, n + k - 1), real=True))
        return tuple(lengths)

    @cached_property
    def _spectrum(self) -> Tensor:
        """Transform of the kernel, ``([items,] *transformed shape)``; half of it for real signals."""
        return self._transform(self._padded)

    @property
    def _padded(self) -> Tensor:
        """The kernel on the transform's grid, its origin at index 0."""
        kernel = self.kernel
        for a, size in zip(self._axes, self._fft_shape, strict=True):
            k = kernel.shape[a]
            # 'valid' and mirrored ones crop the k - 1 entries where the kernel sticks out in front: no centring there.
            origin = k // 2 if self.boundary in ("periodic", "zero") else 0
            index = (torch.arange(k, device=kernel.device) - origin) % size
            shape = list(kernel.shape)
            shape[a] = size
            kernel = kernel.new_zeros(shape).index_add(a, index, kernel)  # adds: a long periodic kernel overlaps itself
        return kernel

    def _transform(self, x: Tensor) -> Tensor:
        if not self._axes:
            return x
        transform = torch.fft.rfftn if self.kind == "real" else torch.fft.fftn
        return of_rows(transform, x, s=self._fft_shape, dim=self._axes)

    def _inverse(self, x: Tensor) -> Tensor:
        if not self._axes:
            return x
        transform = torch.fft.irfftn if self.kind == "real" else torch.fft.ifftn
        return of_rows(transform, x, s=self._fft_shape, dim=self._axes)

    def _apply(self, x: Tensor) -> Tensor:
        y = self._inverse(self._transform(self._extend(x)) * self._spectrum)
        for a in self._axes:
            y = y.narrow(a, self._first(a), self.out_shape[a])
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        for a, size in zip(self._axes, self._fft_shape, strict=True):
            if first := self._first(a):  # behind the data, `_transform` pads by itself
                y = torch.cat([y.new_zeros(*y.shape[:a], first, *y.shape[a + 1 :] if a != -1 else ()), y], dim=a)
            assert y.shape[a] <= size
        x = self._inverse(self._transform(y) * self._spectrum.conj())
        for a in self._axes:
            x = x.narrow(a, 0, self.in_shape[a] + (self._lengths[a] - 1 if self.boundary in _MIRRORED else 0))
        return self._fold(x)

    def _normal(self, x: Tensor) -> Tensor:
        if self.boundary != "periodic":
            return self._adjoint(self._apply(x))
        return self._inverse(self._transform(x) * self._spectrum.abs().square())

    def _first(self, a: int) -> int:
        """The first output along axis ``a`` that is kept."""
        return self._lengths[a] - 1 if self.boundary in ("valid", *_MIRRORED) else 0

    def _mirror(self, a: int) -> Tensor:
        """Which entry of the signal each entry of the mirrored one is: k - 1 - c more in front, c more behind."""
        n, k = self.in_shape[a], self._lengths[a]
        index = torch.arange(-(k - 1 - k // 2), n + k // 2, device=self.kernel.device)
        if self.boundary == "symmetric":
            index = torch.where(index < 0, -1 - index, index)
            return torch.where(index < n, index, 2 * n - 1 - index)
        return (n - 1) - ((n - 1) - index.abs()).abs()

    def _extend(self, x: Tensor) -> Tensor:
        if self.boundary in _MIRRORED:
            for a in self._axes:
                x = x.index_select(a, self._mirror(a))
        return x

    def _fold(self, x: Tensor) -> Tensor:
        """The adjoint of `_extend`: what was mirrored is added back."""
        if self.boundary in _MIRRORED:
            for a in self._axes:
                shape = list(x.shape)
                shape[a] = self.in_shape[a]
                x = x.new_zeros(shape).index_add(a, self._mirror(a), x)
        return x

    # --- closed forms -------------------------------------------------------------------------------------------------
    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        """``A^+ y``; periodic: division by the spectrum where it exceeds its maximum times eps times length."""
        if self.boundary != "periodic":
            return super()._pinv(y, rtol=rtol, max_iter=max_iter)
        count("adjoint", len(y))
        power = self._spectrum.abs()
        dims = tuple(range(-len(self.in_shape), 0))
        floor = power.amax(dims, keepdim=True) * torch.finfo(power.dtype).eps * max(self.in_shape)
        inverse = torch.where(power > floor, self._spectrum.conj() / power.square(), 0.0)
        return self._inverse(self._transform(y) * inverse)

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        """``(A^H W A + tau I)^-1 rhs``; periodic with one weight: exact, by division in Fourier space."""
        if self.boundary != "periodic" or isinstance(weight, Tensor):
            return super()._solve_normal(rhs, weight=weight, tau=tau, start=start, rtol=rtol, max_iter=max_iter)
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        return self._inverse(self._transform(rhs) / (weight * self._spectrum.abs().square() + tau))

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        """Periodic: harmonics, with the modulus of the kernel's spectrum as values and its phase in U."""
        if self.boundary != "periodic":
            return super()._svd(dtype, device)
        dims = tuple(range(-len(self.in_shape), 0))
        padded = self._padded.to(torch.complex128)
        gain = torch.fft.fftn(padded, dim=dims)  # of size 1 along the axes that are not blurred
        if self.kind == "real":  # symmetric to the last bit, so that frequencies k and -k share their value
            gain = (gain + mirrored(gain, dims).conj()) / 2
        values = gain.abs()
        # Zero is what this precision cannot tell from it, and what the transform in float64 rounds.
        floor = max(torch.finfo(dtype).eps, 64 * torch.finfo(values.dtype).eps) * values.amax(dims, keepdim=True)
        values = torch.where(values > floor, values, 0.0)
        phase = torch.where(values > 0, gain / values, 0.0)
        return Spectrum(
            values=values.to(dtype).expand(*values.shape[: -len(dims)], *self.in_shape),
            signal_basis=Harmonics(in_shape=self.in_shape, kind=self.kind),
            data_basis=Harmonics(in_shape=self.in_shape, kind=self.kind, phase=phase.to(kind_dtype(dtype, "complex"))),
        )
