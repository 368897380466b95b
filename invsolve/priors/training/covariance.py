"""The Gaussian law with the mean and the covariance of training signals: what Jacobian-free guidance needs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.torch_state import in_defined_state
from invsolve.core.transforms import Transform
from invsolve.core.validation import check_choice, check_finite, check_int, kind_dtype
from invsolve.errors import invalid
from invsolve.gaussian.law import DenseModes, GaussianLaw
from invsolve.gaussian.spectral_modes import SpectralModes

_SIGNIFICANT = 4.0  # a mean image counts if its variance over the grid is this many times that of its own noise
_DENSE = 2048  # real numbers of a signal up to which a low-rank covariance is decomposed


@in_defined_state
def estimate_law(
    signals: Tensor, *, form: Literal["stationary", "low rank"] = "stationary", rank: int = 64
) -> GaussianLaw:
    """The Gaussian distribution with the mean and the covariance of signals.

    Parameters
    ----------
    signals : Tensor or array, shape (n, *shape)
        At least two, not all the same, real or complex, in their units.
    form : {"stationary", "low rank"}
        ``"stationary"``: diagonal in the Fourier modes of the grid (all its axes), cosine and sine of a frequency
        sharing their variance; for fields whose distribution does not depend on the place, with any grid. ``"low
        rank"``: the leading principal components and one variance for the rest, for signals of at most 2,048 entries.
    rank : int
        Principal components of ``"low rank"``, >= 1.

    Returns
    -------
    GaussianLaw
        Its mean is the mean signal where that varies over the grid by more than its own noise, else one value. Complex
        signals have independent real and imaginary parts of one distribution and, their phase being arbitrary, the mean
        0 unless it is significant.

    Raises
    ------
    InputError
        For fewer than two signals, signals that are all the same, or too many entries for ``"low rank"``.

    References
    ----------
    Tipping & Bishop 1999, "Probabilistic principal component analysis" (doi 10.1111/1467-9868.00196).
    """
    check_choice("estimate_law", "form", form, ("stationary", "low rank"))
    signals = parameter("estimate_law", "signals", signals)
    if signals.ndim < 2 or len(signals) < 2:
        raise invalid("estimate_law", "signals", "at least two, (n, *shape)", tuple(signals.shape))
    check_finite("estimate_law", "signals", signals)
    shape, n = tuple(signals.shape[1:]), len(signals)
    real = kind_dtype(signals.dtype, "real")
    x = signals.to(kind_dtype(torch.float64, "complex" if signals.is_complex() else "real"))
    mean = x.mean(0)
    level = mean.mean()
    noise = (x - mean).abs().square().mean() / (n - 1)
    if float((mean - level).abs().square().mean()) < _SIGNIFICANT * float(noise):
        few = float(level.abs().square()) < _SIGNIFICANT * float(noise)
        mean = torch.zeros_like(mean) if signals.is_complex() and few else level.expand(shape).clone()
    parts = x - mean
    if signals.is_complex():
        parts = torch.cat([parts.real, parts.imag])
    if not bool((parts != 0).any()):
        raise invalid("estimate_law", "signals", "different from each other", "all the same")
    if form == "low rank":
        return _low_rank(parts, mean.to(signals.dtype), real, check_int("estimate_law", "rank", rank, minimum=1))
    transform = Transform(name="fourier", shape=shape, dtype=torch.float64)
    power = transform.forward(parts).square().mean(0)
    for axis, m in enumerate(shape):  # index j has frequency (j + 1) // 2
        power = power.movedim(axis, -1)
        pairs = power[..., 1 : m - 1 if m % 2 == 0 else m]  # cosine, sine, cosine, sine, ...
        both = (pairs[..., ::2] + pairs[..., 1::2]) / 2
        power[..., 1 : 1 + pairs.shape[-1]] = torch.stack([both, both], -1).flatten(-2)
        power = power.movedim(-1, axis)
    modes = SpectralModes(transform=Transform(name="fourier", shape=shape, dtype=real))
    return GaussianLaw(mean=mean.to(signals.dtype), modes=modes, variances=power.to(real).contiguous())


def _low_rank(parts: Tensor, mean: Tensor, real: torch.dtype, rank: int) -> GaussianLaw:
    shape, size = tuple(parts.shape[1:]), parts[0].numel()
    if size > _DENSE:
        raise invalid("estimate_law", "form", f"'stationary' for more than {_DENSE} numbers", f"'low rank', {size}")
    flat = parts.flatten(1)
    values, vectors = torch.linalg.eigh(flat.mT @ flat / len(flat))
    rank = min(rank, size - 1) if size > 1 else 1
    rest = values[: size - rank].mean() if size > rank else values.new_zeros(())
    values = torch.cat([rest.expand(size - rank), values[size - rank :]]).clamp_min(0)
    return GaussianLaw(mean=mean, modes=DenseModes(shape=shape, matrix=vectors.to(real)), variances=values.to(real))
