"""Operators on flat vectors beside priors and data with axes: the message has the line that gives them axes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

import invsolve as iv
from invsolve.errors import InputError

FIELD = iv.priors.GaussianFieldPrior((6, 6), iv.priors.Matern(std=1.0, length=0.3))
M = scipy.sparse.random(40, 36, density=0.2, random_state=0, format="csr").astype(np.float32)
FLAT = {
    "matrix": (iv.operators.from_scipy(M), "matrix"),
    "operator": (iv.operators.from_scipy(scipy.sparse.linalg.aslinearoperator(M)), "operator"),
    "dense": (iv.operators.Matrix(M.toarray()), r"scipy.sparse.csr_array\(matrix\)"),
}


@pytest.mark.parametrize("kind", FLAT)
def test_the_missing_argument_is_named(kind):
    A, what = FLAT[kind]
    words = rf"takes, \(36,\), got \(6, 6\). With axes in C order: iv.operators.from_scipy\({what}, in_shape=\(6, 6\)\)"
    with pytest.raises(InputError, match=f"solve: `prior` must be of the shape that .* {words}"):
        iv.solve(A, np.zeros(40), FIELD, noise=0.1)
    flat = iv.priors.GaussianPrior(torch.zeros(36), torch.eye(36))
    words = rf"\(batch, 40\), got \({{}}4, 10\). With axes .* iv.operators.from_scipy\({what}, out_shape=\(4, 10\)\)"
    for y, rows in ((np.zeros((4, 10)), ""), (np.zeros((3, 4, 10)), "3, ")):
        with pytest.raises(InputError, match=words.format(rows)):
            iv.solve(A, y, flat, noise=0.1)
    assert iv.solve(A, np.zeros(40), flat, noise=0.1).shape == (36,)


def test_what_it_says_works():
    y = M @ np.ones(36)
    for given in (M, scipy.sparse.csr_array(M.toarray()), scipy.sparse.linalg.aslinearoperator(M)):
        A = iv.operators.from_scipy(given, in_shape=(6, 6), out_shape=(4, 10))
        assert iv.solve(A, y.reshape(4, 10), FIELD, noise=0.1).mean.shape == (6, 6)


def test_other_operators_are_asked_how_they_were_made():
    A = iv.operators.from_callable(lambda x: x, (36,), (36,))
    with pytest.raises(InputError, match=r"have as many entries: is it made with in_shape=\(36,\) instead of \(6, 6\)"):
        iv.solve(A, np.zeros(36), FIELD, noise=0.1)
    for A, y in (
        (iv.operators.from_callable(lambda x: x, (35,), (35,)), np.zeros(35)),
        (iv.operators.Matrix(np.eye(9)), np.zeros(9)),
    ):
        with pytest.raises(InputError, match=r"got \(6, 6\)\.$"):
            iv.solve(A, y, FIELD, noise=0.1)
