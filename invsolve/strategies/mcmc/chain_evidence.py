"""The evidence by where chains stand at the full power of the likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.gaussian.evidence import Evidence
from invsolve.strategies.base import Run
from invsolve.strategies.mcmc.bound import BoundChains
from invsolve.strategies.mcmc.bridge import Coordinates, bridged, thinned, unknown
from invsolve.strategies.mcmc.state import NoiseMCMCState


def chain_evidence(
    run: Run[BoundChains], state: NoiseMCMCState, groups: Sequence[Tensor], *, evaluations: int, spread: float
) -> Evidence:
    """Of the items in ``groups``, see `bridged`; unknown of the others. Chains live in the noise over ``spread``."""
    out = unknown(run.bound.batch, state.u)
    islands, n = state.log_evidence.shape[1], state.u.shape[-1]
    kept = thinned(state.u.shape[1], n, islands, state.u.device)
    dtype = run.problem.signal_dtype
    for group in groups:
        coordinates = Coordinates.of(run.problem.take(group), run.prior, evaluations)
        u = spread * state.u[group][:, kept]
        if coordinates.noise_map is None:
            z = from_real(u.flatten(0, 1), run.problem.shape, dtype if dtype.is_complex else None)
            u = to_real(run.bound.map(z)).view_as(u)
        weights = torch.softmax(state.log_evidence[group], 1).repeat_interleave(len(kept) // islands, 1)
        draws = run.draws.take(torch.arange(run.bound.batch, device="cpu")).take(group)
        found = bridged(coordinates, u, weights, draws, groups=islands)
        out.log[group], out.se[group] = found.log, found.se
    return out
