"""On which kinds of problem can the spread of a strategy be trusted? `iv.calibrate` on small problems of every kind.

    python benchmarks/strategies.py               # an hour of one core; docs/strategies.* and what `advise` reads
    python benchmarks/strategies.py --only DPS --kinds mask    # these rows only; others stay as they were found

Every strategy runs with its defaults (and, where it has them, its published settings), is given the exact denoiser of
the prior, and is tested on data of 256 draws of it with 63 samples each.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from _tables import read, ruled, save
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.strategies.choice.advise import KINDS as TEXTS
from invsolve.strategies.choice.catalogue import catalogue

D = torch.float64
RUNS, SAMPLES = 256, 63
MEASURED = Path(__file__).parents[1] / "invsolve" / "strategies" / "choice" / "measured.csv"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    name: str
    operator: iv.operators.Operator
    prior: iv.priors.Prior
    noise: iv.noise.Noise | float
    runs: int = RUNS


def _covariance(n: int) -> Tensor:
    i = torch.arange(n, dtype=D)
    return torch.exp(-(i[:, None] - i).abs() / 4)


def _gaussian(n: int, mean: float = 0.0, std: float = 1.0) -> iv.priors.Prior:
    return iv.priors.GaussianPrior(mean=torch.full((n,), mean, dtype=D), covariance=std**2 * _covariance(n))


def _seen(n: int, share: float, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share


def mask() -> Kind:
    return Kind(name="mask", operator=iv.operators.Mask(mask=_seen(16, 0.5)), prior=_gaussian(16), noise=0.2)


def smooth() -> Kind:
    """The README's first problem."""
    t = torch.linspace(0, 1, 64, dtype=D)
    covariance = torch.exp(-0.5 * ((t[:, None] - t) / 0.05) ** 2) + 1e-3 * torch.eye(64, dtype=D)
    prior = iv.priors.GaussianPrior(mean=torch.zeros(64, dtype=D), covariance=covariance)
    seen = iv.operators.Mask(mask=torch.arange(64) % 3 == 0)
    return Kind(name="smooth", operator=seen, prior=prior, noise=0.1, runs=128)


def blur() -> Kind:
    kernel = torch.exp(-(torch.arange(-3, 4, dtype=D) ** 2) / 4)
    operator = iv.operators.Blur(kernel=kernel / kernel.sum(), in_shape=(16,), boundary="periodic")
    return Kind(name="blur", operator=operator, prior=_gaussian(16), noise=0.1)


def modes() -> Kind:
    """Clouds that one datum cannot tell apart for sure: more runs, because what goes wrong are their weights."""
    rng = torch.Generator().manual_seed(3)
    means = 2 * torch.randn(3, 4, generator=rng, dtype=D)
    roots = torch.randn(3, 4, 4, generator=rng, dtype=D) * 0.3
    covariances = roots @ roots.mT + 0.05 * torch.eye(4, dtype=D)
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.3, 0.3, 0.4], dtype=D), means=means, covariances=covariances
    )
    matrix = torch.randn(1, 4, generator=rng, dtype=D)
    return Kind(name="modes", operator=iv.operators.Matrix(matrix=matrix), prior=prior, noise=0.5, runs=1024)


def sparse() -> Kind:
    prior = iv.priors.SparsePrior(shape=(16,), transform="haar", coefficients=iv.priors.Laplace(scale=0.7), dtype=D)
    return Kind(name="sparse", operator=iv.operators.Mask(mask=_seen(16, 0.6, 2)), prior=prior, noise=0.2)


def curved() -> Kind:
    rng = torch.Generator().manual_seed(3)
    matrix = torch.randn(4, 4, generator=rng, dtype=D) / 2

    def bent(x: Tensor) -> Tensor:
        u = x @ matrix.mT
        return u + 0.3 * u**2

    operator = iv.operators.from_callable(bent, (4,), (4,), kind="nonlinear")
    return Kind(name="curved", operator=operator, prior=_gaussian(4), noise=0.2)


def counts() -> Kind:
    operator = iv.operators.Mask(mask=torch.ones(8, dtype=torch.bool))
    noise = iv.noise.Poisson(counts_per_unit=2.0)
    return Kind(name="counts", operator=operator, prior=_gaussian(8, 3.0, 0.6), noise=noise)


KINDS: dict[str, Callable[[], Kind]] = {
    "mask": mask,
    "smooth": smooth,
    "blur": blur,
    "modes": modes,
    "sparse": sparse,
    "curved": curved,
    "counts": counts,
}

STRATEGIES: dict[str, ivs.Strategy | str] = {name: strategy or "auto" for name, strategy in catalogue()}
# Hundreds of problems, each with its own chains: fewer than the default's, whose errors are smaller than it shows.
STRATEGIES["NoiseMCMC()"] = ivs.NoiseMCMC(chains=128, islands=4)


# "auto" runs thousands of chains for every problem until its certificate passes; docs/exactness.md tests it in full.
FEWER = {"auto": 48}


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """``verdict``: right (no fault found), close (no std of a component off by more than 15 %, no mean by more than
    0.15 sd, rms), off, or refused (the strategy cannot take the problem)."""

    strategy: str
    kind: str
    verdict: str
    std: float  # of the posterior over what it should be
    std_min: float  # of a component
    std_max: float
    bias: float  # rms over components of (truth - mean) in posterior sd, its mean over runs, less its noise
    nfe: float
    vjps: float
    seconds: float
    why: str


