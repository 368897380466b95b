"""Additive noise with heavy tails: data in which some are outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide


@final
@dataclass(frozen=True, eq=False)
class Laplace(Entrywise):
    """Additive noise with heavy tails: ``y = clean + n`` with the density ``exp(-|n| / scale) / (2 scale)``.

    Parameters
    ----------
    scale : float or Tensor, shape (*out_shape) or (items, *out_shape)
        > 0, in the units of the data; the std of the noise is ``sqrt(2) scale``.

    Raises
    ------
    InputError, InputTypeError
        If ``scale`` is not positive.

    Notes
    -----
    The gradient is 0 at ``clean = y``, where the density has a kink. `residual` is over the std, not the score, whose
    size is that of an outlier for every datum.
    """

    scale: Parameter

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        return -(y - m).abs() / self.scale - wide(2 * self.scale, m).log()

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        return torch.sign(m - y) / self.scale

    def _information(self, m: Tensor) -> Tensor:
        return torch.ones_like(m) / (self.scale * self.scale)

    def _residual(self, y: Tensor, m: Tensor) -> Tensor:
        return (y - m) / (math.sqrt(2) * self.scale)

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        z = normal(torch.float64)
        # Twice the smaller tail is uniform, and -log of that exponential.
        size = -(math.log(2) + torch.special.log_ndtr(-z.abs())).clamp_max(0)
        return m + self.scale * torch.copysign(size, z)
