"""Where another strategy ends, as the initial state of chains in noise space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.random import DrawLike
from invsolve.strategies.base import Bound, Run, Strategy
from invsolve.strategies.mcmc.noise_map import NoiseMap

_AT_ONCE = 2**22  # values of the signals that are walked at once
_FAR = 6.0  # stds: noise further out is not used


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class WarmStart:
    """A strategy whose ends are the initial states of the chains."""

    strategy: Strategy
    bound: Bound | None

    def noise(self, run: Run, noise_map: NoiseMap, items: int, chains: int) -> tuple[Tensor, Tensor]:
        """One run for every chain, as the noise that makes its signal, ``(items, chains, n)``.

        Also the items ``(items,)`` whose runs can be used. A run that failed, and noise that no draw would have, is
        replaced by a draw. Items of which more than a tenth failed, or whose runs all coincide, have draws only, and
        are tempered as without a warm start.
        """
        size = max(1, _AT_ONCE // max(1, items * run.problem.data[0].numel() + items * run.prior.mean.numel()))
        parts, failed = [], torch.zeros(items, dtype=torch.float32, device=run.problem.data.device)
        for first in range(0, chains, size):
            count = min(size, chains - first)
            rows = torch.arange(items, device=run.problem.data.device).repeat(count)
            draws = _ForChains(run.draws.take(torch.arange(items, device="cpu")), items, first, count)
            mine = replace(
                run,
                problem=run.problem.take(rows),
                draws=draws,
                bound=None if self.bound is None else self.bound.take(rows),
            )
            state = self.strategy.init(mine)
            for i in range(self.strategy.num_steps):
                state, _ = self.strategy.step(mine, state, i)
                if self.strategy.finished(mine, state):
                    break
            u = to_real(noise_map.inverse(self.strategy.samples(mine, state)))
            fresh = to_real(mine.normal(-1, _OWN))
            bad = ~(u.isfinite() & (u.abs() < _FAR)).all(1)
            failed = failed + bad.view(count, items).sum(0)
            both = torch.stack([torch.where(bad[:, None], fresh, u), fresh])
            parts.append(both.view(2, count, items, -1).transpose(1, 2))
        u, fresh = torch.cat(parts, 2).unbind()
        good = (failed <= _TOLERATED * chains) & (u.std(1).amax(1) > _SPREAD)
        return torch.where(good[:, None, None], u, fresh), good


_TOLERATED, _SPREAD = 0.1, 1e-6  # share of failed runs; std of the noise, of which a draw's is 1
_OWN = 10**6  # the index of a draw that no strategy asks for


@final
@dataclass(frozen=True, eq=False)
class _ForChains:
    """Numbers for ``count`` chains of every item, from the item's own stream: rows are (chain, item)."""

    draws: DrawLike
    items: int
    first: int
    count: int

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        each = [
            self.draws.normal(shape, dtype, step=step, index=_OWN * (2 + 2 * (self.first + k)) + index)
            for k in range(self.count)
        ]
        return torch.cat(each)

    def take(self, rows: Tensor) -> DrawLike:
        return _ForChains(self.draws.take(rows[rows < self.items]), self.items, self.first, self.count)
