"""Noise that is independent from entry to entry: masks, sums, parameters and precision, once for all such models."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Self

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter, several
from invsolve.core.distributions import Distribution
from invsolve.core.random import DrawLike
from invsolve.core.validation import Shape, check_finite, check_number, check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.noise.base import Noise, spoken

Parameter = float | Tensor
Normal = Callable[[torch.dtype], Tensor]  # float64 or complex128 -> standard normal numbers, one for every datum


@dataclass(frozen=True, kw_only=True, eq=False)
class Entrywise(Noise):
    """Noise of real data for every entry by itself: subclasses give three elementwise functions in float64.

    These are `_log_prob`, `_information` and `_sample`. The gradient is that of `_log_prob` by autograd, which a model
    replaces by `_grad` where a formula is cheaper or where log p is minus infinity, has a kink or loses digits.
    `_expansion`, `_residual` and `_refused` are there for models that know better points, residuals and refusals.

    A subclass is a frozen dataclass whose fields are its parameters: numbers, tensors of ``out_shape`` (one per entry),
    or ``(items, *out_shape)`` where the trailing axes may be 1 (one per item). They must be positive, unless the
    subclass has a `__post_init__` of its own. `log_prob` is returned in float64, whatever the data: it is a sum of
    large terms that nearly cancel.

    Examples
    --------
    Logistic noise, with the scale s: the density is that of ``y - m``, whose std is ``pi s / sqrt(3)``.

    >>> @dataclass(frozen=True, eq=False)
    ... class Logistic(Entrywise):
    ...     scale: Parameter
    ...
    ...     def _log_prob(self, y, m):
    ...         z = (y - m) / self.scale
    ...         return -z - 2 * torch.nn.functional.softplus(-z) - wide(self.scale, m).log()
    ...
    ...     def _information(self, m):
    ...         return torch.ones_like(m) / (3 * self.scale**2)
    ...
    ...     def _sample(self, m, normal):
    ...         return m + self.scale * torch.logit(torch.special.ndtr(normal(torch.float64)))
    >>> y, m = torch.tensor([[1.0]]), torch.tensor([[0.0]])
    >>> Logistic(0.5).grad(y, m).round(decimals=4)  # -tanh(1) / 0.5
    tensor([[-1.5232]])
    """

    _lends = (*Noise._lends, "_log_prob", "_grad", "_information", "_sample", "_expansion", "_residual", "_refused")

    per_item: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in self._names:
            self._checked(name)

    # --- what a model gives -------------------------------------------------------------------------------------------
    @abc.abstractmethod
    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        """Log p(y | m) of every entry, normalised over y; ``m`` is the clean measurement."""

    @abc.abstractmethod
    def _information(self, m: Tensor) -> Tensor:
        """The Fisher information of m: the mean of the squared gradient over y."""

    @abc.abstractmethod
    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        """Data around m, made of standard normal numbers ``normal(dtype)``, one for every datum: called once."""

    # --- what a model may give ----------------------------------------------------------------------------------------
    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        """Derivative of -log p in m."""
        with torch.enable_grad():
            leaf = m.detach().expand((y - m).shape).clone().requires_grad_()
            (slope,) = torch.autograd.grad(self._log_prob(y.detach(), leaf).sum(), leaf)
        return -slope

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """`Noise.expansion`: the point around which a Gaussian stands for this noise, and the information there."""
        return m, self._information(m)

    def _residual(self, y: Tensor, m: Tensor) -> Tensor:
        """`Noise.residual`."""
        weight = self._information(m).clamp_min(torch.finfo(m.dtype).tiny)
        return -self._grad(y, m) / weight.sqrt()

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str] | None:
        """Which data are impossible, what they must be, and the likely repair; None: none is."""
        return None

    # --- the distribution ---------------------------------------------------------------------------------------------
    def log_prob(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.log_prob_each(y, clean, observed).flatten(1).sum(1)

    def log_prob_each(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return _seen(self._log_prob(y.double(), clean.double()), observed)

    def grad(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return _seen(self._grad(y.double(), clean.double()), observed).to(clean.dtype)

    def curvature(self, v: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return _seen(self._information(clean.double()) * v.double(), observed).to(v.dtype)

    def residual(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return _seen(self._residual(y.double(), clean.double()), observed).to(y.dtype)

    def expansion(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        point, weight = self._expansion(y.double(), clean.double())
        if observed is not None:
            point, weight = torch.where(observed, point, clean.double()), torch.where(observed, weight, 0.0)
        return point, weight

    def sample(self, clean: Tensor, draw: DrawLike, *, step: int = 0, index: int = 0) -> Tensor:
        def normal(dtype: torch.dtype) -> Tensor:
            return draw.normal(tuple(clean.shape[1:]), dtype, step=step, index=index)

        return self._sample(clean.double(), normal).to(clean.dtype)

    # --- parameters ---------------------------------------------------------------------------------------------------
    def check(
        self, out_shape: Shape, batch: int, dtype: torch.dtype, device: torch.device, *, owner: str | None = None
    ) -> Self:
        if dtype.is_complex:
            raise invalid_type(
                owner or type(self).__name__,
                "noise",
                "Gaussian for complex data",
                type(self).__name__,
                "Its distribution is that of real data, such as magnitudes or counts.",
            )
        found: dict[str, object] = {}
        rows = 1
        for name in self._names:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                found[name] = shaped = self._shaped(name, value, out_shape, batch, owner).to(device, torch.float64)
                rows = max(rows, len(shaped))
        return self._with(**found, per_item=rows > 1)

    def check_data(
        self, y: Tensor, observed: Tensor | None = None, *, owner: str | None = None, name: str = "y"
    ) -> None:
        found = self._refused(y.double())
        if found is None:
            return
        bad, expected, repair = found
        bad = bad if observed is None else bad & observed
        if bool(bad.any()):
            first = tuple(bad.nonzero()[0].tolist())
            given = f"{int(bad.sum())} others, the first {float(y[first]):.6g} at index {first}"
            kind = type(self).__name__
            raise invalid(owner or kind, name, f"{expected} for {kind} noise", given, repair)

    def take(self, index: Tensor) -> Self:
        rows = {name: getattr(self, name) for name in self._names}
        return self._with(
            **{
                name: value[index.to(value.device)]
                for name, value in rows.items()
                if isinstance(value, Tensor) and len(value) > 1
            }
        )

    @property
    def _names(self) -> list[str]:
        return [f.name for f in fields(self) if f.init]

    def _with(self, **values: object) -> Self:
        """A copy with these fields, which were checked before."""
        out = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(out, name, value)
        return out

    def _shaped(self, name: str, value: Tensor, out_shape: Shape, batch: int, owner: str | None) -> Tensor:
        """A parameter as ``(1 or batch, *out_shape)``, trailing axes 1 where they were; ``out_shape``: per entry."""
        shape = tuple(value.shape)
        if shape == out_shape:
            return value[None]
        per_item = len(shape) == len(out_shape) + 1 and shape[0] in (1, batch)
        if not (per_item and all(a in (1, b) for a, b in zip(shape[1:], out_shape, strict=True))):
            shapes = f"a number, or a tensor of shape {out_shape} or {(batch, *out_shape)}"
            repair = f"One number for each item has shape {(batch, *[1] * len(out_shape))}."
            raise invalid(*spoken(self, name, owner), shapes, shape, repair)
        return value

    def _checked(self, name: str, sign: str = "positive") -> None:
        """Refuse a parameter that is no finite number or real tensor: "positive", "non-negative" or of "any" sign."""
        owner, value = type(self).__name__, getattr(self, name)
        if isinstance(value, Distribution):
            repair = (
                "Of noise, the std of iv.noise.Gaussian alone may be unknown; a gain that is unknown belongs to the "
                f"operator: iv.operators.Family(lambda gain: gain * A, gain=iv.{value})."
            )
            raise invalid_type(owner, name, "a number", str(value), repair)
        if several(value):
            value = real_parameter(owner, name, value)
            object.__setattr__(self, name, value)
            check_finite(owner, name, value)
            least = float(value.min()) if value.numel() else 1.0
            if least < 0 and sign != "any" or least == 0 and sign == "positive":
                raise invalid(owner, name, sign, least)
        elif sign == "any":
            object.__setattr__(self, name, check_number(owner, name, value))
        else:
            object.__setattr__(self, name, check_positive(owner, name, value, zero=sign == "non-negative"))


def wide(value: Parameter, like: Tensor) -> Tensor:
    """A parameter as a float64 tensor on the device of ``like``; a number is filled there, a copy would stall a GPU."""
    if isinstance(value, Tensor):
        return value.to(like.device, torch.float64)
    return torch.full((), value, dtype=torch.float64, device=like.device)


def _seen(value: Tensor, observed: Tensor | None) -> Tensor:
    return value if observed is None else torch.where(observed, value, 0.0)
