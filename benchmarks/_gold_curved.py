"""Posteriors of curved problems with Gaussian priors: Hamiltonian Monte Carlo, and quadrature where it is enough.

float64, torch's autograd, many chains at once; two runs from different starts are pooled and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from _gold import KEPT, Chains, D, Gold
from torch import Tensor

Map = Callable[[Tensor], Tensor]
EVEN = "x -> -x"  # a symmetry of the likelihood that is used as a move


@dataclass(frozen=True, kw_only=True, eq=False)
class Curved:
    """``y = f(x) + noise * N(0, I)``, ``x = mean + root w``, ``w ~ N(0, I)``; ``f`` maps ``(rows, d)`` to ``(rows,
    m)``."""

    f: Map
    y: Tensor
    noise: float
    mean: Tensor
    root: Tensor
    even: bool = False  # f(-x) = f(x)

    def signal(self, w: Tensor) -> Tensor:
        return self.mean + w @ self.root.mT

    def white(self, x: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.root, (x - self.mean).mT, upper=False).mT

    def misfit(self, w: Tensor) -> Tensor:
        return (self.f(self.signal(w)) - self.y).square().sum(1) / (2 * self.noise**2)

    def energy(self, w: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
        """``beta`` misfit + |w|^2 / 2 and its gradient."""
        with torch.enable_grad():
            leaf = w.detach().requires_grad_()
            value = beta * self.misfit(leaf) + leaf.square().sum(1) / 2
            (grad,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), grad


def hmc(problem: Curved, *, seed: int, chains: int = 128, sweeps: int = 800, leaps: int = 12) -> Gold:
    """Two independent runs, pooled."""
    runs = [_run(problem, seed=1000 * seed + i, chains=chains // 2, sweeps=sweeps, leaps=leaps) for i in range(2)]
    # chains of the runs in alternation: the halves that are compared are the runs
    both = runs[0].merge(runs[1])
    order = torch.arange(chains).view(2, -1).mT.flatten()
    both.raw, both.smooth = both.raw[:, :, order], both.smooth[:, order]
    return both.gold(f"HMC, {chains} chains of {sweeps}, two runs")


def _run(problem: Curved, *, seed: int, chains: int, sweeps: int, leaps: int) -> Chains:
    rng = torch.Generator().manual_seed(seed)
    cloud = _annealed(problem, rng, particles=512)
    w = cloud[torch.randperm(len(cloud), generator=rng)[:chains]]
    out, step, scale = Chains(chains, len(problem.mean)), 0.3, _metric(problem, w, 1.0)
    short = min(1.0, sweeps / 600)
    windows, history = [round(short * k) for k in (100, 250, 450)], list[Tensor]()
    burn = windows[-1] + round(short * 100)
    for k in range(burn + sweeps):
        if k in windows:  # the metric from what has been seen
            scale, history = _root(torch.cat(history), problem.even), []
        w, accepted = _leapfrog(problem, w, step, leaps, scale, rng, 1.0)
        if problem.even:
            w = _mirrored(problem, w, rng)
        if k < burn:
            step = min(1.0, step * math.exp(0.1 * (accepted - 0.85)))
            history.append(w)
        else:
            x = problem.signal(w)
            out.add(x, int(k >= burn + sweeps // 2), *_both_signs(problem, x))
    return out


def _root(w: Tensor, even: bool) -> Tensor:
    """A factor of the covariance of ``w`` ``(rows, n)``."""
    if even:  # within a mode: on the side of the first principal axis
        axis = torch.linalg.eigh(w.mT @ w)[1][:, -1]
        w = w * torch.sign(w @ axis)[:, None]
    cov = torch.cov(w.mT)
    return torch.linalg.cholesky(cov + 1e-3 * torch.diag(cov.diagonal()))


def _metric(problem: Curved, w: Tensor, beta: float) -> Tensor:
    """A factor of the inverse of the average Gauss-Newton matrix of some of the rows."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: problem.f(problem.signal(v[None]))[0]))(w[:32])
    curvature = (jacobian.mT @ jacobian).mean(0) * (beta / problem.noise**2) + torch.eye(w.shape[1], dtype=D)
    values, vectors = torch.linalg.eigh(curvature)
    return vectors / values.sqrt()


def _leapfrog(
    problem: Curved, w: Tensor, step: float, leaps: int, scale: Tensor, rng: torch.Generator, beta: float
) -> tuple[Tensor, float]:
    """One HMC step in coordinates where the posterior has about unit covariance: ``w = scale v``."""
    p = torch.randn(w.shape, generator=rng, dtype=D)
    # a random length of the path, so that none is a multiple of a period
    h = step * (0.6 + 0.8 * torch.rand(len(w), 1, generator=rng, dtype=D))
    value, grad = problem.energy(w, beta)
    before, new = value + p.square().sum(1) / 2, w
    for _ in range(leaps):
        p = p - h / 2 * (grad @ scale)
        new = new + h * (p @ scale.mT)
        value, grad = problem.energy(new, beta)
        p = p - h / 2 * (grad @ scale)
    probability = (before - value - p.square().sum(1) / 2).nan_to_num(-math.inf).exp().clamp_max(1)
    taken = torch.rand(len(w), generator=rng, dtype=D) < probability
    return torch.where(taken[:, None], new, w), float(probability.mean())


