"""Distributions of one real number, for hyperparameters: a noise level, a correlation length, a gain.

Each is a monotone map of a standard normal number, so that inference can run in one coordinate without bounds.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import numbers
from invsolve.core.ownership import Owner
from invsolve.core.random import Draws
from invsolve.core.torch_state import Defined
from invsolve.core.validation import check_int, check_number, check_positive
from invsolve.errors import invalid, invalid_type

_LOG_2PI = math.log(2 * math.pi)


class Distribution(Defined, Owner, abc.ABC):
    """The distribution of a scalar. Subclasses give `transport`, `log_slope`, `log_prob`, `median` and `support`.

    ``median``: the value that half of the mass lies below. Tensors are float64.
    """

    _lends = ("transport", "log_slope", "log_prob")

    median: float

    @abc.abstractmethod
    def transport(self, z: Tensor) -> Tensor:
        """The increasing map under which a standard normal ``z`` (any shape) has this distribution; float64."""

    @abc.abstractmethod
    def log_slope(self, z: Tensor) -> Tensor:
        """Log of the derivative of `transport` at ``z``, shape of ``z``."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor | float) -> Tensor:
        """Log density at ``x``, shape of ``x``; -inf outside of the support."""

    @property
    @abc.abstractmethod
    def support(self) -> tuple[float, float]:
        """The interval that holds the values."""

    def _misplaced(self, owner: str, name: str) -> str:
        """What to do with a distribution that was given to a class in the place of a number."""
        name = name.partition("[")[0]
        if not owner[:1].isupper():
            return ""
        return (
            f"A scalar that is to be inferred belongs to a family: iv.operators.Family(make, {name}=iv.{self}), where "
            f"make({name}) returns the operator, made with {owner}({name}={name}, ...); of a prior, iv.priors.Family."
        )

    def quantile(self, u: Tensor | float) -> Tensor:
        """The value below which a share ``u`` in (0, 1) of the mass lies, shape of ``u``."""
        level = numbers(u, dtype=torch.float64)
        if not bool(((level > 0) & (level < 1)).all()):
            raise invalid(type(self).__name__, "u", "between 0 and 1, both excluded", u)
        return self.transport(torch.special.ndtri(level))

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """``n`` draws ``(n,)``; draw k depends on ``seed`` and k only."""
        owner = type(self).__name__
        n, seed = check_int(owner, "n", n, minimum=1), check_int(owner, "seed", seed)
        cpu = torch.device("cpu")
        draws = Draws.for_rows(seed, [0] * n, list(range(n)), cpu, purpose="distribution", owner=owner)
        return self.transport(draws.normal((1,), torch.float64, step=0)[:, 0])


