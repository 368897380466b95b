"""Denoising: `Identity` is the matrix of ones on the diagonal, and takes its shape from the prior."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.core.counting import tally

ops, F64 = iv.operators, torch.float64
PRIOR = iv.priors.GaussianPrior(torch.zeros(2, 3, dtype=F64), torch.eye(6, dtype=F64) + 0.5)
Y = np.arange(6.0).reshape(2, 3)


def test_denoising_is_that_of_the_dense_formula():
    """Posterior of x ~ N(0, C) from y = x + 0.5 n: mean C (C + 0.25)^-1 y, covariance C - C (C + 0.25)^-1 C."""
    C = np.eye(6) + 0.5
    gain = C @ np.linalg.inv(C + 0.25 * np.eye(6))
    for A in (ops.Identity(), ops.Identity(prior_shape := (2, 3)), ops.Mask(np.ones(prior_shape))):
        result = iv.solve(A, Y, PRIOR, noise=0.5, num_samples=2)
        assert result.strategy == "Exact"
        assert np.allclose(result.mean.flatten(), gain @ Y.ravel(), atol=1e-9)
        assert np.allclose(result.std.flatten() ** 2, np.diag(C - gain @ C), atol=1e-9)


def test_closed_forms_cost_nothing_and_are_right():
    A = ops.Identity((2, 3))
    x = torch.arange(12.0).reshape(2, 2, 3)
    assert A.entrywise and A.observed is None and A.gram == 1.0 and A.batch is None and A.dtype is None
    with tally() as calls:
        assert torch.equal(A.pinv(x), x) and torch.equal(A.solve_normal(x, tau=0.5, weight=2.0), x / 2.5)
    assert calls == {"operator": 2, "adjoint": 4}
    assert A(x).data_ptr() != x.data_ptr() != A.adjoint(x).data_ptr()
    spectrum = A.svd()
    assert torch.equal(spectrum.values, torch.ones(2, 3)) and torch.equal(spectrum.to_spectrum(x), x)
    seen = torch.tensor([[True, False, True], [True, True, True]])
    assert torch.equal((A @ ops.Mask(seen)).observed, seen) and torch.equal((ops.Mask(seen) @ A).observed, seen)


def test_files_and_fingerprints(tmp_path):
    A = ops.Identity((2, 3))
    again = pickle.loads(pickle.dumps(A))
    assert again.fingerprint() == A.fingerprint() != ops.Identity((3, 2)).fingerprint()
    assert (
        A.fingerprint() != ops.Identity((2, 3), kind="complex").fingerprint() != ops.Mask(np.ones((2, 3))).fingerprint()
    )
    assert A.to(dtype=F64).in_shape == A.take(torch.tensor([0])).in_shape == (2, 3)
    result = iv.solve(A, Y, PRIOR, noise=0.5, num_samples=19)
    problem = iv.Problem(A, Y, noise=0.5).to(dtype=F64)
    result.save(tmp_path / "r.nc")
    assert iv.load_result(tmp_path / "r.nc", problem=problem, prior=PRIOR).check() is not None


def test_shape_and_kind_are_those_of_the_prior():
    """Where `solve`, `calibrate` and `advise` get one; of complex signals too."""
    z = iv.priors.GaussianPrior(torch.zeros(3, dtype=torch.complex64), torch.eye(3))
    assert torch.allclose(iv.solve(ops.Identity(), torch.full((3,), 2j), z, noise=1.0).mean, torch.tensor(1j))
    assert iv.calibrate(ops.Identity(), PRIOR, noise=0.5, runs=20, num_samples=9).passed
    assert "Exact" in str(iv.strategies.advise(ops.Identity(), PRIOR, noise=0.5))
    with pytest.raises(iv.errors.InputError, match="`prior` must be complex, as Identity takes"):
        iv.solve(ops.Identity(kind="complex"), Y, PRIOR, noise=0.5)


def test_refusals():
    unknown = ops.Identity()
    assert repr(unknown) == "Identity()" and repr(ops.Identity((3,))) == "Identity((3,) -> (3,), real)"
    for call in (lambda: iv.Problem(unknown, Y, noise=0.1), lambda: ops.Mask(np.ones(3)) @ unknown, lambda: unknown(Y)):
        with pytest.raises(
            iv.errors.InputError, match=r"Identity: `in_shape` must be given .* Identity\(prior.shape\)"
        ):
            call()
    with pytest.raises(iv.errors.InputError, match="Identity: `kind` must be one of"):
        ops.Identity((3,), kind="both")
    with pytest.raises(iv.errors.InputTypeError, match="Identity: `in_shape` must be a tuple"):
        ops.Identity(3)
