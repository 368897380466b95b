"""Simulation-based calibration of ``strategy="auto"`` on six problems: are rank ECDFs inside their simultaneous bands?

    python benchmarks/sbc.py                      # all six, 300 prior draws each; writes docs/sbc.md and .csv
    python benchmarks/sbc.py --only elliptic --runs 50

Interrupted runs go on from their checkpoints in a folder of temporary files ($INVSOLVE_SBC).
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

import torch
from _exactness_certificate import denoiser_only
from _exactness_problems import pressure
from mixtures import random_mixture

import invsolve as iv
from invsolve.calibration.uniformity import UniformBand

D = torch.float64
NUM_SAMPLES = 255
Problem = tuple[iv.operators.Operator, iv.priors.Prior, float, str]


def field() -> Problem:
    prior = iv.priors.GaussianFieldPrior(shape=(16, 16), spectrum=iv.priors.Matern(std=1.0, length=4.0, smoothness=1.5))
    A = iv.operators.GaussianBlur(std=1.0, in_shape=(16, 16))
    return A, prior, 0.1, "16 x 16 field, Gaussian blur"


def hidden_mixture() -> Problem:
    exact, A, _, noise = random_mixture(8, 3, 2)
    return A, denoiser_only(exact), noise, "mixture of 3 in 8-D, known by its denoiser"


def laplace() -> Problem:
    prior = iv.priors.SparsePrior(shape=(64,), coefficients=iv.priors.Laplace(scale=1.0), transform="dct", dtype=D)
    return iv.operators.GaussianBlur(std=1.5, in_shape=(64,), dtype=D), prior, 0.2, "Laplace, DCT, 64 numbers, blur"


def student() -> Problem:
    coefficients = iv.priors.Student(scale=0.7, dof=5)
    prior = iv.priors.SparsePrior(shape=(32,), coefficients=coefficients, transform="haar", dtype=D)
    index = torch.randperm(32, generator=torch.Generator().manual_seed(0))[:20]
    return iv.operators.Subsample(index=index, in_shape=(32,)), prior, 0.2, "Student, Haar, 20 of 32 numbers seen"


def elliptic() -> Problem:
    sensors = torch.arange(3, 64, 4)
    prior = iv.priors.GaussianFieldPrior(
        shape=(64,), spectrum=iv.priors.Matern(std=1.0, length=12.0, smoothness=1.5), dtype=D
    )
    A = iv.operators.from_callable(lambda u: pressure(u, sensors), in_shape=(64,), out_shape=(len(sensors),))
    return A, prior, 0.01, "log-permeability to pressure, 64 cells, 16 sensors"


def banana() -> Problem:
    prior = iv.priors.GaussianPrior(mean=torch.zeros(4, dtype=D), covariance=torch.eye(4, dtype=D))

    def bent(x: torch.Tensor) -> torch.Tensor:
        return torch.stack((x[:, 1] + x[:, 0] ** 2, x[:, 3] - 0.5 * x[:, 2] ** 2 + 0.3 * x[:, 0]), 1)

    return iv.operators.from_callable(bent, in_shape=(4,), out_shape=(2,)), prior, 0.2, "two bananas in 4-D"


PROBLEMS = {
    "field": field,
    "mixture": hidden_mixture,
    "laplace": laplace,
    "student": student,
    "elliptic": elliptic,
    "banana": banana,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(os.environ.get("INVSOLVE_SBC", Path(tempfile.gettempdir()) / "invsolve-sbc"))
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.only:
        A, prior, noise, text = PROBLEMS[name]()
        start = time.perf_counter()
        report = iv.calibrate(
            A,
            prior,
            noise=noise,
            runs=options.runs,
            num_samples=NUM_SAMPLES,
            seed=options.seed,
            checkpoint=folder / f"{name}-{options.seed}.ckpt",
        )
        band = UniformBand(runs=report.runs, num_samples=NUM_SAMPLES)
        p_values = [band.p_value(gamma) for gamma in band.gammas(report.ranks)]
        print(f"{name}: {report}\n  {time.perf_counter() - start:.0f} s", flush=True)
        for functional, p in zip(report.names, p_values, strict=True):
            rows.append(
                {
                    "problem": name,
                    "text": text,
                    "functional": functional,
                    "p": p,
                    "strategy": report.strategy,
                    "seconds": report.seconds,
                    "runs": report.runs,
                }
            )
        figure = report.plot()
        figure.savefig(folder / f"{name}.png", dpi=80)
    if set(options.only) == set(PROBLEMS) and options.runs >= 300:
        write(rows, Path(__file__).parents[1] / "docs")


def write(rows: list[dict[str, object]], out: Path) -> None:
    limit = 0.01 / len(rows)
    lines = [
        "# Simulation-based calibration of `auto`",
        "",
        f"Written by `python benchmarks/sbc.py`: {rows[0]['runs']} prior draws for each problem, {NUM_SAMPLES} samples "
        "each. Ranked are components, energy, largest entry, log-likelihood, distance to a random point, spread and "
        f"projections: {len(rows)} rank ECDFs in all. An ECDF is inside its exact simultaneous band at level "
        f"1 - 0.01 / {len(rows)} if its p-value is above {limit:.2g}.",
        "",
        "| problem | strategy | ECDFs | outside | smallest p | of | p of energy, max, log p(y given x) | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    total = 0.0
    for problem in dict.fromkeys(r["problem"] for r in rows):
        group = [r for r in rows if r["problem"] == problem]
        p = {str(r["functional"]): float(str(r["p"])) for r in group}
        worst = min(p, key=lambda name: p[name])
        seconds = float(str(group[0]["seconds"]))
        total += seconds
        cells = [
            group[0]["text"],
            group[0]["strategy"],
            len(group),
            sum(v < limit for v in p.values()),
            f"{p[worst]:.2g}",
            worst,
            ", ".join(f"{p[f]:.2g}" for f in ("energy", "max", "log-likelihood")),
            f"{seconds:.0f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"Seconds in all: {total:.0f}, {torch.get_num_threads()} thread(s)."]
    (out / "sbc.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (out / "sbc.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
