"""Data sets of the five benchmarks, of any size, streamed to HDF5 in PDEBench's layout."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from math import prod
from typing import Any, final

import numpy as np
import torch

from invsolve.core.files import with_extension
from invsolve.core.part_files import part_file
from invsolve.core.random import Draws
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Shape, check_choice, check_int
from invsolve.datasets.readers.pdebench import FieldFile, open_fields
from invsolve.errors import invalid, invalid_type
from invsolve.problems.equations import EQUATIONS, Equation
from invsolve.problems.few_sensors import checked_resolution
from invsolve.problems.legacy_spline import legacy_solution

_OWNER = "generate"
_PAGE = 4096  # bytes
_TYPE = {torch.float32: "<f4", torch.float64: "<f8"}


@in_defined_state
def generate(
    name: str,
    path: str | os.PathLike[str],
    count: int,
    *,
    resolution: int = 128,
    seed: int = 0,
    chunk: int = 16,
    dtype: torch.dtype = torch.float32,
    legacy_spline: bool = False,
) -> FieldFile:
    """Write pairs (coefficient, source or initial state; solution) of a benchmark to a file.

    `iv.datasets.open_fields` reads it. The file is written in chunks beside its place, as ``path`` with ".part", and
    renamed when it is whole. The same call after an interruption goes on where it was.

    Parameters
    ----------
    name : {"darcy", "poisson", "helmholtz", "navier_stokes", "burgers"}
        The benchmark: see the function of that name.
    path : str or path
        Of the file, which must not exist; ".h5" is added to a name without extension.
    count : int
        Pairs, >= 1. Pair k depends on ``seed`` and k only: a longer file begins like a shorter one.
    resolution : int
        Points along a side, >= 4.
    seed : int
        Of the draws.
    chunk : int
        Pairs that are solved at once and held in memory, >= 1.
    dtype : torch.dtype
        float32 or float64, of the file; equations are solved in float64.
    legacy_spline : bool
        True, "darcy" only: the coefficient is moved to nodes by a bicubic spline, as in the published data, negative
        coefficients and pressures included.

    Returns
    -------
    FieldFile
        The file, opened.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be, the file exists, or a part of other data is in the way.
    FileError
        If another process writes the file, or (WriteError) it cannot be written, as on a full disk.

    Notes
    -----
    Without time: ``nu`` (count, n, n), coefficient or source, and ``tensor`` (count, 1, n, n), the solution. In time:
    ``tensor`` (count, times, n, n), of Navier-Stokes the vorticity at 0, 0.1, ..., 1, or (count, 128, n) of Burgers,
    whose first entries are the initial states. ``x-coordinate`` is that of the first axis of a field, which in the
    operators here is called y. Nodes of Poisson and Helmholtz include those on the walls (``nodes_on_walls = 1``).

    References
    ----------
    Takamoto et al. 2022, PDEBench, arXiv 2210.07182, of which the layout is.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = generate("poisson", f"{folder}/poisson.h5", 3, resolution=8)
    ...     file["tensor"][:2].shape
    torch.Size([2, 1, 8, 8])
    """
    check_choice(_OWNER, "name", name, tuple(EQUATIONS))
    count = check_int(_OWNER, "count", count, minimum=1)
    n = checked_resolution(_OWNER, resolution)
    seed = check_int(_OWNER, "seed", seed)
    Draws.for_rows(seed, [], [], torch.device("cpu"), owner=_OWNER)  # which refuses a seed of more than 64 bits
    chunk = check_int(_OWNER, "chunk", chunk, minimum=1)
    if dtype not in _TYPE:
        raise invalid_type(_OWNER, "dtype", "torch.float32 or torch.float64", str(dtype))
    if not isinstance(legacy_spline, bool):
        raise invalid_type(_OWNER, "legacy_spline", "True or False", legacy_spline)
    if legacy_spline and name != "darcy":
        raise invalid(_OWNER, "legacy_spline", "False, but for 'darcy'", f"True for {name!r}")
    path = with_extension(_OWNER, path, (".h5", ".hdf5"), "HDF5")
    made = EQUATIONS[name](n, torch.float64)
    layout = _Layout.of(
        made, count, _TYPE[dtype], {**made.numbers, **({"legacy_spline": 1.0} if legacy_spline else {})}
    )
    about = {"name": name, "count": count, "resolution": n, "seed": seed, "dtype": str(dtype), "spline": legacy_spline}
    about["layout"] = layout.digest
    with part_file(path, owner=_OWNER, head=layout.head, size=layout.size, about=about) as file:
        for start in range(min(file.done, count), count, chunk):
            stop = min(start + chunk, count)
            rows = list(range(start, stop))
            draws = Draws.for_rows(seed, [0] * len(rows), rows, made.prior.device, purpose="prior", owner=_OWNER)
            x = made.prior._sample(len(rows), draws)
            u = legacy_solution(x) if legacy_spline else made.solution(x)
            for key, values in (("nu", x), ("tensor", u)):
                if key in layout.offsets:
                    content = values.numpy().astype(layout.type).tobytes()
                    file.write(layout.offsets[key] + start * (len(content) // len(rows)), content)
            file.reached(stop)
    return open_fields(path)


@final
@dataclass(frozen=True, kw_only=True)
class _Layout:
    """An HDF5 file without its large arrays: the bytes around them, and where each begins."""

    head: dict[int, bytes]
    size: int
    offsets: dict[str, int]
    type: str

    @classmethod
    def of(cls, made: Equation, count: int, kind: str, numbers: dict[str, float]) -> _Layout:
        import h5py

        shape = tuple(made.prior.shape)
        arrays: dict[str, Shape] = {"tensor": (count, *made.solution.out_shape)}
        if not made.times:
            arrays = {"nu": (count, *shape), "tensor": (count, 1, *made.solution.out_shape)}
        memory = _Sparse()
        with h5py.File(memory, "w") as file:
            for axis in "xyz"[: len(shape)]:
                file[f"{axis}-coordinate"] = made.along.numpy()
            file["t-coordinate"] = np.array(made.times or (0.0,))
            for key, value in {**numbers, **({"nodes_on_walls": 1.0} if made.walls else {})}.items():
                file.attrs[key] = value
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_layout(h5py.h5d.CONTIGUOUS)
            plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            own = h5py.h5t.py_create(np.dtype(kind))
            offsets = {
                key: h5py.h5d.create(file.id, key.encode(), own, h5py.h5s.create_simple(size), plan).get_offset()
                for key, size in arrays.items()
            }
        return cls(
            head={number * _PAGE: bytes(page) for number, page in memory.pages.items()},
            size=max(memory.size, *(offsets[k] + prod(arrays[k]) * np.dtype(kind).itemsize for k in arrays)),
            offsets=offsets,
            type=kind,
        )

    @property
    def digest(self) -> str:
        """Of the bytes around the arrays: another version of HDF5 may lay them out differently."""
        return hashlib.blake2b(repr(sorted(self.head.items())).encode(), digest_size=8).hexdigest()


class _Sparse(io.RawIOBase):
    """A file in memory that holds the pages that were written, however far behind one another they are."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.size = 0
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None, /) -> int:
        self.size = self._at if size is None else size
        return self.size

    def write(self, content: Any, /) -> int:
        return self._move(memoryview(content).cast("B"), into=True)

    def readinto(self, buffer: Any, /) -> int:
        return self._move(memoryview(buffer).cast("B"), into=False)

    def _move(self, other: memoryview, *, into: bool) -> int:
        done = 0
        while done < len(other):
            number, inside = divmod(self._at + done, _PAGE)
            step = min(_PAGE - inside, len(other) - done)
            page = self.pages.setdefault(number, bytearray(_PAGE)) if into else self.pages.get(number, bytes(_PAGE))
            if into:
                page[inside : inside + step] = other[done : done + step]  # type: ignore[index]
            else:
                other[done : done + step] = page[inside : inside + step]
            done += step
        self._at += done
        if into:
            self.size = max(self.size, self._at)
        return done
