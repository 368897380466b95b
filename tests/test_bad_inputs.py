"""Acceptance 8: bad inputs over the public API. Each is refused, in words that name the argument; none is accepted.

The start is the list of what a peer accepts silently (NaN data, a missing axis, a broadcast mask, sigma = -0.1, seed
ignored, a misspelt option, ...). Every message must contain what was expected and what was given.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import invsolve as iv
from invsolve.errors import InvsolveError

ops, pri, st = iv.operators, iv.priors, iv.strategies
N = 4
NAN = float("nan")


def prior(n: int = N, dtype: torch.dtype = torch.float32) -> pri.GaussianPrior:
    return pri.GaussianPrior(mean=torch.zeros(n, dtype=dtype), covariance=torch.eye(n, dtype=dtype))


def mask(n: int = N) -> ops.Mask:
    return ops.Mask(mask=torch.ones(n, dtype=torch.bool))


def y(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape or (N,), dtype=dtype)


def go(A=None, data=None, law=None, **options):
    return iv.solve(
        mask() if A is None else A,
        y() if data is None else data,
        prior() if law is None else law,
        **({"noise": 0.1} | options),
    )


class Flipped(ops.LinearOperator):
    """A user's operator whose adjoint is a permuted one: finite, plausible and wrong."""

    in_shape = (N,)
    out_shape = (N,)

    def _apply(self, x):
        return x * torch.arange(1.0, N + 1)

    def _adjoint(self, v):
        return v.flip(1) * torch.arange(1.0, N + 1)


