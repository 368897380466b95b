"""Operators against a second program or a formula: scipy, numpy, and what each is by definition."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from operator_cases import CASES, COMPLEX, F64, Numbers

import invsolve as iv
from invsolve.operators.dense import dense_matrix
from invsolve.operators.fourier import shift_phases

ops = iv.operators


@pytest.mark.parametrize(("boundary", "scipy_mode"), [("periodic", "wrap"), ("zero", "fill")])
@pytest.mark.parametrize("size", [(3, 3), (5, 3)])
def test_blur_is_scipys_convolution(boundary, scipy_mode, size):
    draw = Numbers(1)
    x, h = draw.randn(2, 9, 8), draw.randn(*size)
    y = ops.Blur(kernel=h, in_shape=(9, 8), boundary=boundary)(x)
    for a, b in zip(x, y, strict=True):
        assert np.allclose(scipy.signal.convolve2d(a, h, mode="same", boundary=scipy_mode), b)


def test_valid_blur_is_scipys_and_reflect_is_numpys_padding():
    draw = Numbers(1)
    x, h = draw.randn(9, 8), draw.randn(4, 3)
    assert np.allclose(
        scipy.signal.convolve2d(x, h, mode="valid"), ops.Blur(kernel=h, in_shape=(9, 8), boundary="valid")(x[None])[0]
    )
    h = draw.randn(5, 3)
    padded = np.pad(x, ((2, 2), (1, 1)), mode="reflect")
    assert np.allclose(
        scipy.signal.convolve2d(padded, h, mode="valid"),
        ops.Blur(kernel=h, in_shape=(9, 8), boundary="reflect")(x[None])[0],
    )


@pytest.mark.parametrize(
    ("boundary", "mode"),
    [("symmetric", "reflect"), ("reflect", "mirror"), ("mirror", "mirror"), ("periodic", "wrap"), ("zero", "constant")],
)
@pytest.mark.parametrize("shape", [(9, 8), (21, 6), (13,)])
def test_boundaries_are_those_of_scipys_gaussian_filter(boundary, mode, shape):
    """As the docstring has it; "symmetric" and "reflect" are numpy's paddings of these names."""
    x, std = Numbers(3).randn(2, *shape), 1.2
    A = ops.GaussianBlur(std, shape, boundary=boundary, dtype=torch.float64)
    for a, b in zip(x, A(x), strict=True):
        reach = math.ceil(4 * std)  # scipy rounds 4 std
        assert np.allclose(scipy.ndimage.gaussian_filter(a.numpy(), std, mode=mode, radius=reach), b)
    assert A.boundary == ("reflect" if boundary == "mirror" else boundary)


def test_gaussian_blur_keeps_the_mean_and_widens_a_point():
    A = ops.GaussianBlur(std=1.5, in_shape=(41, 41))
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1
    y = A(point)[0]
    i = torch.arange(41) - 20.0
    assert abs(float(y.sum()) - 1) < 1e-5
    assert abs(float((y.sum(1) * i**2).sum()) / 1.5**2 - 1) < 0.03  # sampled and cut: measured 0.5 %
    assert torch.allclose(y, y.T, atol=1e-7)


def test_a_gaussian_blur_is_a_blur_that_keeps_its_width():
    """What `to`, `take` and pickle give is one too, with the kernel as it was sampled, cast."""
    draw = Numbers(1)
    A = ops.GaussianBlur((0.7, 1.2), (9, 8), boundary="zero", truncate=3.0)
    assert isinstance(A, ops.GaussianBlur) and isinstance(A, ops.Blur)
    x = draw.randn(2, 9, 8)
    _ = A(x.float())  # whatever is computed once belongs to this precision
    wide = A.to(dtype=F64)
    for B in (wide, wide.take(torch.tensor([0])), pickle.loads(pickle.dumps(wide))):
        assert isinstance(B, ops.GaussianBlur) and B.std == (0.7, 1.2) and B.truncate == 3.0
        assert torch.equal(B(x), ops.Blur(A.kernel.double(), (9, 8), boundary="zero")(x))
    assert A.fingerprint() == ops.GaussianBlur((0.7, 1.2), (9, 8), boundary="zero", truncate=3.0).fingerprint()
    assert not isinstance(ops.Blur(A.kernel, (9, 8)), ops.GaussianBlur)


