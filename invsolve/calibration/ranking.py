"""What `calibrate` takes from each run: where the truth stands in its pool, the truth and its posterior samples.

Under calibration the n + 1 points of a pool are exchangeable given the data. Hence the rank of the truth is uniform for
*any* quantity that treats the points alike, also one that is standardised by the pool's own mean and std; and, given
the pools, the null covariance of the scores of many quantities is known: that of a point drawn from the pool.

Weighted samples: the truth gets the weight of one of ``ess`` equal samples, 1 / (ess + 1), the others share the rest,
and the rank is read from the weighted CDF at a uniform place within the truth's own step (and its ties). For equal
weights this is the usual rank with ties broken at random. Resampling to equal weights would repeat samples: the truth
then falls below the smallest of ess different points in one of ess + 1 runs, not in one of n + 1, and a right posterior
would look too narrow. A failed sample has weight zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, final

import torch
from torch import Tensor

from invsolve.calibration.uniformity import location_scores, scale_scores
from invsolve.core.arrays import to_real
from invsolve.core.random import Draws
from invsolve.core.rows import reduced, rows_of
from invsolve.core.validation import Shape
from invsolve.errors import invalid, invalid_type
from invsolve.problem import Problem

ALL = 64  # components: up to this many are all ranked
SOME = 32  # of longer signals: as many random ones
PROJECTIONS = 8  # random directions, the same for all runs; twice as many for longer signals
OWN = ("energy", "max", "log-likelihood", "TARP distance", "spread")
FACTORS = torch.tensor([0.5, 0.6, 0.7, 0.76, 0.82, 0.86, 0.9, 0.93, 0.96, 0.98, 1.0], dtype=torch.float64, device="cpu")
_SHIFT = 0.5  # pool stds: the chord of the scores, which flatten for larger shifts
_ACTORS = 32  # samples that stand for the truth in what-if questions
_CHUNK = 2**18  # numbers of a signal batch in one call of a functional

Functional = Callable[[Tensor], Any]  # (rows, *shape) -> (rows,)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is the same for all runs. Components are the real values of a signal: complex entries are two."""

    shape: Shape
    num_samples: int
    seed: int
    index: Tensor  # (k,) the ranked components
    directions: Tensor  # (p, d), of the standardised signal
    references: Tensor  # (m, d) prior draws: run r measures TARP distances from the (r mod m)-th
    scale: Tensor  # (d,) prior stds, the unit of those distances; zero for what the prior knows
    functionals: Mapping[str, Functional]
    names: tuple[str, ...]  # of the ranked quantities: components, projections, OWN, functionals

    @classmethod
    def make(cls, pilot: Tensor, num_samples: int, seed: int, functionals: Mapping[str, Functional]) -> Plan:
        """From prior draws ``(m, *shape)`` that serve no other purpose."""
        flat = to_real(pilot).double()
        size, draws = flat.shape[1], {}
        many = PROJECTIONS if size <= ALL else 2 * PROJECTIONS
        many = 0 if size == 1 else many
        for purpose, rows in (("calibrate, components", 1), ("calibrate, directions", many)):
            source = Draws.for_rows(seed, [0] * rows, list(range(rows)), pilot.device, purpose=purpose)
            draws[purpose] = source.normal((size,), torch.float64, step=0)
        index = torch.arange(size, device=pilot.device)
        if size > ALL:
            index = draws["calibrate, components"][0].argsort()[:SOME].sort().values
        components = [_name(int(i), tuple(pilot.shape[1:]), pilot.is_complex()) for i in index]
        return cls(
            shape=tuple(pilot.shape[1:]),
            num_samples=num_samples,
            seed=seed,
            index=index,
            directions=draws["calibrate, directions"] / size**0.5,
            references=flat,
            scale=flat.std(0),
            functionals=functionals,
            names=(*components, *(f"projection {i}" for i in range(many)), *OWN, *functionals),
        )

    @property
    def groups(self) -> dict[str, list[int]]:
        """Columns of the ranks by kind."""
        k, p = len(self.index), len(self.directions)
        return {
            "components": list(range(k)),
            "projections": list(range(k, k + p)),
            "functionals": list(range(k + p, len(self.names))),
        }


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """``rows``: one of each per run, runs first. ``sums``: over the runs that are good."""

    rows: dict[str, Tensor]
    sums: dict[str, Tensor]


