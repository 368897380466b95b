"""The demo itself: scan, reconstruct, score, write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from invsolve.baselines import tikhonov, zero_filled
from invsolve.core.files import atomic_write
from invsolve.core.validation import check_int
from invsolve.datasets import MRIScan, simulate_mri, t1_slice
from invsolve.demo.page import page
from invsolve.demo.phantoms import FULL, Size, head_spectrum, phantom_scan, tune_baselines, tv_solver
from invsolve.demo.report import assumed, coverage_line, draw, draw_first, verdict
from invsolve.demo.scores import FIELD, LEARNED, Row, score, table
from invsolve.diagnostics.report import CheckReport
from invsolve.errors import invalid_type
from invsolve.noise import Gaussian
from invsolve.priors import GaussianFieldPrior, load
from invsolve.problem import Problem
from invsolve.progress import Progress
from invsolve.results.result import Result
from invsolve.solving.solve import solve
from invsolve.strategies import MMPS

_NEXT = """What next: open {page}; read the samples with iv.load_result("{result}");
solve a problem of your own by docs/tasks.md: photo, MRI, spectrum, simulator, a few lines each."""
_ROWS = 4  # samples of a network at once: 128 x 128 pixels of them fill a CPU's cache


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Demo:
    """What a run made.

    Attributes
    ----------
    scan : MRIScan
        The simulated scan.
    results : dict
        Posteriors by row of the table: field prior, learned prior.
    check : CheckReport
        Of the last of them.
    images : dict
        (H, W) complex, by method.
    rows : tuple of Row
        The table.
    nominal : float
        Level of the rank interval.
    text : str
        The report, in Markdown.
    files : tuple of Path
        What was written.
    """

    scan: MRIScan
    results: dict[str, Result]  # by row of the table: field prior, learned prior
    check: CheckReport  # of the last of them
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
    progress: Progress | bool | None = None,
) -> Demo:
    """Scan the slice, reconstruct it in five ways, score them; write five files.

    The files: ``demo.html`` (the report with pictures, one file), ``demo.md``, ``demo.png``, ``posterior.nc`` (the last
    posterior; `invsolve.load_result` reads it), and, before the others, ``first.png`` (its first sample).

    Parameters
    ----------
    out : str or PathLike
        The folder that they are written to.
    size : Size
        How long it takes: `FULL` or `QUICK`.
    acceleration : float
        All lines over measured lines, >= 1.
    samples : int
        Of the posteriors, >= 2; 19 carry a rank interval of exactly 90 %.
    seed : int
        Keys coils, phase, mask and noise of the scan, the phantoms and the samples.
    say : callable
        Is given what there is to say: where the first sample is, the report.
    progress : Progress or bool, optional
        A meter of the samples, as `solve` takes one.

    Returns
    -------
    Demo
        Scan, images, posteriors, table and report.

    Raises
    ------
    InputError, InputTypeError
        For a wrong argument.
    """
    if not isinstance(size, Size):
        raise invalid_type("demo", "size", "invsolve.demo.FULL, QUICK or a Size", size)
    samples = check_int("demo", "samples", samples, minimum=2)
    started = time.perf_counter()
    scan = simulate_mri(t1_slice(), grid=(size.grid, size.grid), acceleration=acceleration, seed=seed)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    y, A, images, seconds = scan.kspace[None], scan.operator, {}, {}
    problem = Problem(A, scan.kspace, noise=Gaussian(std=scan.noise_std), dims=("row", "column"))
    early = []
    if size.steps:
        learned, strategy = load("head-mr-128").on(problem), MMPS(num_steps=size.steps)
        sample = solve(problem, learned, strategy=strategy, num_samples=1, seed=seed).samples[0]
        early.append(folder / "first.png")
        first = draw_first(scan, zero_filled(A, y)[0], sample)
        atomic_write(early[0], lambda file: first.savefig(file, format="png", dpi=150))
        say(f"The first of {samples} samples, after {time.perf_counter() - started:.0f} s: {early[0]}")

    def timed(name: str, reconstruct: Callable[[], Tensor]) -> None:
        begun = time.perf_counter()
        images[name] = reconstruct()[0]
        seconds[name] = time.perf_counter() - begun

    with _one_thread():
        phantoms = [phantom_scan(size.grid, acceleration, seed + 1 + i) for i in range(size.tuning)]
        cg, tv = tune_baselines(phantoms)
        timed("zero-filled", lambda: zero_filled(A, y))
        timed("CG-SENSE", lambda: tikhonov(A, y, weight=cg.weight))
        timed("TV", lambda: tv_solver(scan.noise_std)(A, y, weight=tv.weight))
        spectrum = head_spectrum(size.heads, seed=seed)
        prior = GaussianFieldPrior(shape=(size.grid, size.grid), spectrum=spectrum, basis="periodic", kind="complex")
        # One sample at a time: 8 coils of one image stay in the processor's cache, those of 19 do not (twice as slow).
        results = {FIELD: solve(problem, prior, num_samples=samples, seed=seed, chunk=1)}
    if size.steps:
        results[LEARNED] = solve(
            problem, learned, strategy=strategy, num_samples=samples, seed=seed, chunk=_ROWS, progress=progress
        )
    name, result = list(results.items())[-1]
    with _one_thread():
        check = result.check()
    images |= {key: r.mean for key, r in results.items()}
    seconds |= {key: r.seconds for key, r in results.items()}
    level = min(0.9, (samples - 1) / (samples + 1))
    rows, nominal = score(scan, images, results, seconds, level)
    text = "\n".join(
        [
            *assumed(scan, size, results, cg, tv),
            "",
            *table(rows, nominal),
            "",
            *(coverage_line(scan, key, r, level) for key, r in results.items()),
            "",
            *(f"Warning, {key}: {warning}.\n" for key, r in results.items() for warning in r.warnings),
            f"The checks of the {name.removeprefix('posterior mean, ')}'s posterior:",
            "",
            "```text",
            str(check),
            "```",
            "",
            *verdict(rows, check),
        ]
    )
    files = tuple(folder / name for name in ("demo.html", "demo.md", "demo.png", "posterior.nc")) + tuple(early)
    title = "Demo: an undersampled MRI slice"
    figure = draw(scan, images, result)
    atomic_write(files[0], lambda file: file.write(page(title, text, figure, result).encode()))
    atomic_write(files[1], lambda file: file.write(f"# {title}\n\n{text}\n".encode()))
    atomic_write(files[2], lambda file: figure.savefig(file, format="png", dpi=150))
    result.save(files[3])
    took = f"{time.perf_counter() - started:.1f} s in all. Written: {', '.join(map(str, files))}"
    say(f"{text}\n\n{took}\n\n{_NEXT.format(page=files[0], result=files[3])}")
    return Demo(
        scan=scan, results=results, check=check, images=images, rows=rows, nominal=nominal, text=text, files=files
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """A second thread gains little on images of this size, and costs a factor of ten where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
