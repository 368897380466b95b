"""What the demo learns from head phantoms, so that nothing is fitted to the slice: a spectrum, and two weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor

from invsolve.baselines import TunedWeight, WeightedSolver, tikhonov, total_variation, tune_weight
from invsolve.datasets import MRIScan, heads, simulate_mri, smooth_phase
from invsolve.priors import Spectrum

FINE = 256  # cells a side of the objects that are scanned: the slice, and the phantoms
CG_WEIGHTS = tuple(0.01 * 2.0**k for k in range(6))  # against ||A||^2, about 1
TV_WEIGHTS = tuple(0.1 * 1.6**k for k in range(6))  # in units of the noise std
TV_ITERATIONS = 150  # on these scans 400 change the error by less than 1 % at the tuned weight


@final
@dataclass(frozen=True, kw_only=True)
class Size:
    """What makes a run short or long.

    Parameters
    ----------
    grid : int
        Cells a side of the unknown.
    heads, tuning : int
        Phantoms to fit the field prior to, and to tune on.
    steps : int
        Of the walk with the learned prior; 0: without it. It needs a grid of 128.
    """

    grid: int
    heads: int
    tuning: int
    steps: int = 0


FULL, QUICK = Size(grid=128, heads=16, tuning=3, steps=16), Size(grid=128, heads=8, tuning=2, steps=12)


def head_spectrum(number: int, *, seed: int = 0) -> Spectrum:
    """The mean power of head phantoms with random smooth phases, per real component and mode, as a spectrum.

    Averaged over rings of |k| on the fine grid; between their mean radii the logarithm is interpolated. The phase of a
    scanner has an arbitrary constant too, so the field has mean zero and both of its components have the same
    distribution.

    Parameters
    ----------
    number : int
        Of phantoms.
    seed : int
        Of phantoms and phases.

    Returns
    -------
    Spectrum
        For a `GaussianFieldPrior`.
    """
    shape = (FINE, FINE)
    images = heads.slices(number, shape, seed=seed).double()
    phases = torch.stack([smooth_phase(shape, seed=seed + i, dtype=torch.float64) for i in range(number)])
    # With norm="forward" these are the coefficients of exp(2 pi i k r); half of their power is in each component.
    power = torch.fft.fft2(torch.polar(images, phases), norm="forward").abs().square().mean(0) / 2
    k = torch.fft.fftfreq(FINE, 1 / FINE, dtype=torch.float64, device="cpu")
    radius = torch.sqrt(k[:, None] ** 2 + k**2)
    edges = [math.sqrt(m + 0.5) for m in range(16)]  # below |k| = 4, where power falls fast, a ring for each distance
    while edges[-1] < FINE / math.sqrt(2):
        edges.append(max(edges[-1] + 1, 1.15 * edges[-1]))
    ring = torch.bucketize(radius.flatten(), torch.tensor(edges, dtype=torch.float64, device="cpu"))
    count = torch.bincount(ring).double()
    held = count > 0  # no two squares add up to 3, nor to 6
    centre, mean = ((torch.bincount(ring, weights=v.flatten()) / count)[held] for v in (radius, power))
    x, log_mean = torch.log1p(centre).numpy(), mean.log().numpy()

    def variances(eigenvalues: Tensor) -> Tensor:
        wave_number = eigenvalues.sqrt() / (2 * math.pi)  # periods in the field of view, of length 1
        return torch.from_numpy(np.exp(np.interp(torch.log1p(wave_number).numpy(), x, log_mean)))

    return Spectrum(variances)


def tune_baselines(phantoms: Sequence[MRIScan]) -> tuple[TunedWeight, TunedWeight]:
    """The weights of CG-SENSE and TV (in units of the noise std) of least error on scans of phantoms."""
    problems = [(scan.operator, scan.kspace[None], scan.truth[None]) for scan in phantoms]
    noise = sum(scan.noise_std for scan in phantoms) / len(phantoms)
    cg = tune_weight(partial(tikhonov, rtol=1e-3), problems, CG_WEIGHTS)
    return cg, tune_weight(tv_solver(noise), problems, TV_WEIGHTS)


def tv_solver(noise_std: float) -> WeightedSolver:
    """TV with its weight in units of the noise std."""
    return lambda A, y, /, *, weight: total_variation(A, y, weight=weight * noise_std, iterations=TV_ITERATIONS)


def phantom_scan(grid: int, acceleration: float, seed: int) -> MRIScan:
    """A scan like the slice's, of another object with other coils, phase, mask and noise."""
    head = heads.slices(1, (FINE, FINE), seed=seed)[0]
    return simulate_mri(head, grid=(grid, grid), acceleration=acceleration, seed=seed)
