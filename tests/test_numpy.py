"""Numbers and arrays of numpy, wherever Python's numbers and torch's tensors are taken: the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs

ops, priors, noise = iv.operators, iv.priors, iv.noise
A = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
UNIT = priors.GaussianPrior(torch.zeros(4), torch.eye(4))
RESULT = iv.solve(ops.Matrix(A), Y, UNIT, noise=0.5, num_samples=40)
ONES, HALF = torch.ones(4), torch.full((4,), 0.5)


def solved(**options: Any) -> Tensor:
    return iv.solve(ops.Matrix(A), Y, UNIT, **{"noise": 0.5, "num_samples": 4, **options}).samples


# f: a number as a float, i: as an integer, t: an array as a tensor; the case is run with Python's, and with numpy's.
Case = Callable[[Callable[[float], Any], Callable[[int], Any], Callable[[Any], Any]], Any]
CASES: dict[str, Case] = {
    "quantile": lambda f, i, t: [RESULT.quantile(f(0.5)), RESULT.quantile(t(torch.tensor([0.25, 0.5])))],
    "interval": lambda f, i, t: RESULT.interval(f(0.5))[:2],
    "budget": lambda f, i, t: [solved(budget=f(64)), solved(budget=iv.Budget(seconds=f(64), evaluations=i(10**6)))],
    "solve": lambda f, i, t: solved(
        noise=f(0.5), num_samples=i(4), seed=i(3), chunk=i(2), item_ids=[i(5), i(6)], strategy=ivs.MMPS(num_steps=i(4))
    ),
    "particles and chains": lambda f, i, t: [
        solved(strategy=ivs.SMC(num_steps=i(4), resample_below=f(0.5))),
        solved(strategy=ivs.NoiseMCMC(num_steps=i(4), chains=i(16))),
    ],
    "a grid": lambda f, i, t: solved(strategy=ivs.MMPS(grid=t(torch.tensor([3.0, 1.0, 0.5, 0.0])))),
    "noise": lambda f, i, t: [
        solved(noise=t(torch.full((3,), 0.5))),
        solved(noise=noise.Gaussian(std=t(torch.full((3,), 0.5)))),
        solved(noise=noise.Gaussian(covariance=t(torch.eye(3)))),
        noise.Poisson(f(2.0), background=t(ONES)).check((4,), 1, torch.float32, ONES.device).log_prob(ONES[None], ONES),
    ],
    "operators": lambda f, i, t: [
        ops.Matrix(t(A))(ONES[None]),
        ops.Mask(t(ONES > 0))(ONES[None]),
        ops.Subsample(t(torch.tensor([0, 2])), (i(4),))(ONES[None]),
        ops.Blur(t(ONES[:3]), in_shape=[i(4)])(ONES[None]),
        ops.GaussianBlur(std=f(0.5), in_shape=(i(4),), truncate=f(2.0))(ONES[None]),
        ops.Downsample(factor=i(2), in_shape=(4,))(ONES[None]),
        ops.Diffraction(in_shape=(4,), codes=t(torch.ones(2, 4) + 0j), oversampling=i(2))(ONES[None] + 0j),
        ops.Saturation(in_shape=(4,), low=f(0.0), high=f(1.0), softness=f(0.5))(ONES[None]),
        (f(2.0) * ops.Matrix(A))(ONES[None]),
        ops.Mask(torch.ones(2, 4, dtype=torch.bool), in_shape=(4,)).take(t(torch.tensor([1])))(ONES[None]),
    ],
    "calls of operators": lambda f, i, t: [
        ops.Matrix(A)(t(Y @ A)),
        ops.Matrix(A).adjoint(t(Y)),
        ops.Matrix(A).pinv(t(Y), rtol=f(0.5), max_iter=i(10)),
        ops.Matrix(A).solve_normal(t(Y @ A), tau=f(0.5), weight=t(torch.ones(3))),
        ops.Matrix(A).solve_normal(t(Y @ A), tau=f(0.5), weight=f(2.0), start=t(Y @ A)),
        *ops.from_callable(torch.sin, [i(4)], t(torch.tensor([4]))).jvp(t(Y @ A), t(Y @ A)),
    ],
    "priors": lambda f, i, t: [
        priors.GaussianPrior(t(ONES), t(torch.eye(4))).sample(i(2), seed=i(1)),
        priors.GaussianMixturePrior(t(HALF[:2]), t(A[:2]), t(torch.eye(4))).sample(2),
        priors.GaussianFieldPrior((i(4),), priors.Matern(std=f(1.0), length=f(0.5)), mean=t(ONES)).sample(2),
        priors.SparsePrior((4,), priors.SpikeSlab(t(HALF), f(1.0), spike=f(0.25)), mean=t(ONES)).sample(2),
        priors.SparsePrior((4,), priors.Student(f(0.5), i(5))).sample(2),
        priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(i(4),), mean=t(ONES), scale=f(1.0)).mean,
        priors.from_network(
            lambda z, k: z / 2, priors.EDM(sigma_data=f(1.0)), shape=(i(4),), unit=f(0.5), offset=t(ONES), scale=f(2.0)
        ).sample(2),
        priors.GaussianLaw(t(ONES), priors.DenseModes((4,), t(torch.eye(4))), t(ONES)).sample(ONES[None]),
    ],
    "calls of priors": lambda f, i, t: [
        UNIT.denoise(t(Y @ A), f(0.5)),
        UNIT.denoise(t(Y @ A), t(HALF[:2])),
        UNIT.pullback(t(Y @ A), f(0.5))[0],
        *UNIT.moments(t(Y @ A), f(0.5)),
        UNIT.transport(t(Y @ A))[0],
        UNIT.inverse_transport(t(Y @ A)),
        UNIT.log_prob(t(Y @ A), f(0.5)),
        UNIT.posterior(ops.Matrix(A), t(Y), f(0.5)).mean,
    ],
    "scalars": lambda f, i, t: iv.LogNormal(median=f(1.0), factor=f(2.0)).quantile(t(HALF.double())),
}


def tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for v in value for t in tensors(v)]


@pytest.mark.parametrize("name", CASES)
def test_numpy_is_taken(name):
    """In single precision: powers of two, so that nothing is rounded."""
    with_python = tensors(CASES[name](float, int, lambda t: t))
    with_numpy = tensors(CASES[name](np.float32, np.int64, lambda t: t.numpy()))
    with_arrays = tensors(CASES[name](np.array, np.array, lambda t: t.numpy()))
    for a, b, c in zip(with_python, with_numpy, with_arrays, strict=True):
        assert a.dtype == b.dtype == c.dtype and torch.equal(a, b) and torch.equal(a, c)


def test_fields_of_any_byte_order_are_copied():
    kernel = np.array([1.0, 2.0, 1.0], dtype=">f4")
    blur = ops.Blur(kernel=kernel, in_shape=(6,))
    kernel[:] = 0
    assert torch.equal(blur.kernel, torch.tensor([1.0, 2.0, 1.0]))


def test_what_is_masked_is_not_taken_for_a_number():
    matrix = np.ma.masked_array(np.ones((1, 2)), mask=[[True, False]])
    with pytest.raises(iv.errors.InputError, match="Matrix: `matrix` must be finite, got 1 NaN"):
        ops.Matrix(matrix)
    whole = np.ma.masked_array(np.ones(4, dtype=bool), mask=[True, False, False, False])
    with pytest.raises(iv.errors.InputTypeError, match="Mask: `mask` must be a bool tensor"):
        ops.Mask(whole)


def test_results_of_numpy_numbers_are_saved(tmp_path):
    result = iv.solve(
        ops.Matrix(A), Y, UNIT, noise=np.float32(0.5), num_samples=np.int64(4), seed=np.int64(2), chunk=np.int64(2),
        strategy=ivs.MMPS(num_steps=np.int64(4)), checkpoint=iv.Checkpoint(tmp_path / "c", every_steps=np.int64(1)),
    )  # fmt: skip
    result.save(tmp_path / "r.nc")
    assert torch.equal(iv.load_result(tmp_path / "r.nc").samples, result.samples)
