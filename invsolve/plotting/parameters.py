"""Figures of a few numbers: in pairs, as intervals, and draw by draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np
from torch import Tensor

from invsolve.core.figures import SMALL_FONTS, Array, as_array
from invsolve.core.packing import Layout
from invsolve.core.validation import check_choice, check_int, check_number
from invsolve.errors import invalid, invalid_type

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAIRS, _MOST = 8, 40  # numbers that are shown in pairs, at all
_POINTS = 1000  # of a scatter plot
_INNER, _OUTER = 0.5, 0.9  # of the intervals


class Numbered(Protocol):
    """What a figure of numbers needs of a result; `iv.Result` is one."""

    @property
    def samples(self) -> Tensor: ...
    @property
    def failed(self) -> Tensor: ...
    @property
    def weights(self) -> Tensor: ...
    @property
    def batched(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strategy(self) -> str: ...
    @property
    def tempered(self) -> str: ...
    @property
    def layout(self) -> Layout | None: ...
    @property
    def parameters(self) -> Mapping[str, Tensor]: ...
    @property
    def mean(self) -> Tensor: ...
    def __getitem__(self, name: str) -> Any: ...


def plot_parameters(
    result: Numbered, *, kind: str = "auto", item: int = 0, truth: Mapping[str, float] | None = None
) -> Figure:
    """Figure of the numbers of a result: named parameters, scalars inferred with a signal, entries of a short signal.

    Parameters
    ----------
    result : Result
        With named scalars (`iv.priors.independent`), inferred ones (``result.parameters``), or a real signal of one
        axis with at most 40 entries.
    kind : {"auto", "pairs", "forest", "trace"}
        "pairs": every number against every other, histograms on the diagonal (up to 8 numbers). "forest": mean, 50 %
        and 90 % interval of each, on an axis of its own. "trace": draw after draw, which scatter about one mean if all
        is well. "auto": pairs up to six numbers, else forest.
    item : int
        Which item of a batch, from 0.
    truth : mapping of str to float, optional
        Values to mark, by name.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError, InputTypeError
        If the result has no such numbers or too many, every sample failed, or an argument is not what it should be.
    """
    check_choice("plot_parameters", "kind", kind, ("auto", "pairs", "forest", "trace"))
    item = check_int("plot_parameters", "item", item, minimum=0)
    items = result.failed.shape[1] if result.batched else 1
    if item >= items:
        raise invalid("plot_parameters", "item", f"below {items}, the number of items", item)
    numbers = _numbers(result, item)
    marks = _marks(truth, [n.name for n in numbers])
    if kind == "auto":
        kind = "pairs" if len(numbers) <= 6 else "forest"
    if kind == "pairs" and len(numbers) > _PAIRS:
        raise invalid("plot_parameters", "kind", f"'forest' or 'trace' for more than {_PAIRS} numbers", repr(kind))

    import matplotlib

    with matplotlib.rc_context(SMALL_FONTS):
        figure = {"pairs": _pairs, "forest": _forest, "trace": _trace}[kind](numbers, marks)
        words = [result.strategy, f"item {item}" if items > 1 else "", result.tempered]
        figure.suptitle(", ".join(word for word in words if word), fontsize=9)
        return figure


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Number:
    name: str
    unit: str
    values: Array  # (draws,): of good samples
    weights: Array
    mean: float  # the result's, which need not be that of the samples

    @property
    def label(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def ends(self, level: float) -> tuple[float, float]:
        """Of the central interval: plotting positions (k - 1/2) / n of the weighted values."""
        order = self.values.argsort()
        below = np.cumsum(self.weights[order]) - 0.5 * self.weights[order]
        low, high = np.interp([(1 - level) / 2, (1 + level) / 2], below, self.values[order])
        return float(low), float(high)


def few_numbers(result: Any) -> bool:
    """Whether a result is one of named scalars, few enough for a figure of them."""
    layout = getattr(result, "layout", None)
    if layout is None or result.samples.is_complex():
        return False
    return len(layout.parts) <= _MOST and all(not p.shape and p.kind == "real" for p in layout.parts)


def _numbers(result: Numbered, item: int) -> list[_Number]:
    def of(value: Tensor) -> Tensor:
        return value[:, item] if result.batched else value

    good = ~of(result.failed)
    if not bool(good.any()):
        raise invalid("plot_parameters", "item", "an item with a sample that did not fail", item)
    samples, weights = of(result.samples)[good], as_array(of(result.weights)[good]).astype(float)
    whole = result.mean[item] if result.batched else result.mean
    columns: dict[str, tuple[str, Tensor, Tensor]] = {}  # unit, values, mean
    if few_numbers(result) and result.layout is not None:
        parts, means = result.layout.split(samples), result.layout.split(whole[None])
        columns = {p.name: (p.unit, parts[p.name], means[p.name]) for p in result.layout.parts}
    elif len(result.shape) == 1 and not samples.is_complex() and result.shape[0] <= _MOST and not result.parameters:
        columns = {f"x[{i}]": ("", samples[:, i], whole[i]) for i in range(result.shape[0])}
    for name, value in result.parameters.items():
        mean = result[name].mean
        columns[name] = ("", of(value)[good], mean[item] if result.batched else mean)
    if not 0 < len(columns) <= _MOST:
        want = f"one with 1 to {_MOST} numbers: named parameters, inferred scalars or a short signal"
        raise invalid("plot_parameters", "result", want, f"{len(columns)} of them, a signal of shape {result.shape}")
    return [
        _Number(
            name=name,
            unit=unit,
            values=as_array(v.double()).reshape(-1),
            weights=weights / weights.sum(),
            mean=float(mean),
        )
        for name, (unit, v, mean) in columns.items()
    ]


def _marks(truth: object, names: list[str]) -> dict[str, float]:
    if truth is None:
        return {}
    if not isinstance(truth, Mapping):
        raise invalid_type("plot_parameters", "truth", "a mapping of names to numbers", truth)
    if unknown := [str(name) for name in truth if name not in names]:
        raise invalid("plot_parameters", "truth", f"of the names {', '.join(names)}", ", ".join(unknown))
    return {name: check_number("plot_parameters", f"truth[{name!r}]", value) for name, value in truth.items()}


def _pairs(numbers: list[_Number], marks: Mapping[str, float]) -> Figure:
    from invsolve.core.notebook_figure import NotebookFigure

    n = len(numbers)
    figure = NotebookFigure(figsize=(1.5 * n + 0.9, 1.4 * n + 0.7), layout="constrained")
    grid = figure.subplots(n, n, squeeze=False, sharex="col")
    step = max(1, -(-len(numbers[0].values) // _POINTS))
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            ax = grid[i, j]
            if j > i:
                ax.set_axis_off()
                continue
            if i == j:
                ax.hist(a.values, bins=max(8, round(len(a.values) ** 0.4)), weights=a.weights, color="C0", alpha=0.45)
                for end in a.ends(_OUTER):
                    ax.axvline(end, color="C0", linewidth=0.8, linestyle=":")
                ax.axvline(a.mean, color="C0", linewidth=1.2)
                ax.set_yticks([])
                ax.set_title(a.name)
            else:
                sizes = 400 * b.weights[::step] / b.weights.max() / len(b.weights) ** 0.5
                ax.scatter(b.values[::step], a.values[::step], s=sizes, color="C0", alpha=0.35, linewidths=0)
                if a.name in marks:
                    ax.axhline(marks[a.name], color="black", linewidth=0.8, linestyle="--")
            if b.name in marks:
                ax.axvline(marks[b.name], color="black", linewidth=0.8, linestyle="--")
            if i == n - 1:
                ax.set_xlabel(b.label)
            if j == 0 and i:
                ax.set_ylabel(a.label)
            elif i != j:
                ax.set_yticklabels([])
    return figure


def _forest(numbers: list[_Number], marks: Mapping[str, float]) -> Figure:
    figure, rows = _rows(len(numbers), 0.5)
    for ax, number in zip(rows, numbers, strict=True):
        ax.hlines(0, *number.ends(_OUTER), color="C0", linewidth=1.2)
        ax.hlines(0, *number.ends(_INNER), color="C0", linewidth=4)
        ax.plot(number.mean, 0, "o", color="white", markeredgecolor="C0", markersize=5)
        if number.name in marks:
            ax.axvline(marks[number.name], color="black", linewidth=0.8, linestyle="--")
        ax.set_yticks([0], [number.label])
        ax.margins(x=0.1, y=0.6)
    rows[-1].set_xlabel(f"mean, {_INNER:.0%} and {_OUTER:.0%} interval")
    return figure


def _trace(numbers: list[_Number], marks: Mapping[str, float]) -> Figure:
    figure, rows = _rows(len(numbers), 0.8)
    for ax, number in zip(rows, numbers, strict=True):
        ax.plot(number.values, color="C0", linewidth=0.6)
        ax.axhline(number.mean, color="C0", linewidth=1.0)
        if number.name in marks:
            ax.axhline(marks[number.name], color="black", linewidth=0.8, linestyle="--")
        ax.set_ylabel(number.label)
        ax.margins(x=0)
    rows[-1].set_xlabel("draw")
    return figure


def _rows(count: int, height: float) -> tuple[Figure, list[Any]]:
    from invsolve.core.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=(4.8, height * count + 0.8), layout="constrained")
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])
