"""Gaussian random fields on a box: eigenfunctions and grids, spectra, the prior."""

__all__: list[str] = []
