"""What a learned prior brings on few-view CT of held-out head phantoms, beside TV and the field prior.

    python benchmarks/learned_ct.py --out docs       # 16 phantoms: an hour; writes learned-ct.md and .csv row by row
    python benchmarks/learned_ct.py --out docs --views 30    # replaces the rows of that only
    python benchmarks/learned_ct.py --phantoms 2     # prints only

Parallel beams, line integrals with white noise. Objects of 256 x 256 are projected on bins of half the width, two of
which make a datum; they are reconstructed on 128 x 128. The weight of TV comes from other phantoms.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from _tables import read, ruled, save
from learned_mri import FEW, MANY, field_of
from torch import Tensor

import invsolve as iv
from invsolve.baselines import total_variation, tune_weight
from invsolve.operators import LinearOperator, from_scipy

GRID, FINE, BINS = 128, 256, 184  # pixels a side, of the objects; detector bins of a pixel's width
EXTENT = 240.0  # mm, the field of view
WATER = 0.019  # attenuation of water at 70 keV, 1/mm
STD = 0.02  # noise of a line integral; a head's largest is nearly 5
HELD_OUT, TUNING = 10_000, 20_000  # seeds of heads
TV_WEIGHTS = tuple(0.05 * 1.6**k for k in range(9))
TV_ITERATIONS = 1000  # after 300 errors are still 5 % larger
METHODS = ("TV", "field prior", "learned prior")
CHUNK = 4  # scans at once


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """Means over scans and standard errors of the means; errors in Hounsfield units. ``brain``: pixels of soft tissue
    by their CT numbers, -20 to 90; ``head``: above -500. The CRPS of a single image is its mean absolute error."""

    views: int
    method: str
    scans: int
    samples: int
    head: float  # rms error
    head_se: float
    brain: float
    brain_se: float
    crps: float  # head
    crps_se: float
    covered: float  # head: share of truths between the smallest and the largest sample
    covered_se: float
    covered_brain: float
    covered_brain_se: float
    nominal: float
    chi2: float
    seconds: float


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Scans:
    problem: iv.Problem
    truth: Tensor  # (n, H, W) Hounsfield units: means over pixels

    def take(self, items: list[int]) -> Scans:
        index = torch.tensor(items)
        return Scans(problem=self.problem.take(index), truth=self.truth[index])


def projector(grid: int, bins: int, views: int) -> LinearOperator:
    """Line integrals, averaged over the width of a bin, of attenuation beyond water's: ``(views, bins)`` of images in
    Hounsfield units. astra's exact areas of strips."""
    import astra

    pixel, width = EXTENT / grid, EXTENT / GRID * BINS / bins
    volume = astra.create_vol_geom(grid, grid)
    angles = np.linspace(0, np.pi, views, endpoint=False)
    number = astra.create_projector("strip", astra.create_proj_geom("parallel", width / pixel, bins, angles), volume)
    handle = astra.projector.matrix(number)
    matrix = astra.matrix.get(handle)
    astra.projector.delete(number)
    astra.matrix.delete(handle)
    # Every pixel's area, in units of a bin's width, is seen once by every view.
    seen = matrix.sum(0).mean() * width / (views * pixel**2)
    return from_scipy((matrix * (WATER / 1000 / seen)).astype(np.float32), (grid, grid), (views, bins))