def _mirrored(problem: Curved, w: Tensor, rng: torch.Generator) -> Tensor:
    """x or -x, by the prior's ratio: the likelihood is the same for both."""
    other = problem.white(-problem.signal(w))
    flip = torch.sigmoid((w.square() - other.square()).sum(1) / 2)
    return torch.where((torch.rand(len(w), generator=rng, dtype=D) < flip)[:, None], other, w)


def _both_signs(problem: Curved, x: Tensor) -> tuple[Tensor, Tensor] | tuple[()]:
    """Mean and variance over {x, -x}."""
    if not problem.even:
        return ()
    w, other = problem.white(x), problem.white(-x)
    p = torch.sigmoid((other.square() - w.square()).sum(1) / 2)[:, None]
    return (2 * p - 1) * x, 4 * p * (1 - p) * x**2


def _annealed(problem: Curved, rng: torch.Generator, particles: int) -> Tensor:
    """Particles ``(particles, n)`` taken from the prior to the posterior through powers of the likelihood: modes of
    little weight die out on the way, and both signs survive."""
    w = torch.randn(particles, len(problem.mean), generator=rng, dtype=D)
    beta, step = 0.0, 0.3
    while beta < 1:
        misfit = problem.misfit(w)
        more = _increment(misfit, 1 - beta)
        beta = 1.0 if more >= 1 - beta else beta + more
        w = w[torch.multinomial(torch.softmax(-more * misfit, 0), particles, replacement=True, generator=rng)]
        if problem.even:
            w = _mirrored(problem, w, rng)
        scale = _metric(problem, w, beta)
        for _ in range(4):
            w, accepted = _leapfrog(problem, w, step, 8, scale, rng, beta)
            step = min(1.0, step * math.exp(0.4 * (accepted - 0.8)))
    return w


def _increment(misfit: Tensor, rest: float) -> float:
    """How much of the ``rest`` of the likelihood's power leaves half of the particles effective, by bisection."""

    def effective(more: float) -> float:
        return float(1 / torch.softmax(-more * misfit, 0).square().sum())

    if effective(rest) > len(misfit) / 2:
        return rest
    low, high = math.log(rest) - 40, math.log(rest)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(math.exp(middle)) > len(misfit) / 2 else (low, middle)
    return math.exp(low)


# --- quadrature ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """A law on points ``(k, d)`` with ``weights`` ``(k,)`` of sum 1."""

    points: Tensor
    weights: Tensor

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.weights @ self.points
        centred = self.points - mean
        return mean, (self.weights[:, None] * centred).mT @ centred

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        return self.points[torch.multinomial(self.weights, n, replacement=True, generator=rng)]


def plane(misfit: Map, mean: Tensor, *, nodes: int = 801, reach: float = 7.0) -> Grid:
    """``exp(-misfit(x)) N(x; mean, I)`` in the plane by the trapezoidal rule, refined once around what has mass."""
    low, high = mean - reach, mean + reach
    for _ in range(3):
        axes = [torch.linspace(float(a), float(b), nodes, dtype=D) for a, b in zip(low, high, strict=True)]
        points = torch.cartesian_prod(*axes)
        weights = torch.softmax(-misfit(points) - (points - mean).square().sum(1) / 2, 0)
        held = points[weights > 1e-14 * weights.max()]
        pad = torch.tensor([float(a[1] - a[0]) for a in axes], dtype=D)
        low, high = held.min(0).values - 2 * pad, held.max(0).values + 2 * pad
    return Grid(points=points, weights=weights)


def product(parts: list[Grid], rotation: Tensor, seed: int) -> Gold:
    """Of ``x = rotation z`` whose blocks of z are independent."""
    rng = torch.Generator().manual_seed(seed)
    moments = [part.moments for part in parts]
    mean = rotation @ torch.cat([m for m, _ in moments])
    cov = rotation @ torch.block_diag(*[c for _, c in moments]) @ rotation.mT
    draws = torch.cat([part.draw(KEPT, rng) for part in parts], 1) @ rotation.mT
    return Gold(mean=mean, std=cov.diagonal().sqrt(), samples=draws, how="quadrature")


def funnel(y: Tensor, noise: float, rotation: Tensor, seed: int) -> Gold:
    """``y_i = exp(z_0 / 2) z_i + noise e_i``, ``z ~ N(0, I)``, ``x = rotation z``: z_0 by quadrature."""
    rng = torch.Generator().manual_seed(seed)
    z0 = torch.linspace(-12, 12, 24001, dtype=D)
    total = z0.exp() + noise**2  # variance of a datum
    log = -(z0**2) / 2 - 0.5 * (len(y) * total.log() + y.square().sum() / total)
    p = torch.softmax(log, 0)
    gain = (z0 / 2).exp() / total
    rest = noise**2 / total  # conditional variance of z_i
    mean = torch.cat([(p @ z0)[None], (p @ gain) * y])
    apart = torch.cat([z0[:, None], gain[:, None] * y], 1) - mean
    cov = (p[:, None] * apart).mT @ apart
    cov += torch.diag(torch.cat([torch.zeros(1, dtype=D), (p @ rest).expand(len(y))]))
    i = torch.multinomial(p, KEPT, replacement=True, generator=rng)
    zi = gain[i, None] * y + rest[i, None].sqrt() * torch.randn(KEPT, len(y), generator=rng, dtype=D)
    draws = torch.cat([z0[i, None], zi], 1)
    return Gold(
        mean=rotation @ mean,
        std=(rotation @ cov @ rotation.mT).diagonal().sqrt(),
        samples=draws @ rotation.mT,
        how="quadrature",
    )
