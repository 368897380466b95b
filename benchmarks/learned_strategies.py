"""Every strategy that can take multi-coil MRI with a learned prior, each with the same seconds.

    python benchmarks/learned_strategies.py --out docs     # an hour on two cores; learned-strategies.md and .csv
    python benchmarks/learned_strategies.py --phantoms 2 --only MMPS DPS    # prints only

Held-out phantoms, eightfold, 4 samples each. The number of steps of a strategy is what fits into ``--seconds`` a
phantom (four samples), by the time that a few steps take; rows are written as they are found, others stay as they were.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from _heads_scans import Scans, phantoms
from _tables import read, ruled, save
from learned_mri import FEW, Row, of_samples, sampled, tuned_tv

import invsolve as iv
from invsolve import strategies as ivs

# By the number of steps; the others' options are their defaults.
STRATEGIES: dict[str, Callable[[int], ivs.Strategy]] = {
    "MMPS": lambda n: ivs.MMPS(num_steps=n),
    "MMPS, stated covariance": lambda n: ivs.MMPS(covariance="law", rtol=1e-2, num_steps=n),
    "TMPD": lambda n: ivs.TMPD(num_steps=n),
    "PiGDM": lambda n: ivs.PiGDM(num_steps=n),
    "PiGDM, published": lambda n: ivs.PiGDM(form="published", num_steps=n),
    "DPS": lambda n: ivs.DPS(num_steps=n),
    "DPS, paper, zeta 0.3": lambda n: ivs.DPS(form="paper", scale=0.3, num_steps=n),
    "LGD": lambda n: ivs.LGD(clouds=4, num_steps=n),
    "DiffPIR": lambda n: ivs.DiffPIR(num_steps=n),
    "DiffPIR, lam 8, zeta 1": lambda n: ivs.DiffPIR(lam=8.0, zeta=1.0, num_steps=n),
    "REDDiff": lambda n: ivs.REDDiff(num_steps=n),
    "DAPS": lambda n: ivs.DAPS(num_steps=n),
    "PnPDM": lambda n: ivs.PnPDM(num_steps=n, prior_steps=10),
}
_FEW_STEPS = 3  # whose time is measured
_MISFIT = 1.5  # chi^2 per datum of samples that are far from the data: some 16,000, with a deviation of 0.01
_LEAST = 8  # steps: a walk of fewer is none

LEGEND = """# Strategies with a learned prior, each with the same seconds

Written by `python benchmarks/learned_strategies.py`. `head-mr-128` on {count} held-out phantoms, eightfold, 4 samples
each: {seconds:g} s a phantom, in so many steps as fit. Scans and scores are those of `benchmarks/learned_mri.py`; the
nominal coverage of the range of 4 samples is 0.6. DDNM, DDRM, LanPaint, MCGDiff and FPS need a singular value
decomposition of the operator, which eight coils do not have. *of many*: over TV, with the mean of infinitely many
samples, estimated from these; REDDiff is an optimiser, whose answers hardly differ.
"""


def steps_for(strategy: Callable[[int], ivs.Strategy], scans: Scans, prior: iv.priors.Prior, seconds: float) -> int:
    """How many steps take about so many seconds a phantom."""
    one = scans.take([0])
    started = time.perf_counter()
    iv.solve(one.problem, prior, strategy=strategy(_FEW_STEPS), num_samples=FEW, throw=False)
    return max(_LEAST, int(_FEW_STEPS * seconds / (time.perf_counter() - started)))


def table(rows: list[Row]) -> str:
    lines = [
        ["strategy", "evaluations", "vjps", "s a sample", "PSNR, dB", "over TV", "of many", "CRPS", "covered", "chi^2"]
    ]
    for r in sorted(rows, key=lambda r: r.crps if r.crps == r.crps else 1e9):
        score = ["failed", *[""] * 5]
        if r.crps == r.crps:
            score = [
                f"{r.psnr:.2f}",
                f"{r.gain:+.2f} +- {r.gain_se:.2f}",
                f"{r.limit:+.2f} +- {r.limit_se:.2f}",
                f"{r.crps:.5f} +- {r.crps_se:.5f}",
                f"{r.covered:.3f} +- {r.covered_se:.3f}" if r.samples else "",
                f"{r.chi2:.2f}",
            ]
        lines.append([r.method, f"{r.nfe:.4g}", f"{r.vjps:.4g}", f"{r.seconds:.2f}", *score])
    return ruled(lines)


def verdict(rows: list[Row]) -> str:
    """In words: the best, and whose ranges hold what they should, within three standard errors."""
    scored = [r for r in rows if r.crps == r.crps]
    best = min(scored, key=lambda r: r.crps)
    groups: dict[str, list[str]] = {
        "Ranges right within three standard errors": [],
        "Too narrow": [],
        "Too wide": [],
        f"Do not fit the data (chi^2 above {_MISFIT:g})": [],
        "End in NaN": [],
    }
    right, narrow, wide, lost, failed = groups
    for r in rows:
        off = (r.covered - r.nominal) / r.covered_se
        known = narrow if off < -3 else wide if off > 3 else right
        groups[failed if r.crps != r.crps else lost if r.chi2 > _MISFIT else known].append(r.method)
    lines = [f"Best: **{best.method}**, CRPS {best.crps:.4f}"]
    lines += [f"{words}: {'; '.join(names)}" for words, names in groups.items() if names]
    return "\n".join(f"- {line}." for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="head-mr-128")
    parser.add_argument("--phantoms", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0, help="a phantom")
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prior = iv.priors.load(options.prior)
    scans = phantoms(options.phantoms, 8.0)
    image = tuned_tv(8.0)[1](scans)
    before = read(options.out / "learned-strategies.csv", Row) if options.out else []
    rows = {(r.objects, r.acceleration, r.method, r.samples): r for r in before}
    for name in options.only or STRATEGIES:
        count = steps_for(STRATEGIES[name], scans, prior, options.seconds)
        found, cost = sampled(scans, prior, STRATEGIES[name](count), [FEW] * options.phantoms)
        row = of_samples("phantoms", 8.0, name, scans, found, FEW, image, cost)
        rows[(row.objects, row.acceleration, row.method, row.samples)] = row
        print(name, count, "steps", row, flush=True)
        if options.out:
            text, every = LEGEND.format(count=options.phantoms, seconds=options.seconds), list(rows.values())
            save(options.out, "learned-strategies", f"{text}\n{verdict(every)}\n\n{table(every)}", every)


if __name__ == "__main__":
    main()
