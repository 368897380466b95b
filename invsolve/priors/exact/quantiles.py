"""Maps of a standard normal number to a scalar law: ``c(z) = F^-1(Phi(z))`` and dc/dz, elementwise in float64.

All laws are symmetric, so that c is odd. Everything is computed from the upper tail ``Phi(-|z|)`` or, near 0, from
``erf``: nothing cancels, and ``1 - Phi`` never appears.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invsolve.priors.exact.interpolation import Table

_SQRT2 = math.sqrt(2)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_TABLE_END = 40.0
_BLOCK = 2**14  # numbers at a time: their temporaries stay in the cache
_ROUND = 1e-12
_NEWTON = 16  # steps: 12 do for spikes down to 1e-8 of the slab at any weight, most need 4


def laplace_transport(z: Tensor) -> tuple[Tensor, Tensor]:
    """For the density ``exp(-|c|) / 2``: ``|c| = -log(2 Phi(-|z|))``."""
    a = z.abs() / _SQRT2
    scaled = torch.special.erfcx(a)  # 2 Phi(-|z|) = erfc(a) = exp(-a^2) erfcx(a)
    size = torch.where(a < 0.5, -torch.log1p(-torch.erf(a.clamp_max(0.5))), a**2 - torch.log(scaled))
    return torch.copysign(size, z), math.sqrt(2 / math.pi) / scaled


def spike_slab_transport_of_numbers(z: Tensor, weight: float, slab: float, spike: float) -> tuple[Tensor, Tensor]:
    """As `spike_slab_transport`, for numbers: Newton's method starts from a cached table and takes one step.

    Beyond |z| = 40, with probability 1e-349, where the table ends, c is within some 1e-5 only.
    """
    values = tuple(torch.full((), v, dtype=z.dtype, device=z.device) for v in (weight, slab, spike))
    if spike == 0:
        return _dirac_transport(z, *values[:2])
    table = _spike_slab_table(weight, spike / slab)
    if table is None:
        return spike_slab_transport(z, *values)
    table = table.to(z.device)
    tails = _Tails(*values)
    parts = []
    for part in torch.split(z.flatten(), _BLOCK):
        size = part.abs()
        t = slab * size * table(size)[0].exp()
        t = t + tails.newton(t, size)[0]
        slope = torch.exp(-0.5 * size**2 - _LOG_SQRT_2PI - tails.log_density(t))
        parts.append(torch.stack([torch.copysign(t, part), slope]))
    c, slope = torch.cat(parts, 1).view(2, *z.shape)
    return c, slope


@lru_cache(maxsize=64)
def _spike_slab_table(weight: float, ratio: float) -> Table | None:
    """``log(c / z)`` for a slab of 1 and a spike of ``ratio``; None where it bends too sharply for a table."""
    values = [torch.tensor(v, dtype=torch.float64, device="cpu") for v in (weight, 1.0, ratio)]

    def function(z: Tensor) -> Tensor:
        z = z.clamp_min(1e-6)  # the limit at 0, to 1e-12
        return (spike_slab_transport(z, *values)[0] / z).log()[:, None]

    return Table.make(
        function,
        _TABLE_END,
        buckets=4 * round(_TABLE_END),
        tolerance=1e-9,
        limit=2**15,
        error=lambda z, found, true: (found - true).abs().amax(1),
    )


def spike_slab_transport(z: Tensor, weight: Tensor, slab: Tensor, spike: Tensor) -> tuple[Tensor, Tensor]:
    """For ``weight N(0, slab^2) + (1 - weight) N(0, spike^2)``, 0 <= spike < slab; tensors that broadcast to ``z``.

    With spike = 0 the map is 0, and so is its derivative, where ``Phi(-|z|) > weight / 2``. Else ``t = |c|`` solves
    ``S(t) = Phi(-|z|)``, S the mixture of tails, which lies between the solutions for either part alone and for twice
    it: Newton's method on S (near 0, where S is convex) or log S, kept inside that bracket.
    """
    size = z.abs()
    target = torch.special.log_ndtr(-size)
    log_w, log_v = torch.log(weight), torch.log1p(-weight)
    at_slab = slab * _upper_quantile(target - log_w)
    # The rounding of quantiles near 0 must not cut the solution off.
    low = torch.maximum(at_slab - _ROUND * slab, spike * (_upper_quantile(target - log_v) - _ROUND))
    low = torch.maximum(low, spike * size)
    high = torch.maximum(
        slab * (_upper_quantile(target - log_w - math.log(2)) + _ROUND),
        spike * (_upper_quantile(target - log_v - math.log(2)) + _ROUND),
    )
    high = torch.maximum(torch.minimum(high, slab * size), low)
    tails = _Tails(weight, slab, torch.where(spike > 0, spike, slab))  # a spike of 0 is solved by the first start
    t = low
    for _ in range(_NEWTON):
        step, left = tails.newton(t, size)
        low, high = torch.where(left, t, low), torch.where(left, high, t)
        newton = t + step
        t = torch.where((newton >= low) & (newton <= high), newton, (low * high).sqrt())
    slope = torch.exp(-0.5 * size**2 - _LOG_SQRT_2PI - tails.log_density(t))
    c0, slope0 = _dirac_transport(z, weight, slab)
    return torch.where(spike == 0, c0, torch.copysign(t, z)), torch.where(spike == 0, slope0, slope)


def spike_slab_inverse(c: Tensor, w: Tensor, weight: Tensor, slab: Tensor, spike: Tensor) -> Tensor:
    """The z whose `spike_slab_transport` is ``c``.

    With spike = 0 every |z| up to some end has c = 0: there, z is drawn from the normal distribution between these
    ends, by the standard normal ``w``.
    """
    t = c.abs()
    narrow = torch.where(spike > 0, spike, slab)
    inner = torch.where(spike > 0, torch.log1p(-weight) + torch.special.log_ndtr(-t / narrow), -math.inf)
    log_s = torch.logaddexp(weight.log() + torch.special.log_ndtr(-t / slab), inner)
    between = weight * torch.erf(t / (slab * _SQRT2)) + (1 - weight) * torch.erf(t / (narrow * _SQRT2))
    near = (between < 0.5) & (spike > 0)
    z = torch.where(near, _SQRT2 * torch.erfinv(torch.where(near, between, 0.0)), _upper_quantile(log_s))
    # Phi(z) is uniform between weight / 2 and 1 - weight / 2; from the lower side, where nothing cancels.
    dead = torch.special.ndtri(weight / 2 + (1 - weight) * torch.special.ndtr(-w.abs()))
    return torch.where((spike == 0) & (c == 0), torch.copysign(dead, w), torch.copysign(z, c))


def _dirac_transport(z: Tensor, weight: Tensor, slab: Tensor) -> tuple[Tensor, Tensor]:
    """The map for a spike of 0: ``weight Phi(-t / slab) = Phi(-|z|)`` where that has a solution."""
    size = z.abs()
    t = _upper_quantile(torch.special.log_ndtr(-size) - torch.log(weight))
    slope = slab / weight * torch.exp(0.5 * (t - size) * (t + size))  # phi(z) / f(c)
    return torch.copysign(slab * t, z), torch.where(t == 0, 0.0, slope)


class _Tails:
    """The upper tail S and the density of the mixture at t >= 0."""

    def __init__(self, weight: Tensor, slab: Tensor, spike: Tensor) -> None:
        self.parts = ((weight, torch.log(weight), slab), (1 - weight, torch.log1p(-weight), spike))

    def log_density(self, t: Tensor) -> Tensor:
        return torch.logaddexp(*(log - 0.5 * (t / s) ** 2 - torch.log(s) for _, log, s in self.parts)) - _LOG_SQRT_2PI

    def newton(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The step of Newton's method for ``S(t) = Phi(-z)``, and where t is too small."""
        log_f = self.log_density(t)
        log_s = torch.logaddexp(*(log + torch.special.log_ndtr(-t / s) for _, log, s in self.parts))
        tail = log_s - torch.special.log_ndtr(-z)
        between = sum((w * torch.erf(t / (s * _SQRT2)) for w, _, s in self.parts), -torch.erf(z / _SQRT2))
        near = z < 1
        step = torch.where(near, -between / (2 * log_f.exp()), tail * (log_s - log_f).exp())
        return step, torch.where(near, between < 0, tail > 0)


