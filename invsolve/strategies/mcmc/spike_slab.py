"""Exact draws of two coefficients at a time, for priors whose coefficients are mixtures of a few Gaussians.

Gradients change slowly between the parts of such a mixture (a coefficient that is on or off). With linear data and
Gaussian noise two coefficients given all others have a mixture of Gaussians in the plane, one for each pair of parts,
which is drawn from without rejection: a Gibbs sampler of blocks (Geman & Geman 1984; Liu, Wong & Kong 1994, Biometrika
81, 27-40). Two, because correlated columns of the operator let one coefficient take over what another one explains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.noise import Gaussian
from invsolve.operators.base import LinearOperator
from invsolve.priors.base import Prior
from invsolve.priors.exact.coefficients import ScalarLaw
from invsolve.priors.exact.sparse import SparsePrior
from invsolve.problem import Problem
from invsolve.strategies.mcmc.kernels import Normal

_LARGEST = 512  # coefficients: a sweep takes so many steps, each of work chains x coefficients


def has_sites(problem: Problem, prior: Prior) -> bool:
    """Whether pairs of coefficients can be drawn exactly: coefficients that are mixtures of Gaussians, linear data."""
    if not isinstance(prior, SparsePrior) or prod(prior.shape) > _LARGEST:
        return False
    if not isinstance(problem.operator, LinearOperator) or not isinstance(problem.noise, Gaussian):
        return False
    return prior.coefficients.normal_parts(prior.shape) is not None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Sites:
    """The whitened data of every item as a function of the coefficients: ``log p = const + h c - c G c / 2``."""

    law: ScalarLaw
    variances: Tensor  # (parts, n), of the Gaussians that a coefficient is a mixture of
    log_weights: Tensor
    gram: Tensor  # G (items or 1, n, n), float64
    pull: Tensor  # h (items, n)
    partners: Tensor  # (items or 1, n, n): cumulated odds of the second coefficient, given the first

    @classmethod
    def from_problem(cls, problem: Problem, prior: Prior) -> Self | None:
        """None where the blocks have no closed form."""
        if not has_sites(problem, prior):
            return None
        assert isinstance(prior, SparsePrior)
        linear, parts = problem.operator, prior.coefficients.normal_parts(prior.shape)
        assert parts is not None
        mean, n, device = prior.law.mean, prod(prior.shape), problem.data.device
        residual = problem.whiten(problem.data - linear(mean.expand(len(problem.data), *prior.shape)))
        modes = prior.law.modes.synthesis(torch.eye(n, dtype=mean.dtype, device=device).view(n, *prior.shape))
        # One matrix for all items, or one for each: its rows are then n copies of the item.
        items = torch.arange(1 if problem.shared else len(residual), device=device)
        rows = [problem if problem.shared else problem.take(index.expand(n)) for index in items]
        B = torch.stack([to_real(row.whiten(row.operator(modes))).double().mT for row in rows])
        gram = B.mT @ B
        size = gram.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
        odds = (gram / (size[:, :, None] * size[:, None])).square() + 1e-6  # of squared correlations; any odds would do
        odds.diagonal(dim1=1, dim2=2).zero_()
        partners = odds.cumsum(2)
        return cls(
            law=prior.coefficients,
            log_weights=parts[0].to(device).log(),
            variances=parts[1].to(device),
            gram=gram,
            pull=(to_real(residual).double()[:, None] @ B)[:, 0],
            partners=partners / partners[..., -1:],
        )

    def take(self, items: Tensor) -> Self:
        """Of these items."""
        if len(self.gram) == 1:
            return replace(self, pull=self.pull[items])
        return replace(self, pull=self.pull[items], gram=self.gram[items], partners=self.partners[items])

    def sweep(self, u: Tensor, beta: Tensor, normal: Normal) -> Tensor:
        """Every coefficient with another one, in random order, drawn given the rest: leaves the target invariant.

        ``u`` ``(items, chains, n)`` in the noise space, target ``N(u; 0, I) p(y | u)^beta``, ``beta`` ``(items,)``.
        """
        items, chains, n = u.shape
        if n < 2:
            return u
        c = self.law.transport(u.double())[0].mT.contiguous()  # (items, n, chains)
        gram, partners = self.gram.expand(items, n, n), self.partners.expand(items, n, n)
        rest = self.pull[..., None] - gram @ c  # h - G c
        order = normal(4, (n,)).argsort(1)
        uniform = torch.special.ndtr(normal(5, (n,)).double())
        every, heat = torch.arange(items, device=u.device), beta[:, None]
        odds = partners[every[:, None], order]
        second = torch.searchsorted(odds, uniform[..., None].contiguous())[..., 0].clamp_max(n - 1)
        z = normal(6, (3, n, chains)).double()
        for k in range(n):
            i, j = order[:, k], second[:, k]
            g_i, g_j = gram[every, i], gram[every, j]  # rows of G, (items, n)
            a, b, both = g_i[every, i, None], g_j[every, j, None], g_i[every, j, None]
            old_i, old_j = c[every, i], c[every, j]  # (items, chains)
            slope_i = heat * (rest[every, i] + a * old_i + both * old_j)
            slope_j = heat * (rest[every, j] + both * old_i + b * old_j)
            new_i, new_j = self._block(i, j, heat * a, heat * b, heat * both, slope_i, slope_j, z[:, :, k])
            c[every, i], c[every, j] = new_i, new_j
            rest -= g_i[..., None] * (new_i - old_i)[:, None] + g_j[..., None] * (new_j - old_j)[:, None]
        return self.law.inverse(c.mT, normal(7, (chains, n)).double()).to(u.dtype)

    def _block(
        self, i: Tensor, j: Tensor, a: Tensor, b: Tensor, both: Tensor, slope_i: Tensor, slope_j: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A draw of ``(c_i, c_j)`` from their parts times ``exp(slope c - c [[a, both], [both, b]] c / 2)``.

        With c = s e, s^2 the variances of the parts and e standard normal, ``M = I + s Lambda s`` is the precision of e
        for every pair of parts; nothing is divided by a variance, which may be 0.
        """
        s_i, s_j = self.variances[:, i].sqrt(), self.variances[:, j].sqrt()  # (parts, items)
        s_i, s_j = s_i[:, None, :, None], s_j[None, :, :, None]  # (parts, parts, items, chains)
        log_weights = (self.log_weights[:, i][:, None] + self.log_weights[:, j][None])[..., None]
        p, q, r = 1 + a * s_i**2, 1 + b * s_j**2, both * s_i * s_j
        det = torch.maximum(p * q - r**2, torch.maximum(p, q))  # at least these, but for rounding
        t_i, t_j = s_i * slope_i, s_j * slope_j
        log_odds = log_weights - det.log() / 2 + (q * t_i**2 - 2 * r * t_i * t_j + p * t_j**2) / (2 * det)
        odds = torch.softmax(log_odds.flatten(0, 1), 0).cumsum(0)
        part = (odds[:-1] < torch.special.ndtr(z[:, 0])).sum(0)  # (items, chains)

        def chosen(v: Tensor) -> Tensor:
            return v.expand(log_odds.shape).flatten(0, 1).gather(0, part[None])[0]

        q, r, det, s_i, s_j = (chosen(v) for v in (q, r, det, s_i, s_j))
        t_i, t_j = s_i * slope_i, s_j * slope_j
        e_i = (q * t_i - r * t_j) / det + (q / det).sqrt() * z[:, 1]
        e_j = (t_j - r * e_i) / q + q.rsqrt() * z[:, 2]
        return s_i * e_i, s_j * e_j
