"""Filtered backprojection, SIRT and CGLS: scale, centre, where they stop, what they converge to."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import FAN, blob, blob_data, disc_data, places, scans, turn
from operator_cases import Numbers

import invsolve as iv
from invsolve.baselines import cgls, fbp, sirt

ops = iv.operators
F64 = torch.float64
SIZE = 64
SCANS = scans(SIZE, 96)


# --- filtered backprojection ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SCANS)
def test_fbp_has_the_right_scale_and_centre(name):
    """Of exact line integrals of a disc and of a blob: the mean within 1 %, the centre of mass within 0.01 pixels."""
    A, (x, y) = SCANS[name], (7.0, -11.0)
    px, py = places(A)
    away = ((px - x).square() + (py - y).square()).sqrt()
    image = fbp(A, torch.stack([disc_data(A, x, y, 25.0), blob_data(A, x, y, 10.0)]))
    assert abs(float(image[0][away < 20].mean()) - 1) < 0.01
    mass = image[1] * (away < 35)
    height, width = A.pixel_size
    assert abs(float((mass * px).sum() / mass.sum()) - x) < 0.01 * width
    assert abs(float((mass * py).sum() / mass.sum()) - y) < 0.01 * height
    assert float((image[1] - blob(A, x, y, 10.0))[away < 35].abs().max()) < 0.02


def test_the_order_of_views_and_the_spacing_do_not_matter():
    """Views in any order, and twice as dense in one half of the turn: weights by the angles between them."""
    A = SCANS["parallel"]
    order = torch.randperm(len(A.angles), generator=torch.Generator().manual_seed(0))
    shuffled = ops.ParallelBeam(A.angles[order], A.in_shape, pixel_size=2.0)
    y = blob_data(A, 7.0, -11.0, 10.0)[None]
    assert torch.allclose(fbp(shuffled, y[:, order]), fbp(A, y), atol=1e-12)
    uneven = ops.ParallelBeam(
        torch.cat([turn(96, math.pi / 2), turn(48, math.pi / 2, math.pi / 2)]), (SIZE, SIZE), pixel_size=2.0
    )
    image = fbp(uneven, blob_data(uneven, 7.0, -11.0, 10.0)[None])[0]
    assert float((image - blob(uneven, 7.0, -11.0, 10.0)).abs().max()) < 0.02


def test_windows_trade_sharpness_for_noise():
    A = SCANS["parallel"]
    noise = Numbers(0).randn(1, *A.out_shape)
    spread = [float(fbp(A, noise, window=w).std()) for w in ("ram-lak", "shepp-logan", "cosine", "hamming", "hann")]
    assert spread == sorted(spread, reverse=True)
    flat = disc_data(A, 0.0, 0.0, 40.0)[None]
    inside = places(A)[0].square() + places(A)[1].square() < 30**2
    for window in ("ram-lak", "hann"):  # at zero frequency a window is 1: no mean changes
        assert abs(float(fbp(A, flat, window=window)[0][inside].mean()) - 1) < 0.01


def test_fbp_of_complex_data_and_one_view():
    A = ops.ParallelBeam(turn(40), (16, 16), kind="complex")
    y = Numbers(0).data(A, 2)
    real = ops.ParallelBeam(turn(40), (16, 16))
    assert torch.allclose(fbp(A, y), torch.complex(fbp(real, y.real.contiguous()), fbp(real, y.imag.contiguous())))
    assert fbp(ops.ParallelBeam([0.3], (4, 4)), torch.ones(1, 1, 6)).isfinite().all()
    assert fbp(ops.ParallelBeam(turn(40), (4, 4)), torch.ones(1, 40, 6)).dtype == torch.float32


def test_what_fbp_refuses():
    y = torch.ones(1, 20, 23)
    with pytest.raises(iv.errors.InputTypeError, match="`A` must be an iv.operators.ParallelBeam or FanBeam"):
        fbp(ops.Matrix(torch.ones(2, 2)), torch.ones(1, 2))
    with pytest.raises(iv.errors.InputError, match="of one set of angles, got 2 items"):
        fbp(ops.ParallelBeam(torch.stack([turn(3), turn(3)]), (4, 4), bins=6), torch.ones(2, 3, 6))
    with pytest.raises(iv.errors.InputError, match=r"over a whole turn, or 1\d\d.\d degrees at least.*Use sirt"):
        fbp(ops.FanBeam(turn(20, math.pi / 2), (16, 16), bins=23, **FAN), y)
    with pytest.raises(iv.errors.InputError, match="`window` must be one of"):
        fbp(ops.ParallelBeam(turn(20), (16, 16), bins=23), y, window="box")


# --- iterations -------------------------------------------------------------------------------------------------------
def noisy(std: float) -> tuple[ops.ParallelBeam, torch.Tensor, torch.Tensor]:
    A = ops.ParallelBeam(turn(30), (24, 24), pixel_size=128 / 24)
    truth = blob(A, 7.0, -11.0, 14.0)[None]
    y = A(truth)
    return A, truth, y + std * Numbers(0).randn(*y.shape)


def test_sirt_converges_to_weighted_least_squares():
    """Of a small matrix, against the pseudo-inverse of ``R^1/2 A``; the iteration's eigenvalues are at most 1."""
    matrix = Numbers(0).rand(9, 4) + 0.1
    y = Numbers(1).randn(2, 9)
    root = matrix.sum(1).rsqrt()
    exact = (torch.linalg.pinv(root[:, None] * matrix) @ (root * y)[..., None])[..., 0]
    assert torch.allclose(sirt(ops.Matrix(matrix), y, iterations=4000), exact, atol=1e-6)
    step = (matrix.mT / matrix.sum(1)) @ matrix / matrix.sum(0)[:, None]
    assert float(torch.linalg.eigvals(step).abs().max()) <= 1 + 1e-12
    items = torch.stack([matrix, 2 * matrix])
    assert torch.allclose(sirt(ops.Matrix(items), y, iterations=4000), exact / torch.tensor([[1.0], [2.0]]), atol=1e-6)


