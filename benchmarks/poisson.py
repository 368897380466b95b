"""Counts: posteriors under Poisson noise against quadrature, beside the Gaussian noise of std sqrt(y) that replaces it.

    python benchmarks/poisson.py            # some minutes; writes docs/poisson.md and docs/poisson.csv
    python benchmarks/poisson.py --quick    # fewer counts and samples, prints only

Every unknown is one log-normal intensity seen by one detector, so that the truth is an integral in one dimension.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _tables import ruled, save
from numpy.typing import NDArray
from torch import Tensor

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.strategies.base import Strategy

D = torch.float64
SIZE, ITEMS, SPREAD, SEED = 32, 2, 0.6, 5
COUNTS = (0.2, 1.0, 5.0, 30.0, 300.0)
GAINS = torch.exp(torch.linspace(-0.7, 0.7, SIZE, dtype=D))
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to the posterior at one level of counts; 0 samples: by quadrature."""

    counts: float  # expected, of an intensity of 1 at a gain of 1
    background: float
    method: str
    samples: int
    mean_error: float  # rms over the entries, in posterior std
    worst_mean_error: float
    std_ratio: float  # mean over the entries
    std_ratio_min: float
    std_ratio_max: float
    chi2: float
    seconds: float


def forward(x: Tensor) -> Tensor:
    return GAINS * torch.exp(x)


def moments(log_likelihood: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Mean and std of the intensity ``(items, entries)``; nodes over 18 std of its logarithm."""
    t = SPREAD * np.linspace(-9, 9, 6001)[:, None, None]
    log = log_likelihood(GAINS.numpy() * np.exp(t)) - 0.5 * (t / SPREAD) ** 2
    w = np.exp(log - log.max(0))
    w /= w.sum(0)
    mean = (w * np.exp(t)).sum(0)
    return mean, np.sqrt((w * (np.exp(t) - mean) ** 2).sum(0))


def compared(
    counts: float,
    background: float,
    method: str,
    samples: int,
    found: tuple[Array, Array],
    truth: tuple[Array, Array],
    chi2: float,
    seconds: float,
) -> Row:
    error, ratio = (found[0] - truth[0]) / truth[1], found[1] / truth[1]
    return Row(
        counts=counts,
        background=background,
        method=method,
        samples=samples,
        mean_error=float(np.sqrt((error**2).mean())),
        worst_mean_error=float(np.abs(error).max()),
        std_ratio=float(ratio.mean()),
        std_ratio_min=float(ratio.min()),
        std_ratio_max=float(ratio.max()),
        chi2=chi2,
        seconds=seconds,
    )


def rows(counts: float, samples: int) -> list[Row]:
    A = iv.operators.from_callable(forward, (SIZE,), (SIZE,), dtype=D)
    prior = iv.priors.GaussianPrior(mean=torch.zeros(SIZE, dtype=D), covariance=SPREAD**2 * torch.eye(SIZE, dtype=D))
    background = 0.2 * counts
    noise = iv.noise.Poisson(counts_per_unit=counts, background=background)
    source = Draws.for_rows(SEED, list(range(ITEMS)), [0] * ITEMS, torch.device("cpu"))
    data = noise.sample(A(prior.sample(ITEMS, seed=SEED)), source)
    y = data.numpy()

    def poisson(m: Array) -> Array:
        return np.asarray(y * np.log(counts * m + background) - counts * m)

    def gaussian(m: Array) -> Array:
        return np.asarray(-0.5 * (y - counts * m - background) ** 2 / np.maximum(y, 1))

    truth = moments(poisson)
    out = [compared(counts, background, "Gaussian noise, exactly", 0, moments(gaussian), truth, np.nan, 0.0)]
    strategies: dict[str, Strategy] = {
        "NoiseMCMC": iv.strategies.NoiseMCMC(chains=max(64, samples)),
        "SMC": iv.strategies.SMC(num_steps=25, tempering=0.5),
        "MMPS": iv.strategies.MMPS(covariance="jacobian"),
    }
    for name, strategy in strategies.items():
        start = time.perf_counter()
        result = iv.solve(A, data, prior, noise=noise, strategy=strategy, num_samples=samples, seed=0)
        seconds = time.perf_counter() - start
        derived = result.map(torch.exp)
        found = derived.mean.numpy(), derived.std.numpy()
        out.append(compared(counts, background, name, samples, found, truth, float(result.chi2.mean()), seconds))
    return out


def table(found: list[Row]) -> str:
    head = ["counts", "method", "mean error (rms)", "worst", "std ratio (mean)", "least", "largest", "chi^2", "seconds"]
    lines = [
        [
            f"{r.counts:g}",
            r.method,
            f"{r.mean_error:.3f}",
            f"{r.worst_mean_error:.2f}",
            f"{r.std_ratio:.3f}",
            f"{r.std_ratio_min:.2f}",
            f"{r.std_ratio_max:.2f}",
            "" if np.isnan(r.chi2) else f"{r.chi2:.2f}",
            f"{r.seconds:.0f}" if r.samples else "",
        ]
        for r in found
    ]
    return ruled([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = 128 if options.quick else 1024
    found = [row for counts in (COUNTS[1:2] if options.quick else COUNTS) for row in rows(counts, samples)]
    text = "\n\n".join(
        [
            "# Counts",
            "Written by `python benchmarks/poisson.py`; one thread.",
            f"{SIZE} log-normal intensities (std of the logarithm {SPREAD:g}), each seen by one detector of gain 0.5 to 2, "
            f"in {ITEMS} data sets. `counts`: expected at an intensity and a gain of 1; a fifth of that is background. "
            "Against quadrature: errors of the posterior mean in posterior standard deviations, ratios of the standard "
            f"deviation. {samples} samples by each strategy: an exact sampler of independent draws has a mean error of "
            f"{samples**-0.5:.3f} and std ratios within about {3 * (2 * samples) ** -0.5:.0%} (more where the posterior "
            "has heavy tails).",
            table(found),
            "*Gaussian noise, exactly* is the posterior, by quadrature and so without any sampling error, under noise of "
            "std sqrt(y), at least 1: what replaces a Poisson likelihood where there is none. MMPS linearises exp at every "
            "step, and is an approximation; so is what SMC's weights must correct, in all entries at once.",
        ]
    )
    print(text)
    if not options.quick:
        save(options.out, "poisson", text, found)


if __name__ == "__main__":
    main()
