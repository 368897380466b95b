"""Tensors that were handed over may change afterwards: what was made of them does not."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import KW_ONLY, dataclass

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

import invsolve as iv
from invsolve.core.ownership import Owner, copied, copied_tensor, is_ours, replaced
from tests.shared import operator_cases, prior_cases

F64 = torch.float64
draw = operator_cases.Numbers(7)


def spoil(value: Tensor | np.ndarray) -> None:
    """Change every entry in place."""
    if isinstance(value, np.ndarray):
        value[...] = value + 1
    elif value.dtype == torch.bool:
        value.logical_not_()
    elif value.is_floating_point() or value.is_complex():
        value.mul_(-3).add_(0.5)
    else:
        value.zero_()


def rebuilt(value: object, handed: list[Tensor]) -> object:
    """The same object, made by the constructors anew, of tensors that are noted in ``handed``."""
    if isinstance(value, Tensor):
        handed.append(value.clone())
        return handed[-1]
    if isinstance(value, tuple):
        return tuple(rebuilt(v, handed) for v in value)
    if isinstance(value, Owner) and dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value) if f.init]
        parts = {name: getattr(value, name) for name in fields}
        return type(value)(**{name: rebuilt(part, handed) for name, part in parts.items()})
    return value


NUMBERS = ("gaussian blur", "identity", "identity complex")  # what these are made of
OPERATORS = {name: A for name, A in operator_cases.CASES.items() if name not in NUMBERS} | {
    "phase retrieval": iv.operators.PhaseRetrieval(operator_cases.CASES["diffraction items"]),
    "linearised": iv.operators.PhaseRetrieval(operator_cases.CASES["matrix complex"]).linearize(
        draw.randn(2, 5, dtype=operator_cases.COMPLEX)
    ),
}


@pytest.mark.parametrize("used", [True, False], ids=["used before", "new"])
@pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS)
def test_operators_keep_what_they_were_made_of(A, used):
    handed: list[Tensor] = []
    B = rebuilt(A, handed)
    rows = A.batch or 2
    x, y = draw.signals(A, rows), draw.data(A, rows)

    def answers(C):
        found = [C(x), C.vjp(x)[1](y)]
        return [*found, C.observed] if C.observed is not None else found

    before = [v.clone() for v in answers(A)]
    if used:
        answers(B)
    for tensor in handed:
        spoil(tensor)
    assert all(torch.equal(a, b) for a, b in zip(answers(B), before, strict=True))
    assert B.fingerprint() == A.fingerprint()


@pytest.mark.parametrize("prior", prior_cases.CASES.values(), ids=prior_cases.CASES)
def test_priors_keep_what_they_were_made_of(prior):
    handed: list[Tensor] = []
    again = rebuilt(prior, handed)
    for tensor in handed:
        spoil(tensor)
    x = draw.randn(3, *prior.shape)
    assert torch.equal(again.denoise(x, 0.5), prior.denoise(x, 0.5))
    assert torch.equal(again.sample(3), prior.sample(3)) and torch.equal(again.mean, prior.mean)
    assert again.fingerprint() == prior.fingerprint()


def positive(*shape: int) -> Tensor:
    return 0.5 + draw.rand(*shape)


NOISES = {
    "gaussian": lambda t: iv.noise.Gaussian(t),
    "covariance": lambda t: iv.noise.Gaussian(covariance=t.diag()),
    "poisson": lambda t: iv.noise.Poisson(t),
    "background": lambda t: iv.noise.Poisson(3.0, background=t),
    "laplace": lambda t: iv.noise.Laplace(t),
    "rician": lambda t: iv.noise.Rician(t),
    "transmission": lambda t: iv.noise.PoissonTransmission(100 * t),
}


@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_noise_models_keep_what_they_were_made_of(make):
    t, y, clean = positive(4), torch.ones(2, 4, dtype=F64), positive(2, 4)
    right = make(t.clone())
    noise = make(t)
    checked = noise.check((4,), 2, F64, torch.device("cpu"))
    spoil(t)
    expected = right.check((4,), 2, F64, torch.device("cpu")).log_prob(y, clean)
    for model in (checked, noise.check((4,), 2, F64, torch.device("cpu"))):
        assert torch.equal(model.log_prob(y, clean), expected)


def test_laws_coefficients_schedules_and_grids_keep_what_they_were_made_of():
    scale, levels = positive(2), torch.tensor([3.0, 1.0, 0.0], dtype=F64)
    mean, variances, matrix = draw.randn(3), positive(3), torch.eye(3, dtype=F64)
    laplace = iv.priors.Laplace(scale)
    strategy = iv.strategies.Guided(iv.strategies.NoGuidance(), iv.samplers.Euler(), grid=levels)
    law = iv.priors.GaussianLaw(mean, iv.priors.DenseModes((3,), matrix), variances)
    before = [v.clone() for v in (laplace.scale, strategy.grid, law.denoise(mean[None] + 1, torch.ones(1, dtype=F64)))]
    for tensor in (scale, levels, mean, variances, matrix):
        kept = tensor.clone()
        spoil(tensor)
        assert not torch.equal(kept, tensor)
    again = (law.mean + 1)[None]
    after = (laplace.scale, strategy.grid, law.denoise(again, torch.ones(1, dtype=F64)))
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_plans_and_grids_keep_their_levels():
    levels = torch.tensor([3.0, 1.0, 0.0], dtype=F64)
    grid, plan = iv.samplers.custom_grid(levels), iv.samplers.Plan.make(iv.samplers.Euler(), levels)
    levels[0] = 30.0
    assert grid.tolist() == plan.grid.tolist() == [3.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_data_are_copied_whatever_they_are(kind):
    A, prior = iv.operators.Matrix(torch.eye(2, dtype=F64)), prior_cases.CASES["mixture"]
    y = torch.tensor([0.5, 1.0], dtype=F64)
    given = y.clone() if kind == "torch" else y.numpy().copy()
    problem = iv.Problem(A, given, noise=0.3)
    result = iv.solve(A, given, prior, noise=0.3, strategy=iv.strategies.Exact(), num_samples=64)
    posterior = prior.posterior(A, given, 0.3)
    mean, print_ = posterior.mean.clone(), iv.core.fingerprint.fingerprint(problem.data)
    given *= 50
    assert torch.equal(problem.data[0], y) and torch.equal(result.problem.data[0], y)
    assert torch.equal(posterior.mean, mean) and iv.core.fingerprint.fingerprint(problem.data) == print_
    assert result.check(solves=False).passed


def test_scipy_matrices_are_copied():
    S = scipy.sparse.random(6, 20, density=0.3, random_state=0, format="csr")
    A, x = iv.operators.from_scipy(S), draw.randn(2, 20)
    y = A(x)
    S.data *= 5
    assert torch.equal(A(x), y)
    dot = (A(x) * y).sum() - (x * A.adjoint(y)).sum()
    assert dot.abs() < 1e-12 * y.square().sum()


@dataclass(frozen=True, eq=False)
class Gain(iv.operators.LinearOperator):
    """A user's operator with a check, and a tensor derived in it."""

    gain: Tensor
    _: KW_ONLY
    in_shape: tuple[int, ...] = (3,)
    out_shape: tuple[int, ...] = (3,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "square", self.gain**2)

    def _apply(self, x: Tensor) -> Tensor:
        return self.gain * x

    _adjoint = _apply


