"""Beyond Gaussian priors, where the answer is still known: prior sampling of mixtures, and what MMPS gets wrong.

    python benchmarks/mixtures.py            # some minutes; writes docs/mixtures.md and docs/mixtures.csv
    python benchmarks/mixtures.py --quick    # few samples, prints only

Moment matching is exact for Gaussian priors only. This table states its true errors elsewhere; nothing here is a gate.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
from pathlib import Path

import torch
from torch import Tensor

import invsolve as iv

D = torch.float64


def three_modes() -> iv.priors.GaussianMixturePrior:
    """2-D, three separated modes: (-4, 0), (4, 0), (0, 5), weights .5, .3, .2, stds .5, .7, .3."""
    means = torch.tensor([[-4.0, 0], [4, 0], [0, 5]], dtype=D)
    covariances = torch.stack([s**2 * torch.eye(2, dtype=D) for s in (0.5, 0.7, 0.3)])
    return iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.5, 0.3, 0.2], dtype=D), means=means, covariances=covariances
    )


def two_modes() -> iv.priors.GaussianMixturePrior:
    """16-D, modes at -2 and +2 in every coordinate, weights .65, .35, correlated and white."""
    i = torch.arange(16, dtype=D)
    covariances = torch.stack([0.7 ** (i[:, None] - i).abs(), 0.5 * torch.eye(16, dtype=D)])
    means = torch.stack([torch.full((16,), -2.0, dtype=D), torch.full((16,), 2.0, dtype=D)])
    return iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.65, 0.35], dtype=D), means=means, covariances=covariances
    )


def sliced_w2(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Root mean over random directions of the squared 1-D W2 between equally many points (n, d)."""
    rng = torch.Generator().manual_seed(0)
    u = torch.randn(x.shape[1], directions, generator=rng, dtype=D)
    u = u / u.norm(dim=0)
    return float(((x @ u).sort(0).values - (y @ u).sort(0).values).square().mean().sqrt())


def nearest(prior: iv.priors.GaussianMixturePrior, x: Tensor) -> Tensor:
    """The fraction of points in each mode, by responsibility."""
    return prior.responsibilities(x, 1e-3).mean(0)


