"""Sparse priors: independent heavy-tailed coefficients in an orthonormal transform, with exact denoisers.

The honest test beyond Gaussian priors: everything reduces to one dimension, where it is a formula or a quadrature.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, Self, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.counting import count
from invsolve.core.random import DrawLike
from invsolve.core.validation import Shape, check_choice, check_dims, check_finite, check_number, check_positive
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.base import Prior, Pullback
from invsolve.priors.exact.interpolation import Table
from invsolve.priors.exact.quantiles import (
    laplace_transport,
    spike_slab_inverse,
    spike_slab_transport,
    spike_slab_transport_of_numbers,
    student_transport,
)
from invsolve.priors.exact.scale_mixtures import TABLE_FROM, make_table, shares, tabulated
from invsolve.priors.fields.bases import SpectralModes
from invsolve.priors.fields.transforms import Transform, TransformName

if TYPE_CHECKING:
    from collections.abc import Mapping

_REACH, _HALVINGS = 9.0, 60  # of the bisection of a monotone map of normal numbers, in stds
_BLOCK = 2**21  # numbers in one temporary of a mixture over parts


class ScalarLaw(abc.ABC):
    """The law of one coefficient c, symmetric about 0; parameters may differ from coefficient to coefficient.

    All methods are elementwise in float64; parameters are numbers or tensors that broadcast against the coefficients.
    """

    @abc.abstractmethod
    def moments(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of c given ``u = c + sigma z``: log density of u, posterior mean, posterior variance; ``sigma`` > 0."""

    @abc.abstractmethod
    def log_prob(self, c: Tensor) -> Tensor:
        """Log density of c itself."""

    @abc.abstractmethod
    def sample(self, z: Tensor, w: Tensor) -> Tensor:
        """C from two independent standard normal numbers."""

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
        return {k: torch.as_tensor(v, dtype=torch.float64) for k, v in vars(self).items()}


