"""A prior on a finer grid of the same field of view: its own modes, and what it does not know beyond them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from math import prod, sqrt
from typing import final

import torch
from torch import Tensor

from invsolve.core.transforms import Transform
from invsolve.core.validation import Kind, Shape, check_dims, check_finite, kind_dtype
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.priors.base import Prior, Pullback

_OWNER = "ResampledPrior"


@final
@dataclass(frozen=True, eq=False, repr=False)
class ResampledPrior(Prior):
    """Signals on ``shape`` whose Fourier modes up to those of ``prior.shape`` follow ``prior``, resampled.

    This is an exact distribution, not an interpolation of denoised images:
    ``D(x, sigma) = g P^H D0(P x / g, sigma / g) + high modes shrunk``.

    Parameters
    ----------
    prior : Prior
        Of the low modes; with white diffusion noise.
    shape : sequence of int
        Of the signals: as many axes as the prior's, none shorter.
    beyond : float or Tensor, shape (*shape)
        Variances of the modes beyond the prior's, per real component, >= 0; entries of the low modes are ignored. 0,
        the default, is for signals that have no finer detail.
    notes : tuple of str
        What was done to fit it to a problem (`NetworkPrior.on`).

    Raises
    ------
    InputError
        Where an axis of ``shape`` is shorter than the prior's, or a variance is negative.
    UnsupportedError
        For a prior with coloured noise, and at a call if the noise level differs between the entries of a row.

    Notes
    -----
    Let P keep the first modes of the orthonormal Fourier transform of ``shape``, as many an axis as ``prior`` has, and
    g^2 be the ratio of the numbers of entries. The low modes are ``P x = g x0`` with x0 from ``prior``, so that values
    stay what they were; white noise of level sigma on x is white noise of level sigma / g on x0. The modes beyond are
    independent normal variables of mean 0 and variances ``beyond``.
    """

    prior: Prior
    shape: Shape
    _: KW_ONLY
    beyond: Tensor | float = 0.0
    notes: tuple[str, ...] = ()
    mean: Tensor = field(init=False)
    law: GaussianLaw | None = field(init=False)
    _coarse: Transform = field(init=False)
    _fine: Transform = field(init=False)

    def __post_init__(self) -> None:
        inner = self.prior
        if not isinstance(inner, Prior):
            raise invalid_type(_OWNER, "prior", "an iv.priors.Prior", inner)
        if not inner.white_noise:
            raise UnsupportedError(f"{_OWNER}: `prior` must have white diffusion noise, got {inner!r}.")
        shape = check_dims(_OWNER, "shape", self.shape)
        if len(shape) != len(inner.shape) or any(a < b for a, b in zip(shape, inner.shape, strict=True)):
            want = f"of {len(inner.shape)} axes, none shorter than the prior's {tuple(inner.shape)}"
            raise invalid(_OWNER, "shape", want, shape, "Detail that is there cannot be taken from a prior.")
        coarse = Transform(name="fourier", shape=tuple(inner.shape), dtype=inner.dtype, device=inner.device)
        fine = replace(coarse, shape=shape)
        beyond = torch.as_tensor(self.beyond, dtype=inner.dtype, device=inner.device).broadcast_to(shape).clone()
        check_finite(_OWNER, "beyond", beyond)
        if bool((beyond < 0).any()):
            raise invalid(_OWNER, "beyond", "non-negative", float(beyond.min()))
        beyond[self._low] = 0.0
        for name, value in (("shape", shape), ("beyond", beyond), ("_coarse", coarse), ("_fine", fine)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "mean", self._lift(inner.mean[None])[0])
        object.__setattr__(self, "law", self._law())

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return self.prior.kind

    @property
    def scale(self) -> float:  # type: ignore[override]
        """The largest standard deviation of any direction, of low and of high modes."""
        return max(self._g * self.prior.scale, sqrt(float(self._variances.max())))

    @property
    def detail(self) -> float | None:  # type: ignore[override]
        """The smallest standard deviation that samples must show: the prior's, on this grid; None if it has none."""
        own = self.prior.detail
        return None if own is None else self._g * own

    @property
    def sigma_range(self) -> tuple[float, float]:  # type: ignore[override]
        low, high = self.prior.sigma_range
        return self._g * low, self._g * high

    @property
    def cheap_pullback(self) -> bool:
        return self.prior.cheap_pullback

    @property
    def learned(self) -> bool:
        return self.prior.learned

    def rescaled(self, factor: float) -> ResampledPrior:
        """Fit the prior to another unit: the distribution of ``factor`` times the signal."""
        own = getattr(self.prior, "rescaled", None)
        if own is None:
            raise UnsupportedError(f"{_OWNER}: {type(self.prior).__name__} cannot be rescaled.")
        return replace(self, prior=own(factor), beyond=factor**2 * self._variances)

    def __repr__(self) -> str:
        return f"{_OWNER}({self.prior!r} on {self.shape})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ResampledPrior:
        return replace(self, prior=self.prior.to(device, dtype), beyond=self._variances.to(device, dtype))

    # --- the law ------------------------------------------------------------------------------------------------------
    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        u = self._fine.forward(x)
        value = self._lift(self.prior._denoise(self._cut(u), self._inner(sigma)))  # not `denoise`: one call is counted
        return value + self._fine.inverse(self._gain(sigma) * u)

    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pullback]:
        u = self._fine.forward(x)
        inner, pull = self.prior._pullback(self._cut(u), self._inner(sigma))
        gain = self._gain(sigma)

        def back(v: Tensor) -> Tensor:
            w = self._fine.forward(v)
            # Cutting divides by g and lifting multiplies by it, each the inverse of the other's adjoint.
            return self._lift(pull(self._cut(w))) + self._fine.inverse(gain * w)

        return self._lift(inner) + self._fine.inverse(gain * u), back

    def _law(self) -> GaussianLaw | None:
        own = self.prior.law
        if own is None or not isinstance(own.modes, SpectralModes) or own.modes.transform.name != "fourier":
            return None
        variances = self._variances.clone()
        variances[self._low] = self._g**2 * own.variances
        return GaussianLaw(mean=self.mean, modes=SpectralModes(transform=self._fine), variances=variances)

    # --- plumbing -----------------------------------------------------------------------------------------------------
    @property
    def _g(self) -> float:
        return sqrt(prod(self.shape) / prod(self.prior.shape))

    @property
    def _low(self) -> tuple[slice, ...]:
        return tuple(slice(n) for n in self.prior.shape)

    @property
    def _variances(self) -> Tensor:
        assert isinstance(self.beyond, Tensor)
        return self.beyond

    def _cut(self, u: Tensor) -> Tensor:
        """Coefficients of the fine grid to a signal on the coarse one."""
        return self._coarse.inverse(u[(slice(None), *self._low)]) / self._g

    def _lift(self, x: Tensor) -> Tensor:
        u = torch.zeros(len(x), *self.shape, dtype=x.dtype, device=x.device)
        u[(slice(None), *self._low)] = self._g * self._coarse.forward(x)
        return self._fine.inverse(u)

    def _inner(self, sigma: Tensor) -> Tensor:
        if sigma.shape[1:].numel() > 1:
            raise UnsupportedError(f"{_OWNER}: one noise level for every row, not one for every entry.")
        return sigma / self._g

    def _gain(self, sigma: Tensor) -> Tensor:
        return self._variances / (self._variances + sigma**2)


