"""Whether data can be told apart from their own rounding: noise beside the spacing of floating point numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.core.distributions import Distribution
from invsolve.noise.gaussian import Gaussian

_SPACINGS = 16  # of the numbers, that the std of noise must be: an operator adds a few of its own


def drowned(noise: object, y: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The largest share of the noise's std, 0-d, that a few spacings of ``y`` in ``dtype`` are, if more than all of it.

    None where all is well, or the noise states no std (`Gaussian`, or a number, does).
    """
    std = noise
    if isinstance(noise, Gaussian):
        std = noise.std if noise.covariance is None else noise.covariance.diagonal().sqrt()
    if isinstance(std, Distribution):
        std = float(std.transport(torch.zeros(1, dtype=torch.float64, device="cpu")))
    if not isinstance(std, (int, float, Tensor)) or isinstance(std, bool):
        return None
    wide = torch.as_tensor(std, dtype=torch.float64, device=y.device)
    if not bool((wide > 0).all()) or not y.numel() or not wide.numel():
        return None  # refused elsewhere
    # Data of any size and the smallest std: shapes are not looked at here, and are not known to fit yet.
    worst = _SPACINGS * torch.finfo(dtype).eps * y.abs().double().nan_to_num(0.0, 0.0, 0.0).max() / wide.min()
    return worst if bool(worst > 1) else None
