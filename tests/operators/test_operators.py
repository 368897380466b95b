"""Every operator keeps the contract (`check_operator`), agrees with a second program, and refuses what it cannot do."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.signal
import scipy.sparse
import torch
from operator_cases import CASES, COMPLEX, F64, RNG, data, mask, pinv_error, randn, signals, stacked

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.operators.base import Operator
from invsolve.operators.dense import dense_matrix
from invsolve.operators.fourier import centred_fft, centred_ifft, shift_phases

ops = iv.operators


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_contract_in_float64_and_float32(A):
    assert iv.testing.check_operator(A).passed
    if not (A.dtype == F64 and "Callable" in type(A).__name__):
        assert iv.testing.check_operator(A.to(dtype=torch.float32)).passed


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_dense_form_norm_pinv_and_normal_equations(A):
    """Against the singular values and the inverse of the dense matrix."""
    matrix = dense_matrix(A, dtype=F64)
    items = matrix if A.batch is not None else matrix[None]
    rows = len(items)
    x, y = signals(A, rows), data(A, rows)
    assert torch.allclose(stacked(A(x)), (items @ stacked(x)[..., None])[..., 0], atol=1e-12)
    assert torch.allclose(stacked(A.adjoint(y)), (items.mT @ stacked(y)[..., None])[..., 0], atol=1e-12)
    norm = torch.linalg.matrix_norm(items, 2)
    estimate = A.norm(rtol=1e-5, max_iter=2000)
    assert torch.allclose(estimate.double().expand(rows), norm, rtol=2e-3)
    solved = A.solve_normal(x, tau=0.3, rtol=1e-13, max_iter=2000)
    eye = torch.eye(items.shape[-1], dtype=F64)
    assert torch.allclose(stacked(solved), torch.linalg.solve(items.mT @ items + 0.3 * eye, stacked(x)), atol=1e-9)
    consistent = A(x)  # the minimum-norm solution reproduces it
    least = torch.linalg.pinv(items, rtol=1e-10) @ stacked(consistent)[..., None]
    far = (stacked(A.pinv(consistent, rtol=1e-14, max_iter=5000)) - least[..., 0]).abs().max()
    assert far <= pinv_error(items) * x.abs().max()


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_weighted_normal_equations_and_the_pseudo_inverse_of_any_data(A):
    """Weights per datum, and data outside the range of A, against the dense matrix."""
    matrix = dense_matrix(A, dtype=F64)
    rows = A.batch or 2
    matrix = matrix.expand(rows, *matrix.shape[-2:])
    x, y = signals(A, rows), data(A, rows)
    weight = torch.rand(rows, *A.out_shape, dtype=F64, generator=RNG) + 0.1
    flat = stacked(torch.complex(weight, weight)) if A.out_kind == "complex" else weight.flatten(1)
    system = matrix.mT @ (flat[..., None] * matrix) + 0.3 * torch.eye(matrix.shape[-1], dtype=F64)
    solved = A.solve_normal(x, weight=weight, tau=0.3, rtol=1e-13, max_iter=3000)
    assert torch.allclose(stacked(solved), torch.linalg.solve(system, stacked(x)[..., None])[..., 0], atol=1e-8)
    least = (torch.linalg.pinv(matrix, rtol=1e-9) @ stacked(y)[..., None])[..., 0]
    far = (stacked(A.pinv(y, rtol=1e-14, max_iter=5000)) - least).abs().max()
    assert far <= pinv_error(matrix) * least.abs().max()


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_torch_differentiates_operator_and_adjoint(A):
    """What users get who differentiate through A by themselves: the adjoint, twice over, also in forward mode."""
    rows = A.batch or 2
    x, y = signals(A, rows).requires_grad_(), data(A, rows).requires_grad_()
    assert torch.allclose(torch.autograd.grad(A(x), x, y)[0], A.adjoint(y), atol=1e-10)
    assert torch.allclose(torch.autograd.grad(A.adjoint(y), y, x)[0], A(x), atol=1e-10)
    assert torch.allclose(torch.autograd.grad(A.normal(x), x, x)[0], A.normal(x), atol=1e-9)
    energy = (A(x) * A(x).conj()).real.sum()
    (grad,) = torch.autograd.grad(energy, x, create_graph=True)  # 2 A^H A x
    assert torch.allclose(torch.autograd.grad(grad, x, x)[0], 2 * A.normal(x), atol=1e-9)
    forward = Operator._jvp(A, x.detach(), x.detach())[1]  # torch's forward mode, not the shortcut of linear operators
    assert torch.allclose(forward, A(x), atol=1e-10)


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_no_rows_nan_rows_and_lazy_conjugates(A):
    x, y = signals(A, A.batch or 2), data(A, A.batch or 2)
    if A.batch is None:
        assert A(x[:0]).shape == (0, *A.out_shape) and A.adjoint(y[:0]).shape == (0, *A.in_shape)
    assert torch.allclose(A(x.conj()), A(x.conj().resolve_conj().clone()), atol=1e-12)
    assert torch.allclose(A.adjoint(y.conj()), A.adjoint(y.conj().resolve_conj().clone()), atol=1e-12)
    broken = x.clone()
    broken[1] = torch.nan
    assert torch.allclose(A(broken)[0], A(x)[0], atol=1e-12)


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_fingerprints_and_counts(A):
    assert A.fingerprint() == A.fingerprint()
    x = randn(A.batch or 3, *A.in_shape, dtype=COMPLEX if A.in_kind == "complex" else F64)
    with tally() as calls:
        A(x)
        A.normal(x)
    assert calls == {"operator": 2 * len(x), "adjoint": len(x)}
    assert str(A.in_shape) in repr(A) and "\n" not in repr(A)


def test_fingerprints_differ_with_the_parameters():
    assert len({A.fingerprint() for A in CASES.values()}) == len(CASES)
    assert ops.Matrix(matrix=torch.eye(2)).fingerprint() == ops.Matrix(matrix=torch.eye(2)).fingerprint()


# --- second programs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("boundary", "scipy_mode"), [("periodic", "wrap"), ("zero", "fill")])
@pytest.mark.parametrize("size", [(3, 3), (5, 3)])
def test_blur_is_scipys_convolution(boundary, scipy_mode, size):
    x, h = randn(2, 9, 8), randn(*size)
    y = ops.Blur(kernel=h, in_shape=(9, 8), boundary=boundary)(x)
    for a, b in zip(x, y, strict=True):
        assert np.allclose(scipy.signal.convolve2d(a, h, mode="same", boundary=scipy_mode), b)


def test_valid_blur_is_scipys_and_reflect_is_numpys_padding():
    x, h = randn(9, 8), randn(4, 3)
    assert np.allclose(
        scipy.signal.convolve2d(x, h, mode="valid"), ops.Blur(kernel=h, in_shape=(9, 8), boundary="valid")(x[None])[0]
    )
    h = randn(5, 3)
    padded = np.pad(x, ((2, 2), (1, 1)), mode="reflect")
    assert np.allclose(
        scipy.signal.convolve2d(padded, h, mode="valid"),
        ops.Blur(kernel=h, in_shape=(9, 8), boundary="reflect")(x[None])[0],
    )


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
    A = ops.GaussianBlur((0.7, 1.2), (9, 8), boundary="zero", truncate=3.0)
    assert isinstance(A, ops.GaussianBlur) and isinstance(A, ops.Blur)
    x = randn(2, 9, 8)
    _ = A(x.float())  # whatever is computed once belongs to this precision
    wide = A.to(dtype=F64)
    for B in (wide, wide.take(torch.tensor([0])), pickle.loads(pickle.dumps(wide))):
        assert isinstance(B, ops.GaussianBlur) and B.std == (0.7, 1.2) and B.truncate == 3.0
        assert torch.equal(B(x), ops.Blur(A.kernel.double(), (9, 8), boundary="zero")(x))
    assert A.fingerprint() == ops.GaussianBlur((0.7, 1.2), (9, 8), boundary="zero", truncate=3.0).fingerprint()
    assert not isinstance(ops.Blur(A.kernel, (9, 8)), ops.GaussianBlur)


def test_mri_is_numpys_centred_transform():
    maps, m, x = randn(3, 6, 7, dtype=COMPLEX), mask(6, 7), randn(2, 6, 7, dtype=COMPLEX)
    y = ops.MRI(in_shape=(6, 7), mask=m, maps=maps)(x)
    shifted = np.fft.ifftshift((x[:, None] * maps).numpy(), axes=(-2, -1))
    want = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1)) * m.numpy()
    assert np.allclose(want, y)
    assert torch.equal(ops.MRI(in_shape=(6, 7), mask=m, maps=maps).observed, m.expand(3, 6, 7))


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (4, 3, 5)])
def test_centred_transforms(shape):
    """numpy's, its inverse, and the phases that replace its four shifts."""
    x, axes = randn(2, *shape, dtype=COMPLEX), tuple(range(1, len(shape) + 1))
    want = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)
    assert np.allclose(want, centred_fft(x, len(shape)))
    assert torch.allclose(centred_ifft(centred_fft(x, len(shape)), len(shape)), x)
    before, after = shift_phases(shape)
    assert np.allclose(want, after * torch.fft.fftn(before * x, dim=axes, norm="ortho"))


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_transforms_have_the_next_lengths_without_large_factors(kind):
    lengths = {2: 2, 7: 8, 11: 12, 13: 15, 31: 32, 97: 100, 256: 256}
    blurs = [ops.Blur(torch.ones(2), (n,), boundary="valid", kind=kind) for n in lengths]
    assert [A._fft_shape for A in blurs] == [(length,) for length in lengths.values()]


