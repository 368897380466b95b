"""Hard walls: where a measurement would be impossible, chains bounce.

Counts of zero are the likeliest right at the wall where the expected counts are negative: there a posterior ends, and a
trajectory that crosses any of many walls is lost. With a Gaussian prior and a linear operator every wall is a plane in
the noise space, at which a trajectory is reflected exactly (Mohasel Afshar & Domke 2015, Reflection, Refraction, and
Hamiltonian Monte Carlo, NeurIPS 28; Pakman & Paninski 2014, arXiv 1208.4118): that keeps its energy and the volume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real
from invsolve.operators.base import LinearOperator
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasTransport, IsGaussian
from invsolve.problem import Problem
from invsolve.strategies.mcmc.noise_map import NoiseMap

_LARGEST = 2**23  # values of the planes
_BOUNCES = 20  # times the number of walls, and as many more, in one drift: beyond, it is given up


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Walls:
    """Planes ``normals u + offsets >= 0`` of unit normals, of every item."""

    normals: Tensor  # (items or 1, m, n)
    offsets: Tensor  # (items, m)

    @classmethod
    def from_problem(cls, problem: Problem, prior: Prior, noise_map: NoiseMap) -> Self | None:
        """None where there are none, or they are no planes."""
        A = problem.operator
        limits = problem.noise.lower_limits(problem.data)
        n = prod(problem.shape) * (2 if problem.signal_dtype.is_complex else 1)
        size = n * problem.data[0].numel() * (A.batch or 1)
        flat = isinstance(prior, IsGaussian) and isinstance(prior, HasTransport) and isinstance(A, LinearOperator)
        if limits is None or not flat or size > _LARGEST:
            return None
        dtype = problem.signal_dtype
        unit = torch.eye(n, dtype=problem.data.dtype, device=problem.data.device)
        unit = torch.cat((torch.zeros_like(unit[:1]), unit))
        signals = noise_map(from_real(unit, problem.shape, dtype if dtype.is_complex else None))
        every = torch.arange(A.batch or 1, device=unit.device)
        clean = torch.stack([A.take(b.expand(n + 1))(signals).flatten(1) for b in every])  # (items or 1, 1 + n, m)
        normals = (clean[:, 1:] - clean[:, :1]).mT
        offsets = clean[:, 0] - limits.expand(problem.data.shape).flatten(1).to(clean.dtype)
        length = normals.norm(dim=2)
        real = length > 0
        if A.observed is not None:
            real = real & A.observed.expand(problem.data.shape).flatten(1)
        length = torch.where(length > 0, length, 1.0)
        # What is no wall is one infinitely far away.
        return cls(
            normals=(normals / length[..., None]).contiguous(),
            offsets=torch.where(real, offsets / length, math.inf),
        )

    def take(self, items: Tensor) -> Self:
        """Of these items."""
        normals = self.normals if len(self.normals) == 1 else self.normals[items]
        return replace(self, normals=normals, offsets=self.offsets[items])

    def moved(self, slack: Tensor) -> Self:
        """All planes moved outwards by ``slack`` ``(items,)``."""
        return replace(self, offsets=self.offsets + slack[:, None].to(self.offsets.dtype))

    def nearer(self, spread: float) -> Self:
        """The same planes for chains whose coordinates are those of the noise over ``spread``."""
        return self if spread == 1 else replace(self, offsets=self.offsets / spread)

    def heights(self, u: Tensor) -> Tensor:
        """How far inside of the nearest wall ``u`` ``(items, chains, n)`` is, ``(items, chains)``."""
        return self._distances(u).amin(-1)

    def drift(self, u: Tensor, p: Tensor, time: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """Where chains at ``u`` come in ``time`` ``(items,)`` at the velocity ``root p``, and their momenta then.

        ``u``, ``p`` ``(items, chains, n)``; ``root`` as in `Metric`, for either half of the chains. NaN where there
        was no end to the bounces.
        """
        items, chains, n = u.shape
        m = self.offsets.shape[1]
        seen = self.normals[:, None] * root[:, :, None] if root.ndim == 3 else self.normals[:, None] @ root
        gram = (seen @ seen.mT).flatten(0, 1)  # (items * 2, m, m): of the normals in the coordinates of the momenta
        normals = seen.flatten(0, 1)
        halves = (items * 2, chains // 2, -1)
        metric = torch.arange(items * 2, device=u.device).repeat_interleave(chains // 2)
        c = self._distances(u).flatten(0, 1)
        p = p.flatten(0, 1).clone()
        speed = (p.view(halves) @ normals.mT).flatten(0, 1)
        left = time.to(u.dtype).repeat_interleave(chains)
        end, q_end = torch.full_like(p, math.nan), torch.zeros_like(p)
        active, q = torch.arange(items * chains, device=u.device), torch.zeros_like(p)
        for _ in range(_BOUNCES * (m + 1)):
            # Of those that are on their way, and fewer and fewer: distances, speeds, momenta, and where they came.
            when = torch.where(speed < 0, c.clamp_min(0) / -speed, math.inf)
            first, wall = when.min(1)
            hit = first < left
            if not bool(hit.all()):
                there = ~hit
                q_end[active[there]] = q[there] + left[there, None] * p[there]
                end[active[there]] = p[there]
                active, metric, wall, first, left, c, speed, p, q = (
                    v[hit] for v in (active, metric, wall, first, left, c, speed, p, q)
                )
            if not len(active):
                break
            q += first[:, None] * p
            left -= first
            c += first[:, None] * speed
            row = gram[metric, wall]
            push = 2 * speed.gather(1, wall[:, None]) / row.gather(1, wall[:, None])
            p -= push * normals[metric, wall]
            speed -= push * row
            c.scatter_(1, wall[:, None], 0.0)
        q_end[active] = math.nan
        p, q = end, q_end
        q = q.view(items, 2, chains // 2, n)
        step = q * root[:, :, None] if root.ndim == 3 else q @ root.mT
        return u + step.flatten(1, 2), p.view(items, chains, n)

    def _distances(self, u: Tensor) -> Tensor:
        return u @ self.normals.mT + self.offsets[:, None]
