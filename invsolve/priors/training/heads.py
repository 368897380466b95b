"""Random heads as training signals: a pool of images, with another phase, side and gain every time one is seen."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.validation import Shape, check_choice, check_int
from invsolve.datasets import band_limited, heads
from invsolve.priors.training.data import Finite
from invsolve.priors.training.pool import pool

_CHUNK = 32
_PHASE = 1.2  # radians: the largest of the smooth phases
_GAIN = 0.15  # of the logarithm


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Heads(Finite):
    """``size`` random heads on ``grid`` x ``grid`` pixels of a head-sized field of view.

    They are made finely (about 50 ms each), seen as a scan on the grid shows them (MR: band-limited, edges ring; CT:
    means over the pixels), and kept in ``cache`` for the next run.

    Parameters
    ----------
    grid : int
        Pixels a side, >= 8.
    size : int or None
        How many, >= 1; None takes all that ``cache`` holds.
    what : {"mr", "ct"}
        ``"mr"``: complex images of any contrast, half of them stripped to the brain, with a smooth and an arbitrary
        constant phase; ``"ct"``: real, in Hounsfield units.
    seed : int
        Of the heads.
    cache : str or PathLike, optional
        A .npy file, made if it is not there.
    fine : int, optional
        Cells a side of the objects, >= ``grid``: what is learnt is what a scan on the grid shows of them. 256 unless
        given, or ``grid`` if that is more.

    Attributes
    ----------
    pool : Tensor, shape (size, grid, grid)
        The images, float16.

    Raises
    ------
    InputError
        If a value is out of its range.
    FileError
        If ``cache`` holds something else.
    """

    grid: int = 128
    size: int | None = 8192  # type: ignore[assignment]  # a number once constructed
    what: Literal["mr", "ct"] = "mr"
    seed: int = 0
    cache: str | os.PathLike[str] | None = None
    fine: int | None = None
    pool: Tensor = field(init=False, repr=False)  # (size, grid, grid) float16

    def __post_init__(self) -> None:
        check_int("Heads", "grid", self.grid, minimum=8)
        check_int("Heads", "fine", self._cells, minimum=self.grid)
        check_choice("Heads", "what", self.what, ("mr", "ct"))
        made = pool("Heads", self.size, self.shape, torch.float16, self.cache, self._images, chunk=_CHUNK)
        object.__setattr__(self, "pool", made)
        object.__setattr__(self, "size", len(self.pool))

    @property
    def _cells(self) -> int:
        return max(256, self.grid) if self.fine is None else self.fine

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return (self.grid, self.grid)

    @property
    def complex(self) -> bool:  # type: ignore[override]
        return self.what == "mr"

    def at(self, places: Sequence[int], numbers: Sequence[int], seed: int) -> Tensor:
        images = self.pool[torch.tensor(places, device="cpu")].float()
        draws = torch.from_numpy(np.stack([np.random.default_rng([seed & 0xFFFFFFFF, i]).random(16) for i in numbers]))
        flip = draws[:, 0] < 0.5
        images[flip] = images[flip].flip(-1)
        if self.what == "ct":
            return images
        images = images * torch.exp(_GAIN * (2 * draws[:, 1] - 1)).float()[:, None, None]
        # The smooth phases of `datasets.smooth_phase`, of random strength, and a constant.
        weights = torch.special.ndtri(draws[:, 2:11].clamp(1e-6, 1 - 1e-6)).view(-1, 3, 3)
        weights[:, 0, 0] = 0
        weights = weights / weights.abs().sum((1, 2), keepdim=True) * (_PHASE * draws[:, 11])[:, None, None]
        place = (torch.arange(self.grid, dtype=torch.float64, device="cpu") + 0.5) / self.grid
        waves = torch.cos(math.pi * torch.arange(3, dtype=torch.float64, device="cpu") * place[:, None])
        phase = (waves @ weights @ waves.mT + 2 * math.pi * draws[:, 12, None, None]).float()
        return torch.polar(images.abs(), phase + math.pi * (images < 0))

    def _images(self, first: int, n: int) -> Tensor:
        if self.what == "ct":
            fine = heads.ct(n, (self._cells, self._cells), seed=self.seed, first=first)
            return torch.nn.functional.adaptive_avg_pool2d(fine, (self.grid, self.grid))
        fine = heads.slices(n, (self._cells, self._cells), seed=self.seed, first=first)
        return band_limited(fine, self.shape).real  # type: ignore[arg-type]
