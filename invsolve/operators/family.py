"""A forward model with scalars that are not known: a blur's width, a gain, an offset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self, final

import torch
from torch import Tensor

from invsolve.core.distributions import Distribution
from invsolve.core.named_arguments import family_scalars, made
from invsolve.core.validation import Kind, Shape
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.operators.base import Operator

_OWNER = "operators.Family"


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class Family(Operator):
    """An operator for every value of its hyperparameters, unknown scalars that are inferred with the signal.

    ``make(width=...)`` is the operator for one width. `solve` infers the width of every item together with the signal
    (``result["operator.width"]``). `at` gives one member; the family itself cannot be applied.

    Parameters
    ----------
    make : callable
        Takes the scalars by name (floats) and returns an `Operator`, always of the same shapes, kinds, precision,
        items and observed data.
    scalars : mapping of str to Distribution, optional
        The unknown scalars, instead of or beside those given by name.
    **unknown : Distribution
        The prior distribution of each scalar, by its name: ``width=iv.LogNormal(...)``.

    Attributes
    ----------
    median : Operator
        The member at the medians of the distributions.

    Raises
    ------
    InputTypeError
        If ``make`` is no function, returns no operator, or an argument is no distribution.
    InputError
        If no unknown is given; from `at`, if a member differs from the one at the medians in more than its values.

    Examples
    --------
    >>> import invsolve as iv
    >>> def blur(width):
    ...     return iv.operators.GaussianBlur(std=width, in_shape=(16, 16))
    >>> iv.operators.Family(blur, width=iv.LogNormal(median=1.5, factor=1.3))
    Family((16, 16) -> (16, 16), real, width=LogNormal(median=1.5, factor=1.3))
    """

    make: Callable[..., Operator]
    unknown: Mapping[str, Distribution]
    median: Operator = field(init=False)  # the member at the medians
    in_shape: Shape = field(init=False)
    out_shape: Shape = field(init=False)
    in_kind: Kind = field(init=False)
    out_kind: Kind = field(init=False)

    def __init__(
        self,
        make: Callable[..., Operator],
        scalars: Mapping[str, Distribution] | Distribution | None = None,
        **unknown: Distribution,
    ) -> None:
        unknown = family_scalars(_OWNER, make, "an operator", scalars, unknown)
        member = made(_OWNER, make, {name: law.median for name, law in unknown.items()})
        if not isinstance(member, Operator) or isinstance(member, Family):
            raise invalid_type(_OWNER, "make(...)", "an iv.operators.Operator without unknowns", member)
        for name, value in (
            ("make", make),
            ("unknown", dict(unknown)),
            ("median", member),
            ("in_shape", tuple(member.in_shape)),
            ("out_shape", tuple(member.out_shape)),
            ("in_kind", member.in_kind),
            ("out_kind", member.out_kind),
        ):
            object.__setattr__(self, name, value)

    def at(self, **values: float) -> Operator:
        """Return the member with these scalars, all of them given by name."""
        if set(values) != set(self.unknown):
            raise invalid(_OWNER, "at(...)", f"called with {', '.join(self.unknown)}", ", ".join(values) or "nothing")
        member = made(_OWNER, self.make, {name: float(value) for name, value in values.items()})
        if not isinstance(member, Operator):
            raise invalid_type(_OWNER, "make(...)", "an iv.operators.Operator", member)
        want, given = (
            (tuple(a.in_shape), tuple(a.out_shape), a.in_kind, a.out_kind, a.dtype, a.device, a.batch)
            for a in (self.median, member)
        )
        if want != given:
            expected = f"of the shapes, kinds, precision and items of the others, {want}"
            raise invalid(_OWNER, "make(...)", expected, given)
        ours, theirs = self.median.observed, member.observed
        if (ours is None) != (theirs is None) or (ours is not None and theirs is not None and not ours.equal(theirs)):
            raise invalid(_OWNER, "make(...)", "observing the same data as the others", "another `observed`")
        return member

    @property
    def batch(self) -> int | None:
        return self.median.batch

    @property
    def observed(self) -> Tensor | None:
        return self.median.observed

    @property
    def dtype(self) -> torch.dtype | None:
        return self.median.dtype

    @property
    def device(self) -> torch.device | None:
        return self.median.device

    def take(self, index: Tensor) -> Self:
        if self.batch is None:
            return self
        return type(self)(functools.partial(_taken, self.make, index), **self.unknown)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return type(self)(functools.partial(_moved, self.make, device, dtype), **self.unknown)

    def __repr__(self) -> str:
        kinds = self.in_kind if self.in_kind == self.out_kind else f"{self.in_kind} -> {self.out_kind}"
        unknown = ", ".join(f"{name}={law}" for name, law in self.unknown.items())
        return f"Family({self.in_shape} -> {self.out_shape}, {kinds}, {unknown})"

    def _apply(self, x: Tensor) -> NoReturn:
        raise UnsupportedError(
            f"{_OWNER}: the scalars {', '.join(self.unknown)} are not known, so it cannot be applied. Use `solve`, "
            "which infers them, or one member: family.at(...)."
        )


def _taken(make: Callable[..., Operator], index: Tensor, **values: float) -> Operator:
    return make(**values).take(index)


def _moved(make: Callable[..., Operator], device: Any, dtype: torch.dtype | None, **values: float) -> Operator:
    return make(**values).to(device, dtype)
