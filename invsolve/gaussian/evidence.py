"""The evidence ``log p(y)``: its value and error, and how far rounding may have moved that of closed forms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Evidence(NamedTuple):
    """``log p(y)`` and its standard error, nats, each ``(items,)`` float64. In a closed form the error is rounding."""

    log: Tensor
    se: Tensor

    def or_better(self, other: Evidence) -> Evidence:
        """Of every item the estimate of the smaller error."""
        mine = ~(other.se < self.se)
        return Evidence(torch.where(mine, self.log, other.log), torch.where(mine, self.se, other.se))

    def known(self, where: Tensor) -> Evidence:
        """NaN but ``where`` ``(items,)`` it is known, and where its error is infinite: an evidence of 0 stays one."""
        good = (where & torch.isfinite(self.se)) | (self.log == -torch.inf)
        return Evidence(torch.where(good, self.log, torch.nan), torch.where(good & where, self.se, torch.nan))


def rounding(
    dtype: torch.dtype,
    *,
    matrix: Tensor,
    side: int,
    law: Tensor,
    ends: Tensor,
    shift: Tensor,
    left: Tensor,
    terms: Tensor,
) -> Tensor:
    """What roundings of relative size eps may change in ``-(w^T M^-1 w + log det M) / 2 + ...``, ``M = I + K K^T``.

    To first order in errors ``|dK| <= eps |K|`` (Frobenius) of the whitened matrix and ``|dw| <= eps ends`` of the
    whitened residual, with ``left = M^-1 w`` and ``shift = K^T M^-1 w``:

    - ``d log det M / 2 = tr(M^-1 K dK^T)``, at most ``|M^-1 K| |dK| <= sqrt(side) / 2 |dK|``, because s / (1 + s^2) is
      at most 1/2; ``side`` is the smaller side of K;
    - ``d(w^T M^-1 w) / 2`` is at most ``|left| |shift| |dK| + |left| |dw|``;
    - a sum of ``terms`` (their magnitudes) is off by eps of itself;
    - a covariance that was decomposed (in float64, whatever the data are) is off by eps of its largest eigenvalue v in
      any direction, and M by eps ``law``, with ``law = v |G^-1/2 A S|^2``; as M is at least I that moves both terms by
      at most half of it, the second times ``|left|^2``.

    ``matrix`` is |K|; all others ``(...)`` float64, norms. eps is that of ``dtype``, in which operator and data were
    evaluated. It is a bound in the usual sense: sums of n roundings are taken to be as good as one.
    """
    eps = torch.finfo(dtype).eps
    of_matrix = matrix * (side**0.5 / 2 + left * shift)
    of_law = torch.finfo(torch.float64).eps / 2 * law * (1 + left**2)
    bound: Tensor = eps * (of_matrix + left * ends + terms) + of_law
    return bound