def test_gaussian_blur_by_axis():
    x = randn(2, 9, 8, dtype=torch.float32)
    assert torch.equal(ops.GaussianBlur(std=0, in_shape=(9, 8))(x), x)
    rows_only = ops.GaussianBlur(std=(1.0, 0.0), in_shape=(9, 8))
    column = ops.GaussianBlur(std=1.0, in_shape=(9,))
    assert rows_only.kernel.shape == (9, 1)
    assert torch.allclose(rows_only(x)[..., 3], column(x[..., 3]), atol=1e-6)


def test_a_stack_names_its_data():
    A = CASES["stack items"]
    x = signals(A, 2)
    parts = A.split(A(x))
    assert list(parts) == ["k-space", "pixels", "sums"] and parts["k-space"].dtype == COMPLEX
    for part, op in zip(parts.values(), A.operators, strict=True):
        assert torch.equal(part, op(x))
    assert torch.equal(A.pack(parts), A(x))
    seen = A.split(A.observed.to(F64))
    assert torch.equal(seen["k-space"], torch.complex(*[A.operators[0].observed.to(F64)] * 2))
    assert torch.equal(seen["pixels"].bool(), A.operators[1].mask.expand(2, 3, 4)) and bool(seen["sums"].all())
    both = CASES["stack complex"]
    z = both(signals(both, 2))
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


