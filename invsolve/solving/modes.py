"""What lies around maxima of the posterior: how much of its mass, and where, by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from invsolve.core.normal_mixture import NormalMixture
from invsolve.core.stopping import ask
from invsolve.solving.ascent import Ends
from invsolve.solving.noise_density import NoiseDensity

ROUNDS = 3  # of draws, each from the moments of the ones before; the last counts
MOST = 12  # modes of an item that are weighed
_NOTHING = 15.0  # nats by which a mode lies below the largest, by Laplace's rule, to be left alone
_STEP = 0.5  # of differences of gradients, in stds of a mode
_FLATTEST, _STEEPEST = 0.05, 1e6  # curvature over that expected
_INSIDE = 0.9  # share of a mode that is in its region
_BLIND_SIZE = 16  # numbers of a signal up to which differences of differences are taken
_TINY = 1e-300
_FLAT = 1e-8  # of the largest variance, below which a direction of signals is none
Normal = Callable[[tuple[int, ...], int], Tensor]  # (items, *shape) of a number


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Modes:
    """Modes ``(K,)`` of all items, in noise and as regions of signals: ellipsoids that hold most of a mode each."""

    item: Tensor
    centre: Tensor  # (K, n): in noise
    root: Tensor  # (K, n, n): of the covariance there
    log_mass: Tensor  # of the joint density, in the region, and its relative error
    error: Tensor
    peak: Tensor  # (K, n): the signal of highest density
    middle: Tensor  # (K, n): mean and variance of the signals of a mode
    variance: Tensor
    axes: Tensor  # (K, n, n): signals less the middle times these are white in the region, and shorter than the radius
    radius: Tensor

    def take(self, rows: Tensor) -> Modes:
        return Modes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def inside(self, k: int, x: Tensor) -> Tensor:
        """Which of the signals ``(rows, n)`` are in the region of mode ``k``."""
        white = (x - self.middle[k]) @ self.axes[k]
        return white.square().sum(1) <= self.radius[k].square()


def modes(density: NoiseDensity, ends: Ends, normal: Normal, *, most: int, draws: int) -> Modes:
    """The ``most`` distinct ones of every item among the ``ends`` of optimisations that may hold mass, largest first.

    Each is weighed by so many ``draws``, three times over.
    """
    ends = distinct(_sharpened(density, distinct(ends, most)), most)
    if not len(ends.item):
        return _nothing(ends)
    centre, root, item = ends.u.clone(), torch.linalg.cholesky(ends.covariance), ends.item
    numbers = _numbers(item)
    x = log = drawn = ends.u.new_empty(0)
    for number in range(ROUNDS):
        ask()
        z = normal((most, draws, centre.shape[1] + 1), number)[item, numbers]
        around = [
            NormalMixture(log_weights=z.new_zeros(1), means=m[None], roots=r[None]) for m, r in _pairs(centre, root)
        ]
        u = torch.stack([q.draw(v) for q, v in zip(around, z, strict=True)])
        drawn = torch.stack([q.log_prob(v) for q, v in zip(around, u, strict=True)])
        log, x = (
            v.view(len(item), draws, *v.shape[1:])
            for v in density.value(u.flatten(0, 1), item.repeat_interleave(draws))
        )
        if number + 1 < ROUNDS:
            centre, root = _moments(u, log - drawn, centre, root)
    return _regions(ends, centre, root, density.value(ends.u, item)[1], x, log - drawn)


def _nothing(ends: Ends) -> Modes:
    """Of points that all have density 0."""
    u, one = ends.u, ends.log
    return Modes(
        item=ends.item,
        centre=u,
        root=ends.covariance,
        log_mass=one,
        error=one,
        peak=u,
        middle=u,
        variance=u,
        axes=ends.covariance,
        radius=one,
    )


def _pairs(centre: Tensor, root: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(centre, root, strict=True))


def _numbers(item: Tensor) -> Tensor:
    """The place of every mode among those of its item."""
    same = item[:, None] == item
    return same.tril(-1).sum(1)


def laplace(ends: Ends) -> Tensor:
    """About the log mass around every end."""
    root, info = torch.linalg.cholesky_ex(ends.covariance)
    log_det = torch.where(info == 0, root.diagonal(dim1=1, dim2=2).log().sum(1), -math.inf)
    return ends.log + 0.5 * ends.u.shape[1] * math.log(2 * math.pi) + log_det.nan_to_num(nan=-math.inf)


def distinct(ends: Ends, most: int) -> Ends:
    """Of every item those that differ seen from one another, the largest first; such with hardly any mass go."""
    mass, n, kept = laplace(ends), ends.u.shape[1], []
    for b in torch.unique(ends.item):
        mine = ((ends.item == b) & mass.isfinite()).nonzero()[:, 0]
        mine = mine[mass[mine].argsort(descending=True, stable=True)]
        mine = mine[mass[mine] > mass[mine[:1]] - _NOTHING] if len(mine) else mine
        own: list[Tensor] = []
        for k in mine:
            if len(own) == most:
                break
            if own:
                others = torch.stack(own)
                apart = ends.u[k] - ends.u[others]
                far = _length(ends.covariance[others], apart) > n
                far |= _length(ends.covariance[k].expand(len(own), n, n), apart) > n
                if not bool(far.all()):
                    continue
            own.append(k)
        kept += own
    return ends.take(torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64, device=ends.u.device))


def _length(covariance: Tensor, v: Tensor) -> Tensor:
    """Squared, of ``v`` ``(K, n)`` in the metrics of the covariances."""
    root = torch.linalg.cholesky_ex(covariance).L
    white: Tensor = torch.linalg.solve_triangular(root, v[..., None], upper=False)
    return white[..., 0].square().sum(1)


def _sharpened(density: NoiseDensity, ends: Ends) -> Ends:
    """With covariances from the curvature, seen half a std to both sides of the maximum."""
    count, n = ends.u.shape
    if density.blind and n > _BLIND_SIZE or not count:
        return ends
    root = torch.linalg.cholesky(ends.covariance)
    for _ in range(2):
        step = _STEP * root.mT  # (K, n, n): rows are steps along the axes
        around = torch.cat((ends.u[:, None] + step, ends.u[:, None] - step), 1).flatten(0, 1)
        grad = density.gradient(around, ends.item.repeat_interleave(2 * n))[1].view(count, 2, n, n)
        curvature = -(grad[:, 0] - grad[:, 1]) @ root / (2 * _STEP)
        curvature = 0.5 * (curvature + curvature.mT)
        values, axes = torch.linalg.eigh(curvature.nan_to_num(0.0))
        half = axes * values.clamp(_FLATTEST, _STEEPEST).rsqrt()[:, None]
        covariance = root @ half @ half.mT @ root.mT
        found = torch.linalg.cholesky_ex(covariance)
        root = torch.where((found.info == 0)[:, None, None], found.L, root)
    return Ends(u=ends.u, log=ends.log, covariance=root @ root.mT, item=ends.item)


def _moments(u: Tensor, logs: Tensor, centre: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Those of draws with weights, flattened until enough of them count; of such that cannot be used the old ones."""
    n = u.shape[2]
    enough = min(max(2 * n + 8, u.shape[1] // 8), u.shape[1] // 2)
    share = torch.ones_like(logs[:, 0])
    for _ in range(8):
        weights = torch.softmax(share[:, None] * logs, 1).nan_to_num(0.0)
        few = 1 / weights.square().sum(1).clamp_min(_TINY) < enough
        share = torch.where(few, 0.6 * share, share)
    mean = (weights[..., None] * u).sum(1)
    away = weights.sqrt()[..., None] * (u - mean[:, None])
    covariance = away.mT @ away
    found = torch.linalg.cholesky_ex(covariance + 1e-8 * torch.diag_embed(covariance.diagonal(dim1=1, dim2=2)))
    good = (found.info == 0) & found.L.isfinite().flatten(1).all(1) & mean.isfinite().all(1)
    return torch.where(good[:, None], mean, centre), torch.where(good[:, None, None], found.L, root)


def _regions(ends: Ends, centre: Tensor, root: Tensor, peak: Tensor, x: Tensor, logs: Tensor) -> Modes:
    top = logs.amax(1, keepdim=True)
    weights = (logs - top).exp().nan_to_num(0.0)
    total = weights.sum(1, keepdim=True).clamp_min(_TINY)
    share = weights / total
    middle = (share[..., None] * x).sum(1)
    away = x - middle[:, None]
    covariance = (share[..., None] * away).mT @ away
    values, axes = torch.linalg.eigh(covariance.nan_to_num(0.0))
    wide = values > _FLAT * values.amax(1, keepdim=True)
    axes = axes * torch.where(wide, values, math.inf).rsqrt()[:, None]
    length = (away @ axes).square().sum(2)
    order = length.argsort(1)
    reached = share.gather(1, order).cumsum(1) >= _INSIDE
    radius = length.gather(1, order).gather(1, reached.int().argmax(1, keepdim=True)).sqrt()
    held = torch.where(length <= radius.square(), weights, 0.0)
    mean = held.mean(1)
    error = held.std(1) / mean.clamp_min(_TINY) / math.sqrt(held.shape[1])
    return Modes(
        item=ends.item,
        centre=centre,
        root=root,
        log_mass=top[:, 0] + mean.log(),
        error=torch.where(mean > 0, error, math.inf),
        peak=peak,
        middle=middle,
        variance=covariance.diagonal(dim1=1, dim2=2),
        axes=axes,
        radius=radius[:, 0],
    )
