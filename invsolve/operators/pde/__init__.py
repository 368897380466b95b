"""Operators of partial differential equations, and the pieces that they are made of."""

__all__: list[str] = []
