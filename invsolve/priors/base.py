"""What a prior is: a denoiser ``D(x, sigma) = E[x0 | x0 + sigma C^(1/2) z = x]``, and what a solver must know of it."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from invsolve.core.arrays import as_tensor, from_real, to_real
from invsolve.core.counting import count
from invsolve.core.fingerprint import fingerprint
from invsolve.core.random import DrawLike, Draws
from invsolve.core.validation import Kind, Shape, check_int, check_kind, check_number, check_shape, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw

if TYPE_CHECKING:
    from invsolve.gaussian.posterior import Posterior
    from invsolve.operators.base import Operator
    from invsolve.problem import Problem

Pullback = Callable[[Tensor], Tensor]


class Prior(abc.ABC):
    """A law over signals of ``shape`` (no batch axis), real or complex, known through its denoiser.

    Subclasses give ``shape``, ``mean``, ``scale`` and ``_denoise`` and, where they can, a cheaper ``_pullback``,
    ``_sample`` and ``law``. Frozen dataclasses whose tensors are fields get ``to`` and ``fingerprint`` for nothing.
    """

    shape: Shape
    kind: Kind = "real"
    sigma_range: tuple[float, float] = (0.0, math.inf)  # the levels it was made for
    mean: Tensor  # (*shape); its dtype and device are those of the prior
    # Where noise drowns the signal: the largest root eigenvalue of the covariance, in units of the diffusion noise.
    scale: float
    # The smallest standard deviation that samples must resolve, in the same units; None: not known.
    detail: float | None = None
    law: GaussianLaw | None = None  # a Gaussian with (about) this prior's mean and covariance, if it can be stated
    exact_law: bool = False  # the prior *is* that Gaussian
    notes: tuple[str, ...] = ()  # what was done to it to fit a problem

    @abc.abstractmethod
    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``x`` ``(batch, *shape)``; ``sigma`` real, 0-d or broadcastable against ``x`` (all its axes there)."""

    @property
    def cheap_pullback(self) -> bool:
        """True if `pullback` is a closed form, so that no network is differentiated."""
        return type(self)._pullback is not Prior._pullback

    def noise(self, z: Tensor) -> Tensor:
        """``C^(1/2) z``: diffusion noise of unit level from white ``z`` ``(rows, *shape)``; white unless overridden."""
        return z

    @property
    def learned(self) -> bool:
        """True if it was made from signals: it then has a scale that the user did not state."""
        return False

    @property
    def white_noise(self) -> bool:
        """True if the diffusion noise is white: C = I."""
        return type(self).noise_covariance is Prior.noise_covariance

    def noise_covariance(self, v: Tensor) -> Tensor:
        """``C v``, the covariance of `noise`."""
        return v

    # --- what users and solvers call ----------------------------------------------------------------------------------
    @property
    def dtype(self) -> torch.dtype:
        """The real dtype of the prior's parameters."""
        return kind_dtype(self.mean.dtype, "real")

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``E[x0 | x]`` for ``x`` ``(batch, *shape)`` at noise level ``sigma`` > 0.

        ``sigma`` is a number, a tensor ``(batch,)``, or one with ``x.ndim`` axes, each of the length of x's or 1. That
        a tensor is positive is not checked: the look would stall a GPU. Pure: no state, no gradient graph.
        """
        sigma = self._check(x, sigma)
        count("denoise", len(x))
        with torch.no_grad():
            return self._denoise(x, sigma)

    def pullback(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Pullback]:
        """``D(x, sigma)`` and the map ``v -> (dD/dx)^H v`` on ``(batch, *shape)``."""
        sigma = self._check(x, sigma)
        count("denoise", len(x))
        value, pull = self._pullback(x, sigma)

        def counted(v: Tensor) -> Tensor:
            count("vjp", len(v))
            return pull(v)

        return value, counted

    def moments(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x0 given ``x``: ``D(x, sigma)`` and ``V = sigma^2 C J^H`` (Tweedie), symmetrised.

        ``V`` is ``(batch, n, n)``, float64, over the n real numbers of a signal (complex entries are pairs). It takes n
        vector-Jacobian products unless there is a closed form; for a network's J it need not be positive semidefinite.
        ``sigma`` is a number or ``(batch,)``.
        """
        sigma = self._check(x, sigma)
        count("denoise", len(x))
        return self._moments(x, sigma)

    def transport(self, z: Tensor) -> tuple[Tensor, Pullback]:
        """``x = T(z)``, a draw from the prior for standard normal ``z``, and the map ``v -> (dT/dz)^H v``.

        ``z``, x and v are ``(batch, *shape)`` of the dtype of the mean; complex ``z`` has unit variance per component.
        T is exact and acts on every row alone, monotone in every mode or coefficient; where it has a kink the
        derivative is that of one side. Pure: no state, no gradient graph; not counted as a call of the denoiser.

        Raises UnsupportedError where no such map is known: see `has_transport`.
        """
        from invsolve.errors import UnsupportedError

        if not self.has_transport:
            raise UnsupportedError(
                f"{type(self).__name__}.transport: this prior has no closed-form map from white noise. Use a Gaussian "
                "or sparse prior, or a strategy that needs the denoiser only, such as strategy='auto'."
            )
        self._check_signal("z", z)
        with torch.no_grad():
            x, pull = self._transport(z)

        def no_graph(v: Tensor) -> Tensor:
            with torch.no_grad():
                return pull(v)

        return x, no_graph

    def inverse_transport(self, x: Tensor) -> Tensor:
        """The standard normal ``z`` with ``T(z) = x`` for signals ``x`` ``(batch, *shape)``; see `transport`.

        Where T is flat or a mode has no variance, one such z (0) is as good as another. Signals that the prior cannot
        make are mapped to the nearest end, nine standard deviations out.
        """
        from invsolve.errors import UnsupportedError

        if not self.has_transport:
            raise UnsupportedError(
                f"{type(self).__name__}.inverse_transport: this prior has no closed-form map from white noise."
            )
        self._check_signal("x", x)
        with torch.no_grad():
            return self._inverse_transport(x)

    @property
    def has_transport(self) -> bool:
        """True if `transport` has a closed form."""
        if type(self)._transport is not Prior._transport:
            return True
        return self.exact_law and self.law is not None and prod(self.law.modes.mode_shape) == prod(self.shape)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """``n`` draws ``(n, *shape)``; draw k depends on ``seed`` and k only."""
        n = check_int(type(self).__name__, "n", n, minimum=1)
        seed = check_int(type(self).__name__, "seed", seed)
        draws = Draws.for_rows(seed, [0] * n, list(range(n)), self.device, purpose="prior")
        return self._sample(n, draws)

    def posterior(self, A: Operator | Problem, y: object = None, noise: object = None) -> Posterior:
        """The exact posterior given ``y`` ``(batch, *A.out_shape)``, or given a whole `Problem`.

        Raises UnsupportedError where there is no closed form: the message says why.
        """
        from invsolve.errors import UnsupportedError
        from invsolve.gaussian.posterior import closed_form_problem
        from invsolve.operators.base import Operator

        owner = f"{type(self).__name__}.posterior"
        if not self.has_posterior:
            repair = "Use iv.solve(..., strategy='auto')."
            raise UnsupportedError(f"{owner}: this prior has no closed-form posterior. {repair}")
        if y is not None and isinstance(A, Operator):
            y = as_tensor(owner, "y", y, dtype=A.dtype or self.dtype, device=self.device)
        problem = closed_form_problem(owner, A, y, noise)
        self._check_problem(owner, problem)
        return self._posterior(problem)

    @property
    def has_posterior(self) -> bool:
        """True if linear data with Gaussian noise have a closed-form posterior."""
        return type(self)._posterior is not Prior._posterior

    def fingerprint(self) -> str:
        """A hash of the parameters."""
        return fingerprint(self)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same prior with its parameters moved and cast."""

        def move(value: object) -> object:
            if isinstance(value, Tensor):
                if dtype is None or not (value.is_floating_point() or value.is_complex()):
                    return value.to(device=device)
                return value.to(device=device, dtype=kind_dtype(dtype, "complex" if value.is_complex() else "real"))
            return value.to(device, dtype) if isinstance(value, GaussianLaw) else value

        if not dataclasses.is_dataclass(self):
            raise invalid_type(type(self).__name__, "to", "overridden, or the prior a frozen dataclass", self)
        values = {f.name: move(getattr(self, f.name)) for f in dataclasses.fields(self) if f.init}
        return dataclasses.replace(self, **values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, {self.kind}, scale={self.scale:.4g})"

    # --- what subclasses may replace --------------------------------------------------------------------------------
    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pullback]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self._denoise(leaf, sigma)

        def pull(v: Tensor) -> Tensor:
            if not value.requires_grad:  # a denoiser that ignores its input
                return torch.zeros_like(x)
            (grad,) = torch.autograd.grad(value, leaf, v, retain_graph=True)
            return grad

        return value.detach(), pull

    def _moments(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        value, pull = self._pullback(x, sigma)
        size = to_real(x[:1]).shape[1]
        rows = []
        for unit in torch.eye(size, dtype=self.dtype, device=x.device):
            v = from_real(unit.expand(len(x), size), tuple(x.shape[1:]), x.dtype if x.is_complex() else None)
            count("vjp", len(x))
            rows.append(to_real(sigma**2 * self.noise_covariance(pull(v))).double())
        V = torch.stack(rows, 1)
        return value, (V + V.mT) / 2

    def _sample(self, n: int, draws: DrawLike) -> Tensor:
        from invsolve.samplers import sample_prior

        return sample_prior(self, n, draws)

    def _posterior(self, problem: Problem) -> Posterior:
        """The posterior of a linear problem with Gaussian noise."""
        raise AssertionError("guarded by has_posterior")  # pragma: no cover

    def _transport(self, z: Tensor) -> tuple[Tensor, Pullback]:
        """``mean + S sqrt(variances) u``, with u the numbers of ``z`` taken as modes: any order of them is white."""
        law = self.law
        assert law is not None  # guarded by has_transport
        root = law.variances.sqrt()

        def pull(v: Tensor) -> Tensor:
            return (root * law.modes.adjoint(v)).reshape(v.shape)

        return law.sample(z.reshape(len(z), *law.modes.mode_shape)), pull

    def _inverse_transport(self, x: Tensor) -> Tensor:
        law = self.law
        assert law is not None  # guarded by has_transport
        root = law.variances.sqrt()
        u = law.modes.analysis(x - law.mean)
        return torch.where(root > 0, u / root.clamp_min(torch.finfo(root.dtype).tiny), 0.0).reshape(x.shape)

    # --- plumbing -----------------------------------------------------------------------------------------------------
    def _check_problem(self, owner: str, problem: Problem) -> None:
        A, y = problem.operator, problem.data
        if tuple(A.in_shape) != tuple(self.shape):
            raise invalid(owner, "A", f"an operator on signals of shape {tuple(self.shape)}", tuple(A.in_shape))
        if A.in_kind != self.kind:
            raise invalid(owner, "A", f"an operator on {self.kind} signals", f"one on {A.in_kind} signals")
        if kind_dtype(y.dtype, "real") != self.dtype:
            hint = "Convert it, or the prior: prior.to(dtype=...)."
            raise invalid_type(owner, "y", f"of precision {self.dtype}", str(y.dtype), hint)
        if y.device != self.device:
            raise invalid(owner, "y", f"on device {self.device}", y.device, "Move it, or the prior: prior.to(device).")

    def _check_signal(self, name: str, x: Tensor) -> None:
        owner = type(self).__name__
        check_kind(owner, name, check_shape(owner, name, x, self.shape), self.kind)
        if kind_dtype(x.dtype, "real") != self.dtype:
            hint = "Convert it, or the prior: prior.to(dtype=...)."
            raise invalid_type(owner, name, f"of precision {self.dtype}", str(x.dtype), hint)
        if x.device != self.device:
            raise invalid(owner, name, f"on device {self.device}", x.device, "Move it, or the prior: prior.to(device).")

    def _check(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        owner = type(self).__name__
        self._check_signal("x", x)
        if not isinstance(sigma, Tensor):
            level = check_number(owner, "sigma", sigma)
            if level <= 0:
                raise invalid(owner, "sigma", "positive and finite", level)
            # Filled there: a copy from the host would stall a GPU.
            return torch.full((), level, dtype=self.dtype, device=x.device)
        if sigma.is_complex() or not (sigma.is_floating_point() or sigma.ndim == 0):
            raise invalid_type(owner, "sigma", "real floating point", str(sigma.dtype))
        sigma = sigma.to(x.device, self.dtype)
        if sigma.ndim == 0:
            return sigma
        if sigma.ndim == x.ndim:
            if not all(a in (1, b) for a, b in zip(sigma.shape, x.shape, strict=True)):
                raise invalid(owner, "sigma", f"broadcastable against {tuple(x.shape)}", tuple(sigma.shape))
            return sigma
        if tuple(sigma.shape) == (len(x),):
            return sigma.view(-1, *([1] * (x.ndim - 1)))
        raise invalid(owner, "sigma", f"0-d, of shape ({len(x)},) or with {x.ndim} axes", tuple(sigma.shape))
