"""Orthonormal transforms against their definitions, scipy.fft and numpy.fft, in both tiers, for every kind of axis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch

from invsolve.core.transforms import _MATRIX_LIMIT, Transform, _fast, _matrix
from invsolve.errors import InputError

F64 = torch.float64
TOL = {torch.float32: 1e-6, torch.float64: 1e-12}
NAMES = ("identity", "cosine", "sine", "fourier", "haar")
LENGTHS = {name: (1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 31, 64, 100, 255, 256) for name in ("cosine", "sine", "fourier")}
LENGTHS["haar"] = (1, 2, 4, 8, 16, 64, 256)
TIERS = [(name, n) for name, lengths in LENGTHS.items() for n in lengths]
LONG = {"identity": 300, "cosine": 300, "sine": 257, "fourier": 301, "haar": 512}  # no matrix


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def shapes(name):
    """One axis, odd and even, one entry, three axes, and axes beyond the matrices."""
    mixed = [(8,), (1,), (4, 8), (1, 4), (2, 1, 8)] if name == "haar" else [(8,), (7,), (1,), (5, 6), (1, 3), (3, 1, 4)]
    return [*mixed, (LONG[name],), (2, LONG[name]), (LONG[name], 4)]


CASES = [(name, shape) for name in NAMES for shape in shapes(name)]
EVERY = pytest.mark.parametrize(("name", "shape"), CASES, ids=lambda v: str(v))
DTYPES = pytest.mark.parametrize("dtype", TOL, ids=str)


def haar_rows(n):
    """The Haar basis by its recursion: means of pairs first, then their differences."""
    if n == 1:
        return np.ones((1, 1))
    half = np.eye(n // 2)
    return np.vstack([np.kron(haar_rows(n // 2), [1, 1]), np.kron(half, [1, -1])]) / math.sqrt(2)


def reference(name, x):
    """The coefficients of one axis by another program."""
    n = x.shape[-1]
    if name == "cosine":
        return scipy.fft.dct(x, type=2, norm="ortho")
    if name == "sine":
        return scipy.fft.dst(x, type=1, norm="ortho")
    if name == "haar":
        return x @ haar_rows(n).T
    f = np.fft.fft(x, norm="ortho")
    out = np.empty_like(x)
    for j in range(n):
        k = (j + 1) // 2
        if k == 0 or 2 * k == n:
            out[..., j] = f[..., k].real
        else:
            out[..., j] = math.sqrt(2) * (f[..., k].real if j % 2 else -f[..., k].imag)
    return out


# --- one axis --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "n"), [*TIERS, *((name, n) for name, n in LONG.items() if name != "identity")])
def test_coefficients_are_those_of_another_program(name, n):
    x = random(3, n)
    got = Transform(name=name, shape=(n,), dtype=F64).forward(x)
    assert np.abs(got.numpy() - reference(name, x.numpy())).max() < 1e-12


@pytest.mark.parametrize(("name", "n"), TIERS)
def test_tiers_agree(name, n):
    x, matrix = random(3, n), _matrix(name, n)
    assert (_fast(name, x, inverse=False) - x @ matrix.mT).abs().max() < 1e-12
    assert (_fast(name, x, inverse=True) - x @ matrix).abs().max() < 1e-12
    assert (matrix @ matrix.mT - torch.eye(n, dtype=F64)).abs().max() < 1e-12


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("identity", "haar")])
def test_coefficients_are_the_documented_functions(name):
    n = 6
    i = torch.arange(n, dtype=F64)
    rows = {
        "cosine": [torch.cos(math.pi * j * (i + 0.5) / n) for j in range(n)],
        "sine": [torch.sin(math.pi * (j + 1) * (i + 1) / (n + 1)) for j in range(n)],
        "fourier": [
            torch.ones(n, dtype=F64),
            *(f(2 * math.pi * k * i / n) for k in (1, 2) for f in (torch.cos, torch.sin)),
            (-1.0) ** i,
        ],
    }[name]
    want = torch.stack([row / row.norm() for row in rows])
    got = Transform(name=name, shape=(n,), dtype=F64).forward(torch.eye(n, dtype=F64)).mT
    assert torch.allclose(got, want, atol=1e-14)


# --- any number of axes ----------------------------------------------------------------------------------------------
@EVERY
@DTYPES
def test_orthonormal(name, shape, dtype):
    """Lengths are kept, and the inverse is both the inverse and the adjoint; complex parts do not mix."""
    T = Transform(name=name, shape=shape, dtype=dtype)
    for kind in (dtype, dtype.to_complex()):
        x, u = random(2, *shape, dtype=kind), random(2, *shape, dtype=kind, seed=1)
        forward, inverse = T.forward(x), T.inverse(u)
        assert forward.shape == x.shape
        assert forward.dtype == inverse.dtype == kind
        scale = x.norm()
        assert (T.inverse(forward) - x).norm() < TOL[dtype] * scale
        assert (T.forward(inverse) - u).norm() < TOL[dtype] * u.norm()
        assert abs(forward.norm() - scale) < TOL[dtype] * scale
        gap = torch.linalg.vecdot(forward.flatten(), u.flatten()) - torch.linalg.vecdot(x.flatten(), inverse.flatten())
        assert gap.abs() < TOL[dtype] * scale * u.norm()
    parts = torch.complex(T.forward(x.real), T.forward(x.imag))
    assert torch.allclose(forward, parts, atol=10 * TOL[dtype])


@pytest.mark.parametrize("name", ["cosine", "sine", "fourier", "haar"])
def test_several_axes_are_the_product_of_single_ones(name):
    shape = (4, 1, 8) if name == "haar" else (3, 1, 6)
    T = Transform(name=name, shape=shape, dtype=F64)
    x = random(2, *shape)
    want = x
    for axis in (1, 2, 3):
        want = torch.as_tensor(reference(name, want.movedim(axis, -1).numpy())).movedim(-1, axis)
    assert torch.allclose(T.forward(x), want, atol=1e-12)


@EVERY
def test_squared_inverse_gives_the_variances_of_the_entries(name, shape):
    T = Transform(name=name, shape=shape, dtype=F64)
    v = random(*shape, seed=2).exp()
    n = math.prod(shape)
    rows = T.inverse(torch.eye(n, dtype=F64).view(n, *shape)).flatten(1)  # row k: mode k at every entry
    want = (v.flatten() @ rows.square()).view(shape)
    got = T.squared_inverse(v)
    assert got.shape == shape
    assert got.is_contiguous()
    assert torch.allclose(got, want, rtol=1e-12)


def test_squared_inverse_of_an_axis_of_several_blocks():
    n = 2500
    v = random(n, seed=3).exp()
    got = Transform(name="cosine", shape=(n,), dtype=F64).squared_inverse(v)
    rows = scipy.fft.idct(np.eye(n), type=2, norm="ortho")
    assert np.allclose(got.numpy(), v.numpy() @ rows**2, rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [4, 512])
def test_differentiable(name, n):
    """The gradient of ``<w, T x>`` is ``T^-1 w``."""
    T = Transform(name=name, shape=(n,), dtype=F64)
    w = random(2, n, seed=1)
    for forward, back in ((T.forward, T.inverse), (T.inverse, T.forward)):
        x = random(2, n).requires_grad_()
        (grad,) = torch.autograd.grad((w * forward(x)).sum(), x)
        assert torch.allclose(grad, back(w), atol=1e-12)


@EVERY
def test_input_is_kept_and_may_be_strided(name, shape):
    T = Transform(name=name, shape=shape, dtype=F64)
    x = random(*reversed(shape), 3).permute(*reversed(range(len(shape) + 1)))
    before = x.clone()
    assert torch.allclose(T.forward(x), T.forward(x.contiguous()), atol=1e-13)
    T.inverse(x)
    assert torch.equal(x, before)


def test_no_rows():
    for n in (4, 300):
        assert Transform(name="cosine", shape=(n,)).forward(torch.zeros(0, n)).shape == (0, n)


def test_cast_and_move():
    """float32 and back is not a rounded matrix; integers of the angles are reduced, so long axes keep their digits."""
    T = Transform(name="cosine", shape=(50, 3))
    wide = T.to(dtype=F64)
    assert (T.dtype, wide.dtype, wide.shape, wide.device) == (torch.float32, F64, (50, 3), torch.device("cpu"))
    x = random(2, 50, 3)
    assert torch.equal(wide.forward(x), Transform(name="cosine", shape=(50, 3), dtype=F64).forward(x))
    assert T.to("cpu").dtype == torch.float32
    n = 10_000
    assert n > _MATRIX_LIMIT
    x = random(1, n, dtype=torch.float32)
    for name in ("cosine", "sine", "fourier"):
        got = Transform(name=name, shape=(n,)).forward(x)
        assert np.abs(got.double().numpy() - reference(name, x.double().numpy())).max() < 1e-5  # some 10 roundings of 4


def test_refused():
    with pytest.raises(InputError, match="Transform: `name` must be one of 'identity', 'cosine'.*got 'dct'"):
        Transform(name="dct", shape=(4,))
    with pytest.raises(InputError, match=r"`shape` must be of powers of two with the Haar transform, got \(4, 6\)"):
        Transform(name="haar", shape=(4, 6))
