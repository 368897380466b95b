"""How right a population of chains on islands is, from sums that were kept while they ran."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def population(
    first: Tensor, second: Tensor, square: Tensor, log_evidence: Tensor, rounds: int
) -> dict[str, Tensor]:
    """Numbers per item, each ``(items,)`` float64, from sums over recorded rounds ``(items, chains, q)``.

    ``first`` and ``second``: sums over the first ``rounds // 2`` rounds and the others; ``square``: of squares, over
    all. The last two of the q quantities are functionals (energy, log likelihood), the others the signal.
    ``log_evidence`` ``(items, islands)``; chains of an island stand together.

    - ``rhat``: split R-hat, the worst quantity (Vehtari et al. 2021, Bayesian Analysis 16, 667-718, without ranks). Few
      rounds of many chains leave it above 1 by about the autocorrelation time over the rounds.
    - ``nested_rhat``: sqrt(1 + B / W) of the islands' means, the worst quantity (Margossian et al. 2022): about
      ``1 + 1 / (2 ess of an island)``.
    - ``ess``: chains times the variance over that of a chain's mean, the least quantity.
    - ``mean_error``, ``std_error``: errors, in posterior stds, of means of all quantities and of stds of the signal, the
      worst: the standard error from the spread of the islands, and ``drift``.
    - ``drift``: by how much the means of the two halves differ beyond two standard errors, in posterior stds.
    - ``log_evidence``, ``log_evidence_se``: mean of the islands, in nats.
    """
    items, chains, _ = first.shape
    islands = log_evidence.shape[1]
    half = rounds // 2, rounds - rounds // 2
    means = first / half[0], second / half[1]
    mean = (first + second) / rounds
    around = square.sum(1) / (chains * rounds) - mean.mean(1).square()
    tiny = torch.finfo(around.dtype).tiny
    variance = around.clamp_min(tiny)
    within = (square - half[0] * means[0].square() - half[1] * means[1].square()).mean(1) / max(1, rounds - 2)
    between = torch.cat(means, 1).var(1)
    shorter = min(half)
    rhat = (((shorter - 1) / shorter * within + between) / within.clamp_min(tiny)).sqrt()
    ess = (chains * variance / mean.var(1).clamp_min(tiny)).clamp_max(chains * rounds)

    on = mean.view(items, islands, -1, mean.shape[-1])
    each, spread = on.mean(2), (square / rounds).view(on.shape).mean(2)
    weights = torch.softmax(log_evidence, 1)[..., None]
    pooled = (weights * each).sum(1)
    power = spread - 2 * pooled[:, None] * each + pooled[:, None].square()  # about the pooled mean
    total = (weights * power).sum(1).clamp_min(tiny)
    grow = islands / (islands - 1)
    mean_error = (grow * (weights * (each - pooled[:, None])).square().sum(1)).sqrt() / total.sqrt()
    std_error = (grow * (weights * (power - total[:, None])).square().sum(1)).sqrt() / (2 * total)
    # Islands that all lag behind agree with each other: what gives them away is that they are still moving.
    parts = (means[1] - means[0]).view(on.shape).mean(2)
    moved = (weights * parts).sum(1).abs()
    unsure = (grow * (weights * (parts - (weights * parts).sum(1, keepdim=True))).square().sum(1)).sqrt()
    drift = ((moved - 2 * unsure) / total.sqrt()).clamp_min(0)
    mean_error = (mean_error.square() + drift.square()).sqrt()
    nested = (1 + each.var(1) / variance).sqrt()
    share = weights[..., 0].square().sum(1)
    return {
        "log_evidence": torch.logsumexp(log_evidence, 1) - math.log(islands),
        "log_evidence_se": (grow * (share - 1 / islands)).clamp_min(0).sqrt(),
        "rhat": rhat.amax(1),
        "nested_rhat": nested.amax(1),
        "ess": ess.amin(1),
        "mean_error": mean_error.amax(1),
        "std_error": std_error[:, :-2].amax(1),
        "drift": drift.amax(1),
    }
