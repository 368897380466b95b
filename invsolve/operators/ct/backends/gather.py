"""Line integrals and their transpose by two kernels in Triton that gather: weights on the fly, no atomics, any batch.

A ray takes from the pixels beside it, a pixel from the rays beside it, by one function of both, so that the pair is
matched; sums have a fixed order. The batch is innermost: a tap of many images is one line of memory.

Imported only where the kernels are to run: Triton decides by its environment, then, how they are made.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Without `from __future__ import annotations`: torch reads the signatures of its custom operators.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
import triton
import triton.language as tl
from torch import Tensor

from invsolve.operators.ct.geometry import Geometry

PARALLEL, FLAT, CURVED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_MARGIN = tl.constexpr(0.01)  # of a bin: further than single precision is off
_IMAGES = 32  # of a program, at most
_ENTRIES = 512  # rays or pixels times images of a program


@triton.jit
def _weight(start, slope, length, k, j):
    """Joseph's weight of the pixel at ``j`` on grid line ``k``: the one formula of both kernels."""
    return length * tl.maximum(1.0 - tl.abs(start + k * slope - j), 0.0)


@triton.jit
def _forward(x, lines, steps, y, rays, H, W, images, RAYS: tl.constexpr, IMAGES: tl.constexpr):
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    image = tl.program_id(1) * IMAGES + tl.arange(0, IMAGES)
    there, shown = ray < rays, (image < images)[None, :]
    start = tl.load(lines + ray, mask=there, other=0.0)
    slope = tl.load(lines + rays + ray, mask=there, other=0.0)
    length = tl.load(lines + 2 * rays + ray, mask=there, other=0.0)
    first = tl.load(steps + ray, mask=there, other=2147483647)
    last = tl.load(steps + rays + ray, mask=there, other=0)
    rows = tl.load(steps + 2 * rays + ray, mask=there, other=1) != 0
    along, across, edge = tl.where(rows, W, 1), tl.where(rows, 1, W), tl.where(rows, W, H)
    total = tl.zeros([RAYS, IMAGES], dtype=x.dtype.element_ty)
    for k in range(tl.min(first), tl.max(last)):
        lower = tl.floor(start + k * slope)
        here = there & (k >= first) & (k < last)
        for side in tl.static_range(2):
            j = lower.to(tl.int32) + side
            inside = here & (j >= 0) & (j < edge)
            pixel = (k * along + j * across).to(tl.int64)
            value = tl.load(x + pixel[:, None] * images + image[None, :], mask=inside[:, None] & shown, other=0.0)
            total += _weight(start, slope, length, k, lower + side)[:, None] * value
    tl.store(y + ray.to(tl.int64)[:, None] * images + image[None, :], total, mask=there[:, None] & shown)


@triton.jit
def _arctan(z):
    """To 2e-8: Abramowitz & Stegun 4.4.49."""
    size = tl.abs(z)
    t = tl.where(size > 1.0, 1.0 / tl.maximum(size, 1.0), size)
    s = t * t
    p = -0.0752896400 + s * (0.0429096138 + s * (-0.0161657367 + s * 0.0028662257))
    p = -0.3333314528 + s * (0.1999355085 + s * (-0.1420889944 + s * (0.1065626393 + s * p)))
    p = t * (1.0 + s * p)
    p = tl.where(size > 1.0, 1.5707963267948966 - p, p)
    return tl.where(z < 0.0, -p, p)


@triton.jit
def _bin(px, py, c, s, bins, bin_size, offset, to_center, to_detector, cos_tilt, sin_tilt, nearest, BEAM: tl.constexpr):
    """Which bin a point is seen in, not rounded."""
    u = px * c + py * s
    if BEAM != PARALLEL:
        far = tl.maximum(to_center + py * c - px * s, nearest)
        if BEAM == FLAT:
            u = to_detector * u / tl.maximum(far * cos_tilt - u * sin_tilt, nearest * cos_tilt)
        else:
            u = to_detector * _arctan(u / far)
    return (u - offset) / bin_size + 0.5 * (bins - 1)


