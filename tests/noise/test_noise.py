"""Gaussian noise against scipy, autograd and dense matrices: real and complex, every form of the parameters."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.core.validation import kind_dtype
from invsolve.errors import InputError, InputTypeError
from invsolve.noise import Gaussian, Noise, as_noise

CPU = torch.device("cpu")
F64, C128 = torch.float64, torch.complex128
ROWS, SHAPE = 3, (2, 3)


def random(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


ROOT = random(6, 6)
STDS = {
    "a number": 0.3,
    "per entry": random(*SHAPE).exp(),
    "per item": random(ROWS, 1, 1).exp(),
    "per item and row": random(ROWS, 2, 1).exp(),
    "per item and entry": random(ROWS, *SHAPE).exp(),
}
CASES = {name: Gaussian(std=std) for name, std in STDS.items()}
CASES["covariance"] = Gaussian(covariance=ROOT @ ROOT.T + torch.eye(6, dtype=F64))
KINDS = pytest.mark.parametrize("dtype", [F64, C128], ids=str)
EVERY = pytest.mark.parametrize("name", CASES)
MASKS = {
    "all observed": None,
    "one mask": torch.tensor([[True, False, True], [True, True, False]]),
    "a mask per item": torch.tensor([True, False, True, True]).repeat(5)[: ROWS * 6].view(ROWS, *SHAPE),
    "nothing observed": torch.zeros(SHAPE, dtype=torch.bool),
}
PAIRS = [(name, mask) for name in CASES for mask in MASKS if name != "covariance" or mask == "all observed"]
MASKED = pytest.mark.parametrize(("name", "mask"), [(n, MASKS[m]) for n, m in PAIRS], ids=map(", ".join, PAIRS))


def make(name, dtype, rows=ROWS):
    """The checked noise, data and a clean measurement."""
    y, clean = random(rows, *SHAPE, dtype=dtype, seed=1), random(rows, *SHAPE, dtype=dtype, seed=2)
    return CASES[name].check(SHAPE, rows, dtype, CPU), y, clean


def covariance(name, row):
    """The covariance of the flattened data of a row, of one real component: (6, 6)."""
    if name == "covariance":
        return CASES[name].covariance
    std = torch.as_tensor(CASES[name].std, dtype=F64)
    return torch.diag((std[row] if "item" in name else std).expand(SHAPE).flatten() ** 2)


# --- the law ---------------------------------------------------------------------------------------------------------
@KINDS
@EVERY
def test_log_prob_is_that_of_scipy(name, dtype):
    noise, y, clean = make(name, dtype)
    got = noise.log_prob(y, clean)
    assert got.shape == (ROWS,)
    for row in range(ROWS):
        C = covariance(name, row).numpy()
        r = (y - clean)[row].flatten()
        parts = [r.real, r.imag] if dtype.is_complex else [r]
        want = sum(multivariate_normal(cov=C).logpdf(part.numpy()) for part in parts)
        assert float(got[row]) == pytest.approx(want, rel=1e-12)


@KINDS
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("name", STDS)
def test_log_prob_counts_only_what_was_observed(name, mask, dtype):
    noise, y, clean = make(name, dtype)
    got = noise.log_prob(y, clean, mask)
    seen = (torch.ones(SHAPE, dtype=torch.bool) if mask is None else mask).expand(ROWS, *SHAPE)
    for row in range(ROWS):
        std = covariance(name, row).diagonal().sqrt().view(SHAPE)[seen[row]]
        r = (y - clean)[row][seen[row]]
        parts = [r.real, r.imag] if dtype.is_complex else [r]
        want = sum(norm.logpdf(part.numpy(), scale=std.numpy()).sum() for part in parts)
        assert float(got[row]) == pytest.approx(want, rel=1e-12, abs=1e-12)


@KINDS
@MASKED
def test_grad_is_the_gradient_of_minus_log_prob(name, mask, dtype):
    noise, y, clean = make(name, dtype)
    leaf = clean.clone().requires_grad_()
    (want,) = torch.autograd.grad(-noise.log_prob(y, leaf, mask).sum(), leaf)
    got = noise.grad(y, clean, mask)
    assert torch.allclose(got, want, rtol=1e-10, atol=1e-10)
    if mask is not None:
        assert bool((got[~mask.expand(ROWS, *SHAPE)] == 0).all())


@KINDS
@EVERY
def test_curvature_is_the_inverse_covariance(name, dtype):
    noise, v, clean = make(name, dtype)
    got = noise.curvature(v, clean).flatten(1)
    for row in range(ROWS):
        C = covariance(name, row).to(dtype)
        assert torch.allclose(got[row], torch.linalg.solve(C, v[row].flatten()), rtol=1e-10)
        assert torch.allclose(noise.apply_covariance(v)[row].flatten(), C @ v[row].flatten(), rtol=1e-10)
    step = 1e-6 * v  # the second derivative of -log p along v, by differences of grad
    change = noise.grad(clean, clean + step) / 1e-6
    assert torch.allclose(change.flatten(1), got, rtol=1e-6)


# --- whitening -------------------------------------------------------------------------------------------------------
@KINDS
@MASKED
def test_whiten_and_its_adjoint(name, mask, dtype):
    noise, u, v = make(name, dtype)
    white, back = noise.whiten(u, mask), noise.unwhiten_adjoint(v, mask)
    assert white.shape == back.shape == u.shape
    left = (white.conj() * v).real.flatten(1).sum(1)
    right = (u.conj() * back).real.flatten(1).sum(1)
    assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)
    if mask is None:  # G^-1/2 G G^-H/2 = 1
        assert torch.allclose(noise.whiten(noise.apply_covariance(noise.unwhiten_adjoint(v))), v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@EVERY
def test_float32_follows_float64(name, dtype):
    wide, y, clean = make(name, kind_dtype(F64, "complex" if dtype.is_complex else "real"))
    narrow = CASES[name].check(SHAPE, ROWS, dtype, CPU)
    for method in ("whiten", "unwhiten_adjoint", "apply_covariance"):
        got = getattr(narrow, method)(y.to(dtype))
        assert got.dtype == dtype
        # Condition number of the covariance below 1e3.
        assert torch.allclose(got.to(y.dtype), getattr(wide, method)(y), rtol=1e-4, atol=1e-4)
    got = narrow.log_prob(y.to(dtype), clean.to(dtype))
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), wide.log_prob(y, clean), rtol=1e-4)


def test_checking_again_in_another_precision_loses_nothing():
    noise = CASES["covariance"]
    back = noise.check(SHAPE, ROWS, torch.float32, CPU).check(SHAPE, ROWS, F64, CPU)
    y = random(ROWS, *SHAPE)
    assert torch.equal(back.whiten(y), noise.check(SHAPE, ROWS, F64, CPU).whiten(y))


# --- samples ---------------------------------------------------------------------------------------------------------
@KINDS
@EVERY
def test_samples_have_the_covariance(name, dtype):
    each = 4000
    rows = ROWS * each
    clean = random(1, *SHAPE, dtype=dtype).expand(rows, *SHAPE)
    index = torch.arange(ROWS).repeat(each)
    noise = CASES[name].check(SHAPE, ROWS, dtype, CPU).take(index)
    draw = Draws.for_rows(0, index.tolist(), [k for k in range(each) for _ in range(ROWS)], CPU)
    n = (noise.sample(clean, draw) - clean).flatten(1).view(each, ROWS, 6)
    for row in range(ROWS):
        C = covariance(name, row)
        sd = C.diagonal().sqrt()
        parts = [n[:, row].real, n[:, row].imag] if dtype.is_complex else [n[:, row]]
        for x in parts:
            assert bool((x.mean(0).abs() < 5 * sd / math.sqrt(each)).all())
            # The variance of a sample covariance: (C_ij^2 + C_ii C_jj) / n.
            error = ((C**2 + torch.outer(sd, sd) ** 2) / each).sqrt()
            assert bool(((x.mT @ x / each - C).abs() < 5 * error).all())
        if dtype.is_complex:
            cross = (parts[0].mT @ parts[1] / each).abs()
            assert bool((cross < 5 * torch.outer(sd, sd) / math.sqrt(each)).all())


def test_samples_are_keyed_by_step_and_index():
    noise = Gaussian(std=1.0)
    clean = torch.zeros(2, 4)
    draw = Draws.for_rows(0, [0, 1], [0, 0], CPU)
    one = noise.sample(clean, draw)
    assert torch.equal(one, noise.sample(clean, draw, step=0, index=0))
    assert not torch.equal(one, noise.sample(clean, draw, step=1))
    assert not torch.equal(one, noise.sample(clean, draw, index=1))


# --- items -----------------------------------------------------------------------------------------------------------
@KINDS
@EVERY
def test_taken_rows_have_their_own_noise(name, dtype):
    noise, y, clean = make(name, dtype)
    index = torch.tensor([2, 0, 2, 1])
    taken = noise.take(index)
    assert torch.allclose(taken.log_prob(y[index], clean[index]), noise.log_prob(y, clean)[index], rtol=1e-13)
    assert torch.allclose(taken.whiten(y[index]), noise.whiten(y)[index], rtol=1e-13)  # a solve of other rows: rounding
    assert taken.per_item == noise.per_item == ("per item" in name)
    assert isinstance(taken, Gaussian)


def test_per_entry_wins_where_the_shapes_are_ambiguous():
    """Three items of data of shape (3,): a std of shape (3,) is one per entry; one per item is (3, 1)."""
    std = torch.tensor([1.0, 2.0, 3.0])
    entry = Gaussian(std=std).check((3,), 3, torch.float32, CPU)
    item = Gaussian(std=std[:, None]).check((3,), 3, torch.float32, CPU)
    assert not entry.per_item
    assert item.per_item
    assert torch.equal(entry.whiten(torch.ones(3, 3)), torch.ones(3, 3) / std)
    assert torch.equal(item.whiten(torch.ones(3, 3)), torch.ones(3, 3) / std[:, None])


def test_the_noise_given_is_not_changed_and_a_replaced_covariance_is_factorised_again():
    noise = Gaussian(std=torch.ones(ROWS, 1, 1))
    noise.check(SHAPE, ROWS, F64, CPU)
    assert not noise.per_item
    assert noise.std.dtype == torch.float32
    one = Gaussian(covariance=torch.eye(2))
    four = dataclasses.replace(one, covariance=4 * torch.eye(2))
    assert torch.equal(four.whiten(torch.ones(1, 2)), torch.full((1, 2), 0.5))
    assert Gaussian(std=torch.tensor(0.5)).std == 0.5


def test_a_covariance_of_no_data():
    noise = Gaussian(covariance=torch.zeros(0, 0)).check((0,), 2, torch.float32, CPU)
    assert torch.equal(noise.log_prob(torch.zeros(2, 0), torch.zeros(2, 0)), torch.zeros(2))


def test_as_noise():
    noise = Gaussian(std=2.0)
    assert as_noise("solve", noise) is noise
    assert as_noise("solve", 0.5).std == 0.5
    assert as_noise("solve", np.float32(0.5)).std == 0.5
    assert as_noise("solve", torch.tensor(0.5)).std == 0.5
    assert torch.equal(as_noise("solve", torch.tensor([0.5, 1.0])).std, torch.tensor([0.5, 1.0]))
    assert isinstance(as_noise("solve", 1), Noise)
    assert "std=0.5" in repr(as_noise("solve", 0.5))
    assert "_chol" not in repr(Gaussian(covariance=torch.eye(2)))


# --- refusals --------------------------------------------------------------------------------------------------------
def checked(noise, shape=(3,), batch=2):
    return noise.check(shape, batch, torch.float32, CPU)


REFUSED = {
    "neither": (lambda: Gaussian(), InputError, "`std` must be given, or `covariance`, not both, got neither"),
    "both": (lambda: Gaussian(std=1.0, covariance=torch.eye(2)), InputError, "not both, got both"),
    "zero": (lambda: Gaussian(std=0.0), InputError, r"Gaussian: `std` must be positive, got 0.0"),
    "negative": (lambda: Gaussian(std=-1), InputError, r"`std` must be positive, got -1.0"),
    "std of nan": (lambda: Gaussian(std=math.nan), InputError, r"`std` must be finite, got nan"),
    "text": (lambda: Gaussian(std="1"), InputTypeError, r"`std` must be a real number, got '1'"),
    "list": (lambda: Gaussian(std=["1"]), InputTypeError, r"`std` must be numbers, in rows of one length, got a list"),
    "array of words": (lambda: Gaussian(std=np.array(["a"])), InputTypeError, r"`std` must be floating .*, got <U1"),
    "complex": (lambda: Gaussian(std=torch.ones(3) + 0j), InputTypeError, r"`std` must be real, got torch.complex64"),
    "a zero in it": (lambda: Gaussian(std=torch.tensor([1.0, 0.0])), InputError, r"`std` must be positive, got 0.0"),
    "a nan in it": (lambda: Gaussian(std=torch.tensor([1.0, math.nan])), InputError, r"`std` must be finite, got 1"),
    "no tensor": (
        lambda: Gaussian(covariance="white"),
        InputTypeError,
        r"Gaussian: `covariance` must be numbers: a tensor, an array, a list, or the path of a .npy file, got 'white'",
    ),
    "complex covariance": (
        lambda: Gaussian(covariance=torch.eye(2) + 0j),
        InputTypeError,
        r"`covariance` must be real, got torch.complex64",
    ),
    "not square": (
        lambda: Gaussian(covariance=torch.ones(2, 3)),
        InputError,
        r"`covariance` must be a square matrix \(m, m\), got \(2, 3\)",
    ),
    "a vector": (lambda: Gaussian(covariance=torch.ones(2)), InputError, r"a square matrix \(m, m\), got \(2,\)"),
    "nan": (lambda: Gaussian(covariance=torch.full((2, 2), math.nan)), InputError, r"`covariance` must be finite"),
    "not symmetric": (
        lambda: Gaussian(covariance=torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
        InputError,
        r"`covariance` must be symmetric, got an asymmetry of 0.5. Pass \(C \+ C.T\) / 2",
    ),
    "not positive": (
        lambda: Gaussian(covariance=torch.tensor([[1.0, 2.0], [2.0, 1.0]])),
        InputError,
        r"`covariance` must be positive definite, got a matrix whose leading minor of order 2 is not",
    ),
    "singular": (lambda: Gaussian(covariance=torch.zeros(2, 2)), InputError, r"minor of order 1 is not"),
    "std of other data": (
        lambda: checked(Gaussian(std=torch.ones(4))),
        InputError,
        r"Gaussian: `std` must be a number, or a tensor of shape \(3,\) or \(2, 3\), got \(4,\)",
    ),
    "std of other items": (lambda: checked(Gaussian(std=torch.ones(3, 1))), InputError, r"got \(3, 1\)"),
    "std of other axes": (lambda: checked(Gaussian(std=torch.ones(2, 2))), InputError, r"got \(2, 2\)"),
    "std of one per item, no axes": (lambda: checked(Gaussian(std=torch.ones(2))), InputError, r"got \(2,\)"),
    "covariance of other data": (
        lambda: checked(Gaussian(covariance=torch.eye(2))),
        InputError,
        r"Gaussian: `covariance` must be of shape \(3, 3\), got \(2, 2\)",
    ),
    "covariance and a mask": (
        lambda: Gaussian(covariance=torch.eye(2)).whiten(torch.ones(1, 2), torch.tensor([True, False])),
        InputError,
        r"`covariance` must be used with fully observed data, got an operator with missing entries. Keep .* Subsample",
    ),
    "noise of None": (
        lambda: as_noise("solve", None),
        InputTypeError,
        r"`noise` must be a positive number \(the std of .*\) or an iv.noise model, got None",
    ),
    "noise of text": (lambda: as_noise("solve", "0.1"), InputTypeError, r"an iv.noise model, got '0.1'"),
    "noise of bool": (lambda: as_noise("solve", True), InputTypeError, r"an iv.noise model, got bool"),
    "noise of complex": (lambda: as_noise("solve", 1j), InputTypeError, r"`noise` must be a real number, got complex"),
    "noise below 0": (lambda: as_noise("solve", -0.1), InputError, r"solve: `noise` must be positive, got -0.1"),
    "noise of a class": (
        lambda: as_noise("solve", Gaussian),
        InputTypeError,
        r"the class Gaussian. Call it, .*: iv.noise.Gaussian",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize("conjugate", [False, True])
def test_complex_data_are_whitened_part_by_part(conjugate):
    noise, y, _ = make("per item and entry", C128)
    y = y.conj() if conjugate else y
    white = noise.whiten(y)
    assert torch.equal(white.real, y.real / noise.std)
    assert torch.equal(white.imag, y.imag / noise.std)


def test_a_distribution_is_that_of_the_std():
    prior, A = iv.priors.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3)), iv.operators.Matrix(torch.eye(3))
    result = iv.solve(A, torch.ones(3), prior, noise=iv.LogNormal(median=0.1, factor=2), num_samples=4)
    assert "noise.std" in result.parameters
    with pytest.raises(iv.errors.InputTypeError, match=r"got 'poisson'. For example 0.1, iv.noise.Poisson"):
        iv.solve(A, torch.ones(3), prior, noise="poisson")
