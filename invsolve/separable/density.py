"""Many one-dimensional densities at once, by polynomials on intervals that are halved until they are right.

On every interval the logarithm of a density is the polynomial through its values at Gauss-Lobatto nodes; the ends are
among them, so that no step hides between an end and the first node. An interval is done when that polynomial has
converged (its last coefficients are rounding) and varies by little enough for its exponential to have converged too; or
when what is wrong there is no part of the whole. Steps, kinks, poles and narrow modes are thereby enclosed in intervals
without weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.stopping import ask

_NODES = 16
_RANGE = 6.0  # nats over an interval: its exponential is a polynomial to 1e-10 of its largest value
_SMOOTH = 1e-10  # nats: the last coefficients of a polynomial that has converged,
_ROUNDING = 1e-6  # or below this, where halving did not help: values are rounded
_ABOUT, _SPREAD = math.log(0.1), 30.0  # error, and nats over an interval, up to which its mass is known within a half
_NOTHING = math.log(1e-12)  # share of the whole at which an interval is not looked at more closely
_NEVER = -1e100  # a logarithm below which a density is 0: sums of such would overflow
_HOPELESS = 80.0  # nats below the largest value that was seen: nothing, were that peak 1e-18 wide
_EDGES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 40.0)  # of the first intervals, of either sign
_AT_ONCE = 2**14  # quantiles
_BLIND = 1 / 64  # width below which an interval without a possible node is given up (or that of its distance from 0),
_DIM, _FAR = 0.5, 8.0  # and where there are possible ones elsewhere, there or at this distance from 0
_DARK = 1e4  # distance from 0 up to which any possible node is looked for
_FARTHEST = 1e9
_LEVELS = 200  # of halving; rounding ends it before
_NEWTON = 50  # steps inside a bracket at most; five do but where a polynomial is not the density

# (number of the density (k,), where (k, nodes)) -> log of the densities there; minus infinity where it is 0
LogDensity = Callable[[Tensor, Tensor], Tensor]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Densities:
    """``count`` densities on intervals, which stand in order: those of the first density, of the second, ..."""

    count: int
    owner: Tensor  # (intervals,): the density's number
    centre: Tensor  # (intervals,)
    half: Tensor  # (intervals,): half of the width
    log: Tensor  # (intervals, nodes)
    log_mass: Tensor  # (intervals,)
    log_total: Tensor  # (count,)
    error: Tensor  # (count,): about how wrong the total is, relative

    @property
    def nodes(self) -> Tensor:
        """Where `log` was evaluated, ``(intervals, nodes)``."""
        return self.centre[:, None] + self.half[:, None] * _rule(self.centre.device).nodes

    @property
    def shares(self) -> Tensor:
        """Of every node the share of the probability, ``(intervals, nodes)``; those of a density sum to 1."""
        rule = _rule(self.centre.device)
        top = self.log.amax(1, keepdim=True)
        weights = (self.log - top.nan_to_num(neginf=0.0)).exp() * rule.weights
        each = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        return each * (self.log_mass - self.log_total[self.owner]).nan_to_num(nan=-math.inf).exp()[:, None]

    def draw(self, owner: Tensor, uniform: Tensor) -> Tensor:
        """The quantile ``uniform`` ``(k,)`` of the densities ``owner`` ``(k,)``; NaN of one without a mass."""
        rule, (first, shares, below) = _rule(self.centre.device), self._table
        out = torch.full_like(uniform, math.nan)
        for part in torch.split(torch.isfinite(self.log_total)[owner].nonzero()[:, 0], _AT_ONCE):
            if not len(part):
                continue
            own = owner[part]
            level = uniform[part, None] * below[own, -1:]
            rank = torch.searchsorted(below[own], level, right=True).clamp_max(shares.shape[1] - 1)
            share = shares[own].gather(1, rank)
            inside = ((level - (below[own].gather(1, rank) - share)) / share)[:, 0].nan_to_num(1.0).clamp(0, 1)
            place = first[own] + rank[:, 0]
            density = (self.log[place] - self.log[place].amax(1, keepdim=True)).exp() @ rule.to_coefficients.mT
            out[part] = self.centre[place] + self.half[place] * _inverse(density, inside)
        return out

    def node(self, owner: Tensor, uniform: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Some node in the interval of a quantile, and the logarithm of the density there; `shares`, made once."""
        rule, (first, _, below) = _rule(self.centre.device), self._table
        z, log = torch.full_like(uniform, math.nan), torch.full_like(uniform, math.nan)
        part = torch.isfinite(self.log_total)[owner].nonzero()[:, 0]
        if not len(part):
            return z, log
        own = owner[part]
        level = uniform[part, None] * below[own, -1:]
        rank = torch.searchsorted(below[own], level, right=True).clamp_max(below.shape[1] - 1)
        place = first[own] + rank[:, 0]
        at = (shares[place].cumsum(1) < uniform[part, None] % 1.0 * shares[place].sum(1, keepdim=True)).sum(1)
        at = at.clamp_max(shares.shape[1] - 1)
        z[part] = self.centre[place] + self.half[place] * rule.nodes[at]
        log[part] = self.log[place, at]
        return z, log

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of every density the number of its first interval; the shares of its intervals in order, and their sums."""
        first = torch.searchsorted(self.owner, torch.arange(self.count, device=self.owner.device))
        rank = torch.arange(len(self.owner), device=self.owner.device) - first[self.owner]
        width = int(rank.max()) + 1 if len(rank) else 1
        shares = torch.zeros(self.count, width, dtype=torch.float64, device=self.owner.device)
        shares[self.owner, rank] = (self.log_mass - self.log_total[self.owner]).exp()
        return first, shares, shares.cumsum(1)  # a row by itself: densities do not see each other


def resolve(log_density: LogDensity, count: int, device: torch.device) -> Densities:
    """``count`` densities, not normalised, that fade away like a standard normal one or sooner, with any modes.

    Raises `OutOfTime` where a budget says so.
    """
    cells = _Cells.first(count, device)
    best = torch.full((count,), -math.inf, dtype=torch.float64, device=device)  # the largest value that was seen
    total, error = best.clone(), best.clone()  # logarithms
    done: list[tuple[Tensor, ...]] = []
    for _ in range(_LEVELS):
        if not len(cells.owner):
            break
        ask()
        log = log_density(cells.owner, cells.nodes)
        log = torch.where((log > _NEVER) & (log < math.inf), log, -math.inf)  # NaN is never accepted
        mass, bound, rough, wrong, spread = _looked_at(log, cells)
        owner = cells.owner
        best = best.scatter_reduce(0, owner, log.amax(1), "amax")
        settled = torch.where((wrong < mass + _ABOUT) & (spread < _SPREAD), mass - math.log(2), -math.inf)
        least = torch.logaddexp(total, _log_sums(settled, owner, count))  # a bound of what there is in all
        lost = best[owner] == -math.inf  # nothing is possible so far
        small = 2 * cells.half <= torch.where(lost, _BLIND * cells.centre.abs().clamp_min(1), _DIM)
        dark = torch.isinf(mass) & cells.hint.isnan() & (small | ~lost & (cells.centre.abs() > _FAR))
        dark |= torch.isinf(mass) & cells.narrow
        smooth = (rough <= _SMOOTH) | ((rough < _ROUNDING) & (rough > cells.rough / 4))
        smooth &= spread <= _RANGE
        hopeless = dark | (bound < torch.maximum(best - _HOPELESS, least + 2 * _NOTHING)[owner])
        leaf = ~hopeless & torch.isfinite(mass) & (smooth | cells.narrow | (bound < (least + _NOTHING)[owner]))
        done.append(tuple(v[leaf] for v in (owner, cells.centre, cells.half, log, mass)))
        total = torch.logaddexp(total, _log_sums(mass[leaf], owner[leaf], count))
        error = torch.logaddexp(error, _log_sums(wrong[leaf], owner[leaf], count))
        rising = torch.isfinite(mass) | (lost & (cells.centre.abs() < _DARK))
        outward = cells.outermost & ~hopeless & rising
        cells = replace(cells, rough=rough).halved(~hopeless & ~leaf, log).joined(cells.doubled(outward))
    owner, centre, half, log, mass = (torch.cat(parts) for parts in zip(*done, strict=True))
    order = torch.argsort(centre)
    order = order[torch.argsort(owner[order], stable=True)]
    return Densities(
        count=count,
        owner=owner[order],
        centre=centre[order],
        half=half[order],
        log=log[order],
        log_mass=mass[order],
        log_total=total,
        error=(error - total).nan_to_num(nan=0.0).exp(),
    )


def first_nodes(device: torch.device) -> Tensor:
    """Where every density is looked at first, ``(k,)``."""
    return _Cells.first(1, device).nodes.flatten()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Cells:
    """Intervals that are still looked at."""

    owner: Tensor
    centre: Tensor
    half: Tensor
    outermost: Tensor  # nothing beyond it was looked at yet
    rough: Tensor  # last coefficients of the interval that it is a half of
    hint: Tensor  # a point inside that is known to be possible; NaN: none

    @classmethod
    def first(cls, count: int, device: torch.device) -> _Cells:
        edges = torch.tensor([*(-e for e in _EDGES[:0:-1]), *_EDGES], dtype=torch.float64, device=device)
        low, high = edges[:-1], edges[1:]
        return cls(
            owner=torch.arange(count, device=device).repeat_interleave(len(low)),
            centre=((low + high) / 2).repeat(count),
            half=((high - low) / 2).repeat(count),
            outermost=((low == edges[0]) | (high == edges[-1])).repeat(count),
            rough=torch.full_like(low, math.inf).repeat(count),
            hint=torch.full_like(low, math.nan).repeat(count),
        )

    @property
    def nodes(self) -> Tensor:
        return self.centre[:, None] + self.half[:, None] * _rule(self.centre.device).nodes

    @property
    def narrow(self) -> Tensor:
        """Whether halves would be rounding."""
        return self.half <= 8 * torch.finfo(torch.float64).eps * self.centre.abs()

    def halved(self, chosen: Tensor, log: Tensor) -> _Cells:
        """The halves of the ``chosen``, whose nodes had these logarithms."""
        owner, centre, half, rough = (v[chosen].repeat(2) for v in (self.owner, self.centre, self.half / 2, self.rough))
        count = int(chosen.sum())
        side = torch.ones_like(half)
        side[:count] = -1
        centre = centre + side * half
        # The most likely node of either half, else what was known of it before.
        sides = torch.cat(log[chosen].chunk(2, 1)), torch.cat(self.nodes[chosen].chunk(2, 1))
        highest, which = sides[0].max(1)
        hint = self.hint[chosen].repeat(2)
        hint = torch.where((hint - centre).abs() <= half, hint, math.nan)
        hint = torch.where(torch.isfinite(highest), sides[1].gather(1, which[:, None])[:, 0], hint)
        inside = torch.zeros_like(owner, dtype=torch.bool)
        return _Cells(owner=owner, centre=centre, half=half, outermost=inside, rough=rough, hint=hint)

    def doubled(self, chosen: Tensor) -> _Cells:
        """The next intervals outwards, as wide as their distance from 0."""
        owner, centre, half = (v[chosen] for v in (self.owner, self.centre, self.half))
        edge = centre.abs() + half
        edge = torch.where(edge < _FARTHEST, edge, math.nan)
        keep = torch.isfinite(edge)
        return _Cells(
            owner=owner[keep],
            centre=(1.5 * edge * centre.sign())[keep],
            half=(0.5 * edge)[keep],
            outermost=torch.ones_like(owner[keep], dtype=torch.bool),
            rough=torch.full_like(half[keep], math.inf),
            hint=torch.full_like(half[keep], math.nan),
        )

    def joined(self, other: _Cells) -> _Cells:
        return _Cells(**{f.name: torch.cat((getattr(self, f.name), getattr(other, f.name))) for f in fields(self)})


def _looked_at(log: Tensor, cells: _Cells) -> tuple[Tensor, ...]:
    """From the logarithms at the nodes of intervals, ``(intervals,)`` each.

    Logarithms of the mass and of a bound of it; the last coefficients, nats, less rounding; the logarithm of about what
    is wrong with the mass; how much the logarithm of the density varies.
    """
    rule, half = _rule(log.device), cells.half
    possible = torch.isfinite(log)
    whole = possible.all(1)
    known = torch.where(whole[:, None], log, 0.0)
    coefficients = known @ rule.to_coefficients.mT
    rough = 8 * coefficients[:, -3:].abs().sum(1)
    fine = coefficients @ rule.fine.mT
    spread = torch.where(whole, fine.amax(1) - fine.amin(1), math.inf)
    # Of values, and of where they are.
    rounding = 1e-15 * (known.abs().amax(1) + spread * cells.centre.abs() / half)
    highest, least = log.amax(1), torch.where(possible, log, math.inf).amin(1)
    # A density may go on rising up to a wall that cuts the interval; of a single node nothing is known.
    beyond = torch.where(possible.sum(1) > 1, highest + 2 * (highest - least) + 5, math.inf)
    between = fine.diff(n=2, dim=1).abs().amax(1) / 8  # what a parabola has above its highest of equidistant points
    top = torch.where(whole, fine.amax(1) + 1.2 * between + rough + 10 * rounding, beyond)
    mass = (half.log()[:, None] + log + rule.weights.log()).logsumexp(1)
    wrong = mass + torch.where(whole, (rough + rounding).clamp_max(1.0), 1.0).log()
    return mass, (2 * half).log() + top, rough - rounding, wrong, spread


def _log_sums(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """The logarithm of the sum of exponentials of each owner's values, ``(count,)``."""
    top = torch.full((count,), -math.inf, dtype=values.dtype, device=values.device)
    top = top.scatter_reduce(0, owner, values, "amax")
    shift = top.nan_to_num(neginf=0.0)
    sums = torch.zeros_like(top).scatter_add(0, owner, (values - shift[owner]).exp())
    return sums.log() + shift


