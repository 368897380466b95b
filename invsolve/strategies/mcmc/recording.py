"""What is kept of the chains: samples, sums, and from these how right they are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from invsolve.core.resampling import systematic
from invsolve.gaussian.evidence import Evidence
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.mcmc.convergence import chain_statistics
from invsolve.strategies.mcmc.kernels import Target
from invsolve.strategies.mcmc.state import NoiseMCMCState
from invsolve.strategies.reported import Reported

_FEW_RISES = 10.0  # while nothing is known
_SLOWEST, _FASTEST = 1.05, 1e3  # growth of the power in a rise
_LONGEST = 64  # times the rounds that were asked for: what chains are lengthened to at most


def recorded(
    x: Tensor,
    part: NoiseMCMCState,
    recording: Tensor,
    target: Target,
    group: Tensor,
    items: int,
    least: int,
    of: Reported,
) -> NoiseMCMCState:
    """One round of the items ``group`` recorded where ``recording`` (items,); their samples are written into ``x``.

    ``x`` ``(rows, *shape)``: sample k of item b is row ``k * items + b``; ``part`` holds the items of the group. Where
    more than the ``least`` number of rounds are to be recorded, both halves of those before are the first half now.
    Sums are kept ``of`` what is reported, its energy and the log likelihood.
    """
    chains = part.u.shape[1]
    found = target.signals(part.u)
    real = of.values(found).view(*part.u.shape[:2], -1)
    energy = real.square().sum(-1, keepdim=True)
    values = torch.cat((real, energy, part.log_likelihood[..., None]), -1)
    done, half = part.done + 1, part.rounds // 2
    early = (done <= half)[:, None, None]
    doubled = ((part.rounds > least) & (part.done == half))[:, None, None]
    first = torch.where(doubled, part.first + part.second, part.first)
    second = torch.where(doubled, 0.0, part.second)
    number, chain = plan(part.log_evidence, len(x) // items, chains, part.rounds.long())
    mine = (number == done[:, None]) & recording[:, None]  # (items, samples)
    item, sample = mine.nonzero(as_tuple=True)
    signals = found.view(*part.u.shape[:2], *x.shape[1:])
    x[sample * items + group[item]] = signals[item, chain[item, sample]]
    return replace(
        part,
        first=first + early * values,
        second=second + ~early * values,
        square=part.square + values.square(),
        done=done,
    )


def given_up(state: NoiseMCMCState, repeats: int, moves: int) -> None:
    """Items for which no chain met a positive likelihood in so many ``moves`` are over, and their samples NaN.

    There is nothing to weight prior draws by. Writes into the state, of whose rows ``repeats`` belong to an item.
    """
    active = (state.done < state.rounds) & (state.moves >= moves) & (state.beta < 1) & (state.slack == 0)
    lost = (active & ~torch.isfinite(state.log_likelihood).any(1)).nonzero()[:, 0]
    if len(lost):
        rows = torch.arange(repeats, device=lost.device)[:, None] * len(active) + lost
        state.x[rows] = torch.nan
        state.done[lost] = state.rounds[lost]


def halves(state: NoiseMCMCState, least: int) -> tuple[Tensor, Tensor]:
    """How many rounds are in either sum, (items,) each; of fewer than the ``least``, as if all had been recorded."""
    done, rounds = state.done.clamp_min(least), state.rounds
    # The sums are merged when the first round after a doubling is recorded.
    first = torch.where((rounds > least) & (done == rounds // 2), done // 2, rounds // 2)
    return first, done - first


def lengthened(state: NoiseMCMCState, least: int, target: float) -> NoiseMCMCState:
    """Twice as many rounds for items that have recorded theirs, with errors above ``target`` that more could mend.

    Errors fall with the root of the number of rounds, a drift with the number; where that asks for more than `_LONGEST`
    times the ``least``, as it does once more of them do not help, nothing is added.
    """
    ended = (state.done == state.rounds).nonzero()[:, 0]
    if not len(ended):
        return state
    sums = (v[ended] for v in (state.first, state.second, state.square, state.log_evidence))
    counts = (v[ended] for v in halves(state, least))
    found = chain_statistics(*sums, *counts)
    assert found.mean_error is not None and found.std_error is not None and found.drift is not None
    error, drift = torch.maximum(found.mean_error, found.std_error), found.drift
    random = torch.maximum((found.mean_error.square() - drift.square()).clamp_min(0).sqrt(), found.std_error)
    times = torch.maximum((random / target).square(), drift / target)
    longer = (error > target) & (state.rounds[ended] * times <= _LONGEST * least)  # False for NaN: items that are lost
    rounds = state.rounds.clone()
    rounds[ended] *= 1 + longer.to(rounds.dtype)
    return replace(state, rounds=rounds)


def share(state: NoiseMCMCState, settling: int) -> float:
    """How much of the work of the item that is furthest back is done, about.

    Powers of the likelihood grow by about the same factor every time; events, rises and recorded rounds, take about as
    many moves each.
    """
    rise, now = state.mark[:, 0], state.beta
    factor = (now / (now - rise)).clamp(_SLOWEST, _FASTEST)
    rises = torch.where(now >= 1, 0.0, torch.where(now > 0, -now.log() / factor.log(), _FEW_RISES))
    ahead = rises + state.rounds - state.done
    events = state.rises + state.done + settling
    return float((events / (events + ahead)).min())


def summary(state: NoiseMCMCState, least: int, bridged: Evidence, *, warm: bool) -> Diagnostics:
    """What the chains say of themselves, (items,) each; chains that began ``warm`` have no evidence of their own.

    ``least``: rounds below which they say nothing of their errors; ``bridged``: the evidence that their last states
    give.
    """
    found = chain_statistics(state.first, state.second, state.square, state.log_evidence, *halves(state, least))
    assert found.log_evidence is not None and found.island_error is not None
    # The islands agree about what they are all late by.
    own = Evidence(found.log_evidence, (found.island_error.square() + state.lag.square()).sqrt())
    # Below the full power of the likelihood there is no evidence, and sums of fewer rounds say nothing of the error.
    whole = state.beta >= 1
    evidence = own.or_better(bridged).known(whole & (not warm))
    short = (state.done < least) | ~whole
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


def plan(log_evidence: Tensor, samples: int, chains: int, rounds: Tensor) -> tuple[Tensor, Tensor]:
    """From which of its ``rounds`` (items,) and chain each sample of an item is taken, ``(items, samples)`` each.

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
    all_of_them = rounds[:, None]
    number = all_of_them - (place // each % turns.clamp_min(1)) * all_of_them // turns.clamp_min(1)
    return number.clamp_min(1), island * each + chain
