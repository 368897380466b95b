"""Relative errors: noise in proportion to the signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide

_FLOOR = 1e-12  # of the datum: a clean measurement below has the gradient there


@final
@dataclass(frozen=True, eq=False)
class Multiplicative(Entrywise):
    """Log-normal noise, a relative error of about ``std``: ``log y = log clean + std * N(0, 1)``.

    Data and clean measurement are positive, in any unit; the median of y is ``clean``.

    Parameters
    ----------
    std : float or Tensor, shape (*out_shape) or (items, *out_shape)
        > 0, of the logarithm: without a unit.

    Raises
    ------
    InputError, InputTypeError
        If ``std`` is not positive; by `solve`, for data that are not positive.

    Notes
    -----
    A clean measurement <= 0 has probability zero (`log_prob` is minus infinity), the gradient at 1e-12 of the datum,
    and no information. A Gaussian stands in for it at most a factor ``exp(1/2 + 3 std)`` away from the datum.
    """

    std: Parameter

    def lower_limits(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        std = wide(self.std, m)
        white = (y.log() - m.log()) / std
        log = -y.log() - std.log() - 0.5 * math.log(2 * math.pi) - 0.5 * white**2
        return torch.where(m <= 0, -math.inf, log)

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        m = torch.maximum(m, _FLOOR * y).clamp_max(torch.finfo(m.dtype).max)
        return (m.log() - y.log()) / (m * self.std * self.std)

    def _information(self, m: Tensor) -> Tensor:
        return torch.where(m <= 0, 0.0, (m * self.std) ** -2)

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        reach = torch.exp(wide(0.5 + 3 * self.std, m))
        point = torch.minimum(torch.maximum(m, y / reach), y * reach)
        return point, self._information(point)

    def _residual(self, y: Tensor, m: Tensor) -> Tensor:
        return torch.where(m > 0, (y.log() - m.log()) / self.std, super()._residual(y, m))

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        return m * torch.exp(self.std * normal(torch.float64))

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str]:
        return y <= 0, "positive", "Leave out data that are 0 with iv.operators.Mask or Subsample."
