"""The demo: an undersampled 8-coil scan of a real T1 slice, its exact posterior, and what everybody else would show.

Nothing is fitted to the slice: the spectrum of the prior and the weights of the baselines come from head phantoms, and
the scan is simulated from a finer grid than the unknown's, with the coil maps multiplied there.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from invsolve import metrics
from invsolve.baselines import TunedWeight, WeightedSolver, tikhonov, total_variation, tune_weight, zero_filled
from invsolve.check import CheckReport
from invsolve.checks import check_int
from invsolve.datasets import MRIScan, head_phantom, simulate_mri, smooth_phase, t1_slice
from invsolve.errors import invalid_type
from invsolve.files import atomic_write
from invsolve.priors import GaussianFieldPrior, Spectrum
from invsolve.problem import Problem
from invsolve.result import Result
from invsolve.solve import solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FINE = 256  # cells a side of the objects that are scanned: the slice, and the phantoms
CG_WEIGHTS = tuple(0.01 * 2.0**k for k in range(6))  # against ||A||^2, about 1
TV_WEIGHTS = tuple(0.1 * 1.6**k for k in range(6))  # in units of the noise std
TV_ITERATIONS = 150  # on these scans 400 change the error by less than 1 % at the tuned weight


@final
@dataclass(frozen=True, kw_only=True)
class Size:
    """What makes a run short or long: cells a side of the unknown, phantoms to fit the prior to and to tune on."""

    grid: int
    heads: int
    tuning: int


FULL, QUICK = Size(grid=192, heads=16, tuning=3), Size(grid=96, heads=8, tuning=2)


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. PSNR and SSIM: magnitudes, whole image; the others: complex values inside the head.

    ``crps`` averages those of the real and the imaginary part; without samples it is the mean absolute error, which is
    the CRPS of a point. ``covered``: how much of both parts lies in the rank interval; None without samples.
    """

    method: str
    psnr: float
    ssim: float
    nrmse: float
    crps: float
    covered: float | None
    seconds: float


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Demo:
    """What a run made; ``text`` is what it printed about it, as Markdown."""

    scan: MRIScan
    result: Result
    check: CheckReport
    images: dict[str, Tensor]  # (H, W) complex, by method
    rows: tuple[Row, ...]
    nominal: float  # level of the rank interval
    text: str
    files: tuple[Path, ...]


def run(
    *,
    out: str | os.PathLike[str] = "out/demo",
    size: Size = FULL,
    acceleration: float = 4.0,
    samples: int = 19,
    seed: int = 0,
    say: Callable[[str], object] = print,
) -> Demo:
    """Scan the slice, reconstruct it in four ways, score them; write ``demo.md``, ``demo.png``, ``posterior.nc`` to ``out``.

    ``samples`` >= 2; 19 carry a rank interval of exactly 90 %. ``seed`` keys coils, phase, mask and noise of the scan,
    the phantoms and the samples. ``say`` is given the lines of the report. Raises InputError for a wrong number.
    """
    if not isinstance(size, Size):
        raise invalid_type("demo", "size", "invsolve.demo.FULL, QUICK or a Size", size)
    samples = check_int("demo", "samples", samples, minimum=2)
    started = time.perf_counter()
    scan = simulate_mri(t1_slice(), grid=(size.grid, size.grid), acceleration=acceleration, seed=seed)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    y, A, images, seconds = scan.kspace[None], scan.operator, {}, {}

    def timed(name: str, reconstruct: Callable[[], Tensor]) -> None:
        begun = time.perf_counter()
        images[name] = reconstruct()[0]
        seconds[name] = time.perf_counter() - begun

    with _one_thread():
        phantoms = [_phantom_scan(size.grid, acceleration, seed + 1 + i) for i in range(size.tuning)]
        cg, tv = tune_baselines(phantoms)
        timed("zero-filled", lambda: zero_filled(A, y))
        timed("CG-SENSE", lambda: tikhonov(A, y, weight=cg.weight))
        timed("TV", lambda: _tv(scan.noise_std)(A, y, weight=tv.weight))
        prior = GaussianFieldPrior(
            shape=(size.grid, size.grid), spectrum=head_spectrum(size.heads, seed=seed), basis="periodic", kind="complex"
        )
        problem = Problem(A, scan.kspace, noise=scan.noise_std, dims=("row", "column"))
        # One sample at a time: 8 coils of one image stay in the processor's cache, those of 19 do not (twice as slow).
        result = solve(problem, prior, num_samples=samples, seed=seed, chunk=1)
        check = result.check()
    images["posterior mean"], seconds["posterior mean"] = result.mean, result.seconds
    level = min(0.9, (samples - 1) / (samples + 1))
    rows, nominal = score(scan, images, result, seconds, level)
    names = ("demo.png", "posterior.nc", "demo.md")
    files = tuple(folder / name for name in names)
    atomic_write(files[0], lambda path: draw(scan, images, result).savefig(path, dpi=150))
    result.save(files[1])
    lines = [
        *_assumed(scan, problem, size, cg, tv, result), "", *table(rows, nominal), "",
        *_coverage_lines(scan, result, level), "", "```text", str(check), "```", "", _verdict(check), "",
        f"{time.perf_counter() - started:.1f} s in all. Written to {folder.as_posix()}: {', '.join(names)}.",
    ]
    text = "\n".join(lines)
    atomic_write(files[2], lambda path: path.write_text(f"# Demo: an undersampled MRI slice\n\n{text}\n", encoding="utf-8"))
    say(text)
    return Demo(scan=scan, result=result, check=check, images=images, rows=rows, nominal=nominal, text=text, files=files)


