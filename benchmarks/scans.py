"""From data to images: CT and MRI of heads, and pictures, by classical methods, TV, deepinv and learned priors.

    python benchmarks/scans.py --out docs                     # hours; writes restoration.md and .csv row by row
    python benchmarks/scans.py --out docs --only pictures     # replaces rows of problems whose name has this word
    python benchmarks/scans.py --only "60 views" --count 2    # prints only
    python benchmarks/scans.py --out docs --centers           # an unknown centre of rotation: centers.md and .csv

`pip install pydicom bm3d scikit-image` for the CT slice, deepinv's denoiser and the pictures.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from _heads_scans import HELD_OUT, TUNING
from _scans_cases import (
    FINE,
    GREY,
    LINE,
    OTHER_PICTURES,
    PHOTONS,
    PICTURES,
    Case,
    counts,
    ct,
    gaussian_blur,
    heads,
    missing,
    motion_blur,
    mri,
    pictures,
    radial_mri,
    real_slice,
    super_resolution,
    views,
)
from _scans_center import HEAD as CENTER_HEAD
from _scans_center import LEGEND as CENTER_LEGEND
from _scans_center import CenterRow, center_cells, center_row
from _scans_methods import Found, dpir, ours, tuned_tv
from _tables import read, ruled, save
from torch import Tensor

import invsolve as iv

SAMPLES = 9
PEER = 3  # objects of deepinv's row: it takes one at a time


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """Means over objects and their standard errors. The CRPS of a single image is its mean absolute error."""

    problem: str
    method: str
    objects: int
    samples: int
    psnr: float
    psnr_se: float
    gain: float  # dB over TV, object by object
    gain_se: float
    ssim: float
    crps: float
    crps_se: float
    covered: float
    covered_se: float
    nominal: float
    seconds: float  # CPU, of an image or a sample


def scored(problem: str, method: str, case: Case, found: Found, beside: Tensor) -> Row:
    """``beside``: TV's images."""
    n, items = found.samples.shape[:2]
    nan = math.nan
    numbers: dict[str, list[float]] = {k: [] for k in ("psnr", "gain", "ssim", "crps", "covered")}

    def psnr(image: Tensor, b: int) -> float:
        image, truth = image.abs() if image.is_complex() else image, case.truth[b]
        truth = truth.abs() if truth.is_complex() else truth
        return float(iv.metrics.psnr(image[None], truth[None], data_range=float(case.peak[b])))

    for b in range(items):
        image, truth, where = found.samples[:, b].mean(0), case.truth[b], case.region[b]
        numbers["psnr"].append(psnr(image, b))
        numbers["gain"].append(psnr(image, b) - psnr(beside[b], b))
        pair = [(x.abs() if x.is_complex() else x)[None] for x in (image, truth)]
        numbers["ssim"].append(float(iv.metrics.ssim(*pair, data_range=float(case.peak[b]))))
        inside, target = found.samples[:, b][:, where], truth[where]
        if truth.is_complex():
            inside, target = (torch.view_as_real(v.contiguous()).flatten(-2) for v in (inside, target))
        if n == 1:
            numbers["crps"].append(float((inside[0] - target).abs().mean()))
            numbers["covered"].append(nan)
            continue
        numbers["crps"].append(float(iv.metrics.crps(inside[:, None], target[None])))
        held = (inside.amin(0) <= target) & (target <= inside.amax(0))
        numbers["covered"].append(float(held.double().mean()))

    def mean(name: str) -> float:
        return float(torch.tensor(numbers[name], dtype=torch.float64, device="cpu").mean())

    def error(name: str) -> float:
        v = torch.tensor(numbers[name], dtype=torch.float64, device="cpu")
        return float(v.std() / len(v) ** 0.5) if len(v) > 1 else nan

    return Row(
        problem=problem,
        method=method,
        objects=items,
        samples=n,
        psnr=mean("psnr"),
        psnr_se=error("psnr"),
        gain=mean("gain"),
        gain_se=error("gain"),
        ssim=mean("ssim"),
        crps=mean("crps"),
        crps_se=error("crps"),
        covered=mean("covered"),
        covered_se=error("covered"),
        nominal=(n - 1) / (n + 1) if n > 1 else nan,
        seconds=found.seconds,
    )


