"""A prior with scalars that are not known: correlation length, amplitude, a mixing weight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, final

import torch
from torch import Tensor

from invsolve.core.distributions import Distribution
from invsolve.core.named_arguments import family_scalars, made
from invsolve.core.random import DrawLike, Draws
from invsolve.core.validation import Kind, Shape, check_int
from invsolve.errors import InputError, UnsupportedError, invalid, invalid_type
from invsolve.priors.base import Prior

_OWNER = "priors.Family"


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class Family(Prior):
    """``make(length=...)`` is the prior, and ``length`` is to be inferred: a prior for every value of its scalars.

    `solve` infers the scalars (hyperparameters) for every item together with the signal (``result["prior.length"]``),
    whatever the strategy: by their evidence where it is known (`Exact`, `SMC`), else by Gibbs sampling, which needs
    members that state their density (``log_prob(x, sigma)``).

    A family is no denoiser itself: `at` gives the member for given scalars. ``shape``, ``mean``, ``scale`` and
    ``detail`` are those of the member at the medians.

    Parameters
    ----------
    make : callable
        Takes the scalars by name (floats) and returns a `Prior`, always of the same shape, kind, precision and device.
    scalars : mapping of str to Distribution, optional
        The unknown scalars, instead of or beside those given by name.
    **unknown : Distribution
        The prior distribution of each scalar, by name.

    Attributes
    ----------
    median : Prior
        The member at the medians of the distributions.

    Raises
    ------
    InputError, InputTypeError
        If ``make`` is no function that returns a prior, or no scalar is given.

    Examples
    --------
    >>> import invsolve as iv
    >>> def field(length):
    ...     return iv.priors.GaussianFieldPrior(shape=(32,), spectrum=iv.priors.Matern(std=1.0, length=length))
    >>> family = iv.priors.Family(field, length=iv.LogUniform(low=0.05, high=1.0))
    >>> family.at(length=0.2)
    GaussianFieldPrior(shape=(32,), real, scale=2.718)

    A Gaussian field takes the distribution in the place of the number, and is that family:

    >>> iv.priors.GaussianFieldPrior((32,), iv.priors.Matern(1.0, iv.LogUniform(low=0.05, high=1.0))).at(length=0.2)
    GaussianFieldPrior(shape=(32,), real, scale=2.718)
    """

    make: Callable[..., Prior]
    unknown: Mapping[str, Distribution]
    median: Prior = field(init=False)
    shape: Shape = field(init=False)
    kind: Kind = field(init=False)
    mean: Tensor = field(init=False)
    scale: float = field(init=False)
    detail: float | None = field(init=False)

    def __init__(
        self,
        make: Callable[..., Prior],
        scalars: Mapping[str, Distribution] | Distribution | None = None,
        **unknown: Distribution,
    ) -> None:
        unknown = family_scalars(_OWNER, make, "a prior", scalars, unknown)
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "unknown", dict(unknown))
        member = made(_OWNER, make, {name: law.median for name, law in unknown.items()})
        if not isinstance(member, Prior) or isinstance(member, Family):
            raise invalid_type(_OWNER, "make(...)", "an iv.priors.Prior without unknowns", member)
        for name, value in (
            ("median", member),
            ("shape", tuple(member.shape)),
            ("kind", member.kind),
            ("mean", member.mean),
            ("scale", member.scale),
            ("detail", member.detail),
        ):
            object.__setattr__(self, name, value)

    def at(self, **values: float) -> Prior:
        """The member with these scalars, all given by name."""
        if set(values) != set(self.unknown):
            raise invalid(_OWNER, "at(...)", f"called with {', '.join(self.unknown)}", ", ".join(values) or "nothing")
        member = made(_OWNER, self.make, {name: float(value) for name, value in values.items()})
        if not isinstance(member, Prior):
            raise invalid_type(_OWNER, "make(...)", "an iv.priors.Prior", member)
        want, given = ((tuple(p.shape), p.kind, p.dtype, p.device) for p in (self, member))
        if want != given:
            raise self._differs(want, given, values)
        return member

    def parameters(self, n: int, *, seed: int = 0) -> dict[str, Tensor]:
        """The scalars of the ``n`` signals of ``sample(n, seed=seed)``, each ``(n,)`` float64."""
        n, seed = check_int(_OWNER, "n", n, minimum=1), check_int(_OWNER, "seed", seed)
        return self._parameters(Draws.for_rows(seed, [0] * n, list(range(n)), self.device, purpose="prior"))

    def on(self, where: Any) -> Family:
        """The same family on another grid (a shape), where its members have an ``on``."""
        if not hasattr(self.median, "on"):
            raise UnsupportedError(f"{_OWNER}.on: {type(self.median).__name__} has no `on`.")
        return Family(functools.partial(_member_on, self.make, where), self.unknown)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return type(self)(functools.partial(_moved, self.make, device, dtype), **self.unknown)

    def __repr__(self) -> str:
        unknown = ", ".join(f"{name}={law}" for name, law in self.unknown.items())
        return f"Family(shape={self.shape}, {self.kind}, {unknown})"

    def _parameters(self, draws: DrawLike) -> dict[str, Tensor]:
        z = draws.normal((len(self.unknown),), torch.float64, step=1)
        return {name: law.transport(z[:, i]).cpu() for i, (name, law) in enumerate(self.unknown.items())}

    def _sample(self, n: int, draws: DrawLike) -> Tensor:
        values = self._parameters(draws)
        rows = []
        for k in range(n):
            member = self.at(**{name: float(v[k]) for name, v in values.items()})
            rows.append(member._sample(1, draws.take(torch.tensor([k], device="cpu"))))
        return torch.cat(rows)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        raise UnsupportedError(
            f"{_OWNER}: the scalars {', '.join(self.unknown)} are not known, so there is no denoiser. Use `solve`, "
            "which infers them, or one member: family.at(...)."
        )

    def _differs(self, want: object, given: object, values: Mapping[str, Any]) -> InputError:
        where = ", ".join(f"{name}={value:.4g}" for name, value in values.items())
        expected = f"of the shape, kind, precision and device of the others, {want}"
        return invalid(_OWNER, f"make({where})", expected, given)


def _moved(make: Callable[..., Prior], device: Any, dtype: torch.dtype | None, **values: float) -> Prior:
    member = make(**values)
    return member.to(device, dtype)


def _member_on(make: Callable[..., Prior], where: Any, **values: float) -> Prior:
    member: Any = make(**values)
    found: Prior = member.on(where)
    return found