# --- what is learned from phantoms -----------------------------------------------------------------------------------
def head_spectrum(heads: int, *, seed: int = 0) -> Spectrum:
    """The mean power of ``heads`` head phantoms with random smooth phases, per real component and mode, as a spectrum.

    Averaged over rings of |k|, one to 15 % wide, on the fine grid; between their centres the logarithm is
    interpolated. The phase of a scanner has an arbitrary constant too, so the field has mean zero and both of its
    components have the same law.
    """
    shape = (FINE, FINE)
    images = head_phantom(heads, shape, seed=seed, dtype=torch.float64)
    phases = torch.stack([smooth_phase(shape, seed=seed + i, dtype=torch.float64) for i in range(heads)])
    # With norm="forward" these are the coefficients of exp(2 pi i k r); half of their power is in each component.
    power = torch.fft.fft2(torch.polar(images, phases), norm="forward").abs().square().mean(0) / 2
    k = torch.fft.fftfreq(FINE, 1 / FINE, dtype=torch.float64)
    radius = torch.sqrt(k[:, None] ** 2 + k**2)
    edges = [0.5]
    while edges[-1] < FINE / math.sqrt(2):
        edges.append(max(edges[-1] + 1, 1.15 * edges[-1]))
    ring = torch.bucketize(radius.flatten(), torch.tensor(edges, dtype=torch.float64))
    count = torch.bincount(ring).double()
    centre, mean = (torch.bincount(ring, weights=v.flatten()) / count for v in (radius, power))
    x, log_mean = torch.log1p(centre).numpy(), mean.log().numpy()

    def variances(eigenvalues: Tensor) -> Tensor:
        wave_number = eigenvalues.sqrt() / (2 * math.pi)  # periods in the field of view, of length 1
        return torch.from_numpy(np.exp(np.interp(torch.log1p(wave_number).numpy(), x, log_mean)))

    return Spectrum(variances)


def tune_baselines(phantoms: Sequence[MRIScan]) -> tuple[TunedWeight, TunedWeight]:
    """The weights of CG-SENSE and TV (in units of the noise std) of least error on scans of phantoms."""
    problems = [(scan.operator, scan.kspace[None], scan.truth[None]) for scan in phantoms]
    noise = sum(scan.noise_std for scan in phantoms) / len(phantoms)
    cg = tune_weight(partial(tikhonov, rtol=1e-3), problems, CG_WEIGHTS)
    return cg, tune_weight(_tv(noise), problems, TV_WEIGHTS)


def _tv(noise_std: float) -> WeightedSolver:
    return lambda A, y, /, *, weight: total_variation(A, y, weight=weight * noise_std, iterations=TV_ITERATIONS)


def _phantom_scan(grid: int, acceleration: float, seed: int) -> MRIScan:
    """A scan like the slice's, of another object with other coils, phase, mask and noise."""
    head = head_phantom(1, (FINE, FINE), seed=seed)[0]
    return simulate_mri(head, grid=(grid, grid), acceleration=acceleration, seed=seed)


# --- scores ----------------------------------------------------------------------------------------------------------
def in_head(scan: MRIScan) -> Tensor:
    """Where the object is, ``(H, W)`` bool: above a tenth of its largest magnitude, as in `simulate_mri`."""
    size = scan.truth.abs()
    return size > 0.1 * size.max()


def score(
    scan: MRIScan, images: dict[str, Tensor], result: Result, seconds: dict[str, float], level: float
) -> tuple[tuple[Row, ...], float]:
    """The rows of the table, and the exact level of the interval. The last image is the posterior mean."""
    truth, head = scan.truth, in_head(scan)
    peak = float(truth.abs().max())
    values, target = _parts(result.samples[:, head])[:, None], _parts(truth[head])[None]
    covered = metrics.coverage(values, target, level=level)
    rows = []
    for name, image in images.items():
        sampled = name == "posterior mean"
        x, t = image.abs()[None], truth.abs()[None]
        error = metrics.crps(values, target) if sampled else (_parts(image[head]) - target).abs().mean(1)
        rows.append(Row(
            method=name, psnr=float(metrics.psnr(x, t, data_range=peak)), ssim=float(metrics.ssim(x, t, data_range=peak)),
            nrmse=float(metrics.nrmse(image[head][None], truth[head][None])), crps=float(error),
            covered=float(covered.observed) if sampled else None, seconds=seconds[name],
        ))
    return tuple(rows), covered.nominal


def _parts(x: Tensor) -> Tensor:
    """Real and imaginary parts side by side, ``(..., m)`` complex to ``(..., 2 m)``."""
    return torch.cat([x.real, x.imag], -1)


