"""Every operator keeps the contract (`check_operator`), agrees with its dense matrix, and obeys the algebra of matrices."""

from __future__ import annotations

import pytest
import torch
from operator_cases import CASES, COMPLEX, F64, Numbers, pinv_error, stacked

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.operators.base import Operator
from invsolve.operators.dense import dense_matrix

ops = iv.operators


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_contract_in_float64_and_float32(A):
    assert iv.testing.check_operator(A).passed
    if not (A.dtype == F64 and "Callable" in type(A).__name__):
        assert iv.testing.check_operator(A.to(dtype=torch.float32)).passed


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_dense_form_norm_pinv_and_normal_equations(A):
    """Against the singular values and the inverse of the dense matrix."""
    draw = Numbers(1)
    matrix = dense_matrix(A, dtype=F64)
    items = matrix if A.batch is not None else matrix[None]
    rows = len(items)
    x, y = draw.signals(A, rows), draw.data(A, rows)
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
    assert far <= pinv_error(items, getattr(A, "normal_rtol", 0.0)) * x.abs().max()


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_weighted_normal_equations_and_the_pseudo_inverse_of_any_data(A):
    """Weights per datum, and data outside the range of A, against the dense matrix."""
    draw = Numbers(1)
    matrix = dense_matrix(A, dtype=F64)
    rows = A.batch or 2
    matrix = matrix.expand(rows, *matrix.shape[-2:])
    x, y = draw.signals(A, rows), draw.data(A, rows)
    weight = draw.rand(rows, *A.out_shape) + 0.1
    flat = stacked(torch.complex(weight, weight)) if A.out_kind == "complex" else weight.flatten(1)
    system = matrix.mT @ (flat[..., None] * matrix) + 0.3 * torch.eye(matrix.shape[-1], dtype=F64)
    solved = A.solve_normal(x, weight=weight, tau=0.3, rtol=1e-13, max_iter=3000)
    assert torch.allclose(stacked(solved), torch.linalg.solve(system, stacked(x)[..., None])[..., 0], atol=1e-8)
    least = (torch.linalg.pinv(matrix, rtol=1e-9) @ stacked(y)[..., None])[..., 0]
    far = (stacked(A.pinv(y, rtol=1e-14, max_iter=5000)) - least).abs().max()
    assert far <= pinv_error(matrix, getattr(A, "normal_rtol", 0.0)) * least.abs().max()


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_torch_differentiates_operator_and_adjoint(A):
    """What users get who differentiate through A by themselves: the adjoint, twice over, also in forward mode."""
    draw = Numbers(1)
    rows = A.batch or 2
    x, y = draw.signals(A, rows).requires_grad_(), draw.data(A, rows).requires_grad_()
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
    draw = Numbers(1)
    x, y = draw.signals(A, A.batch or 2), draw.data(A, A.batch or 2)
    if A.batch is None:
        assert A(x[:0]).shape == (0, *A.out_shape) and A.adjoint(y[:0]).shape == (0, *A.in_shape)
    assert torch.allclose(A(x.conj()), A(x.conj().resolve_conj().clone()), atol=1e-12)
    assert torch.allclose(A.adjoint(y.conj()), A.adjoint(y.conj().resolve_conj().clone()), atol=1e-12)
    broken = x.clone()
    broken[1] = torch.nan
    assert torch.allclose(A(broken)[0], A(x)[0], atol=1e-12)


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_fingerprints_and_counts(A):
    draw = Numbers(1)
    assert A.fingerprint() == A.fingerprint()
    x = draw.randn(A.batch or 3, *A.in_shape, dtype=COMPLEX if A.in_kind == "complex" else F64)
    with tally() as calls:
        A(x)
        A.normal(x)
    assert calls == {"operator": 2 * len(x), "adjoint": len(x)}
    assert str(A.in_shape) in repr(A) and "\n" not in repr(A)


def test_fingerprints_differ_with_the_parameters():
    assert len({A.fingerprint() for A in CASES.values()}) == len(CASES)
    assert ops.Matrix(matrix=torch.eye(2)).fingerprint() == ops.Matrix(matrix=torch.eye(2)).fingerprint()


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_the_public_solves_check_for_every_operator(A):
    """Subclasses replace the private ones, which get tensors that are checked."""
    assert type(A).pinv is iv.operators.LinearOperator.pinv
    assert type(A).solve_normal is iv.operators.LinearOperator.solve_normal
    draw = Numbers(1)
    rows = A.batch or 2
    x, y = draw.signals(A, rows), draw.data(A, rows)
    with pytest.raises(iv.errors.InputError, match=f"{type(A).__name__}: `y` must"):
        A.pinv(y[..., :-1])
    with pytest.raises(iv.errors.InputError, match=f"{type(A).__name__}: `rhs` must"):
        A.solve_normal(x[..., :-1], tau=1.0)
    with pytest.raises(iv.errors.InputError, match=f"{type(A).__name__}: `start` must"):
        A.solve_normal(x, tau=1.0, start=x[..., :-1])
    with pytest.raises(iv.errors.InputError, match=f"{type(A).__name__}: `tau` must be positive"):
        A.solve_normal(x, tau=0.0)


