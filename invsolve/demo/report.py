"""The demo in words and in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invsolve import metrics
from invsolve.baselines import TunedWeight
from invsolve.core.figures import as_array, colour_top, show_image
from invsolve.datasets import MRIScan
from invsolve.demo.phantoms import FINE, Size
from invsolve.demo.scores import FIELD, LEARNED, Row, in_head, parts
from invsolve.diagnostics.report import CheckReport
from invsolve.priors import Prior
from invsolve.problem import Problem
from invsolve.results.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FAILED = {
    "prior": "at some scales the posterior has another power than the phantoms have. A head is no stationary Gaussian "
    "field: it has sharp edges, and air around it; and this one may have finer or coarser folds than the "
    "phantoms. Mean and intervals inherit that.",
    "noise level": "a prior that allows more than there is fits part of the noise (chi^2 below 1); one that allows too "
    "little leaves part of the signal (above 1).",
    "structure": "the residual is not white. A prior with too much power at some scales lets the samples follow the "
    "noise there, which leaves a pattern; data made with the reconstruction's own model show it as well.",
}


def assumed(scan: MRIScan, size: Size, results: Mapping[str, Result], cg: TunedWeight, tv: TunedWeight) -> list[str]:
    """What was simulated, what was stated to `solve`, and how the baselines got their weights."""
    problem = results[FIELD].problem
    assert isinstance(problem, Problem)
    lines = int(scan.mask.any(-2).sum())
    edges = [" (at the edge of the range tried)" if tuned.at_edge else "" for tuned in (cg, tv)]
    return [
        f"- Object: the real T1 slice, {FINE} x {FINE}, with a simulated smooth phase. "
        f"Unknown: {size.grid} x {size.grid} complex pixels over the same field of view.",
        f"- Scan: {scan.kspace.shape[0]} simulated coils, {lines} of {size.grid} lines of k-space, "
        f"{int(problem.num_data[0])} real numbers; noise std {scan.noise_std:.4f} per component, a thirtieth of the "
        "mean object.",
        "- Field prior: a stationary complex Gaussian field, its spectrum the ring-averaged power of "
        f"{size.heads} head phantoms. Nothing is fitted to the slice.",
        *_learned(results.get(LEARNED)),
        f"- Baselines: weights of least error on scans of {size.tuning} phantoms: "
        f"CG-SENSE {cg.weight:.3g}{edges[0]}, TV {tv.weight:.3g} noise std{edges[1]}.",
        *(
            f"- {name[0].upper()}{name[1:]}: {r.num_samples} samples, strategy {r.strategy}. {r.why} "
            f"{r.certified[0].upper()}{r.certified[1:]}. chi^2 per datum "
            f"{float(r.chi2.mean()):.3f}, about 1 if model and noise level are right."
            for name, r in results.items()
        ),
    ]


def _learned(result: Result | None) -> list[str]:
    if result is None or not isinstance(result.prior, Prior):
        return []
    words = "".join(f" {note[0].upper()}{note[1:]}." for note in result.prior.notes)
    return [f"- Learned prior: head-mr-128, a diffusion model trained on head phantoms only.{words}"]


def coverage_line(scan: MRIScan, name: str, result: Result, level: float) -> str:
    """Coverage beyond that of the table: the whole image, and the magnitude."""
    head, magnitude, truth = in_head(scan), result.map(torch.abs).samples, parts(scan.truth.flatten())
    everywhere = metrics.coverage(parts(result.samples.flatten(1))[:, None], truth[None], level=level)
    size = metrics.coverage(magnitude[:, head][:, None], scan.truth.abs()[head][None], level=level)
    return (
        f"{name[0].upper()}{name[1:]}: the {size.nominal:.0%} intervals of {result.num_samples} samples also hold "
        f"{float(everywhere.observed):.3f} of the real and imaginary parts of the whole image, air included, and "
        f"{float(size.observed):.3f} of the magnitudes inside the head."
    )


def verdict(rows: Sequence[Row], check: CheckReport) -> list[str]:
    """What the table and the report of the checks of the last posterior mean here, in words."""
    lines = []
    best = min(rows, key=lambda row: row.nrmse)
    if best.covered is None:
        lines += [
            f"As a single image, {best.method} is nearer to the truth than the posterior mean. It does not say "
            "how far off it is; the posterior does, pixel by pixel and for whatever is computed from the image "
            "(`result.map`).",
            "",
        ]
    failed = [c.name for c in check.checks if not c.passed]
    if not failed:
        return [*lines, "The slice does not contradict model and prior in what the tests look at."]
    lines += [f"Where the slice contradicts the model and the {check_of(rows)}:", ""]
    return lines + [f"- {name}: {_FAILED[name]}" if name in _FAILED else f"- {name}." for name in failed]


def check_of(rows: Sequence[Row]) -> str:
    """Which prior the checks are about: that of the last posterior."""
    return "learned prior" if any(row.method == LEARNED for row in rows) else "field prior"


def draw(scan: MRIScan, images: Mapping[str, Tensor], result: Result) -> Figure:
    """Truth and images above, their errors below, NRMSE inside the head; the posterior std under the truth."""
    from invsolve.plotting import comparison_figure

    figure = comparison_figure({**images, "one sample": result.samples[0]}, truth=scan.truth, within=in_head(scan))
    empty = next(ax for ax in figure.axes if not ax.axison)
    error = next(ax for ax in figure.axes if ax.get_title().startswith("|error|"))
    std = as_array(result.std)
    mesh = show_image(empty, std, "posterior std", "magma", 0.0, colour_top(std))
    empty.set_axis_on()
    empty.title.set_fontsize(error.title.get_fontsize())
    bar = figure.colorbar(mesh, ax=empty, fraction=0.046, pad=0.03, location="left")
    bar.ax.tick_params(labelsize=7)
    return figure


def draw_first(scan: MRIScan, zero_filled: Tensor, sample: Tensor) -> Figure:
    """What the scan alone shows, the first sample, and the truth."""
    from invsolve.plotting import comparison_figure

    return comparison_figure({"zero-filled": zero_filled, "one sample": sample}, truth=scan.truth, within=in_head(scan))
