"""Functions of users in numpy, and of one signal: called so that they work, or told what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.core.user_functions import Either
from invsolve.errors import InputError, InputTypeError, OperatorError

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # torch's, of np.abs(tensor)
F64 = torch.float64
PRIOR = iv.priors.GaussianPrior(torch.zeros(2, 3, dtype=F64), torch.eye(6, dtype=F64))
RESULT = iv.solve(iv.operators.Identity(), torch.ones(2, 3, dtype=F64), PRIOR, noise=0.5, num_samples=9)
X = RESULT.samples.numpy()
H = np.random.default_rng(1).normal(size=(5, 8))


# --- map, functionals ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("function", "want"),
    [
        (lambda x: np.sum(x, axis=(1, 2)), X.sum((1, 2))),
        (lambda x: np.mean(x, axis=(1, 2), keepdims=True), X.mean((1, 2), keepdims=True)),
        (lambda x: np.quantile(x, 0.5, axis=(1, 2)), np.quantile(X, 0.5, axis=(1, 2))),
        (lambda x: x.astype(np.float32).max((1, 2)), X.astype(np.float32).max((1, 2))),
        (lambda x: np.array([[1.0, 2.0]]) @ x, np.array([[1.0, 2.0]]) @ X),
        (np.abs, abs(X)),
        (np.fft.fft2, np.fft.fft2(X)),
        (lambda x: np.argmax(x.reshape(len(x), -1), axis=1), X.reshape(9, -1).argmax(1)),
    ],
)
def test_map_takes_functions_of_numpy(function, want):
    np.testing.assert_allclose(RESULT.map(function).samples, want, rtol=1e-6)


@pytest.mark.parametrize("function", [np.sum, np.max, np.linalg.norm, np.median, torch.sum, lambda x: float(x.sum())])
def test_map_takes_functions_of_one_sample(function):
    want = [float(function(x if "numpy" in str(type(function)) else torch.tensor(x))) for x in X]
    found = RESULT.map(function, batched=False)
    np.testing.assert_allclose(found.samples, want, rtol=1e-12)
    assert found.mean.shape == () and found.interval(0.8).low <= found.median <= found.interval(0.8).high
    with pytest.raises(
        InputError, match=r"of 9 rows, .*got \(\). x has all samples, \(9, 2, 3\): .*axis=\(1, 2\).*batched=False"
    ):
        RESULT.map(function)


def test_map_of_one_sample_keeps_shapes_and_refuses_others():
    np.testing.assert_array_equal(RESULT.map(lambda x: x[0], batched=False).samples, X[:, 0])
    with pytest.raises(InputError, match=r"of one shape for every signal, got \(\d,\) and \(\d,\)"):
        RESULT.map(lambda x: x[x > 1], batched=False)
    with pytest.raises(InputTypeError, match="map: `batched` must be True or False, got int"):
        RESULT.map(abs, batched=1)
    with pytest.raises(InputTypeError, match="map: `function` must be a function, got 'abs'"):
        RESULT.map("abs")


def test_functionals_of_calibrate_may_be_in_numpy():
    A, prior = iv.operators.Identity((8,)), iv.priors.GaussianPrior(torch.zeros(8), torch.eye(8))
    both = {"torch": lambda x: x.sum(1), "numpy": lambda x: np.sum(x, axis=1)}
    report = iv.calibrate(A, prior, 0.5, runs=4, num_samples=7, functionals=both)
    ranks = dict(zip(report.names, report.ranks.T, strict=True))
    assert torch.equal(torch.as_tensor(ranks["torch"]), torch.as_tensor(ranks["numpy"]))
    with pytest.raises(
        InputError, match=r"functionals\['s'\]\(x\)` must be of shape \(\d+,\), .*got \(\). x has all .*axis=\(1,\)"
    ):
        iv.calibrate(A, prior, 0.5, runs=4, num_samples=7, functionals={"s": np.sum})


# --- operators and denoisers -----------------------------------------------------------------------------------------
def test_operators_take_functions_of_numpy():
    """A solver in numpy and its adjoint, of a signal and of rows, without a conversion: the matrix that it is."""
    want, x = torch.as_tensor(H), torch.randn(3, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    one = iv.operators.from_callable(
        lambda x: H @ x, (8,), (5,), kind="linear", adjoint=lambda y: H.T @ y, batched=False
    )
    rows = iv.operators.from_callable(
        lambda x: np.einsum("ij,bj->bi", H, x, optimize=True),
        (8,),
        (5,),
        kind="linear",
        adjoint=lambda y: y.astype(float) @ H,
    )
    box = iv.operators.from_callable(lambda x: np.sum(H * x, axis=1), (8,), (5,), kind="black box", batched=False)
    for A in (one, rows, box):
        assert torch.allclose(A(x), x @ want.mT) and torch.allclose(A(x[:1]), x[:1] @ want.mT)
    for A in (one, rows):
        assert iv.testing.check_operator(A).passed
    denoiser = iv.priors.from_denoiser(lambda x, s: np.sum([x, x], axis=0) / 4, (8,), mean=0.0, scale=1.0)
    assert torch.allclose(denoiser.denoise(x.float(), 1.0), x.float() / 2)


SEEN: list[type] = []


def doubled(x):
    SEEN.append(type(x))
    return 2 * x.astype(np.float64)


def test_a_function_of_numpy_is_found_out_once():
    SEEN.clear()
    either = Either(doubled)
    for _ in range(2):
        assert isinstance(either(torch.ones(2)), np.ndarray)
    assert SEEN == [torch.Tensor, np.ndarray, np.ndarray]
    A = iv.operators.from_callable(doubled, (2,), (2,), kind="black box")
    before = A.fingerprint()
    A(torch.ones(1, 2)), A(torch.ones(1, 2))
    assert SEEN[3:] == [torch.Tensor, np.ndarray, np.ndarray] and A.fingerprint() == before
    assert Either(np.abs).in_numpy and Either(np.sum).in_numpy and not Either(torch.sum).in_numpy


def test_what_fails_both_ways_is_what_it_was_with_tensors():
    def broken(x):
        return x.nothing

    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'nothing'") as caught:
        RESULT.map(broken)
    assert caught.value.__notes__[0].startswith("With arrays of numpy in place of torch tensors: AttributeError")
    assert caught.value.__cause__ is None


ONE = {
    "numpy, another size": (
        lambda x: H @ np.asarray(x),
        "linear",
        r"a batch, \(1, 8\), for which it gives ValueError: ",
    ),
    "an array times it": (lambda x: H @ x, "linear", "for which it gives TypeError"),
    "torch": (lambda x: torch.as_tensor(H, dtype=x.dtype) @ x, "nonlinear", "for which it gives RuntimeError: "),
    "another shape": (
        lambda x: H @ np.asarray(x),
        "black box",
        r"a batch, \(8, 8\), for which it gives shape \(5, 8\)",
    ),
    "a number": (lambda x: np.ones(5) * np.sum(x), "black box", r"for which it gives shape \(5,\)"),
}


@pytest.mark.parametrize("case", ONE)
def test_a_function_of_one_signal_is_told_to_say_so(case):
    f, kind, got = ONE[case]
    A = iv.operators.from_callable(f, (8,), (5,), kind=kind)
    said = r"`f` \(.*<lambda>\) is a function of one signal, \(8,\). Say so: from_callable\(..., batched=False\). .*"
    with pytest.raises(OperatorError, match=said + got):
        A(torch.ones(8 if kind == "black box" else 1, 8))
    assert iv.operators.from_callable(f, (8,), (5,), kind=kind, batched=False)(torch.ones(2, 8)).shape == (2, 5)


def test_own_adjoints_of_one_signal_are_told_too():
    A = iv.operators.from_callable(lambda x: x @ H.T, (8,), (5,), kind="linear", adjoint=lambda y: H.T @ np.asarray(y))
    with pytest.raises(OperatorError, match=r"`adjoint` \(.*\) is a function of one signal, \(5,\)"):
        A.adjoint(torch.ones(1, 5))


def test_which_of_several_functions_gives_another_shape():
    A = iv.operators.from_callable(lambda x: H @ x, (8,), (5,), batched=False, vjp=lambda x, v: v)
    with pytest.raises(
        OperatorError, match=r"`vjp` = .* must return shape \(8,\) for one input of shape \(8,\), got \(5,\)"
    ):
        A.vjp(torch.ones(1, 8))[1](torch.ones(1, 5))


def test_the_matrix_of_a_function_without_adjoint():
    """What the message says works."""
    A = iv.operators.from_callable(lambda x: H @ x, (8,), (5,), kind="linear", batched=False)
    y = torch.ones(1, 5)
    with pytest.raises(OperatorError, match=r"iv.operators.Matrix\(A\(np.eye\(8\)\).T\)"):
        A.adjoint(y)
    assert torch.allclose(iv.operators.Matrix(A(np.eye(8)).T).adjoint(y), y @ torch.as_tensor(H).float())


# --- affine and other maps that are no linear ones --------------------------------------------------------------------
UNIT = iv.priors.GaussianPrior(torch.zeros(8, dtype=F64), torch.eye(8, dtype=F64))


@pytest.mark.parametrize("adjoint", [None, lambda y: y @ torch.as_tensor(H, dtype=y.dtype)])
def test_an_affine_operator_is_called_that(adjoint):
    b = np.arange(5.0)

    def f(x):
        return x @ torch.as_tensor(H, dtype=x.dtype).mT + torch.as_tensor(b, dtype=x.dtype)

    A = iv.operators.from_callable(f, (8,), (5,), kind="linear", adjoint=adjoint)
    said = r"must be linear, as it says. A\(0\) is not 0 \(largest entry 4\): it is affine, f\(x\) = L x \+ f\(0\)"
    y = np.ones(5)
    with pytest.raises(OperatorError, match=said):
        iv.solve(A, y, UNIT, noise=0.1)
    with pytest.raises(OperatorError, match=r"A\(0\) is not 0 .* lambda x: f\(x\) - f\(0 \* x\)"):
        iv.testing.check_operator(A)
    linear = iv.operators.from_callable(lambda x: f(x) - f(0 * x), (8,), (5,), kind="linear", adjoint=adjoint)
    found = iv.solve(linear, y - b, UNIT, noise=0.1)  # as the message says
    known = iv.solve(iv.operators.Matrix(H), y - b, UNIT, noise=0.1)
    assert torch.allclose(found.mean, known.mean, atol=1e-8)


def test_an_operator_that_is_not_linear_is_called_that():
    A = iv.operators.from_callable(lambda x: x[:, :5] ** 2, (8,), (5,), kind="linear", adjoint=lambda y: y @ H)
    with pytest.raises(OperatorError, match=r"must be linear, as it says. A\(x \+ z\) is not A\(x\) \+ A\(z\)"):
        iv.solve(A, np.ones(5), UNIT, noise=0.1)
    wrong = iv.operators.from_callable(lambda x: x @ H.T, (8,), (5,), kind="linear", adjoint=lambda y: 2 * (y @ H))
    with pytest.raises(OperatorError, match="must have the adjoint it states"):  # a linear one
        iv.solve(wrong, np.ones(5), UNIT, noise=0.1)