@final
@dataclass(frozen=True)
class Normal(Distribution):
    """The normal distribution ``N(mean, std^2)``.

    Parameters
    ----------
    mean : float
        Its mean, and median.
    std : float
        Its standard deviation, > 0.

    Raises
    ------
    InputError, InputTypeError
        If ``mean`` is not finite, or ``std`` not positive.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", check_number("Normal", "mean", self.mean))
        object.__setattr__(self, "std", check_positive("Normal", "std", self.std))

    def transport(self, z: Tensor) -> Tensor:
        return self.mean + self.std * z.double()

    def log_slope(self, z: Tensor) -> Tensor:
        return torch.full_like(z, math.log(self.std), dtype=torch.float64)

    def log_prob(self, x: Tensor | float) -> Tensor:
        z = (_wide(x) - self.mean) / self.std
        return -0.5 * z.square() - math.log(self.std) - 0.5 * _LOG_2PI

    @property
    def median(self) -> float:  # type: ignore[override]
        """The mean."""
        return self.mean

    @property
    def support(self) -> tuple[float, float]:
        return -math.inf, math.inf


@final
@dataclass(frozen=True)
class LogNormal(Distribution):
    """A positive number known up to a factor: "about ``median``, give or take a factor of ``factor``".

    Two thirds (68 %) of the mass lies between ``median / factor`` and ``median * factor``, 95 % between the same with
    ``factor^2``. The logarithm is ``N(log median, (log factor)^2)``.

    Parameters
    ----------
    median : float
        Half of the mass lies below it; > 0.
    factor : float
        One standard deviation of the logarithm, as a factor; > 1. A relative error of 5 % is ``factor=1.05``.

    Raises
    ------
    InputError, InputTypeError
        If ``median`` is not positive, or ``factor`` not above 1.

    Examples
    --------
    >>> LogNormal(0.1, 2.0).quantile(0.84134475).round(decimals=6)
    tensor(0.2000, dtype=torch.float64)
    """

    median: float
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "median", check_positive("LogNormal", "median", self.median))
        factor = check_positive("LogNormal", "factor", self.factor)
        if factor <= 1:
            raise invalid("LogNormal", "factor", "above 1: one std of the logarithm, as a factor", factor)
        object.__setattr__(self, "factor", factor)

    def transport(self, z: Tensor) -> Tensor:
        return self.median * torch.exp(math.log(self.factor) * z.double())

    def log_slope(self, z: Tensor) -> Tensor:
        log_factor = math.log(self.factor)
        return math.log(self.median) + log_factor * z.double() + math.log(log_factor)

    def log_prob(self, x: Tensor | float) -> Tensor:
        value, width = _wide(x), math.log(self.factor)
        logs = value.clamp_min(0).log()
        z = (logs - math.log(self.median)) / width
        return torch.where(value > 0, -0.5 * z.square() - logs - math.log(width) - 0.5 * _LOG_2PI, -math.inf)

    @property
    def support(self) -> tuple[float, float]:
        return 0.0, math.inf


@final
@dataclass(frozen=True)
class Uniform(Distribution):
    """Equally likely anywhere in an interval.

    Parameters
    ----------
    low, high : float
        The ends of the interval, ``low`` < ``high``.

    Raises
    ------
    InputError, InputTypeError
        If an end is not finite, or ``high`` not above ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        low, high = check_number("Uniform", "low", self.low), check_number("Uniform", "high", self.high)
        if not low < high:
            raise invalid("Uniform", "high", f"above low = {low:g}", high)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def transport(self, z: Tensor) -> Tensor:
        value: Tensor = self.low + (self.high - self.low) * torch.special.ndtr(z.double())
        return value

    def log_slope(self, z: Tensor) -> Tensor:
        return math.log(self.high - self.low) - 0.5 * z.double().square() - 0.5 * _LOG_2PI

    def log_prob(self, x: Tensor | float) -> Tensor:
        value = _wide(x)
        inside = (value >= self.low) & (value <= self.high)
        return torch.full_like(value, -math.inf).masked_fill(inside, -math.log(self.high - self.low))

    @property
    def median(self) -> float:  # type: ignore[override]
        """The middle of the interval."""
        return float(self.transport(torch.zeros((), dtype=torch.float64, device="cpu")))

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high


@final
@dataclass(frozen=True)
class LogUniform(Distribution):
    """A positive number of unknown size: every factor in an interval is equally likely.

    Parameters
    ----------
    low, high : float
        The ends of the interval, ``0 < low < high``.

    Raises
    ------
    InputError, InputTypeError
        If an end is not positive, or ``high`` not above ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        low, high = check_positive("LogUniform", "low", self.low), check_positive("LogUniform", "high", self.high)
        if not low < high:
            raise invalid("LogUniform", "high", f"above low = {low:g}", high)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def _width(self) -> float:
        return math.log(self.high / self.low)

    def transport(self, z: Tensor) -> Tensor:
        # exp(log 0.1) may fall below 0.1 by a rounding; the support is a promise.
        return (self.low * torch.exp(self._width * torch.special.ndtr(z.double()))).clamp(self.low, self.high)

    def log_slope(self, z: Tensor) -> Tensor:
        return self.transport(z).log() + math.log(self._width) - 0.5 * z.double().square() - 0.5 * _LOG_2PI

    def log_prob(self, x: Tensor | float) -> Tensor:
        value = _wide(x)
        inside = (value >= self.low) & (value <= self.high)
        return torch.where(inside, -value.clamp_min(self.low).log() - math.log(self._width), -math.inf)

    @property
    def median(self) -> float:  # type: ignore[override]
        """The geometric mean of ``low`` and ``high``."""
        return float(self.transport(torch.zeros((), dtype=torch.float64, device="cpu")))

    @property
    def support(self) -> tuple[float, float]:
        return self.low, self.high


def check_distribution(owner: str, name: str, value: object, repair: str = "") -> Distribution:
    """A `Distribution`, or InputTypeError."""
    if not isinstance(value, Distribution):
        expected = "a distribution (iv.LogNormal, iv.LogUniform, iv.Uniform, iv.Normal)"
        raise invalid_type(owner, name, expected, value, repair)
    return value


def _wide(x: Tensor | float) -> Tensor:
    return numbers(x, dtype=torch.float64)
