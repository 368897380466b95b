"""How often `result.check()` raises an alarm: with the right model, and with faults put in on purpose.

    python benchmarks/checks.py            # some minutes; writes docs/checks.md and docs/checks.csv
    python benchmarks/checks.py --quick    # five seeds, prints only

Every problem has at least 256 data and a signal-to-noise ratio of 10 (std of the clean data over that of the noise).
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

import invsolve as iv
from invsolve.strategies.base import Info, Run, Strategy
from invsolve.strategies.exact import ExactState

Make = Callable[[int], tuple[iv.Problem, iv.priors.Prior]]
SNR = 10.0


def matern(n: int, length: float, std: float = 1.0) -> iv.priors.GaussianPrior:
    """A Matern field of smoothness 3/2 on n x n pixels, ``length`` in pixels."""
    i = torch.arange(n * n)
    d = (((i[:, None] // n - i // n) ** 2 + (i[:, None] % n - i % n) ** 2).double()).sqrt() / length
    r = math.sqrt(3) * d
    covariance = torch.exp(-r) * (1 + r)
    return iv.priors.GaussianPrior(mean=torch.zeros(n, n), covariance=(std**2 * covariance).float())


def blocks(n: int, seed: int) -> Tensor:
    """An image of another family: 12 overlapping rectangles of random grey, of mean 0 and std 1; (1, n, n)."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, n)
    for _ in range(12):
        (a, b), (c, d) = (torch.randint(0, n + 1, (2,), generator=rng).sort().values.tolist() for _ in range(2))
        x[a:b, c:d] = torch.randn((), generator=rng)
    return ((x - x.mean()) / x.std())[None]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(10_000 + seed))


# --- the two measurements ---------------------------------------------------------------------------------------------
BLUR, MASK = 16, 20
WIDTHS = (0.6, 1.4)
WIDE, TWICE = (0.9, 2.1), (1.2, 2.8)  # 1.5 times, twice
LENGTH = 5.0
PRIORS = {n: matern(n, length=LENGTH) for n in (BLUR, MASK)}
LONG, SHORT = ({n: matern(n, length=LENGTH * f) for n in (BLUR, MASK)} for f in (2.0, 0.5))


def blur(widths: tuple[float, float] = WIDTHS) -> iv.operators.LinearOperator:
    return iv.operators.GaussianBlur(std=widths, in_shape=(BLUR, BLUR), boundary="zero")


def kept(seed: int) -> Tensor:
    return torch.rand(MASK, MASK, generator=torch.Generator().manual_seed(seed)) < 0.75


def measured(
    name: str,
    seed: int,
    *,
    x: Tensor | None = None,
    truth: iv.operators.LinearOperator | None = None,
    assumed_noise: float = 1.0,
    dead: str = "",
) -> tuple[iv.Problem, iv.priors.Prior]:
    """The problem as it is stated, with data from a truth that may differ in signal, operator, noise or sensors."""
    n = BLUR if name == "blur" else MASK
    A = blur() if name == "blur" else iv.operators.Mask(mask=kept(seed))
    x = PRIORS[n].sample(1, seed=seed) if x is None else x
    clean = (truth or A)(x).clone(memory_format=torch.contiguous_format)
    seen = clean if A.observed is None else clean[:, A.observed]
    std = float(blur()(PRIORS[n].sample(200, seed=1)).std() if name == "blur" else torch.ones(())) / SNR
    error = std * normal(tuple(clean.shape), seed)
    if dead:
        places = torch.arange(clean.numel()) if A.observed is None else A.observed.flatten().nonzero()[:, 0]
        number = math.ceil(0.02 * seen.numel())
        rng = torch.Generator().manual_seed(seed)
        index = places[torch.randperm(len(places), generator=rng)[:number]]
        clean.view(-1)[index] = 0.0
        if dead == "stuck":
            error.view(-1)[index] = 0.0
    y = clean + error
    return iv.Problem(A, y if A.observed is None else y * A.observed, noise=std * assumed_noise), PRIORS[n]


# --- a solver with a fault --------------------------------------------------------------------------------------------
@final
@dataclass(frozen=True, kw_only=True)
class Wrong(Strategy):
    """Exact draws, ``factor`` times as far from the mean and ``shift`` posterior stds off it (std of 64 draws)."""

    factor: float = 1.0
    shift: float = 0.0
    num_steps = 1

    def bind(self, problem: iv.Problem, prior: iv.priors.Prior) -> Any:
        return prior.posterior(problem)

    def init(self, run: Run) -> ExactState:
        return ExactState(x=run.problem.data.new_zeros(run.rows, *run.problem.shape))

    def step(self, run: Run, state: ExactState, i: int) -> tuple[ExactState, Info]:
        mean = run.bound.mean
        return ExactState(x=mean + self.shift * run.bound.std + self.factor * (run.bound.draw(run.draws) - mean)), {}


@dataclass(frozen=True, kw_only=True)
class Case:
    """``fault`` "" is the right model; ``must`` is the plan's demand on the rate."""

    measurement: str
    fault: str
    make: Make
    strategy: Strategy = iv.strategies.Exact()  # noqa: RUF009  # frozen


