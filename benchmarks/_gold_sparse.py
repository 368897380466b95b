"""Exact posteriors of sparse coefficients seen through a matrix, by Gibbs sampling; numpy and torch, float64.

``y = K c + s e`` with independent coefficients c, and the signal ``x = T^T c``, T orthonormal. Laplace and Student
laws are normal given a variance for every coefficient: alternate draws of all c and of all variances (Park & Casella
2008, JASA 103, 681; Geweke 1993, J. Appl. Econometrics 8, S19). Spike and slab: the coefficients are integrated out,
and a chain walks over supports (George & McCulloch 1997, Statistica Sinica 7, 339); few coefficients: all supports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from _gold import Chains, D, Gold
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Law:
    """``family`` "laplace" (scale), "student" (scale, dof), or "spike-slab" (slab, spike, weight of the slab)."""

    family: str
    scale: float = 1.0
    dof: float = 0.0
    spike: float = 0.0
    weight: float = 0.0


def cosine_basis(n: int) -> Tensor:
    """Orthonormal DCT-II, a row for every mode."""
    i = np.arange(n)
    matrix = math.sqrt(2 / n) * np.cos(math.pi / n * np.outer(i, i + 0.5))
    matrix[0] /= math.sqrt(2)
    return torch.tensor(matrix, dtype=D)


def haar_basis(n: int) -> Tensor:
    """Orthonormal Haar functions: the mean, then details from the coarsest to the finest, each positive first."""
    rows, width = [np.full(n, 1 / math.sqrt(n))], n
    while width > 1:
        for start in range(0, n, width):
            row = np.zeros(n)
            row[start : start + width // 2] = 1 / math.sqrt(width)
            row[start + width // 2 : start + width] = -1 / math.sqrt(width)
            rows.append(row)
        width //= 2
    return torch.tensor(np.array(rows), dtype=D)


def basis(transform: str, shape: tuple[int, ...]) -> Tensor:
    """T ``(n, n)`` over the flattened signal: the product of one-dimensional bases."""
    out = torch.ones(1, 1, dtype=D)
    for n in shape:
        one = {"dct": cosine_basis, "haar": haar_basis, "identity": lambda n: torch.eye(n, dtype=D)}[transform](n)
        out = torch.kron(out, one)
    return out


def gibbs(
    matrix: Tensor,
    y: Tensor,
    noise: float,
    T: Tensor,
    law: Law,
    *,
    seed: int,
    effort: float = 1.0,
    tempered: bool = True,
) -> Gold:
    """The posterior of x, ``matrix`` ``(m, n)`` and ``y`` ``(m,)`` real. ``effort`` scales the number of sweeps;
    ``tempered``: parallel tempering for supports that a chain seldom leaves."""
    if law.family == "spike-slab":
        return _spike_slab(matrix, y, noise, T, law, seed=seed, effort=effort, tempered=tempered)
    return _scale_mixture(matrix, y, noise, T, law, seed=seed, effort=effort)


def _scale_mixture(matrix: Tensor, y: Tensor, noise: float, T: Tensor, law: Law, *, seed: int, effort: float) -> Gold:
    rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    chains, n = 32, len(T)
    burn, sweeps = 200, max(400, int(4000 * effort))
    K = matrix @ T.mT
    gram, h = K.mT @ K / noise**2, K.mT @ y / noise**2
    spread = 10.0 ** torch.tensor(rng.uniform(-1, 1, (chains, n)), dtype=D)  # starts far from each other
    c = law.scale * spread * torch.randn(chains, n, dtype=D, generator=torch_rng)
    out = Chains(chains, n)
    for k in range(burn + sweeps):
        precision = gram + torch.diag_embed(_precisions(c, law, rng))
        W = torch.linalg.solve_triangular(torch.linalg.cholesky(precision), T.expand(chains, n, n), upper=False)
        # precision^-1 in the basis of the signal is W^T W
        mean = (W.mT @ (W @ (T.mT @ h))[..., None])[..., 0]
        x = mean + (W.mT @ torch.randn(chains, n, 1, dtype=D, generator=torch_rng))[..., 0]
        c = x @ T.mT
        if k >= burn:
            out.add(x, int(k >= burn + sweeps // 2), mean, W.square().sum(1))
    return out.gold(f"Gibbs, {chains} chains of {sweeps}")


def _precisions(c: Tensor, law: Law, rng: np.random.Generator) -> Tensor:
    """1 / variance of every coefficient, given the coefficients."""
    size = np.abs(c.numpy()) / law.scale
    if law.family == "student":
        value = rng.gamma((law.dof + 1) / 2, 2 / (law.dof + size**2))
    else:  # inverse Gaussian of mean 1 / |c| and shape 1 (Michael, Schucany & Haas 1976, American Statistician 30, 88)
        size = size.clip(1e-12)
        w = rng.standard_normal(size.shape) ** 2 / (2 * size)
        root = 1 + w + np.sqrt(w**2 + 2 * w)
        value = np.where(rng.random(size.shape) < root / (1 + root), 1 / root, root) / size
    return torch.tensor(value.clip(1e-12, 1e12) / law.scale**2, dtype=D)


def all_supports(matrix: Tensor, y: Tensor, noise: float, T: Tensor, law: Law, *, seed: int, draws: int = 4096) -> Gold:
    """The posterior of a spike-slab law as the mixture over all ``2^n`` supports that it is: exact, for n up to 16."""
    n, m = len(T), len(y)
    K = matrix @ T.mT
    on = (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1
    logs, means, seconds = [], [], torch.zeros(n, n, dtype=D)
    log_odds = math.log(law.weight / (1 - law.weight))
    top = -math.inf
    for part in on.split(2048):
        variance = torch.where(part > 0, law.scale**2, law.spike**2).to(D)
        root = torch.linalg.cholesky((K * variance[:, None]) @ K.mT + noise**2 * torch.eye(m, dtype=D))
        both = torch.linalg.solve_triangular(root, torch.cat([K, y[:, None]], 1).expand(len(root), -1, -1), upper=False)
        white, z = both[..., :-1], both[..., -1:]
        mean = variance * (white.mT @ z)[..., 0]
        log = log_odds * part.sum(1) - root.diagonal(dim1=1, dim2=2).log().sum(1) - z.square().sum((1, 2)) / 2
        high = max(top, float(log.max()))
        w = (log - high).exp()
        scaled = white * variance[:, None]
        covariance = torch.diag(w @ variance) - torch.einsum("k,kmi,kmj->ij", w, scaled, scaled)
        seconds = math.exp(top - high) * seconds + covariance + (w[:, None] * mean).mT @ mean
        top = high
        logs.append(log)
        means.append(mean)
    w = torch.softmax(torch.cat(logs), 0)
    mean = w @ torch.cat(means)
    covariance = seconds / (torch.cat(logs) - top).exp().sum() - mean[:, None] * mean
    rng = torch.Generator().manual_seed(seed)
    chosen = on[torch.multinomial(w, draws, replacement=True, generator=rng)]
    variance = torch.where(chosen > 0, law.scale**2, law.spike**2).to(D)
    c = variance.sqrt() * torch.randn(draws, n, dtype=D, generator=rng)
    residual = y - c @ K.mT - noise * torch.randn(draws, m, dtype=D, generator=rng)
    S = (K * variance[:, None]) @ K.mT + noise**2 * torch.eye(m, dtype=D)
    c = c + variance * (torch.linalg.solve(S, residual[..., None])[..., 0] @ K)
    std = (T * (covariance @ T)).sum(0).sqrt()
    return Gold(mean=mean @ T, std=std, samples=c @ T, how=f"all {2**n} supports")


LADDER = (1.0, 0.75, 0.55, 0.4, 0.28, 0.18)  # powers of the likelihood


def _spike_slab(
    matrix: Tensor, y: Tensor, noise: float, T: Tensor, law: Law, *, seed: int, effort: float, tempered: bool
) -> Gold:
    """With ``S = s^2 I + K D K^T``: ``Q = K^T S^-1 K`` and ``q = K^T S^-1 y`` say what any flip of the support does to
    ``p(y | support)``; a flip is a change of rank one of both. Parallel tempering: every chain is a ladder of powers of
    ``p(y | support)``, whose neighbours are exchanged; the first rung is what counts.
    """
    rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    ladder = LADDER if tempered else (1.0,)
    ladders, rungs, n, thin = (16 if tempered else 64), len(ladder), len(T), 3
    burn, sweeps = 300, max(300, int(3600 * effort))
    K, gap = matrix @ T.mT, law.scale**2 - law.spike**2
    rates = np.linspace(0.02, 0.98, ladders)[rng.permutation(ladders)].repeat(rungs)[:, None]  # nearly empty to full
    walk = _Supports(
        on=rng.random((ladders * rungs, n)) < rates,
        gap=gap,
        odds=math.log(law.weight / (1 - law.weight)),
        rng=rng,
        power=np.tile(ladder, ladders),
    )
    order = np.arange(ladders * rungs).reshape(ladders, rungs)  # which row is on which rung
    out = Chains(ladders, n)
    for k in range(burn + sweeps):
        if k % thin == 0:  # afresh, so that roundings do not pile up
            variance = torch.where(torch.tensor(walk.on), law.scale**2, law.spike**2).to(D)
            S = (K * variance[:, None]) @ K.mT + noise**2 * torch.eye(len(y), dtype=D)
            root = torch.linalg.cholesky(S)
            both = torch.cat([K, y[:, None]], 1).expand(len(S), -1, -1)
            both = torch.linalg.solve_triangular(root, both, upper=False)
            white, z = both[..., :-1], both[..., -1:]
            Q, q = white.mT @ white, (white.mT @ z)[..., 0]
            walk.Q, walk.q = Q.numpy().copy(), q.numpy().copy()
            log = -root.diagonal(dim1=1, dim2=2).log().sum(1) - z.square().sum((1, 2)) / 2
            _exchange(walk.power, order, log.numpy(), rng)
            if k >= burn:
                i = torch.tensor(order[:, 0])
                Qi, Di = Q[i], variance[i]
                mean = (Di * q[i]) @ T
                DT = Di[..., None] * T
                spread = (T * DT).sum(1) - (DT * (Qi @ DT)).sum(1)
                c = Di.sqrt() * torch.randn(ladders, n, dtype=D, generator=torch_rng)
                e = torch.randn(ladders, len(y), 1, dtype=D, generator=torch_rng)
                other = (Qi @ c[..., None])[..., 0]  # K^T S^-1 of simulated data K c + s e
                other += noise * (white[i].mT @ torch.linalg.solve_triangular(root[i], e, upper=False))[..., 0]
                out.add((c + Di * (q[i] - other)) @ T, int(k >= burn + sweeps // 2), mean, spread)
        walk.sweep()
        walk.swaps(n // 8)
    return out.gold(f"Gibbs over supports, {ladders} ladders of {rungs} rungs, {sweeps} sweeps")


def _exchange(power: np.ndarray, order: np.ndarray, log: np.ndarray, rng: np.random.Generator) -> None:
    """Exchange the powers of neighbouring rungs, in place; ``log`` likelihood of every row."""
    for first in rng.permutation(2):
        for j in range(first, order.shape[1] - 1, 2):
            low, high = order[:, j].copy(), order[:, j + 1].copy()
            ratio = (power[low] - power[high]) * (log[high] - log[low])
            taken = np.log(rng.random(len(low))) < ratio
            order[taken, j], order[taken, j + 1] = high[taken], low[taken]
            power[low[taken]], power[high[taken]] = power[high[taken]], power[low[taken]]


class _Supports:
    """Chains over supports ``(chains, n)``, in place. ``gap``: slab less spike variance; ``odds``: log of the prior's
    odds of the slab; ``power`` of the likelihood in every chain."""

    def __init__(self, *, on: np.ndarray, gap: float, odds: float, rng: np.random.Generator, power: np.ndarray) -> None:
        self.on, self.gap, self.odds, self.rng, self.power = on, gap, odds, rng, power
        self.Q, self.q = np.zeros((*on.shape, on.shape[1])), np.zeros(on.shape)
        self.rows = np.arange(len(on))

    def sweep(self) -> None:
        """Metropolis flips of every entry in a random order."""
        uniform = np.log(self.rng.random(self.on.shape))
        for j in self.rng.permutation(self.on.shape[1]):
            delta = np.where(self.on[:, j], -self.gap, self.gap)
            gain = _gain(delta, self.Q[:, j, j], self.q[:, j])
            ratio = self.power * gain + np.sign(delta) * self.odds
            self._flip(np.nonzero(uniform[:, j] < ratio)[0], j)

    def swaps(self, tries: int) -> None:
        """Metropolis moves of one slab to another place: both uniform over what is on and what is off."""
        n = self.on.shape[1]
        for _ in range(tries):
            score = self.rng.random(self.on.shape)
            i, j = np.where(self.on, score, -1).argmax(1), np.where(self.on, -1, score).argmax(1)
            r, count = self.rows, self.on.sum(1)
            qii, qjj, qij = self.Q[r, i, i], self.Q[r, j, j], self.Q[r, i, j]
            shrink = -self.gap / (1 - self.gap * qii)
            ratio = _gain(np.full(len(r), -self.gap), qii, self.q[r, i])
            ratio += _gain(np.full(len(r), self.gap), qjj - shrink * qij**2, self.q[r, j] - shrink * qij * self.q[r, i])
            taken = (np.log(self.rng.random(len(r))) < self.power * ratio) & (count > 0) & (count < n)
            rows = np.nonzero(taken)[0]
            self._flip(rows, i[rows])
            self._flip(rows, j[rows])

    def _flip(self, rows: np.ndarray, j: np.ndarray | int) -> None:
        if not len(rows):
            return
        delta = np.where(self.on[rows, j], -self.gap, self.gap)
        column = self.Q[rows, :, j]
        g = delta / (1 + delta * self.Q[rows, j, j])
        self.q[rows] -= (g * self.q[rows, j])[:, None] * column
        self.Q[rows] -= (g[:, None] * column)[:, :, None] * column[:, None, :]
        self.on[rows, j] ^= True


def _gain(delta: np.ndarray, Qjj: np.ndarray, qj: np.ndarray) -> np.ndarray:
    """log p(y | after) - log p(y | before) when a variance changes by ``delta``."""
    factor = 1 + delta * Qjj
    with np.errstate(invalid="ignore", divide="ignore"):  # of impossible moves, which are then not taken
        return -0.5 * np.log(factor) + 0.5 * delta * qj**2 / factor
