"""Adjoint code of one's own: a `torch.autograd.Function` as it is usually written, or ``vjp=`` and ``jvp=``."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.core import derivatives
from invsolve.core.derivatives import pushforward
from invsolve.core.torch_workarounds import load_forward_mode
from invsolve.errors import InputError, InputTypeError, OperatorError

F64 = torch.float64
N, M = 5, 4
MATRIX = np.random.default_rng(0).standard_normal((M, N))
T = torch.tensor(MATRIX)


def model(x: Tensor) -> Tensor:
    """tanh(M x), which torch differentiates in every way; J = diag(1 - tanh^2) M."""
    return torch.tanh(x @ T.mT)


def jacobian(x: Tensor) -> Tensor:
    return (1 - model(x) ** 2)[:, :, None] * T


def array(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


class InTorch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return model(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return (grad * (1 - torch.tanh(x @ T.mT) ** 2)) @ T


class InNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.tanh(array(x) @ MATRIX.T))

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.from_numpy((array(grad) * (1 - np.tanh(array(x) @ MATRIX.T) ** 2)) @ MATRIX)


class Once(InTorch):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return InTorch.backward(ctx, grad)


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return model(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        return InTorch.backward(ctx, grad)


def partly(x: Tensor) -> Tensor:
    """Its derivative, differentiated, lacks the part of the function that leaves torch, and nothing says so."""
    return InNumpy.apply(x) * torch.exp(x[:, :1])


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], bool]] = {
    "in torch": (InTorch.apply, model, True),
    "without jvp": (NoForwardMode.apply, model, True),
    "in numpy": (InNumpy.apply, model, False),
    "differentiable once": (Once.apply, model, False),
    "in numpy in part": (partly, lambda x: model(x) * torch.exp(x[:, :1]), False),
}
X, DX = (torch.randn(3, N, dtype=F64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    monkeypatch.setattr(derivatives, "_told", set())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_are_those_of_the_jacobian(name):
    """To rounding where a backward pass is differentiated; else to eps^(2/3) = 4e-11 times third derivatives of order 10."""
    f, same, exact = FUNCTIONS[name]
    load_forward_mode()
    y, expected = torch.func.jvp(same, (X,), (DX,))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):  # the second is made as the first was found to work
            value, dy = pushforward(f, X, DX, name)
            assert torch.allclose(value, y, atol=1e-14) and not dy.requires_grad
            assert (dy - expected).norm() <= (1e-14 if exact else 4e-10) * expected.norm()
    assert len(said) == (0 if exact else 1)  # once
    assert exact or "jvp=" in str(said[0].message)
    A = iv.operators.from_callable(f, (N,), (M,), dtype=F64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert iv.testing.check_operator(A).passed


def test_differences_of_rows_without_a_size():
    """A signal of zeros has no size to measure steps with, a direction of zeros no length."""
    x, dx = torch.zeros(2, N, dtype=F64), torch.stack([torch.zeros(N, dtype=F64), DX[0]])
    with pytest.warns(RuntimeWarning, match="central difference"):
        _, dy = pushforward(InNumpy.apply, x, dx, "f")
    assert torch.equal(dy[0], torch.zeros(M, dtype=F64))
    assert (dy[1] - T @ DX[0]).norm() <= 4e-10 * (T @ DX[0]).norm()


def test_complex_differences():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.from_numpy(array(x) ** 2)

        @staticmethod
        def backward(ctx, grad):
            return torch.from_numpy(2 * array(ctx.saved_tensors[0]).conj() * array(grad))

    x, dx = torch.complex(X, DX), torch.complex(DX, X + 1)
    with pytest.warns(RuntimeWarning, match="central difference"):
        _, dy = pushforward(Square.apply, x, dx, "square")
    assert (dy - 2 * x * dx).norm() <= 4e-10 * (2 * x * dx).norm()


def test_errors_of_the_function_are_its_own():
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("the mesh has no cells")

    with pytest.raises(RuntimeError, match="the mesh has no cells"):
        pushforward(broken, X, DX, "broken")

    def full(x: Tensor) -> Tensor:
        full.calls += 1
        raise RuntimeError("CUDA out of memory")

    full.calls = 0
    with pytest.raises(RuntimeError, match="out of memory"):  # which `solve` answers by fewer rows
        pushforward(full, X, DX, "full")
    assert full.calls == 1


def test_objects_without_weak_references_are_looked_at_every_time():
    class Slotted:
        __slots__ = ()

        def f(self, x: Tensor) -> Tensor:
            return InTorch.apply(x)

    for _ in range(2):
        _, dy = pushforward(Slotted().f, X, DX, "slotted")
        assert torch.allclose(dy, torch.einsum("bmn,bn->bm", jacobian(X), DX), atol=1e-13)


# --- products that are given ---------------------------------------------------------------------------------------
def in_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(x.numpy() @ MATRIX.T))


def pull(x: Tensor, v: Tensor) -> Tensor:
    return torch.from_numpy((v.numpy() * (1 - np.tanh(x.numpy() @ MATRIX.T) ** 2)) @ MATRIX)


def push(x: Tensor, dx: Tensor) -> Tensor:
    return torch.from_numpy((dx.numpy() @ MATRIX.T) * (1 - np.tanh(x.numpy() @ MATRIX.T) ** 2))


def given(**products: Callable[..., Tensor]) -> iv.operators.Operator:
    return iv.operators.from_callable(in_numpy, (N,), (M,), dtype=F64, **products)


def test_given_products():
    A = given(vjp=pull, jvp=push)
    y, back = A.vjp(X)
    v = torch.ones(3, M, dtype=F64)
    assert torch.allclose(y, model(X), atol=1e-15) and torch.allclose(
        back(v), torch.einsum("bmn,bm->bn", jacobian(X), v), atol=1e-14
    )
    assert torch.allclose(A.jvp(X, DX)[1], torch.einsum("bmn,bn->bm", jacobian(X), DX), atol=1e-14)
    assert iv.testing.check_operator(A).passed
    with pytest.warns(RuntimeWarning, match=r"`f` \(in_numpy\): has no forward derivative"):
        dy = given(vjp=pull).jvp(X, DX)[1]
    assert (dy - A.jvp(X, DX)[1]).norm() <= 4e-10 * dy.norm()


def test_given_products_inside_a_function_of_torch():
    """Another function calls the operator: torch goes through it backward."""
    A = given(vjp=pull, jvp=push)
    B = iv.operators.from_callable(lambda x: A(2 * x) ** 2, (N,), (M,), dtype=F64)
    same = iv.operators.from_callable(lambda x: model(2 * x) ** 2, (N,), (M,), dtype=F64)
    v = torch.ones(3, M, dtype=F64)
    assert torch.allclose(B.vjp(X)[1](v), same.vjp(X)[1](v), atol=1e-13)
    with pytest.warns(RuntimeWarning, match="central difference"):
        dy = B.jvp(X, DX)[1]
    assert (dy - same.jvp(X, DX)[1]).norm() <= 4e-9 * dy.norm()  # of 2 x: third derivatives are 8 times as large


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(vjp=3), InputTypeError, "`vjp` must be a function, got int"),
        (dict(jvp="x"), InputTypeError, "`jvp` must be a function, got x"),
        (dict(vjp=pull, kind="linear"), InputError, r"`vjp` must be given for kind='nonlinear' only.*adjoint="),
        (dict(jvp=push, kind="black box"), InputError, "`jvp` must be given for kind='nonlinear' only"),
        (dict(adjoint=pull), InputError, "`adjoint` must be given for kind='linear' only.*Give vjp="),
    ],
    ids=["vjp 3", "jvp x", "vjp linear", "jvp box", "adjoint"],
)
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        iv.operators.from_callable(in_numpy, (N,), (M,), **options)


def test_products_are_checked_as_the_function_is():
    with pytest.raises(OperatorError, match=r"`vjp` \(.*lambda.*\) must return shape \(3, 5\)"):
        given(vjp=lambda x, v: v).vjp(X)[1](torch.ones(3, M, dtype=F64))
    with pytest.raises(OperatorError, match=r"`jvp` \(.*lambda.*\) must return shape \(3, 4\)"):
        given(vjp=pull, jvp=lambda x, dx: dx).jvp(X, DX)


# --- posteriors ----------------------------------------------------------------------------------------------------
class Own(iv.operators.Operator):
    """A subclass whose code is such a function."""

    in_shape, out_shape = (N,), (M,)

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def _apply(self, x: Tensor) -> Tensor:
        return self.function(x)


STRATEGIES = {
    "DPS": ivs.DPS(num_steps=4),
    "MMPS": ivs.MMPS(num_steps=4),
    "TMPD": ivs.TMPD(num_steps=4),
    "LGD": ivs.LGD(num_steps=4),
    "PiGDM": ivs.PiGDM(num_steps=4),
    "SMC": ivs.SMC(num_steps=4),
    "DAPS": ivs.DAPS(num_steps=3),
    "PnPDM": ivs.PnPDM(num_steps=4),
    "DiffPIR": ivs.DiffPIR(num_steps=4),
    "REDDiff": ivs.REDDiff(num_steps=4),
    "NoiseMCMC": ivs.NoiseMCMC(chains=16, num_steps=10),
}
PRIOR = iv.priors.GaussianPrior(torch.zeros(N, dtype=F64), torch.eye(N, dtype=F64))
Y = model(X[:1])[0]


@pytest.mark.filterwarnings("ignore:.*central difference:RuntimeWarning")
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_gives_the_samples_of_the_same_model_in_torch(name):
    """Products differ by 4e-11 of their size at most, which a few steps of gain 1 / noise^2 = 100 do not make 1e-6."""

    def samples(A: iv.operators.Operator) -> Tensor:
        return iv.solve(A, Y, PRIOR, noise=0.1, strategy=STRATEGIES[name], num_samples=4, throw=False).samples

    expected = samples(iv.operators.from_callable(model, (N,), (M,), dtype=F64))
    assert torch.isfinite(expected).all()
    for A in (
        iv.operators.from_callable(InTorch.apply, (N,), (M,), dtype=F64),
        iv.operators.from_callable(InNumpy.apply, (N,), (M,), dtype=F64),
        Own(InNumpy.apply),
        given(vjp=pull),
        given(vjp=pull, jvp=push),
    ):
        assert (samples(A) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("f", [lambda x: torch.tensor(x.numpy() ** 2), lambda x: torch.tensor(x.detach().numpy() ** 2)])
def test_code_outside_of_torch_is_told_what_to_give(f):
    """torch's own advice, to detach, would take the derivative away."""
    A = iv.operators.from_callable(f, (3,), (3,))
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3))
    words = (
        r"must be differentiable by torch.*from_callable\(..., vjp=\), or kind='linear' with adjoint=; kind='black box'"
    )
    with pytest.raises(iv.errors.OperatorError, match=words):
        iv.solve(A, torch.ones(3), prior, noise=0.1)
