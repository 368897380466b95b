"""Bring your own prior: `from_denoiser` makes one of a function D(x, sigma)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import as_tensor, parameter, several
from invsolve.core.derivatives import WHY
from invsolve.core.torch_state import in_defined_state
from invsolve.core.user_functions import Either
from invsolve.core.validation import (
    Kind,
    Shape,
    check_choice,
    check_dims,
    check_finite,
    check_number,
    check_positive,
    kind_dtype,
)
from invsolve.errors import InputError, UnsupportedError, invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.base import Prior

Denoiser = Callable[[Tensor, Tensor], Tensor]


@in_defined_state
def from_denoiser(
    function: Denoiser,
    shape: Sequence[int],
    *,
    mean: Tensor | float = 0.0,
    scale: float,
    detail: float | None = None,
    sigma_range: tuple[float, float] = (0.0, math.inf),
    kind: Kind = "real",
    law: GaussianLaw | None = None,
    dtype: torch.dtype | None = None,
) -> FunctionPrior:
    """A prior from ``function(x, sigma)``, the mean of the clean signal given that x is it plus noise of level sigma.

    Everything is in the units of the signal: wrap a network trained on w = (x - m) / q as ``m + q * net((x - m) / q,
    sigma / q)``.

    Parameters
    ----------
    function : callable
        Takes ``x`` ``(batch, *shape)`` and ``sigma`` (0-d, or with as many axes as x and one entry a row), both of the
        precision of the prior, and returns the denoised ``(batch, *shape)``, differentiable by torch. They are copies,
        and may be changed in place.
    shape : tuple of int
        Shape of one signal, without a batch axis.
    mean : float or Tensor, shape (*shape)
        Mean of the prior, finite; 0 by default.
    scale : float
        The largest standard deviation of any direction (not of an entry, for smooth signals), > 0.
    detail : float, optional
        The smallest standard deviation that samples must show, > 0; a twentieth of the scale unless given.
    sigma_range : (float, float)
        The noise levels that the function was made for, 0 <= low < high.
    kind : {"real", "complex"}
        Complex signals have noise of level sigma on the real and on the imaginary part each.
    law : GaussianLaw, optional
        A Gaussian with about this prior's mean and covariance, if known: guidance then needs no derivative of the
        function.
    dtype : torch.dtype, optional
        float32 or float64; that of a tensor ``mean``, or float32, unless given.

    Returns
    -------
    FunctionPrior
        The prior.

    Raises
    ------
    InputError, InputTypeError
        For an argument of the wrong kind, shape or range; also later, if ``function`` returns something that is not of
        the shape, precision and device of what it is given.
    UnsupportedError
        Later, if a strategy needs the derivative of a ``function`` that torch cannot differentiate.

    Examples
    --------
    >>> import torch
    >>> prior = from_denoiser(lambda x, sigma: x / (1 + sigma**2), shape=(3,), scale=1.0)
    >>> prior.denoise(torch.ones(1, 3), 1.0)
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    owner = "from_denoiser"
    if not callable(function):
        raise invalid_type(owner, "function", "a function of (x, sigma)", function)
    dims = check_dims(owner, "shape", shape)
    check_choice(owner, "kind", kind, ("real", "complex"))
    if several(mean):
        mean = parameter(owner, "mean", mean, dtype=dtype)
    if dtype is None:
        dtype = kind_dtype(mean.dtype, "real") if isinstance(mean, Tensor) else torch.float32
    if dtype not in (torch.float32, torch.float64):
        raise invalid_type(owner, "dtype", "torch.float32 or torch.float64", str(dtype))
    if not isinstance(mean, Tensor):
        mean = torch.full(dims, check_number(owner, "mean", mean), dtype=dtype, device="cpu")
    if tuple(mean.shape) != dims:
        raise invalid(owner, "mean", f"a number or of shape {dims}", tuple(mean.shape))
    check_finite(owner, "mean", mean)
    scale = check_positive(owner, "scale", scale)
    if detail is not None:
        detail = check_positive(owner, "detail", detail)
    low = check_positive(owner, "sigma_range[0]", sigma_range[0], zero=True)
    if not low < sigma_range[1]:
        raise invalid(owner, "sigma_range", "(low, high) with low < high", sigma_range)
    if law is not None:
        if not isinstance(law, GaussianLaw):
            raise invalid_type(owner, "law", "a GaussianLaw", law)
        if tuple(law.mean.shape) != dims or law.mean.is_complex() != (kind == "complex"):
            raise invalid(owner, "law", f"of shape {dims}, {kind}", f"{tuple(law.mean.shape)}, {law.mean.dtype}")
    return FunctionPrior(
        function=function,
        shape=dims,
        mean=mean.to(kind_dtype(dtype, kind)),
        scale=scale,
        detail=detail,
        sigma_range=(low, float(sigma_range[1])),
        kind=kind,
        law=law,
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FunctionPrior(Prior):
    """A prior known through a user's denoiser; made by `from_denoiser`, which checks and says what the fields are.

    Parameters
    ----------
    function : callable
        The denoiser.
    shape : tuple of int
        Shape of one signal.
    mean : Tensor, shape (*shape)
        Mean of the prior.
    scale : float
        The largest standard deviation of any direction.
    detail : float, optional
        The smallest standard deviation that samples must show.
    sigma_range : (float, float)
        The noise levels that the function was made for.
    kind : {"real", "complex"}
        Kind of the signals.
    law : GaussianLaw, optional
        A Gaussian with about this prior's mean and covariance.
    """

    function: Denoiser
    shape: Shape
    mean: Tensor
    scale: float
    detail: float | None
    sigma_range: tuple[float, float]
    kind: Kind
    law: GaussianLaw | None

    def _not_differentiable(self) -> Exception:
        return UnsupportedError(
            f"from_denoiser: `function ({self._name})` must be differentiable by torch, {WHY} Or state `law`, which "
            "guidance then uses instead."
        )

    @property
    def _name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        y, name = Either(self.function)(x, sigma), self._name
        if several(y) and not isinstance(y, Tensor):  # of code in numpy
            y = as_tensor("from_denoiser", f"function ({name})", y, dtype=x.dtype, device=x.device)
        if not isinstance(y, Tensor):
            raise invalid_type("from_denoiser", f"function ({name})", "returning a torch.Tensor", y)
        if y.shape != x.shape or y.dtype != x.dtype or y.device != x.device:
            raise _mismatch(name, x, y)
        return y


def _mismatch(name: str, x: Tensor, y: Tensor) -> InputError:
    want, given = (f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (x, y))
    return invalid(
        "from_denoiser",
        f"function ({name})",
        f"returning what it is given, {want}",
        given,
        "Cast or reshape inside the function, y.to(x); it is called in the precision of the data.",
    )