def cases() -> list[Case]:
    out = []
    for name in ("blur", "mask"):
        n = BLUR if name == "blur" else MASK

        def foreign(priors: dict[int, iv.priors.GaussianPrior], name: str = name, n: int = n) -> Make:
            return lambda seed: measured(name, seed, x=priors[n].sample(1, seed=seed))

        faults: dict[str, Make] = {
            "": lambda seed, name=name: measured(name, seed),  # type: ignore[misc]
            "noise std stated half": lambda seed, name=name: measured(name, seed, assumed_noise=0.5),  # type: ignore[misc]
            "noise std stated double": lambda seed, name=name: measured(name, seed, assumed_noise=2.0),  # type: ignore[misc]
            "2 % of data have zero gain": lambda seed, name=name: measured(name, seed, dead="gain"),  # type: ignore[misc]
            "2 % of data stuck at 0": lambda seed, name=name: measured(name, seed, dead="stuck"),  # type: ignore[misc]
            "object of half the correlation length": foreign(SHORT),
            "object of twice the correlation length": foreign(LONG),
            "object of twice the size": lambda seed, name=name, n=n: measured(  # type: ignore[misc]
                name, seed, x=2 * PRIORS[n].sample(1, seed=seed)
            ),
            "object of rectangles": lambda seed, name=name, n=n: measured(name, seed, x=blocks(n, seed)),  # type: ignore[misc]
        }
        if name == "blur":
            faults["blur 1.5 times as wide"] = lambda seed: measured("blur", seed, truth=blur(WIDE))
            faults["blur twice as wide"] = lambda seed: measured("blur", seed, truth=blur(TWICE))
            faults["blur turned by 90 degrees"] = lambda seed: measured("blur", seed, truth=blur(WIDTHS[::-1]))
        else:
            faults["mask shifted by a pixel"] = lambda seed: measured(
                "mask", seed, truth=iv.operators.Mask(mask=kept(seed).roll(1, 1))
            )
        if name == "mask":  # seen as clearly as in the blurred field
            faults = {k: v for k, v in faults.items() if "half the correlation" not in k and "twice the size" not in k}
        out += [Case(measurement=name, fault=fault, make=make) for fault, make in faults.items()]
        if name == "mask":
            continue
        right = faults[""]
        out += [
            Case(measurement=name, fault="solver: samples 0.7 times as wide", make=right, strategy=Wrong(factor=0.7)),
            Case(measurement=name, fault="solver: samples 1.4 times as wide", make=right, strategy=Wrong(factor=1.4)),
            Case(measurement=name, fault="solver: mean off by 1 posterior std", make=right, strategy=Wrong(shift=1.0)),
        ]
    return out


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a rate (Wilson 1927)."""
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def study(case: Case, seeds: range, num_samples: int) -> dict[str, object]:
    alarms, by, seconds = 0, Counter[str](), 0.0
    for seed in seeds:
        problem, prior = case.make(seed)
        result = iv.solve(problem, prior, strategy=case.strategy, num_samples=num_samples, seed=seed)
        started = time.perf_counter()
        report = result.check()
        seconds += time.perf_counter() - started
        alarms += not report.passed
        by.update(c.name for c in report.checks if not c.passed)
    low, high = wilson(alarms, len(seeds))
    return {
        "measurement": case.measurement,
        "fault": case.fault or "none (right model)",
        "seeds": len(seeds),
        "alarms": alarms,
        "rate": alarms / len(seeds),
        "low": low,
        "high": high,
        "seconds per call": seconds / len(seeds),
        "raised by": ", ".join(f"{name} {count}" for name, count in by.most_common()),
    }


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| measurement | fault | alarms | 95 % interval | s per call | raised by |", "|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['measurement']} | {r['fault']} | {r['alarms']} of {r['seeds']} | {r['low']:.2f} to {r['high']:.2f} "
            f"| {r['seconds per call']:.2g} | {r['raised by']} |"
        )
    return "\n".join(lines)


# Written by hand: from runs with other seeds and another correlation length, and from likelihood-ratio tests.
_CHOSEN = """The shares of the level, the list of other operators and the two measurements were settled while looking at
seeds 0 to 49 of this study, so the rows above are not blind. Seeds that played no part (`--first 1000`): right model,
4 alarms of 100 for *blur* and 2 of 100 for *mask* (with the rows above 8 of 400); blur 1.5 times as wide, 97 of 100;
blur turned, 94; zero gain in *mask*, 93; noise std stated half in *mask*, 99. *mask* had a correlation length of 4
pixels at first: there noise stated half is found in 88 of 100 and zero gain in 97; a test that knows the true noise
level would find 97 to 99 % of the former. A blur 1.5 times as wide (error of the mean 1.9 posterior std instead of 1)
was found in 78 of 100 (fresh seeds 88) until the list of other operators held what a wider blur brings in from beyond
the edge."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="five seeds, prints only")
    parser.add_argument("--seeds", type=int, help="prints only")
    parser.add_argument("--first", type=int, default=0, help="the first seed; others than 0 print only")
    parser.add_argument("--only", default="", help="part of the name of a case; prints only")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    number = options.seeds or (5 if options.quick else 100)
    seeds = range(options.first, options.first + number)
    rows = []
    for case in cases():
        if options.only in f"{case.measurement} {case.fault or 'right model'}":
            rows.append(study(case, seeds, num_samples=16))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    if options.quick or options.seeds or options.only or options.first:
        return
    text = "\n\n".join(
        [
            "# How often `result.check()` raises an alarm",
            "Written by `python benchmarks/checks.py`.",
            f"{number} seeds a row; 16 exact draws of the posterior, then one call of `result.check()` with all its tests "
            f"(seconds on one core). *blur*: a {BLUR} x {BLUR} field through an anisotropic blur, 256 data; *mask*: a "
            f"{MASK} x {MASK} field at 75 % of its pixels, about 300 data. Signal-to-noise ratio 10; Matern prior of "
            f"smoothness 3/2 and correlation length {LENGTH:g} pixels. A row without a fault is a right model: there the "
            "alarms are false, and the report is made for 2 %. *raised by* counts the tests that failed.",
            table(rows),
            _CHOSEN,
            "",
        ]
    )
    (options.out / "checks.md").write_text(text)
    with (options.out / "checks.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
