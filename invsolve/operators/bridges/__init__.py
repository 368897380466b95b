"""Operators of other libraries as ours, and ours as theirs."""

__all__: list[str] = []