def scan(count: int, views: int, *, seed: int) -> Scans:
    """Scans of ``count`` heads of the generator that the prior was trained on, with other heads."""
    objects = iv.datasets.heads.ct(count, (FINE, FINE), seed=seed)
    data = projector(FINE, 2 * BINS, views)(objects).view(count, views, BINS, 2).mean(-1)
    data = data + STD * torch.randn(data.shape, generator=torch.Generator().manual_seed(seed))
    truth = torch.nn.functional.avg_pool2d(objects, FINE // GRID)
    return Scans(problem=iv.Problem(projector(GRID, BINS, views), data, noise=STD), truth=truth)


def scored(views: int, method: str, scans: Scans, samples: Tensor, seconds: float, chi2: float) -> Row:
    """``samples``: ``(n, scans, H, W)``; one of them is a single image."""
    found: dict[str, list[float]] = {k: [] for k in ("head", "brain", "crps", "covered", "covered_brain")}
    for truth, values in zip(scans.truth.double(), samples.double().unbind(1), strict=True):
        head, brain = truth > -500, (truth > -20) & (truth < 90)
        error = values.mean(0) - truth
        found["head"].append(float(error[head].square().mean().sqrt()))
        found["brain"].append(float(error[brain].square().mean().sqrt()))
        found["crps"].append(
            float(iv.metrics.crps(values[:, None, head], truth[None, head]))
            if len(values) > 1
            else float(error[head].abs().mean())
        )
        inside = ((values.amin(0) <= truth) & (truth <= values.amax(0))).double()
        for name, where in (("covered", head), ("covered_brain", brain)):
            found[name].append(float(inside[where].mean()) if len(values) > 1 else math.nan)
    numbers: dict[str, float] = {}
    for name, each in found.items():
        v = torch.tensor(each, dtype=torch.float64)
        numbers[name] = float(v.mean())
        numbers[f"{name}_se"] = float(v.std() / len(v) ** 0.5) if len(v) > 1 else math.nan
    n = len(samples)
    return Row(
        views=views,
        method=method,
        scans=len(scans.truth),
        samples=n,
        **numbers,
        nominal=(n - 1) / (n + 1) if n > 1 else math.nan,
        chi2=chi2,
        seconds=seconds,
    )


def tv(A: LinearOperator, y: Tensor, *, weight: float) -> Tensor:
    """``weight`` in units of what the noise is in the gradient of the misfit."""
    views = A.out_shape[0]
    unit = STD * WATER / 1000 * EXTENT / GRID * views**0.5
    return total_variation(A, y, weight=weight * unit, iterations=TV_ITERATIONS)


def sampled(
    scans: Scans, prior: iv.priors.Prior, strategy: iv.strategies.base.Strategy, n: int
) -> tuple[Tensor, float, float]:
    """Samples ``(n, scans, H, W)``, seconds of one, and chi^2 per datum."""
    started, parts, chi2 = time.perf_counter(), [], []
    total = len(scans.truth)
    for first in range(0, total, CHUNK):
        some = scans.take(list(range(first, min(first + CHUNK, total))))
        result = iv.solve(some.problem, prior, strategy=strategy, num_samples=n, seed=first, throw=False)
        parts.append(result.samples)
        chi2.append(result.chi2.double().flatten())
    seconds = (time.perf_counter() - started) / (n * total)
    return torch.cat(parts, 1), seconds, float(torch.cat(chi2).nanmean())


LEGEND = f"""# A learned prior on few-view CT

Written by `python benchmarks/learned_ct.py`. Held-out head phantoms: parallel beams, line integrals with white noise of
{STD} (a head's largest is nearly 5), objects of 256 x 256 projected on bins of half the width, reconstructed on
128 x 128. That coarser model errs by 0.39 of the noise (rms; by up to 7.5 at edges of bone): the chi^2 of the truth is
1.15. TV: its weight is the one of least error on four other phantoms. Field prior: exact draws under the stationary
covariance of the training images. Learned prior: `head-ct-128`, guided by `MMPS()` of 16 steps.

- **head**, **brain**: rms errors of the mean of the samples in Hounsfield units, above -500, and of soft tissue (-20 to
  90, edges of bone among it). **CRPS**: head; of a single image its mean absolute error.
- **covered**: the share of truths between the smallest and the largest sample, in head and brain; **nominal**: what it
  should be. +-: standard errors over scans. **chi^2**: squared misfit per datum in units of the noise, mean over
  samples; **s**: of an image or a sample, on one core; both of the scans with {MANY} samples.
"""
HEAD = (
    "views",
    "method",
    "scans x samples",
    "head, HU",
    "brain, HU",
    "CRPS, HU",
    "covered",
    "covered, brain",
    "nominal",
    "chi^2",
    "s",
)


def cells(r: Row) -> list[str]:
    line = [
        f"{r.views}",
        r.method,
        f"{r.scans} x {r.samples}",
        f"{r.head:.1f} +- {r.head_se:.1f}",
        f"{r.brain:.1f} +- {r.brain_se:.1f}",
        f"{r.crps:.2f} +- {r.crps_se:.2f}",
        f"{r.covered:.3f} +- {r.covered_se:.3f}",
        f"{r.covered_brain:.3f} +- {r.covered_brain_se:.3f}",
        f"{r.nominal:.3f}",
        f"{r.chi2:.3f}",
        f"{r.seconds:.2f}",
    ]
    if r.samples == 1:  # a single image covers nothing
        line[6:10] = [""] * 4
    return [cell.replace(" +- nan", "") for cell in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="head-ct-128", help="a name or a file of weights")
    parser.add_argument("--phantoms", type=int, default=16)
    parser.add_argument("--coverage", type=int, default=8, help="scans with 19 samples; all others (one at least): 4")
    parser.add_argument("--views", type=int, nargs="*", default=[60, 30])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.phantoms < 2:
        parser.error("--phantoms must be at least 2")
    if options.out and (options.prior, options.steps) != ("head-ct-128", 16):
        parser.error("--out is for the table of head-ct-128 with 16 steps")
    prior = iv.priors.load(options.prior)
    assert tuple(prior.shape) == (GRID, GRID)
    before = read(options.out / "learned-ct.csv", Row) if options.out else []
    rows = {(r.views, r.method, r.samples): r for r in before}

    def write() -> None:
        if options.out and rows:
            found = [rows[k] for k in sorted(rows, key=lambda k: (-k[0], METHODS.index(k[1]), k[2]))]
            save(options.out, "learned-ct", f"{LEGEND}\n{ruled([list(HEAD), *map(cells, found)])}", found)

    def add(row: Row) -> None:
        rows[(row.views, row.method, row.samples)] = row
        print("| " + " | ".join(cells(row)) + " |", flush=True)
        write()

    write()  # of --views without a number: the page of the rows that are there
    for views in options.views:
        train = scan(4, views, seed=TUNING)
        problem = train.problem
        found = tune_weight(
            tv, [(problem.operator, problem.data[b : b + 1], train.truth[b : b + 1]) for b in range(4)], TV_WEIGHTS
        )
        print(f"{views} views: TV weight {found.weight:.3g}{', at the edge' if found.at_edge else ''}")
        scans = scan(options.phantoms, views, seed=HELD_OUT)
        started = time.perf_counter()
        image = tv(scans.problem.operator, scans.problem.data, weight=found.weight)
        seconds = (time.perf_counter() - started) / options.phantoms
        add(scored(views, METHODS[0], scans, image[None], seconds, math.nan))
        add(scored(views, METHODS[1], scans, *sampled(scans, field_of(prior), iv.strategies.Exact(), FEW)))
        strategy = iv.strategies.MMPS(num_steps=options.steps)
        most = min(options.coverage, options.phantoms - 1)
        first, seconds, chi2 = sampled(scans.take(list(range(most))), prior, strategy, MANY)
        samples = first[:FEW]
        rest, _, _ = sampled(scans.take(list(range(most, options.phantoms))), prior, strategy, FEW)
        samples = torch.cat([samples, rest], 1)
        add(scored(views, METHODS[2], scans, samples, seconds, chi2))
        add(scored(views, METHODS[2], scans.take(list(range(most))), first, seconds, chi2))


if __name__ == "__main__":
    main()
