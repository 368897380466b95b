"""The report of `calibrate`: tests at a stated rate of false alarms, scores with error bars, a verdict in words."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor

from invsolve.check import Check
from invsolve.errors import InputError
from invsolve.files import atomic_write
from invsolve.metrics import interval_ranks
from invsolve.pools import FACTORS, OWN, Plan
from invsolve.progress import duration
from invsolve.ranks import (
    UniformBand,
    location_scores,
    noticed_shift,
    null_normals,
    quadratic_test,
    scale_scores,
    two_sided,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# False alarms of one report, over all of its tests together: the sum over the families, which is a bound whatever their
# dependence. A family of several ECDFs divides its share among them.
LEVELS = {"bias": 0.005, "spread": 0.005, "spread of components": 0.0025, "functionals": 0.005, "components": 0.0025}
LEVEL = sum(LEVELS.values())
COVERED = (0.5, 0.8, 0.9, 0.95)


class Estimate(NamedTuple):
    """A number, its standard error over the runs, and what it is if all is right."""

    value: float
    se: float
    expected: float


class Covered(NamedTuple):
    """Central rank intervals: their exact level and the fraction that held the truth, with its standard error."""

    level: float
    observed: float
    se: float


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Calibration:
    """What `iv.calibrate` found. ``str(report)`` is for people, ``report.passed`` for programs.

    ``tests`` are `iv.check`-like: name, passed, value, p_value, text. ``scores`` by name; ``ranks`` of the truth, 0 to
    ``num_samples``, one column for each of ``names``.
    """

    runs: int  # that count
    lost: int  # runs without a usable posterior
    failed: int  # samples that failed, of all runs
    num_samples: int
    names: tuple[str, ...]
    groups: Mapping[str, list[int]]  # columns: 'components', 'projections', 'functionals'
    ranks: Tensor  # (runs, len(names)) int64
    tests: tuple[Check, ...]
    scores: Mapping[str, Estimate]
    coverage: tuple[Covered, ...]
    stds: Tensor  # (components,): posterior std over what it should be
    biases: Tensor  # (components,): (truth - mean) in posterior sd, its mean over runs
    noticed_stds: tuple[float | None, float | None]  # factors on all stds that are noticed 9 times in 10
    noticed_bias: float | None  # in posterior sd, in all components
    strategy: str
    why: str
    nfe: float  # denoiser evaluations per posterior sample
    seconds: float
    seed: int
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    level: float = LEVEL

    @property
    def passed(self) -> bool:
        """False if any test failed: for a right posterior in at most 2 % of all reports."""
        return all(test.passed for test in self.tests)

    def __getitem__(self, name: str) -> Check:
        """The test called ``name``; KeyError lists the names."""
        for test in self.tests:
            if test.name == name:
                return test
        raise KeyError(f"no test {name!r}; there are {', '.join(test.name for test in self.tests)}")

    # --- words ------------------------------------------------------------------------------------------------------
    @property
    def verdict(self) -> str:
        """One sentence: what is wrong and by how much, or what would have been noticed."""
        if not self.runs:
            return f"Not calibrated: no run gave a posterior ({self.lost} lost)."
        if self.passed:
            return f"No fault found in {self.runs} runs{self._power}."
        failing = [test.name for test in self.tests if not test.passed]
        ratio = self.scores["std ratio"]
        parts = []
        if {"spread", "spread of components"} & {*failing}:
            low, high = self.stds.min(), self.stds.max()
            each = 4 / (2 * self.runs) ** 0.5  # standard errors of one std, of Gaussian posteriors
            mixed = "spread of components" in failing and bool((low < 1 / (1 + each)) & (high > 1 + each))
            if not mixed and not abs(ratio.value - 1) <= 3 * ratio.se:
                word = "narrow" if ratio.value < 1 else "wide"
                size = f"stds about {ratio.value:.2f} of what they should be"
                parts.append(f"posteriors too {word} ({size}{self._cover})")
            elif "spread of components" in failing and len(self.stds) > 1:
                span = f"{float(low):.2f} to {float(high):.2f}"
                parts.append(f"stds {span} of what they should be, depending on the component")
            elif "bias" not in failing:  # a bias moves truths away from the middle, too
                parts.append("truths are not where they should be in units of the posterior std")
        if "bias" in failing:
            parts.append(f"means off by {self['bias'].value:.2f} posterior sd (rms over components)")
        ecdfs = {*self.names, "components", "projections"} - {"spread"}
        shapes = [name for name in failing if name in ecdfs]
        if shapes:
            leave = "leaves its band" if len(shapes) == 1 else "leave their bands"
            parts.append(f"rank ECDF of {', '.join(shapes)} {leave}")
        if "rows" in failing:
            parts.append(self["rows"].text)
        return f"Not calibrated: {'; '.join(parts)}."

    @property
    def _cover(self) -> str:
        if not self.coverage:
            return ""
        best = min(self.coverage, key=lambda c: abs(c.level - 0.9))
        return f"; {best.level:.3g} intervals cover {best.observed:.3g}"

    @property
    def _power(self) -> str:
        low, high = self.noticed_stds
        stds = [f"{word} {abs(f - 1):.0%}" for word, f in (("too small by", low), ("too large by", high)) if f]
        parts = [f"stds {' or '.join(stds)}"] if stds else []
        if self.noticed_bias is not None:
            parts.append(f"means off by {self.noticed_bias:.2g} posterior sd")
        if not parts:
            return "; they are too few to notice stds wrong by a factor of 2, or a bias of 0.75 posterior sd"
        return f"; {' or '.join(parts)}, in all components, would have been noticed 9 times in 10"

    def __str__(self) -> str:
        samples = f"{self.num_samples} samples each"
        lines = [self.verdict, f"  {self.runs} runs of {self.strategy} ({samples}, {self.nfe:g} denoiser evaluations a "
                 f"sample), {duration(self.seconds)}; at most {self.level:.2g} false alarms a report"]
        for t in self.tests:
            p = "" if t.p_value is None else ", p < 1e-9" if t.p_value < 1e-9 else f", p = {t.p_value:.2g}"
            lines.append(f"  {'ok  ' if t.passed else 'FAIL'}  {t.name}: {t.text}{p}")
        for name, e in self.scores.items():
            lines.append(f"        {name}: {e.value:.4g} +- {e.se:.2g}, expected {e.expected:.4g}")
        lines += [f"        {c.level:.3g} intervals: cover {c.observed:.3f} +- {c.se:.3f}" for c in self.coverage]
        return "\n".join([*lines, *(f"  warning: {text}" for text in self.warnings)])

    def __repr__(self) -> str:
        good = sum(test.passed for test in self.tests)
        words = "passed" if self.passed else "NOT calibrated"
        return (f"Calibration({words}, {good} of {len(self.tests)} tests, runs={self.runs}, "
                f"num_samples={self.num_samples}, strategy={self.strategy})")

    def _repr_html_(self) -> str:
        picture = ""
        if self.runs:
            buffer = io.BytesIO()
            self.plot().savefig(buffer, format="png", dpi=110)
            code = base64.b64encode(buffer.getvalue()).decode()
            picture = f"<img alt='rank ECDFs, TARP, coverage' src='data:image/png;base64,{code}'>"
        return f"<div><pre>{html.escape(str(self))}</pre>{picture}</div>"

    # --- looking, keeping -------------------------------------------------------------------------------------------
    def plot(self) -> Figure:
        """Rank ECDFs minus uniform with simultaneous bands, TARP coverage, interval coverage: a matplotlib Figure."""
        from invsolve.calibration_figure import calibration_figure

        return calibration_figure(self)

    @cached_property
    def band(self) -> UniformBand:
        """The law of the ECDF of this many uniform ranks."""
        return UniformBand(runs=self.runs, num_samples=self.num_samples)

    def band_level(self, group: str) -> float:
        """The rate at which *one* rank ECDF of a group leaves its simultaneous band: the group's share, divided."""
        return band_levels({k: len(v) for k, v in self.groups.items()})[group]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it: numbers that are not finite become None."""
        names = ("runs", "lost", "failed", "num_samples", "strategy", "why", "nfe", "seconds", "seed", "level")
        out = {name: getattr(self, name) for name in names}
        out |= {
            "passed": self.passed, "verdict": self.verdict, "noticed_stds": list(self.noticed_stds),
            "noticed_bias": self.noticed_bias, "settings": dict(self.settings), "warnings": list(self.warnings),
            "tests": [{"name": t.name, "passed": t.passed, "value": t.value, "p_value": t.p_value, "text": t.text}
                      for t in self.tests],
            "scores": {name: e._asdict() for name, e in self.scores.items()},
            "coverage": [c._asdict() for c in self.coverage],
            "stds": self.stds.tolist(), "biases": self.biases.tolist(),
            "ranks": {name: self.ranks[:, i].tolist() for i, name in enumerate(self.names)},
        }
        plain: dict[str, Any] = _plain(out)
        return plain

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON, atomically."""
        text = json.dumps(self.to_dict(), allow_nan=False, indent=1)
        atomic_write(path, lambda temporary: _write(temporary, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def band_levels(sizes: Mapping[str, int]) -> dict[str, float]:
    """The level of one ECDF of each group."""
    linear = LEVELS["components"] / (sizes["components"] + sizes["projections"])
    return {"components": linear, "projections": linear, "functionals": LEVELS["functionals"] / sizes["functionals"]}


# --- from ranks to a report -----------------------------------------------------------------------------------------
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
        "runs": runs, "lost": lost, "failed": failed, "num_samples": plan.num_samples, "names": plan.names,
        "groups": plan.groups, "ranks": kept["ranks"], "seed": plan.seed, **account,
    }
    if not runs:
        nothing = torch.zeros(0, dtype=torch.float64)
        return Calibration(tests=tuple(tests), scores={}, coverage=(), stds=nothing, biases=nothing,
                           noticed_stds=(None, None), noticed_bias=None, **common)
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
        tests=tuple(tests), scores=scores, coverage=_coverage(plan, kept["ranks"]), stds=stds, biases=biases,
        noticed_stds=_noticed_stds(kept["lift"], runs), noticed_bias=bias if math.isfinite(bias) else None, **common,
    )


def _moment_tests(
    plan: Plan, ranks: Tensor, sums: Mapping[str, Tensor], normals: Tensor, biases: Tensor, variances: Tensor,
    ratio: Estimate, stds: Tensor,
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
        "spread of components": (each, float(stds[worst]),
                                 f"farthest {plan.names[worst]}, {float(stds[worst]):.2f} of what it should be"),
    }
    return [Check(name=name, passed=p >= LEVELS[name], value=value, p_value=p, text=text)
            for name, (p, value, text) in found.items()]


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
    for level in COVERED:
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
    """The nearest factors below and above 1 on all stds that the spread test notices in 9 of 10 reports."""
    threshold = float(torch.special.ndtri(torch.tensor(1 - LEVELS["spread"] / 2, dtype=torch.float64)))
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


__all__ = ["LEVEL", "OWN", "Calibration", "Covered", "Estimate", "assess", "band_levels"]
