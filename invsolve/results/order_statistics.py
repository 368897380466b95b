"""Quantiles and rank intervals of samples, with and without weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor

from invsolve.errors import invalid

_ROUND = 1e-9  # ranks are integers: 20 * (1 - 0.9) / 2 must count as 1, not as 0.99999999


class Interval(NamedTuple):
    """A rank interval.

    Attributes
    ----------
    low, high : Tensor, shape ([batch,] *shape)
        Its ends, entry by entry.
    level : float
        The level that its ranks carry exactly.
    """

    low: Tensor
    high: Tensor
    level: float


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class OrderStatistics:
    """Of real samples ``(num_samples, [batch,] *shape)``, of which some ``(num_samples, [batch])`` failed.

    ``weights`` ``(num_samples, [batch])`` are normalised, None where all samples count the same; ``ess`` ``([batch])``
    is the effective number of good samples.
    """

    samples: Tensor
    failed: Tensor
    weights: Tensor | None
    ess: Tensor

    def quantile(self, level: float) -> Tensor:
        """``([batch,] *shape)``, see `Result.quantile`; raises where the samples do not carry the level."""
        if not 0 < level < 1:
            raise invalid("quantile", "q", "between 0 and 1", level)
        count, tail = self._smallest_count, min(level, 1 - level)
        if count is not None and tail * (count + 1) < 1 - _ROUND:
            need = math.ceil(1 / tail - 1 - _ROUND)
            what = "samples" if self.weights is None else "effective samples"
            raise invalid(
                "quantile",
                "q",
                f"between {1 / (count + 1):.4g} and {count / (count + 1):.4g} with {count:.4g} {what}",
                level,
                f"This level needs at least {need} {what}.",
            )
        return self._plain(level) if self.weights is None else self._weighted(self.weights, level)

    def interval(self, level: float) -> Interval:
        """Of samples of equal weight, see `Result.interval`."""
        if not 0 < level < 1:
            raise invalid("interval", "level", "between 0 and 1", level)
        if self.weights is not None:
            raise invalid(
                "interval",
                "samples",
                "of equal weight (ranks of others have no exact level)",
                "weights",
                f"Use quantile([{(1 - level) / 2:.4g}, {(1 + level) / 2:.4g}]), which is approximate.",
            )
        good = (~self.failed).sum(0)
        if (count := self._smallest_count) is None:
            count = 0.0
        elif (count + 1) * (1 - level) / 2 < 1 - _ROUND:
            need = math.ceil(2 / (1 - level) - 1 - _ROUND)
            most = f"at most {max(0.0, (count - 1) / (count + 1)):.4g} with {count:.0f} samples"
            raise invalid("interval", "level", most, level, f"This level needs at least {need} samples.")
        rank = ((good + 1) * ((1 - level) / 2) + _ROUND).floor().clamp(min=1)
        exact = (1 - 2 * rank.double() / (good + 1))[good > 0]
        return Interval(self._rank(rank), self._rank(good + 1 - rank), float(exact.min()) if len(exact) else math.nan)

    @property
    def _smallest_count(self) -> float | None:
        """The smallest (effective) number of good samples over the items that have any; None if none has."""
        ess = self.ess.reshape(-1)
        ess = ess[ess > 0]
        return float(ess.min()) if len(ess) else None

    def _over_signal(self, value: Tensor, lead: int) -> Tensor:
        """A tensor over rows or items (``lead`` axes) made to broadcast against the signal's axes."""
        return value.reshape((*value.shape[:lead], *([1] * (self.samples.ndim - self.failed.ndim))))

    @cached_property
    def _sorted(self) -> Tensor:
        """The samples in order, failed rows last."""
        failed = self._over_signal(self.failed, self.failed.ndim)
        return torch.where(failed, math.nan, self.samples).sort(0).values

    def _rank(self, rank: Tensor) -> Tensor:
        """The order statistic of 1-based ``rank`` ``([batch])``; NaN (a failed row) for an item without good rows."""
        index = (rank.long() - 1).clamp(0, len(self.samples) - 1)
        index = self._over_signal(index, self.failed.ndim - 1).expand(self._sorted.shape[1:])
        return self._sorted.gather(0, index[None])[0]

    def _plain(self, level: float) -> Tensor:
        good = (~self.failed).sum(0)
        position = level * (good + 1).double()
        position = torch.where((position - position.round()).abs() < _ROUND, position.round(), position)
        position = torch.minimum(position.clamp(min=1), good.double())
        low = self._rank(position.floor())
        fraction = self._over_signal(position - position.floor(), self.failed.ndim - 1).to(self.samples.dtype)
        return low + fraction * (self._rank(position.ceil()) - low)

    def _weighted(self, weights: Tensor, level: float) -> Tensor:
        lead = self.failed.ndim
        ess = self._over_signal(self.ess, lead - 1)
        values, order = torch.where(self._over_signal(self.failed, lead), 0, self.samples).sort(0)
        weights = self._over_signal(weights, lead).expand(values.shape).gather(0, order)
        position = (ess * (weights.cumsum(0) - weights / 2) + 0.5) / (ess + 1)
        # Samples of weight zero (failed ones too) must not be interpolated to: move them off the axis.
        position = torch.where(weights > 0, position, math.nan)
        below = position.masked_fill(~(position <= level + _ROUND), -math.inf)
        above = position.masked_fill(~(position >= level - _ROUND), math.inf)
        p_low, i_low = below.max(0)
        p_high, i_high = above.min(0)
        low, high = values.gather(0, i_low[None])[0], values.gather(0, i_high[None])[0]
        fraction = ((level - p_low) / (p_high - p_low)).clamp(0, 1).nan_to_num(nan=0.0).to(values.dtype)
        out = torch.where(p_low == -math.inf, high, torch.where(p_high == math.inf, low, low + fraction * (high - low)))
        return torch.where(ess > 0, out, math.nan)
