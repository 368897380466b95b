"""Rows that an equation cannot be solved for: NaN, so that the others of a batch go on.

A sampler may try anything. An exception is for arguments that are wrong whatever the row.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import expand


def lose(x: Tensor, bad: Tensor) -> Tensor:
    """``x`` with NaN in the rows of ``bad`` ``(rows,)``, and in products with their derivatives; others as they are."""
    return x * expand(torch.ones_like(bad, dtype=x.real.dtype).masked_fill(bad, torch.nan), x)


def warn_lost(owner: str, which: str, repair: str) -> None:
    """Say why rows are NaN, without numbers: Python shows each wording once."""
    warnings.warn(f"{owner}: rows {which} are NaN. {repair}", RuntimeWarning, stacklevel=2)
