"""What a prior is: a denoiser ``D(x, sigma) = E[x0 | x0 + sigma C^(1/2) z = x]``, and what a solver must know of it."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from math import prod
from typing import Self

import torch
from torch import Tensor

from invsolve.core.arrays import as_given, as_tensor, from_real, to_real, widened
from invsolve.core.counting import count
from invsolve.core.derivatives import WHY, pullback
from invsolve.core.fingerprint import fingerprint
from invsolve.core.ownership import Owner
from invsolve.core.random import DrawLike, Draws
from invsolve.core.torch_state import Defined, defined_closure
from invsolve.core.validation import Kind, Shape, check_int, kind_dtype
from invsolve.errors import UnsupportedError, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.posterior import Posterior, closed_form_problem
from invsolve.operators.base import Operator
from invsolve.priors.inputs import check_problem, check_signal, noise_level
from invsolve.priors.transformations import Transformable
from invsolve.problem import Problem
from invsolve.samplers import sample_prior
from invsolve.separable.laws import EntryLaw

Pullback = Callable[[Tensor], Tensor]


class Prior(Transformable, Defined, Owner, abc.ABC):
    """A distribution over signals of ``shape`` (no batch axis), real or complex, known through its denoiser.

    Subclasses give ``shape``, ``mean``, ``scale`` and ``_denoise`` and, where they can, a cheaper ``_pullback``,
    ``_sample`` and ``law``. Frozen dataclasses whose tensors are fields get ``to`` and ``fingerprint`` for nothing; the
    tensors are copied.

    Attributes
    ----------
    shape : tuple of int
        Shape of one signal.
    kind : {"real", "complex"}
        Complex signals have diffusion noise of level sigma on the real and on the imaginary part each.
    mean : Tensor, shape (*shape)
        Mean of the signal; its precision and device are those of the prior.
    scale : float
        Where noise drowns the signal: the largest root eigenvalue of the covariance, > 0, in units of the diffusion
        noise (those of the signal, where that noise is white).
    detail : float, optional
        The smallest standard deviation that samples must resolve, in the same units; None: not known.
    sigma_range : (float, float)
        The noise levels that the denoiser was made for; (0, inf) unless stated.
    law : GaussianLaw, optional
        A Gaussian with (about) this prior's mean and covariance, if it can be stated.
    exact_law : bool
        True if the prior *is* that Gaussian.
    notes : tuple of str
        What was done to the prior to fit a problem.

    References
    ----------
    Posterior mean and covariance from the denoiser: Efron 2011, Tweedie's formula and selection bias, doi
    10.1198/jasa.2011.tm11181; Rozet et al. 2024, Learning diffusion priors from observations, arXiv 2405.13712.

    Examples
    --------
    >>> import torch
    >>> class Unit(Prior):  # N(0, I)
    ...     shape, mean, scale = (3,), torch.zeros(3), 1.0
    ...     def _denoise(self, x, sigma):
    ...         return x / (1 + sigma**2)
    >>> Unit().denoise(torch.ones(1, 3), 1.0)
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    _private = ("_denoise", "_pullback", "_moments", "_transport", "_inverse_transport")
    _lends = (*_private, "noise", "noise_covariance", "log_prob", "mode_moments")

    shape: Shape
    kind: Kind = "real"
    sigma_range: tuple[float, float] = (0.0, math.inf)
    mean: Tensor
    scale: float
    detail: float | None = None
    law: GaussianLaw | None = None
    exact_law: bool = False
    notes: tuple[str, ...] = ()

    @abc.abstractmethod
    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``x`` ``(batch, *shape)``; ``sigma`` real, 0-d or broadcastable against ``x`` (all its axes there)."""

    @property
    def cheap_pullback(self) -> bool:
        """True if `pullback` is a closed form, so that no network is differentiated."""
        return type(self)._pullback is not Prior._pullback

    def noise(self, z: Tensor) -> Tensor:
        """Diffusion noise ``C^(1/2) z`` of unit level from white ``z`` ``(rows, *shape)``; white unless overridden."""
        return z

    @property
    def learned(self) -> bool:
        """True if it was made from signals: it then has a scale that the user did not state."""
        return False

    @property
    def white_noise(self) -> bool:
        """True if the diffusion noise is white: C = I."""
        own = type(self)
        return own.noise_covariance is Prior.noise_covariance and own.noise is Prior.noise

    def noise_covariance(self, v: Tensor) -> Tensor:
        """The covariance of `noise`, ``C v``, for ``v`` ``(rows, *shape)``."""
        return v

    # --- what users and solvers call ----------------------------------------------------------------------------------
    @property
    def dtype(self) -> torch.dtype:
        """The real dtype of the prior's parameters."""
        return kind_dtype(self.mean.dtype, "real")

    @property
    def device(self) -> torch.device:
        """The device of the prior's parameters."""
        return self.mean.device

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The mean of the clean signal given a noisy one, ``E[x0 | x]``.

        Pure: no state, no gradient graph.

        Parameters
        ----------
        x : Tensor, shape (batch, *shape)
            Noisy signals, of the prior's precision and device.
        sigma : float or Tensor
            Noise level > 0: a number, a tensor ``(batch,)``, or one with ``x.ndim`` axes, each of the length of x's or
            1. That a tensor is positive is not checked: the look would stall a GPU.

        Returns
        -------
        Tensor, shape (batch, *shape)
            The denoised signals.

        Raises
        ------
        InputError, InputTypeError
            If shape, precision or device of ``x``, or ``sigma``, do not fit.
        """
        x = self._taken("x", x)
        sigma = self._check(x, sigma)
        count("denoise", len(x))
        with torch.no_grad():
            return self._denoise(x, sigma)

    def pullback(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Pullback]:
        """``D(x, sigma)`` and the map ``v -> (dD/dx)^H v`` on ``(batch, *shape)``; arguments as for `denoise`."""
        x = self._taken("x", x)
        sigma = self._check(x, sigma)
        count("denoise", len(x))
        value, pull = self._pullback(x, sigma)

        @defined_closure
        def counted(v: Tensor) -> Tensor:
            count("vjp", len(v))
            return pull(v)

        return value, counted

    def moments(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x0 given ``x``: ``D(x, sigma)`` and ``V = sigma^2 C J^H`` (Tweedie), symmetrised.

        It takes n vector-Jacobian products unless there is a closed form; for a network's J, V need not be positive
        semidefinite.

        Parameters
        ----------
        x : Tensor, shape (batch, *shape)
            Noisy signals.
        sigma : float or Tensor, shape (batch,)
            Noise level > 0.

        Returns
        -------
        mean : Tensor, shape (batch, *shape)
            ``D(x, sigma)``.
        covariance : Tensor, shape (batch, n, n)
            ``V``, float64, over the n real components of a signal (complex entries are pairs re, im).
        """
        x = self._taken("x", x)
        sigma = self._check(x, sigma)
        count("denoise", len(x))
        return self._moments(x, sigma)

    def transport(self, z: Tensor) -> tuple[Tensor, Pullback]:
        """``x = T(z)``, a draw from the prior for standard normal ``z``, and the map ``v -> (dT/dz)^H v``.

        T is exact and acts on every row alone, monotone in every mode or coefficient; where it has a kink the
        derivative is that of one side. Pure: no state, no gradient graph; not counted as a call of the denoiser.

        Parameters
        ----------
        z : Tensor, shape (batch, *shape)
            Standard normal, of the dtype of the mean; complex ``z`` has unit variance per component.

        Returns
        -------
        x : Tensor, shape (batch, *shape)
            Draws from the prior.
        pullback : callable
            Maps ``v`` ``(batch, *shape)`` to ``(dT/dz)^H v``.

        Raises
        ------
        UnsupportedError
            Where no such map is known: see `has_transport`.
        """
        if not self.has_transport:
            raise UnsupportedError(
                f"{type(self).__name__}.transport: this prior has no closed-form map from white noise. Use a Gaussian "
                "or sparse prior, or a strategy that needs the denoiser only, such as strategy='auto'."
            )
        z = self._taken("z", z)
        self._check_signal("z", z)
        with torch.no_grad():
            x, pull = self._transport(z)

        @defined_closure
        def no_graph(v: Tensor) -> Tensor:
            with torch.no_grad():
                return pull(v)

        return x, no_graph

    def inverse_transport(self, x: Tensor) -> Tensor:
        """The standard normal ``z`` with ``T(z) = x`` for signals ``x`` ``(batch, *shape)``; see `transport`.

        Where T is flat or a mode has no variance, one such z (0) is as good as another. Signals that the prior cannot
        make are mapped to the nearest end, nine standard deviations out.

        Raises
        ------
        UnsupportedError
            Where no such map is known: see `has_transport`.
        """
        if not self.has_transport:
            raise UnsupportedError(
                f"{type(self).__name__}.inverse_transport: this prior has no closed-form map from white noise."
            )
        x = self._taken("x", x)
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
        """Draw ``n`` signals, ``(n, *shape)``; draw k depends on ``seed`` and k only."""
        n = check_int(type(self).__name__, "n", n, minimum=1)
        seed = check_int(type(self).__name__, "seed", seed)
        draws = Draws.for_rows(seed, [0] * n, list(range(n)), self.device, purpose="prior")
        return self._sample(n, draws)

    def posterior(self, A: Operator | Problem, y: object = None, noise: object = None) -> Posterior:
        """The exact posterior given data, where it has a closed form.

        Parameters
        ----------
        A : LinearOperator or Problem
            The operator, or a whole problem; then ``y`` and ``noise`` are left out.
        y : Tensor, shape (batch, *A.out_shape)
            Data.
        noise : Gaussian or float
            Noise of the data; a number is its standard deviation, in the units of the data.

        Returns
        -------
        Posterior
            With ``mean`` ``(batch, *shape)``, ``sample(n, seed=...)`` and, where they are cheap, ``std`` and
            ``evidence()``.

        Raises
        ------
        UnsupportedError
            Where there is no closed form: the message says why.
        InputError, InputTypeError
            If operator, data and prior do not fit each other.
        """
        owner = f"{type(self).__name__}.posterior"
        if not self.has_posterior:
            repair = "Use iv.solve(..., strategy='auto')."
            raise UnsupportedError(f"{owner}: this prior has no closed-form posterior. {repair}")
        if y is not None and isinstance(A, Operator):
            y = as_tensor(owner, "y", y, dtype=self.dtype, device=self.device)
            y = widened(y, self.dtype)
        problem = closed_form_problem(owner, A, y, noise)
        check_problem(owner, problem, self.shape, self.kind, self.dtype, self.device)
        return self._posterior(problem)

    @property
    def has_posterior(self) -> bool:
        """True if linear data with Gaussian noise have a closed-form posterior."""
        return type(self)._posterior is not Prior._posterior

    @property
    def entry_laws(self) -> tuple[EntryLaw, ...]:
        """Where the entries are independent: their law, or several laws of which the prior is a mixture; else none."""
        return ()

    def fingerprint(self) -> str:
        """A hash of the parameters."""
        return fingerprint(self)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same prior with its parameters moved to ``device`` and cast to the precision of ``dtype``."""

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
        return pullback(lambda leaf: self._denoise(leaf, sigma), x, self._not_differentiable)

    def _not_differentiable(self) -> Exception:
        return UnsupportedError(f"{type(self).__name__}: its denoiser must be differentiable by torch, {WHY}")

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
        return sample_prior(self, n, draws)

    def _posterior(self, problem: Problem) -> Posterior:
        """The posterior of a linear problem with Gaussian noise."""
        raise AssertionError("guarded by has_posterior")  # pragma: no cover

    def _transport(self, z: Tensor) -> tuple[Tensor, Pullback]:
        """``mean + S sqrt(variances) u``, with u the entries of ``z`` taken as modes: any order of them is white."""
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

    # --- checks of what is given ------------------------------------------------------------------------------------
    def _taken(self, name: str, value: Tensor) -> Tensor:
        """What a caller gives: arrays as tensors, all else as it is."""
        owner, dtype, device = type(self).__name__, self.dtype, self.device
        taken: Tensor = as_given(owner, name, value, dtype=dtype, device=device, kind=self.kind)
        return taken

    def _check_signal(self, name: str, x: Tensor) -> None:
        check_signal(type(self).__name__, name, x, self.shape, self.kind, self.dtype, self.device)

    def _check(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Check a noisy signal and its level, and return the level as a tensor that broadcasts against the signal."""
        self._check_signal("x", x)
        return noise_level(type(self).__name__, x, sigma, self.dtype)
