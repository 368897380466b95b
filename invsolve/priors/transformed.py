"""Priors of a function of the unknown: positive, bounded, or a part of something larger.

The prior of ``x = f(u)`` with u from a prior that is known. Nothing is approximated: `solve` infers u under its own
prior with the operator ``A(f(u))`` (`inferred.as_inferred`), and gives the samples as x.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from invsolve.core.packing import Layout
from invsolve.core.random import DrawLike
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Kind, Shape, check_number, check_positive
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.family import Family as OperatorFamily
from invsolve.priors.base import Prior, Pullback
from invsolve.priors.capabilities import HasDensity, IsGaussian
from invsolve.priors.compatibility import not_a_prior
from invsolve.priors.entry_maps import EntryMap, Exponential, Logistic, SoftPlus
from invsolve.priors.transformations import Transformable
from invsolve.problem import Problem
from invsolve.separable.laws import EntryLaw

_DRAWS = 256  # that mean and scale are estimated from where they have no formula
_NODES = 128  # of the quadrature of the mean
_FAR = 9.0  # scales from the mean: the u of an x that has none


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TransformedPrior(Prior):
    """The prior of ``x = f(u)``, u from another prior: made by `exp`, `softplus`, `sigmoid`, `bounded`, `independent`.

    For an f of every entry alone the density of x is ``p(x) = p_u(f^-1(x)) / prod_i f'(u_i)`` with u = f^-1(x):
    `log_density`. It has no denoiser, as E[x | x + noise] has no formula. `solve` infers u under ``base``, with the
    operator ``A(f(u))``, whatever the strategy, and gives x; evidence, quantiles and certificate do not change with f.

    Parameters
    ----------
    base : Prior
        Of u.
    function : Operator
        f, without unknown scalars and items.
    layout : Layout, optional
        The names of the entries.

    Attributes
    ----------
    shape, kind, dtype, device
        Of x.
    mean : Tensor, shape (*shape)
        E[x]: exact for a linear f, by quadrature for an f of every entry and a Gaussian ``base``, else the mean of 256
        draws.
    scale : float
        The largest root eigenvalue of the covariance of x, estimated from 256 draws.
    """

    base: Prior
    function: Operator
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.base, Prior):
            raise not_a_prior("TransformedPrior", self.base)
        if self.base.kind != self.function.in_kind:
            raise invalid(
                "TransformedPrior",
                "base",
                f"{self.function.in_kind}",
                self.base.kind,
                "Complex numbers have no order: give real and imaginary part, or modulus and phase, a prior each.",
            )
        if tuple(self.base.shape) != tuple(self.function.in_shape):
            want = f"over signals of shape {tuple(self.function.in_shape)}"
            raise invalid("TransformedPrior", "base", want, tuple(self.base.shape))

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Of one x."""
        return tuple(self.function.out_shape)

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return self.function.out_kind

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        base = self.base
        if isinstance(self.function, LinearOperator):
            return self.function(base.mean[None])[0]
        if isinstance(base, IsGaussian) and base.law.modes.orthonormal and isinstance(self.function, EntryMap):
            z, weights = np.polynomial.hermite_e.hermegauss(_NODES)
            std = base.law.modes.marginal_variances(base.law.variances).double().sqrt()
            u = base.law.mean.double() + torch.tensor(z, device=std.device).view(-1, *([1] * std.ndim)) * std
            share = torch.tensor(weights / math.sqrt(2 * math.pi), device=std.device)
            mean: Tensor = torch.tensordot(share, self.function(u), 1).to(base.dtype)
            return mean
        return self._pilot.mean(0)

    @cached_property
    def scale(self) -> float:  # type: ignore[override]
        rows = self._pilot.flatten(1)
        return float(torch.linalg.svdvals(rows - rows.mean(0))[0] / (len(rows) - 1) ** 0.5)

    @cached_property
    def _pilot(self) -> Tensor:
        return self.sample(_DRAWS, seed=0)

    @property
    def cheap_pullback(self) -> bool:
        return self.base.cheap_pullback

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.base.notes

    @property
    def has_transport(self) -> bool:
        """True where that of ``base`` is known and f is one of every entry."""
        return self.base.has_transport and isinstance(self.function, EntryMap)

    @property
    def entry_laws(self) -> tuple[EntryLaw, ...]:
        """Those of ``base``, each entry under f, where f is one of every entry."""
        function = self.function
        if not isinstance(function, EntryMap):
            return ()
        return tuple(replace(law, transport=_after(function, law.transport)) for law in self.base.entry_laws)

    def log_density(self, x: Tensor) -> Tensor:
        """Log p(x), in nats: ``log p_u(f^-1(x)) - sum_i log f'(u_i)``.

        Parameters
        ----------
        x : Tensor, shape (batch, *shape)
            Of the prior's precision and device.

        Returns
        -------
        Tensor, shape (batch,)
            float64; -inf outside of the support.

        Raises
        ------
        UnsupportedError
            Where the density of ``base`` has no formula, or f is not one of every entry.
        """
        x = self._taken("x", x)
        self._check_signal("x", x)
        base, function = self.base, self.function
        if not isinstance(function, EntryMap) or not isinstance(base, (HasDensity, TransformedPrior)):
            raise UnsupportedError(
                f"TransformedPrior.log_density: the density of {self!r} has no formula: it takes a function of every "
                "entry alone, of a prior that states its density, such as a Gaussian one."
            )
        u = function.invert(x)
        inside = torch.isfinite(u).flatten(1).all(1)
        u = torch.where(torch.isfinite(u), u, torch.zeros_like(u))
        inner = base.log_density(u) if isinstance(base, TransformedPrior) else base.log_prob(u, 0.0)
        total = inner - function.log_slope(u).double().flatten(1).sum(1)
        return torch.where(inside, total, -torch.inf)

    def on(self, where: Any) -> TransformedPrior:
        """The same prior on another grid (a shape), or for a problem, where ``base`` has an ``on``."""
        if not hasattr(self.base, "on"):
            raise UnsupportedError(f"TransformedPrior.on: {type(self.base).__name__} has no `on`.")
        if not isinstance(self.function, EntryMap):
            raise UnsupportedError("TransformedPrior.on: build it again from the prior that it was made of.")
        if isinstance(where, Problem):
            where = where._with(operator=before(where.operator, self.function))
        base = self.base.on(where)
        return replace(self, base=base, function=replace(self.function, in_shape=tuple(base.shape)))  # type: ignore[type-var]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return replace(self, base=self.base.to(device, dtype), function=self.function.to(device, dtype))

    def __repr__(self) -> str:
        if self.layout is not None and isinstance(self.function, EntryMap):
            laws = zip(self.layout.names, getattr(self.function, "laws", ()), strict=True)
            return f"independent({', '.join(f'{name}={law}' for name, law in laws)})"
        if isinstance(self.function, EntryMap):
            return self.function.words(repr(self.base))
        return f"{type(self.function).__name__}({self.base!r}, shape={self.shape})"

    def _sample(self, n: int, draws: DrawLike) -> Tensor:
        return self.function(self.base._sample(n, draws))

    def _transport(self, z: Tensor) -> tuple[Tensor, Pullback]:
        u, pull = self.base.transport(z)
        x, back = self.function.vjp(u)
        return x, lambda v: pull(back(v))

    def _inverse_transport(self, x: Tensor) -> Tensor:
        function, base = self.function, self.base
        assert isinstance(function, EntryMap)  # guarded by has_transport
        u = function.invert(x)
        above = (x >= function.support[1]) | (u == math.inf)
        end = base.mean + torch.where(above, _FAR, -_FAR) * base.scale
        return base.inverse_transport(torch.where(torch.isfinite(u), u, end))

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        raise UnsupportedError(
            f"{type(self).__name__}.denoise: E[x | x + noise] of x = {self!r} has no formula. `solve`, `sample` and "
            "`calibrate` do not need it: they work with the prior behind it, prior.base. The density of x, where it is "
            "known, is prior.log_density(x)."
        )


