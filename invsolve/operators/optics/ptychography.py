"""Ptychography: far-field patterns of a probe that is moved over an object."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import as_index, parameter
from invsolve.core.counting import count
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, check_finite, kind_dtype
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator
from invsolve.operators.bases import from_basis
from invsolve.operators.fourier import of_rows
from invsolve.operators.identity import Identity
from invsolve.operators.spectrum import Spectrum


@final
@dataclass(frozen=True, eq=False, repr=False)
class Ptychography(LinearOperator):
    """Fields behind an object that a probe illuminates at several places, in the far field: ``y_j = F (P x[r_j])``.

    ``x[r]`` is the window of the probe's size whose first entry is at r, F the orthonormal Fourier transform. Detectors
    see ``|y|^2``: ``PhaseRetrieval(Ptychography(...), measure="intensity")``.

    Parameters
    ----------
    probe : Tensor or array, shape (h, w) or (items, h, w)
        P, the illumination, complex, finite.
    positions : Tensor or array of int, shape (J, 2)
        (row, column) of the first entry of each window; windows lie within the object, and overlap in a useful scan.
    in_shape : tuple of int
        (H, W) of the object's transmission.
    in_kind : {'real', 'complex'}
        The kind of the object; complex by default. For a real object the adjoint is the real part.

    Raises
    ------
    InputTypeError
        If ``probe`` or ``positions`` do not hold numbers.
    InputError
        If a shape does not fit, or a window is not within the object.

    Notes
    -----
    Data are ``(batch, J, h, w)``, the origin of the frequencies at index n // 2, that of a window at its first entry.
    ``A^H A = diag(sum_j |P(. - r_j)|^2)``: `pinv`, `solve_normal` with one weight, and `svd` are closed forms.

    References
    ----------
    Rodenburg & Faulkner 2004, A phase retrieval algorithm for shifting illumination, Appl. Phys. Lett. 85, 4795.
    """

    probe: Tensor
    positions: Tensor
    in_shape: Shape
    _: KW_ONLY
    in_kind: Kind = "complex"

    out_kind = "complex"

    def __post_init__(self) -> None:
        owner = "Ptychography"
        shape = check_dims(owner, "in_shape", self.in_shape)
        object.__setattr__(self, "in_shape", shape)
        check_choice(owner, "in_kind", self.in_kind, ("real", "complex"))
        if len(shape) != 2:
            raise invalid(owner, "in_shape", "(H, W)", shape)
        probe = parameter(owner, "probe", self.probe)
        object.__setattr__(self, "probe", probe.to(kind_dtype(probe.dtype, "complex")))
        fits = (
            probe.ndim in (2, 3)
            and 0 not in probe.shape
            and all(k <= n for k, n in zip(probe.shape[-2:], shape, strict=True))
        )
        if not fits:
            raise invalid(owner, "probe", f"of shape (h, w) or (items, h, w) within {shape}", tuple(probe.shape))
        check_finite(owner, "probe", probe)
        positions = as_index(owner, "positions", self.positions)
        object.__setattr__(self, "positions", positions.to(probe.device))
        if positions.ndim != 2 or positions.shape[1] != 2 or not len(positions):
            raise invalid(owner, "positions", "of shape (J, 2)", tuple(positions.shape))
        for axis, name in enumerate(("rows", "columns")):
            low, high, last = (
                int(positions[:, axis].min()),
                int(positions[:, axis].max()),
                shape[axis] - self._window[axis],
            )
            if low < 0 or high > last:
                raise invalid(owner, "positions", f"{name} from 0 to {last}, for a probe within", f"{low} to {high}")

    def _item_axes(self) -> dict[str, int]:
        return {"probe": 2}

    @property
    def _window(self) -> Shape:
        return tuple(self.probe.shape[-2:])

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``(J, h, w)``."""
        return (len(self.positions), *self._window)

    @cached_property
    def _index(self) -> Tensor:
        """The flattened entries of the object that the windows hold, (J, h, w)."""
        h, w = (torch.arange(n, device=self.positions.device) for n in self._window)
        rows, columns = self.positions[:, :1] + h, self.positions[:, 1:] + w
        return rows[:, :, None] * self.in_shape[1] + columns[:, None, :]

    @property
    def _light(self) -> Tensor:
        """The probe, for a batch of windows."""
        return self.probe if self.probe.ndim == 2 else self.probe.unsqueeze(1)

    def _gathered(self, windows: Tensor) -> Tensor:
        """The sum of windows (rows, J, h, w) where they lie in the object."""
        flat = windows.new_zeros(len(windows), self.in_shape[0] * self.in_shape[1])
        return flat.index_add(1, self._index.flatten(), windows.flatten(1)).view(len(windows), *self.in_shape)

    @cached_property
    def _power(self) -> Tensor:
        """The light on every entry, ``([items,] H, W)``."""
        rows = self._light.abs().square()
        power = self._gathered(rows.expand(1 if self.probe.ndim == 2 else len(rows), *self.out_shape))
        return power[0] if self.probe.ndim == 2 else power

    def _apply(self, x: Tensor) -> Tensor:
        waves = x.flatten(1)[:, self._index] * self._light
        y: Tensor = torch.fft.fftshift(of_rows(torch.fft.fftn, waves, dim=(-2, -1), norm="ortho"), (-2, -1))
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        waves = of_rows(torch.fft.ifftn, torch.fft.ifftshift(y, (-2, -1)), dim=(-2, -1), norm="ortho")
        x = self._gathered(waves * self._light.conj())
        return x.real.contiguous() if self.in_kind == "real" else x

    def _normal(self, x: Tensor) -> Tensor:
        return x * self._power

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        """``A^+ y``; 0 where no light falls."""
        count("adjoint", len(y))
        return self._adjoint(y) * torch.where(self._power > 0, 1 / self._power, 0.0)

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        if isinstance(weight, Tensor):
            return super()._solve_normal(rhs, weight=weight, tau=tau, start=start, rtol=rtol, max_iter=max_iter)
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        return rhs / (weight * self._power + tau)

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        return from_basis(self, Identity(self.in_shape, kind=self.in_kind), self._power.to(device, dtype).sqrt())


__all__ = ["Ptychography"]
