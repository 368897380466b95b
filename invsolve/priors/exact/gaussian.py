"""A Gaussian prior with a dense covariance: exact in everything, the reference of the package."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameters
from invsolve.core.conjugate_gradients import conjugate_gradients
from invsolve.core.random import DrawLike
from invsolve.core.validation import Kind, Shape, check_finite, check_positive, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.law import DenseModes, GaussianLaw
from invsolve.gaussian.posterior import GaussianPosterior, Posterior
from invsolve.priors.base import Prior, Pullback
from invsolve.problem import Problem
from invsolve.separable.laws import EntryLaw, normal_entries

_OWNER = "GaussianPrior"


class GaussianBase(Prior):
    """A prior that is a `GaussianLaw`; everything is elementwise in its modes."""

    law: GaussianLaw
    exact_law = True

    @property
    def scale(self) -> float:  # type: ignore[override]
        """The largest standard deviation of a mode."""
        return math.sqrt(float(self.law.variances.max()))

    @property
    def detail(self) -> float:  # type: ignore[override]
        """The smallest marginal standard deviation of an entry that varies, in units of the diffusion noise."""
        variances = self.law.modes.marginal_variances(self.law.variances)
        rounding = (10 * torch.finfo(variances.dtype).eps) ** 2 * variances.max()  # an entry that does not vary at all
        return math.sqrt(float(variances[variances > rounding].min()))

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return "complex" if self.mean.is_complex() else "real"

    def noise(self, z: Tensor) -> Tensor:
        # White noise is invariant under an orthonormal basis; a coloured one is S z.
        modes = self.law.modes
        return z if modes.orthonormal else modes.synthesis(z.reshape(len(z), *modes.mode_shape))

    @property
    def white_noise(self) -> bool:
        return self.law.modes.orthonormal

    def noise_covariance(self, v: Tensor) -> Tensor:
        return self.law.modes.synthesis(self.law.modes.adjoint(v)) if not self.law.modes.orthonormal else v

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """Log density of ``x0 + sigma noise`` at ``x`` ``(batch, *shape)``, ``(batch,)`` nats, float64; ``sigma`` >= 0.

        Without noise, a law with modes of variance 0 lives on the others: the density is that on its support, and -inf
        off it (as scipy's allow_singular), to the rounding of ``x``.
        """
        x = self._taken("x", x)
        self._check(x, 1.0)
        level = check_positive(type(self).__name__, "sigma", sigma, zero=True)
        modes = self.law.modes
        total = self.law.variances.double() + level**2
        u = modes.analysis(x - self.mean).abs().double()
        on = total > 0
        size = torch.where(on, u.square() / total, 0.0).flatten(1).sum(1)
        ends = torch.cat([modes.analysis(x), modes.analysis(self.mean.expand_as(x))], 1).abs().double()
        rounding = 100 * torch.finfo(self.dtype).eps * ends.flatten(1).norm(dim=1)
        off_support = (~on & (u > rounding.view(-1, *([1] * (u.ndim - 1))))).flatten(1).any(1)
        parts = 2 if self.kind == "complex" else 1
        log_det = (total[on].log() + math.log(2 * math.pi)).sum() + self._log_volume(on)
        return torch.where(off_support, -math.inf, -0.5 * (size + parts * log_det))

    def _log_volume(self, on: Tensor) -> Tensor | float:
        """``log det S_on^T S_on`` over the modes ``on``, of one real component."""
        modes = self.law.modes
        if bool(on.all()) or modes.orthonormal:
            return 2 * modes.log_det
        index = on.flatten().nonzero()[:, 0]
        unit = torch.zeros(len(index), on.numel(), dtype=torch.float64, device=on.device)
        unit[torch.arange(len(index), device=on.device), index] = 1.0
        columns = modes.to(dtype=torch.float64).synthesis(unit.view(len(index), *modes.mode_shape)).flatten(1)
        log_volume: Tensor = torch.linalg.slogdet(columns @ columns.mT).logabsdet
        return log_volume

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        if sigma.shape[1:].numel() > 1:
            return self._denoise_map(x, sigma)
        gain = self._gain(x, sigma)
        return self.mean + self.law.modes.synthesis(gain * self.law.modes.analysis(x - self.mean))

    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pullback]:
        if sigma.shape[1:].numel() > 1:
            return self._denoise_map(x, sigma), lambda v: self._solve_map(self._covariance(v), sigma)
        gain, modes = self._gain(x, sigma), self.law.modes
        value = self.mean + modes.synthesis(gain * modes.analysis(x - self.mean))
        if modes.orthonormal:  # S^-H = S
            return value, lambda v: modes.synthesis(gain * modes.adjoint(v))
        return super()._pullback(x, sigma)

    def _sample(self, n: int, draws: DrawLike) -> Tensor:
        z = draws.normal(self.law.modes.mode_shape, kind_dtype(self.dtype, self.kind), step=0)
        return self.law.sample(z)

    def _posterior(self, problem: Problem) -> Posterior:
        return GaussianPosterior.from_problem(self.law, problem)

    def _gain(self, x: Tensor, sigma: Tensor) -> Tensor:
        lead = sigma.view(-1, *([1] * len(self.law.modes.mode_shape))) if sigma.ndim else sigma
        return self.law.variances / (self.law.variances + lead**2)

    # --- a noise level for every entry: K = covariance, N = diag(sigma) C diag(sigma), D = m + K (K + N)^-1 (x - m) ---
    def _denoise_map(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mean + self._covariance(self._solve_map(x - self.mean, sigma))

    def _covariance(self, v: Tensor) -> Tensor:
        return self.law.modes.synthesis(self.law.variances * self.law.modes.adjoint(v))

    def _solve_map(self, rhs: Tensor, sigma: Tensor) -> Tensor:
        """``(K + N)^-1 rhs`` by conjugate gradients, for white noise or `DenseModes.scale`; others override it."""
        scale = getattr(self.law.modes, "scale", None)
        s = sigma if scale is None else sigma * scale
        # Symmetrised: (I + s^-1 K s^-1) w = s^-1 rhs, and the answer is s^-1 w.
        w, _ = conjugate_gradients(
            lambda v: v + self._covariance(v / s) / s,
            rhs / s,
            rtol=10 * torch.finfo(self.dtype).eps,
            max_iter=4 * prod(self.shape),
        )
        return w / s


@final
@dataclass(frozen=True, eq=False, repr=False)
class GaussianPrior(GaussianBase):
    """``N(mean, covariance)`` for signals of any shape small enough for a dense covariance (to about 4,000 entries).

    Denoiser, its derivative, density, draws and posterior are exact: with noise level sigma and C = ``covariance``,
    ``D = mean + C (C + sigma^2)^-1 (x - mean)``.

    Parameters
    ----------
    mean : Tensor, shape (*shape)
        Mean, real or complex, finite, of at least one axis.
    covariance : Tensor, shape (n, n)
        Symmetric positive semidefinite, real, n the number of entries (complex: of the real and of the imaginary part
        each, independent). Eigenvalues within the rounding of it count as 0.
    noise_scale : Tensor, shape (*shape), optional
        Gives the diffusion noise of every entry in its own unit (``C = diag(noise_scale^2)``), > 0; needed only when
        units differ by orders.

    Raises
    ------
    InputError
        For a covariance that is not symmetric or has an eigenvalue below -1e-6 of the largest; for shapes that do not
        fit.
    InputTypeError
        For arguments that are no tensors, or of other precisions.

    Examples
    --------
    >>> import torch
    >>> prior = GaussianPrior(mean=torch.zeros(2), covariance=torch.eye(2))
    >>> prior.denoise(torch.tensor([[2.0, 4.0]]), 1.0)
    tensor([[1., 2.]])
    """

    mean: Tensor
    covariance: Tensor
    _: KW_ONLY
    noise_scale: Tensor | None = None
    law: GaussianLaw = field(init=False, repr=False)

    def __post_init__(self) -> None:
        units = {} if self.noise_scale is None else {"noise_scale": self.noise_scale}
        for name, value in parameters(_OWNER, mean=self.mean, covariance=self.covariance, **units).items():
            object.__setattr__(self, name, value)
            if name != "mean" and value.is_complex():
                raise invalid_type(_OWNER, name, "real", str(value.dtype))
            if value.device != self.mean.device:
                raise invalid(_OWNER, name, f"on the device of the mean, {self.mean.device}", value.device)
            check_finite(_OWNER, name, value)
        if self.mean.ndim == 0:
            raise invalid(
                _OWNER, "mean", "of at least one axis", tuple(self.mean.shape), "The same for n: np.full(n, mean)."
            )
        n = self.mean.numel()
        if n == 0:
            raise invalid(_OWNER, "mean", "of at least one entry", tuple(self.mean.shape))
        if tuple(self.covariance.shape) != (n, n):
            raise invalid(_OWNER, "covariance", f"of shape {(n, n)}", tuple(self.covariance.shape))
        covariance = self.covariance.double().cpu()  # its eigenvectors are the same on every device
        gap = float((covariance - covariance.mT).abs().max())
        if gap > 1e-5 * float(covariance.abs().max()):
            raise invalid(_OWNER, "covariance", "symmetric", f"an asymmetry of {gap:.3g}", "Pass (C + C.T) / 2.")
        scale = self.noise_scale
        if scale is not None:
            if tuple(scale.shape) != tuple(self.mean.shape):
                raise invalid(_OWNER, "noise_scale", f"of shape {tuple(self.mean.shape)}", tuple(scale.shape))
            if not bool((scale > 0).all()):
                raise invalid(_OWNER, "noise_scale", "positive", float(scale.min()))
            covariance = covariance / torch.outer(scale.double().flatten(), scale.double().flatten()).cpu()
        values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
        if float(values[0]) < -1e-6 * float(values[-1]) or float(values[-1]) <= 0:
            given = f"a matrix with eigenvalues from {float(values[0]):.3g} to {float(values[-1]):.3g}"
            raise invalid(_OWNER, "covariance", "positive semidefinite and not zero", given)
        dtype = self.covariance.dtype
        modes = DenseModes(shape=tuple(self.mean.shape), matrix=vectors.to(self.mean.device, dtype), scale=scale)
        variances = torch.where(values > _rounding(covariance, vectors, dtype), values, 0.0).to(self.mean.device, dtype)
        object.__setattr__(self, "law", GaussianLaw(mean=self.mean, modes=modes, variances=variances))

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of one signal."""
        return tuple(self.mean.shape)

    @property
    def entry_laws(self) -> tuple[EntryLaw, ...]:
        """One, where the covariance is diagonal and the signal real."""
        variances = self.covariance.diagonal()
        if self.kind == "complex" or not torch.equal(self.covariance, torch.diag(variances)):
            return ()
        return (normal_entries(self.mean, variances.clamp_min(0).view(self.shape)),)


def _rounding(covariance: Tensor, vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding may have made of the eigenvalue 0 of every eigenvector v, ``(n,)``.

    Entries ``C_ij`` rounded to ``dtype`` move ``v^T C v`` by some ``eps sum_i v_i^2 C_ii``; weighed like this, small
    variances of entries in small units are kept. The eigen-decomposition errs by some eps64 of the trace (between once
    and n times the largest eigenvalue), and not at all where there is nothing to decompose.
    """
    diagonal = covariance.diagonal()
    rounded = 4 * torch.finfo(dtype).eps * (vectors.square().mT @ diagonal)
    if torch.equal(covariance, torch.diag(diagonal)):
        return rounded
    return rounded + 4 * torch.finfo(torch.float64).eps * diagonal.sum()
