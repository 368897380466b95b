"""The operators of CT beside those of astra-toolbox, deepinv, torchtomo and mbirjax: a part of `operators.py`.

256 x 256 pixels, 180 views. Rounds of all methods are interleaved, and the least time of each counts: other work on the
machine only ever adds time.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _tables import ruled
from _timing import clock, interleaved, peak
from torch import Tensor

import invsolve as iv

SIZE, VIEWS = 256, 180
ROUNDS = 3
BATCHES = (1, 8, 32)
GEOMETRIES = ("parallel", "parallel, golden angle", "fan")
BINS = {"parallel": 367, "parallel, golden angle": 367, "fan": 512}
FAN = {"bin_size": 1.6, "source_to_center": 500.0, "source_to_detector": 1000.0}
Map = Callable[[Tensor], object]
Maker = Callable[[str, int], tuple[Map, Map]]


def angles(geometry: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    step = {"parallel": math.pi / VIEWS, "fan": 2 * math.pi / VIEWS}
    return np.arange(VIEWS) * step.get(geometry, math.pi * (math.sqrt(5) - 1) / 2)


# --- the methods: forward and adjoint of a batch, by the geometry and the batch -----------------------------------------
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


def torchtomo(geometry: str, batch: int) -> tuple[Map, Map]:
    """Its `ParallelBeam` in torch, with the exact adjoint; it has as many bins as the image is wide, 256."""
    from torchtomo import ParallelBeam

    A = ParallelBeam(img_size=SIZE, n_angles=VIEWS, angles=torch.from_numpy(angles(geometry)).float(), circle=False)
    y = A(torch.zeros(batch, 1, SIZE, SIZE))
    return lambda x: A(x[:, None]), lambda _: A.adjoint(y)


def mbirjax(geometry: str, batch: int) -> tuple[Map, Map]:
    """Its `ParallelBeamModel` of a volume, whose slices are the batch; compiled by the first call."""
    if torch.get_num_threads() == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mbirjax as toolbox

    model = toolbox.ParallelBeamModel((VIEWS, batch, BINS[geometry]), angles(geometry))
    model.set_params(recon_shape=(SIZE, SIZE, batch))

    def forward(x: Tensor) -> object:
        return model.forward_project(x.permute(1, 2, 0).numpy())

    def adjoint(y: Tensor) -> object:
        return model.back_project(y.transpose(0, 1).numpy())

    return forward, adjoint


METHODS: dict[str, Maker] = {
    "invsolve": invsolve,
    "invsolve, on the fly": on_the_fly,
    "astra": astra,
    "deepinv": deepinv,
    "torchtomo": torchtomo,
    "mbirjax": mbirjax,
}
OF_BATCHES = ("astra", "mbirjax")  # what is made for one number of images


def runs(geometry: str, method: str, batch: int) -> bool:
    """What is measured: equal steps of peers, of deepinv up to 8 images (32 take gigabytes); weights on the fly once."""
    if method in ("deepinv", "torchtomo", "mbirjax"):
        return geometry == "parallel" and (method != "deepinv" or batch <= 8)
    return batch == 8 if method == "invsolve, on the fly" else True


# --- what is measured ---------------------------------------------------------------------------------------------------
def inputs(geometry: str, batch: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(batch, SIZE, SIZE, generator=rng), torch.rand(batch, VIEWS, BINS[geometry], generator=rng)


def whole(geometry: str, method: str, batch: int) -> Callable[[], object]:
    """Building, one forward and one adjoint, whose memory is measured; the imports are done here."""
    x, y = inputs(geometry, batch)
    METHODS[method]("parallel", 1)

    def run() -> object:
        forward, adjoint = METHODS[method](geometry, batch)
        return forward(x), adjoint(y)

    return run


def rows(threads: int, quick: bool = False) -> list[dict[str, Any]]:
    """On more than one thread of parallel beams only, which say what threads do."""
    os.environ["INVSOLVE_CACHE"] = "off"
    geometries = GEOMETRIES[:1] if quick or threads > 1 else GEOMETRIES
    batches = (8,) if quick else BATCHES
    return [row for geometry in geometries for batch in batches for row in compared(geometry, batch, threads)]


def built(method: str, geometry: str, x: Tensor, threads: int) -> tuple[Map, Map, float]:
    """The maps, and the seconds until the first image is projected."""
    started = clock(threads)
    forward, adjoint = METHODS[method](geometry, len(x))
    forward(x if method in OF_BATCHES else x[:1])
    return forward, adjoint, clock(threads) - started


def built_again(method: str, geometry: str, x: Tensor, threads: int) -> float:
    """Seconds where another process has left the matrix on the disk; NaN for methods that keep none."""
    if method != "invsolve":
        return math.nan
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INVSOLVE_CACHE"] = folder
        found = [built(method, geometry, x, threads)[2] for _ in range(3)]
    os.environ["INVSOLVE_CACHE"] = "off"
    return min(found[1:])


def compared(geometry: str, batch: int, threads: int) -> list[dict[str, Any]]:
    """The methods that run such scans, interleaved."""
    x, y = inputs(geometry, batch)
    calls: list[Callable[[], object]] = []
    repeats, made = [], []
    for name in METHODS:
        if not runs(geometry, name, batch):
            continue
        row: dict[str, Any] = {"case": geometry, "batch": batch, "threads": threads, "method": name}
        row |= dict.fromkeys(("forward", "adjoint", "build", "again", "memory"), math.nan)
        made.append(row)
        try:
            forward, adjoint, row["build"] = built(name, geometry, x, threads)
        except ImportError as error:
            row["note"] = f"not installed: {error}"
            continue
        row |= {"again": built_again(name, geometry, x, threads), "note": ""}
        adjoint(y)
        calls += [partial(forward, x), partial(adjoint, y)]
        repeats += [
            max(1, 8 // batch) if name.startswith(("invsolve", "astra")) else 1
        ] * 2  # the first finds a cold cache
    best = interleaved(calls, ROUNDS, repeats, threads)
    for i, row in enumerate(row for row in made if not row["note"]):
        row["forward"], row["adjoint"] = (1000 * seconds / batch for seconds in best[2 * i : 2 * i + 2])
        row["memory"] = peak("_operators_ct", "whole", geometry, row["method"], batch, threads=threads)
    for row in made:
        print(row, flush=True)
    return made


LEGEND = f"""## Computed tomography

