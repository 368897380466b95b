"""Photographs denoised by `images-64`, beside the denoisers of scikit-image (and BM3D, where `bm3d` is installed).

    python benchmarks/denoising.py --out docs        # writes denoising.md and .csv; five minutes on one core
    python benchmarks/denoising.py --pictures camera coins

The peers are told the noise level too; total variation has the best of seven weights for every picture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from _tables import ruled, save
from numpy.typing import NDArray

import invsolve as iv

Image = NDArray[np.float64]
PICTURES = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "page",
    "rocket",
    "text",
)
LEVELS = (15, 25, 50)  # of 255
SIDE = 256  # of the middle of a picture


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """``seconds``: of the processor."""

    picture: str
    level: int
    method: str
    psnr: float
    seconds: float


def picture(name: str) -> Image:
    """Grey levels in [0, 1] of the middle of a picture of scikit-image."""
    from skimage import color, data, util

    values = getattr(data, name)()
    grey = color.rgb2gray(values[..., :3]) if values.ndim == 3 else util.img_as_float(values)
    rows, columns = (slice(max(0, (n - SIDE) // 2), max(0, (n - SIDE) // 2) + SIDE) for n in grey.shape)
    return np.ascontiguousarray(grey[rows, columns], dtype=np.float64)


def psnr(a: Image, b: Image) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def peers() -> dict[str, Callable[[Image, float, Image], Image]]:
    """By name, functions of the noisy picture, the noise level and the truth."""
    from skimage import restoration

    def total_variation(y: Image, sigma: float, x: Image) -> Image:
        tried = [restoration.denoise_tv_chambolle(y, weight=w * sigma) for w in (0.5, 0.7, 0.9, 1.1, 1.3, 1.6, 2.0)]
        best: Image = max(tried, key=lambda z: psnr(z, x))
        return best

    def wavelets(y: Image, sigma: float, x: Image) -> Image:
        made: Image = restoration.denoise_wavelet(y, sigma=sigma, method="BayesShrink", rescale_sigma=True)
        return made

    def means(y: Image, sigma: float, x: Image) -> Image:
        made: Image = restoration.denoise_nl_means(
            y, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6, fast_mode=True
        )
        return made

    methods = {"total variation, best weight": total_variation, "wavelets": wavelets, "non-local means": means}
    try:
        from bm3d import bm3d
    except ImportError:
        return methods
    return {**methods, "BM3D": lambda y, sigma, x: bm3d(y, sigma)}


def learned(y: Image, sigma: float, x: Image) -> Image:
    seen = torch.tensor(y, dtype=torch.float32, device="cpu")[None]
    A = iv.operators.Identity(in_shape=tuple(y.shape))
    prior = iv.priors.load("images-64").on(iv.Problem(A, seen, noise=sigma))
    return prior.denoise(seen, sigma)[0].double().numpy()


def rows(names: list[str]) -> list[Row]:
    found = []
    for name in names:
        x = picture(name)
        for level in LEVELS:
            sigma = level / 255
            y = x + sigma * np.random.default_rng(level).standard_normal(x.shape)
            for method, call in {"images-64": learned, **peers()}.items():
                started = time.process_time()
                made = call(y, sigma, x)
                seconds = time.process_time() - started
                found.append(Row(picture=name, level=level, method=method, psnr=psnr(made, x), seconds=seconds))
                print(found[-1], flush=True)
    return found


LEGEND = f"""# Photographs denoised

Written by `python benchmarks/denoising.py`: PSNR in dB of the middle {SIDE} x {SIDE} pixels of pictures of scikit-image, grey, under
Gaussian noise of 15, 25 and 50 grey levels of 255. `images-64` was trained on random pictures made of formulas and has seen no
photograph; nothing was tuned on these. Total variation has the best of seven weights for every picture, which no user
knows. Posterior means of one evaluation of the prior's denoiser; seconds of one core."""


def table(found: list[Row]) -> str:
    methods = list(dict.fromkeys(r.method for r in found))
    lines = [["picture", "noise", *methods]]
    for name in (*dict.fromkeys(r.picture for r in found), "mean", "seconds"):
        for level in LEVELS:
            cells = []
            for method in methods:
                mine = [r for r in found if r.method == method and r.level == level]
                mine = [r for r in mine if r.picture == name] or mine
                value = [r.seconds if name == "seconds" else r.psnr for r in mine]
                cells.append(f"{sum(value) / len(value):.2f}")
            lines.append([name, str(level), *cells])
    return ruled(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", nargs="+", default=list(PICTURES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = rows(options.pictures)
    print(table(found))
    if options.out:
        save(options.out, "denoising", f"{LEGEND}\n\n{table(found)}", found)


if __name__ == "__main__":
    main()
