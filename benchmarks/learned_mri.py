"""What a learned prior brings on undersampled MRI: held-out phantoms and the real slice, beside TV and the field prior.

    python benchmarks/learned_mri.py --out docs         # 64 phantoms: hours; writes learned-mri.md and .csv row by row
    python benchmarks/learned_mri.py --out docs --accelerations 8   # replaces the rows of that only
    python benchmarks/learned_mri.py --phantoms 4       # prints only

Scans: 256 x 256 objects, 8 coils, reconstructed on 128 x 128; every scan has its own object, coils, phase, mask and
noise. Weights of TV and the spectrum of the field prior come from other phantoms than those that are scored.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from _heads_scans import GRID, TUNING, Scans, phantoms, slices
from _tables import read, ruled, save
from torch import Tensor

import invsolve as iv
from invsolve.baselines import total_variation, tune_weight
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.priors import GaussianFieldPrior

TV_WEIGHTS = tuple(0.1 * 1.5**k for k in range(10))  # noise stds
TV_ITERATIONS = 200
CHUNK = 8  # scans reconstructed at once
FEW, MANY = 4, 19  # samples


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """Means over scans, and standard errors of the means. PSNR: magnitudes, whole image, peak of the truth; the others:
    real and imaginary parts inside the head. The CRPS of a single image is its mean absolute error."""

    objects: str
    acceleration: float
    method: str
    scans: int
    samples: int
    psnr: float
    psnr_se: float
    gain: float  # of PSNR over TV, scan by scan
    gain_se: float
    limit: float  # the same of the mean of infinitely many samples, estimated from these
    limit_se: float
    nrmse: float
    crps: float
    crps_se: float
    covered: float  # share of truths between the smallest and the largest sample; NaN with too few
    covered_se: float
    nominal: float  # what that share should be
    chi2: float
    seconds: float  # of an image or a sample
    nfe: float
    vjps: float


@final
@dataclass(frozen=True, kw_only=True)
class Cost:
    seconds: float
    nfe: float = 0.0
    vjps: float = 0.0
    chi2: float = float("nan")


def parts(x: Tensor, head: Tensor) -> Tensor:
    """Real and imaginary parts inside the head, ``(..., 2 m)``."""
    inside = x[..., head]
    return torch.cat([inside.real, inside.imag], -1)


def psnrs(scans: Scans, image: Tensor) -> Tensor:
    """dB, one a scan, float64: magnitudes over the whole image, peak of the truth."""
    found = [
        float(iv.metrics.psnr(image[b].abs()[None], truth.abs()[None], data_range=float(scans.peak[b])))
        for b, truth in enumerate(scans.truth)
    ]
    return torch.tensor(found, dtype=torch.float64)


def psnrs_of_many(scans: Scans, samples: Tensor) -> Tensor:
    """dB of the magnitude of the mean of infinitely many samples, from ``(n, scans, H, W)``.

    A mean of n has the squared error of that of many, and a variance besides, an n-th of that of the samples; to first
    order in the magnitude counts what lies along the mean's phase. Where the mean is small beside its own error, as in
    air, half of that variance stays in: the figure is then too low. NaN for one sample, and where nothing is left.
    """
    mean = samples.mean(0)
    along = ((samples - mean) * torch.sgn(mean).conj()).real.double()
    excess = along.square().sum(0) / (len(samples) * (len(samples) - 1))
    squared = ((mean.abs() - scans.truth.abs()).double().square() - excess).flatten(1).mean(1)
    squared = torch.where(squared > 0, squared, torch.nan)
    return 10 * torch.log10(scans.peak.double().square() / squared)


def scored(
    objects: str,
    acceleration: float,
    method: str,
    scans: Scans,
    image: Tensor,
    samples: Tensor | None,
    beside: Tensor,
    cost: Cost,
) -> Row:
    """``beside``: the image that PSNRs are compared with, scan by scan."""
    n, count = len(scans.truth), 0 if samples is None else len(samples)
    nan = float("nan")
    if not bool(torch.view_as_real(image).isfinite().all()):  # a strategy that fails has no score
        return Row(
            objects=objects,
            acceleration=acceleration,
            method=method,
            scans=n,
            samples=count,
            psnr=nan,
            psnr_se=nan,
            gain=nan,
            gain_se=nan,
            limit=nan,
            limit_se=nan,
            nrmse=nan,
            crps=nan,
            crps_se=nan,
            covered=nan,
            covered_se=nan,
            nominal=nan,
            chi2=nan,
            seconds=cost.seconds,
            nfe=cost.nfe,
            vjps=cost.vjps,
        )
    nrmse, crps, covered = [], [], []
    for b in range(n):
        truth, head = scans.truth[b], scans.head[b]
        target = parts(truth, head)
        nrmse.append(float(iv.metrics.nrmse(image[b][head][None], truth[head][None])))
        if samples is None:
            crps.append(float((parts(image[b], head) - target).abs().mean()))
            continue
        values = parts(samples[:, b], head)
        crps.append(float(iv.metrics.crps(values[:, None], target[None])))
        covered.append(float(((values.amin(0) <= target) & (target <= values.amax(0))).double().mean()))
    psnr = psnrs(scans, image)
    baseline = psnrs(scans, beside)
    gain = psnr - baseline
    limit = gain if samples is None else psnrs_of_many(scans, samples) - baseline

    def mean(v: list[float] | Tensor) -> float:
        return float(torch.as_tensor(v, dtype=torch.float64).mean()) if len(v) else float("nan")

    def error(v: list[float] | Tensor) -> float:
        return float(torch.as_tensor(v, dtype=torch.float64).std() / len(v) ** 0.5) if len(v) > 1 else float("nan")

    return Row(
        objects=objects,
        acceleration=acceleration,
        method=method,
        scans=n,
        samples=count,
        psnr=mean(psnr),
        psnr_se=error(psnr),
        gain=mean(gain),
        gain_se=error(gain),
        limit=mean(limit),
        limit_se=error(limit),
        nrmse=mean(nrmse),
        crps=mean(crps),
        crps_se=error(crps),
        covered=mean(covered),
        covered_se=error(covered),
        nominal=(count - 1) / (count + 1) if count else float("nan"),
        chi2=cost.chi2,
        seconds=cost.seconds,
        nfe=cost.nfe,
        vjps=cost.vjps,
    )


def tuned_tv(acceleration: float, count: int = 6) -> tuple[float, Callable[[Scans], Tensor]]:
    """The weight (in noise stds) of least error on phantoms that are not scored, and TV with it, scan by scan."""
    train = phantoms(count, acceleration, seed=TUNING)

    def solver(A: iv.operators.LinearOperator, y: Tensor, *, weight: float, std: float) -> Tensor:
        return total_variation(A, y, weight=weight * std, iterations=TV_ITERATIONS)

    singles = [train.problem.take(torch.tensor([b])) for b in range(count)]
    std = float(sum(float(p.noise.std) for p in singles) / count)
    found = tune_weight(
        lambda A, y, /, *, weight: solver(A, y, weight=weight, std=std),
        [(p.operator, p.data, train.truth[b : b + 1]) for b, p in enumerate(singles)],
        TV_WEIGHTS,
    )
    if found.at_edge:
        print(f"TV weight {found.weight} lies at the edge of what was tried")

    def run(scans: Scans) -> Tensor:
        out = []
        for b in range(len(scans.truth)):
            p = scans.problem.take(torch.tensor([b]))
            out.append(solver(p.operator, p.data, weight=found.weight, std=float(p.noise.std)))
        return torch.cat(out)

    return found.weight, run


def field_of(prior: iv.priors.Prior) -> GaussianFieldPrior:
    """The stationary Gaussian field with the covariance that was estimated from the training images."""
    law = prior.law
    assert law is not None and isinstance(law.modes, SpectralModes) and law.modes.transform.name == "fourier"
    return GaussianFieldPrior(
        shape=prior.shape,
        spectrum=law.variances.double() / law.variances.numel(),
        basis="periodic",
        mean=law.mean,
        kind=prior.kind,
    )


def sampled(
    scans: Scans,
    prior: iv.priors.Prior,
    strategy: iv.strategies.base.Strategy,
    counts: list[int],
    chunk: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Tensor], Cost]:
    """For every scan as many samples ``(n, H, W)`` as ``counts`` says, some scans at a time; costs are of a sample."""
    found: list[Tensor] = []
    started, total = clock(), len(scans.truth)
    nfe, vjps, chi2 = [], [], []
    first = 0
    while first < total:
        last = first
        while last < min(first + CHUNK, total) and counts[last] == counts[first]:
            last += 1
        some = scans.take(list(range(first, last)))
        result = iv.solve(
            some.problem, prior, strategy=strategy, num_samples=counts[first], seed=first, chunk=chunk, throw=False
        )
        found += list(result.samples.unbind(1))
        nfe += [result.nfe] * (last - first)
        vjps += [result.vjps] * (last - first)
        chi2 += result.chi2.double().nanmean(0).tolist()
        first = last
    seconds = (clock() - started) / sum(counts)
    return found, Cost(seconds=seconds, nfe=sum(nfe) / total, vjps=sum(vjps) / total, chi2=sum(chi2) / total)


def of_samples(
    objects: str,
    acceleration: float,
    method: str,
    scans: Scans,
    found: list[Tensor],
    n: int,
    beside: Tensor,
    cost: Cost,
) -> Row:
    """The row of the scans that have ``n`` samples, and of their first ``n``."""
    index = [b for b, x in enumerate(found) if len(x) >= n]
    samples = torch.stack([found[b][:n] for b in index], 1)
    return scored(objects, acceleration, method, scans.take(index), samples.mean(0), samples, beside[index], cost)


def guidances(steps: int) -> dict[str, iv.strategies.base.Strategy]:
    """What the learned prior may be guided by."""
    return {
        "MMPS": iv.strategies.MMPS(num_steps=steps),
        "Jacobian, 3 CG": iv.strategies.MMPS(covariance="jacobian", max_iter=3, num_steps=steps),
        "stated covariance": iv.strategies.MMPS(covariance="law", rtol=1e-2, num_steps=steps),
        "PiGDM": iv.strategies.PiGDM(num_steps=steps),
        "TMPD": iv.strategies.TMPD(num_steps=steps),
    }


LEGEND = """# A learned prior on undersampled MRI

