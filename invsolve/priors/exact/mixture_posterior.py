"""The exact posterior of a Gaussian mixture under linear data with Gaussian noise: again a mixture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.decompositions import svd
from invsolve.core.random import DrawLike
from invsolve.core.validation import Shape, kind_dtype
from invsolve.errors import invalid
from invsolve.gaussian.evidence import Evidence, rounding
from invsolve.gaussian.marginals import LARGEST, Marginals, MixtureMarginals, Moments
from invsolve.gaussian.posterior import Posterior
from invsolve.operators.base import LinearOperator
from invsolve.operators.dense import dense_matrix
from invsolve.problem import Problem


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GaussianMixturePosterior(Posterior):
    """``sum_k weights_k N(means_k, covariances_k)`` for every item of the data.

    ``weights`` ``(batch, K)``, ``means`` ``(batch, K, *shape)``, ``mean`` ``(batch, *shape)``, ``log_evidence``
    ``(batch,)``: log p(y), float64, right to about ``evidence_rounding``. Covariances are over the flattened signal of
    n entries.
    """

    problem: Problem
    weights: Tensor
    means: Tensor
    mean: Tensor
    log_evidence: Tensor
    evidence_rounding: Tensor
    factors: Tensor  # (items, K, n, n) float64, items = batch or 1: covariance = F F^T
    item: Tensor  # (batch,) int64: which of the factors is a row's

    @property
    def covariances(self) -> Tensor:
        """``(K, n, n)`` where operator and noise are the same for every item, else ``(batch, K, n, n)``."""
        full = (self.factors @ self.factors.mT).to(self.means.dtype)
        return full[0] if len(full) == 1 else full[self.item]

    @property
    def std(self) -> Tensor:
        """Posterior standard deviation of every entry, ``(batch, *shape)``."""
        within = self._variances
        apart = (self.means - self.mean[:, None]).double().square()
        w = self.weights.double().view(*self.weights.shape, *([1] * len(self.problem.shape)))
        return (w * (within + apart)).sum(1).sqrt().to(self.mean.dtype)

    @property
    def _variances(self) -> Tensor:
        """Of the entries in every component, ``(batch, K, *shape)`` float64."""
        return self.factors.square().sum(-1)[self.item].view(self.means.shape)

    def marginals(self) -> Marginals | None:
        """Without quantiles where the components are too many to keep."""
        if self.means.numel() > LARGEST:
            return Moments(mean=self.mean, std=self.std)
        stds = self._variances.sqrt().to(self.means.dtype)
        return MixtureMarginals(mean=self.mean, std=self.std, weights=self.weights, means=self.means, stds=stds)

    def evidence(self) -> Evidence | None:
        return Evidence(self.log_evidence, self.evidence_rounding)

    def draw(self, draws: DrawLike) -> Tensor:
        rows, n = len(self.mean), self.factors.shape[-1]
        z = draws.normal((n,), self.means.dtype, step=0, index=0).double()
        uniform = torch.special.ndtr(draws.normal((1,), torch.float64, step=0, index=1))
        edges = self.weights.double().cumsum(1)
        chosen = torch.searchsorted(edges, uniform * edges[:, -1:])[:, 0].clamp_max(edges.shape[1] - 1)
        x = self.means[torch.arange(rows, device=chosen.device), chosen].flatten(1).double()
        for i, factors in enumerate(self.factors):
            for k, factor in enumerate(factors):
                here = ((self.item == i) & (chosen == k)).nonzero()[:, 0]
                x[here] += z[here] @ factor.mT
        return x.to(self.mean.dtype).view(self.mean.shape)

    def take(self, index: Tensor) -> Self:
        index = index.to(self.mean.device)
        return replace(
            self,
            problem=self.problem.take(index),
            weights=self.weights[index],
            means=self.means[index],
            mean=self.mean[index],
            log_evidence=self.log_evidence[index],
            evidence_rounding=self.evidence_rounding[index],
            item=self.item[index],
        )


def condition_mixture(
    shape: Shape, weights: Tensor, means: Tensor, values: Tensor, vectors: Tensor, problem: Problem
) -> GaussianMixturePosterior:
    """Condition ``sum_k weights_k N(means_k, Q_k diag(values_k) Q_k^T)`` (float64, means (K, n)) on ``problem``.

    Per component, with C = L L^T, whitened matrix H and residual r: the singular values s of ``H L = U s V^T`` give the
    factor ``L V (1 + s^2)^-1/2`` of the covariance, the mean shift ``L V s / (1 + s^2) U^T r`` and ``r^T S^-1 r`` as a
    sum of positive terms, so that nothing cancels however small the noise.
    """
    operator, data = problem.operator, problem.data
    if tuple(operator.in_shape) != shape or operator.in_kind != "real":
        raise invalid(
            "GaussianMixturePrior.posterior",
            "A",
            f"an operator on real signals of shape {shape}",
            f"{operator.in_kind} of {tuple(operator.in_shape)}",
        )
    assert isinstance(operator, LinearOperator)  # a closed form was asked for
    batch = len(data)
    matrix = _whitened_matrix(problem)[:, None]  # (items, 1, m, n)
    white = to_real(problem.whiten(data.to(kind_dtype(torch.float64, operator.out_kind))))  # (batch, m)
    root = (vectors * values.sqrt()[:, None]).expand(len(means), -1, -1)
    m, n = matrix.shape[-2:]
    u, s, vt = svd(matrix @ root, full_matrices=m < n)  # V is complete either way
    residual = (white[:, None] - (matrix @ means[..., None])[..., 0])[..., None]  # (batch, K, m, 1)
    c = u.mT @ residual
    rank = s.shape[-1]
    gain = root @ vt.mT  # L V
    shrink = torch.ones(*s.shape[:-1], n, dtype=torch.float64, device=s.device)
    shrink[..., :rank] = (1 + s**2).rsqrt()
    posterior_means = means + (gain[..., :rank] @ ((s / (1 + s**2))[..., None] * c[..., :rank, :]))[..., 0]
    outside = (residual - u @ c).square().sum((-2, -1))
    size = (c[..., 0].square() * shrink[..., :rank].square()).sum(-1) + outside
    # The noise's own density at its mode knows its units and what was observed.
    peak = problem.noise.log_prob(data, data, operator.observed).double()
    log_joint = weights.log() + peak[:, None] - 0.5 * (size + torch.log1p(s**2).sum(-1))
    log_evidence = torch.logsumexp(log_joint, 1)
    posterior_weights = torch.exp(log_joint - log_evidence[:, None])
    dtype = kind_dtype(data.dtype, "real")
    shift = (c[..., :rank, 0] * s / (1 + s**2)).norm(dim=-1)
    left = ((c[..., 0] * shrink[..., :rank].square()).square().sum(-1) + outside).sqrt()
    own_mean = (white[:, None] - residual[..., 0]).norm(dim=-1)
    each = rounding(
        dtype,
        matrix=s.norm(dim=-1),
        side=rank,
        law=values.amax(-1) * matrix.square().sum((-2, -1)),
        ends=white.norm(dim=-1)[:, None] + own_mean,
        shift=shift,
        left=left,
        terms=peak.abs()[:, None] + 2 * m + 0.5 * (size + torch.log1p(s**2).sum(-1)),
    )
    factors = gain * shrink[..., None, :]
    item = torch.arange(batch, device=data.device) if len(factors) > 1 else data.new_zeros(batch, dtype=torch.int64)
    return GaussianMixturePosterior(
        problem=problem,
        weights=posterior_weights.to(dtype),
        log_evidence=log_evidence,
        factors=factors,
        item=item,
        evidence_rounding=(posterior_weights * each).sum(1),
        means=posterior_means.to(dtype).view(batch, -1, *shape),
        mean=(posterior_weights[..., None] * posterior_means).sum(1).to(dtype).view(batch, *shape),
    )


def _whitened_matrix(problem: Problem) -> Tensor:
    """``G^-1/2 A`` over real numbers, ``(items, m, n)`` float64, items = 1 where every row has the same."""
    operator = problem.operator
    assert isinstance(operator, LinearOperator)
    dense = dense_matrix(operator, dtype=kind_dtype(problem.data.dtype, "real"))
    dense = dense if dense.ndim == 3 else dense[None]
    items = 1 if problem.shared else len(problem.data)
    columns = dense.mT.expand(items, -1, -1)  # (items, n, m)
    n = columns.shape[1]
    flat = columns.reshape(items * n, -1)
    if operator.out_kind == "complex":
        flat = torch.complex(*flat.tensor_split(2, dim=1))
    rows = problem if problem.shared else problem.take(torch.arange(items, device=flat.device).repeat_interleave(n))
    white = rows.whiten(flat.view(items * n, *operator.out_shape))
    return to_real(white).view(items, n, -1).mT