def _upper_quantile(log_p: Tensor) -> Tensor:
    """T >= 0 with ``log Phi(-t) = log_p``; 0 where log_p > log(1/2)."""
    inside = ~(log_p >= -math.log(2))  # NaN stays NaN
    log_p = torch.where(inside, log_p, -math.log(2))
    t = -torch.special.ndtri(log_p.clamp_min(-600.0).exp())
    far = log_p < -600.0
    s = torch.where(far, t, 40.0)
    for _ in range(5):  # each step divides the error by t^2 > 1,000
        w = s**-2  # Phi(-s) = phi(s) / s (1 - w + 3 w^2 - 15 w^3 + ...)
        square = -2 * (log_p + _LOG_SQRT_2PI + torch.log(s) - torch.log1p(-w * (1 - 3 * w * (1 - 5 * w))))
        s = torch.where(far, square, 1600.0).sqrt()
    return torch.where(inside, torch.where(far, s, t).clamp_min(0), 0.0)


_CELL = 1 / 32
_END = 48.0  # beyond it, with probability 1e-501, the last polynomial goes on: log c is quadratic in z there


def student_transport(z: Tensor, dof: float) -> tuple[Tensor, Tensor]:
    """For Student's t with ``dof`` degrees of freedom: a table of ``asinh(c / sqrt(dof))``, to 1e-11 of c."""
    size = z.abs()
    index = (size.nan_to_num(0.0, posinf=_END).clamp_max(_END) / _CELL).long()
    d = size / _CELL - index
    table = torch.as_tensor(_student_table(dof), device=z.device)[index]
    p, slope = table[..., 5], torch.zeros_like(d)
    for k in range(4, -1, -1):
        slope = slope * d + p
        p = p * d + table[..., k]
    root = math.sqrt(dof)
    return torch.copysign(root * torch.sinh(p), z), root / _CELL * torch.cosh(p) * slope


