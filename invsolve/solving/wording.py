"""Strategies in the words of certificates."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from invsolve.strategies.base import Strategy


def short(strategy: Strategy) -> str:
    """A strategy by its name and the options that are not the default."""
    if not is_dataclass(strategy) or strategy.name != type(strategy).__name__:
        return f"{strategy.name}()"
    options = ((f.name, getattr(strategy, f.name), f.default) for f in fields(strategy) if f.init)
    given = [f"{name}={value!r}" for name, value, default in options if value is not default and value != default]
    return f"{strategy.name}({', '.join(given)})"
