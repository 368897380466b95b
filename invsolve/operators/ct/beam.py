"""What all scans in a plane share: checks of their numbers, the choice of a back end, one or many sets of angles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import plain, real_parameter
from invsolve.core.validation import (
    Kind,
    Shape,
    check_choice,
    check_dims,
    check_finite,
    check_int,
    check_number,
    check_positive,
)
from invsolve.errors import invalid
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import LinearOperator
from invsolve.operators.ct.backends.astra import Astra, check_astra
from invsolve.operators.ct.backends.base import Projector, of_parts
from invsolve.operators.ct.backends.matrix import StoredMatrix
from invsolve.operators.ct.backends.on_the_fly import OnTheFly
from invsolve.operators.ct.backends.triton import check_triton, triton_installed
from invsolve.operators.ct.geometry import Geometry, Weights, radius

Backend = Literal["auto", "matrix", "on the fly", "triton", "astra"]
BACKENDS = ("auto", "matrix", "on the fly", "triton", "astra")
_TURNS = 2  # a scan in radians that goes over more of them has views at odd places, as those by the golden angle
_DEGREES = (90.0, 120.0, 180.0, 270.0, 360.0)  # that scans go over, in equal steps
LARGEST = 2**30  # bytes: a matrix and its transpose that are stored, by default


@dataclass(frozen=True, eq=False, repr=False)
class Beam(LinearOperator):
    """Base of `ParallelBeam` and `FanBeam`, which say what the fields mean."""

    angles: Tensor
    in_shape: Shape
    _: KW_ONLY
    bins: int | None = None
    pixel_size: float | tuple[float, float] = 1.0
    bin_size: float | None = None
    detector_offset: float = 0.0
    center: tuple[float, float] = (0.0, 0.0)
    kind: Kind = "real"
    weights: Weights = "joseph"
    backend: Backend = "auto"

    _other_space = True  # its data are not over the signal's grid, whatever their shape

    def __post_init__(self) -> None:
        owner = type(self).__name__
        angles = real_parameter(owner, "angles", self.angles, dtype=torch.float64).detach().double()
        if angles.ndim not in (1, 2) or not angles.numel():
            repair = "Of half a turn in 180 views: np.deg2rad(np.arange(180))." if angles.ndim == 0 else ""
            want = "of shape (views,) or (items, views), in radians"
            raise invalid(owner, "angles", want, tuple(angles.shape), repair)
        self._set(angles=check_finite(owner, "angles", angles))
        if _in_degrees(angles):
            found = f"{float(angles.min()):.6g} to {float(angles.max()):.6g}, which look like degrees"
            repair = "Give np.deg2rad(angles), or, if they are in radians, angles % (2 * np.pi)."
            raise invalid(owner, "angles", "in radians", found, repair)
        swapped = hasattr(self.in_shape, "dtype") and np.asarray(self.in_shape).dtype.kind == "f"
        if swapped or not isinstance(self.in_shape, Iterable):
            repair = f"The angles come first: {owner}(angles, (H, W))."
            raise invalid(owner, "in_shape", "(H, W), two integers", type(self.in_shape).__name__, repair)
        shape = check_dims(owner, "in_shape", self.in_shape)
        if len(shape) != 2:
            repair = "The slices of a volume are a batch: in_shape=(H, W)." if len(shape) == 3 else ""
            raise invalid(owner, "in_shape", "(H, W)", shape, repair)
        check_choice(owner, "kind", self.kind, ("real", "complex"))
        check_choice(owner, "weights", self.weights, ("joseph", "siddon"))
        check_choice(owner, "backend", self.backend, BACKENDS)
        size = _pair(owner, "pixel_size", self.pixel_size)
        pixel = tuple(check_positive(owner, "pixel_size", v) for v in size)
        center = tuple(check_number(owner, "center", v) for v in _pair(owner, "center", self.center))
        offset = check_number(owner, "detector_offset", self.detector_offset)
        self._set(in_shape=shape, pixel_size=pixel, center=center, detector_offset=offset)
        self._check_distances()
        given = None if self.bin_size is None else check_positive(owner, "bin_size", self.bin_size)
        self._set(bin_size=given or min(pixel) * self._magnification)
        if self.bins is None:
            assert self.bin_size is not None
            self._set(bins=max(1, math.ceil(2 * self._reach(self._radius) / self.bin_size)))
        self._set(bins=check_int(owner, "bins", self.bins, minimum=1))
        if self.backend == "astra":
            check_astra(owner, self.geometry)
        if self.backend == "triton":
            check_triton(owner, self.geometry)

    # --- what a kind of beam says ---------------------------------------------------------------------------------
    def _check_distances(self) -> None:
        """Check the fields that only this kind has."""

    @property
    def _magnification(self) -> float:
        """How much larger an object on the axis of rotation is on the detector."""
        return 1.0

    def _reach(self, radius: float) -> float:
        """Half the length of a detector that sees a circle about the axis of rotation, mm."""
        return radius

    @property
    def _radius(self) -> float:
        return radius(self.in_shape, _pair("", "", self.pixel_size), self.center)

    def _geometry(self, angles: Tensor) -> Geometry:
        height, width = _pair("", "", self.pixel_size)
        x, y = self.center
        assert self.bin_size is not None
        return Geometry(
            angles=angles,
            in_shape=self.in_shape,
            pixel_size=(height, width),
            center=(x, y),
            bins=self.bins or 1,
            bin_size=self.bin_size,
            detector_offset=self.detector_offset,
            weights=self.weights,
        )

    # --- what the base asks for -----------------------------------------------------------------------------------
    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        """The kind of images and data: ``kind``."""
        return self.kind

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        """The kind of images and data: ``kind``."""
        return self.kind

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``(views, bins)``."""
        return (self.angles.shape[-1], self.bins or 1)

    @property
    def dtype(self) -> torch.dtype | None:
        """None: the weights have the precision of what they act on; astra's are float32. Angles are kept in float64."""
        return torch.float32 if self.backend == "astra" else None

    def _data_hint(self, given: Shape) -> str:
        """What to do about data of another shape."""
        views, bins = self.out_shape
        if given[-2:-1] == (views,):
            return f"A row is a view: of {given[-1]} bins say bins={given[-1]}, and bin_size= in mm."
        if given[-1:] == (views,) and len(given) > 1:
            turned = f"np.swapaxes(y, -1, -2), of {given[-2]} bins"
            return f"A row is a view: {turned}; say bins={given[-2]}, and bin_size= in mm."
        return f"A row is a view: there are {views} angles, and bins={bins}." if len(given) > 1 else ""

    def _item_axes(self) -> dict[str, int]:
        return {"angles": 1}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same operator elsewhere; it has no precision of its own."""
        return self._replace({"angles": self.angles.to(device)})

    def take(self, index: Tensor) -> Self:
        taken = super().take(index)
        if taken is not self:  # which uses the weights that are there, and leaves its own
            vars(taken)["_made"] = self._made
        return taken

    def take_views(self, index: Tensor) -> Self:
        """The scan with some of its views only, ``index`` (int64, 1-d)."""
        return self._replace({"angles": self.angles[..., index.to(self.angles.device)]})

    @property
    def geometry(self) -> Geometry:
        """Where the rays run; of an operator with items that of the first."""
        return self._geometry(self.angles if self.angles.ndim == 1 else self.angles[0])

    def __repr__(self) -> str:
        how = {
            "matrix": f"stored matrix, {self._bytes / 2**20:.0f} MiB",
            "on the fly": "weights on the fly",
            "triton": "weights on the fly by Triton",
            "astra": "astra, float32",
        }
        return f"{super().__repr__()[:-1]}, {how[self._way]})"

    # --- back ends ------------------------------------------------------------------------------------------------
    @cached_property
    def _bytes(self) -> int:
        """Of a stored matrix and its transpose in single precision, at most: without what symmetry saves."""
        return 16 * int(self.geometry.lines.taps_per_ray.sum()) * (self.batch or 1)

    @property
    def _way(self) -> str:
        """The back end that computes: by default a matrix where it fits, else weights on the fly."""
        if self.backend != "auto":
            return self.backend
        device = self.angles.device.type
        if device in ("cpu", "cuda") and self._bytes <= LARGEST:
            return "matrix"
        return "triton" if device == "cuda" and self.weights == "joseph" and triton_installed() else "on the fly"

    @cached_property
    def _made(self) -> dict[object, Projector]:
        return {}

    def _projector(self, angles: Tensor, dtype: torch.dtype) -> Projector:
        key = (tuple(angles.tolist()), dtype, angles.device)
        if key not in self._made:
            self._made[key] = _MAKERS[self._way](self._geometry(angles), dtype)
        return self._made[key]

    # --- the operator ---------------------------------------------------------------------------------------------
    def _apply(self, x: Tensor) -> Tensor:
        return matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return self._by_item(x, self.out_shape, self._projector, forward=True)

    def _backward(self, y: Tensor) -> Tensor:
        return self._by_item(y, self.in_shape, self._projector, forward=False)

    def _by_item(
        self, value: Tensor, shape: Shape, projector: Callable[[Tensor, torch.dtype], Projector], *, forward: bool
    ) -> Tensor:
        """Rows of one set of angles together; row r belongs to item r modulo their number, for several rounds."""
        real = value.real.dtype if value.is_complex() else value.dtype
        if not len(value):
            return value.new_zeros(0, *shape)
        if self.angles.ndim == 1:
            return of_parts(projector(self.angles, real), forward, value)
        out = value.new_empty(len(value), *shape)
        sets, which = torch.unique(self.angles, dim=0, return_inverse=True)
        which = which.repeat(len(value) // len(which))
        for i, angles in enumerate(sets):
            rows = (which == i).nonzero()[:, 0]
            out[rows] = of_parts(projector(angles, real), forward, value[rows])
        return out

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _in_degrees(angles: Tensor) -> bool:
    """Whether angles over many turns are at places where scans in degrees are: round ones, or equal parts of a turn."""
    places = angles.flatten().sort().values
    span, tol = float(places[-1] - places[0]), 1e-6 * float(places.abs().max())
    if span <= _TURNS * 2 * math.pi:
        return False
    if bool(((20 * places).round() - 20 * places).abs().max() <= 20 * tol):
        return True
    step = span / (len(places) - 1)
    even = bool((places.diff() - step).abs().max() <= tol)
    return even and any(abs(whole - turn) <= tol for whole in (span, span + step) for turn in _DEGREES)


def _triton(geometry: Geometry, dtype: torch.dtype) -> Projector:
    from invsolve.operators.ct.backends.gather import Gather

    return Gather.of(geometry, dtype)


_MAKERS: dict[str, Callable[[Geometry, torch.dtype], Projector]] = {
    "matrix": StoredMatrix.of,
    "on the fly": lambda geometry, _: OnTheFly.of(geometry),
    "triton": _triton,
    "astra": lambda geometry, _: Astra.of(geometry),
}


def _pair(owner: str, name: str, value: object) -> tuple[float, float]:
    """Two numbers, or one for both."""
    value = plain(value)
    if isinstance(value, (Sequence, np.ndarray, Tensor)) and not isinstance(value, str):
        if len(value) != 2:
            raise invalid(owner, name, "a number, or two of them", f"{len(value)} of them")
        first, second = value
        return first, second
    return value, value  # type: ignore[return-value]  # the caller checks both
