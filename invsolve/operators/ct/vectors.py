"""Scans with sources and detectors anywhere, in space or in a plane."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.validation import Shape, check_choice, check_dims, check_finite, check_int
from invsolve.errors import invalid
from invsolve.operators.ct.spatial import SpatialBeam, several
from invsolve.operators.ct.views import Views

_SQUARE = 1e-6  # cosine of the angle between vectors that an arc needs to be at right angles


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class VectorBeam(SpatialBeam):
    """Line integrals where every view has a source, or a direction, and a detector of its own.

    Vectors are ``(x, y, z)``, mm from the middle of the volume ``(D, H, W)``: x to the right along W, y upwards against
    H, z along D. In a plane they are ``(x, y)``, for an image ``(H, W)``. Data are ``(views, rows, bins)``, in a plane
    ``(views, bins)``, in units of the volume times mm.

    Parameters
    ----------
    source : Tensor or array, shape (views, 3) or (items, views, 3), optional
        Where the source is; the volume must lie ahead of it, towards the detector. Give this or ``direction``.
    direction : Tensor or array, of the same shape, optional
        The direction of parallel rays, of any length.
    detector_center : Tensor or array, of the same shape
        The middle of the detector.
    u : Tensor or array, of the same shape
        From a bin to the next one of its row.
    v : Tensor or array, of the same shape, optional
        From a row to the next one; None in a plane.
    in_shape : tuple of int
        The shape of the volume, ``(D, H, W)``, or of the image, ``(H, W)``.
    bins : int
        Of a row of the detector.
    rows : int
        Of the detector; 1 by default.
    voxel_size : float or tuple of float
        mm, > 0, or one for each axis of ``in_shape``; 1 by default.
    kind : {'real', 'complex'}
        The kind of volume and data; real by default.
    weights, backend, memory
        As for `ConeBeam`.
    detector : {'flat', 'curved'}
        A plane, or a cylinder about the line through the source along v, which u and the line from the source to the
        middle of the detector must be perpendicular to, as that line to u; flat by default.

    Raises
    ------
    InputTypeError
        If vectors are no real numbers.
    InputError
        If shapes do not fit to each other, a source lies in its detector's plane or the volume is not ahead of it, or a
        number is out of its range.

    Notes
    -----
    These are the vectors of astra's ``cone_vec``, ``parallel3d_vec``, ``fanflat_vec`` and ``parallel_vec``, where rows
    of a slice run along y in space, and against it in a plane: here always against it. So a volume of ``cone_vec`` is
    flipped along H, ``x.flip(-2)``, and its data ``(rows, views, bins)`` are transposed.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    >>> around = np.stack([np.sin(a), -np.cos(a), 0 * a], -1)
    >>> along = np.stack([np.cos(a), np.sin(a), 0 * a], -1)
    >>> up = np.broadcast_to([0.0, 0.0, 1.0], (30, 3))
    >>> VectorBeam(
    ...     source=90.0 * around, detector_center=-40.0 * around, u=along, v=up, in_shape=(8, 16, 16), rows=12, bins=24
    ... )
    VectorBeam((8, 16, 16) -> (30, 12, 24), real, stored matrix, 8 MiB)
    """

    source: Tensor | None = None
    direction: Tensor | None = None
    detector_center: Tensor
    u: Tensor
    v: Tensor | None = None
    in_shape: Shape
    rows: int = 1
    bins: int
    detector: Literal["flat", "curved"] = "flat"

    def __post_init__(self) -> None:
        owner = "VectorBeam"
        check_choice(owner, "detector", self.detector, ("flat", "curved"))
        shape = check_dims(owner, "in_shape", self.in_shape)
        if len(shape) not in (2, 3):
            raise invalid(owner, "in_shape", "(D, H, W) or (H, W)", shape)
        self._check_common(shape)
        if (self.source is None) == (self.direction is None):
            given = "neither" if self.source is None else "both"
            raise invalid(owner, "source", "given, or `direction` of parallel rays", given)
        if (self.v is None) == (len(shape) == 3):
            expected = "given for a volume" if self.v is None else "None for an image"
            raise invalid(owner, "v", expected, None if self.v is None else "one")
        self._set(
            rows=check_int(owner, "rows", self.rows, minimum=1), bins=check_int(owner, "bins", self.bins, minimum=1)
        )
        if len(shape) == 2 and self.rows != 1:
            raise invalid(owner, "rows", "1 for an image", self.rows)
        first = None
        for name in self._item_axes():
            value = real_parameter(owner, name, getattr(self, name), dtype=torch.float64).detach().double()
            if first is None:
                first = tuple(value.shape)
                if len(first) not in (2, 3) or first[-1] != len(shape) or not value.numel():
                    raise invalid(owner, name, f"(views, {len(shape)}) or (items, views, {len(shape)})", first)
            elif tuple(value.shape) != first:
                raise invalid(owner, name, f"of shape {first}, as the other vectors", tuple(value.shape))
            self._set(**{name: check_finite(owner, name, value)})
        if self.detector == "curved":
            self._check_arc()
        self._check_places("Vectors are in mm from the middle of the volume.")

    def _check_arc(self) -> None:
        if self.source is None:
            raise invalid("VectorBeam", "detector", "flat for parallel rays", "curved")
        for g in self._all_views:
            out, u, v = (torch.nn.functional.normalize(w, dim=-1) for w in (g.detector_center - g.source, g.u, g.v))
            level = torch.nn.functional.normalize(out - (out * v).sum(-1, keepdim=True) * v, dim=-1)
            slanted = ((u * v).sum(-1).abs() > _SQUARE) | ((u * level).sum(-1).abs() > _SQUARE)
            if bool(slanted.any()):
                view = int(slanted.nonzero()[0])
                expected = "perpendicular to v and to the ray from the source to the middle of a curved detector"
                raise invalid("VectorBeam", "u", expected, f"another direction, in view {view}")

    def _item_axes(self) -> dict[str, int]:
        given = ("source", "direction", "detector_center", "u", "v")
        return {name: 2 for name in given if getattr(self, name) is not None}

    @cached_property
    def _all_views(self) -> tuple[Views, ...]:
        start = self.direction if self.source is None else self.source
        assert start is not None
        vectors = [_spatial(value) for value in (start, self.detector_center, self.u)]
        up = torch.zeros_like(vectors[0])
        up[..., 2] = 1
        vectors.append(up if self.v is None else _spatial(self.v))
        size = several("", "", self.voxel_size, len(self.in_shape))
        depth, height, width = size if len(size) == 3 else (1.0, *size)
        return tuple(
            Views(
                source=one[0],
                detector_center=one[1],
                u=one[2],
                v=one[3],
                in_shape=self.in_shape if len(self.in_shape) == 3 else (1, *self.in_shape),
                voxel_size=(depth, height, width),
                rows=self.rows,
                bins=self.bins,
                parallel=self.source is None,
                curved=self.detector == "curved",
            )
            for one in zip(*vectors, strict=True)
        )


def _spatial(vectors: Tensor) -> Tensor:
    """``(items, views, 3)``, of vectors in a plane too."""
    vectors = vectors if vectors.ndim == 3 else vectors[None]
    return torch.nn.functional.pad(vectors, (0, 3 - vectors.shape[-1]))