{SIZE} x {SIZE} pixels, {VIEWS} views, float32: parallel beams on 367 bins at equal steps over half a turn, and at the golden
angle, where symmetry saves half of the weights only; a fan on 512 bins over a whole turn. Milliseconds of an image, the
least of {ROUNDS} interleaved rounds: of the CPU on one thread, of the wall on two. **ratio**: how many times faster than
astra in the same rounds; below 1: slower. **build**: seconds until the first image is projected, **again**: where another
process has left the matrix on the disk (at equal steps none is kept: it is made as fast). **MiB**: the most that building,
one forward and one adjoint take.

astra: `linear` (the weights of `ParallelBeam`) and `line_fanflat`, image by image, without copies; it has one thread.
deepinv: `Tomography` with its exact adjoint, which it has by automatic differentiation. torchtomo: `ParallelBeam` in torch,
on 256 bins, which is what it has, so fewer. mbirjax: `ParallelBeamModel` with its footprints of pixels, the slices of a
volume as the batch; compiling counts to build.
"""


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        [
            "geometry",
            "batch",
            "threads",
            "method",
            "forward, ms",
            "ratio",
            "adjoint, ms",
            "ratio",
            "build, s",
            "again, s",
            "MiB",
        ]
    ]
    for r in found:
        same = (r["case"], r["batch"], r["threads"], "astra")
        (base,) = (b for b in found if (b["case"], b["batch"], b["threads"], b["method"]) == same)
        where = [r["case"], str(r["batch"]), str(r["threads"]), r["method"]]
        if r["note"]:
            lines.append([*where, r["note"], *[""] * 6])
            continue
        lines.append(
            [
                *where,
                f"{r['forward']:.2f}",
                f"{base['forward'] / r['forward']:.2g}",
                f"{r['adjoint']:.2f}",
                f"{base['adjoint'] / r['adjoint']:.2g}",
                f"{r['build']:.2f}",
                "" if math.isnan(r["again"]) else f"{r['again']:.2f}",
                f"{r['memory']:.0f}",
            ]
        )
    return ruled(lines)
