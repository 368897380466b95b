"""Gaussian distributions: modes, transforms, linear systems; posteriors and evidence in closed form."""

__all__: list[str] = []
