"""The state of the chains of `NoiseMCMC`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from invsolve.strategies.mcmc.kernels import Chains, Metric


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseMCMCState:
    """Items first, but for the samples. ``done``: rounds recorded so far; negative before the chains are there."""

    x: Tensor  # (rows, *shape): what was recorded
    u: Tensor  # (items, chains, n)
    log_likelihood: Tensor  # (items, chains)
    grad: Tensor  # (items, chains, n)
    beta: Tensor  # (items,): the power of the likelihood
    slack: Tensor  # (items,): how far out hard walls still are; 0 once the likelihood counts
    log_evidence: Tensor  # (items, islands)
    mark: Tensor  # (items, 2): the last rise, and the mean log likelihood right after it
    lag: Tensor  # (items,): nats of the evidence by which the chains were seen to be late
    mean: Tensor  # of the metrics
    root: Tensor  # of the metric from the covariance of the chains
    narrow: Tensor  # of the one from its scores
    log_step: Tensor  # (items, 2): with either metric
    accept: Tensor  # (items,): of the last round
    left: Tensor  # (items, n + 1): autocorrelation over the moves since the last event
    since: Tensor  # (items,): how many they are
    rises: Tensor  # (items,): of the temperature
    moves: Tensor  # (items,): in all
    done: Tensor  # (items,)
    rounds: Tensor  # (items,): how many are to be recorded
    first: Tensor  # (items, chains, n + 2): sums over the first half of the recorded rounds (`halves`)
    second: Tensor
    square: Tensor

    @property
    def chains(self) -> Chains:
        return Chains(u=self.u, log_likelihood=self.log_likelihood, grad=self.grad)

    @property
    def metrics(self) -> tuple[Metric, Metric]:
        return Metric(mean=self.mean, root=self.root), Metric(mean=self.mean, root=self.narrow)

    def copied(self) -> NoiseMCMCState:
        """With tensors of its own, which may be written to."""
        return NoiseMCMCState(**{f.name: getattr(self, f.name).clone() for f in fields(self)})


def only(items: Tensor, new: NoiseMCMCState, old: NoiseMCMCState) -> NoiseMCMCState:
    """``new`` for the items where True, else ``old``."""

    def chosen(name: str) -> Tensor:
        a, b = getattr(new, name), getattr(old, name)
        return a if name == "x" else torch.where(items.view(-1, *([1] * (a.ndim - 1))), a, b)

    return NoiseMCMCState(**{f.name: chosen(f.name) for f in fields(new)})
