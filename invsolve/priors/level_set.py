"""Fields of a few values: bands of a field that is cut at thresholds (rock facies, tissue classes, inclusions)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, Self, final

import torch
from torch import Tensor

from invsolve.core.validation import Shape, check_number, check_positive
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.operators.base import BlackBox, Operator, Pullback
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import IsGaussian
from invsolve.priors.transformed import TransformedPrior, _real

_OWNER = "LevelSet"


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Bands(BlackBox):
    """``values[i]`` where u is between the thresholds i - 1 and i. It is flat: no derivative says where to go."""

    in_shape: Shape
    values: tuple[float, ...]
    thresholds: tuple[float, ...]
    entrywise = True

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def _apply(self, x: Tensor) -> Tensor:
        values = torch.tensor(self.values, dtype=x.dtype, device=x.device)
        band = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
        for level in self.thresholds:
            band += x >= level
        return torch.where(torch.isnan(x), x, values[band])


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SmoothBands(Operator):
    """The same with every jump at t a logistic curve, ``1 / (1 + exp(-(u - t) / width))``."""

    in_shape: Shape
    values: tuple[float, ...]
    thresholds: tuple[float, ...]
    width: float
    entrywise = True

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return self.in_shape

    def _apply(self, x: Tensor) -> Tensor:
        out = torch.full_like(x, self.values[0])
        for level, jump in self._jumps():
            out = out + jump * torch.sigmoid((x - level) / self.width)
        return out

    def _slope(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for level, jump in self._jumps():
            share = torch.sigmoid((x - level) / self.width)
            out = out + jump / self.width * share * (1 - share)
        return out

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        slope = self._slope(x)
        return self._apply(x), lambda v: slope * v

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        return self._apply(x), self._slope(x) * dx

    def _jumps(self) -> list[tuple[float, float]]:
        steps = zip(self.values[1:], self.values[:-1], strict=True)
        return [(level, above - below) for level, (above, below) in zip(self.thresholds, steps, strict=True)]


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class LevelSet(TransformedPrior):
    """A field of a few values: ``a = values[i]`` where a latent field u is between ``thresholds`` i - 1 and i.

    The distribution of a is that of u, carried over: a has the value ``values[i]`` at a point with the probability that
    u is in that band (`fractions`), and no density. `solve` infers u with the operator ``A(a(u))``: the result is about
    a, and ``result.latent`` is the same about u. The interfaces have the smoothness of u.

    A sharp level set has no derivative: strategies that need none take it, such as
    ``iv.strategies.NoiseMCMC(kernel="pcn")``. With a ``width`` the jumps are logistic curves and gradients work; a then
    takes values between those stated, in a layer where u is within a few widths of a threshold.

    Parameters
    ----------
    field : Prior
        Of the latent field u, real; a Gaussian field, or a family of such.
    values : sequence of float
        Of the bands, from low u to high u, two or more.
    thresholds : float or sequence of float
        One fewer than values, increasing, in the unit of u; 0 unless given.
    width : float, optional
        Of the logistic curve at a threshold, > 0, in the unit of u; sharp unless given.

    Attributes
    ----------
    base : Prior
        Of u.
    function : Operator
        The map of u to a.

    Raises
    ------
    InputError, InputTypeError
        For what is no real prior, values and thresholds that do not fit each other, or a width that is not positive.

    References
    ----------
    Iglesias, Lu & Stuart 2016, A Bayesian level set method for geometric inverse problems, Interfaces and Free
    Boundaries 18, 181-217, doi 10.4171/IFB/362.

    Examples
    --------
    The permeability of the Darcy benchmark, 12 where a Gaussian field is above 0, else 3:

    >>> import invsolve as iv
    >>> field = iv.priors.GaussianFieldPrior((16, 16), iv.priors.Whittle(3.0, 2.0, zero_mode=False))
    >>> permeability = LevelSet(field, values=(3.0, 12.0))
    >>> sorted(set(permeability.sample(4, seed=0).flatten().tolist()))
    [3.0, 12.0]
    """

    values: tuple[float, ...]
    _: KW_ONLY
    thresholds: tuple[float, ...] = (0.0,)
    width: float | None = None

    def __init__(
        self,
        field: Prior,
        values: Sequence[float],
        *,
        thresholds: float | Sequence[float] = 0.0,
        width: float | None = None,
    ) -> None:
        levels = _numbers("thresholds", (thresholds,) if isinstance(thresholds, (int, float)) else thresholds)
        bands = _numbers("values", values)
        if len(bands) != len(levels) + 1:
            want = f"one more than thresholds, {len(levels) + 1}"
            raise invalid(_OWNER, "values", want, f"{len(bands)}: {bands}")
        if not levels or any(low >= high for low, high in zip(levels[:-1], levels[1:], strict=True)):
            raise invalid(_OWNER, "thresholds", "one or more increasing numbers", levels)
        shape = tuple(_real(_OWNER, field).shape)
        function: Operator = Bands(in_shape=shape, values=bands, thresholds=levels)
        if width is not None:
            width = check_positive(_OWNER, "width", width)
            function = SmoothBands(in_shape=shape, values=bands, thresholds=levels, width=width)
        parts = {"base": field, "function": function, "layout": None}
        for name, value in {**parts, "values": bands, "thresholds": levels, "width": width}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    @property
    def fractions(self) -> Tensor:
        """The probability of every band at every point, ``(bands, *shape)``, of a Gaussian field: float64.

        Of a field with ``width``: that u is in the band.

        Raises
        ------
        UnsupportedError
            Where the marginal distribution of u has no formula.
        """
        if not self._known:
            raise UnsupportedError(
                f"{_OWNER}.fractions: the distribution of {self.base!r} at a point has no formula. Count them in "
                "draws: (prior.sample(1000) == value).float().mean(0)."
            )
        assert isinstance(self.base, IsGaussian)
        law = self.base.law
        std = _entry_variances(law).double().sqrt()
        ends = [-math.inf, *self.thresholds, math.inf]
        z = torch.stack([(level - law.mean.double()) / std for level in ends])
        # From the nearer side, so that a small share keeps its digits.
        upper = z[:-1] > 0
        more, less = torch.where(upper, -z[:-1], z[1:]), torch.where(upper, -z[1:], z[:-1])
        shares: Tensor = (torch.special.erfc(-more / math.sqrt(2)) - torch.special.erfc(-less / math.sqrt(2))) / 2
        return shares

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Exact for a sharp level set of a Gaussian field, else the mean of 256 draws."""
        if self.width is not None or not self._known:
            return self._pilot.mean(0)
        share = self.fractions
        values = torch.tensor(self.values, dtype=torch.float64, device=share.device)
        mean: Tensor = torch.tensordot(values, share, 1).to(self.base.dtype)
        return mean

    def log_density(self, x: Tensor) -> Tensor:
        raise UnsupportedError(
            f"{_OWNER}.log_density: a level set has no density, as each value has a probability of its own: see "
            "prior.fractions."
        )

    def on(self, where: Any) -> LevelSet:
        """The same prior on another grid (a shape), where the field has an ``on``."""
        if not hasattr(self.base, "on"):
            raise UnsupportedError(f"{_OWNER}.on: {type(self.base).__name__} has no `on`.")
        return self._of(self.base.on(where))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return self._of(self.base.to(device, dtype))

    def __repr__(self) -> str:
        width = "" if self.width is None else f", width={self.width:g}"
        return f"LevelSet({self.base!r}, values={self.values}, thresholds={self.thresholds}{width})"

    def _of(self, field: Prior) -> Self:
        return type(self)(field, self.values, thresholds=self.thresholds, width=self.width)

    @property
    def _known(self) -> bool:
        if not isinstance(self.base, IsGaussian):
            return False
        return self.base.law.modes.orthonormal or isinstance(self.base.law.modes, SpectralModes)


def _entry_variances(law: GaussianLaw) -> Tensor:
    """Of the signal, whatever the colour of the diffusion noise."""
    modes = law.modes
    if isinstance(modes, SpectralModes) and modes.colour is not None:
        return modes.transform.squared_inverse(modes.colour**2 * law.variances)
    return modes.marginal_variances(law.variances)


def _numbers(name: str, values: object) -> tuple[float, ...]:
    try:
        listed = [*values]  # type: ignore[misc]
    except TypeError:
        raise invalid_type(_OWNER, name, "a sequence of numbers", values) from None
    return tuple(check_number(_OWNER, name, value) for value in listed)
