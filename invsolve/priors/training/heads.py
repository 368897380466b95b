"""Random heads as training signals: a pool of images, with another phase, side and gain every time one is seen."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.files import atomic_write, write_or_warn
from invsolve.core.validation import Shape, check_choice, check_int
from invsolve.datasets import band_limited, heads
from invsolve.errors import FileError, invalid
from invsolve.priors.training.data import Finite

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
        if self.size is not None:
            check_int("Heads", "size", self.size, minimum=1)
        elif self.cache is None:
            raise invalid("Heads", "size", "given without a cache", "None")
        check_int("Heads", "fine", self._cells, minimum=self.grid)
        check_choice("Heads", "what", self.what, ("mr", "ct"))
        object.__setattr__(self, "pool", self._made())
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

    def _made(self) -> Tensor:
        if self.cache is not None and Path(self.cache).exists():
            try:
                values = np.load(self.cache, allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise FileError(f"Heads: {os.fspath(self.cache)!r} is no .npy file, or is damaged: {error}.") from error
            size = len(values) if self.size is None and values.ndim else self.size or 0
            if values.shape[1:] == self.shape and len(values) >= size > 0 and values.dtype == np.float16:
                return torch.from_numpy(values[:size])
            raise FileError(
                f"Heads: {os.fspath(self.cache)!r} holds {values.shape} {values.dtype}, expected "
                f"({self.size}, {self.grid}, {self.grid}) float16. Delete it, or name another file."
            )
        if self.size is None:
            raise FileError(f"Heads: there is no file {os.fspath(self.cache or '')!r}. State `size` to make it.")
        parts = [self._images(first, min(_CHUNK, self.size - first)) for first in range(0, self.size, _CHUNK)]
        pool = torch.cat(parts)
        if self.cache is not None:
            cache = self.cache
            write_or_warn(
                lambda: atomic_write(cache, lambda file: np.save(file, pool.numpy()), owner="Heads"),
                "The images are made again next time.",
            )
        return pool

    def _images(self, first: int, n: int) -> Tensor:
        if self.what == "ct":
            fine = heads.ct(n, (self._cells, self._cells), seed=self.seed, first=first)
            return torch.nn.functional.adaptive_avg_pool2d(fine, (self.grid, self.grid)).half()
        fine = heads.slices(n, (self._cells, self._cells), seed=self.seed, first=first)
        return band_limited(fine, self.shape).real.half()  # type: ignore[arg-type]
