"""Packed unknowns: names, shapes, and a round trip without loss."""

from __future__ import annotations

import pytest
import torch

from invsolve.core.packing import Layout, Part
from invsolve.errors import InvsolveError

LAYOUT = Layout(
    parts=(
        Part(name="shift", shape=(3,), unit="mm"),
        Part(name="image", shape=(2, 2), kind="complex"),
        Part(name="gain", shape=(1,)),
    )
)
VALUES = {
    "shift": torch.arange(6.0).view(2, 3),
    "image": torch.randn(2, 2, 2, dtype=torch.complex64),
    "gain": torch.ones(2, 1),
}


def test_round_trip():
    x = LAYOUT.pack(VALUES)
    assert x.shape == (2, 12) == (2, LAYOUT.size) and x.dtype == torch.float32
    for name, value in LAYOUT.split(x).items():
        assert torch.equal(value, VALUES[name])
    assert torch.equal(x[:, LAYOUT.slice("gain")], VALUES["gain"])
    assert LAYOUT.names == ("shift", "image", "gain") and LAYOUT["shift"].unit == "mm"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Part(name=3, shape=(1,)), "`name` must be a string, got int"),
        (lambda: Part(name="", shape=(1,)), "`name` must be a non-empty string"),
        (lambda: Part(name="a", shape=(0,)), r"`shape\[0\]` must be at least 1"),
        (lambda: Part(name="a", shape=(1,), kind="int"), "`kind` must be one of"),
        (lambda: Layout(parts=()), "`parts` must be one part or more"),
        (
            lambda: Layout(parts=("a",)),
            "`parts` must be a tuple of Part, got str|`parts` must be a tuple of Part, got a",
        ),
        (lambda: Layout(parts=(Part(name="a", shape=(1,)),) * 2), "`parts` must be of different names, got 'a' twice"),
        (lambda: LAYOUT["kernel"], "`name` must be one of 'shift', 'image', 'gain', got 'kernel'"),
        (lambda: LAYOUT.pack([1]), "`values` must be a mapping"),
        (lambda: LAYOUT.pack({"shift": VALUES["shift"]}), "`values` must be a mapping with the names"),
        (lambda: LAYOUT.pack(VALUES | {"gain": 1.0}), "`gain` must be a torch.Tensor"),
        (lambda: LAYOUT.pack(VALUES | {"gain": torch.ones(2, 2)}), r"`gain` must be of shape \(..., 1\), got \(2, 2\)"),
        (lambda: LAYOUT.pack(VALUES | {"gain": torch.ones(3, 1)}), "`gain` must be with leading axes"),
        (
            lambda: LAYOUT.pack(VALUES | {"gain": torch.ones(2, 1).double()}),
            "`gain` must be of precision torch.float32",
        ),
        (lambda: LAYOUT.pack(VALUES | {"image": torch.ones(2, 2, 2)}), "`image` must be complex"),
        (lambda: LAYOUT.split([1.0]), "`x` must be a torch.Tensor"),
        (lambda: LAYOUT.split(torch.ones(2, 11)), r"`x` must be of shape \(..., 12\), got \(2, 11\)"),
        (lambda: LAYOUT.split(torch.ones(12, dtype=torch.complex64)), "`x` must be real"),
    ],
)
def test_refused(call, message):
    with pytest.raises(InvsolveError, match=message):
        call()


def test_name_and_shape_may_be_given_by_position():
    part = Part("coils", (2, 3), kind="complex")
    assert part == Part(name="coils", shape=(2, 3), kind="complex")
    assert Layout([part]) == Layout(parts=(part,))
    with pytest.raises(TypeError, match="positional"):
        Part("coils", (2, 3), "complex")