# --- the report ------------------------------------------------------------------------------------------------------
def table(rows: Sequence[Row], nominal: float) -> list[str]:
    """The lines of a Markdown table that is also legible as text."""
    head = ["method", "PSNR, dB", "SSIM", "NRMSE", "CRPS", f"in {nominal:.0%} interval", "seconds"]
    cells = [head, ["-" * len(head[0]), *("-" * (len(h) - 1) + ":" for h in head[1:])]]
    for r in rows:
        covered = "-" if r.covered is None else f"{r.covered:.3f}"
        cells.append([r.method, f"{r.psnr:.2f}", f"{r.ssim:.3f}", f"{r.nrmse:.4f}", f"{r.crps:.5f}", covered,
                      f"{r.seconds:.2f}"])
    wide = [max(len(row[i]) for row in cells) for i in range(len(head))]
    cells[1] = ["-" * wide[0], *("-" * (w - 1) + ":" for w in wide[1:])]
    padded = ([row[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(row[1:], wide[1:], strict=True))] for row in cells)
    return [
        *(f"| {' | '.join(row)} |" for row in padded), "",
        "PSNR and SSIM: magnitudes, whole image. NRMSE, CRPS, interval: complex values inside the head. CRPS of a single "
        "image: its mean absolute error.",
    ]


def _assumed(
    scan: MRIScan, problem: Problem, size: Size, cg: TunedWeight, tv: TunedWeight, result: Result
) -> list[str]:
    edge = " (at the edge of the range tried)"
    return [
        f"- Object: the real T1 slice, {FINE} x {FINE}, with a simulated smooth phase; unknown: {size.grid} x {size.grid} "
        "complex pixels of the same field of view.",
        f"- Scan: {scan.kspace.shape[0]} simulated coils, {scan.acceleration:.3g} times fewer lines than pixels, "
        f"{int(problem.num_data[0])} real numbers measured for {2 * size.grid**2} unknown ones, noise std {scan.noise_std:.4f} "
        f"per component (mean of the object / 30).",
        f"- Prior: a stationary complex Gaussian field, its spectrum the ring-averaged power of {size.heads} head phantoms; "
        "the slice was not used.",
        f"- Baselines: weights of least error on {size.tuning} phantom scans: CG-SENSE {cg.weight:.3g}"
        f"{edge if cg.at_edge else ''}, TV {tv.weight:.3g} noise std{edge if tv.at_edge else ''}.",
        f"- Posterior: {result.num_samples} samples, strategy {result.strategy}. {result.why}",
        f"- Fit: chi^2 per datum of the samples {float(result.chi2.mean()):.3f} (about 1 if model and noise level are right).",
    ]


def _coverage_lines(scan: MRIScan, result: Result, level: float) -> list[str]:
    head = in_head(scan)
    everywhere = metrics.coverage(_parts(result.samples.flatten(1))[:, None], _parts(scan.truth.flatten())[None], level=level)
    size = metrics.coverage(result.map(torch.abs).samples[:, head][:, None], scan.truth.abs()[head][None], level=level)
    return [f"The {size.nominal:.0%} intervals of {result.num_samples} samples hold the truth in {float(everywhere.observed):.3f} of the "
            f"real and imaginary parts of the whole image, and in {float(size.observed):.3f} of the magnitudes inside the head."]


def _verdict(check: CheckReport) -> str:
    """What the report of the checks means here, in words."""
    failed = {c.name for c in check.checks if not c.passed}
    if not failed:
        return "The slice does not contradict the prior in what these tests look at."
    words = ["The samples are exact draws for the prior that was stated; the tests say how far that prior fits this slice."]
    if "prior" in failed:
        words.append("It does not: at some scales the posterior has another power than phantoms have. A head is not a stationary "
                     "Gaussian field: it has sharp edges, and air around it. Mean and intervals inherit that.")
    if "structure" in failed:
        words.append("The residual is not white: part of what the fine object put into the data does not fit the "
                     "reconstruction's own model (coil maps on the coarse grid) and prior.")
    if other := sorted(failed - {"prior", "structure"}):
        words.append(f"Also failed: {', '.join(other)}.")
    return " ".join(words)


def draw(scan: MRIScan, images: dict[str, Tensor], result: Result) -> Figure:
    """Truth and images above, their errors below; the posterior std stands under the truth, on the scale of the errors."""
    from invsolve.plotting import comparison_figure

    figure = comparison_figure({**images, "one sample": result.samples[0]}, truth=scan.truth)
    empty = next(ax for ax in figure.axes if not ax.axison)
    error = next(ax for ax in figure.axes if ax.get_title().startswith("|error|")).images[0]
    low, high = error.get_clim()
    empty.set_axis_on()
    empty.set(xticks=[], yticks=[], title="posterior std")
    empty.imshow(result.std.numpy(), cmap=error.get_cmap(), vmin=low, vmax=high)
    return figure


@contextmanager
def _one_thread() -> Iterator[None]:
    """A second thread gains little on images of this size, and costs a factor of ten where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
