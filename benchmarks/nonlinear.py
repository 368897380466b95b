"""Who weighs two modes rightly: non-linear operators whose posterior is known by quadrature.

    python benchmarks/nonlinear.py            # some minutes on one core; writes docs/nonlinear.md and .csv
    python benchmarks/nonlinear.py --quick    # one seed, prints only

Losing rows are kept; nothing here is a gate.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _nonlinear import PROBLEMS, Bimodal, reference
from _tables import ruled, save
from torch import Tensor

import invsolve as iv

SAMPLES = 2048
TOLERANCE = 0.1  # of a mode's weight: what counts as right in the summary

# name -> the strategy for a problem; add yours
STRATEGIES: dict[str, Callable[[], iv.strategies.Strategy | str]] = {
    "auto": lambda: "auto",
    "NoiseMCMC": iv.strategies.NoiseMCMC,
    "SMC": iv.strategies.SMC,
    "SMC(tempering=0.5)": lambda: iv.strategies.SMC(tempering=0.5),
    "MMPS": iv.strategies.MMPS,
    "TMPD": iv.strategies.TMPD,
    "PiGDM": iv.strategies.PiGDM,
    "DPS": iv.strategies.DPS,
    "LGD": iv.strategies.LGD,
    "DiffPIR": iv.strategies.DiffPIR,
    "REDDiff": iv.strategies.REDDiff,
    "DAPS": iv.strategies.DAPS,
    "PnPDM": lambda: iv.strategies.PnPDM(num_steps=200),
    "NoiseMCMC, started by DPS": lambda: iv.strategies.NoiseMCMC(start=iv.strategies.DPS()),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One strategy on one problem with one seed. Errors of ``nan``: it did not run, or left a mode empty."""

    problem: str
    strategy: str
    seed: int
    samples: int
    finite: float  # the fraction of samples without NaN or Inf; the rest of the row is of these
    weight: float  # of mode 0
    exact_weight: float
    e_mean: float  # rms over components of the error of the mean, in posterior stds
    std_min: float  # the smallest and largest ratio of a component's std to the exact one
    std_max: float
    mode_e_mean: float  # the same within the modes, the worse of the two
    mode_std_min: float
    mode_std_max: float
    certified: str  # what the result says of itself
    nfe: float
    vjps: float
    seconds: float
    note: str  # why it did not run


def score(problem: Bimodal, name: str, seed: int) -> Row:
    nan = float("nan")
    base = {
        "problem": problem.name,
        "strategy": name,
        "seed": seed,
        "samples": SAMPLES,
        "exact_weight": float(problem.exact.weights[0]),
    }
    blank = dict.fromkeys(
        (
            "finite",
            "weight",
            "e_mean",
            "std_min",
            "std_max",
            "mode_e_mean",
            "mode_std_min",
            "mode_std_max",
            "nfe",
            "vjps",
            "seconds",
        ),
        nan,
    )
    try:
        result = iv.solve(
            problem.operator,
            problem.data,
            problem.prior,
            noise=problem.noise,
            strategy=STRATEGIES[name](),
            num_samples=SAMPLES,
            seed=seed,
            throw=False,
        )
    except iv.errors.UnsupportedError as error:
        return Row(**base | blank, certified="-", note=str(error))  # type: ignore[arg-type]
    kept = ~result.failed
    x = result.samples[kept].double()
    weights = torch.ones(len(x), dtype=x.dtype)
    if result.log_weights is not None:
        weights = torch.softmax(result.log_weights[kept].double(), 0)
    costs = {"nfe": float(result.nfe), "vjps": float(result.vjps), "seconds": float(result.seconds)}
    certificate = result.certificate
    certified = "-" if certificate is None else ("yes" if bool(certificate.passed.all()) else "no")
    return Row(**base | blank | errors(problem, x, weights) | costs, certified=certified, note="")  # type: ignore[arg-type]


def errors(problem: Bimodal, x: Tensor, weights: Tensor) -> dict[str, float]:
    """Of samples ``x`` ``(rows, n)`` with ``weights`` ``(rows,)``."""
    found, exact = reference(x, weights, problem.mode(x)), problem.exact
    ratio, inside = found.std / exact.std, found.stds / exact.stds
    apart = ((found.means - exact.means) / exact.stds).square().mean(1).sqrt()
    return {
        "finite": len(x) / SAMPLES,
        "weight": float(found.weights[0]),
        "e_mean": float(((found.mean - exact.mean) / exact.std).square().mean().sqrt()),
        "std_min": float(ratio.min()),
        "std_max": float(ratio.max()),
        "mode_e_mean": float(apart.max()),
        "mode_std_min": float(inside.min()),
        "mode_std_max": float(inside.max()),
    }