def test_what_a_new_operator_must_write():
    """Its shapes and one method, two if it is linear; all else follows."""

    class Square(Operator):
        in_shape = out_shape = (3,)

        def _apply(self, x):
            return x**2

    class Steps(iv.operators.LinearOperator):
        in_shape, out_shape = (3,), (2,)

        def _apply(self, x):
            return x.diff(dim=1)

        def _adjoint(self, y):
            return torch.stack([-y[:, 0], y[:, 0] - y[:, 1], y[:, 1]], 1)

    assert Operator.__abstractmethods__ == {"_apply"}
    assert iv.operators.LinearOperator.__abstractmethods__ == {"_apply", "_adjoint"}
    assert iv.testing.check_operator(Square()).passed and iv.testing.check_operator(Steps()).passed
    A, y = Steps(), torch.tensor([[1.0, 2.0]])
    assert torch.allclose(A(A.pinv(y)), y, atol=1e-5)
    assert torch.allclose(A.svd().values, torch.tensor([3.0, 1.0, 0.0]).sqrt(), atol=1e-6)


# --- algebra, items, derivatives -----------------------------------------------------------------------------------
def test_algebra_is_that_of_matrices():
    draw = Numbers(1)
    a, b, x = draw.randn(3, 5), draw.randn(4, 3), draw.randn(2, 5)
    A, B = ops.Matrix(matrix=a), ops.Matrix(matrix=b)
    assert torch.allclose((B @ A)(x), x @ (b @ a).T)
    assert torch.allclose((2 * A)(x), 2 * x @ a.T)
    assert torch.allclose((A + 2 * A)(x), 3 * x @ a.T)
    assert torch.allclose((B @ A).H(draw.randn(2, 4)[:, :4] * 0 + 1), torch.ones(2, 4, dtype=F64) @ (b @ a))
    assert isinstance(A.H.H, iv.operators.LinearOperator) and torch.allclose(A.H.H(x), A(x))


def test_a_chain_with_a_nonlinear_link_differentiates():
    draw = Numbers(1)
    A = ops.Matrix(matrix=draw.randn(3, 5))
    sine = ops.from_callable(torch.sin, (3,), (3,), dtype=F64)
    chain = sine @ A
    assert not isinstance(chain, iv.operators.LinearOperator)
    assert iv.testing.check_operator(chain).passed
    x = draw.randn(2, 5)
    J = chain.linearize(x)
    assert J.batch == 2 and iv.testing.check_operator(J).passed
    want = torch.cos(A(x)) * A(x * 0 + 1)
    assert torch.allclose(J(torch.ones_like(x)), want)
    assert torch.allclose(J.take(torch.tensor([1]))(torch.ones(1, 5, dtype=F64)), want[1:])
    assert torch.allclose(J.value, torch.sin(A(x)))
    assert A.linearize(x) is A


def test_nonlinear_stack_and_observed_through_wrappers():
    draw = Numbers(1)
    both = ops.NonlinearStack(
        operators=(ops.from_callable(torch.sin, (4,), (4,), dtype=F64), ops.Mask(mask=draw.mask(4)))
    )
    assert iv.testing.check_operator(both).passed
    M = ops.Mask(mask=torch.tensor([True, False]))
    assert torch.equal((M @ ops.Matrix(matrix=torch.eye(2))).observed, M.mask)
    assert torch.equal((2 * M).observed, M.mask) and torch.equal((M + M).observed, M.mask)
    assert (M + ops.Matrix(matrix=torch.eye(2))).observed is None
    assert torch.equal(M.H.observed, M.mask) and ops.Matrix(matrix=torch.eye(2)).H.observed is None


def test_functions_of_any_precision_and_outputs_that_do_not_depend_on_the_input():
    A = ops.from_callable(lambda x: torch.ones_like(x) + 0 * x, (2,), (2,))
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


def test_only_operators_compose_and_add():
    A = ops.Matrix(torch.eye(3))
    with pytest.raises(TypeError):
        A @ torch.eye(3)  # noqa: B018
    with pytest.raises(TypeError):
        A + torch.eye(3)  # noqa: B018
