"""Magnetic resonance imaging."""

__all__: list[str] = []
