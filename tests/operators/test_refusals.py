"""What operators refuse, and in which words."""

from __future__ import annotations

import pytest
import torch
from operator_cases import COMPLEX, F64

import invsolve as iv
from invsolve.operators.dense import dense_matrix

ops = iv.operators


def seen(*shape):
    return torch.ones(shape, dtype=torch.bool)


def sparse(**changes):
    good = {"crow": torch.tensor([0, 1, 2]), "col": torch.tensor([0, 2]), "values": torch.ones(2)}
    return ops.Sparse(**(good | changes), in_shape=(3,), out_shape=(2,))


M23, EYE = torch.ones(2, 3), torch.eye(3)
REFUSED = {
    "items differ": (
        lambda: (ops.Mask(mask=seen(2, 3), in_shape=(3,)) @ ops.Matrix(matrix=torch.ones(4, 3, 3))).batch,
        "one number of items",
    ),
    "rows differ from items": (
        lambda: ops.Matrix(matrix=torch.ones(2, 3, 3))(torch.ones(3, 3)),
        "`x` must be of 2 rows, one for each item",
    ),
    "chain kinds": (
        lambda: ops.Matrix(matrix=EYE) @ ops.Mask(mask=seen(3), kind="complex"),
        "Matrix takes real tensors",
    ),
    "chain shapes": (
        lambda: ops.Matrix(matrix=EYE) @ ops.Mask(mask=seen(4)),
        r"Matrix takes \(3,\), got \(4,\) from Mask",
    ),
    "sum shapes": (lambda: ops.Matrix(matrix=EYE) + ops.Matrix(matrix=M23), r"`out_shape` must be \(3,\), got \(2,\)"),
    "factor infinite": (lambda: float("inf") * ops.Matrix(matrix=EYE), "`factor` must be finite"),
    "factor a string": (lambda: "2" * ops.Matrix(matrix=EYE), "`factor` must be a real number"),
    "matrix a word": (
        lambda: ops.Matrix(matrix="I"),
        "`matrix` must be numbers: a tensor, an array, a list, or the path of a .npy file, got 'I'",
    ),
    "matrix ragged": (
        lambda: ops.Matrix(matrix=[[1.0], [1.0, 2.0]]),
        "`matrix` must be numbers, in rows of one length",
    ),
    "mask kind": (lambda: ops.Mask(mask=seen(3), kind="both"), "`kind` must be one of 'real', 'complex'"),
    "index float": (
        lambda: ops.Subsample(index=torch.ones(2), in_shape=(3,)),
        "`index` must be integers, got torch.float32",
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
        lambda: ops.Blur(kernel=["a"], in_shape=(3,)),
        "`kernel` must be numbers, in rows of one length, got a list of <U1",
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
    "blur symmetric too long": (
        lambda: ops.Blur(kernel=torch.ones(8), in_shape=(3,), boundary="symmetric"),
        r"at most \(7,\) long for boundary='symmetric'",
    ),
    "blur boundary": (
        lambda: ops.Blur(kernel=torch.ones(2), in_shape=(3,), boundary="edge"),
        "`boundary` must be one of 'periodic', 'zero', 'reflect', 'mirror', 'symmetric', 'valid', got 'edge'",
    ),
    "blur boundary of others": (
        lambda: ops.GaussianBlur(1.0, (3,), boundary="wrap"),
        "`boundary` must be one of .*, got 'wrap'. What others call 'wrap' is 'periodic' here",
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
    "mri axes": (lambda: ops.MRI(in_shape=(4,), mask=seen(4)), r"`in_shape` must be \(H, W\) or \(D, H, W\)"),
    "mri mask of others": (
        lambda: ops.MRI(in_shape=(2, 2), mask=torch.full((2, 2), 0.5)),
        "`mask` must be True and False, or 1 and 0, got 4 other values, the first 0.5. Write mask > 0.5",
    ),
    "mri mask shape": (lambda: ops.MRI(in_shape=(2, 2), mask=seen(3, 2)), r"`mask` must be broadcastable to \(2, 2\)"),
    "mri maps shape": (
        lambda: ops.MRI(in_shape=(2, 2), mask=seen(2, 2), maps=torch.ones(3, 2, 3, dtype=torch.complex64)),
        r"`maps` must be of shape \(coils, 2, 2\)",
    ),
    "mri items differ": (
        lambda: ops.MRI(in_shape=(2, 2), mask=seen(3, 2, 2), maps=torch.ones(2, 1, 2, 2, dtype=torch.complex64)),
        "item axes of one length",
    ),
    "mri tau": (
        lambda: ops.MRI(in_shape=(2, 2), mask=seen(2, 2)).solve_normal(
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
        lambda: ops.from_callable(torch.sin, (2,), (2,), dtype=torch.float32).to(dtype=F64),
        "works in torch.float32 only",
    ),
    "callable returns a list": (
        lambda: ops.from_callable(lambda x: ["x"], (2,), (2,))(torch.ones(1, 2)),
        "must return a torch.Tensor or an array, got list",
    ),
    "callable shape": (
        lambda: ops.from_callable(lambda x: x[:, :1], (2,), (2,))(torch.ones(1, 2)),
        r"must return shape \(1, 2\).*got \(1, 1\)",
    ),
    "callable returns complex": (
        lambda: ops.from_callable(lambda x: x + 0j, (2,), (2,))(torch.ones(1, 2)),
        "must return torch.float32 for an input of torch.float32, got torch.complex64. Say in_kind and out_kind",
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
    "mask of others": (
        lambda: ops.Mask(mask=[0, 2]),
        "`mask` must be True and False, or 1 and 0, got 1 other values, .* 2",
    ),
    "mask a word": (lambda: ops.Mask(mask="all"), "`mask` must be True and False: a bool tensor, .*, got 'all'"),
    "index a word": (lambda: ops.Subsample("all", (3,)), "`index` must be integers: a tensor, .*, got 'all'"),
    "index a mask": (lambda: ops.Subsample(seen(3), (3,)), r"`index` must be integers, got torch.bool. .*nonzero\(\)"),
    "mask shape": (lambda: ops.Mask(mask=seen(3), in_shape=(2,)), r"`mask` must be of shape \(2,\) or \(items, 2\)"),
    "index range": (
        lambda: ops.Subsample(index=torch.tensor([0, 3]), in_shape=(3,)),
        "`index` must be between 0 and 2, got 0 to 3",
    ),
    "gaussian stds": (lambda: ops.GaussianBlur(std=(1.0, 2.0), in_shape=(3,)), "`std` must be a number, or 1 of them"),
    "gaussian dtype": (
        lambda: ops.GaussianBlur(std=1.0, in_shape=(3,), dtype=torch.int32),
        "`dtype` must be a floating torch.dtype, got torch.int32",
    ),
    "mri maps a word": (
        lambda: ops.MRI(in_shape=(2, 2), mask=seen(2, 2), maps="espirit"),
        "`maps` must be numbers: a tensor, an array, a list, or the path of a .npy file, got 'espirit'",
    ),
    "mri devices": (
        lambda: ops.MRI(in_shape=(2, 2), mask=seen(2, 2), maps=torch.ones(1, 2, 2, dtype=COMPLEX, device="meta")),
        "`maps` must be on the device of `mask`, cpu, got meta",
    ),
    "sparse crow": (lambda: sparse(crow=torch.ones(3)), "`crow` must be integers, got torch.float32"),
    "sparse col": (lambda: sparse(col=[0.0, 1.0]), "`col` must be integers, got torch.float64"),
    "sparse values": (
        lambda: sparse(values=None),
        "`values` must be numbers: a tensor, an array, a list, or the path of a .npy file, got NoneType",
    ),
    "sparse crow length": (lambda: sparse(crow=torch.tensor([0, 2])), r"`crow` must be of shape \(3,\)"),
    "sparse col length": (lambda: sparse(col=torch.tensor([0])), r"`col` must be of the shape of `values`, \(2,\)"),
    "sparse crow ends": (lambda: sparse(crow=torch.tensor([0, 1, 1])), "`crow` must be non-decreasing from 0 to 2"),
    "sparse crow falls": (lambda: sparse(crow=torch.tensor([0, 3, 2])), "`crow` must be non-decreasing from 0 to 2"),
    "sparse col range": (lambda: sparse(col=torch.tensor([0, 3])), "`col` must be between 0 and 2, got 0 to 3"),
    "sparse NaN": (lambda: sparse(values=torch.tensor([1.0, torch.nan])), "`values` must be finite"),
    "diffraction axes": (lambda: ops.Diffraction(in_shape=(2, 2, 2, 2)), "`in_shape` must be of 1 to 3 axes"),
    "diffraction codes a set": (
        lambda: ops.Diffraction(in_shape=(2,), codes={1}),
        "`codes` must be numbers: a tensor, an array, a list, or the path of a .npy file, got set",
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
