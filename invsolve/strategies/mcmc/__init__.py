"""Markov chains in the noise space of the prior."""

__all__: list[str] = []
