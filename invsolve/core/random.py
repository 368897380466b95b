"""Keyed normal draws: the numbers of a row depend on (seed, item, sample, step, index) and on nothing else.

A row is therefore the same alone, in any batch, after a resume, and whatever ``num_samples`` is. No global generator
is read or written: whoever needs numbers is handed a `DrawLike` (in a solve a `Draws`, in a test anything with its two
methods) and asks it for ``normal(shape, dtype, step=..., index=...)``, with a ``step`` that grows and an ``index`` for
several draws in one step. Other distributions are functions of normal numbers.

Short rows (and every row on an accelerator) come from one vectorised counter-based stream; long rows on a CPU from one
generator per row, which is faster there. Which of the two is a function of the row's length and device only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.validation import Shape, as_integer, real_dtype
from invsolve.errors import invalid, invalid_type

Words = NDArray[np.int64]

_SHORT = 256  # numbers a row: the two ways cost about the same from 64 to 256, and the counters have no collisions
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed integer (the increment of SplitMix64)
_MIX1 = -4658895280553007687  # 0xbf58476d1ce4e5b9
_MIX2 = -7723592293110705685  # 0x94d049bb133111eb
_LOW = {30: 0x3FFFFFFFF, 27: 0x1FFFFFFFFF, 31: 0x1FFFFFFFF}  # masks that make >> logical


def _mix(x: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA): a bijection of 64-bit words, tensor or array."""
    x = (x ^ ((x >> 30) & _LOW[30])) * _MIX1
    x = (x ^ ((x >> 27) & _LOW[27])) * _MIX2
    return x ^ ((x >> 31) & _LOW[31])


def _key(first: Words, *others: Words | int) -> Words:
    """Hash several words into one; each is mixed before the next is added, so that order matters."""
    key: Words = _mix(first * 3 + _GOLDEN)
    for word in others:
        key = _mix((key + word) * 3 + _GOLDEN)
    return key


def item_key(item: object) -> int:
    """A 64-bit signed key for an item id: integers as they are, strings by hash."""
    if isinstance(item, str):
        return int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest(), "big", signed=True)
    number = as_integer(item)
    if number is None:
        raise invalid_type("solve", "item_ids", "integers or strings", item)
    return _word("solve", "item_ids", "integers", number)


def _word(owner: str, name: str, what: str, number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise invalid(owner, name, f"{what} of 64 bits", number)
    return number


class DrawLike(Protocol):
    """Anything that gives standard normal numbers for rows: inject one to make a solve deterministic."""

    def normal(self, shape: Shape, dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        """Standard normal numbers ``(rows, *shape)``; complex dtypes have unit variance *per component*."""
        ...

    def take(self, rows: Tensor) -> DrawLike:
        """The source of the rows ``rows``."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """The keyed source that `solve` uses: one stream per (seed, item, sample), see the module's text."""

    keys: Words  # (rows,); numpy, whose operations on a few words cost a fraction of torch's
    device: torch.device

    @classmethod
    def for_rows(
        cls,
        seed: int,
        items: Sequence[int],
        samples: Sequence[int],
        device: torch.device,
        *,
        purpose: str = "solve",
        owner: str = "solve",
    ) -> Draws:
        """Streams for rows with these item keys and sample numbers (same length).

        ``purpose`` keeps streams of one seed apart: a prior draw must not share its numbers with the solve that is
        to recover it, or self-made coverage tests look better than they are. ``owner``: who refuses a seed of more than
        64 bits.
        """
        seed = _word(owner, "seed", "an integer", seed)
        root = np.full(len(items), _key(np.array([seed], dtype=np.int64), item_key(purpose))[0], dtype=np.int64)
        return cls(keys=_key(root, np.array(items, dtype=np.int64), np.array(samples, dtype=np.int64)), device=device)

    def take(self, rows: Tensor) -> Draws:
        """The streams of the rows ``rows``."""
        return replace(self, keys=self.keys[rows.cpu().numpy()])

    def normal(self, shape: Shape, dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        real, size = real_dtype(dtype), prod(shape) * (2 if dtype.is_complex else 1)
        key = _key(self.keys, step, index)
        if size <= _SHORT or self.device.type != "cpu":
            counter = torch.arange(1, size + 1, dtype=torch.int64, device=self.device)
            out: Tensor = self._counted(key, counter).to(real)
        else:
            out = torch.empty(len(key), size, dtype=real, device="cpu")
            generator = torch.Generator()
            for row, seed in zip(out, key.tolist(), strict=True):
                # torch's engine uses 32 bits of its seed; the others say where in the row its stream begins, so that
                # rows whose low bits agree (one pair in 65,536 rows, every other time) do not hold the same noise.
                generator.manual_seed(seed)
                turn = (seed >> 32) % size
                row[turn:].normal_(generator=generator)
                row[:turn].normal_(generator=generator)
        if dtype.is_complex:
            return torch.view_as_complex(out.view(len(key), *shape, 2))
        return out.view(len(key), *shape)

    def normal_of(self, counter: Tensor, dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        """Standard normal numbers ``(rows, *counter.shape)``, each of its ``counter`` (int64, > 0) alone.

        A number does not depend on the others that are asked for: the modes of a coarse grid have the numbers that they
        have among those of a fine one. ``dtype`` is real.
        """
        key = _key(self.keys, step, index)
        out = self._counted(key, counter.to(self.device).flatten())
        return out.to(dtype).view(len(key), *counter.shape)

    def _counted(self, key: Words, counter: Tensor) -> Tensor:
        bits = _mix(torch.from_numpy(key).to(self.device, non_blocking=True)[:, None] + counter * _GOLDEN)
        # 52 bits and a half, exact in float64: uniform in the open interval (0, 1), then the inverse normal CDF.
        uniform = (((bits >> 12) & 0xFFFFFFFFFFFFF).double() + 0.5) * 2.0**-52
        out: Tensor = torch.special.ndtri(uniform)
        return out