@in_defined_state
def exp(prior: Prior) -> TransformedPrior:
    """A positive signal ``x = exp(u)``, u from ``prior``: log-normal for a Gaussian one (a log-Gaussian field).

    Parameters
    ----------
    prior : Prior
        Of ``u = log x``, real: a mean of log 5 and a standard deviation of 0.7 say "about 5, give or take a factor 2".

    Returns
    -------
    TransformedPrior
        With density ``p(x) = p_u(log x) / prod_i x_i``. `solve` takes it with every strategy.

    Raises
    ------
    InputError, InputTypeError
        For what is no prior, or a complex one.

    Examples
    --------
    >>> import invsolve as iv
    >>> field = iv.priors.GaussianFieldPrior((64,), iv.priors.Matern(std=1.0, length=0.2))
    >>> bool((iv.priors.exp(field).sample(4) > 0).all())
    True
    """
    return TransformedPrior(base=_real("exp", prior), function=Exponential(in_shape=tuple(prior.shape)))


@in_defined_state
def softplus(prior: Prior, *, width: float = 1.0) -> TransformedPrior:
    """A positive signal ``x = w log(1 + exp(u / w))``, u from ``prior``: x is about u where that is well above 0.

    Parameters
    ----------
    prior : Prior
        Of u, real, in the unit of x.
    width : float
        w > 0, in the unit of x: below about w the tail towards 0 is exponential.

    Returns
    -------
    TransformedPrior
        With density ``p(x) = p_u(u) prod_i (1 + exp(-u_i / w))``, ``u = x + w log(1 - exp(-x / w))``.

    Raises
    ------
    InputError, InputTypeError
        For what is no prior, a complex one, or a width that is not positive.
    """
    width = check_positive("softplus", "width", width)
    function = SoftPlus(in_shape=tuple(_real("softplus", prior).shape), width=width)
    return TransformedPrior(base=prior, function=function)


