"""The real slice, the phantoms, and the simulated scan against Fourier integrals worked out cell by cell."""

import hashlib
import math
from importlib import resources

import numpy as np
import pytest
import torch

from invsolve import datasets
from invsolve.baselines import tikhonov, total_variation, zero_filled
from invsolve.datasets import slices
from invsolve.datasets.mri import _sample_kspace
from invsolve.errors import FileError, InputError, InputTypeError
from invsolve.metrics import nrmse


# --- the slice -------------------------------------------------------------------------------------------------------
def test_t1_slice():
    image = datasets.t1_slice()
    assert image.shape == (256, 256) and image.dtype == torch.float32
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    assert float(image.double().mean()) == pytest.approx(0.13611043632, abs=1e-8)  # of the file at its source
    double = datasets.t1_slice(dtype=torch.float64)
    assert torch.equal((double * 255).round() / 255, double)
    rows, columns = (image > 0.03).any(1).nonzero(), (image > 0.03).any(0).nonzero()
    assert (int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])) == (46, 166, 58, 199)


def test_t1_slice_is_small_plain_data_with_its_licence():
    folder = resources.files("invsolve.datasets") / "samples"
    content = (folder / "t1_slice.npy").read_bytes()
    assert len(content) < 600_000 and hashlib.sha256(content).hexdigest() == slices.SHA256
    assert "dipy developers" in (folder / "t1_slice.LICENSE").read_text()


def test_damaged_slice_is_refused():
    content = (resources.files("invsolve.datasets") / "samples" / "t1_slice.npy").read_bytes()
    assert torch.equal(slices.decoded(content) / 255, datasets.t1_slice())
    with pytest.raises(FileError, match="t1_slice.npy of invsolve is damaged"):
        slices.decoded(content[:-1] + b"?")


# --- generators are functions of position ------------------------------------------------------------------------
# Cells of a grid of 3 n cells: every third centre, from the second on, is a centre of the grid of n.
GENERATORS = {
    "coil_maps": lambda shape: datasets.coil_maps(5, shape, seed=3, dtype=torch.float64),
    "smooth_phase": lambda shape: datasets.smooth_phase(shape, seed=3, dtype=torch.float64),
}


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_every_grid_sees_the_same_object(make):
    coarse, fine = make((20, 14)), make((60, 42))
    # Positions differ by some 1e-16, gradients are below 1e3 a field of view.
    assert (coarse - fine[..., 1::3, 1::3]).abs().max() < 1e-12


@pytest.mark.parametrize("name", GENERATORS)
def test_seeds_and_global_generator(name):
    state = torch.get_rng_state()
    make = {
        "coil_maps": lambda seed: datasets.coil_maps(4, (16, 16), seed=seed),
        "smooth_phase": lambda seed: datasets.smooth_phase((16, 16), seed=seed),
    }[name]
    assert torch.equal(make(5), make(5)) and not torch.equal(make(5), make(6))
    assert torch.equal(torch.get_rng_state(), state)
    assert make(0).dtype in (torch.float32, torch.complex64)


def test_coil_maps():
    maps = datasets.coil_maps(8, (96, 80), dtype=torch.float64)
    assert maps.dtype == torch.complex128
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(96, 80, dtype=torch.float64), atol=1e-14)
    # Smooth: no step between neighbouring cells above 0.05, and every coil is the strongest somewhere.
    assert max(float(maps.diff(dim=d).abs().max()) for d in (1, 2)) < 0.05
    assert set(maps.abs().argmax(0).unique().tolist()) == set(range(8))
    # Encoding power: a field of view folded twice is well conditioned (a noise gain below 1.5 everywhere).
    folded = maps.view(8, 96, 2, 40).permute(1, 3, 0, 2)
    inverse = torch.linalg.inv(folded.mH @ folded)
    gain = (inverse.diagonal(dim1=-2, dim2=-1).real * (folded.abs() ** 2).sum(-2)).sqrt()
    assert 1 <= float(gain.min()) and float(gain.max()) < 1.5
    assert torch.allclose(datasets.coil_maps(1, (4, 4)).abs(), torch.ones(1, 4, 4), atol=1e-6)


def test_smooth_phase():
    phase = datasets.smooth_phase((50, 40), strength=2.0, seed=1)
    assert phase.shape == (50, 40) and 0.5 < float(phase.abs().max()) <= 2.0
    assert torch.equal(datasets.smooth_phase((5, 4), strength=0.0), torch.zeros(5, 4))


