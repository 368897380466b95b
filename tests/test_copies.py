"""Objects that were used are copied, pickled and transformed like new ones; nobody's random numbers are touched."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from operator_cases import CASES as LINEAR
from operator_cases import Numbers
from prior_cases import CASES as PRIORS
from torch import Tensor

import invsolve as iv

ops = iv.operators
F64 = torch.float64
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}
MATRIX = Numbers(9).randn(3, 4)
OPERATORS = {name: A for name, A in LINEAR.items() if not name.startswith("callable")}  # functions are no values
CURVED = {
    "phase retrieval": ops.PhaseRetrieval(operator=ops.Matrix(MATRIX)),
    "saturation": ops.Saturation(in_shape=(4,), high=0.3, softness=0.1),
    "nonlinear blur": ops.NonlinearBlur(blur=ops.Blur(MATRIX[0, :3].abs(), in_shape=(4,)), contrast=1.5),
    "chain": ops.Matrix(MATRIX) @ ops.Saturation(in_shape=(4,), high=0.3, softness=0.1),
}


def same_in_copies(value: Any, use: Callable[[Any], list[Tensor]]) -> None:
    expected = use(value)  # which fills its caches
    for name, made in COPIES.items():
        for a, b in zip(expected, use(made(value)), strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    A = OPERATORS[name]
    x = Numbers(1).signals(A, A.batch or 2)
    same_in_copies(A, lambda A: [A(x), A.adjoint(A(x)), A.normal(x), A.svd(like=x.real).values])


@pytest.mark.parametrize("name", CURVED)
def test_curved_operators_and_their_linearisations(name):
    A = CURVED[name]
    x, dx = Numbers(1).signals(A, 2), Numbers(2).signals(A, 2)
    same_in_copies(A, lambda A: [A(x), A.vjp(x)[1](A(x)), *A.jvp(x, dx)])
    same_in_copies(A.linearize(x), lambda J: [J.value, J(dx), J.adjoint(J(dx))])


@pytest.mark.parametrize("name", PRIORS)
def test_priors_and_posteriors(name):
    prior = PRIORS[name]
    x = Numbers(1).randn(2, *prior.shape)

    def use(prior: iv.priors.Prior) -> list[Tensor]:
        value, pull = prior.pullback(x, 0.5)
        return [value, pull(x), prior.sample(2), *(prior.transport(x)[:1] if prior.has_transport else ())]

    same_in_copies(prior, use)
    if prior.has_posterior:
        posterior = prior.posterior(ops.Mask(torch.ones(prior.shape, dtype=torch.bool)), x, 0.5)
        same_in_copies(posterior, lambda p: [p.mean, p.std, p.sample(2)])


def test_posteriors_by_conjugate_gradients_and_results():
    field = iv.priors.GaussianFieldPrior((40, 40), iv.priors.Matern(std=1.0, length=0.1))
    A = ops.GaussianBlur(std=1.0, in_shape=(40, 40))
    posterior = field.posterior(A, A(field.sample(1)), 0.3)
    same_in_copies(posterior, lambda p: [p.mean])
    result = iv.solve(ops.Matrix(MATRIX), torch.ones(3, dtype=F64), PRIORS_4, noise=0.5, num_samples=8)
    same_in_copies(result, lambda r: [r.samples, r.mean, r.std, r.quantile(0.5)])


PRIORS_4 = iv.priors.GaussianPrior(torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64))


def test_what_was_derived_is_not_copied():
    A = LINEAR["sparse"]
    A(Numbers(1).signals(A, 1))
    assert "_csr" in vars(A) and "_csr" not in vars(copy.copy(A))


# --- torch.func ----------------------------------------------------------------------------------------------------
SCIPY = ops.from_scipy(scipy.sparse.linalg.aslinearoperator(MATRIX.numpy()), in_shape=(4,))
WHOLE = {**LINEAR, **CURVED, "scipy": SCIPY}


@pytest.mark.parametrize("name", WHOLE)
def test_vmap(name):
    A = WHOLE[name]
    x = Numbers(1).signals(A, A.batch or 2)
    many = torch.stack([x, 2 * x, -x])
    assert torch.allclose(torch.func.vmap(A)(many), torch.stack([A(v) for v in many]), atol=1e-12)
    if isinstance(A, ops.LinearOperator):
        y = torch.stack([A(v) for v in many])
        back = torch.func.vmap(A.adjoint)(y)
        assert torch.allclose(back, torch.stack([A.adjoint(v) for v in y]), atol=1e-12)


REAL = [name for name, A in WHOLE.items() if A.in_kind == A.out_kind == "real"]


@pytest.mark.parametrize("name", REAL)
def test_jacobians(name):
    A = WHOLE[name]
    x, dx = (Numbers(s).signals(A, A.batch or 1) for s in (1, 2))
    expected = A.jvp(x, dx)[1]
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        found = (transform(A)(x).flatten(-dx.ndim) * dx.flatten()).sum(-1)
        assert torch.allclose(found, expected, atol=1e-11), transform.__name__
    if isinstance(A, ops.LinearOperator):
        found = (torch.func.jacrev(A.adjoint)(expected).flatten(-expected.ndim) * expected.flatten()).sum(-1)
        assert torch.allclose(found, A.adjoint(expected), atol=1e-11)


@pytest.mark.parametrize("name", ["callable", "callable with adjoint", "sparse", "scipy"])
def test_second_derivatives_through_adjoints(name):
    """Of |A^H A x|^2 / 2: (A^H A)^2."""
    A = WHOLE[name]
    x = Numbers(1).signals(A, 1)

    def size(x: Tensor) -> Tensor:
        return A.adjoint(A(x)).square().sum() / 2

    found = torch.func.hessian(size)(x).view(x.numel(), -1)
    normal = torch.stack([A.normal(e.view_as(x)).flatten() for e in torch.eye(x.numel(), dtype=F64)])
    assert torch.allclose(found, normal @ normal, atol=1e-10)


# --- random numbers ------------------------------------------------------------------------------------------------
def test_nobody_elses_random_numbers_are_touched():
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]

    before = states()
    prior = iv.priors.load("head-mr-128")
    prior.to(dtype=F64)
    iv.solve(ops.Matrix(MATRIX), torch.ones(3, dtype=F64), PRIORS_4, noise=0.5).check()
    iv.calibrate(ops.Matrix(MATRIX), PRIORS_4, noise=0.5, strategy=iv.strategies.Exact(), runs=8, num_samples=19)
    iv.datasets.simulate_mri(iv.datasets.t1_slice(), grid=(16, 16), num_coils=2)
    assert states() == before