def prior_sampling(n: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, prior in {"2-D, three modes": three_modes(), "16-D, two modes": two_modes()}.items():
        exact = prior.sample(n, seed=1)
        floors = sorted(sliced_w2(prior.sample(n, seed=10 + s), exact) for s in range(9))
        methods = {
            "UniPC-3, 50 (default)": iv.strategies.Unconditional(),
            "DPM-Solver++(2M), 50": iv.strategies.Unconditional(sampler=iv.samplers.DPMSolver2M()),
            "SDE-2M, 50": iv.strategies.Unconditional(sampler=iv.samplers.SDEDPMSolver2M()),
            "ER-SDE-3, 50": iv.strategies.Unconditional(sampler=iv.samplers.ERSDE(order=3)),
            "Heun, 50": iv.strategies.Unconditional(sampler=iv.samplers.Heun()),
            "ancestral, 50": iv.strategies.Unconditional(sampler=iv.samplers.Ancestral()),
        }
        for label, strategy in methods.items():
            result = iv.sample(prior, num_samples=n, strategy=strategy, seed=3)
            weights = nearest(prior, result.samples)
            z = (weights - prior.weights) / (prior.weights * (1 - prior.weights) / n).sqrt()
            rows.append(
                {
                    "prior": name,
                    "sampler": label,
                    "samples": n,
                    "evaluations": result.nfe,
                    "largest weight error": float((weights - prior.weights).abs().max()),
                    "in s.e.": float(z.abs().max()),
                    "sliced W2": sliced_w2(result.samples, exact),
                    "floor, median": floors[4],
                    "floor, largest": floors[-1],
                }
            )
    return rows


def random_mixture(
    d: int, k: int, seed: int
) -> tuple[iv.priors.GaussianMixturePrior, iv.operators.Matrix, Tensor, float]:
    """k modes in R^d with random means (spread 3), covariances and weights, seen through d // 2 random rows."""
    rng = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(k, d, generator=rng, dtype=D)
    factors = torch.randn(k, d, d, generator=rng, dtype=D) / math.sqrt(d)
    covariances = 0.5 * factors @ factors.mT + 0.1 * torch.eye(d, dtype=D)
    weights = torch.rand(k, generator=rng, dtype=D) + 0.2
    prior = iv.priors.GaussianMixturePrior(weights=weights / weights.sum(), means=means, covariances=covariances)
    A = torch.randn(max(1, d // 2), d, generator=rng, dtype=D) / math.sqrt(d)
    y = A @ prior.sample(1, seed=seed)[0] + 0.3 * torch.randn(len(A), generator=rng, dtype=D)
    return prior, iv.operators.Matrix(matrix=A), y, 0.3


def spike_slab(
    d: int, seed: int
) -> tuple[iv.priors.Prior, iv.priors.GaussianMixturePrior, iv.operators.Matrix, Tensor, float]:
    """d independent spike-slab coefficients (slab probability .3, std 1; spike std .05), and the same law with all
    2^d parts.
    """
    weight, slab, spike = 0.3, 1.0, 0.05
    prior = iv.priors.SparsePrior(
        shape=(d,), coefficients=iv.priors.SpikeSlab(weight=weight, spike=spike, slab=slab), dtype=D
    )
    on = torch.tensor(list(itertools.product([0.0, 1.0], repeat=d)), dtype=D)
    weights = (weight**on * (1 - weight) ** (1 - on)).prod(1)
    covariances = torch.diag_embed(on * slab**2 + (1 - on) * spike**2)
    mixture = iv.priors.GaussianMixturePrior(
        weights=weights / weights.sum(), means=torch.zeros(len(on), d, dtype=D), covariances=covariances
    )
    rng = torch.Generator().manual_seed(seed)
    A = torch.randn(d // 2, d, generator=rng, dtype=D) / math.sqrt(d // 2)
    y = A @ mixture.sample(1, seed=seed)[0] + 0.1 * torch.randn(d // 2, generator=rng, dtype=D)
    return prior, mixture, iv.operators.Matrix(matrix=A), y, 0.1


def posterior_errors(n: int, problems: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []

    def score(
        family: str,
        seed: int,
        prior: iv.priors.Prior,
        exact: iv.priors.GaussianMixturePrior,
        A: iv.operators.Matrix,
        y: Tensor,
        std: float,
    ) -> None:
        truth = exact.posterior(A, y, std)
        mean, sd = truth.mean[0], truth.std[0]
        for label, strategy in {"MMPS": iv.strategies.MMPS(), "exact draws": iv.strategies.Exact()}.items():
            result = iv.solve(
                A,
                y,
                exact if label == "exact draws" else prior,
                noise=std,
                strategy=strategy,
                num_samples=n,
                seed=1,
                throw=False,
            )
            drawn = result.map(lambda x: x)  # statistics of the samples, also where the closed form has its own
            ratio = drawn.std / sd
            levels = result.samples[~result.failed].sort(0).values
            low, high, nominal = iv.metrics.interval_ranks(len(levels), 0.9)
            draws = truth.sample(4000, seed=7)[:, 0]
            cover = float(((draws >= levels[low - 1]) & (draws <= levels[high - 1])).double().mean())
            weight_error = float("nan")
            if "mixture" in family:
                got = exact.responsibilities(result.samples[~result.failed], 1e-3).mean(0)
                weight_error = float((got - truth.weights[0]).abs().max())
            rows.append(
                {
                    "family": family,
                    "seed": seed,
                    "method": label,
                    "samples": n,
                    "e_mean": float(((drawn.mean - mean) / sd).square().mean().sqrt()),
                    "std min": float(ratio.min()),
                    "std max": float(ratio.max()),
                    "weight error": weight_error,
                    "cover90": cover,
                    "evaluations": result.nfe,
                    "vjps": result.vjps,
                    "seconds": result.seconds,
                }
            )

    for name, prior in {"mixture, 2-D, three modes": three_modes(), "mixture, 16-D, two modes": two_modes()}.items():
        for seed in range(problems):
            rng = torch.Generator().manual_seed(seed)
            n_in = prior.mean.numel()
            A = iv.operators.Matrix(matrix=torch.randn(n_in // 2, n_in, generator=rng, dtype=D) / math.sqrt(n_in))
            y = A(prior.sample(1, seed=seed))[0] + 0.5 * torch.randn(n_in // 2, generator=rng, dtype=D)
            score(name, seed, prior, prior, A, y, 0.5)
    for seed in range(problems):
        prior, A, y, std = random_mixture(8, 3, seed)
        score("mixture, random, 8-D, three modes", seed, prior, prior, A, y, std)
    for seed in range(problems):
        sparse, mixture, A, y, std = spike_slab(8, seed)
        score("spike-slab, 8-D", seed, sparse, mixture, A, y, std)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    names = list(rows[0])
    cell = lambda v: "-" if isinstance(v, float) and math.isnan(v) else (f"{v:.3g}" if isinstance(v, float) else str(v))  # noqa: E731
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(cell(r[k]) for k in names) + " |" for r in rows])


def summary(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Median and worst over the problems of a family."""
    out: list[dict[str, object]] = []
    for key in dict.fromkeys((r["family"], r["method"]) for r in rows):
        group = [r for r in rows if (r["family"], r["method"]) == key]
        column = lambda name: torch.tensor([float(r[name]) for r in group])  # type: ignore[arg-type] # noqa: E731, B023
        e, w = column("e_mean"), column("weight error")
        out.append(
            {
                "family": key[0],
                "method": key[1],
                "problems": len(group),
                "e_mean median": float(e.median()),
                "e_mean worst": float(e.max()),
                "std ratio min": float(column("std min").min()),
                "std ratio max": float(column("std max").max()),
                "mode weights off by > 0.05": f"{int((w > 0.05).sum())} of {len(group)}"
                if not bool(w.isnan().all())
                else "-",
                "cover90 median": float(column("cover90").median()),
                "evaluations": float(column("evaluations").median()),
                "vjps": float(column("vjps").median()),
                "seconds": float(column("seconds").median()),
            }
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    n, problems = (2000, 2) if options.quick else (16384, 10)
    sampled, errors = prior_sampling(4 * n), posterior_errors(n, problems)
    text = "\n\n".join(
        [
            "# Beyond Gaussian priors",
            "Written by `python benchmarks/mixtures.py`.",
            "## Sampling the prior\n\nMode weights against the truth in standard errors of as many exact draws; "
            "sliced W2 to exact draws (64 directions) beside the median and largest of nine exact sets (the floor).",
            table(sampled),
            "## Posteriors by moment matching\n\n"
            "The posterior is a mixture in closed form (spike-slab: all 2^8 parts). `e_mean`: rms error of the mean in "
            "posterior standard deviations; std ratios: smallest and largest of any component; cover90: posterior mass "
            "of the sampled rank intervals, nominally 0.9. **Moment matching is an approximation here**, and coverage "
            "alone does not show it.",
            table(summary(errors)),
            "",
        ]
    )
    print(text)
    if not options.quick:
        (options.out / "mixtures.md").write_text(text)
        with (options.out / "mixtures.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(errors[0]))
            writer.writeheader()
            writer.writerows(errors)


if __name__ == "__main__":
    main()
