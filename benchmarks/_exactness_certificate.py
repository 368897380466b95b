"""Does a certificate mean what it says? Many small problems, each with a gold standard of a few seconds at most."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from _exactness_problems import Known, banana, elliptic, funnel_problem, mixture, phase, sparse
from _exactness_scores import errors

import invsolve as iv
from invsolve.priors.base import Prior

LIMITS = {"mean": 0.15, "low": 0.85, "high": 1.15}  # of what is called right


@dataclass(frozen=True, kw_only=True)
class Verdict:
    problem: str
    kind: str
    reached: bool | None  # None: the result has no certificate
    right: bool
    mean: float
    std_min: float
    std_max: float
    weight: float
    seconds: float
    note: str = ""


def certificate_problems(count: int = 200, seed: int = 0) -> Iterator[Known]:
    """Mixtures, sparse signals and curved operators in turn, of random size, noise and data."""
    rng = torch.Generator().manual_seed(seed)

    def pick(*values: object) -> object:
        return values[int(torch.randint(len(values), (1,), generator=rng))]

    def between(low: float, high: float) -> float:
        return low * (high / low) ** float(torch.rand((), generator=rng))

    for i in range(count):
        number = 10_000 * (seed + 1) + i
        kind = ("mixture", "sparse", "banana", "sparse", "funnel", "mixture", "sparse", "elliptic", "phase", "sparse")[
            i % 10
        ]
        if kind == "mixture":
            yield mixture(f"mixture-{number}", pick(2, 4, 8, 16, 32), pick(1, 2, 3, 4), number, "certificate")  # type: ignore[arg-type]
        elif kind == "sparse":
            law = pick("laplace", "student5", "spike-slab", "laplace")
            task = pick("denoising", "inpainting", "deconvolution", "partial Fourier")
            shape = pick((16,), (32,), (4, 4), (4, 8))
            noise = between(0.05, 0.3)
            yield sparse(law, pick("dct", "haar"), task, shape, noise, number, 0.15)  # type: ignore[arg-type]
        elif kind == "banana":
            yield banana(pick(2, 4, 6, 8), between(0.3, 2), between(0.05, 0.5), number)  # type: ignore[arg-type]
        elif kind == "funnel":
            yield funnel_problem(pick(2, 4, 8), between(0.05, 0.5), number)  # type: ignore[arg-type]
        elif kind == "elliptic":
            yield elliptic(pick(16, 32), pick(6, 10), between(0.005, 0.05), 0.3, between(0.5, 1.5), number, 300)  # type: ignore[arg-type]
        else:
            d = int(pick(4, 6, 8))  # type: ignore[call-overload]
            yield phase(d, 4 * d, between(0.05, 0.3), float(torch.rand((), generator=rng)) * 0.8 + 0.1, number, 300)


def denoiser_only(prior: iv.priors.GaussianMixturePrior) -> Prior:
    """The same law, known through its denoiser and nothing else."""
    return iv.priors.from_denoiser(
        prior._denoise, shape=tuple(prior.shape), mean=prior.mean, scale=prior.scale, detail=prior.detail
    )


def shown(problem: Known) -> Prior:
    """The prior as the solver sees it: of a mixture the denoiser only, or the closed form would be all there is."""
    prior = problem.prior
    return denoiser_only(prior) if isinstance(prior, iv.priors.GaussianMixturePrior) else prior


def verdict(problem: Known, *, budget: float, samples: int, seed: int) -> Verdict:
    """One run of ``strategy="auto"`` with a budget of seconds, if this version of `solve` takes one."""
    start, kind = time.perf_counter(), problem.name.split("-")[0]
    nan = math.nan
    try:
        result = iv.solve(
            problem.operator,
            problem.data,
            shown(problem),
            noise=problem.noise,
            num_samples=samples,
            seed=seed,
            throw=False,
            budget=budget,
        )
    except iv.errors.InvsolveError as error:
        return Verdict(
            problem=problem.name,
            kind=kind,
            reached=False,
            right=False,
            mean=nan,
            std_min=nan,
            std_max=nan,
            weight=nan,
            seconds=time.perf_counter() - start,
            note=f"{type(error).__name__}: {error}"[:120],
        )
    seconds = time.perf_counter() - start
    certificate = getattr(result, "certificate", None)
    e = errors(problem, result.samples, result.weights)
    right = e.mean <= LIMITS["mean"] and e.std_min >= LIMITS["low"] and e.std_max <= LIMITS["high"]
    return Verdict(
        problem=problem.name,
        kind=kind,
        reached=None if certificate is None else bool(certificate.reached),
        right=right,
        mean=e.mean,
        std_min=e.std_min,
        std_max=e.std_max,
        weight=e.weight,
        seconds=seconds,
    )


def summary(verdicts: list[Verdict]) -> list[list[str]]:
    """A row for each kind and for all: problems, certified, of these right, right though not certified, seconds."""
    rows = []
    for kind in [*dict.fromkeys(v.kind for v in verdicts), "all"]:
        group = [v for v in verdicts if kind in (v.kind, "all")]
        sure = [v for v in group if v.reached]
        rest = [v for v in group if not v.reached]
        seconds = sorted(v.seconds for v in group)[len(group) // 2]
        rows.append(
            [
                kind,
                str(len(group)),
                f"{len(sure)}" if any(v.reached is not None for v in group) else "no certificate",
                f"{sum(v.right for v in sure)} of {len(sure)}",
                f"{sum(v.right for v in rest)} of {len(rest)}",
                f"{seconds:.1f}",
            ]
        )
    return rows
