"""Data against prior, operator and noise in closed form, where all of these are Gaussian and of moderate size.

Whitened data ``w = G^-1/2 (y - A mean)`` of the model have the distribution ``N(0, S)``, ``S = I + K K^T`` with ``K =
G^-1/2 A C^1/2``: nothing of the posterior is needed, and every test is exact. In the eigenvectors of S the coordinates
over their stds are independent standard normal numbers; `(S^-1 w)_i / sqrt((S^-1)_ii)` is the error of datum i
predicted from all others, over its std (Rue & Held 2005, section 2); ``S^-1/2 w`` is white noise at the sensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invsolve.core.arrays import from_real, to_real
from invsolve.diagnostics.operator import operator_test
from invsolve.diagnostics.power_spectrum import spectrum_test
from invsolve.diagnostics.report import Measured, fail_z
from invsolve.diagnostics.residuals import lag_one
from invsolve.gaussian.systems import DENSE_SIDE, DENSE_SIZE, DenseSystem, make_system
from invsolve.operators.base import LinearOperator
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import IsGaussian
from invsolve.problem import Problem

_POWER = 1.3  # standard deviations between "half of the time" and "nine times in ten"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The whitened data of every item in the eigenvectors of S; float64."""

    gains: NDArray[np.float64]  # (directions,): eigenvalues of K K^T, signal over noise power, strongest first
    squares: NDArray[np.float64]  # (items, directions): chi^2_1 numbers
    rest: NDArray[np.float64]  # (items,): power of the directions that no signal reaches, chi^2 with `left` degrees
    left: int
    errors: NDArray[np.float64]  # (items, data): standardised errors of data predicted from all others
    precision: NDArray[np.float64]  # (data,): diagonal of S^-1
    places: NDArray[np.int64]  # (data,): their places in the flattened data
    white: Tensor  # (items, *out_shape): S^-1/2 w
    operator: list[Measured]


def evidence(problem: Problem, prior: Prior, *, seed: int = 0) -> Evidence | None:
    """The data of a Gaussian prior and a linear operator small enough for a dense matrix; None elsewhere."""
    A = problem.operator
    if not isinstance(prior, IsGaussian) or not isinstance(A, LinearOperator) or not problem.shared:
        return None
    law = prior.law
    parts = 2 if problem.data.is_complex() else 1
    m, n = parts * problem.data[0].numel(), law.variances.numel() * (2 if law.mean.is_complex() else 1)
    if min(m, n) > DENSE_SIDE or m * n > DENSE_SIZE or m == 0:
        return None
    system = make_system(problem, law, tol=1e-4, max_iter=1)
    assert isinstance(system, DenseSystem)
    root = law.variances.double().sqrt().reshape(-1)
    K = system.matrix * (root.repeat_interleave(2) if law.mean.is_complex() else root)
    w = to_real(problem.whiten(problem.data - A(law.mean.expand(1, *law.mean.shape)))).double()
    keep = torch.ones(m, dtype=torch.bool, device=K.device)
    if A.observed is not None:
        keep = A.observed.expand(problem.data.shape[1:]).flatten().repeat_interleave(parts)
    if not bool(keep.any()):
        return None
    K, w = K[keep], w[:, keep]
    if len(K) <= K.shape[1]:
        gains, U = torch.linalg.eigh(K @ K.mT)
        gains = gains.clamp_min(0)
    else:
        gains, V = torch.linalg.eigh(K.mT @ K)
        on = gains > 1e-10 * gains.max().clamp_min(1e-300)  # weaker directions are rounding
        gains, U = gains[on], K @ V[:, on] / gains[on].sqrt()
    gains, U = gains.flip(0), U.flip(1)
    c = w @ U
    perp = w - c @ U.mT if U.shape[1] < len(K) else torch.zeros_like(w)
    shrunk = (c / (1 + gains)) @ U.mT + perp  # S^-1 w
    precision = 1 - (U.square() * (gains / (1 + gains))).sum(1)

    def grid(rows: Tensor) -> Tensor:
        full = rows.new_zeros(len(rows), m)
        full[:, keep] = rows
        wide = torch.complex128 if problem.data.is_complex() else None
        return from_real(full, tuple(problem.data.shape[1:]), wide)

    white = grid((c / (1 + gains).sqrt()) @ U.mT + perp)
    return Evidence(
        gains=gains.cpu().numpy(),
        squares=(c.square() / (1 + gains)).cpu().numpy(),
        rest=perp.square().sum(1).cpu().numpy(),
        left=len(K) - U.shape[1],
        errors=(shrunk / precision.sqrt()).cpu().numpy(),
        precision=precision.cpu().numpy(),
        places=keep.nonzero()[:, 0].cpu().numpy() // parts,
        white=white,
        operator=operator_test(w, U, gains, grid, lambda rows: to_real(rows)[:, keep], seed=seed),
    )


def evidence_tests(problem: Problem, prior: Prior, *, seed: int) -> list[Measured]:
    """Other noise, other priors, sensors against all others, correlation of neighbours; [] without a closed form.

    ``seed`` keys the draws of one null distribution.
    """
    found = evidence(problem, prior, seed=seed)
    if found is None:
        return []
    spectrum = spectrum_test(found.gains, found.squares, found.rest, found.left, seed=seed)
    return [spectrum, *found.operator, _sensors(found), *_innovations(problem, found)]


def _sensors(e: Evidence) -> Measured:
    from scipy import stats

    size = np.abs(e.errors)
    m = size.shape[1]
    p = np.minimum(1.0, m * 2 * stats.norm.sf(size.max(1)))
    item = int(p.argmin())
    limit = fail_z("sensors", m * len(size))
    bad = e.places[np.flatnonzero(size[item] > limit)]
    where = f"entry {e.places[int(size[item].argmax())]}"
    if len(bad) > 1:
        dots = ", ..." if len(bad) > 8 else ""
        where = f"{len(bad)} beyond {limit:.1f}: entries {', '.join(map(str, bad[:8]))}{dots}"
    off = (limit + _POWER) / np.sqrt(np.median(e.precision))
    return Measured(
        name="sensors",
        value=float(size.max()),
        p=p,
        text=f"each datum predicted from all others: largest error {float(size.max()):.1f} std ({where}); can detect "
        f"a typical datum wrong, or dead, by {off:.1f} noise std",
    )


def _innovations(problem: Problem, e: Evidence) -> list[Measured]:
    from scipy import stats

    lags = lag_one(e.white, problem.operator.observed)
    if not lags:
        return []
    z = torch.stack(lags).cpu().numpy()  # (axes, items)
    p = np.minimum(1.0, len(z) * 2 * stats.norm.sf(np.abs(z)).min(0))
    worst = float(z.flat[np.abs(z).argmax()])
    needed = (fail_z("innovations", z.size) + _POWER) / np.sqrt(len(e.places))
    return [
        Measured(
            name="innovations",
            value=worst,
            p=p,
            text=f"neighbouring data, once all that prior and operator say is taken out, correlate by {worst:+.1f} "
            f"standard errors; can detect a correlation of {needed:.2g}, as a wrong operator or prior leaves",
        )
    ]
