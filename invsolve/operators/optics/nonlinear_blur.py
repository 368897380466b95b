"""Blur of what a camera with a logarithmic response shows: light adds up, its logarithm does not."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import Shape, check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.operators.algebra.algebra import _Wrapper
from invsolve.operators.base import Pullback
from invsolve.operators.optics.blur import Blur


@final
@dataclass(frozen=True, eq=False, repr=False)
class NonlinearBlur(_Wrapper):
    """Blurred exposure seen through its logarithm: ``y = log(K exp(c x)) / c``.

    A camera (film, a log-encoding or tone-mapping one) shows ``x = f(exposure)``, and motion or defocus averages the
    exposure, not the picture: ``y = f(K f^-1(x))``, as the blur of motion-deblurring data is made, with a gamma curve
    for f [1]_. Here f is the logarithm, which needs no positive signals and has no infinite slope at black: bright
    points spread further than dark ones.

    Parameters
    ----------
    blur : Blur
        K: real, with a kernel that is nowhere negative, of any boundary; with sum 1 constant pictures stay.
    contrast : float
        c > 0, in 1 / units of x: a picture of range 1 that spans n stops has ``c = n log 2`` (7 stops: 4.9); c -> 0
        is the linear blur.

    Raises
    ------
    InputTypeError
        If ``blur`` is no `Blur`.
    InputError
        If it is complex or its kernel negative somewhere or zero, or ``contrast`` is not positive.

    Notes
    -----
    Computed in float64 inside, where exposures may span ``exp(30)``; darker ones are lost in the rounding of the
    transform and read as that floor.

    References
    ----------
    .. [1] Nah, Kim & Lee 2017, Deep multi-scale convolutional neural network for dynamic scene deblurring, CVPR,
       arXiv 1612.02177.
    """

    blur: Blur
    _: KW_ONLY
    contrast: float

    def __post_init__(self) -> None:
        if not isinstance(self.blur, Blur):
            raise invalid_type("NonlinearBlur", "blur", "an iv.operators.Blur", self.blur)
        if self.blur.kind != "real":
            raise invalid("NonlinearBlur", "blur", "real", "one with kind='complex'")
        kernel = self.blur.kernel
        dims = tuple(range(-len(self.blur.in_shape), 0))
        if bool((kernel < 0).any()) or not bool((kernel.sum(dims) > 0).all()):
            given = f"entries from {float(kernel.min())} to {float(kernel.max())}"
            raise invalid("NonlinearBlur", "blur", "of a kernel >= 0 that is not zero", given)
        object.__setattr__(self, "contrast", check_positive("NonlinearBlur", "contrast", self.contrast))

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the picture."""
        return self.blur.in_shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, that of the blur."""
        return self.blur.out_shape

    @cached_property
    def _wide(self) -> Blur:
        return self.blur.to(dtype=torch.float64)

    def _exposed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Exposures relative to the largest of each row, blurred ones, and the response ``(batch, ...)``; float64."""
        wide = x.double()
        top = wide.flatten(1).amax(1).view(-1, *[1] * (x.ndim - 1))
        light = torch.exp(self.contrast * (wide - top))
        # No blurred exposure is larger than the kernel's sum: below 16 roundings of that there is only rounding.
        dims = tuple(range(-len(self.in_shape), 0))
        floor = 16 * torch.finfo(torch.float64).eps * self._wide.kernel.sum(dims, keepdim=True)
        blurred = torch.maximum(self._wide._apply(light), floor)
        return light, blurred, top + blurred.log() / self.contrast

    def _apply(self, x: Tensor) -> Tensor:
        return self._exposed(x)[2].to(x.dtype)

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """``J = diag(1 / K e) K diag(e)`` with the exposures e: an average, weighted with them."""
        light, blurred, y = self._exposed(x)
        return y.to(x.dtype), lambda v: (light * self._wide._adjoint(v.double() / blurred)).to(x.dtype)

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        light, blurred, y = self._exposed(x)
        return y.to(x.dtype), (self._wide._apply(light * dx.double()) / blurred).to(x.dtype)
