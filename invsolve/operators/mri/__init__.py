"""Magnetic resonance imaging: coil sensitivities, the noise of coils, and images combined of theirs."""

from invsolve.operators.mri.coils import compress_coils, noise_covariance, prewhiten, rss, sense_combine
from invsolve.operators.mri.maps import espirit, estimate_maps

__all__ = [
    "compress_coils",
    "espirit",
    "estimate_maps",
    "noise_covariance",
    "prewhiten",
    "rss",
    "sense_combine",
]
