"""One operator for every frame of a sequence: time, slices or channels as the first axis of the signal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor

from invsolve.core.validation import Kind, Shape, check_int
from invsolve.errors import invalid, invalid_type
from invsolve.operators.algebra.algebra import _Wrapper
from invsolve.operators.base import LinearOperator

if TYPE_CHECKING:
    from invsolve.operators.spectrum import Spectrum


@final
@dataclass(frozen=True, eq=False, repr=False)
class Frames(_Wrapper, LinearOperator):
    """Every frame of a sequence is measured by itself: ``y_t = A_t x_t``, frames first in signal and data.

    The items of an operator become frames: `MRI` with masks ``(T, H, W)`` is dynamic MRI of signals ``(T, H, W)``, a
    `Blur` with T kernels blurs a video. An operator without items serves all frames alike.

    Parameters
    ----------
    operator : LinearOperator
        Of one frame; with items, of the frames.
    frames : int, optional
        The number of frames, >= 1; by default the number of items.

    Raises
    ------
    InputTypeError
        If ``operator`` is not linear.
    InputError
        If ``frames`` is missing, or is not the number of items.

    Notes
    -----
    Block diagonal: closed forms of the operator, `pinv`, `solve_normal` and `svd`, stay closed forms. What couples the
    frames is the prior.

    Examples
    --------
    >>> import torch
    >>> from invsolve.operators import MRI
    >>> masks = torch.rand(10, 1, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    >>> Frames(MRI(masks, (12, 16)))
    Frames((10, 12, 16) -> (10, 12, 16), complex)
    """

    operator: LinearOperator
    _: KW_ONLY
    frames: int = None  # type: ignore[assignment]  # default: the number of items

    def __post_init__(self) -> None:
        if not isinstance(self.operator, LinearOperator):
            raise invalid_type("Frames", "operator", "a LinearOperator", self.operator)
        items = self.operator.batch
        if self.frames is None:
            if items is None:
                raise invalid("Frames", "frames", "given for an operator without items", None)
            object.__setattr__(self, "frames", items)
        object.__setattr__(self, "frames", check_int("Frames", "frames", self.frames, minimum=1))
        if items not in (None, self.frames):
            raise invalid("Frames", "frames", f"the number of items, {items}", self.frames)

    @property
    def batch(self) -> int | None:
        """None: items of the operator are frames."""
        return None

    def take(self, index: Tensor) -> Self:
        return self

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the signal, ``(frames, *in_shape)`` of the operator."""
        return (self.frames, *self.operator.in_shape)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, ``(frames, *out_shape)`` of the operator."""
        return (self.frames, *self.operator.out_shape)

    @property
    def in_kind(self) -> Kind:  # type: ignore[override]
        return self.operator.in_kind

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        return self.operator.out_kind

    @property
    def entrywise(self) -> bool:  # type: ignore[override]
        return self.operator.entrywise

    @property
    def observed(self) -> Tensor | None:
        seen = self.operator.observed
        return None if seen is None else seen.expand(self.out_shape)

    def _of_frames(self, f: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """``f`` of the frames of all rows: at once where they share their parameters, else row by row."""
        first = values[0]
        if self.operator.batch is None or not len(first):
            parts = [v.flatten(0, 1) if len(first) else v.new_zeros(self.frames, *v.shape[2:]) for v in values]
            found = f(*parts)
            return found.reshape(-1, self.frames, *found.shape[1:])[: len(first)]
        return torch.stack([f(*parts) for parts in zip(*values, strict=True)])

    def _apply(self, x: Tensor) -> Tensor:
        return self._of_frames(self.operator._apply, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._of_frames(self.operator._adjoint, y)

    def _normal(self, x: Tensor) -> Tensor:
        return self._of_frames(self.operator._normal, x)

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        return self._of_frames(lambda y: self.operator._pinv(y, rtol=rtol, max_iter=max_iter), y)

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        """Frame by frame: conjugate gradients have a step length for each."""
        weighted, started = isinstance(weight, Tensor), start is not None
        values = [rhs]
        if isinstance(weight, Tensor):
            values.append(weight.expand(len(rhs), *self.out_shape))
        if start is not None:
            values.append(start)

        def solve(rhs: Tensor, *others: Tensor) -> Tensor:
            w = others[0] if weighted else weight
            x0 = others[-1] if started else None
            return self.operator._solve_normal(rhs, weight=w, tau=tau, start=x0, rtol=rtol, max_iter=max_iter)

        return self._of_frames(solve, *values)

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        """That of the operator: coordinates ``(frames, *shape)``."""
        from invsolve.operators.spectrum import Spectrum

        one = self.operator._svd(dtype, device)
        return Spectrum(
            values=one.values.expand(self.frames, *one.shape),
            signal_basis=Frames(one.signal_basis, frames=self.frames),
            data_basis=Frames(one.data_basis, frames=self.frames),
        )


__all__ = ["Frames"]
