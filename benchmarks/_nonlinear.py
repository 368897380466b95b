"""Non-linear problems with two modes whose weights, means and stds are known by quadrature, in float64.

Data of a modulus do not know the sign of a signal, and a folded map has two signals for its data: the posterior is two
modes far apart, and only the prior says how likely each is. Every method finds a mode; these tell who weighs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from _gold_curved import Grid, plane
from torch import Tensor

from invsolve.core.validation import Shape
from invsolve.operators import Matrix, Operator, PhaseRetrieval
from invsolve.priors import GaussianMixturePrior, GaussianPrior, Prior

D = torch.float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Of the whole posterior, ``mean`` and ``std`` ``(n,)``; of the modes ``weights`` ``(2,)``, ``means``, ``stds``
    ``(2, n)``."""

    mean: Tensor
    std: Tensor
    weights: Tensor
    means: Tensor
    stds: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Bimodal:
    """``data = operator(x) + noise * N(0, I)``, ``x ~ prior``; ``data`` ``(m,)``. Mode 0 is where ``<side, x> > edge``,
    mode 1 the rest. ``exact`` is by quadrature."""

    name: str
    text: str
    operator: Operator
    data: Tensor
    noise: float
    prior: Prior
    log_prior: Callable[[Tensor], Tensor]  # (rows, n) -> (rows,), up to a constant, by formulas of its own
    side: Tensor
    edge: float
    exact: Reference

    def mode(self, x: Tensor) -> Tensor:
        """The mode of each of ``x`` ``(rows, n)``: int64 ``(rows,)``, 0 or 1."""
        return (x.double() @ self.side <= self.edge).long()

    def log_target(self, x: Tensor) -> Tensor:
        """The log posterior density ``(rows,)``, up to a constant."""
        return _log_likelihood(self.operator, self.data, self.noise, x) + self.log_prior(x)


def reference(points: Tensor, weights: Tensor, mode: Tensor) -> Reference:
    """Of weighted points ``(k, n)``: a quadrature, or a sample. ``mode`` ``(k,)``."""
    weights = weights / weights.sum()
    shares, means, stds = [], [], []
    for k in range(2):
        w = weights * (mode == k)
        shares.append(w.sum())
        means.append(w @ points / w.sum())
        stds.append((w @ (points - means[-1]).square() / w.sum()).sqrt())
    mean = weights @ points
    return Reference(
        mean=mean,
        std=(weights @ (points - mean).square()).sqrt(),
        weights=torch.stack(shares),
        means=torch.stack(means),
        stds=torch.stack(stds),
    )


def _log_likelihood(operator: Operator, data: Tensor, noise: float, x: Tensor) -> Tensor:
    return -(operator(x) - data).square().sum(1) / (2 * noise**2)


def log_gaussian(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """``log N(x; mean, covariance)`` of rows, without the constant of the dimension."""
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, (x - mean).mT, upper=False)
    return -white.square().sum(0) / 2 - root.diagonal().log().sum()


# --- quadratures ------------------------------------------------------------------------------------------------------
def in_the_plane(target: Callable[[Tensor], Tensor], centre: Tensor) -> Grid:
    """``exp(target)`` by the trapezoidal rule on what has mass."""
    return plane(lambda x: -target(x) - (x - centre).square().sum(1) / 2, centre)


def around_modes(target: Callable[[Tensor], Tensor], starts: Tensor, nodes: int) -> Grid:
    """``exp(target)`` by the product rule of Gauss and Hermite, in coordinates that whiten each of the modes that the
    rows of ``starts`` climb to: for modes that are about Gaussian and do not overlap."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    n = starts.shape[1]
    offsets = torch.cartesian_prod(*[z] * n)
    log_w = torch.cartesian_prod(*[w.log()] * n).sum(1) + offsets.square().sum(1) / 2
    points, logs = [], []
    for start in starts:
        top = _climb(target, start)
        root = torch.linalg.cholesky(torch.linalg.inv(-_hessian(target, top)))
        points.append(top + offsets @ root.mT)
        logs.append(target(points[-1]) + log_w + root.diagonal().log().sum())
    return Grid(points=torch.cat(points), weights=torch.softmax(torch.cat(logs), 0))


def _climb(target: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The maximum near ``start``: Newton's method, with steps halved until they climb."""

    def value(v: Tensor) -> Tensor:
        return target(v[None])[0]

    x = start
    for _ in range(100):
        slope = torch.func.grad(value)(x)
        size, vectors = torch.linalg.eigh(-_hessian(target, x))
        step = vectors @ ((vectors.mT @ slope) / size.abs().clamp_min(1e-6))
        while float(value(x + step)) < float(value(x)) and float(step.norm()) > 1e-14:
            step = step / 2
        x = x + step
        if float(step.norm()) < 1e-12:
            break
    return x