@cache
def _student_table(dof: float) -> Any:
    """Quintic Hermite coefficients of ``s(z) = asinh(c(z) / sqrt(dof))`` ``(cells + 1, 6)``, from exact derivatives."""
    z = np.arange(round(_END / _CELL) + 1) * _CELL
    c = np.array(_student_quantiles(z, dof))
    root = np.hypot(c, math.sqrt(dof))
    constant = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(math.pi * dof)
    log_f = constant - (dof + 1) * (np.log(root) - 0.5 * math.log(dof))
    slope = np.exp(-0.5 * z**2 - _LOG_SQRT_2PI - log_f)  # dc/dz = phi / f
    ratio = slope / root
    bend = ratio * (-z + ratio * (dof + 1) * (c / root)) - ratio**2 * (c / root)  # s'' by d log f / dc
    s, s1, s2 = np.arcsinh(c / math.sqrt(dof)), _CELL * ratio, _CELL**2 * bend
    gap = s[1:] - s[:-1] - s1[:-1] - s2[:-1] / 2
    gap1 = s1[1:] - s1[:-1] - s2[:-1]
    gap2 = s2[1:] - s2[:-1]
    high = np.stack([10 * gap - 4 * gap1 + gap2 / 2, -15 * gap + 7 * gap1 - gap2, 6 * gap - 3 * gap1 + gap2 / 2], -1)
    return np.concatenate([np.stack([s, s1, s2 / 2], -1), np.concatenate([high, np.zeros((1, 3))])], -1)


def _student_quantiles(z: Any, dof: float) -> Any:
    """c(z) for z >= 0, from the incomplete beta function; its first terms where the tail underflows."""
    from scipy import special

    half = dof / 2
    # 1 - 2 S = I(1/2, half; c^2 / (dof + c^2)) near 0, and 2 S = I(half, 1/2; x) with x = dof / (dof + c^2) beyond.
    near = z < 1
    x = np.where(near, special.betainccinv(0.5, half, special.erf(z / _SQRT2)), 1.0)
    small = special.betaincinv(0.5, half, special.erf(np.where(near, z, 0.0) / _SQRT2))
    middle = ~near & (z < 30)
    x = np.where(middle, special.betaincinv(half, 0.5, special.erfc(np.where(middle, z, 1.0) / _SQRT2)), x)
    # I(half, 1/2; x) = x^half / (half B(half, 1/2)) (1 + half/(half + 1) x/2 + half/(half + 2) 3 x^2/8 + ...)
    log_tail = math.log(2) + special.log_ndtr(-z)
    log_front = math.log(half) + special.betaln(half, 0.5)
    log_x = (log_tail + log_front) / half
    for _ in range(6):
        tail = np.exp(log_x)
        log_x = (
            log_tail
            + log_front
            - np.log1p(half * tail * (0.5 / (half + 1) + 0.375 * tail / (half + 2) + 0.3125 * tail**2 / (half + 3)))
        ) / half
    log_x = np.where(z < 30, np.log(x), log_x)
    c = math.sqrt(dof) * np.exp(-0.5 * log_x) * np.sqrt(-np.expm1(log_x))
    return np.where(near, math.sqrt(dof) * np.sqrt(small / (1 - small)), c)