@pytest.mark.parametrize("method", [sirt, cgls])
def test_iterations_stop_at_the_noise(method):
    """The residual is that of the noise, first time; the image is better than that of very many iterations."""
    A, truth, y = noisy(1.0)
    image = method(A, y, iterations=300, noise_std=1.0)
    left = float((A(image) - y).square().mean().sqrt())
    assert 0.8 < left <= 1.0
    overdone = method(A, y, iterations=300)
    assert float((A(overdone) - y).norm()) < float((A(image) - y).norm())
    assert float((image - truth).norm()) < 0.5 * float((overdone - truth).norm()) < float("inf")
    # Rows stop by themselves: beside a row of nothing, which has converged before it starts.
    both = method(A, torch.cat([y, 0 * y]), iterations=300, noise_std=1.0)
    assert torch.allclose(both[:1], image, atol=1e-10) and not both[1].any()


@pytest.mark.parametrize("method", [sirt, cgls])
def test_iterations_stop_at_the_noise_of_what_was_observed(method):
    """As without the data that are missing, whatever stands for them; of each row by its own mask."""
    A, _, y = noisy(1.0)
    views = A.out_shape[0]
    there = torch.arange(views)[:, None].expand(A.out_shape) % 3 == 0
    alone = A.take_views(torch.arange(0, views, 3))
    few = method(alone, y[:, ::3], iterations=300, noise_std=1.0)
    both = torch.stack([there, torch.ones_like(there)])
    found = method(
        ops.Mask(both, in_shape=A.out_shape) @ A,
        torch.cat([torch.where(there, y, 1e3), y]),
        iterations=300,
        noise_std=1.0,
    )
    assert torch.allclose(found[:1], few, atol=1e-8)
    assert torch.allclose(found[1:], method(A, y, iterations=300, noise_std=1.0), atol=1e-8)


def test_sirt_of_items_of_very_different_scales():
    """Rows do not see each other: what is nothing is so beside the largest sum of its own row."""
    matrix = Numbers(0).rand(3, 3)
    items = torch.stack([matrix, 1e-9 * matrix])
    y = ops.Matrix(items)(torch.ones(2, 3, dtype=F64))
    found = sirt(ops.Matrix(items), y, iterations=50)
    assert torch.allclose(found[0], found[1], rtol=1e-9) and bool(found.any())


def test_sirt_without_negative_pixels_and_with_rays_that_miss():
    A, _, y = noisy(1.0)
    assert float(sirt(A, y, iterations=20).min()) < 0 <= float(sirt(A, y, iterations=20, non_negative=True).min())
    wide = ops.ParallelBeam(turn(5), (4, 4), bins=20)
    assert sirt(wide, torch.ones(1, 5, 20), iterations=5).isfinite().all()


@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=str)
def test_cgls_is_least_squares_in_the_krylov_space(dtype):
    matrix, y = Numbers(0).randn(9, 4, dtype=dtype), Numbers(1).randn(3, 9, dtype=dtype)
    A = ops.Matrix(matrix)
    exact = (torch.linalg.pinv(matrix) @ y[..., None])[..., 0]
    assert torch.allclose(cgls(A, y, iterations=4, rtol=1e-14), exact, atol=1e-10)
    normal, start = matrix.mH @ matrix, (matrix.mH @ y[0]).unsqueeze(1)
    space = torch.cat([start, normal @ start], 1)
    best = space @ torch.linalg.lstsq(matrix @ space, y[0][:, None]).solution
    assert torch.allclose(cgls(A, y, iterations=2)[0], best[:, 0], atol=1e-10)
    assert torch.allclose(cgls(A, y, iterations=50)[0], exact[0], atol=1e-5)  # stops by `rtol`, and stays


def test_what_iterations_refuse():
    A = ops.Matrix(torch.eye(2))
    y = torch.ones(1, 2)
    for method in (sirt, cgls):
        with pytest.raises(iv.errors.InputError, match="`noise_std` must be positive"):
            method(A, y, noise_std=0.0)
        with pytest.raises(iv.errors.InputError, match="`iterations` must be at least 1"):
            method(A, y, iterations=0)
    with pytest.raises(iv.errors.InputError, match="without negative entries, got negative sums of rows. Try cgls"):
        sirt(ops.Matrix(-torch.eye(2)), y)
    with pytest.raises(iv.errors.InputError, match="`A` must be real"):
        sirt(ops.Matrix(torch.eye(2, dtype=torch.complex64)), y)