def measured(name: str, strategy: ivs.Strategy | str, kind: Kind) -> Row:
    nan = float("nan")
    started = time.perf_counter()
    try:
        runs = FEWER.get(name, kind.runs)
        report = iv.calibrate(
            kind.operator, kind.prior, noise=kind.noise, strategy=strategy, runs=runs, num_samples=SAMPLES
        )
    except iv.errors.UnsupportedError as error:
        why = str(error).split("there: ")[-1].split(". What would do")[0]
        return Row(
            strategy=name,
            kind=kind.name,
            verdict="refused",
            std=nan,
            std_min=nan,
            std_max=nan,
            bias=nan,
            nfe=nan,
            vjps=nan,
            seconds=nan,
            why=why,
        )
    seconds = time.perf_counter() - started
    if not report.runs:
        return Row(
            strategy=name,
            kind=kind.name,
            verdict="off",
            std=nan,
            std_min=nan,
            std_max=nan,
            bias=nan,
            nfe=report.nfe,
            vjps=nan,
            seconds=seconds,
            why=report.verdict,
        )
    ratio = report.scores["std ratio"].value
    low, high = float(report.stds.min()), float(report.stds.max())
    # The mean over runs of a right posterior has the variance 1 / runs.
    bias = math.sqrt(max(0.0, float(report.biases.square().mean()) - 1 / report.runs))
    noise = 3 / math.sqrt(2 * report.runs)  # three standard errors of a std of one component
    close = 0.85 - noise < low and high < 1.15 + noise and abs(ratio - 1) < 0.15 and bias < 0.15
    verdict = "right" if report.passed else "close" if close else "off"
    return Row(
        strategy=name,
        kind=kind.name,
        verdict=verdict,
        std=ratio,
        std_min=low,
        std_max=high,
        bias=bias,
        nfe=report.nfe,
        vjps=nan,
        seconds=seconds,
        why=report.verdict,
    )


def cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.verdict == "refused":
        return "-"
    if not math.isfinite(row.std):
        return "fails"
    bias = f", {row.bias:.2f}" if row.std > 0.2 else ""  # in its own sd: no number where that is nearly zero
    return f"{'**right**' if row.verdict == 'right' else row.verdict}: {row.std:.2f}{bias}"


def page(rows: dict[tuple[str, str], Row]) -> str:
    kinds = [k for k in KINDS if any(key[1] == k for key in rows)]
    table = [["strategy", *kinds, "evaluations"]]
    for name in STRATEGIES:
        mine = [rows.get((name, k)) for k in kinds]
        if not any(mine):
            continue
        nfe = [r.nfe for r in mine if r is not None and math.isfinite(r.nfe)]
        table.append([f"`{name}`", *map(cell, mine), f"{max(nfe):.4g}" if nfe else ""])
    texts = "\n".join(f"- **{k}**: {TEXTS[k]}." for k in kinds)
    return f"""# Which strategy, when

Written by `python benchmarks/strategies.py`: `iv.calibrate` on small problems of every kind, {RUNS} draws of the prior
with {SAMPLES} samples each ("auto": {FEWER["auto"]}), every strategy with its defaults and the exact denoiser.
`iv.strategies.advise(A, prior, noise)` reads this table for the kind of your problem; `iv.calibrate` is the same test
on the problem itself.

{texts}

Cells: verdict, std of the posterior over what it should be, and bias (rms over components of truth - mean in posterior
sd of the samples, less its noise; left out where that sd is nearly zero).

- **right**: no fault found.
- close: no component's std off by more than 15 % (beyond noise), bias below 0.15.
- off: anything else; the spread says little. Optimisers (REDDiff) return an estimate: a std near 0 is what they are.
- \\-: cannot take the problem.

Evaluations: of the denoiser, per sample, the most of any kind.

{ruled(table)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="strategies with these words")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="of these kinds only")
    options = parser.parse_args()
    rows = {(r.strategy, r.kind): r for r in read(MEASURED, Row)}
    for kind in (KINDS[k]() for k in options.kinds or KINDS):
        for name, strategy in STRATEGIES.items():
            if options.only and not any(word.lower() in name.lower() for word in options.only):
                continue
            row = rows[(name, kind.name)] = measured(name, strategy, kind)
            print(
                f"{kind.name:8s} {name:30s} {row.verdict:8s} std {row.std:.3f} ({row.std_min:.2f} to "
                f"{row.std_max:.2f}) bias {row.bias:.3f} nfe {row.nfe:.4g} {row.seconds:.1f} s",
                flush=True,
            )
            found = [rows[n, k] for n in STRATEGIES for k in KINDS if (n, k) in rows]
            save(MEASURED.parent, "measured", "", found)
            (MEASURED.parent / "measured.md").unlink()
            save(Path(__file__).parents[1] / "docs", "strategies", page(rows), found)


if __name__ == "__main__":
    main()
