"""How right chains on islands are, from sums that were kept while they ran."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.strategies.diagnostics import Diagnostics


def chain_statistics(
    first: Tensor, second: Tensor, square: Tensor, log_evidence: Tensor, early: Tensor, late: Tensor
) -> Diagnostics:
    """Numbers per item, each ``(items,)`` float64, from sums over recorded rounds ``(items, chains, q)``.

    ``first`` and ``second``: sums over the ``early`` and the ``late`` rounds, (items,) of them; ``square``: of squares,
    over all. The last two of the q quantities are functionals (energy, log likelihood), the others the signal.
    ``log_evidence`` ``(items, islands)``; chains of an island stand together.

    - ``rhat``: split R-hat, the worst quantity (Vehtari et al. 2021, Bayesian Analysis 16, 667-718, without ranks). Few
      rounds of many chains leave it above 1 by about the autocorrelation time over the rounds.
    - ``nested_rhat``: sqrt(1 + B / W) of the islands' means, the worst quantity (Margossian et al. 2022): about
      ``1 + 1 / (2 ess of an island)``.
    - ``ess``: chains times the variance over that of a chain's mean, the least quantity; less where islands, which
      count by their evidence, do not count the same.
    - ``mean_error``, ``std_error``: errors, in posterior stds, of means of all quantities and of stds of the signal,
      the worst: the standard error from the spread of the islands, and ``drift``.
    - ``drift``: by how much the means of the two halves differ beyond two standard errors, in posterior stds.
    - ``log_evidence``: mean of the islands, in nats; ``island_error``: its error as far as they disagree.
    """
    items, chains, _ = first.shape
    islands = log_evidence.shape[1]
    rounds = (early + late)[:, None]
    a, b = early[:, None, None], late[:, None, None]
    means = first / a, second / b
    mean = (first + second) / (a + b)
    around = square.sum(1) / (chains * rounds) - mean.mean(1).square()
    tiny = torch.finfo(around.dtype).tiny
    variance = around.clamp_min(tiny)
    within = (square - a * means[0].square() - b * means[1].square()).mean(1) / (rounds - 2).clamp_min(1)
    between = torch.cat(means, 1).var(1)
    shorter = torch.minimum(early, late)[:, None]
    rhat = (((shorter - 1) / shorter * within + between) / within.clamp_min(tiny)).sqrt()
    ess = (chains * variance / mean.var(1).clamp_min(tiny)).clamp_max(chains * rounds)
    ess = ess / (islands * torch.softmax(log_evidence, 1).square().sum(1, keepdim=True))

    on = mean.view(items, islands, -1, mean.shape[-1])
    found = between_islands(on.mean(2), (square / (a + b)).view(on.shape).mean(2), log_evidence)
    # Islands that all lag behind agree with each other: what gives them away is that they are still moving.
    weights = torch.softmax(log_evidence, 1)[..., None]
    parts = (means[1] - means[0]).view(on.shape).mean(2)
    moved = (weights * parts).sum(1)
    unsure = (islands / (islands - 1) * (weights * (parts - moved[:, None])).square().sum(1)).sqrt()
    drift = ((moved.abs() - 2 * unsure) / variance.sqrt()).clamp_min(0).amax(1)
    return Diagnostics(
        log_evidence=found["log_evidence"],
        island_error=found["island_error"],
        mean_error=(found["mean_error"].square() + drift.square()).sqrt(),
        std_error=found["std_error"],
        drift=drift,
        rhat=rhat.amax(1),
        nested_rhat=(1 + on.mean(2).var(1) / variance).sqrt().amax(1),
        ess=ess.amin(1),
    )


def few(islands: int) -> float:
    """The 97.5 % quantile of Student's t over the normal one, to second order in 1 / (islands - 1)."""
    z2, free = 1.96**2, islands - 1
    return 1 + (z2 + 1) / (4 * free) + (5 * z2**2 + 16 * z2 + 3) / (96 * free**2)


def between_islands(each: Tensor, square: Tensor, log_evidence: Tensor) -> dict[str, Tensor]:
    """Evidence, and standard errors of mean and std, from independent islands, ``(items,)``: see `chain_statistics`.

    ``each`` and ``square`` ``(items, islands, q)`` are means of q quantities and of their squares on each island, the
    last two of them functionals; islands count by their evidence ``(items, islands)``. Errors carry the factor by which
    Student's t is wider than a Gaussian at two standard errors (1.2 for 8 islands).
    """
    islands, tiny = log_evidence.shape[1], torch.finfo(each.dtype).tiny
    share = torch.softmax(log_evidence, 1)
    weights, grow = share[..., None], islands / (islands - 1) * few(islands) ** 2
    pooled = (weights * each).sum(1)
    power = square - 2 * pooled[:, None] * each + pooled[:, None].square()  # about the pooled mean
    total = (weights * power).sum(1).clamp_min(tiny)
    mean_error = (grow * (weights * (each - pooled[:, None])).square().sum(1)).sqrt() / total.sqrt()
    std_error = (grow * (weights * (power - total[:, None])).square().sum(1)).sqrt() / (2 * total)
    return {
        "log_evidence": torch.logsumexp(log_evidence, 1) - math.log(islands),
        "island_error": (grow * (share.square().sum(1) - 1 / islands)).clamp_min(0).sqrt(),
        "mean_error": mean_error.amax(1),
        "std_error": std_error[:, :-2].amax(1),
    }
