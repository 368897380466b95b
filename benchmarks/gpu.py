"""What a GPU does with this package: agreement with the CPU, samples and images a second, memory, beside a roofline.

    make gpu                                           # at most eight minutes; writes docs/gpu.md and docs/gpu.csv
    python benchmarks/gpu.py --device cpu --quick      # the same steps in seconds, on toy sizes: is the script in order?

Without a GPU it says so, ends with status 1, and leaves the page alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from _tables import ruled
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import invsolve as iv
from invsolve.core.files import atomic_write
from invsolve.datasets import simulate_mri, t1_slice
from invsolve.demo.phantoms import FULL as DEMO
from invsolve.priors import NetworkPrior
from invsolve.priors.networks import UNet, UNetConfig

ROOT = Path(__file__).resolve().parent.parent
COILS = 8
NOT_RUN = "not run"


@final
@dataclass(frozen=True, kw_only=True)
class Sizes:
    """``seconds``: for one figure; ``host``: the largest batch that the CPU beside is asked for."""

    grid: int
    batches: tuple[int, ...]
    steps: int
    seconds: float
    matrix: int
    copied: int  # numbers
    host: int


FULL = Sizes(grid=128, batches=(1, 8, 64), steps=DEMO.steps, seconds=2.0, matrix=4096, copied=2**26, host=1)
QUICK = Sizes(grid=32, batches=(1, 2), steps=2, seconds=0.01, matrix=128, copied=2**16, host=1)


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """``rate``: samples or images a second; ``limit``: the most that the roofline allows; ``memory``: peak, MiB."""

    device: str
    what: str
    batch: int
    rate: float
    limit: float
    memory: float


@final
@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Measured: bytes a second of a copy, operations a second of a float32 matrix product."""

    bandwidth: float
    flops: float

    def rate(self, moved: float, flops: float) -> float:
        """Per second at the most."""
        return 1 / max(moved / self.bandwidth, flops / self.flops)


class Clock:
    """What is left of the minutes."""

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._end = now, now() + 60 * minutes

    @property
    def left(self) -> float:
        return self._end - self._now()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device, seconds: float) -> tuple[float, float]:
    """Seconds of the best call after one that does not count, and the peak of allocated memory in MiB (NaN on a CPU)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run()
    wait(device)
    best, until = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < until:
        begun = time.perf_counter()
        run()
        wait(device)
        best = min(best, time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else math.nan
    return best, memory


def peaks(device: torch.device, sizes: Sizes) -> Peaks:
    """With TensorFloat-32 in the product where torch allows it to convolutions, so that both count alike."""
    a = torch.zeros(sizes.copied, dtype=torch.float32, device=device)
    b, n = torch.empty_like(a), sizes.matrix
    copied, _ = timed(lambda: b.copy_(a), device, sizes.seconds / 4)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        m = torch.ones(n, n, dtype=torch.float32, device=device)
        product, _ = timed(lambda: m @ m, device, sizes.seconds / 4)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return Peaks(bandwidth=2 * a.nbytes / copied, flops=2 * n**3 / product)


# --- what is measured ------------------------------------------------------------------------------------------------
def scan(sizes: Sizes, device: torch.device) -> iv.Problem:
    """The scan of the demo: eight coils, fourfold undersampled."""
    made = simulate_mri(t1_slice(), grid=(sizes.grid, sizes.grid), acceleration=4.0, num_coils=COILS)
    return iv.Problem(made.operator, made.kspace, noise=iv.noise.Gaussian(std=made.noise_std)).to(device)


def learned(sizes: Sizes, problem: iv.Problem, device: torch.device) -> NetworkPrior:
    """The prior of the demo; of a quick run a small network without training."""
    if sizes is FULL:
        prior = iv.priors.load("head-mr-128").on(problem.to("cpu"))
        return prior.to(device)  # type: ignore[no-any-return]
    shape = (sizes.grid, sizes.grid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet(UNetConfig(channels=2, width=8, multipliers=(1, 2), blocks=1)).eval()
    law = iv.priors.GaussianFieldPrior(shape, iv.priors.Matern(std=1.0, length=0.2), kind="complex").law
    made = NetworkPrior(network=net, shape=shape, kind="complex", scale=3.0, sigma_range=(0.01, 50.0), law=law)
    return made.to(device)


@final
@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A call on a batch: ``moved`` bytes that it must read and write at least, and its operations."""

    what: str
    run: Callable[[Tensor], object]
    kind: str
    moved: Callable[[int], float]
    flops: Callable[[int], float]


