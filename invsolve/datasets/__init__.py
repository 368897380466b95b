"""Generators, simulators and small real samples. The data cards are in the folder `datasets/` of the repository."""

from typing import TYPE_CHECKING

from invsolve.core.public_names import found_later
from invsolve.datasets import heads, scenes
from invsolve.datasets.coils import coil_maps, smooth_phase
from invsolve.datasets.masks import (
    equispaced_mask,
    partial_fourier_mask,
    poisson_disc_mask,
    random_mask,
    variable_density_mask,
)
from invsolve.datasets.mri import MRIScan, band_limited, cartesian_mask, simulate_mri
from invsolve.datasets.slices import t1_slice

if TYPE_CHECKING:
    from invsolve.datasets.readers.pdebench import open_fields

__all__ = [
    "MRIScan",
    "band_limited",
    "cartesian_mask",
    "coil_maps",
    "equispaced_mask",
    "heads",
    "open_fields",
    "partial_fourier_mask",
    "poisson_disc_mask",
    "random_mask",
    "scenes",
    "simulate_mri",
    "smooth_phase",
    "t1_slice",
    "variable_density_mask",
]

__getattr__ = found_later(__name__, {"open_fields": "readers.pdebench"})
