"""The posterior of a prior of independent entries under data that each depend on one entry alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.random import DrawLike, Draws
from invsolve.errors import OperatorError
from invsolve.gaussian.evidence import Evidence
from invsolve.gaussian.marginals import LARGEST as LARGEST_KEPT
from invsolve.gaussian.marginals import Marginals, Moments
from invsolve.gaussian.posterior import Posterior
from invsolve.problem import Problem
from invsolve.separable.columns import of_columns
from invsolve.separable.density import Densities, resolve
from invsolve.separable.laws import EntryLaw
from invsolve.separable.marginals import EntryMarginals
from invsolve.separable.structure import datum_entries

LARGEST, LARGEST_IN_ALL = 2**17, 2**20  # entries of an item, and of all: each keeps about 4 kB
_PAIRS = 8  # of signals that the structure is found by
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_COMPANY = 32  # signals in which every entry is looked at again
_GOLDEN = (math.sqrt(5) - 1) / 2  # quantiles of neighbours are spread evenly
_FORGIVEN = 1e-6  # relative change of a log likelihood there, which is rounding


def not_separable(problem: Problem, laws: Sequence[EntryLaw]) -> str:
    """Why a posterior is not one of independent entries (or a mixture of such), as a clause; '' if it is."""
    if not laws:
        return "the prior's entries are not known to be independent"
    size = prod(problem.shape)
    if size > LARGEST or size * len(problem.data) > LARGEST_IN_ALL:
        return f"{size:,} entries of {len(problem.data):,} items are too many for quadrature"
    if problem.noise.log_prob_each(problem.data[:1], problem.data[:1]) is None:
        return f"{type(problem.noise).__name__} noise is not independent from datum to datum"
    return "" if _structure(problem, laws) is not None else "a datum may depend on several entries of the signal"


def _structure(problem: Problem, laws: Sequence[EntryLaw]) -> Tensor | None:
    device = problem.data.device
    draws = Draws.for_rows(0, [0] * 2 * _PAIRS, list(range(2 * _PAIRS)), device, purpose="structure")
    signals = laws[0].transport(draws.normal(problem.shape, torch.float64, step=0))
    try:
        double = problem.to(dtype=torch.float64)
        return datum_entries(double.operator, signals.view(_PAIRS, 2, *problem.shape))
    except Exception:  # a user's function that works in one precision, or not for every signal: chains will do
        return None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """One law of the mixture, and what the data make of it."""

    law: EntryLaw
    densities: Densities  # of z: of the entries of the first item, of the second, ...
    log_weight: Tensor  # (items,): of the mixture of posteriors, normalised


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SeparablePosterior(Posterior):
    """Independent entries of known one-dimensional posteriors, or a mixture of such distributions.

    Every entry is a function of a standard normal number z, whose posterior ``N(z; 0, 1) p(y | x(z))`` is resolved by
    `resolve`: its mass is the evidence, and draws are its quantiles.
    """

    problem: Problem
    parts: tuple[_Part, ...]
    items: Tensor  # (rows,): whose densities a row has
    known: Evidence  # of the items

    @classmethod
    def from_problem(cls, problem: Problem, laws: Sequence[EntryLaw]) -> SeparablePosterior:
        """For a problem that is not `not_separable`.

        Raises OperatorError where the operator acts entry by entry on draws from the prior, but not on the posterior's.
        """
        entry = _structure(problem, laws)
        assert entry is not None  # the caller asked
        items, n = len(problem.data), prod(problem.shape)
        device = problem.data.device
        entry = torch.where(entry < 0, n, entry).expand(items, -1)
        double = problem.to(dtype=torch.float64)
        parts, logs, wrong = [], [], []
        for law in laws:
            likelihood = _Likelihood(problem=double, law=law, entry=entry)
            densities = resolve(likelihood.density, items * n, device)
            likelihood.check_entrywise(densities)
            logs.append(law.log_weight + densities.log_total.view(items, n).sum(1) + likelihood.constant)
            wrong.append(densities.error.view(items, n).sum(1))
            parts.append(_Part(law=law, densities=densities, log_weight=logs[-1]))
        log = torch.stack(logs)
        total = torch.logsumexp(log, 0)
        shares = (log - total).nan_to_num(nan=-math.inf)
        rounding = torch.finfo(torch.float64).eps * (
            n + total.abs() + sum(p.densities.log_total.abs().view(items, n).sum(1) for p in parts)
        )
        return cls(
            problem=problem,
            parts=tuple(replace(part, log_weight=share) for part, share in zip(parts, shares, strict=True)),
            items=torch.arange(items, device=device),
            known=Evidence(total, (shares.exp() * torch.stack(wrong)).sum(0) + rounding),
        )

    def draw(self, draws: DrawLike) -> Tensor:
        rows, shape = len(self.items), self.problem.shape
        n = prod(shape)
        uniform = torch.special.ndtr(draws.normal(shape, torch.float64, step=0, index=0)).flatten(1)
        which = torch.zeros(rows, dtype=torch.int64, device=uniform.device)
        if len(self.parts) > 1:
            level = torch.special.ndtr(draws.normal((1,), torch.float64, step=0, index=1))
            odds = torch.stack([part.log_weight[self.items] for part in self.parts], 1).exp().cumsum(1)
            which = (level > odds).sum(1).clamp_max(len(self.parts) - 1)
        x = torch.empty_like(uniform)
        for k, part in enumerate(self.parts):
            own = (which == k).nonzero()[:, 0]
            if len(own):
                owner = self.items[own, None] * n + torch.arange(n, device=own.device)
                z = part.densities.draw(owner.flatten(), uniform[own].flatten())
                x[own] = part.law.transport(z.view(-1, *shape)).flatten(1)
        return x.to(self.problem.data.dtype).view(rows, *shape)

    def take(self, index: Tensor) -> Self:
        return replace(self, problem=self.problem.take(index), items=self.items[index])

    def evidence(self) -> Evidence:
        return Evidence(*(value[self.items] for value in self.known))

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """``(rows, *shape)``, as exact as the densities."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """Posterior standard deviations ``(rows, *shape)``, as exact as the densities."""
        return self._moments[1]

    def marginals(self) -> Marginals | None:
        """Quantiles for a single law, whose densities are not too many to keep."""
        if not bool(torch.isfinite(self.known.log[self.items]).all()):  # data that no signal of the prior explains
            return None
        densities = self.parts[0].densities
        if len(self.parts) > 1 or densities.log.numel() > LARGEST_KEPT:
            return Moments(mean=self.mean, std=self.std)
        n = prod(self.problem.shape)
        return EntryMarginals(
            mean=self.mean,
            std=self.std,
            shape=self.problem.shape,
            law=self.parts[0].law,
            densities=densities,
            owner=(self.items[:, None] * n + torch.arange(n, device=self.items.device)).flatten(),
        )

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        shape, n = self.problem.shape, prod(self.problem.shape)
        parts = []
        for part in self.parts:
            own = part.densities

            def transport(z: Tensor, law: EntryLaw = part.law) -> Tensor:
                return law.transport(z.view(-1, *shape)).reshape(z.shape)

            x, share = of_columns(transport, own.owner, own.nodes, own.count), own.shares
            weight = part.log_weight.exp().repeat_interleave(n)
            parts.append((own.owner, x, share * weight[own.owner, None]))
        owner, x, share = (torch.cat(values) for values in zip(*parts, strict=True))
        zeros = torch.zeros(self.parts[0].densities.count, dtype=torch.float64, device=x.device)
        mean = zeros.index_add(0, owner, (share * x).sum(1))
        variance = zeros.index_add(0, owner, (share * (x - mean[owner, None]).square()).sum(1))
        mean, std = (v.view(-1, *shape)[self.items].to(self.problem.data.dtype) for v in (mean, variance.sqrt()))
        return mean, std


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Likelihood:
    """Of every entry, ``N(z; 0, 1) p(y | x(z))``."""

    problem: Problem  # float64
    law: EntryLaw
    entry: Tensor  # (items, m): which entry moves a datum; n: none

    @property
    def constant(self) -> Tensor:
        """What data that nothing moves add to the evidence, ``(items,)``."""
        items, n = len(self.entry), prod(self.problem.shape)
        return self._each(torch.zeros(1, items * n, dtype=torch.float64, device=self.entry.device))[0, :, n]

    def density(self, owner: Tensor, z: Tensor) -> Tensor:
        """For `resolve`: ``owner`` counts the entries of the first item, of the second, ..."""
        return (
            of_columns(self, owner, z, self.entry.shape[0] * prod(self.problem.shape)) - z.square() / 2 - _LOG_SQRT_2PI
        )

    def __call__(self, z: Tensor) -> Tensor:
        """Log likelihoods of ``z`` ``(k, items * n)``, entry by entry."""
        return self._each(z)[..., :-1].reshape(z.shape)

    def check_entrywise(self, densities: Densities) -> None:
        """Raise unless draws from the posterior have the same likelihoods in other company."""
        owner = torch.arange(densities.count, device=self.entry.device)
        turn = torch.arange(_COMPANY, device=owner.device)[:, None]
        levels = ((turn.double() + 0.5) / _COMPANY + _GOLDEN * owner) % 1.0
        z = torch.stack([densities.draw(owner, u) for u in levels])
        other = (turn + owner) % _COMPANY
        a, b = self(z).gather(0, other), self(z.gather(0, other))
        if bool(((a - b).abs() > _FORGIVEN * (1 + a.abs())).any()):
            raise OperatorError(
                f"{type(self.problem.operator).__name__}: it acts on every entry of the signal alone for draws from "
                "the prior, but not for draws from the posterior. Use strategy=iv.strategies.NoiseMCMC()."
            )

    def _each(self, z: Tensor) -> Tensor:
        """``(k, items, n + 1)``: the last sums data that no entry moves."""
        problem, (items, _) = self.problem, self.entry.shape
        x = self.law.transport(z.view(len(z) * items, *problem.shape))
        rows = problem.take(torch.arange(items, device=z.device).repeat(len(z)))
        log = rows.noise.log_prob_each(rows.data, rows.operator(x), rows.operator.observed)
        assert log is not None  # `not_separable`
        log = log.flatten(1).view(len(z), items, -1)
        log = torch.where(log.isnan() | (log == math.inf), -math.inf, log)
        sums = log.new_zeros(len(z), items, prod(problem.shape) + 1)
        return sums.scatter_add(2, self.entry.expand(log.shape), log)