def beams(sizes: Sizes, device: torch.device) -> list[tuple[str, iv.operators.ParallelBeam]]:
    """A scan of as many views as half the image is wide, by every back end that runs there."""
    angles = (math.pi * 0.618034 * torch.arange(sizes.grid // 2, dtype=torch.float64)).to(device)
    ways = ("matrix", "triton") if device.type == "cuda" else ("matrix",)
    shape = (sizes.grid, sizes.grid)
    return [(f"CT normal, {way}", iv.operators.ParallelBeam(angles, shape, backend=way)) for way in ways]


def parameters(prior: NetworkPrior) -> float:
    return float(sum(p.nbytes for p in prior.network.parameters()))


def counted(run: Callable[[], object]) -> float:
    """Operations of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def kernels(sizes: Sizes, device: torch.device, problem: iv.Problem, prior: NetworkPrior) -> list[Kernel]:
    shape, n = (sizes.grid, sizes.grid), sizes.grid**2
    mri = problem.operator
    assert isinstance(mri, iv.operators.MRI)
    blur = iv.operators.GaussianBlur(std=2.0, in_shape=shape, boundary="periodic").to(device, torch.float32)
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    mask = iv.operators.Mask(mask=keep).to(device)
    ct = beams(sizes, device)
    data, taps = math.prod(ct[0][1].out_shape), float(ct[0][1].geometry.lines.taps_per_ray.sum())
    one = torch.zeros(1, *shape, dtype=torch.complex64, device=device)
    value = counted(lambda: prior.denoise(one, 1.0))

    def vjp(x: Tensor) -> Tensor:
        _, pull = prior.pullback(x, 1.0)
        return pull(x)

    both = counted(lambda: vjp(one))
    fft = 5 * n * math.log2(n)  # operations of a complex transform
    weights = parameters(prior)
    return [
        Kernel(
            what="MRI normal",
            run=mri.normal,
            kind="complex",
            moved=lambda b: 8.0 * n * (2 * b + COILS),
            flops=lambda b: b * COILS * (2 * fft + 16 * n),
        ),
        Kernel(what="blur", run=blur, kind="real", moved=lambda b: 8.0 * n * b, flops=lambda b: b * (fft + 6 * n)),
        *(
            Kernel(
                what=what,
                run=A.normal,
                kind="real",
                moved=lambda b: 4.0 * b * (2 * n + 2 * data),  # the data are written, and read again
                flops=lambda b: 4 * b * taps,
            )
            for what, A in ct
        ),
        Kernel(what="mask", run=mask, kind="real", moved=lambda b: 8.0 * n * b + n, flops=lambda b: float(n * b)),
        Kernel(
            what="network, value",
            run=lambda x: prior.denoise(x, 1.0),
            kind="complex",
            moved=lambda b: 16.0 * n * b + weights,
            flops=lambda b: b * value,
        ),
        Kernel(
            what="network, value and vjp",
            run=vjp,
            kind="complex",
            moved=lambda b: 32.0 * n * b + 2 * weights,
            flops=lambda b: b * both,
        ),
    ]


def measured(device: torch.device, name: str, sizes: Sizes, batches: Sequence[int], clock: Clock) -> list[Row]:
    """Rates of all kernels, then of the demo; NaN for what there was no time for."""
    problem = scan(sizes, device)
    prior = learned(sizes, problem, device)
    top, rows = peaks(device, sizes), []
    made = kernels(sizes, device, problem, prior)
    for kernel in made:
        for b in batches:
            dtype = torch.complex64 if kernel.kind == "complex" else torch.float32
            x = torch.randn(b, sizes.grid, sizes.grid, generator=torch.Generator().manual_seed(1), dtype=dtype).to(
                device
            )
            seconds, memory = (math.nan, math.nan)
            if clock.left > 0:
                seconds, memory = timed(lambda k=kernel, x=x: k.run(x), device, sizes.seconds)
            limit = b * top.rate(kernel.moved(b), kernel.flops(b))
            rows.append(Row(device=name, what=kernel.what, batch=b, rate=b / seconds, limit=limit, memory=memory))
            print(rows[-1], flush=True)
    value, both = (k.flops(1) for k in made[-2:])
    last = 0.0
    for b in batches:  # one run each, after a short one: a run takes long beside what the first call adds
        if clock.left < 2 * last:
            rows.append(Row(device=name, what="demo, samples", batch=b, rate=math.nan, limit=math.nan, memory=math.nan))
            continue
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

        def run(steps: int, b: int = b) -> iv.Result:
            way = iv.strategies.MMPS(num_steps=steps)
            return iv.solve(problem, prior, strategy=way, num_samples=b, chunk=b, throw=False)

        run(2)
        wait(device)
        begun = time.perf_counter()
        result = run(sizes.steps)
        wait(device)
        last = time.perf_counter() - begun
        # A sample's values and products of the network, at the peak of the matrix product.
        work = float(result.nfe) * value + float(result.vjps) * (both - value)
        memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else math.nan
        rows.append(
            Row(device=name, what="demo, samples", batch=b, rate=b / last, limit=top.flops / work, memory=memory)
        )
        print(rows[-1], flush=True)
    peak = (("peak: copy, GB/s", top.bandwidth / 1e9), ("peak: product, TFLOP/s", top.flops / 1e12))
    rows += [Row(device=name, what=w, batch=1, rate=v, limit=math.nan, memory=math.nan) for w, v in peak]
    return rows


def tests(seconds: float) -> str:
    """The last line of `pytest -m gpu`, or why there is none."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return f"cut off after {seconds:.0f} s, without a verdict"
    if done.returncode:
        print(done.stdout[-8000:], done.stderr[-2000:], sep="\n")
    lines = done.stdout.strip().splitlines()
    return lines[-1].strip("= ") if lines else f"ended with status {done.returncode}"


# --- the page --------------------------------------------------------------------------------------------------------
LEGEND = """# On a GPU

Written by `make gpu` (`benchmarks/gpu.py`), which runs in at most eight minutes on a machine with a CUDA device.

*images*: calls of an operator or network on images of {grid} x {grid} a second, the best of repeated calls, float32 and
complex64; of *CT* a scan of half as many views as the image is wide, and back. *demo, samples*: samples of the demo's posterior a second (learned prior, {coils} coils, `MMPS` in {steps} steps, all of
a batch at once). *at most*: the roofline, the compulsory traffic (signals in and out, parameters once) over the measured
bandwidth of a copy, or the operations over the measured rate of a matrix product, whichever is slower; of the demo the
network's operations alone. *share*: of that. *memory*: the peak that torch allocated. Convolutions on a GPU use
TensorFloat-32 unless `torch.backends.cudnn.allow_tf32` is off: here {tf32}.
"""


def number(value: float) -> str:
    return NOT_RUN if math.isnan(value) else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    lines = [["device", "what", "batch", "per second", "at most", "share", "memory, MiB"]]
    for r in rows:
        share = "" if math.isnan(r.rate / r.limit) else f"{100 * r.rate / r.limit:.0f} %"
        limit, memory = ("" if math.isnan(v) else f"{v:.3g}" for v in (r.limit, r.memory))
        lines.append([r.device, r.what, str(r.batch), number(r.rate), limit, share, memory])
    return ruled(lines)


def page(rows: Sequence[Row], verdict: str, where: str, sizes: Sizes) -> str:
    tf32 = "on" if torch.backends.cudnn.allow_tf32 else "off"
    head = LEGEND.format(grid=sizes.grid, coils=COILS, steps=sizes.steps, tf32=tf32)
    return f"{head}\nMeasured on {where}.\n\nAgreement with the CPU, `pytest -m gpu`: {verdict}.\n\n{table(rows)}\n"


def write(folder: Path, rows: Sequence[Row], text: str) -> None:
    """Both files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(r) for r in rows)
    atomic_write(folder / "gpu.csv", lambda file: file.write(sheet.getvalue().encode()))
    atomic_write(folder / "gpu.md", lambda file: file.write(text.encode()))


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, without the tests")
    parser.add_argument("--minutes", type=float, default=8.0, help="of everything")
    parser.add_argument("--out", type=Path, help="a folder for gpu.md and gpu.csv")
    options = parser.parse_args(arguments)
    device, sizes = torch.device(options.device), QUICK if options.quick else FULL
    if device.type == "cuda" and not torch.cuda.is_available():
        print("make gpu: no CUDA device here (torch.cuda.is_available() is False); nothing was measured or written.")
        return 1
    clock = Clock(options.minutes - 0.5)  # for what runs when it ends
    on_gpu = device.type == "cuda"
    verdict = tests(clock.left / 2) if on_gpu and not options.quick else NOT_RUN
    print(f"pytest -m gpu: {verdict}", flush=True)
    rows = measured(device, name_of(device), sizes, sizes.batches, clock)
    if on_gpu:
        cpu = torch.device("cpu")
        rows += measured(cpu, name_of(cpu), sizes, [b for b in sizes.batches if b <= sizes.host], clock)
    where = f"{name_of(device)}, {os.cpu_count()} CPU cores, {platform.machine()}, torch {torch.__version__}"
    print(table(rows))
    if options.out:
        write(options.out, rows, page(rows, verdict, where, sizes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
