"""Quantiles of single entries by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.validation import Shape
from invsolve.gaussian.marginals import Marginals, Moments
from invsolve.separable.density import Densities
from invsolve.separable.laws import EntryLaw


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class EntryMarginals(Marginals):
    """Entries ``x(z)``, monotone in z, of which `Densities` are known: those of the first item, of the second, ..."""

    mean: Tensor
    std: Tensor
    shape: Shape  # of one signal
    law: EntryLaw
    densities: Densities
    owner: Tensor  # (batch * n,): whose density an entry has

    def quantile(self, level: float) -> Tensor:
        one = torch.ones(1, *self.shape, dtype=torch.float64, device=self.owner.device)
        falls = (self.law.transport(one) < self.law.transport(-one)).flatten()
        levels = torch.where(falls, 1 - level, level).double().repeat(len(self.owner) // len(falls))
        z = self.densities.draw(self.owner, levels)
        return self.law.transport(z.view(-1, *self.shape)).view(self.mean.shape).to(self.mean.dtype)

    def only_item(self) -> Self:
        return replace(self, mean=self.mean[0], std=self.std[0])

    def selected(self, choose: Callable[[Tensor], Tensor]) -> Moments:
        return Moments(mean=choose(self.mean), std=choose(self.std))
