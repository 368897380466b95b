"""Fewer chains where time is short: those that are left are where they were, and go on."""

from __future__ import annotations

from dataclasses import replace

import torch

from invsolve.strategies.mcmc.state import NoiseMCMCState

LEAST = 24  # chains


def fewer_chains(chains: int, islands: int, share: float) -> int:
    """About a share of the ``chains``, as many on every island, and no fewer than what says something of errors."""
    least = -(-LEAST // islands) * islands
    return min(chains, max(least, int(chains * share) // islands * islands))


def thinned(state: NoiseMCMCState, chains: int) -> NoiseMCMCState | None:
    """Every so many chains of each island; None where a round was recorded, which is of all of them."""
    if bool((state.done > 0).any()):
        return None
    islands, before = state.log_evidence.shape[1], state.u.shape[1]
    each, kept = before // islands, chains // islands
    device = state.u.device
    # Resampled chains stand beside their copies: every second one, or so, are more different states.
    own = torch.arange(kept, device=device) * each // kept
    chosen = (torch.arange(islands, device=device)[:, None] * each + own).flatten()
    names = ("u", "log_likelihood", "grad", "first", "second", "square")
    new = replace(state, **{name: getattr(state, name)[:, chosen] for name in names})
    # The mean log likelihood after the last rise was that of all chains.
    moved = new.log_likelihood.mean(1) - state.log_likelihood.mean(1)
    mark = state.mark.clone()
    mark[:, 1] += torch.where(moved.isfinite(), moved, 0.0)
    return replace(new, mark=mark)
