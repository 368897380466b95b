"""Scores of samples against a gold standard, and the gates of each part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from _exactness_problems import Known
from torch import Tensor

Gates = dict[str, tuple[float, float]]  # score -> smallest and largest value that passes
GATES: dict[str, Gates] = {
    "mixtures": {
        "mean": (0, 0.1),
        "std_min": (0.95, math.inf),
        "std_max": (0, 1.05),
        "weight": (0, 0.05),
    },
    "sparse": {"mean": (0, 0.15), "std_min": (0.9, math.inf), "std_max": (0, 1.1), "mmse_gap": (-math.inf, 0.1)},
    "nonlinear": {"mean": (0, 0.15), "std_min": (0.85, math.inf), "std_max": (0, 1.15)},
}


@dataclass(frozen=True, kw_only=True)
class Errors:
    """What samples get wrong; NaN where a problem has no such score.

    ``mean``: the largest error of a component's mean in posterior sd, ``mean_rms`` its root mean square; both hold the
    Monte Carlo error of the samples and of the gold standard. ``std_min``, ``std_max``: the smallest and largest ratio
    of a component's std. ``mmse_gap``: dB by which the mean of the samples is a worse estimate than the posterior mean,
    in expectation over the posterior. ``weight``: the largest error of a mode's weight. ``effective``: samples.
    """

    mean: float
    mean_rms: float
    std_min: float
    std_max: float
    mmse_gap: float
    weight: float
    effective: float

    def passed(self, part: str) -> bool:
        for name, (low, high) in GATES[part].items():
            value = getattr(self, name)
            if name == "weight" and math.isnan(value):  # no modes
                continue
            if not low <= value <= high:
                return False
        return True


def errors(problem: Known, samples: Tensor, weights: Tensor | None = None) -> Errors:
    """Of ``samples`` ``(n, *shape)`` with ``weights`` ``(n,)`` of sum 1; those that are not finite are left out."""
    gold, x = problem.gold, samples.double().flatten(1)
    w = torch.full((len(x),), 1.0, dtype=torch.float64) if weights is None else weights.double().flatten()
    good = x.isfinite().all(1)
    if int(good.sum()) < 32:
        nan = math.nan
        return Errors(mean=nan, mean_rms=nan, std_min=nan, std_max=nan, mmse_gap=nan, weight=nan, effective=0)
    x, w = x[good], w[good] / w[good].sum()
    effective = float(1 / w.square().sum())
    mean = w @ x
    variance = w @ (x - mean).square() * (effective / (effective - 1) if effective > 1 else math.nan)
    ratio = variance.sqrt() / gold.std
    gap = (mean - gold.mean) / gold.std
    excess = float((mean - gold.mean).square().sum() / gold.std.square().sum())
    weight = math.nan
    if problem.modes is not None and gold.weights is not None:
        share = w @ problem.modes(x.view(-1, *problem.shape)).double()
        weight = float((share - gold.weights).abs().max())
    return Errors(
        mean=float(gap.abs().max()),
        mean_rms=float(gap.square().mean().sqrt()),
        std_min=float(ratio.min()),
        std_max=float(ratio.max()),
        mmse_gap=10 * math.log10(1 + excess),
        weight=weight,
        effective=effective,
    )