# --- algebra, items, derivatives -----------------------------------------------------------------------------------
def test_algebra_is_that_of_matrices():
    a, b, x = randn(3, 5), randn(4, 3), randn(2, 5)
    A, B = ops.Matrix(matrix=a), ops.Matrix(matrix=b)
    assert torch.allclose((B @ A)(x), x @ (b @ a).T)
    assert torch.allclose((2 * A)(x), 2 * x @ a.T)
    assert torch.allclose((A + 2 * A)(x), 3 * x @ a.T)
    assert torch.allclose((B @ A).H(randn(2, 4)[:, :4] * 0 + 1), torch.ones(2, 4, dtype=F64) @ (b @ a))
    assert isinstance(A.H.H, iv.operators.LinearOperator) and torch.allclose(A.H.H(x), A(x))


def test_a_chain_with_a_nonlinear_link_differentiates():
    A = ops.Matrix(matrix=randn(3, 5))
    sine = ops.from_callable(torch.sin, (3,), (3,), dtype=F64)
    chain = sine @ A
    assert not isinstance(chain, iv.operators.LinearOperator)
    assert iv.testing.check_operator(chain).passed
    x = randn(2, 5)
    J = chain.linearize(x)
    assert J.batch == 2 and iv.testing.check_operator(J).passed
    want = torch.cos(A(x)) * A(x * 0 + 1)
    assert torch.allclose(J(torch.ones_like(x)), want)
    assert torch.allclose(J.take(torch.tensor([1]))(torch.ones(1, 5, dtype=F64)), want[1:])
    assert torch.allclose(J.value, torch.sin(A(x)))
    assert A.linearize(x) is A


