"""Every noise model but the Gaussian."""

from __future__ import annotations

from invsolve.noise import (
    Laplace,
    Multiplicative,
    Noise,
    Poisson,
    PoissonTransmission,
    Quantised,
    Rician,
    Saturated,
    SinglePhoton,
    Speckle,
)

MODELS: dict[str, Noise] = {
    "Poisson": Poisson(counts_per_unit=7.0, background=0.5),
    "PoissonTransmission": PoissonTransmission(i0=30.0, background=0.5),
    "Rician": Rician(std=0.5),
    "Laplace": Laplace(scale=0.4),
    "Multiplicative": Multiplicative(std=0.3),
    "Speckle": Speckle(looks=3.0),
    "Speckle of 1.5 looks": Speckle(looks=1.5),
    "SinglePhoton": SinglePhoton(counts_per_unit=1.5, background=0.1),
    "SinglePhoton of 20 frames": SinglePhoton(counts_per_unit=0.7, background=0.05, frames=20),
    "Saturated": Saturated(std=0.4, low=0.0, high=1.0),
    "Saturated above": Saturated(std=0.4, high=1.0),
    "Saturated below": Saturated(std=0.4, low=0.0),
    "Quantised": Quantised(std=0.3, step=0.5),
    "Quantised coarsely": Quantised(std=0.2, step=1.0),
    "Quantised finely": Quantised(std=0.5, step=0.1),
}
