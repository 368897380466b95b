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

from invsolve.core.arrays import to_real
from invsolve.core.random import DrawLike, Draws
from invsolve.core.stopping import ask
from invsolve.errors import OperatorError
from invsolve.gaussian.evidence import Evidence
from invsolve.gaussian.marginals import LARGEST as LARGEST_KEPT
from invsolve.gaussian.marginals import Marginals, Moments
from invsolve.gaussian.posterior import Posterior
from invsolve.problem import Problem
from invsolve.separable.columns import of_columns
from invsolve.separable.density import Densities, first_nodes, resolve
from invsolve.separable.kinds import Kinds, hashes, mixed
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
    densities: Densities  # of z
    owner: Tensor  # (items, n): whose density an entry has
    column: Tensor  # (densities,): an entry of the signal that has it
    log_weight: Tensor  # (items,): of the mixture of posteriors, normalised

    def over_entries(self, value: Tensor) -> Tensor:
        """The sum over entries of a number of every density, ``(items,)``."""
        return value[self.owner].sum(1)


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
            part, constant = likelihood.resolved()
            logs.append(law.log_weight + part.over_entries(part.densities.log_total) + constant)
            wrong.append(part.over_entries(part.densities.error))
            parts.append(replace(part, log_weight=logs[-1]))
        log = torch.stack(logs)
        total = torch.logsumexp(log, 0)
        shares = (log - total).nan_to_num(nan=-math.inf)
        rounding = torch.finfo(torch.float64).eps * (
            n + total.abs() + sum(p.over_entries(p.densities.log_total.abs()) for p in parts)
        )
        return cls(
            problem=problem,
            parts=tuple(replace(part, log_weight=share) for part, share in zip(parts, shares, strict=True)),
            items=torch.arange(items, device=device),
            known=Evidence(total, (shares.exp() * torch.stack(wrong)).sum(0) + rounding),
        )

    def draw(self, draws: DrawLike) -> Tensor:
        rows, shape = len(self.items), self.problem.shape
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
                z = part.densities.draw(part.owner[self.items[own]].flatten(), uniform[own].flatten())
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
        part = self.parts[0]
        if len(self.parts) > 1 or part.densities.log.numel() > LARGEST_KEPT:
            return Moments(mean=self.mean, std=self.std)
        return EntryMarginals(
            mean=self.mean,
            std=self.std,
            shape=self.problem.shape,
            law=part.law,
            densities=part.densities,
            owner=part.owner[self.items].flatten(),
            column=part.column,
        )

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        shape, n = self.problem.shape, prod(self.problem.shape)
        means, variances, weights = [], [], []
        for part in self.parts:
            own = part.densities

            def transport(z: Tensor, law: EntryLaw = part.law) -> Tensor:
                return law.transport(z.view(-1, *shape)).reshape(z.shape)

            x, share = of_columns(transport, part.column[own.owner], own.nodes, n), own.shares
            zeros = torch.zeros(own.count, dtype=torch.float64, device=x.device)
            each = zeros.index_add(0, own.owner, (share * x).sum(1))
            around = zeros.index_add(0, own.owner, (share * (x - each[own.owner, None]).square()).sum(1))
            means.append(each[part.owner])
            variances.append(around[part.owner])
            weights.append(part.log_weight.exp()[:, None])
        mean = torch.stack([w * m for w, m in zip(weights, means, strict=True)]).sum(0)
        between = [v + (m - mean).square() for m, v in zip(means, variances, strict=True)]
        variance = torch.stack([w * v for w, v in zip(weights, between, strict=True)]).sum(0)
        mean, std = (v.view(-1, *shape)[self.items].to(self.problem.data.dtype) for v in (mean, variance.sqrt()))
        return mean, std


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Likelihood:
    """Of every entry, ``N(z; 0, 1) p(y | x(z))``."""

    problem: Problem  # float64
    law: EntryLaw
    entry: Tensor  # (items, m): which entry moves a datum; n: none

    def resolved(self) -> tuple[_Part, Tensor]:
        """The densities of all entries, those that are alike once, and what data that nothing moves add, ``(items,)``.

        Raises OperatorError unless the posterior's signals have the same likelihoods in other company.
        """
        keys = hashes(self, self._signals, self._data_keys, first_nodes(self.entry.device))
        one, which = self._distinct(keys)
        of_item = keys.view(len(self.entry), -1)[one]
        # Entries stand in for others of their own item only: a solve of an item does not depend on others.
        number = mixed(torch.arange(len(one), device=keys.device) + 1)[:, None]
        device, n = keys.device, of_item.shape[1]
        own = replace(self, problem=self.problem.take(one), entry=self.entry[one])
        for kinds in (Kinds.of(mixed(of_item + number).flatten()), Kinds.apart(len(one) * n, device)):

            def density(kind: Tensor, z: Tensor, kinds: Kinds = kinds) -> Tensor:
                return own.density(kinds.places(kind), z)

            densities = resolve(density, kinds.count, device)
            # Entries that meet after all may have spoilt each other.
            whole = kinds.count == len(kinds.kind) or bool(torch.isfinite(densities.log_total).all())
            if whole and own.agrees(densities, kinds.kind):
                break
        else:
            raise OperatorError(
                f"{type(self.problem.operator).__name__}: it acts on every entry of the signal alone for draws from "
                "the prior, but not for draws from the posterior. Use strategy=iv.strategies.NoiseMCMC()."
            )
        constant = own.constant[which]
        part = _Part(
            law=self.law,
            densities=densities,
            owner=kinds.kind.view(len(one), n)[which],
            column=kinds.example % n,
            log_weight=torch.zeros_like(constant),
        )
        return part, constant

    def _distinct(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The items that are no copies of one before, and which of them every item is."""
        seen: dict[bytes, int] = {}
        data = self.problem.data.detach().flatten(1).cpu().contiguous()
        rows = zip(keys.view(len(data), -1).cpu().numpy(), data.numpy(), strict=True)
        which = [seen.setdefault(key.tobytes() + y.tobytes(), len(seen)) for key, y in rows]
        one = [which.index(k) for k in range(len(seen))]
        return torch.tensor(one, device=keys.device), torch.tensor(which, device=keys.device)

    @property
    def _data_keys(self) -> Tensor:
        """The data of every entry, ``(items * n,)``: sums over those that it moves."""
        items, n = len(self.entry), prod(self.problem.shape)
        bits = mixed(to_real(self.problem.data).double().contiguous().view(torch.int64).view(*self.entry.shape, -1))
        found = torch.zeros(items, n + 1, dtype=torch.int64, device=bits.device)
        return found.scatter_add(1, self.entry, mixed(bits.cumsum(2)[..., -1]))[:, :-1].flatten()

    def _signals(self, z: Tensor) -> Tensor:
        return self.law.transport(z.view(-1, *self.problem.shape)).reshape(z.shape)

    @property
    def constant(self) -> Tensor:
        """What data that nothing moves add to the evidence, ``(items,)``."""
        items, n = len(self.entry), prod(self.problem.shape)
        return self._each(torch.zeros(1, items * n, dtype=torch.float64, device=self.entry.device))[0, :, n]

    def density(self, entry: Tensor, z: Tensor) -> Tensor:
        """Of entries ``(k,)``, counted through the items, at ``z`` ``(k, nodes)``."""
        count = self.entry.shape[0] * prod(self.problem.shape)
        return of_columns(self, entry, z, count) - z.square() / 2 - _LOG_SQRT_2PI

    def __call__(self, z: Tensor) -> Tensor:
        """Log likelihoods of ``z`` ``(k, items * n)``, entry by entry."""
        return self._each(z)[..., :-1].reshape(z.shape)

    def agrees(self, densities: Densities, owner: Tensor) -> bool:
        """Whether all entries have these densities where the posterior is, and in the company of its signals."""
        shares, entry = densities.shares, torch.arange(len(owner), device=owner.device)
        for turn in range(_COMPANY):
            ask()
            z, log = densities.node(owner, ((turn + 0.5) / _COMPANY + _GOLDEN * entry.double()) % 1.0, shares)
            here = self(z[None])[0] - z.square() / 2 - _LOG_SQRT_2PI
            if bool(((here - log).abs() > _FORGIVEN * (1 + log.abs())).any()):
                return False
        return True

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
