"""What a training looks like: its losses, samples beside signals, and a card in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invsolve.priors.learned.network import NetworkPrior

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_figure(folder: Path) -> Figure:
    """The losses of `log.jsonl` against signals seen, a line for each decade of noise levels (units of sigma_data)."""
    from invsolve.core.notebook_figure import NotebookFigure

    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    figure = NotebookFigure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    for decade in sorted({k for line in lines for k in line["levels"]}, key=float):
        points = [(line["step"], line["levels"][decade]) for line in lines if decade in line["levels"]]
        steps, losses = zip(*points, strict=True)
        ax.plot(steps, _smooth(list(losses)), label=f"noise {decade} to 10 times that")
    ax.set(xlabel="step", ylabel="weighted denoising error (1: nothing learnt)", yscale="log")
    ax.legend(fontsize="small")
    return figure


def _smooth(values: list[float], share: float = 0.1) -> list[float]:
    """Exponential average over about a tenth of the line."""
    keep, out = 1 - 1 / max(1.0, share * len(values)), []
    level = values[0]
    for v in values:
        level = keep * level + (1 - keep) * v
        out.append(level)
    return out


def samples_figure(samples: Tensor, signals: Tensor, windows: Sequence[tuple[float, float]] = ()) -> Figure:
    """Samples of a prior above signals that it was trained on, ``(n, H, W)`` each; magnitudes if complex.

    ``windows``: what is black and what is white; both rows are drawn again for each. Without, nearly the whole range.
    """
    from invsolve.core.notebook_figure import NotebookFigure

    n = min(len(samples), len(signals))
    if not windows:
        top = float(torch.quantile(signals.abs().float().flatten()[:100_000], 0.995))
        windows = ((0.0 if signals.is_complex() else float(signals.min()), top),)
    parts = (("samples", samples), ("training", signals))
    rows = [(name, values, window) for window in windows for name, values in parts]
    figure = NotebookFigure(figsize=(1.6 * n, 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), n, squeeze=False)
    for (name, values, (low, high)), line in zip(rows, axes, strict=True):
        for ax, value in zip(line, values[:n], strict=True):
            ax.imshow((value.abs() if value.is_complex() else value).float().numpy(), cmap="gray", vmin=low, vmax=high)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name if len(windows) == 1 else f"{name}\n{low:g} to {high:g}")
    return figure


def card_text(prior: NetworkPrior, name: str) -> str:
    """The card of a prior, Markdown."""
    card = prior.card
    training = card.get("training", {})
    shape, loss = " x ".join(map(str, prior.shape)), training.get("validation loss", float("nan"))
    low, high = prior.sigma_range
    others = f"{held} signals held out" if (held := training.get("held out")) else "other signals"
    fit = ""
    if "over-fitting" in training:
        over, error = training["over-fitting"], training["over-fitting error"]
        fit = f"; {over:+.3f} +- {error:.3f} above that of training signals"
    elif held == 0:
        others = "the training signals"
    counts = f"{training.get('steps', 0):,} steps, {training.get('signals', 0):,} signals"
    lines = [
        f"# {name}",
        "",
        f"A diffusion prior over {prior.kind} images of {shape} pixels, {training.get('parameters', 0):,} parameters.",
        "",
        f"- **Data**: {card.get('data', 'not stated')}",
        f"- **Recipe**: {card.get('recipe', 'iv.priors.training.train')}",
        f"- **Training**: {counts} in the last stage; {card.get('stages', 'one stage')}",
        f"- **Loss**: {loss:.3f}, the mean log of the weighted denoising error of {others}{fit}",
        f"- **Weights**: {training.get('weights', 'not stated')}",
        f"- **Noise levels**: {low:.3g} to {high:.3g}; rms of a component {prior.unit:.3g}",
        f"- **Licence**: {card.get('licence', 'that of the data')}",
        f"- **Limits**: {card.get('limits', 'signals unlike the data')}",
    ]
    return "\n".join(lines) + "\n"
