"""What guidances of a learned prior give for their seconds: error, CRPS and coverage against time.

    python benchmarks/learned_pareto.py --out docs     # half an hour of one core; writes learned-pareto.md and .csv

Held-out phantoms, eightfold; every guidance with several numbers of steps. Methods take turns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from _heads_scans import phantoms
from _tables import read, ruled, save
from learned_mri import FEW, Row, guidances, of_samples, sampled, tuned_tv

import invsolve as iv

STEPS = {
    "MMPS": (8, 16, 12, 24),
    "Jacobian, 3 CG": (40, 20),
    "stated covariance": (10, 20),
    "PiGDM": (10,),
}
LEGEND = """# Guidances of a learned prior, for their seconds

Written by `python benchmarks/learned_pareto.py`. `head-mr-128` on {count} held-out phantoms, {acceleration:g}-fold,
4 samples each (nominal coverage of their range: 0.6); scans and scores are those of `benchmarks/learned_mri.py`.
*MMPS*: from draws of the posterior under the stated covariance on; two products with the network's Jacobian a level, and the
stated covariance for what they leave (`docs/design/learned.md`). *Jacobian, 3 CG*: three products from the highest level on,
which was the guidance before, but for the levels of much noise (0.91 of its seconds).
*of many*: over TV, with the mean of infinitely many samples, estimated from these.
*front*: no other row has a lower CRPS in less time.
*s*: CPU seconds of one thread; methods took turns, and other work shared the machine.
"""


def front(rows: list[Row]) -> list[Row]:
    return [r for r in rows if r.crps == r.crps and not any(o.crps < r.crps and o.seconds < r.seconds for o in rows)]


def table(rows: list[Row]) -> str:
    lines = [
        ["method", "steps", "s a sample", "vjps", "PSNR, dB", "over TV", "of many", "CRPS", "covered", "chi^2", "front"]
    ]
    best = front(rows)
    for r in sorted(rows, key=lambda r: (r.method, r.nfe)):
        if r.crps != r.crps:
            lines.append([r.method, f"{r.nfe:.0f}", f"{r.seconds:.2f}", f"{r.vjps:.0f}", "failed", *[""] * 6])
            continue
        lines.append(
            [
                r.method,
                f"{r.nfe:.0f}",
                f"{r.seconds:.2f}",
                f"{r.vjps:.0f}",
                f"{r.psnr:.2f}",
                f"{r.gain:+.2f} +- {r.gain_se:.2f}",
                f"{r.limit:+.2f} +- {r.limit_se:.2f}",
                f"{r.crps:.5f} +- {r.crps_se:.5f}",
                f"{r.covered:.3f}",
                f"{r.chi2:.3f}",
                "yes" if r in best else "",
            ]
        )
    return ruled(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="head-mr-128")
    parser.add_argument("--phantoms", type=int, default=16)
    parser.add_argument("--acceleration", type=float, default=8.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prior = iv.priors.load(options.prior)
    scans = phantoms(options.phantoms, options.acceleration)
    image = tuned_tv(options.acceleration)[1](scans)
    rows = read(options.out / "learned-pareto.csv", Row) if options.out else []  # what is there is not run again
    torch.set_num_threads(1)
    for turn in range(max(map(len, STEPS.values()))):
        for name, counts in STEPS.items():
            if turn >= len(counts) or any((r.method, r.nfe) == (name, counts[turn]) for r in rows):
                continue
            strategy = guidances(counts[turn])[name]
            found, cost = sampled(scans, prior, strategy, [FEW] * options.phantoms, clock=time.process_time)
            rows.append(of_samples("phantoms", options.acceleration, name, scans, found, FEW, image, cost))
            print(rows[-1], flush=True)
            if options.out:
                text = LEGEND.format(count=options.phantoms, acceleration=options.acceleration)
                save(options.out, "learned-pareto", f"{text}\n{table(rows)}", rows)


if __name__ == "__main__":
    main()
