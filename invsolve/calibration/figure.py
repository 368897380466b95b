"""The figure of a `Calibration`: rank ECDFs in their simultaneous bands, TARP, and the coverage of intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from invsolve.calibration.uniformity import UniformBand
from invsolve.errors import invalid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SMALL: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_BAND, _QUIET, _LOUD = "#dbe4ef", "#7d97b5", "#c8321e"
_COLOURS = ("#1b6ca8", "#2a9d5c", "#8a4fbf", "#b8860b", "#0f9aa8", "#7f5a3c", "#5a5a5a", "#d46a9f")  # none is red
_NAMED = 6  # components outside their band that are named


class Covered(Protocol):
    """Intervals of one level, and how often they held the truth."""

    @property
    def level(self) -> float: ...
    @property
    def observed(self) -> float: ...
    @property
    def se(self) -> float: ...


class Ranked(Protocol):
    """What is drawn of a `Calibration`, which describes it."""

    @property
    def runs(self) -> int: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> Mapping[str, list[int]]: ...
    @property
    def ranks(self) -> Tensor: ...
    @property
    def coverage(self) -> Sequence[Covered]: ...
    @property
    def passed(self) -> bool: ...
    @property
    def verdict(self) -> str: ...
    @property
    def band(self) -> UniformBand: ...
    def band_level(self, group: str) -> float: ...


def calibration_figure(report: Ranked) -> Figure:
    """Four panels; what leaves its simultaneous band, at its share of the report's level, is named in red."""
    if not report.runs:
        raise invalid("plot", "report", "one with a run that counts", "none")
    import matplotlib

    from invsolve.core.notebook_figure import NotebookFigure

    with matplotlib.rc_context(_SMALL):
        figure = NotebookFigure(figsize=(11.6, 3.4), layout="constrained")
        axes = figure.subplots(1, 4, width_ratios=(1.15, 1.15, 1, 1))
        linear = [i for group in ("components", "projections") for i in report.groups[group]]
        whole = [i for i in report.groups["functionals"] if report.names[i] != "TARP distance"]
        _differences(
            axes[0],
            report,
            linear,
            "components",
            f"{len(report.groups['components'])} components"
            + (f", {len(report.groups['projections'])} projections" if report.groups["projections"] else ""),
        )
        _differences(axes[1], report, whole, "functionals", "functionals of the whole signal")
        axes[0].set_ylabel("ECDF of ranks minus uniform")
        for ax in axes[:2]:
            ax.set_xlabel("rank of the truth / number of samples")
        _share_height(axes[:2])
        _tarp(axes[2], report)
        _coverage(axes[3], report)
        figure.suptitle(
            "\n".join(textwrap.wrap(report.verdict, 165)),
            fontsize=9,
            x=0.01,
            ha="left",
            color=_LOUD if not report.passed else "black",
        )
        return figure


def _differences(ax: Any, report: Ranked, columns: list[int], group: str, title: str) -> None:
    band, z, level = report.band, report.band.points, report.band_level(group)
    low, high = band.limits(level)
    counts = band.counts(report.ranks[:, columns])
    ax.fill_between(z, low / band.runs - z, high / band.runs - z, color=_BAND, lw=0, step="mid")
    ax.axhline(0, color="white", lw=0.8)
    outside = np.any((counts < low) | (counts > high), axis=1).reshape(-1)
    each = group == "functionals"  # a colour for each; components are too many
    for place in np.argsort(outside, kind="stable"):  # those outside on top
        line, colour = counts[place] / band.runs - z, _QUIET
        if each:
            colour = _COLOURS[place % len(_COLOURS)]
        elif outside[place]:
            colour = _LOUD
        ax.plot(
            z,
            line,
            color=colour,
            lw=(1.6 if outside[place] else 0.9) - (0.0 if each else 0.4),
            label=report.names[columns[place]],
        )
    bad = [report.names[columns[place]] for place in np.flatnonzero(outside)]
    ax.set_title(f"{title}: {len(bad)} outside", color=_LOUD if bad else "black")
    ax.set_xlim(0, 1)
    if each:
        legend = ax.legend(
            loc="upper right",
            frameon=False,
            ncols=2,
            handlelength=1.0,
            columnspacing=0.8,
            borderpad=0.1,
            labelspacing=0.25,
        )
        for text in legend.get_texts():
            text.set_color(_LOUD if text.get_text() in bad else "black")
    elif bad:
        words = ", ".join(bad[:_NAMED]) + (f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")
        ax.text(
            0.98, 0.98, textwrap.fill(words, 40), transform=ax.transAxes, ha="right", va="top", color=_LOUD, fontsize=7
        )


def _share_height(axes: Any) -> None:
    """One scale, symmetric, with room for the legends above."""
    top = max(abs(value) for ax in axes for value in ax.get_ylim())
    for ax in axes:
        ax.set_ylim(-1.05 * top, 1.45 * top)


def _tarp(ax: Any, report: Ranked) -> None:
    column = report.names.index("TARP distance")
    band, z = report.band, report.band.points
    low, high = band.limits(report.band_level("functionals"))
    counts = band.counts(report.ranks[:, [column]])[0]
    outside = bool(((counts < low) | (counts > high)).any())
    ax.fill_between(z, low / band.runs, high / band.runs, color=_BAND, lw=0, step="mid")
    ax.plot([0, 1], [0, 1], color="grey", lw=0.6, ls=":")
    ax.plot(z, counts / band.runs, color=_LOUD if outside else _COLOURS[0], lw=1.2)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="credibility", ylabel="expected coverage", aspect="equal")
    ax.set_title("TARP" + (": outside its band" if outside else ""), color=_LOUD if outside else "black")


def _coverage(ax: Any, report: Ranked) -> None:
    ax.plot([0, 1], [0, 1], color="grey", lw=0.6, ls=":")
    if report.coverage:
        level, observed, se = (np.array(v) for v in zip(*report.coverage, strict=True))
        ax.errorbar(level, observed, yerr=2 * se, fmt="o", ms=3.5, lw=1, capsize=2, color=_COLOURS[0])
        least = min(0.4, float(observed.min()) - 0.1)
    else:
        least = 0.0
    ax.set(
        xlim=(least, 1.02),
        ylim=(least, 1.02),
        xlabel="level of the rank interval",
        ylabel="truths inside (2 s.e.)",
        aspect="equal",
    )
    ax.set_title("intervals of components")