@final
@dataclass(frozen=True, kw_only=True)
class Kind:
    """A problem of the table: the objects that are scored, others that weights are chosen on, and a learned prior."""

    name: str
    case: Callable[[int], Case]  # of so many objects
    other: Callable[[], Case]
    prior: str


def kinds() -> list[Kind]:
    """All problems, in the table's order."""
    found = []

    def ct_kind(name: str, angles: Tensor, photons: float | None = None, *, real: bool = False) -> None:
        def case(n: int) -> Case:
            objects = real_slice() if real else heads(n, seed=HELD_OUT)
            return ct(objects, angles, seed=HELD_OUT, photons=photons)

        def other() -> Case:
            return ct(heads(4, seed=TUNING), angles, seed=TUNING, photons=photons)

        what = "slice" if real else "heads"
        found.append(Kind(name=f"CT {what}, {name}", case=case, other=other, prior="head-ct-128"))

    ct_kind("60 views", views(60))
    ct_kind("20 views", views(20))
    ct_kind("8 views", views(8))
    ct_kind("60 views of 120 degrees", views(60, 2 * math.pi / 3))
    ct_kind(f"120 views, {PHOTONS:.0f} photons", views(120), PHOTONS)
    ct_kind("60 views", views(60), real=True)
    ct_kind("20 views", views(20), real=True)
    for objects in ("phantoms", "slice"):
        for factor in (4.0, 8.0):
            found.append(
                Kind(
                    name=f"MRI {objects}, x{factor:g}",
                    case=lambda n, o=objects, f=factor: mri(o, n if o == "phantoms" else 2, f),
                    other=lambda f=factor: mri("phantoms", 4, f, seed=TUNING),
                    prior="head-mr-128",
                )
            )
        for number in (48, 24):
            found.append(
                Kind(
                    name=f"MRI {objects}, {number} spokes",
                    case=lambda n, o=objects, k=number: radial_mri(o, n if o == "phantoms" else 2, k),
                    other=lambda k=number: radial_mri("phantoms", 4, k, seed=TUNING),
                    prior="head-mr-128",
                )
            )
    made: list[tuple[str, Callable[..., Case]]] = [
        ("Gaussian blur", gaussian_blur),
        ("motion blur", motion_blur),
        ("super-resolution x2", lambda fine, seed: super_resolution(fine, 2, seed=seed)),
        ("super-resolution x4", lambda fine, seed: super_resolution(fine, 4, seed=seed)),
        ("half of the pixels", missing),
        ("50 counts a pixel", lambda fine, seed: counts(fine, 50.0, seed=seed)),
        ("5 counts a pixel", lambda fine, seed: counts(fine, 5.0, seed=seed)),
    ]
    for name, make in made:
        found.append(
            Kind(
                name=f"pictures, {name}",
                case=lambda n, make=make: make(pictures(PICTURES[:n]), seed=HELD_OUT),
                other=lambda make=make: make(pictures(OTHER_PICTURES), seed=TUNING),
                prior="images-64",
            )
        )
    return found


LEGEND = f"""# From data to images

Written by `python benchmarks/scans.py`. Objects are measured on {FINE} x {FINE} and reconstructed on 128 x 128: held-out
head phantoms, the T1 slice, pydicom's CT slice (of a spine, as wide as a head here), and pictures of scikit-image
that nothing was trained or tuned on. CT: parallel beams, line integrals with noise of {LINE}, or counts. MRI: 8 coils,
lines of k-space or spokes of {FINE} samples at the golden angle. Pictures: values in [0, 1], noise of {GREY}, or
counts. *classical*: filtered backprojection, zero-filled, gridding, the data themselves, or bicubic interpolation. *TV*: its
weight is the one of least error on four other objects (of counts: after Anscombe's or the logarithm). *deepinv*: DPIR
with BM3D, the best of it that needs no download. *learned prior*: `head-ct-128`, `head-mr-128`, `images-64`, guided by
`MMPS()`, the mean of {SAMPLES} samples.

- **PSNR**: of magnitudes, the peak of the truth (pictures: 1); **over TV**: object by object. **CRPS**: in the head
  (pictures: everywhere), of a single image its mean absolute error. **covered**: the share of truths between the
  smallest and the largest sample; **nominal**: what it should be. +-: standard errors over objects.
  **s**: CPU seconds of an image or a sample, one thread.
"""
HEAD = ("problem", "method", "objects", "PSNR, dB", "over TV", "SSIM", "CRPS", "covered", "nominal", "s")


