"""The one hierarchy and the one wording of refusals."""

from __future__ import annotations

import pickle

import pytest
import torch

from invsolve import errors
from invsolve.errors import InputError, InputTypeError, InvsolveError, invalid, invalid_type

BASES = {
    "InputError": ValueError,
    "InputTypeError": TypeError,
    "UnsupportedError": ValueError,
    "OperatorError": ValueError,
    "FileError": ValueError,
    "WriteError": OSError,
    "CheckpointError": ValueError,
    "SolveError": RuntimeError,
}


def test_every_exception_is_ours_and_also_what_python_people_catch():
    found = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, InvsolveError)}
    assert found == {*BASES, "InvsolveError"}
    for name, base in BASES.items():
        assert issubclass(getattr(errors, name), base)


def test_wording_of_a_value():
    error = invalid("solve", "noise", "positive", -1.0)
    assert type(error) is InputError
    assert str(error) == "solve: `noise` must be positive, got -1.0."
    assert str(invalid("Mask", "mask", "2-d", (3,), "Add an axis.")).endswith("got (3,). Add an axis.")


GIVEN = [(1, "int"), ([1.0], "list"), (None, "NoneType"), (torch.zeros(2), "Tensor"), ("torch.int64", "torch.int64")]


@pytest.mark.parametrize(("given", "shown"), GIVEN)
def test_wording_of_a_type(given, shown):
    error = invalid_type("solve", "y", "floating", given, "Convert it.")
    assert type(error) is InputTypeError
    assert str(error) == f"solve: `y` must be floating, got {shown}. Convert it."


def test_errors_travel_between_processes():
    error = invalid("solve", "noise", "positive", -1.0)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
