"""Weights of other people's networks, read without unpickling."""

__all__: list[str] = []
