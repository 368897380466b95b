"""`check_operator` says what is wrong: operators broken on purpose, one fault each."""

from __future__ import annotations

import pytest
import torch

import invsolve as iv
from invsolve.operators.base import LinearOperator, Operator

N = 6


class Good(LinearOperator):
    in_shape = (N,)
    out_shape = (N,)

    def _apply(self, x):
        return x * torch.arange(1.0, N + 1)

    def _adjoint(self, y):
        return y * torch.arange(1.0, N + 1)


class WrongAdjoint(Good):
    def _adjoint(self, y):
        return (y * torch.arange(1.0, N + 1)).flip(1)


class BorderAdjoint(Good):
    """Wrong at one border only, by a little: seen on smooth signals."""

    def _adjoint(self, y):
        return y * torch.tensor([1.0, 2, 3, 4, 5, 6.01])


class ScaledNormal(Good):
    def _normal(self, x):
        return 2 * self._adjoint(self._apply(x))


class Affine(Good):
    def _apply(self, x):
        return super()._apply(x) + 1


class Quadratic(Good):
    def _apply(self, x):
        return x * x.abs()


class WrongShape(Good):
    def _apply(self, x):
        return x[:, :-1]


class WrongDtype(Good):
    def _apply(self, x):
        return x.double()


class WrongKind(Good):
    out_kind = "complex"


class NotATensor(Good):
    def _apply(self, x):
        return x.tolist()


class Elsewhere(Good):
    def _apply(self, x):
        return x.to("meta")


class Nan(Good):
    def _apply(self, x):
        return x.log()


class Mixing(Good):
    """A norm over the batch: rows see each other."""

    def _apply(self, x):
        return x / x.norm()


class Rotating(Good):
    count = 0

    def _apply(self, x):
        type(self).count += 1  # after the first checks, which would see it too
        return x * (1 + 0.1 * (type(self).count % 2 if type(self).count > 5 else 0))


class AdjointShape(Good):
    def _adjoint(self, y):
        return y[:, :2]


class AdjointDtype(Good):
    def _adjoint(self, y):
        return y.double()


class Unobserved(Good):
    @property
    def observed(self):
        return torch.arange(N) > 2


class ObservedShape(Good):
    @property
    def observed(self):
        return torch.ones(2, dtype=torch.bool)


class Unsteady(Good):
    seen = 0

    def fingerprint(self):
        type(self).seen += 1
        return str(self.seen)


class WrongDerivative(Operator):
    in_shape = (N,)
    out_shape = (N,)

    def _apply(self, x):
        return x**2

    def _jvp(self, x, dx):
        return x**2, x * dx


class WrongPullback(WrongDerivative):
    def _jvp(self, x, dx):
        return x**2, 2 * x * dx

    def _vjp(self, x):
        return x**2, lambda v: v * x


class PullbackDtype(WrongPullback):
    def _vjp(self, x):
        return x**2, lambda v: (2 * v * x).double()


class BadCast(Good):
    @property
    def dtype(self):
        return torch.float32

    def to(self, device=None, dtype=None):
        return Affine()


class BadItems(Good):
    batch = 3

    def take(self, index):
        return Good() if len(index) == 1 else Affine()


FAULTS = {
    WrongAdjoint: "adjoint",
    BorderAdjoint: "adjoint",
    ScaledNormal: "normal",
    Affine: "linear",
    Quadratic: "linear",
    WrongShape: "output",
    WrongDtype: "output",
    WrongKind: "output",
    NotATensor: "output",
    Elsewhere: "output",
    Nan: "output",
    Mixing: "rows",
    Rotating: "repeatable",
    AdjointShape: "adjoint",
    AdjointDtype: "adjoint",
    Unobserved: "observed",
    ObservedShape: "observed",
    Unsteady: "fingerprint",
    WrongDerivative: "derivative",
    WrongPullback: "pullback",
    PullbackDtype: "pullback",
    BadCast: "cast",
    BadItems: "items",
}


@pytest.mark.parametrize(("faulty", "name"), FAULTS.items(), ids=lambda v: v.__name__ if isinstance(v, type) else v)
def test_each_fault_is_named(faulty, name):
    report = iv.testing.check_operator(faulty(), throw=False)
    assert report.failures[0].name == name
    assert f"FAIL  {name}" in str(report)
    vars(faulty).get("count") and setattr(faulty, "count", 0)
    with pytest.raises(iv.errors.OperatorError, match=r"check_operator: \d+ of \d+ checks failed"):
        iv.testing.check_operator(faulty())


class InPlace(Good):
    def _apply(self, x):
        return x.mul_(torch.arange(1.0, N + 1))

    def _adjoint(self, y):
        return y.mul_(torch.arange(1.0, N + 1))


def test_an_operator_that_works_in_place_is_handed_copies():
    assert iv.testing.check_operator(InPlace()).passed
    x = torch.ones(2, N)
    assert torch.equal(InPlace()(x), Good()(x)) and torch.equal(x, torch.ones(2, N))


def test_a_good_operator_passes_and_prints():
    report = iv.testing.check_operator(Good())
    assert report.passed and report.failures == () and "all of" in str(report)
    assert iv.testing.dot_test(Good()) < 1e-6
    assert iv.testing.dot_test(WrongAdjoint()) > 0.01


def test_refusals():
    with pytest.raises(iv.errors.InputTypeError, match="`A` must be an iv.operators.Operator, got function"):
        iv.testing.check_operator(lambda x: x)
    with pytest.raises(iv.errors.InputError, match="`tol` must be positive"):
        iv.testing.check_operator(Good(), tol=0.0)
    with pytest.raises(iv.errors.InputTypeError, match="`seed` must be an integer"):
        iv.testing.check_operator(Good(), seed=0.5)