@triton.jit
def _adjoint(
    y, lines, steps, angles, x, views, bins, H, W, images, height, width, center_x, center_y, bin_size, offset,
    to_center, to_detector, cos_tilt, sin_tilt, BEAM: tl.constexpr, PIXELS: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    image = tl.program_id(1) * IMAGES + tl.arange(0, IMAGES)
    there, shown, rays = pixel < H * W, (image < images)[None, :], views * bins
    row, column = pixel // W, pixel % W
    px, py = (column - 0.5 * (W - 1)) * width - center_x, (0.5 * (H - 1) - row) * height - center_y
    nearest = 0.001 * width
    total = tl.zeros([PIXELS, IMAGES], dtype=y.dtype.element_ty)
    for view in range(views):
        c, s = tl.load(angles + view), tl.load(angles + views + view)
        # A ray with a weight meets the row or the column of the pixel less than a pixel beside it.
        a = _bin(
            px - width, py, c, s, bins, bin_size, offset, to_center, to_detector, cos_tilt, sin_tilt, nearest, BEAM
        )
        b = _bin(
            px + width, py, c, s, bins, bin_size, offset, to_center, to_detector, cos_tilt, sin_tilt, nearest, BEAM
        )
        d = _bin(
            px, py - height, c, s, bins, bin_size, offset, to_center, to_detector, cos_tilt, sin_tilt, nearest, BEAM
        )
        e = _bin(
            px, py + height, c, s, bins, bin_size, offset, to_center, to_detector, cos_tilt, sin_tilt, nearest, BEAM
        )
        low = tl.maximum(tl.minimum(tl.minimum(a, b), tl.minimum(d, e)) - _MARGIN, -1.0)
        high = tl.minimum(tl.maximum(tl.maximum(a, b), tl.maximum(d, e)) + _MARGIN, bins)
        least, most = tl.ceil(low).to(tl.int32), tl.floor(high).to(tl.int32)
        for number in range(tl.max(tl.where(there, most - least + 1, 0))):
            bin_ = least + number
            seen = there & (bin_ >= 0) & (bin_ < bins) & (bin_ <= most)
            ray = view * bins + bin_
            start = tl.load(lines + ray, mask=seen, other=0.0)
            slope = tl.load(lines + rays + ray, mask=seen, other=0.0)
            length = tl.load(lines + 2 * rays + ray, mask=seen, other=0.0)
            rows = tl.load(steps + 2 * rays + ray, mask=seen, other=1) != 0
            k, j = tl.where(rows, row, column), tl.where(rows, column, row)
            weight = _weight(start, slope, length, k, j)
            used = (seen & (weight > 0.0))[:, None] & shown
            value = tl.load(y + ray.to(tl.int64)[:, None] * images + image[None, :], mask=used, other=0.0)
            total += weight[:, None] * value
    tl.store(x + pixel.to(tl.int64)[:, None] * images + image[None, :], total, mask=there[:, None] & shown)


def _blocks(images: int) -> tuple[int, int]:
    """How many images and how many rays or pixels a program has."""
    block = min(_IMAGES, triton.next_power_of_2(max(images, 1)))
    return block, _ENTRIES // block


@torch.library.custom_op("invsolve::joseph_forward", mutates_args=())
def joseph_forward(
    x: Tensor, lines: Tensor, steps: Tensor, angles: Tensor, numbers: Tensor, height: int, width: int, beam: int
) -> Tensor:
    """``(pixels, images)`` -> ``(rays, images)``."""
    rays, images = lines.shape[1], x.shape[1]
    y = x.new_empty(rays, images)
    block, some = _blocks(images)
    if y.numel():
        grid = (triton.cdiv(rays, some), triton.cdiv(images, block))
        with torch.cuda.device_of(x):
            _forward[grid](x, lines, steps, y, rays, height, width, images, RAYS=some, IMAGES=block)
    return y


@torch.library.custom_op("invsolve::joseph_adjoint", mutates_args=())
def joseph_adjoint(
    y: Tensor, lines: Tensor, steps: Tensor, angles: Tensor, numbers: Tensor, height: int, width: int, beam: int
) -> Tensor:
    """``(rays, images)`` -> ``(pixels, images)``."""
    views, images = angles.shape[1], y.shape[1]
    x = y.new_empty(height * width, images)
    block, some = _blocks(images)
    if x.numel():
        grid = (triton.cdiv(height * width, some), triton.cdiv(images, block))
        scan = (views, lines.shape[1] // views, height, width, images, *numbers.tolist())
        with torch.cuda.device_of(y):
            _adjoint[grid](y, lines, steps, angles, x, *scan, BEAM=beam, PIXELS=some, IMAGES=block)
    return x


def _made_differentiable(operator: Any, transpose: Any, entries: Callable[..., int]) -> None:
    """The derivative of a map is its transpose, whose derivative is the map; a vmapped axis is more images."""

    def shape(value: Tensor, *scan: Any) -> Tensor:
        return value.new_empty(entries(*scan), value.shape[1])

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.scan = inputs[1:]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return transpose(grad.contiguous(), *ctx.scan), *[None] * len(ctx.scan)

    def vmap(info: Any, in_dims: tuple[Any, ...], value: Tensor, *scan: Any) -> tuple[Tensor, int]:
        value = value.movedim(in_dims[0], -1)
        out = operator(value.flatten(1).contiguous(), *scan)
        return out.unflatten(1, value.shape[1:]), 2

    operator.register_fake(shape)
    operator.register_autograd(backward, setup_context=setup)
    operator.register_vmap(vmap)


_made_differentiable(joseph_forward, joseph_adjoint, lambda lines, *_: int(lines.shape[1]))
_made_differentiable(joseph_adjoint, joseph_forward, lambda *scan: int(scan[4] * scan[5]))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Gather:
    """The kernels for one scan; ``lines`` ``(3, rays)``: start, slope, length; ``steps``: first, last, rows."""

    geometry: Geometry
    lines: Tensor
    steps: Tensor
    angles: Tensor  # (2, views): cosines and sines
    numbers: Tensor  # of `_adjoint`, on the CPU
    beam: int

    @staticmethod
    def of(geometry: Geometry, dtype: torch.dtype) -> "Gather":
        lines, (x, y) = geometry.lines, geometry.center
        first, steps = lines.steps
        a, tilt = geometry.angles, torch.tensor(geometry.detector_tilt, dtype=torch.float64, device="cpu")
        far = geometry.source_to_center is not None
        numbers = [*geometry.pixel_size, x, y, geometry.bin_size, geometry.detector_offset]
        numbers += [
            geometry.source_to_center or 0.0,
            geometry.source_to_detector or 0.0,
            float(tilt.cos()),
            float(tilt.sin()),
        ]
        return Gather(
            geometry=geometry,
            lines=torch.stack([lines.start, lines.slope, lines.length]).to(dtype),
            steps=torch.stack([first, first + steps, lines.rows.long()]).to(torch.int32),
            angles=torch.stack([a.cos(), a.sin()]).to(dtype),
            numbers=torch.tensor(numbers, dtype=torch.float64, device="cpu"),
            beam=(CURVED if geometry.curved else FLAT).value if far else PARALLEL.value,
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = joseph_forward(x.flatten(1).mT.contiguous(), *self._scan)
        return y.mT.reshape(len(x), -1, self.geometry.bins)

    def adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = joseph_adjoint(y.flatten(1).mT.contiguous(), *self._scan)
        return x.mT.reshape(len(y), *self.geometry.in_shape)

    @property
    def _scan(self) -> tuple[Any, ...]:
        return (self.lines, self.steps, self.angles, self.numbers, *self.geometry.in_shape, self.beam)