def test_mri_is_numpys_centred_transform():
    draw = Numbers(1)
    maps, m, x = draw.randn(3, 6, 7, dtype=COMPLEX), draw.mask(6, 7), draw.randn(2, 6, 7, dtype=COMPLEX)
    y = ops.MRI(in_shape=(6, 7), mask=m, maps=maps)(x)
    shifted = np.fft.ifftshift((x[:, None] * maps).numpy(), axes=(-2, -1))
    want = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1)) * m.numpy()
    assert np.allclose(want, y)
    assert torch.equal(ops.MRI(in_shape=(6, 7), mask=m, maps=maps).observed, m.expand(3, 6, 7))


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (4, 3, 5)])
def test_centred_transforms(shape):
    """numpy's, by the phases that replace its four shifts."""
    draw = Numbers(1)
    x, axes = draw.randn(2, *shape, dtype=COMPLEX), tuple(range(1, len(shape) + 1))
    want = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)
    before, after = shift_phases(shape)
    assert np.allclose(want, after * torch.fft.fftn(before * x, dim=axes, norm="ortho"))


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_transforms_have_the_next_lengths_without_large_factors(kind):
    lengths = {2: 2, 7: 8, 11: 12, 13: 15, 31: 32, 97: 100, 256: 256}
    blurs = [ops.Blur(torch.ones(2), (n,), boundary="valid", kind=kind) for n in lengths]
    assert [A._fft_shape for A in blurs] == [(length,) for length in lengths.values()]


def test_gaussian_blur_by_axis():
    draw = Numbers(1)
    x = draw.randn(2, 9, 8, dtype=torch.float32)
    assert torch.equal(ops.GaussianBlur(std=0, in_shape=(9, 8))(x), x)
    rows_only = ops.GaussianBlur(std=(1.0, 0.0), in_shape=(9, 8))
    column = ops.GaussianBlur(std=1.0, in_shape=(9,))
    assert rows_only.kernel.shape == (9, 1)
    assert torch.allclose(rows_only(x)[..., 3], column(x[..., 3]), atol=1e-6)


def test_a_stack_names_its_data():
    draw = Numbers(1)
    A = CASES["stack items"]
    x = draw.signals(A, 2)
    parts = A.split(A(x))
    assert list(parts) == ["k-space", "pixels", "sums"] and parts["k-space"].dtype == COMPLEX
    for part, op in zip(parts.values(), A.operators, strict=True):
        assert torch.equal(part, op(x))
    assert torch.equal(A.pack(parts), A(x))
    seen = A.split(A.observed.to(F64))
    assert torch.equal(seen["k-space"], torch.complex(*[A.operators[0].observed.to(F64)] * 2))
    assert torch.equal(seen["pixels"].bool(), A.operators[1].mask.expand(2, 3, 4)) and bool(seen["sums"].all())
    both = CASES["stack complex"]
    z = both(draw.signals(both, 2))
    assert torch.equal(both.pack(both.split(z)), z)


def test_downsampling_means_and_picks():
    x = torch.arange(24.0).view(1, 4, 6)
    assert torch.equal(ops.Downsample(factor=2, in_shape=(4, 6))(x)[0], x[0].view(2, 2, 3, 2).mean((1, 3)))
    assert torch.equal(ops.Downsample(factor=2, in_shape=(4, 6), offset=1, method="pick")(x)[0], x[0, 1::2, 1::2])


def test_gram_is_the_diagonal_of_A_A_adjoint():
    for A in CASES.values():
        if A.gram is not None:
            matrix = dense_matrix(A, dtype=F64)
            product = matrix @ matrix.mT
            gram = torch.as_tensor(A.gram, dtype=F64)
            lead = (A.batch,) if A.batch is not None else ()
            full = gram.expand(*lead, *A.out_shape).flatten(len(lead))
            full = torch.cat([full, full], -1) if A.out_kind == "complex" else full
            assert torch.allclose(product, torch.diag_embed(full), atol=1e-12), A
