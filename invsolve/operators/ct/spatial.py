"""What all scans in space share: the choice of a back end, one or many sets of vectors, rows of data."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import plain
from invsolve.core.validation import Kind, Shape, check_choice, check_int, check_number, check_positive
from invsolve.errors import invalid
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import LinearOperator
from invsolve.operators.ct.backends.base import Projector, of_parts
from invsolve.operators.ct.backends.sampled import Sampled
from invsolve.operators.ct.backends.stored_rays import StoredRays
from invsolve.operators.ct.beam import LARGEST, Backend
from invsolve.operators.ct.geometry import Weights
from invsolve.operators.ct.views import Views


@dataclass(frozen=True, eq=False, repr=False)
class SpatialBeam(LinearOperator, abc.ABC):
    """Base of `ConeBeam` and `VectorBeam`, which say what the fields mean."""

    _: KW_ONLY
    voxel_size: float | tuple[float, ...] = 1.0
    kind: Kind = "real"
    weights: Weights = "joseph"
    backend: Backend = "auto"
    memory: int = 2**30

    _other_space = True  # its data are not over the signal's grid, whatever their shape

    @property
    @abc.abstractmethod
    def _all_views(self) -> tuple[Views, ...]:
        """Where the rays run, of one item or of each."""

    def _check_common(self, shape: Shape) -> None:
        """Check what this base has."""
        owner = type(self).__name__
        size = several(owner, "voxel_size", self.voxel_size, len(shape))
        check_choice(owner, "kind", self.kind, ("real", "complex"))
        check_choice(owner, "weights", self.weights, ("joseph", "siddon"))
        check_choice(owner, "backend", self.backend, ("auto", "matrix", "on the fly"))
        self._set(
            in_shape=shape,
            voxel_size=tuple(check_positive(owner, "voxel_size", v) for v in size),
            memory=check_int(owner, "memory", self.memory, minimum=1),
        )

    def _check_places(self, repair: str) -> None:
        """Check that rays leave the sources towards the detectors, and that the volume is ahead of the sources."""
        owner = type(self).__name__
        for views in self._all_views:
            aside = (views.ahead.norm(dim=-1) == 0).nonzero()[:, 0]
            if len(aside):
                name = "direction" if views.parallel else "source"
                raise invalid(owner, name, "outside of the plane of u and v", f"one inside, in view {int(aside[0])}")
            nearest = views.nearest
            if bool((nearest <= 0).any()):
                view = int(nearest.argmin())
                expected = "outside of the volume, all of which lies ahead of it, towards the detector"
                given = f"one that is {-float(nearest[view]):.6g} mm too far, in view {view}"
                raise invalid(owner, "source", expected, given, repair)

    # --- what the base asks for -----------------------------------------------------------------------------------
    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        """The kind of volumes and data: ``kind``."""
        return self.kind

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        """The kind of volumes and data: ``kind``."""
        return self.kind

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``(views, rows, bins)``, in a plane ``(views, bins)``."""
        g = self.geometry
        return (len(g.source), g.bins) if len(self.in_shape) == 2 else (len(g.source), g.rows, g.bins)

    @property
    def dtype(self) -> None:
        """None: the weights have the precision of what they act on; where rays run is kept in float64."""
        return None

    @property
    def geometry(self) -> Views:
        """Where the rays run; of an operator with items that of the first."""
        return self._all_views[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same operator elsewhere; it has no precision of its own."""
        return self._replace({name: value.to(device) for name, value in self._tensors().items()})

    def take(self, index: Tensor) -> Self:
        taken = super().take(index)
        if taken is not self:  # which uses the weights that are there, and leaves its own
            vars(taken)["_made"] = self._made
        return taken

    def __repr__(self) -> str:
        how = f"stored matrix, {self._bytes / 2**20:.0f} MiB" if self._stored else "weights on the fly"
        return f"{super().__repr__()[:-1]}, {how})"

    # --- back ends ------------------------------------------------------------------------------------------------
    @cached_property
    def _bytes(self) -> int:
        """Of a stored matrix and its transpose in single precision, at most."""
        g = self.geometry
        corners = 2 if g.in_shape[0] == 1 else 4
        return 16 * corners * max(g.in_shape) * g.lines * g.bins * (self.batch or 1)

    @property
    def _stored(self) -> bool:
        if self.backend == "auto":
            return self.geometry.source.device.type == "cpu" and self._bytes <= LARGEST
        return self.backend == "matrix"

    @cached_property
    def _made(self) -> dict[object, Projector]:
        return {}

    def _projector(self, views: Views, dtype: torch.dtype) -> Projector:
        key = (views.key, dtype, views.source.device)
        if key not in self._made:
            self._made[key] = (
                StoredRays.of(views, self.weights, dtype)
                if self._stored
                else Sampled(views=views, weights=self.weights, memory=self.memory)
            )
        return self._made[key]

    # --- the operator ---------------------------------------------------------------------------------------------
    def _apply(self, x: Tensor) -> Tensor:
        return matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return self._by_item(x.view(len(x), *self.geometry.in_shape), forward=True).view(len(x), *self.out_shape)

    def _backward(self, y: Tensor) -> Tensor:
        g = self.geometry
        y = y.reshape(len(y), len(g.source), g.rows, g.bins)
        return self._by_item(y, forward=False).view(len(y), *self.in_shape)

    def _by_item(self, value: Tensor, *, forward: bool) -> Tensor:
        """Row r belongs to item r modulo their number, for several rounds; rows of equal items go together."""
        real = value.real.dtype if value.is_complex() else value.dtype
        scans = self._all_views
        shape = self.out_shape if forward else self.in_shape
        out = value.new_empty(len(value), *shape)
        rows: dict[bytes, list[int]] = {}
        for r in range(len(value)):
            rows.setdefault(scans[r % len(scans)].key, []).append(r)
        for some in rows.values():
            found = of_parts(self._projector(scans[some[0] % len(scans)], real), forward, value[some])
            out[some] = found.view(-1, *shape)
        return out

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def several(owner: str, name: str, value: object, count: int) -> tuple[float, ...]:
    """So many numbers, or one for all; the caller checks each."""
    value = plain(value)
    if isinstance(value, (Sequence, np.ndarray, Tensor)) and not isinstance(value, str):
        if len(value) != count:
            raise invalid(owner, name, f"a number, or {count} of them", f"{len(value)} of them")
        return tuple(value)
    return (value,) * count  # type: ignore[return-value]


def numbers(owner: str, name: str, value: object, what: str) -> tuple[float, ...]:
    """Finite numbers, one for each of ``what``."""
    value = plain(value)
    count = len(what.split(", "))
    if not isinstance(value, (Sequence, np.ndarray, Tensor)) or isinstance(value, str) or len(value) != count:
        raise invalid(owner, name, f"({what})", value)
    return tuple(check_number(owner, name, v) for v in value)
