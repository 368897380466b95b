"""A sensor that saturates: clipping with soft knees."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import Shape, check_dims, check_number, check_positive
from invsolve.errors import invalid
from invsolve.operators.base import Operator


@final
@dataclass(frozen=True, eq=False, repr=False)
class Saturation(Operator):
    """Soft clipping: ``y = clip(x, low, high)`` with knees, entry by entry; real, any precision and device.

    Behind another operator: ``Saturation(...) @ A``.

    Parameters
    ----------
    in_shape : tuple of int
        The shape of signal and data.
    low, high : float, optional
        The levels, in the units of the signal, low < high; None: no level on that side. At least one is given.
    softness : float
        w > 0, the width of the knees, in the units of the signal.

    Raises
    ------
    InputError
        If no level is given, they are not in order, or ``softness`` is not positive.

    Notes
    -----
    ``y = x + w log(1 + exp((low - x) / w)) - w log(1 + exp((x - high) / w))``: what clipping gives on average over
    logistic noise of scale w before it. It increases, its slope is near 1 between the levels and vanishes beyond them,
    and it differs from clipping by at most ``w log 2``, at the levels.

    Examples
    --------
    >>> import torch
    >>> Saturation((3,), low=0.0, high=1.0, softness=0.01)(torch.tensor([[-2.0, 0.5, 7.0]]))
    tensor([[0.0000, 0.5000, 1.0000]])
    """

    in_shape: Shape
    _: KW_ONLY
    low: float | None = None
    high: float | None = None
    softness: float

    entrywise = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_shape", check_dims("Saturation", "in_shape", self.in_shape))
        object.__setattr__(self, "softness", check_positive("Saturation", "softness", self.softness))
        for name in ("low", "high"):
            if (level := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_number("Saturation", name, level))
        if self.low is None and self.high is None:
            raise invalid("Saturation", "low/high", "given, at least one of them", "None")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise invalid("Saturation", "low", f"less than `high`, {self.high}", self.low)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, that of the signal."""
        return self.in_shape

    def _apply(self, x: Tensor) -> Tensor:
        y = x
        if self.low is not None:
            y = y + self._knee(self.low - x)
        if self.high is not None:
            y = y - self._knee(x - self.high)
        return y

    def _knee(self, beyond: Tensor) -> Tensor:
        """0 well before a level, ``beyond`` well after it; to the last bit, where torch's softplus is cut."""
        return self.softness * torch.logaddexp(beyond / self.softness, torch.zeros_like(beyond))
