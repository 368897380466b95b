"""Coefficients that are mixtures of normal ones, seen in noise: sums over the parts, and tables of these sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.priors.exact.interpolation import Table

TABLE_FROM = 2**14  # coefficients from which on a table pays: most take 3,000 sums
_LIMIT = 2 * TABLE_FROM  # sums that one may take
_LOG_2PI = math.log(2 * math.pi)
_FAR = 1e9  # the largest coefficient in a table, in scales
_TOLERANCE = 1e-9
_BLOCK = 2**20  # numbers in one temporary


def shares(u: Tensor, sigma: Tensor, log_weights: Tensor, variances: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of c given ``u = c + sigma z``: log density of u; mean / u and its complement; variance / sigma^2.

    ``log_weights`` and ``variances`` ``(parts, ...)`` broadcast against ``(1, *u.shape)``.
    """
    total = variances + sigma**2
    log = log_weights - 0.5 * (u**2 / total + torch.log(total) + _LOG_2PI)
    log_sum = torch.logsumexp(log, 0)
    r = (log - log_sum).exp()
    gain, loss = variances / total, sigma**2 / total
    kept, lost = (r * gain).sum(0), (r * loss).sum(0)  # their sum is 1, up to the rounding of many parts
    # Whichever is small: of numbers near 1 the differences would be rounding, and (u / sigma)^2 is large.
    apart = torch.where(kept < lost, gain - kept, loss - lost)
    return log_sum, kept, lost, kept + (r * apart**2).sum(0) * (u / sigma) ** 2


def make_table(log_weights: Tensor, variances: Tensor, ratio: float) -> Table | None:
    """Log density, log(kept / lost) and log(variance / sigma^2) over ``asinh(|u| / sqrt(1 + ratio^2))``.

    ``log_weights``, ``variances`` ``(parts,)`` are those of unit scale; ``ratio`` = sigma / scale. Densities, means
    and variances are within 1e-9 of the sum, relative, wherever that was compared. None where this takes more than
    32,768 sums (more than 50 degrees of freedom in noise a million times the scale).
    """
    width = math.hypot(1.0, ratio)
    log_weights, variances = log_weights[:, None], variances[:, None]
    level = torch.tensor(ratio, dtype=torch.float64, device="cpu")

    def function(t: Tensor) -> Tensor:
        rows = []
        for part in torch.split(width * torch.sinh(t), max(1, _BLOCK // len(log_weights))):
            log, kept, lost, variance = shares(part, level, log_weights, variances)
            rows.append(torch.stack([log, kept.log() - lost.log(), variance.log()], 1))
        return torch.cat(rows)

    def error(t: Tensor, found: Tensor, true: Tensor) -> Tensor:
        # All three are logarithms: differences are relative errors, of what is kept and what is lost alike.
        return (found - true).abs().amax(1)

    end = math.asinh(max(_FAR / width, 1e2))
    return Table.make(function, end, buckets=math.ceil(4 * end), tolerance=_TOLERANCE, error=error, limit=_LIMIT)


def tabulated(table: Table, u: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log density, mean and variance at unit scale, noise ``ratio``; all as ``u``."""
    log, odds, spread = table(torch.asinh(u.abs() / math.hypot(1.0, ratio)))
    kept = torch.sigmoid(odds)
    return log, torch.where(odds < 0, kept * u, u - torch.sigmoid(-odds) * u), ratio**2 * spread.exp()
