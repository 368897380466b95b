"""Denoisers that have seen the data, for any sampler."""

__all__: list[str] = []
