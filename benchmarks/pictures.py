"""The pictures of docs/exactness-explained.md: what guidance gets wrong, what the certificate bounds.

python benchmarks/pictures.py     # writes docs/pictures/*.png from new solves and from docs/exactness.csv
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import invsolve as iv

DOCS = Path(__file__).parents[1] / "docs"
D = torch.float64
TRUE, OURS, GUIDED = "0.25", "tab:blue", "tab:orange"


def grid_posterior(log_p: Tensor, grid: Tensor) -> Tensor:
    p = (log_p - log_p.max()).exp()
    return p / (p.sum() * (grid[1] - grid[0]))


def marginals() -> None:
    """Three problems in one or two dimensions, whose posterior is a quadrature."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), constrained_layout=True)
    grid = torch.linspace(-4, 4, 2001, dtype=D)

    law = iv.priors.SparsePrior(shape=(1,), coefficients=iv.priors.SpikeSlab(weight=0.3, slab=1.5, spike=0.1), dtype=D)
    A = iv.operators.Matrix(matrix=torch.eye(1, dtype=D))
    truth = law.log_prob(grid[:, None]) - 0.5 * ((0.8 - grid) / 0.4) ** 2
    draw(
        axes[0],
        A,
        torch.tensor([0.8], dtype=D),
        law,
        0.4,
        grid,
        grid_posterior(truth, grid),
        "spike and slab, y = x + 0.4 noise = 0.8",
        (-1, 2.2),
    )

    normal = iv.priors.GaussianPrior(mean=torch.tensor([0.2], dtype=D), covariance=torch.eye(1, dtype=D))
    square = iv.operators.from_callable(lambda x: x**2, (1,), (1,))
    truth = -0.5 * (grid - 0.2) ** 2 - 0.5 * ((1.5 - grid**2) / 0.3) ** 2
    draw(
        axes[1],
        square,
        torch.tensor([1.5], dtype=D),
        normal,
        0.3,
        grid,
        grid_posterior(truth, grid),
        "x ~ N(0.2, 1), y = x^2 + 0.3 noise = 1.5",
        (-2, 2),
    )

    plane = iv.priors.GaussianPrior(mean=torch.zeros(2, dtype=D), covariance=torch.eye(2, dtype=D))
    bend = iv.operators.from_callable(lambda x: x[:, 1:] + x[:, :1] ** 2, (2,), (1,))
    u, v = torch.meshgrid(grid[::4], grid[::4], indexing="ij")
    joint = -0.5 * (u**2 + v**2) - 0.5 * ((1.0 - v - u**2) / 0.1) ** 2
    marginal = (joint - joint.max()).exp().sum(1)
    density = marginal / marginal.sum() / float(grid[4] - grid[0])
    draw(
        axes[2],
        bend,
        torch.tensor([1.0], dtype=D),
        plane,
        0.1,
        grid[::4],
        density,
        "banana: x2 + x1^2 = 1, first component",
        (-2.2, 2.2),
    )
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, "marginals.png")


def draw(
    axis: plt.Axes,
    A: iv.operators.Operator,
    y: Tensor,
    prior: iv.priors.Prior,
    noise: float,
    grid: Tensor,
    truth: Tensor,
    title: str,
    span: tuple[float, float],
) -> None:
    edges = torch.linspace(*span, 61).tolist()
    for strategy, colour, name in ((iv.strategies.MMPS(), GUIDED, "guidance alone (MMPS)"), ("auto", OURS, "auto")):
        result = iv.solve(A, y, prior, noise=noise, num_samples=16384, strategy=strategy)
        values = result.samples[:, 0].numpy()
        axis.hist(values, bins=edges, density=True, color=colour, alpha=0.15)
        axis.hist(values, bins=edges, density=True, color=colour, histtype="step", lw=1.3, label=name)
    axis.plot(grid, truth, color=TRUE, lw=1.2, label="exact")
    axis.set(title=title, xlim=span, yticks=[])
    axis.title.set_fontsize(9)


def certificates() -> None:
    """Errors against gold standards, of what was certified and of what was not; and of guidance alone."""
    with (DOCS / "exactness.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    judged = [r for r in rows if r["part"] == "certificate"]
    groups = (
        ("certified by auto", OURS, [r for r in judged if "reached True" in r["note"]]),
        ("not certified", "tab:red", [r for r in judged if "reached False" in r["note"]]),
        ("guidance alone (MMPS)", GUIDED, [r for r in rows if r["method"] == "invsolve: MMPS"]),
    )
    labels = {"mean": "largest error of a mean (posterior std)", "std": "largest relative error of a std"}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for name, colour, group in groups:
            values = sorted(value for r in group if not math.isnan(value := error(r, column)))
            if values:
                share = [(i + 1) / len(values) for i in range(len(values))]
                axis.step(values, share, where="post", color=colour, label=f"{name}, {len(values)} problems")
        axis.axvline(0.15, color=TRUE, lw=0.8, ls=":")
        axis.set(xscale="log", xlabel=label, ylim=(0, 1.02))
    axes[0].set_ylabel("share of the problems below")
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, "certificates.png")


def error(row: dict[str, str], column: str) -> float:
    if column == "mean":
        return float(row["mean"] or "nan")
    low, high = float(row["std_min"] or "nan"), float(row["std_max"] or "nan")
    return max(1 - low, high - 1, 1e-3)


def save(figure: plt.Figure, name: str) -> None:
    folder = DOCS / "pictures"
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / name, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    marginals()
    if (DOCS / "exactness.csv").exists():
        certificates()
