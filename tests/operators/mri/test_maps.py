"""Coil maps from k-space: an exact problem, the condition on eigenvalues, several sets; noise and images of coils."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from operator_cases import COMPLEX, F64, Numbers
from torch import Tensor

import invsolve as iv
from invsolve.operators import MRI, SoftSense
from invsolve.operators import mri as coils

GRID = (26, 23)


def centred(x: Tensor, dim: int = 2, inverse: bool = False) -> Tensor:
    dims = tuple(range(-dim, 0))
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    return torch.fft.fftshift(transform(torch.fft.ifftshift(x, dims), dim=dims, norm="ortho"), dims)


def trigonometric(draw: Numbers, *shape: int, degree: int = 1) -> Tensor:
    """Maps (..., *GRID) whose spectrum is 2 degree + 1 samples wide around the origin: ESPIRiT is exact for them."""
    rows, columns = GRID
    spectrum = torch.zeros(*shape, rows, columns, dtype=COMPLEX)
    width = 2 * degree + 1
    top, left = rows // 2 - degree, columns // 2 - degree
    spectrum[..., top : top + width, left : left + width] = draw.randn(*shape, width, width, dtype=COMPLEX)
    return centred(spectrum, inverse=True)


def alignment(found: Tensor, maps: Tensor) -> Tensor:
    """``|<S, found>| / |S|`` per pixel, coils on axis -3: 1 where they agree up to a phase and a size."""
    return (maps.conj() * found).sum(-3).abs() / maps.norm(dim=-3)


# --- the exact problem ---------------------------------------------------------------------------------------------
def test_maps_of_few_harmonics_are_found_exactly():
    """Patches of S_c x span what any image could give: G(p) S(p) = S(p) to rounding, at any x, in every pixel."""
    draw = Numbers(1)
    maps = trigonometric(draw, 4)
    kspace = centred(maps * draw.randn(*GRID, dtype=COMPLEX))
    found, values = coils.espirit(kspace, calibration=22, kernel=5, threshold=1e-6, crop=0.999)
    assert found.shape == (4, *GRID) and values.shape == GRID
    # Singular values kept down to 1e-6: the subspace is known to eps / 1e-6 at worst.
    assert (values - 1).abs().max() < 1e-9
    assert (alignment(found, maps) - 1).abs().max() < 1e-9
    assert torch.allclose(found.abs().square().sum(0), torch.ones(GRID, dtype=F64), atol=1e-12)
    others = coils.espirit(kspace, calibration=22, kernel=5, threshold=1e-6, sets=4)[1]
    assert others.shape == (4, *GRID) and bool((others[1:] < 0.99).all()) and bool((others.diff(dim=0) <= 1e-12).all())


def test_two_sets_where_two_images_overlap():
    """Of data ``S_1c x_1 + S_2c x_2`` the eigenvalue 1 is double, and its space that of both maps."""
    draw = Numbers(2)
    maps = trigonometric(draw, 2, 6)
    images = draw.randn(2, *GRID, dtype=COMPLEX)
    kspace = centred((maps * images[:, None]).sum(0))
    found, values = coils.espirit(kspace, calibration=22, kernel=5, threshold=1e-6, sets=2)
    assert found.shape == (2, 6, *GRID) and values.shape == (2, *GRID)
    assert (values - 1).abs().max() < 1e-8
    for own in maps:  # the projection onto the two sets keeps each map
        kept = (found * (found.conj() * own).sum(1, keepdim=True)).sum(0)
        assert (kept - own).abs().max() < 1e-8 * own.abs().max()
    A = SoftSense(torch.ones(1, 1, dtype=torch.bool), (2, *GRID), maps=found)
    assert torch.allclose(A(A.pinv(kspace[None], rtol=1e-13))[0], kspace, atol=1e-9)
    assert coils.espirit(kspace, calibration=22, kernel=5, threshold=1e-6)[1].shape == GRID


def test_three_dimensions():
    """Maps that do not change along the first axis are those of every slice."""
    draw = Numbers(3)
    grid = (6, 9, 8)
    flat = torch.zeros(3, *grid, dtype=COMPLEX)
    flat[:, 3, 3:6, 3:6] = draw.randn(3, 3, 3, dtype=COMPLEX)
    maps = centred(flat, 3, inverse=True)
    kspace = centred(maps * draw.randn(*grid, dtype=COMPLEX), 3)
    found, values = coils.espirit(kspace, calibration=8, kernel=3, threshold=1e-6, crop=0.9, coil_axis=-4)
    assert found.shape == (3, *grid) and (values - 1).abs().max() < 1e-9
    overlap = (maps.conj() * found).sum(0).abs() / maps.norm(dim=0)
    assert (overlap - 1).abs().max() < 1e-9


@pytest.mark.parametrize("coil_axis", [-2, -3, -4])
def test_maps_of_low_resolution_are_exact_where_they_do_not_change(coil_axis):
    """``x_c = S_c x`` with constant S_c: the window is that of x, and divides out."""
    draw = Numbers(12)
    dim = -coil_axis - 1
    grid = (7, 8, 6)[:dim]
    S = draw.randn(3, *[1] * dim, dtype=COMPLEX)
    kspace = S * centred(draw.randn(*grid, dtype=COMPLEX), dim)
    found = coils.estimate_maps(kspace, method="low resolution", calibration=4, coil_axis=coil_axis)
    assert torch.allclose((S.conj() * found).sum(0).abs(), S.norm().expand(grid), atol=1e-12)


def test_items_are_estimated_each_by_itself_and_in_pieces(monkeypatch):
    draw = Numbers(4)
    kspace = centred(trigonometric(draw, 2, 3) * draw.randn(2, 1, *GRID, dtype=COMPLEX))
    together = coils.estimate_maps(kspace[None], kernel=4, crop=0.0)
    assert together.shape == (1, 2, 3, *GRID)
    for method in ("espirit", "low resolution"):
        whole = coils.estimate_maps(kspace, kernel=4, crop=0.0, method=method)
        for item in range(2):
            alone = coils.estimate_maps(kspace[item], kernel=4, crop=0.0, method=method)
            assert torch.allclose(alone, whole[item], atol=1e-10)
    monkeypatch.setattr("invsolve.operators.mri.maps._ENTRIES", 1)
    assert torch.allclose(coils.estimate_maps(kspace, kernel=4, crop=0.0), together[0], atol=1e-10)


# --- a head --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def head():
    image = iv.datasets.heads.slices(1, (96, 96), seed=3)[0].double()
    scan = iv.datasets.simulate_mri(image, grid=(64, 64), num_coils=5, snr=100.0, acceleration=1.0)
    return scan, scan.truth.abs() > 0.1 * scan.truth.abs().max()


@pytest.mark.parametrize("method, least", [("espirit", 0.999), ("low resolution", 0.98)])
@pytest.mark.parametrize("dtype", [torch.complex64, COMPLEX])
def test_smooth_maps_of_a_head(head, method, least, dtype):
    """Where there is signal, in either precision; and the combined image is the truth up to the stated phase."""
    scan, inside = head
    kspace = scan.kspace.to(dtype)
    maps = coils.estimate_maps(kspace, method=method)
    assert maps.dtype == dtype
    same = alignment(maps.to(COMPLEX), scan.maps)[inside]
    assert float(same.mean()) > least and float(same.quantile(0.01)) > least - 0.02
    combined = coils.sense_combine(centred(kspace, inverse=True), maps).to(COMPLEX)
    far = (combined.abs() - scan.truth.abs())[inside].norm() / scan.truth[inside].norm()
    assert float(far) < 2 * math.sqrt(1 - least**2)


def test_eigenvalues_tell_signal_from_air(head):
    scan, inside = head
    values = coils.espirit(scan.kspace)[1]
    assert float(values[inside].mean()) > 0.98 and float(values[~inside].mean()) < float(values[inside].mean())
    maps = coils.estimate_maps(scan.kspace, crop=0.9)
    assert bool((maps.norm(dim=0)[values >= 0.9] - 1).abs().max() < 1e-9) and not maps[:, values < 0.9].any()


def test_the_phase_is_that_of_the_dominant_combination(head):
    """It does not depend on how the data are turned: maps of ``exp(i a) y`` are the same."""
    scan, _ = head
    turned = coils.estimate_maps(scan.kspace * torch.polar(torch.tensor(1.0).double(), torch.tensor(0.7).double()))
    assert torch.allclose(turned, coils.estimate_maps(scan.kspace), atol=1e-9)


def test_the_largest_measured_block_is_taken():
    """Of lines around the centre, and of any block that the mask has; data elsewhere do not matter."""
    draw = Numbers(5)
    kspace = centred(trigonometric(draw, 3) * draw.randn(*GRID, dtype=COMPLEX))
    lines = torch.zeros(GRID[1], dtype=torch.bool)
    lines[7:16] = True
    lines[::3] = True  # 6 and 15 are in one piece with them
    lines[[5, 16, 17, 18]] = False
    expected = coils.estimate_maps(
        kspace[..., 6:16].new_zeros(3, *GRID).index_copy(2, torch.arange(6, 16), kspace[..., 6:16])
    )
    assert torch.allclose(coils.estimate_maps(kspace * lines), expected, atol=1e-9)


# --- noise of coils ------------------------------------------------------------------------------------------------
def mixing(draw: Numbers, n: int) -> Tensor:
    return torch.eye(n, dtype=COMPLEX) + 0.4 * draw.randn(n, n, dtype=COMPLEX)


def test_noise_covariance_and_white_coils():
    """Known covariance ``M M^H`` of a real component; within 5 standard errors, and exactly I after whitening with it."""
    draw, n, samples = Numbers(6), 3, 20000
    M = mixing(draw, n)
    white = math.sqrt(2) * draw.randn(n, samples, dtype=COMPLEX)  # torch's complex normals have std 1 / sqrt(2)
    found = coils.noise_covariance(M @ white, coil_axis=-2)
    truth = M @ M.mH
    scale = (truth.diagonal().real[:, None] * truth.diagonal().real).sqrt()
    assert ((found - truth).abs() / scale).max() < 5 / math.sqrt(samples)
    again = coils.noise_covariance(coils.prewhiten(M @ white, found, coil_axis=-2), coil_axis=-2)
    assert torch.allclose(again, torch.eye(n, dtype=COMPLEX), atol=1e-12)
    y = draw.randn(2, n, 4, 5, dtype=COMPLEX)
    L = torch.linalg.cholesky(truth)
    assert torch.allclose(torch.einsum("ij,bjhw->bihw", L, coils.prewhiten(y, truth)), y, atol=1e-12)


def test_noise_from_the_edge_of_k_space(head):
    """The outer tenth of a smooth image's k-space is noise; what was not measured does not count."""
    draw, n = Numbers(7), 4
    grid = (128, 120)
    M = mixing(draw, n)
    noise = torch.einsum("ij,jhw->ihw", M, math.sqrt(2) * draw.randn(n, *grid, dtype=COMPLEX))
    row, column = ((torch.arange(m, dtype=F64) - m // 2) / m for m in grid)
    smooth = 1e4 * torch.exp(-200 * (row[:, None] ** 2 + column**2))  # at the edge below 1e-17
    mask = torch.arange(grid[1]) % 3 == 0
    found = coils.noise_covariance(mask * (smooth + noise), edge=0.1)
    truth = M @ M.mH
    scale = (truth.diagonal().real[:, None] * truth.diagonal().real).sqrt()
    assert ((found - truth).abs() / scale).max() < 5 / math.sqrt(0.1 * 128 * 40)


def test_whitened_data_give_the_weighted_least_squares():
    """MRI of white coils, maps whitened alike, against ``(S^H P^-1 S)^-1 S^H P^-1 y`` pixel by pixel."""
    draw, n = Numbers(8), 3
    maps, y = draw.randn(n, 4, 5, dtype=COMPLEX), draw.randn(n, 4, 5, dtype=COMPLEX)
    cov = mixing(draw, n)
    cov = cov @ cov.mH
    A = MRI(torch.ones(1, 1, dtype=torch.bool), (4, 5), maps=coils.prewhiten(maps, cov))
    found = A.pinv(coils.prewhiten(y, cov)[None], rtol=1e-14)[0]
    inverse, images = torch.linalg.inv(cov), centred(y, inverse=True)
    top = torch.einsum("chw,cd,dhw->hw", maps.conj(), inverse, images)
    bottom = torch.einsum("chw,cd,dhw->hw", maps.conj(), inverse, maps)
    assert torch.allclose(found, top / bottom, atol=1e-10)


# --- fewer coils, combined images ----------------------------------------------------------------------------------
def test_compressed_coils_lose_the_smallest_singular_values():
    """Eckart and Young: the relative error is that of the singular values left out, for every item by itself."""
    draw = Numbers(9)
    data = draw.randn(2, 5, 6, 7, dtype=COMPLEX) * torch.tensor([3.0, 1.0, 0.3, 0.1, 0.03]).double().view(5, 1, 1)
    few, matrix = coils.compress_coils(data, 2)
    assert few.shape == (2, 2, 6, 7) and matrix.shape == (2, 2, 5)
    assert torch.allclose(matrix @ matrix.mH, torch.eye(2, dtype=COMPLEX).expand(2, 2, 2), atol=1e-12)
    assert torch.allclose((matrix @ data.flatten(2)).view_as(few), few, atol=1e-12)
    values = torch.linalg.svdvals(data.flatten(2))
    lost = data.flatten(2) - matrix.mH @ few.flatten(2)
    assert torch.allclose(lost.flatten(1).norm(dim=1), values[:, 2:].norm(dim=1), rtol=1e-10)
    assert torch.allclose(few.flatten(2).norm(dim=2), values[:, :2], rtol=1e-10)
    same, whole = coils.compress_coils(data[0], 5)
    assert torch.allclose(whole.mH @ same.flatten(1), data[0].flatten(1), atol=1e-12)
    centre = data.clone()
    centre[..., :2, :] = 0
    centre[..., 5:, :], centre[..., :2], centre[..., 5:] = 0, 0, 0
    assert torch.allclose(
        coils.compress_coils(data, 2, calibration=3)[1], coils.compress_coils(centre, 2)[1], atol=1e-9
    )


@pytest.mark.parametrize("readout", [-1, -2])
def test_geometric_compression_is_the_best_at_every_place(readout):
    """Along the readout each place loses its own smallest singular values; neighbours are alike; maps go with it."""
    draw = Numbers(11)
    maps, x = trigonometric(draw, 6), draw.randn(*GRID, dtype=COMPLEX)
    kspace = centred(maps * x)
    few, matrix = coils.compress_coils(kspace, 3, readout=readout)
    n = GRID[readout]
    assert few.shape == (3, *GRID) and matrix.shape == (n, 3, 6)
    assert torch.allclose(matrix @ matrix.mH, torch.eye(3, dtype=COMPLEX).expand(n, 3, 3), atol=1e-12)
    # The same combinations of the maps, place by place, explain the compressed data exactly.
    letters = "wdc,chw->dhw" if readout == -1 else "hdc,chw->dhw"
    assert torch.allclose(centred(torch.einsum(letters, matrix, maps) * x), few, atol=1e-10)
    places = (maps * x).movedim(readout, 0).flatten(2)  # (n, coils, others)
    best = torch.linalg.svdvals(places)[:, 3:].square().sum()
    lost = kspace.norm() ** 2 - few.norm() ** 2
    assert float(lost) == pytest.approx(float(best), rel=1e-8)
    assert float(lost) < float(kspace.norm() ** 2 - coils.compress_coils(kspace, 3)[0].norm() ** 2)
    steps = matrix.diff(dim=0).flatten(1).norm(dim=1)
    raw = torch.linalg.eigh(places @ places.mH)[1].flip(-1)[..., :3].mH
    assert float(steps.median()) < 0.5 * float(raw.diff(dim=0).flatten(1).norm(dim=1).median())
    both = coils.compress_coils(torch.stack([kspace, 1j * kspace]), 3, readout=readout)
    assert torch.allclose(both[0][1], 1j * few, atol=1e-9) and both[1].shape == (2, n, 3, 6)
    line = coils.compress_coils(kspace[:, 0], 2, readout=-1, coil_axis=-2)
    assert line[0].shape == (2, GRID[1]) and line[1].shape == (GRID[1], 2, 6)


def test_combined_images():
    draw = Numbers(10)
    maps, x = draw.randn(3, 4, 5, dtype=COMPLEX), draw.randn(2, 4, 5, dtype=COMPLEX)
    maps[:, 0, 0] = 0
    images = maps * x[:, None]
    combined = coils.sense_combine(images, maps)
    wanted = x.clone()
    wanted[:, 0, 0] = 0
    assert torch.allclose(combined, wanted, atol=1e-12)
    assert torch.allclose(coils.rss(images), x.abs() * maps.norm(dim=0), atol=1e-12)
    assert coils.rss(images.abs()).dtype == F64


# --- refusals ------------------------------------------------------------------------------------------------------
K = torch.ones(3, 8, 8, dtype=COMPLEX)
HOLE, GAP = K.clone(), K.clone()
HOLE[:, 4, 4] = 0
GAP[:, 4, 6] = 0
REFUSED = {
    "method": (lambda: coils.estimate_maps(K, method="jsense"), "`method` must be one of 'espirit', 'low resolution'"),
    "sets of smoothing": (
        lambda: coils.estimate_maps(K, method="low resolution", sets=2),
        "`sets` must be 1 for method",
    ),
    "sets": (lambda: coils.espirit(K, sets=4), "espirit: `sets` must be at most the number of coils, 3, got 4"),
    "threshold": (lambda: coils.espirit(K, threshold=1.0), "`threshold` must be less than 1"),
    "crop": (lambda: coils.espirit(K, crop=1.5), "`crop` must be at most 1"),
    "axes": (
        lambda: coils.espirit(K[0]),
        r"`kspace` must be non-empty, of shape \(..., coils, height, width\) for coil",
    ),
    "coil axis": (lambda: coils.rss(K, coil_axis=0), "`coil_axis` must be one of -2, -3, -4"),
    "nan": (lambda: coils.espirit(K * torch.nan), "`kspace` must be finite"),
    "origin": (lambda: coils.espirit(HOLE), "`kspace` must be measured at its origin"),
    "gap": (lambda: coils.espirit(GAP, calibration=6), r"a block that is fully measured, got \(6, 6\), 1 missing"),
    "kernel": (lambda: coils.espirit(K, calibration=4), r"`kernel` must be at most the calibration region, \(4, 4\)"),
    "edge": (lambda: coils.noise_covariance(K, edge=1.5), "noise_covariance: `edge` must be at most 1"),
    "samples": (lambda: coils.noise_covariance(K, edge=0.01), "at least as many samples as coils, 3, got 1"),
    "covariance shape": (lambda: coils.prewhiten(K, torch.eye(2)), r"`covariance` must be of shape \(3, 3\)"),
    "covariance": (lambda: coils.prewhiten(K, torch.eye(3).roll(1, 0)), "`covariance` must be Hermitian"),
    "indefinite": (lambda: coils.prewhiten(K, torch.diag(torch.tensor([1.0, 0.0, 1.0]))), "must be positive definite"),
    "coils": (lambda: coils.compress_coils(K, 4), "`num_coils` must be at most the number of coils, 3, got 4"),
    "readout": (lambda: coils.compress_coils(K, 2, readout=-3), "compress_coils: `readout` must be one of -2, -1"),
    "maps": (lambda: coils.sense_combine(K, K[:, :5]), "`maps` must be broadcastable to images of shape"),
    "soft shape": (lambda: SoftSense(torch.ones(1, 8), (8, 8), maps=K[None]), r"`in_shape` must be \(sets, H, W\)"),
    "soft maps": (
        lambda: SoftSense(torch.ones(1, 8), (2, 8, 8), maps=K[None]),
        r"`maps` must be of shape \(2, coils, 8",
    ),
    "soft mask": (lambda: SoftSense(torch.ones(1, 5), (1, 8, 8), maps=K[None]), "SoftSense: `mask` must be broadcast"),
    "soft NaN": (lambda: SoftSense(torch.ones(1, 8), (1, 8, 8), maps=K[None] * torch.nan), "`maps` must be finite"),
    "soft items": (
        lambda: SoftSense(torch.ones(2, 8, 8), (1, 8, 8), maps=K[None, None].expand(3, 1, 3, 8, 8)),
        "item axes of one length",
    ),
    "soft device": (
        lambda: SoftSense(torch.ones(1, 8, device="meta", dtype=torch.bool), (1, 8, 8), maps=K[None]),
        "on the device of `mask`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, words = REFUSED[case]
    with pytest.raises(iv.errors.InputError, match=words):
        call()


@pytest.mark.parametrize(("side", "lost"), [(16, False), (8, True)])
def test_maps_that_miss_the_object_warn(side, lost):
    """Of a head, 0 to 3 % of the energy with 12 lines or more around the origin, all of it with 8."""
    head = iv.datasets.heads.slices(1, (128, 128), seed=3)[0]
    scan = iv.datasets.simulate_mri(head, grid=(64, 64), num_coils=8, acceleration=1.0, seed=3)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        maps = coils.estimate_maps(scan.kspace, calibration=side)
        kept = coils.estimate_maps(scan.kspace, calibration=side, crop=0.0)
    assert [("maps are 0 where" in str(w.message)) for w in found] == [True] * lost
    assert bool((maps == 0).all()) is lost and not bool((kept == 0).all(0).any())
