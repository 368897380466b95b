"""From prior draws to the posterior: powers of the likelihood that rise, resampling on islands, new metrics."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from invsolve.core.resampling import systematic
from invsolve.strategies.mcmc.kernels import Chains, Metric
from invsolve.strategies.mcmc.state import NoiseMCMCState

IN_PLACE = 1e-200  # slack of hard walls that are in place, while the likelihood does not count yet
_FORGOTTEN = 0.05  # least share of the past that moves are taken to forget


def tempered(part: NoiseMCMCState, uniform: Tensor, keep: float, *, scores: bool) -> NoiseMCMCState:
    """The power of the likelihood raised, chains weighted and resampled on their islands, a new metric."""
    logs = part.log_likelihood
    rise = rise_of(logs, 1 - part.beta, keep)
    beta = torch.where(rise >= 1 - part.beta, 1.0, part.beta + rise)
    log_w = rise[:, None] * logs.nan_to_num(neginf=-math.inf)
    log_w = torch.where(logs == -math.inf, -math.inf, log_w)
    new = _resampled(replace(late(part, rise), beta=beta), log_w, uniform, scores=scores)
    return replace(new, mark=torch.stack((rise, new.log_likelihood.mean(1)), 1))


def closed_in(part: NoiseMCMCState, heights: Tensor, uniform: Tensor, keep: float, *, scores: bool) -> NoiseMCMCState:
    """Hard walls moved inwards so far that a share ``keep`` of the chains is left, at ``heights`` (items, chains)."""
    # Heights are infinite where nothing is measured.
    finite = heights.double().clamp_max(torch.finfo(torch.float64).max)
    slack = torch.minimum(part.slack, -finite.quantile(1 - keep, dim=1)).clamp_min(IN_PLACE)
    log_w = torch.zeros_like(heights, dtype=torch.float64).masked_fill(heights.double() < -slack[:, None], -math.inf)
    return _resampled(replace(part, slack=slack), log_w, uniform, scores=scores)


def _resampled(part: NoiseMCMCState, log_w: Tensor, uniform: Tensor, *, scores: bool) -> NoiseMCMCState:
    islands = log_w.view(len(log_w), part.log_evidence.shape[1], -1)
    gain = torch.logsumexp(islands, -1) - math.log(islands.shape[-1])
    weights = torch.softmax(log_w, 1)
    part = measured(part, weights, scores=scores)
    # Resampling on each island: flat (island of item) columns of chains.
    each = torch.softmax(islands, -1).nan_to_num(1 / islands.shape[-1]).flatten(0, 1).mT
    parent = systematic(each, uniform.flatten()).mT.reshape(islands.shape)
    parent = parent + (torch.arange(islands.shape[1], device=parent.device) * islands.shape[-1])[:, None]
    chains = part.chains.take(parent.flatten(1))
    return replace(
        part,
        u=chains.u,
        log_likelihood=chains.log_likelihood,
        grad=chains.grad,
        log_evidence=part.log_evidence + gain,
        rises=part.rises + 1,
    )


def late(part: NoiseMCMCState, rise: Tensor) -> NoiseMCMCState:
    """The moves since the last rise are over, and the power rises by ``rise`` ``(items,)`` next, or not any more.

    By how much the log likelihood went up in these moves says that it had been too low before: what they have not
    forgotten it still is. The evidence is the integral of its mean over the power.
    """
    last, before = part.mark.unbind(1)
    moved = (part.log_likelihood.mean(1) - before) / (1 - part.left.amax(1)).clamp_min(_FORGOTTEN)
    seen = torch.where((last > 0) & torch.isfinite(moved), (last + rise) / 2 * moved, 0.0)
    return replace(part, lag=part.lag + seen, mark=torch.zeros_like(part.mark))


def measured(part: NoiseMCMCState, weights: Tensor, *, scores: bool) -> NoiseMCMCState:
    """New metrics from weighted chains; that of the ``scores`` where moves have gradients.

    HMC takes both in turn: the covariance of the chains is wide enough to change modes, and too wide for tails
    and bends, where chains then stand still (10 % of the std of a banana); the scores know the scale there.
    """
    wide, narrow = part.metrics
    wide = Metric.of(part.u, weights, wide)
    if scores:
        slopes = part.beta.to(part.u.dtype)[:, None, None] * part.grad - part.u
        narrow = Metric.of_scores(part.u, slopes, weights, narrow)
    return replace(part, mean=wide.mean, root=wide.root, narrow=narrow.root)


def rise_of(logs: Tensor, room: Tensor, keep: float) -> Tensor:
    """The largest rise of the power, up to ``room`` ``(items,)``, whose weights have an effective share of ``keep``.

    ``logs`` ``(items, chains)``. By bisection of its logarithm; chains of likelihood zero have no weight at any rise.
    """
    shifted = logs - logs.amax(1, keepdim=True)
    alive = torch.isfinite(shifted)
    shifted = torch.where(alive, shifted, -math.inf)
    wanted = keep * alive.sum(1)

    def share(rise: Tensor) -> Tensor:
        w = torch.where(alive, (rise[:, None] * torch.where(alive, shifted, 0.0)).exp(), 0.0)
        return w.sum(1).square() / w.square().sum(1)

    low, high = torch.full_like(room, -60.0), room.log()
    low = torch.minimum(low, high)
    for _ in range(50):
        middle = (low + high) / 2
        enough = share(middle.exp()) >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(share(room) >= wanted, room, low.exp())


def autocorrelation(metric: Metric, before: Chains, after: Chains) -> Tensor:
    """Of every component in the coordinates of the metric, and of the log likelihood, over chains: (items, n + 1)."""

    def values(chains: Chains) -> Tensor:
        v = torch.cat((metric.whiten(chains.u).double(), chains.log_likelihood[..., None]), -1)
        v = v.nan_to_num(neginf=0.0)
        return v - v.mean(1, keepdim=True)

    a, b = values(before), values(after)
    size = (a.square().sum(1) * b.square().sum(1)).sqrt().clamp_min(torch.finfo(a.dtype).tiny)
    return ((a * b).sum(1) / size).clamp(0, 1)