Written by `python benchmarks/learned_mri.py`. Scans of held-out head phantoms and of the real T1 slice: objects of
256 x 256, 8 coils, reconstructed on 128 x 128; every scan has its own object, coils, phase, mask and noise. TV: its
weight is the one of least error on six other phantoms. Field prior: exact draws under the stationary covariance of the
training images. Learned prior: `head-mr-128`, guided by `MMPS()`, which is what `strategy="auto"` runs.

- **PSNR**: magnitudes, whole image, peak of the truth; of the mean of so many samples. **over TV**: the difference,
  scan by scan. **of many**: that difference for the mean of infinitely many samples: what is known of the variance of
  the mean of few is taken from its squared error (of air only half of it: rather too low). **NRMSE**, **CRPS**,
  **covered**: real and imaginary parts inside the head. The CRPS of a single image is its mean absolute error.
- **covered**: the share of truths between the smallest and the largest sample; **nominal**: what it should be.
  +-: standard errors. **s**: of an image or a sample, on two CPU cores that other work shared.
"""
HEAD = (
    "objects",
    "R",
    "method",
    "scans x samples",
    "PSNR, dB",
    "over TV",
    "of many",
    "NRMSE",
    "CRPS",
    "covered",
    "nominal",
    "chi^2",
    "s",
    "nfe",
    "vjps",
)


def cells(r: Row) -> list[str]:
    cells = [
        r.objects,
        f"{r.acceleration:g}",
        r.method,
        f"{r.scans} x {r.samples or 1}",
        f"{r.psnr:.2f} +- {r.psnr_se:.2f}",
        f"{r.gain:+.2f} +- {r.gain_se:.2f}",
        f"{r.limit:+.2f} +- {r.limit_se:.2f}",
        f"{r.nrmse:.4f}",
        f"{r.crps:.5f} +- {r.crps_se:.5f}",
        f"{r.covered:.3f} +- {r.covered_se:.3f}",
        f"{r.nominal:.3f}",
        f"{r.chi2:.3f}",
        f"{r.seconds:.2f}",
        f"{r.nfe:.4g}",
        f"{r.vjps:.4g}",
    ]
    # No coverage of a single image, no error of a single scan; a score that is not a number is a failure, and says so.
    blank = {"of many": not r.samples, "covered": not r.samples, "nominal": not r.samples, "chi^2": not r.samples}
    return ["" if blank.get(name) else cell.replace(" +- nan", "") for name, cell in zip(HEAD, cells, strict=True)]


def table(rows: list[Row]) -> str:
    return ruled([list(HEAD), *map(cells, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="head-mr-128", help="a name or a file of weights")
    parser.add_argument("--phantoms", type=int, default=64, help="scored with 4 samples each")
    parser.add_argument("--coverage", type=int, default=16, help="scans scored with 19 samples")
    parser.add_argument("--slices", type=int, default=2, help="scans of the real slice")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--methods", nargs="+", default=["MMPS"], help="names of guidances")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prior = iv.priors.load(options.prior)
    assert tuple(prior.shape) == (GRID, GRID)
    before = read(options.out / "learned-mri.csv", Row) if options.out else []
    rows = {(r.objects, r.acceleration, r.method, r.samples): r for r in before}

    def add(row: Row) -> None:
        rows[(row.objects, row.acceleration, row.method, row.samples)] = row
        print("| " + " | ".join(cells(row)) + " |", flush=True)
        if options.out:
            found = [rows[k] for k in sorted(rows)]
            save(options.out, "learned-mri", f"{LEGEND}\n{table(found)}", found)

    chosen = {k: v for k, v in guidances(options.steps).items() if k in options.methods}
    for acceleration in options.accelerations:
        weight, tv = tuned_tv(acceleration)
        print(f"R {acceleration:g}: TV weight {weight:.3g} noise stds")
        both = {"phantoms": phantoms(options.phantoms, acceleration), "slice": slices(options.slices, acceleration)}
        for objects, scans in both.items():
            total, most = len(scans.truth), min(options.coverage, len(scans.truth))
            started = time.perf_counter()
            image = tv(scans)
            cost = Cost(seconds=(time.perf_counter() - started) / total)
            add(scored(objects, acceleration, "TV", scans, image, None, image, cost))
            if most:
                few = scans.take(list(range(most)))
                field, cost = sampled(few, field_of(prior), iv.strategies.Exact(), [FEW] * most, 1)
                add(of_samples(objects, acceleration, "field prior", few, field, FEW, image, cost))
            for name, strategy in chosen.items():
                found, cost = sampled(scans, prior, strategy, [MANY] * most + [FEW] * (total - most))
                for n in (FEW, MANY) if most else (FEW,):
                    add(of_samples(objects, acceleration, f"learned prior, {name}", scans, found, n, image, cost))


if __name__ == "__main__":
    main()
