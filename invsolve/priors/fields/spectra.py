"""Spectra of Gaussian fields: the variance of the coefficient of every Laplace eigenfunction (`bases` defines them)."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter, several
from invsolve.core.distributions import Distribution
from invsolve.core.ownership import Owner, call
from invsolve.core.torch_state import Defined
from invsolve.core.validation import check_positive
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.priors.fields.bases import Basis

_MOST_NODES = 2**20  # of a quadrature


class FieldSpectrum(Defined, Owner, abc.ABC):
    """Variances of the coefficients of the eigenfunctions phi_k, which do not depend on a grid.

    A number of it that is not known may be a distribution: `GaussianFieldPrior` is then a `Family`.
    """

    _lends = ("variances",)

    @property
    def unknown(self) -> dict[str, Distribution]:
        """The numbers that are distributions, by name."""
        if not is_dataclass(self):
            return {}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Distribution)}

    def at(self, **values: float) -> Self:
        """The spectrum with these numbers in the place of unknown ones."""
        return replace(self, **values)  # type: ignore[type-var]

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
    std : float or Distribution
        Standard deviation, > 0, in the unit of the signal (complex: per real component), at the centre of the box, of
        *all* modes of the continuum. A is fixed by that alone, never by a grid: a grid of n nodes holds the same field
        cut at its highest mode, with a little less variance (3 % of the std for smoothness 1/2, length 0.1 and 64
        nodes, 0.1 % for 3/2). It holds everywhere on a torus; else in the interior, to 1 % from one ``length`` away
        from the walls (for smoothness 1/2 or more, and boxes of three lengths). At a Neumann wall the std is sqrt(2)
        of it, 2 in the corner of two axes, sqrt(8) of three: its field is reflected there. At a Dirichlet wall it is
        0. `GaussianFieldPrior.padded` has walls that are further away than the signal.
    length : float or Distribution
        Correlation length, > 0, in the unit of the extent: where the correlation has fallen to about 0.14.
    smoothness : float or Distribution
        nu of the Matern family, > 0; 1/2 is rough.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not a positive number, or a distribution of positive numbers.

    References
    ----------
    Lindgren, Rue & Lindstrom 2011, An explicit link between Gaussian fields and Gaussian Markov random fields, JRSS B
    73(4), 423-498, doi 10.1111/j.1467-9868.2011.00777.x.
    """

    std: float | Distribution
    length: float | Distribution
    _: KW_ONLY
    smoothness: float | Distribution = 1.5

    def __post_init__(self) -> None:
        for name in ("std", "length", "smoothness"):
            object.__setattr__(self, name, _positive("Matern", name, getattr(self, name)))

    def variances(self, eigenvalues: Tensor, basis: Basis, extent: tuple[float, ...]) -> Tensor:
        std, length, smoothness = _known("Matern", std=self.std, length=self.length, smoothness=self.smoothness)
        kappa2 = 8 * smoothness / length**2
        alpha = smoothness + len(extent) / 2
        log_sum = _log_centre_sum(basis, extent, kappa2, alpha)
        return torch.exp(2 * math.log(std) - log_sum - alpha * torch.log1p(eigenvalues / kappa2))


@final
@dataclass(frozen=True)
class Whittle(FieldSpectrum):
    """Variances ``(amplitude (kappa^2 + lambda_k)^(-alpha / 2))^2``, as the benchmarks of the literature state them.

    The field ``N(0, amplitude^2 (-Laplace + kappa^2)^-alpha)``: a `Matern` of ``smoothness = alpha - d/2`` and
    ``length = sqrt(8 smoothness) / kappa``, d the number of axes, of which the amplitude is given and not the std.

    Parameters
    ----------
    kappa : float or Distribution
        > 0, in 1 / length; tau in some papers.
    alpha : float or Distribution
        > 0; above d/2 the std of the field has a limit on ever finer grids.
    amplitude : float or Distribution, optional
        > 0; ``kappa^(alpha - 1)`` unless given, of the Poisson and Darcy benchmarks.
    zero_mode : bool
        False: the constant mode is left out, and every field has mean zero over the box (Neumann and periodic bases).
    shortest : float, optional
        The shortest wavelength, > 0, in the unit of the extent: modes of shorter ones are left out.

    Raises
    ------
    InputError, InputTypeError
        If a number is not positive.

    References
    ----------
    Whittle 1954, On stationary processes in the plane, Biometrika 41, 434-449; Li et al. 2021, Fourier neural operator
    for parametric partial differential equations, arXiv 2010.08895, of which the benchmarks are.

    Examples
    --------
    The coefficient of Darcy's equation before it is thresholded, and the right side of Poisson's:

    >>> Whittle(3.0, 2.0, zero_mode=False)
    Whittle(kappa=3.0, alpha=2.0, amplitude=None, zero_mode=False, shortest=None)
    """

    kappa: float | Distribution
    alpha: float | Distribution
    _: KW_ONLY
    amplitude: float | Distribution | None = None
    zero_mode: bool = True
    shortest: float | None = None

    def __post_init__(self) -> None:
        for name in ("kappa", "alpha", "amplitude", "shortest"):
            if (value := getattr(self, name)) is not None or name in ("kappa", "alpha"):
                check = check_positive if name == "shortest" else _positive
                object.__setattr__(self, name, check("Whittle", name, value))
        if not isinstance(self.zero_mode, bool):
            raise invalid_type("Whittle", "zero_mode", "True or False", self.zero_mode)

    @property
    def numbers(self) -> tuple[float, float, float]:
        """kappa, alpha and amplitude; refused where one is not known."""
        kappa, alpha = _known("Whittle", kappa=self.kappa, alpha=self.alpha)
        (amplitude,) = _known("Whittle", amplitude=kappa ** (alpha - 1) if self.amplitude is None else self.amplitude)
        return kappa, alpha, amplitude

    def variances(self, eigenvalues: Tensor, basis: Basis, extent: tuple[float, ...]) -> Tensor:
        kappa, alpha, amplitude = self.numbers
        found = torch.exp(2 * math.log(amplitude) - alpha * torch.log(kappa**2 + eigenvalues))
        if not self.zero_mode:
            found = torch.where(eigenvalues > 0, found, 0.0)
        if self.shortest is not None:
            highest = (2 * math.pi / self.shortest) ** 2 * (1 + 1e-12)  # the mode of that wavelength itself is kept
            found = torch.where(eigenvalues <= highest, found, 0.0)
        return found


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


def _positive(owner: str, name: str, value: Any) -> float | Distribution:
    """A number > 0, or a distribution of such numbers."""
    if not isinstance(value, Distribution):
        return check_positive(owner, name, value)
    if value.support[0] < 0:
        given = f"{value} with support from {value.support[0]:g}"
        raise invalid(owner, name, "a distribution of positive numbers", given, "Use iv.LogNormal or iv.LogUniform.")
    return value


def _known(owner: str, **values: float | Distribution) -> list[float]:
    for name, value in values.items():
        if isinstance(value, Distribution):
            raise UnsupportedError(
                f"{owner}: {name} is not known ({value}), so there are no variances. Give it a number: "
                f"spectrum.at({name}=...)."
            )
    return [float(value) for value in values.values() if not isinstance(value, Distribution)]


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
    if (high - low) / step > _MOST_NODES:  # before anything of that size is made
        raise invalid("Matern", "smoothness", "from 0.001 to 1e6", f"{alpha - dim / 2:g}")
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