def test_nonlinear_stack_and_observed_through_wrappers():
    both = ops.NonlinearStack(operators=(ops.from_callable(torch.sin, (4,), (4,), dtype=F64), ops.Mask(mask=mask(4))))
    assert iv.testing.check_operator(both).passed
    M = ops.Mask(mask=torch.tensor([True, False]))
    assert torch.equal((M @ ops.Matrix(matrix=torch.eye(2))).observed, M.mask)
    assert torch.equal((2 * M).observed, M.mask) and torch.equal((M + M).observed, M.mask)
    assert (M + ops.Matrix(matrix=torch.eye(2))).observed is None
    assert M.H.observed is None


def test_functions_of_any_precision_and_outputs_that_do_not_depend_on_the_input():
    A = ops.from_callable(lambda x: torch.ones_like(x), (2,), (2,))
    assert A.to(dtype=F64) is A and A.dtype is None
    for dtype in (torch.float32, F64):
        y, pull = A.vjp(torch.zeros(1, 2, dtype=dtype))
        assert y.dtype == dtype and torch.equal(pull(y), torch.zeros(1, 2, dtype=dtype))


def test_black_boxes_have_no_derivatives():
    box = ops.from_callable(lambda x: x.round(), (3,), (3,), kind="black box")
    x = torch.ones(1, 3)
    assert torch.equal(box(x), x)
    for call in (lambda: box.vjp(x), lambda: box.jvp(x, x)):
        with pytest.raises(iv.errors.UnsupportedError, match="a black box has no derivative"):
            call()


# --- refusals ------------------------------------------------------------------------------------------------------
def sparse(**changes):
    good = {"crow": torch.tensor([0, 1, 2]), "col": torch.tensor([0, 2]), "values": torch.ones(2)}
    return ops.Sparse(**(good | changes), in_shape=(3,), out_shape=(2,))


