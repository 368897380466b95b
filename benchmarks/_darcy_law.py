"""A learned prior of two-valued coefficients beside the law that it was trained on, on several grids."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from _darcy_problem import HIGH, LOW, MIDDLE, level_set
from torch import Tensor

import invsolve as iv

LAGS = (1 / 16, 1 / 8, 1 / 4)  # of the unit square
BANDS = ((1, 2), (2, 4), (4, 8), (8, 16))  # wave numbers, cycles per side


@dataclass(frozen=True, kw_only=True)
class Law:
    """Statistics of draws of one prior on one grid, and their standard errors."""

    n: int
    of: str
    draws: int
    fraction: float  # of 12
    fraction_error: float
    fraction_std: float
    near: float  # probability that both of two points at a lag are 12
    near_error: float
    middle: float
    middle_error: float
    far: float
    far_error: float
    band1: float  # power of a / 9, mean over a radial band, times n^-4
    band1_error: float
    band2: float
    band2_error: float
    band3: float
    band3_error: float
    band4: float
    band4_error: float
    between: float  # share of cells farther than 1 from both values
    seconds: float


def statistics(x: Tensor) -> dict[str, float]:
    """Of draws ``(m, n, n)``."""
    m, n = len(x), x.shape[-1]
    inside = (x >= MIDDLE).double()
    share = inside.flatten(1).mean(1)
    found = {"fraction": share}
    for name, lag in zip(("near", "middle", "far"), LAGS, strict=True):
        k = max(1, round(lag * n))
        along = (inside[:, k:] * inside[:, :-k]).flatten(1).mean(1)
        across = (inside[:, :, k:] * inside[:, :, :-k]).flatten(1).mean(1)
        found[name] = (along + across) / 2
    power = torch.fft.fft2((x.double() - MIDDLE) / (HIGH - LOW)).abs().square() / n**4
    k = torch.fft.fftfreq(n, dtype=torch.float64) * n
    radius = (k[:, None].square() + k.square()).sqrt()
    for i, (low, high) in enumerate(BANDS, 1):
        ring = (radius >= low) & (radius < high)
        found[f"band{i}"] = power[:, ring].mean(1) if bool(ring.any()) else torch.zeros(m, dtype=torch.float64)
    out = {"fraction_std": float(share.std())}
    for name, values in found.items():
        out[name] = float(values.mean())
        out[f"{name}_error"] = float(values.std() / m**0.5)
    return out | {"between": float((torch.minimum((x - LOW).abs(), (x - HIGH).abs()) > 1).double().mean())}


def laws(learned: iv.priors.Prior | None, sizes: Sequence[tuple[int, int]]) -> Iterator[Law]:
    """Of 200 draws of the law on every grid, and so many of the learned prior where there is one."""
    for n, draws in sizes:
        start = time.process_time()
        x = level_set(n).sample(200, seed=3)
        yield Law(n=n, of="law", draws=200, seconds=time.process_time() - start, **statistics(x))
        if isinstance(learned, iv.priors.NetworkPrior):
            start = time.process_time()
            prior = learned.on((n, n))
            x = torch.cat([prior.sample(min(20, draws - i), seed=4 + i) for i in range(0, draws, 20)])
            yield Law(n=n, of="learned", draws=draws, seconds=time.process_time() - start, **statistics(x))