def _inverse(density: Tensor, share: Tensor) -> Tensor:
    """Where the integral from -1 of polynomials, Legendre coefficients ``(k, nodes)``, is so much of the whole."""
    order = torch.arange(density.shape[1], device=density.device, dtype=density.dtype)
    # The integral of P_k from -1 is (P_(k+1) - P_(k-1)) / (2 k + 1), that of P_0 is P_1 + 1.
    up = density / (2 * order + 1)
    integral = torch.zeros(len(density), density.shape[1] + 1, dtype=density.dtype, device=density.device)
    integral[:, 1:] += up
    integral[:, :-2] -= up[:, 1:]
    integral[:, 0] += density[:, 0]
    wanted = share * 2 * density[:, 0]
    low, high = -torch.ones_like(share), torch.ones_like(share)
    t, done = 2 * share - 1, torch.zeros_like(share, dtype=torch.bool)
    for _ in range(_NEWTON):
        value, slope = _legendre(integral, density, t)
        above = value > wanted
        low, high = torch.where(above, low, t), torch.where(above, t, high)
        step = t - (value - wanted) / slope
        step = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        moved = ~done & ((step - t).abs() > 1e-14)
        t, done = torch.where(done, t, step), ~moved  # what is done stays, whatever the others do
        if bool(done.all()):
            break
    return t


