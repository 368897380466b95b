"""What the caller of `solve` asked about: the signal, or a function of it; and its mean and std over an ensemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.gaussian.marginals import Moments
from invsolve.priors.base import Prior
from invsolve.problem import Problem


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Reported:
    """What sums are kept of: a function of the signal, less its value at the prior's mean, over real numbers.

    Squares of what is left lose no digits to an offset of the signal.
    """

    function: Callable[[Tensor], Tensor]
    centre: Tensor  # (1, *shape) of what the function gives

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], problem: Problem, prior: Prior) -> Self:
        """Of the signal of a problem, about the mean of its prior."""
        mean = prior.mean.to(problem.signal_dtype)
        return cls(function=function, centre=function(mean.expand(1, *problem.shape)))

    @property
    def size(self) -> int:
        """How many real numbers these are."""
        return to_real(self.centre).shape[1]

    def values(self, signals: Tensor) -> Tensor:
        """``(rows, q)`` float64."""
        return to_real(self.function(signals)).double() - to_real(self.centre).double()

    def moments(self, mean: Tensor, variance: Tensor) -> Moments:
        """Of the mean and variance of `values`, ``(items, q)`` each; for a complex entry those of both parts count."""
        shape = tuple(self.centre.shape[1:])
        if self.centre.is_complex():
            variance = variance.view(len(variance), -1, 2).sum(-1)
        wide = torch.complex128 if self.centre.is_complex() else None
        return Moments(
            mean=(from_real(mean, shape, wide) + self.centre).to(self.centre.dtype),
            std=variance.sqrt().view(len(variance), *shape).to(self.centre.real.dtype),
            known="ensemble",
        )