def _check_parameters(owner: str, law: ScalarLaw, *, zero: tuple[str, ...] = ()) -> None:
    for name, value in vars(law).items():
        if isinstance(value, Tensor) and value.ndim:
            if not value.is_floating_point():
                raise invalid_type(owner, name, "real floating point", str(value.dtype))
            check_finite(owner, name, value)
            if bool((value < 0).any()) or (name not in zero and bool((value == 0).any())):
                raise invalid(owner, name, "non-negative" if name in zero else "positive", float(value.min()))
            object.__setattr__(law, name, value.double())
        else:
            object.__setattr__(law, name, check_positive(owner, name, value, zero=name in zero))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
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
        _check_parameters("Laplace", self)

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
        return torch.as_tensor(self.scale, device=z.device) * size

    def transport(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return _scaled(self.scale, *laplace_transport(z))

    @property
    def variance(self) -> Tensor:
        return 2 * torch.as_tensor(self.scale, dtype=torch.float64) ** 2


def _scaled(scale: float | Tensor, c: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
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


class _ScaleMixture(ScalarLaw):
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
@dataclass(frozen=True, kw_only=True, eq=False)
class SpikeSlab(_ScaleMixture):
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
    spike: float | Tensor = 0.0

    def __post_init__(self) -> None:
        _check_parameters("SpikeSlab", self, zero=("spike",))
        if bool((torch.as_tensor(self.weight) >= 1).any()):
            raise invalid("SpikeSlab", "weight", "below 1", float(torch.as_tensor(self.weight).max()))
        if bool((torch.as_tensor(self.spike) >= torch.as_tensor(self.slab)).any()):
            raise invalid("SpikeSlab", "spike", "below `slab`", float(torch.as_tensor(self.spike).max()))

    def parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        weight, slab, spike = (
            torch.as_tensor(v, dtype=like.dtype, device=like.device).expand(like.shape[1:])
            for v in (self.weight, self.slab, self.spike)
        )
        return (torch.stack([weight.log(), torch.log1p(-weight)])[:, None], torch.stack([slab**2, spike**2])[:, None])

    def log_prob(self, c: Tensor) -> Tensor:
        if bool((torch.as_tensor(self.spike) == 0).any()):
            raise UnsupportedError(
                "SparsePrior: a spike of std 0 has no density. Ask for log_prob(x, sigma) with sigma > 0."
            )
        return self.moments(c, torch.zeros((), dtype=c.dtype, device=c.device))[0]

    def sample(self, z: Tensor, w: Tensor) -> Tensor:
        weight, slab, spike = (torch.as_tensor(v, device=z.device) for v in (self.weight, self.slab, self.spike))
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


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Student(_ScaleMixture):
    """Coefficients ``scale`` times Student's t; standard deviation ``scale sqrt(dof / (dof - 2))``.

    Parameters
    ----------
    scale : float or Tensor, shape (*shape)
        > 0, in the units of the signal; one for all coefficients or one each.
    dof : float
        Degrees of freedom, above 2 (the variance is infinite below) and at most 100.

    Raises
    ------
    InputError, InputTypeError
        If an argument is out of its range.

    Notes
    -----
    A normal distribution whose precision is Gamma distributed: the mixture over the logarithm of the precision, by the
    trapezoidal rule, which converges exponentially for it (to 1e-10 of the density, with 190 nodes at dof = 3 and 700
    at 100).
    """

    scale: float | Tensor
    dof: float

    def __post_init__(self) -> None:
        if isinstance(self.dof, Tensor) and self.dof.ndim:
            raise invalid_type("Student", "dof", "a number", self.dof)
        dof = check_number("Student", "dof", self.dof)
        if not 2 < dof <= 100:
            raise invalid("Student", "dof", "above 2 (the variance is infinite below) and at most 100", dof)
        _check_parameters("Student", self)

    def parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        log_weights, variances = _student_nodes(self.dof)
        scale = torch.as_tensor(self.scale, dtype=like.dtype, device=like.device)
        view = (-1, *([1] * like.ndim))
        return (
            torch.as_tensor(log_weights, device=like.device).view(view),
            torch.as_tensor(variances, device=like.device).view(view) * scale**2,
        )

    def moments(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Everything depends on u / scale and sigma / scale alone: one table for every value of the latter. Not on a
        # GPU, where the look at sigma would wait for the device, and not where a graph is recorded.
        graph = torch.is_grad_enabled() and (u.requires_grad or sigma.requires_grad)
        if u.numel() < TABLE_FROM or u.device.type != "cpu" or sigma.numel() != 1 or graph:
            return super().moments(u, sigma)
        scale = torch.as_tensor(self.scale, dtype=torch.float64)
        values, which = torch.unique(scale, return_inverse=True)
        if len(values) * TABLE_FROM > u.numel():
            return super().moments(u, sigma)
        tables = [_student_moments(self.dof, float(sigma) / float(value)) for value in values]
        if any(table is None for table in tables):
            return super().moments(u, sigma)
        which = which.expand(u.shape[1:])
        out = [torch.empty_like(u) for _ in range(3)]
        for k, (value, table) in enumerate(zip(values.tolist(), tables, strict=True)):
            assert table is not None
            here = (slice(None), which == k) if len(values) > 1 else ...
            log, mean, variance = tabulated(table, u[here] / value, float(sigma) / value)
            for full, part in zip(out, (log - math.log(value), value * mean, value**2 * variance), strict=True):
                full[here] = part
        return out[0], out[1], out[2]

    def log_prob(self, c: Tensor) -> Tensor:
        scale = torch.as_tensor(self.scale, dtype=c.dtype, device=c.device)
        dof = self.dof
        constant = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(math.pi * dof)
        return constant - torch.log(scale) - (dof + 1) / 2 * torch.log1p((c / scale) ** 2 / dof)

    def sample(self, z: Tensor, w: Tensor) -> Tensor:
        from scipy.stats import gamma  # the quantile of the precision, from a uniform number

        precision = gamma.ppf(torch.special.ndtr(w.double()).cpu().numpy(), self.dof / 2, scale=2 / self.dof)
        root = torch.as_tensor(precision, device=z.device).clamp_min(1e-300).rsqrt()
        return torch.as_tensor(self.scale, device=z.device) * z * root.to(z.dtype)

    def transport(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return _scaled(self.scale, *student_transport(z, self.dof))

    @property
    def variance(self) -> Tensor:
        return torch.as_tensor(self.scale, dtype=torch.float64) ** 2 * self.dof / (self.dof - 2)


@cache
def _student_nodes(dof: float) -> tuple[Any, Any]:
    """Log weights and variances of the parts: precision p = exp(g), g on a grid.

    The density of g is ~ p^(dof/2) e^(-dof p / 2). The data narrow the distribution of g to a std of about
    sqrt(2 / (dof + 1)) around -2 ln|u|: nodes lie 0.45 of that apart, down to a precision of e^-46, where coefficients
    are 1e10 scales large.
    """
    half = dof / 2
    high = math.log(1 + 12 / math.sqrt(half) + 40 / half)
    g = np.arange(-2 * math.log(1e9) - 60 / (dof + 1), high, 0.45 * math.sqrt(1 / (half + 0.5)))
    log_density = half * (g - np.exp(g))
    log_density -= log_density.max()
    return log_density - math.log(np.exp(log_density).sum()), np.exp(-g)


@lru_cache(maxsize=64)
def _student_moments(dof: float, ratio: float) -> Table | None:
    log_weights, variances = (torch.as_tensor(v) for v in _student_nodes(dof))
    return make_table(log_weights, variances, ratio)


TransformChoice = Literal["identity", "dct", "haar"]
_NAMES: dict[str, TransformName] = {"identity": "identity", "dct": "cosine", "haar": "haar"}


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SparsePrior(Prior):
    """``x = mean + T^T c``: independent coefficients c, `Laplace`, `Student` or `SpikeSlab`, T orthonormal.

    Denoiser, Jacobian and density are exact: one-dimensional formulas (Laplace), a sum of two (spike-slab), or
    quadrature to 1e-10 (Student), evaluated in float64. A noise level for every entry has no closed form unless the
    transform is the identity: refused.

    Parameters
    ----------
    shape : tuple of int
        Shape of one signal, 1 to 3 axes.
    coefficients : Laplace, Student or SpikeSlab
        The distribution of the coefficients; its parameters are numbers or tensors ``(*shape)``, in the units of the
        signal.
    transform : {"identity", "dct", "haar"}
        T: none, the DCT-II, or Haar wavelets (axes that are powers of two).
    mean : float or Tensor, shape (*shape)
        Mean of the signal, finite; 0 by default.
    dtype : torch.dtype, optional
        float32 or float64; that of a tensor ``mean``, or float32, unless given.

    Raises
    ------
    InputError, InputTypeError
        Naming the argument that is wrong.

    Examples
    --------
    >>> prior = SparsePrior(shape=(8,), transform="dct", coefficients=Laplace(scale=0.5))
    >>> prior.sample(2, seed=0).shape
    torch.Size([2, 8])
    """

    shape: Shape
    coefficients: ScalarLaw
    transform: TransformChoice = "identity"
    mean: Tensor | float = 0.0  # type: ignore[assignment]  # a tensor once constructed
    dtype: torch.dtype | None = None  # type: ignore[assignment]
    law: GaussianLaw = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = check_dims("SparsePrior", "shape", self.shape)
        if not 1 <= len(shape) <= 3:
            raise invalid("SparsePrior", "shape", "of 1 to 3 axes", shape)
        check_choice("SparsePrior", "transform", self.transform, _NAMES)
        if not isinstance(self.coefficients, ScalarLaw):
            raise invalid_type("SparsePrior", "coefficients", "a Laplace, Student or SpikeSlab law", self.coefficients)
        for name, value in vars(self.coefficients).items():
            if isinstance(value, Tensor) and value.ndim and tuple(value.shape) != shape:
                raise invalid(
                    "SparsePrior", f"coefficients.{name}", f"a number or of shape {shape}", tuple(value.shape)
                )
        dtype = self.dtype or (self.mean.dtype if isinstance(self.mean, Tensor) else torch.float32)
        if dtype not in (torch.float32, torch.float64):
            raise invalid_type("SparsePrior", "dtype", "torch.float32 or torch.float64", str(dtype))
        mean = (
            self.mean
            if isinstance(self.mean, Tensor)
            else torch.full(shape, check_number("SparsePrior", "mean", self.mean))
        )
        if tuple(mean.shape) != shape:
            raise invalid("SparsePrior", "mean", f"a number or of shape {shape}", tuple(mean.shape))
        check_finite("SparsePrior", "mean", mean)
        mean = mean.to(dtype)
        modes = SpectralModes(
            transform=Transform(name=_NAMES[self.transform], shape=shape, dtype=dtype, device=mean.device), colour=None
        )
        variances = self.coefficients.variance.expand(shape).to(mean.device, dtype)
        for name, value in (
            ("shape", shape),
            ("dtype", dtype),
            ("mean", mean),
            ("law", GaussianLaw(mean=mean, modes=modes, variances=variances)),
        ):
            object.__setattr__(self, name, value)

    @property
    def scale(self) -> float:  # type: ignore[override]
        """The largest standard deviation of a coefficient."""
        return math.sqrt(float(self.law.variances.max()))

    @property
    def detail(self) -> float:  # type: ignore[override]
        """The smallest standard deviation of a coefficient that matters."""
        return float(self.coefficients.detail.min())

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """Log density of ``x0 + sigma z`` at ``x`` ``(batch, *shape)``, ``(batch,)`` nats, float64."""
        # The determinant of the transform is 1.
        level = self._check(x, sigma or 1.0).double()
        u = self._analysis(x)
        log = self.coefficients.moments(u, level)[0] if sigma else self.coefficients.log_prob(u)
        return log.flatten(1).sum(1)

    def mode_moments(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """`moments` in the transform, where V is diagonal: ``D(x, sigma)``, and variances ``(batch, *shape)``, float64.

        ``sigma``: a number or ``(batch,)``.
        """
        level = self._level(x, self._check(x, sigma))
        count("denoise", len(x))
        _, mean, variance = self.coefficients.moments(self._analysis(x), level)
        return self._synthesis(mean), variance

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return replace(self, mean=self.law.mean.to(device=device, dtype=dtype), dtype=dtype or self.dtype)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._synthesis(self.coefficients.moments(self._analysis(x), self._level(x, sigma))[1])

    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pullback]:
        level = self._level(x, sigma)
        _, mean, variance = self.coefficients.moments(self._analysis(x), level)
        gain = variance / level**2  # Tweedie: dD/du = Var / sigma^2, diagonal in the transform
        transform = self._transform

        def pull(v: Tensor) -> Tensor:
            return transform.inverse((gain * transform.forward(v).double()).to(v.dtype))

        return self._synthesis(mean), pull

    def _moments(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        if sigma.shape[1:].numel() > 1:  # a level for every entry
            return super()._moments(x, sigma)
        _, mean, variance = self.coefficients.moments(self._analysis(x), self._level(x, sigma))
        unit = torch.eye(x[0].numel(), dtype=torch.float64, device=x.device).to(x.dtype)
        T = self._transform.inverse(unit.view(-1, *self.shape)).flatten(1).double()  # rows T^T e_k
        return self._synthesis(mean), (T.mT * variance.flatten(1)[:, None]) @ T

    def _sample(self, n: int, draws: DrawLike) -> Tensor:
        z, w = (draws.normal(self.shape, torch.float64, step=0, index=i) for i in range(2))
        return self._synthesis(self.coefficients.sample(z, w))

    def _transport(self, z: Tensor) -> tuple[Tensor, Pullback]:
        c, slope = self.coefficients.transport(z.double())
        transform = self._transform

        def pull(v: Tensor) -> Tensor:
            return (slope * transform.forward(v).double()).to(v.dtype)

        return self._synthesis(c), pull

    def _inverse_transport(self, x: Tensor) -> Tensor:
        c = self._analysis(x)
        low, high = torch.full_like(c, -_REACH), torch.full_like(c, _REACH)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = self.coefficients.transport(middle)[0] > c
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2).to(x.dtype)

    @property
    def _transform(self) -> Transform:
        assert isinstance(self.law.modes, SpectralModes)
        return self.law.modes.transform

    def _analysis(self, x: Tensor) -> Tensor:
        return self._transform.forward(x - self.mean).double()

    def _synthesis(self, u: Tensor) -> Tensor:
        return self.mean + self._transform.inverse(u.to(self.law.mean.dtype))

    def _level(self, x: Tensor, sigma: Tensor) -> Tensor:
        if sigma.shape[1:].numel() > 1 and self.transform != "identity":
            raise invalid(
                "SparsePrior", "sigma", f"0-d or ({len(x)},) in a transform that mixes entries", tuple(sigma.shape)
            )
        return sigma.double()
