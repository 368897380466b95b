"""Fingerprints: equal content, equal text in every process; other content, other text."""

from __future__ import annotations

import enum
import functools
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from invsolve.core.fingerprint import fingerprint
from invsolve.noise import Gaussian
from invsolve.operators.mask import Mask
from invsolve.operators.matrix import Matrix
from invsolve.operators.sparse import csr_tensor
from invsolve.priors.exact.gaussian import GaussianPrior

LEVEL = 2.0


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: float
    y: object = None
    norm: float = field(init=False, default=0.0)


@dataclass(frozen=True)
class Other:
    x: float
    y: object = None
    norm: float = field(init=False, default=0.0)


class Plain:
    def __init__(self, gain):
        self.gain = gain

    def __call__(self, x):
        return self.gain * x

    def shifted(self, x):
        return x + self.gain


class Slotted:
    __slots__ = ("gain", "unset")

    def __init__(self, gain):
        self.gain = gain


class Own:
    def __init__(self, name):
        self.name, self.noise = name, object()

    def fingerprint(self):
        return self.name


def scaled(gain):
    def inner(x):
        return gain * x

    return inner


def with_default(gain):
    return lambda x, gain=gain: gain * x


def with_keyword(gain):
    return lambda x, *, gain=gain: gain * x


def nested(gain):
    return lambda x: (lambda y: y + 1)(x) if gain else (lambda y: y + 2)(x)


def of_global(x):
    return LEVEL * x


def recursive(depth):
    def countdown(n):
        return n if n <= depth else countdown(n - 1)

    return countdown


def network(width, act):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, width), act(), torch.nn.Linear(width, 2))


