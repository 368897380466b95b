"""The report of `calibrate`: what was tested and found, a verdict in words."""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from torch import Tensor

from invsolve.calibration.uniformity import UniformBand
from invsolve.core.files import atomic_write, with_extension
from invsolve.diagnostics.report import Check
from invsolve.progress import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# False alarms of one report, over all of its tests together: the sum over the families, which is a bound whatever their
# dependence. A family of several ECDFs divides its share among them.
LEVELS = {"bias": 0.005, "spread": 0.005, "spread of components": 0.0025, "functionals": 0.005, "components": 0.0025}
LEVEL = sum(LEVELS.values())


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

    Attributes
    ----------
    runs, lost, failed : int
        Runs that count, runs without a usable posterior, samples that failed of all runs.
    num_samples : int
        Posterior samples of a run.
    names : tuple of str
        What was ranked, a column of ``ranks`` each.
    groups : mapping of str to list of int
        Columns: 'components', 'projections', 'functionals'.
    ranks : Tensor of int64, shape (runs, len(names))
        Of the truth among the samples, 0 to ``num_samples``.
    tests : tuple of Check
        Each with name, passed, value, p_value, text.
    scores : mapping of str to Estimate
        Value, standard error and what it is if all is right.
    coverage : tuple of Covered
        Central rank intervals: exact level, fraction that held the truth, its standard error.
    stds : Tensor, shape (components,)
        Ratio of the posterior standard deviations to the right ones.
    biases : Tensor, shape (components,)
        (truth - mean) in posterior standard deviations, averaged over the runs.
    noticed_stds : tuple of float or None
        Factors on all standard deviations that are detectable 9 times in 10, below and above 1.
    noticed_bias : float or None
        The same of a bias of all components, in posterior standard deviations.
    strategy, why : str
        What was run, and why.
    nfe : float
        Evaluations of the denoiser per posterior sample.
    seconds : float
        Wall-clock time.
    seed : int
        What every random number was made from.
    settings : mapping
        Of the calibration.
    warnings : tuple of str
        Those of the solves, each once.
    certified : int, optional
        Runs that "auto" certified; None for a strategy of the caller's choice.
    level : float
        False alarms of one report, all tests together.
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
    certified: int | None = None  # runs that `auto` certified; None for a strategy of the caller's choice
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
        """One sentence: what is wrong and by how much, or what would have been detected."""
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
            return "; they are too few to detect stds wrong by a factor of 2, or a bias of 0.75 posterior sd"
        return f"; {' or '.join(parts)}, in all components, would have been detected 9 times in 10"

    def __str__(self) -> str:
        samples = f"{self.num_samples} samples each"
        lines = [
            self.verdict,
            f"  {self.runs} runs of {self.strategy} ({samples}, {self.nfe:g} denoiser evaluations a "
            f"sample), {duration(self.seconds)}; at most {self.level:.2g} false alarms a report",
        ]
        if self.certified is not None:
            lines.append(f"  certified: {self.certified} of {self.runs + self.lost} runs")
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
        return (
            f"Calibration({words}, {good} of {len(self.tests)} tests, runs={self.runs}, "
            f"num_samples={self.num_samples}, strategy={self.strategy})"
        )

    def _repr_html_(self) -> str:
        picture = ""
        if self.runs:
            from invsolve.core.notebook_figure import png

            code = base64.b64encode(png(self.plot())).decode()
            picture = f"<img alt='rank ECDFs, TARP, coverage' src='data:image/png;base64,{code}'>"
        return f"<div><pre>{html.escape(str(self))}</pre>{picture}</div>"

    # --- looking, keeping -------------------------------------------------------------------------------------------
    def plot(self) -> Figure:
        """Rank ECDFs minus uniform with simultaneous bands, TARP coverage, interval coverage: a matplotlib Figure."""
        from invsolve.calibration.figure import calibration_figure

        return calibration_figure(self)

    @cached_property
    def band(self) -> UniformBand:
        """The distribution of the ECDF of this many uniform ranks."""
        return UniformBand(runs=self.runs, num_samples=self.num_samples)

    def band_level(self, group: str) -> float:
        """The rate at which *one* rank ECDF of a group leaves its simultaneous band: the group's share, divided."""
        return band_levels({k: len(v) for k, v in self.groups.items()})[group]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it: numbers that are not finite become None."""
        names = (
            "runs",
            "lost",
            "failed",
            "num_samples",
            "strategy",
            "why",
            "nfe",
            "seconds",
            "seed",
            "level",
            "certified",
        )
        out = {name: getattr(self, name) for name in names}
        out |= {
            "passed": self.passed,
            "verdict": self.verdict,
            "noticed_stds": list(self.noticed_stds),
            "noticed_bias": self.noticed_bias,
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
            "tests": [
                {"name": t.name, "passed": t.passed, "value": t.value, "p_value": t.p_value, "text": t.text}
                for t in self.tests
            ],
            "scores": {name: e._asdict() for name, e in self.scores.items()},
            "coverage": [c._asdict() for c in self.coverage],
            "stds": self.stds.tolist(),
            "biases": self.biases.tolist(),
            "ranks": {name: self.ranks[:, i].tolist() for i, name in enumerate(self.names)},
        }
        plain: dict[str, Any] = _plain(out)
        return plain

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict` as JSON, atomically, and return the name of the file.

        A name without extension gets .json, one that promises another format is refused.
        """
        path = with_extension("Calibration.save", path, (".json",), "JSON")
        text = json.dumps(self.to_dict(), allow_nan=False, indent=1)
        atomic_write(path, lambda file: file.write(f"{text}\n".encode()), owner="Calibration.save")
        return Path(path)


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
