"""Where the pixels of a signal are: their size, and their place in the patient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from invsolve.core.validation import check_int, check_positive
from invsolve.errors import invalid, invalid_type

_EVEN = 0.01  # relative difference up to which distances of slices count as equal
_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


@final
@dataclass(frozen=True, kw_only=True)
class Grid:
    """The size of the pixels of a signal, and where its slices are in the patient; lengths in mm.

    `iv.open` makes them. One of your own, ``iv.Problem(A, y, noise, grid=iv.Grid(voxel_size=(1.9, 1.9)))``, tells
    ``prior.on(problem)`` how large the pixels are.

    Parameters
    ----------
    voxel_size : tuple of float
        mm, > 0, one for each axis of the signal.
    affine : array, shape (4, 4), optional
        From (slice, row, column, 1), slices by their numbers in the file, to (x, y, z, 1): mm to the right, the front
        and the top of the patient ("RAS+", as in NIfTI). None where the file does not say.
    slices : tuple of int
        Which slice of the file each item of the problem is.
    patient : mapping of str to str
        What files of the same patient and study share: written back by `Result.save` to DICOM.

    Raises
    ------
    InputError, InputTypeError
        If a size is not positive, or ``affine`` no invertible 4 x 4 matrix.

    Examples
    --------
    >>> Grid(voxel_size=(2.0, 1.0)).voxel_size
    (2.0, 1.0)
    """

    voxel_size: tuple[float, ...]
    affine: Any = None  # once made, rows of numbers
    slices: tuple[int, ...] = (0,)
    patient: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.voxel_size, (str, int, float)) or not isinstance(self.voxel_size, Sequence):
            raise invalid_type("Grid", "voxel_size", "a tuple of lengths in mm, one for each axis", self.voxel_size)
        sizes = tuple(check_positive("Grid", f"voxel_size[{i}]", v) for i, v in enumerate(self.voxel_size))
        object.__setattr__(self, "voxel_size", sizes)
        if isinstance(self.slices, str) or not isinstance(self.slices, Iterable):
            raise invalid_type("Grid", "slices", "a tuple of integers, one for each item", self.slices)
        numbers = tuple(check_int("Grid", f"slices[{i}]", n) for i, n in enumerate(self.slices))
        object.__setattr__(self, "slices", numbers)
        if not isinstance(self.patient, Mapping):
            raise invalid_type("Grid", "patient", "a mapping of names to texts", self.patient)
        object.__setattr__(self, "patient", dict(self.patient))
        if self.affine is not None:
            matrix = np.asarray(self.affine, dtype=np.float64)
            if matrix.shape != (4, 4):
                raise invalid("Grid", "affine", "of shape (4, 4)", matrix.shape)
            if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
                raise invalid("Grid", "affine", "finite and invertible", matrix.tolist())
            object.__setattr__(self, "affine", tuple(tuple(row) for row in matrix.tolist()))

    @property
    def orientation(self) -> str:
        """Where slices, rows and columns go in the patient, "SPL": to the top, the back, the left; "" if unknown."""
        if self.affine is None:
            return ""
        directions = np.asarray(self.affine)[:3, :3]
        main = np.abs(directions).argmax(0)
        return "".join(_CODES[axis][int(directions[axis, i] > 0)] for i, axis in enumerate(main))

    def take(self, index: Sequence[int]) -> Grid:
        """The grid of some of the items."""
        return replace(self, slices=tuple(self.slices[i] for i in index)) if len(self.slices) > 1 else self

    def of_items(self, count: int) -> NDArray[np.float64] | None:
        """`affine` from (item, row, column, 1), of ``count`` items; None where the file does not say.

        Raises InputError where their slices are not equally far apart.
        """
        if self.affine is None:
            return None
        if len(self.slices) != count:
            raise invalid("Grid", "slices", f"one for each of {count} items", self.slices)
        steps = {b - a for a, b in zip(self.slices, self.slices[1:], strict=False)} or {1}
        if len(steps) > 1 or 0 in steps:
            repair = "A file has one distance for all: solve equally spaced slices, or save them one by one."
            raise invalid("Grid", "slices", "equally far apart", self.slices, repair)
        whole = np.asarray(self.affine, dtype=np.float64)
        found = whole.copy()
        found[:3, 0] *= steps.pop()
        found[:3, 3] += self.slices[0] * whole[:3, 0]
        return found


def from_positions(
    positions: NDArray[np.float64], down: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """The affine of slices whose first pixels are at ``positions`` ``(n, 3)``, from one row or column to the next.

    All in mm to the left, the back and the top (DICOM, ISMRMRD). None where they are not equally far apart along one
    line. A single slice gets the unit normal, times 1 mm, as the step to a next one.
    """
    across = np.cross(down / np.linalg.norm(down), right / np.linalg.norm(right))
    if len(positions) > 1:
        step = (positions[-1] - positions[0]) / (len(positions) - 1)
        ideal = positions[0] + np.arange(len(positions))[:, None] * step
        if not math.isfinite(float(step @ step)) or np.abs(positions - ideal).max() > _EVEN * np.linalg.norm(step):
            return None
        across = step
    out = np.eye(4)
    out[:3] = np.stack([across, down, right, positions[0]], 1)
    out[:2] *= -1  # LPS to RAS
    return out
