"""A centre of rotation that is not known: inferred with a field prior on a coarse grid, and what images it gives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import final

import torch
from _heads_scans import HELD_OUT
from _scans_cases import BINS, EXTENT, FINE, GRID, LINE, WATER, Case, ct, heads, views
from _scans_methods import ours
from torch import Tensor

import invsolve as iv

VIEWS = 60
COARSE = 48  # pixels a side of the field that the centre is inferred with; bins are then twice as wide
LARGEST = 8.0  # mm that a centre may be off
COVER = 0.9


@final
@dataclass(frozen=True, kw_only=True)
class CenterRow:
    """One head. PSNR in dB, of filtered backprojection and of the learned prior, with the offset 0, the mean of the
    inferred one, and the true one."""

    problem: str
    true: float  # mm
    mean: float
    low: float  # of the interval
    high: float
    held: int  # whether it holds the true offset
    noise: float  # inferred, with what the coarse grid does not hold
    seconds: float  # CPU, of the inference
    fbp_wrong: float
    fbp_inferred: float
    fbp_true: float
    prior_wrong: float
    prior_inferred: float
    prior_true: float


def offsets(count: int) -> Tensor:
    """True offsets of the detector, mm, drawn from what they may be."""
    generator = torch.Generator().manual_seed(HELD_OUT)
    return LARGEST * (2 * torch.rand(count, dtype=torch.float64, generator=generator, device="cpu") - 1)


def inferred(lines: Tensor) -> iv.Result:
    """The offset and the level of noise and model error, from line integrals ``(1, views, bins)``."""

    def scan(offset: float) -> iv.operators.ParallelBeam:
        return iv.operators.ParallelBeam(
            views(VIEWS),
            (COARSE, COARSE),
            pixel_size=EXTENT / COARSE,
            bins=BINS // 2,
            bin_size=2 * EXTENT / GRID,
            detector_offset=offset,
            backend="matrix",
        )

    unknown = iv.operators.Family(scan, offset=iv.Uniform(low=-LARGEST, high=LARGEST))
    field = iv.priors.GaussianFieldPrior((COARSE, COARSE), iv.priors.Matern(std=WATER / 2, length=0.1))
    level = iv.LogNormal(median=2 * LINE, factor=2.0)
    wide = lines.unflatten(-1, (BINS // 2, 2)).mean(-1)
    return iv.solve(unknown, wide, field, noise=level, num_samples=200, seed=0)


def psnr(image: Tensor, case: Case) -> float:
    """dB, as in the other table."""
    return float(iv.metrics.psnr(image, case.truth, data_range=float(case.peak[0])))


def center_row(item: int, prior: iv.priors.Prior, samples: int) -> CenterRow:
    """The head ``item`` of those that are held out."""
    true = float(offsets(item + 1)[-1])
    head = heads(item + 1, seed=HELD_OUT)[item:]
    seed = HELD_OUT + item
    measured = ct(head, views(VIEWS), seed=seed, offset=true)
    started = time.process_time()
    assert measured.lines is not None
    result = inferred(measured.lines)
    seconds = time.process_time() - started
    offset = result["operator.offset"]
    interval = offset.interval(COVER)
    found = []
    for used in (0.0, float(offset.mean), true):
        case = ct(head, views(VIEWS), seed=seed, offset=true, assumed=used)
        image = ours(case, prior, samples).samples.mean(0)
        found.append((psnr(case.classical(case.problem), case), psnr(image, case)))
    (fbp, learned) = zip(*found, strict=True)
    return CenterRow(
        problem=f"head {item}",
        true=true,
        mean=float(offset.mean),
        low=float(interval.low),
        high=float(interval.high),
        held=int(float(interval.low) <= true <= float(interval.high)),
        noise=float(result["noise.std"].mean),
        seconds=seconds,
        fbp_wrong=fbp[0],
        fbp_inferred=fbp[1],
        fbp_true=fbp[2],
        prior_wrong=learned[0],
        prior_inferred=learned[1],
        prior_true=learned[2],
    )


LEGEND = f"""# A centre of rotation that is not known

Written by `python benchmarks/scans.py --centers`. Held-out CT heads, {VIEWS} parallel views over half a turn, line
integrals with noise of {LINE}, measured on {FINE} x {FINE} with a detector that is off by up to {LARGEST:g} mm (a
detector bin: {EXTENT / GRID:g} mm). The offset is inferred with `iv.operators.Family`, with a field prior on
{COARSE} x {COARSE}, bins of twice the width, and an unknown level of noise, which takes what the coarse grid does not
hold; that error is not white, so intervals may be too narrow: **held**: this one holds the truth. Then the image is
made on {GRID} x {GRID} with the wrong centre (no offset), the mean of the inferred offset, and the true one, by filtered
backprojection and with the prior `head-ct-128`. **s**: CPU seconds of the inference, one thread.
"""
HEAD = (
    *("object", "true, mm", "inferred, mm", f"{COVER:.0%} interval", "held", "s"),
    *(f"PSNR {what}, {how}" for how in ("FBP", "prior") for what in ("wrong", "inferred", "true")),
)


def center_cells(r: CenterRow) -> list[str]:
    """A line of the table."""
    numbers = (r.fbp_wrong, r.fbp_inferred, r.fbp_true, r.prior_wrong, r.prior_inferred, r.prior_true)
    return [
        r.problem,
        f"{r.true:.3f}",
        f"{r.mean:.3f}",
        f"{r.low:.3f} to {r.high:.3f}",
        "yes" if r.held else "no",
        f"{r.seconds:.0f}",
        *(f"{v:.2f}" for v in numbers),
    ]
