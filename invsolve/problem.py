"""The frozen bundle that a solve works on: operator, data, noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import as_tensor
from invsolve.core.validation import Shape, check_finite, check_kind, check_shape, kind_dtype, quoted
from invsolve.errors import invalid, invalid_type
from invsolve.noise import Gaussian, Noise, as_noise
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.family import Family


@final
@dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """``data = noise(operator(x))``: everything about a measurement but the prior.

    ``data`` is ``(batch, *operator.out_shape)``, or exactly ``out_shape`` for one unbatched measurement (results then
    have no batch axis); torch, numpy (converted to the operator's precision, float32 without one) or xarray. It must be
    finite, and possible: counts are whole numbers. ``noise`` is an `iv.noise` model or a positive number, the std of
    Gaussian noise in the units of the data; for complex data per real component. ``dims`` names the axes of the signal,
    for xarray; ``units`` says the unit of the signal.

    Raises InputError or InputTypeError naming the argument, what was expected and what was given.
    """

    operator: Operator
    data: Tensor
    noise: Noise = field(kw_only=True)
    dims: tuple[str, ...] | None = field(default=None, kw_only=True)
    units: str = field(default="", kw_only=True)
    batched: bool = field(default=True, init=False)

    if TYPE_CHECKING:  # what is accepted; `__post_init__` makes of it what the fields say

        def __init__(
            self,
            operator: Operator,
            data: Any,
            *,
            noise: Noise | Tensor | float,
            dims: Iterable[str] | None = None,
            units: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        A = self.operator
        y, batched = checked_data("solve", A, self.data)
        if self.dims is None:
            object.__setattr__(self, "dims", signal_dims(A, self.data))
        if self.dims is not None:
            object.__setattr__(self, "dims", _checked_dims(self.dims, len(A.in_shape)))
        object.__setattr__(self, "data", y.detach())
        object.__setattr__(self, "batched", batched)
        noise = as_noise("solve", self.noise).check(A.out_shape, len(y), y.dtype, y.device)
        noise.check_data(y, A.observed)
        object.__setattr__(self, "noise", noise)

    # --- what a solver asks ------------------------------------------------------------------------------------------
    @property
    def shape(self) -> Shape:
        """The shape of the signal."""
        return tuple(self.operator.in_shape)

    @property
    def signal_dtype(self) -> torch.dtype:
        return kind_dtype(self.data.dtype, self.operator.in_kind)

    @property
    def linear(self) -> bool:
        return isinstance(self.operator, LinearOperator)

    @property
    def shared(self) -> bool:
        """True if every row has the same operator and noise, so that factorisations can be shared."""
        return self.operator.batch is None and not self.noise.per_item

    @property
    def num_data(self) -> Tensor:
        """How many real numbers were observed, (batch,): a complex datum counts twice."""
        each = 2 if self.data.is_complex() else 1
        observed = self.operator.observed
        if observed is None:
            return torch.full((len(self.data),), each * prod(self.operator.out_shape), device=self.data.device)
        return each * observed.expand(self.data.shape).flatten(1).sum(1)

    def whiten(self, r: Tensor) -> Tensor:
        """``G^-1/2 r`` with zeros where nothing was observed; the noise must be Gaussian."""
        return self._gaussian.whiten(r, self.operator.observed)

    def unwhiten_adjoint(self, w: Tensor) -> Tensor:
        """The adjoint of `whiten`."""
        return self._gaussian.unwhiten_adjoint(w, self.operator.observed)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log p(y | x) per row, ``x`` ``(batch, *shape)``."""
        return self.noise.log_prob(self.data, self.operator(x), self.operator.observed)

    def chi2(self, x: Tensor) -> Tensor:
        """chi^2 per datum of ``x`` ``(batch, *shape)``, (batch,): about 1 for a right model; NaN without data."""
        white = self.noise.residual(self.data, self.operator(x), self.operator.observed)
        return white.abs().square().flatten(1).sum(1) / self.num_data

    def gaussianised(self, clean: Tensor) -> Self:
        """The same rows with Gaussian noise, of a std for every datum, that stands for the noise near ``clean``.

        ``clean`` ``(batch, *out_shape)``, the operator's output. Data and std are those of `Noise.gaussian_at`: the
        gradient of log p at ``clean``, and its Fisher information, are unchanged. Gaussian noise stays as it is.
        """
        return self.surrogate(clean)[0]

    def surrogate(self, clean: Tensor) -> tuple[Self, Tensor]:
        """`gaussianised`, and the peak (rows,), float64, of its log density that makes it log p itself at ``clean``."""
        observed = self.operator.observed
        if isinstance(self.noise, Gaussian):
            return self, self.noise.log_prob(self.data, self.data, observed).double()
        data, std, peak = self.noise.gaussian_at(self.data, clean, observed)
        dtype = self.data.dtype
        return self._with(data=data.to(dtype), noise=Gaussian.of_rows(std.to(kind_dtype(dtype, "real")))), peak

    def with_unit_noise(self) -> Self:
        """The same rows with Gaussian noise of std 1: whitening then leaves out what is not observed, no more."""
        return self._with(noise=Gaussian(std=1.0))

    def take(self, index: Tensor) -> Self:
        """The problem of the rows ``index``."""
        return self._with(operator=self.operator.take(index), data=self.data[index], noise=self.noise.take(index))

    def _with(self, **values: object) -> Self:
        """With these fields, which need no second check."""
        other = object.__new__(type(self))
        for name, value in (vars(self) | values).items():
            object.__setattr__(other, name, value)
        return other

    def replaced(self, *, operator: Operator, noise: Noise) -> Self:
        """The same data with another operator, of the same shapes, and another noise."""
        other = replace(self, operator=operator, noise=noise)
        object.__setattr__(other, "batched", self.batched)
        return other

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same problem moved and cast."""
        real = dtype or kind_dtype(self.data.dtype, "real")
        data = self.data.to(device=device, dtype=kind_dtype(real, "complex" if self.data.is_complex() else "real"))
        moved = replace(self, operator=self.operator.to(device, dtype), data=data)
        object.__setattr__(moved, "batched", self.batched)
        return moved

    def __repr__(self) -> str:
        return f"Problem({self.operator!r}, y {tuple(self.data.shape)}, {type(self.noise).__name__})"

    def __str__(self) -> str:
        """What the problem assumes, in a few lines."""
        count = sorted(set(self.num_data.tolist()))
        numbers = f"{count[0]}" if len(count) == 1 else f"{count[0]} to {count[-1]}"
        lines = [repr(self), f"  data: {numbers} real numbers per item, {len(self.data)} item(s), {self.data.dtype}"]
        if self.data.is_complex():
            lines.append("  complex data: the noise std is per real component, E|n|^2 = 2 std^2")
        if isinstance(self.noise, Gaussian) and isinstance(self.noise.std, float):
            lines.append(
                f"  Gaussian noise of std {self.noise.std:.4g}; "
                "posterior samples of a right model have chi^2 per datum near 1"
            )
        if not isinstance(self.noise, Gaussian):
            lines.append(f"  {self.noise!r}")
        if isinstance(self.noise, Gaussian) and self.noise.unknown:
            lines.append(f"  Gaussian noise of unknown std, {self.noise.std}: inferred for every item with the signal")
        if isinstance(self.operator, Family):
            laws = ", ".join(f"{name} {law}" for name, law in self.operator.unknown.items())
            lines.append(f"  unknown in the operator: {laws}: inferred for every item with the signal")
        return "\n".join(lines)

    @property
    def _gaussian(self) -> Gaussian:
        if not isinstance(self.noise, Gaussian):
            raise invalid_type(
                "Problem",
                "noise",
                "iv.noise.Gaussian for a whitened residual",
                self.noise,
                "Use problem.gaussianised(clean), or problem.noise.residual(y, clean).",
            )
        return self.noise


def _checked_dims(dims: object, axes: int) -> tuple[str, ...]:
    if isinstance(dims, str) or not isinstance(dims, Iterable):
        raise invalid_type("Problem", "dims", "a tuple of names", quoted(dims))
    names = tuple(dims)
    if not all(isinstance(name, str) for name in names) or len(names) != axes or len(set(names)) != axes:
        raise invalid("Problem", "dims", f"{axes} names, one for each axis of the signal, all different", names)
    return names


def checked_data(owner: str, A: Operator, data: Any) -> tuple[Tensor, bool]:
    """Data with a batch axis, and whether they came with one; raise unless they are data of ``A``."""
    if not isinstance(A, Operator):
        raise invalid_type(
            owner,
            "A",
            "an iv.operators.Operator",
            quoted(A),
            "Wrap a function: iv.operators.from_callable(f, in_shape, out_shape).",
        )
    y = as_tensor(owner, "y", data, dtype=A.dtype or torch.float32, device=A.device or torch.device("cpu"))
    batched = tuple(y.shape) != tuple(A.out_shape)
    y = y if batched else y[None]
    check_kind(owner, "y", check_shape(owner, "y", y, A.out_shape), A.out_kind)
    if A.dtype is not None and A.dtype != kind_dtype(y.dtype, "real"):
        raise invalid_type(
            owner,
            "y",
            f"of the operator's precision, {A.dtype}",
            str(y.dtype),
            "Convert one of them: y.to(...), or A.to(dtype=...).",
        )
    if A.device is not None and A.device != y.device:
        raise invalid(owner, "y", f"on the operator's device, {A.device}", y.device, "Move it: y.to(A.device).")
    if A.batch is not None and A.batch != len(y):
        raise invalid(owner, "y", f"of {A.batch} rows, one for each item of the operator", len(y))
    if len(y) == 0:
        raise invalid(owner, "y", "of at least one row", 0)
    check_finite(owner, "y", y)
    return y, batched


def signal_dims(A: Operator, y: object) -> tuple[str, ...] | None:
    """Axis names of the signal, where the data stand for the signal itself: a DataArray to be inpainted, deblurred."""
    names = getattr(y, "dims", None)
    if not isinstance(names, tuple) or tuple(A.in_shape) != tuple(A.out_shape) or len(names) < len(A.in_shape):
        return None
    return tuple(str(name) for name in names[len(names) - len(A.in_shape) :])
