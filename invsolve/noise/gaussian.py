"""Additive Gaussian noise: what a number given to `solve` means."""

from __future__ import annotations

import copy
import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter, several
from invsolve.core.distributions import Distribution
from invsolve.core.random import DrawLike
from invsolve.core.validation import Shape, check_finite, check_positive, kind_dtype
from invsolve.errors import UnsupportedError, invalid
from invsolve.noise.base import Noise, spoken


@final
@dataclass(frozen=True, eq=False)
class Gaussian(Noise):
    """Additive Gaussian noise: ``y = clean + n``, ``n ~ N(0, G)``; give ``std`` or ``covariance``.

    Parameters
    ----------
    std : float, Distribution, Tensor, array or list, shape (*out_shape) or (items, *out_shape), optional
        > 0, in the units of the data: one for all; one per entry; or one per item, where the trailing axes may be 1.
        For complex data it is that of a real component: E|n|^2 = 2 std^2. One that is not known is a distribution,
        ``iv.LogNormal(median=0.1, factor=3)``: `solve` infers it for every item together with the signal
        (``result["noise.std"]``). Such a noise has no whitened residual and no density until `at` gives it a number.
    covariance : Tensor, array or list, shape (m, m), optional
        G, symmetric positive definite, over the m flattened data. For complex data it is the covariance of the real and
        of the imaginary part, which are independent.

    Raises
    ------
    InputError, InputTypeError
        If both or neither are given, a std is not positive, or the covariance not symmetric positive definite.

    Examples
    --------
    >>> Gaussian(0.1).std
    0.1
    """

    std: float | Tensor | Distribution | None = None
    _: KW_ONLY
    covariance: Tensor | None = None
    _chol: Tensor | None = field(default=None, init=False, repr=False)  # lower Cholesky factor of the covariance
    per_item: bool = field(default=False, init=False, repr=False)  # std carries an item axis; set by `check`

    def __post_init__(self) -> None:
        if (self.std is None) == (self.covariance is None):
            given = "neither" if self.std is None else "both"
            repair = "One that is not known has a distribution: std=iv.LogNormal(median=0.1, factor=3)."
            raise invalid("Gaussian", "std", "given, or `covariance`, not both", given, "" if self.std else repair)
        if several(self.std):
            object.__setattr__(self, "std", real_parameter("Gaussian", "std", self.std))
        if isinstance(self.std, Tensor):
            check_finite("Gaussian", "std", self.std)
            if bool((self.std <= 0).any()):
                raise invalid("Gaussian", "std", "positive", float(self.std.min()))
            if self.std.ndim == 0:
                object.__setattr__(self, "std", float(self.std))
        elif isinstance(self.std, Distribution):
            if self.std.support[0] < 0:
                given = f"{self.std} with support from {self.std.support[0]:g}"
                raise invalid("Gaussian", "std", "a distribution of positive numbers", given, "Use iv.LogNormal.")
        elif self.std is not None:
            object.__setattr__(self, "std", check_positive("Gaussian", "std", self.std))
        if self.covariance is not None:
            covariance = real_parameter("Gaussian", "covariance", self.covariance)
            object.__setattr__(self, "covariance", covariance)
            object.__setattr__(self, "_chol", _cholesky(covariance))

    @property
    def unknown(self) -> bool:
        """True if the std is a distribution: a hyperparameter, to be inferred."""
        return isinstance(self.std, Distribution)

    @classmethod
    def of_rows(cls, std: Tensor) -> Gaussian:
        """With a ``std`` ``(rows, *out_shape)`` that nothing looks at: in loops a look would stall."""
        noise = object.__new__(cls)
        for name, value in {"std": std, "covariance": None, "_chol": None, "per_item": True}.items():
            object.__setattr__(noise, name, value)
        return noise

    def at(self, std: float | Tensor) -> Gaussian:
        """The noise with this std: a number, or a tensor as for ``std``."""
        return Gaussian(std=std)

    # --- whitening: what linear-Gaussian solvers use --------------------------------------------------------------
    def whiten(self, r: Tensor, observed: Tensor | None = None) -> Tensor:
        """``G^-1/2 r`` ``(rows, *out_shape)``; unobserved entries become 0."""
        if self._chol is not None:
            if observed is not None:
                raise invalid(
                    "Gaussian",
                    "covariance",
                    "used with fully observed data",
                    "an operator with missing entries",
                    "Keep the observed entries with Subsample, and the covariance of those.",
                )
            white: Tensor = torch.linalg.solve_triangular(self._chol.to(r.dtype), r.flatten(1).mT, upper=False)
            return white.mT.reshape(r.shape)
        std = self._row_std(r)
        if r.is_complex():  # part by part: torch would divide complex by complex, which takes four times as long
            out = torch.view_as_complex(torch.view_as_real(r.resolve_conj()) / std.unsqueeze(-1))
        else:
            out = r / std
        return out if observed is None else out * observed

    def unwhiten_adjoint(self, r: Tensor, observed: Tensor | None = None) -> Tensor:
        """``G^-H/2 r``: the adjoint of `whiten`."""
        if self._chol is not None:
            back: Tensor = torch.linalg.solve_triangular(self._chol.to(r.dtype).mT, r.flatten(1).mT, upper=True)
            return back.mT.reshape(r.shape)
        return self.whiten(r, observed)

    def apply_covariance(self, r: Tensor) -> Tensor:
        """``G r``."""
        if self._chol is not None:
            chol = self._chol.to(r.dtype)
            return (r.flatten(1) @ chol @ chol.mT).reshape(r.shape)
        return self._row_std(r) ** 2 * r

    # --- the distribution ---------------------------------------------------------------------------------------------
    def log_prob(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        white = self.whiten(y - clean, observed).flatten(1)
        size = white.abs().square().sum(1)
        components = 2 if y.is_complex() else 1
        if self._chol is not None:
            half_logdet = self._chol.diagonal().log().sum().expand(len(y))
            number: Tensor | float = float(white.shape[1])
        else:
            keep = torch.ones_like(y.real) if observed is None else observed.expand(y.shape).to(y.real.dtype)
            logs = math.log(self.std) if isinstance(self.std, float) else self._row_std(y).log()
            half_logdet = (keep * logs).flatten(1).sum(1)
            number = keep.flatten(1).sum(1)
        return -0.5 * size - components * (half_logdet + 0.5 * math.log(2 * math.pi) * number)

    def log_prob_each(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor | None:
        if self._chol is not None or y.is_complex():
            return None
        log = -0.5 * (self.whiten(y - clean).square() + math.log(2 * math.pi)) - self._row_std(y).log()
        return log if observed is None else torch.where(observed, log, 0.0)

    def grad(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.curvature(clean - y, clean, observed)

    def curvature(self, v: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.unwhiten_adjoint(self.whiten(v, observed), observed)

    def residual(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.whiten(y - clean, observed)

    def sample(self, clean: Tensor, draw: DrawLike, *, step: int = 0, index: int = 0) -> Tensor:
        z = draw.normal(tuple(clean.shape[1:]), clean.dtype, step=step, index=index)
        if self._chol is not None:
            return clean + (z.flatten(1) @ self._chol.to(z.dtype).mT).reshape(z.shape)
        return clean + self._row_std(clean) * z

    def check(
        self, out_shape: Shape, batch: int, dtype: torch.dtype, device: torch.device, *, owner: str | None = None
    ) -> Self:
        real = kind_dtype(dtype, "real")
        if isinstance(self.std, Tensor):
            shape, ndim = tuple(self.std.shape), len(out_shape)
            per_item = self.std.ndim == ndim + 1 and shape[0] == batch
            per_item = per_item and all(a in (1, b) for a, b in zip(shape[1:], out_shape, strict=True))
            if shape != out_shape and not per_item:
                shapes = f"a number, or a tensor of shape {out_shape} or {(batch, *out_shape)}"
                repair = f"One number for each item has shape {(batch, *[1] * ndim)}."
                raise invalid(*spoken(self, "std", owner), shapes, shape, repair)
            return self._with(std=self.std.to(device, real), per_item=per_item and shape != out_shape)
        if self.covariance is not None:
            size = math.prod(out_shape)
            if tuple(self.covariance.shape) != (size, size):
                want = f"of shape {(size, size)}"
                raise invalid(*spoken(self, "covariance", owner), want, tuple(self.covariance.shape))
            return self._with(covariance=self.covariance.to(device), _chol=_cholesky(self.covariance).to(device, real))
        return self

    def take(self, index: Tensor) -> Self:
        if self.per_item and isinstance(self.std, Tensor):
            return self._with(std=self.std[index.to(self.std.device)])
        return self

    def _with(self, **values: object) -> Self:
        """A copy with these fields, which were checked before."""
        out = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(out, name, value)
        return out

    def _row_std(self, like: Tensor) -> Tensor:
        assert self.std is not None  # the constructor: std or covariance
        if isinstance(self.std, Distribution):
            raise UnsupportedError(
                f"Gaussian: the std is not known ({self.std}), so there is no whitened residual and no density. "
                "Give it a number: noise.at(std), for example at its median."
            )
        if isinstance(self.std, float):
            # Filled there: a copy from the host would stall a GPU.
            return torch.full((), self.std, dtype=kind_dtype(like.dtype, "real"), device=like.device)
        return self.std


def _cholesky(covariance: Tensor) -> Tensor:
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise invalid("Gaussian", "covariance", "a square matrix (m, m)", tuple(covariance.shape))
    check_finite("Gaussian", "covariance", covariance)
    if covariance.numel() == 0:
        return covariance
    gap = float((covariance - covariance.mT).abs().max())
    if gap > 1e-5 * float(covariance.abs().max()):
        raise invalid("Gaussian", "covariance", "symmetric", f"an asymmetry of {gap:.3g}", "Pass (C + C.T) / 2.")
    factor, info = torch.linalg.cholesky_ex(covariance.double())
    if int(info):
        given = f"a matrix whose leading minor of order {int(info)} is not"
        raise invalid("Gaussian", "covariance", "positive definite", given)
    chol: Tensor = factor
    return chol
