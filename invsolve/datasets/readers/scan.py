"""What `iv.open` returns: a file that was looked at, whose numbers are read when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.arrays import from_array
from invsolve.core.notebook import TextInNotebook
from invsolve.core.torch_state import Defined
from invsolve.core.validation import as_integer, quoted
from invsolve.datasets.readers.checks import Rows, Source
from invsolve.errors import invalid, invalid_type
from invsolve.problem import Problem


class Scan(TextInNotebook, Defined, ABC):
    """A file that holds measurements or images: print it, then ask it for a `Problem`.

    Attributes
    ----------
    format : str
        "fastMRI", "ISMRMRD", "DICOM", "NIfTI", "BART", "numpy" or "sinogram".
    path : str
        Of the file or folder.
    num_slices : int
        How many slices it holds.
    shape : tuple of int
        Of one slice as it is stored, coils first.
    notes : tuple of str
        What was noticed, and what will be done, in sentences.
    """

    format: str
    path: str
    num_slices: int
    shape: tuple[int, ...]
    notes: tuple[str, ...] = ()
    _source: Source
    _rows: Rows

    @abstractmethod
    def problem(self) -> Problem:
        """What `iv.solve` takes: operator, data, noise, units and grid of some slices."""

    @abstractmethod
    def _lines(self) -> list[str]:
        """What it is, a line each."""

    def read(self, slices: object = None) -> Tensor:
        """The stored numbers of some slices, as a tensor ``(slices, *shape)``.

        Parameters
        ----------
        slices : int, slice, sequence of int, optional
            Which; all unless given.

        Returns
        -------
        Tensor

        Raises
        ------
        InputError, InputTypeError
            For a slice that the file does not have.
        FileError
            Where the file is damaged, or what is asked for is above the limit.
        """
        return _tensor(self._read(self._chosen(slices)[0]))

    def _read(self, index: Sequence[int]) -> NDArray[Any]:
        with self._source.guarded("its values"):
            found: NDArray[Any] = np.asarray(self._rows(index))
        return found

    def _chosen(self, slices: object) -> tuple[list[int], bool]:
        """Numbers of slices, and whether they have a batch axis."""
        n = self.num_slices
        if slices is None:
            return list(range(n)), True
        if isinstance(slices, slice):
            found = list(range(n))[slices]
        elif (one := as_integer(slices)) is not None:
            found = [one]
        elif isinstance(slices, (Sequence, np.ndarray, Tensor)) and not isinstance(slices, str):
            numbers = [as_integer(s) for s in slices]
            if None in numbers:
                raise invalid_type("Scan", "slices", "a number, a slice or a list of numbers", quoted(slices))
            found = [int(s) for s in numbers if s is not None]
        else:
            raise invalid_type("Scan", "slices", "a number, a slice or a list of numbers", quoted(slices))
        if not found or any(not -n <= s < n for s in found):
            raise invalid("Scan", "slices", f"some of 0 to {n - 1}", quoted(slices))
        return [s % n for s in found], one is None if not isinstance(slices, slice) else True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._lines()[0]})"

    def __str__(self) -> str:
        return "\n  ".join([*self._lines(), *self.notes])


def _tensor(values: NDArray[Any]) -> Tensor:
    """Of any byte order and kind, with memory of its own, on the CPU."""
    return from_array(np.array(values, dtype=values.dtype.newbyteorder("=")))


def real_tensor(values: NDArray[Any]) -> Tensor:
    """In single precision."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        return _tensor(values.astype(np.float32))
