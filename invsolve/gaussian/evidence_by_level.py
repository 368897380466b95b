"""Log p(y) for every level of the noise from one factorisation: what makes unknown scalars cheap.

With ``x = mean + S u``, ``K = G^-1/2 A S diag(v)^1/2`` and the residual ``w = G^-1/2 (y - A mean)``, noise ``s`` times
as large as G says gives ``-2 log p = log det(s^2 + K K^T) + w^T (s^2 + K K^T)^-1 w + ...``: a sum over the eigenvalues
of ``K^T K``, for every s. It is factorised by what the modes of the prior and the operator have in common:

- *shared modes* (a periodic blur and a periodic field; a mask and independent entries): ``K^T K`` is diagonal, of any
  size. Two products tell.
- *mirrors*: an operator that is symmetric about the middle of an axis (a symmetric blur with any boundary) does not mix
  fields that are even and odd about it, and ``K^T K`` has a block for each.
- *one block*, or ``K K^T`` where there are fewer data than unknowns.

Blocks of up to 1,024 are decomposed. In the larger ones the modes that the data hardly see are left on their own where
that changes log p by less than 0.01, which the elements that are left out tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.core.validation import kind_dtype
from invsolve.gaussian.evidence import Evidence, rounding
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.posterior import not_linear_gaussian
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.gaussian.systems import DENSE_SIDE, IterativeSystem, probe, widened
from invsolve.problem import Problem

TOLERATED = 0.01  # nats: what leaving modes on their own may change in log p
_ROWS = 256  # of products at once
_SMALL = 512  # a side that is decomposed whole
_KEPT = (128, 256, 512)  # modes of a block that are decomposed together, where that will do
_SAME = 1e-9  # relative: products of float64 that differ by less are equal


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class EvidenceByLevel:
    """Log p(y) of every item for noise ``s`` times as large as the problem says."""

    values: Tensor  # (r,) eigenvalues of K^T K
    power: Tensor  # (items, r) squares of the coordinates of K^T w
    size: Tensor  # (items,) |w|^2
    peak: Tensor  # (items,) log density of the noise at a residual of zero
    count: Tensor  # (items,) real data that exist
    ends: Tensor  # (items,) |G^-1/2 y| + |G^-1/2 A mean|
    spread: float  # of the prior: the largest variance of a mode times |G^-1/2 A S|^2
    level: float  # the least s for which modes could be left on their own; 0 if none were
    left: float  # nats: what that changes at `level`

    def at(self, s: float) -> Evidence:
        """Log p(y) ``(items,)`` and what rounding and modes on their own may change in it."""
        ratio, power = self.values / s**2, self.power / s**4
        gain = 1 / (1 + ratio)
        shift = (power * gain).sum(1)
        size = self.size / s**2 - shift
        inner, log_det = (power * gain**2).sum(1), torch.log1p(ratio)
        left = self.size / s**2 - 2 * shift + (ratio * power * gain**2).sum(1)
        peak = self.peak - self.count * math.log(s)
        se = rounding(
            torch.float64,
            matrix=ratio.sum().sqrt(),
            side=len(ratio),
            law=torch.tensor(self.spread / s**2, dtype=torch.float64, device=size.device),
            ends=self.ends / s,
            shift=inner.clamp_min(0).sqrt(),
            left=left.clamp_min(0).sqrt(),
            terms=peak.abs() + 2 * self.count + self.size / s**2 + log_det.sum(),
        )
        return Evidence(peak - 0.5 * size - 0.5 * log_det.sum(), se + self.apart(s))

    def apart(self, s: float) -> float:
        """What modes that were left on their own may change at ``s``, nats."""
        return self.left * max(1.0, self.level / s) ** 4


def evidence_by_level(
    law: GaussianLaw, problem: Problem, *, level: float = 1.0, like: Sequence[Factors] = ()
) -> tuple[EvidenceByLevel, Factors] | None:
    """The evidence of a linear problem with Gaussian noise; None where it is too large to factorise.

    ``level``: the least s for which modes may be left on their own. ``like``: factors of other members of a family;
    where ``K^T K`` is a multiple of one of them (a gain, a scale of the prior), that is used.
    """
    if not_linear_gaussian(problem) or not problem.shared or (wide := widened(problem, law.modes)) is None:
        return None
    gram = _Gram(law.to(dtype=torch.float64), wide[0])
    factors = gram.factors(level, like)
    return None if factors is None else (gram.evidence(factors), factors)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """``K^T K`` (or ``K K^T``) in its eigenbasis; ``image``: its product with a fixed probe, which tells it."""

    image: Tensor
    values: Tensor  # (r,)
    blocks: tuple[tuple[Tensor, Tensor], ...]  # indices and eigenvectors (a column each), values in this order
    alone: Tensor  # indices of the modes on their own, whose values come last
    on_data: bool  # K K^T
    level: float = 0.0
    left: float = 0.0

    def coordinates(self, v: Tensor) -> Tensor:
        """In the eigenbasis, ``(rows, r)``."""
        return torch.cat([*(v[:, index] @ vectors for index, vectors in self.blocks), v[:, self.alone]], 1)


class _Gram:
    """``K^T K`` on rows of real numbers, in float64."""

    def __init__(self, law: GaussianLaw, problem: Problem) -> None:
        self.law, self.problem, modes = law, problem, law.modes
        self.complex = kind_dtype(torch.float64, "complex") if law.mean.is_complex() else None
        root = law.variances.sqrt().flatten()
        self.root = root if self.complex is None else root.repeat_interleave(2)
        level, precision = probe(problem, modes)
        operator = problem.operator
        self.system = IterativeSystem(
            problem=problem, operator=operator, modes=modes, tol=0.0, max_iter=0, level=level, precision=precision
        )
        self.total = float(level) * prod(modes.mode_shape)
        self.n = len(self.root)
        self.m = prod(operator.out_shape) * (2 if problem.data.is_complex() else 1)

    def normal(self, u: Tensor) -> Tensor:
        return torch.cat([self.root * to_real(self.system.normal(self._modes(p * self.root))) for p in u.split(_ROWS)])

    def outer(self, w: Tensor) -> Tensor:
        """``K K^T w`` for data ``(rows, m)``."""
        return torch.cat([to_real(self.system.forward(self._modes(self.back(p) * self.root))) for p in w.split(_ROWS)])

    def back(self, w: Tensor) -> Tensor:
        """``K^T w``."""
        complex_ = self.problem.data.dtype if self.problem.data.is_complex() else None
        return self.root * to_real(self.system.adjoint(from_real(w, tuple(self.problem.operator.out_shape), complex_)))

    def _modes(self, u: Tensor) -> Tensor:
        return from_real(u, tuple(self.law.modes.mode_shape), self.complex)

    def factors(self, level: float, like: Sequence[Factors]) -> Factors | None:
        """The eigenbasis, by what is shared; None if it is too large."""
        on_data = self.m < min(self.n, DENSE_SIDE)
        product, n = (self.outer, self.m) if on_data else (self.normal, self.n)
        sign = torch.randint(2, (2, n), generator=torch.Generator().manual_seed(0), device="cpu").to(self.root) * 2 - 1
        image = product(sign)
        for other in like:
            if other.on_data == on_data and (scale := _multiple(image, other.image)) is not None:
                return Factors(
                    image=image,
                    values=other.values * scale,
                    blocks=other.blocks,
                    alone=other.alone,
                    on_data=on_data,
                    level=other.level * math.sqrt(scale),
                    left=other.left,
                )
        nothing = torch.zeros(0, dtype=torch.int64, device=self.root.device)
        diagonal = image[0] * sign[0]
        if not on_data and _close(diagonal * sign[1], image[1]):
            every = torch.arange(n, device=self.root.device)
            return Factors(image=image, values=diagonal.clamp_min(0), blocks=(), alone=every, on_data=False)
        parts = [torch.arange(n, device=self.root.device)] if on_data else self._mirrored(sign[0])
        if max(len(part) for part in parts) > DENSE_SIDE:
            return None
        blocks, values, alone, last, error = list[tuple[Tensor, Tensor]](), list[Tensor](), [nothing], list[Tensor](), 0.0
        for part, matrix in zip(parts, self._matrices(product, n, parts), strict=True):
            kept, change = _kept(matrix, level)
            error += change
            value, vectors = torch.linalg.eigh(matrix[kept][:, kept])
            blocks.append((part[kept], vectors))
            values.append(value.clamp_min(0))
            rest = torch.ones(len(part), dtype=torch.bool, device=part.device).index_fill_(0, kept, False)
            alone.append(part[rest])
            last.append(matrix.diagonal()[rest].clamp_min(0))
        return Factors(
            image=image,
            values=torch.cat([*values, *last]),
            blocks=tuple(blocks),
            alone=torch.cat(alone),
            on_data=on_data,
            level=level if error > 0 else 0.0,
            left=error,
        )

    def _mirrored(self, sign: Tensor) -> list[Tensor]:
        """The modes by their symmetry about the middle of every axis along which even and odd ones do not mix."""
        label = torch.zeros(self.n, dtype=torch.int64, device=self.root.device)
        modes = self.law.modes
        odd = modes.odd() if isinstance(modes, SpectralModes) else []
        for axis, flat in enumerate(mask.flatten() for mask in odd):
            which = flat if self.complex is None else flat.repeat_interleave(2)
            which = which.to(label.device)
            ours = torch.where(which, 0.0, sign)[None]
            found = self.normal(ours)[0]
            if float(found[which].norm()) <= _SAME * float(found.norm()):
                label += which.long() << axis
        return [(label == k).nonzero()[:, 0] for k in label.unique().tolist()]

    def _matrices(self, product: object, n: int, parts: list[Tensor]) -> list[Tensor]:
        """The blocks, all at once: a unit vector of each in one product."""
        assert callable(product)
        found = [torch.empty(len(part), len(part), dtype=torch.float64, device=part.device) for part in parts]
        longest = max(len(part) for part in parts)
        for first in range(0, longest, _ROWS):
            unit = torch.zeros(min(_ROWS, longest - first), n, dtype=torch.float64, device=self.root.device)
            for part in parts:
                own = part[first : first + _ROWS]
                unit[torch.arange(len(own), device=own.device), own] = 1.0
            image = product(unit)
            for part, matrix in zip(parts, found, strict=True):
                own = matrix[first : first + _ROWS]
                own.copy_(image[: len(own), part])
        return [(matrix + matrix.mT) / 2 for matrix in found]

    def evidence(self, factors: Factors) -> EvidenceByLevel:
        problem = self.problem
        A, y = problem.operator, problem.data
        clean = A(self.law.mean.expand(1, *problem.shape))
        white = to_real(problem.whiten(y - clean))
        size = white.square().sum(1)
        if factors.on_data:  # K^T w has the coordinates sqrt(l) c
            power = factors.values * factors.coordinates(white).square()
        else:
            power = factors.coordinates(self.back(white)).square()
        data = to_real(problem.whiten(y))
        return EvidenceByLevel(
            values=factors.values,
            power=power,
            size=size,
            peak=problem.noise.log_prob(y, y, A.observed).double(),
            count=problem.num_data.double(),
            ends=data.norm(dim=1) + (data - white).norm(dim=1),
            spread=float(self.law.variances.max()) * self.total,
            level=factors.level,
            left=factors.left,
        )


def _close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).norm()) <= _SAME * float(b.norm())


def _multiple(image: Tensor, other: Tensor) -> float | None:
    """The number c > 0 with ``image = c other``, to the rounding of a prior that was kept in single precision."""
    scale = float((image * other).sum() / other.square().sum().clamp_min(1e-300))
    near = float((image - scale * other).norm()) <= 1e-6 * float(image.norm())
    return scale if scale > 0 and near else None


def _kept(matrix: Tensor, level: float) -> tuple[Tensor, float]:
    """Which modes of a block are decomposed together, and what leaving the others on their own changes in log p.

    To second order in the elements E that are left out, of the matrix with the noise made white: the determinant by
    ``|E|^2 / 4``, the quadratic form by about ``|E k|^2 / 2``, rooted, with k the share of the signal in every mode.
    """
    n = len(matrix)
    order = matrix.diagonal().argsort(descending=True)
    if n <= _SMALL:
        return order, 0.0
    total = matrix.diagonal() + level**2
    squares = matrix[order][:, order].square() / torch.outer(total[order], total[order])
    squares.diagonal().zero_()
    share = (matrix.diagonal().clamp_min(0) / total)[order]
    weighted = squares * torch.outer(share, share)
    for count in _KEPT:
        if count >= n:
            break
        both = [float(part.sum() - part[:count, :count].sum()) for part in (squares, weighted)]
        change = both[0] / 4 + math.sqrt(max(0.0, both[1]) / 2)
        if change <= TOLERATED:
            return order[:count], max(change, 1e-300)
    return order, 0.0