def measure(
    plan: Plan, problem: Problem, truth: Tensor, samples: Tensor, weights: Tensor, numbers: list[int]
) -> Measured:
    """The runs ``numbers`` (b of them) of ``truth`` ``(b, *shape)`` and ``samples`` ``(n, b, *shape)``.

    ``weights`` ``(n, b)`` sum to 1 per run; where they are positive, the sample is finite. A run without two such
    samples (or with NaN weights) is not good.
    """
    n, b = weights.shape
    good = torch.isfinite(weights).all(0) & ((weights > 0).sum(0) >= 2)
    weights = torch.where(good, weights.double(), 1 / n)
    dead = (weights == 0) | ~good
    # A dead sample must not be NaN, and at a place where operators are defined: the truth is one.
    samples = torch.where(dead.view(n, b, *([1] * (truth.ndim - 1))), truth[None], samples)
    ess = 1 / weights.square().sum(0)
    w = torch.cat([1 / (ess + 1)[None], weights * (ess / (ess + 1))])  # (n + 1, b)

    points = torch.cat([truth[None], samples])
    flat = to_real(points.flatten(0, 1)).double().view(n + 1, b, -1)
    mean = torch.einsum("nb,nbd->bd", w, flat)
    std = torch.einsum("nb,nbd->bd", w, (flat - mean).square()).sqrt()
    white = torch.where(std > 0, (flat - mean) / std, 0.0)
    components = flat[..., plan.index]
    references = plan.references[torch.tensor(numbers, device=flat.device) % len(plan.references)]
    away = torch.where(plan.scale > 0, (flat - references) / plan.scale, 0.0)
    energy, peak, fit, own = _functionals(plan, problem, points)
    spread = white.square().sum(2)
    values = torch.cat(
        [
            components,
            white @ plan.directions.mT,
            torch.stack([energy, peak, fit, away.square().sum(2), spread], 2),
            own,
        ],
        2,
    )  # (n + 1, b, K)
    draws = Draws.for_rows(plan.seed, numbers, [0] * b, flat.device, purpose="calibrate, ties")
    places = torch.special.ndtr(draws.normal((values.shape[2],), torch.float64, step=0))
    rows = {"ranks": _ranks(values, w, places), "good": good, "ess": ess, "lift": _lift(spread, w)}
    rows |= _scores(flat, weights, ess, plan.index)
    order = components.argsort(dim=0, stable=True)
    rows["crps"], rows["crps expected"] = _crps(components, weights, order)
    sums = _null(components, w * good, order, plan.num_samples)
    return Measured(rows={k: v.cpu() for k, v in rows.items()}, sums={k: v.cpu() for k, v in sums.items()})


def _name(i: int, shape: Shape, is_complex: bool) -> str:
    part = ("",) if not is_complex else (".re", ".im")
    entry, place = divmod(i, len(part))
    where = []
    for length in reversed(shape):
        entry, k = divmod(entry, length)
        where.append(str(k))
    return f"x[{', '.join(reversed(where))}]{part[place]}"


