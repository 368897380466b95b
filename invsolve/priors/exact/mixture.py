"""A mixture of Gaussians with dense covariances: exact in everything, and not Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameters
from invsolve.core.random import DrawLike
from invsolve.core.validation import Shape, check_finite
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.law import DenseModes, GaussianLaw
from invsolve.gaussian.posterior import Posterior
from invsolve.priors.base import Prior, Pullback
from invsolve.priors.exact.mixture_posterior import condition_mixture
from invsolve.problem import Problem
from invsolve.separable.laws import EntryLaw, normal_entries

_OWNER = "GaussianMixturePrior"


@final
@dataclass(frozen=True, eq=False, repr=False)
class GaussianMixturePrior(Prior):
    """``x ~ sum_k weights_k N(means_k, covariances_k)``, real, for signals of any shape with dense covariances.

    Denoiser, pullback, density and posterior are exact, computed in float64 and returned in the precision of the means.
    ``law`` is the Gaussian with the same mean and covariance.

    Parameters
    ----------
    weights : Tensor, shape (K,)
        Probabilities of the components, >= 0 with sum 1.
    means : Tensor, shape (K, *shape)
        Means of the components.
    covariances : Tensor, shape (K, n, n) or (n, n)
        One for every component, or one for all, over the flattened signal of n entries; symmetric positive
        semidefinite. Zero is allowed: an empirical distribution.

    Raises
    ------
    InputError, InputTypeError
        Naming the argument that is wrong.

    Examples
    --------
    >>> import torch
    >>> prior = GaussianMixturePrior(weights=torch.tensor([0.5, 0.5]), means=torch.tensor([[-1.0], [1.0]]),
    ...                              covariances=torch.zeros(1, 1))
    >>> prior.denoise(torch.tensor([[0.5], [-0.5]]), 1.0)  # tanh(x / sigma^2)
    tensor([[ 0.4621],
            [-0.4621]])
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    law: GaussianLaw = field(init=False, repr=False)
    _w: Tensor = field(init=False, repr=False)  # (K,) float64, sum exactly 1
    _m: Tensor = field(init=False, repr=False)  # (K, n) float64
    _values: Tensor = field(init=False, repr=False)  # (K or 1, n): eigenvalues of the covariances, >= 0
    _vectors: Tensor = field(init=False, repr=False)  # (K or 1, n, n)

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("weights", "covariances", "means")}
        for name, tensor in parameters(_OWNER, **given).items():
            object.__setattr__(self, name, tensor)
            if tensor.is_complex():
                raise invalid_type(_OWNER, name, "real", str(tensor.dtype))
            check_finite(_OWNER, name, tensor)
        if self.means.ndim < 2:
            raise invalid(_OWNER, "means", "of shape (K, *shape)", tuple(self.means.shape))
        count, n = len(self.means), self.means[0].numel()
        if tuple(self.weights.shape) != (count,):
            raise invalid(_OWNER, "weights", f"of shape {(count,)}, one for each mean", tuple(self.weights.shape))
        if bool((self.weights < 0).any()):
            raise invalid(_OWNER, "weights", "non-negative", float(self.weights.min()))
        total = float(self.weights.double().sum())
        if abs(total - 1) > 1e-4:
            raise invalid(_OWNER, "weights", "of sum 1", total, "Pass weights / weights.sum().")
        if tuple(self.covariances.shape) not in ((n, n), (count, n, n)):
            raise invalid(_OWNER, "covariances", f"of shape {(count, n, n)} or {(n, n)}", tuple(self.covariances.shape))
        # On the CPU: eigenvectors are then the same on every device.
        values, vectors = _eigen(self.covariances.double().cpu().reshape(-1, n, n))

        w, m = self.weights.double().cpu() / total, self.means.double().cpu().reshape(count, n)
        centre = w @ m
        each = (vectors * values[:, None]) @ vectors.mT
        apart = (m - centre) * w.sqrt()[:, None]
        spread = (w.view(-1, 1, 1) * each).sum(0) + apart.mT @ apart
        variances, basis = torch.linalg.eigh(spread)
        if not float(variances[-1]) > 0:
            raise invalid(_OWNER, "covariances", "positive for some direction", "a law that is a single point")
        dtype, device = self.means.dtype, self.means.device
        law = GaussianLaw(
            mean=centre.to(device, dtype).view(self.shape),
            variances=variances.clamp_min(0).to(device, dtype),
            modes=DenseModes(shape=self.shape, matrix=basis.to(device, dtype)),
        )
        for name, value in (("law", law), ("_w", w), ("_m", m), ("_values", values), ("_vectors", vectors)):
            object.__setattr__(self, name, value.to(device))

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of one signal."""
        return tuple(self.means.shape[1:])

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Mean of the mixture, ``(*shape)``."""
        return self.law.mean

    @property
    def scale(self) -> float:  # type: ignore[override]
        """The largest standard deviation of any direction, of the whole mixture."""
        return math.sqrt(float(self.law.variances.max()))

    @property
    def detail(self) -> float | None:  # type: ignore[override]
        """The smallest marginal standard deviation in a component, of entries that vary; None if none does."""
        variances = (self._vectors.square() @ self._values[..., None])[..., 0]
        varying = variances[variances > (10 * torch.finfo(self.means.dtype).eps) ** 2 * variances.max()]
        return math.sqrt(float(varying.min())) if len(varying) else None

    @property
    def has_transport(self) -> bool:
        """True if there is a single component: its law is then exact."""
        return int((self.weights > 0).sum()) == 1

    @property
    def entry_laws(self) -> tuple[EntryLaw, ...]:
        """Those of the components, where all covariances are diagonal."""
        covariances = self.covariances.reshape(-1, *self.covariances.shape[-2:])
        variances = covariances.diagonal(dim1=1, dim2=2)
        if not torch.equal(covariances, torch.diag_embed(variances)):
            return ()
        parts = zip(self._w.log().tolist(), self.means, variances.expand(len(self._w), -1), strict=True)
        return tuple(normal_entries(m, v.clamp_min(0).view(self.shape), w) for w, m, v in parts if w > -math.inf)

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Log density of ``x0 + sigma z`` at ``x`` ``(batch, *shape)``, ``(batch,)`` nats, float64.

        ``sigma``: as for `denoise`, or 0 where every covariance is positive definite.
        """
        x = self._taken("x", x)
        if isinstance(sigma, Tensor) or sigma != 0:
            return torch.logsumexp(self._components(x, self._check(x, sigma))[0], 0)
        self._check(x, 1.0)
        if bool((self._values == 0).any()):
            raise invalid(_OWNER, "sigma", "positive where a covariance is singular (no density without noise)", sigma)
        return torch.logsumexp(self._components(x, torch.zeros((), dtype=x.dtype, device=x.device))[0], 0)

    def responsibilities(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The probability of every component given ``x`` ``(batch, *shape)`` at level ``sigma``, ``(batch, K)``."""
        x = self._taken("x", x)
        log_joint = self._components(x, self._check(x, sigma))[0]
        return torch.softmax(log_joint, 0).mT.to(self.dtype)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        log_joint, denoised, _ = self._components(x, sigma)
        return self._out((torch.softmax(log_joint, 0)[..., None] * denoised).sum(0), x)

    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pullback]:
        log_joint, denoised, solve = self._components(x, sigma)
        r = torch.softmax(log_joint, 0)[..., None]
        value = (r * denoised).sum(0)
        apart = denoised - value
        level = _flat(sigma, x)

        # J = sum_k r_k (G_k + (D_k - D)(D_k - D)^T / sigma^2), G_k = C_k (C_k + sigma^2)^-1, from d ln r_k / dx.
        def pull(v: Tensor) -> Tensor:
            flat = v.flatten(1).double()
            slope = (apart * flat).sum(-1, keepdim=True)
            own = solve(_quadratic(self._vectors, self._values, flat.expand(len(apart), -1, -1)))
            return self._out((r * (own + apart * slope / level**2)).sum(0), v)

        return self._out(value, x), pull

    def _moments(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        if sigma.ndim:  # every row has covariances of its own
            return super()._moments(x, sigma)
        log_joint, denoised, _ = self._components(x, sigma)
        r = torch.softmax(log_joint, 0)
        value = (r[..., None] * denoised).sum(0)
        level = sigma.double() ** 2
        own = _quadratic_matrix(self._vectors, self._values * (level / (self._values + level)))
        own = own.expand(len(r), -1, -1)
        apart = ((denoised - value) * r.sqrt()[..., None]).permute(1, 2, 0)  # (batch, n, K)
        within = (r.mT @ own.flatten(1)).view(len(x), *own.shape[1:])
        return self._out(value, x), torch.baddbmm(within, apart, apart.mT)

    def _sample(self, n: int, draws: DrawLike) -> Tensor:
        z = draws.normal((self._m.shape[1],), self.dtype, step=0, index=0).double()
        uniform = torch.special.ndtr(draws.normal((1,), torch.float64, step=0, index=1)[:, 0])
        chosen = torch.searchsorted(self._w.cumsum(0), uniform).clamp_max(len(self._w) - 1)
        root = self._vectors * self._values.sqrt()[:, None]
        x = self._m[chosen]
        if len(root) == 1:
            x = x + z @ root[0].mT
        else:
            for k, factor in enumerate(root):
                x = torch.where((chosen == k)[:, None], x + z @ factor.mT, x)
        return x.to(self.dtype).view(n, *self.shape)

    def _posterior(self, problem: Problem) -> Posterior:
        return condition_mixture(self.shape, self._w, self._m, self._values, self._vectors, problem)

    def _out(self, flat: Tensor, like: Tensor) -> Tensor:
        return flat.to(like.dtype).view(like.shape)

    def _components(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Pullback]:
        """``log w_k N(x; m_k, C_k + sigma^2)`` (K, batch), D_k (K, batch, n), and v -> ``(C_k + sigma^2)^-1 v``."""
        level = _flat(sigma, x)
        apart = x.flatten(1).double() - self._m[:, None]  # (K, batch, n)
        if level.shape[-1] == 1:
            total = self._values[:, None] + level**2  # (K or 1, batch or 1, n)

            def solve(v: Tensor) -> Tensor:
                return _quadratic(self._vectors, 1 / total, v)

            log_det = total.log().sum(-1)
        else:
            covariance = _quadratic_matrix(self._vectors, self._values)[:, None]
            chol = torch.linalg.cholesky(covariance + torch.diag_embed(level**2))

            def solve(v: Tensor) -> Tensor:
                return torch.cholesky_solve(v[..., None], chol)[..., 0]

            log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        white = solve(apart)
        size = (apart * white).sum(-1)
        log_joint = self._w.log()[:, None] - 0.5 * (size + log_det + apart.shape[-1] * math.log(2 * math.pi))
        denoised = self._m[:, None] + _quadratic(self._vectors, self._values, white)
        return log_joint, denoised, solve


def _flat(sigma: Tensor, x: Tensor) -> Tensor:
    """The level as float64 ``(batch or 1, n or 1)``."""
    if sigma.ndim == 0 or sigma.shape[1:].numel() == 1:
        return sigma.double().reshape(-1, 1)
    return sigma.double().expand(-1, *x.shape[1:]).flatten(1)


def _quadratic(vectors: Tensor, values: Tensor, v: Tensor) -> Tensor:
    """``Q diag(values) Q^T v`` for rows v (K, batch, n); values (K or 1, n) or (K or 1, batch or 1, n)."""
    values = values[:, None] if values.ndim == 2 else values
    return (values * (v @ vectors)) @ vectors.mT


def _quadratic_matrix(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values[:, None]) @ vectors.mT


def _eigen(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues >= 0 and vectors of (K, n, n), refusing what is no covariance."""
    size = covariances.abs().amax((1, 2))
    if bool(((covariances - covariances.mT).abs().amax((1, 2)) > 1e-5 * size).any()):
        raise invalid(_OWNER, "covariances", "symmetric", "an asymmetric matrix", "Pass (C + C.mT) / 2.")
    values, vectors = torch.linalg.eigh((covariances + covariances.mT) / 2)
    largest = values[:, -1:]
    if bool((values < -1e-6 * largest).any()):
        given = f"a matrix with eigenvalue {float(values.min()):.3g}"
        raise invalid(_OWNER, "covariances", "positive semidefinite", given)
    # Below the rounding of the decomposition a value is zero: it would otherwise pass for a density.
    floor = covariances.shape[-1] * torch.finfo(torch.float64).eps * largest
    return torch.where(values > floor, values, 0.0), vectors
