"""Importance sampling from a mixture that holds the modes an ensemble has met and those it has not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real
from invsolve.core.counting import tally
from invsolve.core.normal_mixture import NormalMixture
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.modes import Modes
from invsolve.solving.noise_density import NoiseDensity
from invsolve.solving.request import pooled
from invsolve.strategies.choice.candidates import ISLANDS
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.reported import Reported

_DRAWS = (128, 1024)  # on an island, at least and at most
_LEAST = 0.1  # share of the draws for the modes that are added, and for the rest
_EFFECTIVE = 200.0  # draws, below which errors are not believed


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """A mixture an item: what was fitted to its ensemble, and modes."""

    mixture: list[NormalMixture]

    @classmethod
    def of(cls, density: NoiseDensity, members: Tensor, modes: list[Modes], shares: list[float]) -> Proposal | None:
        """``members`` ``(items, count, *shape)``; ``modes[b]`` have ``shares[b]`` of the whole. None without a fit."""
        found = []
        for x, more, share in zip(members, modes, shares, strict=True):
            u = density.noise(x)
            u = u[u.isfinite().all(1)]
            a, b = u[::2], u[1::2]
            fit = NormalMixture.fit(a, _even(a), b, _even(b)) if len(b) else None
            if fit is None:
                return None
            share = min(max(share, _LEAST), 1 - _LEAST)
            own = torch.softmax(more.log_mass, 0).clamp_min(_LEAST / len(more.item))
            found.append(
                NormalMixture(
                    log_weights=torch.cat((fit.log_weights + math.log(1 - share), (share * own / own.sum()).log())),
                    means=torch.cat((fit.means, more.centre)),
                    roots=torch.cat((fit.roots, more.root)),
                )
            )
        return cls(mixture=found)


def _even(v: Tensor) -> Tensor:
    return torch.full_like(v[:, 0], 1 / max(1, len(v)))


def weighed(
    density: NoiseDensity,
    proposal: Proposal,
    normal: Callable[[tuple[int, ...]], Tensor],
    *,
    of: Reported,
    num_samples: int,
    evaluations: float,
) -> StrategyOutput:
    """Draws from the proposal by their weights, on islands, with about so many ``evaluations`` an item at most.

    ``normal`` gives standard normal numbers ``(items, *shape)``; errors and moments are ``of`` what is reported. Of
    items of which too few draws count no error is known.
    """
    began, problem = time.perf_counter(), density.problem
    items, n = len(problem.data), density.size
    count = int(min(_DRAWS[1], max(_DRAWS[0], evaluations / (ISLANDS * density.value_cost))))
    with tally() as calls:
        z = normal((ISLANDS, count, n + 1))
        drawn = [(u, q.log_prob(u)) for q, each in zip(proposal.mixture, z, strict=True) for u in map(q.draw, each)]
        u = torch.stack([v for v, _ in drawn]).view(items, ISLANDS, count, n)
        log_proposal = torch.stack([v for _, v in drawn]).view(items, ISLANDS, count)
        whose = torch.arange(items, device=u.device).repeat_interleave(ISLANDS * count)
        log, real = density.value(u.flatten(0, 2), whose)
        logs = log.view_as(log_proposal) - log_proposal
        # Rows of `pooled` are particle k of item b on island i.
        order = torch.arange(len(log), device=u.device).view(items, ISLANDS, count).permute(2, 0, 1).flatten()
        dtype = problem.signal_dtype
        x = from_real(real[order].to(problem.data.real.dtype), problem.shape, dtype if dtype.is_complex else None)
        chi2 = problem.take(whose[order]).chi2(x)
    evidence = torch.logsumexp(logs, 2) - math.log(count)
    told = Diagnostics(log_evidence=evidence, log_evidence_se=torch.zeros_like(evidence))
    rows, info, moments = pooled(x, chi2, logs.flatten()[order], told, num_samples, of)
    assert info.ess is not None
    few = info.ess < max(_EFFECTIVE, 10 * n)
    unknown = {k: torch.where(few, math.nan, v) for k, v in info.items() if k in ("mean_error", "std_error")}
    return StrategyOutput(
        samples=x[rows],
        chi2=chi2[rows],
        info=Diagnostics.from_mapping({**info, **unknown}),
        moments=moments,
        calls=calls,
        processed=num_samples * items,
        seconds=time.perf_counter() - began,
        chunk=len(x),
    )