# --- sampling ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("density", ["variable", "uniform"])
@pytest.mark.parametrize("axis, n", [(-1, 100), (1, 100), (0, 65), (-2, 65)])
def test_cartesian_mask(density, axis, n):
    mask = datasets.cartesian_mask((65, 100), acceleration=4, center_fraction=0.1, density=density, axis=axis, seed=2)
    assert mask.shape == (65, 100) and mask.dtype == torch.bool
    lines = mask.movedim(axis, 0)
    assert torch.equal(lines.all(1), lines.any(1))  # whole lines
    assert int(lines[:, 0].sum()) == round(n / 4)
    centre = round(0.1 * n)
    first = n // 2 - centre // 2
    assert lines[first : first + centre].all()
    assert bool(lines[n // 2].all())  # the origin of k-space


def test_cartesian_mask_densities():
    """Uniform: each of the other lines equally often. Variable: the inner half more often than the outer half."""
    n, runs, options = 60, 400, dict(acceleration=3, center_fraction=0.0)
    counts = {
        density: sum(
            datasets.cartesian_mask((1, n), density=density, seed=s, **options)[0].double() for s in range(runs)
        )
        for density in ("uniform", "variable")
    }
    p = 1 / 3
    assert ((counts["uniform"] / runs - p).abs() < 5 * math.sqrt(p * (1 - p) / runs)).all()
    inner = counts["variable"][n // 4 : 3 * n // 4].sum() / counts["variable"].sum()
    assert 0.75 < float(inner) < 0.95
    assert datasets.cartesian_mask((3, 8), acceleration=1, center_fraction=0.0).all()


# --- the scan --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fine, grid", [((12, 10), (7, 6)), ((11, 13), (6, 7)), ((8, 8), (4, 4))], ids=str)
def test_kspace_is_the_fourier_integral(fine, grid):
    """Cell by cell: the integral of exp(-2 pi i k (r - c)) over a cell, in closed form, with c the grid's origin."""
    rho = torch.randn(*fine, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    factors = []
    for big, n in zip(fine, grid, strict=True):
        k = np.arange(n)[:, None] - n // 2
        edges = (np.arange(big + 1) / big - (n // 2 + 0.5) / n)[None]
        safe = np.where(k == 0, 1, k)
        primitive = np.where(k == 0, edges, np.exp(-2j * np.pi * k * edges) / (-2j * np.pi * safe))
        factors.append(math.sqrt(n) * np.diff(primitive, axis=1))
    expected = factors[0] @ rho.numpy() @ factors[1].T
    assert np.abs(_sample_kspace(rho, grid).numpy() - expected).max() < 1e-13


@pytest.mark.parametrize("grid", [(64, 64), (65, 64), (63, 50)], ids=str)
def test_truth_is_in_its_place(grid):
    """A Gaussian off centre is seen where it is, on every grid: cells average it, which adds 1 / (12 N^2) to its
    variance, to fourth order (1 / (80 N^4 s^4) of its height: 4e-7 here). Half a pixel would be an error of 0.06."""
    n, s, at = 128, 0.08, (0.07, -0.11)
    r = (torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5
    blob = torch.exp(-((r[:, None] - at[0]) ** 2 + (r - at[1]) ** 2) / (2 * s**2))
    truth = datasets.simulate_mri(blob, grid=grid, phase_strength=0.0).truth
    v = s**2 + 1 / (12 * n**2)
    axes = [(torch.arange(m, dtype=torch.float64) + 0.5) / m - 0.5 for m in grid]
    expected = s**2 / v * torch.exp(-((axes[0][:, None] - at[0]) ** 2 + (axes[1] - at[1]) ** 2) / (2 * v))
    # The tails leave the field of view at exp(-(0.39 / 0.08)^2 / 2) = 7e-6.
    assert (truth - expected).abs().max() < 2e-5


@pytest.mark.parametrize("grid, bound", [(192, 1.2e-3), (128, 2e-3)])
def test_discretisation_error_is_small_and_not_zero(grid, bound):
    """Full sampling and hardly any noise: what is left is that maps are multiplied before the band limit, not after."""
    scan = datasets.simulate_mri(datasets.t1_slice(dtype=torch.float64), grid=(grid, grid), acceleration=1.0, snr=1e8)
    x = tikhonov(scan.operator, scan.kspace[None], weight=1e-8)
    assert 1e-4 < float(nrmse(x, scan.truth[None])) < bound
    misfit = (scan.operator(scan.truth[None])[0] - scan.kspace).abs().square().mean().div(2).sqrt()
    noise_at_30 = scan.noise_std * 1e8 / 30
    assert float(misfit) < 0.015 * noise_at_30  # the model error is lost in the noise of a real scan


def test_scan_is_consistent():
    image = datasets.t1_slice()
    scan = datasets.simulate_mri(image, grid=(96, 80), num_coils=5, acceleration=4, snr=20.0, seed=1)
    assert scan.kspace.shape == scan.maps.shape == (5, 96, 80) and scan.truth.shape == scan.mask.shape == (96, 80)
    assert scan.kspace.dtype == scan.maps.dtype == scan.truth.dtype == torch.complex64
    assert scan.acceleration == 4.0
    assert repr(scan).startswith("MRIScan(5 coils, (96, 80), acceleration 4, noise_std 0.0")
    assert not scan.kspace[:, ~scan.mask].any()
    size = scan.truth.abs()
    assert float(size[size > 0.1 * size.max()].mean()) / scan.noise_std == pytest.approx(20.0, rel=1e-6)
    # Chi^2 per real datum is 1 (5 standard errors; the model error adds less than 1e-4).
    residual = (scan.operator(scan.truth[None])[0] - scan.kspace)[:, scan.mask] / scan.noise_std
    count = 2 * residual.numel()
    assert abs(float(residual.abs().square().sum()) / count - 1) < 5 * math.sqrt(2 / count) + 1e-4
    again = datasets.simulate_mri(image, grid=(96, 80), num_coils=5, acceleration=4, snr=20.0, seed=1)
    assert torch.equal(again.kspace, scan.kspace)
    other = datasets.simulate_mri(image, grid=(96, 80), num_coils=5, acceleration=4, snr=20.0, seed=2)
    assert not torch.equal(other.mask, scan.mask)
    # The mask changes which data are seen, not the noise in them: the noise of a datum depends on the seed alone.
    full = datasets.simulate_mri(image, grid=(96, 80), num_coils=5, acceleration=1, snr=20.0, seed=1)
    assert torch.equal(full.kspace[:, scan.mask], scan.kspace[:, scan.mask])


def test_baselines_on_a_scan():
    """Weights found on this phantom by hand: no ranking is claimed, only that each does its part."""
    head = datasets.heads.slices(1, (96, 96), seed=7)[0]
    scan = datasets.simulate_mri(head, grid=(64, 64), snr=40.0)
    A, y, truth = scan.operator, scan.kspace[None], scan.truth[None]
    images = zero_filled(A, y), tikhonov(A, y, weight=0.02), total_variation(A, y, weight=5e-3)
    errors = [nrmse(x, truth) for x in images]
    assert float(errors[2]) < 0.75 * float(errors[1]) and float(errors[1]) < float(errors[0])


# --- refusals --------------------------------------------------------------------------------------------------------
IMAGE = torch.ones(8, 8)


def scan(image=IMAGE, grid=(6, 6), **options):
    return datasets.simulate_mri(image, grid=grid, **options)


mask = datasets.cartesian_mask
REFUSED = {
    "slice dtype": (lambda: datasets.t1_slice(dtype=torch.int32), InputTypeError, "`dtype` must be torch.float32"),
    "coil seed": (lambda: datasets.coil_maps(2, (8, 8), seed=1.5), InputTypeError, "`seed` must be an integer"),
    "big seed": (lambda: datasets.coil_maps(2, (8, 8), seed=2**70), InputError, "`seed` must be an integer of 64"),
    "coils": (lambda: datasets.coil_maps(0, (8, 8)), InputError, "coil_maps: `num_coils` must be at least 1"),
    "coil dtype": (lambda: datasets.coil_maps(2, (8, 8), dtype=torch.complex64), InputTypeError, "coil_maps: `dtype`"),
    "phase": (lambda: datasets.smooth_phase((8, 8), strength=-1), InputError, "`strength` must be non-negative"),
    "phase shape": (lambda: datasets.smooth_phase(8), InputTypeError, "smooth_phase: `shape` must be a tuple"),
    "acceleration": (lambda: mask((8, 8), acceleration=0.5), InputError, "and the number of lines, 8, got 0.5"),
    "nan": (lambda: mask((8, 8), acceleration=math.nan), InputError, "`acceleration` must be finite"),
    "centre": (lambda: mask((8, 8), acceleration=4, center_fraction=0.5), InputError, "between 0 and 0.25"),
    "density": (lambda: mask((8, 8), acceleration=2, density="poisson"), InputError, "one of 'variable', 'uniform'"),
    "axis": (lambda: mask((8, 8), acceleration=2, axis=2), InputError, "`axis` must be one of -2, -1, 0, 1"),
    "word": (lambda: scan("head"), InputTypeError, "simulate_mri: `image` must be numbers: .*, got 'head'"),
    "image dtype": (lambda: scan(IMAGE + 0j), InputTypeError, "simulate_mri: `image.dtype` must be torch"),
    "image batch": (lambda: scan(IMAGE[None]), InputError, r"`image` must be of shape \(H, W\), got \(1, 8, 8\)"),
    "image nan": (lambda: scan(IMAGE * math.nan), InputError, "simulate_mri: `image` must be finite"),
    "negative": (lambda: scan(-IMAGE), InputError, "`image` must be non-negative and not zero, got values from -1.0"),
    "zero": (lambda: scan(0 * IMAGE), InputError, "`image` must be non-negative and not zero"),
    "crime": (lambda: scan(grid=(8, 6)), InputError, r"`grid` must be coarser than the image \(8, 8\).*inverse crime"),
    "grid": (lambda: scan(grid=(4, 4, 4)), InputError, "simulate_mri: `grid` must be of two axes"),
    "snr": (lambda: scan(snr=0), InputError, "simulate_mri: `snr` must be positive"),
    "scan coils": (lambda: scan(num_coils=0), InputError, "simulate_mri: `num_coils` must be at least 1"),
    "scan seed": (lambda: scan(seed="a"), InputTypeError, "simulate_mri: `seed` must be an integer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