E4 = torch.eye(4)
CROW, COL = torch.tensor([0, 1, 2]), torch.tensor([0, 1])
DIFFERENT = {
    "numbers": (1, 2, 1.0, 2.0, True, 1 + 0j, -1, 0.1, 0.1 + 2**-56),
    "strings": ("a", "b", "ab", b"a", "", None, "None", "1"),
    "tensors": (
        E4,
        E4.double(),
        E4.half(),
        E4.bfloat16(),
        E4.int(),
        E4.bool(),
        E4.view(2, 8),
        E4.view(-1),
        2 * E4,
        E4[:2],
        E4.to_sparse(),
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(0, 2),
    ),
    "sparse tensors": (
        csr_tensor(CROW, COL, torch.ones(2), (2, 2)),
        csr_tensor(CROW, COL, 2 * torch.ones(2), (2, 2)),
        csr_tensor(CROW, 1 - COL, torch.ones(2), (2, 2)),
        csr_tensor(CROW, COL, torch.ones(2), (2, 3)),
    ),
    "arrays": (
        np.eye(4),
        np.eye(4, dtype=np.float32),
        np.eye(4).ravel(),
        np.array(["a"]),
        np.array(["a"], dtype=object),
        np.array(["b"], dtype=object),
        E4.double(),
    ),
    "containers": (
        [1, 2],
        (1, 2),
        {1, 2},
        frozenset((1, 2)),
        [2, 1],
        [1, [2]],
        [[1], 2],
        [[1, 2]],
        [1, 2, []],
        [],
        (),
        {},
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {"a": 1, "b": 2},
        {"a": [1, "b"]},
        {"a": (1, "b")},
    ),
    "text that runs on": (["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""]),
    "dataclasses": (Point(1.0), Point(2.0), Point(1.0, y=1), Other(1.0), Point(1.0, y=Point(1.0))),
    "enums": (Colour.RED, Colour.BLUE, "RED"),
    "lambdas of other code": (lambda x: x + 1, lambda x: x - 1, lambda x: x + 2, lambda x: 1 + x),
    "lambdas of other names": (lambda x: torch.sin(x), lambda x: torch.cos(x), lambda x: np.cos(x)),
    "closures": (scaled(1.0), scaled(2.0), scaled(E4), scaled(2 * E4), scaled(scaled(1.0)), scaled(scaled(2.0))),
    "defaults": (with_default(1.0), with_default(2.0), with_keyword(1.0), with_keyword(2.0)),
    "inner functions": (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x], lambda x: (lambda y: y * 3)(x)),
    "recursive functions": (recursive(1), recursive(2)),
    "partials": (
        functools.partial(max, 1),
        functools.partial(max, 2),
        functools.partial(min, 1),
        functools.partial(max, key=1),
    ),
    "wrapped functions": (functools.cache(scaled(1.0)), functools.cache(scaled(2.0))),
    "methods": (Plain(1.0).shifted, Plain(2.0).shifted, Plain(1.0).__call__),
    "callables": (Plain(1.0), Plain(2.0), Plain(E4), Own("a"), Own("b"), Slotted(1.0), Slotted(2.0)),
    "functions of C": (torch.sin, torch.cos, np.sin, np.cos, len, max),
    "classes": (Plain, Own, Point, Other, int),
    "modules": (scaled(torch), scaled(np)),
    "dtypes": (torch.float32, torch.float64, torch.device("cpu")),
    "networks": (
        network(3, torch.nn.ReLU),
        network(3, torch.nn.Tanh),
        network(4, torch.nn.ReLU),
        torch.nn.Sequential(network(3, torch.nn.ReLU)),
    ),
    "noise": (
        Gaussian(std=1.0),
        Gaussian(std=2.0),
        Gaussian(std=torch.ones(2)),
        Gaussian(covariance=torch.eye(2)),
        Gaussian(covariance=2 * torch.eye(2)),
    ),
    "operators": (
        Matrix(matrix=E4),
        Matrix(matrix=2 * E4),
        Matrix(matrix=E4 + 0j),
        Matrix(matrix=E4 + 0j, in_kind="real"),
        2.0 * Matrix(matrix=E4),
        3.0 * Matrix(matrix=E4),
        Mask(mask=E4.bool()),
        Mask(mask=E4 == 0),
    ),
    "priors": (
        GaussianPrior(mean=torch.zeros(4), covariance=E4),
        GaussianPrior(mean=torch.ones(4), covariance=E4),
        GaussianPrior(mean=torch.zeros(4), covariance=2 * E4),
        GaussianPrior(mean=torch.zeros(4).double(), covariance=E4.double()),
        GaussianPrior(mean=torch.zeros(4), covariance=E4, noise_scale=torch.ones(4)),
    ),
}


@pytest.mark.parametrize("values", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different_content_differs(values):
    prints = [fingerprint(value) for value in values]
    assert len(set(prints)) == len(prints), [i for i, p in enumerate(prints) if prints.count(p) > 1]
    assert [fingerprint(value) for value in values] == prints
    assert all(len(p) == 20 and int(p, 16) >= 0 for p in prints)


SAME = {
    "storage order": (torch.arange(6.0).view(2, 3).T.contiguous(), torch.arange(6.0).view(2, 3).T),
    "lazy conjugates": ((E4 + 1j).conj(), E4 - 1j),
    "graph": (torch.ones(2), torch.ones(2, requires_grad=True)),
    "array order": (np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(6.0).reshape(2, 3)),
    "dict order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "set order": ({"a", "b", "c"}, {"c", "b", "a"}),
    "one function twice": (scaled(1.0), scaled(1.0)),
    "partials": (functools.partial(max, 1), functools.partial(max, 1)),
    "objects": (Plain(1.0), Plain(1.0)),
    "own": (Own("a"), Own("a")),
    "networks": (network(3, torch.nn.ReLU), network(3, torch.nn.ReLU)),
    "coalesced": (
        torch.sparse_coo_tensor([[0, 0]], [1.0, 1.0], (2,), check_invariants=True),
        torch.sparse_coo_tensor([[0]], [2.0], (2,), check_invariants=True),
    ),
    "slots": (Slotted(1.0), Slotted(1.0)),
    "no attributes": (object(), object()),
    "checked noise": (
        Gaussian(covariance=torch.eye(2)),
        Gaussian(covariance=torch.eye(2)).check((2,), 1, torch.float32, torch.device("cpu")),
    ),
}


@pytest.mark.parametrize(("one", "two"), SAME.values(), ids=SAME.keys())
def test_equal_content_is_equal(one, two):
    assert fingerprint(one) == fingerprint(two)


def test_derived_fields_do_not_count():
    one, two = Point(1.0), Point(1.0)
    object.__setattr__(two, "norm", 5.0)  # as another library's rounding of a factorisation might
    assert fingerprint(one) == fingerprint(two)


def test_globals_that_are_numbers_count(monkeypatch):
    before = fingerprint(of_global)
    monkeypatch.setitem(globals(), "LEVEL", 3.0)
    assert fingerprint(of_global) != before


def test_an_unbound_closure_and_a_container_in_itself_end():
    def late(x):
        return later + x  # noqa: F821 - bound below, after the first print

    first = fingerprint(late)
    later = 1.0
    assert fingerprint(late) != first
    loop = [1]
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop) != fingerprint([1, [1]])


SCRIPT = """
import functools, numpy as np, torch
from invsolve.core.fingerprint import fingerprint
from invsolve.noise import Gaussian
from invsolve.operators.matrix import Matrix
from invsolve.priors.exact.gaussian import GaussianPrior
gain = torch.arange(3.0)
class Net:
    def __init__(self): self.f = lambda x: gain * torch.sin(x)
values = [1, "a", {"x", "y", "z"}, {"k": (1, 2.5)}, gain, np.arange(4), torch.sin, np.fft.fft, len, Net(), object(),
          lambda x, g=gain: g * x, functools.partial(max, key=len), torch.nn.Linear,
          Gaussian(std=0.5), Matrix(matrix=torch.eye(3)), GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3))]
print(" ".join(fingerprint(v) for v in values))
"""


@pytest.mark.slow
def test_fingerprints_are_those_of_every_process():
    lines = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        ).stdout
        for seed in ("1", "2")
    ]
    assert lines[0] == lines[1]
    prints = lines[0].split()
    assert len(set(prints)) == len(prints) == 17
    assert prints[0] == fingerprint(1)
    assert prints[4] == fingerprint(torch.arange(3.0))
    assert prints[15] == Matrix(matrix=torch.eye(3)).fingerprint()