@dataclass(frozen=True, eq=False, slots=True)
class Slotted(iv.operators.LinearOperator):
    """Without a check, and with slots, which make a class twice."""

    gain: Tensor
    in_shape: tuple[int, ...] = (3,)
    out_shape: tuple[int, ...] = (3,)

    def _apply(self, x: Tensor) -> Tensor:
        return self.gain * x

    _adjoint = _apply


@pytest.mark.parametrize("cls", [Gain, Slotted])
def test_dataclasses_of_users_own_their_tensors_too(cls):
    gain = torch.tensor([1.0, 2.0, 3.0])
    A = cls(gain)
    gain += 1
    assert A(torch.ones(1, 3)).tolist() == [[1.0, 2.0, 3.0]]
    if cls is Gain:
        assert A.square.tolist() == [1.0, 4.0, 9.0]
    again = pickle.loads(pickle.dumps(A)) if cls is Gain else A.to(dtype=torch.float32)
    assert again.fingerprint() == A.fingerprint() and again(torch.ones(1, 3)).tolist() == [[1.0, 2.0, 3.0]]


def test_copies_are_made_at_the_border_only():
    A = Gain(torch.ones(3))
    assert replaced(A).gain is A.gain and dataclasses.replace(A).gain is not A.gain
    assert A.to("cpu").gain is A.gain and A.take(torch.tensor([0])) is A
    kernel = torch.ones(3, requires_grad=True)
    Gain(kernel)(torch.ones(1, 3)).sum().backward()  # a copy is differentiable
    assert kernel.grad.tolist() == [1.0, 1.0, 1.0]


def test_what_is_copied():
    wide = torch.arange(3.0)[:, None].expand(3, 1000)
    copy = copied_tensor(wide)
    assert torch.equal(copy, wide) and copy.untyped_storage().nbytes() == 12  # expanded, as it was
    inside = {"a": [torch.ones(2), 1], "b": (np.ones(2), "x")}
    outside = copied(inside)
    for value in (inside["a"][0], inside["b"][0]):
        value += 1
    assert outside["a"][0].tolist() == outside["b"][0].tolist() == [1.0, 1.0]
    plain = (1, "x")
    assert copied(plain) is plain
    assert is_ours(iv.operators.Matrix) and is_ours(iv.noise.Gaussian(1.0)) and not is_ours(Gain)
