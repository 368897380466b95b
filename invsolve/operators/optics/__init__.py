"""Blur, resolution, diffraction, saturation, phase retrieval."""

__all__: list[str] = []
