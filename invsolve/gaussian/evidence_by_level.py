"""Log p(y) for every level of the noise from one factorisation: what makes unknown scalars cheap.

With ``x = mean + S u``, ``K = G^-1/2 A S diag(v)^1/2`` and the residual ``w = G^-1/2 (y - A mean)``, noise ``s`` times
as large as G says gives ``-2 log p = log det(s^2 + K K^T) + w^T (s^2 + K K^T)^-1 w + ...``: a sum over the eigenvalues
of ``K^T K``, for every s. It is decomposed by what the modes of the prior and the operator have in common:

- *shared modes* (a periodic blur and a periodic field; a mask and independent entries): ``K^T K`` is diagonal, of any
  size. Two products tell.
- *mirrors*: an operator that is symmetric about the middle of an axis (a symmetric blur with any boundary) does not mix
  fields that are even and odd about it, and ``K^T K`` has a block for each, some of which may be diagonal or equal.
- *one block*, or ``K K^T`` where there are fewer data than unknowns.

Blocks of up to 2,304 are decomposed: symmetric blurs of 96 x 96.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.core.decompositions import eigh
from invsolve.gaussian.evidence import Evidence, rounding
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.posterior import not_linear_gaussian
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.gaussian.systems import IterativeSystem, probe, widened
from invsolve.operators.base import LinearOperator
from invsolve.problem import Problem

_SIDE = 2304  # of a block: some seconds
_ROWS = 256  # of products at once
# Nothing is compared in the norm of K^T K, in which one strong mode (an offset that is not known) hides all others:
# modes are compared without the prior's variances, matrices in units of their diagonals, products with the noise.
_SAME = 1e-9  # relative: products in float64 that differ by less are equal
_SAME_ROUNDED = 1e-6  # of priors whose variances were rounded to single precision
_UNSEEN = 1e-3  # of the noise's variance: a difference of two matrices of data


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
    apart: float = 0.0  # how far (Frobenius norm) the matrix is from the one that was decomposed

    def at(self, s: float) -> Evidence:
        """Log p(y) ``(items,)``, and a bound of what rounding may change in it."""
        ratio, power, size = self.values / s**2, self.power / s**4, self.size / s**2
        gain = 1 / (1 + ratio)
        shift, log_det = (power * gain).sum(1), torch.log1p(ratio)
        left = size - 2 * shift + (ratio * power * gain**2).sum(1)  # |(I + K K^T)^-1 w|^2
        peak = self.peak - self.count * math.log(s)
        se = rounding(
            torch.float64,
            matrix=ratio.sum().sqrt(),
            side=len(ratio),
            law=torch.full_like(size, self.spread / s**2),
            ends=self.ends / s,
            shift=(power * gain**2).sum(1).sqrt(),
            left=left.clamp_min(0).sqrt(),
            terms=peak.abs() + 2 * self.count + size + log_det.sum(),
        )
        se = se + 0.5 * self.apart / s**2 * (len(ratio) ** 0.5 + left.clamp_min(0))
        return Evidence(peak - 0.5 * (size - shift) - 0.5 * log_det.sum(), se)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """``K^T K`` (or ``K K^T``) in its eigenbasis.

    ``image``: the product of ``B^T B`` (or ``K K^T``) with a fixed probe, which tells it, and ``variances`` (n,) of the
    modes.
    """

    image: Tensor
    variances: Tensor
    values: Tensor  # (r,), those of the blocks one after the other
    blocks: tuple[tuple[Tensor, Tensor | None], ...]  # indices, and eigenvectors as columns; None: the modes themselves
    on_data: bool  # K K^T
    apart: float = 0.0  # from the matrix whose eigenbasis it is: see `EvidenceByLevel`

    @property
    def numbers(self) -> int:
        """How many it keeps."""
        return self.image.numel() + len(self.values) + sum(q.numel() for _, q in self.blocks if q is not None)

    @property
    def largest(self) -> int:
        """The side of the largest block that was decomposed."""
        return max((len(q) for _, q in self.blocks if q is not None), default=0)

    def coordinates(self, v: Tensor) -> Tensor:
        """``(rows, r)``, in the eigenbasis."""
        return torch.cat([v[:, index] if q is None else v[:, index] @ q for index, q in self.blocks], 1)


def evidence_by_level(
    law: GaussianLaw, problem: Problem, *, like: Sequence[Factors] = ()
) -> tuple[EvidenceByLevel, Factors] | None:
    """The evidence of a linear problem with Gaussian noise; None where it is too large to decompose.

    ``like``: factors of other members of a family; where ``K^T K`` is a multiple of one of them (a gain, a scale of the
    prior), its eigenvectors are used.
    """
    if not_linear_gaussian(problem) or not problem.shared or (wide := widened(problem, law.modes)) is None:
        return None
    gram = _Gram(law.to(dtype=torch.float64), wide[0])
    factors = gram.factors(like)
    return None if factors is None else (gram.evidence(factors), factors)


class _Gram:
    """``K^T K`` on rows of real numbers, in float64."""

    def __init__(self, law: GaussianLaw, problem: Problem) -> None:
        operator = problem.operator
        assert isinstance(operator, LinearOperator)
        self.law, self.problem, self.operator = law, problem, operator
        self.signal_complex = law.mean.dtype if law.mean.is_complex() else None
        self.data_complex = problem.data.dtype if problem.data.is_complex() else None
        root = law.variances.sqrt().flatten()
        self.root = root if self.signal_complex is None else root.repeat_interleave(2)
        level, precision = probe(problem, law.modes)
        self.system = IterativeSystem(
            problem=problem, operator=operator, modes=law.modes, tol=0.0, max_iter=0, level=level, precision=precision
        )
        self.trace = float(level) * len(self.root)  # of B^T B, about

    def normal(self, u: Tensor) -> Tensor:
        """``K^T K u`` for modes ``(rows, n)``."""
        return torch.cat([self.root * to_real(self.system.normal(self._modes(self.root * p))) for p in _parts(u)])

    def unscaled(self, u: Tensor) -> Tensor:
        """``B^T B u``: without the variances of the modes."""
        return torch.cat([to_real(self.system.normal(self._modes(p))) for p in _parts(u)])

    def outer(self, w: Tensor) -> Tensor:
        """``K K^T w`` for data ``(rows, m)``."""
        parts = (self.system.forward(self._modes(self.root * self.back(p))) for p in _parts(w))
        return torch.cat([to_real(part) for part in parts])

    def back(self, w: Tensor) -> Tensor:
        """``K^T w``."""
        data = from_real(w, tuple(self.operator.out_shape), self.data_complex)
        return self.root * to_real(self.system.adjoint(data))

    def _modes(self, u: Tensor) -> Tensor:
        return from_real(u, tuple(self.law.modes.mode_shape), self.signal_complex)

    def factors(self, like: Sequence[Factors]) -> Factors | None:
        """The eigenbasis, by what is shared; None if it is too large."""
        n, m = len(self.root), prod(self.operator.out_shape) * (1 if self.data_complex is None else 2)
        on_data = m < min(n, _SIDE)
        product, n = (self.outer, m) if on_data else (self.normal, n)
        probes = torch.randint(2, (2, n), generator=torch.Generator().manual_seed(0), device="cpu").to(self.root)
        probes, variances = 2 * probes - 1, self.root.square()
        image = self.outer(probes) if on_data else self.unscaled(probes)
        every = torch.arange(n, device=self.root.device)
        for other in like:
            if other.on_data == on_data and (found := _multiple(image, variances, other)) is not None:
                scale, apart = found
                return replace(other, image=image, variances=variances, values=other.values * scale, apart=apart)
        if not on_data and _equal(image[0] * probes[0] * probes[1], image[1]):
            values = (variances * image[0] * probes[0]).clamp_min(0)
            return Factors(image=image, variances=variances, values=values, blocks=((every, None),), on_data=False)
        parts = [every] if on_data else self._mirrored(probes[0])
        if max(len(part) for part in parts) > _SIDE:
            return None
        values_, blocks = _decomposed(parts, _matrices(product, n, parts), None if on_data else self._swap())
        return Factors(image=image, variances=variances, values=values_.clamp_min(0), blocks=blocks, on_data=on_data)

    def _mirrored(self, probe: Tensor) -> list[Tensor]:
        """The modes by their symmetry about the middle of every axis along which even and odd ones do not mix."""
        label = torch.zeros(len(self.root), dtype=torch.int64, device=self.root.device)
        odd = self.law.modes.odd() if isinstance(self.law.modes, SpectralModes) else []
        for axis, of_modes in enumerate(odd):
            which = of_modes.flatten().to(label.device)
            which = which if self.signal_complex is None else which.repeat_interleave(2)
            image = self.unscaled(torch.where(which, 0.0, probe)[None])[0]
            if float(image[which].norm()) <= _SAME * float(image.norm()):
                label += which.long() << axis
        return [(label == k).nonzero()[:, 0] for k in sorted(set(label.tolist()))]

    def _swap(self) -> Tensor | None:
        """Every mode with its first two axes exchanged, ``(n,)``; None where they are not alike."""
        shape = self.law.modes.mode_shape
        if not isinstance(self.law.modes, SpectralModes) or len(shape) < 2 or shape[0] != shape[1]:
            return None
        each = 1 if self.signal_complex is None else 2
        index = torch.arange(len(self.root), device=self.root.device).view(*shape, each)
        return index.transpose(0, 1).flatten()

    def evidence(self, factors: Factors) -> EvidenceByLevel:
        problem = self.problem
        white = to_real(problem.whiten(problem.data - self.operator(self.law.mean[None])))
        data = to_real(problem.whiten(problem.data))
        if factors.on_data:  # K^T w has the coordinates sqrt(l) c
            power = factors.values * factors.coordinates(white).square()
        else:
            power = factors.coordinates(self.back(white)).square()
        return EvidenceByLevel(
            values=factors.values,
            power=power,
            size=white.square().sum(1),
            peak=problem.noise.log_prob(problem.data, problem.data, self.operator.observed).double(),
            count=problem.num_data.double(),
            ends=data.norm(dim=1) + (data - white).norm(dim=1),
            spread=float(self.law.variances.max()) * self.trace,
            apart=factors.apart,
        )


def _parts(rows: Tensor) -> list[Tensor]:
    return [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]


def _equal(a: Tensor, b: Tensor, within: float = _SAME) -> bool:
    return float((a - b).norm()) <= within * float(b.norm())


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two symmetric matrices are equal in units of their diagonals: no strong mode hides the others."""
    size = b.diagonal()
    root = torch.where(size > 0, size, 1.0).rsqrt()  # of a mode that is not there the row is zero, too
    return _equal(root[:, None] * a * root, root[:, None] * b * root)


