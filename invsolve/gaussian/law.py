"""A linear basis of "modes" in which a Gaussian law is independent.

A Gaussian law of the signal is ``x = mean + S u`` with independent modes ``u_k`` of variance ``variances_k``, and the
diffusion noise of level t is ``t S z``: in mode space everything about it is elementwise (denoiser, Tweedie covariance,
flow map, whitening). Exact priors *are* such a law; a learned prior may carry one as a fit.
"""

from __future__ import annotations

import abc
from dataclasses import KW_ONLY, dataclass
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import as_given, numbers, parameter, parameters
from invsolve.core.ownership import Owner, replaced
from invsolve.core.torch_state import Defined
from invsolve.core.validation import Kind, Shape, kind_dtype


class Modes(Defined, Owner, abc.ABC):
    """The maps between signals ``(rows, *shape)`` and mode coefficients ``(rows, *mode_shape)``, batch first.

    Attributes
    ----------
    shape : tuple of int
        Shape of one signal.
    mode_shape : tuple of int
        Shape of its mode coefficients.
    """

    _lends = ("synthesis", "adjoint", "analysis", "marginal_variances")

    shape: Shape
    mode_shape: Shape

    @abc.abstractmethod
    def synthesis(self, u: Tensor) -> Tensor:
        """Modes to signal (without the mean), ``S u``."""

    @abc.abstractmethod
    def adjoint(self, x: Tensor) -> Tensor:
        """The adjoint of `synthesis` in Re<u, v>, ``S^H x``."""

    @abc.abstractmethod
    def analysis(self, x: Tensor) -> Tensor:
        """Signal to modes, ``S^-1 x``. With white diffusion noise S is orthonormal and this is the adjoint."""

    @abc.abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same modes on ``device``, in the precision of ``dtype``."""

    @property
    @abc.abstractmethod
    def log_det(self) -> float:
        """Log |det S| as a real map of one real component (0 for an orthonormal basis)."""

    @abc.abstractmethod
    def marginal_variances(self, variances: Tensor) -> Tensor:
        """The variance of every entry of the signal, ``(*shape)``, in units of the diffusion noise of that entry."""

    def mean_square(self, variances: Tensor) -> Tensor:
        """The mean over entries of the variance of ``S u`` ``(rows,)``, ``variances`` ``(rows, *mode_shape)`` of u.

        Of an orthonormal S; others say it themselves.
        """
        assert self.orthonormal
        return variances.flatten(1).sum(1) / prod(self.shape)

    @property
    @abc.abstractmethod
    def orthonormal(self) -> bool:
        """True if ``S^-1 = S^H``: the diffusion noise is white."""


@final
@dataclass(frozen=True, eq=False)
class DenseModes(Modes):
    """Modes of a matrix: ``S = scale * Q`` with Q orthonormal.

    Parameters
    ----------
    shape : tuple of int
        Shape of one signal, of n entries; there are n modes.
    matrix : Tensor, shape (n, n)
        Q, real: a mode in every column.
    scale : Tensor, shape (*shape), optional
        The standard deviation > 0 of the diffusion noise of every entry; 1 unless given.
    """

    shape: Shape
    matrix: Tensor
    _: KW_ONLY
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", parameter("DenseModes", "matrix", self.matrix))
        if self.scale is not None:
            object.__setattr__(self, "scale", parameter("DenseModes", "scale", self.scale, dtype=self.matrix.dtype))

    @property
    def mode_shape(self) -> Shape:  # type: ignore[override]
        """``(n,)``."""
        return (prod(self.shape),)

    def synthesis(self, u: Tensor) -> Tensor:
        x = (u @ self._as(u).mT).view(len(u), *self.shape)
        return x if self.scale is None else x * self.scale

    def adjoint(self, x: Tensor) -> Tensor:
        x = x if self.scale is None else x * self.scale
        return x.flatten(1) @ self._as(x)

    def analysis(self, x: Tensor) -> Tensor:
        x = x if self.scale is None else x / self.scale
        return x.flatten(1) @ self._as(x)

    def marginal_variances(self, variances: Tensor) -> Tensor:
        return (self.matrix.square() @ variances).view(self.shape)

    def mean_square(self, variances: Tensor) -> Tensor:
        if self.scale is None:
            return variances.mean(1)
        return variances @ (self.scale.flatten() ** 2 @ self.matrix.square()) / variances.shape[1]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        real = None if dtype is None else kind_dtype(dtype, "real")
        scale = None if self.scale is None else self.scale.to(device=device, dtype=real)
        return replaced(self, matrix=self.matrix.to(device=device, dtype=real), scale=scale)

    @property
    def orthonormal(self) -> bool:
        """True without a ``scale``."""
        return self.scale is None

    @property
    def log_det(self) -> float:
        """Sum of the logarithms of ``scale``."""
        return 0.0 if self.scale is None else float(self.scale.double().log().sum())

    def _as(self, like: Tensor) -> Tensor:
        return self.matrix.to(like.dtype) if like.is_complex() else self.matrix


@final
@dataclass(frozen=True, eq=False)
class GaussianLaw(Defined, Owner):
    """``x = mean + S u``, ``u_k ~ N(0, variances_k)`` independent; complex signals: per real component, independent.

    Parameters
    ----------
    mean : Tensor, shape (*shape)
        Mean, real or complex.
    modes : Modes
        S; the diffusion noise of level t is ``t S z`` with z standard normal.
    variances : Tensor, shape (*mode_shape)
        Variances of the modes, real, >= 0, in squared units of that noise.
    """

    mean: Tensor
    modes: Modes
    variances: Tensor

    def __post_init__(self) -> None:
        both = (self.mean, self.variances)
        if not all(isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex()) for v in both):
            for name, value in parameters("GaussianLaw", mean=self.mean, variances=self.variances).items():
                object.__setattr__(self, name, value)

    def posterior_variances(self, t: Tensor | float) -> Tensor:
        """Variances of the modes given the signal plus noise of level t > 0: ``l t^2 / (l + t^2)`` (Tweedie)."""
        t2 = t * t
        return self.variances * (t2 / (self.variances + t2))  # the product of both small numbers could underflow

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """The Wiener filter: E[x0 | x] for signals ``x`` ``(rows, *shape)`` with noise of levels ``t`` ``(rows,)``."""
        x = as_given("GaussianLaw", "x", x, dtype=self.variances.dtype, device=self.mean.device)
        gain = self.variances / (self.variances + self._rows(t) ** 2)
        return self.mean + self.modes.synthesis(gain * self.modes.analysis(x - self.mean))

    def left(self, t: Tensor) -> Tensor:
        """The rms of ``x0 - E[x0 | x]`` over the entries, per real component, for levels ``t`` ``(rows,)``."""
        return self.modes.mean_square(self.posterior_variances(self._rows(t))).sqrt()

    def _rows(self, t: Tensor | float) -> Tensor:
        t = numbers(t, dtype=self.variances.dtype, device=self.variances.device)
        return t.to(self.variances.dtype).view(-1, *([1] * self.variances.ndim))

    def sample(self, z: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """Signals with noise of level t: ``mean + S sqrt(l + t^2) z``, z standard normal ``(rows, *mode_shape)``."""
        return self.mean + self.modes.synthesis((self.variances + t * t).sqrt() * z)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same distribution on ``device``, in the precision of ``dtype``."""
        kind: Kind = "complex" if self.mean.is_complex() else "real"
        real = None if dtype is None else kind_dtype(dtype, "real")
        mean = self.mean.to(device=device, dtype=None if dtype is None else kind_dtype(dtype, kind))
        variances = self.variances.to(device=device, dtype=real)
        return replaced(self, mean=mean, modes=self.modes.to(device, real), variances=variances)
