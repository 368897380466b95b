"""What evolution equations on a torus have in common: a state of Fourier coefficients, steps of order 4."""

from __future__ import annotations

import abc
import math
from functools import cached_property

import torch
from torch import Tensor

from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.validation import Shape, check_positive, kind_dtype
from invsolve.errors import OperatorError
from invsolve.operators.base import Operator
from invsolve.operators.pde.lost_rows import lose, warn_lost
from invsolve.operators.pde.modes import to_field, to_spectrum
from invsolve.operators.pde.time_stepping import (
    STABLE,
    Rate,
    Step,
    check_times,
    doublings,
    in_groups,
    integrating_factor_rk4,
    intervals,
    march,
)

MOST_STEPS = 1 << 16
FEWEST = 8  # steps of a whole run, where nothing moves fast
_SAFE = 0.5  # of the stable step, for accuracy and for what grows on the way


class SpectralEvolution(Operator):
    """``u_t = L u + N(u, t)`` on a torus, L diagonal in Fourier space and exact, N by steps of order 4.

    Subclasses have the fields ``grid``, ``times`` and ``dt`` and say `_linear`, `_rate` and `_frequency`. Without
    ``dt`` each row has its own number of steps, a multiple of a power of two. Rows for which that would be too many,
    or whose steps have become too long on the way, are NaN.
    """

    grid: CartesianGrid
    times: float | tuple[float, ...]
    dt: float | None
    _fields: Shape = ()  # leading axes of a state

    @abc.abstractmethod
    def _linear(self) -> Tensor:
        """The symbol of L, broadcastable to a spectrum; float64 or complex128."""

    @abc.abstractmethod
    def _rate(self, spectrum: Tensor, t: float) -> Tensor:
        """The spectrum of N of the state."""

    def _frequency(self, spectrum: Tensor) -> Tensor:
        """How fast N changes a row, ``(rows,)``: 1 / time."""
        return torch.zeros(len(spectrum), dtype=torch.float64, device=spectrum.device)

    def _gained(self) -> Tensor | float:
        """By how much `_frequency` may grow until the end, of forcing."""
        return 0.0

    def _rate_of(self, rows: Tensor | None) -> Rate:
        """`_rate` of these rows (None: all), where parameters have items."""
        return self._rate

    def _check_run(self) -> None:
        owner = type(self).__name__
        times, several = check_times(owner, self.times)
        object.__setattr__(self, "times", times if several else times[0])
        if self.dt is not None:
            object.__setattr__(self, "dt", check_positive(owner, "dt", self.dt))

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """That of the grid, behind one for the fields where there are several."""
        return (*self._fields, *self.grid.shape)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The same, behind an axis of times where several are given."""
        return (*([len(self.times)] if isinstance(self.times, tuple) else []), *self.in_shape)

    @property
    def _all_times(self) -> tuple[float, ...]:
        return self.times if isinstance(self.times, tuple) else (self.times,)

    @cached_property
    def _constants(self) -> dict[tuple[str, torch.dtype, torch.device], Tensor]:
        return {}

    def _like(self, name: str, value: Tensor, x: Tensor) -> Tensor:
        """A constant (float64 on the CPU) in the precision and on the device of ``x``."""
        key = (name, kind_dtype(x.dtype, "real"), x.device)
        if key not in self._constants:
            kind = kind_dtype(x.dtype, "complex" if value.is_complex() else "real")
            self._constants[key] = value.to(device=x.device, dtype=kind)
        return self._constants[key]

    def _apply(self, x: Tensor) -> Tensor:
        spectrum = self._enter(x)
        if self.dt is not None:
            self._check_step(spectrum, self.dt)
            return self._run(spectrum, 1, None)
        longest = self._all_times[-1]
        needed = (self._frequency(spectrum.detach()) + self._gained()) * (longest / (_SAFE * STABLE * FEWEST))
        counts = doublings(needed, MOST_STEPS // FEWEST)
        if 0 in counts:
            bad = torch.tensor([count == 0 for count in counts], device=spectrum.device, dtype=torch.bool)
            spectrum = lose(spectrum, bad)
            if bool((bad & needed.isfinite()).any()):
                which = f"that need more than {MOST_STEPS:,} steps"
                warn_lost(type(self).__name__, which, "Give smaller values, or a coarser grid.")
        return in_groups(spectrum, [max(count, 1) for count in counts], self._run)

    def _run(self, spectrum: Tensor, factor: int, rows: Tensor | None) -> Tensor:
        h_wanted = self.dt if self.dt is not None else self._all_times[-1] / (FEWEST * factor)
        linear = self._like("linear", self._symbol, spectrum)
        outputs: list[Tensor] = []
        steps: dict[float, Step] = {}
        slope = self._rate_of(rows)
        for start, length in intervals(self._all_times):
            count = max(1, math.ceil(length / h_wanted - 1e-9))
            h = length / count
            if h not in steps:
                steps[h] = integrating_factor_rk4(slope, linear, h)
            spectrum = march(steps[h], spectrum, start=start, h=h, steps=count)
            rate = self._frequency(spectrum.detach())
            spectrum = lose(spectrum, rate * h > STABLE)  # it has sped up on the way
            outputs.append(self._leave(spectrum))
        return torch.stack(outputs, 1) if isinstance(self.times, tuple) else outputs[0]

    @cached_property
    def _symbol(self) -> Tensor:
        return self._linear()

    def _enter(self, x: Tensor) -> Tensor:
        return to_spectrum(x, len(self.grid.shape))

    def _leave(self, spectrum: Tensor) -> Tensor:
        return to_field(spectrum, self.grid)

    def _check_step(self, spectrum: Tensor, h: float) -> None:
        """Refuse a step of the caller's that is too long to be stable for a row."""
        rate = self._frequency(spectrum.detach())
        bad = (rate * h > STABLE) & rate.isfinite()
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise OperatorError(
                f"{type(self).__name__}: a step of {h:.3g} is too long for row {row} (Courant-Friedrichs-Lewy "
                f"condition), it must be at most {STABLE / float(rate[row]):.3g}. Give dt that small, or "
                "dt=None, which chooses it for each row."
            )
