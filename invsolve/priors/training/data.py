"""Where training signals come from: a tensor, a function that makes them, a file larger than memory.

A source gives the signals of a stream by their numbers 0, 1, 2, ...: batch k of b signals are the numbers
``k b .. k b + b - 1``, whatever process asks. Finite sources are shuffled anew in every epoch, by a keyed permutation,
and a part of them is held out (`split`).
"""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import as_tensor, from_array, several
from invsolve.core.validation import Shape, check_finite, check_int
from invsolve.errors import FileError, invalid, invalid_type


class Source(abc.ABC):
    """Real or complex signals of ``shape`` (no batch axis), without end; a `Finite` one ends."""

    shape: Shape
    complex: bool

    @abc.abstractmethod
    def read(self, numbers: Sequence[int], seed: int) -> Tensor:
        """The signals with these numbers of the stream of ``seed``, ``(n, *shape)``."""


_PROBED = 8  # signals by which the keys of a function are checked
_KEYED = "numpy.random.default_rng([seed, number]) keys every signal by both."


class Finite(Source):
    """Signals at places 0 .. ``size`` - 1, which streams of numbers go through in epochs. Subclasses say `at`."""

    size: int

    @abc.abstractmethod
    def at(self, places: Sequence[int], numbers: Sequence[int], seed: int) -> Tensor:
        """The signals at these places, ``(n, *shape)``.

        What is random about them is keyed by ``numbers`` and ``seed``.
        """

    def read(self, numbers: Sequence[int], seed: int) -> Tensor:
        return self.at(_order(numbers, self.size, seed), numbers, seed)


@final
@dataclass(frozen=True, eq=False)
class Part(Finite):
    """The signals of ``source`` at ``places``."""

    source: Finite
    places: Sequence[int]

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.places)

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return self.source.shape

    @property
    def complex(self) -> bool:  # type: ignore[override]
        return self.source.complex

    def at(self, places: Sequence[int], numbers: Sequence[int], seed: int) -> Tensor:
        return self.source.at([self.places[i] for i in places], numbers, seed)