def number(values: list[float], worst: Callable[[list[float]], float]) -> str:
    finite = [v for v in values if math.isfinite(v)]
    return f"{worst(finite):.3g}" if len(finite) == len(values) else "-"


def table(rows: list[Row]) -> str:
    """A line for each problem and strategy: weights of all seeds, the worst of the other errors."""
    lines = [
        [
            "problem",
            "strategy",
            "weight of mode 0, by seed",
            "exact",
            "largest error",
            "mean off by (sd)",
            "std ratios",
            "in a mode: mean off by",
            "in a mode: std ratios",
            "certified",
            "evaluations",
            "vjps",
            "seconds",
        ]
    ]
    for key in dict.fromkeys((r.problem, r.strategy) for r in rows):
        group = [r for r in rows if (r.problem, r.strategy) == key]
        if group[0].note:
            lines.append([*key, f"does not run: {group[0].note}", *["-"] * 10])
            continue
        lines.append(
            [
                *key,
                ", ".join(f"{r.weight:.3f}" for r in group),
                f"{group[0].exact_weight:.3f}",
                number([abs(r.weight - r.exact_weight) for r in group], max),
                number([r.e_mean for r in group], max),
                f"{number([r.std_min for r in group], min)} to {number([r.std_max for r in group], max)}",
                number([r.mode_e_mean for r in group], max),
                f"{number([r.mode_std_min for r in group], min)} to {number([r.mode_std_max for r in group], max)}",
                "/".join(dict.fromkeys(r.certified for r in group)),
                number([r.nfe for r in group], max),
                number([r.vjps for r in group], max),
                number([r.seconds for r in group], max),
            ]
        )
    return ruled(lines)


def summary(rows: list[Row]) -> str:
    """Who has the weights of all problems right."""
    names = dict.fromkeys(r.problem for r in rows)
    lines = [["strategy", *names, "all within"]]
    for strategy in dict.fromkeys(r.strategy for r in rows):
        worst = []
        for problem in names:
            of = [abs(r.weight - r.exact_weight) for r in rows if (r.problem, r.strategy) == (problem, strategy)]
            worst.append(max(of, key=lambda v: math.inf if math.isnan(v) else v))
        right = all(w <= TOLERANCE for w in worst)
        lines.append([strategy, *[f"{w:.3f}" for w in worst], "yes" if right else "no"])
    return ruled(lines)


TEXT = """# Two modes behind a non-linear operator

Written by `python benchmarks/nonlinear.py`: {samples} samples, {seeds} seeds, float64. Each posterior has two modes
far apart, whose weights the data do not decide; weights, means and stds are known by quadrature
(`benchmarks/_nonlinear.py`; a test compares it with importance sampling and Hamiltonian Monte Carlo). Independent
draws, as many, would have standard errors of {weight_se:.3f} in a weight and {mean_se:.3f} posterior stds in a mean.
Guidances and published methods are given as they are, without the weights or chains that correct them.

{problems}

Largest error of a mode's weight over the seeds; "all within" {tolerance}:

{summary}

In full. Mean off by: rms over components, in posterior stds; std ratios: smallest and largest of any component, 1 is
right; in a mode: the same among the samples of one mode, the worse of the two. Each is the worst of the seeds.
"certified": what `result.certificate` says. Evaluations and vjps of the denoiser are per sample.

{table}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    seeds = range(1 if options.quick else 4)
    problems, rows = [make() for make in PROBLEMS.values()], list[Row]()
    for problem in problems:
        for name in STRATEGIES:
            rows += [score(problem, name, seed) for seed in seeds]
            print(rows[-1], flush=True)
    text = TEXT.format(
        samples=SAMPLES,
        seeds=len(seeds),
        weight_se=0.5 / math.sqrt(SAMPLES),
        mean_se=1 / math.sqrt(SAMPLES),
        problems="\n".join(f"- {p.name}: {p.text}." for p in problems),
        tolerance=TOLERANCE,
        summary=summary(rows),
        table=table(rows),
    )
    print(text)
    if not options.quick:
        save(options.out, "nonlinear", text, rows)


if __name__ == "__main__":
    main()
