"""Signals that are made once, and kept in a file for the next run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invsolve.core.files import atomic_write, write_or_warn
from invsolve.core.validation import Shape, check_int
from invsolve.errors import FileError, invalid


def pool(
    owner: str,
    size: int | None,
    shape: Shape,
    dtype: torch.dtype,
    cache: str | os.PathLike[str] | None,
    make: Callable[[int, int], Tensor],
    *,
    chunk: int,
) -> Tensor:
    """``(size, *shape)``: what ``cache`` holds, or ``make(first, n)`` in chunks, kept there.

    ``size`` None: all that ``cache`` holds. Raises FileError if that is something else, InputError for a wrong size.
    """
    if size is not None:
        check_int(owner, "size", size, minimum=1)
    elif cache is None:
        raise invalid(owner, "size", "given without a cache", "None")
    kind = str(dtype).removeprefix("torch.")
    if cache is not None and Path(cache).exists():
        name = os.fspath(cache)
        try:
            values = np.load(cache, mmap_mode="r", allow_pickle=False)  # what it declares is not believed
        except (ValueError, OSError, EOFError) as error:
            raise FileError(f"{owner}: {name!r} is no .npy file, or is damaged: {error}.") from error
        least = len(values) if size is None and values.ndim else size or 0
        if values.shape[1:] == tuple(shape) and len(values) >= least > 0 and values.dtype.name == kind:
            return torch.from_numpy(np.array(values[:least]))
        wanted = ", ".join(str(n) for n in (size, *shape))
        raise FileError(
            f"{owner}: {name!r} holds {values.shape} {values.dtype}, expected ({wanted}) {kind}. Delete it, or name "
            "another file."
        )
    if size is None:
        raise FileError(f"{owner}: there is no file {os.fspath(cache or '')!r}. State `size` to make it.")
    made = torch.cat([make(first, min(chunk, size - first)).to(dtype) for first in range(0, size, chunk)])
    if cache is not None:
        path = cache
        write_or_warn(
            lambda: atomic_write(path, lambda file: np.save(file, made.numpy()), owner=owner),
            "They are made again next time.",
        )
    return made
