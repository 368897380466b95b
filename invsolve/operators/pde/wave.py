"""Acoustic waves in two dimensions: seismograms of the velocity of sound (full waveform inversion)."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, Literal, Self, final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invsolve.core.arrays import parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Shape, check_choice, check_finite, check_int, check_positive
from invsolve.errors import OperatorError, invalid
from invsolve.operators.base import Operator
from invsolve.operators.pde.lost_rows import lose, warn_lost
from invsolve.operators.pde.modes import check_grid
from invsolve.operators.pde.observation import coordinates
from invsolve.operators.pde.time_stepping import in_groups

_FIRST = (1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12)
_SECOND = (-1 / 12, 16 / 12, -30 / 12, 16 / 12, -1 / 12)
_SAFE = 0.9
_MOST = 4096  # steps between two samples


@in_defined_state
def ricker(frequency: float, dt: float, samples: int, *, delay: float | None = None) -> Tensor:
    """Ricker's wavelet, the second derivative of a Gaussian: ``(1 - 2 a) exp(-a)``, ``a = (pi f (t - delay))^2``.

    Parameters
    ----------
    frequency : float
        f of its largest amplitude, > 0.
    dt : float
        The time between samples, > 0.
    samples : int
        How many.
    delay : float, optional
        When it is largest; 1.5 / f unless given, where its start is 1e-8.

    Returns
    -------
    Tensor
        Shape ``(samples,)``, float64.

    Raises
    ------
    InputError
        If a number is not positive.
    """
    f, h = check_positive("ricker", "frequency", frequency), check_positive("ricker", "dt", dt)
    t = torch.arange(check_int("ricker", "samples", samples, minimum=1), dtype=torch.float64, device="cpu") * h
    a = (math.pi * f * (t - (1.5 / f if delay is None else float(delay)))) ** 2
    return (1 - 2 * a) * torch.exp(-a)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Wave(Operator):
    """Seismograms of a velocity model: ``p_tt / c^2 = Laplacian p + s(t) delta(x - x_s)``, at rest before.

    Parameters
    ----------
    grid : CartesianGrid
        Of two axes, ``points="centers"``; outside, the velocity goes on as at the border, in absorbing layers.
    sources : Tensor or array, shape (shots, 2)
        Coordinates along the axes of the grid in their order, inside of the box; every shot has one source.
    receivers : Tensor or array, shape (m, 2)
        Coordinates of the receivers, of all shots.
    wavelet : Tensor or array, shape (samples,)
        s at the times ``0, dt, 2 dt, ...``, of all shots; smooth, and 0 at its ends.
    dt : float
        The time between samples of wavelet and seismograms, > 0. Steps are shorter where the velocity asks for it.
    parameter : {"velocity", "log velocity"}
        What the signal is: c > 0 at the points of the grid, in length / time, or its natural logarithm.
    layer : int
        The width of the absorbing layers in points, >= 4.
    frequency : float, optional
        At which the layers work best, > 0; a quarter of the wavelet's bandwidth by default.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.
    OperatorError
        At a call, if a velocity is not positive.

    Notes
    -----
    Differences of order 4 in space and 2 in time; sources and receivers between points of the grid by cubic
    interpolation. Steps: 0.9 of the stable one, a whole number of them between two samples, for each row its own:
    where that number changes the map jumps by the error of the steps. Absorbing layers are convolutional,
    perfectly matched [1]_. Data have shape ``(shots, samples, receivers)``. Derivatives are those of the steps by
    torch, the states of every sqrt(samples)-th sample are kept and the others computed again. Rows that are not finite,
    or so fast that over 4,096 steps are needed between two samples, are NaN.

    References
    ----------
    .. [1] Pasalic & McGarry 2010, Convolutional perfectly matched layer for isotropic and anisotropic acoustic wave
       equations, SEG Expanded Abstracts 29, 2925.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> grid = iv.CartesianGrid((20, 30), extent=(200.0, 300.0), unit="m")
    >>> wavelet = iv.operators.ricker(15.0, 0.004, 50)
    >>> A = Wave(grid, [[5.0, 150.0]], [[5.0, 50.0], [5.0, 250.0]], wavelet, dt=0.004, layer=8)
    >>> A(torch.full((1, 20, 30), 1500.0)).shape
    torch.Size([1, 1, 50, 2])
    """

    grid: CartesianGrid
    sources: Tensor
    receivers: Tensor
    wavelet: Tensor
    _: KW_ONLY
    dt: float
    parameter: Literal["velocity", "log velocity"] = "velocity"
    layer: int = 20
    frequency: float | None = None

    def __post_init__(self) -> None:
        owner = "Wave"
        check_grid(owner, self.grid, points=("centers",), axes=(2,))
        for name in ("sources", "receivers"):
            made = coordinates(owner, name, getattr(self, name), self.grid)
            if made.ndim != 2:
                raise invalid(owner, name, "of shape (m, 2), the same for all items", tuple(made.shape))
            object.__setattr__(self, name, made)
        wavelet = check_finite(owner, "wavelet", parameter(owner, "wavelet", self.wavelet, dtype=torch.float64))
        if wavelet.ndim != 1 or not len(wavelet):
            raise invalid(owner, "wavelet", "of shape (samples,)", tuple(wavelet.shape))
        object.__setattr__(self, "wavelet", wavelet.double().cpu())
        object.__setattr__(self, "dt", check_positive(owner, "dt", self.dt))
        check_choice(owner, "parameter", self.parameter, ("velocity", "log velocity"))
        check_int(owner, "layer", self.layer, minimum=4)
        if self.frequency is not None:
            object.__setattr__(self, "frequency", check_positive(owner, "frequency", self.frequency))

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """That of the grid."""
        return self.grid.shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """``(shots, samples, receivers)``."""
        return (len(self.sources), len(self.wavelet), len(self.receivers))

    @property
    def dtype(self) -> None:
        """None: any."""
        return None

    @property
    def device(self) -> None:
        """None: any."""
        return None

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Itself: it has no precision or device of its own."""
        return self

    def _apply(self, x: Tensor) -> Tensor:
        c = x if self.parameter == "velocity" else torch.exp(x)
        lowest, top = c.detach().flatten(1).aminmax(dim=1)
        lost = ~(lowest > 0) | ~(top < torch.inf)  # NaN, or an exp that has left its range
        if self.parameter == "velocity" and bool((bad := lowest <= 0).any()):
            row = int(bad.nonzero()[0, 0])
            raise OperatorError(
                f"Wave: a velocity must be > 0, row {row} has {float(lowest[row]):.4g}. Give parameter='log velocity', "
                "whose values may be any, or a prior of positive fields."
            )
        wanted = torch.where(lost, 1.0, top.double() * (self.dt / self._reach)).tolist()
        if any(v > _MOST for v in wanted):
            which = f"whose velocity needs more than {_MOST} steps between samples dt={self.dt:.3g} apart"
            warn_lost("Wave", which, "Give dt in the unit of the velocity's time, or a coarser grid.")
            lost = lost | torch.tensor([v > _MOST for v in wanted], device=c.device, dtype=torch.bool)
        counts = [max(1, math.ceil(v)) if v <= _MOST else 1 for v in wanted]
        return in_groups(lose(c, lost), counts, self._record)

    @property
    def _reach(self) -> float:
        """How far waves may go in a step: 0.9 of where it becomes unstable."""
        return _SAFE * math.sqrt(3) / (2 * math.sqrt(sum(1 / h**2 for h in self.grid.spacing)))

    def _record(self, c: Tensor, substeps: int, rows: Tensor | None) -> Tensor:
        """The seismograms of rows that take so many steps between two samples."""
        h, pad, shots = self.dt / substeps, self.layer, len(self.sources)
        c = torch.nn.functional.pad(c.unsqueeze(1), (pad,) * 4, mode="replicate")
        squared = (h * c) ** 2  # (rows, 1, H, W)
        source, at_receivers = (m.to(c) for m in self._samplers)
        height, width = c.shape[-2:]
        injected = source.view(1, shots, height, width) * squared / self.grid.cell
        wavelet = self._fine_wavelet(substeps).to(c)
        (ay, by), (ax, bx) = (tuple(v.to(c) for v in some) for some in self._layers(h, self._reach / h))
        axes = ((-2, ay, by, self.grid.spacing[0]), (-1, ax, bx, self.grid.spacing[1]))

        # The state: pressure now and before, two memories of the layers along each axis, and at last what is recorded.
        def advance(
            p: Tensor, old: Tensor, memory: list[Tensor], strength: Tensor
        ) -> tuple[Tensor, Tensor, list[Tensor]]:
            total, kept = torch.zeros_like(p), []
            for (axis, a, b, spacing), psi, zeta in zip(axes, memory[::2], memory[1::2], strict=True):
                psi = a * psi + b * _stencil(p, axis, _FIRST) / spacing
                curved = _stencil(p, axis, _SECOND) / spacing**2 + _stencil(psi, axis, _FIRST) / spacing
                zeta = a * zeta + b * curved
                total = total + curved + zeta
                kept += [psi, zeta]
            return 2 * p - old + squared * total + injected * strength, p, kept

        def sample(state: Tensor, first: int) -> Tensor:
            p, old, *memory = state.unbind(2)
            for i in range(substeps):
                p, old, memory = advance(p, old, memory, wavelet[first * substeps + i])
            return torch.stack([p, old, *memory], 2)

        # March in blocks of samples: inside of one, what torch keeps is computed again on the way back.
        samples = len(self.wavelet)
        width_ = math.isqrt(samples - 1) + 1 if samples > 1 else 1
        state = c.new_zeros(len(c), shots, 6, height, width) + 0 * squared.unsqueeze(2)

        def block(value: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
            seen = []
            for i in range(first, last):
                seen.append(value[:, :, 0].flatten(2) @ at_receivers.mT)
                value = sample(value, i)
            return value, torch.stack(seen, 2)

        found = []
        keep_all = not (torch.is_grad_enabled() and state.requires_grad)
        for first in range(0, samples, width_):
            last = min(first + width_, samples)
            if keep_all:
                state, seen = block(state, first, last)
            else:
                state, seen = checkpoint(block, state, first, last, use_reentrant=False, preserve_rng_state=False)
            found.append(seen)
        return torch.cat(found, 2)

    def _fine_wavelet(self, substeps: int) -> Tensor:
        """The wavelet at the steps: band-limited between its samples."""
        n = len(self.wavelet)
        if substeps == 1 or n == 1:
            return self.wavelet.repeat_interleave(substeps)
        length = 2 * n
        spectrum = torch.fft.rfft(self.wavelet, n=length)
        spectrum[-1] = 0
        fine: Tensor = torch.fft.irfft(spectrum, n=length * substeps)
        return fine[: n * substeps] * substeps

    @cached_property
    def _samplers(self) -> tuple[Tensor, Tensor]:
        """Weights of the points of the padded grid for every source and receiver, float64."""
        return tuple(_weights(self.grid, at, self.layer) for at in (self.sources, self.receivers))  # type: ignore[return-value]

    @cached_property
    def _pitch(self) -> float:
        """The frequency that the layers are made for."""
        if self.frequency is not None:
            return self.frequency
        power = torch.fft.rfft(self.wavelet).abs() ** 2
        where = torch.fft.rfftfreq(len(self.wavelet), d=self.dt, dtype=torch.float64, device="cpu")
        total = float(power.sum())
        return max(float((power * where).sum()) / total if total else 0.0, 1e-3 / (self.dt * len(self.wavelet)))

    def _layers(self, h: float, fastest: float) -> list[tuple[Tensor, Tensor]]:
        """``a`` and ``b`` of the recursion along each axis, shaped to broadcast."""
        found = []
        for axis, (n, spacing) in enumerate(zip(self.grid.shape, self.grid.spacing, strict=True)):
            i = torch.arange(n + 2 * self.layer, dtype=torch.float64, device="cpu")
            depth = torch.maximum(self.layer - i, i - (n + self.layer - 1)).clamp_min(0) / self.layer
            sigma = 3 * fastest / (2 * self.layer * spacing) * math.log(1e4) * depth**2
            alpha = math.pi * self._pitch * (1 - depth)
            a = torch.exp(-(sigma + alpha) * h)
            b = torch.where(sigma > 0, sigma / (sigma + alpha).clamp_min(1e-300) * (a - 1), 0.0)
            shape = (-1, 1) if axis == 0 else (-1,)
            found.append((a.view(shape), b.view(shape)))
        return found


def _stencil(p: Tensor, axis: int, weights: tuple[float, ...]) -> Tensor:
    """Five weights along an axis, 0 outside."""
    n = p.shape[axis]
    padded = torch.nn.functional.pad(p, (2, 2) if axis == -1 else (0, 0, 2, 2))
    parts = [w * padded.narrow(axis, i, n) for i, w in enumerate(weights) if w]
    return sum(parts[1:], parts[0])


def _weights(grid: CartesianGrid, at: Tensor, pad: int) -> Tensor:
    """Cubic interpolation by Lagrange between the four nearest points along each axis."""
    rows = []
    for axis, (n, h) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        place = (at[:, axis] - (grid.origin or ())[axis]) / h - 0.5 + pad
        i = torch.arange(n + 2 * pad, dtype=torch.float64, device="cpu")
        d = (i - place[:, None]).abs()
        far = torch.where(d < 2, (1 - d) * (2 - d) * (3 - d) / 6, 0.0)
        rows.append(torch.where(d < 1, (1 - d**2) * (2 - d) / 2, far))
    return (rows[0][:, :, None] * rows[1][:, None, :]).flatten(1)


__all__ = ["Wave", "ricker"]
