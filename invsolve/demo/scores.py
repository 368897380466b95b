"""How good the images of the demo are, and how right its posterior: one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve import metrics
from invsolve.datasets import MRIScan
from invsolve.results.result import Result

FIELD, LEARNED = "posterior mean, field prior", "posterior mean, learned prior"  # the rows with samples


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    method : str
        What made the image.
    psnr, ssim : float
        Of magnitudes, over the whole image; dB, and up to 1.
    nrmse : float
        Of complex values inside the head.
    crps : float
        The mean of those of the real and the imaginary part inside the head; without samples the mean absolute error,
        which is the CRPS of a point.
    covered : float or None
        How much of both parts lies in the rank interval inside the head; None without samples.
    seconds : float
        That it took.
    """

    method: str
    psnr: float
    ssim: float
    nrmse: float
    crps: float
    covered: float | None
    seconds: float


def in_head(scan: MRIScan) -> Tensor:
    """Where the object is, ``(H, W)`` bool: above a tenth of its largest magnitude, as in `simulate_mri`."""
    size = scan.truth.abs()
    return size > 0.1 * size.max()


def score(
    scan: MRIScan, images: dict[str, Tensor], results: dict[str, Result], seconds: dict[str, float], level: float
) -> tuple[tuple[Row, ...], float]:
    """The rows of the table, and the exact level of the interval; ``results`` are the posteriors, by row."""
    truth, head = scan.truth, in_head(scan)
    peak = float(truth.abs().max())
    target, nominal = parts(truth[head])[None], level
    rows = []
    for name, image in images.items():
        x, t = image.abs()[None], truth.abs()[None]
        covered = None
        if name in results:
            values = parts(results[name].samples[:, head])[:, None]
            error = metrics.crps(values, target)
            found = metrics.coverage(values, target, level=level)
            covered, nominal = float(found.observed), found.nominal
        else:
            error = (parts(image[head]) - target).abs().mean(1)
        rows.append(
            Row(
                method=name,
                psnr=float(metrics.psnr(x, t, data_range=peak)),
                ssim=float(metrics.ssim(x, t, data_range=peak)),
                nrmse=float(metrics.nrmse(image[head][None], truth[head][None])),
                crps=float(error),
                covered=covered,
                seconds=seconds[name],
            )
        )
    return tuple(rows), nominal


def parts(x: Tensor) -> Tensor:
    """Real and imaginary parts side by side, ``(..., m)`` complex to ``(..., 2 m)``."""
    return torch.cat([x.real, x.imag], -1)


def table(rows: Sequence[Row], nominal: float) -> list[str]:
    """The lines of a Markdown table that is also legible as text."""
    head = ["method", "PSNR, dB", "SSIM", "NRMSE", "CRPS", f"in {nominal:.0%} interval", "seconds"]
    cells = [head]
    for r in rows:
        covered = "-" if r.covered is None else f"{r.covered:.3f}"
        numbers = [f"{r.psnr:.2f}", f"{r.ssim:.3f}", f"{r.nrmse:.4f}", f"{r.crps:.5f}", covered, f"{r.seconds:.2f}"]
        cells.append([r.method, *numbers])
    wide = [max(len(row[i]) for row in cells) for i in range(len(head))]
    cells.insert(1, ["-" * wide[0], *("-" * (w - 1) + ":" for w in wide[1:])])
    padded = ([row[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(row[1:], wide[1:], strict=True))] for row in cells)
    return [
        *(f"| {' | '.join(row)} |" for row in padded),
        "",
        "PSNR and SSIM: magnitudes, whole image. NRMSE, CRPS, interval: complex values inside the head. "
        "CRPS of a single image: its mean absolute error.",
    ]
