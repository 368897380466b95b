"""From the ranks of many runs to a `Calibration`: tests at a stated rate of false alarms, scores with error bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invsolve.calibration.ranking import FACTORS, Plan
from invsolve.calibration.report import LEVELS, Calibration, Covered, Estimate, band_levels
from invsolve.calibration.uniformity import (
    UniformBand,
    location_scores,
    noticed_shift,
    null_normals,
    quadratic_test,
    scale_scores,
    two_sided,
)
from invsolve.diagnostics.report import Check
from invsolve.errors import InputError
from invsolve.metrics import interval_ranks

_COVERED = (0.5, 0.8, 0.9, 0.95)


def assess(
    plan: Plan, rows: Mapping[str, Tensor], sums: Mapping[str, Tensor], account: Mapping[str, Any]
) -> Calibration:
    """The report of measured runs (`pools.measure`, all of them); ``account`` is what it says of cost and settings."""
    good = rows["good"]
    failed, total = int(rows["failed"].sum()), len(good) * plan.num_samples
    kept = {name: value[good] for name, value in rows.items()}
    runs, lost = int(good.sum()), int((~good).sum())
    words = f"{failed} of {total} samples failed" + (f", {lost} of {len(good)} runs were lost" if lost else "")
    tests = [Check(name="rows", passed=failed == 0, value=float(failed), p_value=None, text=words)]
    common: dict[str, Any] = {
        "runs": runs,
        "lost": lost,
        "failed": failed,
        "num_samples": plan.num_samples,
        "names": plan.names,
        "groups": plan.groups,
        "ranks": kept["ranks"],
        "seed": plan.seed,
        **account,
    }
    if not runs:
        nothing = torch.zeros(0, dtype=torch.float64, device="cpu")
        return Calibration(
            tests=tuple(tests),
            scores={},
            coverage=(),
            stds=nothing,
            biases=nothing,
            noticed_stds=(None, None),
            noticed_bias=None,
            **common,
        )
    z = kept["z"]
    collapsed = z.isinf().any(0)  # a posterior without spread that misses the truth
    biases = torch.where(collapsed, torch.nan, z.mean(0))
    variances = torch.where(collapsed, torch.inf, (z - biases).square().sum(0) / max(1, runs - 1))
    stds = variances.rsqrt()
    scores = _estimates(kept, z, biases, float(variances.mean()))
    normals = null_normals(plan.seed, len(plan.index))
    tests += _moment_tests(plan, kept["ranks"], sums, normals, biases, variances, scores["std ratio"], stds)
    tests += _ecdf_tests(plan, kept["ranks"], runs)
    bias = noticed_shift(sums["slope"] / runs, sums["location"], runs, LEVELS["bias"], normals)
    return Calibration(
        tests=tuple(tests),
        scores=scores,
        coverage=_coverage(plan, kept["ranks"]),
        stds=stds,
        biases=biases,
        noticed_stds=_noticed_stds(kept["lift"], runs),
        noticed_bias=bias if math.isfinite(bias) else None,
        **common,
    )


def _moment_tests(
    plan: Plan,
    ranks: Tensor,
    sums: Mapping[str, Tensor],
    normals: Tensor,
    biases: Tensor,
    variances: Tensor,
    ratio: Estimate,
    stds: Tensor,
) -> list[Check]:
    """Bias and spread of all components together: few tests, much power."""
    n, k, runs = plan.num_samples, len(plan.index), len(ranks)
    location, scale = location_scores(n), scale_scores(n)
    bias = quadratic_test(location[ranks[:, :k]].sum(0), sums["location"], normals)
    off = math.sqrt(max(0.0, float((biases.square() - variances / runs).mean())))
    spread = two_sided(float(location[ranks[:, plan.names.index("spread")]].sum()), runs)
    each = quadratic_test(scale[ranks[:, :k]].sum(0), sums["scale"], normals)
    worst = int(stds.log().abs().argmax())
    found = {
        "bias": (bias, off, f"means off by {off:.2g} posterior sd, rms over components"),
        "spread": (spread, ratio.value, f"stds {ratio.value:.3f} +- {ratio.se:.3f} of what they should be"),
        "spread of components": (
            each,
            float(stds[worst]),
            f"farthest {plan.names[worst]}, {float(stds[worst]):.2f} of what it should be",
        ),
    }
    return [
        Check(name=name, passed=p >= LEVELS[name], value=value, p_value=p, text=text)
        for name, (p, value, text) in found.items()
    ]


def _ecdf_tests(plan: Plan, ranks: Tensor, runs: int) -> list[Check]:
    """Rank ECDFs against their bands: each functional by itself, components and projections by the worst."""
    band = UniformBand(runs=runs, num_samples=plan.num_samples)
    gammas, groups = band.gammas(ranks), plan.groups
    levels = band_levels({name: len(columns) for name, columns in groups.items()})
    tests = []
    for group in ("components", "projections"):
        if not groups[group]:
            continue
        farthest = sorted(groups[group], key=lambda i: float(gammas[i]))
        out = 0
        while out < len(farthest) and band.p_value(gammas[farthest[out]]) < levels[group]:
            out += 1
        outside = [plan.names[i] for i in sorted(farthest[:out])]
        p = min(1.0, len(farthest) * band.p_value(gammas[farthest[0]]))
        named = ", ".join(outside[:4]) + (", ..." if len(outside) > 4 else "")
        text = f"{len(outside)} of {len(groups[group])} rank ECDFs leave their bands" + (f" ({named})" if named else "")
        tests.append(Check(name=group, passed=not outside, value=float(len(outside)), p_value=p, text=text))
    counts = band.counts(ranks)
    for i in groups["functionals"]:
        p, gap = band.p_value(gammas[i]), counts[i] / runs - band.points
        worst = float(gap[abs(gap).argmax()])
        text = f"rank ECDF off by {worst:+.3f} at most"
        name = plan.names[i]
        if name == "spread":  # its ECDF beside its location, tested above
            name = "spread ECDF"
        tests.append(Check(name=name, passed=p >= levels["functionals"], value=worst, p_value=p, text=text))
    return tests


def _estimates(kept: Mapping[str, Tensor], z: Tensor, biases: Tensor, variance: float) -> dict[str, Estimate]:
    runs = len(z)
    each = (z - biases).square().mean(1)
    ratio = variance**-0.5 if variance > 0 else math.inf
    found = {
        "mean z": Estimate(float(z.mean()), _se(z.mean(1)), 0.0),
        "rms z": _root(z.square().mean(1)),
        "std ratio": Estimate(ratio, ratio**3 / 2 * _se(each), 1.0) if runs > 1 else Estimate(math.nan, math.nan, 1.0),
    }
    squared = _ratio(kept["variance"], kept["error"])
    root = math.sqrt(squared.value)
    found["spread / skill"] = Estimate(root, squared.se / (2 * root) if root else math.nan, 1.0)
    for name in ("crps", "energy score"):
        value, expected = kept[name], kept[f"{name} expected"]
        found[name] = Estimate(float(value.mean()), _se(value - expected), float(expected.mean()))
        found[f"{name} / expected"] = _ratio(value, expected)
    return found


def _se(value: Tensor) -> float:
    return float(value.std() / len(value) ** 0.5) if len(value) > 1 else math.nan


def _root(squares: Tensor) -> Estimate:
    value = float(squares.mean().sqrt())
    return Estimate(value, _se(squares) / (2 * value) if value else math.nan, 1.0)


def _ratio(above: Tensor, below: Tensor) -> Estimate:
    """A ratio of means; its standard error to first order."""
    value = float(above.mean() / below.mean())
    return Estimate(value, _se(above - value * below) / abs(float(below.mean())), 1.0)


def _coverage(plan: Plan, ranks: Tensor) -> tuple[Covered, ...]:
    found, k = [], len(plan.index)
    for level in _COVERED:
        try:
            low, high, exact = interval_ranks(plan.num_samples, level)
        except InputError:  # too few samples for this level
            continue
        inside = ((ranks[:, :k] >= low) & (ranks[:, :k] < high)).double().mean(1)
        # Over runs, because components of one run depend on each other; at least what independent ones would give.
        least = exact * (1 - exact) / k
        variance = max(float(inside.var()) if len(inside) > 1 else math.nan, least)
        found.append(Covered(exact, float(inside.mean()), math.sqrt(variance / len(inside))))
    return tuple(found)


def _noticed_stds(lift: Tensor, runs: int) -> tuple[float | None, float | None]:
    """The nearest factors below and above 1 on all stds that the spread test detects in 9 of 10 reports."""
    threshold = float(torch.special.ndtri(torch.tensor(1 - LEVELS["spread"] / 2, dtype=torch.float64, device="cpu")))
    mean, square = lift.mean(0)
    count = len(FACTORS)
    found: list[float | None] = []
    for half in (slice(0, count), slice(count, 2 * count)):
        level = mean[half] - mean[half][-1]
        sd = (square[half] - mean[half].square()).clamp_min(1e-12).sqrt()
        shift = math.sqrt(runs) * level
        power = torch.special.ndtr((shift.abs() - threshold) / sd)
        logs = FACTORS.log() if half.start == 0 else -FACTORS.log()
        enough = [i for i in range(count) if float(power[i]) >= 0.9]
        if not enough:
            found.append(None)
            continue
        i = max(enough)  # the nearest to 1, which has the least power
        share = (0.9 - float(power[i + 1])) / (float(power[i]) - float(power[i + 1]))
        found.append(math.exp(float(logs[i + 1] + share * (logs[i] - logs[i + 1]))))
    return found[0], found[1]
