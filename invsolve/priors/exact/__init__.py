"""Priors whose denoiser is known in closed form."""

__all__: list[str] = []