@in_defined_state
def sigmoid(prior: Prior) -> TransformedPrior:
    """A signal between 0 and 1, ``x = 1 / (1 + exp(-u))``: its logit ``log(x / (1 - x))`` is from ``prior``.

    Parameters
    ----------
    prior : Prior
        Of the logit u, real. A standard deviation above about 1.7 puts most entries near 0 or 1.

    Returns
    -------
    TransformedPrior
        With density ``p(x) = p_u(logit x) / prod_i x_i (1 - x_i)``.

    Raises
    ------
    InputError, InputTypeError
        For what is no prior, or a complex one.
    """
    return bounded(_real("sigmoid", prior), low=0.0, high=1.0)


@in_defined_state
def bounded(prior: Prior, *, low: float, high: float) -> TransformedPrior:
    """A signal between two bounds, ``x = low + (high - low) / (1 + exp(-u))``, u from ``prior``.

    Parameters
    ----------
    prior : Prior
        Of ``u = log((x - low) / (high - x))``, real.
    low, high : float
        The bounds, low < high, in the unit of x.

    Returns
    -------
    TransformedPrior
        With density ``p(x) = p_u(u) (high - low)^n / prod_i (x_i - low) (high - x_i)``.

    Raises
    ------
    InputError, InputTypeError
        For what is no prior, a complex one, or bounds that are not in order.
    """
    low, high = check_number("bounded", "low", low), check_number("bounded", "high", high)
    if not low < high:
        raise invalid("bounded", "high", f"above low = {low:g}", high)
    function = Logistic(in_shape=tuple(_real("bounded", prior).shape), low=low, high=high)
    return TransformedPrior(base=prior, function=function)


Transformable._transformations.update(exp=exp, softplus=softplus, sigmoid=sigmoid, bounded=bounded)


def before(A: Operator, function: Operator) -> Operator:
    """``A(f(u))``, also for every member of a family."""
    if isinstance(A, OperatorFamily):
        return OperatorFamily(functools.partial(_member, A.make, function), **A.unknown)
    return A @ function


def _member(make: Callable[..., Operator], function: Operator, **values: float) -> Operator:
    return make(**values) @ function


def _after(function: EntryMap, transport: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda z: function(transport(z))


def _real(owner: str, prior: object) -> Prior:
    if not isinstance(prior, Prior):
        raise not_a_prior(owner, prior)
    if prior.kind != "real":
        raise invalid_type(
            owner,
            "prior",
            "real: complex numbers have no order",
            "a complex one",
            "Give modulus and phase, or real and imaginary part, a prior each.",
        )
    return prior