def _legendre(integral: Tensor, density: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Values at t ``(k,)`` of two series of Legendre polynomials."""
    before, now = torch.ones_like(t), t
    value, slope = integral[:, 0] + integral[:, 1] * t, density[:, 0] + density[:, 1] * t
    for k in range(1, integral.shape[1] - 1):
        before, now = now, ((2 * k + 1) * t * now - k * before) / (k + 1)
        value = value + integral[:, k + 1] * now
        if k + 1 < density.shape[1]:
            slope = slope + density[:, k + 1] * now
    return value, slope


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Rule:
    nodes: Tensor
    weights: Tensor
    to_coefficients: Tensor  # values at the nodes to Legendre coefficients
    fine: Tensor  # coefficients to values at points in between, the ends among them


@cache
def _rule(device: torch.device) -> _Rule:
    last = np.polynomial.legendre.Legendre.basis(_NODES - 1)
    nodes = np.concatenate([[-1.0], np.sort(last.deriv().roots().real), [1.0]])
    weights = 2 / (_NODES * (_NODES - 1) * last(nodes) ** 2)
    coefficients = np.linalg.inv(np.polynomial.legendre.legvander(nodes, _NODES - 1))
    fine = np.polynomial.legendre.legvander(np.linspace(-1, 1, 2 * _NODES + 1), _NODES - 1)
    tensors = (torch.as_tensor(v, device=device) for v in (nodes, weights, coefficients, fine))
    return _Rule(**dict(zip(("nodes", "weights", "to_coefficients", "fine"), tensors, strict=True)))
