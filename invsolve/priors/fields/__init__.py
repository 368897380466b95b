"""Gaussian random fields: bases, spectra, transforms."""

__all__: list[str] = []
