"""Whether Gibbs chains of scalars have found their distribution: split R-hat, effective sizes, memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RHAT = 1.05  # split R-hat below which chains are taken to have forgotten where they began
_FORGOTTEN = 0.3  # correlation of a scalar with itself half of the sweeps before, over chains, that is mentioned
_LEAST = 4  # sweeps that are halved


def mixing(trace: Sequence[Tensor], batch: int) -> tuple[Tensor, Tensor]:
    """Split R-hat and effective sample size of every scalar, each ``(batch, p)``, over the second half of the sweeps.

    ``trace``: the coordinates ``(rows, p)`` after each sweep, row k * batch + b being chain k of item b. Chains are
    halved, so that one that moves and chains that all move together show (Gelman et al. 2013, 11.4). The size is that
    of what the chains' means scatter by. NaN of fewer than four sweeps.
    """
    kept = torch.stack(list(trace[-max(_LEAST, (len(trace) + 1) // 2) :]))
    chains = kept.view(len(kept), -1, batch, kept.shape[-1])  # (sweeps, chains, batch, p)
    half = len(chains) // 2
    if half < 2:
        unknown = torch.full((batch, kept.shape[-1]), math.nan, dtype=torch.float64, device="cpu")
        return unknown, unknown
    halves = torch.cat([chains[-2 * half : -half], chains[-half:]], 1)
    within = halves.var(0).mean(0)
    scatter = halves.mean(0).var(0)  # of 2 n chains of `half` sweeps
    total = (half - 1) / half * within + scatter
    rhat = (total / within.clamp_min(1e-300)).sqrt()
    count, sweeps = chains.shape[1], len(chains)
    if count < 2:  # of one chain, by its halves
        return rhat, (2 * total / scatter.clamp_min(1e-300)).clamp_max(sweeps)
    means = chains.mean(0).var(0)
    return rhat, (count * total / means.clamp_min(1e-300)).clamp_max(count * sweeps)


def mixed(trace: Sequence[Tensor], batch: int, names: Sequence[str]) -> bool:
    """Whether all scalars of all items have."""
    rhat, _ = mixing(trace, batch)
    return bool((rhat <= RHAT).all()) and not memory(names, trace)


def memory(names: Sequence[str], trace: Sequence[Tensor]) -> tuple[str, ...]:
    """Warnings of scalars that have not forgotten where they were half of the sweeps ago.

    The last states of the chains are then not draws from the posterior. For chains that mix the correlation is 0 +- 1 /
    sqrt(chains).
    """
    last, before = trace[-1], trace[max(len(trace) // 2 - 1, 0)]
    if len(trace) < 2 or len(last) < 4:
        return ()
    apart = [v - v.mean(0) for v in (last, before)]
    size = (apart[0].square().sum(0) * apart[1].square().sum(0)).sqrt().clamp_min(1e-300)
    correlation = ((apart[0] * apart[1]).sum(0) / size).tolist()
    drift = ((last.mean(0) - before.mean(0)).abs() / last.std(0).clamp_min(1e-300)).tolist()
    limit = max(_FORGOTTEN, 2.5 / math.sqrt(len(last)))
    return tuple(
        f"{name} moves slowly: over the chains its values correlate by {value:.2f} with those {len(trace) // 2} sweeps "
        f"before, and their mean moved by {moved:.2g} std, so that its posterior may be off. Give more sweeps: "
        "hierarchy=iv.Hierarchy(num_sweeps=...)"
        for name, value, moved in zip(names, correlation, drift, strict=True)
        if value > limit or moved > math.sqrt(2) * limit
    )
