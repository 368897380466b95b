"""Operators made of operators: sums, products, stacks, linearisations."""

__all__: list[str] = []
