"""Checks at the border: what passes is returned, what does not is named."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from invsolve.core.validation import (
    as_integer,
    axes_hint,
    channel_axis,
    check_choice,
    check_dims,
    check_finite,
    check_int,
    check_kind,
    check_number,
    check_positive,
    check_shape,
    check_spatial,
    kind_dtype,
    quoted,
    real_dtype,
)
from invsolve.errors import InputError, InputTypeError

x = torch.zeros(2, 3)
z = torch.zeros(2, 3, dtype=torch.complex64)
bad = torch.tensor([[0.0, math.nan], [math.inf, 1.0]])


def test_what_passes_is_returned_itself():
    assert check_shape("f", "x", x, (3,)) is x
    assert check_shape("f", "x", torch.zeros(4), ()).shape == (4,)
    assert check_kind("f", "x", x, "real") is x
    assert check_kind("f", "x", z, "complex") is z
    assert check_finite("f", "x", z) is z
    assert check_finite("f", "x", torch.zeros(0)).numel() == 0


TWO = [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0), torch.tensor(2), Fraction(2)]


@pytest.mark.parametrize("value", TWO, ids=lambda v: type(v).__name__)
def test_numbers(value):
    number = check_number("f", "x", value)
    assert type(number) is float
    assert number == 2.0
    assert check_positive("f", "x", value) == 2.0


@pytest.mark.parametrize("value", [3, np.int32(3), np.array(3), torch.tensor(3)], ids=lambda v: type(v).__name__)
def test_integers(value):
    number = check_int("f", "x", value, minimum=3)
    assert type(number) is int
    assert number == 3
    assert as_integer(value) == 3


@pytest.mark.parametrize(
    ("given", "shape", "line"),
    [
        ((3,), (3,), "x[None]"),
        ((16, 15, 3), (16, 15), "np.moveaxis(x, -1, 0)"),  # a photograph: a batch of three
        ((16, 15, 3), (3, 16, 15), "np.moveaxis(x, -1, 0)"),
        ((2, 16, 15, 3), (3, 16, 15), "np.moveaxis(x, -1, 1)"),
        ((5, 7), (5,), "np.moveaxis(x, -1, 0)"),  # signals in columns
        ((16, 15, 1), (16, 15), "x.reshape(16, 15)"),
        ((5, 16, 15, 1), (16, 15), "x.reshape(5, 16, 15)"),
        ((5, 16, 15), (1, 16, 15), "x.reshape(5, 1, 16, 15)"),
        ((16, 9), (9, 16), "np.moveaxis(x, -1, 0)"),
    ],
    ids=str,
)
def test_axes_that_only_have_to_be_moved(given, shape, line):
    """The line in the message makes the array fit."""
    assert line in axes_hint("x", given, shape)
    found = eval(line, {"np": np, "x": np.zeros(given)}).shape
    assert shape in (found, found[1:])


@pytest.mark.parametrize(
    ("given", "shape"), [((4,), (3,)), ((2, 4), (3,)), ((), (2,)), ((0, 2), (2, 1)), ((4, 5, 6), (4, 6))], ids=str
)
def test_no_hint_where_axes_are_not_the_matter(given, shape):
    assert axes_hint("x", given, shape) == ""


def test_axes_of_channels():
    assert (channel_axis((16, 16, 3)), channel_axis((3, 16, 16))) == (2, 0)
    assert all(channel_axis(s) is None for s in ((16, 16), (16, 16, 1), (16, 3, 16), (4, 4, 3), (3, 16, 16, 3)))
    words = r"`s` must be .* axis 0 looks like channels, got 2.0 .* y=photo\. .*\(0.0, 2.0, 2.0\) leaves"
    with pytest.raises(InputError, match=words):
        check_spatial("F", "s", 2.0, (3, 16, 16), 0.0)
    check_spatial("F", "s", 2.0, (16, 16), 0.0)


def test_other_values():
    assert check_int("f", "x", -5) == -5
    assert check_int("f", "x", 2**80) == 2**80
    assert check_positive("f", "x", 0, zero=True) == 0.0
    assert check_number("f", "x", -1.5) == -1.5
    assert check_dims("f", "x", [2, np.int64(3)]) == (2, 3)
    assert check_dims("f", "x", torch.Size((4,))) == (4,)
    assert check_dims("f", "x", ()) == ()
    check_choice("f", "x", "a", ("a", "b"))
    check_choice("f", "x", np.int64(2), (1, 2))
    assert quoted("1") == "'1'"
    assert quoted(1) == 1


REFUSED = {
    "shape of a list": (
        lambda: check_shape("f", "x", [1.0], (1,)),
        InputTypeError,
        r"f: `x` must be a torch.Tensor, got list. Convert it: torch.as_tensor\(x\).",
    ),
    "no batch axis": (
        lambda: check_shape("f", "x", torch.zeros(3), (3,)),
        InputError,
        r"`x` must be of shape \(batch, 3\), got \(3,\). Add a batch axis: x\[None\].",
    ),
    "another shape": (
        lambda: check_shape("f", "x", torch.zeros(2, 4), (3,)),
        InputError,
        r"`x` must be of shape \(batch, 3\), got \(2, 4\)\.$",
    ),
    "too many axes": (lambda: check_shape("f", "x", torch.zeros(2, 1, 3), (3,)), InputError, r"got \(2, 1, 3\)\. Axes"),
    "real for complex": (
        lambda: check_kind("f", "x", x, "complex"),
        InputTypeError,
        r"`x` must be complex, got torch.float32. Convert it: torch.complex\(x, 0 \* x\).",
    ),
    "complex for real": (
        lambda: check_kind("f", "x", z, "real"),
        InputTypeError,
        r"`x` must be real floating point, got torch.complex64. Build .* kind='complex'.",
    ),
    "integer for real": (
        lambda: check_kind("f", "x", torch.zeros(2, dtype=torch.int64), "real"),
        InputTypeError,
        r"`x` must be real floating point, got torch.int64. Convert it: x.float\(\).",
    ),
    "not finite": (
        lambda: check_finite("f", "x", bad),
        InputError,
        r"`x` must be finite, got 2 NaN or infinite values, the first at index \(0, 1\)\.$",
    ),
    "not finite, complex": (
        lambda: check_finite("f", "x", torch.tensor([complex(0, math.nan)])),
        InputError,
        "got 1 NaN or infinite",
    ),
    "zero": (lambda: check_positive("f", "x", 0.0), InputError, r"f: `x` must be positive, got 0.0."),
    "negative": (lambda: check_positive("f", "x", -2), InputError, r"`x` must be positive, got -2.0."),
    "negative, zero allowed": (
        lambda: check_positive("f", "x", -2, zero=True),
        InputError,
        r"`x` must be non-negative, got -2.0.",
    ),
    "nan": (lambda: check_number("f", "x", math.nan), InputError, r"`x` must be finite, got nan."),
    "inf tensor": (lambda: check_positive("f", "x", torch.tensor(math.inf)), InputError, r"must be finite, got inf."),
    "beyond floats": (lambda: check_number("f", "x", 10**400), InputError, r"`x` must be finite, got inf."),
    "bool": (lambda: check_number("f", "x", True), InputTypeError, r"`x` must be a real number, got bool."),
    "bool of numpy": (lambda: check_number("f", "x", np.True_), InputTypeError, r"a real number, got bool"),
    "bool tensor": (lambda: check_number("f", "x", torch.tensor(True)), InputTypeError, r"a real number, got Tensor"),
    "string": (lambda: check_number("f", "x", "0.1"), InputTypeError, r"`x` must be a real number, got '0.1'."),
    "complex": (lambda: check_number("f", "x", 1j), InputTypeError, r"a real number, got complex."),
    "complex of numpy": (lambda: check_number("f", "x", np.complex64(1)), InputTypeError, r"got complex64."),
    "complex tensor": (lambda: check_number("f", "x", torch.tensor(1j)), InputTypeError, r"a real number, got Tensor."),
    "array": (lambda: check_number("f", "x", np.ones(2)), InputTypeError, r"a real number, got ndarray."),
    "array of one": (lambda: check_number("f", "x", np.ones(1)), InputTypeError, r"a real number, got ndarray."),
    "tensor of one": (lambda: check_number("f", "x", torch.ones(1)), InputTypeError, r"a real number, got Tensor."),
    "none": (lambda: check_positive("f", "x", None), InputTypeError, r"a real number, got NoneType."),
    "float": (lambda: check_int("f", "x", 3.0), InputTypeError, r"f: `x` must be an integer, got float."),
    "float tensor": (lambda: check_int("f", "x", torch.tensor(3.0)), InputTypeError, r"an integer, got Tensor."),
    "bool for int": (lambda: check_int("f", "x", False), InputTypeError, r"an integer, got bool."),
    "bool tensor for int": (lambda: check_int("f", "x", torch.tensor(True)), InputTypeError, r"integer, got Tensor."),
    "array for int": (lambda: check_int("f", "x", np.arange(2)), InputTypeError, r"an integer, got ndarray."),
    "text for int": (lambda: check_int("f", "x", "3"), InputTypeError, r"`x` must be an integer, got '3'."),
    "too small": (lambda: check_int("f", "x", 0, minimum=1), InputError, r"`x` must be at least 1, got 0."),
    "dims number": (
        lambda: check_dims("f", "x", 3),
        InputTypeError,
        r"must be a tuple of integers, got int. Write \(3,\) for one",
    ),
    "dims tensor": (lambda: check_dims("f", "x", torch.tensor(3)), InputTypeError, r"a tuple of integers, got Tensor."),
    "dims text": (lambda: check_dims("f", "x", "33"), InputTypeError, r"a tuple of integers, got '33'."),
    "dims zero": (lambda: check_dims("f", "x", (3, 0)), InputError, r"f: `x\[1\]` must be at least 1, got 0."),
    "dims float": (lambda: check_dims("f", "x", (3, 2.0)), InputTypeError, r"`x\[1\]` must be an integer, got float."),
    "choice": (
        lambda: check_choice("f", "x", "c", ("a", "b")),
        InputError,
        r"f: `x` must be one of 'a', 'b', got 'c'.",
    ),
    "choice array": (
        lambda: check_choice("f", "x", np.ones(2), (1, 2)),
        InputError,
        r"`x` must be one of 1, 2, got array",
    ),
    "choice tensor": (
        lambda: check_choice("f", "x", torch.ones(2), (1, 2)),
        InputError,
        r"`x` must be one of 1, 2, got tensor",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_pass_is_named(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_dtypes():
    assert [real_dtype(d) for d in (torch.complex64, torch.complex128, torch.float32)] == [
        torch.float32,
        torch.float64,
        torch.float32,
    ]
    assert kind_dtype(torch.complex128, "real") == torch.float64
    assert kind_dtype(torch.float32, "complex") == torch.complex64
    assert kind_dtype(torch.complex64, "complex") == torch.complex64
    assert kind_dtype(torch.float64, "real") == torch.float64
