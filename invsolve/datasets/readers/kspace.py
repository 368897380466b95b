"""Cartesian k-space of slices, from whatever file: sampling, oversampling, noise and coils made into a problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.arrays import as_mask, parameter
from invsolve.core.grid import Grid, from_positions
from invsolve.core.validation import check_positive, kind_dtype, quoted
from invsolve.datasets.readers.checks import Rows, Source
from invsolve.datasets.readers.hdf5 import Stored
from invsolve.datasets.readers.header import Encoding
from invsolve.datasets.readers.scan import Scan, _tensor, real_tensor
from invsolve.errors import UnsupportedError, invalid
from invsolve.noise import Gaussian
from invsolve.operators.mri.cartesian import MRI
from invsolve.problem import Problem

_EDGE = 0.05  # the share of samples, furthest out, that the noise is estimated from
_ENOUGH = 4  # samples for every coil, below which a covariance is taken for diagonal
_ALIKE = 0.99  # the share of samples that are not zero, above which the others are stray zeros
_PLANE = (-2, -1)


@final
@dataclass(frozen=True)
class Directions:
    """Where slices are in the patient: mm, to the left, the back and the top, as DICOM and ISMRMRD have them."""

    centres: NDArray[np.float64]  # (slices, 3)
    readout: NDArray[np.float64]  # unit vectors
    phase: NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False, repr=False)
class KSpaceScan(Scan):
    """Cartesian k-space of slices: fastMRI, ISMRMRD, BART or an array.

    Attributes
    ----------
    format, path : str
        What file it is.
    num_slices : int
        How many slices it holds.
    shape : tuple of int
        Of one slice as it is stored: (coils, readout, phase encoding).
    encoding : Encoding or None
        What the header says of the grids of k-space and image, lengths in mm.
    mask : array of bool, shape (phase encoding,), or None
        The sampled columns, where the file states them; else what is not zero counts.
    covariance : array, shape (coils, coils), or None
        Of the noise of a real component, where the file has a noise scan.
    directions : Directions or None
        Where the slices are in the patient.
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
    encoding: Encoding | None = None
    mask: NDArray[Any] | None = None
    covariance: NDArray[Any] | None = None
    directions: Directions | None = None
    notes: tuple[str, ...] = ()
    _reference: Stored | None = None

    def problem(
        self, slices: object = None, *, coils: Any = "espirit", mask: Any = None, noise: float | None = None
    ) -> Problem:
        """What `iv.solve` takes: `operators.MRI` and whitened data, with the noise that the file shows.

        Parameters
        ----------
        slices : int, slice, sequence of int, optional
            Which; all unless given. A number gives a problem without a batch axis.
        coils : {'espirit', 'smooth'} or array, shape ([slices,] coils, *image)
            Sensitivities: estimated from the fully sampled centre by ESPIRiT or as smoothed images, or given, on the
            grid of the problem. Data of one coil need none.
        mask : array of bool, broadcastable to the image, optional
            Samples to use out of those that were measured: undersamples full data after the fact.
        noise : float, optional
            The std of a real component of every coil, in the units of the file. Unless given, the covariance of the
            coils is that of the noise scan, or that of the outermost twentieth of the samples, an estimate from above.

        Returns
        -------
        Problem
            The image is on the grid of k-space, less the oversampling of the readout; `crop` makes the scanner's of it.
            The noise of the coils is white. With estimated maps the magnitude of the image is the root sum of squares
            of the coils' images, as in `reference`.

        Raises
        ------
        InputError, InputTypeError
            For slices, maps or a mask that do not fit, or where no noise can be seen.
        FileError
            Where the file is damaged, its slices were not sampled at the same places, or what is asked for is above the
            limit.
        """
        index, batched = self._chosen(slices)
        k = self._read(index)
        self._source.numbers("k-space", k.shape, k.dtype, "c")
        finite = np.isfinite(k)
        if not finite.all():
            raise self._source.refuse("k-space", f"has {int((~finite).sum()):,} values that are NaN or infinite")
        sampled = self._sampled(k)
        data = _tensor(k)
        if (rows := self._rows_kept(sampled)) < data.shape[-2]:
            data, sampled = _fewer_rows(data, rows), sampled[:rows]
        used = torch.from_numpy(np.ascontiguousarray(sampled))
        if mask is not None:
            given = as_mask("KSpaceScan.problem", "mask", mask)
            if given.ndim > 2 or any(
                a not in (1, n) for a, n in zip(given.shape[::-1], used.shape[::-1], strict=False)
            ):
                raise invalid("KSpaceScan.problem", "mask", f"broadcastable to {tuple(used.shape)}", tuple(given.shape))
            used = used & given
        if not bool(used.any()):
            raise invalid("KSpaceScan.problem", "mask", "True somewhere that was measured", "nothing")
        data = data * used
        maps, sigma, data = self._coils(coils, data, noise)
        if not batched:
            data, maps = data[0], None if maps is None else maps[0]
        lines = used[:1] if bool((used == used[:1]).all()) else used
        shape = (int(data.shape[-2]), int(data.shape[-1]))
        A = MRI(mask=lines, in_shape=shape, maps=maps)
        if maps is None:
            data = data.squeeze(-3)
        return Problem(A, data, Gaussian(std=sigma), dims=("readout", "phase"), grid=self._grid(index, shape))

    def crop(self, image: Tensor) -> Tensor:
        """The part of an image ``(..., *in_shape)`` of `problem` that the scanner shows, where the header says which.

        Parameters
        ----------
        image : Tensor or array, shape (..., readout, phase)
            On the grid of the problem.

        Returns
        -------
        Tensor
            The middle of it: of the reconstructed matrix, where that is smaller.
        """
        image = parameter("KSpaceScan.crop", "image", image)
        if self.encoding is not None:
            for axis, n in zip(_PLANE, self.encoding.image_matrix, strict=False):
                have = image.shape[axis]
                image = image.narrow(axis, have // 2 - min(n, have) // 2, min(n, have))
        return image

    def reference(self, slices: object = None) -> Tensor:
        """The image that the file holds beside its data (root sum of squares of the coils), for comparison.

        Parameters
        ----------
        slices : int, slice, sequence of int, optional
            Which; all unless given.

        Returns
        -------
        Tensor, shape ([slices,] rows, columns)

        Raises
        ------
        UnsupportedError
            If the file holds none.
        """
        if self._reference is None:
            raise UnsupportedError(f"KSpaceScan.reference: {self.path!r} holds no image beside its data.")
        index, batched = self._chosen(slices)
        found = real_tensor(self._reference.rows(index))
        return found if batched else found[0]

    # --- what was sampled ---------------------------------------------------------------------------------------------
    def _sampled(self, k: NDArray[Any]) -> NDArray[Any]:
        """Which samples were measured, (readout, phase): not zero, stated, and inside of what was encoded."""
        each: NDArray[Any] = np.asarray((k != 0).any(1))
        sampled: NDArray[Any] = np.asarray(each.any(0))
        columns: NDArray[Any] = np.asarray(sampled.any(0))
        if self.mask is not None:
            columns &= self.mask
        if (lines := self._acquired()) is not None:
            columns[: lines[0]] = columns[lines[1] :] = False
        if not columns.any():
            raise self._source.refuse("k-space", "is zero everywhere that it is said to be sampled")
        rows: NDArray[Any] = np.asarray(sampled[:, columns])
        # Whole columns where all but a stray zero was measured; an asymmetric echo is a block of rows.
        complete: NDArray[Any] = np.asarray(rows.any(1))
        whole = rows[complete].mean() > _ALIKE
        found: NDArray[Any] = complete[:, None] & columns[None, :] if whole else sampled & columns
        there: NDArray[Any] = each[np.asarray(each.any((1, 2)))]  # a slice of nothing but zeros says nothing
        alike = np.asarray(there.any(1))[:, columns].all() if whole else (there[:, found].mean(1) > _ALIKE).all()
        if not alike:
            rule = "was not sampled at the same places in all of these slices, and zeros would count as data"
            raise self._source.refuse("k-space", f"{rule}: take them one by one, as in problem(slices=0)")
        return found

    def _acquired(self) -> tuple[int, int] | None:
        """The first column that was encoded and the one after the last: the others are filling, no data."""
        if self.encoding is None or self.encoding.lines is None:
            return None
        low, centre, high = self.encoding.lines
        first = self.shape[-1] // 2 - centre
        return max(0, first + low), min(self.shape[-1], max(0, first + high + 1))

    def _rows_kept(self, sampled: NDArray[Any]) -> int:
        """Of the readout, without its oversampling; all where it cannot be removed exactly."""
        have = self.shape[-2]
        if self.encoding is None or self.encoding.matrix[0] != have or (sampled != sampled[:1]).any():
            return have
        exact = have / self.encoding.oversampling
        fewer = round(exact)
        return fewer if 0 < fewer < have and abs(exact - fewer) < 0.01 else have

    # --- coils and noise ----------------------------------------------------------------------------------------------
    def _coils(self, coils: Any, data: Tensor, noise: float | None) -> tuple[Tensor | None, float, Tensor]:
        """Maps (slices, coils, ...), the std of the noise, and data whose coils have it, each on its own."""
        from invsolve.operators.mri import estimate_maps, prewhiten

        owner, count = "KSpaceScan.problem", data.shape[1]
        named = isinstance(coils, str)
        if named and coils not in ("espirit", "smooth"):
            raise invalid(owner, "coils", "'espirit', 'smooth' or maps", quoted(coils))
        maps = None if named else self._given_maps(owner, coils, data)
        if noise is not None:
            sigma, covariance = check_positive(owner, "noise", noise), None
        else:
            sigma, covariance = self._noise(data)
        if covariance is not None and count > 1:
            data = sigma * prewhiten(data, covariance)
            maps = None if maps is None else sigma * prewhiten(maps, covariance)
        if named and count > 1:
            maps = estimate_maps(data, method="espirit" if coils == "espirit" else "low resolution")
            if covariance is not None:
                maps = _as_stored(maps, covariance, sigma)
        return maps, sigma, data

    def _noise(self, data: Tensor) -> tuple[float, Tensor]:
        """The geometric mean of the coils' std, and their covariance, of a real component."""
        from invsolve.operators.mri import noise_covariance

        count = data.shape[1]
        if self.covariance is not None:
            found = _tensor(self.covariance)
        else:
            found = noise_covariance(data, edge=_EDGE)
            samples = int((data != 0).any(1).sum() * _EDGE)
            if samples < _ENOUGH * count:
                found = torch.diag(torch.diagonal(found))
        power = torch.diagonal(found).real.double()
        if not bool((power > 0).all()) or not math.isfinite(sigma := float(power.log().mean().mul(0.5).exp())):
            raise invalid(
                "KSpaceScan.problem",
                "noise",
                "stated",
                "None",
                f"At the edge of k-space of {self.path!r} there is none to be seen in some coil: the file is simulated "
                "or filtered. noise= is the std of a real component.",
            )
        return sigma, found

    def _given_maps(self, owner: str, coils: Any, data: Tensor) -> Tensor:
        maps = parameter(owner, "coils", coils).to(kind_dtype(data.dtype, "complex"))
        fits = tuple(data.shape[1:])
        if tuple(maps.shape) not in (fits, tuple(data.shape)):
            raise invalid(owner, "coils", f"of shape {fits}, or with an axis of slices before", tuple(maps.shape))
        return maps.expand(data.shape)

    # --- where it is --------------------------------------------------------------------------------------------------
    def _grid(self, index: Sequence[int], shape: tuple[int, int]) -> Grid | None:
        if self.encoding is None:
            return None
        fov, stored = self.encoding.field_of_view, self.shape[-2:]
        size = (fov[0] / stored[0], fov[1] / stored[1])
        affine = None
        if (where := self.directions) is not None:
            down, right = size[0] * where.readout, size[1] * where.phase
            corner = where.centres - shape[0] // 2 * down - shape[1] // 2 * right
            affine = from_positions(corner, down, right)
            if affine is not None and len(corner) == 1:
                affine[:3, 0] *= self.encoding.field_of_view[2]
        return Grid(voxel_size=size, affine=affine, slices=tuple(index))

    def _lines(self) -> list[str]:
        coils, rows, columns = self.shape
        each = "1 coil" if coils == 1 else f"{coils} coils"
        protocol = f", {self.encoding.protocol}" if self.encoding is not None and self.encoding.protocol else ""
        lines = [
            f"{self.format}, k-space of {self.num_slices} slice{'s' * (self.num_slices > 1)}, "
            f"{each}, {rows} x {columns}"
            f"{protocol}: {self.path!r}"
        ]
        if self.encoding is not None:
            e = self.encoding
            size = " x ".join(f"{f / n:.4g}" for f, n in zip(e.field_of_view[:2], (rows, columns), strict=False))
            kept = f", readout oversampled {e.oversampling:.3g} times" if e.oversampling > 1.01 else ""
            lines.append(f"pixels of {size} mm{kept}; the scanner shows {e.image_matrix[0]} x {e.image_matrix[1]}")
            if (lines_ := self._acquired()) is not None and lines_ != (0, columns):
                lines.append(f"phase encodings {lines_[0]} to {lines_[1] - 1} were acquired, the others are filling")
        else:
            lines.append("no header: pixels of unknown size")
        if self.mask is not None:
            number = int(self.mask.sum())
            lines.append(f"{number} of {columns} columns are sampled, by the mask in the file")
        source = "of the noise scan in the file" if self.covariance is not None else "from the edge of k-space"
        return [*lines, f"noise: covariance of the coils {source}"]


def _as_stored(maps: Tensor, covariance: Tensor, sigma: float) -> Tensor:
    """Maps of white coils, scaled so that those of the coils in the file have unit sum of squares.

    The magnitude of the image is then the root of the sum of squares of the coils' images, as scanners show it.
    """
    root = (torch.linalg.cholesky(covariance.to(torch.complex128)) / sigma).to(maps.dtype)
    stored = (root @ maps.flatten(2)).reshape(maps.shape)
    size = torch.linalg.vector_norm(stored, dim=1, keepdim=True)
    return torch.where(size > 0, maps / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)


def _fewer_rows(k: Tensor, rows: int) -> Tensor:
    """k-space of the middle ``rows`` of the image: without the oversampling of the readout; white noise stays white."""
    image = torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(k, -2), dim=-2, norm="ortho"), -2)
    image = image.narrow(-2, image.shape[-2] // 2 - rows // 2, rows)
    out: Tensor = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(image, -2), dim=-2, norm="ortho"), -2)
    return out