# --- quantities -----------------------------------------------------------------------------------------------------
def _functionals(plan: Plan, problem: Problem, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Energy, maximum, log-likelihood ``(n + 1, b)`` and the user's ``(n + 1, b, u)``, a group of points at a time."""
    total, b = points.shape[:2]
    group = max(1, _CHUNK // max(1, b * max(prod(plan.shape), prod(problem.operator.out_shape))))
    energy, peak, fit, own = [], [], [], []
    for x in torch.split(points, group):
        many = len(x)
        rows = x.flatten(0, 1)
        flat = rows.flatten(1)
        energy.append(flat.abs().double().square().sum(1).view(many, b))
        peak.append((flat.abs() if flat.is_complex() else flat).amax(1).double().view(many, b))
        likelihood = problem.take(torch.arange(b, device=x.device).repeat(many)).log_likelihood(rows).double()
        fit.append(torch.nan_to_num(likelihood, nan=-torch.inf, neginf=-torch.inf).view(many, b))
        own.append(
            torch.stack([_own(name, f, rows).view(many, b) for name, f in plan.functionals.items()], 2)
            if plan.functionals
            else points.real.new_zeros(many, b, 0, dtype=torch.float64)
        )
    return torch.cat(energy), torch.cat(peak), torch.cat(fit), torch.cat(own)


def _own(name: str, function: Functional, x: Tensor) -> Tensor:
    where = f"functionals[{name!r}](x)"
    value = rows_of("calibrate", where, function, x)
    if value.is_complex():
        raise invalid_type("calibrate", where, "a real tensor", str(value.dtype))
    if tuple(value.shape) != (len(x),):
        want = f"of shape ({len(x)},), one number for each row of x"
        raise invalid("calibrate", where, want, *reduced(x, value, option=False))
    if bool(value.isnan().any()):
        raise invalid("calibrate", where, "without NaN: it has no rank", f"{int(value.isnan().sum())} NaN")
    return value.detach().double()


# --- ranks and what they would be -----------------------------------------------------------------------------------
def _ranks(values: Tensor, w: Tensor, places: Tensor) -> Tensor:
    """Ranks 0..n of the first point by the weighted CDF, ``(b, K)`` int64; ``places`` uniform in (0, 1)."""
    n = len(values) - 1
    truth, others = values[0], values[1:]
    below = torch.einsum("nb,nbk->bk", w[1:], (others < truth).double())
    ties = torch.einsum("nb,nbk->bk", w[1:], (others == truth).double())
    u = below + places * (ties + w[0, :, None])
    return (u * (n + 1)).floor().long().clamp(0, n)


def _null(components: Tensor, w: Tensor, order: Tensor, n: int) -> dict[str, Tensor]:
    """The covariance of the scores of a point drawn from the pool, and the mean score per pool std of shift; summed."""
    weight = w[..., None].expand(components.shape).gather(0, order)
    edges = weight.cumsum(0)
    middle = (edges - weight / 2) / edges[-1:].clamp_min(torch.finfo(torch.float64).tiny)
    rank = torch.empty_like(middle).scatter_(0, order, middle).mul(n + 1).floor().long().clamp(0, n)
    sums = {}
    for name, table in (("location", location_scores(n)), ("scale", scale_scores(n))):
        score = table.to(rank.device)[rank]
        sums[name] = torch.einsum("nbk,nbl->kl", score * w[..., None], score)
    # The first actors, moved by a step: how much higher are they in their pool?
    sorted_, actors = components.gather(0, order), components[1 : 1 + _ACTORS]
    mean = (components * w[..., None]).sum(0) / w.sum(0).clamp_min(1e-300)[:, None]
    std = (((components - mean).square() * w[..., None]).sum(0) / w.sum(0).clamp_min(1e-300)[:, None]).sqrt()
    table, k = location_scores(n).to(rank.device), sorted_.permute(1, 2, 0).contiguous()

    def score_at(x: Tensor) -> Tensor:
        place = torch.searchsorted(k, x.permute(1, 2, 0).contiguous()).clamp(1, n + 1) - 1
        at = middle.permute(1, 2, 0).gather(2, place)
        return table[(at * (n + 1)).floor().long().clamp(0, n)]

    alive = (w[1 : 1 + _ACTORS] > 0).double().T[:, None]  # (b, 1, actors)
    rise = (score_at(actors + _SHIFT * std) - score_at(actors - _SHIFT * std)) / (2 * _SHIFT) * alive
    sums["slope"] = (rise.sum(2) / alive.sum(2).clamp_min(1)).sum(0)
    return sums


def _lift(spread: Tensor, w: Tensor) -> Tensor:
    """Mean and mean square of the score of the spread if stds were f times right, f in FACTORS and 1 / FACTORS.

    A sample whose distance from the middle is divided by f stands for the truth: ``(b, 2, 2 * len(FACTORS))``.
    """
    n = len(spread) - 1
    ordered, order = spread.T.contiguous().sort(1)
    edges = w.T.gather(1, order).cumsum(1)
    edges = torch.cat([torch.zeros_like(edges[:, :1]), edges], 1)
    factors = torch.cat([FACTORS, 1 / FACTORS]).to(spread.device)
    asked = spread[1 : 1 + _ACTORS].T[..., None] / factors.square()
    place = torch.searchsorted(ordered, asked.flatten(1).contiguous())
    u = edges.gather(1, place).view(asked.shape)
    score = location_scores(n).to(spread.device)[(u * (n + 1)).floor().long().clamp(0, n)]
    alive = (w[1 : 1 + _ACTORS] > 0).double().T[..., None]
    count = alive.sum(1).clamp_min(1)
    return torch.stack([(score * alive).sum(1) / count, (score.square() * alive).sum(1) / count], 1)


# --- scores ---------------------------------------------------------------------------------------------------------
def _scores(flat: Tensor, weights: Tensor, ess: Tensor, index: Tensor) -> dict[str, Tensor]:
    """z-scores of the components, squared error and spread of the mean, energy score and what it should be."""
    truth, samples = flat[0], flat[1:]
    mean = torch.einsum("nb,nbd->bd", weights, samples)
    variance = torch.einsum("nb,nbd->bd", weights, (samples - mean).square()) / (1 - 1 / ess)[:, None]
    # The truth is off the mean of ess samples by a variance of 1 + 1/ess of their spread; that over its estimate is a
    # Student ratio for Gaussian posteriors, of variance (ess - 1) / (ess - 3).
    wide = variance * (1 + 1 / ess)[:, None]
    student = torch.where(ess > 4, (ess - 3) / (ess - 1), 1.0)[:, None]
    error = truth - mean
    z = torch.where(error == 0, 0.0, error / wide.sqrt() * student.sqrt())[:, index]
    away = torch.einsum("nb,nb->b", weights, torch.linalg.vector_norm(samples - truth, dim=2))
    centred = (samples - truth).transpose(0, 1)  # (b, n, d); small numbers, so that distances keep their digits
    pairs = torch.einsum("nb,bnm,mb->b", weights, torch.cdist(centred, centred), weights) / (1 - 1 / ess)
    return {
        "z": z,
        "error": error.square().sum(1),
        "variance": wide.sum(1),
        "energy score": away - pairs / 2,
        "energy score expected": pairs / 2,
    }


def _crps(components: Tensor, weights: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Fair CRPS, the mean over components, and half the mean distance of two samples, which it is if all is right."""
    weight = torch.cat([torch.zeros_like(weights[:1]), weights])
    away = torch.einsum("nb,nbk->bk", weight, (components - components[0]).abs())
    below = weight[..., None].expand(components.shape).gather(0, order).cumsum(0)[:-1]
    gaps = components.gather(0, order).diff(dim=0)
    pairs = 2 * (below * (1 - below) * gaps).sum(0) / (1 - weights.square().sum(0))[:, None]
    return (away - pairs / 2).mean(1), pairs.mean(1) / 2
