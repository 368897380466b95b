"""Super-resolution, mosaics, ptychography and blur that varies: definitions, closed forms, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from operator_cases import COMPLEX, F64, Numbers

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.errors import InputError, InputTypeError
from invsolve.operators.optics.varying_blur import _tents

ops = iv.operators


# --- super-resolution ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset, method", [((0, 0), "pick"), ((1, 2), "pick"), ((0, 0), "mean")])
def test_super_resolution_is_a_blur_and_fewer_pixels_solved_at_once(offset, method):
    """One product and one adjoint whatever the size, where the chain of the two iterates; any offset."""
    draw = Numbers(1)
    kernel, shape, factor = draw.rand(5, 4), (24, 36), (2, 3)
    A = ops.SuperResolution(kernel, factor, shape, offset=offset, method=method)
    chain = ops.Downsample(factor, shape, offset=offset, method=method) @ ops.Blur(kernel, shape)
    x = draw.randn(2, *shape)
    assert torch.equal(A(x), chain(x)) and A.out_shape == (12, 12)
    with tally() as calls:
        solved = A.solve_normal(x, weight=4.0, tau=0.05)
    assert calls == {"operator": 2, "adjoint": 2}
    assert torch.allclose(4.0 * A.normal(solved) + 0.05 * solved, x, atol=1e-11)
    y = draw.randn(2, *A.out_shape)
    assert torch.allclose(A(A.pinv(y)), y, atol=1e-8)  # onto every picture: the kernel has no zero there
    assert torch.allclose(A.pinv(y), chain.pinv(y, rtol=1e-13, max_iter=5000), atol=1e-6)


def test_the_formula_of_zhao_et_al():
    """Written out as in the paper (their lambda tau is our tau, R = F r): the same answer as by ``A A^H``."""
    draw = Numbers(2)
    f, shape, tau = 2, (8, 6), 0.3
    kernel, r = draw.rand(3, 3), draw.randn(1, *shape)
    A = ops.SuperResolution(kernel, f, shape)
    padded = torch.zeros(shape, dtype=F64)
    padded[:3, :3] = kernel
    h = torch.fft.fft2(padded.roll((-1, -1), (0, 1)))

    def fold(v: torch.Tensor) -> torch.Tensor:
        return v.reshape(f, shape[0] // f, f, shape[1] // f).mean((0, 2))

    R = torch.fft.fft2(r[0])
    x = torch.fft.ifft2((R - h.conj() * (fold(h * R) / (fold(h.abs() ** 2) + tau)).tile(f, f)) / tau).real
    assert torch.allclose(A.solve_normal(r, tau=tau)[0], x, atol=1e-12)


# --- mosaic --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_a_mosaic_records_one_colour_a_pixel(pattern):
    A = ops.Mosaic((3, 5, 4), pattern=pattern)
    planes = torch.stack([torch.full((5, 4), float(c)) for c in range(3)])[None]
    found = A(planes)[0]
    for i in range(5):
        for j in range(4):
            assert int(found[i, j]) == "RGB".index(pattern[2 * (i % 2) + j % 2])
    large = ops.Mosaic((3, 64, 66), pattern=pattern)
    y = Numbers(3).randn(2, 64, 66)
    assert torch.equal(large(large.pinv(y)), y) and large.gram == 1.0
    rhs, weight = Numbers(4).randn(2, 3, 64, 66).float(), torch.tensor([[1e9], [1e-9]]).view(2, 1, 1)
    single = large.solve_normal(rhs, weight=weight, tau=1.0)  # 1e9 times as much known here as there: no digit is lost
    wide = large.solve_normal(rhs.double(), weight=weight.double(), tau=1.0)
    assert ((single - wide).abs() <= 1e-6 * wide.abs()).all()
    assert torch.allclose(
        large.solve_normal(rhs, weight=torch.tensor(3.0), tau=1.0), large.solve_normal(rhs, weight=3.0, tau=1.0)
    )
    spectrum = large.svd(like=y)  # of any size
    assert int(spectrum.values.sum()) == 64 * 66


def test_demosaicing_with_a_prior_that_couples_colours():
    """Colours that are alike: the exact posterior of a small picture against the dense formula."""
    draw = Numbers(4)
    A = ops.Mosaic((3, 2, 2))
    covariance = torch.kron(0.9 * torch.ones(3, 3, dtype=F64) + 0.1 * torch.eye(3, dtype=F64), torch.eye(4, dtype=F64))
    prior = iv.priors.GaussianPrior(torch.zeros(3, 2, 2, dtype=F64), covariance)
    y = draw.randn(1, 2, 2)
    result = iv.solve(A, y, prior, noise=0.1, num_samples=4)
    H = torch.stack([A(e.view(1, 3, 2, 2)).flatten() for e in torch.eye(12, dtype=F64)], 1)
    mean = covariance @ H.T @ torch.linalg.solve(H @ covariance @ H.T + 0.01 * torch.eye(4, dtype=F64), y.flatten())
    assert torch.allclose(result.mean.flatten(), mean, atol=1e-10)


# --- ptychography --------------------------------------------------------------------------------------------------
def scan(draw: Numbers, shape=(12, 11), window=(6, 5), step=2, **options):
    places = [
        (i, j) for i in range(0, shape[0] - window[0] + 1, step) for j in range(0, shape[1] - window[1] + 1, step)
    ]
    return ops.Ptychography(draw.randn(*window, dtype=COMPLEX), torch.tensor(places), shape, **options)


def test_ptychography_by_its_definition():
    draw = Numbers(5)
    A = scan(draw)
    x = draw.randn(2, 12, 11, dtype=COMPLEX)
    y = A(x)
    for j, (r, c) in enumerate(A.positions.tolist()):
        wave = torch.fft.fft2(A.probe * x[:, r : r + 6, c : c + 5], norm="ortho")
        assert torch.allclose(y[:, j], torch.fft.fftshift(wave, (-2, -1)), atol=1e-12)
    assert torch.allclose(A.pinv(y), x, atol=1e-10)  # every entry is lit
    assert torch.allclose(y.abs().square().sum((1, 2, 3)), (A._power * x.abs().square()).sum((1, 2)), rtol=1e-12)


def test_the_intensity_has_a_derivative_of_second_order_and_its_object_is_found():
    """Taylor: the remainder falls with the square of the step. From amplitudes the object comes back, up to a phase."""
    draw = Numbers(6)
    A = ops.PhaseRetrieval(scan(draw), measure="intensity")
    x, dx = draw.randn(1, 12, 11, dtype=COMPLEX), draw.randn(1, 12, 11, dtype=COMPLEX)
    y, slope = A.jvp(x, dx)
    steps = [1e-2, 1e-3]
    rest = [float((A(x + h * dx) - y - h * slope).norm()) for h in steps]
    assert np.log10(rest[0] / rest[1]) == pytest.approx(2.0, abs=1e-3)
    amplitude = ops.PhaseRetrieval(A.operator)
    found = iv.baselines.amplitude_flow(amplitude, amplitude(x), iterations=2000)
    turn = torch.sgn((found.conj() * x).sum())
    assert float((turn * found - x).norm() / x.norm()) < 1e-3


# --- blur that varies ----------------------------------------------------------------------------------------------
def test_each_source_is_spread_by_its_own_kernel():
    draw = Numbers(7)
    kernels, weights = draw.rand(3, 3, 3), draw.rand(3, 8, 9)
    A = ops.VaryingBlur(kernels, weights, boundary="zero")
    for i, j in ((4, 4), (2, 6)):
        x = torch.zeros(1, 8, 9, dtype=F64)
        x[0, i, j] = 1
        own = torch.einsum("k,kab->ab", weights[:, i, j], kernels)
        expected = torch.zeros(8, 9, dtype=F64)
        expected[i - 1 : i + 2, j - 1 : j + 2] = own
        assert torch.allclose(A(x)[0], expected, atol=1e-13)


@pytest.mark.parametrize("boundary", ["periodic", "zero", "reflect", "valid"])
def test_equal_tiles_are_one_blur(boundary):
    draw = Numbers(8)
    kernel, x = draw.rand(3, 4), draw.randn(2, 9, 10)
    A = ops.VaryingBlur.tiled(kernel.expand(3, 2, 3, 4), (9, 10), boundary=boundary)
    assert torch.allclose(A(x), ops.Blur(kernel, (9, 10), boundary=boundary)(x), atol=1e-12)


def test_tiles_interpolate_between_their_centres():
    draw = Numbers(9)
    assert torch.allclose(_tents(3, 12, torch.device("cpu")).sum(0), torch.ones(12, dtype=F64))
    assert torch.equal(_tents(2, 4, torch.device("cpu"))[0], torch.tensor([1.0, 0.75, 0.25, 0.0], dtype=F64))
    kernels = draw.rand(2, 1, 3, 3)
    A = ops.VaryingBlur.tiled(kernels, (4, 6), boundary="zero")
    x = torch.zeros(1, 4, 6, dtype=F64)
    x[0, 1, 3] = 1  # a quarter of the way from the first centre, at 0.5, to the second, at 2.5
    assert torch.allclose(A(x)[0, 0:3, 2:5], 0.75 * kernels[0, 0] + 0.25 * kernels[1, 0], atol=1e-13)
    line = ops.VaryingBlur.tiled(draw.rand(4, 3), (8,))
    assert line.in_shape == (8,) and len(line.kernels) == 4


def test_few_principal_kernels():
    """All of them are exact; leaving some out errs by their singular values at most, and ``rtol`` chooses how many."""
    draw = Numbers(10)
    base = draw.rand(2, 5, 5)
    mix = torch.linspace(0, 1, 7, dtype=F64)
    kernels = (1 - mix)[:, None, None] * base[0] + mix[:, None, None] * base[1] + 1e-5 * draw.randn(7, 5, 5)
    weights = _tents(7, 20, torch.device("cpu"))[:, :, None].expand(7, 20, 18)
    whole = ops.VaryingBlur(kernels, weights)
    few = ops.VaryingBlur.low_rank(kernels, weights)
    assert len(few.kernels) == 2 and len(ops.VaryingBlur.low_rank(kernels, weights, rank=5).kernels) == 5
    x = draw.randn(1, 20, 18)
    same = ops.VaryingBlur.low_rank(kernels, weights, rank=7)
    assert torch.allclose(same(x), whole(x), atol=1e-12)
    # A source's own kernel errs by at most the largest value left out; sources add up within 25 pixels.
    lost = float(torch.linalg.svdvals(kernels.flatten(1))[2])
    assert float((few(x) - whole(x)).norm()) <= 5 * lost * float(x.norm())
    assert float((few(x) - whole(x)).norm()) > 0


# --- refusals ------------------------------------------------------------------------------------------------------
K3, W = torch.ones(2, 3, 3), torch.ones(2, 4, 5)
PROBE = torch.ones(3, 3, dtype=torch.complex64)
REFUSED = {
    "no divisor": (
        lambda: ops.SuperResolution(K3[0], 2, (5, 4)),
        InputError,
        r"`factor` must be a divisor of \(5, 4\)",
    ),
    "offset of means": (
        lambda: ops.SuperResolution(K3[0], 2, (4, 4), offset=1, method="mean"),
        InputError,
        "`offset` must be 0 for method='mean'",
    ),
    "planes": (lambda: ops.Mosaic((4, 4, 3)), InputError, r"must be \(3, H, W\), got \(4, 4, 3\). Planes come first"),
    "pattern": (lambda: ops.Mosaic((3, 4, 4), pattern="RGBG"), InputError, "Mosaic: `pattern` must be one of 'RGGB'"),
    "object": (lambda: ops.Ptychography(PROBE, [[0, 0]], (4,)), InputError, r"`in_shape` must be \(H, W\)"),
    "probe": (lambda: ops.Ptychography(PROBE, [[0, 0]], (2, 4)), InputError, r"within \(2, 4\), got \(3, 3\)"),
    "probe NaN": (lambda: ops.Ptychography(PROBE * torch.nan, [[0, 0]], (4, 4)), InputError, "`probe` must be finite"),
    "positions": (
        lambda: ops.Ptychography(PROBE, [0, 0], (4, 4)),
        InputError,
        r"`positions` must be of shape \(J, 2\)",
    ),
    "outside": (
        lambda: ops.Ptychography(PROBE, [[0, 0], [0, 2]], (4, 4)),
        InputError,
        "columns from 0 to 1, for a probe within, got 0 to 2",
    ),
    "half a pixel": (lambda: ops.Ptychography(PROBE, [[0.5, 0]], (4, 4)), InputTypeError, "must be integers"),
    "weights": (
        lambda: ops.VaryingBlur(K3, torch.ones(2)),
        InputError,
        r"`weights` must be of shape \(K, \*in_shape\)",
    ),
    "another number": (lambda: ops.VaryingBlur(K3[:1], W), InputError, "`kernels` must be of 3 axes, the first of len"),
    "weights NaN": (lambda: ops.VaryingBlur(K3, W * torch.nan), InputError, "VaryingBlur: `weights` must be finite"),
    "complex weights": (lambda: ops.VaryingBlur(K3, W + 0j), InputTypeError, "VaryingBlur: `weights` must be real"),
    "devices": (
        lambda: ops.VaryingBlur(K3.to("meta"), W),
        InputError,
        "`weights` must be on the device of `kernels`, meta, got cpu",
    ),
    "lattice": (lambda: ops.VaryingBlur.tiled(K3, (4, 5)), InputError, "`kernels` must be of 4 axes: lattice, kernel"),
    "rank": (lambda: ops.VaryingBlur.low_rank(K3, W, rank=3), InputError, "`rank` must be at most 2, for 2 kernels"),
    "rtol": (lambda: ops.VaryingBlur.low_rank(K3, W, rtol=0), InputError, "`rtol` must be positive"),
    "complex kernels": (
        lambda: ops.VaryingBlur.low_rank(K3 + 0j, W, kind="complex"),
        InputError,
        "`kernels` must be real for low_rank",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
