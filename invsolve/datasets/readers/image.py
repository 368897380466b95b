"""Images of slices, from DICOM, NIfTI, BART or an array: what is left to do is to denoise, or to deblur."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.grid import Grid
from invsolve.core.validation import check_positive
from invsolve.datasets.readers.checks import Rows, Source
from invsolve.datasets.readers.scan import Scan, _tensor, real_tensor
from invsolve.errors import invalid
from invsolve.noise import Gaussian
from invsolve.operators.base import Operator
from invsolve.operators.identity import Identity
from invsolve.operators.mask import Mask
from invsolve.problem import Problem

_NORMAL = 0.6744897501960817  # the median of |z|, z standard normal


@final
@dataclass(frozen=True, eq=False, repr=False)
class ImageScan(Scan):
    """Images of slices with their units and their place in the patient: DICOM, NIfTI, BART or an array.

    Attributes
    ----------
    format, path : str
        What file it is.
    num_slices : int
        How many slices it holds.
    shape : tuple of int
        Of one slice, (rows, columns).
    units : str
        Of its values; "HU" for CT.
    grid : Grid or None
        Size of pixels in mm, and where the slices are in the patient.
    notes : tuple of str
        What was noticed, in sentences.
    """

    format: str
    path: str
    num_slices: int
    shape: tuple[int, ...]
    _: KW_ONLY
    _source: Source
    _rows: Rows
    units: str = ""
    grid: Grid | None = None
    notes: tuple[str, ...] = ()
    _outside: Callable[[NDArray[Any], Sequence[int]], NDArray[np.bool_]] | None = None  # which pixels are filling

    def image(self, slices: object = None) -> Tensor:
        """The images in their units, float32.

        Parameters
        ----------
        slices : int, slice, sequence of int, optional
            Which; all unless given. A number gives one image, without a batch axis.

        Returns
        -------
        Tensor, shape ([slices,] rows, columns)
            NaN where there is no value: filling outside of the field of view, and what is NaN in the file.
        """
        index, batched = self._chosen(slices)
        values = self._read(index)
        found = _tensor(values) if values.dtype.kind == "c" else real_tensor(values)
        if bool(torch.isinf(found).any()) or bool(torch.isnan(found).all()):
            raise self._source.refuse("its values", "are infinite somewhere, too large for float32, or all NaN")
        if self._outside is not None and (filling := self._outside(values, index)).any():
            found = found.masked_fill(_tensor(filling), torch.nan)
        return found if batched else found[0]

    def problem(self, slices: object = None, *, operator: Operator | None = None, noise: Any = None) -> Problem:
        """What `iv.solve` takes: the images as data of a noisy, or a blurred, signal.

        Parameters
        ----------
        slices : int, slice, sequence of int, optional
            Which; all unless given. A number gives a problem without a batch axis.
        operator : Operator, optional
            What lies between the signal and these images, such as `GaussianBlur`; nothing unless given.
        noise : float or Noise, optional
            The std of the noise in the units of the images, or a noise model. Unless given, a std that the images show:
            the median of the finest diagonal differences, too small where an image was interpolated or filtered.

        Returns
        -------
        Problem

        Raises
        ------
        InputError, InputTypeError
            For slices that are not there, or where no noise can be seen.
        FileError
            Where the file is damaged, or what is asked for is above the limit.
        """
        y = self.image(slices)
        grid = None if self.grid is None else self.grid.take(self._chosen(slices)[0])
        A = (
            Identity(in_shape=self.shape, kind="complex" if y.is_complex() else "real")
            if operator is None
            else operator
        )
        seen = torch.isfinite(y)
        if noise is None:
            noise = Gaussian(std=check_positive("ImageScan.problem", "noise", self._noise(y, seen)))
        if not bool(seen.all()):
            A = Mask(mask=seen, in_shape=self.shape, kind="complex" if y.is_complex() else "real") @ A
        same = tuple(A.in_shape) == self.shape
        dims = ("row", "column") if same else None
        return Problem(A, y, noise, dims=dims, units=self.units, grid=grid if same else None)

    def _noise(self, y: Tensor, seen: Tensor) -> float:
        """Of the differences ``(a - b - c + d) / 2`` of squares of four pixels, whose std is that of white noise."""
        even = y[..., : y.shape[-2] // 2 * 2, : y.shape[-1] // 2 * 2]
        whole = seen[..., : even.shape[-2], : even.shape[-1]].unfold(-2, 2, 2).unfold(-2, 2, 2).flatten(-2).all(-1)
        a, b = even[..., ::2, ::2], even[..., ::2, 1::2]
        c, d = even[..., 1::2, ::2], even[..., 1::2, 1::2]
        fine = ((a - b - c + d) / 2)[whole & (a != d)]
        fine = torch.view_as_real(fine).flatten() if fine.is_complex() else fine
        std = float(fine.abs().double().median() / _NORMAL) if fine.numel() else 0.0
        if not std > 0:
            repair = "The finest differences of the image are zero: it has no noise to be seen. Give its std."
            raise invalid("ImageScan.problem", "noise", "stated", "None", repair)
        return std

    def _lines(self) -> list[str]:
        rows, columns = self.shape
        plural = "s" * (self.num_slices > 1)
        lines = [f"{self.format}, {self.num_slices} image{plural} of {rows} x {columns} pixels: {self.path!r}"]
        if self.grid is not None:
            size = " x ".join(f"{v:.4g}" for v in self.grid.voxel_size)
            where = (
                f", slices, rows and columns go to {', '.join(self.grid.orientation)}" if self.grid.orientation else ""
            )
            lines.append(f"pixels of {size} mm{where}")
        else:
            lines.append("pixels of unknown size")
        return [*lines, f"values in {self.units}"] if self.units else lines


def permuted(affine: NDArray[np.float64], order: Sequence[int]) -> NDArray[np.float64]:
    """The affine of the same volume with its axes in another order."""
    return affine[:, [*order, 3]]
