"""Orthonormal transforms over all axes of a signal, as products of one-dimensional ones: cosine, sine, Fourier, Haar.

Axes up to 256 use a matrix (two matrix products for an image: faster there than an FFT and its reordering); longer
axes use the FFT, or the pyramid for Haar. Complex signals: the real and the imaginary part alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, Self, final, get_args

import torch
from torch import Tensor

from invsolve.core.validation import Shape, check_choice
from invsolve.errors import invalid

TransformName = Literal["identity", "cosine", "sine", "fourier", "haar"]
_MATRIX_LIMIT = 256


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Transform:
    """An orthonormal map of signals ``(rows, *shape)`` to coefficients ``(rows, *shape)``, the same along every axis.

    ``name``, with j the index of a coefficient along an axis of n entries i = 0..n-1:

    - ``"cosine"`` (DCT-II): cos(pi j (i + 1/2) / n);
    - ``"sine"`` (DST-I): sin(pi (j + 1) (i + 1) / (n + 1));
    - ``"fourier"``: 1, cos 1, sin 1, cos 2, sin 2, ... of 2 pi k i / n; for even n the last is (-1)^i;
    - ``"haar"``: the mean, then the details from the coarsest to the finest; n a power of two; for several axes the
      product of the one-dimensional bases;
    - ``"identity"``.

    Raises InputError for an unknown name, or a Haar axis that is no power of two.
    """

    name: TransformName
    shape: Shape
    dtype: torch.dtype = torch.float32  # real
    device: torch.device = torch.device("cpu")
    _matrices: dict[int, Tensor] = field(init=False, repr=False)  # length of an axis -> (n, n), a row for each mode

    def __post_init__(self) -> None:
        check_choice("Transform", "name", self.name, get_args(TransformName))
        if self.name == "haar":
            for n in self.shape:
                if n & (n - 1):
                    raise invalid("Transform", "shape", "of powers of two with the Haar transform", self.shape)
        lengths = {n for n in self.shape if n <= _MATRIX_LIMIT} if self.name != "identity" else set()
        # Built in float64 every time, so that a cast to float64 is not a rounded float32.
        matrices = {n: _matrix(self.name, n).to(self.device, self.dtype) for n in lengths}
        object.__setattr__(self, "_matrices", matrices)

    def forward(self, x: Tensor) -> Tensor:
        """Coefficients of ``x``, both ``(rows, *shape)``."""
        return self._apply(x, inverse=False)

    def inverse(self, u: Tensor) -> Tensor:
        """The signal with coefficients ``u``: the inverse and the adjoint of `forward`."""
        return self._apply(u, inverse=True)

    def squared_inverse(self, v: Tensor) -> Tensor:
        """``sum_k T_ki^2 v_k`` for ``v`` ``(*shape)``: variances of the entries from variances of the coefficients."""
        if self.name == "identity":
            return v
        for axis, n in enumerate(self.shape):
            v = v.movedim(axis, -1)
            parts = [v[..., a : a + 1024] @ self._rows(n, a, min(a + 1024, n)).square() for a in range(0, n, 1024)]
            v = torch.stack(parts).sum(0).movedim(-1, axis)
        return v.contiguous()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return replace(self, device=self.device if device is None else torch.device(device), dtype=dtype or self.dtype)

    def _rows(self, n: int, first: int, last: int) -> Tensor:
        """Rows of the matrix of an axis of n entries."""
        if n in self._matrices:
            return self._matrices[n][first:last]
        unit = torch.zeros(last - first, n, dtype=self.dtype, device=self.device)
        unit.diagonal(first).fill_(1.0)
        return _fast(self.name, unit, inverse=True)

    def _apply(self, x: Tensor, *, inverse: bool) -> Tensor:
        if self.name == "identity":
            return x
        if x.is_complex():
            return torch.complex(self._apply(x.real, inverse=inverse), self._apply(x.imag, inverse=inverse))
        for axis, n in enumerate(self.shape, start=1):
            if n in self._matrices:
                matrix = self._matrices[n].mT if inverse else self._matrices[n]
                if axis == x.ndim - 1:
                    x = x @ matrix.mT
                else:
                    x = (matrix @ x.reshape(-1, n, x.shape[axis + 1 :].numel())).reshape(x.shape)
            else:
                x = _fast(self.name, x.movedim(axis, -1), inverse).movedim(-1, axis)
        return x


def _matrix(name: TransformName, n: int) -> Tensor:
    # Integer products are reduced modulo the period before they become angles, which keeps all digits.
    i = torch.arange(n, dtype=torch.float64, device="cpu")
    if name == "cosine":
        matrix = math.sqrt(2 / n) * torch.cos(math.pi / (2 * n) * torch.outer(i, 2 * i + 1).remainder(4 * n))
        matrix[0] /= math.sqrt(2)
    elif name == "sine":
        matrix = math.sqrt(2 / (n + 1)) * torch.sin(math.pi / (n + 1) * torch.outer(i + 1, i + 1).remainder(2 * n + 2))
    elif name == "fourier":
        k = torch.div(i + 1, 2, rounding_mode="floor")
        angle = 2 * math.pi / n * torch.outer(k, i).remainder(n)
        matrix = math.sqrt(2 / n) * torch.where((i % 2 == 1)[:, None], angle.cos(), angle.sin())
        matrix[0] = 1 / math.sqrt(n)
        if n % 2 == 0:
            matrix[-1] = (1 - 2 * (i % 2)) / math.sqrt(n)
    else:
        matrix = _haar(torch.eye(n, dtype=torch.float64, device="cpu"), inverse=False).mT
    return matrix


def _fast(name: TransformName, x: Tensor, inverse: bool) -> Tensor:
    """The transform of the last axis without a matrix."""
    if not x.numel():  # some releases of MKL refuse to transform no rows
        return x
    if name == "cosine":
        return _cosine_inverse(x) if inverse else _cosine(x)
    if name == "sine":
        return _sine(x)
    if name == "fourier":
        return _fourier_inverse(x) if inverse else _fourier(x)
    return _haar(x, inverse=inverse)


def _cosine_phase(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """exp(-i pi k / 2n) and the norms of the cosines."""
    k = torch.arange(n, dtype=torch.float64, device=like.device)
    norm = torch.full((n,), math.sqrt(2 / n), dtype=like.dtype, device=like.device)
    norm[0] = math.sqrt(1 / n)
    return torch.polar(torch.ones_like(k), -math.pi / (2 * n) * k).to(like.dtype.to_complex()), norm


def _cosine(x: Tensor) -> Tensor:
    """DCT-II by one FFT of length n of the reordered signal (Makhoul 1980, IEEE ASSP 28(1), 27-34)."""
    phase, norm = _cosine_phase(x.shape[-1], x)
    folded = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)
    transformed: Tensor = norm * (phase * torch.fft.fft(folded)).real
    return transformed


def _cosine_inverse(u: Tensor) -> Tensor:
    n = u.shape[-1]
    phase, norm = _cosine_phase(n, u)
    c = u / norm / n  # the unnormalised coefficients, with the 1/n of the inverse FFT
    mirrored = torch.cat([torch.zeros_like(c[..., :1]), c[..., 1:].flip(-1)], -1)
    folded = torch.fft.ifft(phase.conj() * torch.complex(c, -mirrored), norm="forward").real
    half = (n + 1) // 2
    x = torch.empty_like(folded)
    x[..., ::2] = folded[..., :half]
    x[..., 1::2] = folded[..., half:].flip(-1)
    return x


def _sine(x: Tensor) -> Tensor:
    """DST-I, its own inverse, by an FFT of the odd extension."""
    n = x.shape[-1]
    zero = torch.zeros_like(x[..., :1])
    odd = torch.cat([zero, x, zero, -x.flip(-1)], -1)
    transformed: Tensor = torch.fft.rfft(odd).imag[..., 1 : n + 1]
    return transformed / -math.sqrt(2 * (n + 1))


def _fourier(x: Tensor) -> Tensor:
    n = x.shape[-1]
    f = torch.fft.rfft(x, norm="ortho")
    pairs = math.sqrt(2) * torch.stack([f.real, -f.imag], -1)[..., 1 : (n + 1) // 2, :].flatten(-2)
    tail = [f.real[..., -1:]] if n % 2 == 0 else []
    return torch.cat([f.real[..., :1], pairs, *tail], -1)


def _fourier_inverse(u: Tensor) -> Tensor:
    n = u.shape[-1]
    inner = u[..., 1 : n if n % 2 else n - 1] / math.sqrt(2)
    tail = [u[..., -1:]] if n % 2 == 0 else []
    real = torch.cat([u[..., :1], inner[..., ::2], *tail], -1)
    zero = torch.zeros_like(u[..., :1])
    imag = torch.cat([zero, -inner[..., 1::2], *([zero] if n % 2 == 0 else [])], -1)
    x: Tensor = torch.fft.irfft(torch.complex(real, imag), n=n, norm="ortho")
    return x


def _haar(x: Tensor, *, inverse: bool) -> Tensor:
    """The full pyramid over the last axis: sums and differences of neighbours over sqrt 2."""
    n = x.shape[-1]
    if inverse:
        low = x[..., :1]
        while low.shape[-1] < n:
            m = low.shape[-1]
            high = x[..., m : 2 * m]
            low = torch.stack([low + high, low - high], -1).flatten(-2) / math.sqrt(2)
        return low
    details: list[Tensor] = []
    while x.shape[-1] > 1:
        even, odd = x[..., ::2], x[..., 1::2]
        details.append((even - odd) / math.sqrt(2))
        x = (even + odd) / math.sqrt(2)
    return torch.cat([x, *reversed(details)], -1)
