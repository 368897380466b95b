"""Numbers and arrays of numpy, lists, integers and other precisions, wherever tensors are taken: the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
import xarray
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.priors.training import estimate_law

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


# --- other forms of the same numbers ---------------------------------------------------------------------------------
# Whole numbers, so that all forms hold the same ones: a call gives what it gives for tensors of single precision, which
# its closed forms round (FFT, factors of matrices).
FORMS: dict[str, Callable[[Tensor], Any]] = {
    "array of float64": lambda t: t.numpy().astype(np.complex128 if t.is_complex() else np.float64),
    "list": lambda t: t.tolist(),
    "integers": lambda t: t if t.is_complex() else t.to(torch.int64),
    "array of integers": lambda t: t.numpy() if t.is_complex() else t.numpy().astype(np.int32),
    "float64": lambda t: t.to(torch.complex128 if t.is_complex() else torch.float64),
    "xarray": lambda t: xarray.DataArray(t.numpy()),
}
MATRIX = torch.tensor([[1.0, 2, 0, -1], [0, 1, 3, 0], [2, 0, 0, 1]])
X = torch.tensor([[1.0, 0, 2, -1], [3, 1, 0, 0]])
Y3 = torch.tensor([[1.0, 2, 3], [0, -1, 2]])
SPD = torch.tensor([[4.0, 1, 0, 0], [1, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 5]])
SPD3 = SPD[:3, :3]
KERNEL = torch.tensor([1.0, 2, 1])
SEEN = torch.tensor([1.0, 0, 1, 1])
IMAGE = torch.arange(16.0).view(4, 4)
ROWS = torch.tensor([[1.0, 0, 0, 1]])
MAPS = torch.stack([IMAGE, 1j * IMAGE.flip(0)])
OP = ops.Matrix(MATRIX)
WIDE = ops.Matrix(MATRIX.double())
LAW = priors.GaussianPrior(torch.ones(4), SPD)
DOUBLE = priors.GaussianPrior(torch.ones(4, dtype=torch.float64), SPD.double())
COUNTS = torch.tensor([3.0, 0, 7, 2])
MANY = torch.tensor([[0.0, 1], [2, 3], [4, 4], [1, 0]])[:, None, :].expand(4, 3, 2).contiguous()
DRAWS = RESULT.samples
FIXED = dict(noise=1.0, num_samples=3)
every = ops.Mask(torch.ones(4, dtype=torch.bool))


def drawn(A: Any, y: Any, prior: Any = LAW, **options: Any) -> Tensor:
    return iv.solve(A, y, prior, **{**FIXED, **options}).samples


def density(noise: Any, size: int = 3, clean: Tensor = X[:, :3]) -> Tensor:
    model = noise.check((size,), 2, torch.float32, torch.device("cpu"))
    return model.log_prob(clean.abs() + 1, clean.abs() + 2)


CALLS: dict[str, Callable[[Callable[[Tensor], Any]], Any]] = {
    # operators: what they are made of
    "Matrix": lambda g: ops.Matrix(g(MATRIX))(X),
    "Matrix, complex": lambda g: ops.Matrix(g(MATRIX + 0j))(X + 0j),
    "Matrix of a complex signal": lambda g: ops.Matrix(g(MATRIX), in_kind="complex")(X + 1j),
    "Mask": lambda g: ops.Mask(g(SEEN))(X),
    "Mask for every item": lambda g: ops.Mask(g(torch.stack([SEEN, 1 - SEEN])), in_shape=(4,))(X),
    "Subsample": lambda g: ops.Subsample(as_places(g, torch.tensor([0, 2, 2])), (4,))(X),
    "Blur": lambda g: ops.Blur(g(KERNEL), in_shape=(4,))(X),
    "Blur, zero": lambda g: ops.Blur(g(KERNEL), in_shape=(4,), boundary="zero").adjoint(X),
    "MRI": lambda g: ops.MRI(g(ROWS), (4, 4))(IMAGE[None] + 0j),
    "MRI of coils": lambda g: ops.MRI(g(ROWS), (4, 4), maps=g(MAPS))(IMAGE[None] + 0j),
    "MRI of real maps": lambda g: ops.MRI(g(ROWS), (4, 4), maps=g(IMAGE[None]))(IMAGE[None] + 0j),
    "Diffraction": lambda g: ops.Diffraction(in_shape=(4,), codes=g(torch.stack([SEEN, KERNEL[[0, 1, 2, 0]]])))(X + 0j),
    "Sparse": lambda g: ops.Sparse(
        crow=as_places(g, torch.tensor([0, 1, 2])),
        col=as_places(g, torch.tensor([3, 0])),
        values=g(KERNEL[:2]),
        in_shape=(4,),
        out_shape=(2,),
    )(X),
    "from_scipy": lambda g: ops.from_scipy(scipy.sparse.csr_matrix(np.asarray(g(MATRIX))).astype(float))(X),
    # operators: what they are called with
    "A(x)": lambda g: OP(g(X)),
    "A(x) in double precision": lambda g: WIDE(g(X)),
    "A(x) of a mask": lambda g: every(g(X)),
    "A(x) of a real image": lambda g: ops.MRI(ROWS.bool(), (4, 4))(g(IMAGE[None])),
    "adjoint": lambda g: OP.adjoint(g(Y3)),
    "normal": lambda g: OP.normal(g(X)),
    "pinv": lambda g: OP.pinv(g(Y3)),
    "solve_normal": lambda g: OP.solve_normal(g(X), tau=1, weight=g(torch.tensor([1.0, 2, 4])), start=g(0 * X)),
    "jvp": lambda g: ops.from_callable(torch.sin, (4,), (4,)).jvp(g(X), g(X))[1],
    "vjp": lambda g: ops.PhaseRetrieval(operator=OP).vjp(g(X))[1](Y3),
    "linearize": lambda g: ops.PhaseRetrieval(operator=OP, measure="intensity").linearize(g(X))(X),
    "B @ A": lambda g: (ops.Matrix(g(SPD3)) @ OP)(X),
    "A + B": lambda g: (ops.Matrix(g(MATRIX)) + OP)(X),
    "simulator in numpy": lambda g: ops.from_callable(lambda x: x.numpy() @ np.asarray(g(MATRIX)).T, (4,), (3,))(X),
    # noise
    "noise a list": lambda g: drawn(OP, Y3, noise=g(torch.tensor([1.0, 2, 4]))),
    "Gaussian": lambda g: density(noise.Gaussian(g(torch.tensor([1.0, 2, 4])))),
    "Gaussian, covariance": lambda g: density(noise.Gaussian(covariance=g(SPD3))),
    "Poisson": lambda g: density(noise.Poisson(g(KERNEL), background=g(KERNEL))),
    "PoissonTransmission": lambda g: density(noise.PoissonTransmission(g(8 * KERNEL))),
    "Laplace": lambda g: density(noise.Laplace(g(KERNEL))),
    "Rician": lambda g: density(noise.Rician(g(KERNEL))),
    "Saturated": lambda g: density(noise.Saturated(g(KERNEL), low=g(-8 * KERNEL), high=g(8 * KERNEL))),
    "Quantised": lambda g: density(noise.Quantised(g(KERNEL), step=g(KERNEL / KERNEL))),
    # priors
    "GaussianPrior": lambda g: priors.GaussianPrior(g(X[0]), g(SPD)).denoise(X, 1),
    "GaussianPrior, mean": lambda g: priors.GaussianPrior(g(X[0]), SPD).sample(2),
    "GaussianPrior, covariance": lambda g: priors.GaussianPrior(X[0], g(SPD)).sample(2),
    "GaussianPrior, noise scale": lambda g: priors.GaussianPrior(X[0], SPD, noise_scale=g(COUNTS + 1)).denoise(X, 1),
    "GaussianMixturePrior": lambda g: priors.GaussianMixturePrior(g(KERNEL[:1]), g(X[:1]), g(SPD)).denoise(X, 1),
    "GaussianFieldPrior": lambda g: priors.GaussianFieldPrior((4,), priors.Matern(std=1, length=1), mean=g(X[0])).mean,
    "spectrum of a field": lambda g: priors.GaussianFieldPrior((4,), g(COUNTS)).denoise(X, 1),
    "SparsePrior": lambda g: priors.SparsePrior((4,), priors.Laplace(g(COUNTS + 1)), mean=g(X[0])).denoise(X, 1),
    "from_denoiser": lambda g: priors.from_denoiser(lambda x, s: x / 2, shape=(4,), mean=g(X[0]), scale=1).mean,
    "denoise": lambda g: LAW.denoise(g(X), g(torch.tensor([1.0, 2]))),
    "pullback": lambda g: LAW.pullback(g(X), 1)[0],
    "log_prob": lambda g: LAW.log_prob(g(X), 1),
    "transport": lambda g: LAW.transport(g(X))[0],
    "posterior": lambda g: LAW.posterior(OP, narrow(g, Y3), 1).mean,
    "log_density": lambda g: iv.log_density(LAW, g(X), sigma_min=0.5, num_steps=4),
    # solve and what is around it
    "solve, y": lambda g: drawn(OP, narrow(g, Y3)),
    "solve, counts": lambda g: drawn(
        every, narrow(g, COUNTS), noise=noise.Poisson(1.0, background=20.0), strategy=ivs.MMPS(num_steps=4)
    ),
    "solve, kernel": lambda g: drawn(ops.Blur(g(KERNEL), in_shape=(4,)), X),
    "solve, matrix": lambda g: drawn(ops.Matrix(g(MATRIX)), Y3),
    "solve, a prior in double precision": lambda g: drawn(OP, g(Y3), DOUBLE),
    "Problem": lambda g: iv.Problem(ops.Matrix(g(MATRIX)), g(Y3), noise=1).log_likelihood(X),
    "advise": lambda g: torch.tensor([len(ivs.advise(ops.Matrix(g(MATRIX)), LAW, g(KERNEL)).strategies)]),
    "GaussianLaw": lambda g: priors.GaussianLaw(g(X[0]), priors.DenseModes((4,), g(torch.eye(4))), g(COUNTS)).denoise(
        X, torch.tensor([1.0, 2])
    ),
    "denoise of a law": lambda g: LAW.law.denoise(g(X), g(torch.tensor([1.0, 2]))),
    "log_prob of noise": lambda g: noise.Poisson(1.0).log_prob(g(COUNTS[None]), clean=g(COUNTS[None] + 1)),
    "grad of noise": lambda g: noise.Gaussian(2.0).grad(g(X), g(X + 1)),
    "spectrum": lambda g: OP.svd().to_spectrum(g(X)),
    "estimate_law": lambda g: estimate_law(g(IMAGE)).variances,
    "grid": lambda g: drawn(OP, Y3, strategy=ivs.MMPS(grid=g(torch.tensor([8.0, 4, 2, 1, 0])))),
    "map": lambda g: RESULT.map(lambda x: np.asarray(g(MATRIX))[0] * x.numpy()).samples,
    "nrmse": lambda g: iv.metrics.nrmse(g(X), g(X + 1)),
    "coverage": lambda g: iv.metrics.coverage(g(MANY), g(X[:, :2].expand(2, 2)[0].expand(3, 2)), level=0.5).observed,
    "crps": lambda g: iv.metrics.crps(DRAWS, g(X)),
    "posterior_metrics": lambda g: iv.posterior_metrics.mmd(g(MANY), g(MANY + 1)),
    "tikhonov": lambda g: iv.baselines.tikhonov(OP, g(Y3), weight=1),
    "total_variation": lambda g: iv.baselines.total_variation(OP, g(Y3), weight=1, iterations=5),
}


def as_places(g: Callable[[Tensor], Any], index: Tensor) -> Any:
    """Positions in the form, or as they are where it has no integers."""
    form = g(index)
    return index if isinstance(form, Tensor) and form.is_floating_point() else np.asarray(form).astype(int)


def narrow(g: Callable[[Tensor], Any], value: Tensor) -> Any:
    """Data of single precision where the form is a tensor of double, which asks for an answer of double precision."""
    form = g(value)
    return form.float() if isinstance(form, Tensor) and form.dtype == torch.float64 else form


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_other_forms_give_what_tensors_give(name, form):
    expected, found = tensors(CALLS[name](lambda t: t)), tensors(CALLS[name](FORMS[form]))
    for a, b in zip(expected, found, strict=True):
        assert isinstance(b, Tensor) and a.shape == b.shape and a.is_complex() == b.is_complex()
        wide = torch.complex128 if a.is_complex() else torch.float64
        assert torch.allclose(a.to(wide), b.to(wide), rtol=2e-5, atol=2e-5 * float(a.abs().max()))


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
    with pytest.raises(iv.errors.InputTypeError, match="Mask: `mask` must be True and False: a bool tensor.*filled"):
        ops.Mask(whole)


def test_results_of_numpy_numbers_are_saved(tmp_path):
    result = iv.solve(
        ops.Matrix(A), Y, UNIT, noise=np.float32(0.5), num_samples=np.int64(4), seed=np.int64(2), chunk=np.int64(2),
        strategy=ivs.MMPS(num_steps=np.int64(4)), checkpoint=iv.Checkpoint(tmp_path / "c", every_steps=np.int64(1)),
    )  # fmt: skip
    result.save(tmp_path / "r.nc")
    assert torch.equal(iv.load_result(tmp_path / "r.nc").samples, result.samples)
