"""scipy operators whose products take vectors of one axis only: astra's OpTomo, functions of users."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator

import invsolve as iv

ops = iv.operators
MATRIX = np.random.default_rng(0).integers(-2, 3, (6, 4)).astype(np.float32)
X = torch.tensor([[1.0, 2, 0, -1], [0, 1, 1, 3]])


class Tomo(LinearOperator):
    """What astra's OpTomo demands: float32, C-contiguous, of the shape of the image or of one axis; an adjoint in T."""

    def __init__(self) -> None:
        self.dtype, self.shape, self.vshape = np.float32, (6, 4), (2, 2)
        self.calls = 0

    def _checked(self, v: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        self.calls += 1
        v = v.reshape(shape) if v.ndim == 1 else v
        if v.shape != shape or v.dtype != np.float32 or not v.flags["C_CONTIGUOUS"]:
            raise ValueError(
                f"The dimensions of the data {v.shape} do not match those specified in the geometry {shape}"
            )
        return v

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return MATRIX @ self._checked(v, (2, 2)).ravel()

    def rmatvec(self, s: np.ndarray) -> np.ndarray:
        return MATRIX.T @ self._checked(s, (2, 3)).ravel()

    def _adjoint(self) -> LinearOperator:
        raise AssertionError("astra's own is a class of its own")


def test_an_operator_like_astras():
    A = ops.from_scipy(Tomo(), (2, 2), (2, 3))
    x = X.view(2, 2, 2)
    assert torch.equal(A(x).flatten(1), X @ torch.from_numpy(MATRIX.T))
    assert torch.equal(A(x.double()), A(x).double())  # computed in its own precision
    assert iv.testing.check_operator(A).passed


@pytest.mark.parametrize("form", ["vector", "sum", "scaled", "adjoint"])
def test_functions_of_vectors(form):
    """np.convolve refuses what has two axes."""

    def convolve(v: np.ndarray) -> np.ndarray:
        return np.convolve(v, [1.0, 2.0, 1.0])

    def correlate(v: np.ndarray) -> np.ndarray:
        return np.correlate(v, [1.0, 2.0, 1.0], "valid")

    blur = LinearOperator((6, 4), matvec=convolve, rmatvec=correlate, dtype=float)
    operator = {"vector": blur, "sum": blur + blur, "scaled": 2 * blur, "adjoint": blur.H.H}[form]
    A = ops.from_scipy(operator)
    factor = 2 if form in ("sum", "scaled") else 1
    assert torch.equal(A(X), factor * torch.tensor(np.stack([convolve(row) for row in X.numpy()])).float())
    assert iv.testing.check_operator(A).passed


def test_products_of_matrices_are_used_where_they_are_given():
    seen = []

    def many(columns: np.ndarray) -> np.ndarray:
        seen.append(columns.shape)
        return MATRIX @ columns

    def one(v: np.ndarray) -> np.ndarray:
        raise AssertionError("of one vector")

    operator = LinearOperator((6, 4), matvec=one, matmat=many, rmatvec=lambda v: MATRIX.T @ v, dtype=np.float32)
    A = ops.from_scipy(operator)
    assert torch.equal(A(X), X @ torch.from_numpy(MATRIX.T)) and seen == [(4, 2)]
    assert torch.allclose(A.adjoint(A(X)), A(X) @ torch.from_numpy(MATRIX))


def test_astra_itself():
    """Projections of a disc, and the posterior, against the dense matrix of the same projector."""
    astra = pytest.importorskip("astra")
    n, angles = 8, np.linspace(0, np.pi, 6, endpoint=False)
    volume, beams = astra.create_vol_geom(n, n), astra.create_proj_geom("parallel", 1.0, 12, angles)
    W = astra.OpTomo(astra.create_projector("linear", beams, volume))
    dense = np.stack([W @ unit for unit in np.eye(n * n, dtype=np.float32)], 1)
    A = ops.from_scipy(W, W.vshape, W.sshape)
    assert iv.testing.check_operator(A).passed
    prior = iv.priors.GaussianFieldPrior((n, n), iv.priors.Matern(std=1.0, length=0.3))
    truth = prior.sample(1, seed=1)
    y = A(truth)[0].numpy() + 0.1 * np.random.default_rng(0).standard_normal((6, 12))
    rows = truth.flatten(1) @ torch.from_numpy(dense.T)
    assert (A(truth).flatten(1) - rows).abs().max() <= 1e-5 * rows.abs().max()
    flat = ops.from_callable(lambda x: x.flatten(1), (n, n), (n * n,), kind="linear")
    one, other = (iv.solve(B, b, prior, 0.1) for B, b in ((A, y), (ops.Matrix(dense) @ flat, y.ravel())))
    assert torch.allclose(one.samples, other.samples, atol=1e-3)  # float32: 1e-7 times a gain of 1 / 0.1^2 and more
