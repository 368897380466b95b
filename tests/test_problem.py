"""The bundle of operator, data and noise: what it accepts, what it refuses, what it answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray
from scipy.stats import norm

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, InvsolveError
from invsolve.noise import Gaussian, Noise
from invsolve.operators.base import Operator
from invsolve.operators.mask import Mask, Subsample
from invsolve.operators.matrix import Matrix
from invsolve.problem import Problem

F64 = torch.float64


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


MATRIX = random(3, 5)
A = Matrix(matrix=MATRIX)
Y = random(4, 3, seed=1)


class Square(Operator):
    in_shape = (3,)
    out_shape = (3,)

    def _apply(self, x):
        return x**2


class Flat(Noise):
    """Noise that is not Gaussian, for the refusals."""

    def log_prob(self, y, clean, observed=None):
        return (y - clean).abs().flatten(1).sum(1)

    def grad(self, y, clean, observed=None):
        return clean

    def curvature(self, v, clean, observed=None):
        return v

    def sample(self, clean, draw, *, step=0, index=0):
        return clean

    def check(self, out_shape, batch, dtype, device):
        return self

    def take(self, index):
        return self


# --- what is accepted ------------------------------------------------------------------------------------------------
FORMS = {
    "torch": Y,
    "numpy": Y.numpy(),
    "single numpy": Y.numpy().astype(np.float32),
    "big-endian": Y.numpy().astype(">f8"),
    "xarray": xarray.DataArray(Y.numpy(), dims=("item", "x")),
}


@pytest.mark.parametrize("y", FORMS.values(), ids=FORMS.keys())
def test_forms_of_data(y):
    problem = Problem(A, y, noise=0.1)
    assert problem.data.dtype == F64  # the operator's precision
    assert torch.allclose(problem.data, Y, atol=1e-6)
    assert problem.batched
    assert problem.shape == (5,)
    assert problem.signal_dtype == F64
    assert problem.linear
    assert problem.shared


def test_one_measurement_without_a_batch_axis():
    for y in (Y[0], Y[0].numpy(), xarray.DataArray(Y[0].numpy(), dims="x")):
        problem = Problem(A, y, noise=0.1)
        assert problem.data.shape == (1, 3)
        assert not problem.batched
        assert not problem.to(dtype=torch.float32).batched
        assert not problem.take(torch.tensor([0, 0])).batched
    assert Problem(A, Y[:1], noise=0.1).batched


def test_an_operator_without_parameters_takes_any_precision():
    problem = Problem(Square(), np.ones((2, 3)), noise=0.1)
    assert problem.data.dtype == torch.float32
    assert not problem.linear
    assert Problem(Square(), torch.ones(2, 3, dtype=F64), noise=0.1).data.dtype == F64


def test_kinds_of_signal_and_data():
    complex_ = MATRIX + 1j * MATRIX
    assert Problem(Matrix(matrix=complex_), Y + 0j, noise=0.1).signal_dtype == torch.complex128
    assert Problem(Matrix(matrix=complex_, in_kind="real"), Y + 0j, noise=0.1).signal_dtype == F64


def test_noise_is_bound_to_the_data():
    problem = Problem(A, Y, noise=torch.ones(4, 1))
    assert isinstance(problem.noise, Gaussian)
    assert problem.noise.per_item
    assert problem.noise.std.dtype == F64
    assert not problem.shared
    assert not Problem(Matrix(matrix=random(4, 3, 5)), Y, noise=0.1).shared


def test_names_and_units():
    problem = Problem(A, Y, noise=0.1, dims=["x"], units="mm/s")
    assert problem.dims == ("x",)
    assert problem.units == "mm/s"
    assert problem.take(torch.tensor([0])).dims == problem.to(dtype=F64).dims == ("x",)


# --- what it answers -------------------------------------------------------------------------------------------------
MASK = torch.tensor([[True, True, False, True], [False, False, False, True]])


def test_num_data():
    assert Problem(A, Y, noise=0.1).num_data.tolist() == [3] * 4
    assert Problem(Matrix(matrix=MATRIX + 0j), Y + 0j, noise=0.1).num_data.tolist() == [6] * 4
    assert Problem(Mask(mask=MASK[0]), random(2, 4), noise=0.1).num_data.tolist() == [3, 3]
    items = Mask(mask=MASK, in_shape=(4,))
    assert Problem(items, random(2, 4), noise=0.1).num_data.tolist() == [3, 1]
    items = Mask(mask=MASK, in_shape=(4,), kind="complex")
    assert Problem(items, random(2, 4) + 0j, noise=0.1).num_data.tolist() == [6, 2]


@pytest.mark.parametrize("std", [0.5, [[0.5], [2.0]], [0.5, 1.0, 2.0, 4.0]], ids=["number", "per item", "per entry"])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_chi2_and_log_likelihood_count_what_was_observed(kind, std):
    dtype = F64 if kind == "real" else torch.complex128
    y, x = random(2, 4, dtype=dtype, seed=2), random(2, 4, dtype=dtype, seed=3)
    std = torch.tensor(std, dtype=F64)
    problem = Problem(Mask(mask=MASK, in_shape=(4,), kind=kind), y, noise=std)
    full = std.expand(2, 4)
    for row in range(2):
        seen = MASK[row]
        r = ((y - x)[row] / full[row])[seen]
        parts = torch.cat([r.real, r.imag]) if kind == "complex" else r
        assert float(problem.chi2(x)[row]) == pytest.approx(float(parts.square().mean()), rel=1e-12)
        scale = full[row][seen].repeat(len(parts) // int(seen.sum()))
        want = norm.logpdf((parts * scale).numpy(), scale=scale.numpy()).sum()
        assert float(problem.log_likelihood(x)[row]) == pytest.approx(want, rel=1e-12)


def test_chi2_is_1_at_the_truth_and_nan_without_data():
    n = 4000
    A = Mask(mask=torch.ones(n, dtype=torch.bool))
    x = random(1, n)
    chi2 = float(Problem(A, x + 0.3 * random(1, n, seed=5), noise=0.3).chi2(x))
    assert abs(chi2 - 1) < 5 * math.sqrt(2 / n)
    nothing = Problem(Subsample(index=torch.zeros(0, dtype=torch.int64), in_shape=(4,)), torch.zeros(2, 0), noise=1.0)
    assert bool(nothing.chi2(torch.zeros(2, 4)).isnan().all())
    assert torch.equal(nothing.log_likelihood(torch.zeros(2, 4)), torch.zeros(2))


def test_whiten_uses_the_mask_of_the_operator():
    problem = Problem(Mask(mask=MASK, in_shape=(4,)), random(2, 4), noise=0.5)
    r = random(2, 4, seed=4)
    assert torch.equal(problem.whiten(r), r * 2 * MASK)
    assert torch.equal(problem.unwhiten_adjoint(r), r * 2 * MASK)


def test_take_gives_the_problem_of_some_rows():
    operator = Matrix(matrix=random(4, 3, 5))
    problem = Problem(operator, Y, noise=torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None], units="V")
    index = torch.tensor([3, 1, 3])
    some = problem.take(index)
    x = random(4, 5, seed=6)
    assert torch.equal(some.data, Y[index])
    assert torch.allclose(some.log_likelihood(x[index]), problem.log_likelihood(x)[index], rtol=1e-12)
    assert torch.allclose(some.chi2(x[index]), problem.chi2(x)[index], rtol=1e-12)
    assert some.operator.batch == 3
    assert (some.batched, some.units) == (True, "V")
    assert problem.operator.batch == 4


NOISES = {
    "number": 0.1,
    "per entry": random(3, seed=7).exp(),
    "per item": random(4, 1, seed=8).exp(),
    "covariance": Gaussian(covariance=torch.eye(3, dtype=F64) + 0.1),
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
def test_to_moves_everything(noise):
    problem = Problem(A, Y, noise=noise)
    single = problem.to(dtype=torch.float32)
    assert single.data.dtype == single.operator.dtype == torch.float32
    assert single.signal_dtype == torch.float32
    x = random(4, 5)
    assert torch.allclose(single.chi2(x.float()).double(), problem.chi2(x), rtol=1e-4)
    assert torch.allclose(single.to(dtype=F64).log_likelihood(x), problem.log_likelihood(x), rtol=1e-5)
    assert single.shared == problem.shared
    assert problem.to("cpu").data.dtype == F64
    complex_ = Problem(Matrix(matrix=MATRIX + 0j), Y + 0j, noise=0.1).to(dtype=torch.float32)
    assert complex_.data.dtype == torch.complex64


def test_text():
    text = str(Problem(Matrix(matrix=MATRIX + 0j), Y + 0j, noise=0.25))
    assert "6 real numbers per item, 4 item(s), torch.complex128" in text
    assert "E|n|^2 = 2 std^2" in text
    assert "Gaussian noise of std 0.25" in text
    assert "\n" not in repr(Problem(A, Y, noise=0.1))
    assert repr(Problem(A, Y, noise=0.1)) == "Problem(Matrix((5,) -> (3,), real), y (4, 3), Gaussian)"
    assert "1 to 3 real numbers" in str(Problem(Mask(mask=MASK, in_shape=(4,)), random(2, 4), noise=0.1))
    assert "std" not in str(Problem(A, Y, noise=torch.ones(4, 1)))


# --- what is refused -------------------------------------------------------------------------------------------------
def problem(operator=A, y=Y, noise=0.1, **options):
    return Problem(operator, y, noise=noise, **options)


bad = Y.clone()
bad[1, 2] = math.nan
REFUSED = {
    "no operator": (
        lambda: problem(operator=torch.eye(3)),
        InputTypeError,
        r"Problem: `operator` must be an iv.operators.Operator, got Tensor. A matrix is iv.operators.Matrix",
    ),
    "a name": (lambda: problem(operator="A"), InputTypeError, r"`operator` must be an iv.operators.Operator, got 'A'"),
    "no data": (
        lambda: problem(y=None),
        InputTypeError,
        r"Problem: `data` must be a torch.Tensor, a numpy array, an xarray.DataArray",
    ),
    "words": (
        lambda: problem(y=["a"] * 3),
        InputTypeError,
        r"`data` must be numbers, in rows of one length, got a list",
    ),
    "another shape": (
        lambda: problem(y=random(2, 4)),
        InputError,
        r"`data` must be of shape \(batch, 3\), got \(2, 4\)",
    ),
    "another length": (lambda: problem(y=random(4)), InputError, r"`data` must be of shape \(batch, 3\), got \(4,\)"),
    "two batch axes": (lambda: problem(y=random(1, 2, 3)), InputError, r"got \(1, 2, 3\)"),
    "complex data": (
        lambda: problem(y=Y + 0j),
        InputTypeError,
        r"`data` must be real floating point, got torch.complex",
    ),
    "real data": (
        lambda: problem(operator=Matrix(matrix=MATRIX + 0j)),
        InputTypeError,
        r"`data` must be complex, got torch.float64. Convert it: torch.complex",
    ),
    "another device": (
        lambda: problem(y=Y.to("meta")),
        InputError,
        r"`data` must be on the operator's device, cpu, got meta. Move it: data.to\(operator.device\)",
    ),
    "other items": (
        lambda: problem(operator=Matrix(matrix=random(3, 3, 5))),
        InputError,
        r"`data` must be of 3 rows, one for each item of the operator, got 4",
    ),
    "no rows": (lambda: problem(y=Y[:0]), InputError, r"`data` must be of at least one row, got 0"),
    "nan": (
        lambda: problem(y=bad),
        InputError,
        r"`data` must be finite, got 1 NaN or infinite values, the first at index \(1, 2\). If they are missing, say so: iv.operators.Mask",
    ),
    "masked": (
        lambda: problem(y=np.ma.masked_array(Y.numpy(), mask=bad.isnan().numpy())),
        InputError,
        r"`data` must be finite, got 1 NaN",
    ),
    "overflow": (lambda: Problem(Square(), np.full((1, 3), 1e300), noise=1e299), InputError, r"must be finite, got 3"),
    "noise none": (lambda: problem(noise=None), InputTypeError, r"Problem: `noise` must be a positive number"),
    "noise zero": (lambda: problem(noise=0), InputError, r"Problem: `noise` must be positive, got 0.0"),
    "noise of other data": (lambda: problem(noise=torch.ones(7)), InputError, r"`noise.std` must be a number, or a"),
    "noise missing": (lambda: Problem(A, Y), TypeError, r"required positional argument: 'noise'"),
    "dims text": (lambda: problem(dims="x"), InputTypeError, r"Problem: `dims` must be a tuple of names, got 'x'"),
    "dims number": (lambda: problem(dims=1), InputTypeError, r"Problem: `dims` must be a tuple of names, got int"),
    "dims too many": (
        lambda: problem(dims=("x", "y")),
        InputError,
        r"`dims` must be 1 names, one for each axis of the signal, all different, got \('x', 'y'\)",
    ),
    "dims numbers": (lambda: problem(dims=(1,)), InputError, r"Problem: `dims` must be 1 names"),
    "dims twice": (
        lambda: Problem(Mask(mask=MASK), random(2, 4), noise=0.1, dims=("x", "x")),
        InputError,
        r"`dims` must be 2 names, .* all different, got \('x', 'x'\)",
    ),
    "whitening": (
        lambda: problem(noise=Flat()).whiten(Y),
        InputTypeError,
        r"Problem: `noise` must be iv.noise.Gaussian for a whitened residual, got Flat",
    ),
    "covariance with a mask": (
        lambda: problem(Mask(mask=MASK), random(2, 4), Gaussian(covariance=torch.eye(8, dtype=F64))).whiten(Y),
        InputError,
        r"`covariance` must be used with fully observed data",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_noise_that_is_not_gaussian_is_carried():
    problem = Problem(A, Y, noise=Flat())
    assert problem.shared
    assert problem.log_likelihood(torch.zeros(4, 5, dtype=F64)).shape == (4,)
    assert "Flat" in repr(problem)


# --- who speaks ------------------------------------------------------------------------------------------------------
PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(5, dtype=F64), covariance=torch.eye(5, dtype=F64))
SPEAKERS = {
    "Problem": lambda noise: Problem(A, Y, noise=noise),
    "solve": lambda noise: iv.solve(A, Y, PRIOR, noise=noise),
    "calibrate": lambda noise: iv.calibrate(A, PRIOR, noise=noise),
    "advise": lambda noise: iv.strategies.advise(A, PRIOR, noise),
}
SPOKEN = {
    "noise of text": ("0.1", r"`noise` must be a positive number .* got '0.1'"),
    "noise below 0": (-1.0, r"`noise` must be positive, got -1.0"),
    "std of other data": (iv.noise.Gaussian(torch.ones(7)), r"`noise.std` must be a number, or a tensor of shape"),
    "covariance": (iv.noise.Gaussian(covariance=torch.eye(2)), r"`noise.covariance` must be of shape \(3, 3\)"),
    "scale of other data": (iv.noise.Laplace(torch.ones(7)), r"`noise.scale` must be a number, or a tensor of shape"),
    "no interval": (
        iv.noise.Saturated(std=1.0, low=torch.tensor([0.0, 1.0, 1.0]), high=1.0),
        r"`noise.low` must be below `noise.high` everywhere",
    ),
}


@pytest.mark.parametrize("speaker", SPEAKERS)
@pytest.mark.parametrize(("noise", "words"), SPOKEN.values(), ids=SPOKEN.keys())
def test_errors_of_the_noise_name_who_was_called(speaker, noise, words):
    with pytest.raises(InvsolveError, match=f"^{speaker}: {words}"):
        SPEAKERS[speaker](noise)


@pytest.mark.parametrize(
    ("y", "noise", "words"),
    [
        (random(2, 4), 0.1, r"of shape \(batch, 3\), got \(2, 4\)"),
        (bad, 0.1, "finite, got 1 NaN"),
        (Y, iv.noise.Poisson(2.0), "whole numbers of counts, at least 0 for Poisson noise"),
    ],
)
def test_errors_of_the_data_name_who_was_called_and_its_argument(y, noise, words):
    with pytest.raises(InputError, match=f"^Problem: `data` must be {words}"):
        Problem(A, y, noise=noise)
    with pytest.raises(InputError, match=f"^solve: `y` must be {words}"):
        iv.solve(A, y, PRIOR, noise=noise)


def test_a_noise_of_your_own_speaks_for_itself():
    """It may have the signature of the abstract methods, without an owner."""
    assert isinstance(Problem(A, Y, noise=Flat()).noise, Flat)
    assert isinstance(iv.strategies.advise(A, PRIOR, Flat()), iv.strategies.Advice)


def test_the_operator_is_cast_to_the_precision_of_the_data():
    A = iv.operators.Matrix(torch.eye(2, dtype=torch.float64))
    narrow = iv.Problem(A, torch.ones(2), 1.0)
    assert narrow.operator.dtype == narrow.data.dtype == torch.float32
    wide = iv.Problem(iv.operators.Matrix(torch.eye(2)), torch.ones(2, dtype=torch.float64), 1.0)
    assert wide.operator.dtype == wide.data.dtype == torch.float64

    class Fixed(iv.operators.Operator):
        in_shape = out_shape = (2,)
        dtype = torch.float64

        def _apply(self, x):
            return x

    with pytest.raises(InputTypeError, match=r"Fixed: `to\(dtype\)` must be able to cast it to torch.float32"):
        iv.Problem(Fixed(), torch.ones(2), 1.0)


def test_a_function_in_double_precision_beside_a_prior_in_single():
    """Computed in double: a difference that single precision has no digits for."""

    def close(x):
        assert x.dtype == torch.float64
        return (x + 1e6) - 1e6

    A = iv.operators.from_callable(close, (2,), (2,), dtype=torch.float64)
    prior = iv.priors.GaussianPrior(torch.zeros(2), torch.eye(2))
    result = iv.solve(A, torch.ones(2), prior, 0.5, strategy=iv.strategies.MMPS(num_steps=8))
    same = iv.operators.from_callable(lambda x: x + 0.0, (2,), (2,))
    other = iv.solve(same, torch.ones(2), prior, 0.5, strategy=iv.strategies.MMPS(num_steps=8))
    assert result.samples.dtype == torch.float32 and torch.allclose(result.samples, other.samples, atol=1e-4)
    narrow = A.to(dtype=torch.float32)
    assert narrow.dtype == torch.float32 and narrow.to(dtype=torch.float64).dtype == torch.float64
    assert (narrow(torch.tensor([[0.1, 0.3]])) - torch.tensor([[0.1, 0.3]])).abs().max() < 1e-7
