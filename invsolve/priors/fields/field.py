"""A Gaussian random field on a box, seen on any grid: the exact function-space prior."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter, several
from invsolve.core.conjugate_gradients import conjugate_gradients
from invsolve.core.transforms import Transform
from invsolve.core.validation import (
    Kind,
    Shape,
    check_choice,
    check_dims,
    check_finite,
    check_number,
    check_positive,
    kind_dtype,
)
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.priors.base import Pullback
from invsolve.priors.exact.gaussian import GaussianBase
from invsolve.priors.fields.bases import BASES, Basis, grid_factor, laplace_eigenvalues, resize_modes
from invsolve.priors.fields.padded import Crop
from invsolve.priors.fields.spectra import FieldSpectrum, Matern
from invsolve.priors.transformed import TransformedPrior
from invsolve.separable.laws import EntryLaw, normal_entries

_OWNER = "GaussianFieldPrior"


@final
@dataclass(frozen=True, eq=False, repr=False)
class GaussianFieldPrior(GaussianBase):
    """``x = mean + sum_k u_k phi_k``, independent ``u_k ~ N(0, s_k)``, phi_k the Laplace eigenfunctions of a box.

    A Gaussian process, or Gaussian random field (GRF), on a grid. The s_k belong to the continuum: `on` gives the same
    distribution on another grid. Denoiser, pullback, samples and density are exact and cost two transforms.

    Parameters
    ----------
    shape : tuple of int
        The grid, 1 to 3 axes of any length.
    spectrum : Matern, Spectrum or Tensor, shape (*shape)
        The s_k >= 0, in squared units of the signal (complex: per real component); a tensor has one variance per mode,
        in the order of the basis.
    basis : {"neumann", "dirichlet", "periodic"}
        Cell centres, inner nodes with zero at the walls, or a torus; `invsolve.priors.fields.bases` says where the
        nodes lie.
    mean : float or Tensor, shape (*shape)
        Mean of the field, finite; 0 by default.
    kind : {"real", "complex"}
        Kind of the signals.
    extent : tuple of float, optional
        The lengths of the box, 1.0 each unless given, in the unit of the length of a `Matern`.
    noise_spectrum : Matern, Spectrum or Tensor, shape (*shape), optional
        The spectrum > 0 of the diffusion noise, for function-space diffusion; white on the grid unless given.
    dtype : torch.dtype, optional
        float32 or float64; that of a tensor ``mean``, or float32, unless given.

    Raises
    ------
    InputError, InputTypeError
        For wrong shapes, and for a spectrum that is negative, not finite or zero everywhere.

    References
    ----------
    Diffusion with coloured noise: Lim et al. 2023, Score-based diffusion models in function space, arXiv 2302.07400.

    Examples
    --------
    >>> from invsolve.priors.fields.spectra import Matern
    >>> prior = GaussianFieldPrior(shape=(32, 48), spectrum=Matern(std=0.5, length=0.2), extent=(1.0, 1.5))
    >>> prior.sample(2, seed=0).shape
    torch.Size([2, 32, 48])
    >>> prior.on((64, 96)).shape
    (64, 96)
    """

    shape: Shape
    spectrum: FieldSpectrum | Tensor
    _: KW_ONLY
    basis: Basis = "neumann"
    mean: Tensor | float = 0.0  # type: ignore[assignment]  # a tensor once constructed
    kind: Kind = "real"
    extent: tuple[float, ...] | None = None
    noise_spectrum: FieldSpectrum | Tensor | None = None
    dtype: torch.dtype | None = None  # type: ignore[assignment]
    law: GaussianLaw = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = check_dims(_OWNER, "shape", self.shape)
        if not 1 <= len(shape) <= 3:
            raise invalid(_OWNER, "shape", "of 1 to 3 axes", shape)
        check_choice(_OWNER, "basis", self.basis, BASES)
        check_choice(_OWNER, "kind", self.kind, ("real", "complex"))
        extent = _extent(self.extent, shape)
        for name in ("mean", "spectrum", "noise_spectrum"):
            if several(value := getattr(self, name)):
                object.__setattr__(self, name, parameter(_OWNER, name, value, dtype=self.dtype))
        dtype = _precision(self.dtype, self.mean)
        mean = _mean(self.mean, shape, kind_dtype(dtype, self.kind))
        for name, value in (("shape", shape), ("extent", extent), ("dtype", dtype), ("mean", mean)):
            object.__setattr__(self, name, value)

        factor = grid_factor(self.basis, shape)
        variances = self._spectrum("spectrum", self.spectrum)
        colour = None
        if self.noise_spectrum is None:
            variances = variances * factor
        else:
            power = self._spectrum("noise_spectrum", self.noise_spectrum)
            if not bool((power > 0).all()):
                raise invalid(
                    _OWNER,
                    "noise_spectrum",
                    "positive for every mode",
                    float(power.min()),
                    "Give a function, which knows the modes of every grid.",
                )
            variances = variances / power
            colour = (power * factor).sqrt().to(mean.device, dtype)
            if not bool((colour > 0).all()):
                raise invalid(
                    _OWNER,
                    "noise_spectrum",
                    f"within the range of {dtype} for every mode",
                    float(power.min()),
                    "Make it no smoother than the spectrum.",
                )
        variances = variances.to(mean.device, dtype)
        if not bool((variances > 0).any()):
            raise invalid(
                _OWNER,
                "spectrum",
                "positive for some mode",
                "zero everywhere",
                f"Variances that underflow {dtype} need another unit of the signal.",
            )
        if not bool(torch.isfinite(variances).all()):
            by = "" if colour is None else ", divided by the noise_spectrum,"
            raise invalid(
                _OWNER,
                "spectrum",
                f"within the range of {dtype}{by} for every mode",
                float(variances.max()),
                "Measure the signal in another unit, or make the noise_spectrum no smoother.",
            )
        transform = Transform(name=BASES[self.basis], shape=shape, dtype=dtype, device=mean.device)
        modes = SpectralModes(transform=transform, colour=colour)
        object.__setattr__(self, "law", GaussianLaw(mean=mean, modes=modes, variances=variances))

    def on(self, shape: Shape) -> GaussianFieldPrior:
        """The same continuum field on another grid of the same box.

        A mean that is not constant, and a spectrum given as a tensor, are cut or filled with zeros in mode space: a
        tensor holds no modes beyond its own.

        Parameters
        ----------
        shape : tuple of int
            The other grid, of as many axes.

        Returns
        -------
        GaussianFieldPrior
            On that grid.
        """
        shape = check_dims(f"{_OWNER}.on", "shape", shape)
        if len(shape) != len(self.shape):
            raise invalid(f"{_OWNER}.on", "shape", f"of {len(self.shape)} axes", shape)

        def resized(spectrum: FieldSpectrum | Tensor) -> FieldSpectrum | Tensor:
            return resize_modes(spectrum, self.basis, shape, power=2) if isinstance(spectrum, Tensor) else spectrum

        noise = None if self.noise_spectrum is None else resized(self.noise_spectrum)
        return replace(
            self, shape=shape, mean=self._mean_on(shape), spectrum=resized(self.spectrum), noise_spectrum=noise
        )

    def padded(self, margin: float | None = None) -> TransformedPrior:
        """The middle of this field on a larger box: stationary up to its edges, with the std that is stated.

        `solve` infers the larger field, with the operator on its middle. The field of one box is diagonal in its modes
        and cheap in everything; this one is not, and problems of thousands of nodes are solved iteratively.

        Parameters
        ----------
        margin : float, optional
            How far the walls of the larger box are from the signal, > 0, in the unit of the extent: at least that,
            rounded up to nodes. The ``length`` of a `Matern` unless given: the std is then right to 1 % an axis.

        Returns
        -------
        TransformedPrior
            Over signals of this shape, with this mean.
        """
        owner = f"{_OWNER}.padded"
        if margin is None:
            if not isinstance(self.spectrum, Matern):
                raise invalid(owner, "margin", "given, for a spectrum that is no Matern", "None")
            margin = self.spectrum.length
        margin = check_positive(owner, "margin", margin)
        if isinstance(self.spectrum, Tensor) or isinstance(self.noise_spectrum, Tensor):
            raise invalid(owner, "spectrum", "a function, which knows the modes of every box", "a tensor")
        assert self.extent is not None
        count = [n + (self.basis == "dirichlet") for n in self.shape]
        step = [length / n for length, n in zip(self.extent, count, strict=True)]
        each = tuple(math.ceil(margin / h - 1e-9) for h in step)
        shape = tuple(n + 2 * m for n, m in zip(self.shape, each, strict=True))
        extent = tuple(h * (n + 2 * m) for h, n, m in zip(step, count, each, strict=True))
        crop = Crop(in_shape=shape, margin=each, in_kind=self.kind)
        around = crop.adjoint((self.law.mean - self.law.mean.mean())[None])[0] + self.law.mean.mean()
        return TransformedPrior(base=replace(self, shape=shape, extent=extent, mean=around), function=crop)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        real = kind_dtype(dtype or self.law.variances.dtype, "real")
        mean = self.law.mean.to(device=device, dtype=kind_dtype(real, self.kind))
        return replace(self, mean=mean, dtype=real)  # spectra are evaluated in float64 again, not rounded

    @property
    def entry_laws(self) -> tuple[EntryLaw, ...]:
        """One, where all modes have one variance and the signal is real: white noise."""
        variances = self.law.variances
        white = self._modes.colour is None and bool((variances == variances.flatten()[0]).all())
        return (normal_entries(self.law.mean, variances),) if white and self.kind == "real" else ()

    # --- with coloured noise S is not orthonormal, but all commute: S^-H g S^H = T^-1 g T -----------------------------
    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pullback]:
        if sigma.shape[1:].numel() > 1:
            return super()._pullback(x, sigma)
        gain, transform = self._gain(x, sigma), self._modes.transform
        value = self.law.mean + transform.inverse(gain * transform.forward(x - self.law.mean))
        return value, lambda v: transform.inverse(gain * transform.forward(v))

    def _solve_map(self, rhs: Tensor, sigma: Tensor) -> Tensor:
        modes = self._modes
        if modes.colour is None:
            return super()._solve_map(rhs, sigma)

        # N = T T^H with T = diag(sigma) S: (K + N)^-1 = T^-H (I + T^-1 K T^-H)^-1 T^-1.
        def back(w: Tensor) -> Tensor:
            return modes.analysis_adjoint(w) / sigma

        w, _ = conjugate_gradients(
            lambda w: w + modes.analysis(self._covariance(back(w)) / sigma),
            modes.analysis(rhs / sigma),
            rtol=10 * torch.finfo(self.law.variances.dtype).eps,
            max_iter=4 * rhs[0].numel(),
        )
        return back(w)

    @property
    def _modes(self) -> SpectralModes:
        assert isinstance(self.law.modes, SpectralModes)
        return self.law.modes

    def _spectrum(self, name: str, spectrum: FieldSpectrum | Tensor) -> Tensor:
        """Variances of the coefficients of the phi_k, ``(*shape)`` float64 on the CPU."""
        assert self.extent is not None
        if isinstance(spectrum, Tensor):
            if tuple(spectrum.shape) != self.shape:
                raise invalid(_OWNER, name, f"of shape {self.shape}, a variance for every mode", tuple(spectrum.shape))
            if spectrum.is_complex():
                raise invalid_type(_OWNER, name, "real", str(spectrum.dtype))
            values = spectrum.double().cpu()
        elif isinstance(spectrum, FieldSpectrum):
            eigenvalues = laplace_eigenvalues(self.basis, self.shape, self.extent)
            values = spectrum.variances(eigenvalues, self.basis, self.extent)
        else:
            raise invalid_type(_OWNER, name, "a Matern, a Spectrum or a tensor of variances", spectrum)
        check_finite(_OWNER, name, values)
        if bool((values < 0).any()):
            raise invalid(_OWNER, name, "non-negative", float(values.min()))
        return values

    def _mean_on(self, shape: Shape) -> Tensor:
        mean = self.law.mean
        if bool((mean == mean.flatten()[0]).all()):
            return mean.flatten()[0].expand(shape).clone()
        here = Transform(name=BASES[self.basis], shape=self.shape, dtype=torch.float64, device=mean.device)
        there = replace(here, shape=shape)
        factor = (grid_factor(self.basis, shape) / grid_factor(self.basis, self.shape)) ** 0.5
        u = here.forward(mean.to(kind_dtype(torch.float64, self.kind))[None])[0] * factor
        return there.inverse(resize_modes(u, self.basis, shape, power=1)[None])[0].to(mean.dtype)


def _extent(extent: object, shape: Shape) -> tuple[float, ...]:
    if extent is None:
        return (1.0,) * len(shape)
    if isinstance(extent, str) or not isinstance(extent, Iterable) or getattr(extent, "ndim", 1) == 0:
        each = f"({', '.join([str(extent)] * len(shape))}{',' if len(shape) == 1 else ''})"
        raise invalid_type(_OWNER, "extent", "a tuple of lengths", extent, f"One for each axis: {each}.")
    lengths = tuple(check_positive(_OWNER, f"extent[{i}]", length) for i, length in enumerate(extent))
    if len(lengths) != len(shape):
        raise invalid(_OWNER, "extent", f"of {len(shape)} lengths, one for each axis", lengths)
    return lengths


def _precision(dtype: object, mean: object) -> torch.dtype:
    if isinstance(mean, Tensor) and kind_dtype(mean.dtype, "real") not in (torch.float32, torch.float64):
        raise invalid_type(
            _OWNER, "mean", "of single or double precision", str(mean.dtype), "Convert it: mean.float()."
        )
    own = kind_dtype(mean.dtype, "real") if isinstance(mean, Tensor) else None
    if dtype is None:
        dtype = own or torch.float32
    if dtype not in (torch.float32, torch.float64):
        raise invalid_type(_OWNER, "dtype", "torch.float32 or torch.float64", str(dtype))
    return dtype


def _mean(mean: Tensor | float, shape: Shape, dtype: torch.dtype) -> Tensor:
    if not isinstance(mean, Tensor):
        if dtype.is_complex and isinstance(mean, complex):
            return check_finite(_OWNER, "mean", torch.full(shape, mean, dtype=dtype, device="cpu"))
        return torch.full(shape, check_number(_OWNER, "mean", mean), dtype=dtype, device="cpu")
    if mean.is_complex() and not dtype.is_complex:
        raise invalid_type(_OWNER, "mean", "real for kind='real'", str(mean.dtype))
    if tuple(mean.shape) != shape:
        raise invalid(_OWNER, "mean", f"a number, or of shape {shape}", tuple(mean.shape))
    return check_finite(_OWNER, "mean", mean).to(dtype)
