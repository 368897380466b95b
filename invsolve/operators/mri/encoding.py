"""What images are multiplied by before a non-uniform transform, and data after it: maps, waves off resonance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Rows = slice | Tensor


class Encoding(NamedTuple):
    """Maps on a grid, their conjugate, ``(items or 1, coils, *base)``, and the terms of a sum off resonance.

    Conjugates are written out: one that is only marked is computed again at every product.
    """

    maps: Tensor
    conjugate: Tensor
    waves: Tensor | None  # (items or 1, terms, *base)
    weights: Tensor | None  # (terms, samples)

    def terms(self, rows: Rows, total: int) -> Iterator[tuple[Tensor | None, Tensor | None]]:
        """What images and data of some rows are multiplied by in each term; (None, None) on resonance."""
        if self.waves is None or self.weights is None:
            yield None, None
        else:
            yield from zip(rows_of(self.waves, rows, total).unbind(1), self.weights, strict=True)


def rows_of(value: Tensor, rows: Rows, total: int) -> Tensor:
    """Some rows of what may be one for all, or go several rounds: row r is of item r modulo their number."""
    if len(value) == 1:
        return value
    return value[rows] if len(value) == total else value[torch.arange(total, device=value.device)[rows] % len(value)]


def times(value: Tensor, factor: Tensor | None, *, conjugate: bool = False) -> Tensor:
    """The product; None is 1."""
    if factor is None:
        return value
    return value * (factor.conj() if conjugate else factor)
