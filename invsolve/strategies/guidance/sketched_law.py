"""The covariance of a prior that states none, read off its denoiser where noise drowns the rest."""

from __future__ import annotations

from math import prod

import torch

from invsolve.core.decompositions import eigh
from invsolve.gaussian.law import DenseModes, GaussianLaw
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasLaw, Learned

_LARGEST = 1024  # entries: so many products with the Jacobian, once for all rows
_AT_ONCE = 256
_LEVEL = 10.0  # in units of the prior's scale


def can_be_sketched(prior: Prior) -> bool:
    """Whether `sketched_law` has a way: no covariance is stated, and products are cheap and few."""
    dear = isinstance(prior, HasLaw) or isinstance(prior, Learned) or prior.cheap_pullback
    return not dear and prior.white_noise and prod(prior.shape) <= _LARGEST


def sketched_law(prior: Prior) -> GaussianLaw | None:
    """The Gaussian of the prior's mean and covariance ``C``, by all columns of ``J = C / (C + t^2)`` in much noise.

    Exact for Gaussians, and right to the order of (scale / t)^2 for others. None where the prior states one, is a
    network (its products are the price), is large or has coloured noise. Complex priors are taken to be circular with
    real covariances.
    """
    if not can_be_sketched(prior):
        return None
    n = prod(prior.shape)
    t = min(_LEVEL * prior.scale, prior.sigma_range[1])
    columns = []
    for first in range(0, n, _AT_ONCE):
        rows = min(_AT_ONCE, n - first)
        unit = torch.zeros(rows, n, dtype=prior.mean.dtype, device=prior.device)
        unit.diagonal(first).fill_(1.0)
        _, pull = prior.pullback(prior.mean.expand(rows, *prior.shape), t)
        columns.append(pull(unit.view(rows, *prior.shape)).flatten(1).real.double())
    J = torch.cat(columns)
    if not bool(J.isfinite().all()):
        return None
    gains, modes = eigh((J + J.mT) / 2)
    gains = gains.clamp(0.0, 1 - 1e-6)
    dtype = prior.mean.real.dtype
    return GaussianLaw(
        mean=prior.mean,
        modes=DenseModes(tuple(prior.shape), modes.to(dtype)),
        variances=(t**2 * gains / (1 - gains)).to(dtype),
    )
