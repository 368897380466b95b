"""The evidence by where weighted particles ended."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.conjugate_gradients import expand
from invsolve.core.random import DrawLike
from invsolve.gaussian.evidence import Evidence
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasDensity, HasLaw, HasTransport
from invsolve.problem import Problem
from invsolve.strategies.mcmc.bridge import LARGEST, Coordinates, bridged, thinned, unknown

_GROUPS = 8  # of the particles of one run, for the error of their average


def particle_evidence(
    problem: Problem, prior: Prior, samples: Tensor, log_weights: Tensor, draws: DrawLike, *, islands: int
) -> Evidence:
    """Of every item, from rows ``(k * items + b) * islands + i``: particle k of item b on island i; see `bridged`."""
    items, n = len(problem.data), to_real(samples[:1]).shape[1]
    groups = islands if islands > 1 else _GROUPS
    count = len(samples) // items // groups * groups
    out = unknown(items, samples)
    somewhere = isinstance(prior, (HasTransport, HasDensity, HasLaw)) or prior.white_noise
    if not 0 < n <= LARGEST or not count or not somewhere:
        return out
    # (items, samples), those of an island together
    row = (
        torch.arange(len(samples), device=samples.device)
        .view(-1, items, islands)
        .permute(1, 2, 0)
        .flatten(1)[:, :count]
    )
    row = row[:, thinned(count, n, groups, row.device)].flatten()
    coordinates = Coordinates.of(problem, prior)
    x, logs = samples[row], log_weights[row].double()
    dead = ~torch.isfinite(to_real(x)).all(1) | logs.isnan() | (logs == math.inf)
    values = coordinates.values(torch.where(expand(dead, x), prior.mean, x)).double()
    dead |= ~torch.isfinite(values).all(1)
    values = torch.where(dead[:, None], 0.0, values).view(items, -1, n)
    # Islands count by the mean weight of their particles, as for the samples.
    weights = torch.softmax(logs.masked_fill(dead, -math.inf).view(items, -1), 1).nan_to_num(0.0)
    return bridged(coordinates, values, weights, draws, groups=groups)
