"""Quantiles of single entries by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.validation import Shape
from invsolve.gaussian.marginals import Marginals, Moments
from invsolve.separable.columns import of_columns
from invsolve.separable.density import Densities
from invsolve.separable.laws import EntryLaw


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class EntryMarginals(Marginals):
    """Entries ``x(z)``, monotone in z, of which `Densities` are known.

    Mean and std are as exact as these; quantiles to about 1e-6 std, as draws are: within an interval the density is a
    polynomial there.
    """

    mean: Tensor
    std: Tensor
    shape: Shape  # of one signal
    law: EntryLaw
    densities: Densities
    owner: Tensor  # (batch * n,): whose density an entry has
    column: Tensor  # (densities,): an entry of the signal that has it

    def quantile(self, level: float) -> Tensor:
        one = torch.ones(1, *self.shape, dtype=torch.float64, device=self.owner.device)
        falls = (self.law.transport(one) < self.law.transport(-one)).flatten()
        levels = torch.where(falls, 1 - level, level).double().repeat(len(self.owner) // len(falls))
        z = self.densities.draw(self.owner, levels)
        return self.law.transport(z.view(-1, *self.shape)).view(self.mean.shape).to(self.mean.dtype)

    def only_item(self) -> Self:
        return replace(self, mean=self.mean[0], std=self.std[0])

    def through(self, function: Callable[[Tensor], Tensor]) -> Self:
        law, own = EntryLaw(log_weight=0.0, transport=_Composed(function, self.law.transport)), self.densities

        def transport(z: Tensor) -> Tensor:
            return law.transport(z.view(-1, *self.shape)).reshape(z.shape)

        x, share = of_columns(transport, self.column[own.owner], own.nodes, prod(self.shape)), own.shares
        zeros = torch.zeros(own.count, dtype=torch.float64, device=x.device)
        mean = zeros.index_add(0, own.owner, torch.where(share > 0, share * x, 0).sum(1))
        square = (x - mean[own.owner, None]).square()
        variance = zeros.index_add(0, own.owner, torch.where(share > 0, share * square, 0).sum(1))
        mean, std = (v[self.owner].view(self.mean.shape).to(self.mean.dtype) for v in (mean, variance.sqrt()))
        return replace(self, mean=mean, std=std, law=law)

    def selected(self, choose: Callable[[Tensor], Tensor]) -> Moments:
        return Moments(mean=choose(self.mean), std=choose(self.std))


@final
@dataclass(frozen=True, eq=False)
class _Composed:
    outer: Callable[[Tensor], Tensor]
    inner: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        return self.outer(self.inner(z))
