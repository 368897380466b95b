"""Markov moves of many chains in noise space, and what they need: target, metric, adaptation.

Arrays are ``(items, chains, n)``; every item has its own temperature, metric and step size, and sees no other. The
target of an item is ``N(u; 0, I) p(y | T(u))^beta``. A move whose likelihood or energy is NaN is never accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.problem import Problem
from invsolve.strategies.mcmc.limits import Limits
from invsolve.strategies.mcmc.noise_map import NoiseMap
from invsolve.strategies.mcmc.walls import Walls

_ASTRAY = 1000.0  # energy, in nats
DENSE = 512  # real unknowns up to which the metric is a dense covariance of the chains


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The likelihood as a function of the noise ``u`` ``(items, chains, n)``; ``problem`` has one row a chain.

    With a ``spread`` s above 1 the prior's noise is ``s u``: chains start so much wider than the prior, and what is
    called the likelihood here has the factor ``N(s u; 0, I) s^n / N(u; 0, I)``, which makes up for it at power 1.
    """

    problem: Problem
    noise_map: NoiseMap
    shape: tuple[int, ...]  # of the signal
    chains: int
    spread: float = 1.0
    walls: Walls | None = None  # that trajectories bounce from
    limits: Limits | None = None  # walls that are no planes
    blind: bool = False  # the likelihood does not count yet, and is not looked at: 0

    def signals(self, u: Tensor) -> Tensor:
        """``(items * chains, *shape)``."""
        return self.noise_map(self._noise(u))

    def heights(self, u: Tensor) -> Tensor:
        """How far inside of the nearest wall chains are, ``(items, chains)``."""
        if self.walls is not None:
            return self.walls.heights(u)
        assert self.limits is not None
        return self.limits.heights(self.problem.operator(self.signals(u)))

    def log_likelihood(self, u: Tensor) -> Tensor:
        """``(items, chains)``, float64; minus infinity where it is NaN or infinite."""
        if self.blind and self.limits is None:
            return u.new_zeros(u.shape[:2], dtype=torch.float64)
        problem = self.problem
        clean = problem.operator(self.signals(u))
        value = problem.noise.log_prob(problem.data, clean, problem.operator.observed)
        return self._walled(self._weighted(_never_nan(value).view(-1, self.chains), u), clean)

    def pullback(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The log likelihood and its gradient in u ``(items, chains, n)``, zero where that is not finite.

        Behind walls that are no planes it is instead the direction out of them.
        """
        if self.blind and self.limits is None:
            return self.log_likelihood(u), torch.zeros_like(u)
        problem, limits = self.problem, self.limits
        x, to_noise = self.noise_map.pullback(self._noise(u))
        clean, to_signal = problem.operator.vjp(x)
        observed = problem.operator.observed
        value = _never_nan(problem.noise.log_prob(problem.data, clean, observed)).view(u.shape[:2])
        value = self._walled(self._weighted(value, u), clean)
        slope, inside = -problem.noise.grad(problem.data, clean, observed), torch.isfinite(value)
        if limits is not None:
            free = inside & (limits.slack[:, None] > 0)
            rows = (slice(None), *[None] * (clean.ndim - 1))
            slope = torch.where(free.flatten()[rows], 0.0, slope)
            slope = torch.where(inside.flatten()[rows], slope, limits.outwards(clean))
            known = ~free
        else:
            known = inside
        grad = to_real(to_noise(to_signal(slope))).view(u.shape)
        if self.spread != 1:
            grad = self.spread * grad - (known & inside)[..., None] * (self.spread**2 - 1) * u
        # Where the likelihood ends a chain must still be able to come back: it drifts freely there.
        good = torch.isfinite(grad).all(-1) & known
        return value, torch.where(good[..., None], grad, 0.0)

    def _walled(self, value: Tensor, clean: Tensor) -> Tensor:
        return value if self.limits is None else self.limits.walled(value, clean)

    def _weighted(self, value: Tensor, u: Tensor) -> Tensor:
        if self.spread == 1:
            return value
        n, s = u.shape[-1], self.spread
        return value + n * math.log(s) - 0.5 * (s**2 - 1) * u.double().square().sum(-1)

    def _noise(self, u: Tensor) -> Tensor:
        dtype = self.problem.signal_dtype
        return from_real(
            (self.spread * u if self.spread != 1 else u).flatten(0, 1), self.shape, dtype if dtype.is_complex else None
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """Mean ``(items, 2, n)`` and root covariance ``(items, 2, n, n)`` (lower or upper factors; stds for many unknowns).

    Each half of the chains has the metric of the *other* half. One that a chain had a part in would not leave the
    target invariant: with 1,024 chains in 64 dimensions log-evidences were off by three standard errors.
    """

    mean: Tensor
    root: Tensor

    @classmethod
    def identity(cls, u: Tensor) -> Metric:
        n = u.shape[-1]
        mean = torch.zeros_like(u[:, :2])
        if n > DENSE:
            return cls(mean=mean, root=torch.ones_like(mean))
        return cls(mean=mean, root=torch.eye(n, dtype=u.dtype, device=u.device).repeat(len(u), 2, 1, 1))

    @classmethod
    def of(cls, u: Tensor, weights: Tensor, fallback: Metric) -> Metric:
        """From weighted chains (weights ``(items, chains)``). Too few of them: correlations are shrunk.

        ``fallback`` takes the place of a root that cannot be formed.
        """
        u, w = _halves(u), _half_weights(weights).to(u.dtype)
        mean = (w[..., None] * u).sum(2)
        root = _root((u - mean[:, :, None]) * w[..., None].sqrt(), w)
        return cls._crossed(mean, root, fallback)

    @classmethod
    def of_scores(cls, u: Tensor, scores: Tensor, weights: Tensor, fallback: Metric) -> Metric:
        """The inverse of the scores' second moment, weighted.

        For a Gaussian target it is the covariance, for several modes the one *within* them, and never wider than the
        covariance (Cramer & Rao).
        """
        u, w = _halves(u), _half_weights(weights).to(u.dtype)
        root = _root(_halves(scores) * w[..., None].sqrt(), w)
        if root.ndim == 3:
            root = 1 / root
        else:
            eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device).expand_as(root)
            good = torch.isfinite(root).flatten(2).all(2)[..., None, None]
            root = torch.linalg.solve_triangular(torch.where(good, root, eye), eye, upper=False).mT
            root = torch.where(good, root, torch.nan)
        return cls._crossed((w[..., None] * u).sum(2), root, fallback)

    @classmethod
    def _crossed(cls, mean: Tensor, root: Tensor, fallback: Metric) -> Metric:
        mean, root = mean.flip(1), root.flip(1)
        good = torch.isfinite(root).flatten(2).all(2) & torch.isfinite(mean).all(2)
        wide = good.view(*good.shape, *([1] * (root.ndim - 2)))
        return cls(mean=torch.where(good[..., None], mean, fallback.mean), root=torch.where(wide, root, fallback.root))

    def times(self, v: Tensor) -> Tensor:
        """``L v`` of rows ``(items, chains, n)``."""
        return (_halves(v) * self.root[:, :, None] if self.root.ndim == 3 else _halves(v) @ self.root.mT).flatten(1, 2)

    def transposed(self, v: Tensor) -> Tensor:
        return (_halves(v) * self.root[:, :, None] if self.root.ndim == 3 else _halves(v) @ self.root).flatten(1, 2)

    def whiten(self, u: Tensor) -> Tensor:
        """``L^-1 (u - mean)``."""
        away = _halves(u) - self.mean[:, :, None]
        if self.root.ndim == 3:
            return (away / self.root[:, :, None]).flatten(1, 2)
        # Roots of covariances are lower triangular, those of scores upper. A general solve would do for both, but hangs
        # on a CPU after torch.set_num_threads (torch 2.14.1).
        below, above = (torch.linalg.solve_triangular(self.root, away.mT, upper=upper) for upper in (False, True))
        upper = ~self.root.tril(-1).flatten(2).any(2)[..., None, None]
        return torch.where(upper, above, below).mT.flatten(1, 2)

    def unwhiten(self, white: Tensor) -> Tensor:
        """``mean + L white``."""
        moved = _halves(self.times(white)) + self.mean[:, :, None]
        return moved.flatten(1, 2)


def _halves(v: Tensor) -> Tensor:
    """``(items, chains, ...)`` -> ``(items, 2, chains / 2, ...)``."""
    return v.view(len(v), 2, -1, *v.shape[2:])


def _half_weights(weights: Tensor) -> Tensor:
    w = _halves(weights)
    return w / w.sum(2, keepdim=True)


def _root(scaled: Tensor, weights: Tensor) -> Tensor:
    """Lower factors of ``scaled^T scaled`` ``(items, 2, n, n)``, or its root diagonal for many unknowns; NaN without.

    ``scaled`` ``(items, 2, chains / 2, n)`` carries the roots of ``weights``, which sum to 1.
    """
    n = scaled.shape[-1]
    share = weights.square().sum(2)
    lost = (1 - share).clamp_min(1e-3)  # the correction of reliability weights
    variance = scaled.square().sum(2) / lost[..., None]
    if n > DENSE:
        return torch.where(variance > 0, variance.sqrt(), torch.nan)
    keep = (1 / (4 * n * share)).clamp(max=1.0)[..., None, None]
    covariance = keep * (scaled.mT @ scaled) / lost[..., None, None]
    covariance = covariance + torch.diag_embed((1 - keep[..., 0] + 1e-6) * variance)
    found = torch.linalg.cholesky_ex(covariance)
    return torch.where((found.info == 0)[..., None, None], found.L, torch.nan)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Chains:
    """Where the chains stand: ``u`` ``(items, chains, n)``, the log likelihood there, and its gradient in u."""

    u: Tensor
    log_likelihood: Tensor  # (items, chains), float64
    grad: Tensor  # zeros for moves without a gradient

    def where(self, accepted: Tensor, proposed: Chains) -> Chains:
        """The proposed state of the chains ``accepted`` ``(items, chains)``."""
        wide = accepted[..., None]
        return Chains(
            u=torch.where(wide, proposed.u, self.u),
            log_likelihood=torch.where(accepted, proposed.log_likelihood, self.log_likelihood),
            grad=torch.where(wide, proposed.grad, self.grad),
        )

    def take(self, parent: Tensor) -> Chains:
        """Chain ``parent[b, c]`` of every item in place c."""
        wide = parent[..., None].expand_as(self.u)
        return Chains(
            u=self.u.gather(1, wide),
            log_likelihood=self.log_likelihood.gather(1, parent),
            grad=self.grad.gather(1, wide),
        )


Normal = Callable[[int, tuple[int, ...]], Tensor]  # (index, shape per item) -> standard normal (items, *shape)


def hamiltonian(
    target: Target, chains: Chains, metric: Metric, beta: Tensor, step: Tensor, leaps: Tensor, normal: Normal
) -> tuple[Chains, Tensor]:
    """One HMC move of every chain, and its acceptance probability ``(items, chains)``.

    Duane et al. 1987; Neal 2011. Momenta are standard normal in the coordinates of the metric; ``step`` and ``leaps``
    ``(items,)`` are step size there and number of steps. One step is MALA.
    """
    shape = tuple(chains.u.shape[1:])
    p = normal(0, shape).to(chains.u.dtype)
    size = step.to(p.dtype)[:, None, None]
    heat = beta.to(p.dtype)[:, None, None]

    def force(state: Chains) -> Tensor:
        grad = state.grad
        if target.limits is not None:
            grad = torch.where((state.log_likelihood > -math.inf)[..., None], grad, 0.0)
        return metric.transposed(heat * grad - state.u)

    def energy(state: Chains, p: Tensor) -> Tensor:
        prior = 0.5 * (state.u.double().square().sum(-1) + p.double().square().sum(-1))
        return prior - heated(beta, state.log_likelihood)

    before, now = energy(chains, p), chains
    # What a trajectory may reach with the best likelihood that any chain has; one that flies off beyond that is
    # rejected, and a user's simulator does not see where to.
    best = heated(beta, chains.log_likelihood).amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).min)
    highest, lost = before + best + _ASTRAY, torch.zeros_like(before, dtype=torch.bool)
    for leap in range(int(leaps.max())):
        on = (leap < leaps)[:, None, None]  # items with fewer steps stand still
        half = p + 0.5 * size * force(now)
        if target.walls is None:
            u = now.u + size * metric.times(half)
        else:
            u, half = target.walls.drift(now.u, half, step, metric.root)
        lost |= on[..., 0] & ~(0.5 * u.double().square().sum(-1) < highest)
        u = torch.where(lost[..., None], chains.u, u)
        value, grad = target.pullback(u)
        there = Chains(u=u, log_likelihood=value, grad=grad)
        p = torch.where(on, half + 0.5 * size * force(there), p)
        if target.limits is not None:
            turning = on[..., 0] & (leap + 1 < leaps)[:, None] & (value == -math.inf)
            p = _reflected(p, metric.transposed(grad), turning)
        now = now.where(on[..., 0].expand(value.shape), there)
    if target.limits is not None:
        lost = lost | target.limits.refused(now.log_likelihood)
    gain = torch.where(lost, -math.inf, before - energy(now, p))
    return metropolis(chains, now, gain, beta, normal)


def _reflected(p: Tensor, direction: Tensor, turning: Tensor) -> Tensor:
    """Momenta mirrored at the plane across a direction, where there is one, of the chains ``turning``."""
    square = direction.square().sum(-1, keepdim=True)
    push = 2 * (p * direction).sum(-1, keepdim=True) / torch.where(square > 0, square, 1.0)
    return torch.where(turning[..., None] & (square > 0), p - push * direction, p)


def autoregressive(
    target: Target, chains: Chains, metric: Metric, beta: Tensor, step: Tensor, normal: Normal
) -> tuple[Chains, Tensor]:
    """One preconditioned Crank-Nicolson move: evaluations only.

    The proposal ``m + sqrt(1 - s^2) (u - m) + s L xi`` leaves N(m, L L^T), that of the chains themselves, invariant;
    with the prior's, N(0, I), it is that of Cotter et al. 2013 (Stat. Sci. 28, 424-446).
    """
    count, n = chains.u.shape[1:]
    # A sample covariance is too small in some directions (by 1 - sqrt(n / chains) in std): proposals narrower than the
    # target leave its tails behind, which was measured to cost 10 % of the stds.
    wide = 1 / (1 - min(0.5, math.sqrt(2 * n / count)))
    metric = Metric(mean=metric.mean, root=metric.root * wide)
    xi = normal(0, (count, n)).to(chains.u.dtype)
    s = step.to(xi.dtype).clamp_max(1.0)[:, None, None]
    white = metric.whiten(chains.u)
    moved = (1 - s**2).sqrt() * white + s * xi
    u = metric.unwhiten(moved)
    there = Chains(u=u, log_likelihood=target.log_likelihood(u), grad=chains.grad)

    def log_ratio(state: Chains, white: Tensor) -> Tensor:  # of the target to what proposals leave invariant
        gap = 0.5 * (white.double().square().sum(-1) - state.u.double().square().sum(-1))
        return heated(beta, state.log_likelihood) + gap

    gain = log_ratio(there, moved) - log_ratio(chains, white)
    if target.limits is not None:
        gain = torch.where(target.limits.refused(there.log_likelihood), -math.inf, gain)
    return metropolis(chains, there, gain, beta, normal)


def metropolis(
    before: Chains, after: Chains, log_ratio: Tensor, beta: Tensor, normal: Normal, index: int = 1
) -> tuple[Chains, Tensor]:
    """The chains that take a proposal of this log acceptance ratio, and their acceptance probabilities."""
    valid = (
        torch.isfinite(heated(beta, after.log_likelihood)) & torch.isfinite(after.u).all(-1) & ~torch.isnan(log_ratio)
    )
    log_ratio = torch.where(valid, log_ratio.clamp_max(0.0), -math.inf)
    log_uniform = torch.special.log_ndtr(normal(index, tuple(log_ratio.shape[1:])).double())
    return before.where(log_uniform < log_ratio, after), log_ratio.exp()


def heated(beta: Tensor, log_likelihood: Tensor) -> Tensor:
    """The power ``beta`` of the likelihood; 0 of it is 1, even where it is 0."""
    return torch.where(beta[:, None] > 0, beta[:, None] * log_likelihood, 0.0)


def _never_nan(value: Tensor) -> Tensor:
    value = value.double()
    return torch.where(torch.isnan(value) | (value == math.inf), -math.inf, value)
