"""The Matern correlation between points of the plane, the line or space."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def matern_correlation(distance: Tensor, length: float, smoothness: float) -> Tensor:
    """``2^(1-nu) / Gamma(nu) s^nu K_nu(s)``, ``s = sqrt(8 nu) distance / length``, float64, shape of ``distance``.

    It is about 0.14 at a distance of ``length``; nu = ``smoothness``.
    """
    s = math.sqrt(8 * smoothness) / length * distance.double()
    if smoothness == 0.5:
        return torch.exp(-s)
    if smoothness == 1.5:
        return (1 + s) * torch.exp(-s)
    if smoothness == 2.5:
        return (1 + s + s * s / 3) * torch.exp(-s)
    from scipy.special import gammaln, kve  # here: it takes time to load

    wide = s.cpu().clamp_min(1e-12)  # where it is 1 to rounding, for every nu of use
    log = (1 - smoothness) * math.log(2) - float(gammaln(smoothness)) + smoothness * wide.log() - wide
    found = torch.exp(log) * torch.from_numpy(kve(smoothness, wide.numpy()))
    return torch.where(s.cpu() > 1e-12, found.clamp_max(1.0), 1.0).to(distance.device)
