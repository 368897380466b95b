"""Simulated scans of heads: held-out phantoms and the real slice, each with its own coils, phase, mask and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

import invsolve as iv
from invsolve.datasets import MRIScan, coil_maps, simulate_mri, smooth_phase, t1_slice
from invsolve.operators import NonCartesianMRI
from invsolve.operators.mri import radial

FINE = 256  # cells a side of what is scanned; the unknown is coarser: no inverse crime
GRID = 128
HELD_OUT = 10_000  # seed of phantoms that no prior was trained on and no weight was tuned on
TUNING = 20_000


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Scans:
    """Several scans as one problem, each with maps of its own."""

    problem: iv.Problem
    truth: Tensor  # (items, H, W) complex
    names: tuple[str, ...]

    @property
    def head(self) -> Tensor:
        """Where the object is, bool: above a tenth of the largest magnitude of the item."""
        size = self.truth.abs()
        return size > 0.1 * size.flatten(1).amax(1)[:, None, None]

    @property
    def peak(self) -> Tensor:
        return self.truth.abs().flatten(1).amax(1)

    def take(self, items: list[int]) -> Scans:
        index = torch.tensor(items)
        return replace(
            self, problem=self.problem.take(index), truth=self.truth[index], names=tuple(self.names[i] for i in items)
        )


def together(scans: list[MRIScan], names: list[str]) -> Scans:
    """Scans of one grid and number of coils as the items of one problem; noise levels are per item."""
    operator = iv.operators.MRI(
        in_shape=(GRID, GRID), mask=torch.stack([s.mask for s in scans]), maps=torch.stack([s.maps for s in scans])
    )
    std = torch.tensor([s.noise_std for s in scans]).view(-1, 1, 1, 1)
    kspace = torch.stack([s.kspace for s in scans])
    problem = iv.Problem(operator, kspace, noise=iv.noise.Gaussian(std=std))
    return Scans(problem=problem, truth=torch.stack([s.truth for s in scans]), names=tuple(names))


def phantoms(count: int, acceleration: float, *, seed: int = HELD_OUT) -> Scans:
    """Scans of ``count`` phantoms of the generator that the prior was trained on, with other heads."""
    images = iv.datasets.heads.slices(count, (FINE, FINE), seed=seed)
    scans = [
        simulate_mri(image, grid=(GRID, GRID), acceleration=acceleration, seed=seed + i)
        for i, image in enumerate(images)
    ]
    return together(scans, [f"phantom {i}" for i in range(count)])


def slices(count: int, acceleration: float) -> Scans:
    """``count`` scans of the real slice: other coils, phases, masks and noise."""
    scans = [simulate_mri(t1_slice(), grid=(GRID, GRID), acceleration=acceleration, seed=i) for i in range(count)]
    return together(scans, [f"slice, scan {i}" for i in range(count)])


def spokes(images: Tensor, number: int, *, seed: int) -> Scans:
    """Scans of ``images`` ``(items, FINE, FINE)`` by ``number`` spokes at the golden angle, of twice the grid's samples.

    Coils, phases, truths and noise levels are those of `simulate_mri`; the samples are the Fourier integral of its
    objects, constant in the cells of the fine grid.
    """
    omega = radial(number, 2 * GRID, angles="golden")
    # Of a fine cell: its width and the place of the first one's centre, in pixels of the unknown; both grids are even.
    width = GRID / FINE
    cell = torch.sinc(omega * (width / (2 * torch.pi))).prod(-1)
    factor = width * torch.polar(cell, omega.sum(-1) * (1 - width) / 2)
    generator = torch.Generator().manual_seed(seed)
    maps, data, truth, std = [], [], [], []
    for i, image in enumerate(images):
        scan = simulate_mri(image, grid=(GRID, GRID), seed=seed + i)
        phase = smooth_phase((FINE, FINE), strength=1.0, seed=seed + i, dtype=torch.float64)
        coils = coil_maps(len(scan.maps), (FINE, FINE), seed=seed + i, dtype=torch.float64)
        lens = NonCartesianMRI(width * omega, (FINE, FINE), maps=coils, tol=1e-9)
        clean = factor * lens(torch.polar(image.double(), phase)[None])[0]
        noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator, device="cpu")  # 1/2 each part
        data.append((clean + 2**0.5 * scan.noise_std * noise).to(torch.complex64))
        maps.append(scan.maps)
        truth.append(scan.truth)
        std.append(scan.noise_std)
    operator = NonCartesianMRI(omega, (GRID, GRID), maps=torch.stack(maps))
    noise_model = iv.noise.Gaussian(std=torch.tensor(std, dtype=torch.float32, device="cpu").view(-1, 1, 1))
    return Scans(
        problem=iv.Problem(operator, torch.stack(data), noise=noise_model),
        truth=torch.stack(truth),
        names=tuple(f"scan {i}" for i in range(len(images))),
    )
