"""Magnetic resonance imaging: coil sensitivities, noise, combined images; trajectories and their densities."""

from invsolve.core.public_names import found_later
from invsolve.operators.mri.coils import compress_coils, noise_covariance, prewhiten, rss, sense_combine
from invsolve.operators.mri.density import pipe_menon, radial_density
from invsolve.operators.mri.maps import espirit, estimate_maps
from invsolve.operators.mri.trajectories import kooshball, radial, spiral, stack_of_stars

__all__ = [
    "compress_coils",
    "espirit",
    "estimate_maps",
    "kooshball",
    "noise_covariance",
    "pipe_menon",
    "prewhiten",
    "radial",
    "radial_density",
    "rss",
    "sense_combine",
    "spiral",
    "stack_of_stars",
]

__getattr__ = found_later(__name__)
