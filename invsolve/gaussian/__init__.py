"""Gaussian laws and linear Gaussian systems: posteriors and evidence in closed form."""

__all__: list[str] = []
