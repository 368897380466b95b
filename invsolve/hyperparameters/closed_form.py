"""The evidence of unknown scalars that comes for nothing: linear problems with Gaussian priors and noise.

One decomposition serves every level of the noise (`invsolve.gaussian.evidence_by_level`), and every member of a family
that differs by a factor (a gain, a scale of the prior). Lattices ask here first, whatever the size of the problem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from invsolve.gaussian.evidence import Evidence
from invsolve.gaussian.evidence_by_level import EvidenceByLevel, Factors, evidence_by_level
from invsolve.hyperparameters.mode_search import Node
from invsolve.hyperparameters.unknowns import Unknowns
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import IsGaussian

ROUGH = 0.05  # nats of rounding above which the evidence is looked for elsewhere
_KEPT = 2**24  # numbers of spectra that are kept, and of eigenvectors
_FEW = 16  # decompositions that are compared with, beside one for every column
_SLOW = 256  # side of a block from which on members are interpolated
_POINTS = 4, 12  # members that an interpolation takes, at least and at most
_NEAR = 0.5  # prior stds between the two members next to it: a scan's widest cells are looked at, not interpolated
_AGREE = 1e-3  # nats that interpolations of two degrees may differ by
_BELOW, _AGREE_BELOW = 15.0, 1e-2  # the same of members so far below the highest that none of their mass counts


class ClosedForm:
    """``log p(y | theta)`` for one set of scalars after another; what was decomposed is kept.

    Where decompositions take long, members between others are interpolated along one scalar, through the nearest of
    those that were decomposed: by polynomials of growing degree, until two of them say the same.
    """

    def __init__(self, unknowns: Unknowns) -> None:
        self.unknowns = unknowns
        self._columns = unknowns.model + unknowns.columns("prior")
        self.interpolated = False  # what was told last
        self._level = unknowns.level
        self._found: dict[Node, EvidenceByLevel | None] = {}
        self._evidences: WeakKeyDictionary[EvidenceByLevel, dict[float, Evidence]] = WeakKeyDictionary()
        self._numbers = 0
        self._factors: list[Factors] = []
        self._best = torch.full((), -math.inf, dtype=torch.float64, device=unknowns.problem.data.device)  # or (items,)

    def at(self, node: Node, prior: Prior) -> Evidence | None:
        """Log p(y | theta) of all items at coordinates of the scalars; None where no decomposition gives it."""
        key = tuple(node[i] for i in self._columns)
        theta = self.unknowns.transport(torch.tensor(node, dtype=torch.float64, device="cpu"))
        s = 1.0 if self._level is None else float(theta[self._level])
        if key not in self._found:
            found = self._between(key, s)
            self.interpolated = found is not None
            if found is not None:
                return found
            self._found[key] = self._decomposed(theta, prior)
        spectrum = self._found[key]
        self.interpolated = False
        if spectrum is None:
            return None
        found = spectrum.at(s)
        self._best = torch.maximum(self._best, found.log)
        return found

    @property
    def there(self) -> bool:
        """Whether there is one at the medians of the scalars."""
        unknowns = self.unknowns
        with torch.no_grad():
            return self.at((0.0,) * len(unknowns.names), unknowns.prior_at(unknowns.medians)) is not None

    @property
    def known(self) -> bool:
        """Whether it gave an evidence so far."""
        return bool(self._factors)

    @property
    def size(self) -> int:
        """The smaller of the numbers of data and unknowns, real ones."""
        problem = self.unknowns.problem
        data = math.prod(problem.operator.out_shape) * (2 if problem.data.is_complex() else 1)
        return min(data, math.prod(problem.shape) * (2 if problem.signal_dtype.is_complex else 1))

    def _decomposed(self, theta: Tensor, prior: Prior) -> EvidenceByLevel | None:
        if not isinstance(prior, IsGaussian):
            return None
        problem = self.unknowns.problem_only(theta)
        if self._level is not None:
            problem = problem.with_unit_noise()
        found = evidence_by_level(prior.law, problem, like=self._factors)
        if found is None:
            return None
        spectrum, factors = found
        self._factors.insert(0, factors)
        # A look at one takes about as long as a column of a decomposition: no more of them than that is worth.
        del self._factors[_FEW + factors.largest :]
        while len(self._factors) > 1 and sum(f.numbers for f in self._factors) > _KEPT:
            self._factors.pop()
        self._numbers += spectrum.power.numel() + spectrum.values.numel()
        if self._numbers > _KEPT:
            self._found.clear()
            self._numbers = 0
        return spectrum

    def _between(self, key: Node, s: float) -> Evidence | None:
        """The evidence by members nearby, where two interpolations agree."""
        if not self._factors or self._factors[0].largest < _SLOW:
            return None
        for axis, x in enumerate(key):
            line = {
                other[axis]: spectrum
                for other, spectrum in self._found.items()
                if spectrum is not None and other[:axis] + other[axis + 1 :] == key[:axis] + key[axis + 1 :]
            }
            near = sorted(line, key=lambda v: abs(v - x))
            below, above = (
                max((v for v in near if v < x), default=-math.inf),
                min((v for v in near if v > x), default=math.inf),
            )
            if above - below > _NEAR:
                continue
            check: Evidence | None = None
            for count in range(_POINTS[0], min(len(near), _POINTS[1]) + 1, 2):
                found = _interpolated({v: self._at(line[v], s) for v in near[:count]}, x)
                if check is not None:
                    apart = (found.log - check.log).abs()
                    if bool((apart <= _AGREE + _AGREE_BELOW * (self._best - found.log - _BELOW).clamp_min(0)).all()):
                        return Evidence(found.log, found.se + apart)
                check = found
        return None

    def _at(self, member: EvidenceByLevel, s: float) -> Evidence:
        """What many interpolations ask of one member."""
        known = self._evidences.setdefault(member, {})
        if s not in known:
            known[s] = member.at(s)
        return known[s]


def _interpolated(values: Mapping[float, Evidence], x: float) -> Evidence:
    """By Lagrange's polynomial through all of them; the largest of their errors."""
    log: Tensor | float = 0.0
    for v, evidence in values.items():
        log = log + evidence.log * math.prod((x - o) / (v - o) for o in values if o != v)
    assert isinstance(log, Tensor)
    return Evidence(log, torch.stack([e.se for e in values.values()]).amax(0))
