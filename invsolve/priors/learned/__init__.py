"""Priors made of networks: what they predict, their units, schedules and files."""

__all__: list[str] = []