def _multiple(image: Tensor, variances: Tensor, other: Factors) -> tuple[float, float] | None:
    """The number c > 0 that makes the matrix of ``other`` this one, and how far they are apart; None if none does."""
    scale = float((image * other.image).sum() / other.image.square().sum().clamp_min(1e-300))
    if not scale > 0 or not _equal(scale * other.image, image, _SAME_ROUNDED):
        return None
    if other.on_data:
        apart = float((image - scale * other.image).norm(dim=1).max())
        return (scale, apart) if apart * image.shape[1] ** 0.5 <= _UNSEEN else None
    # The same operator in the same modes: the variances decide, every one of them.
    strongest = int(variances.argmax())
    ratio = float(variances[strongest] / other.variances[strongest].clamp_min(1e-300))
    gap = (variances - ratio * other.variances).abs()
    return (scale * ratio, 0.0) if bool((gap <= _SAME_ROUNDED * variances).all()) else None


def _matrices(product: Callable[[Tensor], Tensor], n: int, parts: list[Tensor]) -> list[Tensor]:
    """The blocks, all at once: a product serves a unit vector of each."""
    found = [torch.empty(len(part), len(part), dtype=torch.float64, device=part.device) for part in parts]
    longest = max(len(part) for part in parts)
    for first in range(0, longest, _ROWS):
        own = [part[first : first + _ROWS] for part in parts]
        unit = torch.zeros(min(_ROWS, longest - first), n, dtype=torch.float64, device=parts[0].device)
        for index in own:
            unit[torch.arange(len(index), device=index.device), index] = 1.0
        image = product(unit)
        for matrix, part, index in zip(found, parts, own, strict=True):
            matrix[first : first + len(index)] = image[: len(index), part]
    return [(matrix + matrix.mT) / 2 for matrix in found]


