"""Images on the grid of frequencies of a non-uniform transform: padding, phases, and transforms there and back."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import kind_dtype
from invsolve.operators.fourier import of_rows
from invsolve.operators.mri.kaiser_bessel import Axis


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """A grid of frequencies, an `Axis` each; on a device.

    Frequency ``phases k + a`` of an axis is frequency k of the signal times ``exp(-2 pi i a n / K)``: each combination
    of the a of all axes is a *phase*. Cells are counted in order, along the last axis phase by phase. Pixel n // 2 is
    the origin; on the grid it comes first ("rolled").
    """

    axes: tuple[Axis, ...]
    device: torch.device

    @property
    def base(self) -> tuple[int, ...]:
        return tuple(a.base for a in self.axes)

    @property
    def phases(self) -> int:
        return math.prod(a.phases for a in self.axes)

    @property
    def cells(self) -> int:
        """The number of frequencies."""
        return math.prod(a.fine for a in self.axes)

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.axes), 0))

    def rolled(self, x: Tensor) -> Tensor:
        """``(..., *shape)`` -> ``(..., *base)``: the origin first, zeros in the middle."""
        for dim, axis in zip(self._dims, self.axes, strict=True):
            if axis.base > 1:
                low, high = torch.split(x, [axis.n // 2, axis.n - axis.n // 2], dim)
                gap = list(x.shape)
                gap[dim] = axis.base - axis.n
                x = torch.cat([high, x.new_zeros(gap), low], dim)
        return x

    def unrolled(self, x: Tensor) -> Tensor:
        """``(..., *base)`` -> ``(..., *shape)``, the transpose of `rolled`."""
        for dim, axis in zip(self._dims, self.axes, strict=True):
            if axis.base > 1:
                low = x.narrow(dim, axis.base - axis.n // 2, axis.n // 2)
                x = torch.cat([low, x.narrow(dim, 0, axis.n - axis.n // 2)], dim)
        return x

    def share(self, dim: int, k: Tensor) -> Tensor:
        """What the frequency ``k`` of an axis adds to the index of a cell; integers."""
        axis, after = self.axes[dim], self.axes[dim + 1 :]
        return k * math.prod(a.fine for a in after) if after else k % axis.phases * axis.base + k // axis.phases

    def _parts(self, cells: Tensor) -> list[Tensor]:
        """Views of ``(cells, columns)`` for each phase, ``(*base, columns)``."""
        *first, last = self.axes
        view = cells.view(*[n for a in first for n in (a.base, a.phases)], last.phases, last.base, -1)
        every = itertools.product(*[range(a.phases) for a in self.axes])
        return [view[(*[v for a in phase[:-1] for v in (slice(None), a)], phase[-1])] for phase in every]

    @cached_property
    def _modulations(self) -> dict[torch.dtype, tuple[Tensor, Tensor]]:
        return {}

    def modulation(self, real: torch.dtype) -> tuple[Tensor, Tensor]:
        """``exp(-2 pi i a n / K)`` of every phase, ``(phases, *base)``, complex, and its conjugate."""
        if real not in self._modulations:
            out = torch.ones((), dtype=torch.complex128, device=self.device)
            for axis in self.axes:
                # Rolled pixels count from the origin, to both sides.
                n = torch.fft.fftfreq(axis.base, 1 / axis.base, dtype=torch.float64, device=self.device)
                a = torch.arange(axis.phases, dtype=torch.float64, device=self.device)
                angle = -2 * math.pi / axis.fine * a[:, None] * n.round()
                out = out[..., None, None] * torch.polar(torch.ones_like(angle), angle)
            d = len(self.axes)
            out = out.permute(*range(0, 2 * d, 2), *range(1, 2 * d, 2)).reshape(self.phases, *self.base)
            out = out.to(kind_dtype(real, "complex"))
            self._modulations[real] = (out, out.conj().resolve_conj())
        return self._modulations[real]

    def to_cells(self, x: Tensor, maps: Tensor) -> Tensor:
        """The spectra of ``maps * x``, ``(rows, 1, *base)`` and ``(rows or 1, coils, *base)``: ``(cells, rows coils)``.

        Phase after phase: what is worked on stays in the cache.
        """
        cells = maps.new_empty(self.cells, len(x) * maps.shape[1])
        waves = self.modulation(kind_dtype(maps.dtype, "real"))[0]
        for part, wave in zip(self._parts(cells), waves, strict=True):
            seen = ((x * wave if self.phases > 1 else x) * maps).flatten(0, 1)
            part.copy_(of_rows(torch.fft.fftn, seen, dim=self._dims).movedim(0, -1))
        return cells

    def from_cells(self, cells: Tensor, conjugate: Tensor, rows: int) -> Tensor:
        """The transpose, with the conjugate maps: ``(cells, rows coils)`` -> ``(rows, *base)``."""
        sums = []
        waves = self.modulation(kind_dtype(cells.dtype, "real"))[1]
        for part, wave in zip(self._parts(cells), waves, strict=True):
            spectra = part.movedim(-1, 0).reshape(rows, -1, *self.base)
            images = of_rows(torch.fft.ifftn, spectra, dim=self._dims, norm="forward").mul_(conjugate).sum(1)
            sums.append(images.mul_(wave) if self.phases > 1 else images)
        return reduce(torch.add, sums)

    def filtered(self, x: Tensor, maps: Tensor, conjugate: Tensor, gain: Tensor, coils: int) -> Tensor:
        """``sum_c conj(S_c) F^-1 gain F S_c x`` on the whole grid, so many coils at a time.

        ``(rows, *base)``, maps ``(rows or 1, coils, *base)`` and their conjugate, ``gain`` ``(phases, *base)``:
        complex, because torch takes three times as long for products with real numbers.
        """
        total = None
        several = [slice(c, c + coils) for c in range(0, maps.shape[1], coils)]
        for wave, back, factor in zip(*self.modulation(kind_dtype(maps.dtype, "real")), gain, strict=True):
            seen, part = (x * wave if self.phases > 1 else x).unsqueeze(1), None
            for some in several:
                z = of_rows(torch.fft.fftn, seen * maps[:, some], dim=self._dims).mul_(factor)
                z = of_rows(torch.fft.ifftn, z, dim=self._dims).mul_(conjugate[:, some]).sum(1)
                part = z if part is None else part.add_(z)
            assert part is not None
            part = part.mul_(back) if self.phases > 1 else part
            total = part if total is None else total.add_(part)
        assert total is not None
        return total
