"""What is kept of the chains: samples, sums, and from these how right they are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.resampling import systematic
from invsolve.gaussian.evidence import Evidence
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.mcmc.convergence import chain_statistics
from invsolve.strategies.mcmc.kernels import Target
from invsolve.strategies.mcmc.state import NoiseMCMCState


def recorded(
    x: Tensor, part: NoiseMCMCState, recording: Tensor, target: Target, group: Tensor, items: int, rounds: int
) -> NoiseMCMCState:
    """One round of the items ``group`` recorded where ``recording`` (items,); their samples are written into ``x``.

    ``x`` ``(rows, *shape)``: sample k of item b is row ``k * items + b``; ``part`` holds the items of the group.
    """
    chains = part.u.shape[1]
    found = target.signals(part.u)
    real = to_real(found).double().view(*part.u.shape[:2], -1)
    energy = real.square().sum(-1, keepdim=True)
    values = torch.cat((real, energy, part.log_likelihood[..., None]), -1)
    done = part.done + 1
    early = (done <= rounds // 2)[:, None, None]
    number, chain = plan(part.log_evidence, len(x) // items, chains, rounds)
    mine = (number == done[:, None]) & recording[:, None]  # (items, samples)
    item, sample = mine.nonzero(as_tuple=True)
    signals = found.view(*part.u.shape[:2], *x.shape[1:])
    x[sample * items + group[item]] = signals[item, chain[item, sample]]
    return replace(
        part,
        first=part.first + early * values,
        second=part.second + ~early * values,
        square=part.square + values.square(),
        done=done,
    )


def summary(state: NoiseMCMCState, rounds: int, bridged: Evidence, *, warm: bool) -> Diagnostics:
    """What the chains say of themselves, (items,) each; chains that began ``warm`` have no evidence of their own.

    ``bridged``: the evidence that their last states give.
    """
    found = chain_statistics(state.first, state.second, state.square, state.log_evidence, rounds)
    assert found.log_evidence is not None and found.island_error is not None
    # The islands agree about what they are all late by.
    own = Evidence(found.log_evidence, (found.island_error.square() + state.lag.square()).sqrt())
    # Below the full power of the likelihood there is no evidence, and sums of fewer rounds say nothing of the error.
    whole = state.beta >= 1
    evidence = own.or_better(bridged).known(whole & (not warm))
    short = (state.done < rounds) | ~whole
    known = replace(found, log_evidence=None).mapped(lambda v: torch.where(short, torch.nan, v))
    return replace(
        known,
        log_evidence=evidence.log,
        log_evidence_se=evidence.se,
        acceptance=state.accept,
        beta=state.beta,
        rises=state.rises,
        moves=state.moves,
    )


def plan(log_evidence: Tensor, samples: int, chains: int, rounds: int) -> tuple[Tensor, Tensor]:
    """From which round (1, ...) and chain each sample of an item is taken, ``(items, samples)`` each.

    Islands count by their evidence; on each, samples go through chains and rounds so that none is taken twice while
    there are others.
    """
    islands = log_evidence.shape[1]
    each = chains // islands
    weights = torch.softmax(log_evidence, 1).nan_to_num(1 / islands)
    island = systematic(weights.mT, 0.5, samples).mT.contiguous()
    before = torch.searchsorted(island, island, right=False)  # samples of lower islands
    place = torch.arange(samples, device=weights.device) - before
    count = torch.searchsorted(island, island, right=True) - before
    few = count < each
    chain = torch.where(few, place * each // count.clamp_min(1), place % each)
    turns = (count + each - 1) // each  # how often a chain is used; its rounds lie far apart, the last among them
    number = rounds - (place // each % turns.clamp_min(1)) * rounds // turns.clamp_min(1)
    return number.clamp_min(1), island * each + chain
