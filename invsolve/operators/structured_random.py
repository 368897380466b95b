"""Random measurements without a stored matrix: random signs, a fast orthonormal transform, some of its entries."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import as_index, real_parameter
from invsolve.core.counting import count
from invsolve.core.random import Draws, item_key
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, check_int
from invsolve.errors import invalid
from invsolve.operators.bases import from_basis
from invsolve.operators.fourier import of_rows
from invsolve.operators.one_kind import OneKind
from invsolve.operators.spectrum import Spectrum

Transform = Literal["hadamard", "cosine", "fourier"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class StructuredRandom(OneKind):
    """Random projections ``y = R F D x``: signs D, a fast orthonormal transform F, m of its n entries R.

    Close to a dense random matrix with orthonormal rows, at the cost of a transform; `StructuredRandom.draw` makes one
    of a seed.

    Parameters
    ----------
    signs : Tensor or array, shape (*in_shape)
        1 or -1.
    index : Tensor or array of int, shape (m,)
        Which entries of the transform of the flattened signal are kept, without repeats.
    transform : {'hadamard', 'cosine', 'fourier'}
        Walsh-Hadamard (for a power of two of entries; a single-pixel camera with binary patterns), the cosine transform
        (DCT-II), or the Fourier transform, of complex signals and data.

    Raises
    ------
    InputTypeError
        If ``signs`` are no real numbers or ``index`` no integers.
    InputError
        If another value than 1 and -1 is a sign, an index is repeated or out of range, or the transform does not exist
        for this length.

    Notes
    -----
    ``A A^H = I``: `pinv`, `solve_normal` (with any weights) and `svd` are closed forms. For a near isometry of sparse
    signals multiply by ``(n / m)^(1/2)``.

    References
    ----------
    Do, Gan, Nguyen & Tran 2012, Fast and efficient compressive sensing using structurally random matrices, IEEE Trans.
    Signal Process. 60, 139; Tropp 2011, Improved analysis of the subsampled randomized Hadamard transform, Adv. Adapt.
    Data Anal. 3, 115.

    Examples
    --------
    >>> StructuredRandom.draw((8, 8), 20, seed=1)
    StructuredRandom((8, 8) -> (20,), real)
    """

    signs: Tensor
    index: Tensor
    _: KW_ONLY
    transform: Transform = "hadamard"

    _other_space = True  # its data are not over the signal's grid, whatever their shape

    def __post_init__(self) -> None:
        owner = "StructuredRandom"
        check_choice(owner, "transform", self.transform, ("hadamard", "cosine", "fourier"))
        object.__setattr__(self, "signs", real_parameter(owner, "signs", self.signs))
        check_dims(owner, "signs.shape", tuple(self.signs.shape))
        if self.signs.ndim == 0 or not bool((self.signs.abs() == 1).all()):
            raise invalid(owner, "signs", "1 and -1, in the shape of the signal", tuple(self.signs.shape))
        object.__setattr__(self, "index", as_index(owner, "index", self.index).to(self.signs.device))
        n = self.signs.numel()
        good = self.index.ndim == 1 and len(self.index) and int(self.index.min()) >= 0 and int(self.index.max()) < n
        if not good or int(torch.bincount(self.index, minlength=n).max()) > 1:
            raise invalid(owner, "index", f"of shape (m,), from 0 to {n - 1} without repeats", tuple(self.index.shape))
        if self.transform == "hadamard" and n & (n - 1):
            raise invalid(owner, "signs", "of a power of two of entries", n, "Take transform='cosine', for any number.")

    @classmethod
    def draw(
        cls,
        in_shape: Shape,
        m: int,
        *,
        transform: Transform = "hadamard",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """An operator with random signs and entries.

        Parameters
        ----------
        in_shape : tuple of int
            The shape of the signal.
        m : int
            The number of data, from 1 to that of the entries.
        transform : {'hadamard', 'cosine', 'fourier'}
            As of the class.
        seed : int
            Of signs and entries.
        dtype : torch.dtype
            The real precision; float32 by default.

        Returns
        -------
        StructuredRandom

        Raises
        ------
        InputError
            If ``m`` is out of its range.
        """
        shape = check_dims(cls.__name__, "in_shape", in_shape)
        n = math.prod(shape)
        m = check_int(cls.__name__, "m", m, minimum=1)
        if m > n:
            raise invalid(cls.__name__, "m", f"at most the number of entries, {n}", m)
        keys = [item_key("structured random matrix")]
        draws = Draws.for_rows(seed, keys, [0], torch.device("cpu"), purpose="operators", owner=cls.__name__)
        signs = (2.0 * (draws.normal(shape, torch.float64, step=0)[0] > 0) - 1).to(dtype)
        index = draws.normal((n,), torch.float64, step=1)[0].argsort()[:m].sort().values
        return cls(signs, index, transform=transform)

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """The kind of signal and data: complex for the Fourier transform."""
        return "complex" if self.transform == "fourier" else "real"

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the signal, that of the signs."""
        return tuple(self.signs.shape)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The number of data, ``(m,)``."""
        return (len(self.index),)

    @property
    def gram(self) -> float:
        return 1.0

    @property
    def _basis(self) -> _Mixed:
        return _Mixed(signs=self.signs, transform=self.transform)

    def _apply(self, x: Tensor) -> Tensor:
        return self._basis._apply(x)[:, self.index]

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._basis._adjoint(y.new_zeros(len(y), self.signs.numel()).index_copy(1, self.index, y))

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        count("adjoint", len(y))
        return self._adjoint(y)

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        """``(A^H W A + tau I)^-1 rhs = (rhs - A^H W (tau + W)^-1 A rhs) / tau``."""
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        return (rhs - self._adjoint(weight / (tau + weight) * self._apply(rhs))) / tau

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        seen = torch.zeros(self.signs.numel(), dtype=dtype, device=device)
        seen[self.index] = 1
        return from_basis(self, self._basis, seen)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Mixed(OneKind):
    """``F D x``, an orthonormal map to a vector of n entries."""

    signs: Tensor
    transform: Transform

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return "complex" if self.transform == "fourier" else "real"

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.signs.shape)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.signs.numel(),)

    def _apply(self, x: Tensor) -> Tensor:
        mixed = (self.signs * x).flatten(1)
        if self.transform == "fourier":
            return of_rows(torch.fft.fft, mixed, norm="ortho")
        return hadamard(mixed) if self.transform == "hadamard" else cosine(mixed)

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.transform == "fourier":
            mixed = of_rows(torch.fft.ifft, y, norm="ortho")
        else:
            mixed = hadamard(y) if self.transform == "hadamard" else inverse_cosine(y)
        return self.signs * mixed.view(len(y), *self.in_shape)


def hadamard(x: Tensor) -> Tensor:
    """The orthonormal Walsh-Hadamard transform, in natural order, of (rows, 2^k): its own inverse."""
    n = x.shape[1]
    width = 1
    while width < n:
        pairs = x.reshape(len(x), n // (2 * width), 2, width)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        x = torch.stack([a + b, a - b], 2).reshape(len(x), n)
        width *= 2
    return x / math.sqrt(n)


def cosine(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of (rows, n): ``c_k sum_j x_j cos(pi k (2 j + 1) / (2 n))``.

    By one Fourier transform of the even entries and the reversed odd ones (Makhoul 1980, IEEE Trans. ASSP 28, 27).
    """
    n = x.shape[1]
    spectrum = of_rows(torch.fft.fft, torch.cat([x[:, ::2], x[:, 1::2].flip(1)], 1))
    return (spectrum * _turns(n, x)).real


