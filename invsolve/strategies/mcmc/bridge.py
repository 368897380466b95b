"""The evidence from samples of the posterior: seen from both sides of a density that was fitted to them.

Let ``f(v) = p(v) p(y | v)`` in coordinates v in which the prior has a density, and q a normal mixture near
``f / p(y)``. Two averages give the evidence: of ``f / q`` over draws from q, right wherever q reaches; and of ``q / f``
over samples of the posterior, right if these are right. Bennett's bridge (1976, J. Comput. Phys. 22, 245-268; Meng &
Wong 1996, Stat. Sinica 6, 831-860) uses both with weights that are bounded. A bias that all samples share (chains that
lag behind, a discretised prior, modes in wrong proportion) moves one average and not the other: how far they are apart
is part of the error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.core.normal_mixture import NormalMixture
from invsolve.core.random import DrawLike
from invsolve.errors import InputError
from invsolve.gaussian.evidence import Evidence
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasDensity, HasTransport
from invsolve.problem import Problem
from invsolve.strategies.mcmc.convergence import few
from invsolve.strategies.mcmc.noise_map import NoiseMap, noise_map

LARGEST = 128  # coordinates: a covariance of more says little
EVALUATIONS = 25  # of the probability flow
_HIGHER = 4.0  # times the highest level is where the finer flow starts
_FURTHEST = 1.0  # nats of error above which nothing is known
_NEXT_TO_NOTHING = 6.0  # nats by which f / q lies below its integral
_SAMPLES, _SAMPLES_A_DIMENSION = 1024, 32  # that are looked at, of many
_CHECKED = 4  # of so many draws one is mapped by the finer flow
_STEP = 10**7  # of the random numbers; no strategy takes so many steps
_AT_ONCE = 2**20  # values of the signals that are evaluated at once


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Coordinates:
    """Real coordinates of the signal in which the prior has a density: itself, or the noise it is made of."""

    problem: Problem
    prior: Prior
    noise_map: NoiseMap | None  # None: the signal
    evaluations: int  # of the probability flow, where the map is one

    @classmethod
    def of(cls, problem: Problem, prior: Prior, evaluations: int = EVALUATIONS) -> Coordinates:
        made = None if _has_own_density(prior) else noise_map(prior, evaluations)
        return cls(problem=problem, prior=prior, noise_map=made, evaluations=evaluations)

    def take(self, items: Tensor) -> Coordinates:
        """Of these items."""
        return replace(self, problem=self.problem.take(items))

    def finer(self) -> Coordinates | None:
        """With a flow in twice as many steps: what that changes is about what is wrong. None if nothing is."""
        if self.noise_map is None or isinstance(self.prior, HasTransport):
            return None
        more = 2 * self.evaluations
        return replace(self, noise_map=noise_map(self.prior, more, top=_HIGHER), evaluations=more)

    def values(self, x: Tensor) -> Tensor:
        """Of signals ``(rows, *shape)``, ``(rows, n)``."""
        if self.noise_map is None:
            return to_real(x)
        z = self.noise_map.inverse(x)
        if not isinstance(self.prior, HasTransport):  # the flow upwards is inexact: one step of iterative refinement
            z = z + (z - self.noise_map.inverse(self.noise_map(z)))
        return to_real(z)

    def log_joint(self, v: Tensor) -> Tensor:
        """``log p(v) + log p(y | v)`` of ``v`` ``(items, count, n)``, ``(items, count)`` float64; never NaN."""
        items, count, n = v.shape
        size = max(1, _AT_ONCE // (items * n))
        value = torch.cat([self._log_joint(v[:, k : k + size]) for k in range(0, count, size)], 1)
        return torch.where(value.isnan() | (value == math.inf), -math.inf, value)

    def _log_joint(self, v: Tensor) -> Tensor:
        items, count, n = v.shape
        rows = torch.arange(items, device=v.device).repeat_interleave(count)
        problem, dtype = self.problem.take(rows), self.problem.signal_dtype
        v = v.flatten(0, 1)
        z = from_real(v.to(self.problem.data.real.dtype), self.problem.shape, dtype if dtype.is_complex else None)
        if self.noise_map is None:
            assert isinstance(self.prior, HasDensity)
            x, log_prior = z, self.prior.log_prob(z, 0.0).double()
        else:
            x = self.noise_map(z)
            log_prior = -0.5 * v.square().sum(1) - 0.5 * n * math.log(2 * math.pi)
        log_likelihood = problem.noise.log_prob(problem.data, problem.operator(x), problem.operator.observed)
        return (log_prior + log_likelihood.double()).view(items, count)


def _has_own_density(prior: Prior) -> bool:
    """Of clean signals; where the prior is a transport of noise, that is used."""
    if not isinstance(prior, HasDensity) or isinstance(prior, HasTransport):
        return False
    try:
        prior.log_prob(prior.mean[None], 0.0)
    except InputError:  # of a law that fills a part of the space only
        return False
    return True


def bridged(coordinates: Coordinates, v: Tensor, weights: Tensor, draws: DrawLike, *, groups: int) -> Evidence:
    """The evidence of every item from samples ``v`` ``(items, groups * each, n)`` with ``weights``.

    Samples of a group stand together, and groups are independent of each other. ``draws`` has a row an item. Where
    nothing is known to a nat the value is NaN and its error infinite.
    """
    items, count, n = v.shape
    log, se = unknown(items, v)
    if not 0 < n <= LARGEST or count < 4 * groups:
        return Evidence(log, se)
    v, weights = v.double(), weights.double()
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    shape = (v.shape[1] // 2, n + 1)
    z = torch.stack([draws.normal(shape, torch.float64, step=_STEP, index=k) for k in range(2)], 1)
    found = [_Fitted.to(v[b], weights[b], z[b]) for b in range(items)]
    fits = {b: fit for b, fit in enumerate(found) if fit is not None}
    if not fits:
        return Evidence(log, se)
    at = torch.tensor(list(fits), device=v.device)
    here = coordinates.take(at)
    fresh = torch.stack([fit.fresh for fit in fits.values()])
    forward, backward = here.log_joint(fresh), here.log_joint(v[at])
    finer = here.finer()
    checked = None if finer is None else finer.log_joint(fresh[:, ::_CHECKED])
    for i, (b, fit) in enumerate(fits.items()):
        up = forward[i] - fit.log_fresh
        log[b], se[b] = bridge(up, backward[i] - fit.log_held, weights[b], groups)
        if checked is not None:
            change = _log_mean(checked[i] - fit.log_fresh[::_CHECKED]) - _log_mean(up[::_CHECKED])
            log[b], se[b] = log[b] + change, (se[b].square() + change.square()).sqrt()
    good = torch.isfinite(log) & (se <= _FURTHEST)
    return Evidence(torch.where(good, log, math.nan), torch.where(good, se, math.inf))


def thinned(count: int, n: int, groups: int, device: torch.device) -> Tensor:
    """Which of ``groups`` times so many samples are looked at: the same of each, as many as a mixture asks for."""
    each, most = count // groups, max(_SAMPLES, _SAMPLES_A_DIMENSION * n) // groups
    step = max(1, each // most)
    place = torch.arange(each // step, device=device) * step
    return (torch.arange(groups, device=device)[:, None] * each + place).flatten()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """Two mixtures, one from every other sample, which the rest was held back from; and as many draws from them."""

    fresh: Tensor  # (draws, n)
    log_fresh: Tensor  # (draws,): the density that each was drawn from
    log_held: Tensor  # (count,): at each sample, of the mixture that has not seen it

    @classmethod
    def to(cls, v: Tensor, weights: Tensor, z: Tensor) -> _Fitted | None:
        """From standard normal numbers ``z`` ``(2, draws, n + 1)``; None where the samples are too few."""
        even = torch.arange(len(v), device=v.device) % 2 == 0
        log_held = torch.empty_like(weights)
        fresh, log_fresh = [], []
        for k, own in enumerate((even, ~even)):
            a, b = weights[own], weights[~own]
            if not float(a.sum()) > 0 < float(b.sum()):
                return None
            q = NormalMixture.fit(v[own], a / a.sum(), v[~own], b / b.sum())
            if q is None:
                return None
            fresh.append(q.draw(z[k]))
            log_fresh.append(q.log_prob(fresh[-1]))
            log_held[~own] = q.log_prob(v[~own])
        return cls(fresh=torch.cat(fresh), log_fresh=torch.cat(log_fresh), log_held=log_held)


def bridge(up: Tensor, down: Tensor, weights: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Log of the ratio of f's integral to q's, and its error, from ``log f / q`` over both.

    ``up`` ``(draws,)`` over draws from q; ``down`` ``(count,)`` over samples of f with ``weights`` in ``groups``.
    """

    def excess(r: Tensor) -> Tensor:  # falls in r, and is zero at the answer
        return torch.sigmoid(up - r).mean() - (weights * torch.sigmoid(r - down)).sum()

    from_draws = _log_mean(up)
    if not bool(torch.isfinite(from_draws) & torch.isfinite(down).any()):
        return torch.full_like(from_draws, math.nan), torch.full_like(from_draws, math.inf)
    low, high = torch.minimum(from_draws, down.amin().clamp_min(-1e9)), torch.maximum(from_draws, down.amax())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if bool(excess(middle) > 0) else (low, middle)
    r = (low + high) / 2
    a, b = torch.sigmoid(up - r), torch.sigmoid(r - down)
    slope = (a * (1 - a)).mean() + (weights * b * (1 - b)).sum()
    mean = (weights * b).sum()
    moved = (weights * (b - mean)).view(groups, -1).sum(1)
    variance = a.var() / len(a) + groups / (groups - 1) * few(groups) ** 2 * moved.square().sum()
    # The same seen from the samples, where f is not next to nothing: there a single sample would be all that counts.
    high_up, high_down = up > r - _NEXT_TO_NOTHING, down > r - _NEXT_TO_NOTHING
    inside = high_up.double().mean().log()
    from_samples = inside - _log_mean(torch.where(high_down, -down, -math.inf), weights)
    apart = (from_draws - from_samples) / 2
    return r, (variance / slope.square() + apart.square()).sqrt()


def _log_mean(logs: Tensor, weights: Tensor | None = None) -> Tensor:
    log_weights = -math.log(len(logs)) if weights is None else weights.log()
    return torch.logsumexp(logs + log_weights, 0)


def unknown(items: int, like: Tensor) -> Evidence:
    """Of as many items."""
    log = torch.full((items,), math.nan, dtype=torch.float64, device=like.device)
    return Evidence(log, torch.full_like(log, math.inf))