def _hessian(target: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.func.jacrev(torch.func.grad(lambda v: target(v[None])[0]))(x)


# --- problems ---------------------------------------------------------------------------------------------------------
@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Fold(Operator):
    """``(x_0, x_1) -> ((x_0 - 0.4)^2 + 0.3 x_1, x_1 + 0.5 sin 2 x_0)``: a plane that is folded along ``x_0 = 0.4``."""

    in_shape: Shape = (2,)
    out_shape: Shape = (2,)

    def _apply(self, x: Tensor) -> Tensor:
        a, b = x.unbind(1)
        return torch.stack([(a - 0.4).square() + 0.3 * b, b + 0.5 * torch.sin(2 * a)], 1)


def _gaussian(
    name: str,
    text: str,
    operator: Operator,
    truth: Tensor,
    noise: float,
    mean: Tensor,
    covariance: Tensor,
    side: Tensor,
    edge: float,
    seed: int,
) -> Bimodal:
    def log_prior(x: Tensor) -> Tensor:
        return log_gaussian(x, mean, covariance)

    prior = GaussianPrior(mean=mean, covariance=covariance)
    return _problem(name, text, operator, truth, noise, prior, log_prior, side, edge, seed)


def _problem(
    name: str,
    text: str,
    operator: Operator,
    truth: Tensor,
    noise: float,
    prior: Prior,
    log_prior: Callable[[Tensor], Tensor],
    side: Tensor,
    edge: float,
    seed: int,
) -> Bimodal:
    data = operator(truth[None])[0]
    data = data + noise * torch.randn(data.shape, generator=torch.Generator().manual_seed(seed), dtype=D)

    def target(x: Tensor) -> Tensor:
        return _log_likelihood(operator, data, noise, x) + log_prior(x)

    grid = in_the_plane(target, torch.zeros(2, dtype=D)) if len(truth) == 2 else _both_signs(target, truth)
    exact = reference(grid.points, grid.weights, (grid.points @ side <= edge).long())
    return Bimodal(
        name=name,
        text=text,
        operator=operator,
        data=data,
        noise=noise,
        prior=prior,
        log_prior=log_prior,
        side=side,
        edge=edge,
        exact=exact,
    )


def _both_signs(target: Callable[[Tensor], Tensor], truth: Tensor, nodes: int = 10) -> Grid:
    return around_modes(target, torch.stack([truth, -truth]), nodes)


def _sensing(m: int, n: int, seed: int) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=D) / math.sqrt(n)


def phase_plane() -> Bimodal:
    """Amplitudes of two real numbers; the prior's mean prefers a sign."""
    truth, mean = torch.tensor([1.2, -0.7], dtype=D), torch.tensor([0.4, 0.1], dtype=D)
    text = "2 real numbers, 4 amplitudes with noise 0.1, prior N((0.4, 0.1), I)"
    return _gaussian(
        "phase, 2 numbers",
        text,
        PhaseRetrieval(operator=Matrix(matrix=_sensing(4, 2, seed=1))),
        truth,
        0.1,
        mean,
        torch.eye(2, dtype=D),
        truth,
        0.0,
        seed=2,
    )


def phase_five() -> Bimodal:
    """Intensities of five correlated real numbers behind a complex matrix."""
    i = torch.arange(5, dtype=D)
    covariance = 0.6 ** (i[:, None] - i).abs()
    z = torch.randn(5, generator=torch.Generator().manual_seed(5), dtype=D)
    truth, mean = torch.linalg.cholesky(covariance) @ z, torch.full((5,), 0.5, dtype=D)
    matrix = torch.complex(_sensing(12, 5, seed=3), _sensing(12, 5, seed=4))
    text = "5 real numbers of correlation 0.6^|i-j|, mean 0.5; 12 intensities of a complex matrix with noise 0.1"
    operator = PhaseRetrieval(operator=Matrix(matrix=matrix, in_kind="real"), measure="intensity")
    return _gaussian("phase, 5 numbers", text, operator, truth, 0.1, mean, covariance, truth, 0.0, seed=6)


def phase_mixture() -> Bimodal:
    """Amplitudes of two real numbers; a mixture's weights prefer a sign."""
    truth = torch.tensor([1.5, 1.0], dtype=D)
    weights, means = torch.tensor([0.7, 0.3], dtype=D), torch.stack([-truth, truth])
    covariances = torch.stack([0.5 * torch.eye(2, dtype=D), 0.3 * torch.eye(2, dtype=D)])

    def log_prior(x: Tensor) -> Tensor:
        parts = [w.log() + log_gaussian(x, m, c) for w, m, c in zip(weights, means, covariances, strict=True)]
        return torch.logsumexp(torch.stack(parts), 0)

    prior = GaussianMixturePrior(weights=weights, means=means, covariances=covariances)
    text = "2 real numbers, 3 amplitudes with noise 0.1, prior of two Gaussians at either sign, weights 0.3 and 0.7"
    operator = PhaseRetrieval(operator=Matrix(matrix=_sensing(3, 2, seed=7)))
    return _problem("phase, mixture", text, operator, truth, 0.1, prior, log_prior, truth, 0.0, seed=8)


def fold() -> Bimodal:
    """A folded plane, its two sheets of unequal prior probability and width."""
    text = "2 numbers, data ((x0 - 0.4)^2 + 0.3 x1, x1 + 0.5 sin 2 x0) with noise 0.2, prior N(0, I)"
    return _gaussian(
        "fold",
        text,
        Fold(),
        torch.tensor([1.5, 0.5], dtype=D),
        0.2,
        torch.zeros(2, dtype=D),
        torch.eye(2, dtype=D),
        torch.tensor([1.0, 0.0], dtype=D),
        0.4,
        seed=9,
    )


PROBLEMS: dict[str, Callable[[], Bimodal]] = {
    "phase, 2 numbers": phase_plane,
    "phase, 5 numbers": phase_five,
    "phase, mixture": phase_mixture,
    "fold": fold,
}
