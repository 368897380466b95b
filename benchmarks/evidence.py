"""Is the evidence right, and are scalars inferred with it: closed forms, SMC, unknown noise level and length.

    python benchmarks/evidence.py            # about five minutes on one core; writes docs/evidence.md and .csv
    python benchmarks/evidence.py --quick    # few problems, prints only

References are dense: log densities of the data under multivariate normals in long double, and quadrature over the
scalars on a grid of 401 x 401. Tables state what is there; nothing here is a gate.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import invsolve as iv

D = torch.float64
Row = dict[str, object]


# --- references -----------------------------------------------------------------------------------------------------
def log_normal(r: Tensor, covariance: Tensor) -> np.ndarray:
    """log N(r; 0, covariance) for rows r, by a Cholesky factorisation in long double."""
    a = covariance.numpy().astype(np.longdouble)
    n = len(a)
    low = np.zeros_like(a)
    for j in range(n):
        rest = a[j:, j] - low[j:, :j] @ low[j, :j]
        low[j:, j] = rest / np.sqrt(rest[0])
    white = r.numpy().T.astype(np.longdouble)
    for j in range(n):
        white[j] = (white[j] - low[j, :j] @ white[:j]) / low[j, j]
    logs = -0.5 * (white**2).sum(0) - np.log(low.diagonal()).sum() - n / 2 * np.log(2 * np.pi, dtype=np.longdouble)
    return np.asarray(logs)


def log_mixture(y: Tensor, A: Tensor, weights: Tensor, means: Tensor, covariances: Tensor, std: float) -> Tensor:
    parts = [
        log_normal(y - A @ m, A @ c @ A.mT + std**2 * torch.eye(len(A), dtype=D)) + math.log(w)
        for w, m, c in zip(weights.tolist(), means, covariances, strict=True)
    ]
    return torch.from_numpy(np.logaddexp.reduce(np.stack(parts), axis=0).astype(np.float64))


def matern(d: int, length: float) -> Tensor:
    """Correlation of nu = 3/2 on d nodes of distance 1."""
    i = torch.arange(d, dtype=D)
    r = (i[:, None] - i).abs() * math.sqrt(3) / length
    return (1 + r) * torch.exp(-r)


# --- problems -------------------------------------------------------------------------------------------------------
Case = tuple[iv.priors.Prior, Tensor, Tensor, float, Tensor]  # prior, matrix, data (items, m), std, log evidence


def gaussian(d: int, m: int, seed: int, items: int, dtype: torch.dtype = D) -> Case:
    rng = torch.Generator().manual_seed(seed)
    length = float(torch.empty(()).uniform_(2, d / 8, generator=rng))
    std = float(torch.empty(()).uniform_(-4, 0, generator=rng).exp())
    C = matern(d, length).to(dtype)
    A = (torch.randn(m, d, generator=rng, dtype=D) / math.sqrt(d)).to(dtype)
    x = (torch.linalg.cholesky(matern(d, length)) @ torch.randn(d, items, generator=rng, dtype=D)).mT
    y = (x @ A.double().mT + std * torch.randn(items, m, generator=rng, dtype=D)).to(dtype)
    wide = A.double()
    truth = log_normal(y.double(), wide @ C.double() @ wide.mT + std**2 * torch.eye(m, dtype=D))
    prior = iv.priors.GaussianPrior(mean=torch.zeros(d, dtype=dtype), covariance=C)
    return prior, A, y, std, torch.from_numpy(truth.astype(np.float64))


def mixture(d: int, modes: int, seed: int, items: int) -> Case:
    rng = torch.Generator().manual_seed(1000 + seed)
    weights = torch.rand(modes, generator=rng, dtype=D) + 0.2
    weights = weights / weights.sum()
    means = 2 * torch.randn(modes, d, generator=rng, dtype=D)
    roots = torch.randn(modes, d, d, generator=rng, dtype=D) / math.sqrt(d)
    covariances = roots @ roots.mT + 0.1 * torch.eye(d, dtype=D)
    m, std = max(1, d // 2), 0.5
    A = torch.randn(m, d, generator=rng, dtype=D) / math.sqrt(d)
    prior = iv.priors.GaussianMixturePrior(weights=weights, means=means, covariances=covariances)
    y = prior.sample(items, seed=seed) @ A.mT + std * torch.randn(items, m, generator=rng, dtype=D)
    return prior, A, y, std, log_mixture(y, A, weights, means, covariances, std)


# --- evidence -------------------------------------------------------------------------------------------------------
def evidence(name: str, strategy: iv.strategies.Strategy, samples: int, cases: Iterator[Case]) -> Row:
    errors, stated, seconds = [], [], 0.0
    for prior, A, y, std, truth in cases:
        result = iv.solve(iv.operators.Matrix(matrix=A), y, prior, noise=std, strategy=strategy, num_samples=samples)
        assert result.log_evidence is not None and result.log_evidence_se is not None
        errors.append(result.log_evidence - truth)
        stated.append(result.log_evidence_se)
        seconds += result.seconds
    error, se = torch.cat(errors).abs(), torch.cat(stated)
    return {
        "problems": name,
        "strategy": strategy.name,
        "samples": samples,
        "number": len(error),
        "error <= 2 s.e.": float((error <= 2 * se).double().mean()),
        "error, median": float(error.median()),
        "error, largest": float(error.max()),
        "s.e., median": float(se.median()),
        "s.e., largest": float(se.max()),
        "s.e. <= 0.3": float((se <= 0.3).double().mean()),
        "seconds": seconds,
    }


def evidences(groups: int, items: int) -> list[Row]:
    def cases(make: Callable[..., Case], *sizes: int, groups: int = groups, **options: object) -> Iterator[Case]:
        return (make(*sizes, seed, items, **options) for seed in range(groups))

    exact, smc = iv.strategies.Exact(), iv.strategies.SMC()
    return [
        evidence("linear-Gaussian, d = 256, 128 data", exact, 1, cases(gaussian, 256, 128)),
        evidence("the same in float32", exact, 1, cases(gaussian, 256, 128, dtype=torch.float32)),
        evidence("mixtures, d = 8, 3 modes", exact, 1, cases(mixture, 8, 3)),
        evidence("mixtures, d = 32, 3 modes", exact, 1, cases(mixture, 32, 3)),
        evidence("linear-Gaussian, d = 64, 32 data", smc, 64, cases(gaussian, 64, 32)),
        evidence("mixtures, d = 2, 3 modes", smc, 1024, cases(mixture, 2, 3)),
        evidence("mixtures, d = 8, 3 modes", smc, 1024, cases(mixture, 8, 3)),
        evidence("linear-Gaussian, d = 256, 64 data", iv.strategies.SMC(), 256, cases(gaussian, 256, 64)),
    ]


# --- scalars --------------------------------------------------------------------------------------------------------
def scalars(
    seed: int, strategy: iv.strategies.Strategy, hierarchy: iv.Hierarchy, samples: int, *, length: bool
) -> list[Row]:
    """A Matern field of 64 nodes seen at 48 of them: noise std and, with ``length``, correlation length unknown."""
    d, m = 64, 48
    rng = torch.Generator().manual_seed(seed)
    laws = {"noise.std": iv.LogNormal(median=0.1, factor=3.0), "prior.length": iv.LogUniform(low=2.0, high=40.0)}
    std = float(torch.empty(()).uniform_(math.log(0.05), math.log(0.3), generator=rng).exp())
    true_length = float(torch.empty(()).uniform_(math.log(4), math.log(20), generator=rng).exp())
    keep = torch.randperm(d, generator=rng)[:m].sort().values
    x = torch.linalg.cholesky(matern(d, true_length)) @ torch.randn(d, generator=rng, dtype=D)
    y = x[keep] + std * torch.randn(m, generator=rng, dtype=D)

    def make(length: float) -> iv.priors.GaussianPrior:
        return iv.priors.GaussianPrior(mean=torch.zeros(d, dtype=D), covariance=matern(d, length))

    if length:
        prior: iv.priors.Prior = iv.priors.Family(make, length=laws["prior.length"])
        lengths = torch.linspace(math.log(2), math.log(40), 401, dtype=D).exp()
    else:
        prior, lengths = make(true_length), torch.tensor([true_length], dtype=D)
    noise = iv.noise.Gaussian(std=laws["noise.std"])
    A = iv.operators.Subsample(index=keep, in_shape=(d,))
    result = iv.solve(A, y, prior, noise=noise, strategy=strategy, num_samples=samples, hierarchy=hierarchy, seed=seed)

    # Quadrature: eigenvalues of the data's covariance for every length serve all noise levels.
    z = torch.linspace(-6, 6, 401, dtype=D)
    stds = laws["noise.std"].transport(z)
    log_joint = torch.empty(len(lengths), len(z), dtype=D)
    for i, value in enumerate(lengths.tolist()):
        values, vectors = torch.linalg.eigh(matern(d, value)[keep][:, keep])
        total = values + stds[:, None] ** 2
        log_joint[i] = -0.5 * ((vectors.mT @ y).square() / total + total.log()).sum(1) - 0.5 * z.square()
    weights = torch.softmax(log_joint.flatten(), 0).view_as(log_joint)
    rows: list[Row] = []
    for name, value, weight in (("noise.std", stds, weights.sum(0)), ("prior.length", lengths, weights.sum(1))):
        if name not in result.parameters:
            continue
        mean = float((weight * value).sum())
        sd = math.sqrt(float((weight * (value - mean) ** 2).sum()))
        drawn = result[name]
        rows.append(
            {
                "unknown": " and ".join(result.parameters),
                "scalar": name,
                "strategy": strategy.name,
                "method": "lattice" if "lattice" in result.why else "Gibbs",
                "seed": seed,
                "samples": samples,
                "true": std if name == "noise.std" else true_length,
                "mean": mean,
                "std": sd,
                "error of the mean / std": (float(drawn.mean) - mean) / sd,
                "ratio of the std": float(drawn.std) / sd,
                "warned": "yes" if result.warnings else "",
                "seconds": result.seconds,
            }
        )
    return rows


def table(rows: list[Row]) -> str:
    names = list(rows[0])

    def cell(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(cell(r[k]) for k in names) + " |" for r in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    started = time.perf_counter()
    groups, seeds = (2, 1) if options.quick else (10, 8)
    first = evidences(groups, 10)
    second: list[Row] = []
    for seed in range(seeds):
        second += scalars(seed, iv.strategies.Exact(), iv.Hierarchy(), 4000, length=True)
    for seed in range(min(seeds, 3)):
        second += scalars(seed, iv.strategies.Exact(), iv.Hierarchy(method="gibbs", num_sweeps=20), 400, length=False)
        second += scalars(seed, iv.strategies.MMPS(), iv.Hierarchy(num_sweeps=20), 64, length=False)
    second += scalars(0, iv.strategies.Exact(), iv.Hierarchy(method="gibbs", num_sweeps=30), 48, length=True)
    second += scalars(0, iv.strategies.MMPS(num_steps=30), iv.Hierarchy(num_sweeps=20), 24, length=True)
    text = "\n\n".join(
        [
            "# Evidence, and scalars that are not known",
            "Written by `python benchmarks/evidence.py`"
            + f" ({(time.perf_counter() - started) / 60:.1f} minutes with {torch.get_num_threads()} thread(s)).",
            "## Log-evidence against dense formulas\n\nErrors in nats. `Exact` states a bound of its rounding; `SMC` does "
            "not use the closed form of the posterior, but the density of the noisy prior where its dense kernels reach "
            "(up to 128 numbers). Gaussian laws keep their covariance as a diagonal in modes: weights are then constant, "
            "and the stated error is a bound of rounding.",
            table(first),
            "## Noise level and correlation length\n\nA Matern field (smoothness 3/2, std 1) of 64 nodes seen at 48 of "
            "them; priors LogNormal(0.1, factor 3) of the noise std, LogUniform(2, 40) of the length in nodes; reference: "
            "quadrature on 401 x 401 points. `warned`: the solve said that its chains had not mixed.",
            table(second),
            "",
        ]
    )
    print(text)
    if not options.quick:
        (options.out / "evidence.md").write_text(text)
        names = list(dict.fromkeys(key for row in (*first, *second) for key in row))
        with (options.out / "evidence.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=names)
            writer.writeheader()
            writer.writerows([*first, *second])


if __name__ == "__main__":
    main()
