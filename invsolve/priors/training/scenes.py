"""Random pictures as training signals: a pool, of which another part is seen every time, turned, nearer or paler."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.validation import Shape, check_int
from invsolve.datasets import scenes
from invsolve.priors.training.data import Finite
from invsolve.priors.training.pool import pool

_CHUNK = 16
_FAR = 0.25  # the share that is seen from twice as far


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Scenes(Finite):
    """Patches of ``size`` random pictures (`iv.datasets.scenes`), ``grid`` x ``grid`` pixels, grey levels in [0, 1].

    The pictures, three times as large, are kept in ``cache`` for the next run. Patches lie anywhere in them, are turned
    and mirrored, in negative, of less contrast, and seen from twice as far.

    Parameters
    ----------
    grid : int
        Pixels a side, >= 8.
    size : int or None
        How many pictures, >= 1; None takes all that ``cache`` holds.
    seed : int
        Of the pictures.
    cache : str or PathLike, optional
        A .npy file, made if it is not there.

    Attributes
    ----------
    pool : Tensor, shape (size, 3 grid, 3 grid)
        The pictures, 0 to 255.

    Raises
    ------
    InputError
        If a value is out of its range.
    FileError
        If ``cache`` holds something else.
    """

    grid: int = 64
    size: int | None = 3072  # type: ignore[assignment]  # a number once constructed
    seed: int = 0
    cache: str | os.PathLike[str] | None = None
    pool: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_int("Scenes", "grid", self.grid, minimum=8)
        shape = (3 * self.grid, 3 * self.grid)
        made = pool("Scenes", self.size, shape, torch.uint8, self.cache, self._pictures, chunk=_CHUNK)
        object.__setattr__(self, "pool", made)
        object.__setattr__(self, "size", len(self.pool))

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return (self.grid, self.grid)

    @property
    def complex(self) -> bool:  # type: ignore[override]
        return False

    def at(self, places: Sequence[int], numbers: Sequence[int], seed: int) -> Tensor:
        return torch.stack([self._patch(place, i, seed) for place, i in zip(places, numbers, strict=True)])

    def _patch(self, place: int, number: int, seed: int) -> Tensor:
        u = np.random.default_rng([seed & 0xFFFFFFFF, number]).random(9)
        reach = (2 if u[0] < _FAR else 1) * self.grid
        top, left = (int(v * (3 * self.grid - reach + 1)) for v in u[1:3])
        x = self.pool[place, top : top + reach, left : left + reach].float() / 255
        if reach > self.grid:
            x = torch.nn.functional.avg_pool2d(x[None], 2)[0]
        x = x.mT if u[3] < 0.5 else x
        x = x.flip([axis for axis in (0, 1) if u[4 + axis] < 0.5])
        x = 1 - x if u[6] < 0.5 else x
        contrast = float(min(1.0, 0.5 + u[7]))  # of half of them
        return x * contrast + (1 - contrast) * float(u[8])

    def _pictures(self, first: int, n: int) -> Tensor:
        side = 3 * self.grid
        return (255 * scenes.grey(n, (side, side), seed=self.seed, first=first)).round()
