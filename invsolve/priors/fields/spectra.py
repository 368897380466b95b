"""Spectra of Gaussian fields: the variance of the coefficient of every Laplace eigenfunction (`bases` defines them)."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter, several
from invsolve.core.ownership import Owner, call
from invsolve.core.torch_state import Defined
from invsolve.core.validation import check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.priors.fields.bases import Basis


class FieldSpectrum(Defined, Owner, abc.ABC):
    """Variances of the coefficients of the eigenfunctions phi_k, which do not depend on a grid."""

    _lends = ("variances",)

    @abc.abstractmethod
    def variances(self, eigenvalues: Tensor, basis: Basis, extent: tuple[float, ...]) -> Tensor:
        """Variances at the Laplace ``eigenvalues`` (float64, 1 / length^2) of modes of the box; the shape is kept."""


@final
@dataclass(frozen=True)
class Matern(FieldSpectrum):
    """The Whittle-Matern field: variances ``A (kappa^2 + lambda_k)^-(smoothness + d/2)``.

    The Matern covariance of Gaussian processes; a large smoothness is nearly the squared exponential kernel (RBF).
    kappa = sqrt(8 smoothness) / length, d the number of axes, lambda_k the Laplace eigenvalues.

    Parameters
    ----------
    std : float
        Standard deviation, > 0, in the unit of the signal (complex: per real component), at the centre of the box, of
        *all* modes of the continuum. A is fixed by that alone, never by a grid: a grid of n nodes holds the same field
        cut at its highest mode, with a little less variance (3 % of the std for smoothness 1/2, length 0.1 and 64
        nodes, 0.1 % for 3/2). It holds everywhere on a torus; else in the interior, to 1 % from one ``length`` away
        from the walls (for smoothness 1/2 or more, and boxes of three lengths). At a Neumann wall the std is sqrt(2)
        of it, 2 in the corner of two axes, sqrt(8) of three: its field is reflected there. At a Dirichlet wall it is
        0. `GaussianFieldPrior.padded` has walls that are further away than the signal.
    length : float
        Correlation length, > 0, in the unit of the extent: where the correlation has fallen to about 0.14.
    smoothness : float
        nu of the Matern family, > 0; 1/2 is rough.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not a positive number.

    References
    ----------
    Lindgren, Rue & Lindstrom 2011, An explicit link between Gaussian fields and Gaussian Markov random fields, JRSS B
    73(4), 423-498, doi 10.1111/j.1467-9868.2011.00777.x.
    """

    std: float
    length: float
    _: KW_ONLY
    smoothness: float = 1.5

    def __post_init__(self) -> None:
        for name in ("std", "length", "smoothness"):
            object.__setattr__(self, name, check_positive("Matern", name, getattr(self, name)))

    def variances(self, eigenvalues: Tensor, basis: Basis, extent: tuple[float, ...]) -> Tensor:
        kappa2 = 8 * self.smoothness / self.length**2
        alpha = self.smoothness + len(extent) / 2
        log_sum = _log_centre_sum(basis, extent, kappa2, alpha)
        return torch.exp(2 * math.log(self.std) - log_sum - alpha * torch.log1p(eigenvalues / kappa2))


@final
@dataclass(frozen=True)
class Spectrum(FieldSpectrum):
    """A free spectrum: a function of the Laplace eigenvalues.

    Parameters
    ----------
    function : callable
        Maps a float64 tensor of Laplace eigenvalues (1 / length^2, any shape) to variances >= 0 in squared units of
        the signal, elementwise.

    Raises
    ------
    InputTypeError
        If ``function`` is not callable; later, if its values are complex.
    InputError
        Later, if it returns another shape.

    Examples
    --------
    >>> Spectrum(lambda k2: (k2 < 100.0) / (1.0 + k2))  # doctest: +ELLIPSIS
    Spectrum(function=...)
    """

    function: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise invalid_type("Spectrum", "function", "a function of the Laplace eigenvalues", self.function)

    def variances(self, eigenvalues: Tensor, basis: Basis, extent: tuple[float, ...]) -> Tensor:
        values = call(self.function, eigenvalues)
        if several(values):
            values = parameter("Spectrum", "function", values, dtype=torch.float64)
        if not isinstance(values, Tensor) or values.shape != eigenvalues.shape:
            given = tuple(values.shape) if isinstance(values, Tensor) else values
            want = f"a map to a tensor of the same shape, {tuple(eigenvalues.shape)}"
            raise invalid("Spectrum", "function", want, given)
        if values.is_complex():
            raise invalid_type("Spectrum", "function", "a map to real values", str(values.dtype))
        return values.double()


@lru_cache(maxsize=256)
def _log_centre_sum(basis: Basis, extent: tuple[float, ...], kappa2: float, alpha: float) -> float:
    """``log sum_k phi_k(c)^2 (1 + lambda_k / kappa^2)^-alpha``, c the centre, alpha > d / 2, to about 1e-13.

    From (1 + l)^-alpha = Gamma(alpha)^-1 int t^alpha e^(-t - l t) dt / t the sum over modes becomes a product over axes
    of theta functions. The trapezoid rule in ln t is exact to rounding at this step, as the integrand is analytic in
    |Im ln t| < pi / 2 and falls off exponentially on both sides.
    """
    dim = len(extent)
    # In units of 1 / kappa^2: below `low` the integrand falls like t^(alpha - d/2), above 800 like e^-t.
    low = min(0.0, *(math.log(kappa2 * length**2) for length in extent)) - 40 / (alpha - dim / 2) - 5
    high = math.log(800 + 4 * alpha)
    # The peak of t^alpha e^-t has width alpha^-1/2 in ln t.
    step = 0.1 / max(1.0, math.sqrt(alpha / 4))
    s = torch.arange(low, high, step, dtype=torch.float64, device="cpu")
    t = s.exp()
    log_f = alpha * s - t - math.lgamma(alpha)
    for length in extent:
        log_f = log_f + _log_theta(basis, s + math.log((math.pi / length) ** 2 / kappa2))
    return float(torch.logsumexp(log_f, 0)) + math.log(step)


def _log_theta(basis: Basis, log_r: Tensor) -> Tensor:
    """``log sum_k phi_k(c)^2 exp(-lambda_k t)`` of one axis, r = pi^2 t / L^2.

    At the centre phi_k^2 is 2 for every other k: with cosines these are the modes of a torus, for which the sum is the
    same at every place; with sines k = 1, 3, 5, ... A rough field takes r below the least float.
    """
    r = log_r.exp()
    k = torch.arange(1, 9, dtype=torch.float64, device="cpu")[:, None]
    # Jacobi: sum_Z exp(-4 k^2 r) = sqrt(pi / 4 r) sum_Z exp(-(pi k)^2 / 4 r), with signs (-1)^k where the first sum is
    # over k + 1/2; the eight terms of one of the two are enough.
    sign = (-1) ** k if basis == "dirichlet" else torch.ones_like(k)
    dual = torch.log1p(2 * (sign * torch.exp(-((math.pi * k) ** 2) / (4 * r))).sum(0))
    log_dual = 0.5 * (math.log(math.pi / 4) - log_r) + dual
    if basis == "dirichlet":
        # For large r only k = 1 is left, and its logarithm stays finite.
        odd = 2 * k - 1
        far = math.log(2) - r + torch.log(torch.exp(-(odd**2 - 1) * r).sum(0))
        return torch.where(r >= 0.25, far, log_dual)
    tail = torch.exp(-4 * k**2 * r.clamp_min(0.25)).sum(0)
    return torch.where(r >= 0.25, torch.log1p(2 * tail), log_dual)
