"""Whether an ensemble has met the modes that optimisation finds: the mass of each, beside its share of the samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.results.certificate import MEAN_ERROR, STD_ERROR
from invsolve.solving.modes import Modes

_TIMES = 2.0  # as much as an ensemble has of a mode at least: less is a mode unmet, not one of a rough weight
_SURE = 3.0  # standard errors
_ROUGH = 0.5  # relative error of a mass above which it says nothing
_SEEN = 0.1  # share of the samples in a mode by which all masses are scaled


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """Of one item: whether modes are lacking, which (places among those asked about), and their share of the whole."""

    lacking: bool
    which: list[int]
    share: float
    known: bool  # masses could be compared


def verdict(modes: Modes, x: Tensor, log_evidence: float, se: float) -> Verdict:
    """``modes`` of one item, ``x`` ``(count, n)`` its samples, and the evidence that they go with.

    A mode is lacking where, three standard errors down, it has more than twice the mass that the samples can have of
    it. The scale of masses is that of the samples: by their evidence, or by the mode in which most of them are,
    whichever makes less of the others. What is lacking counts if it moves a mean or std by more than the certificate
    allows.
    """
    count = len(x)
    inside = [modes.inside(k, x).double().mean().item() for k in range(len(modes.item))]
    rough = modes.error > _ROUGH
    scales = [log_evidence + _SURE * se] if math.isfinite(log_evidence) and se <= _ROUGH else []
    for k, f in enumerate(inside):
        if f >= _SEEN and not bool(rough[k]):
            slack = _SURE * math.sqrt(float(modes.error[k]) ** 2 + (1 - f) / (f * count))
            scales.append(float(modes.log_mass[k]) - math.log(f) + slack)
    seen = [k for k, f in enumerate(inside) if f >= _SEEN and not bool(rough[k])]
    if not scales:
        return Verdict(lacking=False, which=[], share=0.0, known=False)
    scale = max(scales)
    which: list[int] = []
    lacking: list[float] = []
    for k, f in enumerate(inside):
        if bool(rough[k]) or k in seen and len(seen) == 1:
            continue
        mass = math.exp(min(50.0, float(modes.log_mass[k]) - scale)) * (1 - min(1.0, _SURE * float(modes.error[k])))
        # Of `count` samples that many may be there by chance.
        may_have = (math.sqrt(f * count + _SURE**2 / 4) + _SURE / 2) ** 2 / count
        if mass > _TIMES * may_have and not any(_overlap(modes, k, j) for j in which):
            which.append(k)
            lacking.append(mass - f)
    if not which:
        return Verdict(lacking=False, which=[], share=0.0, known=True)
    w = torch.tensor(lacking, dtype=torch.float64, device=x.device)[:, None] / (1 + sum(lacking))
    rest, at = 1 - float(w.sum()), torch.tensor(which, device=x.device)
    mean, variance = x.mean(0), x.var(0)
    new = rest * mean + (w * modes.middle[at]).sum(0)
    spread = rest * (variance + (mean - new).square()) + (
        w * (modes.variance[at] + (modes.middle[at] - new).square())
    ).sum(0)
    std = spread.clamp_min(torch.finfo(spread.dtype).tiny).sqrt()
    moved = float(((new - mean).abs() / std).max()) > MEAN_ERROR
    moved |= float((variance.sqrt() / std - 1).abs().max()) > STD_ERROR
    return Verdict(lacking=moved, which=which, share=1 - rest, known=True)


def _overlap(modes: Modes, k: int, j: int) -> bool:
    return bool(modes.inside(j, modes.middle[k][None])[0]) or bool(modes.inside(k, modes.middle[j][None])[0])
