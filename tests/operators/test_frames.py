"""A sequence measured frame by frame: block diagonal, closed forms kept, and a temporal prior that couples the frames."""

from __future__ import annotations

import pytest
import torch
from operator_cases import COMPLEX, F64, Numbers, stacked

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.operators.dense import dense_matrix

ops = iv.operators


def dynamic(draw, frames=3, shape=(4, 5), coils=2, **options):
    maps = draw.randn(coils, *shape, dtype=COMPLEX) if coils else None
    return ops.MRI(draw.mask(frames, *shape), shape, maps=maps, **options)


def test_blocks_are_the_items():
    draw = Numbers(1)
    one = dynamic(draw)
    A = ops.Frames(one)
    x = draw.randn(2, 3, 4, 5, dtype=COMPLEX)
    assert A.in_shape == (3, 4, 5) and A.out_shape == (3, 2, 4, 5) and A.batch is None
    assert torch.equal(A.observed, one.observed)
    assert torch.equal(A(x), torch.stack([one(row) for row in x]))
    assert torch.equal(A.take(torch.tensor([1]))(x[1:]), A(x)[1:])
    blocks = dense_matrix(one, dtype=F64)  # (frames, data, unknowns), real and imaginary parts behind each other
    whole = dense_matrix(A, dtype=F64)
    y = (blocks @ stacked(x.flatten(0, 1)).view(2, 3, -1, 1))[..., 0]
    found = stacked((whole @ stacked(x)[..., None])[..., 0].view(2, 2, -1).movedim(1, 2).contiguous().view(2, -1))
    assert torch.allclose(torch.view_as_real(A(x)).flatten(), found.flatten(), atol=1e-12)
    assert torch.allclose(stacked(A(x).flatten(0, 1)).view(2, 3, -1), y, atol=1e-12)


def test_closed_forms_stay_closed():
    """Of one coil: no conjugate gradients for `solve_normal` and `pinv`, and a spectrum of any size."""
    draw = Numbers(2)
    A = ops.Frames(dynamic(draw, 4, (40, 41), coils=0))
    x, y = draw.randn(2, *A.in_shape, dtype=COMPLEX), draw.randn(2, *A.out_shape, dtype=COMPLEX)
    weight = draw.rand(2, *A.out_shape) + 0.1
    with tally() as calls:
        solved = A.solve_normal(x, weight=weight, tau=0.3)
        A.pinv(y)
    assert calls == {"operator": 8, "adjoint": 16}  # frames, once each
    assert torch.allclose(A.adjoint(weight * A(solved)) + 0.3 * solved, x, atol=1e-10)
    spectrum = A.svd(like=x.real)
    assert spectrum.shape == A.in_shape and spectrum.values.dtype == F64
    back = spectrum.data_from_spectrum(spectrum.values * spectrum.to_spectrum(x))
    assert torch.allclose(back, A(x), atol=1e-12)


def test_start_of_the_iterations_is_used():
    draw = Numbers(3)
    A = ops.Frames(dynamic(draw))
    x = draw.randn(2, *A.in_shape, dtype=COMPLEX)
    exact = A.solve_normal(x, tau=0.5, rtol=1e-13, max_iter=500)
    assert torch.allclose(A.solve_normal(x, tau=0.5, start=exact, max_iter=1), exact, atol=1e-9)
    weight = draw.rand(*A.out_shape) + 0.1
    again = A.solve_normal(x, weight=weight, tau=0.5, start=exact, rtol=1e-13, max_iter=500)
    assert torch.allclose(A.adjoint(weight * A(again)) + 0.5 * again, x, atol=1e-9)


def test_a_temporal_prior_of_low_rank_against_the_dense_posterior():
    """Dynamic MRI of few coils, undersampled in every frame; pixels share two temporal modes and a small rest.

    Mean and std of `solve` against ``(A^H A / s^2 + C^-1)^-1`` with dense matrices, C = temporal x identity.
    """
    draw = Numbers(4)
    frames, shape = 5, (2, 3)
    A = ops.Frames(ops.MRI(draw.mask(frames, 1, 3), shape, maps=draw.randn(2, *shape), in_kind="real"))
    t = torch.linspace(0, 1, frames, dtype=F64)
    modes = torch.stack([torch.ones_like(t), torch.cos(torch.pi * t)])  # (rank, frames)
    temporal = modes.T @ modes + 0.01 * torch.eye(frames, dtype=F64)
    n = frames * 6
    covariance = torch.kron(temporal, torch.eye(6, dtype=F64))
    prior = iv.priors.GaussianPrior(torch.zeros(A.in_shape, dtype=F64), covariance)
    noise = 0.2
    y = A(prior.sample(1, seed=1)) + noise * draw.randn(1, *A.out_shape, dtype=COMPLEX)
    y = y * A.observed
    result = iv.solve(A, y, prior, noise=noise, num_samples=8)
    matrix = dense_matrix(A, dtype=F64)
    posterior = torch.linalg.inv(matrix.mT @ matrix / noise**2 + torch.linalg.inv(covariance))
    mean = posterior @ (matrix.mT @ stacked(y)[0]) / noise**2
    assert torch.allclose(result.mean.reshape(n), mean, atol=1e-9)
    assert torch.allclose(result.std.reshape(n), posterior.diagonal().sqrt(), atol=1e-9)
    alone = torch.linalg.inv(matrix.mT @ matrix / noise**2 + torch.eye(n, dtype=F64) / temporal[0, 0])
    assert posterior.diagonal().sum() < 0.7 * alone.diagonal().sum()  # other frames help


REFUSED = {
    "no operator": (lambda: ops.Frames(lambda x: x), iv.errors.InputTypeError, "`operator` must be a LinearOperator"),
    "no number": (
        lambda: ops.Frames(ops.Identity((3,))),
        iv.errors.InputError,
        "`frames` must be given for an operator",
    ),
    "another": (
        lambda: ops.Frames(ops.Matrix(torch.ones(2, 3, 3)), frames=3),
        iv.errors.InputError,
        "`frames` must be the number of items, 2, got 3",
    ),
    "none": (lambda: ops.Frames(ops.Identity((3,)), frames=0), iv.errors.InputError, "`frames` must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