def continued(law: GaussianLaw, shape: Shape) -> Tensor:
    """The spectrum of a law, continued: variances ``(*shape)`` of Fourier modes beyond it, for `ResampledPrior`.

    The mean power of rings of equal wavenumber (in periods a field of view, per unit-mean-square mode) is fitted by a
    power law over the upper half of the wavenumbers that the law has, and continued. Raises UnsupportedError for a law
    without Fourier modes.
    """
    modes = law.modes
    if not isinstance(modes, SpectralModes) or modes.transform.name != "fourier":
        raise UnsupportedError("continued: only a law of Fourier modes has a spectrum to continue.")

    def radius(n: Shape) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device="cpu")
        for axis, m in enumerate(n):
            k = torch.div(torch.arange(m, dtype=torch.float64, device="cpu") + 1, 2, rounding_mode="floor")
            total = total + (k**2).view(-1, *([1] * (len(n) - axis - 1)))
        return total.sqrt()

    k, power = radius(modes.shape).flatten(), law.variances.double().cpu().flatten() / prod(modes.shape)
    top = min(modes.shape) // 2
    used = (k >= top / 2) & (k <= top) & (power > 0)
    far = radius(shape)
    if int(used.sum()) < 2:
        return torch.zeros(shape, dtype=kind_dtype(law.variances.dtype, "real"), device="cpu")
    a, b = k[used].log(), power[used].log()
    slope = float(((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum().clamp_min(1e-300))
    level = b.mean() + min(slope, 0.0) * (far.clamp_min(top).log() - a.mean())
    return (level.exp() * prod(shape)).to(law.variances)
