"""Mean and std of all that the chains recorded, of which the samples are some."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.gaussian.marginals import Moments
from invsolve.strategies.mcmc.state import NoiseMCMCState
from invsolve.strategies.reported import Reported


def moments(state: NoiseMCMCState, least: int, of: Reported) -> Moments:
    """By the sums over the recorded rounds; NaN for items with fewer than the ``least``, or below the full power."""
    q = of.size
    total, square = (state.first + state.second)[..., :q], state.square[..., :q]
    mean, variance = ensemble_moments(total, square, state.log_evidence, state.done.clamp_min(1))
    known = ((state.beta >= 1) & (state.done >= least))[:, None]
    return of.moments(torch.where(known, mean, torch.nan), torch.where(known, variance, torch.nan))


def ensemble_moments(total: Tensor, square: Tensor, log_evidence: Tensor, rounds: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q quantities over all chains and ``rounds`` (items,), ``(items, q)``.

    ``total`` and ``square`` ``(items, chains, q)``: sums over the rounds, and of squares; islands count by their
    evidence ``(items, islands)``. To the variance around the mean comes that of the mean, by the spread of the chains.
    """
    items, chains, _ = total.shape
    islands = log_evidence.shape[1]
    weights = torch.softmax(log_evidence, 1).repeat_interleave(chains // islands, 1)[..., None] * (islands / chains)
    each = total / rounds[:, None, None]
    mean = (weights * each).sum(1)
    around = square / rounds[:, None, None] - 2 * mean[:, None] * each + mean[:, None].square()
    own = (weights.square() * (each - mean[:, None]).square()).sum(1)
    return mean, ((weights * around).sum(1) + own).clamp_min(0)
