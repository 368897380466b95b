"""How fast the operators of CT are: ours beside astra-toolbox and deepinv, on one thread.

    python benchmarks/operators.py --out docs       # minutes; writes operators.md and .csv
    python benchmarks/operators.py --batches 1 8    # prints only

256 x 256 pixels, 180 views. Rounds of all methods are interleaved, and the least CPU time of each counts: other work on
the machine only ever adds time. Memory is measured in a process for each row.
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from _tables import ruled, save
from torch import Tensor

import invsolve as iv

SIZE, VIEWS = 256, 180
ROUNDS = 3
GEOMETRIES = ("parallel", "parallel, golden angle", "fan")
BINS = {"parallel": 367, "parallel, golden angle": 367, "fan": 512}
FAN = {"bin_size": 1.6, "source_to_center": 500.0, "source_to_detector": 1000.0}
Map = Callable[[Tensor], object]


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """CPU milliseconds of an image; ``build``: CPU seconds until the first answer; ``memory``: MiB beyond the imports."""

    geometry: str
    method: str
    batch: int
    forward: float
    adjoint: float
    build: float
    memory: float


def angles(geometry: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    step = {"parallel": math.pi / VIEWS, "fan": 2 * math.pi / VIEWS}
    return np.arange(VIEWS) * step.get(geometry, math.pi * (math.sqrt(5) - 1) / 2)


def invsolve(geometry: str, batch: int, backend: Any = "matrix") -> tuple[Map, Map]:
    shape = (SIZE, SIZE)
    if geometry == "fan":
        A: Any = iv.operators.FanBeam(angles(geometry), shape, bins=BINS[geometry], backend=backend, **FAN)
    else:
        A = iv.operators.ParallelBeam(angles(geometry), shape, bins=BINS[geometry], backend=backend)
    return A, A.adjoint


def on_the_fly(geometry: str, batch: int) -> tuple[Map, Map]:
    return invsolve(geometry, batch, "on the fly")


def astra(geometry: str, batch: int) -> tuple[Map, Map]:
    """Its projectors on a CPU, image by image, without copies: `linear`, and for fans `line_fanflat`."""
    import astra as toolbox

    volume = toolbox.create_vol_geom(SIZE, SIZE)
    if geometry == "fan":
        beam = toolbox.create_proj_geom("fanflat", FAN["bin_size"], BINS[geometry], angles(geometry), 500.0, 500.0)
    else:
        beam = toolbox.create_proj_geom("parallel", 1.0, BINS[geometry], angles(geometry))
    projector = toolbox.create_projector("line_fanflat" if geometry == "fan" else "linear", beam, volume)
    data = np.zeros((batch, VIEWS, BINS[geometry]), dtype=np.float32)
    images = np.zeros((batch, SIZE, SIZE), dtype=np.float32)

    def forward(x: Tensor) -> None:
        for image, out in zip(x.numpy(), data, strict=True):
            toolbox.projector.direct_FP(projector, image, out=out)

    def adjoint(y: Tensor) -> None:
        for datum, out in zip(y.numpy(), images, strict=True):
            toolbox.projector.direct_BP(projector, datum, out=out)

    return forward, adjoint


def deepinv(geometry: str, batch: int) -> tuple[Map, Map]:
    """`Tomography`, whose exact adjoint is the derivative of a rotation; parallel beams at equal steps."""
    from deepinv.physics import Tomography

    physics = Tomography(angles=VIEWS, img_width=SIZE, circle=False, normalize=False, device="cpu")
    y = physics.A(torch.zeros(batch, 1, SIZE, SIZE))
    return lambda x: physics.A(x[:, None]), lambda _: physics.A_adjoint(y)


METHODS: dict[str, Callable[[str, int], tuple[Map, Map]]] = {
    "invsolve": invsolve,
    "invsolve, on the fly": on_the_fly,
    "astra": astra,
    "deepinv": deepinv,
}


def runs(geometry: str, method: str, batch: int) -> bool:
    """What is measured: deepinv's parallel beams, up to 8 images (32 take gigabytes); weights on the fly once."""
    if method == "deepinv":
        return geometry == "parallel" and batch <= 8
    return batch == 8 if method == "invsolve, on the fly" else True


