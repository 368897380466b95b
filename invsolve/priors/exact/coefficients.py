"""Distributions of one coefficient of a sparse prior: Laplace, spike and slab, and what mixtures of normals share.

Everything is one-dimensional, where it is a formula or a sum over parts; `student` holds the one that is a quadrature.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import numbers, real_parameter, several
from invsolve.core.ownership import Owner
from invsolve.core.torch_state import Defined
from invsolve.core.validation import Shape, check_finite, check_positive
from invsolve.errors import UnsupportedError, invalid
from invsolve.priors.exact.quantiles import (
    laplace_transport,
    spike_slab_inverse,
    spike_slab_transport,
    spike_slab_transport_of_numbers,
)
from invsolve.priors.exact.scale_mixtures import shares

_BLOCK = 2**21  # entries of one temporary of a mixture over parts


class ScalarLaw(Defined, Owner, abc.ABC):
    """The distribution of one coefficient c, symmetric about 0; parameters may differ from coefficient to coefficient.

    All methods are elementwise in float64; parameters are numbers or tensors that broadcast against the coefficients.
    """

    _lends = ("moments", "log_prob", "sample", "transport", "inverse")

    @abc.abstractmethod
    def moments(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of c given ``u = c + sigma z``: log density of u, posterior mean, posterior variance; ``sigma`` > 0."""

    @abc.abstractmethod
    def log_prob(self, c: Tensor) -> Tensor:
        """Log density of c itself."""

    @abc.abstractmethod
    def sample(self, z: Tensor, w: Tensor) -> Tensor:
        """A coefficient from two independent standard normal numbers."""

    @abc.abstractmethod
    def transport(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The increasing map of a standard normal ``z`` to c, and its derivative dc/dz: both as ``z``, float64."""

    def normal_parts(self, shape: Shape) -> tuple[Tensor, Tensor] | None:
        """Weights and variances ``(parts, n)`` of coefficients ``(*shape)``: mixtures of a few centred normals.

        None where they are not.
        """
        return None

    def inverse(self, c: Tensor, w: Tensor) -> Tensor:
        """A standard normal z that `transport` takes to ``c``, all as ``c``, float64; laws with `normal_parts` have it.

        Where several do, one is drawn by the standard normal ``w``.
        """
        raise AssertionError("guarded by normal_parts")  # pragma: no cover

    @property
    @abc.abstractmethod
    def variance(self) -> Tensor:
        """The variance of c, float64."""

    @property
    def detail(self) -> Tensor:
        """The smallest standard deviation that matters."""
        return self.variance.sqrt()

    def parameters(self) -> Mapping[str, Tensor]:
        return {k: numbers(v, dtype=torch.float64) for k, v in vars(self).items()}


def check_parameters(owner: str, law: ScalarLaw, *, zero: tuple[str, ...] = ()) -> None:
    """Raise unless all parameters are positive (those in ``zero``: or 0); tensors become float64, numbers floats."""
    for name, value in vars(law).items():
        if several(value):
            value = real_parameter(owner, name, value, dtype=torch.float64)
            check_finite(owner, name, value)
            if bool((value < 0).any()) or (name not in zero and bool((value == 0).any())):
                raise invalid(owner, name, "non-negative" if name in zero else "positive", float(value.min()))
            object.__setattr__(law, name, value.double())
        else:
            object.__setattr__(law, name, check_positive(owner, name, value, zero=name in zero))


@final
@dataclass(frozen=True, eq=False)
class Laplace(ScalarLaw):
    """Coefficients of density ``exp(-|c| / scale) / (2 scale)``; standard deviation ``sqrt(2) scale``.

    Parameters
    ----------
    scale : float or Tensor, shape (*shape)
        The mean of |c|, > 0, in the units of the signal; one for all coefficients or one each.

    Raises
    ------
    InputError, InputTypeError
        If a scale is not positive, finite and real.
    """

    scale: float | Tensor

    def __post_init__(self) -> None:
        check_parameters("Laplace", self)

    def moments(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Given u, c is a mixture of N(u - s^2/b, s^2) cut to c > 0 and N(u + s^2/b, s^2) cut to c < 0.
        scale = torch.as_tensor(self.scale, dtype=u.dtype, device=u.device)
        shift = sigma / scale
        plus, minus = u / sigma - shift, -u / sigma - shift  # mean / std of either part, seen from its own side
        # Both weights carry exp(-(u/s)^2/2 - (s/b)^2/2), which is left out: for s >> b it would swallow the rest.
        r = torch.sigmoid(_log_scaled_cdf(plus) - _log_scaled_cdf(minus))
        m1, v1 = _cut_normal(plus)
        m2, v2 = _cut_normal(minus)
        mean = sigma * (r * m1 - (1 - r) * m2)
        variance = sigma**2 * (r * v1 + (1 - r) * v2 + r * (1 - r) * (m1 + m2) ** 2)
        near = torch.where(plus > minus, plus, minus)  # the side of u; the other one is always negative
        log_other = -((u / sigma) ** 2) / 2 + _log_scaled_cdf(torch.where(plus > minus, minus, plus).clamp_max(0))
        log_near = torch.where(
            near > 0,
            shift**2 / 2 - u.abs() / scale + torch.special.log_ndtr(near),
            -((u / sigma) ** 2) / 2 + _log_scaled_cdf(near.clamp_max(0)),
        )
        return torch.logaddexp(log_near, log_other) - torch.log(2 * scale), mean, variance

    def log_prob(self, c: Tensor) -> Tensor:
        scale = torch.as_tensor(self.scale, dtype=c.dtype, device=c.device)
        return -c.abs() / scale - torch.log(2 * scale)

    def sample(self, z: Tensor, w: Tensor) -> Tensor:
        # -log of a uniform is exponential; ndtr of a normal number is uniform.
        size: Tensor = -torch.special.log_ndtr(z) * torch.sign(w)
        return numbers(self.scale, dtype=torch.float64, device=z.device) * size

    def transport(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return scaled(self.scale, *laplace_transport(z))

    @property
    def variance(self) -> Tensor:
        return 2 * numbers(self.scale, dtype=torch.float64) ** 2


def scaled(scale: float | Tensor, c: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """A map of unit scale and its derivative, in another scale."""
    factor = torch.as_tensor(scale, dtype=c.dtype, device=c.device)
    return factor * c, factor * slope


def _log_scaled_cdf(a: Tensor) -> Tensor:
    """``log Phi(a) + a^2 / 2``, without cancellation for a < 0."""
    tail = torch.log(torch.special.erfcx(-a.clamp_max(0) / math.sqrt(2)) / 2)
    return torch.where(a > 0, torch.special.log_ndtr(a) + a**2 / 2, tail)


def _cut_normal(a: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of N(a, 1) cut to positive numbers, without cancellation for a -> -inf."""
    # The inverse Mills ratio phi(a) / Phi(a) = sqrt(2 / pi) / erfcx(-a / sqrt 2).
    mills = math.sqrt(2 / math.pi) / torch.special.erfcx(-a / math.sqrt(2))
    # In the tail, with s = -a, the Mills ratio is Laplace's fraction 1/(s + 1/(s + 2/(s + 3/(s + ...)))) (Abramowitz &
    # Stegun 26.2.14): the mean is its part 1/(s + 2 q), and the variance 1 - mills * mean = mean (2 q - mean).
    far = a < -6.0
    s = torch.where(far, -a, 6.0)
    v = s
    for k in range(20, 2, -1):  # 18 levels leave an error below 1e-15 at s = 6
        v = s + k / v
    q = 1 / v
    tail = 1 / (s + 2 * q)
    mean = torch.where(far, tail, a + mills)
    variance = torch.where(far, tail * (2 * q - tail), 1 - mills * (a + mills))
    return mean, variance.clamp_min(0)


class ScaleMixture(ScalarLaw):
    """Mixtures of centred normals of several variances: exact, given weights and variances of the parts."""

    @abc.abstractmethod
    def parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Log weights and variances, each ``(parts, ...)`` broadcastable against ``(1, *like.shape)``."""

    def moments(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_weights, variances = self.parts(u)
        size = max(1, _BLOCK * len(u) // max(1, len(log_weights) * u.numel()))  # rows at a time
        levels = torch.split(sigma, size) if sigma.ndim and len(sigma) > 1 else [sigma] * -(-len(u) // size)
        blocks = [
            self._moments(v, s, log_weights, variances) for v, s in zip(torch.split(u, size), levels, strict=True)
        ]
        log, mean, variance = (torch.cat(part) for part in zip(*blocks, strict=True))
        return log, mean, variance

    def _moments(
        self, u: Tensor, sigma: Tensor, log_weights: Tensor, variances: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        log, kept, lost, variance = shares(u, sigma, log_weights, variances)
        return log, torch.where(kept < lost, kept * u, u - lost * u), variance * sigma**2


@final
@dataclass(frozen=True, eq=False)
class SpikeSlab(ScaleMixture):
    """Coefficients ``N(0, slab^2)`` with probability ``weight``, else ``N(0, spike^2)``: few of them matter.

    All arguments are numbers, or tensors ``(*shape)`` with one value for every coefficient.

    Parameters
    ----------
    weight : float or Tensor, shape (*shape)
        The probability that a coefficient is of the slab, > 0 and < 1.
    slab : float or Tensor, shape (*shape)
        Standard deviation of the slab, > 0, in the units of the signal.
    spike : float or Tensor, shape (*shape)
        Standard deviation of the rest, >= 0 and below ``slab``; 0, the default, is an exact zero.

    Raises
    ------
    InputError, InputTypeError
        If an argument is out of its range.
    """

    weight: float | Tensor
    slab: float | Tensor
    _: KW_ONLY
    spike: float | Tensor = 0.0

    def __post_init__(self) -> None:
        check_parameters("SpikeSlab", self, zero=("spike",))
        p = self.parameters()
        if bool((p["weight"] >= 1).any()):
            raise invalid("SpikeSlab", "weight", "below 1", float(p["weight"].max()))
        if bool((p["spike"] >= p["slab"]).any()):
            raise invalid("SpikeSlab", "spike", "below `slab`", float(p["spike"].max()))

    def parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        weight, slab, spike = (
            torch.as_tensor(v, dtype=like.dtype, device=like.device).expand(like.shape[1:])
            for v in (self.weight, self.slab, self.spike)
        )
        return (torch.stack([weight.log(), torch.log1p(-weight)])[:, None], torch.stack([slab**2, spike**2])[:, None])

    def log_prob(self, c: Tensor) -> Tensor:
        if bool((self.parameters()["spike"] == 0).any()):
            raise UnsupportedError(
                "SparsePrior: a spike of std 0 has no density. Ask for log_prob(x, sigma) with sigma > 0."
            )
        return self.moments(c, torch.zeros((), dtype=c.dtype, device=c.device))[0]

    def sample(self, z: Tensor, w: Tensor) -> Tensor:
        weight, slab, spike = (
            v.to(z.device) if isinstance(v, Tensor) else torch.full((), v, dtype=z.dtype, device=z.device)
            for v in (self.weight, self.slab, self.spike)
        )
        return z * torch.where(torch.special.ndtr(w) < weight, slab, spike)

    def transport(self, z: Tensor) -> tuple[Tensor, Tensor]:
        weight, slab, spike = self.weight, self.slab, self.spike
        if isinstance(weight, float) and isinstance(slab, float) and isinstance(spike, float):
            return spike_slab_transport_of_numbers(z, weight, slab, spike)
        values = (torch.as_tensor(v, dtype=z.dtype, device=z.device) for v in (weight, slab, spike))
        return spike_slab_transport(z, *values)

    def normal_parts(self, shape: Shape) -> tuple[Tensor, Tensor] | None:
        p = {name: value.expand(shape).flatten() for name, value in self.parameters().items()}
        return torch.stack([p["weight"], 1 - p["weight"]]), torch.stack([p["slab"], p["spike"]]).square()

    def inverse(self, c: Tensor, w: Tensor) -> Tensor:
        values = (
            torch.as_tensor(v, dtype=c.dtype, device=c.device).flatten() for v in (self.weight, self.slab, self.spike)
        )
        return spike_slab_inverse(c, w, *values)

    @property
    def variance(self) -> Tensor:
        p = self.parameters()
        return p["weight"] * p["slab"] ** 2 + (1 - p["weight"]) * p["spike"] ** 2

    @property
    def detail(self) -> Tensor:
        p = self.parameters()
        return torch.where(p["spike"] > 0, p["spike"], 0.1 * p["slab"])
