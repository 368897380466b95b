"""Functions that are called with named scalars: do they take those names, and no others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from invsolve.core.distributions import Distribution, check_distribution
from invsolve.errors import InvsolveError, invalid, invalid_type


def check_names(owner: str, argument: str, f: Callable[..., Any], given: Sequence[str], what: str, repair: str) -> None:
    """Refuse names that ``f`` does not take, and required arguments of it that are none of them.

    ``argument`` is what the caller calls ``f``, and ``what`` the names, as in "the parameters".
    """
    try:
        known = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # a function of C
        return
    names = [p.name for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    any_name = any(p.kind is p.VAR_KEYWORD for p in known)
    needed = {p.name for p in known if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if needed - set(given) or (set(given) - set(names) and not any_name):
        expected = f"a function with the arguments {', '.join(given)}, {what}"
        raise invalid(owner, argument, expected, f"one with {', '.join(names) or 'none'}", repair)


def made(owner: str, make: Callable[..., Any], values: Mapping[str, float]) -> Any:
    """``make(**values)``; what it refuses says at which values."""
    try:
        return make(**values)
    except InvsolveError as error:
        where = ", ".join(f"{name}={value:.4g}" for name, value in values.items())
        error.add_note(
            f"{owner}: this is of the member at {where}, which its distributions allow. Take one that keeps away from "
            "there, e.g. iv.LogUniform(low, high), or a function that takes any value of it."
        )
        raise


def family_scalars(
    owner: str, make: Any, what: str, mapping: Any, named: Mapping[str, Distribution]
) -> dict[str, Distribution]:
    """The unknown scalars of a family, given by name or in a mapping, which ``make`` takes; ``what`` it returns."""
    if not callable(make):
        raise invalid_type(owner, "make", f"a function of the unknown scalars that returns {what}", make)
    if isinstance(mapping, Distribution):  # a scalar of that name, or the one that the function takes
        mapping = {_only_argument(make) or "scalars": mapping}
    if mapping is not None and not isinstance(mapping, Mapping):
        raise invalid_type(
            owner, "scalars", "a mapping of names to distributions", mapping, "Or by name: Family(make, width=...)."
        )
    unknown = {**(mapping or {}), **named}
    if not unknown:
        raise invalid(owner, "unknown scalars", "given by name, e.g. width=iv.LogNormal(...)", "none")
    for name, law in unknown.items():
        check_distribution(
            owner, str(name), law, f"What is known is left to the function: functools.partial(make, {name}=...)."
        )
    check_names(
        owner,
        "make",
        make,
        list(unknown),
        "the unknown scalars",
        "What is known needs a default in it, or functools.partial.",
    )
    return unknown


def _only_argument(f: Callable[..., Any]) -> str:
    """The name of the one argument that a function needs; "" where there are more, or others take it by any name."""
    try:
        known = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # a function of C
        return ""
    needed = [p.name for p in known if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return needed[0] if len(needed) == 1 and not any(p.kind is p.VAR_KEYWORD for p in known) else ""
