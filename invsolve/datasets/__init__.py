"""Generators, simulators and small real samples. The data cards are in the folder `datasets/` of the repository."""

from invsolve.datasets import heads, scenes
from invsolve.datasets.coils import coil_maps, smooth_phase
from invsolve.datasets.mri import MRIScan, band_limited, cartesian_mask, simulate_mri
from invsolve.datasets.slices import t1_slice

__all__ = [
    "MRIScan",
    "band_limited",
    "cartesian_mask",
    "coil_maps",
    "heads",
    "scenes",
    "simulate_mri",
    "smooth_phase",
    "t1_slice",
]
