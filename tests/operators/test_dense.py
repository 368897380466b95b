"""The dense matrix of an operator: real, stacked, whatever the kinds and the item axis."""

from __future__ import annotations

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.operators.dense import dense_matrix

F64, C128 = torch.float64, torch.complex128
REAL = torch.randn(3, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
COMPLEX = torch.randn(3, 5, dtype=C128, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[True, False, True], [False, True, True]])


def block(matrix):
    """[Re; Im] of ``matrix @ z`` as a real matrix acting on [Re z; Im z]."""
    return torch.cat([torch.cat([matrix.real, -matrix.imag], 1), torch.cat([matrix.imag, matrix.real], 1)])


def test_a_matrix_is_itself():
    assert torch.equal(dense_matrix(iv.operators.Matrix(matrix=REAL)), REAL)


def test_complex_is_stacked():
    assert torch.allclose(dense_matrix(iv.operators.Matrix(matrix=COMPLEX)), block(COMPLEX), atol=1e-15)


def test_real_signals_seen_through_a_complex_matrix():
    got = dense_matrix(iv.operators.Matrix(matrix=COMPLEX, in_kind="real"))
    assert torch.allclose(got, torch.cat([COMPLEX.real, COMPLEX.imag]), atol=1e-15)


def test_several_axes_are_flattened():
    got = dense_matrix(iv.operators.Mask(mask=MASK))
    assert torch.equal(got, torch.diag(MASK.flatten().to(F64)))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 1024])
@pytest.mark.parametrize("matrix", [REAL, COMPLEX], ids=["real", "complex"])
def test_an_item_axis_leads_whatever_the_rows_of_a_call(matrix, rows):
    items = torch.stack([matrix, 2 * matrix, -matrix])
    got = dense_matrix(iv.operators.Matrix(matrix=items), rows=rows)
    want = torch.stack([block(m) if m.is_complex() else m for m in items])
    assert torch.allclose(got, want, atol=1e-15)
    assert torch.allclose(dense_matrix(iv.operators.Matrix(matrix=matrix), rows=rows), want[0], atol=1e-15)


def test_one_item_keeps_its_axis():
    assert dense_matrix(iv.operators.Matrix(matrix=REAL[None])).shape == (1, 3, 5)


def test_the_adjoint_is_the_transpose():
    A = iv.operators.Matrix(matrix=COMPLEX, in_kind="real")
    assert torch.allclose(dense_matrix(A.H), dense_matrix(A).mT, atol=1e-15)


def test_precision():
    """An operator works in its own precision, else in the one asked for, else in float64; the answer is float64."""
    seen = []

    def double(x):
        seen.append(x.dtype)
        return 2 * x

    narrow = iv.operators.Matrix(matrix=REAL.float())
    assert torch.equal(dense_matrix(narrow, dtype=F64), REAL.float().double())
    free = iv.operators.from_callable(double, (2,), (2,), kind="linear")
    for dtype in (None, torch.float32, torch.complex64, F64):
        seen.clear()
        got = dense_matrix(free, dtype=dtype)
        assert torch.equal(got, 2 * torch.eye(2, dtype=F64))
        assert set(seen) == {torch.float32 if dtype in (torch.float32, torch.complex64) else F64}


def test_refused():
    with pytest.raises(InputTypeError, match="`operator` must be a LinearOperator, got .*linearize"):
        dense_matrix(iv.operators.from_callable(torch.sin, (2,), (2,)))
    with pytest.raises(InputTypeError, match="`operator` must be a LinearOperator, got Tensor"):
        dense_matrix(REAL)
    with pytest.raises(InputError, match="dense_matrix: `rows` must be at least 1, got 0"):
        dense_matrix(iv.operators.Matrix(matrix=REAL), rows=0)
    with pytest.raises(InputTypeError, match="`rows` must be an integer"):
        dense_matrix(iv.operators.Matrix(matrix=REAL), rows=1.5)
