"""Bridges to scipy and deepinv, both ways."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg import aslinearoperator, lsqr

import invsolve as iv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepinv

ops = iv.operators
DENSE = np.random.default_rng(0).normal(size=(3, 6))


# --- scipy -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_sparse_matrices(format, dtype):
    dense = (DENSE * (np.abs(DENSE) > 0.5)).astype(dtype) * (1 + 1j if dtype == np.complex128 else 1)
    A = ops.from_scipy(scipy.sparse.coo_array(dense).asformat(format), in_shape=(2, 3))
    assert isinstance(A, ops.Sparse) and iv.testing.check_operator(A).passed
    x = torch.randn(4, 2, 3, dtype=torch.from_numpy(dense).dtype, generator=torch.Generator().manual_seed(0))
    assert np.allclose(A(x), x.flatten(1).numpy() @ dense.T, atol=1e-6)


def test_scipy_linear_operators_and_their_gradients():
    A = ops.from_scipy(aslinearoperator(DENSE), in_shape=(2, 3), out_shape=(3,))
    assert iv.testing.check_operator(A).passed
    x = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (grad,) = torch.autograd.grad(A(x).square().sum(), x)
    assert torch.allclose(grad, 2 * A.adjoint(A(x)))


def test_to_scipy_and_back():
    A = ops.Blur(
        kernel=torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        in_shape=(4, 5),
        boundary="zero",
    )
    S = ops.to_scipy(A)
    assert S.shape == (20, 20)
    x = np.random.default_rng(1).normal(size=20)
    assert np.allclose(S.matvec(x), A(torch.from_numpy(x).view(1, 4, 5)).flatten())
    assert np.allclose(S.rmatvec(x), A.adjoint(torch.from_numpy(x).view(1, 4, 5)).flatten())
    again = ops.from_scipy(S, in_shape=(4, 5), out_shape=(4, 5))
    v = torch.from_numpy(x).view(1, 4, 5)
    assert torch.allclose(again(v), A(v))


@pytest.mark.parametrize("items", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("vector", ["f4", "f8", "c8", "c16", "i8"])
@pytest.mark.parametrize("matrix", [DENSE, DENSE * (1 - 2j)], ids=["real", "complex"])
def test_to_scipy_is_the_matrix_on_vectors_of_any_type(matrix, vector, order, items):
    """Every product of scipy's operator against numpy's with the dense matrix."""
    tensor = torch.from_numpy(matrix)
    S = ops.to_scipy(ops.Matrix(tensor[None] if items else tensor))
    rng = np.random.default_rng(1)
    x, y = (4 * (rng.normal(size=(n, 2)) + 1j * rng.normal(size=(n, 2))) for n in (6, 3))
    x, y = ((v if vector[0] == "c" else v.real).astype(order + vector) for v in (x, y))
    for got, want in (
        (S.matmat(x), matrix @ x),
        (S.matvec(x[:, 0]), matrix @ x[:, 0]),
        (S @ x[:, :1], matrix @ x[:, :1]),
        (S.rmatmat(y), matrix.conj().T @ y),
        (S.rmatvec(y[:, 0]), matrix.conj().T @ y[:, 0]),
        (S.H @ y, matrix.conj().T @ y),
        (S.H.H @ x, matrix @ x),
        (S.T @ y, matrix.T @ y),
    ):
        assert got.shape == want.shape and np.iscomplexobj(got) == np.iscomplexobj(want)
        # Six products and sums; numpy multiplies float32 by float64 in float64, and converts before.
        assert np.abs(got - want).max() <= 20 * np.finfo(np.float64).eps * np.abs(want).max()


def test_least_squares_of_scipy_with_complex_data():
    x = np.linalg.lstsq(DENSE.T, b := np.array([1 + 2j, -1j, 3, 4, 5j, 6]), rcond=None)[0]
    S = ops.to_scipy(ops.Matrix(torch.from_numpy(DENSE.T.copy())))
    assert np.allclose(lsqr(S, b, atol=1e-14, btol=1e-14)[0], x, rtol=1e-10)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">c8", ">c16"])
def test_big_endian_matrices_and_operators(dtype):
    """As FITS and NetCDF-3 hold them."""
    dense = (DENSE * (1j if dtype[1] == "c" else 1)).astype(dtype)
    native = torch.from_numpy(dense.astype(dense.dtype.newbyteorder("=")))
    sparse = scipy.sparse.csr_array(dense.astype(native.numpy().dtype))
    sparse.data, sparse.indices = sparse.data.astype(dtype), sparse.indices.astype(">i4")
    foreign = ScipyOperator(
        shape=(3, 6),
        dtype=dense.dtype,
        matvec=lambda v: dense @ v,
        rmatvec=lambda v: (dense.conj().T @ v).astype(dtype),
    )
    x = torch.randn(2, 6, dtype=native.dtype, generator=torch.Generator().manual_seed(0))
    for A in (ops.from_scipy(sparse), ops.from_scipy(foreign)):
        assert torch.allclose(A(x), x @ native.mT) and torch.allclose(A.adjoint(A(x)), A(x) @ native.conj())


def test_a_scipy_operator_that_is_complex_and_says_real():
    A = ops.from_scipy(ScipyOperator(shape=(2, 2), dtype=np.float64, matvec=lambda v: 1j * v, rmatvec=lambda v: v))
    with pytest.raises(iv.errors.OperatorError, match="of float64, and its `matvec` returns complex128"):
        A(torch.ones(1, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.from_scipy(DENSE), "`operator` must be a scipy.sparse matrix .* got ndarray"),
        (lambda: ops.from_scipy(scipy.sparse.csr_array(np.eye(2, dtype=np.int64))), "of float32, float64"),
        (lambda: ops.from_scipy(scipy.sparse.csr_array(np.eye(2)), in_shape=(3,)), "`in_shape`"),
        (lambda: ops.from_scipy(scipy.sparse.coo_array(np.ones(3))), r"of shape \(m, n\)"),
        (lambda: ops.from_scipy(aslinearoperator(np.eye(2)), in_kind="complex"), "`in_kind` must be 'real'"),
    ],
)
def test_what_scipy_bridges_refuse(call, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        call()


def test_scipy_operators_without_an_adjoint():
    half = ScipyOperator(shape=(3, 3), dtype=np.float64, matvec=lambda x: x)
    A = ops.from_scipy(half)
    x = torch.ones(1, 3, dtype=torch.float64)
    assert torch.equal(A(x), x)
    with pytest.raises(iv.errors.OperatorError, match="has no `rmatvec`"):
        A.adjoint(x)


def test_a_type_error_of_the_users_product_is_not_called_a_missing_one():
    def broken(x):
        raise TypeError("unsupported operand")

    A = ops.from_scipy(ScipyOperator(shape=(3, 3), dtype=np.float64, matvec=broken, rmatvec=broken))
    with pytest.raises(TypeError, match="unsupported operand"):
        A(torch.ones(1, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (torch.sin, "`A` must be a LinearOperator, got builtin"),
        (ops.Mask(mask=torch.ones(2, 3, dtype=torch.bool), in_shape=(3,)), "`A` must be one operator, got 2 items"),
        (
            ops.Matrix(matrix=torch.ones(2, 2, dtype=torch.complex64), in_kind="real"),
            "`A` must be real to real or complex to complex",
        ),
    ],
)
def test_what_to_scipy_refuses(A, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        ops.to_scipy(A)


# --- deepinv
# -----------------------------------------------------------------------------------------------------------
def test_deepinv_physics_as_an_operator_and_in_solve():
    mask = (torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    physics = deepinv.physics.Inpainting(img_size=(1, 8, 8), mask=mask)
    A = ops.from_deepinv(physics, (8, 8), (8, 8))
    assert isinstance(A, iv.operators.LinearOperator) and iv.testing.check_operator(A).passed
    prior = iv.priors.GaussianPrior(mean=torch.zeros(8, 8), covariance=torch.eye(64))
    y = torch.ones(1, 8, 8) * mask
    theirs = iv.solve(A, y, prior, noise=0.1, num_samples=3)
    ours = iv.solve(ops.Mask(mask=mask.bool()), y, prior, noise=0.1, num_samples=3)
    assert (theirs.mean - ours.mean)[0][mask.bool()].abs().max() < 1e-4


def test_deepinv_mri_is_ours():
    mask = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    maps = torch.randn(3, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    theirs = deepinv.physics.MultiCoilMRI(img_size=(2, 8, 8), mask=mask.float(), coil_maps=maps[None])
    A = ops.from_deepinv(theirs, (8, 8), (3, 8, 8), in_kind="complex", out_kind="complex")
    B = ops.MRI(in_shape=(8, 8), mask=mask, maps=maps)
    x = torch.randn(2, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(A(x), B(x), atol=1e-5) and torch.allclose(A.adjoint(B(x)), B.adjoint(B(x)), atol=1e-5)


def test_operators_as_deepinv_physics():
    B = ops.MRI(in_shape=(8, 8), mask=torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5)
    physics = ops.to_deepinv(B)
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    assert isinstance(physics, deepinv.physics.LinearPhysics)
    assert float(physics.adjointness_test(x).abs().max()) < 1e-4
    assert physics.A_dagger(physics.A(x)).shape == x.shape
    square = ops.to_deepinv(ops.from_callable(lambda x: x**2, (8, 8), (8, 8)))
    assert not isinstance(square, deepinv.physics.LinearPhysics)
    assert torch.equal(square.A(x[:, :1]), x[:, :1] ** 2)
    volume = ops.to_deepinv(ops.Mask(mask=torch.ones(3, 4, 5, dtype=torch.bool)))
    assert volume.A(torch.ones(2, 3, 4, 5)).shape == (2, 3, 4, 5)


def test_moving_a_deepinv_operator_leaves_the_first_alone():
    physics = deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular")
    A = ops.from_deepinv(physics, (8, 8), (8, 8))
    A.to(dtype=torch.float64)
    assert A(torch.ones(1, 8, 8)).dtype == torch.float32


def test_complex_maps_stay_complex_when_cast():
    """torch's own Module.to(float64) drops the imaginary part of complex buffers."""
    mask = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    maps = torch.randn(3, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    theirs = deepinv.physics.MultiCoilMRI(img_size=(2, 8, 8), mask=mask.float(), coil_maps=maps[None])
    A = ops.from_deepinv(theirs, (8, 8), (3, 8, 8), in_kind="complex", out_kind="complex")
    B = ops.MRI(in_shape=(8, 8), mask=mask, maps=maps)
    assert A.dtype == torch.float32 and A.device == torch.device("cpu")
    assert iv.testing.check_operator(A.to(dtype=torch.float64)).passed
    x = torch.randn(2, 8, 8, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(A.to("cpu", torch.float64)(x), B.to(dtype=torch.float64)(x), atol=1e-12)
    assert A(x).dtype == torch.complex64


def test_parameters_that_are_modules_parameters_are_cast_too():
    class Gain(deepinv.physics.Physics):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(2.0))

        def A(self, x, **_):
            return self.gain * x

    A = ops.from_deepinv(Gain(), (4,), (4,)).to(dtype=torch.float64)
    y = A(torch.ones(1, 4, dtype=torch.float64))
    assert y.dtype == torch.float64 and torch.equal(y.detach(), torch.full((1, 4), 2.0, dtype=torch.float64))


def test_vectors_and_volumes_say_what_becomes_of_the_channel():
    sensing = deepinv.physics.CompressedSensing(m=10, img_size=(1, 4, 4), rng=torch.Generator().manual_seed(0))
    A = ops.from_deepinv(sensing, (4, 4), (10,), out_channel="keep")
    assert iv.testing.check_operator(A).passed and A.out_shape == (10,)
    kernel = torch.rand(1, 1, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    blur = deepinv.physics.Blur(filter=kernel, padding="circular")
    B = ops.from_deepinv(blur, (4, 5, 6), (4, 5, 6), in_channel="add", out_channel="add")
    assert iv.testing.check_operator(B).passed
    colours = deepinv.physics.Blur(filter=kernel[:, :, 0], padding="circular")
    assert iv.testing.check_operator(ops.from_deepinv(colours, (3, 5, 6), (3, 5, 6))).passed
    vector = ops.to_deepinv(ops.Matrix(matrix=torch.ones(2, 3)), in_channel="keep", out_channel="keep")
    assert torch.equal(vector.A(torch.ones(1, 3)), torch.full((1, 2), 3.0))
    assert torch.equal(vector.A_adjoint(torch.ones(1, 2)), torch.full((1, 3), 2.0))


def test_fingerprints_of_deepinv_operators_see_attributes_and_buffers():
    def blur(value, padding):
        physics = deepinv.physics.Blur(filter=torch.full((1, 1, 3, 3), value), padding=padding)
        return ops.from_deepinv(physics, (8, 8), (8, 8)).fingerprint()

    assert blur(0.1, "circular") == blur(0.1, "circular")
    assert len({blur(0.1, "circular"), blur(0.2, "circular"), blur(0.1, "reflect")}) == 3


def test_a_physics_with_a_random_generator_can_be_moved():
    physics = deepinv.physics.Inpainting(img_size=(1, 8, 8), mask=0.5, rng=torch.Generator().manual_seed(0))
    A = ops.from_deepinv(physics, (8, 8), (8, 8))
    x = torch.ones(1, 8, 8)
    assert torch.equal(A.to(dtype=torch.float64)(x.double()).float(), A(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.from_deepinv(lambda x: x, (2,), (2,)),
            "`physics` must be a deepinv.physics.Physics, got function",
        ),
        (lambda: ops.from_deepinv(deepinv.physics.Denoising(), (2,), (2,), in_kind="both"), "`in_kind` must be one of"),
        (
            lambda: ops.from_deepinv(deepinv.physics.Denoising(), (2,), (2,), out_kind="both"),
            "`out_kind` must be one of",
        ),
        (
            lambda: ops.from_deepinv(deepinv.physics.Denoising(), (4, 4), (4, 5))(torch.ones(1, 4, 4)),
            r"physics.A must have shape \(1, 1, 4, 5\), got \(1, 1, 4, 4\)",
        ),
        (
            lambda: ops.from_deepinv(deepinv.physics.Denoising(), (2,), (2,), in_channel="first"),
            "`in_channel` must be one of 'add', 'keep', None, got 'first'",
        ),
        (
            lambda: ops.to_deepinv(ops.MRI(in_shape=(2, 2), mask=torch.ones(2, 2).bool()), out_channel="keep"),
            "`out_channel` must be 'add' for complex signals",
        ),
        (lambda: ops.to_deepinv(torch.sin), "`A` must be an iv.operators.Operator, got builtin"),
    ],
)
def test_what_deepinv_bridges_refuse(call, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        call()
