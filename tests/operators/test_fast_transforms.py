"""Structured random projections and visibilities: against scipy, dense matrices and the centred transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch
from operator_cases import COMPLEX, F64, Numbers

from invsolve.core.counting import tally
from invsolve.errors import InputError, InputTypeError
from invsolve.operators import StructuredRandom, Visibilities
from invsolve.operators.structured_random import cosine, hadamard, inverse_cosine


# --- random projections --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 2, 7, 16, 33])
def test_transforms_are_those_of_scipy(n):
    x = Numbers(1).randn(3, n)
    assert np.allclose(cosine(x), scipy.fft.dct(x.numpy(), norm="ortho"), atol=1e-13)
    assert torch.allclose(inverse_cosine(cosine(x)), x, atol=1e-13)
    if not n & (n - 1):
        assert np.allclose(hadamard(x), x.numpy() @ scipy.linalg.hadamard(n) / math.sqrt(n), atol=1e-13)


@pytest.mark.parametrize("transform", ["hadamard", "cosine", "fourier"])
def test_rows_are_orthonormal_random_and_of_any_size(transform):
    shape, m = (64, 64), 900
    A = StructuredRandom.draw(shape, m, transform=transform, seed=3, dtype=F64)
    draw = Numbers(2)
    dtype = COMPLEX if transform == "fourier" else F64
    y, x = draw.randn(2, m, dtype=dtype), draw.randn(2, *shape, dtype=dtype)
    assert torch.allclose(A(A.adjoint(y)), y, atol=1e-12) and A.gram == 1.0
    weight = draw.rand(2, m) + 0.1
    with tally() as calls:
        solved = A.solve_normal(x, weight=weight, tau=0.2)
    assert calls == {"operator": 2, "adjoint": 2}
    assert torch.allclose(A.adjoint(weight * A(solved)) + 0.2 * solved, x, atol=1e-11)
    spectrum = A.svd()
    assert torch.allclose(spectrum.data_from_spectrum(spectrum.values * spectrum.to_spectrum(x)), A(x), atol=1e-12)
    # |A x|^2 of a fixed x: m / n |x|^2 on average over signs and rows; its std is about (2 / m)^(1/2) of that.
    one = torch.zeros(1, *shape, dtype=dtype)
    one[0, :8, :8] = 1  # sparse and smooth: what rows of a plain transform see very unevenly
    share = [
        float(StructuredRandom.draw(shape, m, transform=transform, seed=s, dtype=F64)(one).abs().square().sum()) / 64
        for s in range(30)
    ]
    assert np.mean(share) == pytest.approx(m / 4096, abs=5 * math.sqrt(2 / m / 30) * m / 4096)
    assert np.std(share) < 3 * math.sqrt(2 / m) * m / 4096


def test_a_seed_is_a_seed():
    one, same, other = (StructuredRandom.draw((4, 8), 9, seed=s) for s in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert one.dtype == torch.float32 and len(one.index.unique()) == 9
    assert StructuredRandom.draw((3,), 3, transform="cosine").out_shape == (3,)


# --- visibilities --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (1, 4)], ids=str)
def test_on_the_grid_they_are_the_centred_transform(shape):
    draw = Numbers(3)
    H, W = shape
    pixel = 1e-4
    v, u = ((torch.arange(n, dtype=F64) - n // 2) / (n * pixel) for n in shape)
    uv = torch.stack([u.expand(H, W), v[:, None].expand(H, W)], -1).view(-1, 2)
    A = Visibilities(uv, shape, pixel_size=pixel)
    x = draw.randn(2, *shape)
    grid = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, (-2, -1))), (-2, -1))
    assert torch.allclose(A(x).view(2, H, W), grid, atol=1e-12)
    assert torch.allclose(A.adjoint(A(x)) / (H * W), x, atol=1e-12)


def test_a_point_source_by_the_formula_at_large_phases():
    """In float32 too: phases of 1e4 turns are reduced before they are rounded."""
    draw = Numbers(4)
    uv, pixel = 1e7 * draw.randn(50, 2), 2e-5
    for dtype, tol in ((F64, 1e-9), (torch.float32, 1e-6)):
        rounded = uv.to(dtype)
        A = Visibilities(rounded, (64, 32), pixel_size=pixel)
        x = torch.zeros(1, 64, 32, dtype=dtype)
        x[0, 60, 3] = 2.0
        turns = (rounded[:, 0].double() * (3 - 16) + rounded[:, 1].double() * (60 - 32)) * pixel
        exact = 2 * torch.polar(torch.ones(50, dtype=F64), -2 * math.pi * (turns % 1))
        assert (A(x)[0] - exact).abs().max() < 2 * tol


def test_a_gaussian_source_has_a_gaussian_visibility():
    """``exp(-2 pi^2 s^2 |w|^2)`` where the grid holds it: an integral by the trapezoidal rule is exact to rounding."""
    n, s, pixel = 65, 4.0, 1e-3
    place = torch.arange(n, dtype=F64) - n // 2
    x = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * s**2))[None] / (2 * math.pi * s**2)
    uv = 60 * Numbers(5).randn(40, 2)
    found = Visibilities(uv, (n, n), pixel_size=pixel)(x)[0]
    exact = torch.exp(-2 * math.pi**2 * (s * pixel) ** 2 * uv.square().sum(1))
    assert torch.allclose(found, exact.to(COMPLEX), atol=1e-12)


SIGNS = torch.ones(4)
UV = torch.ones(3, 2)
REFUSED = {
    "signs": (lambda: StructuredRandom(2 * SIGNS, [0]), InputError, "`signs` must be 1 and -1"),
    "index": (lambda: StructuredRandom(SIGNS, [0, 0]), InputError, r"`index` must be of shape \(m,\), from 0 to 3"),
    "outside": (lambda: StructuredRandom(SIGNS, [4]), InputError, "from 0 to 3 without repeats"),
    "power": (
        lambda: StructuredRandom.draw((3,), 2),
        InputError,
        "of a power of two of entries, got 3. Take transform",
    ),
    "transform": (lambda: StructuredRandom(SIGNS, [0], transform="wavelet"), InputError, "one of 'hadamard', 'cosine'"),
    "many": (lambda: StructuredRandom.draw((4,), 5), InputError, "`m` must be at most the number of entries, 4, got 5"),
    "seed": (
        lambda: StructuredRandom.draw((4,), 2, seed=2**70),
        InputError,
        "StructuredRandom: `seed` must be an integ",
    ),
    "floats": (lambda: StructuredRandom(SIGNS, [0.5]), InputTypeError, "`index` must be integers"),
    "uv": (lambda: Visibilities(UV[:, :1], (4, 4), pixel_size=1.0), InputError, r"`uv` must be of shape \(M, 2\) or"),
    "uv complex": (lambda: Visibilities(UV + 0j, (4, 4), pixel_size=1.0), InputTypeError, "`uv` must be real"),
    "uv NaN": (lambda: Visibilities(UV * math.nan, (4, 4), pixel_size=1.0), InputError, "`uv` must be finite"),
    "picture": (
        lambda: Visibilities(UV, (4,), pixel_size=1.0),
        InputError,
        r"Visibilities: `in_shape` must be \(H, W\)",
    ),
    "pixel": (lambda: Visibilities(UV, (4, 4), pixel_size=0.0), InputError, "`pixel_size` must be positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