def _decomposed(
    parts: list[Tensor], matrices: list[Tensor], swap: Tensor | None
) -> tuple[Tensor, tuple[tuple[Tensor, Tensor | None], ...]]:
    """Eigenvalues and eigenvectors of every block; equal ones (of two axes that are alike) are decomposed once."""
    values, blocks = list[Tensor](), list[tuple[Tensor, Tensor | None]]()
    done = list[tuple[Tensor, Tensor, Tensor]]()  # matrix, values, vectors
    for part, matrix in zip(parts, matrices, strict=True):
        order = matrix.diagonal().argsort(descending=True)
        part, matrix = part[order], matrix[order][:, order]
        if _alike(torch.diag(matrix.diagonal()), matrix):
            values.append(matrix.diagonal())
            blocks.append((part, None))
            continue
        known = next((d for d in done if d[0].shape == matrix.shape and _alike(d[0], matrix)), None)
        if known is None:
            known = (matrix, *_eigen(part, matrix, swap))
            done.append(known)
        values.append(known[1])
        blocks.append((part, known[2]))
    return torch.cat(values), tuple(blocks)


def _eigen(part: Tensor, matrix: Tensor, swap: Tensor | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a block; in two halves where it does not see which axis is which."""
    if swap is not None and bool(torch.isin(swap[part], part).all()):
        place = torch.zeros(len(swap), dtype=torch.int64, device=part.device)
        place[part] = torch.arange(len(part), device=part.device)
        other = place[swap[part]]
        if _alike(matrix[other][:, other], matrix):
            own = torch.arange(len(part), device=part.device)
            a, b, fixed = own[own < other], other[own < other], own[own == other]
            same, crossed, side = matrix[a][:, a], matrix[a][:, b], math.sqrt(2) * matrix[a][:, fixed]
            even = torch.cat([torch.cat([same + crossed, side], 1), torch.cat([side.mT, matrix[fixed][:, fixed]], 1)])
            halves = [eigh(even), eigh(same - crossed)]
            vectors = torch.zeros_like(matrix)
            count, root = len(even), math.sqrt(0.5)
            vectors[a, :count] = vectors[b, :count] = root * halves[0][1][: len(a)]
            vectors[fixed, :count] = halves[0][1][len(a) :]
            vectors[a, count:], vectors[b, count:] = root * halves[1][1], -root * halves[1][1]
            return torch.cat([h[0] for h in halves]), vectors
    values, vectors = eigh(matrix)
    return values, vectors
