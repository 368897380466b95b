"""Simulated scans of heads: held-out phantoms and the real slice, each with its own coils, phase, mask and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

import invsolve as iv
from invsolve.datasets import MRIScan, simulate_mri, t1_slice

FINE = 256  # cells a side of what is scanned; the unknown is coarser: no inverse crime
GRID = 128
HELD_OUT = 10_000  # seed of phantoms that no prior was trained on and no weight was tuned on
TUNING = 20_000


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Scans:
    """Several scans as one problem with an operator of their own each."""

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
