"""Baselines against dense solves, exact one-dimensional total variation and an independent minimiser."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
import torch

from invsolve import baselines
from invsolve.errors import InputError, InputTypeError
from invsolve.operators import Mask, Matrix, Operator


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=gen(seed), dtype=dtype)


def identity(shape, kind="real"):
    return Mask(mask=torch.ones(shape, dtype=torch.bool), kind=kind)


def tv_1d_exact(matrix, y, weight):
    """``argmin 1/2 |A x - y|^2 + weight sum |x_(i+1) - x_i|`` for an invertible A, by its dual: a box-constrained least
    squares problem, ``min_p |A^-T (A^T y - D^T p)|`` with ``|p| <= weight``, which scipy solves to rounding."""
    n = matrix.shape[1]
    differences = np.diff(np.eye(n), axis=0)
    inverse = np.linalg.inv(matrix)
    solved = scipy.optimize.lsq_linear(inverse.T @ differences.T, y, bounds=(-weight, weight), tol=1e-15, method="bvls")
    return inverse @ (y - inverse.T @ differences.T @ solved.x)


# --- zero-filled and Tikhonov --------------------------------------------------------------------------------------
def test_zero_filled_is_the_adjoint():
    A = Matrix(matrix=randn(5, 4, dtype=torch.complex128))
    y = randn(2, 5, seed=1, dtype=torch.complex128)
    assert torch.allclose(baselines.zero_filled(A, y), y @ A.matrix.conj(), rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_tikhonov_is_the_dense_solution(dtype):
    matrix, y = randn(6, 9, dtype=dtype), randn(3, 6, seed=1, dtype=dtype)  # fewer data than unknowns
    weight = 0.3
    dense = torch.linalg.solve(matrix.mH @ matrix + weight * torch.eye(9, dtype=dtype), matrix.mH @ y.mT).mT
    x = baselines.tikhonov(Matrix(matrix=matrix), y, weight=weight, rtol=1e-13)
    # The error is at most cond * rtol = (||A||^2 / weight + 1) * 1e-13 < 1e-10.
    assert torch.allclose(x, dense, atol=1e-10, rtol=0)


# --- total variation -----------------------------------------------------------------------------------------------
def test_tv_of_a_step_moves_its_two_levels():
    """Exact: plateaus of a and b pixels move by weight / a and weight / b towards each other, and then merge."""
    y = torch.tensor([[0.0] * 4 + [1.0] * 8], dtype=torch.float64)
    x = baselines.total_variation(identity(12), y, weight=0.2, iterations=2000)
    expected = torch.tensor([[0.05] * 4 + [0.975] * 8], dtype=torch.float64)
    assert torch.allclose(x, expected, atol=1e-9, rtol=0)
    merged = baselines.total_variation(identity(12), y, weight=5.0, iterations=5000)
    assert torch.allclose(merged, torch.full_like(y, 2 / 3), atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_tv_is_the_exact_solution_in_one_dimension(scale):
    """For a badly scaled, ill-conditioned matrix: step sizes come from the norm. Two rows with their own operator."""
    matrix = scale * (torch.eye(9, dtype=torch.float64) + 0.1 * randn(2, 9, 9))
    y = scale * randn(2, 9, seed=1)
    weight = 0.4 * scale**2
    x = baselines.total_variation(Matrix(matrix=matrix), y, weight=weight, iterations=8000)
    exact = np.stack([tv_1d_exact(m, b, weight) for m, b in zip(matrix.numpy(), y.numpy(), strict=True)])
    assert np.abs(x.numpy() - exact).max() < 1e-8
    assert (np.abs(np.diff(exact)) < 1e-10).any()  # the problem has flat pieces


def objective(A, y, x, weight, smooth=0.0):
    """The objective per row, written from its definition, with loops over axes; float64."""
    squares = torch.zeros_like(x.real)
    for d in range(1, x.ndim):
        n = x.shape[d]
        step = x.index_select(d, torch.arange(1, n)) - x.index_select(d, torch.arange(n - 1))
        pad = torch.zeros_like(x.real.narrow(d, 0, 1))
        squares = squares + torch.cat([step.abs() ** 2, pad], d)
    tv = (squares + smooth**2).sqrt().flatten(1).sum(1)
    return 0.5 * (A(x) - y).abs().square().flatten(1).sum(1) + weight * tv


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2)], ids=str)
def test_tv_is_the_minimum_in_two_and_three_dimensions(shape):
    """Against scipy on ``sqrt(|Dx|^2 + e^2)``: at most ``weight n e`` above the true minimum. For A = 1 the objective
    is 1-strongly convex, so ``|x - x*|^2 / 2`` is at most the gap."""
    y, weight, smooth = randn(1, *shape), 0.3, 1e-5
    A = identity(shape)

    def value(flat):
        x = torch.from_numpy(flat).view(1, *shape).requires_grad_()
        f = objective(A, y, x, weight, smooth).sum()
        return f.item(), torch.autograd.grad(f, x)[0].flatten().numpy()

    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-9, "maxcor": 50}
    found = scipy.optimize.minimize(value, y.flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    x = baselines.total_variation(A, y, weight=weight, iterations=4000)
    ours = float(objective(A, y, x, weight))
    gap = weight * y.numel() * smooth + 1e-6  # and scipy's own error, at a gradient below 1e-3
    assert np.abs(found.jac).max() < 1e-3
    assert -gap < ours - found.fun < 1e-9
    assert float((x.flatten() - torch.from_numpy(found.x)).norm()) < math.sqrt(2 * gap)


def test_tv_is_isotropic_in_phase_and_reduces_to_one_dimension():
    y = randn(1, 10).cumsum(1)
    one = baselines.total_variation(identity(10), y, weight=0.7, iterations=4000)
    turned = torch.polar(torch.ones(1, dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64)) * y
    phase = baselines.total_variation(identity(10, "complex"), turned, weight=0.7, iterations=4000)
    assert torch.allclose(phase.abs() * one.sign(), one, atol=1e-8, rtol=0)
    # An image that is constant along an axis has the one-dimensional solution.
    plane = baselines.total_variation(identity((10, 3)), y[..., None].expand(1, 10, 3), weight=0.7, iterations=4000)
    assert torch.allclose(plane, one[..., None].expand(1, 10, 3), atol=1e-7, rtol=0)


def test_tv_objective_falls_and_fills_in_missing_pixels():
    truth = torch.zeros(1, 16, 16, dtype=torch.float64)
    truth[:, 4:12, 4:12] = 1
    A = Mask(mask=torch.rand(16, 16, generator=gen()) < 0.5)
    y = A(truth + 0.05 * randn(1, 16, 16))
    values = [
        float(objective(A, y, baselines.total_variation(A, y, weight=0.05, iterations=k), 0.05))
        for k in (10, 50, 200, 1000)
    ]
    assert all(after < before for before, after in pairwise(values))
    error = (baselines.total_variation(A, y, weight=0.05) - truth).square().mean().sqrt()
    assert float(error) < 0.5 * float((baselines.zero_filled(A, y) - truth).square().mean().sqrt())


def test_rows_do_not_see_each_other_and_dtype_is_kept():
    for kind, dtype in (("real", torch.float32), ("complex", torch.complex64)):
        A = Mask(mask=torch.rand(8, 8, generator=gen()) < 0.6, kind=kind)
        y = A(randn(2, 8, 8, dtype=dtype))
        other = torch.stack([y[0], 1000 * y[1]])
        before = y.clone()
        for call in (
            baselines.zero_filled,
            lambda a, b: baselines.tikhonov(a, b, weight=0.1),
            lambda a, b: baselines.total_variation(a, b, weight=0.1, iterations=30),
        ):
            out = call(A, y)
            assert out.dtype == dtype and out.shape == (2, 8, 8)
            assert torch.equal(out[0], call(A, other)[0])
        assert torch.equal(y, before)


def test_rows_with_their_own_operator_do_not_see_each_other():
    """Also through the step size: the norm of one item does not depend on the others."""
    matrix, y = randn(2, 6, 6), randn(2, 6, seed=1)
    both = baselines.total_variation(Matrix(matrix=matrix), y, weight=0.2, iterations=50)
    alone = baselines.total_variation(Matrix(matrix=matrix[:1]), y[:1], weight=0.2, iterations=50)
    assert torch.allclose(both[:1], alone, rtol=1e-10, atol=1e-12)


# --- tuning --------------------------------------------------------------------------------------------------------
def test_tuned_weight_is_the_wiener_one():
    """White signals of std 2 in noise of std 1: the best linear shrinkage is 1 / (1 + 1/4), with error sqrt(1/5)."""
    A = identity(20000)
    truth = 2 * randn(1, 20000)
    problems = [(A, truth + randn(1, 20000, seed=s), truth) for s in (1, 2)]
    tuned = baselines.tune_weight(baselines.tikhonov, problems, [0.05, 0.1, 0.25, 0.6, 1.2])
    assert tuned.weight == 0.25 and not tuned.at_edge
    # The relative error of 40,000 noise draws is known to about 1 / sqrt(2 * 40000) = 0.4 %.
    assert tuned.errors[2] == pytest.approx(math.sqrt(0.2), rel=5 * 0.004)
    assert tuned.errors[2] == min(tuned.errors) and len(tuned.errors) == len(tuned.weights) == 5
    assert baselines.tune_weight(baselines.tikhonov, problems, [0.6, 1.2]).at_edge


def test_total_variation_can_be_tuned():
    truth = torch.ones(1, 30, dtype=torch.float64)
    problem = (identity(30), truth + 0.1 * randn(1, 30), truth)
    tuned = baselines.tune_weight(baselines.total_variation, [problem], [1e-3, 1.0])
    assert tuned.weight == 1.0  # a constant truth wants all the smoothing it can get


# --- refusals -----------------------------------------------------------------------------------------------------
class Square(Operator):
    in_shape = (3,)
    out_shape = (3,)

    def _apply(self, x):
        return x * x


A3, Y3 = identity(3), torch.ones(1, 3)
FLAT = Mask(mask=torch.ones(2, 2, 2, 2, dtype=torch.bool))
ZERO = Matrix(matrix=torch.zeros(3, 3))
tv, tik, tune = baselines.total_variation, baselines.tikhonov, baselines.tune_weight
REFUSED = {
    "operator": (lambda: baselines.zero_filled(Square(), Y3), InputTypeError, "`A` must be a LinearOperator"),
    "shape": (lambda: baselines.zero_filled(A3, Y3[0]), InputError, r"zero_filled: `y`.*batch, 3.*y\[None\]"),
    "nan": (lambda: tik(A3, Y3 * math.nan, weight=1.0), InputError, "tikhonov: `y` must be finite"),
    "kind": (lambda: tik(A3, Y3 + 0j, weight=1.0), InputTypeError, "Mask: `y` must be real"),
    "zero weight": (lambda: tik(A3, Y3, weight=0.0), InputError, "tikhonov: `weight` must be positive, got 0.0"),
    "rtol": (lambda: tik(A3, Y3, weight=1.0, rtol=0), InputError, "tikhonov: `rtol` must be positive"),
    "max_iter": (lambda: tik(A3, Y3, weight=1.0, max_iter=0), InputError, "`max_iter` must be at least 1"),
    "tv weight": (lambda: tv(A3, Y3, weight=-1), InputError, "total_variation: `weight` must be positive, got -1"),
    "iterations": (lambda: tv(A3, Y3, weight=1, iterations=2.0), InputTypeError, "`iterations` must be an integer"),
    "axes": (lambda: tv(FLAT, torch.ones(1, 2, 2, 2, 2), weight=1.0), InputError, "`A.in_shape` must be of 1 to 3"),
    "zero": (lambda: tv(ZERO, Y3, weight=1.0), InputError, "`A` must be an operator that is not zero, got norm 0.0"),
    "no problems": (lambda: tune(tik, [], [1.0]), InputError, "tune_weight: `problems` must be at least one"),
    "no weights": (lambda: tune(tik, [(A3, Y3, Y3)], []), InputError, "tune_weight: `weights` must be at least one"),
    "bad weight": (lambda: tune(tik, [(A3, Y3, Y3)], [1.0, -2]), InputError, r"`weights\[1\]` must be positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
