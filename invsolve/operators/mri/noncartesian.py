"""Non-Cartesian MRI: samples of k-space anywhere, in two or three dimensions, one coil or several, off resonance."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, reduce
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter, real_parameter
from invsolve.core.validation import (
    Kind,
    Shape,
    axes_hint,
    check_choice,
    check_dims,
    check_finite,
    check_positive,
    kind_dtype,
)
from invsolve.errors import invalid
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import LinearOperator
from invsolve.operators.mri.encoding import Encoding, Rows, rows_of, times
from invsolve.operators.mri.grid import Grid
from invsolve.operators.mri.interpolation import stored_bytes
from invsolve.operators.mri.kaiser_bessel import LEVELS
from invsolve.operators.mri.nufft import Backend, Nufft, apodization, grid_of, is_stored
from invsolve.operators.mri.off_resonance import check_turns, segments
from invsolve.operators.mri.toeplitz import convolution_grid, transfer
from invsolve.operators.mri.units import UNITS, Unit, fitting, reach, to_radians

_COLUMNS = {"cpu": 16}  # complex images that are interpolated at once; more on an accelerator
_MANY = 256
_CACHED = 2**17  # pixels that the normal operator works on at once on a CPU: they stay in the cache of a core


@final
@dataclass(frozen=True, eq=False, repr=False)
class NonCartesianMRI(LinearOperator):
    """Non-Cartesian MRI: coil maps, and samples of the Fourier transform anywhere, by our own non-uniform FFT.

    ``y_cm = N**-1/2 sum_n S_cn x_n exp(-i omega_m . (n - n0))`` with ``n0 = shape // 2`` and N pixels: on a Cartesian
    trajectory the data of `MRI`. The likelihood has no density compensation: that is for `iv.baselines.gridding`.

    Parameters
    ----------
    trajectory : Tensor or array, shape (samples, axes) or (items, samples, axes)
        Where k-space is sampled; axis a of it is axis a of the image: ``(ky, kx)``, ``(kz, ky, kx)``. One readout after
        another; a scan per item with one axis more. `invsolve.operators.mri` makes the usual ones.
    in_shape : tuple of int
        The shape of the image, ``(H, W)`` or ``(D, H, W)``.
    maps : Tensor or array, shape (coils, *in_shape) or (items, coils, *in_shape), optional
        Coil sensitivities; data are ``(batch, coils, samples)``. Without maps there is one coil, data are
        ``(batch, samples)``, and the precision is that of the data.
    unit : {'rad/pixel', 'cycles/FOV', 'cycles/pixel'}
        Of the trajectory, whose range is +-pi, +- half of the pixels of an axis, or +-1/2; radians a pixel by default.
    tol : float
        The relative error of the transform, > 0, to choose by the noise: 5e-4, 6e-5 and 1e-5 are levels, smaller ones
        are for double precision. 1e-4 by default. The adjoint is that of what is computed, to rounding.
    field_map : Tensor or array, shape in_shape or (items, *in_shape), optional
        Hz: a pixel has the phase ``exp(-2 pi i f t)`` more. With it come ``times``.
    times : Tensor or array, shape (samples,), optional
        When each sample is read, seconds after the excitation (or the echo). Phases may differ by 1,000 turns.
    in_kind : {'real', 'complex'}
        The kind of the image; complex by default. For a real image the adjoint is the real part.
    backend : {'auto', 'matrix', 'on the fly'}
        Interpolation by a sparse matrix and its transpose that are stored, or by weights that are made anew in every
        call. By default stored where they take at most 1 GiB; ``repr`` says which.

    Raises
    ------
    InputTypeError
        If a tensor does not hold numbers of its kind.
    InputError
        If a shape, a device or the number of items does not fit, a number is out of its range, or the trajectory is in
        another unit.

    Notes
    -----
    Kaiser-Bessel interpolation [1]_ on a grid oversampled by 1.5 or 2. `normal` is a convolution, which takes two
    transforms of twice the length whatever the number of samples: ``F^H F`` of the exact transform, so it differs from
    ``adjoint(A(x))`` by the error of that, a few ``tol``. Off resonance, A is a short sum of transforms, as in time
    segmentation [2]_ with the best functions of time and frequency, and ``normal`` is ``adjoint(A(x))``.

    References
    ----------
    .. [1] Beatty, Nishimura & Pauly 2005, Rapid gridding reconstruction with a minimal oversampling ratio, IEEE
       Transactions on Medical Imaging 24, 799.
    .. [2] Sutton, Noll & Fessler 2003, Fast, iterative image reconstruction for MRI in the presence of field
       inhomogeneities, IEEE Transactions on Medical Imaging 22, 178.

    Examples
    --------
    >>> from invsolve.operators.mri import radial
    >>> NonCartesianMRI(radial(20, 64), (32, 32))  # doctest: +ELLIPSIS
    NonCartesianMRI((32, 32) -> (1280,), complex, error 6e-05, reaches the edge of k-space, stored matrix, ... MiB)
    """

    trajectory: Tensor
    in_shape: Shape
    _: KW_ONLY
    maps: Tensor | None = None
    unit: Unit = "rad/pixel"
    tol: float = 1e-4
    field_map: Tensor | None = None
    times: Tensor | None = None
    in_kind: Kind = "complex"
    backend: Backend = "auto"

    out_kind = "complex"

    _other_space = True  # its data are not over the signal's grid, whatever their shape

    def __post_init__(self) -> None:
        owner = "NonCartesianMRI"
        shape = check_dims(owner, "in_shape", self.in_shape)
        if len(shape) not in (2, 3):
            raise invalid(owner, "in_shape", "(H, W) or (D, H, W)", shape)
        check_choice(owner, "in_kind", self.in_kind, ("real", "complex"))
        check_choice(owner, "unit", self.unit, UNITS)
        check_choice(owner, "backend", self.backend, ("auto", "matrix", "on the fly"))
        self._set(in_shape=shape, tol=check_positive(owner, "tol", self.tol))
        self._set(trajectory=self._real("trajectory"))
        self._check_trajectory()
        if self.maps is not None:
            maps = parameter(owner, "maps", self.maps)
            self._set(maps=maps.to(kind_dtype(maps.dtype, "complex")))
            self._check_image("maps", ("coils",))
        if (self.field_map is None) != (self.times is None):
            missing, given = ("times", "field_map") if self.times is None else ("field_map", "times")
            raise invalid(owner, missing, f"given with `{given}`", None, "Off resonance takes both, Hz and seconds.")
        if self.field_map is not None:
            self._set(field_map=self._real("field_map"), times=self._real("times"))
            self._check_image("field_map", ())
            self._check_times()
        _ = self.batch  # raises if parameters have different numbers of items

    def _real(self, name: str) -> Tensor:
        value = real_parameter("NonCartesianMRI", name, getattr(self, name), dtype=torch.float64).detach().double()
        return check_finite("NonCartesianMRI", name, value)

    def _check_trajectory(self) -> None:
        given, d = tuple(self.trajectory.shape), len(self.in_shape)
        if len(given) not in (2, 3) or given[-1] != d or 0 in given:
            repair = ""
            if len(given) == 2 and given[0] == d:
                repair = "Its axes come last: trajectory.T."
            elif len(given) > 3 and given[-1] == d:
                repair = f"Readouts come one after another: trajectory.reshape(-1, {d})."
            expected = f"of shape (samples, {d}) or (items, samples, {d}), an axis of the image each"
            raise invalid("NonCartesianMRI", "trajectory", expected, given, repair)
        if self._reach > 1 + 1e-6:
            fits = " or ".join(fitting(self.trajectory, self.in_shape))
            repair = f"Is it in other units? It fits unit={fits}." if fits else ""
            largest = f"{float(self.trajectory.abs().max()):.6g} in it"
            raise invalid(
                "NonCartesianMRI", "trajectory", f"within +-{UNITS[self.unit]}, in {self.unit}", largest, repair
            )

    def _check_image(self, name: str, before: tuple[str, ...]) -> None:
        value, dim = getattr(self, name), len(self.in_shape)
        axes = dim + len(before)
        if value.ndim not in (axes, axes + 1) or tuple(value.shape[-dim:]) != self.in_shape or 0 in value.shape:
            want = ", ".join(map(str, (*before, *self.in_shape)))
            hint = axes_hint(name, value.shape, self.in_shape)
            raise invalid("NonCartesianMRI", name, f"of shape ({want}) or (items, {want})", tuple(value.shape), hint)
        self._check_device(name)
        check_finite("NonCartesianMRI", name, value)

    def _check_times(self) -> None:
        assert self.times is not None
        if tuple(self.times.shape) != (self._samples,):
            expected = f"of shape ({self._samples},), a time for each sample"
            repair = "Readouts of a trajectory come one after another: times.repeat(readouts)."
            raise invalid("NonCartesianMRI", "times", expected, tuple(self.times.shape), repair)
        self._check_device("times")
        check_turns(self.times, self._frequencies)

    def _check_device(self, name: str) -> None:
        value: Tensor = getattr(self, name)
        if value.device != self.trajectory.device:
            expected = f"on the device of `trajectory`, {self.trajectory.device}"
            raise invalid("NonCartesianMRI", name, expected, value.device)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # --- what the base asks for ---------------------------------------------------------------------------------------
    def _item_axes(self) -> dict[str, int]:
        dim = len(self.in_shape)
        return {"trajectory": 2, "maps": dim + 1, "field_map": dim}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``([coils,] samples)``."""
        return (self._samples,) if self.maps is None else (self._coils, self._samples)

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision of the maps; None without them. Trajectory, field map and times are kept in float64."""
        return None if self.maps is None else kind_dtype(self.maps.dtype, "real")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same operator elsewhere, in another precision: that of the maps."""
        moved = {name: value.to(device) for name, value in self._tensors().items()}
        if dtype is not None and self.maps is not None:
            moved["maps"] = moved["maps"].to(kind_dtype(dtype, "complex"))
        return self._replace(moved)

    def take(self, index: Tensor) -> Self:
        taken = super().take(index)
        if taken is not self:  # which uses the plans that are there, and leaves its own
            vars(taken)["_made"] = self._made
            if self.field_map is not None:
                vars(taken)["_frequencies"] = self._frequencies
            if self.trajectory.ndim == 3:
                vars(taken)["_keys"] = [self._keys[i] for i in index.tolist()]
        return taken

    @property
    def omega(self) -> Tensor:
        """The trajectory in radians a pixel, ``(samples, axes)`` or ``(items, samples, axes)``, float64."""
        return to_radians(self.trajectory, self.unit, self.in_shape)

    @property
    def normal_rtol(self) -> float:
        """How far `normal` may be from ``adjoint(A(x))``, relative: the error of the transform, there and back."""
        return 0.0 if self.field_map is not None else 4 * self.tol

    def __repr__(self) -> str:
        stored = is_stored(self.backend, self._grid, self._samples, torch.float32)
        size = stored_bytes(self._grid, self._samples, torch.float32) * len(set(self._keys)) / 2**20
        how = f"stored matrix, {size:.0f} MiB" if stored else "weights on the fly"
        error = next((e for e, *_ in LEVELS if self.tol >= e), self.tol)
        edge = f"reaches {'' if self._reach > 0.99 else f'{100 * self._reach:.0f} % of '}the edge of k-space"
        return f"{super().__repr__()[:-1]}, error {error:.0e}, {edge}, {how})"

    # --- plans: made once ---------------------------------------------------------------------------------------------
    @cached_property
    def _reach(self) -> float:
        return reach(self.trajectory, self.unit, self.in_shape)

    @property
    def _samples(self) -> int:
        return self.trajectory.shape[-2]

    @property
    def _coils(self) -> int:
        return 1 if self.maps is None else self.maps.shape[-len(self.in_shape) - 1]

    @cached_property
    def _grid(self) -> Grid:
        return grid_of(self.in_shape, self.tol, self.trajectory.device)

    @cached_property
    def _convolution(self) -> Grid:
        return convolution_grid(self.in_shape, self.trajectory.device)

    @cached_property
    def _keys(self) -> list[bytes]:
        """Of the trajectory of each item, a hash: items of one trajectory share what is made of it."""
        items = self.trajectory if self.trajectory.ndim == 3 else self.trajectory[None]
        return [hashlib.blake2b(one.cpu().contiguous().numpy().tobytes()).digest() for one in items]

    @cached_property
    def _frequencies(self) -> tuple[float, float]:
        """The lowest and highest frequency of all items, Hz."""
        assert self.field_map is not None
        return float(self.field_map.min()), float(self.field_map.max())

    @cached_property
    def _made(self) -> dict[object, object]:
        return {}

    @cached_property
    def _encode(self) -> dict[tuple[torch.dtype, bool], Encoding]:
        return {}

    def _encoding(self, real: torch.dtype, *, normal: bool = False) -> Encoding:
        """The maps on a grid: that of the transform, divided by its kernel, or that of the normal operator."""
        if (real, normal) not in self._encode:
            grid, kind = (self._convolution if normal else self._grid), kind_dtype(real, "complex")
            maps = torch.ones(1, 1, *self.in_shape, dtype=torch.complex128, device=grid.device)
            if self.maps is not None:
                maps = self.maps if "maps" in self._items() else self.maps[None]
            if not normal:
                maps = maps * (apodization(grid) / math.sqrt(prod(self.in_shape)))
            maps = grid.rolled(maps).to(kind)
            waves = weights = None
            if self.field_map is not None and self.times is not None and not normal:
                waves, weights = segments(self.times, self.field_map.flatten(), self.tol / 2, self._frequencies)
                field = waves.view(len(waves), -1, *self.in_shape).transpose(0, 1)
                waves, weights = grid.rolled(field).to(kind), weights.to(kind)
            self._encode[real, normal] = Encoding(
                maps=maps, conjugate=maps.conj().resolve_conj(), waves=waves, weights=weights
            )
        return self._encode[real, normal]

    def _by_trajectory(self, rows: int, most: int) -> Iterator[tuple[int, Rows]]:
        """An item and at most so many rows that have its trajectory; row r is of item r modulo their number."""
        if self.trajectory.ndim == 2:
            yield from ((0, slice(first, min(first + most, rows))) for first in range(0, rows, most))
            return
        first = [self._keys.index(key) for key in self._keys]
        for item in sorted(set(first)):
            of_item = [r for r in range(rows) if first[r % len(first)] == item]
            index = torch.tensor(of_item, dtype=torch.int64, device=self.trajectory.device)
            yield from ((item, some) for some in (torch.split(index, most) if of_item else ()))

    def _pieces(self, rows: int) -> Iterator[tuple[int, Rows, slice]]:
        """An item, rows of its trajectory and coils that are worked on at once."""
        most = _COLUMNS.get(self.trajectory.device.type, _MANY)
        for item, some in self._by_trajectory(rows, max(1, most // self._coils)):
            for first in range(0, self._coils, most):
                yield item, some, slice(first, first + most)

    def _nufft(self, item: int, real: torch.dtype) -> Nufft:
        key = ("transform", self._keys[item], real)
        if key not in self._made:
            omega = self.omega if self.trajectory.ndim == 2 else self.omega[item]
            stored = is_stored(self.backend, self._grid, self._samples, real)
            self._made[key] = Nufft.of(self._grid, omega, real, stored=stored)
        found = self._made[key]
        assert isinstance(found, Nufft)
        return found

    def _transfer(self, item: int, real: torch.dtype) -> Tensor:
        key, kind = ("normal", self._keys[item], real), kind_dtype(real, "complex")
        if key not in self._made:
            omega = self.omega if self.trajectory.ndim == 2 else self.omega[item]
            self._made[key] = (transfer(omega, self._convolution, self.tol) / prod(self.in_shape)).to(kind)
        found = self._made[key]
        assert isinstance(found, Tensor)
        return found

    # --- the operator -------------------------------------------------------------------------------------------------
    def _apply(self, x: Tensor) -> Tensor:
        return matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._backward, self._forward)

    def _normal(self, x: Tensor) -> Tensor:
        if self.field_map is not None:
            return self._adjoint(self._apply(x))
        return matched(x, self._convolved, self._convolved)

    def _forward(self, x: Tensor) -> Tensor:
        real = kind_dtype(x.dtype, "real")
        plan, x = self._encoding(real), self._grid.rolled(x)
        y = torch.empty(len(x), self._coils, self._samples, dtype=kind_dtype(real, "complex"), device=x.device)
        for item, rows, coils in self._pieces(len(x)):
            nufft, maps = self._nufft(item, real), rows_of(plan.maps, rows, len(x))[:, coils]
            terms = (
                times(nufft.forward(times(x[rows], wave), maps), weight) for wave, weight in plan.terms(rows, len(x))
            )
            y[rows, coils] = reduce(torch.add, terms)
        return y if self.maps is not None else y.squeeze(1)

    def _backward(self, y: Tensor) -> Tensor:
        real = kind_dtype(y.dtype, "real")
        plan, y = self._encoding(real), y if self.maps is not None else y.unsqueeze(1)
        x = y.new_zeros(len(y), *self._grid.base)
        for item, rows, coils in self._pieces(len(y)):
            nufft, maps = self._nufft(item, real), rows_of(plan.conjugate, rows, len(y))[:, coils]
            for wave, weight in plan.terms(rows, len(y)):
                back = nufft.adjoint(times(y[rows, coils], weight, conjugate=True), maps)
                x[rows] += times(back, wave, conjugate=True)
        return self._image(self._grid.unrolled(x))

    def _convolved(self, x: Tensor) -> Tensor:
        real, grid = kind_dtype(x.dtype, "real"), self._convolution
        plan, x = self._encoding(real, normal=True), grid.rolled(x)
        step = self._coils if x.device.type != "cpu" else max(1, _CACHED // prod(grid.base))
        out = torch.empty(len(x), *grid.base, dtype=kind_dtype(real, "complex"), device=x.device)
        for item, rows in self._by_trajectory(len(x), max(1, step // self._coils)):
            gain = self._transfer(item, real)
            maps, back = (rows_of(t, rows, len(x)) for t in (plan.maps, plan.conjugate))
            out[rows] = grid.filtered(x[rows], maps, back, gain, step)
        return self._image(grid.unrolled(out))

    def _image(self, x: Tensor) -> Tensor:
        return x.real.contiguous() if self.in_kind == "real" else x
