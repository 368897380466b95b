"""What is known of a prior whose entries are independent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class EntryLaw:
    """Independent entries, each a monotone function of a standard normal number of its own.

    Parameters
    ----------
    log_weight : float
        Of this law in a mixture of such, whose weights sum to 1; 0 for the only one.
    transport : callable
        Maps standard normal ``z`` ``(rows, *shape)``, float64, to signals ``(rows, *shape)``, float64, entry by entry.
        An object that can be pickled (no lambda): results keep it.
    """

    log_weight: float
    transport: Callable[[Tensor], Tensor]


def normal_entries(mean: Tensor, variances: Tensor, log_weight: float = 0.0) -> EntryLaw:
    """``N(mean, variances)``, each ``(*shape)``, entry by entry."""
    return EntryLaw(log_weight=log_weight, transport=_Scaled(mean.double(), variances.double().sqrt()))


@final
@dataclass(frozen=True, eq=False)
class _Scaled:
    mean: Tensor
    std: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return self.mean + self.std * z