def inverse_cosine(y: Tensor) -> Tensor:
    """The inverse, and transpose, of `cosine`: one inverse transform of ``y_k - i y_(n - k)``, turned back."""
    n = y.shape[1]
    scaled = y * _scale(n, y)
    mirrored = torch.cat([y.new_zeros(len(y), 1), scaled[:, 1:].flip(1)], 1)
    phase = torch.polar(torch.ones(n, dtype=torch.float64, device=y.device), _angles(n, y))
    spectrum = torch.complex(scaled, -mirrored) * phase.to(y.dtype.to_complex())
    v = of_rows(torch.fft.ifft, spectrum).real
    out = torch.empty_like(y)
    out[:, ::2], out[:, 1::2] = v[:, : (n + 1) // 2], v[:, (n + 1) // 2 :].flip(1)
    return out


def _angles(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, dtype=torch.float64, device=like.device) * (math.pi / (2 * n))


def _scale(n: int, like: Tensor) -> Tensor:
    """1 over the norms of the transform without factors: what the inverse multiplies with."""
    scale = torch.full((n,), math.sqrt(n / 2), dtype=torch.float64, device=like.device)
    scale[0] = math.sqrt(n)
    return scale.to(like.dtype)


def _turns(n: int, like: Tensor) -> Tensor:
    size = torch.full((n,), math.sqrt(2 / n), dtype=torch.float64, device=like.device)
    size[0] = math.sqrt(1 / n)
    return torch.polar(size, -_angles(n, like)).to(like.dtype.to_complex())


__all__ = ["StructuredRandom", "cosine", "hadamard", "inverse_cosine"]
