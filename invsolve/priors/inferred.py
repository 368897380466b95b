"""What is inferred where the prior is one of ``x = f(u)``: u, with the operator ``A(f(u))``."""

from __future__ import annotations

import functools
from collections.abc import Callable

from invsolve.core.fingerprint import fingerprint
from invsolve.errors import invalid
from invsolve.operators.algebra.algebra import Composed
from invsolve.operators.base import LinearOperator, Operator
from invsolve.priors.base import Prior
from invsolve.priors.entry_maps import EntryMap
from invsolve.priors.family import Family
from invsolve.priors.transformed import TransformedPrior, before
from invsolve.problem import Problem


def as_inferred(problem: Problem, prior: Prior) -> tuple[Problem, Prior, Operator | None]:
    """The problem of u with its prior, and the f that makes x of it; what is not transformed is left as it is."""
    functions = []
    while (found := _taken_apart(prior)) is not None:
        prior, function = found
        problem = problem._with(operator=before(problem.operator, function))
        functions.append(function)
    return problem, prior, functools.reduce(lambda a, b: a @ b, functions) if functions else None


def linear_part(A: Operator) -> Operator:
    """B of ``A(u) = B(f(u))`` for a linear B and functions f of every entry alone; A itself where it is none."""
    outer = A
    while isinstance(outer, Composed) and isinstance(outer.inner, EntryMap):
        outer = outer.outer
    return outer if isinstance(outer, LinearOperator) else A


def _taken_apart(prior: Prior) -> tuple[Prior, Operator] | None:
    if isinstance(prior, TransformedPrior):
        return prior.base, prior.function
    if isinstance(prior, Family) and isinstance(member := prior.median, TransformedPrior):
        make = functools.partial(_base, prior.make, fingerprint(member.function))
        return Family(make, **prior.unknown), member.function
    return None


def _base(make: Callable[..., Prior], function: str, **values: float) -> Prior:
    member = make(**values)
    if not isinstance(member, TransformedPrior) or fingerprint(member.function) != function:
        raise invalid(
            "priors.Family",
            "make(...)",
            "under the same function for every value of the unknown scalars",
            member,
            "Put the scalars into the prior that is transformed: a gain of exp(prior) is a shift of the prior's mean.",
        )
    return member.base