def cells(r: Row) -> list[str]:
    """A line of the table."""
    line = [
        r.problem,
        r.method,
        f"{r.objects}",
        f"{r.psnr:.2f} +- {r.psnr_se:.2f}",
        f"{r.gain:+.2f} +- {r.gain_se:.2f}",
        f"{r.ssim:.3f}",
        f"{r.crps:.4g} +- {r.crps_se:.2g}",
        "" if r.samples == 1 else f"{r.covered:.3f} +- {r.covered_se:.3f}",
        "" if r.samples == 1 else f"{r.nominal:.3f}",
        "" if math.isnan(r.seconds) else f"{r.seconds:.2f}",
    ]
    return [cell.replace(" +- nan", "") for cell in line]


def centers(count: int, weights: str, out: Path | None) -> None:
    """The table of unknown centres, head by head."""
    prior = iv.priors.load(weights)
    name = "centers"
    rows = {r.problem: r for r in (read(out / f"{name}.csv", CenterRow) if out else [])}
    for item in range(count):
        row = center_row(item, prior, SAMPLES)
        rows[row.problem] = row
        print("| " + " | ".join(center_cells(row)) + " |", flush=True)
        if out:
            found = sorted(rows.values(), key=lambda r: int(r.problem.split()[-1]))
            save(out, name, f"{CENTER_LEGEND}\n{ruled([list(CENTER_HEAD), *map(center_cells, found)])}", found)


def main() -> None:
    """Run the script; the module says what it does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="problems whose name has this word")
    parser.add_argument("--count", type=int, default=16, help="objects; of pictures 12 at most")
    parser.add_argument("--prior", action="append", default=[], metavar="NAME=FILE", help="weights in place of a name")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--centers", action="store_true", help="the centre of rotation is not known, `--count` heads")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = dict(p.split("=", 1) for p in options.prior)
    if options.centers:
        centers(options.count, files.get("head-ct-128", "head-ct-128"), options.out)
        return
    order = [k.name for k in kinds()]
    methods = ["classical", "TV", "deepinv, DPIR with BM3D", "learned prior"]
    before = read(options.out / "restoration.csv", Row) if options.out else []
    rows = {(r.problem, r.method): r for r in before}

    def add(row: Row) -> None:
        rows[(row.problem, row.method)] = row
        print("| " + " | ".join(cells(row)) + " |", flush=True)
        if options.out:
            found = [rows[k] for k in sorted(rows, key=lambda k: (order.index(k[0]), methods.index(k[1])))]
            save(options.out, "restoration", f"{LEGEND}\n{ruled([list(HEAD), *map(cells, found)])}", found)

    for kind in kinds():
        if options.only not in kind.name:
            continue
        case = kind.case(options.count)
        image, weight = tuned_tv(case, kind.other())
        print(f"{kind.name}: TV weight {weight:.3g}", flush=True)
        beside = image.samples[0]
        classical = Found(samples=case.classical(case.problem)[None], seconds=math.nan)
        add(scored(kind.name, methods[0], case, classical, beside))
        add(scored(kind.name, methods[1], case, image, beside))
        peer = dpir(case, min(PEER, len(case.truth)))
        if peer is not None:
            add(scored(kind.name, methods[2], case, peer, beside))
        prior = iv.priors.load(files.get(kind.prior, kind.prior))
        if tuple(prior.shape) != tuple(case.truth.shape[1:]):
            prior = prior.on(case.problem, keep="pixel")
        add(scored(kind.name, methods[3], case, ours(case, prior, SAMPLES), beside))


if __name__ == "__main__":
    main()
