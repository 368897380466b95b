"""Figures of signals: images, lines and single numbers, beside the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import as_tensor
from invsolve.core.figures import SMALL_FONTS, Array, as_array, colour_limits, colour_top, show_image
from invsolve.core.validation import check_choice, check_int
from invsolve.errors import invalid, invalid_type
from invsolve.plotting.parameters import few_numbers, plot_parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["central_image", "comparison_figure", "plot_result"]

Scale = tuple[str, float, float]  # colour map, lowest, highest
_PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "magnitude": torch.abs,
    "phase": torch.angle,
    "real": torch.real,
    "imag": torch.imag,
}
_BAND = 0.9


class Drawable(Protocol):
    """What a figure needs of a result; `iv.Result` is one, and says what each of them is."""

    @property
    def samples(self) -> Tensor: ...
    @property
    def failed(self) -> Tensor: ...
    @property
    def log_weights(self) -> Tensor | None: ...
    @property
    def weights(self) -> Tensor: ...
    @property
    def ess(self) -> Tensor: ...
    @property
    def mean(self) -> Tensor: ...
    @property
    def std(self) -> Tensor: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def batched(self) -> bool: ...
    @property
    def strategy(self) -> str: ...
    @property
    def tempered(self) -> str: ...
    @property
    def dims(self) -> tuple[str, ...] | None: ...
    @property
    def units(self) -> str: ...
    def map(self, function: Callable[[Tensor], Tensor], /) -> Drawable: ...
    def interval(self, level: float, /) -> tuple[Tensor, Tensor, float]: ...
    def quantile(self, q: Sequence[float], /) -> Tensor: ...


def plot_result(
    result: Drawable, *, item: int = 0, truth: Tensor | None = None, axes: Any = None, part: str = "magnitude"
) -> Figure:
    """Figure of one item of a result, beside the truth if it is given.

    Axes of length 1 are dropped. No axis left: a histogram. One: mean, rank interval, a few samples. Two: images of
    mean, two samples and truth on one scale, standard deviation and error |mean - truth| on scales of their own. More:
    the central slice along the leading axes. Named numbers: `plot_parameters`.

    Parameters
    ----------
    result : Result
        What `solve` returned.
    item : int
        Which item of a batch, from 0.
    truth : Tensor, shape (*shape) or (batch, *shape), optional
        The signal behind the data.
    axes : matplotlib axes or sequence of axes, optional
        Axes to draw into, of which each takes one panel, in the order above, instead of a new figure.
    part : {"magnitude", "phase", "real", "imag"}
        Of a complex signal; the spread of an image is that of the complex number.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError, InputTypeError
        If ``item``, ``truth`` or ``part`` does not fit the result, or every sample of the item failed.
    """
    check_choice("plot", "part", part, _PARTS)
    item = check_int("plot", "item", item, minimum=0)
    items = result.samples.shape[1] if result.batched else 1
    if item >= items:
        raise invalid("plot", "item", f"below {items}, the number of items", item)
    if truth is not None:
        truth = _truth_of(result, truth, item)
    good = ~(result.failed[:, item] if result.batched else result.failed)
    if not bool(good.any()):
        raise invalid("plot", "item", "an item with a sample that did not fail", item)
    panels = None if axes is None else list(np.ravel(np.asarray(axes, dtype=object)))

    import matplotlib

    with matplotlib.rc_context(SMALL_FONTS):
        kept = sum(n > 1 for n in result.shape)
        if panels is None and truth is None and few_numbers(result):
            return plot_parameters(result, item=item)  # type: ignore[arg-type]
        if kept >= 2:
            return _plot_images(result, item, truth, good, panels, part)
        draw = _plot_line if kept == 1 else _plot_number
        figure, ax = _figure_of_one(panels)
        draw(
            ax,
            result.map(_PARTS[part]) if result.samples.is_complex() else result,
            item,
            _PARTS[part](truth) if truth is not None and result.samples.is_complex() else truth,
        )
        title = result.strategy if not result.samples.is_complex() else f"{result.strategy}, {part}"
        ax.set_title(title + (f", item {item}" if items > 1 else "") + (f"\n{result.tempered}" * bool(result.tempered)))
        return figure


def comparison_figure(
    images: Mapping[str, Tensor], *, truth: Tensor | None = None, within: Tensor | None = None
) -> Figure:
    """Images side by side on one scale, complex ones as magnitudes; errors to ``truth`` below.

    The error map is |image - truth| (the complex modulus), on one scale that ends at the median of the images' largest
    errors (99.9 %); its title gives the NRMSE, ||image - truth|| / ||truth||.

    Parameters
    ----------
    images : mapping of str to Tensor, shape (height, width)
        Titles and images, real or complex; axes of length 1 are dropped.
    truth : Tensor, shape (height, width), optional
        What they should be.
    within : Tensor of bool, shape (height, width), optional
        Where the NRMSE is taken, of errors and truth: inside an object, say. Everywhere unless given.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError, InputTypeError
        If an image has no two axes, or another shape than the truth; or ``within`` is no mask of that shape.
    """
    if not isinstance(images, Mapping) or not images:
        raise invalid_type("comparison_figure", "images", "a non-empty mapping of name to image", images)
    columns = {name: _image(f"images[{name!r}]", image) for name, image in images.items()}
    reference = None if truth is None else _image("truth", truth)
    region = _region(within, reference)
    for name, image in columns.items():
        if reference is not None and image.shape != reference.shape:
            want = f"of the shape of truth, {reference.shape}"
            raise invalid("comparison_figure", f"images[{name!r}]", want, image.shape)

    import matplotlib

    from invsolve.core.notebook_figure import NotebookFigure

    with matplotlib.rc_context(SMALL_FONTS):
        shown = {} if reference is None else {"truth": reference}
        shown |= columns
        complex_any = any(np.iscomplexobj(image) for image in shown.values())
        look = {name: np.abs(image) if complex_any else image for name, image in shown.items()}
        rows = 1 if reference is None else 2
        figure = NotebookFigure(figsize=(1.9 * len(look) + 0.6, 2.0 * rows + 0.2), layout="constrained")
        grid = figure.subplots(rows, len(look), squeeze=False)
        low, high = colour_limits([look["truth"]] if reference is not None else list(look.values()))
        for ax, (name, image) in zip(grid[0], look.items(), strict=True):
            mesh = show_image(ax, image, name, "gray", low, high)
        figure.colorbar(mesh, ax=list(grid[0]), fraction=0.05, pad=0.01)
        if reference is not None:
            errors = {name: np.abs(image - reference) for name, image in columns.items()}
            # The median of the columns' tops: one bad column must not turn the errors of the others black.
            tops = [colour_top(error) for error in errors.values() if np.isfinite(error).any()] or [1.0]
            top = float(np.median(tops))
            norm = float(np.linalg.norm(reference[region]))
            grid[1][0].set_axis_off()
            for ax, error in zip(grid[1][1:], errors.values(), strict=True):
                relative = f", NRMSE {float(np.linalg.norm(error[region])) / norm:.4f}" if norm > 0 else ""
                mesh = show_image(ax, error, f"|error|{relative}", "magma", 0.0, top)
            extend = "max" if max(tops) > top else "neither"
            figure.colorbar(mesh, ax=list(grid[1]), fraction=0.05, pad=0.01, extend=extend)
        return figure


def central_image(value: Tensor) -> tuple[Tensor, str]:
    """A signal's image: axes of length 1 dropped, the middle of the others; and words on which.

    Parameters
    ----------
    value : Tensor, shape (*shape)
        One signal.

    Returns
    -------
    image : Tensor, shape (height, width)
        A view of it; of fewer axes if the signal has fewer.
    words : str
        Such as "slice 8 of 16"; empty if nothing was left out.
    """
    names, value = [], value.squeeze()
    while value.ndim > 2:
        names.append(f"slice {value.shape[0] // 2} of {value.shape[0]}")
        value = value[value.shape[0] // 2]
    return value, ", ".join(names)


def _truth_of(result: Drawable, truth: object, item: int) -> Tensor:
    truth = as_tensor("plot", "truth", truth, dtype=result.samples.dtype, device=result.samples.device)
    if tuple(truth.shape) == result.shape:
        return truth.detach()
    if result.batched and tuple(truth.shape) == tuple(result.samples.shape[1:]):
        return truth[item].detach()
    raise invalid("plot", "truth", f"of shape {result.shape}", tuple(truth.shape))


def _figure_of_one(panels: list[Any] | None) -> tuple[Figure, Any]:
    from invsolve.core.notebook_figure import NotebookFigure

    if panels:
        return panels[0].figure, panels[0]
    figure = NotebookFigure(figsize=(4.8, 2.8), layout="constrained")
    return figure, figure.subplots()


# --- numbers and lines ------------------------------------------------------------------------------------------------
def _band(result: Drawable) -> tuple[Tensor, Tensor, str] | None:
    """The 90 % rank interval, or the widest that the samples carry; quantiles if they are weighted; None if neither."""
    known = result.ess[result.ess > 0]  # nothing of chains that were stopped
    ess = float(known.min()) if len(known) else 0.0
    if ess < 2:
        return None
    level = min(_BAND, (ess - 1) / (ess + 1))
    if result.log_weights is None:
        low, high, level = result.interval(level)
    else:
        low, high = result.quantile([(1 - level) / 2, (1 + level) / 2])
    return low, high, f"{100 * level:.3g} % interval"


def _plot_line(ax: Any, result: Drawable, item: int, truth: Tensor | None) -> None:
    def line(value: Tensor) -> Array:
        return as_array(value).reshape(-1)

    def of(value: Tensor) -> Tensor:
        return value[item] if result.batched else value

    axis = next(i for i, n in enumerate(result.shape) if n > 1)
    x = np.arange(result.shape[axis])
    if (band := _band(result)) is not None:
        ax.fill_between(x, line(of(band[0])), line(of(band[1])), color="C0", alpha=0.25, linewidth=0, label=band[2])
    good = ~(result.failed[:, item] if result.batched else result.failed)
    samples = result.samples[:, item] if result.batched else result.samples
    for i, sample in enumerate(samples[good][:3]):
        ax.plot(x, line(sample), color="0.45", linewidth=0.5, alpha=0.8, label="samples" if i == 0 else None)
    ax.plot(x, line(of(result.mean)), color="C0", linewidth=1.3, label="mean")
    if truth is not None:
        ax.plot(x, line(truth), color="black", linewidth=1.0, linestyle="--", label="truth")
    ax.set_xlabel(result.dims[axis] if result.dims else f"axis_{axis}")
    ax.set_ylabel(result.units)
    ax.margins(x=0)
    ax.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16), borderaxespad=0.4)


def _plot_number(ax: Any, result: Drawable, item: int, truth: Tensor | None) -> None:
    good = ~(result.failed[:, item] if result.batched else result.failed)
    samples = result.samples[:, item] if result.batched else result.samples
    weights = result.weights[:, item] if result.batched else result.weights
    mean = result.mean[item] if result.batched else result.mean
    values = as_array(samples[good]).reshape(-1)
    ax.hist(values, bins=max(5, round(len(values) ** 0.5)), weights=as_array(weights[good]), color="C0", alpha=0.4)
    ax.axvline(float(mean), color="C0", linewidth=1.3, label="mean")
    if truth is not None:
        ax.axvline(float(truth.reshape(())), color="black", linestyle="--", linewidth=1.0, label="truth")
    ax.set_xlabel(result.units)
    ax.set_ylabel("posterior mass")
    ax.legend(frameon=False)


# --- images -----------------------------------------------------------------------------------------------------------
def _plot_images(
    result: Drawable, item: int, truth: Tensor | None, good: Tensor, panels: list[Any] | None, part: str
) -> Figure:
    def of(value: Tensor) -> Tensor:
        return central_image(value[item] if result.batched else value)[0]

    is_complex = result.samples.is_complex()
    phase = is_complex and part == "phase"

    def look(value: Tensor) -> Array:
        return as_array(_PARTS[part](value) if value.is_complex() else value)

    index = [int(k) for k in good.nonzero()[:2, 0]]
    mean = of(result.mean)
    intensity: list[tuple[str, Array]] = [("mean", look(mean))]
    intensity += [(f"sample {k}", look(of(result.samples[k]))) for k in index]
    spread: list[tuple[str, Array]] = [("std", as_array(of(result.std)))]
    if truth is not None:
        flat = central_image(truth)[0]
        intensity.insert(0, ("truth", look(flat)))
        both = torch.angle(mean * flat.conj()) if phase else mean - flat
        error = both if is_complex and part in ("phase", "magnitude") else _PARTS[part](both) if is_complex else both
        spread.append(("|mean - truth|" + (" in phase" if phase else ""), as_array(error.abs())))
    low, high = (-np.pi, np.pi) if phase else colour_limits([intensity[0][1], *(image for _, image in intensity[1:2])])
    if is_complex and part == "magnitude":
        low = 0.0
    scales = {
        "intensity": ("twilight" if phase else "gray", low, high),
        "std": ("magma", 0.0, colour_top(spread[0][1])),
        "error": ("magma", 0.0, colour_top(spread[-1][1])),
    }
    named = {name: (image, "intensity") for name, image in intensity} | {"std": (spread[0][1], "std")}
    named |= {name: (image, "error") for name, image in spread[1:]}
    if panels is not None:
        order = ["mean", "std", *(f"sample {k}" for k in index), *(["truth"] if truth is not None else [])]
        order += [name for name, (_, scale) in named.items() if scale == "error"]
        for ax, name in zip(panels, order, strict=False):
            image, scale = named[name]
            ax.figure.colorbar(show_image(ax, image, name, *scales[scale]), ax=ax, fraction=0.046, pad=0.03)
        figure: Figure = panels[0].figure
        return figure
    return _new_image_figure(result, item, named, scales, part if is_complex else "")


def _new_image_figure(
    result: Drawable, item: int, named: Mapping[str, tuple[Array, str]], scales: Mapping[str, Scale], part: str
) -> Figure:
    """Columns of intensities with one colour bar, then a column of std and error with one each."""
    from invsolve.core.notebook_figure import NotebookFigure

    images = [name for name, (_, scale) in named.items() if scale == "intensity"]
    spreads = [name for name, (_, scale) in named.items() if scale != "intensity"]
    rows = len(spreads)
    columns = -(-len(images) // rows)
    height, width = named["std"][0].shape
    ratio = min(max(height / width, 0.3), 2.5)
    figure = NotebookFigure(
        figsize=(2.0 * (columns + 1) + 1.0, (2.0 * ratio + 0.25) * rows + 0.35), layout="constrained"
    )
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for ax in grid[:, :columns].flat[len(images) :]:
        ax.set_axis_off()
    for ax, name in zip(grid[:, :columns].flat, images, strict=False):
        mesh = show_image(ax, named[name][0], name, *scales["intensity"])
    bar = figure.colorbar(mesh, ax=list(grid[:, :columns].flat), fraction=0.05, pad=0.01, aspect=25 * rows)
    bar.set_label("phase, rad" if part == "phase" else result.units)
    for ax, name in zip(grid[:, columns], spreads, strict=True):
        mesh = show_image(ax, named[name][0], name, *scales[named[name][1]])
        figure.colorbar(mesh, ax=ax, fraction=0.05, pad=0.03)
    words = [result.strategy, part]
    if result.batched and result.samples.shape[1] > 1:
        words.append(f"item {item}")
    words.append(central_image(result.samples[0, item] if result.batched else result.samples[0])[1])
    words.append(result.tempered)
    figure.suptitle(", ".join(word for word in words if word), fontsize=9)
    return figure


def _region(within: object, reference: Array | None) -> Array:
    """Where errors are averaged, as an index of images."""
    if within is None:
        return np.array(True)
    if reference is None:
        raise invalid("comparison_figure", "within", "left out without a truth", "a mask")
    if not isinstance(within, Tensor) or within.dtype != torch.bool or tuple(within.squeeze().shape) != reference.shape:
        want = f"a bool torch.Tensor of the shape of truth, {reference.shape}"
        raise invalid_type("comparison_figure", "within", want, within)
    return as_array(within.squeeze())


def _image(name: str, value: object) -> Array:
    image = as_tensor("comparison_figure", name, value, dtype=torch.float64, device=torch.device("cpu")).squeeze()
    if image.ndim != 2:
        raise invalid("comparison_figure", name, "an image of two axes", tuple(image.shape))
    return as_array(image)