def split(source: Source, n: int, seed: int) -> tuple[Source, Part | None]:
    """What to train on, and ``n`` signals that are held out of it: at random, at most a tenth of all.

    None is held out of a source without end, whose other streams are other signals, nor of fewer than 20.
    """
    if not isinstance(source, Finite) or source.size < 20:
        return source, None
    # No epoch has this number, so that no epoch has this order.
    places = np.random.default_rng([seed & 0xFFFFFFFF, 1 << 32]).permutation(source.size).tolist()
    n = min(n, source.size // 10)
    return Part(source, places[n:]), Part(source, places[:n])


def _order(numbers: Sequence[int], size: int, seed: int) -> list[int]:
    """Places in a finite source: number i is place ``permutation_of_epoch(i // size)[i % size]``."""
    orders: dict[int, list[int]] = {}
    for epoch in {i // size for i in numbers}:
        rng = np.random.default_rng([seed & 0xFFFFFFFF, epoch])
        orders[epoch] = rng.permutation(size).tolist()
    return [orders[i // size][i % size] for i in numbers]


@final
@dataclass(frozen=True, eq=False)
class Signals(Finite):
    """A tensor of signals.

    Parameters
    ----------
    values : Tensor, shape (n, *shape)
        Real or complex, finite, n >= 1.

    Raises
    ------
    InputError, InputTypeError
        If ``values`` is no such tensor.
    """

    values: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _signals(self.values))
        if self.values.ndim < 2 or not len(self.values):
            raise invalid("train", "data", "of shape (n, *shape) with n >= 1", tuple(self.values.shape))
        check_finite("train", "data", self.values)

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.values)

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.values.shape[1:])

    @property
    def complex(self) -> bool:  # type: ignore[override]
        return self.values.is_complex()

    def at(self, places: Sequence[int], numbers: Sequence[int], seed: int) -> Tensor:
        return self.values[torch.tensor(places, device="cpu")]


@final
@dataclass(frozen=True, eq=False)
class Made(Source):
    """Signals that a function makes as they are needed, each from its number.

    Parameters
    ----------
    function : callable
        ``function(numbers, seed)`` returns ``(n, *shape)``. The same number and seed must give the same signal, alone
        and among others, and streams of other seeds must be other signals: averages are chosen by them.

    Attributes
    ----------
    shape : tuple of int
        Of a signal, as the function made the first one.
    complex : bool
        Whether signals are complex.

    Raises
    ------
    InputError, InputTypeError
        If the function returns something else, or does not key its signals by number and seed.

    Notes
    -----
    torch's generators on a CPU keep the low 32 bits of a seed: ``seed << 32`` in it is lost;
    ``numpy.random.default_rng([seed, number])`` mixes both.
    """

    function: Callable[[Sequence[int], int], Tensor]
    shape: Shape = field(init=False)
    complex: bool = field(init=False)

    def __post_init__(self) -> None:
        first = self.function([3], 0)
        first = _signals(first) if several(first) else first
        if not isinstance(first, Tensor) or first.ndim < 2 or len(first) != 1:
            given = tuple(first.shape) if isinstance(first, Tensor) else first
            raise invalid_type("train", "data", "a function (numbers, seed) -> (n, *shape)", f"{given} for one number")
        object.__setattr__(self, "shape", tuple(first.shape[1:]))
        object.__setattr__(self, "complex", first.is_complex())
        self._check_keys(check_finite("train", "data", first))

    def _check_keys(self, fourth: Tensor) -> None:
        """Raise unless a stream can be read again and in pieces, and those of other seeds are others."""
        zero, again, one = (self.read(range(_PROBED), seed) for seed in (0, 0, 1))
        if not torch.equal(zero, again):
            raise invalid(
                "train",
                "data",
                "a function that gives the same signals for the same numbers and seed",
                "others",
                f"{_KEYED} A training could not be resumed.",
            )
        if not torch.allclose(zero[3:4], fourth, rtol=1e-3, atol=1e-3 * float(zero.abs().max())):
            raise invalid(
                "train",
                "data",
                "a function that makes each signal from its own number and the seed",
                "another for number 3 alone than among others",
                _KEYED,
            )
        if any(torch.equal(a, b) for a, b in ((zero, one), (zero[1:], one[:-1]), (zero[:-1], one[1:]))):
            raise invalid(
                "train",
                "data",
                "a function whose signals of another seed are others",
                "the same, or a number further",
                f"{_KEYED} Averages are chosen on a stream of its own.",
            )

    def read(self, numbers: Sequence[int], seed: int) -> Tensor:
        values = _signals(self.function(list(numbers), seed))
        if tuple(values.shape) != (len(numbers), *self.shape):
            want = f"returning shape {(len(numbers), *self.shape)}"
            raise invalid("train", "data", want, tuple(values.shape))
        return check_finite("train", "data", values)


@final
@dataclass(frozen=True, eq=False)
class Stored(Finite):
    """A variable ``(n, *shape)`` in an HDF5, NetCDF-4 or Zarr file, read piece by piece.

    Parameters
    ----------
    path : str or PathLike
        Ends in .h5, .hdf5, .nc or .zarr (which needs the package zarr).
    name : str, optional
        Of the variable; it may be left out where there is only one of at least two axes.

    Attributes
    ----------
    shape : tuple of int
        Of a signal.
    complex : bool
        Whether signals are complex.
    size : int
        Signals in the file.

    Raises
    ------
    FileError
        Naming what is wrong.
    """

    path: str | os.PathLike[str]
    name: str | None = None
    shape: Shape = field(init=False)
    complex: bool = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        with _opened(self.path) as file:
            names = {self.name} if self.name is not None else {k for k in file if getattr(file[k], "ndim", 0) >= 2}
            here, held = repr(os.fspath(self.path)), sorted(map(str, file))
            if len(names) != 1:
                raise FileError(f"train: `name` must be given: {here} holds {held}.")
            (name,) = names
            if name not in file or getattr(file[name], "ndim", 0) < 2:
                raise FileError(f"train: {here} has no variable {name!r} of two axes or more: it holds {held}.")
            variable = file[name]
            if np.dtype(variable.dtype).kind not in "fciu":
                raise FileError(f"train: {name!r} in {here} holds {variable.dtype}, not numbers.")
            if not variable.shape[0]:
                raise FileError(f"train: {name!r} in {here} is empty.")
            object.__setattr__(self, "name", str(name))
            object.__setattr__(self, "size", int(variable.shape[0]))
            object.__setattr__(self, "shape", tuple(int(n) for n in variable.shape[1:]))
            object.__setattr__(self, "complex", np.dtype(variable.dtype).kind == "c")

    def at(self, places: Sequence[int], numbers: Sequence[int], seed: int) -> Tensor:
        unique = sorted(set(places))  # in the order of the file
        with _opened(self.path) as file:
            values = np.stack([np.asarray(file[self.name][place]) for place in unique])
        if values.dtype.kind in "iu":
            values = values.astype(np.float32)
        where = {place: i for i, place in enumerate(unique)}
        return check_finite("train", "data", from_array(values)[[where[p] for p in places]])


def _opened(path: str | os.PathLike[str]) -> Any:
    name = os.fspath(path)
    if not os.path.exists(name):
        raise FileError(f"train: there is no file {name!r}.")
    suffix = os.path.splitext(name)[1].lower()
    if suffix in (".h5", ".hdf5", ".nc"):
        import h5py

        try:
            return h5py.File(name, "r")
        except OSError as error:
            raise FileError(f"train: {name!r} is no HDF5 file, or is damaged: {error}.") from error
    if suffix == ".zarr":
        try:
            import zarr  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise FileError(f"train: {name!r} needs the package zarr: pip install zarr.") from error
        return contextlib.nullcontext(zarr.open_group(name, mode="r"))
    raise FileError(f"train: {name!r} must end in .npy, .h5, .hdf5, .nc or .zarr.")


def as_source(data: object) -> Source:
    """A tensor, a function of (numbers, seed), a path or a `Source`, as a source of signals without channels last."""
    source = _source(data)
    shape, many = tuple(source.shape), isinstance(source, (Signals, Stored))
    if len(shape) == 3 and shape[-1] <= 4 < min(shape[:2]):
        name, axis = ("signals", 1) if many else ("signal", 0)
        drop = f"{name}[..., 0]" if shape[-1] == 1 else f"np.moveaxis({name}, -1, {axis})"
        given = f"signals {shape}, which would be {shape[0]} channels of {shape[1:]}"
        raise invalid("train", "data", "of shape (n, H, W), or (n, channels, H, W)", given, f"Write {drop}.")
    return source


def _source(data: object) -> Source:
    if isinstance(data, Source):
        if not isinstance(data, Finite) and getattr(data, "size", None) is not None:
            raise invalid_type("train", "data", "a Finite source if it has a size", data, "It says `at`, not `read`.")
        return data
    if several(data) or (isinstance(data, (str, os.PathLike)) and os.fspath(data).endswith(".npy")):
        return Signals(_signals(data))
    if isinstance(data, (str, os.PathLike)):
        return Stored(data)
    if callable(data):
        return Made(data)
    expected = "a tensor or array (n, *shape), a function, a file or a Source"
    raise invalid_type("train", "data", expected, data)


def _signals(data: object) -> Tensor:
    """Signals as tensors; in single precision, as networks are trained, unless they are tensors of another."""
    return as_tensor("train", "data", data, dtype=torch.float32, device=torch.device("cpu"))


def sample_of(source: Source, n: int, seed: int) -> Tensor:
    """``n`` signals to measure, or all that there are: from a stream of its own."""
    check_int("train", "n", n, minimum=1)
    n = min(n, source.size) if isinstance(source, Finite) else n  # none twice: it would count as two
    if n < 2:
        raise invalid("train", "data", "at least two signals", n)
    return source.read(range(n), seed)