CASES: dict[str, tuple[Callable[[], object], str]] = {
    # --- data
    "y wrong length": (lambda: go(data=y(5)), r"`y` must be of shape \(batch, 4\), got \(5,\)"),
    "y one axis too many": (lambda: go(data=y(1, 1, N)), r"`y` must be of shape \(batch, 4\), got \(1, 1, 4\)"),
    "y transposed": (
        lambda: go(A=ops.Matrix(matrix=torch.ones(3, N)), data=y(3, 1)),
        r"`y` must be of shape \(batch, 3\)",
    ),
    "y NaN": (
        lambda: go(data=torch.tensor([1, NAN, 1, 1])),
        r"`y` must be finite, got 1 NaN or infinite values, the first at index \(0, 1\)",
    ),
    "y infinite": (lambda: go(data=torch.full((2, N), float("inf"))), "`y` must be finite, got 8 NaN"),
    "y an array of words": (
        lambda: go(data=np.array(["1"] * N)),
        "`y` must be floating point or complex, or integers, got <U1",
    ),
    "y complex for a real operator": (
        lambda: go(data=torch.ones(N, dtype=torch.complex64)),
        "`y` must be real floating point, got torch.complex64",
    ),
    "y real for a complex operator": (
        lambda: go(
            A=ops.MRI(in_shape=(2, 2), mask=torch.ones(2, 2, dtype=torch.bool)),
            data=y(2, 2),
            law=pri.GaussianPrior(mean=torch.zeros(2, 2, dtype=torch.complex64), covariance=torch.eye(4)),
        ),
        "`y` must be complex, got torch.float32",
    ),
    "y a ragged list": (lambda: go(data=[[1.0], [2.0, 3.0]]), "`y` must be numbers, in rows of one length, got list"),
    "y a path": (lambda: go(data="y.npy"), "`y`: there is no file 'y.npy'"),
    "y a word": (lambda: go(data="y"), "`y` must be .* the path of a .npy file, got 'y'"),
    "y missing": (lambda: iv.solve(mask(), None, prior(), noise=0.1), "`y` must be a torch.Tensor, .* got NoneType"),
    "y empty batch": (lambda: go(data=torch.ones(0, N)), "`y` must be of at least one row, got 0"),
    "y on another device": (lambda: go(data=torch.ones(N, device="meta")), "`y` must be on .*device"),
    # --- noise
    "noise missing": (lambda: iv.solve(mask(), y(), prior()), "`noise` must be given: a positive number .* got None"),
    "noise negative": (lambda: go(noise=-0.1), "`noise` must be positive, got -0.1"),
    "noise zero": (lambda: go(noise=0.0), "`noise` must be positive, got 0.0"),
    "noise NaN": (lambda: go(noise=NAN), "`noise` must be finite, got nan"),
    "noise a word": (lambda: go(noise="gaussian"), r"`noise` must be a positive number .*, got 'gaussian'"),
    "noise True": (lambda: go(noise=True), r"`noise` must be a positive number .*, got bool"),
    "noise std of wrong shape": (
        lambda: go(noise=torch.ones(3)),
        r"`noise.std` must be a number, or a tensor of shape \(4,\) or \(1, 4\), got \(3,\)",
    ),
    "noise std with a zero": (
        lambda: iv.noise.Gaussian(std=torch.tensor([1.0, 0.0])),
        "`std` must be positive, got 0.0",
    ),
    "noise std and covariance": (
        lambda: iv.noise.Gaussian(std=1.0, covariance=torch.eye(2)),
        "`std` must be given, or `covariance`, not both, got both",
    ),
    "noise covariance not definite": (
        lambda: iv.noise.Gaussian(covariance=torch.tensor([[1.0, 2], [2, 1]])),
        "`covariance` must be positive definite",
    ),
    "noise covariance not symmetric": (
        lambda: iv.noise.Gaussian(covariance=torch.tensor([[1.0, 0.5], [0, 1]])),
        "`covariance` must be symmetric",
    ),
    # --- operator
    "A a function": (
        lambda: go(A=lambda x: x),
        "`A` must be an iv.operators.Operator or an iv.Problem, got function.*from_callable",
    ),
    "A a matrix": (lambda: go(A=torch.eye(N)), "`A` must be an iv.operators.Operator or an iv.Problem, got Tensor"),
    "A with a wrong adjoint": (lambda: go(A=Flipped()), r"`A` \(Flipped\) must have the adjoint it states"),
    "A in float32 only": (
        lambda: go(A=ops.from_callable(torch.sin, (N,), (N,), dtype=torch.float32), law=prior(dtype=torch.float64)),
        "this function works in torch.float32 only, and cannot be cast to torch.float64",
    ),
    "A with other items than y": (
        lambda: go(A=ops.Mask(mask=torch.ones(3, N, dtype=torch.bool), in_shape=(N,)), data=y(2, N)),
        "`y` must be of 3 rows",
    ),
    "x without batch axis": (
        lambda: mask()(y()),
        r"Mask: `x` must be of shape \(batch, 4\), got \(4,\). Add a batch axis: x\[None\]",
    ),
    "x of 3 channels on one mask": (
        lambda: ops.Mask(mask=torch.ones(2, 2, dtype=torch.bool))(torch.ones(1, 3, 2, 2)),
        r"`x` must be of shape \(batch, 2, 2\)",
    ),
    "x a word": (lambda: mask()("x"), "`x` must be a torch.Tensor, got x"),
    "mask of floats": (
        lambda: ops.Mask(mask=2 * torch.ones(N)),
        "`mask` must be True and False, or 1 and 0, got 4 other",
    ),
    "mask of wrong shape": (
        lambda: ops.Mask(mask=torch.ones(3, dtype=torch.bool), in_shape=(N,)),
        r"`mask` must be of shape \(4,\)",
    ),
    "misspelt option": (
        lambda: ops.Mask(maskk=torch.ones(N, dtype=torch.bool)),
        "maskk",
    ),  # python's own TypeError names it
    "matrix with NaN": (lambda: ops.Matrix(matrix=torch.full((2, 2), NAN)), "`matrix` must be finite"),
    "matrix of one axis": (lambda: ops.Matrix(matrix=torch.ones(3)), r"`matrix` must be of shape \(m, n\)"),
    "index out of range": (
        lambda: ops.Subsample(index=torch.tensor([0, 9]), in_shape=(N,)),
        "`index` must be between 0 and 3, got 0 to 9",
    ),
    "chain that does not fit": (
        lambda: ops.Matrix(matrix=torch.eye(3)) @ mask(),
        r"Matrix takes \(3,\), got \(4,\) from Mask",
    ),
    "negative factor": (lambda: ops.Downsample(factor=-2, in_shape=(N,)), "`factor"),
    "blur of another dimension": (lambda: ops.Blur(kernel=torch.ones(2, 3, 3), in_shape=(N,)), "`kernel`"),
    "MRI maps a number": (
        lambda: ops.MRI(in_shape=(2, 2), mask=torch.ones(2, 2, dtype=torch.bool), maps=3.0),
        r"`maps` must be of shape \(coils, 2, 2\)",
    ),
    "pinv data of wrong shape": (lambda: mask().pinv(y(1, 3)), r"`y` must be of shape \(batch, 4\), got \(1, 3\)"),
    "tau of zero": (lambda: mask().solve_normal(y(1, N), tau=0.0), "`tau` must be positive, got 0.0"),
    # --- prior
    "prior a function": (
        lambda: go(law=lambda x, sigma: x),
        "`prior` must be an iv.priors.Prior, got function.*from_denoiser",
    ),
    "prior forgotten": (lambda: iv.solve(mask(), y(), noise=0.1), "`prior` must be an iv.priors.Prior, got NoneType"),
    "prior of another shape": (
        lambda: go(law=prior(5)),
        r"`prior` must be of the shape that Mask takes, \(4,\), got \(5,\)",
    ),
    "prior complex for a real operator": (
        lambda: go(law=pri.GaussianPrior(mean=torch.zeros(N, dtype=torch.complex64), covariance=torch.eye(N))),
        "`prior` must be real, as Mask takes, got complex",
    ),
    "covariance of wrong shape": (
        lambda: pri.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(2)),
        r"`covariance` must be of shape \(3, 3\), got \(2, 2\)",
    ),
    "covariance indefinite": (
        lambda: pri.GaussianPrior(mean=torch.zeros(2), covariance=torch.tensor([[1.0, 2], [2, 1]])),
        "`covariance` must be positive semidefinite",
    ),
    "sigma zero": (lambda: prior().denoise(y(1, N), 0.0), "`sigma` must be positive and finite, got 0.0"),
    "sigma negative": (lambda: prior().denoise(y(1, N), -1.0), "`sigma` must be positive and finite, got -1.0"),
    "sigma of another batch": (
        lambda: prior().denoise(y(2, N), torch.ones(3)),
        r"`sigma` must be 0-d, of shape \(2,\) or with 2 axes, got \(3,\)",
    ),
    "mixture weights": (
        lambda: pri.GaussianMixturePrior(
            weights=torch.tensor([0.5, 0.6]), means=torch.zeros(2, 1), covariances=torch.ones(2, 1, 1)
        ),
        "`weights`",
    ),
    "samples of a prior": (lambda: prior().sample(0), "`n` must be at least 1, got 0"),
    # --- solve's options
    "strategy unknown": (lambda: go(strategy="dps"), "`strategy` must be 'auto' or an iv.strategies object, got 'dps'"),
    "strategy not called": (
        lambda: go(strategy=st.MMPS),
        r"`strategy` must be .*, got MMPS. Call it: strategy=MMPS\(\)",
    ),
    "strategy not called, a class": (lambda: go(strategy=st.DPS), r"got DPS. Call it: strategy=DPS\(\)"),
    "strategy by name": (lambda: go(strategy="DDRM"), r"got 'DDRM'. For example iv.strategies.DDRM\(\)"),
    "a guidance": (
        lambda: go(strategy=st.NoGuidance()),
        r"got NoGuidance. A guidance needs a sampler: iv.strategies.Guided",
    ),
    "strategy a number": (lambda: go(strategy=3), "`strategy` must be 'auto' or an iv.strategies object, got int"),
    "num_samples zero": (lambda: go(num_samples=0), "`num_samples` must be at least 1, got 0"),
    "num_samples a float": (lambda: go(num_samples=1.5), "`num_samples` must be an integer, got float"),
    "seed a float": (lambda: go(seed=0.5), "`seed` must be an integer, got float"),
    "seed None": (lambda: go(seed=None), "`seed` must be an integer, got NoneType"),
    "item_ids too few": (
        lambda: go(data=y(2, N), item_ids=[1]),
        "`item_ids` must be 2 ids, one for each row of y, got 1",
    ),
    "item_ids repeated": (lambda: go(data=y(2, N), item_ids=[1, 1]), "`item_ids` must be all different"),
    "item_ids floats": (lambda: go(item_ids=[0.5]), "`item_ids` must be integers or strings, got float"),
    "item_ids too large": (lambda: go(item_ids=[2**70]), "`item_ids` must be integers of 64 bits"),
    "item_ids bools": (lambda: go(item_ids=[True]), "`item_ids` must be integers or strings, got bool"),
    "chunk zero": (lambda: go(chunk=0), "`chunk` must be at least 1, got 0"),
    "chunk with reproducible": (
        lambda: go(chunk=3, reproducible=True),
        r"`chunk` must be left out \(or 8\) with reproducible=True, got 3",
    ),
    "problem and noise": (
        lambda: iv.solve(iv.Problem(mask(), y(), noise=0.1), prior(), noise=0.1),
        "`noise` must be left out when the first argument is a Problem",
    ),
    "problem and data": (
        lambda: iv.solve(iv.Problem(mask(), y(), noise=0.1), y(), prior()),
        "`y` must be left out when the first argument is a Problem",
    ),
    "problem without prior": (
        lambda: iv.solve(iv.Problem(mask(), y(), noise=0.1)),
        "`prior` must be an iv.priors.Prior, got NoneType",
    ),
    "problem of a function": (
        lambda: iv.Problem(lambda x: x, y(), noise=0.1),
        "Problem: `operator` must be an iv.operators.Operator, got function",
    ),
    "problem dims": (lambda: iv.Problem(mask(), y(), noise=0.1, dims=("x", "y")), "`dims` must be 1 names"),
    "sampling a function": (
        lambda: iv.sample(lambda x: x, num_samples=1),
        "`prior` must be an iv.priors.Prior, got function",
    ),
    # --- results
    "quantile beyond the samples": (lambda: go(num_samples=4).map(torch.abs).quantile(0.01), "quantile"),
    "interval beyond the samples": (lambda: go(num_samples=4).map(torch.abs).interval(0.9), "19"),
    "part of an unpacked result": (lambda: go()["kernel"], "kernel|layout|part"),
    "metrics of different shapes": (lambda: iv.metrics.psnr(y(1, N), y(1, 3), data_range=1.0), "`truth`|shape"),
    "metrics with a negative range": (
        lambda: iv.metrics.psnr(y(1, N), y(1, N), data_range=-1.0),
        "`data_range` must be positive",
    ),
    "no file": (lambda: iv.load_result("no-such-file.nc"), "no-such-file.nc"),
    "grid that rises": (lambda: iv.samplers.custom_grid([1.0, 2.0, 0.0]), "strictly decreasing"),
    "grid without steps": (lambda: iv.samplers.log_grid(1.0, 0.1, 0), "`num_steps` must be at least 1, got 0"),
}


def test_there_are_at_least_sixty():
    assert len(CASES) >= 60


# A quick solve of this size, exact draws, is some 400 operations of torch. What these cases ask of its result is refused.
SOLVE = 200
AFTER_A_SOLVE = ("quantile beyond the samples", "interval beyond the samples", "part of an unpacked result")


class Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
def test_refused_in_words_before_anything_is_solved(name):
    call, message = CASES[name]
    error = (InvsolveError, TypeError) if message == "maskk" else InvsolveError
    with pytest.raises(error, match=message) as caught, Operations() as operations:
        call()
    assert (operations.count > SOLVE) == (name in AFTER_A_SOLVE)
    if isinstance(caught.value, InvsolveError) and type(caught.value).__name__ in ("InputError", "InputTypeError"):
        assert "must be" in str(caught.value) and "got" in str(caught.value)