M23, EYE = torch.ones(2, 3), torch.eye(3)
REFUSED = {
    "items differ": (
        lambda: (ops.Mask(mask=mask(2, 3), in_shape=(3,)) @ ops.Matrix(matrix=torch.ones(4, 3, 3))).batch,
        "one number of items",
    ),
    "rows differ from items": (
        lambda: ops.Matrix(matrix=torch.ones(2, 3, 3))(torch.ones(3, 3)),
        "`x` must be of 2 rows, one for each item",
    ),
    "chain kinds": (
        lambda: ops.Matrix(matrix=EYE) @ ops.Mask(mask=mask(3), kind="complex"),
        "Matrix takes real tensors",
    ),
    "chain shapes": (
        lambda: ops.Matrix(matrix=EYE) @ ops.Mask(mask=mask(4)),
        r"Matrix takes \(3,\), got \(4,\) from Mask",
    ),
    "sum shapes": (lambda: ops.Matrix(matrix=EYE) + ops.Matrix(matrix=M23), r"`out_shape` must be \(3,\), got \(2,\)"),
    "factor infinite": (lambda: float("inf") * ops.Matrix(matrix=EYE), "`factor` must be finite"),
    "factor a string": (lambda: "2" * ops.Matrix(matrix=EYE), "`factor` must be a real number"),
    "matrix integer": (
        lambda: ops.Matrix(matrix=torch.ones(2, 2, dtype=torch.int64)),
        "`matrix` must be a floating or complex tensor, got torch.int64",
    ),
    "matrix a list": (lambda: ops.Matrix(matrix=[[1.0]]), "`matrix` must be a floating or complex tensor, got list"),
    "mask kind": (lambda: ops.Mask(mask=mask(3), kind="both"), "`kind` must be one of 'real', 'complex'"),
    "index float": (
        lambda: ops.Subsample(index=torch.ones(2), in_shape=(3,)),
        "`index` must be an int64 tensor, got torch.float32",
    ),
    "index axes": (
        lambda: ops.Subsample(index=torch.ones(1, 1, 1, dtype=torch.int64), in_shape=(3,)),
        r"`index` must be of shape \(m,\)",
    ),
    "shape a number": (
        lambda: ops.Subsample(index=torch.zeros(1, dtype=torch.int64), in_shape=3),
        r"`in_shape` must be a tuple of integers, got int. Write \(3,\)",
    ),
    "blur axes": (lambda: ops.Blur(kernel=torch.ones(2), in_shape=(2, 2, 2, 2)), "`in_shape` must be of 1 to 3 axes"),
    "blur kernel": (
        lambda: ops.Blur(kernel=[1.0], in_shape=(3,)),
        "`kernel` must be a floating or complex tensor, got list",
    ),
    "blur complex kernel": (
        lambda: ops.Blur(kernel=torch.ones(2, dtype=torch.complex64), in_shape=(3,)),
        "`kernel` must be real for kind='real'",
    ),
    "blur kernel axes": (
        lambda: ops.Blur(kernel=torch.ones(2), in_shape=(3, 3)),
        "`kernel` must be non-empty, of 2 axes",
    ),
    "blur kernel NaN": (lambda: ops.Blur(kernel=torch.full((2,), torch.nan), in_shape=(3,)), "`kernel` must be finite"),
    "blur valid too long": (
        lambda: ops.Blur(kernel=torch.ones(4), in_shape=(3,), boundary="valid"),
        "boundary='valid'",
    ),
    "blur reflect too long": (
        lambda: ops.Blur(kernel=torch.ones(7), in_shape=(3,), boundary="reflect"),
        "boundary='reflect'",
    ),
    "blur boundary": (
        lambda: ops.Blur(kernel=torch.ones(2), in_shape=(3,), boundary="wrap"),
        "`boundary` must be one of",
    ),
    "gaussian std": (lambda: ops.GaussianBlur(std=-1.0, in_shape=(3,)), "`std"),
    "downsample length": (
        lambda: ops.Downsample(factor=(2, 2), in_shape=(4,)),
        "`factor` must be an integer, or 1 of them",
    ),
    "downsample offset": (
        lambda: ops.Downsample(factor=2, offset=2, in_shape=(4,)),
        "`offset` must be less than the factor",
    ),
    "downsample too coarse": (lambda: ops.Downsample(factor=5, in_shape=(4,)), "`factor` must be small enough"),
    "mri axes": (lambda: ops.MRI(in_shape=(4,), mask=mask(4)), r"`in_shape` must be \(H, W\) or \(D, H, W\)"),
    "mri mask float": (
        lambda: ops.MRI(in_shape=(2, 2), mask=torch.ones(2, 2)),
        "`mask` must be a bool tensor, got torch.float32",
    ),
    "mri mask shape": (lambda: ops.MRI(in_shape=(2, 2), mask=mask(3, 2)), r"`mask` must be broadcastable to \(2, 2\)"),
    "mri maps shape": (
        lambda: ops.MRI(in_shape=(2, 2), mask=mask(2, 2), maps=torch.ones(3, 2, 3, dtype=torch.complex64)),
        r"`maps` must be of shape \(coils, 2, 2\)",
    ),
    "mri items differ": (
        lambda: ops.MRI(in_shape=(2, 2), mask=mask(3, 2, 2), maps=torch.ones(2, 1, 2, 2, dtype=torch.complex64)),
        "item axes of one length",
    ),
    "mri tau": (
        lambda: ops.MRI(in_shape=(2, 2), mask=mask(2, 2)).solve_normal(
            torch.ones(1, 2, 2, dtype=torch.complex64), tau=-1.0
        ),
        "`tau` must be positive",
    ),
    "stack empty": (lambda: ops.Stack(operators=()), "`operators` must be one operator or more, got none"),
    "stack of functions": (lambda: ops.Stack(operators=(lambda x: x,)), "`operators` must be LinearOperator objects"),
    "stack domains": (
        lambda: ops.Stack(operators=(ops.Matrix(matrix=EYE), ops.Matrix(matrix=torch.ones(2, 2)))),
        "`operators` must be of one in_shape",
    ),
    "stack precisions": (
        lambda: ops.Stack(operators=(ops.Matrix(matrix=EYE), ops.Matrix(matrix=EYE.double()))),
        "`operators` must be of one precision",
    ),
    "stack names": (
        lambda: ops.Stack(operators=(ops.Matrix(matrix=EYE),), names=("a", "b")),
        "`names` must be of length 1, got 2",
    ),
    "callable not": (lambda: ops.from_callable(3, (2,), (2,)), "`f` must be a function, got int"),
    "callable adjoint not": (
        lambda: ops.from_callable(torch.sin, (2,), (2,), kind="linear", adjoint=3),
        "`adjoint` must be a function, got int",
    ),
    "callable adjoint unasked": (
        lambda: ops.from_callable(torch.sin, (2,), (2,), adjoint=torch.sin),
        "`adjoint` must be given for kind='linear' only",
    ),
    "callable kind": (
        lambda: ops.from_callable(torch.sin, (2,), (2,), kind="blackbox"),
        "`kind` must be one of 'nonlinear', 'linear', 'black box'",
    ),
    "callable dtype": (
        lambda: ops.from_callable(torch.sin, (2,), (2,), dtype=torch.int64),
        "`dtype` must be a real floating torch.dtype or None",
    ),
    "callable cast": (
        lambda: ops.from_callable(torch.sin, (2,), (2,), dtype=F64).to(dtype=torch.float32),
        "works in torch.float64 only",
    ),
    "callable returns a list": (
        lambda: ops.from_callable(lambda x: [x], (2,), (2,))(torch.ones(1, 2)),
        "must return a torch.Tensor, got list",
    ),
    "callable shape": (
        lambda: ops.from_callable(lambda x: x[:, :1], (2,), (2,))(torch.ones(1, 2)),
        r"must return shape \(1, 2\).*got \(1, 1\)",
    ),
    "callable precision": (
        lambda: ops.from_callable(lambda x: x.double(), (2,), (2,))(torch.ones(1, 2)),
        "must return torch.float32 for an input of torch.float32",
    ),
    "callable device": (
        lambda: ops.from_callable(lambda x: x.to("meta"), (2,), (2,))(torch.ones(1, 2)),
        "must return a tensor on cpu",
    ),
    "dense of a nonlinear": (
        lambda: dense_matrix(ops.from_callable(torch.sin, (2,), (2,))),
        "`operator` must be a LinearOperator",
    ),
    "callable not differentiable": (
        lambda: ops.from_callable(lambda x: torch.ones_like(x), (2,), (2,), kind="linear").adjoint(torch.ones(1, 2)),
        "torch cannot differentiate this function",
    ),
    "matrix axes": (lambda: ops.Matrix(matrix=torch.ones(2)), r"`matrix` must be of shape \(m, n\) or \(items, m, n\)"),
    "matrix kind": (lambda: ops.Matrix(matrix=EYE, in_kind="both"), "`in_kind` must be one of 'real', 'complex'"),
    "mask float": (lambda: ops.Mask(mask=torch.ones(2)), "`mask` must be a bool tensor, got torch.float32"),
    "mask shape": (lambda: ops.Mask(mask=mask(3), in_shape=(2,)), r"`mask` must be of shape \(2,\) or \(items, 2\)"),
    "index range": (
        lambda: ops.Subsample(index=torch.tensor([0, 3]), in_shape=(3,)),
        "`index` must be between 0 and 2, got 0 to 3",
    ),
    "gaussian stds": (lambda: ops.GaussianBlur(std=(1.0, 2.0), in_shape=(3,)), "`std` must be a number, or 1 of them"),
    "gaussian dtype": (
        lambda: ops.GaussianBlur(std=1.0, in_shape=(3,), dtype=torch.int32),
        "`dtype` must be a floating torch.dtype, got torch.int32",
    ),
    "mri maps real": (
        lambda: ops.MRI(in_shape=(2, 2), mask=mask(2, 2), maps=torch.ones(1, 2, 2)),
        "`maps` must be a complex tensor, got torch.float32",
    ),
    "mri devices": (
        lambda: ops.MRI(in_shape=(2, 2), mask=mask(2, 2), maps=torch.ones(1, 2, 2, dtype=COMPLEX, device="meta")),
        "`maps` must be on the device of `mask`, cpu, got meta",
    ),
    "sparse crow": (lambda: sparse(crow=torch.ones(3)), "`crow` must be an int32 or int64 tensor, got torch.float32"),
    "sparse col": (lambda: sparse(col=[0, 1]), "`col` must be an int32 or int64 tensor, got list"),
    "sparse values": (
        lambda: sparse(values=torch.ones(2, dtype=torch.int64)),
        "`values` must be a floating or complex",
    ),
    "sparse crow length": (lambda: sparse(crow=torch.tensor([0, 2])), r"`crow` must be of shape \(3,\)"),
    "sparse col length": (lambda: sparse(col=torch.tensor([0])), r"`col` must be of the shape of `values`, \(2,\)"),
    "sparse crow ends": (lambda: sparse(crow=torch.tensor([0, 1, 1])), "`crow` must be non-decreasing from 0 to 2"),
    "sparse crow falls": (lambda: sparse(crow=torch.tensor([0, 3, 2])), "`crow` must be non-decreasing from 0 to 2"),
    "sparse col range": (lambda: sparse(col=torch.tensor([0, 3])), "`col` must be between 0 and 2, got 0 to 3"),
    "sparse NaN": (lambda: sparse(values=torch.tensor([1.0, torch.nan])), "`values` must be finite"),
    "diffraction axes": (lambda: ops.Diffraction(in_shape=(2, 2, 2, 2)), "`in_shape` must be of 1 to 3 axes"),
    "diffraction codes real": (
        lambda: ops.Diffraction(in_shape=(2,), codes=torch.ones(1, 2)),
        "`codes` must be a complex tensor, got torch.float32",
    ),
    "diffraction codes shape": (
        lambda: ops.Diffraction(in_shape=(2, 3), codes=torch.ones(2, 3, dtype=COMPLEX)),
        r"`codes` must be of shape \(patterns, 2, 3\)",
    ),
    "diffraction oversampling": (
        lambda: ops.Diffraction(in_shape=(2,), oversampling=0),
        "`oversampling` must be at least 1",
    ),
    "codes dtype": (lambda: ops.random_codes(2, (3,), dtype=F64), "`dtype` must be a complex torch.dtype"),
    "device": (lambda: ops.Matrix(matrix=EYE)(torch.ones(1, 3, device="meta")), "`x` must be on device cpu, got meta"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        call()


def test_only_operators_compose_and_add():
    A = ops.Matrix(matrix=EYE)
    with pytest.raises(TypeError):
        A @ EYE  # noqa: B018
    with pytest.raises(TypeError):
        A + EYE  # noqa: B018