def inputs(geometry: str, batch: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(batch, SIZE, SIZE, generator=rng), torch.rand(batch, VIEWS, BINS[geometry], generator=rng)


def cpu(run: Map, value: Tensor) -> float:
    started = time.process_time()
    run(value)
    return time.process_time() - started


def peak(geometry: str, method: str, batch: int) -> float:
    """MiB that one forward and one adjoint take at most, beyond what the imports took; in a process of its own."""
    torch.set_num_threads(1)
    x, y = inputs(geometry, batch)
    METHODS[method]("parallel", 1)  # which imports what it needs
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    forward, adjoint = METHODS[method](geometry, batch)
    forward(x)
    adjoint(y)
    return resident("VmHWM") - before


def resident(what: str) -> float:
    """MiB of this process, by Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def rows(geometry: str, batch: int) -> list[Row]:
    x, y = inputs(geometry, batch)
    names, maps, build = [m for m in METHODS if runs(geometry, m, batch)], {}, {}
    for name in names:
        started = time.process_time()
        maps[name] = METHODS[name](geometry, batch)
        maps[name][0](x[:1] if "astra" not in name else x)
        build[name] = time.process_time() - started
        maps[name][1](y)
    best = {name: [math.inf, math.inf] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            for i, value in enumerate((x, y)):
                for _ in range(1 if name == "deepinv" else max(1, 8 // batch)):  # the first finds the cache cold
                    best[name][i] = min(best[name][i], cpu(maps[name][i], value))
    made = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in names:
            memory = pool.apply(peak, (geometry, name, batch))
            forward, adjoint = (1000 * seconds / batch for seconds in best[name])
            made.append(
                Row(
                    geometry=geometry, method=name, batch=batch, forward=forward, adjoint=adjoint,
                    build=build[name], memory=memory,
                )
            )  # fmt: skip
            print(made[-1], flush=True)
    return made


LEGEND = f"""# How fast the operators are

Written by `python benchmarks/operators.py`. {SIZE} x {SIZE} pixels, {VIEWS} views, float32: parallel beams on 367 bins
at equal steps over half a turn, and at the golden angle, where symmetry saves half of the weights only; a fan on 512 bins over
a whole turn. CPU milliseconds of an image, the least of {ROUNDS} interleaved rounds. **ratio**: how many times faster
than astra in the same rounds; below 1: slower. **build**: CPU seconds until the first image is projected. **MiB**: the
most that building, one forward and one adjoint take.

astra: `linear` (the weights of `ParallelBeam`) and `line_fanflat`, image by image, without copies; one thread, as all.
deepinv: `Tomography` with its exact adjoint, which it has by automatic differentiation.
"""


def table(found: list[Row]) -> str:
    head = ["geometry", "batch", "method", "forward, ms", "ratio", "adjoint, ms", "ratio", "build, s", "MiB"]
    lines = [head]
    for r in found:
        (base,) = (b for b in found if (b.geometry, b.batch, b.method) == (r.geometry, r.batch, "astra"))
        lines.append(
            [
                r.geometry,
                str(r.batch),
                r.method,
                f"{r.forward:.2f}",
                f"{base.forward / r.forward:.2g}",
                f"{r.adjoint:.2f}",
                f"{base.adjoint / r.adjoint:.2g}",
                f"{r.build:.2f}",
                f"{r.memory:.0f}",
            ]
        )
    return ruled(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometries", nargs="+", choices=GEOMETRIES, default=list(GEOMETRIES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [row for geometry in options.geometries for batch in options.batches for row in rows(geometry, batch)]
    print(table(found))
    if options.out:
        here = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
        save(options.out, "operators", f"{LEGEND}\nMeasured on one thread of {here}.\n\n{table(found)}", found)


if __name__ == "__main__":
    main()
