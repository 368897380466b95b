"""Entries that have the same density, such as dark pixels: one of each kind is resolved.

They are known by hashes of their data and of the bits of their log likelihoods and signals at the points at which any
density is looked at first. Two densities could still differ elsewhere: who builds on it compares what was found of a
kind with all of its entries, where the posterior is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from invsolve.separable.columns import ranks

_TRIED = 36  # points that tell whether it is worth while to look at all of them
_WORTH = 0.8  # kinds of all entries, above which it is not
_FEW = 4  # possible points below which nothing is known of a density
_AT_ONCE = 2**20
_ODD = 6364136223846793005


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Kinds:
    """Which entries are of one kind."""

    kind: Tensor  # (entries,)
    members: Tensor  # (entries,): those of the first kind, of the second, ...
    first: Tensor  # (kinds,): where these begin
    size: Tensor  # (kinds,)

    @classmethod
    def of(cls, keys: Tensor) -> Self:
        """Of numbers ``(entries,)`` that are equal within a kind."""
        _, kind, size = torch.unique(keys, return_inverse=True, return_counts=True)
        return cls(kind=kind, members=torch.argsort(kind, stable=True), first=size.cumsum(0) - size, size=size)

    @classmethod
    def apart(cls, entries: int, device: torch.device) -> Self:
        """All of their own."""
        return cls.of(torch.arange(entries, device=device))

    @property
    def count(self) -> int:
        """Of kinds."""
        return len(self.size)

    @property
    def example(self) -> Tensor:
        """An entry of every kind."""
        return self.members[self.first]

    def places(self, kind: Tensor) -> Tensor:
        """Entries at which values of the kinds ``(k,)`` can be evaluated together: the members of a kind in turn."""
        return self.members[self.first[kind] + ranks(kind) % self.size[kind]]


def hashes(
    log_likelihood: Callable[[Tensor], Tensor], signal: Callable[[Tensor], Tensor], data: Tensor, points: Tensor
) -> Tensor:
    """Numbers ``(entries,)``, different for entries of different kinds.

    Of functions that map normal numbers ``(k, entries)``, entry by entry; ``data`` ``(entries,)`` int64 joins in.
    """
    found, possible, count = data, torch.zeros_like(data), len(data)
    own = torch.arange(count, device=data.device)
    step = max(1, _AT_ONCE // count)
    few = min(_TRIED, len(points))
    tried = torch.arange(few, device=data.device) * (len(points) - 1) // max(1, few - 1)
    for chosen in (points[tried], points):
        for z in torch.split(chosen, step):
            rows = z[:, None].expand(len(z), count).contiguous()
            value = log_likelihood(rows)
            possible = possible + torch.isfinite(value).sum(0)
            for row in (*value, *signal(rows)):
                found = mixed(found * _ODD + row.contiguous().view(torch.int64))
        if len(torch.unique(found)) > _WORTH * count:
            return own
    return torch.where(possible < _FEW, found + mixed(own * _ODD + 1), found)


def mixed(v: Tensor) -> Tensor:
    """Integers whose bits depend on all bits of ``v``."""
    v = (v ^ (v >> 30)) * -4658895280553007687
    v = (v ^ (v >> 27)) * -7723592293110705685
    return v ^ (v >> 31)
